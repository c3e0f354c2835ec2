//! Connections whose other end is known and which end when it is revoked.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use mesh_core::{Direction, PeerIdentity};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::TlsStream;

use super::{Load, registry::Registration};

/// A QUIC connection with a verified peer.
///
/// Keep this value as long as the connection: it is what revocation reaches the
/// connection by. When the peer's certificate is no longer accepted, the
/// connection is closed from here.
#[derive(Debug)]
pub struct QuicConnection {
    pub(super) connection: quinn::Connection,
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) direction: Direction,
    pub(super) registration: Registration,
    pub(super) load: Load,
}

impl QuicConnection {
    /// The connection itself.
    pub fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    /// What ties a statement to this connection.
    pub fn exporter(&self) -> Option<crate::ChannelExporter> {
        crate::ChannelExporter::of_quic(&self.connection)
    }

    /// What requests on it are to be told to, shared by all connections of its endpoint.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Who opened it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether it was closed because the peer's certificate is no longer accepted.
    pub fn is_revoked(&self) -> bool {
        self.registration.is_revoked()
    }
}

/// A TLS stream over TCP with a verified peer. Reads and writes fail once the peer is revoked.
pub struct MeshStream {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) remote: SocketAddr,
    pub(super) direction: Direction,
    pub(super) revoked: oneshot::Receiver<()>,
    pub(super) registration: Registration,
}

impl MeshStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    /// What ties a statement to this connection.
    pub fn exporter(&self) -> Option<crate::ChannelExporter> {
        crate::ChannelExporter::of_tls(&self.stream)
    }

    /// The other end's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.remote
    }

    /// Who opened it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether it was closed because the peer's certificate is no longer accepted.
    pub fn is_revoked(&self) -> bool {
        self.registration.is_revoked()
    }

    /// Set once the peer's certificate is no longer accepted; outlives the stream.
    pub(crate) fn revoked_flag(&self) -> Arc<std::sync::atomic::AtomicBool> {
        self.registration.revoked_flag()
    }

    fn check(&self) -> io::Result<()> {
        if self.registration.is_revoked() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the peer's certificate is no longer accepted",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshStream({} at {})", self.peer.id, self.remote)
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            return Poll::Ready(result);
        }
        // Nothing to read: make sure that a revocation wakes us. A completed receiver is not polled again,
        // because the check above fails from then on.
        let _ = ready!(Pin::new(&mut self.revoked).poll(cx));
        self.check()?;
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
