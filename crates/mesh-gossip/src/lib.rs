#![doc = include_str!("../README.md")]

#[cfg(feature = "api")]
pub mod api;
mod config;
mod counters;
mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod gossip;
mod overlay;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "the names remain at the places that ask for them")
)]
mod planted;
mod rtt;
mod table;
mod wire;

#[cfg(feature = "tokio")]
pub mod channels;
#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tokio")]
mod error;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "srv")]
mod srv;
#[cfg(feature = "insecure-udp")]
pub mod udp;

pub use config::GossipConfig;
pub use counters::{Counters, Histogram};
#[cfg(feature = "tokio")]
pub use driver::{BroadcastEvent, BroadcastEvents, Driver, DriverOptions, GossipHandle, lookup_seed};
#[cfg(feature = "tokio")]
pub use error::GossipError;
pub use event::{Command, Effect, Event, GossipStatus, Input, LocalNode};
pub use gossip::{Gossip, MEMBERS_FILE};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use wire::{CommandError, InputError, PROTOCOL};
