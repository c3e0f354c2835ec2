//! One port number for everything between nodes: QUIC on UDP, TLS on TCP.
//!
//! The application protocol agreed in the handshake (ALPN) says who gets a
//! connection: `mesh-gossip/1` goes to [`Links`](crate::links::Links), `h3` and
//! `h2` to whoever took [`Endpoint::rpc_incoming`]. Whatever arrives there has a
//! verified peer and is closed within milliseconds when that peer is revoked.

mod accept;
mod connection;
mod dial;
mod registry;
mod runtime;
mod secret;
mod stray;
#[cfg(all(test, feature = "ca"))]
mod tests;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh_core::Validated;
use quinn::{VarInt, crypto::rustls::QuicServerConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tracing::info;

pub use connection::{MeshStream, QuicConnection};
pub use runtime::Load;
pub use secret::NodeSecret;

pub(crate) use dial::quic_error;
#[cfg(all(feature = "edge", feature = "rpc"))]
pub(crate) use registry::quic_certificates;
#[cfg(all(feature = "edge", feature = "rpc"))]
pub(crate) use runtime::LoadedRuntime;
pub(crate) use stray::watched_socket;

use crate::{
    config::TransportConfig, error::TransportError, identity::Identity, metrics::TransportMetrics, tls::alpn,
};
use accept::Refusals;
use registry::Registry;
#[cfg(not(all(feature = "edge", feature = "rpc")))]
use runtime::LoadedRuntime;

/// Codes with which connections are closed, the same for every application protocol.
pub mod close {
    use quinn::VarInt;

    /// In good order.
    pub const DONE: VarInt = VarInt::from_u32(0);
    /// The endpoint shuts down.
    pub const SHUTDOWN: VarInt = VarInt::from_u32(0x101);
    /// The peer's certificate is no longer accepted.
    pub const REVOKED: VarInt = VarInt::from_u32(0x102);
    /// Another link to the same peer took its place.
    pub const SUPERSEDED: VarInt = VarInt::from_u32(0x103);
    /// The peer broke the protocol.
    pub const PROTOCOL: VarInt = VarInt::from_u32(0x104);
    /// A limit is reached.
    pub const LIMIT: VarInt = VarInt::from_u32(0x105);
}

/// A verified incoming connection for RPC.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// ALPN `h3`, handshake complete.
    Quic(QuicConnection),
    /// ALPN `h2`, handshake complete.
    Tcp(Box<MeshStream>),
}

/// Incoming connections that wait for their taker. Full: they are closed and counted.
const INCOMING_QUEUE: usize = 128;
/// Attempts to find a port that is free for both UDP and TCP.
const BIND_ATTEMPTS: usize = 64;
/// How often certificates of live connections are looked at for expiry.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// The node's port. Clones share it; dropping the last one closes it.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Validated<TransportConfig>,
    pub(crate) identity: Identity,
    pub(crate) metrics: TransportMetrics,
    pub(crate) registry: Arc<Registry>,
    local: SocketAddr,
    quic: Option<quinn::Endpoint>,
    refusals: Arc<Refusals>,
    load: Load,
    takers: Mutex<Takers>,
    /// TLS and QUIC settings for the protocols that have a taker.
    serving: ArcSwap<Serving>,
    half_open_quic: AtomicUsize,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Takers {
    gossip: Option<mpsc::Sender<Incoming>>,
    rpc: Option<mpsc::Sender<Incoming>>,
}

/// What is offered to callers right now.
struct Serving {
    tcp: Arc<rustls::ServerConfig>,
    quic: Arc<quinn::ServerConfig>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?} at {})", self.0.identity, self.0.local)
    }
}

