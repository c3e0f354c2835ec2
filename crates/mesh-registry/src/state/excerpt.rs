//! A state of a few records and sessions, for providers that keep theirs in somebody else's database.
//!
//! They read what a transaction touches, let [`State::apply`](super::State::apply) judge it by the same
//! rules as everywhere, and write what came of it.

use mesh_core::{
    Revision,
    store::{Record, Session, TxnOutcome},
};

use super::{Refusal, State, history::History, sessions::SessionState};

/// A session as far as one transaction needs it.
#[derive(Clone, Debug)]
pub(crate) struct SessionExcerpt {
    pub(crate) session: Session,
    /// What came of the transaction's own sequence number, if it was seen before.
    pub(crate) outcome: Option<(u64, Result<TxnOutcome, Refusal>)>,
    /// The highest sequence number whose outcome is no longer kept.
    pub(crate) forgotten: Option<u64>,
}

impl From<Session> for SessionExcerpt {
    fn from(session: Session) -> Self {
        Self { session, outcome: None, forgotten: None }
    }
}

impl State {
    /// A state of these records and sessions, without history.
    pub(crate) fn excerpt(
        generation: u64,
        revision: Revision,
        records: impl IntoIterator<Item = Record>,
        sessions: impl IntoIterator<Item = SessionExcerpt>,
    ) -> Self {
        let mut state =
            Self { generation, revision, history: History::starting_after(revision), ..Self::default() };
        for excerpt in sessions {
            let id = excerpt.session.id;
            let mut session = SessionState::new(excerpt.session);
            session.forgotten = excerpt.forgotten;
            session.outcomes.extend(excerpt.outcome);
            state.next_session = state.next_session.max(id.0.saturating_add(1));
            state.sessions.insert(id, session);
        }
        for record in records {
            if let Some(session) = record.session.and_then(|id| state.sessions.get_mut(&id)) {
                session.keys.insert(record.key.clone());
            }
            state.records.put(record);
        }
        state
    }
}
