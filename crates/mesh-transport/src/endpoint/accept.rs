//! Incoming handshakes: bounded, timed, counted, and handed to whoever serves the protocol.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use mesh_core::Direction;
use rustls::AlertDescription;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc::error::TrySendError, oneshot},
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tracing::{info, warn};

use super::{
    Counted, Incoming, Inner, MeshStream, QuicConnection, close,
    registry::{Closer, quic_certificates},
    stray::Stray,
};
use crate::{
    metrics::{HandshakeOutcome, TransportMetrics},
    quiet::Quiet,
    tls::{PeerRole, Refusal, alpn},
};

/// Pause after `accept` failed, for instance because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a handshake came to nothing.
struct Failure {
    outcome: HandshakeOutcome,
    problem: String,
}

impl Failure {
    fn new(outcome: HandshakeOutcome, problem: impl Into<String>) -> Self {
        Self { outcome, problem: problem.into() }
    }
}

/// Starts both accept loops. They hold no strong reference while they wait.
pub(super) fn spawn(inner: &Arc<Inner>, listener: TcpListener) {
    tokio::spawn(tcp_loop(Arc::downgrade(inner), inner.closing(), listener));
    if let Some(quic) = inner.quic.clone() {
        let weak = Arc::downgrade(inner);
        tokio::spawn(async move {
            while let Some(incoming) = quic.accept().await {
                let Some(inner) = weak.upgrade() else { return };
                on_quic(inner, incoming);
            }
        });
    }
}

/// Longest text of a problem that tells two of them apart, in characters.
const PROBLEM_CHARS_MAX: usize = 256;

/// Counts refusals, and logs them: a line at once, then one a minute for each source and problem, one a
/// second in all. Many nodes may share an address, so each certificate that is refused has its own line.
#[derive(Debug)]
pub(super) struct Refusals {
    metrics: TransportMetrics,
    quiet: Quiet<(IpAddr, Cow<'static, str>)>,
}

impl Refusals {
    pub(super) fn new(metrics: TransportMetrics) -> Self {
        Self { metrics, quiet: Quiet::default() }
    }

    /// A datagram came that belongs to nobody.
    pub(super) fn stray(&self, remote: SocketAddr, stray: Stray) {
        let outcome = match stray {
            Stray::Version => HandshakeOutcome::Protocol,
            Stray::Malformed | Stray::Unknown => HandshakeOutcome::Garbage,
        };
        self.add("quic", remote, outcome, &stray);
    }

    fn add(
        &self,
        transport: &'static str,
        remote: SocketAddr,
        outcome: HandshakeOutcome,
        problem: &dyn std::fmt::Display,
    ) {
        self.metrics.handshake(transport, outcome);
        let reason = outcome.as_str();
        let what = match outcome {
            HandshakeOutcome::Identity => problem.to_string().chars().take(PROBLEM_CHARS_MAX).collect(),
            _ => Cow::Borrowed(reason),
        };
        let Some(suppressed) = self.quiet.allow((remote.ip(), what)) else { return };
        match outcome {
            HandshakeOutcome::Identity | HandshakeOutcome::Limit => {
                warn!(%remote, transport, reason, %problem, suppressed, "refused a connection");
            }
            _ => info!(%remote, transport, reason, %problem, suppressed, "refused a connection"),
        }
    }
}

impl Inner {
    fn failed(&self, transport: &'static str, remote: SocketAddr, failure: &Failure) {
        self.refusals.add(transport, remote, failure.outcome, &failure.problem);
    }

