//! A store that is never there and a membership of nobody, for tests of what surrounds the core.

use std::sync::Arc;

use async_trait::async_trait;
use mesh_core::{
    FencingToken, Instant, MemberEvents, MemberSnapshot, Membership, Revision, Settings, SystemClock,
    WallTime,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};

use crate::{LeaderConfig, LeaderView, Leadership, LeadershipEvent, Reason, Transition};

/// The leadership of a node that reaches no store.
pub(crate) fn leadership(name: &str) -> Leadership {
    let config = LeaderConfig::default().validate().expect("valid");
    let node_id = name.parse().expect("a node id");
    Leadership::spawn(config, Arc::new(Nowhere), Arc::new(Nobody), Arc::new(SystemClock), node_id)
}

/// `leader` leads a scope, with a token and a term of that number.
pub(crate) fn view(scope: &str, leader: Option<&str>, term: u64) -> LeaderView {
    LeaderView {
        scope: scope.parse().expect("a scope"),
        leader: leader.map(|name| name.parse().expect("a node id")),
        token: Some(FencingToken { generation: 1, counter: term }),
        term,
        since: WallTime(1_700_000_000_000),
        correlation_id: 0xabc,
        revision: Revision(term),
        candidates: vec!["n-1".parse().expect("a node id")],
    }
}

/// Something happened to that reign.
pub(crate) fn event(transition: Transition, scope: &str, leader: &str, term: u64) -> LeadershipEvent {
    LeadershipEvent {
        transition,
        scope: scope.parse().expect("a scope"),
        leader: leader.parse().expect("a node id"),
        token: FencingToken { generation: 1, counter: term },
        term,
        reason: Reason::Vacant,
        correlation_id: 0xabc,
        at: Instant::ZERO,
        wall: WallTime(1_700_000_000_000 + term),
    }
}

pub(crate) struct Nobody;

impl Membership for Nobody {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::default()
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (MemberSnapshot::default(), Box::pin(futures_util::stream::pending()))
    }
}

/// Refuses everything: it can't be reached.
pub(crate) struct Nowhere;

fn gone<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable {
        operation: "do anything",
        reason: "it is nowhere".into(),
        applied: Applied::No,
        source: None,
    })
}

#[async_trait]
impl VersionedStore for Nowhere {
    async fn get(&self, _: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        gone()
    }
    async fn get_stale(&self, _: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        gone()
    }
    async fn scan(&self, _: &Scan) -> Result<Fresh<Page>, StoreError> {
        gone()
    }
    async fn scan_stale(&self, _: &Scan) -> Result<Stale<Page>, StoreError> {
        gone()
    }
    async fn transact(&self, _: Txn) -> Result<TxnOutcome, TxnError> {
        Ok(gone()?)
    }
    async fn watch(&self, _: &Prefix, _: WatchFrom, _: WatchOptions) -> Result<WatchStream, StoreError> {
        gone()
    }
    async fn open_session(&self, _: OpenSession) -> Result<Session, SessionError> {
        Ok(gone()?)
    }
    async fn keep_alive(&self, _: SessionId) -> Result<Session, SessionError> {
        Ok(gone()?)
    }
    async fn close_session(&self, _: SessionId) -> Result<Revision, SessionError> {
        Ok(gone()?)
    }
    async fn session(&self, _: SessionId) -> Result<Option<Session>, StoreError> {
        gone()
    }
    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        gone()
    }
    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        gone()
    }
    async fn restore(&self, _: ByteStream) -> Result<Restored, StoreError> {
        gone()
    }
    async fn status(&self) -> Result<StoreStatus, StoreError> {
        gone()
    }
}
