//! The UDP half of the edge port: HTTP/3 over QUIC with mutual TLS.

use std::{io, net::SocketAddr, net::UdpSocket, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use quinn::crypto::rustls::QuicServerConfig;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{
    ConnectionInfo, HttpVersion,
    handshakes::Slot,
    listener::Port,
    metrics::Refused,
    supervise::{Caller, Connection},
    watched::{GuardedBody, InFlight},
};
use crate::{
    endpoint::{Load, LoadedRuntime, NodeSecret, bind_udp, close, quic_certificates, watched_socket},
    rpc::http3::{self, Answer, Limits, RequestBody},
    tls::alpn,
};

/// Buffers of the socket. Less than what a node asks for: nobody sends snapshots here.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;
/// Silence after which a caller is gone. Live ones are asked for a sign of life before.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the last callers have to hear that the port is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// The socket.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    bind_udp(address, SOCKET_BUFFER_BYTES)
}

/// Starts to accept connections.
pub(super) fn spawn(port: Arc<Port>, socket: UdpSocket) -> io::Result<JoinHandle<()>> {
    let (secret, load) = (NodeSecret::random(), Load::default());
    let strays = port.clone();
    let socket = watched_socket(socket, &secret, move |remote, stray| {
        strays.refuse(remote, Refused::Tls, &stray);
    })?;
    let endpoint = quinn::Endpoint::new_with_abstract_socket(
        secret.endpoint_config(),
        Some(server_config(&port)),
        socket,
        Arc::new(LoadedRuntime(load.clone())),
    )?;
    Ok(tokio::spawn(accept(port, endpoint, load)))
}

/// What a caller is offered at this moment.
fn server_config(port: &Port) -> quinn::ServerConfig {
    let mut tls = (*(port.tls.server_config)()).clone();
    tls.alpn_protocols = vec![alpn::H3.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 has the suite that QUIC starts with");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    let idle = quinn::IdleTimeout::try_from(SILENCE_MAX).expect("half a minute fits");
    transport
        .max_concurrent_uni_streams(8_u32.into())
        .max_concurrent_bidi_streams(port.config.streams_max.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(SILENCE_MAX / 3))
        .max_idle_timeout(Some(idle));
    config.transport_config(Arc::new(transport));
    config.max_incoming(port.config.handshakes_max);
    config.incoming_buffer_size(16 * 1024);
    config.incoming_buffer_size_total(4 * 1024 * 1024);
    config
}

async fn accept(port: Arc<Port>, endpoint: quinn::Endpoint, load: Load) {
    let mut connections = JoinSet::new();
    let mut stopped = port.stopped.clone();
    loop {
        let incoming = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next() => continue,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let remote = incoming.remote_address();
        // When many are under way, callers must first prove that they own their address.
        if port.handshakes.is_crowded() && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only for what may not be retried.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = port.place(remote) else {
            incoming.refuse();
            continue;
        };
        let slot = port.handshakes.enter(remote.ip());
        connections.spawn(port.clone().quic_connection(incoming, load.clone(), remote, slot, place));
    }
    // New callers are refused from here on, so that they use TCP or come back later.
    endpoint.set_server_config(None);
    port.drain(connections).await;
    endpoint.close(close::SHUTDOWN, b"shutting down");
    let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
}

impl Port {
    async fn quic_connection(
        self: Arc<Self>,
        incoming: quinn::Incoming,
        load: Load,
        remote: SocketAddr,
        mut slot: Slot,
        _place: OwnedSemaphorePermit,
    ) {
        let connecting = match incoming.accept_with(Arc::new(server_config(&self))) {
            Ok(connecting) => connecting,
            Err(error) => return self.refuse(remote, Refused::Tls, &error),
        };
        let Some(connection) = self.in_time(remote, &mut slot, connecting).await else { return };
        drop(slot);
        let certificates = quic_certificates(&connection);
        let Some(peer) = self.identify(remote, &certificates) else {
            connection.close(close::REVOKED, b"certificate not accepted");
            return;
        };
        let _open = self.open();
        let (drain, draining) = watch::channel(false);
        let (in_flight, under_way) = InFlight::new();
        let info = ConnectionInfo { remote, version: HttpVersion::Http3, draining: draining.clone() };
        let caller = Caller { router: self.router.clone(), peer: peer.clone(), info, in_flight };
        let limits = Limits {
            requests_max: self.config.streams_max,
            header_bytes_max: self.config.header_bytes_max as u64,
            header_timeout: self.config.header_timeout,
            drain_timeout: self.config.drain_timeout,
            write_timeout: Some(self.config.write_timeout),
        };
        let conversation = http3::serve(connection, load, limits, draining, caller);
        self.supervise(Connection { remote, peer, certificates, drain, under_way }, conversation).await;
    }
}

impl Answer for Caller {
    type Body = GuardedBody;

    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<GuardedBody>> + Send {
        self.ask(request.map(Body::new))
    }
}
