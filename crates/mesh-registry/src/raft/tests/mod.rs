//! Groups of real voters in one process.

mod cluster;
#[cfg(feature = "testing")]
mod conformance;
mod disk;
mod pilot;
mod reads;
mod renewals;
mod repair;
mod stories;
mod terms;
mod upkeep;
