//! The wire and the log as bytes, and the checks that everything passes before the state sees it.

mod commands;
#[cfg(feature = "rpc")]
pub(crate) mod failures;
#[cfg(feature = "rpc")]
mod members;
#[allow(missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod generated;
#[cfg(feature = "rpc")]
mod quorum;
pub(crate) mod values;

pub use commands::{decode_command, encode_command};
pub(crate) use generated::*;

/// The version of the rules by which commands are applied.
pub const COMMAND_VERSION: u32 = 1;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not a protobuf message of this kind.
    #[error("{what} can't be decoded: {problem}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What the decoder says.
        problem: String,
    },
    /// A field is missing or outside its range.
    #[error("{what} has a bad {field}: {problem}")]
    Field {
        /// The message.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Written by a newer program.
    #[error("{what} has version {found}, this program reads up to {ours}; upgrade this node")]
    Version {
        /// What it is.
        what: &'static str,
        /// Its version.
        found: u32,
        /// Our newest.
        ours: u32,
    },
}

pub(crate) fn bad(what: &'static str, field: &'static str, problem: impl ToString) -> WireError {
    WireError::Field { what, field, problem: problem.to_string() }
}

pub(crate) fn malformed(what: &'static str) -> impl FnOnce(prost::DecodeError) -> WireError {
    move |error| WireError::Malformed { what, problem: error.to_string() }
}
