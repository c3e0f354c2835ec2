//! Becoming the leader of a scope: whose turn it is, the grant, and learning of it.

use std::time::Duration;

use mesh_core::{
    Instant, NodeId,
    store::{Applied, Compare, Grant, Operation, Txn, TxnError, TxnOutcome},
};

use super::{
    LeaderCore,
    rank::Electorate,
    requests::Asker,
    seat::{Attempt, Phase, Plan, Seat, Tenure},
    session::{backoff, jittered},
    view::Reign,
};
use crate::{
    PlantedBug, Reason, Scope, Transition,
    event::{Effect, LeaseSignal, Request, RequestId},
    records::{LeaseValue, ScopeValue, ask_key, lease_key, scope_key},
};

/// Turns that a candidate leaves to better ones, at most.
const TURNS_MAX: u32 = 8;
/// Refused tries in a row before all records are read again.
const REFUSALS_MAX: u32 = 3;

impl LeaderCore {
    /// Whether this node would lead a scope now.
    pub(super) fn is_eligible(&self, scope: &Scope) -> bool {
        self.draining.is_none()
            && !self.stopped
            && self.seats.get(scope).is_some_and(|seat| seat.campaign.is_some())
    }

    pub(super) fn electorate<'c>(&'c self, scope: &Scope) -> Electorate<'c> {
        let campaign = self.seats.get(scope).and_then(|seat| seat.campaign.as_ref());
        Electorate {
            view: &self.view,
            members: &self.members,
            preferred: campaign.and_then(|options| options.preferred.as_ref()),
            coming: &self.coming,
            local: &self.node_id,
            ignore_spread: self.has_bug(PlantedBug::IgnoreSpread),
        }
    }

    /// Whether a reign is this node's, by this session and not given up yet.
    pub(super) fn is_mine(&self, scope: &Scope, reign: &Reign) -> bool {
        let newer = self.seats.get(scope).and_then(|seat| seat.last_token).is_none_or(|t| reign.token > t);
        let session = self.keeper.session();
        reign.holder == self.node_id
            && newer
            && session.is_some()
            && (reign.session == session || self.has_bug(PlantedBug::AdoptForeignSession))
    }

    /// Nobody leads, or soon will not: decides whether to try, now or later.
    pub(super) fn review_vacancy(&mut self, now: Instant, scope: &Scope) {
        let reign = self.view.scope(scope).and_then(|view| view.reign.clone());
        let hinted = reign.as_ref().is_some_and(|reign| self.is_gone(&reign.holder));
        let usurp = hinted && self.has_bug(PlantedBug::HintDecides);
        if !self.is_eligible(scope) || !self.sync.synced || (reign.is_some() && !usurp) {
            if reign.is_some()
                && let Some(seat) = self.seats.get_mut(scope)
            {
                seat.open_since = None;
                seat.failures = 0;
            }
            return;
        }
        if self.keeper.confirmed(now).is_none() {
            return;
        }
        let ranked = self.electorate(scope).ranked(scope);
        let Some(rank) = ranked.iter().position(|(_, node_id)| *node_id == self.node_id) else { return };
        // The best one waits as well if a better one may be about to appear.
        let turns = u32::try_from(rank).unwrap_or(TURNS_MAX) + u32::from(ranked[rank].0.is_second_choice());
        let turn = self.config.backoff_min * turns.min(TURNS_MAX);
        let jitter = jittered(Duration::ZERO, self.config.backoff_min / 2, &mut self.rng);
        let Some(seat) = self.seats.get_mut(scope) else { return };
        // The jitter stays the same for one vacancy, however often it is looked at.
        let (since, jitter) = *seat.open_since.get_or_insert((now, jitter));
        let turn = if rank == 0 { turn } else { turn + jitter };
        let at = (since + turn).max(seat.not_before).max(seat.pause_until);
        if at <= now {
            self.acquire(now, scope, if usurp { reign } else { None });
        } else {
            self.set_timer(scope, at);
        }
    }

    /// Asks for the grant.
    fn acquire(&mut self, now: Instant, scope: &Scope, usurped: Option<Reign>) {
        if self.out.txns() >= self.config.requests_max {
            self.waiting.insert(scope.clone());
            return;
        }
        let Some(session) = self.keeper.confirmed(now) else { return };
        let Some(key) = self.keeper.next_key() else { return };
        let spread = self.seats.get(scope).and_then(|seat| seat.campaign.as_ref()?.spread.clone());
        let repeat = self.has_bug(PlantedBug::RepeatTerm);
        let term = self.view.own(scope).term() + u64::from(!repeat);
        let correlation_id = self.rng.u64(..);
        let lease = lease_key(scope);
        let value = self.lease_value(now, self.node_id.clone(), term, correlation_id, scope);
        let mut txn = Txn::new(self.node_id.clone());
        txn = match usurped {
            Some(reign) => txn.when(Compare::Fence { key: lease.clone(), token: reign.token }),
            None => txn.when(Compare::Absent { key: lease.clone() }),
        };
        let next = self.next_record(scope, term, self.node_id.clone());
        let txn = txn
            .when(self.record_compare(scope))
            .then(Operation::Grant { key: lease, value: value.encode(), session })
            .then(Operation::Put { key: scope_key(scope), value: next.encode(), session: None })
            .then(Operation::Delete { key: ask_key(scope) })
            .once(key);
        let attempt = Attempt::new(txn, now);
        self.set_phase(scope, Phase::Acquiring { attempt, term, correlation_id, spread });
        self.resend(now, scope);
    }

    /// What must hold of the scope's persistent record, so that no two reigns have one term.
    pub(super) fn record_compare(&self, scope: &Scope) -> Compare {
        let key = scope_key(scope);
        match self.view.scope(scope).and_then(|view| view.record.as_ref()) {
            Some((revision, _)) => Compare::Revision { key, revision: *revision },
            None => Compare::Absent { key },
        }
    }

    /// The persistent record of the next reign.
    pub(super) fn next_record(&self, scope: &Scope, term: u64, holder: NodeId) -> ScopeValue {
        let record = self.view.scope(scope).and_then(|view| view.record.as_ref());
        let mut next = record.map(|(_, value)| value.clone()).unwrap_or_default();
        next.term = term;
        next.last_holder = Some(holder);
        let campaign = self.seats.get(scope).and_then(|seat| seat.campaign.as_ref());
        if let Some(preferred) = campaign.and_then(|options| options.preferred.clone()) {
            next.preferred = Some(preferred);
        }
        next
    }

    /// The value of a lease that `holder` gets.
    pub(super) fn lease_value(
        &self,
        now: Instant,
        holder: NodeId,
        term: u64,
        correlation_id: u64,
        scope: &Scope,
    ) -> LeaseValue {
        let candidate = self.view.scope(scope).and_then(|view| view.candidates.get(&holder));
        let (zone, spread) = candidate
            .map(|candidate| (candidate.value.zone.clone(), candidate.value.spread.clone()))
            .unwrap_or_default();
        LeaseValue { holder, term, acquired: self.wall(now), correlation_id, zone, spread }
    }

    /// Sends the attempt of a phase whose time has come.
    pub(super) fn resend(&mut self, now: Instant, scope: &Scope) {
        let timeout = self.keeper.request_timeout();
        let full = self.out.txns() >= self.config.requests_max;
        let Some(seat) = self.seats.get_mut(scope) else { return };
        let attempt = match &mut seat.phase {
            Phase::Acquiring { attempt, .. } => attempt,
            Phase::HandingOver(handover) => match &mut handover.attempt {
                Some(attempt) => attempt,
                None => return,
            },
            Phase::Idle | Phase::Leading(_) => return,
        };
        if attempt.request.is_some() {
            return;
        }
        if attempt.retry_at > now {
            let at = attempt.retry_at;
            self.set_timer(scope, at);
        } else if full {
            self.waiting.insert(scope.clone());
        } else {
            let request = Request::Transact(attempt.txn.clone());
            attempt.request = Some(self.out.ask(now, Asker::Seat, Some(scope), request, timeout));
        }
    }

    /// The transaction of a seat was answered.
    pub(super) fn seat_answered(
        &mut self,
        now: Instant,
        scope: &Scope,
        request: RequestId,
        answer: Result<TxnOutcome, TxnError>,
    ) {
        let Some(seat) = self.seats.get_mut(scope) else { return };
        match &mut seat.phase {
            Phase::Acquiring { attempt, term, correlation_id, .. } if attempt.request == Some(request) => {
                attempt.request = None;
                let (term, correlation_id) = (*term, *correlation_id);
                self.acquire_answered(now, scope, term, correlation_id, answer);
            }
            Phase::HandingOver(handover)
                if handover.attempt.as_ref().is_some_and(|attempt| attempt.request == Some(request)) =>
            {
                if let Some(attempt) = &mut handover.attempt {
                    attempt.request = None;
                }
                self.handover_answered(now, scope, answer);
            }
            _ => {}
        }
        self.dirty.insert(scope.clone());
    }

    fn acquire_answered(
        &mut self,
        now: Instant,
        scope: &Scope,
        term: u64,
        correlation_id: u64,
        answer: Result<TxnOutcome, TxnError>,
    ) {
        match answer {
            Ok(outcome) => {
                self.trouble = None;
                self.set_phase(scope, Phase::Idle);
                self.enter_grant(now, scope, self.node_id.clone(), term, correlation_id, &outcome);
            }
            Err(error) if is_unknown(&error) => self.retry(now, scope),
            Err(TxnError::SessionGone { .. }) => self.lose_session(now, Reason::SessionGone),
            Err(error) => {
                self.counters.conflicts += u64::from(!matches!(error, TxnError::Store(_)));
                if let TxnError::Store(error) = &error {
                    self.trouble = Some(super::trouble("ask for a lease", error));
                }
                self.set_phase(scope, Phase::Idle);
                let Some(seat) = self.seats.get_mut(scope) else { return };
                seat.failures += 1;
                let wait =
                    backoff(seat.failures, self.config.backoff_min, self.config.backoff_max, &mut self.rng);
                seat.not_before = now + wait;
                // Three refusals of what we believe to be so: we may believe wrongly.
                if seat.failures % REFUSALS_MAX == 0 || matches!(error, TxnError::Forgotten { .. }) {
                    self.sync.rescan();
                }
            }
        }
    }

    /// Enters a reign that a transaction of this node began, before the watch tells of it.
    pub(super) fn enter_grant(
        &mut self,
        now: Instant,
        scope: &Scope,
        holder: NodeId,
        term: u64,
        correlation_id: u64,
        outcome: &TxnOutcome,
    ) {
        let key = lease_key(scope);
        let Some(Grant { token, .. }) = outcome.grants.iter().find(|grant| grant.key == key) else {
            // A store that takes a grant and gives no token breaks its contract: look what is there.
            self.sync.rescan();
            return;
        };
        let session = if holder == self.node_id {
            self.keeper.session()
        } else {
            self.view.scope(scope).and_then(|view| view.candidates.get(&holder)).and_then(|c| c.session)
        };
        let value = self.lease_value(now, holder.clone(), term, correlation_id, scope);
        let reign = Reign {
            holder: holder.clone(),
            token: *token,
            term,
            since: value.acquired,
            correlation_id,
            session,
            revision: outcome.revision,
            zone: value.zone,
            spread: value.spread,
        };
        let record = self.next_record(scope, term, holder);
        self.view.record(scope, Some(record), outcome.revision);
        if let Some(step) = self.view.lease(scope.clone(), Some(reign), None, outcome.revision) {
            self.on_step(now, step);
        }
    }

    /// Repeats an attempt of unknown outcome, as it is, a little later.
    pub(super) fn retry(&mut self, now: Instant, scope: &Scope) {
        let max = self.config.backoff_max.min(self.config.ttl / 4).max(self.config.backoff_min);
        let Some(seat) = self.seats.get_mut(scope) else { return };
        let attempt = match &mut seat.phase {
            Phase::Acquiring { attempt, .. } => attempt,
            Phase::HandingOver(handover) => match &mut handover.attempt {
                Some(attempt) => attempt,
                None => return,
            },
            Phase::Idle | Phase::Leading(_) => return,
        };
        attempt.retries += 1;
        attempt.retry_at = now + backoff(attempt.retries, self.config.backoff_min, max, &mut self.rng);
        self.dirty.insert(scope.clone());
    }

    /// A lease was granted to this node's session, by itself or by the leader before: it leads.
    pub(super) fn adopt(&mut self, now: Instant, scope: &Scope, reign: &Reign) {
        let Some(session) = self.keeper.session() else { return };
        if let Some(Phase::Acquiring { attempt, .. }) = self.seats.get(scope).map(|seat| &seat.phase)
            && let Some(request) = attempt.request
        {
            self.out.forget(request);
        }
        let tenure = Tenure {
            token: reign.token,
            term: reign.term,
            session,
            revision: reign.revision,
            correlation_id: reign.correlation_id,
        };
        self.seats.entry(scope.clone()).or_default();
        self.set_phase(scope, Phase::Leading(tenure));
        if let Some(seat) = self.seats.get_mut(scope) {
            seat.last_token = Some(reign.token);
            seat.failures = 0;
            seat.open_since = None;
            seat.better_since = None;
        }
        self.out.push(Effect::Lease(LeaseSignal::Held {
            scope: scope.clone(),
            session,
            token: reign.token,
            term: reign.term,
        }));
        self.tell(now, Transition::Elected, scope, reign, self.began_by(scope));
        if !self.is_eligible(scope) {
            let why = if self.draining.is_some() { Reason::Draining } else { Reason::Withdrawn };
            let plan = Plan { to: None, why, note: None, ops: Vec::new(), asked: false };
            // It leads and can give away what it has: nothing refuses that.
            let _ = self.begin_handover(now, scope, plan);
        }
        self.dirty.insert(scope.clone());
    }

    /// A vacancy came up, or is about to: no better time to be ready.
    pub(super) fn be_ready(&mut self, now: Instant, scope: &Scope) {
        if let Some(seat) = self.seats.get_mut(scope)
            && seat.campaign.is_some()
        {
            seat.failures = 0;
            seat.not_before = now;
            self.keeper.renew_now(now);
            self.dirty.insert(scope.clone());
        }
    }

    /// A leader looks whether another candidate has been better for long enough.
    pub(super) fn review_handback(&mut self, now: Instant, scope: &Scope) {
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
        let jitter = jittered(Duration::ZERO, after / 4, &mut self.rng);
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

    /// After a loss, others first.
    pub(super) fn hold_back(&mut self, now: Instant, scope: &Scope) {
        let wait = jittered(self.config.backoff_min, self.config.backoff_min * 4, &mut self.rng);
        if let Some(seat) = self.seats.get_mut(scope) {
            seat.not_before = now + wait;
        }
    }
}

/// Whether the outcome of a transaction is open, and repeating it would tell.
pub(super) fn is_unknown(error: &TxnError) -> bool {
    error.applied() == Applied::Unknown && !matches!(error, TxnError::Forgotten { .. })
}
