#![doc = include_str!("../README.md")]

mod config;
mod counters;
mod event;
mod gossip;
mod overlay;
mod rtt;
mod table;
mod wire;

pub use config::GossipConfig;
pub use counters::{Counters, Histogram};
pub use event::{Command, Effect, Event, GossipStatus, Input, LocalNode};
pub use gossip::{Gossip, MEMBERS_FILE};
pub use wire::{CommandError, InputError, PROTOCOL};
