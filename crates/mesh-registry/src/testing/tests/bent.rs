//! The memory provider behind a wall that breaks one rule.

#![allow(clippy::collapsible_match, reason = "some of the conditions await, and the rest read like them")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use mesh_core::{
    BoxError, Clock, ManualClock, Revision, WallTime,
    store::{
        Applied, ByteStream, Change, Compare, DeleteCause, Fresh, Key, OpenSession, Operation, Page, Prefix,
        Record, Restored, Scan, Session, SessionError, SessionId, Stale, StoreError, StoreStatus, Txn,
        TxnError, TxnOutcome, VersionedStore, WatchEvent, WatchFrom, WatchOptions, WatchStream,
    },
};

use super::super::*;
use crate::MemoryStore;

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bend {
    /// None.
    Straight,
    AuditOfRefused,
    AuditMissing,
    CauseUnknown,
    CloseTwice,
    CompactNothing,
    CompactTheFuture,
    ConflictIndexZero,
    CreatedForgotten,
    DeleteNothingFails,
    DropDisturbs,
    EndTooEarly,
    ExtraRevisions,
    FailoverEndsSessions,
    FailoverLosesTheLast,
    FenceLast,
    GapSwallowed,
    GrantNeedsAbsence,
    ItemsLow,
    KeyShort,
    LimitsUnnamed,
    LostOperation,
    NoBookmarks,
    NoTokens,
    NowReplays,
    OutcomeRevisionOld,
    PlainKeepsUnfenced,
    ReadAhead,
    RemembersInvalid,
    RenewalsStuck,
    RestartForgetsTokens,
    RestartLosesTheLast,
    RestoreNothing,
    RestoreUnchecked,
    ResumeOffByOne,
    RevisionCompareIgnored,
    ScanAll,
    ScanAnyLimit,
    ScanReversed,
    ScanShowsOwn,
    ScanTorn,
    ScanWithoutMore,
    SequencesShared,
    SessionsFirst,
    StaleForEver,
    StaleReads,
    StatusWrong,
    TokenHidden,
    TrimAll,
    TtlClamped,
    ValueCompareIgnored,
    ValueLow,
    WatchDrops,
    WatchRepeats,
    WatchShowsOwn,
    WatchSplits,
    WatchersFew,
}

/// A provider with one bend, that can be restarted and whose leader can be killed, after a fashion: it
/// then does not answer for a while, and what was under way may have happened or not.
pub(super) struct BentFactory {
    pub(super) bend: Bend,
    #[cfg(feature = "planted-bugs")]
    pub(super) bug: Option<crate::PlantedBug>,
    pub(super) patience: Duration,
}

impl BentFactory {
    pub(super) fn new(bend: Bend) -> Self {
        Self {
            bend,
            #[cfg(feature = "planted-bugs")]
            bug: None,
            patience: Duration::from_secs(30),
        }
    }
}

#[async_trait]
impl ProviderFactory for BentFactory {
    fn provider(&self) -> &'static str {
        "bent"
    }

    fn limits(&self) -> Limits {
        Limits { ttl_min: Duration::from_secs(2), patience: self.patience, ..Limits::default() }
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        let clock = ManualClock::default();
        let inner = MemoryStore::with_clock(Arc::new(clock.clone()));
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.bug {
            inner.plant(bug);
        }
        let shared = Shared {
            inner,
            bend: self.bend,
            down: AtomicBool::new(false),
            restarted: AtomicBool::new(false),
            disturbed: Arc::default(),
            watchers: AtomicU64::new(0),
            memory: Mutex::default(),
        };
        Ok(Box::new(Bent { store: BentStore(Arc::new(shared)), clock }))
    }
}

struct Bent {
    store: BentStore,
    clock: ManualClock,
}

