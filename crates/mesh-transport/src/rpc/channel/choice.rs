//! Which connection a channel uses: makes it, remembers it, replaces it, and returns
//! to HTTP/3 when that works again.

use std::{
    sync::{Arc, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture, future::Shared};
use mesh_core::{Clock as _, Instant, SystemClock};
use tokio::sync::watch;

use super::{
    ChannelError, ConnectFailure, Inner,
    broken::Broken,
    h2, h3,
    live::{Fresh, Live},
    race::{Raced, race},
};
use crate::rpc::{Lane, Reason, Transport};

/// After a failed attempt, requests fail at once for this long rather than start the
/// next attempt.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

type Dialing = Shared<BoxFuture<'static, Result<Arc<Live>, ChannelError>>>;
type Attempt = BoxFuture<'static, Result<Fresh, ConnectFailure>>;

/// What a channel remembers about its connections.
pub(super) struct Memory {
    /// The attempt under way, which all requests wait for that have no connection.
    dialing: Option<Dialing>,
    http3: Broken,
    /// HTTP/3 is being tried in the background.
    pursuing: bool,
    failed: Option<(Instant, ChannelError)>,
    serials: u64,
}

impl Memory {
    pub(super) fn new(retry_min: Duration, retry_max: Duration) -> Self {
        let http3 = Broken::new(retry_min, retry_max);
        Self { dialing: None, http3, pursuing: false, failed: None, serials: 0 }
    }
}

/// How to get a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// HTTP/3, and HTTP/2 after the head start.
    Race,
    /// HTTP/3 alone.
    Http3,
    /// HTTP/2; HTTP/3 if that fails and `then_http3` is set.
    Http2 { reason: Reason, then_http3: bool },
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for the next request; waits for one if there is none.
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<Live>, ChannelError> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let dialing = {
            let mut memory = self.memory();
            if let Some(live) = self.usable() {
                return Ok(live);
            }
            if let Some((until, error)) = &memory.failed
                && SystemClock.now() < *until
            {
                return Err(error.clone());
            }
            self.dialing(&mut memory)
        };
        dialing.await
    }

    fn usable(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| live.is_usable())
    }

    /// The attempt under way, or a new one. It has a task of its own, so that it goes on
    /// when the request that caused it is dropped.
    fn dialing(self: &Arc<Self>, memory: &mut Memory) -> Dialing {
        if let Some(dialing) = &memory.dialing {
            return dialing.clone();
        }
        let task = tokio::spawn(self.clone().dial());
        let lost = ChannelError::ConnectTimeout {
            peer: self.target.node_id.clone(),
            limit: self.config.connect_timeout,
        };
        // The task only fails to deliver if the runtime is shutting down.
        let dialing = async move { task.await.unwrap_or(Err(lost)) }.boxed().shared();
        memory.dialing = Some(dialing.clone());
        dialing
    }

    fn plan(&self, memory: &Memory) -> Plan {
        let allowed = self.endpoint.transports();
        let http3_allowed = self.config.http3 && allowed.contains(&Transport::Http3);
        let http2_allowed = allowed.contains(&Transport::Http2);
        if !http3_allowed {
            return Plan::Http2 { reason: Reason::Policy, then_http3: false };
        }
        if !http2_allowed {
            return Plan::Http3;
        }
        if self.target.http3 == Some(false) {
            return Plan::Http2 { reason: Reason::PeerCapability, then_http3: false };
        }
        if self.lane == Lane::Bulk || allowed.first() == Some(&Transport::Http2) {
            return Plan::Http2 { reason: Reason::Policy, then_http3: true };
        }
        if memory.http3.remaining(SystemClock.now()).is_some() {
            return Plan::Http2 { reason: Reason::RememberedBroken, then_http3: true };
        }
        Plan::Race
    }

    async fn dial(self: Arc<Self>) -> Result<Arc<Live>, ChannelError> {
        let plan = self.plan(&self.memory());
        let limit = self.config.connect_timeout;
        let outcome = match tokio::time::timeout(limit, self.carry_out(plan)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ChannelError::ConnectTimeout { peer: self.target.node_id.clone(), limit }),
        };
        let mut memory = self.memory();
        memory.dialing = None;
        match outcome {
            Ok((fresh, reason, http3)) => {
                let live = self.take_up(&mut memory, fresh, reason);
                if let Some(http3) = http3 {
                    self.pursue(&mut memory, http3);
                }
                Ok(live)
            }
            Err(error) => {
                memory.failed = Some((SystemClock.now() + FAILURE_PAUSE, error.clone()));
                Err(error)
            }
        }
    }

    async fn carry_out(&self, plan: Plan) -> Result<(Fresh, Reason, Option<Pursuit>), ChannelError> {
        let failed = |source: ConnectFailure| ChannelError::Connect {
            peer: self.target.node_id.clone(),
            source: Arc::new(source),
        };
        match plan {
            Plan::Http3 => Ok((self.http3().await.map_err(failed)?, Reason::Negotiated, None)),
            Plan::Http2 { reason, then_http3 } => {
                let first = match self.http2().await {
                    Ok(fresh) => {
                        let back = (reason == Reason::RememberedBroken).then_some(Pursuit::Later);
                        return Ok((fresh, reason, back));
                    }
                    Err(first) => first,
                };
                if !then_http3 || matches!(first, ConnectFailure::Refused { .. }) {
                    return Err(failed(first));
                }
                match self.http3().await {
                    Ok(fresh) => Ok((fresh, Reason::Negotiated, None)),
                    Err(_) => Err(failed(first)),
                }
            }
            Plan::Race => match race(self.http3(), || self.http2(), self.config.head_start).await {
                Raced::First(fresh) => Ok((fresh, Reason::Negotiated, None)),
                Raced::Second { won, first: Ok(http3) } => {
                    Ok((won, Reason::RaceLost, Some(Pursuit::UnderWay(http3))))
                }
                Raced::Second { won, first: Err(ConnectFailure::Unsupported { .. }) } => {
                    Ok((won, Reason::PeerCapability, None))
                }
                Raced::Second { won, first: Err(_) } => {
                    Ok((won, Reason::RememberedBroken, Some(Pursuit::Failed)))
                }
                // Of two failures the one about identity says more.
                Raced::Neither { first: first @ ConnectFailure::Refused { .. }, .. } => Err(failed(first)),
                Raced::Neither { second, .. } => Err(failed(second)),
            },
        }
    }

    fn http3(&self) -> Attempt {
        let (connector, target) = (self.connector.clone(), self.target.clone());
        Box::pin(async move {
            let connected = connector.connect_h3(&target).await?;
            let (http3, driver) = h3::Http3::start(connected).await.map_err(|source| {
                let (peer, transport) = (target.node_id, Transport::Http3);
                ConnectFailure::Unreachable { peer, transport, source }
            })?;
            Ok(Fresh::Http3(http3, Box::new(driver)))
        })
    }

    fn http2(&self) -> Attempt {
        let (connector, target) = (self.connector.clone(), self.target.clone());
        Box::pin(async move {
            let connected = connector.connect_h2(&target).await?;
            let (http2, driver) = h2::Http2::start(connected).await.map_err(|source| {
                let (peer, transport) = (target.node_id, Transport::Http2);
                ConnectFailure::Unreachable { peer, transport, source }
            })?;
            Ok(Fresh::Http2(http2, driver))
        })
    }

    /// Makes a connection the current one. The one before takes no more requests; those
    /// at work on it go on, and the last of them closes it.
    fn take_up(self: &Arc<Self>, memory: &mut Memory, fresh: Fresh, reason: Reason) -> Arc<Live> {
        memory.serials += 1;
        memory.failed = None;
        let live = Live::start(fresh, reason, memory.serials, self);
        self.metrics.switch(live.transport());
        tracing::info!(
            peer_id = %self.target.node_id, lane = %self.lane, transport = %live.transport(), %reason,
            "channel connected"
        );
        if let Some(old) = self.live.swap(Some(live.clone())) {
            old.retire();
        }
        live
    }

    /// Connection `serial` is gone. `blocked` tells that HTTP/3 packets did not come
    /// through, rather than that somebody closed it.
    pub(super) fn on_ended(self: &Arc<Self>, serial: u64, blocked: bool) {
        let mut memory = self.memory();
        if self.live.load().as_ref().is_some_and(|live| live.serial == serial) {
            self.live.store(None);
            if blocked {
                memory.http3.mark(SystemClock.now());
            }
        }
    }

    /// A request got its response over HTTP/3. A handshake alone proves nothing: a path
    /// may carry those and no more.
    pub(super) fn on_http3_proven(&self) {
        self.memory().http3.clear();
    }

    /// Connection `serial` is old: replaces it, and keeps it until the new one is there.
    pub(super) fn refresh(self: &Arc<Self>, serial: u64) {
        let mut memory = self.memory();
        if self.live.load().as_ref().is_some_and(|live| live.serial == serial) {
            drop(self.dialing(&mut memory));
        }
    }

    /// Tries HTTP/3 in the background until it works.
    fn pursue(self: &Arc<Self>, memory: &mut Memory, pursuit: Pursuit) {
        if let Pursuit::Failed = pursuit {
            memory.http3.mark(SystemClock.now());
        }
        if memory.pursuing {
            return;
        }
        memory.pursuing = true;
        let attempt = match pursuit {
            Pursuit::UnderWay(attempt) => Some(attempt),
            Pursuit::Failed | Pursuit::Later => None,
        };
        tokio::spawn(pursue(Arc::downgrade(self), self.alive.subscribe(), attempt));
    }
}

