//! What a large payload is made of.

use mesh_core::BoxError;

use crate::codec::{Reader, WireError, put_varint, take_u32, take_version};

/// Smallest chunks that a manifest may have, in bytes.
pub const CHUNK_BYTES_MIN: u32 = 16 << 10;
/// Largest chunks that a manifest may have, in bytes.
pub const CHUNK_BYTES_MAX: u32 = 512 << 10;
/// Chunks that we make have this many bytes, the last one of a payload fewer.
pub const CHUNK_BYTES: u32 = 256 << 10;
/// Most levels of lists below a manifest. With the smallest chunks that is 2 TiB, with ours 128 PiB.
pub const LEVELS_MAX: u8 = 2;

/// The name of a chunk: the hash of its content and of what it is, data or a list of other chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl std::fmt::Display for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What a chunk is. Both are hashed differently, so that none can be taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChunkKind {
    /// A piece of the payload.
    Data,
    /// The ids of other chunks, one after the other.
    List,
}

impl ChunkId {
    /// The name of this content.
    pub fn of(kind: ChunkKind, content: &[u8]) -> Self {
        let context = match kind {
            ChunkKind::Data => "mesh-sync blob v1: data",
            ChunkKind::List => "mesh-sync blob v1: list",
        };
        Self(blake3::derive_key(context, content))
    }
}

/// A chunk that a manifest needs: everything that is to be known of it before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Its name.
    pub id: ChunkId,
    /// What it is.
    pub kind: ChunkKind,
    /// Its exact length. Read no more than that from a peer.
    pub bytes: u32,
}

/// A chunk is not what was asked for. Take it from another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk {} of {found} bytes is not what its name says, it should have {}", wanted.id, wanted.bytes)]
pub struct WrongChunk {
    /// What was asked for.
    pub wanted: Wanted,
    /// How long it is.
    pub found: usize,
}

impl Wanted {
    /// Checks that `content` is this chunk.
    ///
    /// # Errors
    ///
    /// [`WrongChunk`].
    pub fn check(&self, content: &[u8]) -> Result<(), WrongChunk> {
        let right = content.len() == self.bytes as usize && ChunkId::of(self.kind, content) == self.id;
        if right { Ok(()) } else { Err(WrongChunk { wanted: *self, found: content.len() }) }
    }
}

/// Why bytes are no manifest. A closed list: an entry that carries such a payload is kept, its value can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// They can't be read.
    #[error("manifest can't be read")]
    Malformed(#[from] WireError),
    /// Chunks are too small, too large, or no power of two.
    #[error(
        "chunks have {found} bytes, a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} is allowed"
    )]
    ChunkBytes {
        /// Their size.
        found: u32,
    },
    /// It would take more levels than are allowed.
    #[error("a payload of {bytes} bytes takes {levels} levels of lists, at most {LEVELS_MAX} are allowed")]
    Levels {
        /// The payload's length.
        bytes: u64,
        /// How many it would take.
        levels: u8,
    },
    /// The number of ids is not that which the length takes.
    #[error("manifest has {found} ids, a payload of {bytes} bytes takes {expected}")]
    Count {
        /// The payload's length.
        bytes: u64,
        /// How many ids there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
}

/// The chunks of one payload: what a `blob` entry carries.
///
/// All chunks but the last have the same size, and how many levels of lists there are follows from the payload's
/// length. So chunks can't overlap or leave gaps, there is one manifest for a payload and chunk size, and the length of
/// every chunk is known before it is fetched.
///
/// ```text
/// 1  version: 1
/// n  length of the payload
/// n  size of a chunk
/// 32 each: ids, of data or of lists
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    bytes: u64,
    chunk_bytes: u32,
    levels: u8,
    top: Vec<ChunkId>,
}

const VERSION: u8 = 1;

/// Ids in a list, and in a manifest.
pub(super) const fn fanout(chunk_bytes: u32) -> u64 {
    (chunk_bytes / 32) as u64
}

