//! The store as a node of the group uses it itself: changes go to wherever the leader is.
//!
//! A voter answers reads and watches from its own copy. Changes need the leader; where that is another
//! node, they go there as those of any client do. The same holds for a node that no group has taken in yet.

use std::time::Duration;

use async_trait::async_trait;
use mesh_core::{
    Revision,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};

use crate::{
    LeaderHint, Leadership, RemoteStore,
    members::{GroupMembers, Members},
    raft::RaftStore,
};

/// How often the other way is tried when the leader changed in between.
const TURNS_MAX: usize = 4;
/// Wait before the other way is tried.
const TURN: Duration = Duration::from_millis(10);

/// A voter's own view of the store. Clones share it.
#[derive(Clone)]
pub struct VoterStore {
    raft: RaftStore,
    others: RemoteStore,
}

impl std::fmt::Debug for VoterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoterStore").field("leadership", &self.raft.leadership()).finish_non_exhaustive()
    }
}

/// Calls this node if it leads, else the leader; again if that changed before anything was applied.
macro_rules! led {
    ($self:ident, $call:ident($($argument:expr),*)) => {{
        let mut turn = 0;
        loop {
            let result = match $self.raft.leadership() {
                Leadership::Here => $self.raft.$call($($argument),*).await,
                _ => $self.others.$call($($argument),*).await,
            };
            turn += 1;
            match result {
                Err(error) if turn < TURNS_MAX && moved_on(&error) => tokio::time::sleep(TURN).await,
                result => break result,
            }
        }
    }};
}

/// Calls this node if it belongs to a group, else the voters.
macro_rules! near {
    ($self:ident, $call:ident($($argument:expr),*)) => {
        match $self.raft.group() {
            Some(_) => $self.raft.$call($($argument),*).await,
            None => $self.others.$call($($argument),*).await,
        }
    };
}

/// Whether a call failed for want of a leader alone, with nothing applied.
trait Moved {
    fn store_error(&self) -> Option<&StoreError>;
}

impl Moved for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl Moved for TxnError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl Moved for SessionError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

fn moved_on(error: &impl Moved) -> bool {
    matches!(error.store_error(), Some(StoreError::Unavailable { applied: Applied::No, .. }))
}

impl VoterStore {
    /// The store of this node's voter; `others` reaches the other nodes of the group.
    pub fn new(raft: RaftStore, others: RemoteStore) -> Self {
        Self { raft, others }
    }
}

#[async_trait]
impl Members for VoterStore {
    /// As the leader knows it, else as this node does.
    async fn members(&self) -> Result<GroupMembers, StoreError> {
        if self.raft.leadership() == Leadership::Here || self.raft.group().is_none() {
            return near!(self, members());
        }
        match self.others.members().await {
            Ok(group) if group.leads => Ok(group),
            _ => self.raft.members().await,
        }
    }
}

#[async_trait]
impl VersionedStore for VoterStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        near!(self, get(key))
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        near!(self, get_stale(key))
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        near!(self, scan(scan))
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        near!(self, scan_stale(scan))
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        led!(self, transact(txn.clone()))
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        near!(self, watch(prefix, from, options))
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        led!(self, open_session(request.clone()))
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        led!(self, keep_alive(session))
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        led!(self, close_session(session))
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        near!(self, session(session))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        led!(self, compact(through))
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        near!(self, snapshot())
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        // A stream can be read once, so there is one try.
        match self.raft.leadership() {
            Leadership::Here => self.raft.restore(snapshot).await,
            _ => self.others.restore(snapshot).await,
        }
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        near!(self, status())
    }
}