impl Endpoint {
    /// Opens the port and starts accepting.
    ///
    /// `secret` makes a restart noticeable to peers at once; `None` derives it from the private
    /// key of the identity's first certificate, so that it lasts until that key is replaced.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] if the address is taken or not ours.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn bind(
        config: Validated<TransportConfig>,
        identity: Identity,
        secret: Option<NodeSecret>,
    ) -> Result<Self, TransportError> {
        let secret = secret.unwrap_or_else(|| NodeSecret::from_bytes(identity.derived_secret()));
        let (udp, tcp, local) = bind_both(&config)?;
        let serving = Serving::new(&identity, &config, &[]);
        let refusals = Arc::new(Refusals::new(identity.metrics().clone()));
        let load = Load::default();
        let quic = udp
            .map(|socket| {
                let strays = Arc::clone(&refusals);
                let socket =
                    watched_socket(socket, &secret, move |remote, stray| strays.stray(remote, stray))?;
                quinn::Endpoint::new_with_abstract_socket(
                    secret.endpoint_config(),
                    Some((*serving.quic).clone()),
                    socket,
                    Arc::new(LoadedRuntime(load.clone())),
                )
            })
            .transpose()
            .map_err(|source| TransportError::Bind { protocol: "udp", address: local, source })?;
        let listener = TcpListener::from_std(tcp).map_err(|source| TransportError::Bind {
            protocol: "tcp",
            address: local,
            source,
        })?;
        let metrics = identity.metrics().clone();
        info!(node_id = %identity.node_id(), address = %local, quic = quic.is_some(), "transport is listening");
        let (closed, _) = watch::channel(false);
        let inner = Arc::new(Inner {
            config,
            identity,
            metrics,
            registry: Arc::default(),
            local,
            quic,
            refusals,
            load,
            takers: Mutex::default(),
            serving: ArcSwap::from_pointee(serving),
            half_open_quic: AtomicUsize::new(0),
            closed,
        });
        accept::spawn(&inner, listener);
        spawn_sweeper(&inner);
        Ok(Self(inner))
    }

    /// The address of the port; with the real port number if 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.0.local
    }

    /// Who we are, and whom we trust.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The settings.
    pub fn config(&self) -> &Validated<TransportConfig> {
        &self.0.config
    }

    /// The metrics that connections are counted in.
    pub fn metrics(&self) -> &TransportMetrics {
        &self.0.metrics
    }

    /// Connections that are open, both directions and all protocols.
    pub fn connections(&self) -> usize {
        self.0.registry.len()
    }

    /// Incoming connections for RPC, from now on. `h3` and `h2` are offered to callers from this call on.
    ///
    /// The queue is bounded (128): connections beyond it are closed. `None` if it was taken before.
    pub fn rpc_incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.take(|takers| &mut takers.rpc)
    }

    /// Incoming connections for gossip links, likewise.
    pub(crate) fn gossip_incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.take(|takers| &mut takers.gossip)
    }

    fn take(
        &self,
        slot: impl FnOnce(&mut Takers) -> &mut Option<mpsc::Sender<Incoming>>,
    ) -> Option<mpsc::Receiver<Incoming>> {
        let mut takers = self.0.takers.lock().expect("no panic while held");
        let slot = slot(&mut takers);
        if slot.is_some() {
            return None;
        }
        let (sender, receiver) = mpsc::channel(INCOMING_QUEUE);
        *slot = Some(sender);
        let mut protocols = Vec::new();
        if takers.gossip.is_some() {
            protocols.push(alpn::GOSSIP);
        }
        if takers.rpc.is_some() {
            protocols.extend([alpn::H3, alpn::H2]);
        }
        let serving = Serving::new(&self.0.identity, &self.0.config, &protocols);
        self.0.serving.store(Arc::new(serving));
        Some(receiver)
    }

    /// Closes every connection and the port. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Waits until peers have been told of [`close`](Self::close), or the connections' timeouts ended.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub async fn wait_idle(&self) {
        if let Some(quic) = &self.0.quic {
            quic.wait_idle().await;
        }
    }
}

impl Inner {
    fn close(&self) {
        self.closed.send_replace(true);
        if let Some(quic) = &self.quic {
            quic.close(close::SHUTDOWN, b"shutting down");
        }
        let mut takers = self.takers.lock().expect("no panic while held");
        // An ended channel tells the takers.
        *takers = Takers::default();
    }

