#![doc = include_str!("../README.md")]

pub mod documents;
pub mod entry;
mod id;
pub mod reconcile;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::id::{EntryId, Item};
