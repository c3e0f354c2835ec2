//! Errors of building an identity, an endpoint or a connection.

use std::{io, net::SocketAddr, path::PathBuf};

use mesh_core::{NodeId, SpiffeId, SpiffeIdError, fs::FileError};

use crate::tls::Refusal;

/// Why an identity was not loaded or replaced. The one in use, if any, stays in use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file was read and does not hold what it should.
    #[error("the {what} {} is not usable: {problem}", path.display())]
    Content {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Other users of the machine can read a private key.
    #[error("the private key {} has mode {mode:04o}, so that others can read it; run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no certificate, no trust anchor, or one that cannot be parsed.
    #[error("the {what} is not usable: {problem}")]
    Material {
        /// Which part of the identity.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Our own certificate does not name exactly one node.
    #[error("our certificate must have exactly one URI name, it has {found}")]
    UriNames {
        /// How many it has.
        found: usize,
    },
    /// The name in our own certificate is not that of a node.
    #[error("the URI name in our certificate is not usable")]
    Name(#[from] SpiffeIdError),
    /// A new certificate names somebody else. Restart the node to change its name.
    #[error(
        "the new certificate is for {new}, this node runs as {current}; restart it to change its identity"
    )]
    Changed {
        /// Who we are.
        current: Box<SpiffeId>,
        /// Who the new certificate is for.
        new: Box<SpiffeId>,
    },
    /// TLS does not accept the material, for instance because key and certificate do not match.
    #[error("the certificate and its key are not usable")]
    Tls(#[source] rustls::Error),
    /// An external source failed.
    #[error("the identity source failed")]
    Source(#[source] mesh_core::BoxError),
}

/// Why an endpoint did not start, or a connection was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address is taken or not ours.
    #[error("cannot bind {protocol} on {address}")]
    Bind {
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The identity is not usable.
    #[error("the identity is not usable")]
    Identity(#[from] IdentityError),
    /// The node's secret could not be read or written.
    #[error("the node's transport secret is not usable")]
    Secret(#[source] FileError),
    /// Nothing listens there: the operating system at the other end said so.
    #[error("{address} refused the connection")]
    Refused {
        /// Where we tried.
        address: SocketAddr,
    },
    /// Nothing answered in time.
    #[error("{address} did not answer within {after:?}")]
    Timeout {
        /// Where we tried.
        address: SocketAddr,
        /// How long we waited.
        after: std::time::Duration,
    },
    /// We do not accept the certificate at the other end.
    #[error("the peer at {address} is not accepted")]
    Refusal {
        /// Where we tried.
        address: SocketAddr,
        /// The rule and the certificate.
        #[source]
        refusal: Refusal,
    },
    /// The other end does not accept ours, or one of us could not prove who it is.
    #[error("the handshake with {address} failed: {problem}")]
    Handshake {
        /// Where we tried.
        address: SocketAddr,
        /// What TLS says.
        problem: String,
        /// Whether it is about a certificate, and so will not heal by itself.
        identity: bool,
    },
    /// Something else went wrong on the wire.
    #[error("the connection to {address} failed: {problem}")]
    Connection {
        /// Where we tried.
        address: SocketAddr,
        /// What happened.
        problem: String,
    },
    /// Our own limit of connections or handshakes is reached.
    #[error("too many {what}: the limit is {limit}; raise {setting}")]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The setting that holds it.
        setting: &'static str,
    },
    /// The peer cannot be named in TLS.
    #[error("node id {node_id} cannot be used as a TLS server name")]
    ServerName {
        /// The peer.
        node_id: NodeId,
    },
    /// The endpoint was shut down.
    #[error("the endpoint is closed")]
    Closed,
}

impl TransportError {
    /// Whether the identity of one of the ends is the cause, so that trying again at once is useless.
    pub fn is_identity(&self) -> bool {
        match self {
            Self::Refusal { .. } => true,
            Self::Handshake { identity, .. } => *identity,
            _ => false,
        }
    }
}
