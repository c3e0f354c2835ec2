//! What the core counts. Plain numbers; `metrics` turns them into Prometheus text.

use std::{collections::BTreeMap, time::Duration};

use crate::{ScopeKind, Transition};

/// Upper bounds of the histogram buckets, in seconds.
pub(crate) const BUCKETS_S: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A histogram of durations with fixed buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations per bucket, each counted once; the last is everything above.
    pub(crate) buckets: [u64; BUCKETS_S.len() + 1],
    pub(crate) sum_s: f64,
}

impl Histogram {
    pub(crate) fn observe(&mut self, value: Duration) {
        let seconds = value.as_secs_f64();
        let at = BUCKETS_S.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS_S.len());
        self.buckets[at] += 1;
        self.sum_s += seconds;
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_s
    }
}

/// Counts since the core was made.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Transitions by kind of scope.
    pub transitions: BTreeMap<(ScopeKind, Transition), u64>,
    /// From the last time a leader was known to hold to the next one.
    pub election_duration: Histogram,
    /// Time without a leader that is over, summed over scopes.
    pub without_leader: Duration,
    /// What was left until the deadline when a renewal was answered.
    pub renewal_slack: Histogram,
    /// A second holder was seen while this node's lease was good.
    pub split_brain: u64,
    /// Renewals that failed.
    pub renewal_failures: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Times this process was paused for longer than a lease allows.
    pub pauses: u64,
    /// Times all records were read again.
    pub scans: u64,
    /// Tries to take or hand over a lease that the store refused.
    pub conflicts: u64,
    /// Records that were left out because `leader.records_max` is reached.
    pub records_left_out: u64,
}

impl Counters {
    pub(crate) fn transition(&mut self, kind: ScopeKind, transition: Transition) {
        *self.transitions.entry((kind, transition)).or_default() += 1;
    }
}
