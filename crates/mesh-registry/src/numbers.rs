//! What a store knows of itself without asking anybody: plain numbers, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets of [`Durations`], in seconds. A last one takes the rest.
pub const BUCKETS_S: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counts how long something took. Recording takes no lock.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS_S.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS_S.partition_point(|bound| seconds > *bound);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The counts so far.
    pub fn counted(&self) -> DurationCounts {
        DurationCounts {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Relaxed)),
        }
    }
}

/// What [`Durations`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationCounts {
    /// How many fell into each bucket of [`BUCKETS_S`], and how many past the last.
    pub buckets: [u64; BUCKETS_S.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl DurationCounts {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// A store that can be read off at any time.
pub trait Gauges: Send + Sync + 'static {
    /// Its numbers now. Called at each scrape: answer from memory.
    fn numbers(&self) -> StoreNumbers;
}

/// The numbers of a store, as one node has them. What a provider does not know is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreNumbers {
    /// The newest revision that this node knows.
    pub revision: Option<u64>,
    /// Records in this node's copy.
    pub records: Option<u64>,
    /// Bytes of their keys and values.
    pub records_bytes: Option<u64>,
    /// Open sessions.
    pub sessions: Option<u64>,
    /// Watches of this node's copy.
    pub watchers: Option<u64>,
    /// Whether changes can be made, as far as this node can tell: there is a leader that a quorum follows.
    pub quorum: Option<bool>,
    /// How long one entry of the log took to apply.
    pub apply: Option<DurationCounts>,
    /// What the replicated log knows.
    pub raft: Option<RaftNumbers>,
}

/// The numbers of a replicated log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftNumbers {
    /// The term.
    pub term: u64,
    /// How often this node saw another leader than before.
    pub leader_changes: u64,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// How long snapshots took to be written.
    pub snapshot: DurationCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_bucket_whose_bound_it_does_not_pass() {
        let durations = Durations::default();
        for micros in [100, 101, 10_000_000] {
            durations.record(Duration::from_micros(micros));
        }
        let counted = durations.counted();
        assert_eq!((counted.buckets[0], counted.buckets[1], counted.buckets[BUCKETS_S.len()]), (1, 1, 1));
        assert_eq!((counted.count(), counted.sum), (3, Duration::from_micros(10_000_201)));
    }
}
