//! One run: nodes, store, messages, faults, and what people do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

mod faults;
mod heal;
mod history;
mod log;
mod nodes;
mod program;

use mesh_core::{
    FencingToken, Instant, Revision, Settings, Validated,
    store::{SessionId, Txn},
};
use mesh_leader::{Input, LeaderConfig, LeaderCore, Request, Scope, WatchId};
use mesh_registry::state::State;

pub use history::EXPLAINED;

use super::{
    options::ElectionOptions,
    rules::Rules,
    store::{Caller, Purpose, SimStore, StoreBug, VOTERS},
};
use crate::{EventQueue, HostClock, Trace, Violation};

/// Between two looks of a leader at its work.
const WORK: Duration = Duration::from_millis(150);
/// Renewals gather for so long.
const BATCH: Duration = Duration::from_millis(100);
/// Between two looks of the store's leader at its sessions.
const LOOK: Duration = Duration::from_millis(50);
/// A lost connection is noticed after so long.
const NOTICED: Duration = Duration::from_secs(1);
/// Membership notices a death after so long.
const DECLARED: Duration = Duration::from_millis(900);
/// Every scope has a leader, whom all know, so long after the last fault; on top of two times to live.
const HEAL: Duration = Duration::from_secs(20);
/// Longer than any message is late.
const SETTLE: Duration = Duration::from_secs(12);
/// Effects of one step.
const EFFECTS_MAX: usize = 10_000;
/// What leaders watch.
const PREFIX: &str = "leader/";

/// Breaks a rule in one part.
pub type Plant<T> = Box<dyn Fn(&mut T)>;

/// What is done to the parts of a run before it begins: rules are broken on purpose.
#[derive(Default)]
pub struct Planted {
    /// In the modelled log.
    pub store: Option<StoreBug>,
    /// To the state that it agrees on.
    pub state: Option<Plant<State>>,
    /// To the core of each node, at each start.
    pub leader: Option<Plant<LeaderCore>>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct ElectionOutcome {
    /// The hash of everything that happened.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Leases that were granted.
    pub grants: u64,
    /// Guarded writes that took effect, and those that were refused.
    pub writes: (u64, u64),
    /// How long the cluster took to have one leader for each scope, once faults had ended.
    pub healed_after: Duration,
}

enum Happening {
    Timer { node: usize, run: u32 },
    Input { node: usize, run: u32, input: Input },
    Arrives { caller: Caller, request: Request },
    WatchArrives { node: usize, run: u32, id: WatchId, after: Revision },
    Commit { epoch: u64 },
    Batch,
    Look,
    Elect { epoch: u64 },
    Work { node: usize },
    GuardedArrives { node: usize, scope: usize, token: FencingToken },
    GuardedRepeats { txn: Box<Txn>, node: usize, scope: usize, token: FencingToken },
    Hint { about: usize, gone: bool },
    Fault(usize),
    FaultEnds(usize),
}

struct Node {
    clock: HostClock,
    core: Option<LeaderCore>,
    run: u32,
    paused: bool,
    cut: bool,
    waiting: VecDeque<Happening>,
    timer_at: Option<Instant>,
    program: program::Program,
}

struct World<'o> {
    options: &'o ElectionOptions,
    planted: Planted,
    now: Instant,
    queue: EventQueue<Happening>,
    rng: fastrand::Rng,
    nodes: Vec<Node>,
    store: SimStore,
    rules: Rules,
    trace: Trace,
    history: history::History,
    scopes: Vec<Scope>,
    config: Validated<LeaderConfig>,
    snapshots: BTreeMap<usize, Vec<u8>>,
    faulty: bool,
    ops: u64,
    /// One renewal of each of these nodes is lost, in a time that is calm otherwise.
    lose_renewal_of: BTreeSet<usize>,
    /// With the next renewal of each of these nodes the store's leader dies.
    doomed: BTreeSet<usize>,
    /// Renewals that are under way for long, by node.
    held: BTreeMap<usize, Vec<(SessionId, Caller)>>,
    /// Chance for what programs do, apart from that of all else.
    program_rng: fastrand::Rng,
}

/// Runs the elections of some options.
///
/// # Errors
///
/// The rule that was broken.
pub fn run_election(options: &ElectionOptions) -> Result<ElectionOutcome, Violation> {
    run_election_with(options, Planted::default(), Trace::default())
}

/// As [`run_election`], with rules broken on purpose, and a trace.
///
/// # Errors
///
/// The rule that was broken.
pub fn run_election_with(
    options: &ElectionOptions,
    planted: Planted,
    trace: Trace,
) -> Result<ElectionOutcome, Violation> {
    let mut world = World::new(options, planted, trace);
    for node in 0..options.nodes {
        world.start(node)?;
    }
    let faulty = Instant::ZERO + Duration::from_millis(options.faulty_ms);
    world.run_to(faulty)?;
    world.end_faults()?;
    let healed_after = world.heal()?;
    world.calm()?;
    world.judge()?;
    Ok(ElectionOutcome {
        hash: world.trace.hash(),
        events: world.trace.events(),
        grants: world.rules.grants,
        writes: (world.rules.writes, world.rules.refused),
        healed_after,
    })
}

