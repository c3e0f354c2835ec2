//! One dataset on one node, kept equal to that of its peers. Sans-io.
//!
//! [`Replica`] takes messages, time, connections, entries to write and the ends of [`Job`]s, and gives messages,
//! jobs and events. It runs no signature check and touches no store itself: jobs do. What it knows of the set is its
//! [`Index`], which follows commits and nothing else, so that a replica never speaks of what is not durable.
//!
//! # How sets become equal
//!
//! * **Push**: what is committed is announced by name; a few peers get the body of a local entry with it.
//! * **Cursor**: a peer's arrivals are followed. Whatever it lists is fetched, and its cursor moves when that is
//!   durable. Cursors are a shortcut: whatever goes wrong with them, the roots tell.
//! * **Root**: heartbeats carry it. If roots are equal, the cursor is at the end. If they differ and nothing is under
//!   way, the sets are compared ([`Session`](crate::reconcile::Session)), and each side gives what the other lacks.
//! * **Parents** that are missing are fetched; what was pruned need not be there.
//!
//! Nothing waits for one peer: each has its own window of unacknowledged bytes, its own share of the intake, and what
//! it does not answer is asked of another. Messages may be lost; each step has a deadline and another step after it.

mod config;
mod dice;
mod event;
mod follow;
mod give;
mod intake;
mod job;
mod message;
mod open;
mod pace;
mod peer;
mod retire;
mod settle;
#[cfg(test)]
mod tests;
mod wants;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{Instant, NodeId, Validated, WallTime};

pub use self::{
    config::ReplicaConfig,
    event::{PeerStatus, SubmissionId, SyncEvent, Transmit},
    intake::SubmitError,
    job::{Done, Job, JobId, Work},
    message::{LIST_MAX, Listing, MESSAGE_BYTES_MAX, Message, Refusal, Verdict},
    open::Opened,
    retire::{PRUNE_COLLECTION, PrunePlan, Retention, Spent},
};
use self::{dice::Dice, intake::Intake, pace::Pace, peer::Peer, retire::Retirement, wants::Wants};
use crate::{
    EntryId, Item,
    entry::{Admission, AuthorId, DatasetId},
    planted::Planted,
    reconcile::{Index, Root},
    store::{MetadataWrite, PrunedEntry, StoreError},
};

/// The time of an input, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic; deadlines are on it.
    pub at: Instant,
    /// The wall clock, which may jump; timestamps are compared with it.
    pub wall: WallTime,
}

/// What a replica is made of, beside its store.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// This node.
    pub local: NodeId,
    /// Settings.
    pub config: Validated<ReplicaConfig>,
    /// Whose prunes are obeyed. The same on all replicas.
    pub pruners: BTreeSet<AuthorId>,
    /// 32 secret random bytes, drawn anew at each start: the keys of comparisons come from them.
    pub seed: [u8; 32],
}

/// What a job is for.
enum Purpose {
    Verify(Vec<EntryId>),
    Commit { ids: Vec<EntryId>, cursors: Vec<(NodeId, crate::reconcile::Arrival)> },
    GiveRead { peer: NodeId, connection: u64, ids: Vec<EntryId> },
    GiveScan { peer: NodeId, connection: u64 },
    Page { peer: NodeId, since: crate::reconcile::Arrival, bodies: bool },
    Boundary { peer: NodeId, ids: Vec<EntryId> },
    Vector,
    Prune { boundary: Vec<PrunedEntry>, watermarks: Vec<(AuthorId, crate::entry::AuthorSequence)> },
    Metadata { cursors: Vec<(NodeId, crate::reconcile::Arrival)> },
    Checkpoint { at: u64 },
}

#[derive(Default)]
struct Out {
    transmits: VecDeque<Transmit>,
    jobs: VecDeque<Job>,
    events: VecDeque<SyncEvent>,
}

