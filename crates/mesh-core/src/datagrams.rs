//! The trait between gossip and whatever carries its messages.
//!
//! The carrier authenticates: every event names the peer by its verified
//! identity. It keeps at most one link to each peer; who dials whom is the
//! caller's choice.

use std::{fmt, future::Future, net::SocketAddr, sync::Arc};

use bytes::Bytes;

use crate::{NodeId, PeerIdentity};

/// The largest payload that a [`Datagrams`] carries, in bytes.
///
/// Small payloads (up to 1100 bytes) go as one unreliable datagram; larger ones
/// go over a stream of the same link, whole or not at all.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// What a link runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LinkPath {
    /// QUIC over UDP.
    Quic,
    /// HTTP/2 over TCP, when UDP does not get through.
    Http2,
    /// Inside this process.
    Memory,
}

impl LinkPath {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Http2 => "http2",
            Self::Memory => "memory",
        }
    }
}

/// Who opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// We did.
    Outbound,
    /// The peer did.
    Inbound,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LinkDownReason {
    /// The peer's process does not know this connection: it was restarted.
    Reset,
    /// The peer closed it in good order.
    Closed,
    /// We closed it.
    Local,
    /// Nothing came for the idle time.
    Idle,
    /// UDP stopped while TCP still answers; a link over HTTP/2 follows.
    UdpBlocked,
    /// The peer's certificate is no longer accepted.
    Revoked,
    /// Something else went wrong on the wire.
    Failed,
}

impl LinkDownReason {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Local => "local",
            Self::Idle => "idle",
            Self::UdpBlocked => "udp-blocked",
            Self::Revoked => "revoked",
            Self::Failed => "failed",
        }
    }
}

/// Where to connect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkTarget {
    /// Who must answer there; `None` for a seed, where any node of the cluster may.
    pub node_id: Option<NodeId>,
    /// The address of its UDP and TCP port.
    pub address: SocketAddr,
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node_id {
            Some(node_id) => write!(f, "{node_id}@{}", self.address),
            None => write!(f, "?@{}", self.address),
        }
    }
}

/// Why a link could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// UDP was silent and TCP was refused: no process listens there.
    #[error("the address refused the connection")]
    Refused,
    /// Nothing answered in time.
    #[error("nothing answered in time")]
    Timeout,
    /// Somebody answered whose certificate we do not accept, or who did not accept ours.
    #[error("the identity was refused: {0}")]
    Identity(String),
    /// Our own connection limit is reached.
    #[error("too many links: the limit is {0}")]
    Limit(usize),
    /// Something else.
    #[error("the connection failed: {0}")]
    Failed(String),
}

/// Why a payload was not taken. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// There is no link to that peer. Connect first.
    #[error("no link to {peer}")]
    NotConnected {
        /// The peer.
        peer: NodeId,
    },
    /// The payload is over the limit. Split it.
    #[error("a payload of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The link's queue is full. Drop the payload or try later.
    #[error("the queue of the link to {peer} is full")]
    Busy {
        /// The peer.
        peer: NodeId,
    },
    /// The carrier was shut down.
    #[error("the carrier is closed")]
    Closed,
}

/// What a carrier reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DatagramEvent {
    /// A payload came in.
    Received {
        /// Who sent it, by certificate.
        from: Arc<PeerIdentity>,
        /// The payload.
        payload: Bytes,
        /// What it came over.
        path: LinkPath,
    },
    /// A link is up. Also sent when an existing link moves to another path.
    LinkUp {
        /// The other end, by certificate.
        peer: Arc<PeerIdentity>,
        /// Its address.
        remote: SocketAddr,
        /// What it runs over.
        path: LinkPath,
        /// Who opened it.
        direction: Direction,
    },
    /// A link is down. Payloads that were under way may be lost.
    LinkDown {
        /// The other end.
        peer: NodeId,
        /// Why.
        reason: LinkDownReason,
    },
    /// [`Datagrams::connect`] did not succeed.
    ConnectFailed {
        /// What was asked for.
        target: LinkTarget,
        /// Why.
        error: ConnectError,
    },
}

/// Carries small messages between authenticated nodes.
///
/// # Contract
///
/// * `connect` answers with exactly one `LinkUp` or `ConnectFailed`, in bounded
///   time. If a link to that peer is already up, `LinkUp` is repeated.
/// * Between `LinkUp` and `LinkDown` of a peer, `send` to it is accepted or
///   refused as busy. Delivery is not promised; a payload is never cut.
/// * When both sides dial at once, one link survives on both sides and no `LinkDown` is seen.
/// * Events are in order for each peer.
pub trait Datagrams: Send + Sync + 'static {
    /// Opens a link; the outcome comes as an event.
    fn connect(&self, target: LinkTarget);

    /// Closes the link to a peer in good order; `LinkDown` with reason `Local` follows.
    fn disconnect(&self, peer: &NodeId);

    /// Hands over one payload.
    ///
    /// # Errors
    ///
    /// [`DatagramError`]; nothing was sent then.
    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError>;

    /// The next event.
    ///
    /// # Errors
    ///
    /// [`DatagramError::Closed`] once the carrier was shut down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    fn recv(&self) -> impl Future<Output = Result<DatagramEvent, DatagramError>> + Send;
}
