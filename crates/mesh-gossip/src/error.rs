//! Errors of the driver.

use std::time::Duration;

use crate::wire::CommandError;

/// Why the driver did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GossipError {
    /// The core refused it. Nothing changed.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// The driver has ended: the node left, was stopped, or the carrier closed.
    #[error("gossip is stopped")]
    Stopped,
    /// No two neighbours acknowledged the goodbye in time. They will find out by probing.
    #[error("leaving was not acknowledged within {0:?}; others will notice by probing")]
    LeaveTimeout(Duration),
    /// Saved members could not be used.
    #[error("cannot use the folder for saved members")]
    Disk(#[from] mesh_core::fs::FileError),
    /// A DNS name among the seeds could not be resolved. It is tried again for ever.
    #[error("cannot resolve seed {seed}")]
    Seed {
        /// The seed as configured.
        seed: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
