#![doc = include_str!("../README.md")]

#[cfg(feature = "api")]
pub mod api;
mod config;
mod counters;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod event;
pub mod fence;
mod leader;
#[cfg(feature = "tokio")]
mod lease;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, unreachable_pub, reason = "the names remain at the places that ask for them")
)]
mod planted;
mod records;
mod remembered;
#[cfg(feature = "rpc")]
pub mod rpc;
mod scope;
#[cfg(all(test, feature = "tokio"))]
mod testing;
mod ttl;
mod wire;

pub use config::{LeaderConfig, ScopeConfig};
pub use counters::{Counters, Histogram};
#[cfg(feature = "tokio")]
pub use driver::{
    Campaign, EventId, EventIdError, Leadership, Notice, Observer, SubscribersMax, Subscription,
};
pub use error::{LeaseError, Refusal};
pub use event::{
    Answer, CampaignOptions, Command, Effect, Input, LeaderView, LeadershipEvent, LeadershipStatus,
    LeaseSignal, MemberHint, OpId, Order, Reason, Request, RequestId, Transition, WatchId,
};
pub use leader::LeaderCore;
#[cfg(feature = "tokio")]
pub use lease::{Lease, LeaseState};
#[cfg(not(feature = "planted-bugs"))]
pub(crate) use planted::PlantedBug;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use records::lease_key;
pub use remembered::{expected, records_prefix, remembered};
pub use scope::{Scope, ScopeError, ScopeKind};
pub use ttl::{TtlAdmission, TtlRefusal};