/// One dataset on one node: a plain value.
///
/// After every input, drain [`poll_transmit`](Self::poll_transmit), [`poll_job`](Self::poll_job) and
/// [`poll_event`](Self::poll_event) until they return `None`, and ask [`poll_timeout`](Self::poll_timeout) again.
///
/// Messages to one peer have to arrive in order, each whole; they may be lost. A driver whose connection to a peer is
/// clogged may drop messages to it: what it must not do is to keep them without bound.
pub struct Replica {
    local: NodeId,
    config: Validated<ReplicaConfig>,
    pruners: BTreeSet<AuthorId>,
    dataset: DatasetId,
    index: Index,
    admission: Admission,
    dice: Dice,
    now: Now,
    peers: BTreeMap<NodeId, Peer>,
    intake: Intake,
    wants: Wants,
    retirement: Retirement,
    pace: Pace,
    out: Out,
    jobs: BTreeMap<JobId, Purpose>,
    next_job: u64,
    writing: bool,
    /// Metadata that waits for a write.
    metadata: Vec<MetadataWrite>,
    metadata_at: Instant,
    next_heartbeat: Instant,
    checkpoint: u64,
    /// From whom bodies are pulled without being asked for one by one.
    body_source: Option<NodeId>,
    stopped: bool,
    pub(crate) planted: Planted,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Replica");
        out.field("dataset", &self.dataset).field("root", &self.index.root());
        out.field("peers", &self.peers.len()).field("intake", &self.intake).field("writing", &self.writing);
        out.finish_non_exhaustive()
    }
}

/// How long a changed cursor may wait for a write of its own.
const METADATA_DELAY: std::time::Duration = std::time::Duration::from_secs(1);

impl Replica {
    /// A replica of what was read from its store, and of nothing newer: nobody else may write to it.
    pub fn new(now: Now, options: ReplicaOptions, opened: Opened) -> Self {
        let ReplicaOptions { local, config, pruners, seed } = options;
        let mut peers = BTreeMap::new();
        for (peer, cursor) in opened.cursors {
            peers.insert(peer, Peer::new(now.at, Some(cursor), false));
        }
        for peer in opened.retired {
            peers.entry(peer).or_insert_with(|| Peer::new(now.at, None, false)).retired = true;
        }
        let admission = Admission::new(config.admission());
        Self {
            local,
            pruners,
            dataset: opened.dataset,
            index: opened.index,
            admission,
            dice: Dice::new(seed),
            now,
            peers,
            intake: Intake::default(),
            wants: Wants::default(),
            pace: Pace::default(),
            retirement: Retirement::new(now.at, opened.pruned, opened.ordered, opened.orders),
            out: Out::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            writing: false,
            metadata: Vec::new(),
            metadata_at: now.at,
            next_heartbeat: now.at,
            checkpoint: opened.checkpoint,
            body_source: None,
            stopped: false,
            planted: Planted::default(),
            config,
        }
    }

    /// Makes a peer one that pruning waits for, also while it is away. Until then, peers are only served.
    pub fn add_peer(&mut self, now: Now, peer: &NodeId) {
        self.now = now;
        let added = self.peers.entry(peer.clone()).or_insert_with(|| Peer::new(now.at, None, true));
        added.active = true;
        if std::mem::take(&mut added.retired) {
            self.metadata.push(open::retired_write(peer, false));
        }
        self.pump();
    }

    /// Makes pruning wait no more for a peer. It is served if it comes back, and learns what was pruned.
    pub fn retire(&mut self, now: Now, peer: &NodeId) {
        self.now = now;
        if let Some(retired) = self.peers.get_mut(peer) {
            retired.active = false;
            retired.retired = true;
            retired.lagging = false;
            self.metadata.push(open::retired_write(peer, true));
            self.metadata_at = now.at;
        }
        self.pump();
    }

    /// Says to whom there are to be connections now; to all peers, if it is never said. The others have their turn
    /// later, and do not fall behind until then.
    pub fn expect(&mut self, peers: &BTreeSet<NodeId>) {
        for (name, peer) in &mut self.peers {
            peer.expected = peers.contains(name);
        }
    }

    /// A connection to a peer stands. One that stood before counts as lost.
    pub fn handle_connected(&mut self, now: Now, peer: &NodeId) {
        self.now = now;
        self.lose(peer);
        let batch = self.dice.number() >> 1;
        let connected = self.peers.entry(peer.clone()).or_insert_with(|| Peer::new(now.at, None, false));
        connected.connect(now.at, batch);
        self.send_heartbeat(peer);
        self.send_confirm(peer);
        // What was asked for was forgotten with the connection before.
        self.want_parents();
        self.pump();
    }

    /// The connection to a peer is lost.
    pub fn handle_disconnected(&mut self, now: Now, peer: &NodeId) {
        self.now = now;
        self.lose(peer);
        self.pump();
    }

