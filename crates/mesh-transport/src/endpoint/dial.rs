//! Outgoing connections.
//!
//! None of these has a timeout of its own: the caller races them and knows how
//! long it can wait. Dropping the future gives the attempt up.

use std::{io, net::SocketAddr, sync::Arc};

use mesh_core::{Direction, NodeId};
use quinn::crypto::rustls::QuicClientConfig;
use tokio::{net::TcpStream, sync::oneshot};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    Endpoint, MeshStream, QuicConnection, close,
    registry::{Closer, quic_certificates},
};
use crate::{
    error::TransportError,
    tls::{PeerRole, Refusal, server_name},
};

impl Endpoint {
    /// Connects over QUIC from the endpoint's own port, offering one application protocol.
    ///
    /// `peer` is who must answer; `None` accepts any node of the cluster. The peer's certificate is
    /// verified when this returns; whether the peer accepts *ours* shows with the first reply.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; there is no timeout shorter than the connection's idle timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the attempt up.
    pub async fn connect_quic(
        &self,
        address: SocketAddr,
        peer: Option<&NodeId>,
        protocol: &[u8],
        transport: Arc<quinn::TransportConfig>,
    ) -> Result<QuicConnection, TransportError> {
        let inner = &self.0;
        let quic = inner.quic.as_ref().ok_or_else(|| TransportError::Connection {
            address,
            problem: "QUIC is off here; see transport.http3.enabled".to_owned(),
        })?;
        self.check_limit()?;
        let crypto = QuicClientConfig::try_from(inner.identity.client_config(&[protocol]))
            .expect("the provider has the suite that QUIC starts with");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport);
        let name = server_name(peer);
        let connecting = quic.connect_with(config, address, &name.to_str()).map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => TransportError::Closed,
            error => TransportError::Connection { address, problem: error.to_string() },
        })?;
        let connection = connecting.await.map_err(|error| quic_error(address, &error))?;
        let certificates = quic_certificates(&connection);
        let checked = match peer {
            Some(peer) => inner.identity.recheck_peer(&certificates, PeerRole::Server, peer),
            None => inner.identity.recheck(&certificates, PeerRole::Server),
        };
        let peer = checked.map_err(|refusal| {
            connection.close(close::REVOKED, b"certificate not accepted");
            TransportError::Refusal { address, refusal }
        })?;
        let closer = Closer::Quic(connection.clone());
        let registration =
            inner.registry.register(Arc::clone(&peer), PeerRole::Server, closer, &inner.metrics);
        Ok(QuicConnection {
            connection,
            peer,
            direction: Direction::Outbound,
            registration,
            load: inner.load.clone(),
        })
    }

    /// Connects over TCP and TLS, offering one application protocol.
    ///
    /// As [`connect_quic`](Self::connect_quic) otherwise.
    ///
    /// # Errors
    ///
    /// [`TransportError::Refused`] if the other end's system says that nothing listens there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the attempt up.
    pub async fn connect_tcp(
        &self,
        address: SocketAddr,
        peer: Option<&NodeId>,
        protocol: &[u8],
    ) -> Result<MeshStream, TransportError> {
        let socket = self.open_tcp(address).await?;
        self.secure_tcp(socket, address, peer, protocol).await
    }

    /// The first half of [`connect_tcp`](Self::connect_tcp): whether anything listens there.
    pub(crate) async fn open_tcp(&self, address: SocketAddr) -> Result<TcpStream, TransportError> {
        self.check_limit()?;
        let socket = TcpStream::connect(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => TransportError::Refused { address },
            _ => TransportError::Connection { address, problem: error.to_string() },
        })?;
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    /// The second half: who it is.
    pub(crate) async fn secure_tcp(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        peer: Option<&NodeId>,
        protocol: &[u8],
    ) -> Result<MeshStream, TransportError> {
        let inner = &self.0;
        let connector = TlsConnector::from(inner.identity.client_config(&[protocol]));
        let stream =
            connector.connect(server_name(peer), socket).await.map_err(|error| tls_error(address, &error))?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(protocol) {
            let problem = "the peer did not agree to the application protocol".to_owned();
            return Err(TransportError::Handshake { address, problem, identity: false });
        }
        let certificates: Vec<_> = session.peer_certificates().unwrap_or_default().to_vec();
        let checked = match peer {
            Some(peer) => inner.identity.recheck_peer(&certificates, PeerRole::Server, peer),
            None => inner.identity.recheck(&certificates, PeerRole::Server),
        };
        let peer = checked.map_err(|refusal| TransportError::Refusal { address, refusal })?;
        let (closer, revoked) = oneshot::channel();
        let closer = Closer::Stream(Some(closer), certificates.into());
        let registration =
            inner.registry.register(Arc::clone(&peer), PeerRole::Server, closer, &inner.metrics);
        let stream = TlsStream::Client(stream);
        let direction = Direction::Outbound;
        Ok(MeshStream { stream, peer, remote: address, direction, revoked, registration })
    }

    fn check_limit(&self) -> Result<(), TransportError> {
        let limit = self.0.config.limits.connections_max;
        if self.0.registry.len() < limit {
            return Ok(());
        }
        Err(TransportError::Limit { what: "connections", limit, setting: "transport.limits.connections_max" })
    }
}

/// Whether a QUIC transport error code is a TLS alert about a certificate (RFC 8446 section 6.2).
pub(super) fn is_identity_alert(code: u64) -> bool {
    // 42..=46 certificate problems, 48 unknown_ca, 49 access_denied, 112 unrecognized_name, 116 certificate_required.
    matches!(code.checked_sub(0x100), Some(42..=46 | 48 | 49 | 112 | 116))
}

/// What a failed QUIC connection means to a caller.
pub(crate) fn quic_error(address: SocketAddr, error: &quinn::ConnectionError) -> TransportError {
    let problem = error.to_string();
    let code = match error {
        quinn::ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        quinn::ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        quinn::ConnectionError::ApplicationClosed(closed) if closed.error_code == close::REVOKED => {
            return TransportError::Handshake { address, problem, identity: true };
        }
        quinn::ConnectionError::TimedOut => {
            return TransportError::Connection { address, problem: "it fell silent".to_owned() };
        }
        quinn::ConnectionError::LocallyClosed => return TransportError::Closed,
        _ => None,
    };
    match code {
        // The range of TLS alerts (RFC 9001 section 4.8).
        Some(code) if (0x100..0x200).contains(&code) => {
            TransportError::Handshake { address, problem, identity: is_identity_alert(code) }
        }
        _ => TransportError::Connection { address, problem },
    }
}

fn tls_error(address: SocketAddr, error: &io::Error) -> TransportError {
    if let Some(refusal) = Refusal::find(error) {
        return TransportError::Refusal { address, refusal };
    }
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let identity = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => true,
        Some(rustls::Error::AlertReceived(alert)) => is_identity_alert(0x100 + u64::from(u8::from(*alert))),
        _ => false,
    };
    TransportError::Handshake { address, problem: error.to_string(), identity }
}