#[async_trait]
impl Provider for Bent {
    fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::new(self.store.clone())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
        let _ = self.store.0.inner.status().await;
        tokio::task::yield_now().await;
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.store.0.restarted.store(true, Ordering::SeqCst);
        if self.store.bent(Bend::RestartLosesTheLast) {
            self.store.lose_the_last().await?;
        }
        Ok(())
    }

    async fn kill_leader(&self) -> Result<(), BoxError> {
        let shared = Arc::clone(&self.store.0);
        shared.down.store(true, Ordering::SeqCst);
        if self.store.bent(Bend::FailoverLosesTheLast) {
            self.store.lose_the_last().await?;
        }
        if self.store.bent(Bend::FailoverEndsSessions) {
            let last = shared.memory().sessions.last().copied();
            if let Some(session) = last {
                shared.inner.close_session(session).await?;
            }
        }
        tokio::spawn(async move {
            // sleeps: so long the modelled store has no leader
            tokio::time::sleep(Duration::from_millis(30)).await;
            shared.down.store(false, Ordering::SeqCst);
        });
        Ok(())
    }
}

struct Shared {
    inner: MemoryStore,
    bend: Bend,
    down: AtomicBool,
    restarted: AtomicBool,
    disturbed: Arc<AtomicBool>,
    watchers: AtomicU64,
    memory: Mutex<Memory>,
}

/// What a bend has to know.
#[derive(Default)]
struct Memory {
    last_written: Option<Key>,
    granted: BTreeSet<Key>,
    sessions: BTreeSet<SessionId>,
    old_reads: Vec<(Key, Fresh<Option<Record>>)>,
    invalid: BTreeSet<(SessionId, u64)>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
pub(super) struct BentStore(Arc<Shared>);

fn away(operation: &'static str, applied: Applied) -> StoreError {
    StoreError::Unavailable { operation, reason: "its leader is dead".to_owned(), applied, source: None }
}

impl BentStore {
    fn bent(&self, bend: Bend) -> bool {
        self.0.bend == bend
    }

    fn inner(&self) -> &MemoryStore {
        &self.0.inner
    }

    fn reachable(&self, operation: &'static str) -> Result<(), StoreError> {
        if self.0.down.load(Ordering::SeqCst) { Err(away(operation, Applied::No)) } else { Ok(()) }
    }

    async fn lose_the_last(&self) -> Result<(), BoxError> {
        let last = self.0.memory().last_written.clone();
        if let Some(key) = last {
            let record = self.inner().get(&key).await?.value;
            let fence = record
                .and_then(|record| record.token)
                .map(|token| Compare::Fence { key: key.clone(), token });
            let mut txn = Txn::new("bent".parse()?).then(Operation::Delete { key });
            txn.compares.extend(fence);
            self.inner().transact(txn).await?;
        }
        Ok(())
    }

    fn invalid(problem: &str) -> TxnError {
        TxnError::Store(StoreError::Invalid { what: "transaction", problem: problem.to_owned() })
    }

    /// Refuses what this bend does not allow.
    async fn forbidden(&self, txn: &Txn) -> Result<(), TxnError> {
        let large = |o: &Operation| matches!(o, Operation::Put { value, .. } if value.len() > 100_000);
        let refused = match self.0.bend {
            Bend::ItemsLow => txn.operations.len() > 1000,
            Bend::KeyShort => txn.operations.iter().any(|o| o.key().as_str().len() > 200),
            Bend::ValueLow => txn.operations.iter().any(large),
            Bend::LimitsUnnamed => txn.check().is_err(),
            _ => false,
        };
        if refused {
            return Err(Self::invalid("too much"));
        }
        for operation in &txn.operations {
            let present = self.inner().get(operation.key()).await?.value;
            match operation {
                Operation::Delete { .. } if self.bent(Bend::DeleteNothingFails) && present.is_none() => {
                    return Err(Self::invalid("there is nothing"));
                }
                Operation::Grant { .. } if self.bent(Bend::GrantNeedsAbsence) => {
                    if present.is_some_and(|record| record.token.is_none()) {
                        return Err(Self::invalid("there is something"));
                    }
                }
                Operation::Put { key, .. } if self.bent(Bend::PlainKeepsUnfenced) => {
                    let was = self.0.memory().granted.contains(key);
                    if was && present.is_none() {
                        let current = mesh_core::FencingToken::default();
                        return Err(TxnError::Unfenced { key: key.clone(), current });
                    }
                }
                Operation::Put { session: Some(session), .. } if self.bent(Bend::SessionsFirst) => {
                    if self.inner().session(*session).await?.is_none() {
                        return Err(TxnError::SessionGone { session: *session });
                    }
                }
                _ => {}
            }
        }
        if self.bent(Bend::FenceLast) {
            let mut others = Txn::new(txn.writer.clone());
            others.compares = txn.compares.clone();
            others.compares.retain(|compare| !matches!(compare, Compare::Fence { .. }));
            self.inner().transact(others).await?;
        }
        Ok(())
    }