    /// Gives a connection to whoever serves its protocol.
    fn hand_over(&self, transport: &'static str, remote: SocketAddr, protocol: &[u8], incoming: Incoming) {
        let takers = self.takers.lock().expect("no panic while held");
        let taker = if protocol == alpn::GOSSIP { &takers.gossip } else { &takers.rpc };
        let failure = match taker.as_ref().map(|taker| taker.try_send(incoming)) {
            Some(Ok(())) => {
                self.metrics.handshake(transport, HandshakeOutcome::Accepted);
                return;
            }
            Some(Err(TrySendError::Full(incoming))) => {
                refuse(&incoming);
                Failure::new(HandshakeOutcome::Limit, "too many connections wait to be served")
            }
            Some(Err(TrySendError::Closed(incoming))) => {
                refuse(&incoming);
                Failure::new(HandshakeOutcome::Protocol, "nobody serves the protocol any more")
            }
            None => Failure::new(HandshakeOutcome::Protocol, "nobody serves the protocol"),
        };
        drop(takers);
        self.failed(transport, remote, &failure);
    }
}

fn refuse(incoming: &Incoming) {
    if let Incoming::Quic(connection) = incoming {
        connection.connection.close(close::LIMIT, b"busy");
    }
}

fn on_quic(inner: Arc<Inner>, incoming: quinn::Incoming) {
    let remote = incoming.remote_address();
    let limits = &inner.config.limits;
    let half_open = inner.half_open_quic.load(Ordering::Relaxed);
    let full = half_open >= limits.handshakes_max || inner.registry.len() >= limits.connections_max;
    if full {
        incoming.refuse();
        inner.failed(
            "quic",
            remote,
            &Failure::new(HandshakeOutcome::Limit, "too many handshakes or connections"),
        );
        return;
    }
    // When many are under way, callers must first prove that they own their address.
    if half_open >= limits.handshakes_max / 4 && !incoming.remote_address_validated() && incoming.may_retry()
    {
        let _ = incoming.retry();
        return;
    }
    tokio::spawn(async move {
        let _half_open = Counted::new(&inner.half_open_quic);
        match accept_quic(&inner, incoming).await {
            Ok((protocol, connection)) => {
                inner.hand_over("quic", remote, &protocol, Incoming::Quic(connection));
            }
            Err(failure) => inner.failed("quic", remote, &failure),
        }
    });
}

async fn accept_quic(inner: &Inner, incoming: quinn::Incoming) -> Result<(Vec<u8>, QuicConnection), Failure> {
    let config = Arc::clone(&inner.serving.load().quic);
    let timeout = inner.config.limits.handshake_timeout;
    let connecting = incoming.accept_with(config).map_err(|error| quic_failure(&error))?;
    let connection = match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result.map_err(|error| quic_failure(&error))?,
        Err(_) => {
            return Err(Failure::new(HandshakeOutcome::Timeout, format!("not finished within {timeout:?}")));
        }
    };
    let protocol = connection
        .handshake_data()
        .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .unwrap_or_default();
    // A resumed session was not verified in the handshake.
    let certificates = quic_certificates(&connection);
    let peer = inner.identity.recheck(&certificates, PeerRole::Client).map_err(|refusal| {
        connection.close(close::REVOKED, b"certificate not accepted");
        Failure::new(HandshakeOutcome::Identity, refusal.to_string())
    })?;
    let closer = Closer::Quic(connection.clone());
    let registration = inner.registry.register(Arc::clone(&peer), PeerRole::Client, closer, &inner.metrics);
    Ok((
        protocol,
        QuicConnection {
            connection,
            peer,
            direction: Direction::Inbound,
            registration,
            load: inner.load.clone(),
        },
    ))
}

/// Sorts what went wrong; the texts are those of the TLS library.
fn quic_failure(error: &quinn::ConnectionError) -> Failure {
    let text = error.to_string();
    let code = match error {
        quinn::ConnectionError::TransportError(error) => Some(error.code),
        quinn::ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        _ => None,
    };
    let outcome = match code.map(u64::from) {
        Some(code) if super::dial::is_identity_alert(code) => HandshakeOutcome::Identity,
        Some(code) if code == 0x100 + u64::from(u8::from(AlertDescription::NoApplicationProtocol)) => {
            HandshakeOutcome::Protocol
        }
        _ if matches!(error, quinn::ConnectionError::TimedOut) => HandshakeOutcome::Timeout,
        _ => HandshakeOutcome::Failed,
    };
    Failure::new(outcome, text)
}