    /// A peer sent something. What doesn't fit is ignored or refused, and never changes more than what we know of
    /// that peer.
    pub fn handle_message(&mut self, now: Now, peer: &NodeId, message: Message) {
        self.now = now;
        let Some(sender) = self.peers.get_mut(peer).filter(|sender| sender.connected) else { return };
        sender.heard = now.at;
        sender.give.stalled = false;
        match message {
            Message::Heartbeat { root, followed } => self.on_heartbeat(peer, root, followed),
            Message::Announce(listing) => self.on_listing(peer, listing, None),
            Message::Page { listing, more } => self.on_listing(peer, listing, Some(more)),
            Message::Pull { since, bodies } => self.on_pull(peer, since, bodies),
            Message::Want(ids) => self.on_want(peer, ids),
            Message::Entries { batch, entries } => self.on_entries(peer, batch, entries),
            Message::Ack { batch, verdicts } => self.on_ack(peer, batch, &verdicts),
            Message::Caught(cursor) => self.on_caught(peer, cursor),
            Message::Confirm { first, heads } => self.on_confirm(peer, first, heads),
            Message::Reconcile { session, number, frame } => self.on_reconcile(peer, session, number, &frame),
            Message::PrunedBoundary(pruned) => self.on_boundary(peer, &pruned),
            Message::Unknown(ids) => self.on_unknown(peer, &ids),
            Message::Refuse(refusal) => self.on_refusal(peer, refusal),
        }
        self.pump();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.expire_wants();
        self.expire_gives();
        self.expire_orphans();
        self.expire_sessions();
        self.want_due();
        if now.at >= self.next_heartbeat {
            let interval = self.config.heartbeat_interval;
            // A tenth at random, so that many replicas don't beat at once.
            let shift = interval.mul_f64(self.dice.unit() / 10.0);
            self.next_heartbeat = now.at + interval - shift;
            self.beat();
        }
        self.pump();
    }

