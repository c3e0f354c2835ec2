//! What the tasks of an engine share.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::NodeId;
use tokio::sync::broadcast;

use super::*;
use crate::{
    EntryId,
    bootstrap::{AccessState, KeptRequest},
    documents::Conflict,
    entry::{AuthorId, Collection, DatasetId, Entry, Outcome},
    queue::DeadLetter,
    replica::PruneDraft,
    state::Round,
    ticket::Ticket,
};

pub(super) struct Core {
    pub(super) local: NodeId,
    pub(super) author: AuthorId,
    pub(super) events: broadcast::Sender<EngineEvent>,
}

impl Core {
    pub(super) async fn start(options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        let author = options.author.id();
        Ok(Arc::new(Self { local: options.local, author, events: broadcast::Sender::new(16) }))
    }
    pub(super) async fn shutdown(&self) {}
    pub(super) fn dataset_names(&self) -> Vec<DatasetId> {
        Vec::new()
    }
    pub(super) fn subscribe(&self) -> Events {
        Events(self.events.subscribe())
    }
    pub(super) fn add_hook(&self, _hook: Arc<CommitHook>) {}
    pub(super) fn set_peers(&self, _peers: Vec<PeerAddress>) {}
    pub(super) fn add_peer(&self, _peer: PeerAddress) {}
    pub(super) fn set_serving(&self, _serving: bool) {}
    pub(super) async fn status(&self) -> SyncStatus {
        SyncStatus::default()
    }

    pub(super) async fn put(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _key: Bytes,
        _payload: Bytes,
    ) -> Result<Written, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn delete(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _key: Bytes,
    ) -> Result<Written, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn submit(
        &self,
        _dataset: &DatasetId,
        _entries: Vec<Entry>,
    ) -> Result<Vec<Outcome>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn queue(
        &self,
        _dataset: &DatasetId,
        _peer: &NodeId,
        _entry: EntryId,
    ) -> Result<Queued, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn get(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _key: &[u8],
    ) -> Result<Option<Document>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn list(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<DocumentPage, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn collections(&self, _dataset: &DatasetId) -> Result<Vec<Collection>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) fn conflicts(&self, _dataset: &DatasetId) -> Result<Vec<Conflict>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) fn watch(
        &self,
        _dataset: &DatasetId,
        _collection: Option<&Collection>,
        _prefix: Bytes,
    ) -> Result<Watch, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn remove_peer(&self, _peer: &NodeId) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn create_relationship(
        &self,
        _peer: &NodeId,
        _dataset: &DatasetId,
    ) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn remove_relationship(
        &self,
        _peer: &NodeId,
        _dataset: &DatasetId,
    ) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn connect(&self, _peer: &NodeId) -> Result<Vec<DatasetId>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn sync_now(
        &self,
        _dataset: Option<&DatasetId>,
        _peer: Option<&NodeId>,
        _patience: Duration,
    ) -> Result<Vec<RoundReport>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn flush(&self, _patience: Duration) -> Result<FlushReport, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) fn history(&self, _dataset: &DatasetId, _peer: &NodeId) -> Result<Vec<Round>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn dead_letters(&self, _dataset: &DatasetId) -> Result<Vec<DeadLetter>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn retry_dead_letter(
        &self,
        _dataset: &DatasetId,
        _peer: &NodeId,
        _entry: EntryId,
    ) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn drop_dead_letter(
        &self,
        _dataset: &DatasetId,
        _peer: &NodeId,
        _entry: EntryId,
    ) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) fn ticket(&self, _dataset: &DatasetId) -> Result<Ticket, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn join(&self, _ticket: &Ticket, _note: &str) -> Result<AccessState, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) fn requests(
        &self,
        _dataset: Option<&DatasetId>,
    ) -> Result<Vec<(DatasetId, KeptRequest)>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn approve(&self, _dataset: &DatasetId, _author: &AuthorId) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn reject(
        &self,
        _dataset: &DatasetId,
        _author: &AuthorId,
        _reason: &str,
    ) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn retire(&self, _dataset: &DatasetId, _peer: &NodeId) -> Result<(), SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn prune(&self, _dataset: &DatasetId) -> Result<Option<PruneDraft>, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn put_blob(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _key: Bytes,
        _source: Box<dyn Read + Send>,
    ) -> Result<Written, SyncError> {
        Err(SyncError::Stopped)
    }

    pub(super) async fn read_blob<W: Write + Send + 'static>(
        &self,
        _dataset: &DatasetId,
        _collection: &Collection,
        _key: &[u8],
        _sink: W,
    ) -> Result<Option<(W, u64)>, SyncError> {
        Err(SyncError::Stopped)
    }
}
