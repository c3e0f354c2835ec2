//! The task of one dataset: what happened goes into the replica, what it wants done is done.

mod delivery;
mod events;
mod room;
mod streams;
mod writes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_core::{Instant, NodeId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::engine::{
    SyncError, Written,
    core::{Core, lock, stopped},
    dataset::{Ask, Dataset, FromPeer},
    link::Link,
};
use crate::{
    EntryId,
    entry::{Author, Entry, Outcome, Verified, verify_batch},
    queue::{Moment, Queue},
    replica::{
        Done, Job, JobId, Message, PeerStatus, Replica, SubmissionId, SyncEvent, Transmit, Verdict, Work,
    },
    state::JournalTicket,
    store::StoreError,
};

/// Entries whose signatures are worth a thread of their own.
const VERIFY_EACH_MIN: usize = 64;
/// Entries and bytes of a delivery of the queue.
const DELIVERY_ENTRIES: usize = 256;
const DELIVERY_BYTES: u64 = 4 << 20;
/// How long a peer may take to confirm a delivery.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(15);
/// How often what has no deadline of its own is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Least time between two looks at timers.
const TIMER_PAUSE: Duration = Duration::from_millis(1);
/// Rounds with one peer that end equal are remembered at most this often.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often what scrapes read is brought up to date.
const BOARD_EVERY: Duration = Duration::from_millis(250);
const MINUTE: Duration = Duration::from_secs(60);

/// What came of work on another thread.
enum Ended {
    Job(JobId, Result<Done, StoreError>, Option<Duration>),
    Books(Tickets, Result<(), StoreError>),
    /// The disk has no room for it.
    NoRoom(room::Held, StoreError),
    /// Whether it has.
    Room(Result<(), StoreError>),
}

/// What a write of records covers.
#[derive(Clone, Copy, Default)]
struct Tickets {
    queue: Option<JournalTicket>,
    peers: Option<JournalTicket>,
    access: Option<JournalTicket>,
}

/// Who waits for entries to be durable.
enum Waiter {
    Write(oneshot::Sender<Result<Written, SyncError>>),
    Entries(oneshot::Sender<Result<Vec<Outcome>, SyncError>>),
}

struct Submission {
    entries: Vec<Verified>,
    waiter: Waiter,
}

/// A round with a peer that is under way.
struct RoundSoFar {
    begun: Instant,
    bytes_sent: u64,
    bytes_received: u64,
    entries_sent: u64,
    entries_received: u64,
    reconcile_bytes: u64,
    recorded: Option<Instant>,
    note: String,
    /// Since when the peer has been behind.
    behind: Instant,
    /// When its progress was told, and entries and bytes since.
    told: Instant,
    moved: (u64, u64),
}

impl RoundSoFar {
    fn begin(now: Instant) -> Self {
        Self {
            begun: now,
            bytes_sent: 0,
            bytes_received: 0,
            entries_sent: 0,
            entries_received: 0,
            reconcile_bytes: 0,
            recorded: None,
            note: String::new(),
            behind: now,
            told: now,
            moved: (0, 0),
        }
    }

    fn note_moved(&mut self, entries: usize, bytes: u64) {
        self.moved.0 += entries as u64;
        self.moved.1 += bytes;
    }
}

/// A delivery of the queue that waits for the peer to confirm it.
struct Delivery {
    entries: Vec<EntryId>,
    /// Where our arrivals stood.
    arrival: u64,
    until: Instant,
}

/// Told how peers stand whenever that may have changed; `true` once it has seen enough.
pub(in crate::engine) type Observer = Box<dyn FnMut(&[PeerStatus], Instant) -> bool + Send>;

pub(in crate::engine) struct Actor {
    pub(in crate::engine) core: Arc<Core>,
    pub(in crate::engine) dataset: Arc<Dataset>,
    pub(in crate::engine) replica: Replica,
    pub(in crate::engine) queue: Queue,
    author: Author,
    inbox: mpsc::Receiver<FromPeer>,
    asks: mpsc::Receiver<Ask>,
    jobs: JoinSet<Ended>,
    pub(in crate::engine) links: BTreeMap<NodeId, Arc<Link>>,
    submissions: BTreeMap<SubmissionId, Submission>,
    rounds: BTreeMap<NodeId, RoundSoFar>,
    deliveries: BTreeMap<NodeId, Delivery>,
    writing_books: bool,
    /// Writes that wait for room on the disk.
    held: Vec<room::Held>,
    /// Who waits for records that are not being written yet, and for those that are.
    book_waiters: Vec<Box<dyn FnOnce() + Send>>,
    written_waiters: Vec<Box<dyn FnOnce() + Send>>,
    observers: Vec<Observer>,
    pub(in crate::engine) blobs: crate::engine::blobs::Blobs,
    /// Peers that there is to be a stream to, and is none.
    absent: Vec<NodeId>,
    next_board: Instant,
    next_minute: Instant,
    /// When timers were looked at last.
    looked_at: Instant,
    stopping: bool,
}

impl Actor {
    pub(in crate::engine) fn new(
        core: Arc<Core>,
        dataset: Arc<Dataset>,
        replica: Replica,
        queue: Queue,
        author: Author,
        inbox: mpsc::Receiver<FromPeer>,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        let (next_board, next_minute) = (core.clock.now(), core.clock.now());
        Self {
            core,
            dataset,
            replica,
            queue,
            author,
            inbox,
            asks,
            jobs: JoinSet::new(),
            links: BTreeMap::new(),
            submissions: BTreeMap::new(),
            rounds: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            writing_books: false,
            held: Vec::new(),
            book_waiters: Vec::new(),
            written_waiters: Vec::new(),
            observers: Vec::new(),
            blobs: crate::engine::blobs::Blobs::default(),
            absent: Vec::new(),
            next_board,
            next_minute,
            looked_at: next_board,
            stopping: false,
        }
    }

