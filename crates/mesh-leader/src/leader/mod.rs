//! The core of leadership as a plain value: a session, a copy of the records, and a seat for each scope.
//!
//! | file | holds |
//! |---|---|
//! | `session` | the one session: until when it is certainly open |
//! | `sync`, `view` | the copy of the records, read once and followed by a watch |
//! | `candidates` | this node's candidate records |
//! | `rank`, `election` | whose turn it is, and the grant |
//! | `handover`, `asks` | giving a lease away, and asking another holder to |
//! | `requests` | what waits for an answer of the store |

mod asks;
mod candidates;
mod election;
mod handover;
mod measure;
mod rank;
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

use mesh_core::{Clock, FencingToken, Instant, Machine, NodeId, Validated, WallTime, store::DeleteCause};

use self::{
    asks::Ask,
    candidates::Registrar,
    measure::Measure,
    requests::{Asker, Outbox},
    seat::{Phase, Plan, Seat, Tenure},
    session::{SessionEvent, SessionKeeper, Tools},
    sync::Sync,
    view::{Reign, Step, View},
};
use crate::{
    Counters, LeaderConfig, LeaseError, PlantedBug, Reason, Refusal, Scope, Transition, TtlAdmission,
    config::SPREAD_BYTES_MAX,
    event::{
        Answer, CampaignOptions, Command, Effect, Input, LeaderView, LeadershipEvent, LeadershipStatus,
        MemberHint, OpId, RequestId,
    },
    planted::Planted,
};

