//! What ties a statement to one TLS connection.

use std::fmt;

use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// 32 bytes that both ends of a TLS connection can compute, and nobody in any other connection (RFC 8446, 7.5).
///
/// A signature over it is worth nothing elsewhere, so that nobody can pass it on. Handlers of `rpc` find it in
/// `PeerInfo`, callers in the extensions of a response that came through a `Channel`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelExporter([u8; 32]);

impl ChannelExporter {
    /// The label that it is made under, without a context. That of mesh-sync, the only one that uses it so far.
    pub const LABEL: &str = "EXPORTER-mesh-sync-author-v1";

    /// These bytes. For tests.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// That of a QUIC connection whose handshake is done.
    pub(crate) fn of_quic(connection: &quinn::Connection) -> Option<Self> {
        let mut bytes = [0; 32];
        connection.export_keying_material(&mut bytes, Self::LABEL.as_bytes(), &[]).ok()?;
        Some(Self(bytes))
    }

    /// That of a TLS stream whose handshake is done.
    pub(crate) fn of_tls(stream: &TlsStream<TcpStream>) -> Option<Self> {
        let (bytes, label) = ([0; 32], Self::LABEL.as_bytes());
        // In TLS 1.3 an empty context is as good as none, which is what QUIC gives.
        let exported = match stream {
            TlsStream::Client(stream) => stream.get_ref().1.export_keying_material(bytes, label, Some(&[])),
            TlsStream::Server(stream) => stream.get_ref().1.export_keying_material(bytes, label, Some(&[])),
        };
        exported.ok().map(Self)
    }
}

/// Does not show the bytes: they are no secret to keys, but nobody else needs them.
impl fmt::Debug for ChannelExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelExporter(..)")
    }
}
