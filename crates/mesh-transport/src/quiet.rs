//! At most one log line a second for each source.

use std::{collections::BTreeMap, net::IpAddr, sync::Mutex, time::Duration};

use mesh_core::{Clock, Instant, SystemClock};

const INTERVAL: Duration = Duration::from_secs(1);
/// Sources remembered at once. Beyond that strangers share one line a second.
const SOURCES_MAX: usize = 1024;

/// Decides whether an event of a source is logged, and counts those that were not.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<IpAddr, Source>,
    others: Source,
    /// When old sources were last looked for: a flood must not cost a search for each event.
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    logged: Option<Instant>,
    suppressed: u64,
}

impl Quiet {
    /// `Some` with the number of events that were held back since the last line, if one is due.
    pub(crate) fn allow(&self, source: IpAddr) -> Option<u64> {
        self.allow_at(source, SystemClock.now())
    }

    fn allow_at(&self, ip: IpAddr, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("no panic while held");
        let State { sources, others, swept } = &mut *state;
        let due = swept.is_none_or(|at| now.since(at) >= INTERVAL);
        if due && sources.len() >= SOURCES_MAX {
            *swept = Some(now);
            sources.retain(|_, source| source.logged.is_some_and(|at| now.since(at) < INTERVAL));
        }
        let room = sources.len() < SOURCES_MAX || sources.contains_key(&ip);
        let source = if room { sources.entry(ip).or_default() } else { others };
        if source.logged.is_some_and(|at| now.since(at) < INTERVAL) {
            source.suppressed += 1;
            return None;
        }
        source.logged = Some(now);
        Some(std::mem::take(&mut source.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gives_one_line_a_second_for_each_source() {
        let quiet = Quiet::default();
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let at = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
        assert_eq!(quiet.allow_at(a, at(0)), Some(0));
        assert_eq!(quiet.allow_at(a, at(10)), None);
        assert_eq!(quiet.allow_at(b, at(20)), Some(0));
        assert_eq!(quiet.allow_at(a, at(999)), None);
        assert_eq!(quiet.allow_at(a, at(1000)), Some(2));
    }

    #[test]
    fn many_sources_do_not_grow_the_table() {
        let quiet = Quiet::default();
        let logged = (0..100_000u32)
            .filter(|n| quiet.allow_at(IpAddr::from(n.to_be_bytes()), Instant::ZERO).is_some());
        assert_eq!(logged.count(), SOURCES_MAX + 1);
    }
}
