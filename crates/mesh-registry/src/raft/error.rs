//! Why a voter can't start, or had to stop.

use std::path::PathBuf;

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
    /// The log stopped for another reason.
    #[error("the registry's log stopped")]
    Stopped(#[source] BoxError),
}
