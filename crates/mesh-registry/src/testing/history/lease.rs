//! The model of leases: who may hold a scope, with which token, and until when.
//!
//! Nobody calls "expire". A lease may lapse, without a call, at any time that is not before the time
//! to live after its holder's last answered renewal was sent. So a call that sees the scope free, or
//! somebody else in it, is legal only if it can have taken effect after that.

use std::time::Duration;

use mesh_core::{FencingToken, Instant, store::Key};

use super::{Invocation, Model};

/// Leases by scope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leases;

/// Who holds and for how long it can count on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenure {
    /// The holder: a session.
    pub holder: u64,
    /// It does not lapse before this: the time to live after its last answered renewal was sent.
    pub until: Instant,
}

impl Tenure {
    /// The tenure of a holder that sent its last answered renewal at `sent`.
    pub fn since(holder: u64, sent: Instant, ttl: Duration) -> Self {
        Self { holder, until: sent + ttl }
    }
}

/// A call about one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCall {
    /// Asks for the lease if nobody has it.
    Acquire(Tenure),
    /// Hands the lease over from whoever holds this token.
    Transfer(FencingToken, Tenure),
    /// Renews all that this holder has.
    Renew(Tenure),
    /// Gives the lease back.
    Release(FencingToken),
    /// Does something under the token.
    Guarded(FencingToken),
    /// Ends all that this holder has.
    End(u64),
    /// Looks who holds.
    Look,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseReply {
    /// The lease is the caller's, with this token.
    Granted(FencingToken),
    /// Somebody has it already; with which token, if the answer tells.
    Taken(Option<FencingToken>),
    /// It is done.
    Done,
    /// The token does not hold the lease; the one that does.
    Fenced(Option<FencingToken>),
    /// The holder's session is gone.
    Gone,
    /// The token that holds the lease.
    Seen(Option<FencingToken>),
}

/// A lease that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    tenure: Tenure,
    /// Unknown if nobody was told yet.
    token: Option<FencingToken>,
}

/// One scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseState {
    held: Option<Hold>,
    /// The highest token that anybody was told.
    highest: FencingToken,
    /// The last lapse: nothing later in the order can have taken effect before it.
    floor: Instant,
}

impl LeaseState {
    /// The scope with nobody in it, if that can be by `latest`.
    fn free(self, latest: Instant) -> Option<Self> {
        let Some(hold) = self.held else { return Some(self) };
        let until = hold.tenure.until;
        (latest >= until).then_some(Self { held: None, floor: self.floor.max(until), ..self })
    }

    /// The scope while exactly `token` holds it, if that can be.
    fn held_with(mut self, token: FencingToken) -> Option<Self> {
        let hold = self.held.as_mut()?;
        match hold.token {
            Some(known) => (known == token).then_some(self),
            None if token > self.highest => {
                hold.token = Some(token);
                self.highest = token;
                Some(self)
            }
            None => None,
        }
    }

    fn grant(self, tenure: Tenure, token: FencingToken) -> Option<Self> {
        (token > self.highest).then_some(Self {
            held: Some(Hold { tenure, token: Some(token) }),
            highest: token,
            ..self
        })
    }

    /// The scope as seen by one who is told that `current` holds it.
    fn seen(self, current: Option<FencingToken>, latest: Instant) -> Option<Self> {
        match current {
            Some(token) => self.held_with(token),
            None => self.free(latest),
        }
    }

    fn is_held_by(&self, holder: u64) -> bool {
        self.held.is_some_and(|hold| hold.tenure.holder == holder)
    }

    fn released(self) -> Self {
        Self { held: None, ..self }
    }
}

