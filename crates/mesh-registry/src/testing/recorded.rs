//! A store that has its calls written down.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_core::Stream;
use mesh_core::{
    Revision, WallTime,
    store::{
        ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session, SessionError,
        SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore, WatchEvent,
        WatchFrom, WatchOptions, WatchStream,
    },
};

use super::recorder::{Call, Recorder, Reply};

/// A store whose calls a [`Recorder`] writes down: linearizable reads, transactions, sessions and
/// watches. A call that is given up, by dropping its future, counts as of unknown outcome.
///
/// Each call yields to other tasks before and after, so that the calls of several clients overlap even if the
/// store answers at once.
///
/// A [`restore`](VersionedStore::restore) is passed on and not written down: what comes after it has
/// nothing to do with what was before.
#[derive(Clone)]
pub struct RecordedStore {
    store: Arc<dyn VersionedStore>,
    recorder: Recorder,
    client: u64,
}

impl RecordedStore {
    pub(super) fn new(store: Arc<dyn VersionedStore>, recorder: Recorder, client: u64) -> Self {
        Self { store, recorder, client }
    }

    async fn recorded<T, E>(
        &self,
        call: Call,
        answer: impl Future<Output = Result<T, E>>,
        reply: impl FnOnce(&Result<T, E>) -> Reply,
    ) -> Result<T, E> {
        let call = self.recorder.begin(self.client, call);
        tokio::task::yield_now().await;
        let result = answer.await;
        tokio::task::yield_now().await;
        self.recorder.end(call, reply(&result));
        result
    }
}

fn read<T: Clone>(of: impl FnOnce(T) -> Reply) -> impl FnOnce(&Result<T, StoreError>) -> Reply {
    |result| Reply::of_read(result, of)
}

fn session<T: Clone>(of: impl FnOnce(T) -> Reply) -> impl FnOnce(&Result<T, SessionError>) -> Reply {
    |result| Reply::of_session(result, of)
}

#[async_trait]
impl VersionedStore for RecordedStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        self.recorded(Call::Get(key.clone()), self.store.get(key), read(Reply::Got)).await
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        self.store.get_stale(key).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        self.recorded(Call::Scan(scan.clone()), self.store.scan(scan), read(Reply::Scanned)).await
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        self.store.scan_stale(scan).await
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        let reply = |result: &Result<TxnOutcome, TxnError>| Reply::from(result);
        self.recorded(Call::Transact(txn.clone()), self.store.transact(txn), reply).await
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        let stream = self.store.watch(prefix, from, options).await?;
        let watch = self.recorder.begin_watch(self.client, prefix.clone(), from, options.overflow);
        Ok(Box::pin(RecordedWatch { stream, recorder: self.recorder.clone(), watch }))
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        self.recorded(Call::Open, self.store.open_session(request), session(Reply::Session)).await
    }

    async fn keep_alive(&self, id: SessionId) -> Result<Session, SessionError> {
        self.recorded(Call::KeepAlive(id), self.store.keep_alive(id), session(Reply::Session)).await
    }

    async fn close_session(&self, id: SessionId) -> Result<Revision, SessionError> {
        self.recorded(Call::Close(id), self.store.close_session(id), session(Reply::Closed)).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.store.session(session).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.store.compact(through).await
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        self.store.trim_audit(before).await
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.store.snapshot().await
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        self.store.restore(snapshot).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.store.status().await
    }
}

struct RecordedWatch {
    stream: WatchStream,
    recorder: Recorder,
    watch: Option<usize>,
}

impl Stream for RecordedWatch {
    type Item = Result<WatchEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.stream.as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(event))) = &next {
            self.recorder.event(self.watch, event);
        }
        next
    }
}
