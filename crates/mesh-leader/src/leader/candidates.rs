//! The candidate records of this node: what it would lead, kept equal to what it campaigns for.

use std::collections::BTreeSet;

use mesh_core::{
    Instant,
    store::{Applied, Operation, Txn, TxnError, TxnOutcome},
};

use super::{
    LeaderCore,
    requests::Asker,
    seat::Attempt,
    session::{SessionEvent, backoff},
};
use crate::{
    Reason, Scope,
    event::Request,
    records::{CandidateValue, candidate_key},
};

/// Records that one transaction changes.
const BATCH: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Registrar {
    /// Scopes whose record may differ from what is wanted.
    touched: BTreeSet<Scope>,
    work: Option<Work>,
    failures: u32,
    not_before: Instant,
}

#[derive(Debug)]
struct Work {
    attempt: Attempt,
    batch: Vec<(Scope, Option<CandidateValue>)>,
}

impl Registrar {
    pub(super) fn touch(&mut self, scope: &Scope) {
        self.touched.insert(scope.clone());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.touched.is_empty() && self.work.is_none()
    }

    /// The session is gone and all records with it.
    pub(super) fn reset(&mut self) -> Option<crate::event::RequestId> {
        let request = self.work.take().and_then(|work| work.attempt.request);
        self.failures = 0;
        request
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.work {
            Some(work) if work.attempt.request.is_none() => Some(work.attempt.retry_at),
            Some(_) => None,
            None if self.touched.is_empty() => None,
            None => Some(self.not_before),
        }
    }
}

impl LeaderCore {
    /// What this node's candidate record of a scope should say; `None`: it should not be there.
    fn wanted_candidacy(&self, scope: &Scope) -> Option<CandidateValue> {
        let options = self.seats.get(scope)?.campaign.as_ref()?;
        if self.draining.is_some() {
            return None;
        }
        let zone = self.members.get(&self.node_id).and_then(|hint| hint.zone.clone());
        Some(CandidateValue { priority: options.priority, zone, spread: options.spread.clone() })
    }

    pub(super) fn drive_candidates(&mut self, now: Instant) {
        if self.registrar.work.is_none() {
            let Some(work) = self.next_batch(now) else { return };
            self.registrar.work = Some(work);
        }
        let timeout = self.keeper.request_timeout();
        let free = self.out.txns() < self.config.requests_max;
        let Some(work) = &mut self.registrar.work else { return };
        if work.attempt.request.is_none() && work.attempt.retry_at <= now && free {
            let request = Request::Transact(work.attempt.txn.clone());
            work.attempt.request = Some(self.out.ask(now, Asker::Candidates, None, request, timeout));
        }
    }

    fn next_batch(&mut self, now: Instant) -> Option<Work> {
        let session = self.keeper.confirmed(now)?;
        if now < self.registrar.not_before {
            return None;
        }
        let mut batch = Vec::new();
        let mut txn = Txn::new(self.node_id.clone());
        while batch.len() < BATCH
            && let Some(scope) = self.registrar.touched.pop_first()
        {
            let wanted = self.wanted_candidacy(&scope);
            let there = self.seats.get(&scope).and_then(|seat| seat.registered.as_ref());
            let there = there.filter(|(of, _, _)| *of == session).map(|(_, value, _)| value);
            if there == wanted.as_ref() {
                self.forget_unused(&scope);
                continue;
            }
            let key = candidate_key(&scope, &self.node_id);
            txn = txn.then(match &wanted {
                Some(value) => Operation::Put { key, value: value.encode(), session: Some(session) },
                None => Operation::Delete { key },
            });
            batch.push((scope, wanted));
        }
        if batch.is_empty() {
            return None;
        }
        let txn = txn.once(self.keeper.next_key()?);
        Some(Work { attempt: Attempt::new(txn, now), batch })
    }

    pub(super) fn candidates_answered(&mut self, now: Instant, answer: Result<TxnOutcome, TxnError>) {
        let Some(mut work) = self.registrar.work.take() else { return };
        match answer {
            Ok(outcome) => {
                self.registrar.failures = 0;
                self.trouble = None;
                let Some(session) = self.keeper.session() else { return };
                for (scope, value) in work.batch {
                    if let Some(seat) = self.seats.get_mut(&scope) {
                        seat.registered = value.map(|value| (session, value, outcome.revision));
                    }
                    // It may be wanted otherwise by now.
                    self.registrar.touch(&scope);
                    self.dirty.insert(scope);
                }
            }
            Err(TxnError::SessionGone { .. }) => {
                self.lose_session(now, Reason::SessionGone);
            }
            Err(error)
                if error.applied() == Applied::Unknown && !matches!(error, TxnError::Forgotten { .. }) =>
            {
                self.registrar.failures += 1;
                work.attempt.request = None;
                work.attempt.retry_at = now + self.registrar_backoff();
                self.registrar.work = Some(work);
            }
            Err(error) => {
                self.trouble = Some(super::trouble("enter this node's candidacies", &error));
                self.registrar.failures += 1;
                self.registrar.not_before = now + self.registrar_backoff();
                self.registrar.touched.extend(work.batch.into_iter().map(|(scope, _)| scope));
            }
        }
    }

    fn registrar_backoff(&mut self) -> std::time::Duration {
        backoff(
            self.registrar.failures,
            self.config.backoff_min,
            self.config.backoff_max.min(self.config.ttl),
            &mut self.rng,
        )
    }

    /// The session is gone, as the store says.
    pub(super) fn lose_session(&mut self, now: Instant, reason: Reason) {
        if self.keeper.session().is_none() {
            return;
        }
        let SessionEvent::Lost(reason) = self.keeper.lose(now, reason, &mut self.out, &mut self.rng) else {
            return;
        };
        self.on_session_lost(now, reason);
    }
}
