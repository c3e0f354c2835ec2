//! A snapshot that an operator sends in pieces, and what becomes of it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream;
use mesh_core::{
    Instant, NodeId,
    store::{ByteStream, StoreError},
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::state::{SnapshotError, SnapshotReader};

/// Bytes that are read in one go.
const READ_BYTES: usize = 256 << 10;

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestorePhase {
    /// The snapshot is being sent; nothing is changed by it.
    Receiving,
    /// It is whole, is checked, and then replaces the store.
    Applying,
    /// The store is that of the snapshot.
    Done,
    /// It did not come about.
    Failed,
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotContents {
    /// The revision of the store that it was taken of.
    pub revision: u64,
    /// The generation of that store's tokens.
    pub generation: u64,
    /// Records.
    pub records: u64,
    /// Sessions. A restore ends them.
    pub sessions: u64,
}

/// Why a restore did not come about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFailure {
    /// A stable code.
    pub code: String,
    /// The cause, and whether anything changed.
    pub detail: String,
}

/// One upload.
pub(super) struct Upload {
    pub(super) id: String,
    pub(super) operator: NodeId,
    pub(super) reason: String,
    pub(super) bytes: u64,
    pub(super) xxh3: u64,
    pub(super) offset: u64,
    pub(super) phase: RestorePhase,
    pub(super) contents: Option<SnapshotContents>,
    pub(super) revision: Option<u64>,
    pub(super) generation: Option<u64>,
    pub(super) failure: Option<RestoreFailure>,
    pub(super) touched: Instant,
    pub(super) file: Arc<UploadFile>,
}

/// Its file; removed when nobody holds it any more.
pub(super) struct UploadFile {
    file: File,
    path: PathBuf,
}

impl Drop for UploadFile {
    fn drop(&mut self) {
        // Best effort: the next start clears the folder.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what uploads of an earlier run left behind.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl UploadFile {
    pub(super) fn create(folder: &Path, id: &str) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let path = folder.join(id);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self { file: options.open(&path)?, path })
    }

    pub(super) fn write(&self, offset: u64, piece: &[u8]) -> io::Result<()> {
        self.file.write_all_at(piece, offset)
    }

    /// Reads all of it and tells what it holds.
    pub(super) fn check(&self, bytes: u64, xxh3: u64) -> Result<SnapshotContents, String> {
        let unreadable = |error: io::Error| format!("the upload can't be read back: {error}");
        let mut hash = Xxh3::new();
        let mut reader = SnapshotReader::default();
        let mut at = 0;
        let mut whole = true;
        let mut refused: Option<SnapshotError> = None;
        while at < bytes {
            let piece = self.read(at, bytes).map_err(unreadable)?;
            if piece.is_empty() {
                whole = false;
                break;
            }
            hash.update(&piece);
            if refused.is_none() {
                refused = reader.push(&piece).err();
            }
            at += piece.len() as u64;
        }
        if !whole || hash.digest() != xxh3 {
            return Err("it is not what was sent; send it again".to_owned());
        }
        let words = |error: SnapshotError| match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        if let Some(error) = refused {
            return Err(words(error));
        }
        let state = reader.finish().map_err(words)?;
        Ok(SnapshotContents {
            revision: state.revision().0,
            generation: state.generation(),
            records: state.records_len() as u64,
            sessions: state.sessions().len() as u64,
        })
    }

    fn read(&self, at: u64, end: u64) -> io::Result<Bytes> {
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(READ_BYTES)];
        let read = self.file.read_at(&mut piece, at)?;
        piece.truncate(read);
        Ok(piece.into())
    }

    /// Its bytes as a store takes them.
    pub(super) fn pieces(self: Arc<Self>, bytes: u64) -> ByteStream {
        Box::pin(stream::unfold((self, 0_u64), move |(file, at)| async move {
            if at >= bytes {
                return None;
            }
            let reading = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || reading.read(at, bytes)).await;
            let read = read.map_err(io::Error::other).and_then(|read| read);
            Some(match read {
                Ok(piece) if !piece.is_empty() => {
                    let next = at + piece.len() as u64;
                    (Ok(piece), (file, next))
                }
                other => {
                    let problem = match other {
                        Ok(_) => format!("it ends after {at} of {bytes} bytes"),
                        Err(error) => error.to_string(),
                    };
                    let what = format!("the upload {}", file.path.display());
                    (Err(StoreError::Damaged { what, problem }), (file, bytes))
                }
            })
        }))
    }
}