    /// Completes when the endpoint is closed.
    fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closed = self.closed.subscribe();
        async move {
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Serving {
    fn new(identity: &Identity, config: &TransportConfig, protocols: &[&'static [u8]]) -> Self {
        let without = |excluded: &[u8]| -> Vec<&'static [u8]> {
            let kept: Vec<_> = protocols.iter().copied().filter(|p| *p != excluded).collect();
            // An empty list would mean "any protocol" to TLS.
            if kept.is_empty() { vec![b"none"] } else { kept }
        };
        let crypto = QuicServerConfig::try_from(identity.server_config(&without(alpn::H2)))
            .expect("the provider has the suite that QUIC starts with");
        let mut quic = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        quic.transport_config(Arc::new(server_transport(config)));
        quic.max_incoming(config.limits.handshakes_max.max(1));
        // Packets that arrive while a handshake waits to be accepted; each at most this much.
        quic.incoming_buffer_size(16 * 1024);
        quic.incoming_buffer_size_total(8 * 1024 * 1024);
        Self { tcp: identity.server_config(&without(alpn::H3)), quic: Arc::new(quic) }
    }
}

/// Small windows and few streams: hundreds of gossip links should cost little. Whoever serves
/// RPC raises them on its connections (`set_max_concurrent_bi_streams`, `set_receive_window`).
fn server_transport(config: &TransportConfig) -> quinn::TransportConfig {
    let mut transport = gossip_transport(config);
    // The application protocol is not known before the handshake, and HTTP/3 wants large packets.
    transport.mtu_discovery_config(Some(quinn::MtuDiscoveryConfig::default()));
    transport
}

/// QUIC settings of outgoing gossip links.
pub(crate) fn gossip_transport(config: &TransportConfig) -> quinn::TransportConfig {
    let links = &config.links;
    let mut transport = quinn::TransportConfig::default();
    let idle = VarInt::from_u64(u64::try_from(links.idle_timeout.as_millis()).unwrap_or(u64::MAX));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(2 * 1024 * 1024))
        .send_window(2 * 1024 * 1024)
        .datagram_receive_buffer_size(Some(256 * 1024))
        .datagram_send_buffer_size(128 * 1024)
        // A lost first packet is sent again after about three of these, well inside the connect timeout.
        .initial_rtt(Duration::from_millis(60))
        .keep_alive_interval(Some(links.idle_timeout / 3))
        .max_idle_timeout(idle.ok().map(quinn::IdleTimeout::from))
        .mtu_discovery_config(None);
    transport
}

/// Both sockets on the same port. With port 0 the system picks one for TCP, whose UDP twin may be
/// taken by somebody else: then another one is tried.
fn bind_both(
    config: &TransportConfig,
) -> Result<(Option<UdpSocket>, StdTcpListener, SocketAddr), TransportError> {
    let wanted = config.bind;
    let mut last = None;
    for _ in 0..BIND_ATTEMPTS {
        let tcp = bind_tcp(wanted).map_err(|source| TransportError::Bind {
            protocol: "tcp",
            address: wanted,
            source,
        })?;
        let local = tcp.local_addr().map_err(|source| TransportError::Bind {
            protocol: "tcp",
            address: wanted,
            source,
        })?;
        if !config.http3.enabled {
            return Ok((None, tcp, local));
        }
        match bind_udp(local, config.http3.socket_buffer_bytes) {
            Ok(udp) => return Ok((Some(udp), tcp, local)),
            Err(source) if wanted.port() == 0 && source.kind() == io::ErrorKind::AddrInUse => {
                last = Some(source)
            }
            Err(source) => return Err(TransportError::Bind { protocol: "udp", address: local, source }),
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(TransportError::Bind { protocol: "udp", address: wanted, source })
}

fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    both_families(&socket, address)?;
    // A restarted node must get its port back while old connections are in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

pub(crate) fn bind_udp(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    both_families(&socket, address)?;
    // The system grants what its own limit (net.core.rmem_max on Linux) allows; less is no error.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// `[::]` serves IPv4 too.
fn both_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    Ok(())
}

/// Closes connections when trust changes, and when a peer's certificate runs out.
fn spawn_sweeper(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let mut trust = inner.identity.subscribe();
    let closing = inner.closing();
    tokio::spawn(async move {
        tokio::pin!(closing);
        loop {
            let changed = tokio::select! {
                () = &mut closing => return,
                changed = trust.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    true
                }
                () = tokio::time::sleep(EXPIRY_INTERVAL) => false,
            };
            let Some(inner) = weak.upgrade() else { return };
            let closed = if changed {
                inner.registry.sweep(&inner.identity)
            } else {
                inner.registry.sweep_expired(inner.identity.now().as_secs())
            };
            for peer_id in closed {
                info!(%peer_id, expired = !changed, "closed the connections of a peer that is no longer accepted");
            }
        }
    });
}

/// Counts one while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
