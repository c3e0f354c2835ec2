//! Compares what a node remembers of the store with the store, and mends what differs.
//!
//! Routers keep maps, gossip carries hints, services cache records. They follow the store by watches and
//! should always come to agree with it; this task looks whether they do. A difference that lasts for
//! [`settle`](ReconcileConfig::settle) is mended from the store, and each repair leaves an audit record
//! with what was there before and after. History and audit records that are old enough are let go.

mod compare;
mod config;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use mesh_core::{
    BoxError, Clock, Instant, NodeId, Revision, Validated, WallTime,
    store::{AuditNote, Key, Prefix, Record, Scan, StoreError, Txn, VersionedStore},
};
use tokio::{sync::Notify, task::AbortHandle};

pub use compare::Difference;
pub use config::{ReconcileConfig, Retention};

use compare::Pending;

/// Most records of one cache that are compared; a cache of more is not looked at.
const RECORDS_MAX: usize = 100_000;
/// Bytes of a value that an audit record shows.
const SHOWN_BYTES_MAX: usize = 256;

/// Something that remembers records of the store.
///
/// What it remembers need not be the records themselves: [`expected`](Self::expected) says how a record
/// should look in it.
#[async_trait]
pub trait Cached: Send + Sync + 'static {
    /// Its name, of a small closed set: `routes`.
    fn name(&self) -> &'static str;

    /// The records that it remembers.
    fn prefix(&self) -> Prefix;

    /// How a record should look in it; `None` if it should not be there. By default its value.
    fn expected(&self, record: &Record) -> Option<Bytes> {
        Some(record.value.clone())
    }

    /// What it remembers now.
    async fn snapshot(&self) -> BTreeMap<Key, Bytes>;

    /// Puts what the store has in place of what differs.
    ///
    /// # Errors
    ///
    /// Why it could not; it is tried again at the next look.
    async fn repair(&self, difference: &Difference) -> Result<(), BoxError>;
}

/// How often what came of comparing.
#[derive(Debug, Default)]
pub struct ReconcileCounters {
    in_sync: AtomicU64,
    repaired: AtomicU64,
    repair_failed: AtomicU64,
    store_unavailable: AtomicU64,
}

impl ReconcileCounters {
    /// The outcomes and how often each came about: looks that found a cache in sync, repairs, repairs that
    /// failed, and looks that the store did not answer.
    pub fn by_outcome(&self) -> [(&'static str, u64); 4] {
        [
            ("in-sync", self.in_sync.load(Relaxed)),
            ("repaired", self.repaired.load(Relaxed)),
            ("repair-failed", self.repair_failed.load(Relaxed)),
            ("store-unavailable", self.store_unavailable.load(Relaxed)),
        ]
    }
}

/// What the last look at the caches found.
#[derive(Clone, Debug, Default)]
pub struct StateDiff {
    /// When it was; `None` before the first.
    pub looked_at: Option<WallTime>,
    /// The store's revision then.
    pub revision: Revision,
    /// The caches that were compared.
    pub caches: Vec<&'static str>,
    /// What differs and has not been mended yet, by cache and key; at most so many for each cache as the
    /// settings allow.
    pub differences: Vec<Difference>,
    /// Differences that were found and are not in the list.
    pub more: usize,
    /// Why a cache could not be compared, by its name.
    pub failures: BTreeMap<&'static str, String>,
}

/// Where a [`Reconciler`] runs and for whom.
pub struct ReconcilerOptions {
    /// The store that is right.
    pub store: Arc<dyn VersionedStore>,
    /// What is compared with it.
    pub caches: Vec<Arc<dyn Cached>>,
    /// The node that writes audit records.
    pub local: NodeId,
    /// The settings.
    pub config: Validated<ReconcileConfig>,
    /// How long history and audit records are kept; `None` if somebody else sees to that.
    pub retention: Option<Retention>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A task that compares and mends. Dropping it ends the task.
pub struct Reconciler {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    options: ReconcilerOptions,
    counters: Arc<ReconcileCounters>,
    seen: Mutex<StateDiff>,
    now: Notify,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("seen", &*self.shared.seen()).finish_non_exhaustive()
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reconciler {
    /// Begins.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: ReconcilerOptions) -> Self {
        let shared = Arc::new(Shared {
            options,
            counters: Arc::default(),
            seen: Mutex::default(),
            now: Notify::new(),
        });
        let task = tokio::spawn(run(Arc::clone(&shared))).abort_handle();
        Self { shared, task }
    }

