#![doc = include_str!("../README.md")]

pub mod documents;
pub mod entry;
mod id;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "without the feature there is nothing to plant")
)]
mod planted;
pub mod reconcile;
pub mod replica;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::id::{EntryId, Item};
#[cfg(feature = "planted-bugs")]
pub use self::planted::{PlantedBug, hash_without_payload};
