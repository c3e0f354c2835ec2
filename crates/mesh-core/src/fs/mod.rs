//! Files that survive a crash: versioned, checksummed, replaced atomically; and a directory lock.
//!
//! A file is a 32-byte header and a body:
//!
//! ```text
//! offset  size
//!      0     8  "MESHFILE"
//!      8     4  kind, four ASCII letters
//!     12     4  version of the body, little endian
//!     16     8  length of the body, little endian
//!     24     8  xxh3-64 of bytes 0..24 and the body, little endian
//! ```
//!
//! [`replace`] writes a temporary file in the same folder, fsyncs it, renames it
//! over the old one and fsyncs the folder. After a crash at any point the file
//! holds the old or the new body, whole.

mod lock;
mod mark;
mod replacement;

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

pub use lock::{DirectoryLock, LockError};
pub use mark::HighWaterMark;
pub use replacement::Replacement;

use crate::{DiskFault, VersionRange};

const MAGIC: &[u8; 8] = b"MESHFILE";
const HEADER_BYTES: usize = 32;

/// What a file holds: a tag that tells kinds apart, and the versions that this program reads.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Four ASCII letters.
    pub kind: [u8; 4],
    /// Body versions that can be read; the newest is written.
    pub versions: VersionRange,
    /// The largest body that is accepted, in bytes.
    pub bytes_max: u64,
    /// The command that repairs or removes a damaged file, for the error's text.
    pub repair: &'static str,
}

impl Format {
    /// What goes before a body.
    pub(crate) fn header(&self, version: u32, body: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.kind);
        header.extend_from_slice(&version.to_le_bytes());
        header.extend_from_slice(&(body.len() as u64).to_le_bytes());
        let sum = checksum(&header, body);
        header.extend_from_slice(&sum.to_le_bytes());
        header
    }
}

/// The body of a file and the version it was written with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The body's version.
    pub version: u32,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a file could not be read or written. The old contents are intact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The contents are not what was written.
    #[error("{} is damaged: {problem}; run: {repair}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// The next step.
        repair: &'static str,
    },
    /// A newer or much older program wrote it.
    #[error("{} has format version {found}, this program reads {readable}; use the program that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// What this program reads.
        readable: VersionRange,
    },
}

impl From<&FileError> for DiskFault {
    fn from(error: &FileError) -> Self {
        match error {
            FileError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Self::Full,
            FileError::Io { source, .. } => Self::Failed(format!("{error}: {source}")),
            FileError::Damaged { .. } | FileError::Version { .. } => Self::Damaged(error.to_string()),
        }
    }
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { verb, path, source }
}

fn checksum(header: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(body);
    hash.digest()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Replaces the file at `path` durably.
///
/// Returns after the fsync of the file and of its folder. One writer at a time:
/// hold the folder's [`DirectoryLock`].
///
/// # Errors
///
/// [`FileError::Io`]; the old file is intact then.
pub fn replace(path: &Path, format: Format, body: &[u8]) -> Result<(), FileError> {
    let header = format.header(format.versions.max.0, body);
    let temporary = temporary(path);
    let written = write_durably(&temporary, &header, body);
    if let Err(source) = written {
        // Best effort: a full disk should get its space back.
        let _ = fs::remove_file(&temporary);
        return Err(FileError::Io { verb: "write", path: temporary, source });
    }
    fs::rename(&temporary, path).map_err(io_error("replace", path))?;
    sync_parent(path)
}

/// Makes the names in a file's folder durable.
fn sync_parent(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("sync the folder", folder))
}

fn write_durably(path: &Path, header: &[u8], body: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(header)?;
    file.write_all(body)?;
    file.sync_all()
}

/// Reads the file at `path`; `None` if it does not exist.
///
/// # Errors
///
/// [`FileError::Damaged`] names the file and the repair command;
/// [`FileError::Version`] names both versions.
pub fn read(path: &Path, format: Format) -> Result<Option<Contents>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let limit = format.bytes_max.saturating_add(HEADER_BYTES as u64).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    parse(path, format, &bytes).map(Some)
}

pub(crate) fn parse(path: &Path, format: Format, bytes: &[u8]) -> Result<Contents, FileError> {
    let damaged =
        |problem: String| FileError::Damaged { path: path.to_owned(), problem, repair: format.repair };
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(damaged(format!("it has {} bytes, less than a header", bytes.len())));
    };
    let word = |at: usize| {
        u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of a checked header"))
    };
    if &header[..8] != MAGIC {
        return Err(damaged("it does not start as a Mesh file".to_owned()));
    }
    if header[8..12] != format.kind {
        return Err(damaged(format!(
            "it is of kind {:?}, expected {:?}",
            String::from_utf8_lossy(&header[8..12]),
            String::from_utf8_lossy(&format.kind)
        )));
    }
    if word(16) != body.len() as u64 {
        return Err(damaged(format!("its header announces {} bytes, it has {}", word(16), body.len())));
    }
    if word(24) != checksum(&header[..24], body) {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    let version = (word(8) >> 32) as u32;
    if !format.versions.contains(crate::ProtocolVersion(version)) {
        return Err(FileError::Version { path: path.to_owned(), found: version, readable: format.versions });
    }
    Ok(Contents { version, body: body.to_vec() })
}

#[cfg(test)]
mod tests;
