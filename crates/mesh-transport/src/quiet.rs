//! Log lines about others' mistakes: one for each source in a minute, and one a second in all.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use mesh_core::{Clock, Instant, SystemClock};

/// Between two lines about one source.
const PAUSE: Duration = Duration::from_secs(60);
/// Between any two lines.
const INTERVAL: Duration = Duration::from_secs(1);
/// Sources remembered at once. Beyond that strangers share what is left of a line a second.
const SOURCES_MAX: usize = 1024;

/// Decides whether an event of a source is logged, and counts those that were not.
#[derive(Debug)]
pub(crate) struct Quiet<S>(Mutex<State<S>>);

#[derive(Debug)]
struct State<S> {
    sources: BTreeMap<S, Source>,
    /// Events of sources beyond those that are remembered.
    others: Source,
    logged: Option<Instant>,
    /// When old sources were last looked for: a flood must not cost a search for each event.
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    logged: Option<Instant>,
    suppressed: u64,
}

fn within(pause: Duration, last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|at| now.since(at) < pause)
}

impl<S> Default for Quiet<S> {
    fn default() -> Self {
        let (sources, others) = Default::default();
        Self(Mutex::new(State { sources, others, logged: None, swept: None }))
    }
}

impl<S: Ord> Quiet<S> {
    /// `Some` with the number of events that were held back since the source's last line, if one is due.
    pub(crate) fn allow(&self, source: S) -> Option<u64> {
        self.allow_at(source, SystemClock.now())
    }

    fn allow_at(&self, key: S, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("no panic while held");
        let State { sources, others, logged, swept } = &mut *state;
        if sources.len() >= SOURCES_MAX && !within(INTERVAL, *swept, now) {
            *swept = Some(now);
            sources.retain(|_, source| within(PAUSE, source.logged, now));
        }
        let room = sources.len() < SOURCES_MAX || sources.contains_key(&key);
        let (source, pause) =
            if room { (sources.entry(key).or_default(), PAUSE) } else { (others, INTERVAL) };
        if within(pause, source.logged, now) || within(INTERVAL, *logged, now) {
            source.suppressed += 1;
            return None;
        }
        *logged = Some(now);
        source.logged = Some(now);
        Some(std::mem::take(&mut source.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_source_has_a_line_at_once_and_then_one_in_a_minute() {
        let quiet = Quiet::default();
        assert_eq!(quiet.allow_at('a', at(0)), Some(0));
        assert_eq!(quiet.allow_at('a', at(1000)), None);
        assert_eq!(quiet.allow_at('a', at(59_999)), None);
        assert_eq!(quiet.allow_at('a', at(60_000)), Some(2));
    }

    #[test]
    fn all_sources_together_have_one_line_a_second_and_none_is_drowned() {
        let quiet = Quiet::default();
        assert_eq!(quiet.allow_at('a', at(0)), Some(0));
        assert_eq!(quiet.allow_at('b', at(999)), None);
        assert_eq!(quiet.allow_at('a', at(1000)), None);
        assert_eq!(quiet.allow_at('b', at(1001)), Some(1));
    }

    #[test]
    fn many_sources_do_not_grow_the_table() {
        let quiet = Quiet::default();
        for n in 0..100_000u64 {
            quiet.allow_at(n, at(n));
        }
        let state = quiet.0.lock().expect("no panic while held");
        assert!(state.sources.len() <= SOURCES_MAX);
        assert_eq!(state.logged, Some(at(99_000)), "strangers still have a line now and then");
    }
}
