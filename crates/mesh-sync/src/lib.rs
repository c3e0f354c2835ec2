#![doc = include_str!("../README.md")]

pub mod blob;
pub mod bootstrap;
mod codec;
pub mod compress;
pub mod config;
pub mod documents;
pub mod entry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod handshake;
mod id;
pub mod lanes;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "without the feature there is nothing to plant")
)]
mod planted;
pub mod queue;
pub mod reconcile;
pub mod replica;
pub mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod ticket;

pub use self::id::{EntryId, Item};
#[cfg(feature = "planted-bugs")]
pub use self::planted::{PlantedBug, hash_without_payload};
