//! The `raft` provider: a store that a few voters keep together, each with a copy in memory and a log on disk.
//!
//! The replicated log is run by openraft, whose types do not leave this module: what is on disk and on
//! the wire has formats of our own.

mod error;
mod options;
mod provider;

pub use error::RaftError;
pub use options::{Begin, Peers, RaftOptions};
pub use provider::RaftStore;
