//! The trait through which a concern crate keeps durable control state: one
//! versioned store with transactions, sessions, grants and watches.
//!
//! The model is small on purpose. A [`Record`] is a key with a value. Every
//! change happens in a [`Txn`] that names what must hold ([`Compare`]) and what
//! to do ([`Operation`]), takes effect whole or not at all, and gets one
//! [`Revision`] of a counter that all records share. A session
//! lives as long as its owner renews it; records attached to it go when it goes,
//! all of them at one revision. A *grant* is a record that carries the next
//! [`FencingToken`](crate::FencingToken) of its key: a lease is a granted record of a session.

mod error;
mod key;
mod record;
mod session;
mod txn;
mod watch;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

pub use error::{Applied, SessionError, StoreError, TxnError};
pub use key::{Key, KeyError, Prefix};
pub use record::{Fresh, Page, Record, Scan, Stale};
pub use session::{IdempotencyKey, OpenSession, Session, SessionId};
pub use txn::{AuditNote, Compare, Grant, Operation, Txn, TxnOutcome};
pub use watch::{Change, DeleteCause, Overflow, WatchEvent, WatchFrom, WatchOptions, WatchStream};

use crate::{NodeId, Revision, WallTime};

/// Largest value of one record, in bytes.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;
/// Most compares, and most operations, in one transaction.
pub const TXN_ITEMS_MAX: usize = 2048;
/// Most bytes of keys and values in one transaction.
pub const TXN_BYTES_MAX: usize = 1024 * 1024;
/// Most records that one scan returns, and the most it may ask for.
pub const SCAN_LIMIT_MAX: usize = 10_000;
/// Outcomes that a session remembers for retries; an older sequence number is answered with
/// [`TxnError::Forgotten`].
pub const OUTCOMES_KEPT: u64 = 128;

/// Bytes in pieces, as a snapshot travels.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send + 'static>>;

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// The provider: `memory`, `raft`, `remote`, `etcd`, `postgres`.
    pub provider: &'static str,
    /// The id of the store's cluster. A restore gives it another one: whoever kept revisions, tokens or its place in
    /// a watch sees by it that they belong to another history.
    pub cluster: String,
    /// The newest revision that this handle knows to be committed.
    pub revision: Revision,
    /// Watches can resume after this revision, not before.
    pub compacted: Revision,
    /// The first half of every fencing token: raised by each restore.
    pub generation: u64,
    /// Who takes writes now, where the provider knows.
    pub leader: Option<NodeId>,
    /// Why writes are refused at the moment; `None` if they are taken.
    pub read_only: Option<String>,
    /// Records.
    pub records: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// What a restore brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The store's revision afterwards.
    pub revision: Revision,
    /// The generation of all tokens from here on: above any that was ever given out.
    pub generation: u64,
}

/// A replicated, versioned store.
///
/// # Contract
///
/// * **Linearizable.** [`get`](Self::get), [`scan`](Self::scan) and [`transact`](Self::transact) take
///   effect at one moment between call and return. A read that may be old has a name and a type of its
///   own ([`get_stale`](Self::get_stale), [`Stale`]).
/// * **Durable.** What was acknowledged survives the death of any minority of the store's machines.
/// * **Ordered.** Revisions grow by one for each transaction that changed something, and no two changes of
///   different transactions share one.
/// * **Fenced.** Tokens of one key only grow, over deletes and restores too.
///
/// # Cancel safety
///
/// Dropping the future of a changing call leaves the outcome unknown; repeat it with the same
/// [`IdempotencyKey`] to learn it. Dropping a read or a watch changes nothing.
#[async_trait]
pub trait VersionedStore: Send + Sync + 'static {
    /// The record at `key` now.
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError>;

    /// The record at `key` as the nearest copy has it, possibly old.
    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError>;

    /// Records in key order.
    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError>;

    /// Records in key order as the nearest copy has them, possibly old.
    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError>;

    /// Does all operations at one revision if all compares hold, else nothing.
    ///
    /// # Errors
    ///
    /// [`TxnError::Conflict`] and [`TxnError::Fenced`] say which compare did not hold. Each variant says
    /// whether the transaction may have been applied ([`TxnError::applied`]).
    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError>;

    /// Every change under `prefix` after a revision, in order, each once.
    ///
    /// The stream ends with an error when the store can't go on; resume with
    /// [`WatchFrom::After`] the last revision that was delivered.
    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError>;

    /// Opens a session that lives while it is renewed within `ttl`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ttl`] for a time to live that the store can't keep.
    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError>;

    /// Renews a session. Answered only once the renewal is durable; its time to live then counts, for
    /// the caller, from before this call.
    ///
    /// # Errors
    ///
    /// [`SessionError::Gone`] once it was closed or has expired: everything attached to it is gone as well.
    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError>;

    /// Ends a session; its records go at one revision. Closing one that is gone is [`SessionError::Gone`].
    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError>;

    /// The session, if it is open.
    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError>;

    /// Forgets the history up to and including `through`; watches get a bookmark before it goes.
    async fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// Deletes audit records from before a moment; returns how many. Those who watch see them go.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`], unless a provider says otherwise: one that keeps its audit records for
    /// a set time by itself has no need of it.
    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        let _ = before;
        Err(StoreError::Unsupported {
            provider: "this",
            operation: "trim the audit records",
            reason: "it sees to their retention itself, or keeps them for ever; see its documentation",
        })
    }

    /// The whole store at one revision, in pieces.
    async fn snapshot(&self) -> Result<ByteStream, StoreError>;

    /// Replaces the whole store by a snapshot. Sessions end, grants are released, and the generation of
    /// fencing tokens rises above any that was given out.
    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError>;

    /// What the store says about itself.
    async fn status(&self) -> Result<StoreStatus, StoreError>;
}
