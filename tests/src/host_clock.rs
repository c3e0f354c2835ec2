//! The clock of one simulated machine: it starts anywhere and runs a little fast or slow.

use mesh_core::Instant;

/// Turns the time of the run into the time that one machine reads, and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock {
    offset_nanos: u64,
    drift_ppm: i64,
}

impl HostClock {
    /// A clock that reads `offset_nanos` at the start of the run and gains `drift_ppm`
    /// microseconds in a second.
    pub fn new(offset_nanos: u64, drift_ppm: i32) -> Self {
        Self { offset_nanos, drift_ppm: i64::from(drift_ppm) }
    }

    /// What the machine reads at `run`.
    pub fn local(&self, run: Instant) -> Instant {
        let nanos = i128::from(run.as_nanos());
        let gained = nanos * i128::from(self.drift_ppm) / 1_000_000;
        let local = i128::from(self.offset_nanos) + nanos + gained;
        Instant::from_nanos(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The first moment of the run at which the machine reads `local` or later.
    pub fn run(&self, local: Instant) -> Instant {
        let nanos = i128::from(local.as_nanos().saturating_sub(self.offset_nanos));
        let run = nanos * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let mut run = Instant::from_nanos(u64::try_from(run).unwrap_or(u64::MAX));
        // Both divisions round down; at most two nanoseconds are missing.
        while self.local(run) < local && run.as_nanos() < u64::MAX {
            run = Instant::from_nanos(run.as_nanos() + 1);
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_due_exactly_when_the_machine_reads_it() {
        for drift in [-500, -1, 0, 3, 500] {
            let clock = HostClock::new(987_654_321, drift);
            for local in [987_654_321, 987_654_322, 1_000_000_007, 5_000_000_000_001] {
                let due = clock.run(Instant::from_nanos(local));
                assert!(clock.local(due).as_nanos() >= local);
                if due > Instant::ZERO {
                    assert!(clock.local(Instant::from_nanos(due.as_nanos() - 1)).as_nanos() < local);
                }
            }
        }
    }
}
