//! Giving a lease away on purpose: to a candidate, in one transaction, or back to nobody.
//!
//! The lease stops being acted upon here before the transaction is sent, so that there is no moment with
//! two leaders. If the transaction is refused for certain and the lease still held, it goes on.

use mesh_core::{
    Instant, NodeId,
    store::{AuditNote, Compare, Operation, SessionId, Txn, TxnError, TxnOutcome},
};

use super::{
    LeaderCore,
    election::is_unknown,
    seat::{Attempt, Handover, Phase, Plan, Tenure},
};
use crate::{
    PlantedBug, Reason, Refusal, Scope, Transition,
    event::{Effect, LeaseSignal},
    records::{ask_key, candidate_key, lease_key, scope_key},
};

impl LeaderCore {
    /// Starts to give a lease away.
    pub(super) fn begin_handover(&mut self, now: Instant, scope: &Scope, plan: Plan) -> Result<(), Refusal> {
        let Some(seat) = self.seats.get(scope) else {
            return Err(Refusal::NoLeader { scope: scope.clone() });
        };
        let tenure = match &seat.phase {
            Phase::Leading(tenure) => tenure.clone(),
            Phase::HandingOver(_) => return Err(Refusal::UnderWay { scope: scope.clone() }),
            Phase::Idle | Phase::Acquiring { .. } => return Err(Refusal::NoLeader { scope: scope.clone() }),
        };
        if let Some(to) = &plan.to {
            self.check_candidate(scope, to)?;
        }
        if !self.has_bug(PlantedBug::LeadWhileHandingOver) {
            self.out.push(Effect::Lease(LeaseSignal::Suspended { scope: scope.clone() }));
        }
        let handover = Handover {
            next_term: tenure.term + 1,
            correlation_id: plan.note.as_ref().map_or_else(|| self.rng.u64(..), |note| note.correlation_id),
            tenure,
            attempt: None,
            target: None,
            plan,
            tried: Default::default(),
        };
        self.set_phase(scope, Phase::HandingOver(Box::new(handover)));
        self.next_target(now, scope);
        Ok(())
    }

    /// Whether `to` could lead.
    pub(super) fn check_candidate(&self, scope: &Scope, to: &NodeId) -> Result<(), Refusal> {
        let no = |problem| Refusal::NoCandidate { scope: scope.clone(), to: to.clone(), problem };
        if *to == self.node_id && self.seats.get(scope).is_some_and(super::seat::Seat::is_leading) {
            return Err(Refusal::AlreadyLeads { scope: scope.clone(), to: to.clone() });
        }
        let candidate = self.view.scope(scope).and_then(|view| view.candidates.get(to));
        match candidate {
            None => Err(no("it does not campaign for the scope")),
            Some(candidate) if candidate.session.is_none() => Err(no("its candidacy has no session")),
            Some(_) if self.is_gone(to) => Err(no("membership says that it is gone")),
            Some(_) => Ok(()),
        }
    }

    /// Chooses who is next to be handed over to, and prepares the transaction.
    fn next_target(&mut self, now: Instant, scope: &Scope) {
        let Some(Phase::HandingOver(handover)) = self.seats.get(scope).map(|seat| &seat.phase) else {
            return;
        };
        let target = match &handover.plan.to {
            Some(to) if handover.tried.contains(to) => {
                let to = to.clone();
                let problem = "its session is gone, or it withdrew";
                return self.resume(now, scope, Refusal::NoCandidate { scope: scope.clone(), to, problem });
            }
            Some(to) => self.session_of(scope, to).map(|session| (to.clone(), session)),
            None => self.electorate(scope).ranked(scope).into_iter().find_map(|(_, node_id)| {
                let other = node_id != self.node_id
                    && !handover.tried.contains(&node_id)
                    && !self.members.get(&node_id).is_some_and(|hint| hint.shy);
                let session = self.session_of(scope, &node_id).filter(|_| other)?;
                Some((node_id, session))
            }),
        };
        let token = handover.tenure.token;
        self.prepare(now, scope, target, token);
    }

