//! Asking the leader of a scope, wherever it is, to hand over.
//!
//! Nobody but its holder changes a lease that is good. Who wants another leader writes that down beside
//! the lease, under the fence of the reign that it means, with an audit note; the holder sees it, hands
//! over, and the note goes with the grant. If the holder can't, it writes why.
//!
//! The holder does what the note says, whoever it says asked. So the store takes one only from a node that keeps it,
//! which asks for operators alone, and from operators themselves.

use mesh_core::{
    FencingToken, Instant, NodeId, Revision,
    store::{AuditNote, Compare, Operation, StoreError, Txn, TxnError, TxnOutcome},
};

use super::{
    LeaderCore,
    requests::Asker,
    seat::{Phase, Plan},
};
use crate::{
    Reason, Refusal, Scope,
    event::{Effect, OpId, Order, Request},
    records::{AskValue, TEXT_CHARS_MAX, ask_key, lease_key},
};

/// Commands that wait for an outcome at once.
const ASKS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Ask {
    scope: Scope,
    token: FencingToken,
    correlation_id: u64,
    deadline: Instant,
}

impl LeaderCore {
    /// An operator, or the program, wants another leader.
    pub(super) fn order_handover(
        &mut self,
        now: Instant,
        op: OpId,
        scope: &Scope,
        to: Option<NodeId>,
        order: Order,
    ) -> Result<(), Refusal> {
        if self.asks.len() >= ASKS_MAX {
            return Err(Refusal::Busy { limit: ASKS_MAX });
        }
        let action = if to.is_some() { "leader.transfer" } else { "leader.step-down" };
        let note = note(action, scope, &order, self.rng.u64(..));
        if self.seats.get(scope).is_some_and(|seat| seat.tenure().is_some()) {
            let plan = Plan { to, why: Reason::Asked, note: Some(note), ops: vec![op], asked: false };
            return self.begin_handover(now, scope, plan);
        }
        let Some(reign) = self.view.scope(scope).and_then(|view| view.reign.clone()) else {
            return Err(Refusal::NoLeader { scope: scope.clone() });
        };
        if let Some(to) = &to {
            if *to == reign.holder {
                return Err(Refusal::AlreadyLeads { scope: scope.clone(), to: to.clone() });
            }
            self.check_candidate(scope, to)?;
        }
        let ask = AskValue {
            token: reign.token,
            to,
            by: order.by,
            reason: order.reason,
            correlation_id: note.correlation_id,
            refused: None,
        };
        let mut txn = Txn::new(self.node_id.clone())
            .when(Compare::Fence { key: lease_key(scope), token: reign.token })
            .then(Operation::Put { key: ask_key(scope), value: ask.encode(), session: None })
            .audited(note);
        txn.idempotency = self.keeper.next_key();
        let deadline = now + self.config.ask_timeout;
        let waiting =
            Ask { scope: scope.clone(), token: reign.token, correlation_id: ask.correlation_id, deadline };
        self.asks.insert(op, waiting);
        let timeout = self.config.ask_timeout;
        self.out.ask(now, Asker::Ask(op), Some(scope), Request::Transact(txn), timeout);
        Ok(())
    }

    pub(super) fn ask_answered(&mut self, op: OpId, answer: Result<TxnOutcome, TxnError>) {
        let Some(ask) = self.asks.get(&op) else { return };
        let scope = ask.scope.clone();
        let refusal = match answer {
            // The holder's turn. If it is unknown whether it was asked, the records will tell.
            Ok(_) => return,
            Err(TxnError::Fenced { .. }) => Refusal::Superseded { scope },
            Err(error) if error.applied() == mesh_core::store::Applied::Unknown => return,
            Err(TxnError::Store(StoreError::Denied { reason })) => {
                Refusal::NotAllowed { scope, problem: reason }
            }
            Err(error) => Refusal::Store { scope, problem: error.to_string() },
        };
        self.asks.remove(&op);
        self.out.push(Effect::Done { op, outcome: Err(refusal) });
    }

