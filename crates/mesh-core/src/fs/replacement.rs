//! A file that is written piece by piece and appears whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{FileError, io_error, sync_parent, temporary};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// The new contents of a file, on their way. Dropping it without [`commit`](Self::commit) leaves the file as
/// it was.
///
/// For formats that check themselves: unlike [`replace`](super::replace), nothing is put before the bytes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("copy");
/// let mut file = mesh_core::fs::Replacement::begin(&path)?;
/// file.write(b"whole ")?;
/// file.write(b"or not at all")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"whole or not at all");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replacement {
    /// `None` once it is in place.
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Begins to write what is to be at `path`. One writer at a time.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`] if nothing can be written in its folder.
    pub fn begin(path: &Path) -> Result<Self, FileError> {
        let temporary = temporary(path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary).map_err(io_error("make", &temporary))?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`]; the old file is intact.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(io_error("write", &self.temporary))
    }

    /// Puts it in place. Returns after the fsync of the file and of its folder.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`]; the old file is intact.
    pub fn commit(mut self) -> Result<(), FileError> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let placed = file.flush().and_then(|()| file.get_ref().sync_all());
        let placed = placed
            .map_err(io_error("write", &self.temporary))
            .and_then(|()| fs::rename(&self.temporary, &self.path).map_err(io_error("replace", &self.path)));
        if placed.is_err() {
            self.file = Some(file);
        }
        placed?;
        sync_parent(&self.path)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Best effort: the next one writes over it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
