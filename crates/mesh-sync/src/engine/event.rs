//! What an engine tells while it runs: changes of documents, and events.

use std::sync::Arc;

use bytes::Bytes;
use mesh_core::{NodeId, WallTime};
use tokio::sync::broadcast;

use crate::{
    EntryId,
    documents::Version,
    entry::{AuthorId, Collection, DatasetId, Equivocation, Outcome, Verified},
    reconcile::Method,
};

/// How far two nodes are with what the one has and the other has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// About how many entries are yet to go, one way or the other.
    pub left: u64,
    /// Entries that went since the last time.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes in a second since the last time.
    pub bytes_per_second: u64,
}

/// Events that wait for a subscriber; what is beyond that is lost to it, and it is told so.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Commits that wait for a watcher.
pub(crate) const COMMITS_MAX: usize = 256;

/// A document that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its collection.
    pub collection: Collection,
    /// Its key.
    pub key: Bytes,
    /// The entry that wrote it last.
    pub version: Version,
    /// What it holds. Of a large payload this is the manifest; [`SyncHandle::read_blob`](super::SyncHandle::read_blob)
    /// gives the payload.
    pub payload: Bytes,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentPage {
    /// Documents in the order of their keys, without their payloads.
    pub documents: Vec<DocumentHead>,
    /// Give it as `after` to get what follows; `None` at the end.
    pub next: Option<Bytes>,
}

/// A document without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentHead {
    /// Its collection.
    pub collection: Collection,
    /// Its key.
    pub key: Bytes,
    /// The entry that wrote it last.
    pub version: Version,
}

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry's name.
    pub id: EntryId,
    /// The entry, durable here.
    pub entry: Verified,
    /// Peers that it was queued for since they are away.
    pub queued_for: usize,
}

/// A document changed: an entry about it is durable here and is its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The document.
    pub document: DocumentHead,
    /// What it holds now; empty if it was deleted, and the manifest of a large payload.
    pub payload: Bytes,
}

/// What a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A document changed.
    Changed(Change),
    /// Changes were lost to this watcher since it was too slow. Read what you need again; later changes follow.
    Lagged {
        /// How many commits were lost.
        missed: u64,
    },
}

/// Changes of documents as they become durable. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    pub(crate) commits: broadcast::Receiver<Arc<Vec<Change>>>,
    pub(crate) collection: Option<Collection>,
    pub(crate) prefix: Bytes,
    pub(crate) ready: std::collections::VecDeque<Change>,
}

impl Watch {
    /// The next change; `None` once the engine has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(WatchEvent::Changed(change));
            }
            match self.commits.recv().await {
                Ok(changes) => {
                    let wanted = |change: &&Change| {
                        let document = &change.document;
                        self.collection.as_ref().is_none_or(|collection| *collection == document.collection)
                            && document.key.starts_with(&self.prefix)
                    };
                    let wanted: Vec<Change> = changes.iter().filter(wanted).cloned().collect();
                    self.ready.extend(wanted);
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(WatchEvent::Lagged { missed });
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EngineEvent {
    /// A stream to a peer stands; these datasets are open on it.
    Connected {
        /// Who.
        peer: NodeId,
        /// The key that it proved.
        author: AuthorId,
        /// What is open.
        datasets: Vec<DatasetId>,
    },
    /// It does not any more.
    Disconnected {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// An attempt to connect came to nothing.
    DialFailed {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// Somebody was turned away.
    Refused {
        /// Who it is, or says it is.
        peer: Option<NodeId>,
        /// Why.
        reason: String,
    },
    /// Entries became durable.
    Committed {
        /// Where.
        dataset: DatasetId,
        /// How many.
        entries: usize,
    },
    /// A peer has the same entries.
    InSync {
        /// Which dataset.
        dataset: DatasetId,
        /// Who.
        peer: NodeId,
    },
    /// A peer has been behind for longer than the limit.
    Lagging {
        /// Which dataset.
        dataset: DatasetId,
        /// Who.
        peer: NodeId,
    },
    /// It is not behind any more.
    CaughtUp {
        /// Which dataset.
        dataset: DatasetId,
        /// Who.
        peer: NodeId,
    },
    /// Entries go to or come from a peer that has other ones; told once a second at most.
    Progress {
        /// Which dataset.
        dataset: DatasetId,
        /// With whom.
        peer: NodeId,
        /// How far it is.
        progress: Progress,
    },
    /// Two sets were compared.
    Reconciled {
        /// Which dataset.
        dataset: DatasetId,
        /// With whom.
        peer: NodeId,
        /// How.
        method: Method,
        /// Entries that the peer lacked.
        give: usize,
        /// Entries that were lacking here.
        need: u64,
    },
    /// A peer sent an entry that is refused for good.
    Rejected {
        /// Which dataset.
        dataset: DatasetId,
        /// Who; `None` if it was submitted here.
        peer: Option<NodeId>,
        /// The entry.
        id: EntryId,
        /// Why.
        outcome: Outcome,
    },
    /// An author gave one number to two entries.
    Equivocation {
        /// Which dataset.
        dataset: DatasetId,
        /// What.
        equivocation: Equivocation,
    },
    /// Entries were pruned.
    Pruned {
        /// Which dataset.
        dataset: DatasetId,
        /// How many.
        removed: u64,
    },
    /// Somebody asks for access, and an operator has to decide.
    AccessAsked {
        /// Which dataset.
        dataset: DatasetId,
        /// Who.
        node: NodeId,
        /// Its key.
        author: AuthorId,
        /// When.
        at: WallTime,
    },
    /// A hook failed or panicked. The commit stands.
    HookFailed {
        /// Which dataset.
        dataset: DatasetId,
        /// What it said.
        problem: String,
    },
    /// All chunks of a large payload are here.
    BlobComplete {
        /// Which dataset.
        dataset: DatasetId,
        /// The entry that names it.
        id: EntryId,
    },
    /// A store failed. Its dataset takes no more.
    Failed {
        /// Which dataset.
        dataset: DatasetId,
        /// What it said.
        problem: String,
    },
}

/// Events as they happen. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<EngineEvent>);

/// An event, or the news that some were lost.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Something happened.
    Event(EngineEvent),
    /// This subscriber was too slow.
    Lagged {
        /// How many events were lost to it.
        missed: u64,
    },
}

impl Events {
    /// The next event; `None` once the engine has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.recv().await {
            Ok(event) => Some(Notice::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Notice::Lagged { missed }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