    fn session_of(&self, scope: &Scope, node_id: &NodeId) -> Option<SessionId> {
        self.view.scope(scope)?.candidates.get(node_id)?.session
    }

    fn prepare(
        &mut self,
        now: Instant,
        scope: &Scope,
        target: Option<(NodeId, SessionId)>,
        token: mesh_core::FencingToken,
    ) {
        let Some(Phase::HandingOver(handover)) = self.seats.get(scope).map(|seat| &seat.phase) else {
            return;
        };
        let (term, correlation_id) = (handover.next_term, handover.correlation_id);
        let note = handover.plan.note.clone().unwrap_or_else(|| AuditNote {
            action: "leader.step-down".to_owned(),
            reason: format!("{scope}: {}", handover.plan.why.as_str()),
            correlation_id,
        });
        let Some(key) = self.keeper.next_key() else { return };
        let lease = lease_key(scope);
        let mut txn = Txn::new(self.node_id.clone()).when(Compare::Fence { key: lease.clone(), token });
        if let Some((to, session)) = &target {
            let value = self.lease_value(now, to.clone(), term, correlation_id, scope);
            let record = self.next_record(scope, term, to.clone());
            txn = txn
                .when(Compare::Present { key: candidate_key(scope, to) })
                .when(self.record_compare(scope))
                .then(Operation::Grant { key: lease, value: value.encode(), session: *session })
                .then(Operation::Put { key: scope_key(scope), value: record.encode(), session: None });
        } else {
            txn = txn.then(Operation::Delete { key: lease });
        }
        let txn = txn.then(Operation::Delete { key: ask_key(scope) }).once(key).audited(note);
        if let Some(Phase::HandingOver(handover)) = self.seats.get_mut(scope).map(|seat| &mut seat.phase) {
            handover.target = target.map(|(to, _)| to);
            handover.attempt = Some(Attempt::new(txn, now));
        }
        self.resend(now, scope);
    }

    pub(super) fn handover_answered(
        &mut self,
        now: Instant,
        scope: &Scope,
        answer: Result<TxnOutcome, TxnError>,
    ) {
        let Some(Phase::HandingOver(handover)) = self.seats.get_mut(scope).map(|seat| &mut seat.phase) else {
            return;
        };
        let own = handover.tenure.session;
        match answer {
            Ok(outcome) => self.handed_over(now, scope, &outcome),
            Err(error) if is_unknown(&error) => self.retry(now, scope),
            Err(TxnError::Fenced { current: Some(token), .. })
                if self.planted.has(PlantedBug::HandOverWithForeignToken) =>
            {
                let to = handover.target.clone();
                let target = to.and_then(|to| Some((to.clone(), self.session_of(scope, &to)?)));
                self.prepare(now, scope, target, token);
            }
            Err(TxnError::Fenced { .. }) => self.fenced(now, scope, Reason::NewerToken),
            Err(TxnError::SessionGone { session }) if session == own => {
                self.lose_session(now, Reason::SessionGone);
            }
            Err(TxnError::Conflict { .. } | TxnError::SessionGone { .. }) => {
                self.counters.conflicts += 1;
                match handover.target.take() {
                    Some(target) => {
                        handover.tried.insert(target);
                        self.next_target(now, scope);
                    }
                    // Only the fence is compared when a lease is given back.
                    None => self.fenced(now, scope, Reason::NewerToken),
                }
            }
            // The outcome is not known and repeating does not tell. If it took effect, the fence refuses
            // the next one, and the records say who leads.
            Err(TxnError::Forgotten { .. }) => {
                self.sync.rescan();
                self.next_target(now, scope);
            }
            Err(TxnError::Store(error)) if error.is_transient() => self.retry(now, scope),
            Err(error) => {
                let refusal = Refusal::Store { scope: scope.clone(), problem: error.to_string() };
                self.resume(now, scope, refusal);
            }
        }
    }

