//! The front of an engine: commands that its tasks carry out.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{BoxError, NodeId};

use super::{Document, DocumentPage, Events, SyncError, SyncHandler, SyncStatus, Watch, Written, core::Core};
use crate::{
    EntryId,
    blob::Collected,
    bootstrap::{AccessState, KeptRequest},
    documents::Conflict,
    entry::{AuthorId, AuthorSequence, Collection, DatasetId, Entry, Outcome, Verified},
    queue::DeadLetter,
    state::Round,
    ticket::Ticket,
};

/// What is done with entries that have just become durable.
pub type CommitHook = dyn Fn(&DatasetId, &[Verified]) -> Result<(), BoxError> + Send + Sync;

/// Whether an entry waits in the queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits, durably.
    New,
    /// It waited already.
    Duplicate,
    /// It is a dead letter. Retry that one, or drop it first.
    Dead,
}

/// What came of [`SyncHandle::prune`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneReport {
    /// The dataset.
    pub dataset: DatasetId,
    /// About how many entries go: an author's numbers between the old watermark and the new one.
    pub entries: u64,
    /// Up to which number each author's entries go, where that is news.
    pub watermarks: Vec<(AuthorId, AuthorSequence)>,
    /// Active peers that have not confirmed all that is worth nothing any more; what they lack stays.
    pub held_up_by: Vec<NodeId>,
    /// The entry that orders it, which goes to all peers; `None` if there was nothing to order, or with a dry run.
    pub ordered_by: Option<EntryId>,
}

/// How a round with a peer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoundOutcome {
    /// Both sides have the same entries.
    Equal,
    /// They differ still when the time was over; sync goes on.
    Unfinished,
    /// There is no stream to the peer.
    NotConnected {
        /// What the last attempt said.
        problem: String,
    },
}

/// What came of [`SyncHandle::sync_now`] for one peer of one dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundReport {
    /// The dataset.
    pub dataset: DatasetId,
    /// The peer.
    pub peer: NodeId,
    /// How it ended.
    pub outcome: RoundOutcome,
}

/// What came of [`SyncHandle::flush`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Pairs of dataset and peer where the peer has durably what was here when the flush began.
    pub acknowledged: Vec<(DatasetId, NodeId)>,
    /// Pairs where a connected peer has not said so yet.
    pub waiting: Vec<(DatasetId, NodeId)>,
    /// Pairs where the peer is away; what it lacks is queued or found when it comes back.
    pub away: Vec<(DatasetId, NodeId)>,
}

impl FlushReport {
    /// Whether all peers that are connected have everything.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// A node that may be a peer: a member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who.
    pub peer: NodeId,
    /// Where it is, best first, in the carrier's own form.
    pub addresses: Vec<String>,
}

/// The front of an engine. Clones share it; it does not keep the engine running.
///
/// Methods that return a future wait for the engine's tasks, and for the disk where they write. Unless it says otherwise,
/// dropping a future does not undo what it began.
#[derive(Clone)]
pub struct SyncHandle {
    pub(crate) core: Arc<Core>,
}

impl std::fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncHandle").field("local", self.local()).finish_non_exhaustive()
    }
}

impl SyncHandle {
    /// This node.
    pub fn local(&self) -> &NodeId {
        &self.core.local
    }

    /// The key that this node signs entries with.
    pub fn author(&self) -> AuthorId {
        self.core.author
    }

    /// The datasets that this node keeps, in the order of their names.
    pub fn datasets(&self) -> Vec<DatasetId> {
        self.core.dataset_names()
    }

    /// Sets the value of a document. When it returns, the entry is durable here, and goes to peers.
    ///
    /// A payload above 1 MiB becomes a blob: its pieces are kept first.
    ///
    /// # Errors
    ///
    /// [`SyncError`] says whether something was stored.
    pub async fn put(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: impl Into<Bytes>,
        payload: impl Into<Bytes>,
    ) -> Result<Written, SyncError> {
        self.core.put(dataset, collection, key.into(), payload.into()).await
    }

    /// Deletes a document. When it returns, the tombstone is durable here.
    ///
    /// # Errors
    ///
    /// [`SyncError`] says whether something was stored.
    pub async fn delete(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: impl Into<Bytes>,
    ) -> Result<Written, SyncError> {
        self.core.delete(dataset, collection, key.into()).await
    }

    /// Stores entries that somebody else has signed, and sends them on. There is an outcome for each, in their order;
    /// held ones are durable.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; some of them may have been stored.
    pub async fn submit(&self, dataset: &DatasetId, entries: Vec<Entry>) -> Result<Vec<Outcome>, SyncError> {
        self.core.submit(dataset, entries).await
    }

