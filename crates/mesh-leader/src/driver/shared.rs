//! What callers read and follow without asking the loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{Clock, InstanceId, Instant, NodeId, store::SessionId};
use tokio::sync::{Notify, watch};

use super::{Confirmer, subscribe::Board};
use crate::{
    Counters, LeaderConfig, LeaderCore, LeadershipStatus, Lease, LeaseSignal, Reason, Scope,
    lease::{LeaseCell, LeaseState, Pulse, SessionCell},
};

/// Counters and figures, brought up to date now and then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) counters: Counters,
    pub(crate) ttl_needed: Duration,
    pub(crate) queue_length: usize,
}

pub(crate) struct Shared {
    pub(crate) node_id: NodeId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Arc<Board>,
    pub(crate) status: watch::Sender<LeadershipStatus>,
    pub(crate) stop: watch::Sender<bool>,
    /// Campaigns whose handle was dropped.
    dropped: Mutex<BTreeSet<(Scope, u64)>>,
    pub(crate) wake: Arc<Notify>,
    pulse: Arc<Pulse>,
    leases: Mutex<BTreeMap<Scope, watch::Sender<Option<Lease>>>>,
    sessions: Mutex<Option<Arc<SessionCell>>>,
    figures: Mutex<Figures>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a lock is held can't leave anything half changed: each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        core: &LeaderCore,
        config: &LeaderConfig,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.now();
        Self {
            node_id: core.node_id().clone(),
            board: Arc::new(Board::new(instance, config.events_kept, config.subscribers_max)),
            status: watch::Sender::new(core.status(now)),
            stop: watch::Sender::new(false),
            dropped: Mutex::default(),
            wake: Arc::new(Notify::new()),
            pulse: Arc::new(Pulse::new(now, core.quiet_max())),
            leases: Mutex::default(),
            sessions: Mutex::default(),
            figures: Mutex::default(),
            clock,
        }
    }

    /// This node's lease of a scope, to read or to follow. Entries stay as long as somebody follows, or
    /// there is a lease.
    pub(crate) fn own(&self, scope: &Scope) -> watch::Receiver<Option<Lease>> {
        let mut leases = lock(&self.leases);
        leases.retain(|held, lease| held == scope || lease.receiver_count() > 0 || lease.borrow().is_some());
        leases.entry(scope.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    pub(crate) fn lease(&self, scope: &Scope) -> Option<Lease> {
        lock(&self.leases).get(scope).and_then(|lease| lease.borrow().clone())
    }

    /// A campaign's handle is gone.
    pub(crate) fn drop_campaign(&self, scope: &Scope, id: u64) {
        lock(&self.dropped).insert((scope.clone(), id));
        self.wake.notify_one();
    }

    pub(crate) fn take_dropped(&self) -> Vec<(Scope, u64)> {
        std::mem::take(&mut *lock(&self.dropped)).into_iter().collect()
    }

    pub(crate) fn validity(&self, session: SessionId, valid_until: Option<Instant>) {
        let mut held = lock(&self.sessions);
        match &*held {
            Some(cell) if cell.session == session => cell.set(valid_until),
            _ => {
                let cell = Arc::new(SessionCell::new(session));
                cell.set(valid_until);
                *held = Some(cell);
            }
        }
    }

    pub(crate) fn signal(&self, signal: LeaseSignal, confirmer: &Confirmer) {
        match signal {
            LeaseSignal::Held { scope, session, token, term } => {
                let cell = lock(&self.sessions).clone().filter(|cell| cell.session == session);
                // The validity of a session is told before any lease of it.
                let session = cell.unwrap_or_else(|| Arc::new(SessionCell::new(session)));
                let cell = LeaseCell::new(
                    scope.clone(),
                    self.node_id.clone(),
                    token,
                    term,
                    session,
                    Arc::clone(&self.pulse),
                    Arc::clone(&self.clock),
                    confirmer.clone(),
                );
                let lease = Lease { cell: Arc::new(cell) };
                let mut leases = lock(&self.leases);
                leases.entry(scope).or_insert_with(|| watch::Sender::new(None)).send_replace(Some(lease));
            }
            LeaseSignal::Suspended { scope } => self.set(&scope, LeaseState::HandingOver),
            LeaseSignal::Resumed { scope } => self.set(&scope, LeaseState::Held),
            LeaseSignal::Ended { scope, reason } => self.end_lease(&scope, reason),
        }
    }

    fn set(&self, scope: &Scope, state: LeaseState) {
        if let Some(lease) = self.lease(scope) {
            lease.cell.set(state);
        }
    }

    fn end_lease(&self, scope: &Scope, reason: Reason) {
        let mut leases = lock(&self.leases);
        let Some(sender) = leases.get(scope) else { return };
        if let Some(lease) = sender.send_replace(None) {
            lease.cell.set(LeaseState::Over(reason));
        }
        if sender.receiver_count() == 0 {
            leases.remove(scope);
        }
    }

    pub(crate) fn beat(&self, now: Instant) {
        self.pulse.beat(now);
    }

    pub(crate) fn figures(&self) -> Figures {
        lock(&self.figures).clone()
    }

    pub(crate) fn refresh(&self, core: &LeaderCore, now: Instant) {
        *lock(&self.figures) = Figures {
            counters: core.counters(now),
            ttl_needed: core.ttl_needed(),
            queue_length: core.queue_length(),
        };
    }

    pub(crate) fn refresh_status(&self, core: &LeaderCore, now: Instant) {
        let status = core.status(now);
        self.status.send_if_modified(|held| {
            let changed = *held != status;
            *held = status;
            changed
        });
    }

    /// Nothing follows any more.
    pub(crate) fn end(&self) {
        let scopes: Vec<Scope> = lock(&self.leases).keys().cloned().collect();
        for scope in scopes {
            self.end_lease(&scope, Reason::Stopped);
        }
        self.board.close();
        // Followers of a lease that is not there see the end of its channel.
        lock(&self.leases).clear();
    }
}