    /// Something about a scope changed: looks whether that answers an ask.
    pub(super) fn review_asks(&mut self, now: Instant, scope: &Scope) {
        if self.asks.is_empty() {
            return;
        }
        let view = self.view.scope(scope);
        let token = view.and_then(|view| view.reign.as_ref()).map(|reign| reign.token);
        let answer = view.and_then(|view| view.ask.as_ref()).map(|(_, ask)| ask);
        let mut done = Vec::new();
        for (op, ask) in self.asks.iter().filter(|(_, ask)| ask.scope == *scope) {
            if token != Some(ask.token) {
                done.push((*op, Ok(())));
            } else if let Some(answer) = answer
                && answer.correlation_id == ask.correlation_id
                && let Some(problem) = &answer.refused
            {
                let refusal = Refusal::HolderRefused { scope: scope.clone(), problem: problem.clone() };
                done.push((*op, Err(refusal)));
            }
        }
        for (op, outcome) in done {
            self.asks.remove(&op);
            if outcome.is_err() {
                let txn = Txn::new(self.node_id.clone()).then(Operation::Delete { key: ask_key(scope) });
                self.tidy(now, scope, txn);
            }
            self.out.push(Effect::Done { op, outcome });
        }
    }

    pub(super) fn next_ask_deadline(&self) -> Option<Instant> {
        self.asks.values().map(|ask| ask.deadline).min()
    }

    pub(super) fn drive_asks(&mut self, now: Instant) {
        while let Some(op) = self.asks.iter().find(|(_, ask)| ask.deadline <= now).map(|(op, _)| *op) {
            if let Some(ask) = self.asks.remove(&op) {
                let after = self.config.ask_timeout;
                let outcome = Err(Refusal::Timeout { scope: ask.scope, after });
                self.out.push(Effect::Done { op, outcome });
            }
        }
    }

    /// The holder looks whether it is asked to hand over.
    pub(super) fn review_request(&mut self, now: Instant, scope: &Scope) {
        let Some(seat) = self.seats.get(scope) else { return };
        let Phase::Leading(tenure) = &seat.phase else { return };
        let Some((revision, ask)) = self.view.scope(scope).and_then(|view| view.ask.clone()) else { return };
        let seen = seat.ask_seen >= revision;
        if seen || ask.refused.is_some() || ask.token != tenure.token {
            return;
        }
        self.saw_ask(scope, revision);
        let action = if ask.to.is_some() { "leader.transfer" } else { "leader.step-down" };
        let order = Order { by: ask.by, reason: ask.reason };
        let note = note(action, scope, &order, ask.correlation_id);
        let plan = Plan { to: ask.to, why: Reason::Asked, note: Some(note), ops: Vec::new(), asked: true };
        if let Err(refusal) = self.begin_handover(now, scope, plan) {
            self.refuse_ask(now, scope, refusal.to_string());
        }
    }

    fn saw_ask(&mut self, scope: &Scope, revision: Revision) {
        if let Some(seat) = self.seats.get_mut(scope) {
            seat.ask_seen = revision;
        }
    }

    /// Tells whoever asked why this holder does not hand over.
    pub(super) fn refuse_ask(&mut self, now: Instant, scope: &Scope, problem: String) {
        let Some((_, mut ask)) = self.view.scope(scope).and_then(|view| view.ask.clone()) else { return };
        ask.refused = Some(problem);
        let txn = Txn::new(self.node_id.clone())
            .when(Compare::Fence { key: lease_key(scope), token: ask.token })
            .then(Operation::Put { key: ask_key(scope), value: ask.encode(), session: None });
        self.tidy(now, scope, txn);
    }

    pub(super) fn tidy(&mut self, now: Instant, scope: &Scope, txn: Txn) {
        let timeout = self.keeper.request_timeout();
        self.out.ask(now, Asker::Tidy, Some(scope), Request::Transact(txn), timeout);
    }
}

fn note(action: &str, scope: &Scope, order: &Order, correlation_id: u64) -> AuditNote {
    let text = format!("{scope}: {} (asked by {})", order.reason, order.by);
    AuditNote {
        action: action.to_owned(),
        reason: text.chars().take(2 * TEXT_CHARS_MAX).collect(),
        correlation_id,
    }
}
