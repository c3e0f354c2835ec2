#![doc = include_str!("../README.md")]

pub mod blob;
pub mod bootstrap;
mod codec;
pub mod compress;
pub mod config;
pub mod documents;
pub mod entry;
pub mod handshake;
mod id;
pub mod lanes;
pub mod queue;
pub mod reconcile;
pub mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod ticket;

pub use self::id::{EntryId, Item};
