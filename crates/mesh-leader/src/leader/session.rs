//! Keeps the node's one session open, and knows for how long it certainly is.
//!
//! The store lets a session live for its time to live after a renewal reached it. The renewal was sent
//! before that, so counting from the sending, and less by what the clocks may differ, never ends too
//! late. A renewal that fails is tried again until that deadline. After a pause of the process nothing
//! counts until the store has answered a renewal that was sent after the pause.

use std::time::Duration;

use mesh_core::{
    Instant, NodeId,
    store::{IdempotencyKey, OpenSession, Session, SessionError, SessionId},
};

use super::requests::{Asker, Outbox};
use crate::{
    PlantedBug, Reason,
    event::{Effect, Request},
    planted::Planted,
    ttl::drift,
};

/// Renewals under way at once: one that hangs must not keep the next one back.
const RENEWALS_MAX: usize = 3;

/// What became of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEvent {
    Opened,
    /// What was left until the deadline.
    Renewed(Duration),
    Lost(Reason),
}

/// What the keeper borrows from its core.
pub(super) struct Tools<'c> {
    pub(super) out: &'c mut Outbox,
    pub(super) rng: &'c mut fastrand::Rng,
    pub(super) planted: Planted,
}

#[derive(Debug)]
pub(super) struct SessionKeeper {
    owner: NodeId,
    ttl: Duration,
    drift_ppm: u32,
    backoff_min: Duration,
    backoff_max: Duration,
    state: State,
    failures: u32,
    pub(super) renewal_failures: u64,
}

#[derive(Debug)]
enum State {
    /// Not wanted: the time to live is not admitted, or the node stops.
    Off,
    Idle {
        open_at: Instant,
    },
    Opening,
    Open(Open),
}

#[derive(Debug)]
struct Open {
    session: SessionId,
    ttl: Duration,
    sequence: u64,
    valid_until: Instant,
    renew_at: Instant,
    renewing: usize,
    doubt: Option<Doubt>,
}

/// The process was paused: only renewals sent since count.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    give_up: Instant,
}

impl SessionKeeper {
    pub(super) fn new(owner: NodeId, config: &crate::LeaderConfig) -> Self {
        Self {
            owner,
            ttl: config.ttl,
            drift_ppm: config.drift_ppm,
            backoff_min: config.backoff_min,
            backoff_max: config.backoff_max,
            state: State::Off,
            failures: 0,
            renewal_failures: 0,
        }
    }

    /// Opens a session from now on.
    pub(super) fn start(&mut self, now: Instant) {
        if matches!(self.state, State::Off) {
            self.state = State::Idle { open_at: now };
        }
    }

    /// Gives up for good. The session that is to be closed, if there is one.
    pub(super) fn stop(&mut self, out: &mut Outbox) -> Option<SessionId> {
        let session = self.session();
        if let Some(session) = session {
            out.push(Effect::Validity { session, valid_until: None });
        }
        self.state = State::Off;
        session
    }

    /// The open session, confirmed or not.
    pub(super) fn session(&self) -> Option<SessionId> {
        match &self.state {
            State::Open(open) => Some(open.session),
            _ => None,
        }
    }

    /// Until when leases can be acted upon without asking the store.
    pub(super) fn valid_until(&self) -> Option<Instant> {
        match &self.state {
            State::Open(Open { doubt: None, valid_until, .. }) => Some(*valid_until),
            _ => None,
        }
    }

    /// The session, if it is certainly open.
    pub(super) fn confirmed(&self, now: Instant) -> Option<SessionId> {
        self.valid_until().filter(|until| now < *until).and_then(|_| self.session())
    }

    /// The key that makes the next transaction of this session apply once.
    pub(super) fn next_key(&mut self) -> Option<IdempotencyKey> {
        let State::Open(open) = &mut self.state else { return None };
        open.sequence += 1;
        Some(IdempotencyKey { session: open.session, sequence: open.sequence })
    }

    /// Longest time that this must not run without a doubt about the session.
    pub(super) fn quiet_max(&self) -> Duration {
        self.ttl / 2
    }