    pub(in crate::engine) async fn run(mut self) {
        let mut stop = self.core.stop.subscribe();
        let dataset = Arc::clone(&self.dataset);
        for peer in self.dataset.active() {
            self.replica.add_peer(self.core.now(), &peer);
        }
        lock(&self.dataset.board).prune_digest = self.replica.prune_digest();
        self.note_absent();
        loop {
            self.drain();
            if self.stopping && self.jobs.is_empty() {
                break;
            }
            let wait = self.wait();
            if wait.is_zero() && !self.stopping {
                // However much comes in, timers have their turn.
                self.on_time();
                continue;
            }
            tokio::select! {
                Some(ended) = self.jobs.join_next() => match ended {
                    Ok(ended) => self.on_ended(ended),
                    Err(_) => self.fail("a thread that worked for it has died"),
                },
                () = stopped(&mut stop), if !self.stopping => self.stopping = true,
                Some(message) = self.inbox.recv(), if !self.stopping => self.on_message(message),
                Some(ask) = self.asks.recv(), if !self.stopping => ask(&mut self),
                () = dataset.wake.notified(), if !self.stopping => self.look_at_links(),
                () = tokio::time::sleep(wait), if !self.stopping => self.on_time(),
            }
        }
        tracing::debug!(dataset = %self.dataset.id, "dataset closed");
    }

    /// Until timers are to be looked at; zero if they are due.
    fn wait(&self) -> Duration {
        let now = self.core.clock.now();
        let watched = !self.deliveries.is_empty() || !self.observers.is_empty();
        let most = if watched { LOOK_EVERY } else { Duration::from_millis(500) };
        let latest = self.looked_at + most;
        let due = self.replica.poll_timeout().map_or(latest, |due| due.min(latest));
        // A timer that is due already lets others run first, for a moment.
        due.max(self.looked_at + TIMER_PAUSE).since(now)
    }

    fn on_time(&mut self) {
        let now = self.core.now();
        self.looked_at = now.at;
        self.look_at_links();
        self.replica.handle_timeout(now);
        if now.at >= self.next_board {
            self.next_board = now.at + BOARD_EVERY;
            self.look_for_room();
            let mut board = lock(&self.dataset.board);
            board.peers = self.replica.peers();
            board.queue = self.queue.stats();
            drop(board);
            self.note_absent();
            self.tell_progress();
        }
        if now.at >= self.next_minute {
            self.next_minute = now.at + MINUTE;
            self.queue.handle_timeout(self.moment());
            lock(&self.dataset.books).access.expire(now.wall);
            self.restate_prunes();
        }
    }

    pub(in crate::engine) fn moment(&self) -> Moment {
        Moment { now: self.core.clock.now(), wall: self.core.clock.wall() }
    }

    /// Carries out what the replica wants, and looks at what may have changed with it.
    fn drain(&mut self) {
        if self.stopping {
            return;
        }
        loop {
            let mut idle = true;
            while let Some(transmit) = self.replica.poll_transmit() {
                idle = false;
                self.carry(transmit);
            }
            while let Some(job) = self.replica.poll_job() {
                idle = false;
                self.start(job);
            }
            idle &= !self.drain_events();
            if idle {
                break;
            }
        }
        self.deliver();
        if !self.deliveries.is_empty() || !self.observers.is_empty() {
            self.observe();
        }
        self.write_books();
    }

