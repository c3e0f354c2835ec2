//! What is measured: a store of three processes, and a client of it.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// Three processes that keep one store.
#[async_trait]
pub(super) trait Target: Send {
    /// What its figures begin with; empty for ours.
    fn prefix(&self) -> &'static str;
    /// A client with a connection of its own.
    async fn client(&self) -> Result<Box<dyn Client>>;
    /// Ends the leader's process with a signal it can't catch.
    async fn kill_leader(&mut self) -> Result<()>;
    /// Starts what was killed and waits until the store is whole again.
    async fn revive(&mut self) -> Result<()>;
    /// Freezes a process that does not lead, and lets it go on.
    async fn freeze_follower(&mut self, time: Duration) -> Result<()>;
    /// Resident memory of its largest process.
    fn rss_mib(&self) -> f64;
}

/// A change under a watched prefix.
pub(super) enum Seen {
    Put(Bytes),
    Deleted,
}

/// A lease of a holder that is to die; nobody renews it but who is told to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held(pub(super) u64);

#[async_trait]
pub(super) trait Client: Send + Sync {
    async fn put(&self, key: &str, value: Bytes) -> Result<()>;
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;
    async fn list(&self, prefix: &str) -> Result<usize>;
    /// Changes from now on, one item for each record.
    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, Seen>>;
    /// Opens a lease.
    async fn hold(&self, ttl: Duration) -> Result<Held>;
    async fn renew(&self, held: Held) -> Result<()>;
    /// Takes those keys that nobody has; false if somebody has one of them.
    async fn take(&self, held: Held, keys: &[String]) -> Result<bool>;
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value at this share of the sorted figures.
pub(super) fn percentile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len().saturating_sub(1) as f64 * share).round() as usize;
    figures.get(at).copied().unwrap_or(f64::NAN)
}

pub(super) fn median(figures: &mut [f64]) -> f64 {
    percentile(figures, 0.5)
}

/// Resident memory of a process.
pub(super) fn rss_mib_of(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(f64::NAN);
    kib / 1024.0
}
