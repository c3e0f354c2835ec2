//! Engines over streams in memory.

mod bench;
mod stories;
