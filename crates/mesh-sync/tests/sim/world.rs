//! One run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{Hlc, HlcClock, Instant, NodeId, Settings, WallTime};
use mesh_sync::{
    EntryId,
    documents::{DocumentKey, Documents},
    entry::{Author, AuthorId, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Verified},
    reconcile::EpochKey,
    replica::{Done, JobId, Message, Now, Opened, Replica, ReplicaOptions, SyncEvent, Transmit},
    store::{Arrival, Creation, Datasets, EntryStore, ScanLimit, Store, StoreError, StoreIncarnation},
};

use crate::{
    disk::Disk,
    options::Options,
    rules::{Nonces, Rules},
};

/// Where the wall clocks begin.
const EPOCH: u64 = 1_700_000_000_000;
/// All sets are equal so long after the last fault.
const HEAL: Duration = Duration::from_secs(180);
/// Time between two looks whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Messages and jobs of one step.
const EFFECTS_MAX: usize = 20_000;

/// A rule that a run broke.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) at: Instant,
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, rule, detail } = self;
        write!(f, "broken rule: {rule}, at {:.3} s: {detail}", at.as_nanos() as f64 / 1e9)
    }
}

/// What came of runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) messages: u64,
    pub(crate) entries: u64,
    pub(crate) prunes: u64,
    pub(crate) crashes: u64,
    pub(crate) restores: u64,
    pub(crate) cuts: u64,
    pub(crate) comparisons: u64,
    pub(crate) deferred: u64,
    pub(crate) flips: u64,
    pub(crate) equivocations: u64,
    /// From the end of the last fault to equal sets, for each run.
    pub(crate) heals_ms: Vec<u64>,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.entries += other.entries;
        self.prunes += other.prunes;
        self.crashes += other.crashes;
        self.restores += other.restores;
        self.cuts += other.cuts;
        self.comparisons += other.comparisons;
        self.deferred += other.deferred;
        self.flips += other.flips;
        self.equivocations += other.equivocations;
        self.heals_ms.extend(&other.heals_ms);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heals = self.heals_ms.clone();
        heals.sort_unstable();
        let part = |of: usize| heals.get(heals.len() * of / 100).or(heals.last()).copied().unwrap_or(0);
        let shown = Self { heals_ms: Vec::new(), ..self.clone() };
        let (p50, p99, max) = (part(50), part(99), part(100));
        write!(f, "{shown:?}; healed in {p50} ms (p50), {p99} ms (p99), {max} ms at most")
    }
}

/// Breaks a rule of a replica, at each of its starts.
pub(crate) type Plant<'p> = &'p dyn Fn(&mut Replica);

pub(crate) fn run(options: &Options) -> Result<Report, Violation> {
    run_planted(options, &|_| {})
}

pub(crate) fn run_planted(options: &Options, plant: Plant<'_>) -> Result<Report, Violation> {
    let mut world = World::new(options, plant);
    for node in 0..options.nodes {
        if node > 0 && options.late_ms > 0 && world.rng.bool() {
            // It is new, and the others have something already.
            world.push_in(1, options.late_ms, Event::Restart { node });
        } else {
            world.start(node);
        }
    }
    for a in 0..options.nodes {
        for b in a + 1..options.nodes {
            world.reconnect(a, b)?;
        }
    }
    for node in 0..options.nodes {
        world.push_in(0, 1000, Event::Write { node });
    }
    if options.fault_every_ms > 0 {
        world.push_in(0, options.fault_every_ms, Event::Fault);
    }
    if options.prunes {
        world.push_in(5000, 10_000, Event::Prune);
    }
    world.run_to(Instant::ZERO + options.faulty, false)?;
    world.calm()?;
    let healed = world.now;
    world.run_to(healed + HEAL, true)?;
    world.look_at_all()?;
    // An entry that is ahead of a clock has its time to wait for, whatever replicas do.
    let begun = world.last_due().max(healed);
    world.report.heals_ms = vec![world.now.since(begun.min(world.now)).as_millis() as u64];
    world.report.hash = world.trace.finish();
    Ok(world.report)
}

enum Event {
    Arrives { from: usize, to: usize, epoch: u64, dataset: usize, bytes: Bytes },
    JobEnds { node: usize, run: u32, dataset: usize, id: JobId, work: Box<Pending> },
    Timer { node: usize, run: u32, dataset: usize },
    Write { node: usize },
    Prune,
    Fault,
    CutEnds { a: usize, b: usize },
    Notices { node: usize, run: u32, peer: usize, epoch: u64 },
    Restart { node: usize },
}

