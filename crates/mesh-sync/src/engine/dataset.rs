//! One dataset of an engine: what its task and everybody else share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use mesh_core::NodeId;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::{
    Change, EngineError, SyncError,
    actor::Actor,
    commands::prune,
    core::{Core, lock},
    dial,
    event::COMMITS_MAX,
    link::Link,
    view::View,
};
use crate::{
    bootstrap::{AccessBook, AccessLimits, AccessPolicy, AccessState},
    config::DatasetConfig,
    entry::{Author, AuthorId, AuthorSequence, DatasetId},
    queue::{Moment, Queue, QueueStats, SendFailure},
    reconcile::EpochKey,
    replica::{Message, Opened, PeerStatus, Replica, ReplicaOptions},
    state::{HistoryLimits, PeerBook, Standing, StateError},
    store::{Creation, EntryStore, StoreIncarnation},
};

/// Messages of peers that wait for a dataset's task; the reader of a stream waits beyond that.
const INBOX_MAX: usize = 32;
/// Commands that wait for it; callers wait beyond that.
const ASKS_MAX: usize = 256;

/// A message that came over a stream.
pub(super) struct FromPeer {
    pub(super) link: Arc<Link>,
    pub(super) message: Message,
}

/// What the task is asked to do, between two inputs of its replica.
pub(super) type Ask = Box<dyn FnOnce(&mut Actor) + Send>;

/// Answers who waits, if it still does.
pub(super) fn tell<T>(told: oneshot::Sender<T>, answer: T) {
    let _ = told.send(answer);
}

/// Who may have a dataset, and who its peers are.
pub(super) struct Books {
    pub(super) access: AccessBook,
    pub(super) peers: PeerBook,
}

/// What the task tells everybody now and then.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) prune_digest: [u8; 32],
    /// Peers that a delivery of the queue waits for.
    pub(super) needed: BTreeSet<NodeId>,
    pub(super) failed: Option<String>,
    /// Why nothing is written until there is room on the disk.
    pub(super) full: Option<String>,
    pub(super) peers: Vec<PeerStatus>,
    pub(super) queue: QueueStats,
    pub(super) blobs_missing: usize,
    /// Why a peer could not be reached the last time.
    pub(super) problems: BTreeMap<NodeId, String>,
}

pub(super) struct Dataset {
    pub(super) id: DatasetId,
    pub(super) config: DatasetConfig,
    pub(super) policy: AccessPolicy,
    pub(super) store: Arc<dyn EntryStore>,
    pub(super) inbox: mpsc::Sender<FromPeer>,
    pub(super) asks: mpsc::Sender<Ask>,
    /// Streams have changed, or records are to be written.
    pub(super) wake: Notify,
    pub(super) books: Mutex<Books>,
    pub(super) board: Mutex<Board>,
    pub(super) view: View,
    pub(super) changes: broadcast::Sender<Arc<Vec<Change>>>,
}

impl Dataset {
    /// Has the task do something, and waits for the answer that it gives by and by.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Actor, oneshot::Sender<T>) + Send + 'static,
    ) -> Result<T, SyncError> {
        let (sender, answer) = oneshot::channel();
        let ask: Ask = Box::new(move |actor| ask(actor, sender));
        self.asks.send(ask).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> SyncError {
        let board = lock(&self.board);
        match (board.failed.clone(), board.full.clone()) {
            (Some(problem), _) => SyncError::Failed { dataset: self.id.clone(), problem },
            (None, Some(problem)) => SyncError::Full { dataset: self.id.clone(), problem },
            (None, None) => SyncError::Stopped,
        }
    }

    pub(super) fn prune_digest(&self) -> [u8; 32] {
        lock(&self.board).prune_digest
    }

    /// Whether a node may have it. Without a key: whether to ask it, or offer it.
    pub(super) fn is_open_to(&self, node: &NodeId, author: Option<&AuthorId>) -> bool {
        let books = lock(&self.books);
        let answered = match author {
            Some(author) => books.access.request(author).map(|kept| &kept.state),
            None => books.access.requests().find(|kept| kept.request.node == *node).map(|kept| &kept.state),
        };
        match answered {
            Some(AccessState::Rejected { .. }) => return false,
            Some(AccessState::Granted) => return true,
            _ => {}
        }
        let related = books.peers.relationship(node).is_some_and(|known| {
            // One that retired is served if it comes back.
            author.is_none_or(|author| known.author.is_none_or(|pinned| pinned == *author))
        });
        related
            || match &self.policy {
                AccessPolicy::Cluster => true,
                AccessPolicy::Nodes(nodes) => nodes.contains(node),
                AccessPolicy::Ask | AccessPolicy::Closed => false,
            }
    }

    /// Remembers the key of a peer.
    ///
    /// # Errors
    ///
    /// The key that it had before, if another one is not to be believed.
    pub(super) fn pin(&self, node: &NodeId, author: AuthorId, certified: bool) -> Result<(), AuthorId> {
        let mut books = lock(&self.books);
        let Some(known) = books.peers.relationship(node) else { return Ok(()) };
        match known.author {
            Some(pinned) if pinned == author => return Ok(()),
            Some(pinned) if !certified => return Err(pinned),
            _ => {}
        }
        let relationship = crate::state::Relationship { author: Some(author), ..known.clone() };
        // It was there, so there is room.
        let _ = books.peers.add(node, relationship);
        drop(books);
        self.wake.notify_one();
        Ok(())
    }

    /// Peers that count.
    pub(super) fn active(&self) -> BTreeSet<NodeId> {
        let books = lock(&self.books);
        let active = books.peers.peers().filter(|(_, known)| known.standing == Standing::Active);
        active.map(|(peer, _)| peer.clone()).collect()
    }

    /// Peers that it is synced with directly.
    pub(super) fn neighbours(&self, local: &NodeId) -> BTreeSet<NodeId> {
        dial::neighbours(local, &self.active())
    }

    /// To whom there is to be a stream: neighbours, those that a delivery waits for, and one of the others in turn, so
    /// that each confirms what it holds now and then.
    pub(super) fn wanted(&self, local: &NodeId, turn: u64) -> BTreeSet<NodeId> {
        let active = self.active();
        let mut wanted = dial::neighbours(local, &active);
        let others: Vec<&NodeId> = active.iter().filter(|peer| !wanted.contains(*peer)).collect();
        let in_turn = others.get(usize::try_from(turn).unwrap_or(0) % others.len().max(1)).copied().cloned();
        wanted.extend(in_turn);
        let needed = lock(&self.board).needed.clone();
        wanted.extend(needed.into_iter().filter(|peer| active.contains(peer)));
        wanted
    }

    pub(super) fn addresses_of(&self, peer: &NodeId) -> Vec<String> {
        lock(&self.books).peers.relationship(peer).map(|known| known.addresses.clone()).unwrap_or_default()
    }

    /// A peer could not be reached.
    pub(super) fn tell_failure(&self, peer: &NodeId, failure: SendFailure) {
        let is_peer = lock(&self.books).peers.relationship(peer).is_some();
        if is_peer {
            let peer = peer.clone();
            // Where there is no room the delivery runs into its deadline.
            let _ = self.asks.try_send(Box::new(move |actor| actor.on_unreachable(&peer, failure)));
        }
    }
}

