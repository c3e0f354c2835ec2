//! The core of leadership as a plain value: a session, a copy of the records, and a seat for each scope.
//!
//! | file | holds |
//! |---|---|
//! | `session` | the one session: until when it is certainly open |
//! | `sync`, `view` | the copy of the records, read once and followed by a watch |
//! | `candidates` | this node's candidate records |
//! | `rank`, `election` | whose turn it is, and the grant |
//! | `handover`, `asks` | giving a lease away, and asking another holder to |
//! | `reigns` | what changes of the records mean for who leads |
//! | `idle` | what nobody wants to lead any more is forgotten |
//! | `commands` | what the node's owner asks for |
//! | `requests` | what waits for an answer of the store |

mod asks;
mod candidates;
mod commands;
mod election;
mod handover;
mod idle;
mod measure;
mod rank;
mod reigns;
mod requests;
mod seat;
mod session;
mod sync;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{Clock, FencingToken, Instant, Machine, NodeId, Validated, WallTime};

use self::{
    asks::Ask,
    candidates::Registrar,
    idle::Idle,
    measure::Measure,
    requests::{Asker, Outbox},
    seat::{Phase, Seat, Tenure},
    session::{SessionEvent, SessionKeeper, Tools},
    sync::Sync,
    view::View,
};
use crate::{
    Counters, LeaderConfig, LeaseError, PlantedBug, Reason, Refusal, Scope, Transition, TtlAdmission,
    event::{Answer, Effect, Input, LeaderView, LeadershipStatus, MemberHint, OpId, RequestId},
    planted::Planted,
};

/// Rounds in which the parts of a core may wake each other before the next input. Two or three are the rule.
const ROUNDS_MAX: usize = 64;

/// Sessions, elections and handovers of one node.
///
/// It is a [`Machine`]: it asks the store through [`Effect::Request`] and [`Effect::Watch`], and is told of
/// the answers. It reads no clock; [`set_wall`](Self::set_wall) is for what people read.
#[derive(Debug)]
pub struct LeaderCore {
    config: Validated<LeaderConfig>,
    node_id: NodeId,
    rng: fastrand::Rng,
    out: Outbox,
    keeper: SessionKeeper,
    sync: Sync,
    view: View,
    seats: BTreeMap<Scope, Seat>,
    registrar: Registrar,
    asks: BTreeMap<OpId, Ask>,
    idle: Idle,
    members: BTreeMap<NodeId, MemberHint>,
    measure: Measure,
    admission: TtlAdmission,
    counters: Counters,
    /// Scopes to look at.
    dirty: BTreeSet<Scope>,
    /// Scopes that wait for a transaction to end.
    waiting: BTreeSet<Scope>,
    timers: BTreeSet<(Instant, Scope)>,
    /// Leases that are asked for, by spread group.
    coming: BTreeMap<String, u32>,
    draining: Option<Vec<OpId>>,
    stopped: bool,
    /// What the store has against us.
    trouble: Option<String>,
    /// When the core last ran.
    ran_at: Instant,
    /// Milliseconds of the wall clock at instant zero.
    wall_zero_ms: i128,
    pub(crate) planted: Planted,
}

