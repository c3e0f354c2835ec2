//! What the core counts. Plain numbers; `metrics` turns them into Prometheus text.

use std::time::Duration;

/// Upper bounds of the histogram buckets, in seconds.
pub(crate) const BUCKETS_S: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

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
#[allow(missing_docs, reason = "the names say it, and the metrics reference describes each")]
pub struct Counters {
    pub sent_messages: u64,
    pub sent_bytes: u64,
    /// Messages that the carrier did not take: the link was busy, or just gone.
    pub unsent_messages: u64,
    pub received_messages: u64,
    pub received_bytes: u64,
    pub refused_malformed: u64,
    pub refused_version: u64,
    pub refused_rate: u64,
    pub refused_incarnation: u64,
    pub refused_members_max: u64,
    pub probes: u64,
    pub probes_answered: u64,
    pub probes_answered_indirectly: u64,
    pub probe_timeouts: u64,
    pub probe_refusals: u64,
    pub suspicions_started: u64,
    pub suspicions_refuted: u64,
    pub suspicions_confirmed: u64,
    pub refutations: u64,
    pub digest_mismatches: u64,
    pub syncs_started: u64,
    pub sync_records_sent: u64,
    pub sync_records_taken: u64,
    pub duplicates: u64,
    pub late_timers: u64,
    pub broadcasts_sent: u64,
    pub broadcasts_delivered: u64,
    /// Round trips of answered probes.
    pub rtt: Histogram,
    /// From the moment of a change to its receipt here, by the hops' own reckoning.
    pub propagation: Histogram,
}
