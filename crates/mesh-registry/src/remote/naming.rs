//! Names for transactions, so that a retry after a lost answer is applied once.
//!
//! The client keeps a session of its own for that, or a few under load: the store remembers the outcomes
//! of a session's last [`OUTCOMES_KEPT`] numbers, so no more than that many may be under way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::store::{IdempotencyKey, OUTCOMES_KEPT, Session, SessionId};
use tokio::{sync::Notify, time::Instant};

/// Sessions for names; more transactions than they carry wait.
const SESSIONS_MAX: usize = 4;
/// A session that named nothing for so long is closed.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct Naming {
    state: Mutex<State>,
    /// A name has become free, or a session came or went.
    changed: Notify,
    /// Held by whoever opens a session, so that one is opened at a time.
    pub(super) opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Whether a task renews the sessions.
    renewing: bool,
}

struct Slot {
    session: SessionId,
    next: u64,
    under_way: BTreeSet<u64>,
    used: Instant,
}

impl Slot {
    /// Whether another number leaves the outcomes of all that are under way remembered.
    fn has_room(&self) -> bool {
        self.under_way.first().is_none_or(|oldest| self.next < oldest + OUTCOMES_KEPT)
    }
}

/// A name in use. Dropping it makes room for another.
pub(super) struct Name {
    naming: Arc<Naming>,
    pub(super) key: IdempotencyKey,
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut state = self.naming.lock();
        if let Some(slot) = state.slots.iter_mut().find(|slot| slot.session == self.key.session) {
            slot.under_way.remove(&self.key.sequence);
        }
        drop(state);
        self.naming.changed.notify_one();
    }
}

/// What to do for a name.
pub(super) enum Next {
    Take(Name),
    /// Open a session first.
    Open,
    /// Wait for one to become free.
    Wait,
}

impl Naming {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next(self: &Arc<Self>) -> Next {
        let mut state = self.lock();
        let full = state.slots.len() >= SESSIONS_MAX;
        match state.slots.iter_mut().find(|slot| slot.has_room()) {
            Some(slot) => {
                let sequence = slot.next;
                slot.next += 1;
                slot.used = Instant::now();
                slot.under_way.insert(sequence);
                let key = IdempotencyKey { session: slot.session, sequence };
                Next::Take(Name { naming: Arc::clone(self), key })
            }
            None if full => Next::Wait,
            None => Next::Open,
        }
    }

    /// Resolves when [`next`](Self::next) may say something else.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes up a new session; true if a task is to be started that renews the sessions.
    pub(super) fn opened(&self, session: &Session) -> bool {
        let mut state = self.lock();
        state.slots.push(Slot {
            session: session.id,
            next: 1,
            under_way: BTreeSet::new(),
            used: Instant::now(),
        });
        let start = !state.renewing;
        state.renewing = true;
        drop(state);
        self.changed.notify_waiters();
        start
    }

    /// A session is gone, or of no more use.
    pub(super) fn forget(&self, session: SessionId) {
        self.lock().slots.retain(|slot| slot.session != session);
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// The sessions to renew and those to close. With neither, the task that asks is to end.
    pub(super) fn due(&self) -> Due {
        let mut state = self.lock();
        let mut due = Due::default();
        state.slots.retain(|slot| {
            let idle = slot.under_way.is_empty() && slot.used.elapsed() >= IDLE_MAX;
            if idle {
                due.close.push(slot.session)
            } else {
                due.renew.push(slot.session)
            }
            !idle
        });
        state.renewing = !state.slots.is_empty();
        due
    }
}

/// Sessions and what to do with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) renew: Vec<SessionId>,
    pub(super) close: Vec<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: u64) -> Session {
        let owner = "n1".parse().expect("an id");
        Session { id: SessionId(id), owner, ttl: Duration::from_secs(60), renewals: 0 }
    }

    fn take(naming: &Arc<Naming>) -> Option<Name> {
        match naming.next() {
            Next::Take(name) => Some(name),
            Next::Open | Next::Wait => None,
        }
    }

    #[test]
    fn no_more_names_are_out_than_the_store_remembers() {
        let naming = Arc::<Naming>::default();
        assert!(matches!(naming.next(), Next::Open));
        naming.opened(&session(7));
        let oldest = take(&naming).expect("the first");
        // Those behind it come and go; it stays, and holds the window.
        for _ in 1..OUTCOMES_KEPT {
            take(&naming).expect("within the window");
        }
        assert!(matches!(naming.next(), Next::Open), "the oldest name would be forgotten");
        drop(oldest);
        assert_eq!(take(&naming).expect("room again").key.sequence, OUTCOMES_KEPT + 1);
    }

    #[test]
    fn sessions_are_bounded_and_a_lost_one_makes_room() {
        let naming = Arc::<Naming>::default();
        let mut held = Vec::new();
        for id in 0..SESSIONS_MAX as u64 {
            assert!(matches!(naming.next(), Next::Open));
            assert_eq!(naming.opened(&session(id)), id == 0, "one task renews them all");
            while let Some(name) = take(&naming) {
                held.push(name);
            }
        }
        assert!(matches!(naming.next(), Next::Wait));
        assert_eq!(held.len() as u64, SESSIONS_MAX as u64 * OUTCOMES_KEPT);
        naming.forget(SessionId(2));
        assert!(matches!(naming.next(), Next::Open));
        assert_eq!(naming.due().renew.len(), SESSIONS_MAX - 1);
    }
}