impl LeaderCore {
    /// The core of one node. `seed` decides its jitter and the numbers that it gives to transitions.
    pub fn new(config: Validated<LeaderConfig>, node_id: NodeId, seed: u64, now: Instant) -> Self {
        let keeper = SessionKeeper::new(node_id.clone(), &config);
        let mut core = Self {
            rng: fastrand::Rng::with_seed(seed),
            out: Outbox::default(),
            keeper,
            sync: Sync::default(),
            view: View::new(config.records_max),
            seats: BTreeMap::new(),
            registrar: Registrar::default(),
            asks: BTreeMap::new(),
            idle: Idle::default(),
            members: BTreeMap::new(),
            measure: Measure::new(config.ttl_probes, now),
            admission: TtlAdmission::default(),
            counters: Counters::default(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            timers: BTreeSet::new(),
            coming: BTreeMap::new(),
            draining: None,
            stopped: false,
            trouble: None,
            ran_at: now,
            wall_zero_ms: 0,
            planted: Planted::default(),
            node_id,
            config,
        };
        core.sync.start(now);
        let scopes = core.config.scopes.clone();
        for scope in scopes.iter().filter(|scope| !scope.observe) {
            // Names and options were checked with the settings.
            if let Ok(name) = Scope::new(&scope.name) {
                let _ = core.campaign(name, scope.campaign_options());
            }
        }
        core.settle(now);
        core
    }

    /// Tells what the wall clock shows, for what people read. Nothing is decided by it.
    pub fn set_wall(&mut self, now: Instant, wall: WallTime) {
        self.wall_zero_ms = i128::from(wall.0) - i128::from(now.as_nanos() / 1_000_000);
    }

    /// As [`set_wall`](Self::set_wall), from a clock.
    pub fn read_wall(&mut self, clock: &dyn Clock) {
        self.set_wall(clock.now(), clock.wall());
    }

    fn wall(&self, now: Instant) -> WallTime {
        WallTime(u64::try_from(self.wall_zero_ms + i128::from(now.as_nanos() / 1_000_000)).unwrap_or(0))
    }

    /// The node.
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    /// Who leads, scope by scope.
    pub fn leaders(&self) -> impl Iterator<Item = LeaderView> + '_ {
        self.view.scopes().map(|(scope, view)| view.shown(scope))
    }

    /// Who leads a scope; `None` if nothing is known of it.
    pub fn leader(&self, scope: &Scope) -> Option<LeaderView> {
        Some(self.view.scope(scope)?.shown(scope))
    }

    /// Whether this node leads a scope at `now`, with which token.
    ///
    /// # Errors
    ///
    /// `None` in place of an error if it has no lease at all. [`LeaseError::Unconfirmed`] once the deadline
    /// is past, or if the core did not run for so long that it can't know.
    pub fn check(&self, scope: &Scope, now: Instant) -> Option<Result<FencingToken, LeaseError>> {
        let seat = self.seats.get(scope)?;
        let tenure = seat.tenure()?;
        let (scope, token) = (scope.clone(), tenure.token);
        if matches!(seat.phase, Phase::HandingOver(_)) && !self.has_bug(PlantedBug::LeadWhileHandingOver) {
            return Some(Err(LeaseError::HandingOver { scope, token }));
        }
        let standing = Standing {
            valid_until: self.keeper.valid_until(),
            ran_at: self.ran_at,
            quiet_max: self.keeper.quiet_max(),
        };
        if self.has_bug(PlantedBug::CheckIgnoresPause) || standing.holds(now) {
            return Some(Ok(token));
        }
        Some(Err(LeaseError::Unconfirmed { scope, token }))
    }

    /// How long the core may not run before a check of a lease asks the store.
    pub fn quiet_max(&self) -> Duration {
        self.keeper.quiet_max()
    }

    /// When the core last ran.
    pub fn ran_at(&self) -> Instant {
        self.ran_at
    }

    /// How this node stands.
    pub fn status(&self, now: Instant) -> LeadershipStatus {
        LeadershipStatus {
            synced: self.sync.synced,
            session: self.keeper.session(),
            confirmed: self.keeper.confirmed(now).is_some(),
            leads: self.seats.values().filter(|seat| seat.is_leading()).count(),
            campaigns: self.seats.values().filter(|seat| seat.campaign.is_some()).count(),
            draining: self.draining.is_some(),
            ttl_refused: self.measure.refused().cloned(),
            trouble: self.trouble.clone(),
        }
    }

    /// What was counted. Time without a leader includes what is not over yet.
    pub fn counters(&self, now: Instant) -> Counters {
        let mut counters = self.counters.clone();
        for (_, view) in self.view.scopes() {
            counters.without_leader += view.vacant_since.map_or(Duration::ZERO, |since| now.since(since));
        }
        counters.renewal_failures = self.keeper.renewal_failures;
        counters.records_left_out = self.view.left_out;
        counters
    }

