#![doc = include_str!("../README.md")]

#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "the names remain at the places that ask for them")
)]
mod planted;

#[cfg(feature = "tokio")]
mod audit;
mod config;
mod deadlines;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "tokio")]
mod hub;
mod leader_hint;
#[cfg(feature = "tokio")]
mod memory;
#[cfg(all(test, any(feature = "etcd", feature = "postgres")))]
mod servers;
#[cfg(feature = "raft")]
pub mod raft;
pub mod state;
mod wire;

#[cfg(feature = "tokio")]
pub use audit::AUDIT_PREFIX;
pub use config::RegistryConfig;
pub use deadlines::Deadlines;
pub use leader_hint::{LeaderHint, Leadership, LedBy};
#[cfg(feature = "tokio")]
pub use memory::MemoryStore;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use wire::{COMMAND_VERSION, WireError, decode_command, encode_command};
