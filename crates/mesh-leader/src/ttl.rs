//! Whether a time to live can be kept here: measured, not believed.

use std::{collections::VecDeque, time::Duration};

use mesh_core::store::OpenSession;

/// Samples of each kind that are looked at; older ones are forgotten.
const SAMPLES_MAX: usize = 512;

/// A time to live that this node can't keep with this store.
///
/// A renewal goes out when a third of the time to live is over. What is left must be enough for one
/// renewal that fails, one that succeeds, and a pause of the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "leader.ttl ({ttl:?}) can't be kept: renewals take {rtt_p99:?} and this process pauses for {pause_p99:?} (99 of 100 take no longer), which needs at least {needed:?}; raise leader.ttl, or mend the store, the network or the load of this machine"
)]
pub struct TtlRefusal {
    /// `leader.ttl`.
    pub ttl: Duration,
    /// The shortest that could be kept.
    pub needed: Duration,
    /// Round trips to the store: 99 of 100 take no longer.
    pub rtt_p99: Duration,
    /// How late this process is run: 99 of 100 times no later.
    pub pause_p99: Duration,
}

/// Tells from measured round trips and pauses which time to live can be kept.
///
/// ```
/// use std::time::Duration;
/// use mesh_leader::TtlAdmission;
/// let mut admission = TtlAdmission::default();
/// for _ in 0..100 {
///     admission.observe_rtt(Duration::from_millis(400));
///     admission.observe_pause(Duration::from_millis(20));
/// }
/// assert!(admission.check(Duration::from_secs(2), 1000).is_ok());
/// let refused = admission.check(Duration::from_secs(1), 1000).unwrap_err();
/// assert!(refused.to_string().contains("leader.ttl (1s) can't be kept: renewals take 400ms"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct TtlAdmission {
    rtts: Samples,
    pauses: Samples,
}

impl TtlAdmission {
    /// A request to the store was answered after `rtt`, or given up after it.
    pub fn observe_rtt(&mut self, rtt: Duration) {
        self.rtts.add(rtt);
    }

    /// A timer of this process ran `late` after its time.
    pub fn observe_pause(&mut self, late: Duration) {
        self.pauses.add(late);
    }

    /// The shortest time to live that can be kept, for clocks that differ by `drift_ppm`.
    pub fn needed(&self, drift_ppm: u32) -> Duration {
        let busy = self.rtts.p99() * 2 + self.pauses.p99();
        // Two thirds of the time to live must hold it.
        let ttl = busy * 3 / 2;
        (ttl + drift(ttl, drift_ppm)).max(OpenSession::TTL_MIN)
    }

    /// Whether `ttl` can be kept. Without samples every one that a store allows can.
    ///
    /// # Errors
    ///
    /// [`TtlRefusal`] has the measurements and the shortest time to live that could be kept.
    pub fn check(&self, ttl: Duration, drift_ppm: u32) -> Result<(), TtlRefusal> {
        let needed = self.needed(drift_ppm);
        if needed <= ttl {
            return Ok(());
        }
        Err(TtlRefusal { ttl, needed, rtt_p99: self.rtts.p99(), pause_p99: self.pauses.p99() })
    }
}

/// What clocks that differ by `drift_ppm` make of `time`.
pub(crate) fn drift(time: Duration, drift_ppm: u32) -> Duration {
    Duration::from_nanos(
        u64::try_from(time.as_nanos().saturating_mul(drift_ppm.into()) / 1_000_000).unwrap_or(u64::MAX),
    )
}

/// The last samples, in order of arrival.
#[derive(Clone, Debug, Default)]
struct Samples(VecDeque<Duration>);

impl Samples {
    fn add(&mut self, sample: Duration) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    fn p99(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        // Of few samples the longest.
        let rank = (sorted.len() * 99).div_ceil(100);
        rank.checked_sub(1).and_then(|at| sorted.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn measured(rtt: u64, pause: u64) -> TtlAdmission {
        let mut admission = TtlAdmission::default();
        admission.observe_rtt(MS(rtt));
        admission.observe_pause(MS(pause));
        admission
    }

    #[test]
    fn pauses_count_as_well_as_round_trips() {
        assert!(measured(1, 0).check(MS(500), 1000).is_ok(), "sub-second where the machine supports it");
        let refused = measured(1, 700).check(MS(1000), 1000).expect_err("paused for too long");
        assert_eq!((refused.rtt_p99, refused.pause_p99), (MS(1), MS(700)));
        assert!(refused.needed > MS(1053) && refused.needed < MS(1060), "{:?}", refused.needed);
    }

    #[test]
    fn one_slow_answer_in_a_hundred_is_not_the_rule_and_two_are() {
        let mut admission = TtlAdmission::default();
        for at in 0..100 {
            admission.observe_rtt(MS(if at == 50 { 900 } else { 2 }));
        }
        assert!(admission.check(MS(1000), 0).is_ok());
        admission.observe_rtt(MS(900));
        assert!(admission.check(MS(1000), 0).is_err());
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut admission = measured(900, 900);
        for _ in 0..SAMPLES_MAX {
            admission.observe_rtt(MS(1));
            admission.observe_pause(MS(1));
        }
        assert!(admission.check(MS(500), 1000).is_ok());
    }
}
