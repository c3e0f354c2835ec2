//! Runs the core on tokio: one task, one loop, no decisions.

mod campaign;
mod hints;
mod run;
pub(crate) mod shared;
mod store;
mod subscribe;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{Clock, InstanceId, Membership, NodeId, Validated, store::VersionedStore};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use self::{
    campaign::Campaign,
    subscribe::{EventId, EventIdError, Notice, SubscribersMax, Subscription},
};
use self::{run::Loop, shared::Shared};
use crate::{
    CampaignOptions, Command, Counters, LeaderConfig, LeaderCore, LeaderView, LeadershipStatus, Lease, OpId,
    Order, Refusal, Scope,
};

/// Commands that wait for the loop; callers wait beyond that.
const COMMANDS_MAX: usize = 64;

/// A command with those who wait: for its being taken, and perhaps for its outcome.
struct Ask {
    command: Command,
    /// Names the campaign that begins.
    campaign: Option<u64>,
    taken: oneshot::Sender<Result<(), Refusal>>,
    outcome: Option<(OpId, oneshot::Sender<Result<(), Refusal>>)>,
}

/// Asks the loop to ask the store whether the session is open.
#[derive(Clone, Debug)]
pub(crate) struct Confirmer {
    wanted: Arc<Notify>,
    ended: watch::Receiver<bool>,
}

impl Confirmer {
    pub(crate) fn ask(&self) {
        self.wanted.notify_one();
    }

    pub(crate) fn has_ended(&self) -> bool {
        // The sender is the loop's: gone is ended, too.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }
}

/// The leadership of one node: its session, its campaigns and its leases. Clones share it.
///
/// It runs until [`stop`](Self::stop), or until the last handle, campaign included, is gone; leases are
/// given back then.
#[derive(Clone)]
pub struct Leadership {
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
    ops: Arc<AtomicU64>,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("node_id", &self.shared.node_id).finish_non_exhaustive()
    }
}