    /// What becomes of a transaction on its way in.
    async fn altered(&self, mut txn: Txn) -> Txn {
        match self.0.bend {
            Bend::AuditMissing => txn.audit = None,
            Bend::AuditOfRefused => {
                let note = txn.audit.take();
                if let Some(note) = note {
                    let _ = self.inner().transact(Txn::new(txn.writer.clone()).audited(note)).await;
                }
            }
            Bend::LostOperation if txn.operations.len() > 1 => drop(txn.operations.pop()),
            Bend::RevisionCompareIgnored => {
                txn.compares.retain(|compare| !matches!(compare, Compare::Revision { .. }));
            }
            Bend::ValueCompareIgnored => {
                txn.compares.retain(|compare| !matches!(compare, Compare::Value { .. }));
            }
            Bend::SequencesShared => {
                let first = self.0.memory().sessions.first().copied();
                if let (Some(key), Some(first)) = (&mut txn.idempotency, first) {
                    key.session = first;
                }
            }
            _ => {}
        }
        txn
    }

    fn note(&self, txn: &Txn) {
        let mut memory = self.0.memory();
        for operation in &txn.operations {
            match operation {
                Operation::Grant { key, .. } => {
                    memory.granted.insert(key.clone());
                    memory.last_written = Some(key.clone());
                }
                Operation::Put { key, .. } => memory.last_written = Some(key.clone()),
                Operation::Delete { .. } => {}
            }
        }
    }

