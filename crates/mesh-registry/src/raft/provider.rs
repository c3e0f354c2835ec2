//! The store as its users see it.

use async_trait::async_trait;
use mesh_core::{
    Revision,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};
use tonic::service::Routes;

use super::{Begin, RaftError, RaftOptions};
use crate::{LeaderHint, Leadership};

/// A node of the group of voters, or one that may become one. Clones share it.
///
/// Changes and linearizable reads are answered by the leader, reads by every voter after it has asked the
/// leader how far it must be. A node that can't answer says who leads (see [`LeaderHint`] and
/// [`LedBy`](crate::LedBy)).
#[derive(Clone)]
pub struct RaftStore {}

impl RaftStore {
    /// Opens the directory, and goes on with the group that it belongs to, if there is one. Call it inside
    /// a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`RaftError`] says what is wrong with the directory.
    pub async fn start(_options: RaftOptions, _begin: Begin) -> Result<Self, RaftError> {
        Ok(Self {})
    }

    /// Adds the service by which voters talk to each other. Serve it before [`start`](Self::start) is
    /// long past: other voters retry.
    pub fn mount(&self, routes: Routes) -> Routes {
        routes
    }

    /// Ends when the node had to stop by itself, with the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn failed(&self) -> RaftError {
        std::future::pending().await
    }

    /// Hands leadership over, if this node has it, and stops. What is under way gets
    /// [`StoreError::Unavailable`].
    pub async fn stop(&self) {}
}

impl LeaderHint for RaftStore {
    fn leadership(&self) -> Leadership {
        Leadership::Unknown
    }
}

fn unavailable(operation: &'static str) -> StoreError {
    StoreError::Unavailable {
        operation,
        reason: "this node belongs to no group of voters yet".to_owned(),
        applied: Applied::No,
        source: None,
    }
}

#[async_trait]
impl VersionedStore for RaftStore {
    async fn get(&self, _key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        Err(unavailable("read"))
    }
    async fn get_stale(&self, _key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        Err(unavailable("read"))
    }
    async fn scan(&self, _scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        Err(unavailable("read"))
    }
    async fn scan_stale(&self, _scan: &Scan) -> Result<Stale<Page>, StoreError> {
        Err(unavailable("read"))
    }
    async fn transact(&self, _txn: Txn) -> Result<TxnOutcome, TxnError> {
        Err(unavailable("write").into())
    }
    async fn watch(
        &self,
        _prefix: &Prefix,
        _from: WatchFrom,
        _options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        Err(unavailable("watch"))
    }
    async fn open_session(&self, _request: OpenSession) -> Result<Session, SessionError> {
        Err(unavailable("open a session").into())
    }
    async fn keep_alive(&self, _session: SessionId) -> Result<Session, SessionError> {
        Err(unavailable("renew a session").into())
    }
    async fn close_session(&self, _session: SessionId) -> Result<Revision, SessionError> {
        Err(unavailable("close a session").into())
    }
    async fn session(&self, _session: SessionId) -> Result<Option<Session>, StoreError> {
        Err(unavailable("read"))
    }
    async fn compact(&self, _through: Revision) -> Result<(), StoreError> {
        Err(unavailable("compact"))
    }
    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        Err(unavailable("read"))
    }
    async fn restore(&self, _snapshot: ByteStream) -> Result<Restored, StoreError> {
        Err(unavailable("restore"))
    }
    async fn status(&self) -> Result<StoreStatus, StoreError> {
        Err(unavailable("read"))
    }
}
