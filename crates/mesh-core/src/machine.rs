//! The vocabulary of sans-io cores: inputs and time go in, effects and a deadline come out.
//!
//! A core that implements [`Machine`] runs under tokio and in the simulator
//! alike. Disk is part of it: a core asks with a [`DiskRequest`] and learns the
//! outcome as a [`DiskCompletion`], so that the simulator can lose unsynced
//! writes, tear them, or fill the disk.

use std::fmt;

use bytes::Bytes;

use crate::Instant;

/// A protocol core as a plain value.
///
/// It never sleeps, spawns, reads a clock or opens a socket, and the order of
/// its effects depends on its inputs and seed alone. Whoever drives it keeps
/// three rules:
///
/// 1. `now` never goes back.
/// 2. After every input, [`poll_effect`](Self::poll_effect) is drained until `None`
///    and [`poll_timeout`](Self::poll_timeout) is asked again.
/// 3. [`handle_timeout`](Self::handle_timeout) is called at or after the deadline. A late,
///    early or repeated call is harmless.
pub trait Machine {
    /// What can happen to it.
    type Input;
    /// What it wants done.
    type Effect;
    /// Why an input was refused. State is unchanged by a refused input.
    type Error;

    /// Takes one input that happened at `now`.
    ///
    /// # Errors
    ///
    /// An input that came from outside may be refused; it never panics.
    fn handle(&mut self, now: Instant, input: Self::Input) -> Result<(), Self::Error>;

    /// Lets it act on the passage of time.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing to do, oldest first; `None` when all is handed out.
    fn poll_effect(&mut self) -> Option<Self::Effect>;

    /// When it wants [`handle_timeout`](Self::handle_timeout) next.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// Names one disk request of one core, so that its completion finds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u64);

/// A file inside the core's own folder: a plain name without separators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub &'static str);

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Something a core wants from the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRequest {
    /// Returned with the completion.
    pub id: DiskId,
    /// The file.
    pub file: FileName,
    /// What to do with it.
    pub operation: DiskOperation,
}

/// What to do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// Replace the whole file durably: complete only after the fsync of file and folder.
    Replace(Bytes),
    /// Read the whole file; `None` if it does not exist.
    Read,
}

/// How a [`DiskRequest`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCompletion {
    /// The request's id.
    pub id: DiskId,
    /// The contents for a read, `None` for a missing file or a replace.
    pub result: Result<Option<Bytes>, DiskFault>,
}

/// Why the disk did not do it. The old contents of the file are intact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskFault {
    /// No space is left. May succeed later.
    #[error("the disk is full")]
    Full,
    /// What is there fails its checksum, or has a version that we do not read.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// A write or fsync failed. What reached the disk is unknown: do not retry on the same file.
    #[error("the disk failed: {0}")]
    Failed(String),
}
