//! One run: nodes, store, messages, faults, and what people do.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    FencingToken, Instant, Machine, Revision, Settings, Validated,
    store::{Applied, Compare, Key, Operation, Prefix, SessionError, Txn, WatchEvent},
};
use mesh_leader::{
    Answer, CampaignOptions, Command as LeaderCommand, Effect, Input, LeaderConfig, LeaderCore, MemberHint,
    OpId, Order, Request, RequestId, Scope, Transition, WatchId, lease_key,
};
use mesh_registry::state::{Command, Reply, SnapshotWriter, State, TxnCommand};

use super::{
    options::{ElectionFaultKind, ElectionOptions},
    rules::Rules,
    store::{self, Caller, Committed, Purpose, SimStore, StoreBug, VOTERS, name},
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
    scopes: Vec<Scope>,
    config: Validated<LeaderConfig>,
    snapshots: BTreeMap<usize, Vec<u8>>,
    faulty: bool,
    ops: u64,
    /// One renewal of each of these nodes is lost, in a time that is calm otherwise.
    lose_renewal_of: std::collections::BTreeSet<usize>,
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
            scopes,
            config,
            snapshots: BTreeMap::new(),
            faulty: true,
            ops: 0,
            lose_renewal_of: Default::default(),
        }
    }

    fn violation(&self, rule: &'static str, detail: String) -> Violation {
        Violation { at: self.now, host: None, rule, detail }
    }

    fn local(&self, node: usize) -> Instant {
        self.nodes[node].clock.local(self.now)
    }

    // Messages.

    fn delay(&mut self) -> Duration {
        let least = self.options.delay_us;
        Duration::from_micros(self.rng.u64(least..=4 * least))
    }

    fn lost(&mut self, node: usize) -> bool {
        let one_in = self.options.lost_one_in;
        self.nodes[node].cut || (self.faulty && one_in > 0 && self.rng.u32(0..one_in) == 0)
    }

    fn push(&mut self, after: Duration, happening: Happening) {
        self.queue.push(self.now + after, happening);
    }

    /// Sends a request to the store.
    fn send(&mut self, node: usize, id: RequestId, request: Request) {
        let renewal = matches!(request, Request::KeepAlive(_));
        if self.lost(node) || (renewal && self.lose_renewal_of.remove(&node)) {
            return;
        }
        let late = self.options.late_one_in;
        let mut delay = self.delay();
        if self.faulty && late > 0 && self.rng.u32(0..late) == 0 {
            delay += Duration::from_millis(self.rng.u64(0..6000));
        }
        let txn = match &request {
            Request::Transact(txn) => Some(Box::new(txn.clone())),
            _ => None,
        };
        let caller = Caller { node, run: self.nodes[node].run, request: id, txn };
        self.push(delay, Happening::Arrives { caller, request });
    }

    fn answer(&mut self, caller: &Caller, answer: Answer) {
        self.trace.line(self.now, || format!("to n{}: {answer:?}", caller.node));
        if self.lost(caller.node) {
            return;
        }
        let delay = self.delay();
        let input = Input::Answer { request: caller.request, answer };
        self.push(delay, Happening::Input { node: caller.node, run: caller.run, input });
    }

    // Nodes.

    fn start(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.local(node);
        let seed = self.rng.u64(..);
        let mut core = LeaderCore::new(self.config.clone(), name(node), seed, now);
        if let Some(plant) = &self.planted.leader {
            plant(&mut core);
        }
        let started = &mut self.nodes[node];
        started.run += 1;
        started.timer_at = None;
        started.paused = false;
        started.waiting.clear();
        for scope in &self.scopes {
            let options = CampaignOptions::default();
            let command = LeaderCommand::Campaign { scope: scope.clone(), options };
            core.handle(now, Input::Command(command)).map_err(|refusal| Violation {
                at: self.now,
                host: None,
                rule: "a campaign is taken",
                detail: refusal.to_string(),
            })?;
        }
        started.core = Some(core);
        self.push(WORK, Happening::Work { node });
        self.push(DECLARED, Happening::Hint { about: node, gone: false });
        self.drain(node)
    }

    fn kill(&mut self, node: usize) {
        if self.nodes[node].core.take().is_some() {
            let run = self.nodes[node].run;
            self.store.watches.remove(&(node, run));
            self.push(DECLARED, Happening::Hint { about: node, gone: true });
        }
    }

    /// Feeds a node, unless it stands still or is another run.
    fn step(&mut self, node: usize, run: u32, feed: Option<Input>) -> Result<(), Violation> {
        let now = self.local(node);
        let target = &mut self.nodes[node];
        if target.run != run {
            return Ok(());
        }
        if target.paused {
            let happening = match feed {
                Some(input) => Happening::Input { node, run, input },
                None => Happening::Timer { node, run },
            };
            target.waiting.push_back(happening);
            return Ok(());
        }
        let Some(core) = &mut target.core else { return Ok(()) };
        match feed {
            // What an operator asks may be refused; nothing else is.
            Some(input) => drop(core.handle(now, input)),
            None => {
                target.timer_at = None;
                core.handle_timeout(now);
            }
        }
        self.drain(node)
    }

    /// Carries out what a core wants, and sets its timer.
    fn drain(&mut self, node: usize) -> Result<(), Violation> {
        let run = self.nodes[node].run;
        for count in 0.. {
            let Some(core) = &mut self.nodes[node].core else { return Ok(()) };
            let Some(effect) = core.poll_effect() else { break };
            if count > EFFECTS_MAX {
                return Err(self.violation("work of a step is bounded", format!("n{node} does not end")));
            }
            self.carry_out(node, run, effect)?;
        }
        let timer = &self.nodes[node];
        if let Some(due) = timer.core.as_ref().and_then(Machine::poll_timeout) {
            let at = timer.clock.run(due).max(self.now);
            if timer.timer_at.is_none_or(|set| at < set) {
                self.nodes[node].timer_at = Some(at);
                self.queue.push(at, Happening::Timer { node, run });
            }
        }
        self.check_acting()
    }

    fn carry_out(&mut self, node: usize, run: u32, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Request { id, request, .. } => self.send(node, id, request),
            Effect::Watch { id, after } => {
                if self.lost(node) {
                    let ended = Input::WatchEnded { watch: id };
                    self.push(NOTICED, Happening::Input { node, run, input: ended });
                } else {
                    let delay = self.delay();
                    self.push(delay, Happening::WatchArrives { node, run, id, after });
                }
            }
            Effect::Event(event) => {
                self.trace.record(self.now, b'e', [node as u64, event.token.counter, event.term], &[]);
                self.trace.line(self.now, || {
                    format!(
                        "n{node}: {} {} {} {} term {} {}",
                        event.scope,
                        event.transition.as_str(),
                        event.leader,
                        event.token,
                        event.term,
                        event.reason.as_str()
                    )
                });
                let scope = self.scopes.iter().position(|scope| *scope == event.scope);
                if let (Some(scope), Transition::Elected | Transition::Observed) = (scope, event.transition) {
                    self.rules.reigns(self.now, scope, event.token, event.term)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What a leader's program does: checks its lease, then writes under its token.
    fn work(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].paused {
            return Ok(());
        }
        let now = self.local(node);
        let Some(core) = &self.nodes[node].core else { return Ok(()) };
        let held = |scope: &Scope| core.check(scope, now).and_then(Result::ok);
        let tokens: Vec<_> = self.scopes.iter().map(held).collect();
        for (scope, token) in tokens.into_iter().enumerate() {
            let Some(token) = token else { continue };
            if self.lost(node) {
                continue;
            }
            let mut delay = self.delay();
            if self.rng.u8(0..10) == 0 {
                // Such a write is what fencing is for: by the time it arrives another may lead.
                delay += Duration::from_millis(self.rng.u64(0..8000));
            }
            self.push(delay, Happening::GuardedArrives { node, scope, token });
        }
        self.check_acting()
    }

    fn check_acting(&self) -> Result<(), Violation> {
        for (at, scope) in self.scopes.iter().enumerate() {
            let acting = |node: usize| {
                let one = &self.nodes[node];
                let core = one.core.as_ref().filter(|_| !one.paused)?;
                let token = core.check(scope, one.clock.local(self.now))?.ok()?;
                Some((name(node), token))
            };
            let holders: Vec<_> = (0..self.nodes.len()).filter_map(acting).collect();
            self.rules.acting(self.now, at, &holders)?;
        }
        Ok(())
    }

    // The store.

    fn arrives(&mut self, caller: Caller, request: Request) {
        self.trace.line(self.now, || format!("n{} asks: {request:?}", caller.node));
        let leads =
            self.store.leader.filter(|at| self.store.voters[*at].up && !self.store.voters[*at].paused);
        if leads.is_none() {
            let refused = store::refused(&request, Applied::No);
            return self.answer(&caller, refused);
        }
        if let Request::KeepAlive(session) = request {
            return self.store.queue_renewal(session, caller);
        }
        match store::command_of(&request) {
            Some(command) => {
                self.append(&command, Purpose::Call(caller));
            }
            None => {
                if let Some(answer) = self.store.read(&request) {
                    self.answer(&caller, answer);
                }
            }
        }
    }

    fn append(&mut self, command: &Command, purpose: Purpose) {
        if self.store.append(self.now, command, purpose) {
            self.schedule_commit();
        }
    }

    fn schedule_commit(&mut self) {
        let (delay, epoch) = (self.delay(), self.store.epoch);
        self.push(delay, Happening::Commit { epoch });
    }

    fn committed(&mut self, all: Vec<Committed>) -> Result<(), Violation> {
        for committed in all {
            self.learn(&committed)?;
            let Committed { purpose, reply, changes, .. } = committed;
            self.trace.record(self.now, b'c', [self.store.state.revision().0, changes.len() as u64, 0], &[]);
            match &purpose {
                Purpose::Call(caller) => {
                    if let Some(answer) = store::answer_of(caller, &reply, None) {
                        self.answer(caller, answer);
                    }
                }
                Purpose::Renewals(callers) => {
                    if let Reply::Renewed(sessions) = &reply {
                        for ((id, caller), session) in callers.iter().zip(sessions) {
                            let gone = SessionError::Gone { session: *id };
                            self.answer(caller, Answer::Session(session.clone().ok_or(gone)));
                        }
                    }
                }
                Purpose::Guarded { .. } | Purpose::Own => {}
            }
            if let Reply::Restored(Ok(restored)) = &reply {
                self.rules.restored(self.now, self.config.ttl);
                let gap = WatchEvent::Gap { from: Revision(1), to: restored.revision };
                self.publish(|_| Some(gap.clone()));
            } else {
                for revised in &changes {
                    self.publish(|subscription| subscription.told(revised));
                }
            }
        }
        Ok(())
    }

    /// Keeps the rules in step with what took effect.
    fn learn(&mut self, committed: &Committed) -> Result<(), Violation> {
        for (key, token, owner) in &committed.granted {
            let scope = self.scopes.iter().position(|scope| lease_key(scope) == *key);
            if let Some(scope) = scope.filter(|scope| !self.rules.knows(*scope, *token, owner)) {
                self.rules.granted(self.now, scope, *token, owner.clone())?;
            }
        }
        if let (Purpose::Guarded { node, scope, token }, Reply::Txn(outcome)) =
            (&committed.purpose, &committed.reply)
        {
            match outcome {
                Ok(_) => self.rules.wrote(self.now, *scope, *token, &name(*node))?,
                Err(_) => self.rules.refused += 1,
            }
        }
        Ok(())
    }

    fn publish(&mut self, told: impl Fn(&store::Subscription) -> Option<WatchEvent>) {
        let keys: Vec<_> = self.store.watches.keys().copied().collect();
        for key in keys {
            let delay = self.delay();
            let cut = self.nodes[key.0].cut;
            let Some(subscription) = self.store.watches.get_mut(&key) else { continue };
            let Some(event) = told(subscription) else { continue };
            let (node, run, id) = (subscription.node, subscription.run, subscription.id);
            if cut {
                self.store.watches.remove(&key);
                let input = Input::WatchEnded { watch: id };
                self.push(NOTICED, Happening::Input { node, run, input });
                continue;
            }
            let at = (self.now + delay).max(subscription.last);
            subscription.last = at;
            self.queue.push(at, Happening::Input { node, run, input: Input::Watch { watch: id, event } });
        }
    }

    fn lose_store_leader(&mut self) {
        let kept = self.rng.usize(0..=self.store.log_len());
        self.store.lose_leader(kept);
        let watches = std::mem::take(&mut self.store.watches);
        for subscription in watches.into_values() {
            let input = Input::WatchEnded { watch: subscription.id };
            let delay = self.delay();
            self.push(delay, Happening::Input { node: subscription.node, run: subscription.run, input });
        }
        let wait = Duration::from_millis(self.rng.u64(300..900));
        let epoch = self.store.epoch;
        self.push(wait, Happening::Elect { epoch });
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
                    for (caller, answer) in self.store.batch_renewals(self.now) {
                        self.answer(&caller, answer);
                    }
                    self.schedule_commit();
                }
                Ok(())
            }
            Happening::Look => {
                self.push(LOOK, Happening::Look);
                if self.store.has_quorum()
                    && let Some(expire) = self.store.due(self.now)
                {
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
                let put = Operation::Put {
                    key: data_key(scope),
                    value: Bytes::from(token.to_string()),
                    session: None,
                };
                let fence = Compare::Fence { key: lease_key(&self.scopes[scope]), token };
                let txn = Txn::new(name(node)).when(fence).then(put);
                let command = Command::Txn(TxnCommand { txn, audit: None });
                self.append(&command, Purpose::Guarded { node, scope, token });
                Ok(())
            }
            Happening::Hint { about, gone } => self.hint(about, gone),
            Happening::Fault(index) => self.fault(index),
            Happening::FaultEnds(index) => self.fault_ends(index),
        }
    }

    fn begin_watch(&mut self, node: usize, run: u32, id: WatchId, after: Revision) {
        if self.store.leader.is_none() || self.nodes[node].cut {
            let input = Input::WatchEnded { watch: id };
            return self.push(NOTICED, Happening::Input { node, run, input });
        }
        let prefix = Prefix::new(PREFIX).expect("a prefix");
        let first = self.store.watch(self.now, (node, run), id, prefix, after);
        for event in first {
            let delay = self.delay();
            let Some(subscription) = self.store.watches.get_mut(&(node, run)) else { return };
            let at = (self.now + delay).max(subscription.last);
            subscription.last = at;
            self.queue.push(at, Happening::Input { node, run, input: Input::Watch { watch: id, event } });
        }
    }

    fn elect(&mut self, epoch: u64) -> Result<(), Violation> {
        if epoch != self.store.epoch || self.store.leader.is_some() {
            return Ok(());
        }
        let voter = self.rng.usize(0..VOTERS);
        match self.store.elect(self.now, voter) {
            Some(committed) => {
                self.trace.line(self.now, || format!("voter {voter} leads the store"));
                self.committed(committed)
            }
            None => {
                self.push(Duration::from_millis(200), Happening::Elect { epoch });
                Ok(())
            }
        }
    }

    fn hint(&mut self, about: usize, gone: bool) -> Result<(), Violation> {
        for node in (0..self.nodes.len()).filter(|node| *node != about) {
            let hint = MemberHint { node_id: name(about), gone, shy: false, zone: None };
            self.step(node, self.nodes[node].run, Some(Input::Member(hint)))?;
        }
        Ok(())
    }

    fn command(&mut self, node: usize, command: LeaderCommand) -> Result<(), Violation> {
        self.step(node, self.nodes[node].run, Some(Input::Command(command)))
    }

    // Faults.

    fn fault(&mut self, index: usize) -> Result<(), Violation> {
        let kind = self.options.faults[index].kind;
        self.trace.line(self.now, || format!("fault: {kind:?}"));
        match kind {
            ElectionFaultKind::CrashNode(node) => self.kill(node),
            ElectionFaultKind::PauseNode(node) => self.nodes[node].paused = true,
            ElectionFaultKind::CutNode(node) => self.nodes[node].cut = true,
            ElectionFaultKind::FalseDeath(node) => self.hint(node, true)?,
            ElectionFaultKind::CrashVoter(voter) => {
                self.store.voters[voter].up = false;
                if self.store.leader == Some(voter) {
                    self.lose_store_leader();
                }
            }
            ElectionFaultKind::CrashStoreLeader
            | ElectionFaultKind::PauseStoreLeader
            | ElectionFaultKind::CutStoreLeader => {
                if let Some(leader) = self.store.leader {
                    let voter = &mut self.store.voters[leader];
                    match kind {
                        ElectionFaultKind::CrashStoreLeader => voter.up = false,
                        ElectionFaultKind::PauseStoreLeader => voter.paused = true,
                        _ => voter.cut = true,
                    }
                    self.lose_store_leader();
                }
            }
            ElectionFaultKind::StepDown(node, scope) => self.hand_over(node, scope, None)?,
            ElectionFaultKind::Transfer(node, scope) => {
                let to = self.rng.usize(0..self.nodes.len());
                self.hand_over(node, scope, Some(to))?;
            }
            ElectionFaultKind::Drain(node) => {
                let op = self.op();
                self.command(node, LeaderCommand::Drain { op })?;
            }
            ElectionFaultKind::Compact => {
                let through = self.store.state.revision();
                self.append(&Command::Compact(through), Purpose::Own);
            }
            ElectionFaultKind::Restore => {
                let snapshot = SnapshotWriter::new(self.store.state.clone()).flatten().collect();
                self.snapshots.insert(index, snapshot);
            }
        }
        Ok(())
    }

    fn fault_ends(&mut self, index: usize) -> Result<(), Violation> {
        let kind = self.options.faults[index].kind;
        self.trace.line(self.now, || format!("over: {kind:?}"));
        match kind {
            ElectionFaultKind::CrashNode(node) if self.nodes[node].core.is_none() => self.start(node)?,
            ElectionFaultKind::PauseNode(node) => self.resume(node)?,
            ElectionFaultKind::CutNode(node) => self.nodes[node].cut = false,
            ElectionFaultKind::FalseDeath(node) => self.hint(node, false)?,
            ElectionFaultKind::Drain(node) => self.command(node, LeaderCommand::Undrain)?,
            ElectionFaultKind::CrashVoter(_)
            | ElectionFaultKind::CrashStoreLeader
            | ElectionFaultKind::PauseStoreLeader
            | ElectionFaultKind::CutStoreLeader => self.mend_voters(),
            ElectionFaultKind::Restore => self.restore(index),
            _ => {}
        }
        Ok(())
    }

    fn resume(&mut self, node: usize) -> Result<(), Violation> {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return Ok(());
        }
        // The program runs first, and the core has not heard of anything yet.
        self.work(node)?;
        self.check_acting()?;
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        for happening in waiting {
            match happening {
                Happening::Timer { run, .. } => self.step(node, run, None)?,
                Happening::Input { run, input, .. } => self.step(node, run, Some(input))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn mend_voters(&mut self) {
        for at in 0..VOTERS {
            let voter = &mut self.store.voters[at];
            if !voter.takes_part() {
                (voter.up, voter.paused, voter.cut) = (true, false, false);
                self.store.voter_is_back(self.now, at);
            }
        }
        if self.store.leader.is_some() {
            self.schedule_commit();
        }
    }

    fn restore(&mut self, index: usize) {
        let Some(snapshot) = self.snapshots.remove(&index) else { return };
        let (id, bytes) = (index as u64 + 1, snapshot.len() as u64);
        let xxh3 = xxhash_rust::xxh3::xxh3_64(&snapshot);
        let chunk = Command::RestoreChunk { id, offset: 0, data: snapshot.into() };
        let end = Command::RestoreEnd { id, bytes, xxh3 };
        self.append(&Command::Batch(vec![chunk]), Purpose::Own);
        self.append(&end, Purpose::Own);
    }

    fn hand_over(&mut self, node: usize, scope: usize, to: Option<usize>) -> Result<(), Violation> {
        let (op, scope) = (self.op(), self.scopes[scope].clone());
        let order = Order { by: "somebody".into(), reason: "a trial".into() };
        self.command(node, LeaderCommand::HandOver { op, scope, to: to.map(name), order })
    }

    fn op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    fn end_faults(&mut self) -> Result<(), Violation> {
        self.trace.line(self.now, || "faults end".into());
        self.faulty = false;
        self.mend_voters();
        for node in 0..self.nodes.len() {
            self.nodes[node].cut = false;
            self.resume(node)?;
            if self.nodes[node].core.is_none() {
                self.start(node)?;
            } else {
                self.command(node, LeaderCommand::Undrain)?;
            }
            self.hint(node, false)?;
        }
        Ok(())
    }

    /// Who leads each scope, if all agree and the leader itself knows.
    fn agreed(&self) -> Result<Vec<FencingToken>, String> {
        let leader_of = |scope: &Scope| {
            let mut seen = Vec::new();
            for node in &self.nodes {
                let view = node.core.as_ref().and_then(|core| core.leader(scope));
                seen.push(view.and_then(|view| Some((view.leader?, view.token?))));
            }
            let Some(Some((leader, token))) = seen.first().cloned() else {
                return Err(format!("{scope}: n0 knows of no leader"));
            };
            if let Some(at) = seen.iter().position(|s| s.as_ref() != Some(&(leader.clone(), token))) {
                return Err(format!("{scope}: n0 sees {leader} with {token}, n{at} sees {:?}", seen[at]));
            }
            let holds = (0..self.nodes.len()).any(|at| {
                let core = self.nodes[at].core.as_ref().filter(|_| name(at) == leader);
                core.is_some_and(
                    |core| matches!(core.check(scope, self.local(at)), Some(Ok(t)) if t == token),
                )
            });
            if holds { Ok(token) } else { Err(format!("{scope}: {leader} does not know that it leads")) }
        };
        self.scopes.iter().map(leader_of).collect()
    }

    fn heal(&mut self) -> Result<Duration, Violation> {
        let start = self.now;
        loop {
            self.run_to(self.now + LOOK)?;
            let waited = self.now.since(start);
            match self.agreed() {
                Ok(_) => return Ok(waited),
                Err(detail) if waited > HEAL + self.config.ttl * 2 => {
                    return Err(self.violation("every scope has a leader in the end", detail));
                }
                Err(_) => {}
            }
        }
    }

    /// Nothing changes while nothing is wrong, not even if each node loses one renewal.
    fn calm(&mut self) -> Result<(), Violation> {
        // Messages that faults had delayed have arrived by then, and what they asked for is over.
        self.run_to(self.now + self.config.ttl + SETTLE)?;
        let before = self.agreed().map_err(|detail| self.violation("leaders stay in calm", detail))?;
        self.lose_renewal_of = (0..self.nodes.len()).collect();
        let writes = self.rules.writes;
        for _ in 0..20 {
            self.run_to(self.now + self.config.ttl / 5)?;
            match self.agreed() {
                Ok(now) if now == before => {}
                Ok(now) => {
                    let detail = format!("{before:?} became {now:?}");
                    return Err(self.violation("leaders stay in calm", detail));
                }
                Err(detail) => return Err(self.violation("leaders stay in calm", detail)),
            }
        }
        if self.rules.writes == writes {
            return Err(self.violation("leaders get work done in calm", "no write took effect".into()));
        }
        Ok(())
    }
}

fn at_ms(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn data_key(scope: usize) -> Key {
    Key::new(format!("data/s{scope}")).expect("a key")
}
