//! One case on one running provider: what the cases are written with.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use mesh_core::{
    BoxError, Clock, FencingToken, Instant, NodeId, Revision,
    store::{
        Change, Compare, Key, KeyError, OpenSession, Operation, Prefix, Record, Session, SessionError,
        SessionId, StoreError, Txn, TxnError, TxnOutcome, VersionedStore, WatchEvent, WatchFrom,
        WatchOptions, WatchStream,
    },
};

use super::provider::{Limits, Provider};

/// Why a case did not pass.
#[derive(Debug)]
pub(super) enum Failure {
    /// The promise is broken, and how.
    Broken(String),
    /// The provider does not make it, as its answer says.
    CannotPromise(String),
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self::Broken(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Broken(text) | Self::CannotPromise(text)) = self;
        f.write_str(text)
    }
}

macro_rules! failure_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Broken(format!("the store answered: {error}"))
            }
        })*
    };
}
failure_from!(StoreError, TxnError, SessionError, KeyError, BoxError);

pub(super) type Verdict<T = ()> = Result<T, Failure>;

/// Fails the case unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::testing::trial::Failure::new(format!($($message)+)));
        }
    };
}
pub(super) use ensure;

/// The inside of a value that must have one form, or the case fails and shows what was there instead.
macro_rules! must_be {
    ($value:expr, $pattern:pat $(if $guard:expr)? => $inside:expr, $($message:tt)+) => {
        match $value {
            $pattern $(if $guard)? => $inside,
            other => {
                let wanted = format!($($message)+);
                return Err($crate::testing::trial::Failure::new(format!("{wanted}; got {other:?}")));
            }
        }
    };
}
pub(super) use must_be;

/// Where a case happens.
pub(super) struct Trial {
    pub(super) provider: Box<dyn Provider>,
    pub(super) limits: Limits,
    root: String,
    failovers: Mutex<Vec<Duration>>,
}

impl Trial {
    /// Chooses keys that no case has used in this store.
    pub(super) async fn begin(name: &str, provider: Box<dyn Provider>, limits: Limits) -> Verdict<Self> {
        let revision = provider.store().status().await?.revision;
        let root = format!("conformance/{name}/{revision}/");
        Ok(Self { provider, limits, root, failovers: Mutex::default() })
    }

    pub(super) fn store(&self) -> Arc<dyn VersionedStore> {
        self.provider.store()
    }

    /// Another way to the store, if there is one.
    pub(super) fn other_handle(&self) -> Arc<dyn VersionedStore> {
        self.provider.handles().pop().unwrap_or_else(|| self.store())
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.provider.clock()
    }

    pub(super) fn now(&self) -> Instant {
        self.clock().now()
    }

    /// A key of this case.
    pub(super) fn key(&self, name: &str) -> Key {
        Key::new(format!("{}{name}", self.root)).expect("names of keys in cases are valid")
    }

    /// What all keys of this case begin with, and then `name`.
    pub(super) fn prefix(&self, name: &str) -> Prefix {
        Prefix::new(format!("{}{name}", self.root)).expect("names of keys in cases are valid")
    }

    pub(super) fn writer(&self) -> NodeId {
        let own = || "conformance".parse().expect("a node id");
        self.provider.writer().unwrap_or_else(own)
    }

    pub(super) fn txn(&self) -> Txn {
        Txn::new(self.writer())
    }

    pub(super) fn put_of(&self, name: &str, value: impl Into<Bytes>) -> Operation {
        Operation::Put { key: self.key(name), value: value.into(), session: None }
    }

    pub(super) fn put_in_of(&self, name: &str, session: SessionId) -> Operation {
        Operation::Put { key: self.key(name), value: Bytes::new(), session: Some(session) }
    }

    pub(super) fn delete_of(&self, name: &str) -> Operation {
        Operation::Delete { key: self.key(name) }
    }

    pub(super) fn grant_of(&self, name: &str, session: SessionId) -> Operation {
        Operation::Grant { key: self.key(name), value: Bytes::new(), session }
    }

    pub(super) fn absent(&self, name: &str) -> Compare {
        Compare::Absent { key: self.key(name) }
    }

    pub(super) fn fence(&self, name: &str, token: FencingToken) -> Compare {
        Compare::Fence { key: self.key(name), token }
    }

