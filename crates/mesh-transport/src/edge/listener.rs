//! The edge port: HTTP/1.1 and HTTP/2 over mutual TLS on TCP.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use mesh_core::{BoxError, PeerIdentity, Validated};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::ServiceExt;

use crate::{
    identity::{Identity, TrustEpoch},
    tls::PeerRole,
};

use super::{
    EdgeConfig, EdgeMetrics,
    handshakes::{Handshakes, Slot},
    metrics::Refused,
    watched::{GuardedBody, InFlight, WriteTimeout},
};

/// The protocols to offer, for the TLS configuration.
pub const EDGE_ALPNS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificates are checked again this often, so that expiry ends a connection too.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(365 * 86_400);
/// Pause after the system refused to accept: out of file descriptors, mostly.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Sources whose refusals are told apart in the log.
const LOG_SOURCES_MAX: usize = 1024;

/// Why the edge port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on transport.edge.bind ({address}): free the port or choose another")]
    Bind {
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
    server_config: Box<dyn Fn() -> Arc<ServerConfig> + Send + Sync>,
    identify: Box<Identify>,
    trust_changed: watch::Receiver<TrustEpoch>,
}

impl EdgeTls {
    /// * `server_config` is asked for each connection, so that a new certificate is
    ///   used at once. It must require client certificates and offer [`EDGE_ALPNS`].
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
    accepting: JoinHandle<()>,
}

impl EdgeServer {
    /// Opens the port and serves `router` on it, which should come out of
    /// [`stack`](super::stack).
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
        let address = config.bind;
        let failed = |source| EdgeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let port = Arc::new(Port {
            config: (**config).clone(),
            tls,
            router,
            metrics,
            stopped,
            handshakes: Handshakes::new(config.handshakes_max, config.handshakes_per_address_max),
            logged: Mutex::default(),
        });
        tracing::info!(%local_addr, "edge port open");
        let accepting = tokio::spawn(port.accept(listener));
        Ok(Self { local_addr, stop, accepting })
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
        // Only a panic of ours could be reported here, and the panic hook did so already.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Port {
    config: EdgeConfig,
    tls: EdgeTls,
    router: Router,
    metrics: EdgeMetrics,
    stopped: watch::Receiver<bool>,
    handshakes: Arc<Handshakes>,
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
            if connections.len() >= self.config.connections_max {
                self.refuse(remote, Refused::Connections, &"transport.edge.connections_max is reached");
                continue;
            }
            // Here and not in the task: tasks start in any order, and the newest must not pass for the oldest.
            let slot = self.handshakes.enter(remote.ip());
            connections.spawn(self.clone().connection(stream, remote, slot));
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(self.config.drain_timeout, drained).await;
        connections.shutdown().await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, slot: Slot) {
        let Some((stream, peer, version)) = self.handshake(stream, remote, slot).await else { return };
        self.metrics.connections.inc();
        let _open = OnDrop(|| {
            self.metrics.connections.dec();
        });
        self.serve(stream, remote, peer, version).await;
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
        let accepted = tokio::select! {
            accepted = timeout(self.config.handshake_timeout, acceptor.accept(stream)) => accepted,
            () = slot.displaced() => {
                self.refuse(remote, Refused::Handshakes, &"too many handshakes are under way; the oldest gave way");
                return None;
            }
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.refuse(remote, Refused::Tls, &error);
                return None;
            }
            Err(_) => {
                self.refuse(remote, Refused::Timeout, &"the TLS handshake took too long");
                return None;
            }
        };
        let session = stream.get_ref().1;
        let version = match session.alpn_protocol() {
            Some(b"h2") => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        };
        match (self.tls.identify)(session.peer_certificates().unwrap_or_default()) {
            Ok(peer) => Some((stream, peer, version)),
            Err(error) => {
                self.refuse(remote, Refused::Identity, &error);
                None
            }
        }
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
        let (drain, draining) = watch::channel(false);
        let (in_flight, mut under_way) = InFlight::new();
        let info = ConnectionInfo { remote, version, draining };
        let service = service_fn(|request: Request<Incoming>| {
            let guard = in_flight.enter();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(info.clone());
            let answer = self.router.clone().oneshot(request);
            async move { answer.await.map(|response| response.map(|body| GuardedBody::new(body, guard))) }
        });
        let builder = self.http(version);
        let io = TokioIo::new(WriteTimeout::new(stream, self.config.write_timeout));
        let connection = builder.serve_connection(io, service);
        tokio::pin!(connection);

        let mut trust = self.tls.trust_changed.clone();
        let mut trust_watched = true;
        let mut stopped = self.stopped.clone();
        let started = Instant::now();
        let mut idle_since = Some(started);
        let mut recheck_at = started + RECHECK_INTERVAL;
        // Trust may have moved between the handshake and the clone above.
        let mut verify = true;
        // When what is still under way is cut, once the connection is to close.
        let mut cut_at: Option<Instant> = None;
        loop {
            if verify && let Err(error) = (self.tls.identify)(&certificates) {
                self.refuse(remote, Refused::Revoked, &error);
                return;
            }
            verify = false;
            let close_at = (started + self.config.connection_age_max)
                .min(idle_since.map_or(started + FAR, |since| since + self.config.idle_timeout));
            let close = tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%remote, peer_id = %peer.node_id(), %error, "edge connection failed");
                    }
                    return;
                }
                changed = trust.changed(), if trust_watched => {
                    trust_watched = changed.is_ok();
                    verify = true;
                    false
                }
                () = sleep_until(recheck_at) => {
                    recheck_at = Instant::now() + RECHECK_INTERVAL;
                    verify = true;
                    false
                }
                _ = under_way.changed() => {
                    idle_since = (*under_way.borrow_and_update() == 0).then(Instant::now);
                    false
                }
                () = sleep_until(cut_at.unwrap_or(close_at)) => {
                    if cut_at.is_some() {
                        return;
                    }
                    true
                }
                _ = stopped.wait_for(|stopped| *stopped), if cut_at.is_none() => true,
            };
            if close {
                drain.send_replace(true);
                connection.as_mut().graceful_shutdown();
                cut_at = Some(Instant::now() + self.config.drain_timeout);
            }
        }
    }

    fn http(&self, version: HttpVersion) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder = match version {
            HttpVersion::Http1 => builder.http1_only(),
            HttpVersion::Http2 => builder.http2_only(),
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
    fn refuse(&self, remote: SocketAddr, reason: Refused, error: &dyn std::fmt::Display) {
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
