//! Hybrid logical clocks: wall time that never goes back and orders causally.
//!
//! Kulkarni et al., *Logical Physical Clocks* (2014). Two additions: a timestamp
//! too far in the future is refused instead of dragging everybody along, and a
//! persisted high-water mark keeps a restarted node from issuing a timestamp
//! twice, even when its wall clock was set back in between.

use std::{fmt, time::Duration};

use crate::WallTime;

/// A hybrid timestamp: milliseconds of wall time, then a counter. 48 and 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Hlc(u64);

impl Hlc {
    const COUNTER_BITS: u32 = 16;

    /// The first timestamp of a millisecond.
    pub const fn from_wall(wall: WallTime) -> Self {
        Self(wall.0 << Self::COUNTER_BITS)
    }

    /// The timestamp with this bit pattern, as [`Hlc::to_bits`] gave it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Order-preserving bit pattern.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The wall-time part.
    pub const fn wall(self) -> WallTime {
        WallTime(self.0 >> Self::COUNTER_BITS)
    }

    /// The counter part.
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:05}", self.wall().0, self.counter())
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a timestamp was not issued or accepted. The clock is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HlcError {
    /// A remote timestamp is further ahead than the bound allows.
    #[error("timestamp {remote} is {} ms ahead of the local clock; at most {} ms are accepted, check the clocks", ahead.as_millis(), drift_max.as_millis())]
    TooFarAhead {
        /// What came in.
        remote: Hlc,
        /// How far ahead it is.
        ahead: Duration,
        /// The bound.
        drift_max: Duration,
    },
    /// The next timestamp is past the persisted mark. Persist [`HlcClock::mark_to_persist`] first.
    #[error("timestamp would pass the persisted high-water mark {mark}")]
    NeedsMark {
        /// The mark in force.
        mark: Hlc,
    },
}

/// Issues and merges timestamps. A plain value: wall time is passed in.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::{HlcClock, WallTime};
/// let mut clock = HlcClock::new(None, Duration::from_secs(60));
/// clock.mark_persisted(clock.mark_to_persist(WallTime(1_000)));
/// let first = clock.issue(WallTime(1_000))?;
/// let second = clock.issue(WallTime(10))?; // the wall clock was set back
/// assert!(second > first);
/// # Ok::<(), mesh_core::HlcError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HlcClock {
    last: Hlc,
    mark: Hlc,
    drift_max: Duration,
}

impl HlcClock {
    /// How far ahead of the present the mark is set, so that it is written seldom.
    pub const MARK_AHEAD: Duration = Duration::from_secs(10);

    /// A clock that continues after `persisted`, the mark that the last run left behind.
    ///
    /// Nothing can be issued before a new mark was made durable.
    pub fn new(persisted: Option<Hlc>, drift_max: Duration) -> Self {
        let mark = persisted.unwrap_or_default();
        Self { last: mark, mark, drift_max }
    }

    /// A clock that continues after `highest`, for those who make what they stamp durable before anybody sees it.
    ///
    /// What they have stored is the mark: pass the highest timestamp in it. So a clock that was stopped for a moment
    /// goes on in the present, while one with a mark of its own begins up to [`HlcClock::MARK_AHEAD`] ahead of it, and
    /// peers that refuse timestamps from the future would make its first writes wait so long.
    ///
    /// ```
    /// use std::time::Duration;
    /// use mesh_core::{Hlc, HlcClock, WallTime};
    /// let stored = Hlc::from_wall(WallTime(5_000));
    /// let mut clock = HlcClock::resume(Some(stored), Duration::from_secs(60));
    /// assert!(clock.issue(WallTime(1_000))? > stored); // the wall clock was set back
    /// assert_eq!(clock.issue(WallTime(9_000))?.wall(), WallTime(9_000));
    /// # Ok::<(), mesh_core::HlcError>(())
    /// ```
    pub fn resume(highest: Option<Hlc>, drift_max: Duration) -> Self {
        Self { last: highest.unwrap_or_default(), mark: Hlc(u64::MAX), drift_max }
    }

