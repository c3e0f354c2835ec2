//! A lease as its holder has it: checked in nanoseconds, confirmed where that does not tell.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Clock, FencingToken, Instant, NodeId,
    store::{Compare, SessionId, Txn},
};
use tokio::sync::watch;

use crate::{LeaseError, Reason, Scope, driver::Confirmer, leader::Standing, lease_key};

/// What all leases of one session share.
#[derive(Debug)]
pub(crate) struct SessionCell {
    pub(crate) session: SessionId,
    /// Nanoseconds; 0 while nobody knows.
    valid_until: AtomicU64,
    /// Counts the words of the store about the session, for who waits for one.
    words: watch::Sender<u64>,
}

impl SessionCell {
    pub(crate) fn new(session: SessionId) -> Self {
        Self { session, valid_until: AtomicU64::new(0), words: watch::Sender::new(0) }
    }

    pub(crate) fn set(&self, valid_until: Option<Instant>) {
        self.valid_until.store(valid_until.map_or(0, Instant::as_nanos), Ordering::Release);
        self.words.send_modify(|words| *words += 1);
    }

    fn valid_until(&self) -> Option<Instant> {
        Some(self.valid_until.load(Ordering::Acquire)).filter(|nanos| *nanos > 0).map(Instant::from_nanos)
    }
}

/// When the core last ran, and how long it may not.
#[derive(Debug)]
pub(crate) struct Pulse {
    ran_at: AtomicU64,
    quiet_max: Duration,
}

impl Pulse {
    pub(crate) fn new(now: Instant, quiet_max: Duration) -> Self {
        Self { ran_at: AtomicU64::new(now.as_nanos()), quiet_max }
    }

    pub(crate) fn beat(&self, now: Instant) {
        self.ran_at.store(now.as_nanos(), Ordering::Release);
    }
}

const HELD: u8 = 0;
const SUSPENDED: u8 = 1;
const OVER: u8 = 2;

/// Where a lease stands, for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is held, as far as this node knows: [`Lease::check`] tells whether it knows enough.
    Held,
    /// It is being handed over, and not to be acted upon.
    HandingOver,
    /// It is over.
    Over(Reason),
}

pub(crate) struct LeaseCell {
    pub(crate) scope: Scope,
    pub(crate) holder: NodeId,
    pub(crate) token: FencingToken,
    pub(crate) term: u64,
    pub(crate) session: Arc<SessionCell>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) confirmer: Confirmer,
    word: AtomicU8,
    state: watch::Sender<LeaseState>,
}

impl LeaseCell {
    #[allow(clippy::too_many_arguments, reason = "one caller, and each is a field")]
    pub(crate) fn new(
        scope: Scope,
        holder: NodeId,
        token: FencingToken,
        term: u64,
        session: Arc<SessionCell>,
        pulse: Arc<Pulse>,
        clock: Arc<dyn Clock>,
        confirmer: Confirmer,
    ) -> Self {
        let state = watch::Sender::new(LeaseState::Held);
        Self {
            scope,
            holder,
            token,
            term,
            session,
            pulse,
            clock,
            confirmer,
            word: AtomicU8::new(HELD),
            state,
        }
    }

    pub(crate) fn set(&self, state: LeaseState) {
        let word = match state {
            LeaseState::Held => HELD,
            LeaseState::HandingOver => SUSPENDED,
            LeaseState::Over(_) => OVER,
        };
        self.word.store(word, Ordering::Release);
        self.state.send_replace(state);
    }
}

/// The leadership of one scope, held by this node. Clones share it.
///
/// A lease ends without asking: whoever acts as the leader calls [`check`](Self::check) before each step,
/// and states the token where the step takes effect. The check alone is not enough: the process may be
/// paused right after it. What makes an old leader's step harmless is the token, compared where the step
/// is made: by the store ([`compare`](Self::compare)) or by a [`Fence`](crate::fence).
#[derive(Clone)]
pub struct Lease {
    pub(crate) cell: Arc<LeaseCell>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("scope", &self.cell.scope)
            .field("token", &self.cell.token)
            .field("term", &self.cell.term)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// What it leads.
    pub fn scope(&self) -> &Scope {
        &self.cell.scope
    }