async fn tcp_loop(weak: std::sync::Weak<Inner>, closing: impl Future<Output = ()>, listener: TcpListener) {
    tokio::pin!(closing);
    let half_open = Arc::new(HalfOpen::default());
    loop {
        let accepted = tokio::select! {
            () = &mut closing => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot accept TCP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(inner) = weak.upgrade() else { return };
        let limits = &inner.config.limits;
        if inner.registry.len() >= limits.connections_max {
            inner.failed("tcp", remote, &Failure::new(HandshakeOutcome::Limit, "too many connections"));
            continue;
        }
        if half_open.make_room(limits.handshakes_max) {
            let failure = Failure::new(HandshakeOutcome::Limit, "too many handshakes; the oldest gave way");
            inner.failed("tcp", remote, &failure);
        }
        let slot = half_open.next_slot();
        let task = tokio::spawn({
            let half_open = Arc::clone(&half_open);
            async move {
                let result = accept_tcp(&inner, socket, remote).await;
                half_open.done(slot);
                match result {
                    Ok((protocol, stream)) => {
                        inner.hand_over("tcp", remote, &protocol, Incoming::Tcp(Box::new(stream)));
                    }
                    Err(failure) => inner.failed("tcp", remote, &failure),
                }
            }
        });
        half_open.add(slot, task.abort_handle());
    }
}

/// The handshakes under way, oldest first. A flood of idle connections pushes out itself, while an
/// honest handshake takes a few milliseconds and is gone before its turn comes.
#[derive(Default)]
struct HalfOpen(Mutex<HalfOpenState>);

#[derive(Default)]
struct HalfOpenState {
    next: u64,
    tasks: VecDeque<(u64, AbortHandle)>,
}

impl HalfOpen {
    fn next_slot(&self) -> u64 {
        let mut state = self.0.lock().expect("no panic while held");
        state.next += 1;
        state.next
    }

    fn add(&self, slot: u64, task: AbortHandle) {
        let mut state = self.0.lock().expect("no panic while held");
        if !task.is_finished() {
            state.tasks.push_back((slot, task));
        }
    }

    fn done(&self, slot: u64) {
        let mut state = self.0.lock().expect("no panic while held");
        if let Ok(at) = state.tasks.binary_search_by_key(&slot, |(slot, _)| *slot) {
            state.tasks.remove(at);
        }
    }

    /// Whether the oldest one had to go.
    fn make_room(&self, limit: usize) -> bool {
        let mut state = self.0.lock().expect("no panic while held");
        // One that finished between its start and its entry was never taken out.
        if state.tasks.len() >= limit {
            state.tasks.retain(|(_, task)| !task.is_finished());
        }
        if state.tasks.len() < limit {
            return false;
        }
        if let Some((_, task)) = state.tasks.pop_front() {
            task.abort();
        }
        true
    }
}

async fn accept_tcp(
    inner: &Inner,
    socket: TcpStream,
    remote: SocketAddr,
) -> Result<(Vec<u8>, MeshStream), Failure> {
    let _ = socket.set_nodelay(true);
    let acceptor = TlsAcceptor::from(Arc::clone(&inner.serving.load().tcp));
    let timeout = inner.config.limits.handshake_timeout;
    let stream = match tokio::time::timeout(timeout, acceptor.accept(socket)).await {
        Ok(result) => result.map_err(|error| tcp_failure(&error))?,
        Err(_) => {
            return Err(Failure::new(HandshakeOutcome::Timeout, format!("not finished within {timeout:?}")));
        }
    };
    let (_, session) = stream.get_ref();
    let Some(protocol) = session.alpn_protocol().map(<[u8]>::to_vec) else {
        return Err(Failure::new(HandshakeOutcome::Protocol, "the caller names no application protocol"));
    };
    let certificates: Vec<_> = session.peer_certificates().unwrap_or_default().to_vec();
    let peer = inner
        .identity
        .recheck(&certificates, PeerRole::Client)
        .map_err(|refusal| Failure::new(HandshakeOutcome::Identity, refusal.to_string()))?;
    let (closer, revoked) = oneshot::channel();
    let closer = Closer::Stream(Some(closer), certificates.into());
    let registration = inner.registry.register(Arc::clone(&peer), PeerRole::Client, closer, &inner.metrics);
    let stream = TlsStream::Server(stream);
    Ok((protocol, MeshStream { stream, peer, remote, direction: Direction::Inbound, revoked, registration }))
}

fn tcp_failure(error: &io::Error) -> Failure {
    if let Some(refusal) = Refusal::find(error) {
        return Failure::new(HandshakeOutcome::Identity, refusal.to_string());
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let outcome = match tls {
        Some(rustls::Error::NoApplicationProtocol) => HandshakeOutcome::Protocol,
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            HandshakeOutcome::Identity
        }
        Some(rustls::Error::AlertReceived(alert))
            if super::dial::is_identity_alert(0x100 + u64::from(u8::from(*alert))) =>
        {
            HandshakeOutcome::Identity
        }
        // Plaintext (an HTTP/1.1 request line among it) and random bytes do not parse as a TLS record.
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => {
            HandshakeOutcome::Garbage
        }
        _ => HandshakeOutcome::Failed,
    };
    Failure::new(outcome, error.to_string())
}