    pub(super) async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.store().transact(txn).await
    }

    pub(super) async fn put(&self, name: &str, value: impl Into<Bytes>) -> Verdict<Revision> {
        Ok(self.transact(self.txn().then(self.put_of(name, value))).await?.revision)
    }

    pub(super) async fn put_in(&self, name: &str, session: SessionId) -> Verdict<Revision> {
        Ok(self.transact(self.txn().then(self.put_in_of(name, session))).await?.revision)
    }

    pub(super) async fn delete(&self, name: &str) -> Verdict<Revision> {
        Ok(self.transact(self.txn().then(self.delete_of(name))).await?.revision)
    }

    pub(super) async fn get(&self, name: &str) -> Verdict<Option<Record>> {
        Ok(self.store().get(&self.key(name)).await?.value)
    }

    pub(super) async fn value(&self, name: &str) -> Verdict<Option<Bytes>> {
        Ok(self.get(name).await?.map(|record| record.value))
    }

    pub(super) async fn revision(&self) -> Verdict<Revision> {
        Ok(self.store().get(&self.key("none")).await?.revision)
    }

    /// A session that does not run out during a case.
    pub(super) async fn session(&self) -> Verdict<SessionId> {
        Ok(self.open(self.long()).await?.id)
    }

    /// A time to live that does not run out during a case.
    pub(super) fn long(&self) -> Duration {
        Duration::from_secs(600).max(self.limits.ttl_min)
    }

    pub(super) async fn open(&self, ttl: Duration) -> Result<Session, SessionError> {
        self.store().open_session(OpenSession { owner: self.writer(), ttl }).await
    }

    /// Opens a session that soon runs out and does something in it. Returns what came of it and when the
    /// session was asked for.
    ///
    /// A machine that stalls may lose the session before anything is done; then it is tried again with one
    /// that lives longer.
    pub(super) async fn brief(
        &self,
        build: impl Fn(SessionId) -> Txn + Send,
    ) -> Verdict<(Session, TxnOutcome, Instant)> {
        for factor in [1, 2, 4, 8, 16] {
            let asked = self.now();
            let session = self.open(self.limits.ttl_min * factor).await?;
            match self.transact(build(session.id)).await {
                Ok(outcome) => return Ok((session, outcome, asked)),
                Err(TxnError::SessionGone { .. }) if self.now().since(asked) >= session.ttl => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new("this machine was too slow to use a session before it ran out; nothing is known"))
    }

    /// Grants a key that nobody holds.
    pub(super) async fn grant(&self, name: &str, session: SessionId) -> Verdict<FencingToken> {
        let txn = self.txn().when(self.absent(name)).then(self.grant_of(name, session));
        self.granted(self.transact(txn).await?, name)
    }

    /// The token that a transaction gave out for a key.
    pub(super) fn granted(&self, outcome: TxnOutcome, name: &str) -> Verdict<FencingToken> {
        let key = self.key(name);
        let grant = outcome.grants.iter().find(|grant| grant.key == key);
        grant.map(|grant| grant.token).ok_or_else(|| {
            Failure::new(format!("{key:?} was granted, but the outcome has no token for it: {outcome:?}"))
        })
    }

    pub(super) async fn watch(&self, name: &str, from: WatchFrom) -> Verdict<Watching> {
        self.watch_with(&self.prefix(name), from, WatchOptions::default()).await
    }

    pub(super) async fn watch_with(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Verdict<Watching> {
        let stream = self.store().watch(prefix, from, options).await?;
        Ok(self.watching(stream))
    }

    pub(super) fn watching(&self, stream: WatchStream) -> Watching {
        Watching { stream, patience: self.limits.patience }
    }

    /// Waits until a condition holds, asking again and again.
    pub(super) async fn until<F>(&self, what: &str, mut holds: impl FnMut() -> F) -> Verdict
    where
        F: Future<Output = Verdict<bool>>,
    {
        let wait = async {
            while !holds().await? {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        match tokio::time::timeout(self.limits.patience, wait).await {
            Ok(verdict) => verdict,
            Err(_) => Err(Failure::new(format!("{what}: not within {:?}", self.limits.patience))),
        }
    }

    pub(super) fn note_failover(&self, took: Duration) {
        self.failovers.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    pub(super) fn failovers(&self) -> Vec<Duration> {
        self.failovers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A watch that a case reads.
pub(super) struct Watching {
    stream: WatchStream,
    patience: Duration,
}

impl Watching {
    /// The next event, whatever it is.
    pub(super) async fn event(&mut self) -> Verdict<WatchEvent> {
        match tokio::time::timeout(self.patience, self.stream.next()).await {
            Ok(Some(event)) => Ok(event?),
            Ok(None) => Err(Failure::new("the watch ended without an error")),
            Err(_) => Err(Failure::new(format!("the watch delivered nothing for {:?}", self.patience))),
        }
    }

    /// The next changes; bookmarks are passed over, and a gap is a failure.
    pub(super) async fn changes(&mut self) -> Verdict<(Revision, Vec<Change>)> {
        loop {
            match self.event().await? {
                WatchEvent::Changes { revision, changes } => return Ok((revision, changes)),
                WatchEvent::Bookmark { .. } => {}
                gap @ WatchEvent::Gap { .. } => {
                    return Err(Failure::new(format!("the watch has a gap where nothing was lost: {gap:?}")));
                }
            }
        }
    }

    /// All events until everything up to `revision` has come or is said to be missing.
    pub(super) async fn upto(&mut self, revision: Revision) -> Verdict<Vec<WatchEvent>> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await?;
            let at = match &event {
                WatchEvent::Changes { revision, .. } | WatchEvent::Bookmark { revision } => *revision,
                WatchEvent::Gap { to, .. } => *to,
            };
            events.push(event);
            if at >= revision {
                return Ok(events);
            }
        }
    }
}
