//! Groups of real voters in one process.

mod cluster;
mod stories;
