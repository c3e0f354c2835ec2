//! Writes down what clients asked of a store, and what they were told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::{
    Clock, FencingToken, Revision,
    store::{
        Fresh, Key, Overflow, Page, Prefix, Record, Scan, Session, SessionError, SessionId, StoreError, Txn,
        TxnError, TxnOutcome, WatchEvent, WatchFrom,
    },
};

use super::history::{Moment, Watched};

/// Most calls, and most events of watches, that one recording holds. What comes later is not written down,
/// and the recording says that it is not whole.
pub const CALLS_MAX: usize = 1_000_000;

/// What was asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Call {
    /// A linearizable read of one record.
    Get(Key),
    /// A linearizable scan.
    Scan(Scan),
    /// A transaction.
    Transact(Txn),
    /// A new session.
    Open,
    /// A renewal.
    KeepAlive(SessionId),
    /// The end of a session.
    Close(SessionId),
}

/// What came back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The record, to [`Call::Get`].
    Got(Fresh<Option<Record>>),
    /// The page, to [`Call::Scan`].
    Scanned(Fresh<Page>),
    /// The transaction took effect.
    Applied(TxnOutcome),
    /// It was judged, and did nothing.
    Refused(Refused),
    /// The session, opened or renewed.
    Session(Session),
    /// The session is closed, at this revision.
    Closed(Revision),
    /// The session that the call is about is gone.
    Gone,
    /// It failed, and certainly did nothing.
    Nothing,
    /// It failed, and nobody knows.
    Unknown,
}

/// Why a transaction did nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refused {
    /// A compare did not hold.
    Conflict {
        /// Which.
        index: usize,
        /// The token of the record that was there, if one was there.
        found: Option<Option<FencingToken>>,
        /// The store's revision then.
        revision: Revision,
    },
    /// The stated token does not hold the grant.
    Fenced {
        /// Of which key.
        key: Key,
        /// The one that was stated.
        stated: FencingToken,
        /// The one that holds it.
        current: Option<FencingToken>,
    },
    /// A grant was to be changed without its token.
    Unfenced {
        /// Of which key.
        key: Key,
        /// The one that holds it.
        current: FencingToken,
    },
    /// The session is gone.
    SessionGone(SessionId),
}

impl From<&TxnError> for Reply {
    fn from(error: &TxnError) -> Self {
        match error {
            TxnError::Conflict { index, found, revision, .. } => Self::Refused(Refused::Conflict {
                index: *index,
                found: found.as_ref().map(|record| record.token),
                revision: *revision,
            }),
            TxnError::Fenced { key, stated, current } => {
                Self::Refused(Refused::Fenced { key: key.clone(), stated: *stated, current: *current })
            }
            TxnError::Unfenced { key, current } => {
                Self::Refused(Refused::Unfenced { key: key.clone(), current: *current })
            }
            TxnError::SessionGone { session } => Self::Refused(Refused::SessionGone(*session)),
            other => Self::failed(other.applied()),
        }
    }
}

impl From<&Result<TxnOutcome, TxnError>> for Reply {
    fn from(result: &Result<TxnOutcome, TxnError>) -> Self {
        match result {
            Ok(outcome) => Self::Applied(outcome.clone()),
            Err(error) => Self::from(error),
        }
    }
}

impl Reply {
    /// The answer to a call about a session; `of` says what it is if it went well.
    pub fn of_session<T: Clone>(result: &Result<T, SessionError>, of: impl FnOnce(T) -> Self) -> Self {
        match result {
            Ok(value) => of(value.clone()),
            Err(SessionError::Gone { .. }) => Self::Gone,
            Err(SessionError::Store(error)) => Self::failed(error.applied()),
            Err(_) => Self::Nothing,
        }
    }

    /// The answer to a read; one that failed changed nothing.
    pub fn of_read<T: Clone>(result: &Result<T, StoreError>, of: impl FnOnce(T) -> Self) -> Self {
        result.as_ref().map_or(Self::Nothing, |value| of(value.clone()))
    }

    /// A failure that may have done something, or can't have.
    pub fn failed(applied: mesh_core::store::Applied) -> Self {
        match applied {
            mesh_core::store::Applied::No => Self::Nothing,
            mesh_core::store::Applied::Unknown => Self::Unknown,
        }
    }
}

/// One call as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) client: u64,
    pub(super) call: Moment,
    pub(super) what: Call,
    /// `None` if the call was given up, or is not over.
    pub(super) answer: Option<(Moment, Reply)>,
}

#[derive(Clone, Debug, Default)]
struct Log {
    next_tick: u64,
    calls: Vec<Recorded>,
    watches: Vec<Watched>,
    events: usize,
    dropped: u64,
}

/// Writes down the calls of any number of clients. Clones share the recording.
///
/// A store that is wrapped with `record` writes its calls down by itself; a simulator tells of each
/// with [`begin`](Self::begin) and [`end`](Self::end).
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn Clock>,
    log: Arc<Mutex<Log>>,
    calls_max: usize,
}

