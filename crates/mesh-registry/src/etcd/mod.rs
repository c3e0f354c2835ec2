//! The `etcd` provider: a store in somebody's etcd, 3.4 or newer.
//!
//! Each store has a root, and every key of it begins with that. Sessions are
//! etcd leases, transactions are etcd transactions, and a revision is etcd's
//! own, which everybody who writes to that etcd shares. A transaction is sent
//! with its compares, so that most take one round trip; when etcd says that
//! one does not hold, it answers with everything that the transaction looks
//! at, and that is judged by the rules that all providers share.
//!
//! # What it does not promise
//!
//! * Revisions grow, but not by one: other users of the etcd, session renewals and outcomes that are kept
//!   for retries take revisions too.
//! * Times to live are whole seconds, rounded up, and not below what etcd allows (2 s with its
//!   defaults): [`Session::ttl`](mesh_core::store::Session::ttl) says what was granted. etcd looks for
//!   expired leases twice a second, and counts all of them anew when it changes its leader, so that a
//!   session whose owner died together with etcd's leader lives up to twice as long.
//! * A transaction may have some 120 compares or operations unless etcd is started with a larger
//!   `--max-txn-ops` (4,200 is enough for all that other providers take).
//! * A transaction without an idempotency key is sent once. If etcd's leader dies at that moment, the answer
//!   comes when etcd itself gives up, after 5 s and twice its election timeout; with a key, the store tries
//!   again after a second.
//! * Outcomes for retries are kept for sequence numbers less than 128 below the highest of their session.
//! * [`compact`](mesh_core::store::VersionedStore::compact) compacts the whole etcd. When others do,
//!   or etcd's own `--auto-compaction-retention`, watches that were behind get a gap. Idle watches get
//!   a bookmark as often as etcd sends them, every ten minutes by default.
//! * [`restore`](mesh_core::store::VersionedStore::restore) is not supported: nothing in etcd replaces
//!   a whole prefix at once. Restore etcd itself, with every Mesh node stopped and a new
//!   `--initial-cluster-token`: the store sees the new cluster id and raises its generation of tokens.
//! * Roots of two stores must not lie below one another, and nobody else may write below a root.

mod config;
mod connection;
mod fault;
mod layout;
mod read;
mod session;
mod transact;
mod watch;
mod wire;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use mesh_core::{
    Clock, Revision, SystemClock, Validated, WallTime,
    store::{
        ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session, SessionError,
        SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore, WatchFrom,
        WatchOptions, WatchStream,
    },
};
use prost::Message;
use tokio::time::Instant;
use tracing::warn;

pub use config::{EtcdConfig, EtcdTlsConfig};

use connection::{Connections, Kind};
use layout::{FORMAT, Layout, StoredMeta};
use wire as pb;

/// A store in etcd. Clones share its connection.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mesh_core::{Settings, store::VersionedStore};
/// use mesh_registry::etcd::{EtcdConfig, EtcdStore};
/// let config = EtcdConfig { root: "orders".to_owned(), ..EtcdConfig::default() };
/// let config = config.validate().map_err(|problems| problems[0].clone())?;
/// let store = EtcdStore::open(config).await?;
/// println!("{} records", store.status().await?.records);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    config: Validated<EtcdConfig>,
    connections: Connections,
    layout: Layout,
    clock: Arc<dyn Clock>,
    meta: Mutex<Option<Meta>>,
    nonce: AtomicU64,
    /// The newest revision seen, for those who ask without need for the very newest.
    newest: AtomicU64,
    /// etcd has compacted at least up to here.
    compacted: AtomicU64,
    renewed: Mutex<session::Renewed>,
    standings: Mutex<BTreeMap<u64, Arc<watch::Standing>>>,
}

