//! Engines over streams in memory.

pub(crate) mod bench;
mod care;
mod durable;
#[cfg(feature = "rpc")]
mod grpc;
mod hostile;
mod stories;
mod traffic;
