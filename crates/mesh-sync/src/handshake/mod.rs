//! Who is at the other end, before anything is listed, registered or stored.
//!
//! Two ways, with the same result, an [`Established`]:
//!
//! * [`Initiator`] and [`Responder`]: three messages over any transport, and a verdict. Both sides prove their key.
//! * [`Claimant`]: one claim each way over a channel that is secure already, as mesh-transport's. The signature is
//!   over the channel's TLS exporter, so that it is worth nothing in any other channel.
//!
//! # The three messages
//!
//! ```text
//! initiator → hello:   terms, my key, whose key I expect, nonce, commitment to the datasets
//! responder → answer:  terms, my key, nonce, signature over hello and answer
//! initiator → proof:   the datasets, signature over hello, answer and datasets
//! responder → verdict: those that are open, signature over all of it
//! ```
//!
//! Terms are the protocol range, cluster, node and limits. Each signature has a context of its own and covers
//! every byte that was said before, so that
//!
//! * a replayed message fails for the other's fresh nonce,
//! * a reflected one fails for the context, and a peer with our own key is refused,
//! * a signature for one server is worth nothing at another, since both keys are covered,
//! * nobody between can lower a version or a limit, or put another dataset in.
//!
//! An initiator names its datasets only to who has proved its key; before, there is a commitment under its nonce. A
//! responder says of its datasets only which of the asked ones are open to who has proved its key.
//!
//! **Not protected by the three messages is what follows them**: they prove who answered, they are no cipher. Run
//! them where the transport keeps others out of the stream.

mod claim;
mod machine;
mod message;
#[cfg(test)]
mod tests;

use mesh_core::{NodeId, ProtocolVersion, VersionError};

use self::message::Message;
pub use self::{
    claim::Claimant,
    machine::{AwaitingProof, AwaitingVerdict, Initiator, Proved, Responder},
    message::{DATASETS_MAX, Features, HANDSHAKE_BYTES_MAX, Limits, Offer, Refusal, Terms},
};
use crate::{
    codec::WireError,
    entry::{AuthorId, AuthorKey, SignatureError},
};

/// 32 random bytes, drawn anew for each handshake from a source that nobody can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeNonce(pub [u8; 32]);

/// Who we are in a handshake.
#[derive(Clone, Debug)]
pub struct Us {
    /// Our key.
    pub key: AuthorKey,
    /// What we say of ourselves.
    pub terms: Terms,
}

/// The other end has proved its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Its key.
    pub author: AuthorId,
    /// The node that it says it is. Over mesh-transport that was compared with the certificate.
    pub node: NodeId,
    /// The version to speak.
    pub version: ProtocolVersion,
    /// What it accepts.
    pub limits: Limits,
    /// What both can do.
    pub features: Features,
    /// The open datasets, with its digests of what was pruned, in ascending order.
    pub datasets: Vec<Offer>,
}

/// Why a handshake ended. Nothing was registered or stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer sent bytes that are no message.
    #[error("handshake message can't be read")]
    Malformed(#[from] WireError),
    /// The peer sent another message than the next one.
    #[error("{found} came instead of {expected}")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What should have come.
        expected: &'static str,
    },
    /// No common version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// It is of another cluster.
    #[error("peer is of cluster {theirs}, this is {ours}")]
    Cluster {
        /// Ours.
        ours: mesh_core::ClusterName,
        /// Theirs.
        theirs: mesh_core::ClusterName,
    },
    /// It is not the one that was looked for.
    #[error("peer has the key {found}, {expected} was expected")]
    WrongPeer {
        /// Whom we, or they, looked for.
        expected: AuthorId,
        /// Who it is.
        found: AuthorId,
    },
    /// It says that it is another node than its certificate does.
    #[error("peer says it is {claimed}, its certificate says {certified}")]
    WrongNode {
        /// What it says.
        claimed: NodeId,
        /// What its certificate says.
        certified: NodeId,
    },
    /// It has our own key: a message came back to us, or a key was copied.
    #[error("peer has our own key {0}; each node needs one of its own")]
    OurOwnKey(AuthorId),
    /// The signature does not hold.
    #[error("peer {author} does not prove its key")]
    Proof {
        /// Whose key it should prove.
        author: AuthorId,
        /// Why it does not.
        #[source]
        source: SignatureError,
    },
    /// The datasets are not those that it had committed itself to, or not among those that were asked for.
    #[error("peer {author} changed the list of datasets during the handshake")]
    Datasets {
        /// Who.
        author: AuthorId,
    },
    /// The peer turned us away.
    #[error("peer refused the handshake")]
    Refused(#[from] Refusal),
}

impl HandshakeError {
    /// What to tell the peer before the connection is closed; `None` if it was the peer that refused.
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Malformed(_) | Self::Unexpected { .. } => Some(Refusal::Malformed),
            Self::Version(_) => Some(Refusal::Version),
            Self::Cluster { .. } => Some(Refusal::Cluster),
            Self::WrongPeer { .. } | Self::WrongNode { .. } | Self::OurOwnKey(_) => Some(Refusal::WrongPeer),
            Self::Proof { .. } | Self::Datasets { .. } => Some(Refusal::Proof),
            Self::Refused(_) => None,
        }
    }

    /// How the queue counts it.
    pub fn send_failure(&self) -> crate::queue::SendFailure {
        use crate::queue::SendFailure;
        let text = self.to_string();
        match self {
            Self::Version(_) | Self::Refused(Refusal::Version) => SendFailure::Version(text),
            Self::Refused(Refusal::Busy) => SendFailure::Busy(text),
            Self::Refused(Refusal::Access) => SendFailure::Refused(text),
            Self::Malformed(_) | Self::Unexpected { .. } | Self::Refused(Refusal::Malformed) => {
                SendFailure::Unreachable(text)
            }
            _ => SendFailure::Authentication(text),
        }
    }
}

/// Which datasets a side offers: sorted, each once. A node keeps no more than fit: see `sync.datasets`.
fn sorted(mut offers: Vec<Offer>) -> Vec<Offer> {
    offers.sort();
    offers.dedup_by(|next, one| next.dataset == one.dataset);
    offers.truncate(DATASETS_MAX);
    offers
}

/// What both have to agree on, whoever says it.
fn check_terms(us: &Us, theirs: &Terms, author: AuthorId) -> Result<ProtocolVersion, HandshakeError> {
    let ours = &us.terms;
    if ours.cluster != theirs.cluster {
        let (ours, theirs) = (ours.cluster.clone(), theirs.cluster.clone());
        return Err(HandshakeError::Cluster { ours, theirs });
    }
    if author == us.key.id() {
        return Err(HandshakeError::OurOwnKey(author));
    }
    Ok(ours.versions.negotiate("mesh-sync", theirs.versions)?)
}

fn established(
    us: &Us,
    theirs: Terms,
    author: AuthorId,
    version: ProtocolVersion,
    datasets: Vec<Offer>,
) -> Established {
    Established {
        author,
        node: theirs.node,
        version,
        limits: theirs.limits,
        features: us.terms.features.both(theirs.features),
        datasets,
    }
}

fn unexpected(message: Message, expected: &'static str) -> HandshakeError {
    match message {
        Message::Refusal(refusal) => HandshakeError::Refused(refusal),
        other => HandshakeError::Unexpected { found: other.name(), expected },
    }
}
