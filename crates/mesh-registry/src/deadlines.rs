//! When sessions run out, on one observer's own clock.
//!
//! No deadline is replicated. Each observer counts a session's time to live from
//! when it saw the last renewal, which is never before the owner sent it. So
//! an observer whose clock runs at the owner's rate never says too early that a
//! session is over; the drift bound covers clocks that run at different rates.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    Instant,
    store::{Session, SessionId},
};

use crate::state::Expiry;

/// Parts per million in one.
const MILLION: u128 = 1_000_000;

/// The deadlines of all open sessions.
#[derive(Clone, Debug)]
pub struct Deadlines {
    drift_ppm: u32,
    sessions: BTreeMap<SessionId, Seen>,
    queue: BTreeSet<(Instant, SessionId)>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    deadline: Instant,
    ttl: Duration,
    renewals: u64,
}

impl Deadlines {
    /// None yet. `drift_ppm` is how much faster than the owner's our clock may run, in parts per million.
    pub fn new(drift_ppm: u32) -> Self {
        Self { drift_ppm, sessions: BTreeMap::new(), queue: BTreeSet::new() }
    }

    /// The session was opened or renewed, as seen at `at`.
    pub fn observe(&mut self, session: &Session, at: Instant) {
        self.set(session.id, session.ttl, session.renewals, at);
    }

    /// The session is gone.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(seen) = self.sessions.remove(&session) {
            self.queue.remove(&(seen.deadline, session));
        }
    }

    /// Keeps only these sessions and gives each a full time to live from `now`: what was seen before is
    /// lost, by a restart or with a snapshot.
    pub fn restart<'s>(&mut self, sessions: impl Iterator<Item = &'s Session>, now: Instant) {
        self.sessions.clear();
        self.queue.clear();
        for session in sessions {
            self.observe(session, now);
        }
    }

    /// At most `max` sessions whose time has run out at `now`, earliest first.
    pub fn due(&self, now: Instant, max: usize) -> Vec<Expiry> {
        let over = self.queue.iter().take_while(|(deadline, _)| *deadline <= now).take(max);
        over.filter_map(|(_, session)| {
            let seen = self.sessions.get(session)?;
            Some(Expiry { session: *session, renewals: seen.renewals })
        })
        .collect()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    fn set(&mut self, session: SessionId, ttl: Duration, renewals: u64, at: Instant) {
        let extra = ttl.as_nanos() * u128::from(self.drift_ppm) / MILLION;
        let extra = Duration::from_nanos(u64::try_from(extra).unwrap_or(u64::MAX));
        let deadline = at + ttl + extra;
        self.forget(session);
        self.sessions.insert(session, Seen { deadline, ttl, renewals });
        self.queue.insert((deadline, session));
    }

    /// Pushes every deadline to a full time to live from `now`: whoever takes over the watch can't know
    /// what it has missed.
    pub fn extend_all(&mut self, now: Instant) {
        let all: Vec<_> = self.sessions.iter().map(|(id, seen)| (*id, *seen)).collect();
        for (id, seen) in all {
            self.set(id, seen.ttl, seen.renewals, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(renewals: u64) -> Session {
        let owner = "n1".parse().expect("a node id");
        Session { id: SessionId(1), owner, ttl: Duration::from_secs(2), renewals }
    }

    #[test]
    fn a_session_is_due_after_its_time_and_the_drift_and_a_renewal_moves_it() {
        let mut deadlines = Deadlines::new(10_000);
        let start = Instant::ZERO;
        deadlines.observe(&session(0), start);
        assert_eq!(deadlines.next(), Some(start + Duration::from_millis(2020)));
        deadlines.observe(&session(1), start + Duration::from_secs(1));
        assert!(deadlines.due(start + Duration::from_millis(2500), 10).is_empty());
        let due = deadlines.due(start + Duration::from_millis(3020), 10);
        assert_eq!(due, [Expiry { session: SessionId(1), renewals: 1 }]);
        deadlines.forget(SessionId(1));
        assert_eq!(deadlines.next(), None);
    }
}
