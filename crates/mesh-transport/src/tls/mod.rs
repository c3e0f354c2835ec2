//! TLS 1.3 with certificates on both ends, and nothing else.
//!
//! [`Identity`](crate::Identity) hands out the configurations; what is here
//! decides which certificate is accepted and how a node is called.

mod name;
mod refusal;
mod session;
mod trust;
mod verifier;

pub use name::server_name;
pub use refusal::{Refusal, Rule};
pub use trust::IssuerPin;

pub(crate) use name::Expected;
pub(crate) use session::{ClientSessions, ServerSessions};
pub(crate) use trust::{Trust, spiffe_id};
pub(crate) use verifier::MeshVerifier;

/// The application protocols that are told apart during the handshake (ALPN).
pub mod alpn {
    /// Gossip links, over QUIC and, as the fallback, HTTP/2 over TCP.
    pub const GOSSIP: &[u8] = b"mesh-gossip/1";
    /// gRPC over HTTP/3.
    pub const H3: &[u8] = b"h3";
    /// gRPC over HTTP/2.
    pub const H2: &[u8] = b"h2";
}

/// Which side of the handshake a peer was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// It called us.
    Client,
    /// We called it.
    Server,
}
