//! Runs the core on tokio: one task, one loop, no decisions.
//!
//! What came over the wire is handed in before timers fire, so that a process
//! which was paused reads what waited for it before it judges anybody.

mod disk;
mod seeds;
mod shared;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh_core::{
    Clock, Datagrams, DiskCompletion, Load, Machine, Member, MemberEvents, MemberSnapshot, Membership,
    SystemClock, Validated,
};
use tokio::sync::{mpsc, oneshot, watch};

use self::shared::Shared;
pub use self::{
    seeds::lookup_seed,
    shared::{BroadcastEvent, BroadcastEvents},
};
use crate::{
    Command, CommandError, Counters, Effect, Event, Gossip, GossipConfig, GossipError, GossipStatus, Input,
    InputError, LocalNode,
};

/// Commands that wait for the loop; callers wait beyond that.
const COMMANDS_MAX: usize = 64;
/// Inputs handled in a row before timers are looked at all the same.
const INPUTS_IN_A_ROW: u32 = 64;
/// How often what callers read without asking the loop is brought up to date.
const REFRESH: Duration = Duration::from_millis(500);

/// What a driver needs besides settings and a carrier.
#[derive(Clone)]
pub struct DriverOptions {
    /// Folder for the last known members; without it a restarted node needs its seeds.
    pub data_dir: Option<PathBuf>,
    /// Seed of all random choices. `None`: taken from the operating system, as it should be outside tests.
    pub seed: Option<u64>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { data_dir: None, seed: None, clock: Arc::new(SystemClock) }
    }
}

impl std::fmt::Debug for DriverOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverOptions")
            .field("data_dir", &self.data_dir)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

enum Request {
    Command(Command, oneshot::Sender<Result<(), CommandError>>),
    Stop,
}

/// Starts the membership of one node.
#[derive(Debug)]
pub struct Driver;

impl Driver {
    /// Starts the loop and returns the handle that owns it: it runs until
    /// [`GossipHandle::leave`], [`GossipHandle::stop`], or until the carrier closes.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`GossipError::Disk`] if the data directory can't be made.
    pub async fn spawn<D: Datagrams>(
        config: Validated<GossipConfig>,
        local: LocalNode,
        datagrams: Arc<D>,
        options: DriverOptions,
    ) -> Result<GossipHandle, GossipError> {
        let disk = disk::Disk::open(options.data_dir)?;
        let clock = options.clock;
        let seed = options.seed.unwrap_or_else(entropy);
        let names = seeds::names(&config);
        let gossip = Gossip::new(config, local, seed, clock.now());
        let shared = Arc::new(Shared::new(&gossip));
        let (requests, inbox) = mpsc::channel(COMMANDS_MAX);
        let (completed, completions) = mpsc::channel(8);
        let handle = GossipHandle { requests: requests.clone(), shared: shared.clone() };
        if !names.is_empty() {
            tokio::spawn(seeds::resolve(names, handle.clone()));
        }
        let task =
            Loop { gossip, datagrams, clock, disk, shared, inbox, completed, completions, refreshed: None };
        tokio::spawn(task.run());
        Ok(handle)
    }
}

fn entropy() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a driver is where a core's seed comes from")]
    let mut rng = fastrand::Rng::new();
    rng.u64(..)
}

/// The driver of one node. Clones share it.
#[derive(Clone)]
pub struct GossipHandle {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for GossipHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GossipHandle").field("local", &self.local().node_id).finish_non_exhaustive()
    }
}

impl GossipHandle {
    /// The members now, this node included.
    pub fn members(&self) -> MemberSnapshot {
        self.shared.snapshot()
    }