/// Opens a dataset and starts its task.
pub(super) async fn open(
    core: &Arc<Core>,
    dataset: DatasetId,
    config: DatasetConfig,
) -> Result<Arc<Dataset>, EngineError> {
    let (opening, id, settings) = (Arc::clone(core), dataset.clone(), config.clone());
    let opened = tokio::task::spawn_blocking(move || read(&opening, &id, &settings)).await;
    let opened = opened.map_err(|_| EngineError::Interrupted)?;
    let Read { store, opened, queue, books, next } =
        opened.map_err(|source| EngineError::Dataset { dataset: dataset.clone(), source })?;
    if let Some(highest) = opened.highest() {
        core.note_stamp(highest);
    }
    let options = ReplicaOptions {
        local: core.local.clone(),
        config: core.replica_config(&config),
        pruners: core.pruners.clone(),
        seed: core.draw(),
    };
    let replica = Replica::new(core.now(), options, opened);
    let (inbox, messages) = mpsc::channel(INBOX_MAX);
    let (asks, waiting) = mpsc::channel(ASKS_MAX);
    let author = Author::new(core.key.clone(), dataset.clone(), next);
    let front = Arc::new(Dataset {
        id: dataset,
        policy: config.access_policy(),
        config,
        store,
        inbox,
        asks,
        wake: Notify::new(),
        books: Mutex::new(books),
        board: Mutex::default(),
        view: View::new(),
        changes: broadcast::Sender::new(COMMITS_MAX),
    });
    let actor = Actor::new(Arc::clone(core), Arc::clone(&front), replica, queue, author, messages, waiting);
    core.spawn(actor.run());
    let (reading, core_of_view) = (Arc::clone(&front), Arc::clone(core));
    core.spawn(async move {
        let (view, over) = (Arc::clone(&reading), Arc::clone(&core_of_view));
        let filled = tokio::task::spawn_blocking(move || view.view.fill(&*view.store, || over.is_stopping()));
        // A panic there leaves readers waiting until the engine stops, and nothing else.
        let _ = filled.await;
        let _ = reading.asks.send(Box::new(Actor::look_for_blobs)).await;
        let (held, of) = (Arc::clone(&reading), core_of_view.pruners.clone());
        let prunes = tokio::task::spawn_blocking(move || prune::held(&held, &of)).await;
        // A store that can't be read says so to everybody who reads.
        let prunes = prunes.ok().and_then(Result::ok).unwrap_or_default();
        let _ = reading.asks.send(Box::new(move |actor| actor.obey_held_prunes(&prunes))).await;
    });
    Ok(front)
}

/// What was read of a dataset.
struct Read {
    store: Arc<dyn EntryStore>,
    opened: Opened,
    queue: Queue,
    books: Books,
    next: AuthorSequence,
}

fn read(core: &Core, dataset: &DatasetId, config: &DatasetConfig) -> Result<Read, StateError> {
    let incarnation = StoreIncarnation(core.draw_number());
    let store = core.stores.open(dataset, Creation::new(dataset, incarnation))?;
    let opened = Opened::read(&*store, EpochKey::derive(dataset.as_str(), 0))?;
    let at = Moment { now: core.clock.now(), wall: core.clock.wall() };
    let rng = fastrand::Rng::with_seed(core.draw_number());
    let queue = Queue::open(&*store, core.config.queue_limits(config), rng, at)?;
    let limits = HistoryLimits {
        rounds_max: core.config.history_rounds_max,
        age_max: core.config.history_age_max,
        peers_max: core.config.peers_max,
    };
    let books = Books {
        access: AccessBook::open(&*store, AccessLimits::default())?,
        peers: PeerBook::open(&*store, limits)?,
    };
    let highest = store.head(&core.author)?.map_or(AuthorSequence(0), |head| head.highest);
    // An author that has used up all numbers is told so when it signs.
    let next = highest.next().unwrap_or(AuthorSequence(0));
    Ok(Read { store, opened, queue, books, next })
}