/// How the way back to HTTP/3 starts.
enum Pursuit {
    /// With the attempt that lost the race.
    UnderWay(Attempt),
    /// With a pause: the attempt failed.
    Failed,
    /// With what is left of the pause.
    Later,
}

/// Tries HTTP/3 after each pause until it works, or the channel is gone.
async fn pursue(owner: Weak<Inner>, mut alive: watch::Receiver<()>, mut attempt: Option<Attempt>) {
    loop {
        let pause = {
            let Some(channel) = owner.upgrade() else { return };
            channel.memory().http3.remaining(SystemClock.now()).unwrap_or_default()
        };
        let pause = if attempt.is_some() { Duration::ZERO } else { pause };
        let connecting = async {
            tokio::time::sleep(pause).await;
            let (attempt, limit) = match (attempt.take(), owner.upgrade()) {
                (_, None) => return None,
                (Some(attempt), Some(channel)) => (attempt, channel.config.connect_timeout),
                (None, Some(channel)) => (channel.http3(), channel.config.connect_timeout),
            };
            Some(tokio::time::timeout(limit, attempt).await)
        };
        let outcome = tokio::select! {
            outcome = connecting => outcome,
            // Only fails, when the channel is dropped: nothing is ever sent.
            _ = alive.changed() => return,
        };
        let (Some(outcome), Some(channel)) = (outcome, owner.upgrade()) else { return };
        let mut memory = channel.memory();
        match outcome {
            Ok(Ok(fresh)) => {
                memory.pursuing = false;
                let current = channel.live.load_full();
                // Requests may have found HTTP/3 by themselves meanwhile.
                let found =
                    current.is_some_and(|live| live.is_usable() && live.transport() == Transport::Http3);
                if !found {
                    channel.take_up(&mut memory, fresh, Reason::Negotiated);
                }
                return;
            }
            Ok(Err(_)) | Err(_) => memory.http3.mark(SystemClock.now()),
        }
    }
}

impl Inner {
    /// Takes a place among the requests at work.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Slot, ChannelError> {
        let limit = self.config.requests_in_flight_max;
        let slot = Slot(self.clone());
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(ChannelError::Overloaded { peer: self.target.node_id.clone(), limit });
        }
        Ok(slot)
    }
}

/// A place among the requests at work. Keeps the channel alive.
pub(super) struct Slot(pub(super) Arc<Inner>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl super::Channel {
    pub(crate) fn is_http3_broken(&self) -> bool {
        self.inner.memory().http3.remaining(SystemClock.now()).is_some()
    }
}
