//! The documents of a dataset, read from its store in the background and kept up by commits.

use std::{
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Change, DocumentHead};
use crate::{
    documents::{Applied, DocumentKey, Documents, Version},
    entry::{AuthorId, AuthorSequence, Kind, Verified},
    store::{EntryStore, ScanLimit, StoreError},
};

/// Conflicts that are remembered.
const CONFLICTS_MAX: usize = 1000;
/// Entries that are read together while a view is made.
const PAGE: ScanLimit = ScanLimit { entries: 512, bytes: 4 << 20 };

/// The last writes to documents. Readers wait until all that was held at the start is in it.
pub(super) struct View {
    documents: RwLock<Documents>,
    ready: watch::Sender<Reading>,
}

/// How far a view is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is being read.
    Busy,
    /// All of it is there.
    Done,
    /// It can't be read.
    Failed(String),
}

impl View {
    pub(super) fn new() -> Self {
        let documents = RwLock::new(Documents::with_conflict_log(CONFLICTS_MAX));
        Self { documents, ready: watch::Sender::new(Reading::Busy) }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Documents> {
        self.documents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Documents> {
        self.documents.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow() == Reading::Done
    }

    /// Waits until it was read. The text is why it can't be.
    pub(super) async fn wait(&self) -> Result<(), String> {
        let mut ready = self.ready.subscribe();
        let reading = ready.wait_for(|reading| *reading != Reading::Busy).await;
        // The sender is in `self`.
        match reading.as_deref() {
            Ok(Reading::Failed(problem)) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Reads what is held, blocking. Commits may go on meanwhile: the order makes no difference.
    pub(super) fn fill(&self, store: &dyn EntryStore, is_over: impl Fn() -> bool) {
        let outcome = self.fill_pages(store, is_over);
        self.ready.send_replace(match outcome {
            Ok(()) => Reading::Done,
            Err(error) => Reading::Failed(error.to_string()),
        });
    }

    fn fill_pages(&self, store: &dyn EntryStore, is_over: impl Fn() -> bool) -> Result<(), StoreError> {
        let mut from = Bound::Unbounded;
        while !is_over() {
            let page = store.scan(from, PAGE)?;
            let Some(last) = page.last() else { break };
            from = Bound::Excluded(last.entry.item());
            let mut documents = self.write();
            for stored in &page {
                documents.apply(&stored.entry);
            }
        }
        Ok(())
    }

    /// Takes in what was committed, and tells which documents have a new last write.
    pub(super) fn apply(&self, entries: &[Verified]) -> Vec<Change> {
        let mut documents = self.write();
        let mut changes = Vec::new();
        for entry in entries {
            if let Applied::Current { .. } = documents.apply(entry) {
                let DocumentKey { collection, key } = DocumentKey::of(entry);
                if collection.is_reserved() {
                    continue;
                }
                let version = Version {
                    item: entry.item(),
                    kind: entry.kind(),
                    author: entry.author(),
                    sequence: entry.sequence(),
                };
                let payload = if entry.kind() == Kind::Delete { Bytes::new() } else { entry.payload() };
                changes.push(Change { document: DocumentHead { collection, key, version }, payload });
            }
        }
        changes
    }

    /// Forgets what was pruned.
    pub(super) fn forget(&self, watermarks: &[(AuthorId, AuthorSequence)]) {
        let mut documents = self.write();
        for (author, watermark) in watermarks {
            documents.forget_up_to(author, *watermark);
        }
    }
}
