//! Sessions: what hangs on them, and what they remember for retries.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    NodeId, Revision,
    store::{Change, DeleteCause, IdempotencyKey, Key, OUTCOMES_KEPT, Session, SessionId, TxnOutcome},
};

use super::{Expiry, Refusal, State};
use crate::planted::PlantedBug;

/// A session with all that depends on it.
#[derive(Clone, Debug)]
pub(super) struct SessionState {
    pub(super) session: Session,
    /// The records that go with it.
    pub(super) keys: BTreeSet<Key>,
    /// Outcomes by sequence number, at most [`OUTCOMES_KEPT`].
    pub(super) outcomes: BTreeMap<u64, Result<TxnOutcome, Refusal>>,
    /// The highest sequence number whose outcome was dropped.
    pub(super) forgotten: Option<u64>,
}

impl SessionState {
    pub(super) fn new(session: Session) -> Self {
        Self { session, keys: BTreeSet::new(), outcomes: BTreeMap::new(), forgotten: None }
    }

    pub(super) fn remember(&mut self, sequence: u64, outcome: Result<TxnOutcome, Refusal>) {
        self.outcomes.insert(sequence, outcome);
        while self.outcomes.len() as u64 > OUTCOMES_KEPT {
            self.forgotten = self.outcomes.pop_first().map(|(oldest, _)| oldest);
        }
    }
}

/// What a session knows of a sequence number.
pub(super) enum Recalled {
    /// Nothing: it is new.
    New,
    /// What came of it.
    Known(Result<TxnOutcome, Refusal>),
    /// It can't be known any more.
    Lost(Refusal),
}

impl State {
    pub(super) fn open(&mut self, owner: &NodeId, ttl: Duration) -> Session {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let session = Session { id, owner: owner.clone(), ttl, renewals: 0 };
        self.sessions.insert(id, SessionState::new(session.clone()));
        session
    }

    pub(super) fn renew(&mut self, id: SessionId) -> Option<Session> {
        let state = self.sessions.get_mut(&id)?;
        state.session.renewals += 1;
        Some(state.session.clone())
    }

    pub(super) fn close(&mut self, id: SessionId) -> Option<Revision> {
        self.end(id, DeleteCause::SessionClosed)
    }

    pub(super) fn expire(&mut self, sessions: &[Expiry]) -> Vec<SessionId> {
        let mut ended = Vec::new();
        for Expiry { session, renewals } in sessions {
            let unrenewed = self.session(*session).is_some_and(|s| s.renewals == *renewals);
            if unrenewed || self.has_bug(PlantedBug::ExpireWithoutCompare) {
                ended.extend(self.end(*session, DeleteCause::SessionExpired).map(|_| *session));
            }
        }
        ended
    }

    pub(super) fn recall(&self, key: IdempotencyKey) -> Recalled {
        if self.has_bug(PlantedBug::ApplyRetries) {
            return Recalled::New;
        }
        let Some(session) = self.sessions.get(&key.session) else {
            return Recalled::Lost(Refusal::SessionGone(key.session));
        };
        match session.outcomes.get(&key.sequence) {
            Some(outcome) => Recalled::Known(outcome.clone()),
            None if session.forgotten.is_some_and(|last| key.sequence <= last) => {
                Recalled::Lost(Refusal::Forgotten(key))
            }
            None => Recalled::New,
        }
    }

    /// Ends a session; all its records go at one revision. The present one if it had none.
    fn end(&mut self, id: SessionId, cause: DeleteCause) -> Option<Revision> {
        let state = self.sessions.remove(&id)?;
        let keep_one = self.has_bug(PlantedBug::LeaveRecordsOfSessions);
        let keys = state.keys.into_iter().skip(usize::from(keep_one));
        let changes: Vec<Change> = keys
            .filter(|key| self.records.delete(key).is_some())
            .map(|key| Change::Deleted { key, cause })
            .collect();
        Some(if changes.is_empty() { self.revision } else { self.commit(changes) })
    }
}