impl<'o> World<'o> {
    fn new(options: &'o ElectionOptions, planted: Planted, trace: Trace) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let half = i32::try_from(options.drift_ppm / 2).unwrap_or(0);
        let mut clock =
            || HostClock::new(rng.u64(0..1 << 40), if half == 0 { 0 } else { rng.i32(-half..=half) });
        let node = |clock| Node {
            clock,
            core: None,
            run: 0,
            paused: false,
            cut: false,
            waiting: VecDeque::new(),
            timer_at: None,
            program: Default::default(),
        };
        let nodes = (0..options.nodes).map(|_| node(clock())).collect();
        let mut store = SimStore::new((0..VOTERS).map(|_| clock()).collect(), 1000);
        store.bug = planted.store;
        if let Some(plant) = &planted.state {
            plant(&mut store.state);
        }
        let ttl = Duration::from_millis(options.ttl_ms);
        let config =
            LeaderConfig { ttl, ttl_probes: 0, handback_after: Duration::ZERO, ..LeaderConfig::default() };
        let config = config.validate().expect("the settings of a run are valid");
        let mut queue = EventQueue::default();
        for (index, fault) in options.faults.iter().enumerate() {
            queue.push(at_ms(fault.at_ms), Happening::Fault(index));
            let end = (fault.at_ms + fault.for_ms).min(options.faulty_ms);
            queue.push(at_ms(end), Happening::FaultEnds(index));
        }
        queue.push(Instant::ZERO + BATCH, Happening::Batch);
        queue.push(Instant::ZERO + LOOK, Happening::Look);
        let scopes = (0..options.scopes).map(|at| Scope::new(format!("s{at}")).expect("a scope")).collect();
        Self {
            options,
            planted,
            now: Instant::ZERO,
            queue,
            rng,
            nodes,
            store,
            rules: Rules::new(options.scopes),
            trace,
            history: history::History::new(),
            scopes,
            config,
            snapshots: BTreeMap::new(),
            faulty: true,
            ops: 0,
            lose_renewal_of: BTreeSet::new(),
            doomed: BTreeSet::new(),
            held: BTreeMap::new(),
            program_rng: fastrand::Rng::with_seed(options.seed ^ 0x7072_6f67_7261_6d73),
        }
    }

    fn violation(&self, rule: &'static str, detail: String) -> Violation {
        Violation { at: self.now, host: None, rule, detail }
    }

    fn local(&self, node: usize) -> Instant {
        self.nodes[node].clock.local(self.now)
    }

    // Time.

    fn run_to(&mut self, until: Instant) -> Result<(), Violation> {
        while let Some((at, happening)) = self.queue.pop_until(until) {
            self.now = at;
            self.happen(happening)?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Timer { node, run } => {
                self.trace.record(self.now, b't', [node as u64, u64::from(run), 0], &[]);
                self.step(node, run, None)
            }
            Happening::Input { node, run, input } => {
                self.trace.record(self.now, b'i', [node as u64, u64::from(run), 0], &[]);
                self.step(node, run, Some(input))
            }
            Happening::Arrives { caller, request } => {
                self.arrives(caller, request);
                Ok(())
            }
            Happening::WatchArrives { node, run, id, after } => {
                self.begin_watch(node, run, id, after);
                Ok(())
            }
            Happening::Commit { epoch } => {
                if epoch != self.store.epoch || !self.store.has_quorum() {
                    return Ok(());
                }
                let committed = self.store.commit_all(self.now);
                self.committed(committed)
            }
            Happening::Batch => {
                self.push(BATCH, Happening::Batch);
                if self.store.leader.is_some() {
                    self.gather_renewals();
                }
                Ok(())
            }
            Happening::Look => {
                self.push(LOOK, Happening::Look);
                if self.store.has_quorum()
                    && let Some(expire) = self.store.due(self.now)
                {
                    self.release_held(&expire);
                    self.append(&expire, Purpose::Own);
                }
                Ok(())
            }
            Happening::Elect { epoch } => self.elect(epoch),
            Happening::Work { node } => {
                if self.nodes[node].core.is_some() {
                    self.push(WORK, Happening::Work { node });
                }
                self.work(node)
            }
            Happening::GuardedArrives { node, scope, token } => {
                self.guarded_arrives(node, scope, token);
                Ok(())
            }
            Happening::GuardedRepeats { txn, node, scope, token } => {
                self.guarded(*txn, node, scope, token);
                Ok(())
            }
            Happening::Hint { about, gone } => self.hint(about, gone),
            Happening::Fault(index) => self.fault(index),
            Happening::FaultEnds(index) => self.fault_ends(index),
        }
    }
}

fn at_ms(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}
