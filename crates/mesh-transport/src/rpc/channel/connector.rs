//! Where a channel gets its connections from.

use std::{any::Any, fmt, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use mesh_core::{BoxError, NodeId, PeerIdentity};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{endpoint::Load, rpc::Transport};

/// Who a channel talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node. A connector accepts no other identity.
    pub node_id: NodeId,
    /// Where it may be reached, the best first; one port number for QUIC and TCP.
    pub addresses: Vec<SocketAddr>,
    /// Whether it offers HTTP/3, if that is known beforehand. `None` finds out.
    pub http3: Option<bool>,
}

impl Target {
    /// A node at one address.
    pub fn new(node_id: NodeId, address: SocketAddr) -> Self {
        Self { node_id, addresses: vec![address], http3: None }
    }
}

/// A QUIC connection with ALPN `h3`, whose peer was verified.
pub struct H3Connection {
    /// The connection.
    pub connection: quinn::Connection,
    /// Who is at the other end.
    pub peer: Arc<PeerIdentity>,
    /// What requests on it are to be told to.
    pub load: Load,
    /// Whatever has to live as long as the connection.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for H3Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H3Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A byte stream that HTTP/2 can run on.
pub trait H2Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> H2Io for T {}

/// A TLS stream with ALPN `h2`, whose peer was verified.
pub struct H2Connection {
    /// The stream.
    pub io: Box<dyn H2Io>,
    /// Who is at the other end.
    pub peer: Arc<PeerIdentity>,
    /// What ties a statement to this connection; `None` if it has nothing of the kind.
    pub exporter: Option<crate::ChannelExporter>,
}

impl fmt::Debug for H2Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The peer is not who it should be, or is not trusted, or does not trust us.
    #[error("{peer} was refused, or refused us, over {transport}")]
    Refused {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
        /// The rule.
        #[source]
        source: BoxError,
    },
    /// Nobody answered.
    #[error("{peer} can't be reached over {transport}")]
    Unreachable {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
        /// What happened.
        #[source]
        source: BoxError,
    },
    /// This end or the peer does not do this transport.
    #[error("{transport} is not available for {peer}")]
    Unsupported {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
    },
}

/// Makes connections to nodes, each verified to be with that node. Dropping a future
/// abandons the attempt.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A QUIC connection with ALPN `h3`.
    ///
    /// # Errors
    ///
    /// Why there is none; the channel goes on with HTTP/2.
    async fn connect_h3(&self, target: &Target) -> Result<H3Connection, ConnectFailure>;

    /// A TLS stream over TCP with ALPN `h2`.
    ///
    /// # Errors
    ///
    /// Why there is none.
    async fn connect_h2(&self, target: &Target) -> Result<H2Connection, ConnectFailure>;
}
