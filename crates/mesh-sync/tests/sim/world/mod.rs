//! One run.

mod carry;
mod clients;
mod faults;
mod look;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{Hlc, HlcClock, Instant, NodeId, Settings, WallTime};
use mesh_sync::{
    EntryId,
    entry::{Author, AuthorKey, AuthorSequence, DatasetId},
    reconcile::EpochKey,
    replica::{Done, JobId, Now, Opened, Replica, ReplicaOptions},
    store::{Creation, Datasets, EntryStore, Store, StoreError, StoreIncarnation},
};

pub(crate) use self::report::{Report, Violation};
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
}
