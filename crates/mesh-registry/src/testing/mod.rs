//! How to find out whether a provider keeps its promises.
//!
//! [`conformance`] runs every [`Case`] of the contract of
//! [`VersionedStore`](mesh_core::store::VersionedStore) against a provider and returns a [`Report`]: what
//! holds, what the provider says it can't promise, and how long its failover took. A provider is brought
//! in by a [`ProviderFactory`]:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::sync::Arc;
//! use mesh_core::{BoxError, store::VersionedStore};
//! use mesh_registry::{MemoryStore, testing::{Limits, Promise, Provider, ProviderFactory, run_case}};
//!
//! struct Memory;
//! struct Started(Arc<dyn VersionedStore>);
//!
//! #[async_trait::async_trait]
//! impl ProviderFactory for Memory {
//!     fn provider(&self) -> &'static str {
//!         "memory"
//!     }
//!     fn limits(&self) -> Limits {
//!         Limits::default()
//!             .without(Promise::Restart, "nothing is on disk")
//!             .without(Promise::Failover, "there is one process")
//!     }
//!     async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
//!         Ok(Box::new(Started(Arc::new(MemoryStore::new()))))
//!     }
//! }
//!
//! #[async_trait::async_trait]
//! impl Provider for Started {
//!     fn store(&self) -> Arc<dyn VersionedStore> {
//!         Arc::clone(&self.0)
//!     }
//! }
//!
//! run_case("each_compare_holds_exactly_when_it_should", &Memory);
//! # }
//! ```
//!
//! In a test binary, [`conformance_tests!`](crate::conformance_tests) makes one test of each case.
//!
//! The judges of histories are in [`history`], and a [`Recorder`] writes down what they judge; neither needs a
//! runtime, so that a simulator can use them.

pub mod history;

#[cfg(feature = "testing")]
mod cases;
mod project;
#[cfg(feature = "testing")]
mod provider;
#[cfg(feature = "testing")]
mod recorded;
mod recorder;
#[cfg(feature = "testing")]
mod report;
#[cfg(feature = "testing")]
mod suite;
#[cfg(feature = "testing")]
mod trial;

pub use recorder::{CALLS_MAX, Call, Recorder, Recording, Refused, Reply};

#[cfg(feature = "testing")]
pub use cases::{Case, cases};
#[cfg(feature = "testing")]
pub use provider::{Limits, Promise, Provider, ProviderFactory};
#[cfg(feature = "testing")]
pub use recorded::RecordedStore;
#[cfg(feature = "testing")]
pub use report::{Failover, Line, Outcome, Report};
#[cfg(feature = "testing")]
pub use suite::{conformance, run_case};

#[cfg(all(test, feature = "testing"))]
mod tests;
