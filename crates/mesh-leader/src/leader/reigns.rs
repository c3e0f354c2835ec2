//! What changes of the records, and words of membership, mean for who leads.

use std::time::Duration;

use mesh_core::{Instant, NodeId, Revision, store::DeleteCause};

use super::{
    LeaderCore,
    seat::{Phase, Tenure},
    view::{Reign, Step},
};
use crate::{
    Reason, Scope, Transition,
    event::{Effect, LeadershipEvent, MemberHint},
};

impl LeaderCore {
    pub(super) fn member(&mut self, now: Instant, hint: MemberHint) {
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

    /// The copy of the records changed.
    pub(super) fn on_step(&mut self, now: Instant, step: Step) {
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
        self.note_idle(now, &scope);
        if !self.seats.contains_key(&scope) {
            self.forget_scope(&scope);
        }
        self.dirty.insert(scope);
    }

    fn on_reign(
        &mut self,
        now: Instant,
        scope: &Scope,
        before: Option<Reign>,
        cause: Option<DeleteCause>,
        revision: Revision,
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
        revision: Revision,
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
    pub(super) fn began_by(&self, scope: &Scope) -> Reason {
        match self.view.scope(scope) {
            _ if self.sync.entering => Reason::Found,
            Some(view) if view.direct => Reason::HandedOver,
            _ => Reason::Vacant,
        }
    }

    pub(super) fn tell(
        &mut self,
        now: Instant,
        transition: Transition,
        scope: &Scope,
        reign: &Reign,
        reason: Reason,
    ) {
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

    pub(super) fn tell_of(
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
}