    fn as_seen(&self, mut record: Record) -> Record {
        match self.0.bend {
            Bend::CreatedForgotten => record.created_revision = record.revision,
            Bend::TokenHidden if !record.value.is_empty() => record.token = None,
            _ => {}
        }
        record
    }
}

#[async_trait]
impl VersionedStore for BentStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        self.reachable("read")?;
        let mut fresh = self.inner().get(key).await?;
        fresh.value = fresh.value.map(|record| self.as_seen(record));
        if self.bent(Bend::ReadAhead) {
            fresh.revision.0 += 2;
        }
        if self.bent(Bend::StaleReads) {
            let mut memory = self.0.memory();
            let old = memory.old_reads.iter_mut().find(|(read, _)| read == key);
            match old {
                // One answer behind, with the revision of now.
                Some((_, old)) => std::mem::swap(&mut old.value, &mut fresh.value),
                None => memory.old_reads.push((key.clone(), fresh.clone())),
            }
        }
        Ok(fresh)
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        if self.bent(Bend::StaleForEver) {
            return Ok(Stale { value: None, revision: Revision(0) });
        }
        self.inner().get_stale(key).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        self.reachable("scan")?;
        let mut scan = scan.clone();
        match self.0.bend {
            Bend::ScanAnyLimit => scan.limit = scan.limit.clamp(1, mesh_core::store::SCAN_LIMIT_MAX),
            Bend::ScanAll => scan.prefix = Prefix::all(),
            Bend::ScanShowsOwn if scan.prefix == Prefix::all() => {
                scan.prefix = Prefix::new("~").map_err(|_| away("scan", Applied::No))?;
            }
            _ => {}
        }
        if self.bent(Bend::ScanTorn) {
            let mut page = Page::default();
            loop {
                let next = self.inner().scan(&Scan { limit: 1, ..scan.clone() }).await?;
                scan.after = next.value.records.last().map(|record| record.key.clone());
                page.records.extend(next.value.records);
                if !next.value.more {
                    return Ok(Fresh { value: page, revision: next.revision });
                }
                tokio::task::yield_now().await;
            }
        }
        let mut fresh = self.inner().scan(&scan).await?;
        match self.0.bend {
            Bend::ScanReversed => fresh.value.records.reverse(),
            Bend::ScanWithoutMore => fresh.value.more = false,
            _ => {}
        }
        Ok(fresh)
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        self.inner().scan_stale(scan).await
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.reachable("write")?;
        self.forbidden(&txn).await?;
        if let (Some(once), true) = (txn.idempotency, self.bent(Bend::RemembersInvalid)) {
            let mut memory = self.0.memory();
            if txn.check().is_err() {
                memory.invalid.insert((once.session, once.sequence));
            }
            if memory.invalid.contains(&(once.session, once.sequence)) {
                return Err(Self::invalid("changed twice, as it was"));
            }
        }
        let txn = self.altered(txn).await;
        let result = self.inner().transact(txn.clone()).await;
        if result.is_ok() {
            self.note(&txn);
        }
        if self.bent(Bend::ExtraRevisions) && result.is_ok() {
            let key = Key::new("extra").map_err(|_| Self::invalid("no key"))?;
            let extra = Operation::Put { key, value: "".into(), session: None };
            self.inner().transact(Txn::new(txn.writer.clone()).then(extra)).await?;
        }
        // What was applied when the leader died may not have been answered.
        tokio::task::yield_now().await;
        if self.0.down.load(Ordering::SeqCst) {
            return Err(away("write", Applied::Unknown).into());
        }
        match (result, self.0.bend) {
            (Ok(mut outcome), Bend::OutcomeRevisionOld) => {
                outcome.revision.0 -= 1;
                Ok(outcome)
            }
            (Ok(mut outcome), Bend::RestartForgetsTokens) if self.0.restarted.load(Ordering::SeqCst) => {
                for grant in &mut outcome.grants {
                    grant.token.counter = 1;
                }
                Ok(outcome)
            }
            (Ok(mut outcome), Bend::NoTokens) => {
                outcome.grants.clear();
                Ok(outcome)
            }
            (Err(TxnError::Conflict { compare, found, revision, .. }), Bend::ConflictIndexZero) => {
                Err(TxnError::Conflict { index: 0, compare, found, revision })
            }
            (result, _) => result,
        }
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        self.reachable("watch")?;
        let watchers = self.0.watchers.fetch_add(1, Ordering::SeqCst);
        if self.bent(Bend::WatchersFew) && watchers > 100 {
            return Ok(Box::pin(futures_util::stream::pending()));
        }
        let from = match (from, self.0.bend) {
            (WatchFrom::After(Revision(r)), Bend::ResumeOffByOne) => WatchFrom::After(Revision(r + 1)),
            (WatchFrom::Now, Bend::NowReplays) => WatchFrom::After(Revision(0)),
            (from, _) => from,
        };
        let prefix = match self.0.bend {
            Bend::WatchShowsOwn if *prefix == Prefix::all() => {
                Prefix::new("~").map_err(|_| away("watch", Applied::No))?
            }
            _ => prefix.clone(),
        };
        let stream = self.inner().watch(&prefix, from, options).await?;
        let ends = WatchEnds { disturbed: Arc::clone(&self.0.disturbed), bend: self.0.bend };
        let store = self.clone();
        let mut events = 0_u64;
        Ok(Box::pin(stream.flat_map(move |event| {
            let _ = &ends;
            events += 1;
            futures_util::stream::iter(store.delivered(event, events).into_iter().map(Ok))
        })))
    }

    async fn open_session(&self, mut request: OpenSession) -> Result<Session, SessionError> {
        self.reachable("open a session")?;
        let asked = request.ttl;
        match self.0.bend {
            Bend::TtlClamped => request.ttl = asked.clamp(OpenSession::TTL_MIN, OpenSession::TTL_MAX),
            Bend::EndTooEarly if asked >= 2 * OpenSession::TTL_MIN => request.ttl = asked / 2,
            _ => {}
        }
        let session = self.inner().open_session(request).await?;
        self.0.memory().sessions.insert(session.id);
        Ok(Session { ttl: asked, ..session })
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.reachable("renew a session")?;
        let mut renewed = self.inner().keep_alive(session).await?;
        if self.bent(Bend::RenewalsStuck) {
            renewed.renewals = 0;
        }
        if self.bent(Bend::EndTooEarly) {
            renewed.ttl *= 2;
        }
        Ok(renewed)
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        self.reachable("close a session")?;
        let closed = self.inner().close_session(session).await;
        match closed {
            Err(SessionError::Gone { .. }) if self.bent(Bend::CloseTwice) => Ok(Revision(0)),
            closed => closed,
        }
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.inner().session(session).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        if self.bent(Bend::CompactNothing) { Ok(()) } else { self.inner().compact(through).await }
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        if self.bent(Bend::TrimAll) {
            return self.inner().trim_audit(WallTime(before.0 + 1)).await;
        }
        self.inner().trim_audit(before).await
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.inner().snapshot().await
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        let status = self.inner().status().await?;
        let pretended = Restored { revision: status.revision, generation: status.generation };
        if self.bent(Bend::RestoreNothing) {
            return Ok(pretended);
        }
        match self.inner().restore(snapshot).await {
            Err(_) if self.bent(Bend::RestoreUnchecked) => Ok(pretended),
            result => result,
        }
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let mut status = self.inner().status().await?;
        match self.0.bend {
            Bend::StatusWrong => status.records = 7,
            Bend::CompactTheFuture => status.compacted.0 = status.compacted.0.saturating_mul(1_000_000),
            _ => {}
        }
        Ok(status)
    }
}

