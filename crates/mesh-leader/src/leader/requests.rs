//! Requests that wait for an answer, and effects that wait to be handed out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mesh_core::{
    Instant,
    store::{Applied, SessionError, SessionId, StoreError, TxnError},
};

use crate::{
    Scope,
    event::{Answer, Effect, OpId, Request, RequestId},
};

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Measure,
    Opening,
    Renewal(SessionId),
    /// Closing a session that is given up: nobody waits.
    Closing,
    /// Closing the session for good.
    Close(OpId),
    Sync,
    Candidates,
    Seat,
    Ask(OpId),
    /// A record that is no longer of use is deleted: nobody waits.
    Tidy,
}

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) asker: Asker,
    pub(super) scope: Option<Scope>,
    pub(super) sent_at: Instant,
    pub(super) deadline: Instant,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Probe,
    Session,
    Close,
    Scan,
    Txn,
}

/// What a core has asked for and what it wants done.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    effects: VecDeque<Effect>,
    pending: BTreeMap<RequestId, Pending>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    next: u64,
    txns: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn pop(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.effects.len()
    }

    /// Transactions under way.
    pub(super) fn txns(&self) -> usize {
        self.txns
    }

    /// Asks the store; without an answer after `timeout` the request has failed.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        asker: Asker,
        scope: Option<&Scope>,
        request: Request,
        timeout: Duration,
    ) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        let kind = match &request {
            Request::Probe => Kind::Probe,
            Request::OpenSession(_) | Request::KeepAlive(_) => Kind::Session,
            Request::CloseSession(_) => Kind::Close,
            Request::Scan(_) => Kind::Scan,
            Request::Transact(_) => Kind::Txn,
        };
        if matches!(kind, Kind::Txn) {
            self.txns += 1;
        }
        let deadline = now + timeout;
        self.pending.insert(id, Pending { asker, scope: scope.cloned(), sent_at: now, deadline, kind });
        self.deadlines.insert((deadline, id));
        self.push(Effect::Request { id, request, timeout });
        id
    }

    /// Takes the request that was answered; `None` if nobody waits for it.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        if matches!(pending.kind, Kind::Txn) {
            self.txns -= 1;
        }
        Some(pending)
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.answered(id);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A request whose time is over, with the failure that it counts as.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(RequestId, Answer)> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let pending = self.pending.get(&id)?;
        let after = deadline.since(pending.sent_at);
        let timeout = |operation| StoreError::Timeout { operation, after, applied: Applied::Unknown };
        let answer = match pending.kind {
            Kind::Probe => Answer::Probe(Err(timeout("read"))),
            Kind::Session => Answer::Session(Err(SessionError::Store(timeout("renew a session")))),
            Kind::Close => Answer::Closed(Err(SessionError::Store(timeout("close a session")))),
            Kind::Scan => Answer::Page(Err(timeout("scan"))),
            Kind::Txn => Answer::Txn(Err(TxnError::Store(timeout("transact")))),
        };
        Some((id, answer))
    }
}
