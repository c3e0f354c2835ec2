//! Scopes that nobody wants to lead any more: their record is deleted after a while.
//!
//! A scope's record outlives its reigns, since it counts them. Scopes that are made for one user or one job
//! would leave a record each, for ever. So every node looks for scopes without a leader and without a
//! candidate, and whoever is first deletes the record. Should the scope come back, its terms count from 1
//! again; its tokens go on, for they are revisions of the store.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Instant,
    store::{Compare, Operation, Txn},
};

use super::{LeaderCore, session::jittered};
use crate::{
    Scope,
    event::Effect,
    records::{ask_key, lease_key, scope_key},
};

/// When idle scopes are to be forgotten.
#[derive(Debug, Default)]
pub(super) struct Idle {
    due: BTreeSet<(Instant, Scope)>,
    by_scope: BTreeMap<Scope, Instant>,
}

impl Idle {
    fn set(&mut self, scope: &Scope, at: Instant) {
        self.clear(scope);
        self.by_scope.insert(scope.clone(), at);
        self.due.insert((at, scope.clone()));
    }

    fn clear(&mut self, scope: &Scope) {
        if let Some(at) = self.by_scope.remove(scope) {
            self.due.remove(&(at, scope.clone()));
        }
    }

    fn pop_due(&mut self, now: Instant) -> Option<Scope> {
        if self.due.first()?.0 > now {
            return None;
        }
        let (_, scope) = self.due.pop_first()?;
        self.by_scope.remove(&scope);
        Some(scope)
    }
}

impl LeaderCore {
    /// The records of a scope changed: it may have fallen idle, or be wanted again.
    pub(super) fn note_idle(&mut self, now: Instant, scope: &Scope) {
        if !self.is_idle(scope) {
            self.idle.clear(scope);
        } else if !self.idle.by_scope.contains_key(scope) {
            let after = self.config.forget_after;
            // Nodes that saw it fall idle together do not all try at once.
            let at = now + jittered(after, after + after / 4, &mut self.rng);
            self.idle.set(scope, at);
        }
    }

    /// Whether there is a record of a scope that nobody leads or would lead.
    fn is_idle(&self, scope: &Scope) -> bool {
        let wanted = self.seats.get(scope).is_some_and(|seat| seat.campaign.is_some());
        let view = self.view.scope(scope);
        !wanted
            && view.is_some_and(|view| {
                view.record.is_some() && view.reign.is_none() && view.candidates.is_empty()
            })
    }

    /// Half of the transactions under way are for what somebody waits for.
    fn may_forget(&self) -> bool {
        !self.stopped && self.sync.synced && self.out.txns() < self.config.requests_max.div_ceil(2)
    }

    pub(super) fn drive_idle(&mut self, now: Instant) {
        while self.may_forget()
            && let Some(scope) = self.idle.pop_due(now)
        {
            if !self.is_idle(&scope) {
                continue;
            }
            // Whoever begins to lead writes the record, and whoever has begun has the lease.
            let txn = Txn::new(self.node_id.clone())
                .when(self.record_compare(&scope))
                .when(Compare::Absent { key: lease_key(&scope) })
                .then(Operation::Delete { key: scope_key(&scope) })
                .then(Operation::Delete { key: ask_key(&scope) });
            self.tidy(now, &scope, txn);
            // The watch tells if it is done. If it is not, there is time.
            let after = self.config.forget_after;
            let again = now + jittered(after / 4, after / 2, &mut self.rng);
            self.idle.set(&scope, again);
        }
    }

    pub(super) fn idle_timeout(&self) -> Option<Instant> {
        self.idle.due.first().map(|(at, _)| *at).filter(|_| self.may_forget())
    }

    /// Nothing is left of a scope: nobody need remember it.
    pub(super) fn forget_scope(&mut self, scope: &Scope) {
        if self.view.forget(scope) {
            self.idle.clear(scope);
            self.out.push(Effect::Forgotten(scope.clone()));
        }
    }
}