impl BentStore {
    /// What becomes of the `nth` event of a watch.
    fn delivered(&self, event: Result<WatchEvent, StoreError>, nth: u64) -> Vec<WatchEvent> {
        let Ok(mut event) = event else { return Vec::new() };
        if let WatchEvent::Changes { changes, .. } = &mut event
            && self.bent(Bend::CauseUnknown)
        {
            for change in changes {
                if let Change::Deleted { cause, .. } = change {
                    *cause = DeleteCause::Unknown;
                }
            }
        }
        match (self.0.bend, event) {
            (Bend::NoBookmarks, WatchEvent::Bookmark { .. }) => Vec::new(),
            (Bend::GapSwallowed, WatchEvent::Gap { .. }) => Vec::new(),
            (Bend::WatchDrops, WatchEvent::Changes { .. }) if nth % 5 == 3 => Vec::new(),
            (Bend::DropDisturbs, WatchEvent::Changes { .. })
                if self.0.disturbed.swap(false, Ordering::SeqCst) =>
            {
                Vec::new()
            }
            (Bend::WatchRepeats, event @ WatchEvent::Changes { .. }) if nth % 5 == 3 => {
                vec![event.clone(), event]
            }
            (Bend::WatchSplits, WatchEvent::Changes { revision, changes }) => changes
                .into_iter()
                .map(|change| WatchEvent::Changes { revision, changes: vec![change] })
                .collect(),
            (_, event) => vec![event],
        }
    }
}

/// Notices that a watch is dropped.
struct WatchEnds {
    disturbed: Arc<AtomicBool>,
    bend: Bend,
}

impl Drop for WatchEnds {
    fn drop(&mut self) {
        if self.bend == Bend::DropDisturbs {
            self.disturbed.store(true, Ordering::SeqCst);
        }
    }
}
