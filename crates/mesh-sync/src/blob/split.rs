//! Makes chunks and a manifest of a payload.

use std::io::Read;

use super::{BlobError, CHUNK_BYTES_MAX, ChunkId, ChunkKind, ChunkStore, Manifest, manifest::fanout};

/// Reads a payload to its end, puts its chunks into `chunks` and gives its manifest. Use
/// [`CHUNK_BYTES`](super::CHUNK_BYTES) for `chunk_bytes`.
///
/// In memory are one chunk and one list for each level, whatever the payload's length. When it returns, all chunks are
/// on disk; if it fails, those that are there go with the next collection.
///
/// ```
/// use mesh_sync::blob::{CHUNK_BYTES, Manifest, MemoryChunks, MissingFrom, assemble, missing, split};
///
/// let payload = vec![7; 3 << 20];
/// let ours = MemoryChunks::default();
/// let manifest = split(&mut &payload[..], CHUNK_BYTES, &ours)?;
/// // … `manifest.encode()` goes to a peer in an entry of kind `blob` …
/// let theirs = MemoryChunks::default();
/// let manifest = Manifest::decode(&manifest.encode())?;
/// let wanted = missing(&manifest, &theirs, MissingFrom::START, 100)?.wanted;
/// # use mesh_sync::blob::ChunkStore;
/// for wanted in wanted {
///     let content = ours.get(wanted.id)?.expect("we have split it");
///     wanted.check(&content)?;
///     theirs.put(wanted.id, &content)?;
/// }
/// let mut written = Vec::new();
/// assemble(&manifest, &theirs, &mut written)?;
/// assert_eq!(written, payload);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Errors
///
/// [`BlobError`].
pub fn split(
    source: &mut dyn Read,
    chunk_bytes: u32,
    chunks: &dyn ChunkStore,
) -> Result<Manifest, BlobError> {
    // A size that is not allowed is found out before anything is read.
    Manifest::new(0, chunk_bytes, Vec::new())?;
    debug_assert!(chunk_bytes <= CHUNK_BYTES_MAX);
    let mut levels = Levels { chunks, fanout: fanout(chunk_bytes) as usize, lists: vec![Vec::new()] };
    let (mut bytes, mut buffer) = (0_u64, Vec::with_capacity(chunk_bytes as usize));
    loop {
        buffer.clear();
        let read = (&mut *source).take(chunk_bytes.into()).read_to_end(&mut buffer);
        read.map_err(|source| BlobError::Io { verb: "read", source })?;
        if buffer.is_empty() {
            break;
        }
        bytes += buffer.len() as u64;
        let id = put(chunks, ChunkKind::Data, &buffer)?;
        levels.push(0, id)?;
    }
    let top = levels.finish()?;
    Ok(Manifest::new(bytes, chunk_bytes, top)?)
}

fn put(chunks: &dyn ChunkStore, kind: ChunkKind, content: &[u8]) -> Result<ChunkId, BlobError> {
    let id = ChunkId::of(kind, content);
    chunks.put(id, content).map_err(|source| BlobError::Store { verb: "keep", id, source })?;
    Ok(id)
}

/// The list of each level that is being filled, that of data first.
struct Levels<'a> {
    chunks: &'a dyn ChunkStore,
    fanout: usize,
    lists: Vec<Vec<ChunkId>>,
}

impl Levels<'_> {
    fn push(&mut self, level: usize, id: ChunkId) -> Result<(), BlobError> {
        if self.lists.len() == level {
            self.lists.push(Vec::new());
        }
        // A full list is only put away when more comes: a payload that ends with it has it in its manifest.
        if self.lists[level].len() == self.fanout {
            self.close(level)?;
        }
        self.lists[level].push(id);
        Ok(())
    }

    fn close(&mut self, level: usize) -> Result<(), BlobError> {
        let list: Vec<u8> = self.lists[level].drain(..).flat_map(|id| id.0).collect();
        let id = put(self.chunks, ChunkKind::List, &list)?;
        self.push(level + 1, id)
    }

    fn finish(mut self) -> Result<Vec<ChunkId>, BlobError> {
        let mut level = 0;
        while level + 1 < self.lists.len() {
            self.close(level)?;
            level += 1;
        }
        Ok(self.lists.pop().unwrap_or_default())
    }
}
