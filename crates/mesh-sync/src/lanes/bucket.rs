//! Limits the bytes in a second.

use std::time::Duration;

use mesh_core::Instant;

/// A rate with a burst: bytes may go at once up to `burst_bytes`, then at `bytes_per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in a second, over time.
    pub bytes_per_second: u64,
    /// Bytes that may go at once after a pause.
    pub burst_bytes: u64,
}

const NANOS: i128 = 1_000_000_000;

/// A token bucket that goes into debt: while a byte is left, a piece may go, however large, and what it takes too
/// much is waited for afterwards. If a piece had to wait until all of it is covered, small ones would pass a large one
/// for ever. Whole numbers only: no rate drifts.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Bytes times a billion.
    tokens: i128,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let rate =
            Rate { bytes_per_second: rate.bytes_per_second.max(1), burst_bytes: rate.burst_bytes.max(1) };
        Self { rate, tokens: i128::from(rate.burst_bytes) * NANOS, at: now }
    }

    fn full(&self) -> i128 {
        i128::from(self.rate.burst_bytes) * NANOS
    }

    fn at(&self, now: Instant) -> i128 {
        let nanos = i128::try_from(now.since(self.at).as_nanos()).unwrap_or(i128::MAX);
        let refill = nanos.saturating_mul(self.rate.bytes_per_second.into());
        self.tokens.saturating_add(refill).min(self.full())
    }

    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.at(now) >= NANOS
    }

    /// The first moment at which [`Bucket::allows`].
    pub(crate) fn ready_at(&self) -> Instant {
        let missing = (NANOS - self.tokens).max(0);
        let rate = i128::from(self.rate.bytes_per_second);
        let nanos = missing.saturating_add(rate - 1) / rate;
        self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn take(&mut self, bytes: u64, now: Instant) {
        self.tokens = self.at(now) - i128::from(bytes) * NANOS;
        self.at = self.at.max(now);
    }

    /// Whether it is as good as new.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.at(now) == self.full()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Over any time, no more goes than burst, rate and one oversized piece allow; and what waits is let through
        /// exactly when it was announced.
        #[test]
        fn the_rate_is_kept_and_nothing_waits_for_ever(
            rate in 1_u64..5000,
            burst in 1_u64..5000,
            sizes in prop::collection::vec(1_u64..10_000, 1..50),
        ) {
            let mut bucket = Bucket::new(Rate { bytes_per_second: rate, burst_bytes: burst }, Instant::ZERO);
            let (mut now, mut sent, mut largest) = (Instant::ZERO, 0, 0);
            for bytes in sizes {
                let ready = bucket.ready_at().max(now);
                prop_assert!(bucket.allows(ready));
                if ready > now {
                    prop_assert!(!bucket.allows(ready - Duration::from_nanos(1)));
                }
                now = ready;
                bucket.take(bytes, now);
                sent += bytes;
                largest = largest.max(bytes);
                let allowed = now.since(Instant::ZERO).as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(u128::from(sent) <= allowed + u128::from(burst + largest));
            }
        }
    }
}