    /// The members now, and every change from here on.
    pub fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        self.shared.clone().subscribe()
    }

    /// User payloads that members send to all, from here on.
    pub fn broadcasts(&self) -> BroadcastEvents {
        self.shared.broadcasts()
    }

    /// This node as others see it.
    pub fn local(&self) -> Arc<Member> {
        self.shared.local()
    }

    /// How the node sees itself and its cluster.
    pub fn status(&self) -> GossipStatus {
        *self.shared.status.borrow()
    }

    /// Follows [`GossipHandle::status`].
    pub fn status_changes(&self) -> watch::Receiver<GossipStatus> {
        self.shared.status.subscribe()
    }

    /// Whether the driver still runs. It ends with [`leave`](Self::leave), with
    /// [`stop`](Self::stop), and by itself if the carrier closes.
    pub fn is_running(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Waits until the driver has ended, for whatever reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    /// What was counted, at most half a second old.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Items that wait in the core's queues.
    pub fn queue_length(&self) -> usize {
        self.shared.queue_length()
    }

    /// Waits until the node has the full list, or is the first of its cluster.
    ///
    /// # Errors
    ///
    /// [`GossipError::Stopped`] if the driver ends before.
    pub async fn ready(&self) -> Result<(), GossipError> {
        let mut status = self.status_changes();
        tokio::select! {
            biased;
            Ok(_) = status.wait_for(|s| s.ready) => Ok(()),
            () = self.ended() => Err(GossipError::Stopped),
        }
    }

    async fn command(&self, command: Command) -> Result<(), GossipError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Command(command, reply)).await.map_err(|_| GossipError::Stopped)?;
        Ok(answer.await.map_err(|_| GossipError::Stopped)??)
    }

    /// Sets a metadata key of this node; all members learn of it.
    ///
    /// # Errors
    ///
    /// [`GossipError::Refused`] if key or metadata are too large.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may still set it.
    pub async fn set_metadata(&self, key: &str, value: &str) -> Result<(), GossipError> {
        self.command(Command::SetMetadata { key: key.to_owned(), value: Some(value.to_owned()) }).await
    }

    /// Removes a metadata key of this node.
    ///
    /// # Errors
    ///
    /// As [`GossipHandle::set_metadata`].
    pub async fn remove_metadata(&self, key: &str) -> Result<(), GossipError> {
        self.command(Command::SetMetadata { key: key.to_owned(), value: None }).await
    }

    /// Says how busy this node is. Call it as often as the values change.
    ///
    /// A load travels with probes: each neighbour hears it at the next probe between the two, the
    /// others as `gossip.load_relay_bytes` allows, in seconds where there are tens of members and
    /// within a minute where there are a hundred. [`Member::load`] says how old it is; it makes no
    /// event. An empty load takes back what was said.
    ///
    /// # Errors
    ///
    /// [`GossipError::Refused`] if a value is out of its bounds.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may still set it.
    pub async fn set_load(&self, load: Load) -> Result<(), GossipError> {
        self.command(Command::SetLoad(load)).await
    }

    /// Sends a payload to every member, once, without promise of delivery.
    ///
    /// # Errors
    ///
    /// [`GossipError::Refused`] if it is too large or too many wait.
    pub async fn broadcast(&self, payload: Bytes) -> Result<(), GossipError> {
        self.command(Command::Broadcast(payload)).await
    }

    /// More addresses where members may be.
    ///
    /// # Errors
    ///
    /// [`GossipError::Stopped`].
    pub async fn add_seeds(&self, seeds: Vec<std::net::SocketAddr>) -> Result<(), GossipError> {
        self.command(Command::AddSeeds(seeds)).await
    }

    /// Says goodbye and ends the driver once two neighbours know, or after `timeout`.
    ///
    /// # Errors
    ///
    /// [`GossipError::LeaveTimeout`]; the driver has ended then, too.
    pub async fn leave(&self, timeout: Duration) -> Result<(), GossipError> {
        let mut done = self.shared.left.subscribe();
        self.command(Command::Leave).await?;
        let acknowledged = tokio::time::timeout(timeout, done.wait_for(|left| *left)).await;
        self.stop();
        match acknowledged {
            Ok(_) => Ok(()),
            Err(_) => Err(GossipError::LeaveTimeout(timeout)),
        }
    }

    /// Ends the driver without a goodbye.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
        // Wakes the loop; if its inbox is full it is awake.
        let _ = self.requests.try_send(Request::Stop);
    }
}

impl Membership for GossipHandle {
    fn snapshot(&self) -> MemberSnapshot {
        self.members()
    }

    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        GossipHandle::subscribe(self)
    }
}

struct Loop<D> {
    gossip: Gossip,
    datagrams: Arc<D>,
    clock: Arc<dyn Clock>,
    disk: disk::Disk,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Request>,
    completed: mpsc::Sender<DiskCompletion>,
    completions: mpsc::Receiver<DiskCompletion>,
    refreshed: Option<mesh_core::Instant>,
}

