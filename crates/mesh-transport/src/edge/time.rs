//! Monotonic instants as wall-clock text for people.

use std::{
    sync::Mutex,
    time::{Duration, UNIX_EPOCH},
};

use mesh_core::{Clock, Instant, WallTime};

/// The last millisecond of the year 9999, the end of what RFC 3339 can say.
const RFC3339_END_MS: u64 = 253_402_300_799_999;

/// A wall-clock time as RFC 3339 text in UTC with milliseconds.
///
/// ```
/// use mesh_core::WallTime;
/// assert_eq!(mesh_transport::edge::rfc3339(WallTime(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
/// ```
pub fn rfc3339(time: WallTime) -> String {
    let since_epoch = Duration::from_millis(time.0.min(RFC3339_END_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// Turns instants into wall-clock times, the same instant always into the same time.
///
/// Reading both clocks anew for each answer would move a fixed instant back and
/// forth by a millisecond, and with it the digest of a view that did not change.
/// So the distance of the clocks is remembered, and measured again only when the
/// wall clock was set by more than [`WallAnchor::STEP`].
#[derive(Debug, Default)]
pub struct WallAnchor {
    /// Milliseconds of the wall clock at instant zero.
    zero_ms: Mutex<Option<i128>>,
}

impl WallAnchor {
    /// The smallest change of the wall clock that moves the anchor.
    pub const STEP: Duration = Duration::from_secs(2);

    /// The wall-clock time of an instant.
    pub fn wall(&self, clock: &dyn Clock, at: Instant) -> WallTime {
        let measured = i128::from(clock.wall().0) - millis(clock.now());
        let mut zero_ms = self.zero_ms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let zero = match *zero_ms {
            Some(zero) if measured.abs_diff(zero) <= Self::STEP.as_millis() => zero,
            _ => *zero_ms.insert(measured),
        };
        WallTime(u64::try_from(zero + millis(at)).unwrap_or(0))
    }
}

fn millis(at: Instant) -> i128 {
    i128::from(at.as_nanos() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use mesh_core::ManualClock;

    use super::*;

    #[test]
    fn an_instant_keeps_its_text_until_the_wall_clock_is_set() {
        let clock = ManualClock::default();
        clock.set_wall(WallTime(1_700_000_000_000));
        let anchor = WallAnchor::default();
        let event = clock.now();
        assert_eq!(rfc3339(anchor.wall(&clock, event)), "2023-11-14T22:13:20.000Z");

        clock.advance(Duration::from_secs(3600));
        clock.set_wall(WallTime(clock.wall().0 + 3));
        assert_eq!(anchor.wall(&clock, event), WallTime(1_700_000_000_000), "3 ms of slew do not show");

        clock.set_wall(WallTime(clock.wall().0 + 60_000));
        assert_eq!(anchor.wall(&clock, event), WallTime(1_700_000_060_003), "a step of a minute does");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_shown_as_its_end() {
        assert_eq!(rfc3339(WallTime(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
