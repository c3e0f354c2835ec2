//! Carries the core's requests to the store.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    Revision,
    store::{
        Applied, Key, Overflow, SessionError, StoreError, TxnError, VersionedStore, WatchEvent, WatchFrom,
        WatchOptions,
    },
};
use tokio::sync::mpsc;

use crate::{Answer, Request, WatchId, records};

/// Changes that the store keeps for our watch before it says that some are missing.
const BUFFER_CHANGES: usize = 16 * 1024;
/// Read to learn how long a read takes.
const PROBE: &str = "leader/probe";

/// Asks the store, for as long as `timeout`.
pub(super) async fn ask(store: &dyn VersionedStore, request: Request, timeout: Duration) -> Answer {
    let late = |operation| StoreError::Timeout { operation, after: timeout, applied: Applied::Unknown };
    let within = |future| tokio::time::timeout(timeout, future);
    match request {
        Request::Probe => {
            let key = Key::new(PROBE).expect("a constant that is a key");
            let read = tokio::time::timeout(timeout, store.get(&key)).await;
            Answer::Probe(read.unwrap_or_else(|_| Err(late("read"))).map(|_| ()))
        }
        Request::OpenSession(open) => {
            let opened = within(store.open_session(open)).await;
            Answer::Session(opened.unwrap_or_else(|_| Err(SessionError::Store(late("open a session")))))
        }
        Request::KeepAlive(session) => {
            let renewed = within(store.keep_alive(session)).await;
            Answer::Session(renewed.unwrap_or_else(|_| Err(SessionError::Store(late("renew a session")))))
        }
        Request::CloseSession(session) => {
            let closed = tokio::time::timeout(timeout, store.close_session(session)).await;
            Answer::Closed(closed.unwrap_or_else(|_| Err(SessionError::Store(late("close a session")))))
        }
        Request::Scan(scan) => {
            let page = tokio::time::timeout(timeout, store.scan(&scan)).await;
            Answer::Page(page.unwrap_or_else(|_| Err(late("scan"))))
        }
        Request::Transact(txn) => {
            let outcome = tokio::time::timeout(timeout, store.transact(txn)).await;
            Answer::Txn(outcome.unwrap_or_else(|_| Err(TxnError::Store(late("transact")))))
        }
    }
}

/// What a watch says; `None`: it ended.
pub(super) type Watched = (WatchId, Option<WatchEvent>);

/// Follows all records of leadership, until the watch ends or nobody listens. It must begin within
/// `patience`.
pub(super) async fn watch(
    store: Arc<dyn VersionedStore>,
    id: WatchId,
    after: Revision,
    patience: Duration,
    heard: mpsc::Sender<Watched>,
) {
    let options = WatchOptions { buffer_changes_max: BUFFER_CHANGES, overflow: Overflow::Gap };
    let prefix = records::prefix();
    let begun = tokio::time::timeout(patience, store.watch(&prefix, WatchFrom::After(after), options)).await;
    match begun {
        Ok(Ok(mut events)) => {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if heard.send((id, Some(event))).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the watch of leadership ended; it is resumed");
                        break;
                    }
                }
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "the watch of leadership did not begin; it is tried again"),
        Err(_) => tracing::debug!("the watch of leadership did not begin in time; it is tried again"),
    }
    // The loop may have ended.
    let _ = heard.send((id, None)).await;
}