    /// The shortest time to live that could be kept here, as measured so far.
    pub fn ttl_needed(&self) -> Duration {
        self.admission.needed(self.config.drift_ppm)
    }

    /// Effects that wait to be handed out.
    pub fn queue_length(&self) -> usize {
        self.out.len()
    }

    fn is_gone(&self, node_id: &NodeId) -> bool {
        self.members.get(node_id).is_some_and(|hint| hint.gone)
    }

    fn set_timer(&mut self, scope: &Scope, at: Instant) {
        let Some(seat) = self.seats.get_mut(scope) else { return };
        if let Some(old) = seat.timer.replace(at) {
            self.timers.remove(&(old, scope.clone()));
        }
        self.timers.insert((at, scope.clone()));
    }

    /// Enters a phase, and returns the one before.
    fn set_phase(&mut self, scope: &Scope, phase: Phase) -> Phase {
        if let Phase::Acquiring { spread: Some(group), .. } = &phase {
            *self.coming.entry(group.clone()).or_default() += 1;
        }
        let Some(seat) = self.seats.get_mut(scope) else { return Phase::Idle };
        let before = std::mem::replace(&mut seat.phase, phase);
        if let Phase::Acquiring { spread: Some(group), .. } = &before
            && let Some(count) = self.coming.get_mut(group)
        {
            *count -= 1;
            if *count == 0 {
                self.coming.remove(group);
            }
        }
        before
    }

    fn forget_unused(&mut self, scope: &Scope) {
        if self.seats.get(scope).is_some_and(Seat::is_unused) {
            if let Some(seat) = self.seats.remove(scope)
                && let Some(at) = seat.timer
            {
                self.timers.remove(&(at, scope.clone()));
            }
            self.forget_scope(scope);
        }
    }

    fn on_session(&mut self, now: Instant, event: SessionEvent) {
        match event {
            SessionEvent::Opened => {
                self.counters.sessions += 1;
                let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
                for scope in scopes {
                    self.registrar.touch(&scope);
                    self.dirty.insert(scope);
                }
            }
            SessionEvent::Renewed(slack) => {
                self.counters.renewal_slack.observe(slack);
                self.review_ttl();
                let led: Vec<(Scope, Tenure)> = self
                    .seats
                    .iter()
                    .filter_map(|(scope, seat)| match &seat.phase {
                        Phase::Leading(tenure) => Some((scope.clone(), tenure.clone())),
                        _ => None,
                    })
                    .collect();
                for (scope, tenure) in led {
                    let (transition, reason) = (Transition::Renewed, Reason::Renewal);
                    self.tell_of(now, transition, &scope, self.node_id.clone(), &tenure, reason);
                }
                // Some may have waited for certainty.
                let idle = self.seats.iter().filter(|(_, seat)| seat.is_idle() && seat.campaign.is_some());
                self.dirty.extend(idle.map(|(scope, _)| scope.clone()));
            }
            SessionEvent::Lost(reason) => self.on_session_lost(now, reason),
        }
    }

