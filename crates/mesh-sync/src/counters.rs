//! What an engine counts. Plain numbers; `metrics` turns them into Prometheus text.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Upper bounds of buckets of durations, in seconds.
pub(crate) const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
/// Upper bounds of buckets of lengths, in bytes.
pub(crate) const BYTES: [f64; 10] = [
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// A histogram with fixed buckets.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    pub(crate) bounds: &'static [f64],
    /// Each observation is counted once; the last bucket is everything above.
    pub(crate) buckets: Vec<u64>,
    pub(crate) sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.buckets[at] += 1;
        self.sum += value;
    }

    pub(crate) fn time(&mut self, took: Duration) {
        self.observe(took.as_secs_f64());
    }
}

/// Counts since the start.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    /// By direction and outcome.
    pub(crate) entries: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// By method and outcome.
    pub(crate) reconciliations: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) reconciliation_bytes: Histogram,
    pub(crate) apply: Histogram,
    /// From being queued to being delivered.
    pub(crate) queue: Histogram,
    /// How long a peer was behind when it caught up.
    pub(crate) lag: Histogram,
    /// By what came of it.
    pub(crate) handshakes: BTreeMap<&'static str, u64>,
    pub(crate) dropped_frames: u64,
    pub(crate) malformed: u64,
    pub(crate) hooks_failed: u64,
    pub(crate) hooks_missed: u64,
    pub(crate) equivocations: u64,
    pub(crate) dials_failed: u64,
}

/// Counts that the tasks of an engine share.
#[derive(Debug)]
pub(crate) struct Counters(Mutex<Numbers>);

impl Default for Counters {
    fn default() -> Self {
        Self(Mutex::new(Numbers {
            entries: BTreeMap::new(),
            bytes_in: 0,
            bytes_out: 0,
            reconciliations: BTreeMap::new(),
            reconciliation_bytes: Histogram::new(&BYTES),
            apply: Histogram::new(&SECONDS),
            queue: Histogram::new(&SECONDS),
            lag: Histogram::new(&SECONDS),
            handshakes: BTreeMap::new(),
            dropped_frames: 0,
            malformed: 0,
            hooks_failed: 0,
            hooks_missed: 0,
            equivocations: 0,
            dials_failed: 0,
        }))
    }
}

impl Counters {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entries(&self, direction: &'static str, outcome: &'static str, count: u64) {
        *self.lock().entries.entry((direction, outcome)).or_default() += count;
    }
}

/// What is true at the time of a scrape.
#[cfg(feature = "metrics")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) max_lag_s: f64,
    pub(crate) in_sync: usize,
    pub(crate) behind: usize,
    pub(crate) away: usize,
    pub(crate) retired: usize,
    pub(crate) queued: usize,
    pub(crate) dead_letters: usize,
    pub(crate) streams: usize,
    pub(crate) datasets: usize,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) pending: usize,
    pub(crate) health: crate::engine::SyncHealth,
}