    /// What the last look found.
    pub fn state_diff(&self) -> StateDiff {
        self.shared.seen().clone()
    }

    /// The node that compares.
    pub fn observer(&self) -> &NodeId {
        &self.shared.options.local
    }

    /// How often what came of it.
    pub fn counters(&self) -> Arc<ReconcileCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// Looks now rather than when it is time.
    pub fn look_now(&self) {
        self.shared.now.notify_one();
    }
}

async fn run(shared: Arc<Shared>) {
    let mut pending: Vec<Pending> = Vec::new();
    pending.resize_with(shared.options.caches.len(), Pending::default);
    let mut ages = Ages::default();
    loop {
        // A difference that was just found is looked at again soon, to be mended or to be gone.
        let config = &shared.options.config;
        let now = shared.options.clock.now();
        let unsettled = pending.iter().any(|pending| pending.is_unsettled(now, config.settle));
        let pause = if unsettled { config.settle.min(config.interval) } else { config.interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.now.notified() => {}
        }
        shared.look(&mut pending).await;
        if let Some(retention) = shared.options.retention {
            shared.let_go(retention, &mut ages).await;
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, StateDiff> {
        // It is replaced as a whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares every cache once, and mends what has differed for long enough.
    async fn look(&self, pending: &mut [Pending]) {
        let mut found = StateDiff { looked_at: Some(self.options.clock.wall()), ..StateDiff::default() };
        for (cache, pending) in self.options.caches.iter().zip(pending) {
            found.caches.push(cache.name());
            match self.compare(&**cache, pending).await {
                Ok(revision) => found.revision = revision,
                Err(error) => {
                    self.counters.store_unavailable.fetch_add(1, Relaxed);
                    tracing::debug!(cache = cache.name(), %error, "the store could not be compared with");
                    found.failures.insert(cache.name(), error.to_string());
                }
            }
            let left = pending.differences();
            let shown = self.options.config.differences_max;
            found.more += left.len().saturating_sub(shown);
            found.differences.extend(left.take(shown).cloned());
        }
        *self.seen() = found;
    }

    async fn compare(&self, cache: &dyn Cached, pending: &mut Pending) -> Result<Revision, StoreError> {
        let (stored, revision) = self.records(cache).await?;
        let cached = cache.snapshot().await;
        let config = &self.options.config;
        let wall = self.options.clock.wall();
        let now = self.options.clock.now();
        pending.update(cache.name(), cached, stored, wall, now);
        if pending.is_empty() {
            self.counters.in_sync.fetch_add(1, Relaxed);
        }
        for difference in pending.settled(now, config.settle, config.repairs_max) {
            if self.repair(cache, &difference).await {
                pending.forget(&difference.key);
            }
        }
        Ok(revision)
    }

    /// How the records of a cache should look in it.
    async fn records(&self, cache: &dyn Cached) -> Result<(BTreeMap<Key, Bytes>, Revision), StoreError> {
        let mut scan = Scan::of(cache.prefix());
        let mut expected = BTreeMap::new();
        loop {
            let page = self.options.store.scan(&scan).await?;
            scan.after = page.value.records.last().map(|record| record.key.clone());
            let looks = |record: Record| cache.expected(&record).map(|value| (record.key, value));
            expected.extend(page.value.records.into_iter().filter_map(looks));
            if !page.value.more || scan.after.is_none() {
                return Ok((expected, page.revision));
            }
            if expected.len() > RECORDS_MAX {
                let problem = format!("more than {RECORDS_MAX} records under {:?}", cache.prefix());
                return Err(StoreError::Invalid { what: "comparison", problem });
            }
        }
    }

    /// Mends one difference; false if that failed, to be tried again at the next look.
    async fn repair(&self, cache: &dyn Cached, difference: &Difference) -> bool {
        let correlation_id = fastrand::u64(..);
        let (cache_name, key) = (cache.name(), &difference.key);
        let (before, after) = (shown(difference.cached.as_ref()), shown(difference.stored.as_ref()));
        let log_id = format_args!("{correlation_id:016x}").to_string();
        if let Err(error) = cache.repair(difference).await {
            self.counters.repair_failed.fetch_add(1, Relaxed);
            tracing::warn!(cache = cache_name, %key, error, correlation_id = log_id, "a cache could not be repaired");
            return false;
        }
        self.counters.repaired.fetch_add(1, Relaxed);
        tracing::info!(cache = cache_name, %key, before, after, correlation_id = log_id, "repaired a cache from the store");
        let reason = format!("cache {cache_name}, key {key}: before {before}, after {after}");
        let note = AuditNote { action: "registry.reconcile".to_owned(), reason, correlation_id };
        let txn = Txn::new(self.options.local.clone()).audited(note);
        if let Err(error) = self.options.store.transact(txn).await {
            tracing::warn!(cache = cache_name, %key, %error, "the audit record of a repair could not be written");
        }
        true
    }

    async fn let_go(&self, retention: Retention, ages: &mut Ages) {
        let store = &self.options.store;
        let now = self.options.clock.now();
        let outcome = async {
            let status = store.status().await?;
            if let Some(old) = ages.older_than(now, status.revision, retention)
                && old > status.compacted
            {
                store.compact(old).await?;
            }
            let audit_ms = u64::try_from(retention.audit.as_millis()).unwrap_or(u64::MAX);
            let before = WallTime(self.options.clock.wall().0.saturating_sub(audit_ms));
            match store.trim_audit(before).await {
                // The provider sees to it.
                Ok(0) | Err(StoreError::Unsupported { .. }) => Ok(()),
                Ok(count) => {
                    tracing::debug!(count, "old audit records are gone");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        };
        let outcome: Result<(), StoreError> = outcome.await;
        if let Err(error) = outcome {
            tracing::debug!(%error, "old history was not let go");
        }
    }
}

/// A value as an audit record shows it.
fn shown(value: Option<&Bytes>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    let cut = value.len().min(SHOWN_BYTES_MAX);
    let more =
        if cut < value.len() { format!(" and {} bytes more", value.len() - cut) } else { String::new() };
    match std::str::from_utf8(value) {
        Ok(text) => {
            let cut = (0..=cut).rev().find(|cut| text.is_char_boundary(*cut)).unwrap_or(0);
            format!("{:?}{more}", &text[..cut])
        }
        Err(_) => {
            let hex: String =
                value[..cut.min(SHOWN_BYTES_MAX / 2)].iter().map(|b| format!("{b:02x}")).collect();
            format!("{} bytes 0x{hex}", value.len())
        }
    }
}

/// Which revision the store had when.
#[derive(Debug, Default)]
struct Ages {
    samples: VecDeque<(Instant, Revision)>,
}

/// Samples of one retention time.
const SAMPLES: u32 = 64;

impl Ages {
    /// The newest revision that is known to be as old as history is kept.
    fn older_than(&mut self, now: Instant, revision: Revision, retention: Retention) -> Option<Revision> {
        let apart = retention.history / SAMPLES;
        if self.samples.back().is_none_or(|(at, _)| now.since(*at) >= apart) {
            self.samples.push_back((now, revision));
        }
        let mut old = None;
        while let Some((at, revision)) = self.samples.front().copied()
            && now.since(at) >= retention.history
        {
            old = Some(revision);
            self.samples.pop_front();
        }
        old
    }
}

#[cfg(test)]
mod tests;