impl<D: Datagrams> Loop<D> {
    async fn run(mut self) {
        let mut in_a_row = 0;
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        let mut armed = None;
        let mut refusals = Refusals::default();
        loop {
            self.act();
            if *self.shared.stop.borrow() {
                break;
            }
            let now = self.clock.now();
            let due = self.gossip.poll_timeout();
            if due.is_some_and(|due| due <= now) && in_a_row >= INPUTS_IN_A_ROW {
                in_a_row = 0;
                self.gossip.handle_timeout(now);
                continue;
            }
            if due != armed {
                let wait = due.map_or(REFRESH, |due| due.since(now));
                timer.as_mut().reset(tokio::time::Instant::from_std(monotonic_now()) + wait);
                armed = due;
            }
            in_a_row += 1;
            tokio::select! {
                biased;
                event = self.datagrams.recv() => match event {
                    Ok(event) => {
                        let done = self.gossip.handle(self.clock.now(), Input::Link(event));
                        if let Err(error) = done {
                            refusals.note(self.clock.now(), &error);
                        }
                    }
                    Err(_) => break,
                },
                Some(completion) = self.completions.recv() => {
                    // A completion is never refused.
                    let _ = self.gossip.handle(self.clock.now(), Input::Disk(completion));
                }
                request = self.inbox.recv() => match request {
                    Some(Request::Command(command, reply)) => {
                        let done = self.gossip.handle(self.clock.now(), Input::Command(command));
                        let done = done.map_err(|error| match error {
                            InputError::Command(error) => error,
                            _ => CommandError::NotMember,
                        });
                        // The caller may have gone away.
                        let _ = reply.send(done);
                    }
                    Some(Request::Stop) => {}
                    None => break,
                },
                () = &mut timer => {
                    in_a_row = 0;
                    armed = None;
                    self.gossip.handle_timeout(self.clock.now());
                }
            }
        }
        self.shared.refresh(&self.gossip);
        self.shared.end();
    }

    fn act(&mut self) {
        let mut changed = false;
        while let Some(effect) = self.gossip.poll_effect() {
            match effect {
                Effect::Transmit { to, payload } => {
                    // Busy or gone: repair and retries make up for it.
                    if self.datagrams.send(&to, payload).is_err() {
                        self.gossip.note_unsent();
                    }
                }
                Effect::Connect(target) => self.datagrams.connect(target),
                Effect::Disconnect(peer) => self.datagrams.disconnect(&peer),
                Effect::Disk(request) => self.disk.start(request, self.completed.clone()),
                Effect::Event(event) => {
                    changed = true;
                    self.shared.publish(event);
                }
            }
        }
        let now = self.clock.now();
        if self.refreshed.is_none_or(|at| now.since(at) >= REFRESH) {
            self.refreshed = Some(now);
            self.shared.refresh(&self.gossip);
        } else if changed {
            self.shared.refresh_status(&self.gossip);
        }
    }
}

fn monotonic_now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Says what was refused, once a second at most.
#[derive(Default)]
struct Refusals {
    said_at: Option<mesh_core::Instant>,
    unsaid: u64,
}

impl Refusals {
    fn note(&mut self, now: mesh_core::Instant, error: &InputError) {
        if matches!(error, InputError::NoLink { .. }) {
            // The tail of a link that was closed.
            return;
        }
        if self.said_at.is_some_and(|at| now.since(at) < Duration::from_secs(1)) {
            self.unsaid += 1;
            return;
        }
        tracing::warn!(unsaid = std::mem::take(&mut self.unsaid), "gossip message refused: {error}");
        self.said_at = Some(now);
    }
}

impl Shared {
    fn publish(&self, event: Event) {
        match event {
            Event::Member(event) => self.publish_member(event),
            Event::Broadcast { from, payload } => self.publish_broadcast(from, payload),
            Event::LeaveDone => {
                self.left.send_replace(true);
            }
            Event::Conflict { other, we_step_aside } => {
                tracing::error!(%other, we_step_aside, "another living process has this node's id; give each node its own certificate");
            }
            Event::Isolated => tracing::warn!("no other member answers: this node is isolated and not ready"),
            Event::Healed => tracing::info!("other members answer again"),
            Event::Ready => tracing::info!("the member list is complete"),
        }
    }
}

#[cfg(test)]
mod tests;
