//! Why a store did not do what it was asked.

use std::{io, path::PathBuf};

use mesh_core::BoxError;

/// Why a store could not be read or written. A write that failed is there as a whole or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full. Make room, then open the store again.
    #[error("the disk is full: cannot {verb} {}", path.display())]
    Full {
        /// What was tried.
        verb: &'static str,
        /// The store's file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The store's file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The contents are not what was written. Restore them, or remove them and let the store fill again from peers.
    #[error("{} is damaged: {problem}; restore it, or remove it and let it fill again from peers", path.display())]
    Damaged {
        /// The store's file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another process, or another part of this one, has it open.
    #[error("{} is in use; stop who uses it, or choose another place", path.display())]
    InUse {
        /// The store's file or folder.
        path: PathBuf,
    },
    /// Another version of the program wrote it.
    #[error("{} has format version {found}, this program reads {readable}; use the program that wrote it", path.display())]
    Version {
        /// The store's file or folder.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// What this program reads.
        readable: u64,
    },
    /// An earlier write failed, and what is in memory can't be trusted any more. Open the store again.
    #[error("{} takes no more since an earlier write failed; open it again", path.display())]
    Stopped {
        /// The store's file or folder.
        path: PathBuf,
    },
    /// Something is larger than it may be. Nothing was written.
    #[error("the {what} has {found} bytes, at most {max} are allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// The backend failed in another way.
    #[error("cannot {verb} {}", path.display())]
    Backend {
        /// What was tried.
        verb: &'static str,
        /// The store's file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: BoxError,
    },
}