enum Pending {
    ToDo(mesh_sync::replica::Work),
    Done(Result<Done, StoreError>),
}

struct Part {
    store: Arc<dyn EntryStore>,
    replica: Replica,
    author: Author,
    timer: Option<Instant>,
    /// Submissions, with the ids in them.
    submitted: BTreeMap<mesh_sync::replica::SubmissionId, Vec<EntryId>>,
    /// How far each peer's arrivals were looked at, by the cursor on it.
    looked: BTreeMap<usize, u64>,
}

struct Node {
    disk: Disk,
    copy: Option<Disk>,
    parts: Vec<Part>,
    run: u32,
    up: bool,
    skew_ms: i64,
    clock: HlcClock,
    restored: bool,
    /// What it was ever told to wait for.
    deferred: BTreeSet<EntryId>,
    last_stamp: Hlc,
    /// The highest stamp of its own that a client or a peer may have seen.
    told_stamp: Hlc,
}

struct World<'o> {
    options: &'o Options,
    plant: Plant<'o>,
    now: Instant,
    queue: BTreeMap<(Instant, u64), Event>,
    pushed: u64,
    rng: fastrand::Rng,
    nodes: Vec<Node>,
    rules: Vec<Rules>,
    nonces: Nonces,
    /// By pair: the number of the connection, and whether it is cut.
    epochs: BTreeMap<(usize, usize), u64>,
    cut: BTreeSet<(usize, usize)>,
    /// When the last message from one to another arrives.
    last: BTreeMap<(usize, usize), Instant>,
    faulty: bool,
    retired: BTreeSet<usize>,
    trace: DefaultHasher,
    report: Report,
    /// From when on messages are printed: `SYNC_SHOW`, in seconds.
    shown_from: Option<Instant>,
}

fn dataset(at: usize) -> DatasetId {
    DatasetId::new(format!("set-{at}")).expect("valid")
}

fn name(at: usize) -> NodeId {
    NodeId::new(format!("n{at}")).expect("valid")
}

fn at_of(name: &NodeId) -> usize {
    name.as_str()[1..].parse().expect("ours")
}

fn key(node: usize) -> AuthorKey {
    AuthorKey::from_seed([node as u8 + 1; 32])
}

