//! What the store holds, and the one function that changes it.
//!
//! [`State::apply`] is pure: the same commands in the same order give the same
//! state, everywhere and at any time. So the `memory` provider, each voter of
//! the `raft` provider and the simulator's modelled log share it. No clock is
//! in it: who may say that a session has expired is decided outside, and the
//! command says which renewal it had seen last.

mod audit;
mod command;
#[cfg(any(feature = "etcd", feature = "postgres"))]
mod excerpt;
mod history;
mod records;
mod sessions;
mod snapshot;
mod transact;

use std::collections::BTreeMap;

use mesh_core::{
    Revision,
    store::{Key, Prefix, Record, Scan, Session, SessionId},
};

pub use audit::{AUDIT_PREFIX, TRIMMED_MAX};
pub use command::{Command, Expiry, Refusal, Reply, TxnCommand};
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub(crate) use excerpt::SessionExcerpt;
pub use history::{HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX, Revised};
pub use snapshot::{RESTORE_BYTES_MAX, SnapshotError, SnapshotHash, SnapshotReader, SnapshotWriter};

use history::History;
use records::Records;
use sessions::SessionState;

use crate::planted::PlantedBug;

/// The whole store at one revision.
///
/// ```
/// use mesh_core::store::{Key, Operation, Txn};
/// use mesh_registry::state::{Command, Reply, State};
/// let key = Key::new("a")?;
/// let mut state = State::default();
/// let txn = Txn::new("n1".parse()?).then(Operation::Put { key: key.clone(), value: "1".into(), session: None });
/// let Reply::Txn(outcome) = state.apply(&Command::txn(txn)) else { unreachable!() };
/// let outcome = outcome.map_err(|refusal| format!("{refusal:?}"))?;
/// assert_eq!(state.get(&key).map(|record| record.revision), Some(outcome.revision));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct State {
    generation: u64,
    revision: Revision,
    records: Records,
    sessions: BTreeMap<SessionId, SessionState>,
    next_session: u64,
    history: History,
    /// What came of a restore under way; see `Command::RestoreChunk`.
    staged: Option<Box<snapshot::Staged>>,
    /// Changes since [`State::take_changes`] was last called.
    fresh: Vec<Revised>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<PlantedBug>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            generation: 1,
            revision: Revision(0),
            records: Records::default(),
            sessions: BTreeMap::new(),
            next_session: 1,
            history: History::default(),
            staged: None,
            fresh: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

impl State {
    /// Applies one command.
    pub fn apply(&mut self, command: &Command) -> Reply {
        match command {
            Command::Txn(command) => Reply::Txn(self.transact(command)),
            Command::Open { owner, ttl } => Reply::Opened(self.open(owner, *ttl)),
            Command::Renew(sessions) => Reply::Renewed(sessions.iter().map(|id| self.renew(*id)).collect()),
            Command::Close(session) => Reply::Closed(self.close(*session)),
            Command::Expire(sessions) => Reply::Expired(self.expire(sessions)),
            Command::Compact(through) => {
                self.history.compact((*through).min(self.revision));
                Reply::Compacted(self.history.compacted())
            }
            Command::TrimAudit(before) => Reply::Trimmed(self.trim_audit(*before)),
            Command::Batch(commands) => {
                Reply::Batch(commands.iter().map(|command| self.apply(command)).collect())
            }
            Command::RestoreChunk { id, offset, data } => {
                Reply::Staged(self.stage(*id, *offset, data.clone()))
            }
            Command::RestoreEnd { id, bytes, xxh3 } => {
                Reply::Restored(self.finish_restore(*id, *bytes, *xxh3))
            }
            Command::RestoreDrop { id, bytes } => Reply::Dropped(self.drop_restore(*id, *bytes)),
        }
    }

    /// The changes of the commands applied since the last call, oldest first. Whoever applies commands
    /// takes them after each, to feed watches.
    pub fn take_changes(&mut self) -> Vec<Revised> {
        std::mem::take(&mut self.fresh)
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Changes up to and including this revision are forgotten.
    pub fn compacted(&self) -> Revision {
        self.history.compacted()
    }

    /// The first half of fencing tokens.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The record at a key.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    /// Records in key order, and whether more follow.
    pub fn scan(&self, scan: &Scan) -> (Vec<Record>, bool) {
        self.records.scan(scan)
    }

    /// Number of records.
    pub fn records_len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of all keys and values.
    pub fn records_bytes(&self) -> usize {
        self.records.bytes()
    }

    /// An open session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id).map(|state| &state.session)
    }

    /// All open sessions, in the order of their ids.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.sessions.values().map(|state| &state.session)
    }

    /// The changes after a revision that `prefix` covers; `None` if some of them are forgotten.
    pub fn changes_after(&self, after: Revision, prefix: &Prefix) -> Option<Vec<Revised>> {
        self.history.after(after, prefix)
    }

    /// Every change after a revision, whatever its key; `None` if some of them are forgotten.
    #[cfg(feature = "raft")]
    pub(crate) fn revised_after(&self, after: Revision) -> Option<impl Iterator<Item = &Revised>> {
        let iter = self.history.iter().filter(move |revised| revised.revision > after);
        (after >= self.compacted()).then_some(iter)
    }

    /// Makes this state break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

    #[cfg(feature = "planted-bugs")]
    fn has_bug(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    fn has_bug(&self, _: PlantedBug) -> bool {
        false
    }

    /// Takes the next revision for `changes` and puts them into the history.
    fn commit(&mut self, mut changes: Vec<mesh_core::store::Change>) -> Revision {
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        self.revision = Revision(self.revision.0 + 1);
        let revised = Revised { revision: self.revision, changes: changes.into() };
        self.history.push(revised.clone());
        self.fresh.push(revised);
        self.revision
    }
}

#[cfg(test)]
mod tests;
