#![doc = include_str!("../README.md")]

#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "the names remain at the places that ask for them")
)]
mod planted;
#[cfg(feature = "postgres")]
pub mod postgres;

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "tokio")]
mod audit;
#[cfg(feature = "tokio")]
pub mod audit_log;
mod config;
#[cfg(feature = "rpc")]
mod counters;
mod deadlines;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "rpc")]
mod gather;
#[cfg(feature = "tokio")]
mod hub;
mod leader_hint;
#[cfg(feature = "tokio")]
pub mod members;
#[cfg(feature = "tokio")]
mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "tokio")]
pub mod numbers;
#[cfg(feature = "rpc")]
pub mod quorum;
#[cfg(feature = "raft")]
pub mod raft;
#[cfg(feature = "tokio")]
pub mod reconcile;
#[cfg(feature = "tokio")]
pub mod records;
#[cfg(feature = "rpc")]
mod remote;
#[cfg(all(test, any(feature = "etcd", feature = "postgres")))]
mod servers;
#[cfg(feature = "rpc")]
mod service;
pub mod state;
#[cfg(feature = "history")]
pub mod testing;
#[cfg(feature = "raft")]
mod voter;
mod wire;

pub use config::{Provider, RegistryConfig};
#[cfg(feature = "rpc")]
pub use counters::{RemoteCounters, ServiceCounters};
pub use deadlines::Deadlines;
pub use leader_hint::{LeaderHint, Leadership, LedBy};
#[cfg(feature = "tokio")]
pub use memory::MemoryStore;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(feature = "rpc")]
pub use remote::{RemoteConfig, RemoteStore, Voters};
#[cfg(feature = "rpc")]
pub use service::{AccessConfig, ServiceConfig, StoreService};
pub use state::AUDIT_PREFIX;
#[cfg(feature = "raft")]
pub use voter::VoterStore;
pub use wire::{COMMAND_VERSION, WireError, decode_command, encode_command};
