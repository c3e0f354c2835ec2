//! What the tasks of an engine share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use mesh_core::{
    Clock, ClusterName, Hlc, HlcClock, HlcError, Instant, NodeId, Settings, Validated, WallTime,
};
use tokio::{
    sync::{Notify, Semaphore, broadcast, mpsc, watch},
    task::JoinSet,
};

use super::{
    Carrier, EngineError, EngineEvent, EngineOptions, Events, SyncError,
    commands::{chunks, prune},
    dataset::{self, Dataset, FromPeer},
    dial,
    event::EVENTS_MAX,
    hooks::{HookWork, Hooks},
    link::Link,
};
use crate::{
    blob::ChunkStore,
    config::{DatasetConfig, SyncConfig},
    counters::Counters,
    entry::{AuthorId, AuthorKey, DatasetId},
    lanes::Bucket,
    replica::{Now, ReplicaConfig},
    store::Datasets,
    ticket::TicketPeer,
};

/// Streams of peers in all, those whose handshake is under way included.
const STREAMS_MAX: usize = 4096;
/// A replica names whoever is behind for this long, whatever the node's settings tolerate.
const LAG_LIMIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Handshakes of peers at once.
const HANDSHAKES_MAX: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a node that may be called.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub(super) addresses: Vec<String>,
    pub(super) failures: u32,
    pub(super) next_attempt: Instant,
    pub(super) dialling: bool,
    pub(super) problem: Option<String>,
}

pub(crate) struct Core {
    pub(super) local: NodeId,
    pub(super) cluster: ClusterName,
    pub(super) config: Validated<SyncConfig>,
    pub(super) key: AuthorKey,
    pub(super) author: AuthorId,
    pub(super) pruners: BTreeSet<AuthorId>,
    pub(super) stores: Arc<dyn Datasets>,
    pub(super) chunks: Arc<dyn ChunkStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) carrier: Arc<dyn Carrier>,
    pub(super) addresses: Vec<TicketPeer>,
    pub(super) replica: ReplicaConfig,
    pub(crate) counters: Counters,
    seed: [u8; 32],
    drawn: AtomicU64,
    serials: AtomicU64,
    stamps: Mutex<HlcClock>,
    datasets: RwLock<BTreeMap<DatasetId, Arc<Dataset>>>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    pub(super) members: Mutex<BTreeMap<NodeId, Member>>,
    /// Wakes the task that connects.
    pub(super) dial: Notify,
    pub(super) events: broadcast::Sender<EngineEvent>,
    pub(super) hooks: Hooks,
    pub(super) serving: AtomicBool,
    pub(super) streams: Arc<Semaphore>,
    pub(super) handshakes: Semaphore,
    rate: Option<Mutex<Bucket>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) tasks: Mutex<JoinSet<()>>,
    pub(super) opening: tokio::sync::Mutex<()>,
}

impl Core {
    pub(super) async fn start(options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        let now = options.clock.now();
        let total = options.config.lane_limits().total;
        let (hooks, work) = Hooks::new();
        let core = Arc::new(Self {
            author: options.author.id(),
            local: options.local,
            cluster: options.cluster,
            pruners: options.config.pruners(),
            config: options.config,
            key: options.author,
            stores: options.stores,
            chunks: options.chunks,
            clock: options.clock,
            carrier: options.carrier,
            addresses: options.addresses,
            replica: options.replica,
            counters: Counters::default(),
            seed: options.seed,
            drawn: AtomicU64::new(0),
            serials: AtomicU64::new(0),
            // A timestamp counts once its entry is stored, so that the stores are the mark.
            stamps: Mutex::new(HlcClock::resume(None, Duration::MAX)),
            datasets: RwLock::default(),
            links: Mutex::default(),
            members: Mutex::default(),
            dial: Notify::new(),
            events: broadcast::Sender::new(EVENTS_MAX),
            hooks,
            serving: AtomicBool::new(true),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            rate: total.map(|rate| Mutex::new(Bucket::new(rate, now))),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        });
        if let Err(error) = core.open_all().await {
            core.shutdown().await;
            return Err(error);
        }
        core.spawn(run_hooks(Arc::clone(&core), work));
        core.spawn(dial::run(Arc::clone(&core)));
        core.spawn(chunks::run(Arc::clone(&core)));
        core.spawn(prune::run(Arc::clone(&core)));
        Ok(core)
    }

