//! The edge port: HTTP/1.1 and HTTP/2 over mutual TLS on TCP, and HTTP/3 on UDP where that is on.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use mesh_core::{BoxError, PeerIdentity, Validated};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    identity::{Identity, TrustEpoch},
    tls::PeerRole,
};

use super::{
    EdgeConfig, EdgeMetrics,
    handshakes::{Handshakes, Slot},
    metrics::Refused,
    quic,
    supervise::{Caller, Connection},
    watched::{InFlight, WriteTimeout},
};

/// The protocols to offer, for the TLS configuration.
pub const EDGE_ALPNS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Attempts to find a port that is free for both TCP and UDP.
const BIND_ATTEMPTS: usize = 64;
/// Pause after the system refused to accept: out of file descriptors, mostly.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Sources whose refusals are told apart in the log.
const LOG_SOURCES_MAX: usize = 1024;

/// Why the edge port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on transport.edge.bind ({address}, {protocol}): free the port or choose another")]
    Bind {
        /// `tcp`, or `udp` for HTTP/3.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

type Identify = dyn Fn(&[CertificateDer<'static>]) -> Result<Arc<PeerIdentity>, BoxError> + Send + Sync;

/// How the edge port knows its callers.
pub struct EdgeTls {
    pub(super) server_config: Box<dyn Fn() -> Arc<ServerConfig> + Send + Sync>,
    pub(super) identify: Box<Identify>,
    pub(super) trust_changed: watch::Receiver<TrustEpoch>,
}

impl EdgeTls {
    /// * `server_config` is asked for each connection, so that a new certificate is
    ///   used at once. It must require client certificates and offer [`EDGE_ALPNS`]; for
    ///   HTTP/3 a copy of it offers `h3` instead.
    /// * `identify` verifies a client's chain and reads its identity. It is asked
    ///   after each handshake, resumed ones too (TLS does not verify those again),
    ///   whenever `trust_changed` moves, and once a minute. An error ends the connection.
    /// * `trust_changed` moves when roots, revocations or denials changed.
    pub fn new(
        server_config: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
        identify: impl Fn(&[CertificateDer<'static>]) -> Result<Arc<PeerIdentity>, BoxError>
        + Send
        + Sync
        + 'static,
        trust_changed: watch::Receiver<TrustEpoch>,
    ) -> Self {
        Self { server_config: Box::new(server_config), identify: Box::new(identify), trust_changed }
    }

    /// As a node's identity says: its certificate, and callers of its trust domain and cluster.
    pub fn of_identity(identity: &Identity) -> Self {
        let trust_changed = identity.subscribe();
        let (serving, checking) = (identity.clone(), identity.clone());
        Self::new(
            move || serving.server_config(&EDGE_ALPNS),
            move |certificates| Ok(checking.recheck(certificates, PeerRole::Client)?),
            trust_changed,
        )
    }
}

/// The version of HTTP that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

/// What a handler may know of its connection. Found in the request's extensions,
/// beside the caller as `Arc<PeerIdentity>`.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The caller's address.
    pub remote: SocketAddr,
    /// The negotiated protocol.
    pub version: HttpVersion,
    /// Turns true when the connection is to close; long answers end themselves then.
    pub draining: watch::Receiver<bool>,
}

/// The open edge port. Dropping it closes everything at once.
pub struct EdgeServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
}

impl EdgeServer {
    /// Opens the port and serves `router` on it, which should come out of
    /// [`stack`](super::stack). With `transport.edge.http3` the UDP port of the same number
    /// serves it over HTTP/3, and answers on TCP say so (`alt-svc`).
    ///
    /// Unauthenticated callers never reach the router: their TLS handshake fails.
    ///
    /// # Errors
    ///
    /// [`EdgeError::Bind`].
    pub async fn bind(
        config: &Validated<EdgeConfig>,
        tls: EdgeTls,
        router: Router,
        metrics: EdgeMetrics,
    ) -> Result<Self, EdgeError> {
        let sockets = Sockets::bind(config.bind, config.http3).await?;
        let local_addr = sockets.local_addr;
        let (stop, stopped) = watch::channel(false);
        let port = Arc::new(Port {
            tls,
            router,
            metrics,
            stopped,
            places: Arc::new(Semaphore::new(config.connections_max)),
            handshakes: Handshakes::new(config.handshakes_max, config.handshakes_per_address_max),
            alt_svc: config.http3.then(|| alt_svc(local_addr.port())),
            config: (**config).clone(),
            logged: Mutex::default(),
        });
        let accepting = vec![tokio::spawn(port.clone().accept(sockets.tcp))];
        // Closed again if the second half fails.
        let mut server = Self { local_addr, stop, accepting };
        if let Some(udp) = sockets.udp {
            let failed = |source| EdgeError::Bind { protocol: "udp", address: local_addr, source };
            server.accepting.push(quic::spawn(port, udp).map_err(failed)?);
        }
        tracing::info!(%local_addr, http3 = config.http3, "edge port open");
        Ok(server)
    }

    /// The address it listens on, with the port that the system chose if it was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes the port in good order: no new connections, GOAWAY or `connection:
    /// close` on the open ones, `end` events on streams. What is still under way after
    /// `transport.edge.drain_timeout` is cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts what is under way.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        for accepting in &mut self.accepting {
            // Only a panic of ours could be reported here, and the panic hook did so already.
            let _ = accepting.await;
        }
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

/// How long callers may remember that the port serves HTTP/3, in seconds.
const ALT_SVC_S: u32 = 3600;

/// Tells callers on TCP that the same port number serves HTTP/3 (RFC 7838).
fn alt_svc(port: u16) -> HeaderValue {
    let text = format!("h3=\":{port}\"; ma={ALT_SVC_S}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("clear"))
}

struct Sockets {
    tcp: TcpListener,
    udp: Option<UdpSocket>,
    local_addr: SocketAddr,
}

impl Sockets {
    /// Both on the same port. With port 0 the system picks one for TCP, whose UDP twin may be
    /// taken by somebody else: then another one is tried.
    async fn bind(address: SocketAddr, http3: bool) -> Result<Self, EdgeError> {
        let failed = |protocol| move |source| EdgeError::Bind { protocol, address, source };
        let mut attempts_left = BIND_ATTEMPTS;
        loop {
            let tcp = TcpListener::bind(address).await.map_err(failed("tcp"))?;
            let local_addr = tcp.local_addr().map_err(failed("tcp"))?;
            attempts_left -= 1;
            let again = |error: &io::Error| {
                address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && attempts_left > 0
            };
            match http3.then(|| quic::bind(local_addr)).transpose() {
                Ok(udp) => return Ok(Self { tcp, udp, local_addr }),
                Err(error) if again(&error) => {}
                Err(error) => return Err(failed("udp")(error)),
            }
        }
    }
}

/// What both halves of the port share.
pub(super) struct Port {
    pub(super) config: EdgeConfig,
    pub(super) tls: EdgeTls,
    pub(super) router: Router,
    pub(super) metrics: EdgeMetrics,
    pub(super) stopped: watch::Receiver<bool>,
    /// One permit for each connection that may be open, its handshake included.
    pub(super) places: Arc<Semaphore>,
    pub(super) handshakes: Arc<Handshakes>,
    alt_svc: Option<HeaderValue>,
    /// When a refusal of a source was last logged.
    logged: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl Port {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut stopped = self.stopped.clone();
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the edge port can't accept");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(place) = self.place(remote) else { continue };
            // Here and not in the task: tasks start in any order, and the newest must not pass for the oldest.
            let slot = self.handshakes.enter(remote.ip());
            connections.spawn(self.clone().connection(stream, remote, slot, place));
        }
        drop(listener);
        self.drain(connections).await;
    }

    /// Room for one more connection, or a refusal.
    pub(super) fn place(&self, remote: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.refuse(remote, Refused::Connections, &"transport.edge.connections_max is reached");
        }
        place
    }

    /// Waits until connections have ended, which have been told to, and cuts the others.
    pub(super) async fn drain(&self, mut connections: JoinSet<()>) {
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(self.config.drain_timeout, drained).await;
        connections.shutdown().await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        slot: Slot,
        _place: OwnedSemaphorePermit,
    ) {
        let Some((stream, peer, version)) = self.handshake(stream, remote, slot).await else { return };
        let _open = self.open();
        self.serve(stream, remote, peer, version).await;
    }

    /// Counts a connection until this is dropped, also when its task is cut.
    pub(super) fn open(&self) -> impl Drop + use<> {
        let gauge = self.metrics.connections.clone();
        gauge.inc();
        OnDrop(move || {
            gauge.dec();
        })
    }

    /// TLS, and who the caller is. `None` if it was refused, which is counted and logged.
    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        mut slot: Slot,
    ) -> Option<(TlsStream<TcpStream>, Arc<PeerIdentity>, HttpVersion)> {
        // Small answers go out at once; without it each waits for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from((self.tls.server_config)());
        let stream = self.in_time(remote, &mut slot, acceptor.accept(stream)).await?;
        let session = stream.get_ref().1;
        let version = match session.alpn_protocol() {
            Some(b"h2") => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        };
        let peer = self.identify(remote, session.peer_certificates().unwrap_or_default())?;
        Some((stream, peer, version))
    }

    /// The outcome of a handshake, unless it takes too long or has to give way.
    pub(super) async fn in_time<T, E: std::fmt::Display>(
        &self,
        remote: SocketAddr,
        slot: &mut Slot,
        handshake: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        let ended = tokio::select! {
            ended = timeout(self.config.handshake_timeout, handshake) => ended,
            () = slot.displaced() => {
                self.refuse(remote, Refused::Handshakes, &"too many handshakes are under way; the oldest gave way");
                return None;
            }
        };
        match ended {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => self.refuse(remote, Refused::Tls, &error),
            Err(_) => self.refuse(remote, Refused::Timeout, &"the TLS handshake took too long"),
        }
        None
    }

    /// Who the caller is. `None` if it was refused.
    pub(super) fn identify(
        &self,
        remote: SocketAddr,
        certificates: &[CertificateDer<'static>],
    ) -> Option<Arc<PeerIdentity>> {
        let peer = (self.tls.identify)(certificates);
        peer.map_err(|error| self.refuse(remote, Refused::Identity, &error)).ok()
    }

    async fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        remote: SocketAddr,
        peer: Arc<PeerIdentity>,
        version: HttpVersion,
    ) {
        let certificates: Vec<CertificateDer<'static>> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let (drain, mut draining) = watch::channel(false);
        let (in_flight, under_way) = InFlight::new();
        let info = ConnectionInfo { remote, version, draining: draining.clone() };
        let caller = Caller { router: self.router.clone(), peer: peer.clone(), info, in_flight };
        let alt_svc = self.alt_svc.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (answer, alt_svc) = (caller.ask(request.map(Body::new)), alt_svc.clone());
            async move {
                let mut response = answer.await;
                if let Some(alt_svc) = alt_svc {
                    response.headers_mut().insert(header::ALT_SVC, alt_svc);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let builder = self.http(version);
        let io = TokioIo::new(WriteTimeout::new(stream, self.config.write_timeout));
        let connection = builder.serve_connection(io, service);
        let conversation = async move {
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return ended,
                _ = draining.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        self.supervise(Connection { remote, peer, certificates, drain, under_way }, conversation).await;
    }

    fn http(&self, version: HttpVersion) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder = match version {
            HttpVersion::Http1 => builder.http1_only(),
            HttpVersion::Http2 | HttpVersion::Http3 => builder.http2_only(),
        };
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(self.config.header_bytes_max);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.config.streams_max)
            .max_header_list_size(u32::try_from(self.config.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(self.config.idle_timeout / 4)
            .keep_alive_timeout(self.config.header_timeout);
        builder
    }

    /// Counts a refusal, and logs it at most once a second for each source.
    pub(super) fn refuse(&self, remote: SocketAddr, reason: Refused, error: &dyn std::fmt::Display) {
        self.metrics.refuse(reason);
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= LOG_SOURCES_MAX {
            logged.retain(|_, at| now.duration_since(*at) < Duration::from_secs(1));
        }
        let recent = |at: &Instant| now.duration_since(*at) < Duration::from_secs(1);
        if logged.get(&remote.ip()).is_some_and(recent) || logged.len() >= LOG_SOURCES_MAX {
            return;
        }
        logged.insert(remote.ip(), now);
        drop(logged);
        tracing::warn!(%remote, reason = reason.as_str(), %error, "edge connection refused");
    }
}

/// Runs when it goes out of scope, also when its task is cut.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