/// What holds for the whole store, as read at a revision of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    cluster: u64,
    generation: u64,
    written_at: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is changed in one step each time, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EtcdStore {
    /// Opens the store under the root of the settings; makes it if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] for a file that can't be read, [`StoreError::Unavailable`] if no endpoint
    /// answers, [`StoreError::Damaged`] if something else lies under the root.
    pub async fn open(config: Validated<EtcdConfig>) -> Result<Self, StoreError> {
        Self::with_clock(config, Arc::new(SystemClock)).await
    }

    /// The same on another clock, which gives audit records their time.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn with_clock(
        config: Validated<EtcdConfig>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let seed = (std::process::id(), clock.now().as_nanos(), clock.wall().0);
        let shared = Shared {
            connections: Connections::new(&config)?,
            layout: Layout::new(&config.root),
            nonce: AtomicU64::new(xxhash_rust::xxh3::xxh3_64(format!("{seed:?}").as_bytes())),
            clock,
            meta: Mutex::new(None),
            newest: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            renewed: Mutex::default(),
            standings: Mutex::default(),
            config,
        };
        shared.meta().await?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// Format, cluster and generation; read once, and again after [`Shared::forget_meta`].
    async fn meta(&self) -> Result<Meta, StoreError> {
        self.meta_until(self.connections.deadline()).await
    }

    async fn meta_until(&self, deadline: Instant) -> Result<Meta, StoreError> {
        let known = *lock(&self.meta);
        match known {
            Some(meta) => Ok(meta),
            None => self.load_meta(deadline).await,
        }
    }

    fn forget_meta(&self) {
        *lock(&self.meta) = None;
    }

    fn nonce(&self) -> u64 {
        self.nonce.fetch_add(1, Ordering::Relaxed)
    }

    async fn load_meta(&self, deadline: Instant) -> Result<Meta, StoreError> {
        const OPERATION: &str = "open the store";
        loop {
            let request = pb::RangeRequest::key(self.layout.meta());
            let answer = self.range_until(deadline, OPERATION, request).await;
            let answer = answer.map_err(|fault| fault.into_error(OPERATION))?;
            let cluster = answer.header.unwrap_or_default().cluster_id;
            let found = answer.kvs.into_iter().next();
            let stored = found.as_ref().map(|kv| read_meta(kv.value.clone())).transpose()?;
            let (guard, generation) = match (&found, stored) {
                (Some(kv), Some(stored)) if stored.cluster == cluster => {
                    let meta = Meta { cluster, generation: stored.generation, written_at: kv.mod_revision };
                    *lock(&self.meta) = Some(meta);
                    return Ok(meta);
                }
                (Some(kv), Some(stored)) => {
                    // Tokens that were given out after the backup was made are not in it: a generation
                    // that no earlier restore can have reached either.
                    let generation = (stored.generation + 1).max(self.clock.wall().0 / 1000);
                    warn!(generation, "etcd was restored: the generation of fencing tokens rises");
                    (pb::Compare::written_at(self.layout.meta(), kv.mod_revision), generation)
                }
                _ => (pb::Compare::absent(self.layout.meta()), 1),
            };
            let stored = StoredMeta { format: FORMAT, cluster, generation };
            let put = pb::PutRequest {
                key: self.layout.meta(),
                value: stored.encode_to_vec().into(),
                ..Default::default()
            };
            // If somebody else was faster, theirs is found in the next round; if the answer was lost, ours.
            let txn = pb::TxnRequest { compare: vec![guard], success: vec![put.op()], failure: Vec::new() };
            let put = self.txn_until(deadline, OPERATION, Kind::Repeatable, txn).await;
            put.map_err(|fault| fault.into_error(OPERATION))?;
        }
    }

    /// Notes what every answer says about etcd.
    fn seen(&self, header: Option<&pb::ResponseHeader>) -> Revision {
        let Some(header) = header else { return Revision(0) };
        let revision = layout::revision(header.revision);
        self.newest.fetch_max(revision.0, Ordering::Relaxed);
        let mut meta = lock(&self.meta);
        if meta.is_some_and(|meta| meta.cluster != header.cluster_id) {
            warn!("answers come from another etcd cluster than before");
            *meta = None;
            self.compacted.store(0, Ordering::Relaxed);
        }
        revision
    }
}

fn read_meta(value: bytes::Bytes) -> Result<StoredMeta, StoreError> {
    let damaged = |error| fault::damaged(crate::wire::malformed("the store's description")(error));
    let stored = StoredMeta::decode(value).map_err(damaged)?;
    if stored.format == 0 || stored.format > FORMAT || stored.generation == 0 {
        let (found, what) = (stored.format, "the store's description");
        return Err(fault::damaged(crate::wire::WireError::Version { what, found, ours: FORMAT }));
    }
    Ok(stored)
}

#[async_trait]
impl VersionedStore for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.get(key, false).await?;
        Ok(Fresh { value, revision })
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.get(key, true).await?;
        Ok(Stale { value, revision })
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        let (value, revision) = self.shared.scan(scan, false).await?;
        Ok(Fresh { value, revision })
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        let (value, revision) = self.shared.scan(scan, true).await?;
        Ok(Stale { value, revision })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.shared.transact(txn).await
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        watch::begin(&self.shared, prefix, from, options).await
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        self.shared.open_session(request).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.shared.keep_alive(session).await
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        self.shared.close_session(session).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.shared.session(session).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.shared.compact(through).await
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        self.shared.trim_audit(before).await
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.shared.snapshot().await
    }

    async fn restore(&self, _: ByteStream) -> Result<Restored, StoreError> {
        Err(StoreError::Unsupported {
            provider: "etcd",
            operation: "restore a snapshot",
            reason: "etcd can't replace a whole prefix at once; stop every node and restore etcd itself with a new --initial-cluster-token, or write the records to a store with another root",
        })
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.shared.status().await
    }
}

#[cfg(all(test, feature = "testing"))]
impl EtcdStore {
    /// Whether the member that answers is etcd's leader.
    pub(crate) async fn is_at_the_leader(&self) -> Result<bool, StoreError> {
        let ask =
            |link: connection::Link| async move { link.maintenance().status(pb::StatusRequest {}).await };
        let status = self.shared.connections.call("ask who leads", Kind::Read, ask).await;
        let status = status.map_err(|fault| fault.into_error("ask who leads"))?;
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    }
}

#[cfg(test)]
mod tests;