    async fn open_all(self: &Arc<Self>) -> Result<(), EngineError> {
        let stores = Arc::clone(&self.stores);
        let joined = tokio::task::spawn_blocking(move || stores.datasets()).await;
        let joined = joined.map_err(|_| EngineError::Interrupted)?.map_err(EngineError::Stores)?;
        let mut wanted: BTreeMap<DatasetId, DatasetConfig> = BTreeMap::new();
        for dataset in joined {
            let config = DatasetConfig { name: dataset.as_str().to_owned(), ..DatasetConfig::default() };
            wanted.insert(dataset, config);
        }
        for config in &self.config.datasets {
            wanted.insert(DatasetId::new(&config.name)?, config.clone());
        }
        // Side by side: large ones take a core each to be read.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let opening = wanted.into_iter().map(|(dataset, config)| self.open_new(dataset, config));
        let mut opening = stream::iter(opening).buffer_unordered(cores);
        while let Some(opened) = opening.next().await {
            opened?;
        }
        Ok(())
    }

    /// Opens a dataset and starts its task, if it is not open yet.
    pub(super) async fn open(
        self: &Arc<Self>,
        dataset: DatasetId,
        config: DatasetConfig,
    ) -> Result<Arc<Dataset>, EngineError> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(open) = self.find(&dataset) {
            return Ok(open);
        }
        self.open_new(dataset, config).await
    }

    async fn open_new(
        self: &Arc<Self>,
        dataset: DatasetId,
        config: DatasetConfig,
    ) -> Result<Arc<Dataset>, EngineError> {
        let opened = dataset::open(self, dataset.clone(), config).await?;
        self.datasets.write().unwrap_or_else(PoisonError::into_inner).insert(dataset, Arc::clone(&opened));
        self.dial.notify_one();
        Ok(opened)
    }

    /// Settings of a replica.
    pub(super) fn replica_config(&self, dataset: &DatasetConfig) -> Validated<ReplicaConfig> {
        let config = ReplicaConfig {
            heartbeat_interval: dataset.check_interval.unwrap_or(self.config.check_interval),
            batch_entries_max: self.config.batch_entries,
            lag_limit: self.config.lag_degraded.clamp(Duration::from_secs(1), LAG_LIMIT_MAX),
            max_drift: self.config.max_drift,
            tombstone_retention: self.config.tombstone_retention,
            ..self.replica.clone()
        };
        // What the section allows is allowed here; what tests change is their own affair.
        config
            .clone()
            .validate()
            .or_else(|_| ReplicaConfig::default().validate())
            .expect("the defaults are valid")
    }

    pub(super) async fn shutdown(&self) {
        self.stop.send_replace(true);
        for link in self.links() {
            link.close("this node shuts down");
        }
        self.dial.notify_one();
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        while tasks.join_next().await.is_some() {}
        let datasets = std::mem::take(&mut *self.datasets.write().unwrap_or_else(PoisonError::into_inner));
        // Closing a store may write and join threads.
        let _ = tokio::task::spawn_blocking(move || drop(datasets)).await;
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(super) fn now(&self) -> Now {
        Now { at: self.clock.now(), wall: self.clock.wall() }
    }

    pub(super) fn draw(&self) -> [u8; 32] {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        *blake3::keyed_hash(&self.seed, &number.to_le_bytes()).as_bytes()
    }

    pub(super) fn draw_number(&self) -> u64 {
        self.draw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The clock goes on above an entry that is held.
    pub(super) fn note_stamp(&self, hlc: Hlc) {
        // The mark is out of reach, and so is the bound: what is held was let in before.
        let merged = lock(&self.stamps).merge(WallTime(0), hlc);
        debug_assert!(merged.is_ok(), "nothing held is beyond the clock's end: {merged:?}");
    }

    pub(super) fn stamp(&self) -> Result<Hlc, HlcError> {
        lock(&self.stamps).issue(self.clock.wall())
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.events.subscribe())
    }

    pub(super) fn tell(&self, event: EngineEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    pub(super) fn find(&self, dataset: &DatasetId) -> Option<Arc<Dataset>> {
        self.datasets.read().unwrap_or_else(PoisonError::into_inner).get(dataset).cloned()
    }

    pub(super) fn dataset(&self, dataset: &DatasetId) -> Result<Arc<Dataset>, SyncError> {
        self.find(dataset).ok_or_else(|| match self.is_stopping() {
            true => SyncError::Stopped,
            false => SyncError::UnknownDataset { dataset: dataset.clone() },
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Dataset>> {
        self.datasets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn weight(&self, dataset: &DatasetId) -> u32 {
        self.find(dataset).map_or(1, |dataset| dataset.config.priority)
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).values().cloned().collect()
    }

    pub(super) fn link(&self, peer: &NodeId) -> Option<Arc<Link>> {
        lock(&self.links).get(peer).filter(|link| link.is_open()).cloned()
    }

    /// Takes up a stream. There is one for each peer: of two that were opened at once, both sides keep that of the node
    /// whose name comes first. `false` if this one is not kept.
    pub(super) fn register(&self, link: &Arc<Link>) -> bool {
        if self.is_stopping() {
            return false;
        }
        let now = self.clock.now();
        let replaced = {
            let mut links = lock(&self.links);
            let earlier = links.get(&link.peer).filter(|earlier| earlier.is_open()).cloned();
            if let Some(earlier) = &earlier {
                let by_first = link.dialled == (self.local < link.peer);
                if earlier.dialled != link.dialled && !by_first && !earlier.is_stale(now) {
                    return false;
                }
            }
            links.insert(link.peer.clone(), Arc::clone(link));
            earlier
        };
        if let Some(earlier) = replaced {
            earlier.close("a newer stream has taken its place");
        }
        if let Some(member) = lock(&self.members).get_mut(&link.peer) {
            member.failures = 0;
            member.problem = None;
        }
        self.wake(&link.datasets);
        self.tell(EngineEvent::Connected {
            peer: link.peer.clone(),
            author: link.author,
            datasets: link.datasets.clone(),
        });
        tracing::debug!(peer_id = %link.peer, datasets = link.datasets.len(), dialled = link.dialled, "sync stream opened");
        true
    }

    pub(super) fn unregister(&self, link: &Arc<Link>) {
        {
            let mut links = lock(&self.links);
            if links.get(&link.peer).is_some_and(|known| known.serial == link.serial) {
                links.remove(&link.peer);
            }
        }
        self.wake(&link.datasets);
        self.dial.notify_one();
        let reason = link.reason();
        tracing::debug!(peer_id = %link.peer, %reason, "sync stream ended");
        self.tell(EngineEvent::Disconnected { peer: link.peer.clone(), reason });
    }

    /// Ends the stream of a peer, so that a new one opens what may be open by now.
    pub(super) fn reopen(&self, peer: &NodeId, why: &str) {
        if let Some(link) = self.link(peer) {
            link.close(why);
        }
        if let Some(member) = lock(&self.members).get_mut(peer) {
            member.next_attempt = Instant::ZERO;
        }
        self.dial.notify_one();
    }

    fn wake(&self, datasets: &[DatasetId]) {
        for dataset in datasets {
            if let Some(dataset) = self.find(dataset) {
                dataset.wake.notify_one();
            }
        }
    }

    /// Gives a message to the task of its dataset, waiting while that is busy.
    pub(super) async fn deliver(&self, dataset: &DatasetId, message: FromPeer) {
        if let Some(dataset) = self.find(dataset) {
            // Gone if the dataset has stopped.
            let _ = dataset.inbox.send(message).await;
        }
    }

    /// How long all streams have to wait for the limit of them together.
    pub(super) fn total_rate_wait(&self, now: Instant) -> Option<Duration> {
        let bucket = lock(self.rate.as_ref()?);
        (!bucket.allows(now)).then(|| bucket.ready_at().since(now).min(Duration::from_millis(250)))
    }

    pub(super) fn note_sent(&self, bytes: usize, now: Instant) {
        self.counters.lock().bytes_out += bytes as u64;
        if let Some(rate) = &self.rate {
            lock(rate).take(bytes as u64, now);
        }
    }
}

/// Resolves when the engine stops.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the engine is gone altogether.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn run_hooks(core: Arc<Core>, mut work: mpsc::Receiver<HookWork>) {
    let mut stop = core.stop.subscribe();
    loop {
        tokio::select! {
            biased;
            Some(work) = work.recv() => core.run_hooks(work).await,
            () = stopped(&mut stop) => break,
        }
    }
    // What was committed before the end is seen by hooks all the same.
    while let Ok(work) = work.try_recv() {
        core.run_hooks(work).await;
    }
}
