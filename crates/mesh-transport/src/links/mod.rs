//! Gossip links: [`mesh_core::Datagrams`] over the node's port.
//!
//! A link is a QUIC connection of its own (ALPN `mesh-gossip/1`). Payloads up to
//! 1100 bytes are QUIC datagrams, larger ones take a stream of the same
//! connection, whole or not at all. Where UDP is dropped, the link runs over
//! HTTP/2 instead, tries QUIC again in the background and moves back.
//!
//! # What `connect` does
//!
//! * Without a link it dials: QUIC at once, and TCP a quarter of the head start later. If TCP is
//!   refused and QUIC stays silent for the head start, the outcome is `Refused`. If QUIC is silent
//!   for the head start and TCP answers, the link comes up over HTTP/2.
//! * With a link it checks: the link is pinged, and `LinkUp` is repeated once the peer answers. If it
//!   stays silent for the head start, a fresh attempt runs beside the pings, and whatever succeeds
//!   first becomes the link: QUIC (`LinkUp` repeated) or HTTP/2 (`LinkDown` with reason
//!   `udp-blocked`, then `LinkUp`). If the address refuses, the link is given up (`LinkDown` with
//!   reason `failed`) and the outcome is `Refused`. A peer that is merely stalled gives `Timeout`,
//!   and its link stays.
//! * Calls for the same target while an attempt is under way share it; each is answered. A link that
//!   the peer opened in the meantime answers one of them.

mod dial;
mod events;
mod http2;
mod link;
mod quic;
mod table;
#[cfg(all(test, feature = "ca"))]
mod tests;
pub(crate) mod wire;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    ConnectError, DatagramError, DatagramEvent, Datagrams, LinkDownReason, LinkPath, LinkTarget, NodeId,
    PAYLOAD_BYTES_MAX, PeerIdentity, Validated,
};
use tokio::runtime::Handle;
use tracing::debug;

use crate::{
    config::LinksConfig,
    endpoint::{Endpoint, Incoming, close},
    error::TransportError,
    metrics::LinkCounters,
    quiet::Quiet,
};
use events::Events;
use link::{Link, NotSent};
use table::{Decision, Table};
use wire::{Hello, LinkId, Verdict, Welcome};

/// How long a dialer waits for our own attempt that has not reached it yet.
const BRIEF_WAIT: Duration = Duration::from_millis(150);
/// How long a replaced link stays open for what is under way on it.
const LINGER: Duration = Duration::from_secs(1);

/// Gossip links over an [`Endpoint`]. Dropping it closes them.
///
/// Needs a tokio runtime; `connect`, `disconnect` and `send` may be called from any thread.
pub struct Links(Arc<Inner>);

pub(crate) struct Inner {
    endpoint: Endpoint,
    us: NodeId,
    config: LinksConfig,
    /// The run of this process.
    instance: u64,
    table: Mutex<Table>,
    events: Events,
    counters: LinkCounters,
    quiet: Quiet<SocketAddr>,
    runtime: Handle,
    transport: Arc<quinn::TransportConfig>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({} with {} up)", self.0.us, self.len())
    }
}