/// Rounds in which the parts of a core may wake each other before the next input. Two or three are the rule.
const ROUNDS_MAX: usize = 64;
/// Callers that wait for one drain to end.
const DRAINERS_MAX: usize = 64;

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
            self.view.forget(scope);
        }
    }

    // Commands.

    fn campaign(&mut self, scope: Scope, options: CampaignOptions) -> Result<(), Refusal> {
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if let Some(refused) = self.measure.refused() {
            return Err(Refusal::Ttl(refused.clone()));
        }
        if let Some(spread) = &options.spread
            && (spread.is_empty() || spread.len() > SPREAD_BYTES_MAX)
        {
            let problem = format!("spread {spread:?} must have 1 to {SPREAD_BYTES_MAX} bytes");
            return Err(Refusal::Options { scope, problem });
        }
        if self.seats.get(&scope).is_some_and(|seat| seat.campaign.is_some()) {
            return Err(Refusal::Campaigning { scope });
        }
        let campaigns = self.seats.values().filter(|seat| seat.campaign.is_some()).count();
        if campaigns >= self.config.campaigns_max {
            return Err(Refusal::CampaignsMax { limit: self.config.campaigns_max });
        }
        self.view.own(&scope);
        let seat = self.seats.entry(scope.clone()).or_default();
        seat.campaign = Some(options);
        // It asks to lead: an earlier stepping down is over.
        seat.pause_until = Instant::ZERO;
        self.registrar.touch(&scope);
        self.dirty.insert(scope);
        Ok(())
    }

    fn withdraw(&mut self, now: Instant, scope: &Scope) -> Result<(), Refusal> {
        let seat = self.seats.get_mut(scope).filter(|seat| seat.campaign.is_some());
        let Some(seat) = seat else { return Err(Refusal::NotCampaigning { scope: scope.clone() }) };
        seat.campaign = None;
        self.registrar.touch(scope);
        self.give_up(now, scope, Reason::Withdrawn);
        self.dirty.insert(scope.clone());
        Ok(())
    }

    /// Hands a lease over, to whoever is best, or gives it back.
    fn give_up(&mut self, now: Instant, scope: &Scope, why: Reason) {
        if self.seats.get(scope).is_some_and(Seat::is_leading) {
            let plan = Plan { to: None, why, note: None, ops: Vec::new(), asked: false };
            // A leader can always give up what it has.
            let _ = self.begin_handover(now, scope, plan);
        }
    }

    fn drain(&mut self, now: Instant, op: OpId) -> Result<(), Refusal> {
        if let Some(ops) = &mut self.draining {
            if ops.len() >= DRAINERS_MAX {
                return Err(Refusal::Busy { limit: DRAINERS_MAX });
            }
            ops.push(op);
        } else {
            self.draining = Some(vec![op]);
        }
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            self.registrar.touch(&scope);
            self.give_up(now, &scope, Reason::Draining);
        }
        Ok(())
    }

    fn undrain(&mut self) {
        let Some(ops) = self.draining.take() else { return };
        for op in ops {
            self.out.push(Effect::Done { op, outcome: Ok(()) });
        }
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            if let Some(seat) = self.seats.get_mut(&scope) {
                seat.pause_until = Instant::ZERO;
            }
            self.registrar.touch(&scope);
            self.dirty.insert(scope);
        }
    }

    fn close(&mut self, now: Instant, op: OpId) {
        self.stopped = true;
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            self.drop_tenure(now, &scope, Transition::SteppedDown, Reason::Stopped);
        }
        for (waiting, ask) in std::mem::take(&mut self.asks) {
            drop(ask);
            self.out.push(Effect::Done { op: waiting, outcome: Err(Refusal::Stopped) });
        }
        for waiting in self.draining.take().unwrap_or_default() {
            self.out.push(Effect::Done { op: waiting, outcome: Ok(()) });
        }
        self.sync.stop();
        self.measure.stop();
        match self.keeper.stop(&mut self.out) {
            Some(session) => {
                let timeout = self.keeper.request_timeout();
                let request = crate::event::Request::CloseSession(session);
                self.out.ask(now, Asker::Close(op), None, request, timeout);
            }
            None => self.out.push(Effect::Done { op, outcome: Ok(()) }),
        }
    }

    fn command(&mut self, now: Instant, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Close { op } => {
                self.close(now, op);
                Ok(())
            }
            _ if self.stopped => Err(Refusal::Stopped),
            Command::Campaign { scope, options } => self.campaign(scope, options),
            Command::Withdraw { scope } => self.withdraw(now, &scope),
            Command::HandOver { op, scope, to, order } => self.order_handover(now, op, &scope, to, order),
            Command::Drain { op } => self.drain(now, op),
            Command::Undrain => {
                self.undrain();
                Ok(())
            }
            Command::Confirm => {
                self.keeper.renew_now(now);
                Ok(())
            }
        }
    }

    // What happens.

    fn member(&mut self, now: Instant, hint: MemberHint) {
        let node_id = hint.node_id.clone();
        let default = !hint.gone && !hint.shy && hint.zone.is_none();
        let gone = hint.gone;
        let moved = self.members.get(&node_id).and_then(|held| held.zone.as_ref()) != hint.zone.as_ref();
        let before =
            if default { self.members.remove(&node_id) } else { self.members.insert(node_id.clone(), hint) };
        if node_id == self.node_id && moved {
            let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
            scopes.iter().for_each(|scope| self.registrar.touch(scope));
        }
        if before.is_some_and(|before| before.gone) == gone {
            return;
        }
        let concerned: Vec<(Scope, bool)> = self
            .view
            .scopes()
            .filter_map(|(scope, view)| match &view.reign {
                Some(reign) => (reign.holder == node_id).then(|| (scope.clone(), true)),
                None => Some((scope.clone(), false)),
            })
            .collect();
        for (scope, held) in concerned {
            if let Some(view) = self.view.known(&scope)
                && held
            {
                view.vacant_since = gone.then_some(now);
            }
            if held && gone {
                self.be_ready(now, &scope);
            }
            if self.seats.contains_key(&scope) {
                self.dirty.insert(scope);
            }
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

    /// The copy of the records changed.
    fn on_step(&mut self, now: Instant, step: Step) {
        let scope = step.scope().clone();
        if let Step::Reign { before, cause, revision, .. } = step {
            self.on_reign(now, &scope, before.map(|before| *before), cause, revision);
        } else if let Some(view) = self.view.known(&scope)
            && view.reign.is_none()
        {
            // Somebody would lead, and nobody does; or nobody wants to, and that is well.
            if !view.candidates.is_empty() {
                view.vacant_since.get_or_insert(now);
            } else if view.ended_well || view.last.is_none() {
                let since = view.vacant_since.take();
                self.counters.without_leader += since.map_or(Duration::ZERO, |since| now.since(since));
            }
        }
        if let Some(view) = self.view.scope(&scope) {
            self.out.push(Effect::Leader(view.shown(&scope)));
        }
        if !self.seats.contains_key(&scope) {
            self.view.forget(&scope);
        }
        self.dirty.insert(scope);
    }

    fn on_reign(
        &mut self,
        now: Instant,
        scope: &Scope,
        before: Option<Reign>,
        cause: Option<DeleteCause>,
        revision: mesh_core::Revision,
    ) {
        let after = self.view.scope(scope).and_then(|view| view.reign.clone());
        let same = before.as_ref().map(|reign| reign.token) == after.as_ref().map(|reign| reign.token);
        self.count_vacancy(now, scope, after.is_some(), same);
        if same {
            return;
        }
        self.on_own_reign(now, scope, after.as_ref(), cause, revision);
        let ours =
            |reign: &Reign| self.seats.get(scope).is_some_and(|seat| seat.last_token == Some(reign.token));
        // The end of a lease of this session was told when this node gave it up or lost it.
        if let Some(before) = before.as_ref().filter(|before| !ours(before)) {
            let (transition, reason) = match (&after, cause) {
                (Some(_), _) => (Transition::SteppedDown, Reason::HandedOver),
                (None, Some(DeleteCause::Written)) => (Transition::SteppedDown, Reason::Released),
                (None, Some(DeleteCause::SessionClosed)) => (Transition::SteppedDown, Reason::SessionClosed),
                (None, Some(DeleteCause::SessionExpired)) => (Transition::Expired, Reason::SessionExpired),
                (None, Some(DeleteCause::Restored)) => (Transition::Expired, Reason::Restored),
                (None, _) => (Transition::Expired, Reason::Found),
            };
            self.tell(now, transition, scope, before, reason);
        }
        match &after {
            // This node's own: the review that follows takes it up and tells.
            Some(reign) if self.is_mine(scope, reign) => {}
            Some(reign) => {
                let reason = self.began_by(scope);
                self.tell(now, Transition::Observed, scope, reign, reason);
            }
            None if before.is_some_and(|before| self.is_gone(&before.holder)) => self.be_ready(now, scope),
            None => {}
        }
    }

    /// A change of the lease's record while this node holds the lease.
    fn on_own_reign(
        &mut self,
        now: Instant,
        scope: &Scope,
        after: Option<&Reign>,
        cause: Option<DeleteCause>,
        revision: mesh_core::Revision,
    ) {
        let Some(seat) = self.seats.get(scope) else { return };
        let Some(tenure) = seat.tenure() else { return };
        if after.is_some_and(|reign| reign.token == tenure.token) || revision <= tenure.revision {
            return;
        }
        let given_away = match &seat.phase {
            // The answer is still to come, and the watch was faster.
            Phase::HandingOver(handover) => match after {
                Some(reign) => handover.target.as_ref() == Some(&reign.holder),
                None => handover.target.is_none() && cause == Some(DeleteCause::Written),
            },
            _ => false,
        };
        if given_away {
            self.end_handover(now, scope);
            return;
        }
        match (after, cause) {
            (
                None,
                Some(DeleteCause::SessionExpired | DeleteCause::SessionClosed | DeleteCause::Restored),
            ) => {
                self.lose_session(now, Reason::SessionGone);
            }
            (None, _) => self.fenced(now, scope, Reason::Deleted),
            (Some(_), _) => {
                if seat.is_leading() && self.keeper.confirmed(now).is_some() {
                    // Only a holder may hand a good lease over, and this holder did not.
                    self.counters.split_brain += 1;
                }
                self.fenced(now, scope, Reason::NewerToken);
            }
        }
    }

    fn count_vacancy(&mut self, now: Instant, scope: &Scope, led: bool, same: bool) {
        let Some(view) = self.view.known(scope) else { return };
        if !led {
            view.vacant_since.get_or_insert(now);
        } else if !same && let Some(since) = view.vacant_since.take() {
            let took = now.since(since);
            self.counters.without_leader += took;
            if view.last.is_some() {
                self.counters.election_duration.observe(took);
            }
        }
    }

    /// How the present reign of a scope began.
    fn began_by(&self, scope: &Scope) -> Reason {
        match self.view.scope(scope) {
            _ if self.sync.entering => Reason::Found,
            Some(view) if view.direct => Reason::HandedOver,
            _ => Reason::Vacant,
        }
    }

    fn tell(&mut self, now: Instant, transition: Transition, scope: &Scope, reign: &Reign, reason: Reason) {
        self.counters.transition(scope.kind(), transition);
        self.out.push(Effect::Event(LeadershipEvent {
            transition,
            scope: scope.clone(),
            leader: reign.holder.clone(),
            token: reign.token,
            term: reign.term,
            reason,
            correlation_id: reign.correlation_id,
            at: now,
            wall: self.wall(now),
        }));
    }

    fn tell_of(
        &mut self,
        now: Instant,
        transition: Transition,
        scope: &Scope,
        leader: NodeId,
        tenure: &Tenure,
        reason: Reason,
    ) {
        self.counters.transition(scope.kind(), transition);
        self.out.push(Effect::Event(LeadershipEvent {
            transition,
            scope: scope.clone(),
            leader,
            token: tenure.token,
            term: tenure.term,
            reason,
            correlation_id: tenure.correlation_id,
            at: now,
            wall: self.wall(now),
        }));
    }

    // The order of things.

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

    /// A leader looks whether another candidate has been better for long enough.
    fn review_handback(&mut self, now: Instant, scope: &Scope) {
        let after = self.config.handback_after;
        let leading = self.seats.get(scope).is_some_and(Seat::is_leading);
        if after.is_zero() || !leading || self.keeper.confirmed(now).is_none() {
            return;
        }
        let electorate = self.electorate(scope);
        let ranked = electorate.ranked(scope);
        let own = ranked.iter().find(|(_, node_id)| *node_id == self.node_id).map(|(merit, _)| *merit);
        let better = match (ranked.first(), own) {
            (Some((merit, node_id)), Some(own)) if *merit < own => Some(node_id.clone()),
            _ => None,
        };
        let busy = self.seats.values().any(
            |seat| matches!(&seat.phase, Phase::HandingOver(h) if h.plan.why == Reason::BetterCandidate),
        );
        let jitter = session::jittered(Duration::ZERO, after / 4, &mut self.rng);
        let Some(seat) = self.seats.get_mut(scope) else { return };
        let Some(to) = better else {
            seat.better_since = None;
            // What makes others better may be the leases of other scopes: look again now and then.
            if seat.timer.is_none_or(|at| at <= now) {
                self.set_timer(scope, now + after / 2 + jitter);
            }
            return;
        };
        let due = *seat.better_since.get_or_insert(now) + after;
        if due <= now && !busy {
            seat.better_since = None;
            let why = Reason::BetterCandidate;
            let plan = Plan { to: Some(to), why, note: None, ops: Vec::new(), asked: false };
            // If that candidate has just gone, another look comes later.
            let _ = self.begin_handover(now, scope, plan);
        } else {
            self.set_timer(scope, due.max(now) + jitter);
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
            self.sync.poll_timeout(),
            self.measure.poll_timeout(),
            self.registrar_timeout(),
            self.next_ask_deadline(),
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
