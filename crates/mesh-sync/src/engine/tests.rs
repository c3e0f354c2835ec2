//! Engines over streams in memory.

pub(crate) mod bench;
#[cfg(feature = "rpc")]
mod grpc;
mod hostile;
mod stories;
