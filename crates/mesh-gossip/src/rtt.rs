//! Round-trip estimate of one link (RFC 6298, without its one-second floor).

use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Rtt {
    pub(crate) fn sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                let error = smoothed.abs_diff(rtt);
                self.variation = (self.variation * 3 + error) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for an answer: `max` until something was measured.
    pub(crate) fn timeout(&self, min: Duration, max: Duration) -> Duration {
        self.smoothed.map_or(max, |s| (s + self.variation * 4).clamp(min, max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_measurements_within_its_bounds() {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(MS(20), MS(500)), MS(500));
        for _ in 0..50 {
            rtt.sample(MS(1));
        }
        assert_eq!(rtt.timeout(MS(20), MS(500)), MS(20));
        for _ in 0..50 {
            rtt.sample(MS(300));
        }
        assert!(rtt.timeout(MS(20), MS(500)) >= MS(300));
    }
}