    /// How long the answer to a changing request is waited for before it is tried again.
    pub(super) fn request_timeout(&self) -> Duration {
        (self.ttl / 2).clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Idle { open_at } => Some(*open_at),
            State::Open(open) => {
                let end = open.doubt.map_or(open.valid_until, |doubt| doubt.give_up);
                Some(if open.renewing < RENEWALS_MAX { end.min(open.renew_at) } else { end })
            }
            State::Off | State::Opening => None,
        }
    }

    /// The process was paused, up to now.
    pub(super) fn on_pause(&mut self, now: Instant, out: &mut Outbox) {
        let State::Open(open) = &mut self.state else { return };
        open.doubt = Some(Doubt { since: now, give_up: open.valid_until.max(now + open.ttl / 2) });
        open.renew_at = now;
        open.renewing = open.renewing.min(RENEWALS_MAX - 1);
        out.push(Effect::Validity { session: open.session, valid_until: None });
    }

    /// Renews now rather than when it is time.
    pub(super) fn renew_now(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state
            && open.renewing == 0
        {
            open.renew_at = open.renew_at.min(now);
        }
    }

    /// Lets time pass.
    pub(super) fn drive(&mut self, now: Instant, tools: &mut Tools<'_>) -> Option<SessionEvent> {
        let Tools { out, rng, planted } = tools;
        match &mut self.state {
            State::Idle { open_at } if *open_at <= now => {
                let request = OpenSession { owner: self.owner.clone(), ttl: self.ttl };
                let timeout = self.ttl.min(Duration::from_secs(10));
                out.ask(now, Asker::Opening, None, Request::OpenSession(request), timeout);
                self.state = State::Opening;
                None
            }
            State::Open(open) => {
                let (end, reason) = match open.doubt {
                    Some(doubt) => (doubt.give_up, Reason::Paused),
                    None => (open.valid_until, Reason::RenewalsFailed),
                };
                if now >= end && planted.has(PlantedBug::IgnoreDeadline) {
                    open.valid_until = now + open.ttl;
                    out.push(Effect::Validity { session: open.session, valid_until: Some(open.valid_until) });
                } else if now >= end {
                    return Some(self.lose(now, reason, out, rng));
                }
                if now >= open.renew_at && open.renewing < RENEWALS_MAX {
                    open.renewing += 1;
                    // If the answer does not come, the next one goes out beside it.
                    open.renew_at = now + open.ttl / 6;
                    let request = Request::KeepAlive(open.session);
                    out.ask(now, Asker::Renewal(open.session), None, request, open.ttl / 2);
                }
                None
            }
            _ => None,
        }
    }

    /// The request to open a session, sent at `sent_at`, was answered.
    pub(super) fn opening_answered(
        &mut self,
        now: Instant,
        sent_at: Instant,
        answer: Result<Session, SessionError>,
        out: &mut Outbox,
        rng: &mut fastrand::Rng,
    ) -> Option<SessionEvent> {
        match (&self.state, answer) {
            (State::Opening, Ok(session)) => Some(self.opened(now, sent_at, &session, out, rng)),
            (State::Opening, Err(_)) => {
                self.failures += 1;
                self.state = State::Idle { open_at: now + self.backoff(rng) };
                None
            }
            // It came too late to be used.
            (_, Ok(session)) => {
                close(now, session.id, self.ttl, out);
                None
            }
            (_, Err(_)) => None,
        }
    }

    /// A renewal of `renewed`, sent at `sent_at`, was answered.
    pub(super) fn renewal_answered(
        &mut self,
        now: Instant,
        sent_at: Instant,
        renewed: SessionId,
        answer: Result<Session, SessionError>,
        tools: &mut Tools<'_>,
    ) -> Option<SessionEvent> {
        let State::Open(open) = &mut self.state else { return None };
        if open.session != renewed {
            return None;
        }
        open.renewing = open.renewing.saturating_sub(1);
        match answer {
            Err(SessionError::Gone { .. }) if !tools.planted.has(PlantedBug::IgnoreSessionLoss) => {
                Some(self.lose(now, Reason::SessionGone, tools.out, tools.rng))
            }
            Ok(_) | Err(SessionError::Gone { .. }) => self.renewed(now, sent_at, tools),
            Err(_) => {
                self.renewal_failures += 1;
                if tools.planted.has(PlantedBug::GiveUpAtFirstBlip) {
                    return Some(self.lose(now, Reason::RenewalsFailed, tools.out, tools.rng));
                }
                let retry = now + jittered(open.ttl / 24, open.ttl / 12, tools.rng);
                open.renew_at = open.renew_at.min(retry);
                None
            }
        }
    }

    fn opened(
        &mut self,
        now: Instant,
        sent_at: Instant,
        session: &Session,
        out: &mut Outbox,
        rng: &mut fastrand::Rng,
    ) -> SessionEvent {
        let valid_until = sent_at + allowance(session.ttl, self.drift_ppm);
        self.failures = 0;
        self.state = State::Open(Open {
            session: session.id,
            ttl: session.ttl,
            sequence: 0,
            valid_until,
            renew_at: next_renewal(sent_at, session.ttl, rng),
            renewing: 0,
            doubt: None,
        });
        if valid_until <= now {
            return self.lose(now, Reason::RenewalsFailed, out, rng);
        }
        out.push(Effect::Validity { session: session.id, valid_until: Some(valid_until) });
        SessionEvent::Opened
    }

    fn renewed(&mut self, now: Instant, sent_at: Instant, tools: &mut Tools<'_>) -> Option<SessionEvent> {
        let State::Open(open) = &mut self.state else { return None };
        if open.doubt.is_some_and(|doubt| sent_at < doubt.since) {
            // It was sent before the pause, and the session may be gone since.
            return None;
        }
        let from = if tools.planted.has(PlantedBug::CountFromAnswer) { now } else { sent_at };
        let until = from + allowance(open.ttl, self.drift_ppm);
        if until <= now {
            return None;
        }
        let slack = open.valid_until.since(now);
        open.doubt = None;
        open.valid_until = open.valid_until.max(until);
        open.renew_at = next_renewal(sent_at, open.ttl, tools.rng);
        tools.out.push(Effect::Validity { session: open.session, valid_until: Some(open.valid_until) });
        Some(SessionEvent::Renewed(slack))
    }

    /// Gives the session up: whatever hangs on it is lost at once.
    pub(super) fn lose(
        &mut self,
        now: Instant,
        reason: Reason,
        out: &mut Outbox,
        rng: &mut fastrand::Rng,
    ) -> SessionEvent {
        if let State::Open(open) = &self.state {
            out.push(Effect::Validity { session: open.session, valid_until: None });
            if reason != Reason::SessionGone {
                // Others need not wait for what the store still grants it.
                close(now, open.session, open.ttl, out);
            }
        }
        self.state = State::Idle { open_at: now + jittered(Duration::ZERO, self.backoff_min, rng) };
        SessionEvent::Lost(reason)
    }

    fn backoff(&self, rng: &mut fastrand::Rng) -> Duration {
        backoff(self.failures, self.backoff_min, self.backoff_max, rng)
    }
}