    fn on_session_lost(&mut self, now: Instant, reason: Reason) {
        if let Some(request) = self.registrar.reset() {
            self.out.forget(request);
        }
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            let led = self.seats.get(&scope).is_some_and(|seat| seat.tenure().is_some());
            self.drop_tenure(now, &scope, Transition::Lost, reason);
            if led {
                self.hold_back(now, &scope);
                if let Some(view) = self.view.known(&scope) {
                    view.vacant_since.get_or_insert(now);
                }
            }
            if let Some(seat) = self.seats.get_mut(&scope) {
                seat.registered = None;
            }
            self.registrar.touch(&scope);
            self.dirty.insert(scope);
        }
    }

    /// Looks at one scope and does what its state asks for.
    fn review(&mut self, now: Instant, scope: &Scope) {
        self.review_asks(now, scope);
        let reign = self.view.scope(scope).and_then(|view| view.reign.clone());
        let mine = reign.as_ref().filter(|reign| self.is_mine(scope, reign));
        let open = self.seats.get(scope).is_none_or(|seat| seat.tenure().is_none());
        if let Some(reign) = mine.filter(|_| open && !self.stopped) {
            self.adopt(now, scope, reign);
            return;
        }
        let Some(seat) = self.seats.get(scope) else { return };
        match &seat.phase {
            Phase::Idle => {
                self.review_vacancy(now, scope);
                self.forget_unused(scope);
            }
            Phase::Acquiring { attempt, .. } => {
                if reign.is_some() && !self.has_bug(PlantedBug::HintDecides) {
                    // Somebody else was faster; what is under way will be refused.
                    let request = attempt.request;
                    self.set_phase(scope, Phase::Idle);
                    if let Some(request) = request {
                        self.out.forget(request);
                    }
                    self.review_vacancy(now, scope);
                } else {
                    self.resend(now, scope);
                }
            }
            Phase::Leading(_) => {
                self.review_request(now, scope);
                if self.is_eligible(scope) {
                    self.review_handback(now, scope);
                } else {
                    let why = if self.draining.is_some() { Reason::Draining } else { Reason::Withdrawn };
                    self.give_up(now, scope, why);
                }
            }
            Phase::HandingOver(_) => self.resend(now, scope),
        }
    }

    fn answered(&mut self, now: Instant, id: RequestId, answer: Answer, real: bool) {
        let Some(pending) = self.out.answered(id) else { return };
        if !matches!(pending.asker, Asker::Sync | Asker::Closing | Asker::Close(_)) {
            self.admission.observe_rtt(now.since(pending.sent_at));
        }
        match (pending.asker, answer) {
            (Asker::Measure, Answer::Probe(result)) => self.probed(now, real && result.is_ok()),
            (Asker::Opening, Answer::Session(result)) => {
                self.trouble = result.as_ref().err().map(|error| trouble("open a session", error));
                let (out, rng) = (&mut self.out, &mut self.rng);
                let event = self.keeper.opening_answered(now, pending.sent_at, result, out, rng);
                event.into_iter().for_each(|event| self.on_session(now, event));
            }
            (Asker::Renewal(session), Answer::Session(result)) => {
                let mut tools = Tools { out: &mut self.out, rng: &mut self.rng, planted: self.planted };
                let sent_at = pending.sent_at;
                let event = self.keeper.renewal_answered(now, sent_at, session, result, &mut tools);
                event.into_iter().for_each(|event| self.on_session(now, event));
            }
            (Asker::Close(op), Answer::Closed(_)) => {
                // Gone or out of reach, it ends by itself.
                self.out.push(Effect::Done { op, outcome: Ok(()) });
            }
            (Asker::Sync, Answer::Page(result)) => self.page_answered(now, result),
            (Asker::Candidates, Answer::Txn(result)) => self.candidates_answered(now, result),
            (Asker::Seat, Answer::Txn(result)) => {
                if let Some(scope) = &pending.scope {
                    self.seat_answered(now, scope, id, result);
                }
            }
            (Asker::Ask(op), Answer::Txn(result)) => self.ask_answered(op, result),
            // Nobody waits for it, or the answer is not one to the request: the driver's mistake.
            _ => {}
        }
    }

    /// Notes that time has passed, before anything else is looked at.
    fn wake(&mut self, now: Instant) {
        let quiet = now.since(self.ran_at);
        if quiet > self.keeper.quiet_max() && self.keeper.session().is_some() {
            self.counters.pauses += 1;
            self.admission.observe_pause(quiet);
            if !self.has_bug(PlantedBug::IgnoreDeadline) {
                self.keeper.on_pause(now, &mut self.out);
            }
        }
        self.ran_at = self.ran_at.max(now);
    }

    /// Lets every part do what it can, until none can do more without an input.
    fn settle(&mut self, now: Instant) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            while let Some((id, answer)) = self.out.expired(now) {
                self.answered(now, id, answer, false);
                busy = true;
            }
            self.drive_measure(now);
            let mut tools = Tools { out: &mut self.out, rng: &mut self.rng, planted: self.planted };
            if let Some(event) = self.keeper.drive(now, &mut tools) {
                self.on_session(now, event);
                busy = true;
            }
            self.drive_sync(now);
            self.drive_asks(now);
            while let Some((at, scope)) = self.timers.first().cloned()
                && at <= now
            {
                self.timers.remove(&(at, scope.clone()));
                if let Some(seat) = self.seats.get_mut(&scope) {
                    seat.timer = None;
                }
                self.dirty.insert(scope);
            }
            if self.out.txns() < self.config.requests_max {
                self.dirty.append(&mut self.waiting);
            }
            while let Some(scope) = self.dirty.pop_first() {
                self.review(now, &scope);
                busy = true;
            }
            self.drive_candidates(now);
            self.drive_idle(now);
            if !busy && self.dirty.is_empty() {
                break;
            }
        }
        self.finish_drain();
    }

    fn finish_drain(&mut self) {
        let done = self.draining.as_ref().is_some_and(|ops| !ops.is_empty())
            && self.seats.values().all(|seat| seat.is_idle() && seat.registered.is_none())
            && (self.registrar.is_idle() || self.keeper.session().is_none());
        if done && let Some(ops) = &mut self.draining {
            for op in std::mem::take(ops) {
                self.out.push(Effect::Done { op, outcome: Ok(()) });
            }
        }
    }

    fn registrar_timeout(&self) -> Option<Instant> {
        let free = self.out.txns() < self.config.requests_max;
        let open = self.keeper.confirmed(self.ran_at).is_some();
        self.registrar.poll_timeout().filter(|_| free && open)
    }

    #[cfg(test)]
    fn session(&self) -> Option<mesh_core::store::SessionId> {
        self.keeper.session()
    }
}

