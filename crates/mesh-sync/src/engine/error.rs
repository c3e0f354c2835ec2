//! Why an engine did not do what it was asked for.

use std::time::Duration;

use mesh_core::{BoxError, NodeId};

use crate::{
    EntryId,
    blob::BlobError,
    bootstrap::AccessError,
    engine::CarrierError,
    entry::{AuthorId, Collection, DatasetId, DraftError, NameError, Outcome},
    queue::QueueError,
    replica::SubmitError,
    state::{PeerBookError, StateError},
    store::StoreError,
    ticket::TicketError,
};

/// Why an engine did not start. Nothing runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store of a dataset can't be opened or read.
    #[error("cannot open the dataset {dataset}; restore its store, or remove it and let it fill from peers")]
    Dataset {
        /// Which.
        dataset: DatasetId,
        /// Why.
        #[source]
        source: StateError,
    },
    /// The list of datasets can't be read.
    #[error("cannot list the datasets of the store")]
    Stores(#[source] StoreError),
    /// A name in the settings is not valid.
    #[error("a dataset of the settings can't be used")]
    Name(#[from] NameError),
    /// A thread or task of the start ended early.
    #[error("the start of the engine was interrupted")]
    Interrupted,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The engine has stopped, or was stopped meanwhile. A write may be durable or not.
    #[error("the sync engine has stopped")]
    Stopped,
    /// This node does not keep the dataset. Name it in `sync.datasets`, or join it with a ticket.
    #[error("this node has no dataset {dataset}; name it in sync.datasets or join it with a ticket")]
    UnknownDataset {
        /// Which.
        dataset: DatasetId,
    },
    /// A name is not valid. Nothing changed.
    #[error("the name can't be used")]
    Name(#[from] NameError),
    /// The store of the dataset failed, and the dataset takes no more until the node starts again.
    #[error("the store of {dataset} has failed: {problem}; look at the disk and restart the node")]
    Failed {
        /// Which.
        dataset: DatasetId,
        /// What it said.
        problem: String,
    },
    /// The disk has no room. Nothing is written until there is, and then again without a restart; a write that was under
    /// way when the disk filled up may be stored then.
    #[error("{dataset} takes no writes: {problem}; make room, and writes are taken again")]
    Full {
        /// Which.
        dataset: DatasetId,
        /// What the store said.
        problem: String,
    },
    /// The store can't be read.
    #[error("cannot read the store of {dataset}")]
    Store {
        /// Which.
        dataset: DatasetId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The entry can't be made. Nothing changed.
    #[error("the entry can't be made")]
    Draft(#[from] DraftError),
    /// Too much waits for the disk. Nothing changed; try again.
    #[error("{dataset} takes no writes now")]
    Busy {
        /// Which.
        dataset: DatasetId,
        /// How much waits.
        #[source]
        source: SubmitError,
    },
    /// The entry was not stored.
    #[error("the entry {id} was not stored: {outcome:?}")]
    NotStored {
        /// Its name.
        id: EntryId,
        /// Why.
        outcome: Outcome,
    },
    /// The queue did not take an entry. Nothing changed; the entry reaches the peer by anti-entropy.
    #[error("the entry was not queued")]
    Queue(#[from] QueueError),
    /// The entry is not held.
    #[error("{dataset} has no entry {id}")]
    UnknownEntry {
        /// Where it was looked for.
        dataset: DatasetId,
        /// Its name.
        id: EntryId,
    },
    /// The node is no peer of the dataset.
    #[error("{peer} is no peer of {dataset}")]
    UnknownPeer {
        /// The node.
        peer: NodeId,
        /// The dataset.
        dataset: DatasetId,
    },
    /// The list of peers did not take it. Nothing changed.
    #[error("the peer was not added")]
    Peers(#[from] PeerBookError),
    /// The request for access could not be answered.
    #[error("the request for access could not be answered")]
    Access(#[from] AccessError),
    /// There is no such dead letter.
    #[error("{dataset} has no dead letter of {entry} for {peer}")]
    NoDeadLetter {
        /// The dataset.
        dataset: DatasetId,
        /// The peer.
        peer: NodeId,
        /// The entry.
        entry: EntryId,
    },
    /// The ticket can't be made or used.
    #[error("the ticket can't be used")]
    Ticket(#[from] TicketError),
    /// The engine has no address that others could use.
    #[error("no address of this node is known to others; set where it can be reached")]
    NoAddress,
    /// Nobody of a ticket answered.
    #[error("none of the {count} addresses of the ticket answered; the last said: {last}")]
    NobodyAnswered {
        /// How many were tried.
        count: usize,
        /// What the last one said.
        last: String,
    },
    /// A peer can't be reached.
    #[error("{peer} can't be reached")]
    Unreachable {
        /// Who.
        peer: NodeId,
        /// Why.
        #[source]
        source: CarrierError,
    },
    /// A large payload can't be read or kept.
    #[error("the payload can't be read or kept")]
    Blob(#[from] BlobError),
    /// Chunks of a large payload have not come yet. They are being fetched; try again.
    #[error("{missing} or more chunks of the payload are not here yet; they come from {dataset}'s peers")]
    Incomplete {
        /// The dataset.
        dataset: DatasetId,
        /// How many, as far as they can be named by now.
        missing: usize,
    },
    /// The author may not prune here.
    #[error("this node's key {author} is not in sync.pruners")]
    NoPruner {
        /// This node's author.
        author: AuthorId,
    },
    /// The node keeps as many datasets as it may.
    #[error("{dataset} can't be joined: this node keeps {kept} datasets already, the most that it may")]
    TooManyDatasets {
        /// The dataset.
        dataset: DatasetId,
        /// How many it keeps.
        kept: usize,
    },
    /// The settings say that the dataset keeps all entries.
    #[error("{dataset} keeps all its entries: `prune` is false in its settings")]
    KeepsAll {
        /// The dataset.
        dataset: DatasetId,
    },
    /// The collection is one that this library keeps for itself.
    #[error(
        "the collection {collection} can't be written: names that begin with `mesh.` are kept for sync itself"
    )]
    ReservedCollection {
        /// The collection.
        collection: Collection,
    },
    /// The round did not end in time. Sync goes on in the background.
    #[error("not done within {after:?}; sync goes on in the background")]
    Late {
        /// How long was waited.
        after: Duration,
    },
    /// Something that only this library can be blamed for, or a thread that was killed.
    #[error("the work was interrupted")]
    Interrupted(#[source] BoxError),
}
