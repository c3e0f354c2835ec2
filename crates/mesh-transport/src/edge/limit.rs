//! A token bucket for each identity.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use mesh_core::{Clock, Instant};

use super::Problem;

/// Bounds how many requests each identity makes.
///
/// Each has a bucket of `burst` tokens that fills at `per_second`; a request takes
/// one. Identities are those of verified certificates, so there are only as many
/// buckets as certificates; still their number is bounded, and one that is full
/// again is the first to be forgotten.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use mesh_core::ManualClock;
/// use mesh_transport::edge::RateLimiter;
///
/// let clock = ManualClock::default();
/// let limiter = RateLimiter::new(10.0, 2, 1024, Arc::new(clock.clone()));
/// assert!(limiter.take("w-1").is_ok());
/// assert!(limiter.take("w-1").is_ok());
/// assert_eq!(limiter.take("w-1"), Err(Duration::from_millis(100)));
/// assert!(limiter.take("w-2").is_ok(), "others are not affected");
/// clock.advance(Duration::from_millis(100));
/// assert!(limiter.take("w-1").is_ok());
/// ```
pub struct RateLimiter {
    per_second: f64,
    burst: f64,
    identities_max: usize,
    clock: Arc<dyn Clock>,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RateLimiter {
    /// A limiter whose buckets are all full.
    ///
    /// `per_second` and `burst` below one are taken as one.
    pub fn new(per_second: f64, burst: u32, identities_max: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            per_second: per_second.max(1.0),
            burst: f64::from(burst.max(1)),
            identities_max: identities_max.max(1),
            clock,
            buckets: Mutex::default(),
        }
    }

    /// Takes a token of `identity`.
    ///
    /// # Errors
    ///
    /// The time until there is one.
    pub fn take(&self, identity: &str) -> Result<(), Duration> {
        let now = self.clock.now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(identity) {
            if buckets.len() >= self.identities_max {
                self.forget_one(&mut buckets, now);
            }
            buckets.insert(identity.to_owned(), Bucket { tokens: self.burst, at: now });
        }
        let Some(bucket) = buckets.get_mut(identity) else { return Ok(()) };
        bucket.tokens = self.filled(bucket, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let nanos = ((1.0 - bucket.tokens) / self.per_second * 1e9).ceil();
        Err(Duration::from_nanos(nanos as u64))
    }

    /// [`take`](Self::take) with a problem for the caller.
    ///
    /// # Errors
    ///
    /// A problem with the code `request.rate.limited` and the time to wait.
    pub fn admit(&self, identity: &str) -> Result<(), Problem> {
        self.take(identity).map_err(|wait| {
            Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "request.rate.limited",
                "too many requests from this identity",
            )
            .object(identity)
            .cause(format!("the limit is {} requests a second, {} at once", self.per_second, self.burst))
            .action("wait for retry_after seconds; follow a list with ?watch instead of polling it")
            .retry_after(wait)
        })
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        (bucket.tokens + now.since(bucket.at).as_secs_f64() * self.per_second).min(self.burst)
    }

    /// Drops all full buckets, or if there are none, the one that has most: nobody gains much by it.
    fn forget_one(&self, buckets: &mut BTreeMap<String, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.filled(bucket, now) < self.burst);
        if buckets.len() < self.identities_max {
            return;
        }
        let fullest = buckets
            .iter()
            .max_by(|(_, a), (_, b)| self.filled(a, now).total_cmp(&self.filled(b, now)))
            .map(|(identity, _)| identity.clone());
        if let Some(identity) = fullest {
            buckets.remove(&identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::ManualClock;

    use super::*;

    #[test]
    fn the_long_run_rate_is_the_configured_one() {
        let clock = ManualClock::default();
        let limiter = RateLimiter::new(50.0, 10, 16, Arc::new(clock.clone()));
        let mut admitted = 0;
        for _ in 0..10_000 {
            admitted += usize::from(limiter.take("w-1").is_ok());
            clock.advance(Duration::from_millis(1));
        }
        assert!((505..=512).contains(&admitted), "10 s at 50/s plus a burst of 10: {admitted}");
    }

    #[test]
    fn buckets_are_bounded_and_an_exhausted_one_is_not_forgotten() {
        let clock = ManualClock::default();
        let limiter = RateLimiter::new(1.0, 2, 4, Arc::new(clock.clone()));
        assert!(limiter.take("greedy").is_ok());
        assert!(limiter.take("greedy").is_ok());
        for n in 0..100 {
            assert!(limiter.take(&format!("w-{n}")).is_ok());
        }
        assert_eq!(limiter.buckets.lock().expect("lock").len(), 4);
        assert!(limiter.take("greedy").is_err(), "making names up does not refill a bucket");
    }
}