impl Machine for LeaderCore {
    type Input = Input;
    type Effect = Effect;
    type Error = Refusal;

    fn handle(&mut self, now: Instant, input: Input) -> Result<(), Refusal> {
        self.wake(now);
        let done = match input {
            Input::Answer { request, answer } => {
                self.answered(now, request, answer, true);
                Ok(())
            }
            Input::Watch { watch, event } => {
                self.watched(now, watch, event);
                Ok(())
            }
            Input::WatchEnded { watch } => {
                self.watch_ended(now, watch);
                Ok(())
            }
            Input::Member(hint) => {
                self.member(now, hint);
                Ok(())
            }
            Input::Command(command) => self.command(now, command),
        };
        self.settle(now);
        done
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(due) = self.poll_timeout().filter(|due| *due <= now) {
            self.admission.observe_pause(now.since(due));
        }
        self.wake(now);
        self.settle(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.out.pop()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.keeper.poll_timeout(),
            self.out.poll_timeout(),
            self.sync.poll_timeout(self.silence_max()),
            self.measure.poll_timeout(),
            self.registrar_timeout(),
            self.next_ask_deadline(),
            self.idle_timeout(),
            self.timers.first().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// What the store has against us, for people.
fn trouble(doing: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("cannot {doing}: {error}");
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    text
}

/// What a check of a lease looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Until when the session is certainly open.
    pub(crate) valid_until: Option<Instant>,
    /// When the core last ran.
    pub(crate) ran_at: Instant,
    /// Longest time that it may not run.
    pub(crate) quiet_max: Duration,
}

impl Standing {
    /// Whether leases of the session can be acted upon.
    pub(crate) fn holds(self, now: Instant) -> bool {
        self.valid_until.is_some_and(|until| now < until) && now.since(self.ran_at) <= self.quiet_max
    }
}