impl Leadership {
    /// Starts the loop, and the campaigns that the settings name.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn(
        config: Validated<LeaderConfig>,
        store: Arc<dyn VersionedStore>,
        membership: Arc<dyn Membership>,
        clock: Arc<dyn Clock>,
        node_id: NodeId,
    ) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a driver is where a core's seed comes from")]
        let mut rng = fastrand::Rng::new();
        let instance = InstanceId(rng.u64(..));
        let now = clock.now();
        let mut core = LeaderCore::new(config.clone(), node_id, rng.u64(..), now);
        core.read_wall(&*clock);
        let shared = Arc::new(Shared::new(&core, &config, instance, Arc::clone(&clock)));
        let (asks, inbox) = mpsc::channel(COMMANDS_MAX);
        let task = Loop::new(core, store, membership, clock, Arc::clone(&shared), inbox);
        tokio::spawn(task.run());
        Self { asks, shared, ops: Arc::default() }
    }

    /// This node.
    pub fn node_id(&self) -> &NodeId {
        &self.shared.node_id
    }

    /// The run of this process: event ids of another one can't be resumed from.
    pub fn instance(&self) -> InstanceId {
        self.shared.board.instance()
    }

    /// How this node stands.
    pub fn status(&self) -> LeadershipStatus {
        self.shared.status.borrow().clone()
    }

    /// Follows [`Leadership::status`].
    pub fn status_changes(&self) -> watch::Receiver<LeadershipStatus> {
        self.shared.status.subscribe()
    }

    /// Waits until this node knows who leads, and has a session to campaign with.
    ///
    /// # Errors
    ///
    /// [`Refusal::Ttl`] if `leader.ttl` can't be kept here, with the measured figures.
    /// [`Refusal::Stopped`] once leadership has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), Refusal> {
        let mut status = self.status_changes();
        let decided = |s: &LeadershipStatus| (s.synced && s.confirmed) || s.ttl_refused.is_some();
        tokio::select! {
            biased;
            Ok(status) = status.wait_for(decided) => match &status.ttl_refused {
                Some(refused) => Err(Refusal::Ttl(refused.clone())),
                None => Ok(()),
            },
            () = self.ended() => Err(Refusal::Stopped),
        }
    }

    /// Whether the loop runs.
    pub fn is_running(&self) -> bool {
        !self.asks.is_closed()
    }

    /// Waits until the loop has ended.
    pub async fn ended(&self) {
        self.asks.closed().await;
    }

    async fn command(&self, command: Command) -> Result<(), Refusal> {
        self.ask(command, None).await
    }

    async fn ask(&self, command: Command, campaign: Option<u64>) -> Result<(), Refusal> {
        let (taken, answer) = oneshot::channel();
        let ask = Ask { command, campaign, taken, outcome: None };
        self.asks.send(ask).await.map_err(|_| Refusal::Stopped)?;
        answer.await.map_err(|_| Refusal::Stopped)?
    }

    /// Sends a command and waits for its outcome.
    async fn order(&self, command: impl FnOnce(OpId) -> Command) -> Result<(), Refusal> {
        let op = OpId(self.ops.fetch_add(1, Ordering::Relaxed));
        let (taken, answer) = oneshot::channel();
        let (done, outcome) = oneshot::channel();
        let ask = Ask { command: command(op), campaign: None, taken, outcome: Some((op, done)) };
        self.asks.send(ask).await.map_err(|_| Refusal::Stopped)?;
        answer.await.map_err(|_| Refusal::Stopped)??;
        outcome.await.map_err(|_| Refusal::Stopped)?
    }

    /// Takes part in the election of a scope, until the campaign is dropped.
    ///
    /// # Errors
    ///
    /// [`Refusal::Campaigning`] if this node does so already; [`Refusal::Ttl`] if it can't hold leases.
    pub async fn campaign(&self, scope: Scope, options: CampaignOptions) -> Result<Campaign, Refusal> {
        let id = self.ops.fetch_add(1, Ordering::Relaxed);
        // Made first, so that dropping this future leaves no campaign behind that nobody has.
        let campaign = Campaign::new(scope.clone(), id, self.clone(), Arc::clone(&self.shared));
        self.ask(Command::Campaign { scope, options }, Some(id)).await?;
        Ok(campaign)
    }

    /// This node's lease of a scope, if it has one.
    pub fn lease(&self, scope: &Scope) -> Option<Lease> {
        self.shared.lease(scope)
    }

    /// Follows this node's lease of a scope, for campaigns that the settings started.
    pub fn leases(&self, scope: &Scope) -> watch::Receiver<Option<Lease>> {
        self.shared.own(scope)
    }

    /// Who leads a scope, as far as this node knows; `None` if nothing is known of it.
    pub fn leader(&self, scope: &Scope) -> Option<LeaderView> {
        self.shared.board.leader(scope)
    }

    /// Who leads what, by the names of the scopes.
    pub fn leaders(&self) -> Vec<LeaderView> {
        self.shared.board.leaders()
    }

    /// Follows a scope without campaigning.
    pub fn observe(&self, scope: Scope) -> Observer {
        Observer { changes: self.shared.board.changes(), shared: Arc::clone(&self.shared), scope, seen: None }
    }

    /// Every transition, from a snapshot on or after an event that the caller knows.
    ///
    /// # Errors
    ///
    /// [`SubscribersMax`] if no further one fits.
    pub fn subscribe(&self, after: Option<EventId>) -> Result<Subscription, SubscribersMax> {
        self.shared.board.subscribe(after)
    }

    /// Makes the leader of a scope, this node or another, hand over to whoever is best, and waits for it.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] says what is in the way; [`Refusal::Timeout`] alone leaves the outcome open.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may still make it step down.
    pub async fn step_down(&self, scope: &Scope, order: Order) -> Result<(), Refusal> {
        let scope = scope.clone();
        self.order(|op| Command::HandOver { op, scope, to: None, order }).await
    }

    /// As [`step_down`](Self::step_down), to one certain candidate. If that can't be, the leader stays.
    ///
    /// # Errors
    ///
    /// As [`step_down`](Self::step_down).
    pub async fn transfer(&self, scope: &Scope, to: &NodeId, order: Order) -> Result<(), Refusal> {
        let (scope, to) = (scope.clone(), Some(to.clone()));
        self.order(|op| Command::HandOver { op, scope, to, order }).await
    }

    /// Hands over every lease, campaigns no more, and waits until nothing is left here.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`] if leadership ends meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the node draining.
    pub async fn drain(&self) -> Result<(), Refusal> {
        self.order(|op| Command::Drain { op }).await
    }

    /// Campaigns again after [`drain`](Self::drain).
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`] once leadership has ended.
    pub async fn undrain(&self) -> Result<(), Refusal> {
        self.command(Command::Undrain).await
    }

    /// Reads all records of leadership again, for whoever found that what this node remembers differs from
    /// the store ([`remembered`](crate::remembered)). Returns before they are read.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`] once leadership has ended.
    pub async fn reread(&self) -> Result<(), Refusal> {
        self.command(Command::Reread).await
    }

    /// Drains for at most `patience`, closes the session and ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the node draining.
    pub async fn stop(&self, patience: Duration) {
        // What is not handed over by then is given back with the session.
        let _ = tokio::time::timeout(patience, self.drain()).await;
        let _ = self.order(|op| Command::Close { op }).await;
        self.shared.stop.send_replace(true);
        self.shared.wake.notify_one();
        self.ended().await;
    }

    /// What was counted, at most half a second old.
    pub fn counters(&self) -> Counters {
        self.shared.figures().counters
    }

    /// The shortest `leader.ttl` that could be kept here, as measured so far.
    pub fn ttl_needed(&self) -> Duration {
        self.shared.figures().ttl_needed
    }

    /// Effects of the core that wait to be carried out.
    pub fn queue_length(&self) -> usize {
        self.shared.figures().queue_length
    }

    #[cfg(any(test, feature = "metrics"))]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Who leads one scope, followed without taking part.
pub struct Observer {
    shared: Arc<Shared>,
    scope: Scope,
    changes: watch::Receiver<()>,
    seen: Option<LeaderView>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("scope", &self.scope)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Who leads now; `None` if nothing is known of the scope.
    pub fn leader(&self) -> Option<LeaderView> {
        self.shared.board.leader(&self.scope)
    }

    /// Waits until somebody else leads than at the last call, or nobody; the first call returns as soon as
    /// anything is known of the scope. `None` once leadership has ended on this node.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<LeaderView> {
        loop {
            self.changes.mark_unchanged();
            if let Some(view) = self.leader()
                && self.seen.as_ref().map(|seen| (&seen.leader, seen.token))
                    != Some((&view.leader, view.token))
            {
                self.seen = Some(view.clone());
                return Some(view);
            }
            let ended = async {
                // The sender is in `shared`.
                let _ = self.shared.stop.subscribe().wait_for(|stopped| *stopped).await;
            };
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = ended => return None,
            }
        }
    }
}
