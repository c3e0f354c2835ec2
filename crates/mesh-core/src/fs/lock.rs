//! One process at a time in a data directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Holds a data directory until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
    path: PathBuf,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process uses it.
    #[error("{} is in use by another process; stop that one, or choose another data directory", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl DirectoryLock {
    /// Locks `directory`, making it if it does not exist. Does not wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if another process has it.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let path = directory.to_owned();
        let opened = fs::create_dir_all(directory).and_then(|()| {
            OpenOptions::new().write(true).create(true).truncate(false).open(directory.join("lock"))
        });
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(LockError::Io { path, source }),
        };
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file, path }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path }),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }

    /// The locked directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
