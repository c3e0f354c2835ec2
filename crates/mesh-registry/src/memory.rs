//! The `memory` provider: one process, nothing on disk. For tests, and to try things out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use mesh_core::{
    Clock, Revision, SystemClock, WallTime,
    store::{
        ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session, SessionError,
        SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore, WatchFrom,
        WatchOptions, WatchStream,
    },
};

use crate::{
    audit,
    deadlines::Deadlines,
    hub::Hub,
    numbers::{Durations, Gauges, StoreNumbers},
    state::{Command, Refusal, Reply, SnapshotReader, SnapshotWriter, State, TRIMMED_MAX},
};

/// Between two looks at the clock, for clocks that don't wake anybody.
const TICK: Duration = Duration::from_millis(20);
/// Sessions that one command expires.
const EXPIRIES_MAX: usize = 1024;

/// A store in this process's memory. Clones share it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mesh_core::store::{Key, Operation, Txn, VersionedStore};
/// let store = mesh_registry::MemoryStore::new();
/// let key = Key::new("a")?;
/// let put = Operation::Put { key: key.clone(), value: "1".into(), session: None };
/// let outcome = store.transact(Txn::new("n1".parse()?).then(put)).await?;
/// let read = store.get(&key).await?;
/// assert_eq!(read.revision, outcome.revision);
/// assert_eq!(read.value.map(|record| record.value), Some("1".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    hub: Arc<Hub>,
    apply: Durations,
}

struct Inner {
    state: State,
    deadlines: Deadlines,
    audits: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the machine's clock. Call it inside a tokio runtime: a task ends sessions that
    /// run out.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store on another clock.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let inner = Inner { state: State::default(), deadlines: Deadlines::new(0), audits: 0 };
        let shared = Arc::new(Shared {
            clock,
            inner: Mutex::new(inner),
            hub: Arc::default(),
            apply: Durations::default(),
        });
        tokio::spawn(tick(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// Makes this store break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&self, bug: crate::PlantedBug) {
        self.shared.lock().state.plant(bug);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.shared.lock();
        self.shared.expire(&mut inner);
        inner
    }

    fn apply(&self, command: &Command) -> Reply {
        let mut inner = self.inner();
        self.shared.apply(&mut inner, command)
    }
}

/// Ends sessions whose time has run out, as long as anybody holds the store.
async fn tick(shared: Weak<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let mut inner = shared.lock();
        shared.expire(&mut inner);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // `State::apply` does not panic; if it did, the state would be as its last command left it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expire(&self, inner: &mut Inner) {
        loop {
            let due = inner.deadlines.due(self.clock.now(), EXPIRIES_MAX);
            if due.is_empty() {
                return;
            }
            self.apply(inner, &Command::Expire(due));
        }
    }

    /// Applies, keeps the deadlines in step and tells those who watch.
    fn apply(&self, inner: &mut Inner, command: &Command) -> Reply {
        let now = self.clock.now();
        if let Command::Compact(_) = command {
            self.hub.bookmark(inner.state.revision());
        }
        let reply = inner.state.apply(command);
        match (&reply, command) {
            (Reply::Opened(session), _) => inner.deadlines.observe(session, now),
            (Reply::Renewed(sessions), _) => {
                for session in sessions.iter().flatten() {
                    inner.deadlines.observe(session, now);
                }
            }
            (Reply::Closed(_), Command::Close(session)) => inner.deadlines.forget(*session),
            (Reply::Expired(_), Command::Expire(asked)) => {
                for expiry in asked {
                    inner.deadlines.forget(expiry.session);
                }
            }
            _ => {}
        }
        for revised in inner.state.take_changes() {
            self.hub.publish(&revised);
        }
        self.apply.record(self.clock.now().since(now));
        reply
    }
}

impl Gauges for MemoryStore {
    fn numbers(&self) -> StoreNumbers {
        let inner = self.shared.lock();
        StoreNumbers {
            revision: Some(inner.state.revision().0),
            records: Some(inner.state.records_len() as u64),
            records_bytes: Some(inner.state.records_bytes() as u64),
            sessions: Some(inner.state.sessions().len() as u64),
            watchers: Some(self.shared.hub.len() as u64),
            quorum: Some(true),
            apply: Some(self.shared.apply.counted()),
            raft: None,
        }
    }
}

fn unexpected(reply: &Reply) -> StoreError {
    StoreError::Damaged {
        what: "the store's reply".to_owned(),
        problem: format!("{reply:?} fits no such command"),
    }
}

#[async_trait]
impl VersionedStore for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        let inner = self.inner();
        Ok(Fresh { value: inner.state.get(key).cloned(), revision: inner.state.revision() })
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        let Fresh { value, revision } = self.get(key).await?;
        Ok(Stale { value, revision })
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        scan.check()?;
        let inner = self.inner();
        let (records, more) = inner.state.scan(scan);
        Ok(Fresh { value: Page { records, more }, revision: inner.state.revision() })
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        let Fresh { value, revision } = self.scan(scan).await?;
        Ok(Stale { value, revision })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let compares = txn.compares.clone();
        let reply = {
            let mut inner = self.inner();
            inner.audits += 1;
            let command = Command::Txn(audit::command(txn, self.shared.clock.wall(), inner.audits));
            self.shared.apply(&mut inner, &command)
        };
        match reply {
            Reply::Txn(outcome) => outcome.map_err(|refusal: Refusal| refusal.into_error(&compares)),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        let inner = self.inner();
        Ok(crate::hub::begin(&self.shared.hub, &inner.state, prefix, from, options))
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        request.check()?;
        match self.apply(&Command::Open { owner: request.owner, ttl: request.ttl }) {
            Reply::Opened(session) => Ok(session),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        match self.apply(&Command::Renew(vec![session])) {
            Reply::Renewed(mut renewed) => renewed.pop().flatten().ok_or(SessionError::Gone { session }),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        match self.apply(&Command::Close(session)) {
            Reply::Closed(revision) => revision.ok_or(SessionError::Gone { session }),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.inner().state.session(session).cloned())
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.apply(&Command::Compact(through));
        Ok(())
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        let mut trimmed = 0;
        loop {
            let reply = self.apply(&Command::TrimAudit(before));
            let Reply::Trimmed(count) = reply else { return Err(unexpected(&reply)) };
            trimmed += count as u64;
            if count < TRIMMED_MAX {
                return Ok(trimmed);
            }
        }
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        let state = self.inner().state.clone();
        Ok(Box::pin(futures_util::stream::iter(SnapshotWriter::new(state).map(Ok))))
    }

    async fn restore(&self, mut snapshot: ByteStream) -> Result<Restored, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { what: "the snapshot".to_owned(), problem };
        let mut reader = SnapshotReader::default();
        while let Some(piece) = snapshot.next().await {
            reader.push(&piece?).map_err(|error| damaged(error.to_string()))?;
        }
        let snapshot = reader.finish().map_err(|error| damaged(error.to_string()))?;
        let mut inner = self.inner();
        let restored = inner.state.replace_by(snapshot);
        inner.state.take_changes();
        inner.deadlines = Deadlines::new(0);
        self.shared.hub.gap(restored.revision);
        Ok(restored)
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let inner = self.inner();
        Ok(StoreStatus {
            provider: "memory",
            cluster: format!("memory.{}", inner.state.generation()),
            revision: inner.state.revision(),
            compacted: inner.state.compacted(),
            generation: inner.state.generation(),
            leader: None,
            read_only: None,
            records: inner.state.records_len() as u64,
            sessions: inner.state.sessions().len() as u64,
        })
    }
}
