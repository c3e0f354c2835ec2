//! When arrivals came, so that a cursor tells how old the oldest entry is that its owner lacks.

use std::collections::VecDeque;

use mesh_core::Instant;

/// Moments that are remembered.
const MOMENTS_MAX: usize = 1024;
/// Where there are more, those go that are closer to their neighbours than this share of their age: the older, the
/// coarser.
const SHARE_OF_AGE: u32 = 16;

/// Arrivals and when they were there.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Both only grow.
    moments: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// So many have arrived by now.
    pub(super) fn note(&mut self, now: Instant, arrivals: u64) {
        if self.moments.back().is_some_and(|(_, last)| *last >= arrivals) {
            return;
        }
        if self.moments.len() >= MOMENTS_MAX {
            self.thin(now);
        }
        self.moments.push_back((now, arrivals));
    }

    fn thin(&mut self, now: Instant) {
        let mut kept: VecDeque<(Instant, u64)> = VecDeque::new();
        for (at, moment) in self.moments.iter().enumerate() {
            let next = self.moments.get(at + 1);
            let gap = kept.back().zip(next).map(|(before, next)| next.0.since(before.0));
            if gap.is_none_or(|gap| gap >= now.since(moment.0) / SHARE_OF_AGE) {
                kept.push_back(*moment);
            }
        }
        // Whatever the times are, there is room then.
        kept.drain(..kept.len().saturating_sub(MOMENTS_MAX - 1));
        self.moments = kept;
    }

    /// When more than this had arrived for the first time, as far as is known; `None` if it is all.
    pub(super) fn passed(&self, arrivals: u64) -> Option<Instant> {
        let at = self.moments.partition_point(|(_, arrived)| *arrived <= arrivals);
        self.moments.get(at).map(|(when, _)| *when)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_cursor_is_as_old_as_what_came_next() {
        let mut pace = Pace::default();
        assert_eq!(pace.passed(0), None);
        for (second, arrivals) in [(1, 10), (2, 10), (3, 20), (4, 30)] {
            pace.note(at(second), arrivals);
        }
        assert_eq!(
            [0, 9, 10, 29, 30].map(|arrivals| pace.passed(arrivals)),
            [Some(at(1)), Some(at(1)), Some(at(3)), Some(at(4)), None]
        );
    }

    #[test]
    fn of_many_moments_the_newest_are_exact_and_none_is_lost_in_the_middle() {
        let mut pace = Pace::default();
        for second in 0..10_000 {
            pace.note(at(second), second);
        }
        assert!(pace.moments.len() <= MOMENTS_MAX);
        assert_eq!(pace.passed(9_998), Some(at(9_999)));
        let old = pace.passed(100).expect("known");
        assert!(old > at(100) && old < at(1_000), "{old:?}");
    }
}
