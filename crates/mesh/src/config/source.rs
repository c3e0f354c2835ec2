//! Where a value came from, so that a person can go there and change it.

use std::{fmt, path::Path, sync::Arc};

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nobody set it.
    Default,
    /// Nobody set it, and `gossip.preset` changed its default.
    Preset(String),
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// An option on the command line, with its dashes.
    Flag(String),
    /// The program that embeds the node.
    Code,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
            Self::Code => f.write_str("code"),
        }
    }
}