impl Recorder {
    /// An empty recording, timed by `clock`: that of the store's sessions, so that it can be judged
    /// whether they ended too early.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_limit(clock, CALLS_MAX)
    }

    /// The same with another limit than [`CALLS_MAX`] on calls, on watches, and on the events of all watches.
    pub fn with_limit(clock: Arc<dyn Clock>, calls_max: usize) -> Self {
        Self { clock, log: Arc::default(), calls_max }
    }

    /// A store whose calls are written down as those of `client`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use mesh_core::{SystemClock, store::{Key, Operation, Txn, VersionedStore}};
    /// use mesh_registry::{MemoryStore, testing::{Recorder, history::Budget}};
    /// let recorder = Recorder::new(Arc::new(SystemClock));
    /// let store = recorder.record(Arc::new(MemoryStore::new()), 1);
    /// let put = Operation::Put { key: Key::new("a")?, value: "1".into(), session: None };
    /// store.transact(Txn::new("n1".parse()?).then(put)).await?;
    /// store.get(&Key::new("a")?).await?;
    /// recorder.recording().judge(&Budget::default())?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn record(
        &self,
        store: Arc<dyn mesh_core::store::VersionedStore>,
        client: u64,
    ) -> super::RecordedStore {
        super::RecordedStore::new(store, self.clone(), client)
    }

    /// What was written down up to now. Calls that are not over count as of unknown outcome.
    pub fn recording(&self) -> Recording {
        let log = self.lock();
        Recording { calls: log.calls.clone(), watches: log.watches.clone(), dropped: log.dropped }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // Each change of the log is one push or one assignment.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next moment: its tick is higher than any before.
    fn moment(&self, log: &mut Log) -> Moment {
        log.next_tick += 1;
        Moment { tick: log.next_tick, at: self.clock.now() }
    }

    /// Writes down a call of `client` that is made now. [`end`](Self::end) takes what it returns.
    pub fn begin(&self, client: u64, what: Call) -> Option<usize> {
        let mut log = self.lock();
        if log.calls.len() >= self.calls_max {
            log.dropped += 1;
            return None;
        }
        let call = self.moment(&mut log);
        log.calls.push(Recorded { client, call, what, answer: None });
        Some(log.calls.len() - 1)
    }

    /// Writes down that a call was answered now. One that never is counts as of unknown outcome.
    pub fn end(&self, call: Option<usize>, reply: Reply) {
        let mut log = self.lock();
        let at = self.moment(&mut log);
        if let Some(recorded) = call.and_then(|call| log.calls.get_mut(call)) {
            recorded.answer = Some((at, reply));
        }
    }

    /// Writes down that a watch of `client` stands. [`event`](Self::event) takes what it returns.
    pub fn begin_watch(
        &self,
        client: u64,
        prefix: Prefix,
        from: WatchFrom,
        overflow: Overflow,
    ) -> Option<usize> {
        let mut log = self.lock();
        if log.watches.len() >= self.calls_max {
            log.dropped += 1;
            return None;
        }
        let since = self.moment(&mut log);
        let after = match from {
            WatchFrom::Now => None,
            WatchFrom::After(revision) => Some(revision),
        };
        let name = format!("{} of client {client} on {prefix:?}", log.watches.len());
        let latest = overflow == Overflow::Latest;
        log.watches.push(Watched { name, prefix, after, since, latest, events: Vec::new() });
        Some(log.watches.len() - 1)
    }

    /// Writes down what a watch delivers now.
    pub fn event(&self, watch: Option<usize>, event: &WatchEvent) {
        let mut log = self.lock();
        if log.events >= self.calls_max {
            log.dropped += 1;
            return;
        }
        let at = self.moment(&mut log);
        log.events += 1;
        if let Some(watched) = watch.and_then(|watch| log.watches.get_mut(watch)) {
            watched.events.push((at, event.clone()));
        }
    }
}

/// What was written down.
#[derive(Clone, Debug)]
pub struct Recording {
    pub(super) calls: Vec<Recorded>,
    pub(super) watches: Vec<Watched>,
    pub(super) dropped: u64,
}

impl Recording {
    /// Number of calls.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Number of calls that may have changed something, and whose outcome nobody was told.
    pub fn unknown(&self) -> usize {
        let changes = |what: &Call| !matches!(what, Call::Get(_) | Call::Scan(_));
        let open = |answer: &Option<(Moment, Reply)>| matches!(answer, None | Some((_, Reply::Unknown)));
        self.calls.iter().filter(|call| changes(&call.what) && open(&call.answer)).count()
    }

    /// What watches delivered.
    pub fn watches(&self) -> &[Watched] {
        &self.watches
    }

    /// Each call in words, in the order of the calls: who, when, what, and the answer.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.calls.iter().map(|Recorded { client, call, what, answer }| match answer {
            Some((at, reply)) => format!("client {client}, {call} to {at}: {what:?} -> {reply:?}"),
            None => format!("client {client}, {call}: {what:?} -> never"),
        })
    }
}
