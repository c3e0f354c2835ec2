use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use mesh_core::{BoxError, Clock, ManualClock, store::VersionedStore};

use super::*;
use crate::MemoryStore;

mod bends;
mod bent;
mod recording;

/// The memory provider on the machine's clock.
struct Memory;

/// The memory provider on a clock that the cases move.
struct MovedMemory;

struct Started {
    store: MemoryStore,
    clock: Option<ManualClock>,
}

fn limits() -> Limits {
    Limits::default()
        .without(Promise::Restart, "nothing is on disk")
        .without(Promise::Failover, "it lives in one process, and goes with it")
        .remark("anything at all once its process ends")
}

#[async_trait]
impl ProviderFactory for Memory {
    fn provider(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        limits()
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        Ok(Box::new(Started { store: MemoryStore::new(), clock: None }))
    }
}

#[async_trait]
impl ProviderFactory for MovedMemory {
    fn provider(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        limits()
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        Ok(Box::new(Started { store, clock: Some(clock) }))
    }
}

#[async_trait]
impl Provider for Started {
    fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::new(self.store.clone())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        match &self.clock {
            Some(clock) => Arc::new(clock.clone()),
            None => Arc::new(mesh_core::SystemClock),
        }
    }

    async fn pass(&self, by: Duration) {
        match &self.clock {
            Some(clock) => {
                clock.advance(by);
                // Any call makes the store look at its clock.
                let _ = self.store.status().await;
                tokio::task::yield_now().await;
            }
            // sleeps: time passes on the machine's clock, which the store under test keeps
            None => tokio::time::sleep(by).await,
        }
    }
}

mod memory {
    crate::conformance_tests!(super::Memory);
}

mod memory_on_a_moved_clock {
    crate::conformance_tests!(super::MovedMemory);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_tells_what_is_kept_and_what_can_not_be_promised() {
    let report = conformance(&MovedMemory).await;
    println!("{report}");
    assert!(report.is_kept(), "{report}");
    assert_eq!(report.lines.len(), cases().len());
    let text = report.to_string();
    for wanted in [
        "provider memory:",
        "cannot promise  everything_acknowledged_is_there_after_a_restart: that \
         everything is there after a restart: nothing is on disk",
        "failover: not measured",
        "0 broken",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
}

#[test]
fn every_promise_has_a_case_or_is_checked_by_one() {
    for promise in Promise::ALL {
        let needs = cases().iter().any(|case| case.needs.contains(&promise));
        assert!(needs, "no case examines {promise}");
    }
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().len(), "two cases have one name");
}
