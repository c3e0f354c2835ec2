//! The messages of `proto/leader.proto`.

// Documented in the .proto; the shape of the code is prost's.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod generated;

#[cfg(not(feature = "rpc"))]
#[allow(unused_imports, reason = "some are of the service alone")]
pub(crate) use generated::*;
#[cfg(feature = "rpc")]
pub use generated::*;
