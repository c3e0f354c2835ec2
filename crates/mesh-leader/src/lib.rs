#![doc = include_str!("../README.md")]

mod config;
mod counters;
mod error;
mod event;
mod leader;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "the names remain at the places that ask for them")
)]
mod planted;
mod records;
mod scope;
mod ttl;
mod wire;

pub use config::{LeaderConfig, ScopeConfig};
pub use counters::{Counters, Histogram};
pub use error::{LeaseError, Refusal};
pub use event::{
    Answer, CampaignOptions, Command, Effect, Input, LeaderView, LeadershipEvent, LeadershipStatus,
    LeaseSignal, MemberHint, OpId, Order, Reason, Request, RequestId, Transition, WatchId,
};
pub use leader::LeaderCore;
#[cfg(not(feature = "planted-bugs"))]
pub(crate) use planted::PlantedBug;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use records::lease_key;
pub use scope::{Scope, ScopeError, ScopeKind};
pub use ttl::{TtlAdmission, TtlRefusal};