impl<'o> World<'o> {
    fn new(options: &'o Options, plant: Plant<'o>) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let nodes = (0..options.nodes).map(|at| Node {
            disk: Disk::default(),
            copy: None,
            parts: Vec::new(),
            run: 0,
            up: false,
            skew_ms: if at == 1 && options.ahead_ms > 0 {
                options.ahead_ms as i64
            } else {
                rng.i64(-100..=100)
            },
            clock: HlcClock::new(None, Duration::from_secs(60)),
            restored: false,
            deferred: BTreeSet::new(),
            last_stamp: Hlc::default(),
            told_stamp: Hlc::default(),
        });
        let nodes = nodes.collect();
        Self {
            options,
            plant,
            now: Instant::ZERO,
            queue: BTreeMap::new(),
            pushed: 0,
            rng,
            nodes,
            rules: (0..options.datasets).map(|_| Rules::default()).collect(),
            nonces: Nonces::default(),
            epochs: BTreeMap::new(),
            cut: BTreeSet::new(),
            last: BTreeMap::new(),
            faulty: true,
            retired: BTreeSet::new(),
            trace: DefaultHasher::new(),
            report: Report::default(),
            shown_from: std::env::var("SYNC_SHOW")
                .ok()
                .and_then(|text| text.parse().ok())
                .map(|seconds| Instant::ZERO + Duration::from_secs(seconds)),
        }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.pushed += 1;
        self.queue.insert((at, self.pushed), event);
    }

    fn push_in(&mut self, min_ms: u64, max_ms: u64, event: Event) {
        let at = self.now + Duration::from_millis(self.rng.u64(min_ms..=max_ms.max(min_ms)));
        self.push(at, event);
    }

    fn now_of(&self, node: usize) -> Now {
        let ms = u64::try_from(self.now.since(Instant::ZERO).as_millis()).expect("short");
        let wall = (EPOCH + ms).saturating_add_signed(self.nodes[node].skew_ms);
        Now { at: self.now, wall: WallTime(wall) }
    }

    fn broken(&self, (rule, detail): crate::rules::Broken) -> Violation {
        Violation { at: self.now, rule, detail }
    }

    fn start(&mut self, node: usize) {
        if self.options.clocks_jump && self.nodes[node].run > 0 && self.rng.u32(0..3) == 0 {
            self.nodes[node].skew_ms = -self.rng.i64(0..15_000);
        }
        let now = self.now_of(node);
        let store = Store::new(self.nodes[node].disk.clone()).expect("the disk is intact");
        self.nodes[node].run += 1;
        self.nodes[node].up = true;
        let mut parts = Vec::new();
        let mut highest = None;
        for at in 0..self.options.datasets {
            let incarnation = StoreIncarnation(self.rng.u64(..));
            let store = store.open(&dataset(at), Creation::new(&dataset(at), incarnation)).expect("opens");
            let opened = Opened::read(&*store, EpochKey::derive(dataset(at).as_str(), 0)).expect("reads");
            highest = highest.max(opened.highest());
            let options = ReplicaOptions {
                local: name(node),
                config: self.options.config.clone().validate().expect("valid"),
                pruners: BTreeSet::from([key(0).id()]),
                seed: std::array::from_fn(|_| self.rng.u8(..)),
            };
            let mut replica = Replica::new(now, options, opened);
            (self.plant)(&mut replica);
            for peer in 0..self.options.nodes {
                if peer != node && self.options.linked(node, peer) && !self.retired.contains(&peer) {
                    replica.add_peer(now, &name(peer));
                }
            }
            let highest =
                store.head(&key(node).id()).expect("reads").map_or(AuthorSequence(0), |head| head.highest);
            let author = Author::new(key(node), dataset(at), highest.next().expect("few"));
            let (submitted, looked) = (BTreeMap::new(), BTreeMap::new());
            parts.push(Part { store, replica, author, timer: None, submitted, looked });
        }
        let highest = highest.filter(|_| !self.options.forget_stamps);
        self.nodes[node].clock = HlcClock::resume(highest, Duration::from_secs(60));
        // What was stamped and never stored was never seen either.
        self.nodes[node].last_stamp = self.nodes[node].told_stamp;
        self.nodes[node].parts = parts;
    }

    /// Connects two anew, if both are up and not cut off.
    fn reconnect(&mut self, a: usize, b: usize) -> Result<(), Violation> {
        let pair = (a.min(b), a.max(b));
        if !self.options.linked(a, b) || !self.nodes[a].up || !self.nodes[b].up || self.cut.contains(&pair) {
            return Ok(());
        }
        *self.epochs.entry(pair).or_default() += 1;
        for (node, peer) in [(a, b), (b, a)] {
            let now = self.now_of(node);
            for at in 0..self.options.datasets {
                self.nodes[node].parts[at].replica.handle_connected(now, &name(peer));
            }
        }
        self.drain(a)?;
        self.drain(b)
    }

    fn run_to(&mut self, end: Instant, until_equal: bool) -> Result<(), Violation> {
        let mut next_look = self.now;
        while let Some(((at, _), event)) = self.next_until(end) {
            self.now = at;
            self.happen(event)?;
            if until_equal && self.now >= next_look {
                next_look = self.now + LOOK_EVERY;
                if self.are_equal() {
                    return Ok(());
                }
            }
        }
        self.now = end;
        if until_equal {
            let roots: Vec<_> = self
                .nodes
                .iter()
                .map(|node| node.parts.iter().map(|part| &part.replica).collect::<Vec<_>>())
                .collect();
            let text = format!("{roots:?} {}", self.differences());
            return Err(self.broken(("sets are equal after the last fault", text)));
        }
        Ok(())
    }

    fn next_until(&mut self, end: Instant) -> Option<((Instant, u64), Event)> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= end).then(|| first.remove_entry())
    }

    /// For each dataset, what some lack.
    fn differences(&self) -> String {
        let mut out = String::new();
        for (at, rules) in self.rules.iter().enumerate() {
            for entry in rules.all.values() {
                let has = |node: &Node| node.parts[at].store.has(&[entry.id()]).expect("reads")[0];
                let holders: Vec<usize> =
                    (0..self.nodes.len()).filter(|node| has(&self.nodes[*node])).collect();
                if !holders.is_empty() && holders.len() < self.nodes.len() && out.len() < 2000 {
                    let author = (0..self.nodes.len()).find(|node| key(*node).id() == entry.author());
                    let heads: Vec<_> = self
                        .nodes
                        .iter()
                        .map(|node| {
                            node.parts[at]
                                .store
                                .head(&entry.author())
                                .expect("reads")
                                .map(|head| (head.pruned.0, head.contiguous.0))
                        })
                        .collect();
                    let pruned = rules.ordered.get(&entry.author());
                    out += &format!(
                        "\nset {at}: {} of {author:?} #{} {:?} at {} is on {holders:?} only; pruned {pruned:?} {heads:?} parents {:?}",
                        entry.id(),
                        entry.sequence(),
                        entry.collection(),
                        entry.hlc(),
                        entry.parents().collect::<Vec<_>>()
                    );
                }
            }
        }
        out
    }

    fn are_equal(&self) -> bool {
        let same = |at: usize| {
            let root = self.nodes[0].parts[at].replica.root();
            self.nodes.iter().all(|node| node.parts[at].replica.root().same_set(&root))
        };
        (0..self.options.datasets).all(same) && self.has_obeyed_all()
    }

    /// When the last entry's time has come on every clock.
    fn last_due(&self) -> Instant {
        let drift = self.options.config.max_drift;
        let slowest = self.nodes.iter().map(|node| node.skew_ms).min().unwrap_or(0);
        let last = self.rules.iter().flat_map(|rules| rules.all.values());
        let last = last.filter(|entry| {
            let at = self.dataset_of(entry);
            self.nodes.iter().any(|node| node.parts[at].store.has(&[entry.id()]).expect("reads")[0])
        });
        let wall = last.map(|entry| entry.hlc().wall().0).max().unwrap_or(EPOCH);
        let ms = wall.saturating_sub(EPOCH).saturating_add_signed(-slowest);
        Instant::ZERO + Duration::from_millis(ms).saturating_sub(drift)
    }

    fn dataset_of(&self, entry: &Verified) -> usize {
        (0..self.options.datasets).find(|at| dataset(*at) == *entry.dataset()).expect("one of ours")
    }

    /// Whether every order to prune has reached every disk.
    fn has_obeyed_all(&self) -> bool {
        self.rules.iter().enumerate().all(|(at, rules)| {
            let pruned_on = |node: &Node, author| {
                node.parts[at].store.head(author).expect("reads").unwrap_or_default().pruned
            };
            rules.ordered.keys().all(|author| {
                let first = pruned_on(&self.nodes[0], author);
                // A disk that was restored may have lost the one prune that was told.
                let lost = self.nodes.iter().any(|node| node.restored);
                let enough = lost || rules.must.get(author).is_none_or(|up_to| first >= *up_to);
                enough && self.nodes.iter().all(|node| pruned_on(node, author) == first)
            })
        })
    }

    /// Faults end: everybody is up and connected.
    fn calm(&mut self) -> Result<(), Violation> {
        self.faulty = false;
        self.cut.clear();
        for node in 0..self.options.nodes {
            if !self.nodes[node].up {
                self.start(node);
            }
        }
        for a in 0..self.options.nodes {
            for b in a + 1..self.options.nodes {
                self.reconnect(a, b)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Arrives { from, to, epoch, dataset, bytes } => {
                let pair = (from.min(to), from.max(to));
                if self.epochs.get(&pair) != Some(&epoch) || self.cut.contains(&pair) || !self.nodes[to].up {
                    return Ok(());
                }
                (from, to, dataset, &bytes, self.now.as_nanos()).hash(&mut self.trace);
                let now = self.now_of(to);
                let message = Message::decode(&bytes)
                    .map_err(|error| self.broken(("what a replica writes can be read", error.to_string())))?;
                self.nodes[to].parts[dataset].replica.handle_message(now, &name(from), message);
                self.drain(to)
            }
            Event::JobEnds { node, run, dataset, id, work } => {
                if self.nodes[node].run != run || !self.nodes[node].up {
                    return Ok(());
                }
                let now = self.now_of(node);
                let part = &mut self.nodes[node].parts[dataset];
                let result = match *work {
                    Pending::ToDo(work) => work.perform(&*part.store),
                    Pending::Done(result) => result,
                };
                part.replica.handle_done(now, id, result);
                self.drain(node)?;
                self.look_at_cursors(node, dataset)
            }
            Event::Timer { node, run, dataset } => {
                if self.nodes[node].run != run || !self.nodes[node].up {
                    return Ok(());
                }
                let now = self.now_of(node);
                let part = &mut self.nodes[node].parts[dataset];
                if part.timer != Some(self.now) {
                    return Ok(());
                }
                part.timer = None;
                part.replica.handle_timeout(now);
                self.drain(node)
            }
            Event::Write { node } => self.write(node),
            Event::Prune => self.prune(),
            Event::Fault => self.fault(),
            Event::CutEnds { a, b } => {
                self.cut.remove(&(a, b));
                self.reconnect(a, b)
            }
            Event::Notices { node, run, peer, epoch } => {
                let pair = (node.min(peer), node.max(peer));
                if self.nodes[node].run != run
                    || !self.nodes[node].up
                    || self.epochs.get(&pair) != Some(&epoch)
                {
                    return Ok(());
                }
                let now = self.now_of(node);
                for part in &mut self.nodes[node].parts {
                    part.replica.handle_disconnected(now, &name(peer));
                }
                self.drain(node)
            }
            Event::Restart { node } => {
                if self.nodes[node].up {
                    return Ok(());
                }
                self.start(node);
                for peer in 0..self.options.nodes {
                    if peer != node {
                        self.reconnect(node, peer)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes out what replicas want done, and looks at what they tell.
    fn drain(&mut self, node: usize) -> Result<(), Violation> {
        for at in 0..self.options.datasets {
            let mut effects = 0;
            while let Some(transmit) = self.nodes[node].parts[at].replica.poll_transmit() {
                self.carry(node, at, transmit)?;
                effects += 1;
            }
            while let Some(job) = self.nodes[node].parts[at].replica.poll_job() {
                effects += 1;
                let run = self.nodes[node].run;
                // A write may be on disk long before its end is heard of, or not until then.
                let early = job.work.writes() && self.rng.bool();
                let work = match early {
                    true => Pending::Done(job.work.perform(&*self.nodes[node].parts[at].store)),
                    false => Pending::ToDo(job.work),
                };
                let ms = if self.faulty { self.options.disk_ms_max } else { 2 };
                let event = Event::JobEnds { node, run, dataset: at, id: job.id, work: Box::new(work) };
                self.push_in(0, ms, event);
            }
            while let Some(event) = self.nodes[node].parts[at].replica.poll_event() {
                self.look_at_event(node, at, event)?;
            }
            if effects > EFFECTS_MAX {
                return Err(self.broken(("a step has bounded effects", effects.to_string())));
            }
            let run = self.nodes[node].run;
            let part = &mut self.nodes[node].parts[at];
            let next = part.replica.poll_timeout().map(|next| next.max(self.now + Duration::from_millis(1)));
            if let Some(next) = next.filter(|next| part.timer.is_none_or(|timer| *next < timer)) {
                part.timer = Some(next);
                self.push(next, Event::Timer { node, run, dataset: at });
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: usize, at: usize, Transmit { to, message }: Transmit) -> Result<(), Violation> {
        if let Message::Reconcile { frame, .. } = &message {
            self.nonces.on_frame(frame).map_err(|broken| self.broken(broken))?;
        }
        let to = at_of(&to);
        self.report.messages += 1;
        let pair = (from.min(to), from.max(to));
        let lost = self.faulty && self.rng.u32(0..100) < self.options.loss_percent;
        if lost || self.cut.contains(&pair) {
            return Ok(());
        }
        let Some(epoch) = self.epochs.get(&pair).copied() else { return Ok(()) };
        let ms = if self.faulty { self.options.latency_ms_max } else { 5 };
        let last = self.last.get(&(from, to)).copied().unwrap_or(Instant::ZERO);
        let arrives = (self.now + Duration::from_millis(self.rng.u64(1..=ms))).max(last);
        self.last.insert((from, to), arrives);
        if let Some(shown) = self.shown_from.filter(|shown| self.now >= *shown) {
            let text: String = format!("{message:?}").chars().take(200).collect();
            println!("{:>8} ms, set {at}: n{from} to n{to}: {text}", self.now.since(shown).as_millis());
        }
        let message = self.flip(message);
        self.push(arrives, Event::Arrives { from, to, epoch, dataset: at, bytes: message.encode() });
        Ok(())
    }

    /// Flips a bit of an entry, as a peer would that is broken.
    fn flip(&mut self, mut message: Message) -> Message {
        let Message::Entries { entries, .. } = &mut message else { return message };
        if self.faulty && !entries.is_empty() && self.rng.u32(0..1000) < self.options.flips_permille {
            let which = self.rng.usize(0..entries.len());
            let mut body = entries[which].1.to_vec();
            let at = self.rng.usize(0..body.len());
            body[at] ^= 1 << self.rng.u32(0..8);
            entries[which].1 = body.into();
            self.report.flips += 1;
        }
        message
    }

    fn look_at_event(&mut self, node: usize, at: usize, event: SyncEvent) -> Result<(), Violation> {
        let part = &mut self.nodes[node].parts[at];
        match event {
            SyncEvent::Submitted { submission, outcomes } => {
                let ids = part.submitted.remove(&submission).unwrap_or_default();
                let told = ids.into_iter().zip(outcomes).filter(|(_, outcome)| outcome.is_held());
                let told: Vec<EntryId> = told.map(|(id, _)| id).collect();
                let store = part.store.clone();
                let stamps = told.iter().filter_map(|id| self.rules[at].all.get(id)).map(|entry| entry.hlc());
                let highest = stamps.max().unwrap_or_default();
                self.nodes[node].told_stamp = self.nodes[node].told_stamp.max(highest);
                self.report.entries += told.len() as u64;
                self.rules[at].on_told(&*store, &told).map_err(|broken| self.broken(broken))
            }
            SyncEvent::Committed(entries) => {
                let store = part.store.clone();
                for entry in &entries {
                    self.merge(node, entry.hlc());
                }
                self.rules[at].on_committed(&*store, &entries).map_err(|broken| self.broken(broken))
            }
            SyncEvent::Reconciled { .. } => {
                self.report.comparisons += 1;
                Ok(())
            }
            SyncEvent::Deferred { id, .. } => {
                self.report.deferred += 1;
                self.nodes[node].deferred.insert(id);
                Ok(())
            }
            SyncEvent::Equivocation(_) => {
                self.report.equivocations += 1;
                Ok(())
            }
            SyncEvent::Stopped(error) => Err(self.broken(("stores do not fail here", error.to_string()))),
            _ => Ok(()),
        }
    }

    fn merge(&mut self, node: usize, stamp: Hlc) {
        let wall = self.now_of(node).wall;
        let _ = self.nodes[node].clock.merge(wall, stamp);
    }

    fn issue(&mut self, node: usize) -> Hlc {
        let wall = self.now_of(node).wall;
        self.nodes[node].clock.issue(wall).expect("nothing is durable ahead, so nothing is passed")
    }

    fn write(&mut self, node: usize) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        self.push_in(1, self.options.write_every_ms * 2, Event::Write { node });
        if !self.nodes[node].up {
            return Ok(());
        }
        let at = self.rng.usize(0..self.options.datasets);
        let mut entries = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            let stamp = self.issue(node);
            if stamp <= self.nodes[node].last_stamp && !self.nodes[node].restored {
                return Err(self.broken(("a node's stamps never go back", stamp.to_string())));
            }
            self.nodes[node].last_stamp = stamp;
            let parents = self.parents(node, at, stamp, &entries);
            let docs = Collection::new("docs").expect("valid");
            let doc = format!("doc {}", self.rng.u32(0..12));
            let draft = match self.rng.u32(0..4) {
                0 => Draft::delete(&docs, doc),
                _ => Draft::put(&docs, doc, vec![self.rng.u8(..); self.rng.usize(0..400)]),
            };
            let entry = self.nodes[node].parts[at].author.sign(draft.after(parents), stamp).expect("signs");
            self.rules[at].all.insert(entry.id(), entry.clone());
            entries.push(entry);
        }
        self.submit(node, at, entries)
    }

    fn submit(&mut self, node: usize, at: usize, entries: Vec<Verified>) -> Result<(), Violation> {
        let now = self.now_of(node);
        let ids = entries.iter().map(|entry| entry.id()).collect();
        let part = &mut self.nodes[node].parts[at];
        // A node that is full would tell its client so.
        if let Ok(submission) = part.replica.submit(now, entries) {
            part.submitted.insert(submission, ids);
        }
        self.drain(node)
    }

    /// Some entries that are held, or come before in the same batch.
    fn parents(&mut self, node: usize, at: usize, stamp: Hlc, batch: &[Verified]) -> Vec<EntryId> {
        let part = &self.nodes[node].parts[at];
        let last = part.store.summary().last_arrival.0;
        let from = Arrival(last.saturating_sub(8) + 1);
        let mut held: Vec<EntryId> = part
            .store
            .arrivals(from, 8)
            .expect("reads")
            .iter()
            .filter(|listed| listed.item.hlc < stamp)
            .map(|listed| listed.item.id)
            .collect();
        held.extend(batch.iter().map(|entry| entry.id()));
        let count = self.rng.usize(0..3).min(held.len());
        self.rng.shuffle(&mut held);
        held.truncate(count);
        held
    }

    /// The first node prunes what is spent in one dataset.
    fn prune(&mut self) -> Result<(), Violation> {
        self.push_in(3000, 15_000, Event::Prune);
        if !self.nodes[0].up {
            return Ok(());
        }
        let at = self.rng.usize(0..self.options.datasets);
        let now = self.now_of(0);
        let store = self.nodes[0].parts[at].store.clone();
        // In the end, only what is in force and was lost is said again.
        let wanted = if self.faulty { self.spent(at, now) } else { Vec::new() };
        let pruner = key(0).id();
        let Some(prune) = self.nodes[0].parts[at].replica.prune_draft(&pruner, &wanted) else {
            return Ok(());
        };
        let retired = self.retired.clone();
        let active: Vec<Arc<dyn EntryStore>> = (0..self.options.nodes)
            .filter(|node| *node == 0 || (self.options.linked(0, *node) && !retired.contains(node)))
            .filter(|node| !self.nodes[*node].restored)
            .map(|node| self.store_of(node, at))
            .collect();
        let held = |author: &AuthorId| {
            let held =
                active.iter().map(|store| store.head(author).expect("reads").unwrap_or_default().contiguous);
            held.min().unwrap_or(AuthorSequence(u64::MAX))
        };
        let keep = self.options.config.tombstone_retention;
        let young = |entry: &mesh_sync::entry::Entry| {
            Duration::from_millis(now.wall.0.saturating_sub(entry.hlc().wall().0)) < keep
        };
        self.rules[at]
            .on_prune(&prune.watermarks, held, young, &*store)
            .map_err(|broken| self.broken(broken))?;
        self.report.prunes += 1;
        let stamp = self.issue(0);
        self.nodes[0].last_stamp = stamp;
        let entry = self.nodes[0].parts[at].author.sign(prune.draft, stamp).expect("signs");
        self.rules[at].all.insert(entry.id(), entry.clone());
        self.rules[at].prunes.insert(entry.id(), prune.watermarks);
        self.submit(0, at, vec![entry])
    }

    /// The store of a node, also while that is down.
    fn store_of(&self, node: usize, at: usize) -> Arc<dyn EntryStore> {
        if self.nodes[node].up {
            return self.nodes[node].parts[at].store.clone();
        }
        let store = Store::new(self.nodes[node].disk.copy()).expect("the disk is intact");
        store.open(&dataset(at), Creation::new(&dataset(at), StoreIncarnation(0))).expect("opens")
    }

    fn spent(&self, at: usize, now: Now) -> Vec<(AuthorId, AuthorSequence)> {
        let part = &self.nodes[0].parts[at];
        let limit = ScanLimit { entries: usize::MAX, bytes: usize::MAX };
        let all = part.store.scan(std::ops::Bound::Unbounded, limit).expect("reads");
        let mut documents = Documents::new();
        all.iter().for_each(|stored| {
            let _ = documents.apply(&stored.entry);
        });
        let retention = part.replica.retention(now.wall);
        let authors = part.store.vector(None, 100).expect("reads");
        let spent = authors.iter().filter_map(|(author, _)| {
            let mut own: Vec<&Verified> =
                all.iter().map(|stored| &stored.entry).filter(|entry| entry.author() == *author).collect();
            own.sort_by_key(|entry| (entry.sequence(), entry.id()));
            let is_last = |entry: &mesh_sync::entry::Entry| {
                documents.last_write(&DocumentKey::of(entry)).is_some_and(|last| last.item == entry.item())
            };
            retention.watermark(own.into_iter().map(|entry| &**entry), is_last).map(|up_to| (*author, up_to))
        });
        spent.collect()
    }

    fn fault(&mut self) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        self.push_in(1, self.options.fault_every_ms * 2, Event::Fault);
        let node = self.rng.usize(0..self.options.nodes);
        match self.rng.u32(0..10) {
            _ if self.options.only_cuts => self.cut_off(node),
            0..=2 => self.cut_off(node),
            3..=5 => self.crash(node, false),
            6..=7 => self.crash(node, self.options.restores),
            _ => self.copy(node),
        }
        Ok(())
    }

    fn copy(&mut self, node: usize) {
        if self.options.restores {
            self.nodes[node].copy = Some(self.nodes[node].disk.copy());
        }
    }

    fn cut_off(&mut self, a: usize) {
        let b = self.rng.usize(0..self.options.nodes);
        let pair = (a.min(b), a.max(b));
        if a == b || !self.options.linked(a, b) || !self.cut.insert(pair) {
            return;
        }
        self.report.cuts += 1;
        let epoch = self.epochs.get(&pair).copied().unwrap_or(0);
        for (node, peer) in [(a, b), (b, a)] {
            let run = self.nodes[node].run;
            self.push_in(1, 3000, Event::Notices { node, run, peer, epoch });
        }
        self.push_in(1000, 20_000, Event::CutEnds { a: pair.0, b: pair.1 });
    }

    /// What was not committed is gone, and sometimes the disk is replaced by an older copy.
    fn crash(&mut self, node: usize, restore: bool) {
        if !self.nodes[node].up {
            return;
        }
        self.report.crashes += 1;
        self.nodes[node].up = false;
        for peer in 0..self.options.nodes {
            let pair = (node.min(peer), node.max(peer));
            if let Some(epoch) = self.epochs.get(&pair).copied().filter(|_| self.nodes[peer].up) {
                let run = self.nodes[peer].run;
                self.push_in(1, 1000, Event::Notices { node: peer, run, peer: node, epoch });
            }
        }
        if restore && let Some(copy) = self.nodes[node].copy.take() {
            self.report.restores += 1;
            self.nodes[node].restored = true;
            self.nodes[node].disk = copy;
            for at in 0..self.options.datasets {
                let stores: Vec<_> = (0..self.options.nodes).map(|other| self.store_of(other, at)).collect();
                let stores: Vec<&dyn EntryStore> = stores.iter().map(|store| &**store).collect();
                self.rules[at].on_restore(&stores);
            }
        }
        self.push_in(500, 10_000, Event::Restart { node });
    }

    /// Whatever is behind a durable cursor is held. Each arrival is looked at once.
    fn look_at_cursors(&mut self, node: usize, at: usize) -> Result<(), Violation> {
        for status in self.nodes[node].parts[at].replica.peers() {
            let peer = at_of(&status.peer);
            let Some(cursor) = status.cursor else { continue };
            if !self.nodes[peer].up || self.nodes[peer].restored || self.nodes[node].restored {
                continue;
            }
            let (ours, theirs) = (&self.nodes[node].parts[at], &self.nodes[peer].parts[at]);
            if theirs.store.incarnation().0 != cursor.incarnation {
                continue;
            }
            let from = ours.looked.get(&peer).copied().unwrap_or(0);
            let new = usize::try_from(cursor.sequence.saturating_sub(from)).expect("few");
            let listed = theirs.store.arrivals(Arrival(from + 1), new).expect("reads");
            for one in listed.iter().filter(|one| one.arrival.0 <= cursor.sequence) {
                let entry = &self.rules[at].all[&one.item.id];
                let ahead = self.nodes[node].deferred.contains(&entry.id());
                let held = ours.store.has(&[one.item.id]).expect("reads")[0];
                if !held && !ahead && !self.rules[at].is_pruned(entry) {
                    let text = format!("n{node} lacks {} behind its cursor in n{peer}", one.item.id);
                    return Err(self.broken(("what is behind a durable cursor is held", text)));
                }
            }
            self.nodes[node].parts[at].looked.insert(peer, cursor.sequence.max(from));
        }
        Ok(())
    }

    fn look_at_all(&self) -> Result<(), Violation> {
        for node in &self.nodes {
            for (part, rules) in node.parts.iter().zip(&self.rules) {
                rules.at_the_end(&*part.store).map_err(|broken| self.broken(broken))?;
            }
        }
        Ok(())
    }
}