    fn handed_over(&mut self, now: Instant, scope: &Scope, outcome: &TxnOutcome) {
        let Some(handover) = self.end_handover(now, scope) else { return };
        match handover.target {
            Some(to) => {
                self.enter_grant(now, scope, to, handover.next_term, handover.correlation_id, outcome);
            }
            None => {
                let cause = Some(mesh_core::store::DeleteCause::Written);
                if let Some(step) = self.view.lease(scope.clone(), None, cause, outcome.revision) {
                    self.on_step(now, step);
                }
            }
        }
    }

    /// The lease is given away: tells so.
    pub(super) fn end_handover(&mut self, now: Instant, scope: &Scope) -> Option<Handover> {
        if !matches!(self.seats.get(scope)?.phase, Phase::HandingOver(_)) {
            return None;
        }
        let Phase::HandingOver(handover) = self.set_phase(scope, Phase::Idle) else { return None };
        let handover = *handover;
        if let Some(request) = handover.attempt.as_ref().and_then(|attempt| attempt.request) {
            self.out.forget(request);
        }
        if let Some(seat) = self.seats.get_mut(scope) {
            seat.pause_until = now + self.config.step_down_pause;
        }
        self.end_tenure(now, scope, &handover.tenure, Transition::SteppedDown, handover.plan.why);
        for op in &handover.plan.ops {
            self.out.push(Effect::Done { op: *op, outcome: Ok(()) });
        }
        Some(handover)
    }

    /// The lease could not be given away and is still ours.
    fn resume(&mut self, now: Instant, scope: &Scope, refusal: Refusal) {
        let handing = matches!(self.seats.get(scope).map(|seat| &seat.phase), Some(Phase::HandingOver(_)));
        if !handing {
            return;
        }
        let Phase::HandingOver(handover) = self.set_phase(scope, Phase::Idle) else { return };
        let tenure = handover.tenure.clone();
        self.set_phase(scope, Phase::Leading(tenure));
        self.out.push(Effect::Lease(LeaseSignal::Resumed { scope: scope.clone() }));
        for op in &handover.plan.ops {
            self.out.push(Effect::Done { op: *op, outcome: Err(refusal.clone()) });
        }
        if handover.plan.asked {
            self.refuse_ask(now, scope, refusal.to_string());
        }
        // Who drains or withdrew tries again, a little later.
        self.set_timer(scope, now + self.config.backoff_max);
    }

    /// A newer token exists, or the lease was deleted by somebody: this node does not lead any more.
    pub(super) fn fenced(&mut self, now: Instant, scope: &Scope, reason: Reason) {
        self.drop_tenure(now, scope, Transition::Fenced, reason);
        self.hold_back(now, scope);
        self.sync.rescan();
    }

    /// Ends whatever lease this node has of a scope.
    pub(super) fn drop_tenure(
        &mut self,
        now: Instant,
        scope: &Scope,
        transition: Transition,
        reason: Reason,
    ) {
        let (tenure, ops, request) = match self.set_phase(scope, Phase::Idle) {
            Phase::Leading(tenure) => (tenure, Vec::new(), None),
            Phase::HandingOver(handover) => {
                let request = handover.attempt.as_ref().and_then(|attempt| attempt.request);
                (handover.tenure, handover.plan.ops, request)
            }
            Phase::Acquiring { attempt, .. } => {
                if let Some(request) = attempt.request {
                    self.out.forget(request);
                }
                return;
            }
            Phase::Idle => return,
        };
        if let Some(request) = request {
            self.out.forget(request);
        }
        self.end_tenure(now, scope, &tenure, transition, reason);
        for op in ops {
            let outcome = Err(Refusal::Superseded { scope: scope.clone() });
            self.out.push(Effect::Done { op, outcome });
        }
    }

    fn end_tenure(
        &mut self,
        now: Instant,
        scope: &Scope,
        tenure: &Tenure,
        transition: Transition,
        reason: Reason,
    ) {
        self.out.push(Effect::Lease(LeaseSignal::Ended { scope: scope.clone(), reason }));
        self.tell_of(now, transition, scope, self.node_id.clone(), tenure, reason);
    }
}
