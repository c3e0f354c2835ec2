//! The messages of `proto/sync.proto`.

// Documented in the .proto; the shape of the code is prost's.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod generated;

pub use generated::*;
