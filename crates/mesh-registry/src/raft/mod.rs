//! The `raft` provider: a store that a few voters keep together, each with a copy in memory and a log on disk.
//!
//! The replicated log is run by openraft, whose types do not leave this module: what is on disk and on
//! the wire has formats of our own.

mod autopilot;
mod codec;
mod confirm;
mod core;
mod duties;
mod error;
mod group;
mod identity;
mod join;
mod log;
mod machine;
mod network;
mod options;
mod pilot;
mod propose;
mod provider;
pub mod repair;
mod service;
mod snapshot;
mod types;

pub use error::RaftError;
pub use identity::GroupId;
pub use options::{Begin, Peers, RaftOptions};
pub use provider::RaftStore;

#[cfg(test)]
mod tests;
