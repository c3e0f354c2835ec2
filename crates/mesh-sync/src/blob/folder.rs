//! Chunks as files in a folder.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use mesh_core::{
    BoxError, WallTime,
    fs::{DirectoryLock, FileError, LockError, Replacement},
};

use super::{CHUNK_BYTES_MAX, ChunkId, ChunkStore, VisitChunk};

/// Chunks as files, in 256 folders by the first byte of their names. One process at a time.
///
/// A file appears whole or not at all, and what is in it is checked by whoever reads it. What a crash leaves behind of
/// a write goes when the folder is opened.
///
/// ```
/// use mesh_sync::blob::{ChunkId, ChunkKind, ChunkStore, FolderChunks};
///
/// let folder = tempfile::tempdir()?;
/// let chunks = FolderChunks::open(folder.path())?;
/// let id = ChunkId::of(ChunkKind::Data, b"a piece");
/// chunks.put(id, b"a piece")?;
/// assert_eq!(chunks.get(id)?.as_deref(), Some(&b"a piece"[..]));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug)]
pub struct FolderChunks {
    folder: PathBuf,
    /// One writer and remover at a time: two that put one chunk would share a temporary file.
    writing: Mutex<()>,
    _lock: DirectoryLock,
}

/// Why chunks in a folder can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderChunksError {
    /// The folder can't be locked.
    #[error("cannot open the folder of chunks")]
    Lock(#[from] LockError),
    /// A chunk can't be written.
    #[error("cannot keep a chunk")]
    File(#[from] FileError),
    /// The operating system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderChunksError {
    let path = path.to_owned();
    move |source| FolderChunksError::Io { verb, path, source }
}

impl FolderChunks {
    /// Opens a folder, or makes it.
    ///
    /// # Errors
    ///
    /// [`FolderChunksError`], if another process has it or the operating system refuses.
    pub fn open(folder: &Path) -> Result<Self, FolderChunksError> {
        let lock = DirectoryLock::acquire(folder)?;
        let chunks = Self { folder: folder.to_owned(), writing: Mutex::new(()), _lock: lock };
        for first in 0..=u8::MAX {
            let path = chunks.folder.join(format!("{first:02x}"));
            fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))?;
        chunks.files::<FolderChunksError>(&mut |path, name, _| {
            if name.starts_with('.') {
                fs::remove_file(path).map_err(io_error("remove", path))?;
            }
            Ok(())
        })?;
        Ok(chunks)
    }

    fn path(&self, id: ChunkId) -> PathBuf {
        let name = id.to_string();
        self.folder.join(&name[..2]).join(&name[2..])
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Visits the files of all 256 folders with their names and the first byte.
    fn files<E: From<FolderChunksError>>(
        &self,
        visit: &mut dyn FnMut(&Path, &str, u8) -> Result<(), E>,
    ) -> Result<(), E> {
        for first in 0..=u8::MAX {
            let path = self.folder.join(format!("{first:02x}"));
            for file in fs::read_dir(&path).map_err(io_error("list", &path))? {
                let file = file.map_err(io_error("list", &path))?;
                let name = file.file_name();
                visit(&file.path(), &name.to_string_lossy(), first)?;
            }
        }
        Ok(())
    }
}

/// When a file was written; `None` if it is gone.
fn written(path: &Path) -> Result<Option<WallTime>, FolderChunksError> {
    let modified = match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(modified) => modified,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))))
}

fn id_of(first: u8, name: &str) -> Option<ChunkId> {
    if name.len() != 62 || !name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut id = [first; 32];
    for (byte, digits) in id[1..].iter_mut().zip(name.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(ChunkId(id))
}

impl ChunkStore for FolderChunks {
    fn put(&self, id: ChunkId, content: &[u8]) -> Result<(), BoxError> {
        let _writer = self.writer();
        let mut file = Replacement::begin(&self.path(id)).map_err(FolderChunksError::from)?;
        file.write(content).map_err(FolderChunksError::from)?;
        Ok(file.commit().map_err(FolderChunksError::from)?)
    }

    fn get(&self, id: ChunkId) -> Result<Option<Vec<u8>>, BoxError> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error).into()),
        };
        let mut content = Vec::new();
        let limit = u64::from(CHUNK_BYTES_MAX) + 1;
        file.take(limit).read_to_end(&mut content).map_err(io_error("read", &path))?;
        Ok(Some(content).filter(|content| content.len() <= CHUNK_BYTES_MAX as usize))
    }

    fn has(&self, id: ChunkId, bytes: u32) -> Result<bool, BoxError> {
        let path = self.path(id);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() == u64::from(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("look at", &path)(error).into()),
        }
    }

    fn remove(&self, id: ChunkId, before: WallTime) -> Result<bool, BoxError> {
        let _writer = self.writer();
        let path = self.path(id);
        if written(&path)?.is_none_or(|written| written >= before) {
            return Ok(false);
        }
        // Not synced: what comes back after a crash goes with the next collection.
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        Ok(true)
    }

    fn list(&self, visit: &mut VisitChunk<'_>) -> Result<(), BoxError> {
        self.files::<BoxError>(&mut |path, name, first| match (id_of(first, name), written(path)?) {
            (Some(id), Some(written)) => visit(id, written),
            _ => Ok(()),
        })
    }
}
