//! How long HTTP/3 to a peer counts as broken.

use std::time::Duration;

use mesh_core::Instant;

/// Remembers failures of one transport. Each doubles the pause before the next try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    min: Duration,
    max: Duration,
    /// The pause that the last failure caused, and when it ends.
    pause: Option<(Duration, Instant)>,
}

impl Broken {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, pause: None }
    }

    /// It failed. Repeated reports within one pause count once: many requests see the
    /// same connection break.
    pub(super) fn mark(&mut self, now: Instant) {
        let pause = match self.pause {
            Some((_, until)) if now < until => return,
            Some((pause, _)) => (pause * 2).min(self.max),
            None => self.min,
        };
        self.pause = Some((pause, now + pause));
    }

    /// It works.
    pub(super) fn clear(&mut self) {
        self.pause = None;
    }

    /// How long it is to be left alone; `None` if it may be tried.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        let (_, until) = self.pause?;
        Some(until.since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_limit_and_end_with_success() {
        let second = Duration::from_secs(1);
        let mut broken = Broken::new(second, 5 * second);
        let mut now = Instant::from_nanos(7);
        assert_eq!(broken.remaining(now), None);
        for pause in [1, 2, 4, 5, 5] {
            broken.mark(now);
            broken.mark(now);
            assert_eq!(broken.remaining(now), Some(pause * second));
            now += pause * second;
            assert_eq!(broken.remaining(now), None);
        }
        broken.clear();
        broken.mark(now);
        assert_eq!(broken.remaining(now), Some(second));
    }
}
