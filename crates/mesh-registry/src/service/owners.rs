//! Whose the sessions are that passed through this service lately.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_core::{
    NodeId,
    store::{Session, SessionId},
};

/// Sessions whose owner is kept; the oldest go first, and are asked for again.
const KEPT_MAX: usize = 65_536;

/// Owners by session. An owner never changes and an id is never used twice, so what is here is true for
/// as long as the session exists.
#[derive(Default)]
pub(super) struct Owners {
    by_session: Mutex<BTreeMap<SessionId, NodeId>>,
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, NodeId>> {
        self.by_session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, session: SessionId) -> Option<NodeId> {
        self.lock().get(&session).cloned()
    }

    pub(super) fn remember(&self, session: &Session) {
        let mut owners = self.lock();
        owners.insert(session.id, session.owner.clone());
        if owners.len() > KEPT_MAX {
            owners.pop_first();
        }
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}