impl Manifest {
    pub(super) fn new(bytes: u64, chunk_bytes: u32, top: Vec<ChunkId>) -> Result<Self, ManifestError> {
        if !chunk_bytes.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
            return Err(ManifestError::ChunkBytes { found: chunk_bytes });
        }
        let (mut expected, mut levels) = (bytes.div_ceil(chunk_bytes.into()), 0);
        while expected > fanout(chunk_bytes) {
            expected = expected.div_ceil(fanout(chunk_bytes));
            levels += 1;
        }
        if levels > LEVELS_MAX {
            return Err(ManifestError::Levels { bytes, levels });
        }
        let found = top.len() as u64;
        if found != expected {
            return Err(ManifestError::Count { bytes, found, expected });
        }
        Ok(Self { bytes, chunk_bytes, levels, top })
    }

    /// Reads the payload of a `blob` entry.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]. No bytes make it panic or reserve more than they have themselves.
    pub fn decode(payload: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new(payload);
        take_version(&mut reader, "the version of a manifest", VERSION)?;
        let bytes = reader.varint()?;
        let chunk_bytes = take_u32(&mut reader, "the size of a chunk")?;
        let mut top = Vec::with_capacity(reader.remaining() / 32);
        while reader.remaining() > 0 {
            top.push(ChunkId(reader.array()?));
        }
        Self::new(bytes, chunk_bytes, top)
    }

    /// The payload of a `blob` entry; at most a little more than 512 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.bytes);
        put_varint(&mut out, self.chunk_bytes.into());
        self.top.iter().for_each(|id| out.extend_from_slice(&id.0));
        out
    }

    /// The length of the payload.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many chunks of data there are.
    pub const fn chunks(&self) -> u64 {
        self.bytes.div_ceil(self.chunk_bytes as u64)
    }

    /// How many levels of lists are between it and the data.
    pub const fn levels(&self) -> u8 {
        self.levels
    }

    /// The chunks that it names itself.
    pub(super) fn roots(&self) -> impl Iterator<Item = Place> {
        (0_u64..).zip(&self.top).map(|(at, id)| self.place(*id, self.levels, at))
    }

    /// The chunks that a list names, `content` being what [`Wanted::check`] let through.
    pub(super) fn children(&self, list: Place, content: &[u8]) -> impl Iterator<Item = Place> {
        let first = list.at * fanout(self.chunk_bytes);
        let ids = content.chunks_exact(32).map(|id| {
            let mut bytes = [0; 32];
            bytes.copy_from_slice(id);
            ChunkId(bytes)
        });
        let level = list.level.saturating_sub(1);
        (first..).zip(ids).map(move |(at, id)| self.place(id, level, at))
    }

    /// The chunk that is the `at`-th of its level.
    fn place(&self, id: ChunkId, level: u8, at: u64) -> Place {
        let size = u64::from(self.chunk_bytes);
        // What the level has in all, in bytes: each level below takes 32 bytes for each of its chunks.
        let total = (0..level).fold(self.bytes, |total, _| total.div_ceil(size) * 32);
        let bytes = total.saturating_sub(at * size).min(size);
        let kind = if level == 0 { ChunkKind::Data } else { ChunkKind::List };
        Place { wanted: Wanted { id, kind, bytes: bytes as u32 }, level, at }
    }
}

/// A chunk and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) wanted: Wanted,
    pub(super) level: u8,
    pub(super) at: u64,
}

/// Why a payload was not split, put together or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The source or the sink failed.
    #[error("cannot {verb} the payload")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store of chunks failed.
    #[error("cannot {verb} chunk {id}")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// Which.
        id: ChunkId,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// A chunk is missing, or what is kept in its place is not it. Fetch it.
    #[error("chunk {} is not there", .0.id)]
    Missing(Wanted),
    /// The payload is too long for any manifest.
    #[error("the payload can't have a manifest")]
    Manifest(#[from] ManifestError),
}
