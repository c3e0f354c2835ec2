#![doc = include_str!("../README.md")]

#[cfg(feature = "api")]
pub mod api;
pub mod blob;
pub mod bootstrap;
mod codec;
pub mod compress;
pub mod config;
#[cfg(feature = "tokio")]
mod counters;
pub mod documents;
#[cfg(feature = "tokio")]
pub mod engine;
pub mod entry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod handshake;
mod id;
pub mod lanes;
#[cfg(feature = "tokio")]
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "without the feature there is nothing to plant")
)]
mod planted;
pub mod queue;
pub mod reconcile;
pub mod replica;
#[cfg(feature = "rpc")]
pub mod rpc;
pub mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod ticket;
#[cfg(feature = "rpc")]
mod wire;

pub use self::id::{EntryId, Item};
#[cfg(feature = "planted-bugs")]
pub use self::planted::{PlantedBug, hash_without_payload};
