//! Why a voter can't start, or had to stop.

use std::path::{Path, PathBuf};

use mesh_core::{
    BoxError, NodeId,
    fs::{FileError, LockError},
};

/// Why a voter can't start, or had to stop. What it acknowledged is on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftError {
    /// Another process uses the directory.
    #[error("can't use the registry's data directory")]
    Lock(#[from] LockError),
    /// A file can't be read or written.
    #[error("can't use a file of the registry")]
    File(#[from] FileError),
    /// A file of log or snapshot can't be read or written.
    #[error("can't {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What is on disk is not what was written.
    #[error("{} is damaged at byte {at}: {problem}; run: mesh registry repair", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// The directory is of another node.
    #[error(
        "{} belongs to node {found}, this is {ours}; start the node that it belongs to, or name another data directory",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        ours: NodeId,
    },
    /// The snapshot that a new group should begin with can't be used. No group was begun.
    #[error("no group can begin with {}: {problem}; name another one: mesh registry repair --from FILE --new-group", path.display())]
    BeginFrom {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The log stopped for another reason.
    #[error("the registry's log stopped")]
    Stopped(#[source] BoxError),
}

impl RaftError {
    /// Whether something on disk is not what was written, so that the node can't go on with it; the error
    /// names the file, and `mesh registry repair` looks the rest over.
    pub fn needs_repair(&self) -> bool {
        // What openraft read through us comes back as text.
        super::log::chain(self).contains(REPAIR)
    }
}

/// The command for a damaged directory, as the errors name it.
pub(super) const REPAIR: &str = "mesh registry repair";

pub(super) fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RaftError {
    let path = path.to_owned();
    move |source| RaftError::Io { verb, path, source }
}