impl Leases {
    fn answered(
        state: LeaseState,
        call: &LeaseCall,
        reply: &LeaseReply,
        latest: Instant,
    ) -> Option<LeaseState> {
        match (call, reply) {
            (LeaseCall::Acquire(tenure), LeaseReply::Granted(token)) => {
                state.free(latest)?.grant(*tenure, *token)
            }
            (LeaseCall::Acquire(_), LeaseReply::Taken(Some(token))) => state.held_with(*token),
            (LeaseCall::Acquire(_), LeaseReply::Taken(None)) => state.held.map(|_| state),
            (LeaseCall::Transfer(token, to), LeaseReply::Granted(new)) => {
                state.held_with(*token)?.grant(*to, *new)
            }
            (LeaseCall::Renew(tenure), LeaseReply::Done) => {
                let mut state = state;
                if let Some(hold) = state.held.as_mut().filter(|hold| hold.tenure.holder == tenure.holder) {
                    hold.tenure.until = hold.tenure.until.max(tenure.until);
                }
                Some(state)
            }
            // Whoever is told that its session is gone must hold nothing any more.
            (LeaseCall::Renew(Tenure { holder, .. }) | LeaseCall::End(holder), LeaseReply::Gone) => {
                if state.is_held_by(*holder) { state.free(latest) } else { Some(state) }
            }
            (LeaseCall::Acquire(Tenure { holder, .. }), LeaseReply::Gone)
            | (LeaseCall::Transfer(_, Tenure { holder, .. }), LeaseReply::Gone) => {
                if state.is_held_by(*holder) { state.free(latest) } else { Some(state) }
            }
            (LeaseCall::Release(token), LeaseReply::Done) => Some(state.held_with(*token)?.released()),
            (LeaseCall::Guarded(token), LeaseReply::Done) => state.held_with(*token),
            (
                LeaseCall::Release(stated) | LeaseCall::Guarded(stated) | LeaseCall::Transfer(stated, _),
                LeaseReply::Fenced(current),
            ) => (*current != Some(*stated)).then(|| state.seen(*current, latest))?,
            (LeaseCall::End(holder), LeaseReply::Done) => {
                Some(if state.is_held_by(*holder) { state.released() } else { state })
            }
            (LeaseCall::Look, LeaseReply::Seen(current)) => state.seen(*current, latest),
            _ => None,
        }
    }

    /// The state if a call of unknown outcome took effect.
    fn open(state: LeaseState, call: &LeaseCall, latest: Instant) -> Option<LeaseState> {
        match call {
            LeaseCall::Acquire(tenure) => {
                let free = state.free(latest)?;
                Some(LeaseState { held: Some(Hold { tenure: *tenure, token: None }), ..free })
            }
            LeaseCall::Transfer(token, to) => {
                let held = state.held_with(*token)?;
                Some(LeaseState { held: Some(Hold { tenure: *to, token: None }), ..held })
            }
            LeaseCall::Release(token) => Some(state.held_with(*token)?.released()),
            LeaseCall::End(holder) => state.is_held_by(*holder).then(|| state.released()),
            LeaseCall::Renew(_) | LeaseCall::Guarded(_) | LeaseCall::Look => None,
        }
    }
}

impl Model for Leases {
    type State = LeaseState;
    type Input = (Key, LeaseCall);
    type Output = LeaseReply;
    type Part = Key;

    fn initial(&self) -> LeaseState {
        LeaseState::default()
    }

    fn step(
        &self,
        state: &LeaseState,
        invocation: &Invocation<(Key, LeaseCall), LeaseReply>,
    ) -> Option<LeaseState> {
        let latest = invocation.latest();
        if latest < state.floor {
            return None;
        }
        let (_, call) = &invocation.input;
        match invocation.output() {
            Some(reply) => Self::answered(*state, call, reply, latest),
            None => Self::open(*state, call, latest),
        }
    }

    fn parts(&self, (scope, _): &(Key, LeaseCall)) -> Vec<Key> {
        vec![scope.clone()]
    }

    fn only_reads(&self, invocation: &Invocation<(Key, LeaseCall), LeaseReply>) -> bool {
        let reads = matches!(invocation.input.1, LeaseCall::Look | LeaseCall::Guarded(_));
        reads || matches!(invocation.output(), Some(LeaseReply::Taken(_) | LeaseReply::Fenced(_)))
    }

    /// Tokens grow in the order of the grants.
    fn hint(&self, invocation: &Invocation<(Key, LeaseCall), LeaseReply>) -> Option<u64> {
        match (&invocation.input.1, invocation.output()?) {
            (_, LeaseReply::Granted(token)) => Some(4 * token.counter),
            (LeaseCall::Guarded(token), LeaseReply::Done) => Some(4 * token.counter + 1),
            (_, LeaseReply::Seen(Some(token)) | LeaseReply::Taken(Some(token))) => {
                Some(4 * token.counter + 1)
            }
            (_, LeaseReply::Fenced(Some(token))) => Some(4 * token.counter + 1),
            (LeaseCall::Release(token), LeaseReply::Done) => Some(4 * token.counter + 2),
            _ => None,
        }
    }
}
