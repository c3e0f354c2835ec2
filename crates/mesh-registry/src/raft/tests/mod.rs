//! Groups of real voters in one process.

mod cluster;
#[cfg(feature = "testing")]
mod conformance;
mod disk;
mod pilot;
mod reads;
mod repair;
mod stories;
mod upkeep;
