//! Documents: written and read.

use std::sync::Arc;

use bytes::Bytes;
use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{
    Document, DocumentHead, DocumentPage, Queued, SyncError, Watch, Written,
    actor::{Actor, verify_on_all_cores},
    core::Core,
};
use crate::{
    EntryId,
    documents::{Conflict, DocumentKey},
    entry::{
        Admission, Admitted, Collection, DatasetId, Draft, Entry, Outcome, PAYLOAD_BYTES_MAX, Rejection,
        Verified,
    },
};

use super::{blocking, store_error};

impl Core {
    pub(in crate::engine) async fn write(
        &self,
        dataset: &DatasetId,
        draft: Draft,
    ) -> Result<Written, SyncError> {
        self.dataset(dataset)?.ask(move |actor, told| actor.write_draft(draft, told)).await?
    }

    pub(in crate::engine) async fn put(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: Bytes,
        payload: Bytes,
    ) -> Result<Written, SyncError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let source = Box::new(std::io::Cursor::new(payload));
            return self.put_blob(dataset, collection, key, source).await;
        }
        writable(collection)?;
        self.write(dataset, Draft::put(collection, key, payload)).await
    }

    pub(in crate::engine) async fn delete(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: Bytes,
    ) -> Result<Written, SyncError> {
        writable(collection)?;
        self.write(dataset, Draft::delete(collection, key)).await
    }

    pub(in crate::engine) async fn submit(
        &self,
        dataset: &DatasetId,
        entries: Vec<Entry>,
    ) -> Result<Vec<Outcome>, SyncError> {
        let front = self.dataset(dataset)?;
        let checked = verify_on_all_cores(entries).await;
        // What is ahead of time would take this node's clock with it, and peers would refuse what it writes then.
        let (admission, wall) = (Admission::new(self.config.admission()), self.clock.wall());
        let admitted = |entry: Verified| {
            let early = admission.check(wall, entry.hlc()).err().and_then(Admitted::outcome);
            early.map_or(Ok(entry), Err)
        };
        let refused = |error| Outcome::Rejected(Rejection::Signature(error));
        let checked: Vec<Result<Verified, Outcome>> =
            checked.into_iter().map(|checked| checked.map_err(refused).and_then(admitted)).collect();
        let good: Vec<Verified> = checked.iter().flatten().cloned().collect();
        let stored = front.ask(move |actor, told| actor.take(good, told)).await??;
        let mut stored = stored.into_iter();
        // There is an outcome for each that was given.
        let outcome = |checked: Result<_, _>| {
            checked.map_or_else(|refused| refused, |_| stored.next().unwrap_or(Outcome::Duplicate))
        };
        Ok(checked.into_iter().map(outcome).collect())
    }

    pub(in crate::engine) async fn queue(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<Queued, SyncError> {
        let front = self.dataset(dataset)?;
        self.known_peer(&front, peer)?;
        let reading = Arc::clone(&front);
        let found = blocking(move || reading.store.get(&[entry])).await?.map_err(store_error(dataset))?;
        let Some(stored) = found.into_iter().flatten().next() else {
            return Err(SyncError::UnknownEntry { dataset: dataset.clone(), id: entry });
        };
        let peer = peer.clone();
        front.ask(move |actor, told| actor.enqueue(&peer, &stored.entry, told)).await?
    }

    pub(in crate::engine) async fn get(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: &[u8],
    ) -> Result<Option<Document>, SyncError> {
        let front = self.viewed(dataset).await?;
        let name = DocumentKey { collection: collection.clone(), key: Bytes::copy_from_slice(key) };
        let Some(version) = front.view.read().get(&name).copied() else { return Ok(None) };
        let found = blocking(move || front.store.get(&[version.item.id])).await?;
        let found = found.map_err(store_error(dataset))?.into_iter().flatten().next();
        // What was pruned meanwhile is not there any more.
        Ok(found.map(|stored| Document {
            collection: name.collection,
            key: name.key,
            version,
            payload: stored.entry.payload(),
        }))
    }

    pub(in crate::engine) async fn list(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<DocumentPage, SyncError> {
        let front = self.viewed(dataset).await?;
        let documents = front.view.read();
        let mut listed = documents.list_after(collection, after);
        let head = |(key, version): (&DocumentKey, &crate::documents::Version)| DocumentHead {
            collection: key.collection.clone(),
            key: key.key.clone(),
            version: *version,
        };
        let page: Vec<DocumentHead> = listed.by_ref().take(limit.max(1)).map(head).collect();
        let next = listed.next().and_then(|_| page.last().map(|last| last.key.clone()));
        Ok(DocumentPage { documents: page, next })
    }

    pub(in crate::engine) async fn collections(
        &self,
        dataset: &DatasetId,
    ) -> Result<Vec<Collection>, SyncError> {
        let front = self.viewed(dataset).await?;
        let mut collections = front.view.read().collections();
        collections.retain(|collection| !collection.is_reserved());
        Ok(collections)
    }

    pub(in crate::engine) fn conflicts(&self, dataset: &DatasetId) -> Result<Vec<Conflict>, SyncError> {
        let front = self.dataset(dataset)?;
        let documents = front.view.read();
        Ok(documents.conflicts().map(|log| log.iter().cloned().collect()).unwrap_or_default())
    }

    pub(in crate::engine) fn watch(
        &self,
        dataset: &DatasetId,
        collection: Option<&Collection>,
        prefix: Bytes,
    ) -> Result<Watch, SyncError> {
        let front = self.dataset(dataset)?;
        let commits = front.changes.subscribe();
        Ok(Watch {
            commits,
            collection: collection.cloned(),
            prefix,
            ready: std::collections::VecDeque::new(),
        })
    }
}

/// Refuses to write what only sync itself writes: an entry there may order others to prune.
pub(in crate::engine) fn writable(collection: &Collection) -> Result<(), SyncError> {
    match collection.is_reserved() {
        true => Err(SyncError::ReservedCollection { collection: collection.clone() }),
        false => Ok(()),
    }
}

impl Actor {
    /// Signs and stores a draft, building on what its document holds.
    pub(super) fn write_draft(&mut self, draft: Draft, told: oneshot::Sender<Result<Written, SyncError>>) {
        let parent = self.dataset.view.read().last_write(&draft.document()).map(|version| version.item.id);
        self.write(draft, parent, told);
    }
}