    /// Queues an entry that is held for a peer: it is delivered as soon as the peer can be reached, also after a
    /// restart. When it returns, that is durable.
    ///
    /// # Errors
    ///
    /// [`SyncError::Queue`] if there is no room, [`SyncError::UnknownEntry`] if it is not held.
    pub async fn queue(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<Queued, SyncError> {
        self.core.queue(dataset, peer, entry).await
    }

    /// A document with its value; `None` if it does not exist. Waits until the view was read after a start.
    ///
    /// # Errors
    ///
    /// [`SyncError`], if the store can't be read.
    pub async fn get(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: &[u8],
    ) -> Result<Option<Document>, SyncError> {
        self.core.get(dataset, collection, key).await
    }

    /// At most `limit` documents of a collection in the order of their keys, after `after`. Waits until the view was
    /// read after a start.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub async fn list(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<DocumentPage, SyncError> {
        self.core.list(dataset, collection, after, limit).await
    }

    /// The collections that have documents, in the order of their names. Waits as [`get`](Self::get) does.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub async fn collections(&self, dataset: &DatasetId) -> Result<Vec<Collection>, SyncError> {
        self.core.collections(dataset).await
    }

    /// The last concurrent writes that a last writer has overwritten, oldest first.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub fn conflicts(&self, dataset: &DatasetId) -> Result<Vec<Conflict>, SyncError> {
        self.core.conflicts(dataset)
    }

    /// Follows the documents of a collection, or of all, whose key starts with `prefix`. It begins with what is
    /// committed from now on; read the present after this call.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub fn watch(
        &self,
        dataset: &DatasetId,
        collection: Option<&Collection>,
        prefix: impl Into<Bytes>,
    ) -> Result<Watch, SyncError> {
        self.core.watch(dataset, collection, prefix.into())
    }

    /// Follows what happens.
    pub fn subscribe(&self) -> Events {
        self.core.subscribe()
    }

    /// Calls `hook` with entries that have just become durable, in the order of arrival, on a thread that may block.
    /// Commits go on meanwhile; a hook that is more than some hundred commits behind misses some, which is counted.
    /// One that fails or panics is counted and reported, and never fails a commit.
    pub fn on_committed(&self, hook: Arc<CommitHook>) {
        self.core.add_hook(hook);
    }

    /// Says who is in the cluster, and where. Datasets with the access policy `cluster` make them peers; for others it
    /// says where their peers are. Each call replaces what was said before; peers that are left out stay peers.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        self.core.set_peers(peers);
    }

    /// Says where a node is, beside what [`set_peers`](Self::set_peers) says.
    pub fn add_peer(&self, peer: PeerAddress) {
        self.core.add_peer(peer);
    }

    /// Forgets where a node is, ends its stream, and its relationships in all datasets.
    ///
    /// # Errors
    ///
    /// [`SyncError::Stopped`].
    pub async fn remove_peer(&self, peer: &NodeId) -> Result<(), SyncError> {
        self.core.remove_peer(peer).await
    }

    /// Makes a node a peer of a dataset: it may have it, is connected to, and pruning waits for it. Durable when it
    /// returns.
    ///
    /// # Errors
    ///
    /// [`SyncError::Peers`] if there are too many.
    pub async fn create_relationship(&self, peer: &NodeId, dataset: &DatasetId) -> Result<(), SyncError> {
        self.core.create_relationship(peer, dataset).await
    }

    /// Ends that: the node gets nothing more of the dataset, and what is queued for it goes. Where the policy is
    /// `cluster`, a member becomes a peer again with the next [`set_peers`](Self::set_peers).
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownPeer`].
    pub async fn remove_relationship(&self, peer: &NodeId, dataset: &DatasetId) -> Result<(), SyncError> {
        self.core.remove_relationship(peer, dataset).await
    }

    /// Accepts streams of peers. So it is after the start.
    pub fn start_serving(&self) {
        self.core.set_serving(true);
    }

    /// Accepts no more streams; those that stand go on.
    pub fn stop_serving(&self) {
        self.core.set_serving(false);
    }

    /// What gives streams of peers to this engine; for servers of any transport.
    pub fn handler(&self) -> SyncHandler {
        SyncHandler::new(Arc::clone(&self.core))
    }

    /// Connects to a node now, whatever the pause after earlier failures. Gives the datasets that are open.
    ///
    /// # Errors
    ///
    /// [`SyncError::Unreachable`].
    pub async fn connect(&self, peer: &NodeId) -> Result<Vec<DatasetId>, SyncError> {
        self.core.connect(peer).await
    }

    /// Compares with peers now, of one dataset or all, with one peer or all, and waits until both sides are equal or
    /// `patience` is over.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`], [`SyncError::UnknownPeer`].
    pub async fn sync_now(
        &self,
        dataset: Option<&DatasetId>,
        peer: Option<&NodeId>,
        patience: Duration,
    ) -> Result<Vec<RoundReport>, SyncError> {
        self.core.sync_now(dataset, peer, patience).await
    }

    /// Waits until all that was written here before is durable, and at each connected peer too, or `patience` is over.
    ///
    /// # Errors
    ///
    /// [`SyncError::Stopped`].
    pub async fn flush(&self, patience: Duration) -> Result<FlushReport, SyncError> {
        self.core.flush(patience).await
    }

    /// How everything stands.
    pub async fn status(&self) -> SyncStatus {
        self.core.status().await
    }

    /// The last rounds with a peer, oldest first.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub fn history(&self, dataset: &DatasetId, peer: &NodeId) -> Result<Vec<Round>, SyncError> {
        self.core.history(dataset, peer)
    }

    /// What was given up, the oldest first.
    ///
    /// # Errors
    ///
    /// [`SyncError`].
    pub async fn dead_letters(&self, dataset: &DatasetId) -> Result<Vec<DeadLetter>, SyncError> {
        self.core.dead_letters(dataset).await
    }

    /// Queues a dead letter again, as if it were new.
    ///
    /// # Errors
    ///
    /// [`SyncError::NoDeadLetter`], [`SyncError::Queue`].
    pub async fn retry_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        self.core.retry_dead_letter(dataset, peer, entry).await
    }

    /// Drops a dead letter. The entry reaches the peer by anti-entropy all the same, if it ever comes back.
    ///
    /// # Errors
    ///
    /// [`SyncError::NoDeadLetter`].
    pub async fn drop_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        self.core.drop_dead_letter(dataset, peer, entry).await
    }

    /// A ticket with which another node can ask this one for a dataset.
    ///
    /// # Errors
    ///
    /// [`SyncError::NoAddress`] if the engine was not told where this node is.
    pub fn ticket(&self, dataset: &DatasetId) -> Result<Ticket, SyncError> {
        self.core.ticket(dataset)
    }

    /// Asks those of a ticket for its dataset, which this node keeps from now on, also after a restart. Once an operator
    /// there has approved, entries come by themselves. A request that they have forgotten by then is made again by
    /// joining again.
    ///
    /// # Errors
    ///
    /// [`SyncError::NobodyAnswered`]; the dataset is kept all the same. [`SyncError::TooManyDatasets`].
    pub async fn join(&self, ticket: &Ticket, note: &str) -> Result<AccessState, SyncError> {
        self.core.join(ticket, note).await
    }

    /// Requests for access, of one dataset or all, answered ones included.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownDataset`].
    pub fn requests(&self, dataset: Option<&DatasetId>) -> Result<Vec<(DatasetId, KeptRequest)>, SyncError> {
        self.core.requests(dataset)
    }

    /// Lets a node in that has asked. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`SyncError::Access`].
    pub async fn approve(&self, dataset: &DatasetId, author: &AuthorId) -> Result<(), SyncError> {
        self.core.approve(dataset, author).await
    }

    /// Turns a node away, also one that was let in before. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`SyncError::Access`].
    pub async fn reject(
        &self,
        dataset: &DatasetId,
        author: &AuthorId,
        reason: &str,
    ) -> Result<(), SyncError> {
        self.core.reject(dataset, author, reason).await
    }

    /// Makes pruning wait no more for a peer. It is served if it comes back.
    ///
    /// # Errors
    ///
    /// [`SyncError::UnknownPeer`].
    pub async fn retire(&self, dataset: &DatasetId, peer: &NodeId) -> Result<(), SyncError> {
        self.core.retire(dataset, peer).await
    }

    /// Prunes what is overwritten or deleted for long, as far as all active peers have confirmed it. This node's author
    /// must be one of `sync.pruners`; it then happens by itself every `sync.prune_interval`, too. A dry run changes
    /// nothing, and every node may make one.
    ///
    /// An author's entries go in the order of their numbers, up to the first that is still of use.
    ///
    /// # Errors
    ///
    /// [`SyncError::NoPruner`]; [`SyncError::KeepsAll`] where the settings say that nothing goes.
    pub async fn prune(&self, dataset: &DatasetId, dry_run: bool) -> Result<PruneReport, SyncError> {
        self.core.prune(dataset, dry_run).await
    }

    /// Sets the value of a document to all that `source` gives, of any length, never whole in memory. When it returns,
    /// all of it is durable here.
    ///
    /// # Errors
    ///
    /// [`SyncError::Blob`] if it can't be read or kept.
    pub async fn put_blob(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: impl Into<Bytes>,
        source: Box<dyn Read + Send>,
    ) -> Result<Written, SyncError> {
        self.core.put_blob(dataset, collection, key.into(), source).await
    }

    /// Writes a document's value into `sink`, of any length, each piece checked. Gives the sink back with the number of
    /// bytes; `None` if there is no such document.
    ///
    /// # Errors
    ///
    /// [`SyncError::Incomplete`] while pieces are on their way.
    pub async fn read_blob<W: Write + Send + 'static>(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: &[u8],
        sink: W,
    ) -> Result<Option<(W, u64)>, SyncError> {
        self.core.read_blob(dataset, collection, key, sink).await
    }

    /// Removes pieces of large payloads that no document names any more, of all datasets, and are a day old. That
    /// happens by itself every six hours.
    ///
    /// # Errors
    ///
    /// [`SyncError`], also if a payload that is needed is not whole yet: nothing was removed then. Try again later.
    pub async fn collect_chunks(&self) -> Result<Collected, SyncError> {
        self.core.collect_chunks().await
    }
}