impl Links {
    /// Serves and dials gossip links on this endpoint.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`] if another `Links` took the endpoint's gossip links before.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(endpoint: Endpoint) -> Result<Self, TransportError> {
        let mut incoming = endpoint.gossip_incoming().ok_or(TransportError::Closed)?;
        let config: &Validated<_> = endpoint.config();
        let inner = Arc::new(Inner {
            us: endpoint.identity().node_id(),
            config: config.links.clone(),
            instance: random_id(),
            table: Mutex::default(),
            events: Events::new(),
            counters: endpoint.metrics().link_counters(),
            quiet: Quiet::default(),
            runtime: Handle::current(),
            transport: Arc::new(crate::endpoint::gossip_transport(config)),
            endpoint,
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            while let Some(connection) = incoming.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                match connection {
                    Incoming::Quic(connection) => tokio::spawn(quic::serve(inner, connection)),
                    Incoming::Tcp(stream) => tokio::spawn(http2::serve(inner, *stream)),
                };
            }
            if let Some(inner) = weak.upgrade() {
                inner.close();
            }
        });
        Ok(Self(inner))
    }

    /// The address at which others reach us.
    pub fn local_address(&self) -> SocketAddr {
        self.0.endpoint.local_address()
    }

    /// The endpoint below.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Links that are up.
    pub fn len(&self) -> usize {
        self.0.table().links
    }

    /// Whether no link is up.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the link to a peer runs over, if there is one.
    pub fn path(&self, peer: &NodeId) -> Option<LinkPath> {
        self.0.table().current(peer).map(|link| link.path())
    }

    /// The measured round trip to a peer, if there is a QUIC link to it.
    pub fn rtt(&self, peer: &NodeId) -> Option<Duration> {
        let link = Arc::clone(self.0.table().current(peer)?);
        match &link.carrier {
            link::Carrier::Quic(connection) => Some(connection.connection().rtt()),
            link::Carrier::Http2 { .. } => None,
        }
    }

    /// Closes every link, without events, and ends [`recv`](Datagrams::recv) once its queue is empty.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Datagrams for Links {
    fn connect(&self, target: LinkTarget) {
        dial::start(&self.0, target);
    }

    fn disconnect(&self, peer: &NodeId) {
        let Some(link) = self.0.table().current(peer).cloned() else { return };
        self.0.ended(&link, LinkDownReason::Local);
        link.close(close::DONE);
    }

    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError> {
        let inner = &self.0;
        let bytes = payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(DatagramError::TooLarge { bytes, bytes_max: PAYLOAD_BYTES_MAX });
        }
        if inner.events.is_closed() {
            return Err(DatagramError::Closed);
        }
        let link = inner.table().current(to).cloned();
        let link = link.ok_or_else(|| DatagramError::NotConnected { peer: to.clone() })?;
        match link.send(payload, &inner.runtime) {
            Ok(()) => {
                inner.counters.sent.inc();
                inner.counters.sent_bytes.inc_by(bytes as u64);
                Ok(())
            }
            // Until `LinkDown` is out the link counts as up, and a payload may be refused as busy.
            Err(NotSent::Busy | NotSent::Down) => {
                inner.counters.busy.inc();
                Err(DatagramError::Busy { peer: to.clone() })
            }
        }
    }

    fn recv(&self) -> impl Future<Output = Result<DatagramEvent, DatagramError>> + Send {
        self.0.events.recv()
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while held")
    }

    fn close(&self) {
        self.events.close();
        let peers = std::mem::take(&mut *self.table()).peers;
        for link in peers.into_values().filter_map(|peer| peer.current) {
            self.gone(&link);
            link.end();
            link.close(close::SHUTDOWN);
        }
    }

    /// Puts a link in force and tells the user. Returns false if it is too late for that.
    fn install(&self, link: &Arc<Link>) -> bool {
        let mut table = self.table();
        if self.events.is_closed() {
            return false;
        }
        self.install_in(&mut table, link);
        true
    }

    /// Puts a link that we asked for in force, and returns the one that is; `None` if it is too late.
    ///
    /// A link that came in while we asked stays, if its dialer has the lower id: the dialer relies on it.
    fn install_asked(&self, link: &Arc<Link>, replacing: Option<LinkId>) -> Option<Arc<Link>> {
        let mut table = self.table();
        if self.events.is_closed() {
            return None;
        }
        let peer_id = link.peer.node_id();
        if let Some(current) = table.current(peer_id)
            && table::outranks(current, link, &self.us, replacing)
        {
            return Some(Arc::clone(current));
        }
        self.install_in(&mut table, link);
        Some(Arc::clone(link))
    }

    fn install_in(&self, table: &mut Table, link: &Arc<Link>) {
        let peer_id = link.peer.node_id();
        let old = table.peer(peer_id).current.replace(Arc::clone(link));
        self.metrics().link_up(link.path().as_str(), direction(link));
        if let Some(old) = old {
            let reason = table::replaced(&old, link);
            if let Some(reason) = reason {
                self.metrics().link_down(reason.as_str());
                self.events.push(DatagramEvent::LinkDown { peer: peer_id.clone(), reason });
            }
            debug!(%peer_id, path = link.path().as_str(), reason = reason.map(LinkDownReason::as_str), "link moved");
            self.retire(old);
        } else {
            debug!(%peer_id, path = link.path().as_str(), direction = direction(link), "link up");
            table.links += 1;
        }
        self.announce(table, link);
        table.peer(peer_id).changed.notify_waiters();
    }

    /// Leaves a replaced link open for a moment, for what is under way on it.
    fn retire(&self, old: Arc<Link>) {
        self.gone(&old);
        old.end();
        self.runtime.spawn(async move {
            tokio::time::sleep(LINGER).await;
            old.close(close::SUPERSEDED);
        });
    }

    fn gone(&self, link: &Link) {
        self.metrics().link_gone(link.path().as_str(), direction(link));
    }

    /// Sends `LinkUp`.
    fn announce(&self, table: &mut Table, link: &Link) {
        table.announcements += 1;
        link.announced.store(table.announcements, Ordering::Release);
        self.events.push(DatagramEvent::LinkUp {
            peer: Arc::clone(&link.peer),
            remote: link.remote,
            path: link.path(),
            direction: link.direction,
        });
    }

    /// Takes note that a link is over. Only the one in force matters to the user.
    fn ended(&self, link: &Arc<Link>, reason: LinkDownReason) {
        let mut table = self.table();
        let peer = table.peer(link.peer.node_id());
        if !peer.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return;
        }
        peer.current = None;
        peer.ended = link.id;
        peer.changed.notify_waiters();
        table.links -= 1;
        self.gone(link);
        self.metrics().link_down(reason.as_str());
        let peer_id = link.peer.node_id();
        debug!(%peer_id, path = link.path().as_str(), reason = reason.as_str(), "link down");
        self.events.push(DatagramEvent::LinkDown { peer: peer_id.clone(), reason });
        forget_idle_peers(&mut table, self.config.links_max);
        drop(table);
        // After the event, so that whoever wakes up from this finds it in the queue.
        link.end();
    }

    /// Answers a dialer, waiting for our own attempt if there is one.
    async fn judge(&self, from: &PeerIdentity, hello: &Hello) -> Verdict {
        if hello.versions.negotiate("links", wire::VERSIONS).is_err() {
            return Verdict::Version;
        }
        let mut patience = Some(tokio::time::Instant::now() + BRIEF_WAIT);
        loop {
            let changed = {
                let mut table = self.table();
                let decision = table.decide(&self.us, from.node_id(), hello, self.config.links_max);
                match decision {
                    Decision::Accept => return Verdict::Accepted,
                    Decision::WaitBriefly if patience.is_none() => return Verdict::Accepted,
                    Decision::Duplicate(current) => return Verdict::Duplicate(current),
                    Decision::Limit => return Verdict::Limit,
                    Decision::Wait | Decision::WaitBriefly => {}
                }
                // Registered under the lock, so that no change in between is missed.
                let changed = Arc::clone(&table.peer(from.node_id()).changed).notified_owned();
                (Box::pin(changed), decision)
            };
            let (mut changed, decision) = changed;
            changed.as_mut().enable();
            match (decision, patience) {
                (Decision::WaitBriefly, Some(until)) => {
                    if tokio::time::timeout_at(until, changed).await.is_err() {
                        patience = None;
                    }
                }
                _ => changed.await,
            }
        }
    }

    fn welcome(&self, verdict: Verdict) -> Welcome {
        Welcome { versions: wire::VERSIONS, instance: self.instance, verdict }
    }

    /// Delivers a payload as soon as the peer's share of the queue has room.
    async fn deliver(&self, link: &Arc<Link>, payload: Bytes) {
        let bytes = payload.len();
        let entries = link.quota.enter(bytes).await;
        let table = self.table();
        // Nothing of a peer comes after its `LinkDown`.
        if table.current(link.peer.node_id()).is_some() {
            let event = DatagramEvent::Received { from: Arc::clone(&link.peer), payload, path: link.path() };
            self.events.push_payload(event, Arc::clone(&link.quota), entries);
            drop(table);
            self.counters.received.inc();
            self.counters.received_bytes.inc_by(bytes as u64);
        }
    }

    fn metrics(&self) -> &crate::TransportMetrics {
        self.endpoint.metrics()
    }

    fn make(&self, new: link::NewLink) -> Arc<Link> {
        Link::new(new, self.config.queue_max, self.config.large_payloads_max)
    }
}

/// A number that no other link or process has, never zero.
fn random_id() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes).max(1)
}

fn direction(link: &Link) -> &'static str {
    match link.direction {
        mesh_core::Direction::Outbound => "outbound",
        mesh_core::Direction::Inbound => "inbound",
    }
}

/// Peers without a link are remembered for the sake of one number; not for ever.
fn forget_idle_peers(table: &mut Table, keep: usize) {
    if table.peers.len() > 2 * keep {
        table.peers.retain(|_, peer| peer.current.is_some() || peer.asking.is_some());
    }
}

/// The error of an attempt, in the words of the trait.
fn connect_error(error: TransportError) -> ConnectError {
    match error {
        TransportError::Refused { .. } => ConnectError::Refused,
        TransportError::Timeout { .. } => ConnectError::Timeout,
        TransportError::Refusal { refusal, .. } => ConnectError::Identity(refusal.to_string()),
        TransportError::Handshake { problem, identity: true, .. } => ConnectError::Identity(problem),
        TransportError::Limit { limit, .. } => ConnectError::Limit(limit),
        other => ConnectError::Failed(other.to_string()),
    }
}
