//! What rounds cost and how long they kept users waiting.

use std::{fs, time::Duration};

use serde_json::{Value, json};

/// The sums of some rounds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Rounds that came to their end.
    pub rounds: usize,
    /// Calls that were made and judged.
    pub operations: usize,
    /// Those of unknown outcome.
    pub unknown: usize,
    /// From a fault that took the store's leader to the answer to a write that was sent after it.
    pub failovers: Vec<Duration>,
    /// From a fault that took the holder to the next holder.
    pub takeovers: Vec<Duration>,
    /// From the end of a fault to a cluster that is whole.
    pub heals: Vec<Duration>,
}

impl Figures {
    /// As one object, times in milliseconds; `null` where nothing was timed.
    pub fn to_json(&self) -> Value {
        json!({
            "rounds": self.rounds,
            "operations": self.operations,
            "unknown": self.unknown,
            "failover_p50_ms": percentile_ms(&self.failovers, 50),
            "failover_p99_ms": percentile_ms(&self.failovers, 99),
            "takeover_p50_ms": percentile_ms(&self.takeovers, 50),
            "takeover_p99_ms": percentile_ms(&self.takeovers, 99),
            "heal_p50_ms": percentile_ms(&self.heals, 50),
            "heal_p99_ms": percentile_ms(&self.heals, 99),
        })
    }
}

/// The smallest time that so many per cent of all times do not exceed.
fn percentile_ms(times: &[Duration], per_cent: usize) -> Option<u128> {
    let mut times = times.to_vec();
    times.sort();
    let rank = (times.len() * per_cent).div_ceil(100).max(1);
    times.get(rank - 1).map(Duration::as_millis)
}

/// The machine's load average over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=50).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&times, 50), Some(25));
        assert_eq!(percentile_ms(&times, 99), Some(50));
        assert_eq!(percentile_ms(&times[..1], 50), Some(50));
        assert_eq!(percentile_ms(&[], 99), None);
    }
}