    /// A job ended. An error of a job that writes stops the replica.
    pub fn handle_done(&mut self, now: Now, id: JobId, result: Result<Done, StoreError>) {
        self.now = now;
        let Some(purpose) = self.jobs.remove(&id) else { return };
        match (purpose, result) {
            (Purpose::Verify(ids), Ok(Done::Verified(results))) => self.on_verified(ids, results),
            (Purpose::Commit { ids, cursors }, Ok(Done::Inserted(report))) => {
                self.writing = false;
                self.on_inserted(ids, report);
                self.on_cursors_durable(cursors);
            }
            (Purpose::GiveRead { peer, connection, .. } | Purpose::GiveScan { peer, connection }, _)
                if self.peers.get(&peer).is_none_or(|peer| peer.connection != connection) =>
            {
                // It was read for a connection that is gone, and what that was to be sent is forgotten.
            }
            (Purpose::GiveRead { peer, ids, .. }, Ok(Done::Read(found))) => self.on_read(&peer, ids, found),
            (Purpose::GiveScan { peer, .. }, Ok(Done::Scanned(found))) => self.on_scanned(&peer, found),
            (Purpose::Page { peer, since, bodies }, Ok(Done::Arrivals(listed))) => {
                self.on_arrivals(&peer, since, bodies, listed);
            }
            (Purpose::Boundary { peer, ids }, Ok(Done::Pruned(pruned))) => {
                self.tell_absent(&peer, &ids, pruned);
            }
            (Purpose::Vector, Ok(Done::Vector(page))) => self.on_vector(page),
            (Purpose::Prune { boundary, watermarks }, Ok(Done::Removed(removed))) => {
                self.writing = false;
                self.on_removed(&boundary, watermarks, &removed);
            }
            (Purpose::Metadata { cursors }, Ok(Done::Written)) => {
                self.writing = false;
                self.on_cursors_durable(cursors);
            }
            (Purpose::Checkpoint { at }, Ok(Done::Written)) => {
                self.writing = false;
                self.checkpoint = at;
            }
            // A reader that failed: whoever waits for it asks again.
            (Purpose::GiveRead { peer, .. } | Purpose::GiveScan { peer, .. }, Err(_)) => {
                self.give_up_on(&peer)
            }
            (Purpose::Page { .. } | Purpose::Boundary { .. }, Err(_)) => {}
            (Purpose::Vector, Err(_)) => self.retirement.reading = false,
            (_, Err(error)) => {
                self.stopped = true;
                self.out.events.push_back(SyncEvent::Stopped(error));
            }
            (_, Ok(_)) => debug_assert!(false, "the driver mixed up the results of jobs"),
        }
        self.pump();
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next job to do.
    pub fn poll_job(&mut self) -> Option<Job> {
        self.out.jobs.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<SyncEvent> {
        self.out.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let mut next = self.next_heartbeat;
        next = self.wants.next_deadline().map_or(next, |at| next.min(at));
        for peer in self.peers.values().filter(|peer| peer.connected) {
            next = peer.give.next_deadline().map_or(next, |at| next.min(at));
            next = peer.settle.deadline().map_or(next, |at| next.min(at));
        }
        if let Some(due) = self.admission.next_due() {
            let wait = due.0.saturating_sub(self.now.wall.0);
            next = next.min(self.now.at + std::time::Duration::from_millis(wait));
        }
        Some(next)
    }

    /// The dataset.
    pub const fn dataset(&self) -> &DatasetId {
        &self.dataset
    }

    /// Its root, of what is durable.
    pub fn root(&self) -> Root {
        self.index.root()
    }

    /// Whether an entry is held.
    pub fn holds(&self, item: &Item) -> bool {
        self.index.contains(item)
    }

    /// How the peers stand, in the order of their names.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(peer, state): (&NodeId, &Peer)| state.status(peer, self.now.at);
        self.peers.iter().map(status).collect()
    }

    /// Tells a peer at once how this set stands, and lets a comparison begin without a pause: for a round that somebody
    /// waits for.
    pub fn check(&mut self, now: Now, peer: &NodeId) {
        self.now = now;
        if let Some(asked) = self.peers.get_mut(peer).filter(|asked| asked.connected) {
            asked.settle.hurry(now.at);
            self.send_heartbeat(peer);
        }
        self.pump();
    }

    /// Numbers of authors up to which entries are pruned: what tells replicas apart that pruned differently.
    pub fn prune_digest(&self) -> [u8; 32] {
        self.retirement.digest()
    }

    /// About how many bytes of entries are in memory: on their way in, and waiting for parents.
    pub const fn intake_bytes(&self) -> usize {
        self.intake.bytes()
    }

    fn send(&mut self, to: &NodeId, message: Message) {
        if self.peers.get(to).is_some_and(|peer| peer.connected) {
            self.out.transmits.push_back(Transmit { to: to.clone(), message });
        }
    }

    fn start(&mut self, work: Work, purpose: Purpose) {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.writing |= work.writes();
        self.jobs.insert(id, purpose);
        self.out.jobs.push_back(Job { id, work });
    }

    fn lose(&mut self, peer: &NodeId) {
        let Some(lost) = self.peers.get_mut(peer) else { return };
        lost.disconnect(self.now.at);
        self.intake.forget_batches(peer);
        self.wants.lose(peer);
        if self.body_source.as_ref() == Some(peer) {
            self.body_source = None;
        }
    }

    fn connected(&self) -> Vec<NodeId> {
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// The item of this id, if it is held.
    fn held(&self, id: &EntryId) -> Option<Item> {
        let short = self.index.sketch().short(id);
        self.index.resolve(short).filter(|item| item.id == *id)
    }

    /// Starts whatever can be started.
    fn pump(&mut self) {
        if self.stopped {
            return;
        }
        self.start_verify();
        self.start_write();
        self.ask();
        for peer in self.connected() {
            self.give(&peer);
        }
    }

    /// One write at a time: prunes first, or what they refuse would be let in.
    fn start_write(&mut self) {
        if self.writing || self.start_prune() || self.start_commit() {
            return;
        }
        let root = self.index.root();
        if root.arrival.sequence >= self.checkpoint + self.config.checkpoint_arrivals {
            let at = root.arrival.sequence;
            let blob = self.index.sketch().checkpoint(&root);
            let checkpoint = crate::store::Checkpoint { arrival: crate::store::Arrival(at), blob };
            self.start(Work::Checkpoint(checkpoint), Purpose::Checkpoint { at });
            return;
        }
        if self.now.at < self.metadata_at {
            return;
        }
        let (writes, cursors) = self.take_metadata();
        if !writes.is_empty() {
            self.metadata_at = self.now.at + METADATA_DELAY;
            self.start(Work::WriteMetadata(writes), Purpose::Metadata { cursors });
        }
    }

    /// What waits to be written beside entries: cursors over what is durable already, and notes.
    fn take_metadata(&mut self) -> (Vec<MetadataWrite>, Vec<(NodeId, crate::reconcile::Arrival)>) {
        let mut writes = std::mem::take(&mut self.metadata);
        let mut cursors = Vec::new();
        for (name, peer) in &self.peers {
            if let Some(cursor) = peer.follow.cursor.filter(|cursor| Some(*cursor) != peer.follow.durable) {
                writes.push(open::cursor_write(name, Some(cursor)));
                cursors.push((name.clone(), cursor));
            }
        }
        (writes, cursors)
    }

    fn on_cursors_durable(&mut self, cursors: Vec<(NodeId, crate::reconcile::Arrival)>) {
        for (name, cursor) in cursors {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.follow.durable = Some(cursor);
                peer.note_followed(cursor);
            }
        }
    }
}