    /// The mark to make durable now. Call [`HlcClock::mark_persisted`] after the fsync.
    pub fn mark_to_persist(&self, wall: WallTime) -> Hlc {
        let ahead = u64::try_from(Self::MARK_AHEAD.as_millis()).unwrap_or(u64::MAX);
        Hlc::from_wall(WallTime(wall.0.max(self.last.wall().0).saturating_add(ahead)))
    }

    /// Whether less than half of the room below the mark is left.
    pub fn wants_mark(&self, wall: WallTime) -> bool {
        let half = u64::try_from(Self::MARK_AHEAD.as_millis() / 2).unwrap_or(u64::MAX);
        wall.0.max(self.last.wall().0).saturating_add(half) >= self.mark.wall().0
    }

    /// Says that `mark` is durable.
    pub fn mark_persisted(&mut self, mark: Hlc) {
        self.mark = self.mark.max(mark);
    }

    /// A timestamp above every one that was issued or merged before.
    ///
    /// # Errors
    ///
    /// [`HlcError::NeedsMark`] if it would pass the durable mark.
    pub fn issue(&mut self, wall: WallTime) -> Result<Hlc, HlcError> {
        let next = Hlc(self.last.0.saturating_add(1)).max(Hlc::from_wall(wall));
        if next >= self.mark {
            return Err(HlcError::NeedsMark { mark: self.mark });
        }
        self.last = next;
        Ok(next)
    }

    /// Takes note of a timestamp that came from elsewhere, so that the next one issued is above it.
    ///
    /// # Errors
    ///
    /// [`HlcError::TooFarAhead`] if it is beyond the drift bound;
    /// [`HlcError::NeedsMark`] if it is past the durable mark.
    pub fn merge(&mut self, wall: WallTime, remote: Hlc) -> Result<(), HlcError> {
        let ahead = Duration::from_millis(remote.wall().0.saturating_sub(wall.0));
        if ahead > self.drift_max {
            return Err(HlcError::TooFarAhead { remote, ahead, drift_max: self.drift_max });
        }
        if remote >= self.mark {
            return Err(HlcError::NeedsMark { mark: self.mark });
        }
        self.last = self.last.max(remote);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(wall: u64) -> HlcClock {
        let mut clock = HlcClock::new(None, Duration::from_secs(60));
        clock.mark_persisted(clock.mark_to_persist(WallTime(wall)));
        clock
    }

    #[test]
    fn it_never_goes_back_over_a_restart_with_an_earlier_wall_clock() {
        let mut before = clock(50_000);
        let mark = before.mark_to_persist(WallTime(50_000));
        before.mark_persisted(mark);
        let last = before.issue(WallTime(50_000)).expect("below the mark");
        let mut after = HlcClock::new(Some(mark), Duration::from_secs(60));
        assert!(matches!(after.issue(WallTime(100)), Err(HlcError::NeedsMark { .. })));
        after.mark_persisted(after.mark_to_persist(WallTime(100)));
        assert!(after.issue(WallTime(100)).expect("has a mark") > last);
    }

    #[test]
    fn a_timestamp_from_far_ahead_is_refused_and_changes_nothing() {
        let mut clock = clock(1_000);
        let before = clock.issue(WallTime(1_000)).expect("issue");
        let far = Hlc::from_wall(WallTime(1_000 + 61_000));
        assert!(matches!(clock.merge(WallTime(1_000), far), Err(HlcError::TooFarAhead { .. })));
        assert_eq!(clock.issue(WallTime(1_000)).expect("issue").to_bits(), before.to_bits() + 1);
    }

    #[test]
    fn a_merged_timestamp_is_passed() {
        let mut clock = clock(1_000);
        let remote = Hlc::from_wall(WallTime(4_000));
        clock.merge(WallTime(1_000), remote).expect("within bounds");
        assert!(clock.issue(WallTime(1_000)).expect("issue") > remote);
    }
}
