//! The task of one dataset: what happened goes into the replica, what it wants done is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh_core::{Instant, NodeId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Change, EngineEvent, SyncError, Written,
    core::{Core, lock, stopped},
    dataset::{Ask, Dataset, FromPeer, tell},
    link::Link,
};
use crate::{
    EntryId,
    entry::{
        Author, AuthorSequence, Draft, DraftError, Entry, Kind, Outcome, Rejection, Verified, verify_batch,
    },
    queue::{Delivered, Enqueued, Moment, Queue, SendFailure},
    replica::{
        Done, Job, JobId, Message, PeerStatus, Replica, SubmissionId, SyncEvent, Transmit, Verdict, Work,
    },
    state::{JournalTicket, Relationship, Round, RoundEnd, Standing},
    store::{MetadataWrite, StoreError},
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
/// Rounds with one peer that end equal are remembered at most this often.
const ROUND_EVERY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// What came of work on another thread.
enum Ended {
    Job(JobId, Result<Done, StoreError>, Option<Duration>),
    Books(Tickets, Result<(), StoreError>),
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
}

/// A delivery of the queue that waits for the peer to confirm it.
struct Delivery {
    entries: Vec<EntryId>,
    /// Where our arrivals stood.
    arrival: u64,
    until: Instant,
}

/// Told how peers stand whenever that may have changed; `true` once it has seen enough.
pub(super) type Observer = Box<dyn FnMut(&[PeerStatus], Instant) -> bool + Send>;

pub(super) struct Actor {
    pub(super) core: Arc<Core>,
    pub(super) dataset: Arc<Dataset>,
    pub(super) replica: Replica,
    pub(super) queue: Queue,
    author: Author,
    inbox: mpsc::Receiver<FromPeer>,
    asks: mpsc::Receiver<Ask>,
    jobs: JoinSet<Ended>,
    pub(super) links: BTreeMap<NodeId, Arc<Link>>,
    submissions: BTreeMap<SubmissionId, Submission>,
    rounds: BTreeMap<NodeId, RoundSoFar>,
    deliveries: BTreeMap<NodeId, Delivery>,
    writing_books: bool,
    /// Who waits for records that are not being written yet, and for those that are.
    book_waiters: Vec<Box<dyn FnOnce() + Send>>,
    written_waiters: Vec<Box<dyn FnOnce() + Send>>,
    observers: Vec<Observer>,
    pub(super) blobs: super::blobs::Blobs,
    next_minute: Instant,
    stopping: bool,
}

impl Actor {
    pub(super) fn new(
        core: Arc<Core>,
        dataset: Arc<Dataset>,
        replica: Replica,
        queue: Queue,
        author: Author,
        inbox: mpsc::Receiver<FromPeer>,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        let next_minute = core.clock.now();
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
            book_waiters: Vec::new(),
            written_waiters: Vec::new(),
            observers: Vec::new(),
            blobs: super::blobs::Blobs::default(),
            next_minute,
            stopping: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut stop = self.core.stop.subscribe();
        let dataset = Arc::clone(&self.dataset);
        for peer in self.dataset.active() {
            self.replica.add_peer(self.core.now(), &peer);
        }
        lock(&self.dataset.board).prune_digest = self.replica.prune_digest();
        loop {
            self.drain();
            if self.stopping && self.jobs.is_empty() {
                break;
            }
            let wait = self.wait();
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

    fn wait(&self) -> Duration {
        let now = self.core.clock.now();
        let watched = !self.deliveries.is_empty() || !self.observers.is_empty();
        let most = if watched { LOOK_EVERY } else { Duration::from_millis(500) };
        let due = self.replica.poll_timeout().map_or(most, |due| due.since(now));
        // A timer that is due already lets others run first.
        due.min(most).max(Duration::from_millis(1))
    }

    fn on_time(&mut self) {
        let now = self.core.now();
        self.look_at_links();
        self.replica.handle_timeout(now);
        {
            let mut board = lock(&self.dataset.board);
            board.peers = self.replica.peers();
            board.queue = self.queue.stats();
        }
        if now.at >= self.next_minute {
            self.next_minute = now.at + MINUTE;
            self.queue.handle_timeout(self.moment());
            lock(&self.dataset.books).access.expire(now.wall);
        }
    }

    pub(super) fn moment(&self) -> Moment {
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
                    round.entries_sent += entries.len() as u64;
                    round.bytes_sent += entries.iter().map(|(_, body)| body.len() as u64).sum::<u64>();
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
        let clock = Arc::clone(&self.core.clock);
        match work {
            Work::Verify(entries) if entries.len() >= 2 * VERIFY_EACH_MIN => {
                self.jobs.spawn(async move {
                    Ended::Job(id, Ok(Done::Verified(verify_on_all_cores(entries).await)), None)
                });
            }
            work => {
                self.jobs.spawn_blocking(move || {
                    let begun = clock.now();
                    let result = work.perform(&*store);
                    let took = matches!(work, Work::Insert { .. }).then(|| clock.now().since(begun));
                    Ended::Job(id, result, took)
                });
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
                    round.entries_received += entries.len() as u64;
                    round.bytes_received += entries.iter().map(|(_, body)| body.len() as u64).sum::<u64>();
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

    /// Compares the streams that there are with those that the replica knows.
    fn look_at_links(&mut self) {
        let mut current: BTreeMap<NodeId, Arc<Link>> = BTreeMap::new();
        for link in self.core.links() {
            if link.is_open() && link.number_of(&self.dataset.id).is_some() {
                current.insert(link.peer.clone(), link);
            }
        }
        let gone: Vec<NodeId> =
            self.links.keys().filter(|peer| !current.contains_key(*peer)).cloned().collect();
        for peer in gone {
            self.links.remove(&peer);
            self.replica.handle_disconnected(self.core.now(), &peer);
        }
        for (peer, link) in current {
            if self.links.get(&peer).is_some_and(|known| known.serial == link.serial) {
                continue;
            }
            let now = self.core.now();
            let round = RoundSoFar {
                begun: now.at,
                bytes_sent: 0,
                bytes_received: 0,
                entries_sent: 0,
                entries_received: 0,
                reconcile_bytes: 0,
                recorded: None,
                note: String::new(),
                behind: now.at,
            };
            self.rounds.insert(peer.clone(), round);
            self.links.insert(peer.clone(), link);
            self.relate_connected(&peer);
            lock(&self.dataset.board).problems.remove(&peer);
            self.replica.handle_connected(now, &peer);
        }
    }

    /// A node that was let in is a peer from then on, so that it is known while it is away.
    fn relate_connected(&mut self, peer: &NodeId) {
        let known = lock(&self.dataset.books).peers.relationship(peer).is_some();
        if !known {
            // With no room it is served, and pruning does not wait for it.
            let _ = self.relate(peer, Vec::new());
        }
    }

    /// Makes a node a peer.
    pub(super) fn relate(&mut self, peer: &NodeId, addresses: Vec<String>) -> Result<(), SyncError> {
        let now = self.core.now();
        {
            let mut books = lock(&self.dataset.books);
            let known = books.peers.relationship(peer).cloned();
            let is_active = known.as_ref().is_some_and(|known| known.standing == Standing::Active);
            let author = self.links.get(peer).map(|link| link.author);
            let relationship = match known {
                Some(known) => Relationship {
                    standing: Standing::Active,
                    addresses: if addresses.is_empty() { known.addresses.clone() } else { addresses },
                    ..known
                },
                None => Relationship { author, addresses, standing: Standing::Active, since: now.wall },
            };
            if books.peers.relationship(peer) != Some(&relationship) {
                books.peers.add(peer, relationship)?;
            } else if is_active {
                return Ok(());
            }
        }
        self.replica.add_peer(now, peer);
        self.core.dial.notify_one();
        Ok(())
    }

    /// Ends a relationship.
    pub(super) fn part(&mut self, peer: &NodeId) -> bool {
        let was = lock(&self.dataset.books).peers.remove(peer);
        let now = self.core.now();
        self.replica.retire(now, peer);
        self.queue.remove_peer(peer);
        self.deliveries.remove(peer);
        was
    }

    pub(super) fn retire(&mut self, peer: &NodeId) -> bool {
        let mut books = lock(&self.dataset.books);
        let Some(known) = books.peers.relationship(peer).cloned() else { return false };
        // It was there, so there is room.
        let _ = books.peers.add(peer, Relationship { standing: Standing::Retired, ..known });
        drop(books);
        self.replica.retire(self.core.now(), peer);
        true
    }

    fn on_event(&mut self, event: SyncEvent) {
        let dataset = self.dataset.id.clone();
        match event {
            SyncEvent::Submitted { submission, outcomes } => self.on_submitted(submission, outcomes),
            SyncEvent::Committed(entries) => self.on_committed(&entries),
            SyncEvent::Equivocation(equivocation) => {
                self.core.counters.lock().equivocations += 1;
                tracing::warn!(
                    %dataset,
                    author = %equivocation.author,
                    sequence = %equivocation.sequence,
                    "an author gave one number to two entries; both are kept"
                );
                self.core.tell(EngineEvent::Equivocation { dataset, equivocation });
            }
            SyncEvent::Deferred { .. } => {}
            SyncEvent::Rejected { peer, id, outcome } => {
                self.core.tell(EngineEvent::Rejected { dataset, peer, id, outcome });
            }
            SyncEvent::Pruned { removed, watermarks } => {
                self.dataset.view.forget(&watermarks);
                lock(&self.dataset.board).prune_digest = self.replica.prune_digest();
                self.core.tell(EngineEvent::Pruned { dataset, removed });
            }
            SyncEvent::InSync { peer } => self.on_in_sync(peer),
            SyncEvent::PeerLagging { peer, behind } => {
                tracing::warn!(%dataset, peer_id = %peer, ?behind, "a peer is behind; pruning waits for it");
                self.core.tell(EngineEvent::Lagging { dataset, peer });
            }
            SyncEvent::PeerCaughtUp { peer } => self.core.tell(EngineEvent::CaughtUp { dataset, peer }),
            SyncEvent::PeerStalled { peer } => {
                tracing::debug!(%dataset, peer_id = %peer, "a peer does not acknowledge what it is sent");
            }
            SyncEvent::Reconciled { peer, method, give, need } => {
                self.count_comparison(&peer, method.as_str(), "done");
                self.record(&peer, RoundEnd::Progress, method.as_str());
                self.core.tell(EngineEvent::Reconciled { dataset, peer, method, give, need });
            }
            SyncEvent::ReconcileFailed { peer, error } => {
                let why = error.map_or_else(|| "the peer fell silent".to_owned(), |error| error.to_string());
                self.count_comparison(&peer, "none", "failed");
                self.record(&peer, RoundEnd::Failed, &why);
            }
            SyncEvent::Stopped(error) => self.fail(&super::shake::describe(&error)),
        }
    }

    fn count_comparison(&mut self, peer: &NodeId, method: &'static str, outcome: &'static str) {
        let bytes = self.rounds.get_mut(peer).map_or(0, |round| std::mem::take(&mut round.reconcile_bytes));
        let mut numbers = self.core.counters.lock();
        *numbers.reconciliations.entry((method, outcome)).or_default() += 1;
        numbers.reconciliation_bytes.observe(bytes as f64);
    }

    fn on_in_sync(&mut self, peer: NodeId) {
        let now = self.core.now();
        let waited = self.queue.waiting_since(&peer).map(|queued| now.wall.0.saturating_sub(queued.0));
        let settled = self.queue.on_peer_equal(&peer);
        if let Some(waited) = waited.filter(|_| settled > 0) {
            self.core.counters.lock().queue.time(Duration::from_millis(waited));
        }
        if let Some(round) = self.rounds.get(&peer) {
            self.core.counters.lock().lag.time(now.at.since(round.behind.max(round.begun)));
        }
        if let Some(delivery) = self.deliveries.remove(&peer) {
            tracing::debug!(peer_id = %peer, entries = delivery.entries.len().max(settled), "a delivery is settled");
        }
        self.record(&peer, RoundEnd::Equal, "");
        let dataset = self.dataset.id.clone();
        self.core.tell(EngineEvent::InSync { dataset, peer });
    }

    /// Remembers how a round ended, and begins the next.
    fn record(&mut self, peer: &NodeId, end: RoundEnd, note: &str) {
        let now = self.core.now();
        let Some(round) = self.rounds.get_mut(peer) else { return };
        let is_soon = round.recorded.is_some_and(|at| now.at.since(at) < ROUND_EVERY);
        if is_soon && end == RoundEnd::Equal && round.entries_received + round.entries_sent == 0 {
            return;
        }
        let took = now.at.since(round.begun);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let record = Round {
            begun: mesh_core::WallTime(now.wall.0.saturating_sub(took_ms)),
            took,
            end,
            bytes_sent: std::mem::take(&mut round.bytes_sent),
            bytes_received: std::mem::take(&mut round.bytes_received),
            entries_sent: std::mem::take(&mut round.entries_sent),
            entries_received: std::mem::take(&mut round.entries_received),
            note: if note.is_empty() { std::mem::take(&mut round.note) } else { note.to_owned() },
        };
        round.begun = now.at;
        round.recorded = Some(now.at);
        // A peer that is only served is not in the book.
        let _ = lock(&self.dataset.books).peers.record(peer, record);
    }

    fn on_committed(&mut self, entries: &[Verified]) {
        for entry in entries {
            self.core.note_stamp(entry.hlc());
        }
        let changes: Vec<Change> = self.dataset.view.apply(entries);
        for change in &changes {
            if change.document.version.kind == Kind::Blob {
                self.want_blob(change.document.version.item.id, &change.payload);
            }
        }
        if !changes.is_empty() && self.dataset.changes.receiver_count() > 0 {
            // A watcher may have gone meanwhile.
            let _ = self.dataset.changes.send(Arc::new(changes));
        }
        self.core.offer_to_hooks(&self.dataset.id, entries);
        self.core.tell(EngineEvent::Committed { dataset: self.dataset.id.clone(), entries: entries.len() });
    }

    fn on_submitted(&mut self, submission: SubmissionId, outcomes: Vec<Outcome>) {
        let Some(Submission { entries, waiter }) = self.submissions.remove(&submission) else { return };
        for outcome in &outcomes {
            let outcome = match outcome {
                Outcome::Stored { .. } => "stored",
                Outcome::Duplicate => "duplicate",
                Outcome::Deferred(_) => "deferred",
                Outcome::Rejected(_) => "rejected",
            };
            self.core.counters.entries("local", outcome, 1);
        }
        let held: Vec<Verified> = entries
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_held())
            .map(|(entry, _)| entry.clone())
            .collect();
        let queued_for = self.queue_for_absent(&held);
        match waiter {
            Waiter::Entries(waiter) => drop(waiter.send(Ok(outcomes))),
            Waiter::Write(waiter) => {
                let (Some(entry), Some(outcome)) = (entries.into_iter().next(), outcomes.into_iter().next())
                else {
                    return;
                };
                let id = entry.id();
                drop(waiter.send(match outcome.is_held() {
                    true => Ok(Written { id, entry, queued_for }),
                    false => Err(SyncError::NotStored { id, outcome }),
                }));
            }
        }
    }

    /// What was written here waits for the peers that are away.
    fn queue_for_absent(&mut self, entries: &[Verified]) -> usize {
        if entries.is_empty() {
            return 0;
        }
        let at = self.moment();
        let wanted = self.dataset.wanted(&self.core.local);
        let absent: Vec<NodeId> = wanted.into_iter().filter(|peer| !self.links.contains_key(peer)).collect();
        for peer in &absent {
            for entry in entries {
                // Where there is no room, anti-entropy brings it there.
                let _ = self.queue.enqueue(peer, entry.id(), entry.encoded().len() as u64, at);
            }
        }
        absent.len()
    }

    /// Signs a draft and has it stored.
    pub(super) fn write(
        &mut self,
        draft: Draft,
        parent: Option<EntryId>,
        waiter: oneshot::Sender<Result<Written, SyncError>>,
    ) {
        let entry = match self.sign(draft, parent) {
            Ok(entry) => entry,
            Err(error) => return drop(waiter.send(Err(error.into()))),
        };
        let before = entry.sequence();
        if let Err((waiter, error)) = self.submit(vec![entry], Waiter::Write(waiter)) {
            // The number was not used, so that no gap is left behind.
            self.author = Author::new(self.core.key.clone(), self.dataset.id.clone(), before);
            if let Waiter::Write(waiter) = waiter {
                drop(waiter.send(Err(error)));
            }
        }
    }

    fn sign(&mut self, draft: Draft, parent: Option<EntryId>) -> Result<Verified, DraftError> {
        let author = self.author.id();
        let draft = draft.after(parent);
        let hlc = self.core.stamp().map_err(|_| DraftError::SequenceExhausted { author })?;
        self.author.sign(draft, hlc)
    }

    /// Takes entries whose signatures were checked.
    pub(super) fn take(
        &mut self,
        entries: Vec<Verified>,
        waiter: oneshot::Sender<Result<Vec<Outcome>, SyncError>>,
    ) {
        let entries_of_us: Option<AuthorSequence> = entries
            .iter()
            .filter(|entry| entry.author() == self.core.author)
            .map(|entry| entry.sequence())
            .max();
        match self.submit(entries, Waiter::Entries(waiter)) {
            Err((Waiter::Entries(waiter), error)) => drop(waiter.send(Err(error))),
            Err(_) => {}
            // Entries of our own key that were made elsewhere: go on behind them.
            Ok(()) => {
                if let Some(next) = entries_of_us.and_then(AuthorSequence::next)
                    && self.author.next_sequence().is_some_and(|ours| ours < next)
                {
                    self.author = Author::new(self.core.key.clone(), self.dataset.id.clone(), next);
                }
            }
        }
    }

    fn submit(&mut self, entries: Vec<Verified>, waiter: Waiter) -> Result<(), (Waiter, SyncError)> {
        let other = entries.iter().find(|entry| *entry.dataset() != self.dataset.id);
        if let Some(other) = other {
            let outcome = Outcome::Rejected(Rejection::OtherDataset { found: other.dataset().clone() });
            return Err((waiter, SyncError::NotStored { id: other.id(), outcome }));
        }
        match self.replica.submit(self.core.now(), entries.clone()) {
            Ok(submission) => {
                self.submissions.insert(submission, Submission { entries, waiter });
                Ok(())
            }
            Err(crate::replica::SubmitError::Stopped) => {
                let problem = lock(&self.dataset.board).failed.clone().unwrap_or_default();
                Err((waiter, SyncError::Failed { dataset: self.dataset.id.clone(), problem }))
            }
            Err(source) => Err((waiter, SyncError::Busy { dataset: self.dataset.id.clone(), source })),
        }
    }

    /// Queues an entry for a peer; `told` hears of it once that is durable.
    pub(super) fn enqueue(
        &mut self,
        peer: &NodeId,
        entry: &Entry,
        told: oneshot::Sender<Result<super::Queued, SyncError>>,
    ) {
        use super::Queued;
        let at = self.moment();
        let queued = match self.queue.enqueue(peer, entry.id(), entry.encoded().len() as u64, at) {
            Ok(Enqueued::New(_)) => Queued::New,
            Ok(Enqueued::Duplicate) => Queued::Duplicate,
            Ok(Enqueued::Dead) => Queued::Dead,
            Err(error) => return tell(told, Err(error.into())),
        };
        self.when_written(move || tell(told, Ok(queued)));
    }

    /// Hands deliveries of the queue to the replica, which brings peers what they lack, and to the task that connects.
    fn deliver(&mut self) {
        let at = self.moment();
        let mut more = false;
        while let Some(delivery) = self.queue.poll_delivery(at, DELIVERY_ENTRIES, DELIVERY_BYTES) {
            more = true;
            let arrival = self.replica.root().arrival.sequence;
            let until = at.now + DELIVERY_PATIENCE;
            if self.links.contains_key(&delivery.peer) {
                self.replica.check(self.core.now(), &delivery.peer);
            }
            self.deliveries.insert(delivery.peer, Delivery { entries: delivery.entries, arrival, until });
        }
        if more {
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
            self.core.dial.notify_one();
        }
    }

    /// A peer could not be reached.
    pub(super) fn on_unreachable(&mut self, peer: &NodeId, failure: SendFailure) {
        if self.links.contains_key(peer) {
            return;
        }
        let text = match &failure {
            SendFailure::Unreachable(text)
            | SendFailure::Busy(text)
            | SendFailure::Authentication(text)
            | SendFailure::Version(text)
            | SendFailure::Refused(text) => text.clone(),
        };
        lock(&self.dataset.board).problems.insert(peer.clone(), text);
        if self.deliveries.remove(peer).is_some() {
            // All addresses were tried by the carrier.
            self.queue.on_failed(peer, failure, self.moment());
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
        }
    }

    /// Looks whether what somebody waits for has come about.
    fn observe(&mut self) {
        let now = self.core.clock.now();
        let peers = self.replica.peers();
        let incarnation = self.replica.root().arrival.incarnation;
        let mut over = Vec::new();
        for (peer, delivery) in &self.deliveries {
            let status = peers.iter().find(|status| status.peer == *peer);
            let followed = status.and_then(|status| status.followed);
            let has_it =
                followed.is_some_and(|at| at.incarnation == incarnation && at.sequence >= delivery.arrival);
            if has_it {
                over.push((peer.clone(), true));
            } else if now >= delivery.until {
                over.push((peer.clone(), false));
            }
        }
        let at = self.moment();
        for (peer, held) in over {
            let Some(delivery) = self.deliveries.remove(&peer) else { continue };
            if held {
                let outcomes = delivery.entries.into_iter().map(|id| (id, Delivered::Held)).collect();
                self.queue.on_sent(&peer, outcomes, at);
            } else {
                let open_elsewhere = self.core.link(&peer).is_some() && !self.links.contains_key(&peer);
                let failure = match (open_elsewhere, self.links.contains_key(&peer)) {
                    (true, _) => {
                        SendFailure::Refused("the peer does not open the dataset to this node".into())
                    }
                    (_, true) => {
                        SendFailure::Busy(format!("it was not confirmed within {DELIVERY_PATIENCE:?}"))
                    }
                    _ => SendFailure::Unreachable(format!("no stream within {DELIVERY_PATIENCE:?}")),
                };
                self.queue.on_failed(&peer, failure, at);
            }
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
        }
        self.observers.retain_mut(|observer| !observer(&peers, now));
    }

    /// Shows `observer` how peers stand until it has seen enough.
    pub(super) fn add_observer(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Calls `told` once all changes to records up to now are durable.
    pub(super) fn when_written(&mut self, told: impl FnOnce() + Send + 'static) {
        self.book_waiters.push(Box::new(told));
    }

    /// Writes what has changed of queue, peers and requests; one write at a time.
    fn write_books(&mut self) {
        if self.writing_books {
            return;
        }
        let mut tickets = Tickets::default();
        let mut writes: Vec<MetadataWrite> = Vec::new();
        let mut add = |batch: Option<crate::state::WriteBatch>| {
            batch.map(|batch| {
                writes.extend(batch.writes);
                batch.ticket
            })
        };
        tickets.queue = add(self.queue.poll_write());
        {
            let mut books = lock(&self.dataset.books);
            tickets.peers = add(books.peers.journal().poll_write());
            tickets.access = add(books.access.journal().poll_write());
        }
        if writes.is_empty() {
            self.book_waiters.drain(..).for_each(|told| told());
            return;
        }
        self.writing_books = true;
        self.written_waiters.append(&mut self.book_waiters);
        let store = Arc::clone(&self.dataset.store);
        self.jobs.spawn_blocking(move || Ended::Books(tickets, store.write_metadata(&writes)));
    }

    fn on_books(&mut self, tickets: Tickets, result: Result<(), StoreError>) {
        self.writing_books = false;
        match result {
            Ok(()) => {
                tickets.queue.map(|ticket| self.queue.on_written(ticket));
                let mut books = lock(&self.dataset.books);
                tickets.peers.map(|ticket| books.peers.journal().on_written(ticket));
                tickets.access.map(|ticket| books.access.journal().on_written(ticket));
                drop(books);
                self.written_waiters.drain(..).for_each(|told| told());
            }
            Err(error) => self.fail(&super::shake::describe(&error)),
        }
    }

    /// The store failed: nothing is taken any more, and streams of this dataset mean nothing.
    fn fail(&mut self, problem: &str) {
        tracing::error!(dataset = %self.dataset.id, problem, "the store of a dataset has failed; restart the node");
        lock(&self.dataset.board).failed = Some(problem.to_owned());
        self.core.tell(EngineEvent::Failed { dataset: self.dataset.id.clone(), problem: problem.to_owned() });
        let dataset = self.dataset.id.clone();
        for (_, Submission { waiter, .. }) in std::mem::take(&mut self.submissions) {
            let error = SyncError::Failed { dataset: dataset.clone(), problem: problem.to_owned() };
            match waiter {
                Waiter::Write(waiter) => drop(waiter.send(Err(error))),
                Waiter::Entries(waiter) => drop(waiter.send(Err(error))),
            }
        }
        self.book_waiters.clear();
        self.written_waiters.clear();
        // Writes of records would fail as well.
        self.writing_books = true;
    }

    /// Peers that need to be looked at when the dataset's streams are to be opened anew.
    pub(super) fn connected(&self) -> BTreeSet<NodeId> {
        self.links.keys().cloned().collect()
    }
}

/// Checks signatures on as many threads as there are cores.
pub(super) async fn verify_on_all_cores(
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
