#![doc = include_str!("../README.md")]

pub mod entry;
mod id;
pub mod reconcile;
pub mod store;

pub use self::id::{EntryId, Item};