    /// Whether there were any.
    fn drain_events(&mut self) -> bool {
        let (mut any, mut submitted) = (false, Vec::new());
        while let Some(event) = self.replica.poll_event() {
            any = true;
            match event {
                // Whoever has written something reads it back: the view is brought up to date first.
                SyncEvent::Submitted { submission, outcomes } => submitted.push((submission, outcomes)),
                event => self.on_event(event),
            }
        }
        for (submission, outcomes) in submitted {
            self.on_submitted(submission, outcomes);
        }
        any
    }

    fn carry(&mut self, Transmit { to, message }: Transmit) {
        let Some(link) = self.links.get(&to) else { return };
        if let Some(round) = self.rounds.get_mut(&to) {
            match &message {
                Message::Entries { entries, .. } => {
                    let bytes = entries.iter().map(|(_, body)| body.len() as u64).sum::<u64>();
                    round.entries_sent += entries.len() as u64;
                    round.bytes_sent += bytes;
                    round.note_moved(entries.len(), bytes);
                }
                Message::Reconcile { frame, .. } => {
                    round.bytes_sent += frame.len() as u64;
                    round.reconcile_bytes += frame.len() as u64;
                }
                _ => {}
            }
        }
        if let Message::Ack { verdicts, .. } = &message {
            self.count("in", verdicts);
        }
        if !link.send(&self.dataset.id, &message) {
            self.core.counters.lock().dropped_frames += 1;
        }
    }

    fn count(&self, direction: &'static str, verdicts: &[Verdict]) {
        for run in verdicts.chunk_by(|a, b| a == b) {
            let outcome = match run[0] {
                Verdict::Stored => "stored",
                Verdict::Duplicate => "duplicate",
                Verdict::Deferred | Verdict::Orphan => "deferred",
                Verdict::Rejected => "rejected",
                Verdict::Busy => "busy",
            };
            self.core.counters.entries(direction, outcome, run.len() as u64);
        }
    }

    fn start(&mut self, Job { id, work }: Job) {
        let store = Arc::clone(&self.dataset.store);
        match work {
            Work::Verify(entries) if entries.len() >= 2 * VERIFY_EACH_MIN => {
                self.jobs.spawn(async move {
                    Ended::Job(id, Ok(Done::Verified(verify_on_all_cores(entries).await)), None)
                });
            }
            work if work.writes() => self.start_write(room::Held::Job(Job { id, work })),
            work => {
                self.jobs.spawn_blocking(move || Ended::Job(id, work.perform(&*store), None));
            }
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        match ended {
            Ended::Job(id, result, took) => {
                if let Some(took) = took {
                    self.core.counters.lock().apply.time(took);
                }
                self.replica.handle_done(self.core.now(), id, result);
                if self.stopping {
                    // Whoever waits for a write that has just become durable is told.
                    self.drain_events();
                }
            }
            Ended::Books(tickets, result) => self.on_books(tickets, result),
            Ended::NoRoom(write, full) => self.on_no_room(write, &full),
            Ended::Room(room) => self.on_room(room),
        }
    }

    fn on_message(&mut self, FromPeer { link, message }: FromPeer) {
        let is_known =
            |actor: &Self| actor.links.get(&link.peer).is_some_and(|known| known.serial == link.serial);
        if !is_known(self) {
            self.look_at_links();
            if !is_known(self) {
                return;
            }
        }
        if let Some(round) = self.rounds.get_mut(&link.peer) {
            match &message {
                Message::Entries { entries, .. } => {
                    let bytes = entries.iter().map(|(_, body)| body.len() as u64).sum::<u64>();
                    round.entries_received += entries.len() as u64;
                    round.bytes_received += bytes;
                    round.note_moved(entries.len(), bytes);
                }
                Message::Reconcile { frame, .. } => {
                    round.bytes_received += frame.len() as u64;
                    round.reconcile_bytes += frame.len() as u64;
                }
                _ => {}
            }
        }
        if let Message::Ack { verdicts, .. } = &message {
            self.count("out", verdicts);
        }
        self.replica.handle_message(self.core.now(), &link.peer, message);
    }
}

/// Checks signatures on as many threads as there are cores.
pub(in crate::engine) async fn verify_on_all_cores(
    entries: Vec<Entry>,
) -> Vec<Result<Verified, crate::entry::SignatureError>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let each = entries.len().div_ceil(cores).max(VERIFY_EACH_MIN);
    let parts: Vec<_> = entries
        .chunks(each)
        .map(|part| {
            let part = part.to_vec();
            (part.clone(), tokio::task::spawn_blocking(move || verify_batch(part)))
        })
        .collect();
    let mut results = Vec::with_capacity(entries.len());
    for (part, checked) in parts {
        match checked.await {
            Ok(checked) => results.extend(checked),
            // The thread was killed: checked here, so that each entry has its answer.
            Err(_) => results.extend(verify_batch(part)),
        }
    }
    results
}