    /// This node.
    pub fn holder(&self) -> &NodeId {
        &self.cell.holder
    }

    /// The number to state with each guarded write.
    pub fn token(&self) -> FencingToken {
        self.cell.token
    }

    /// Which reign of the scope this is; it grows by one with each.
    pub fn term(&self) -> u64 {
        self.cell.term
    }

    /// For how long it certainly holds, on this node's clock; zero if it does not, or nobody knows.
    pub fn valid_for(&self) -> Duration {
        if self.check().is_err() {
            return Duration::ZERO;
        }
        let now = self.cell.clock.now();
        self.cell.session.valid_until().map_or(Duration::ZERO, |until| until.since(now))
    }

    /// Where it stands. For acting upon it, [`check`](Self::check).
    pub fn state(&self) -> LeaseState {
        *self.cell.state.borrow()
    }

    /// Whether it can be acted upon right now: two clock comparisons, no wait, no request.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Over`] and [`LeaseError::HandingOver`]: stop. [`LeaseError::Unconfirmed`] once the
    /// deadline is past or the process was paused: stop, or ask with [`confirm`](Self::confirm).
    pub fn check(&self) -> Result<(), LeaseError> {
        let cell = &self.cell;
        let (scope, token) = (&cell.scope, cell.token);
        match cell.word.load(Ordering::Acquire) {
            HELD => {}
            SUSPENDED => return Err(LeaseError::HandingOver { scope: scope.clone(), token }),
            _ => {
                let LeaseState::Over(reason) = self.state() else {
                    // The end is being told at this moment.
                    return Err(LeaseError::Unconfirmed { scope: scope.clone(), token });
                };
                return Err(LeaseError::Over { scope: scope.clone(), token, reason });
            }
        }
        let standing = Standing {
            valid_until: cell.session.valid_until(),
            ran_at: Instant::from_nanos(cell.pulse.ran_at.load(Ordering::Acquire)),
            quiet_max: cell.pulse.quiet_max,
        };
        if standing.holds(cell.clock.now()) {
            return Ok(());
        }
        Err(LeaseError::Unconfirmed { scope: scope.clone(), token })
    }

    /// As [`check`](Self::check), and asks the store if that does not tell.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Over`] or [`LeaseError::HandingOver`]: stop. Never [`LeaseError::Unconfirmed`]: if
    /// the store does not answer, the lease is over by its own deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn confirm(&self) -> Result<(), LeaseError> {
        let mut words = self.cell.session.words.subscribe();
        let mut state = self.cell.state.subscribe();
        loop {
            words.mark_unchanged();
            state.mark_unchanged();
            match self.check() {
                Err(LeaseError::Unconfirmed { .. }) => {}
                known => return known,
            }
            self.cell.confirmer.ask();
            tokio::select! {
                // Both senders live as long as this lease.
                _ = words.changed() => {}
                _ = state.changed() => {}
                // The core runs again and says nothing new, or has ended.
                () = tokio::time::sleep(self.cell.pulse.quiet_max / 8) => {
                    if self.cell.confirmer.has_ended() {
                        let (scope, token) = (self.cell.scope.clone(), self.cell.token);
                        return Err(LeaseError::Over { scope, token, reason: Reason::Stopped });
                    }
                }
            }
        }
    }

    /// What a transaction of the store must state to be this leader's: it takes effect only while this
    /// very lease is held.
    pub fn compare(&self) -> Compare {
        Compare::Fence { key: lease_key(&self.cell.scope), token: self.cell.token }
    }

    /// Puts a transaction under the fence of this lease, after a check.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn guard(&self, txn: Txn) -> Result<Txn, LeaseError> {
        self.check()?;
        Ok(txn.when(self.compare()))
    }

    /// Waits until it is over, and returns why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ended(&self) -> Reason {
        let mut state = self.cell.state.subscribe();
        loop {
            if let LeaseState::Over(reason) = *state.borrow_and_update() {
                return reason;
            }
            if state.changed().await.is_err() {
                return Reason::Stopped;
            }
        }
    }

    /// Follows [`Lease::state`].
    pub fn states(&self) -> watch::Receiver<LeaseState> {
        self.cell.state.subscribe()
    }
}