fn close(now: Instant, session: SessionId, ttl: Duration, out: &mut Outbox) {
    out.ask(now, Asker::Closing, None, Request::CloseSession(session), ttl.min(Duration::from_secs(10)));
}

/// How long the holder of a session may count on it, from before it was asked for.
fn allowance(ttl: Duration, drift_ppm: u32) -> Duration {
    ttl.saturating_sub(drift(ttl, drift_ppm))
}

/// A third of the time to live after the last one, a little less, so that nodes do not renew in step.
fn next_renewal(sent_at: Instant, ttl: Duration, rng: &mut fastrand::Rng) -> Instant {
    sent_at + jittered(ttl * 3 / 10, ttl / 3, rng)
}

pub(super) fn jittered(min: Duration, max: Duration, rng: &mut fastrand::Rng) -> Duration {
    let spread = u64::try_from(max.saturating_sub(min).as_nanos()).unwrap_or(u64::MAX);
    min + Duration::from_nanos(if spread == 0 { 0 } else { rng.u64(0..spread) })
}

/// Doubles with each failure; between half of it and all of it.
pub(super) fn backoff(failures: u32, min: Duration, max: Duration, rng: &mut fastrand::Rng) -> Duration {
    let full = min.saturating_mul(1 << failures.min(16)).min(max);
    jittered(full / 2, full, rng)
}
