//! One claim each way, over a channel that has an exporter.

use mesh_core::{NodeId, VersionRange};

use super::{
    Established, HandshakeError, Offer, Us, check_terms, established,
    message::{Claim, Message},
    sorted, unexpected,
};
use crate::entry::verify_message;

/// Which side of the channel a claim is from, so that none can be sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialled,
    Accepted,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Dialled => Self::Accepted,
            Self::Accepted => Self::Dialled,
        }
    }

    const fn context(self) -> &'static str {
        match self {
            Self::Dialled => "mesh-sync claim v1: side that dialled",
            Self::Accepted => "mesh-sync claim v1: side that accepted",
        }
    }
}

/// Proves our key to the other end of a mutually authenticated TLS channel, and checks its proof.
///
/// `exporter` is what the channel's exporter gives for [`Claimant::EXPORTER_LABEL`]: it is the same at both ends, and
/// nobody has the same in another channel. That makes a nonce unnecessary.
///
/// The side that dialled claims first, with what it wants; the other answers with what is open.
///
/// ```
/// use mesh_core::{ClusterName, NodeId, VersionRange};
/// use mesh_sync::entry::{AuthorKey, DatasetId};
/// use mesh_sync::handshake::{Claimant, Features, Limits, Offer, Terms, Us};
///
/// let us = |name: &str, seed| -> Result<Us, mesh_core::IdError> {
///     let terms = Terms {
///         versions: VersionRange::new(1, 2),
///         cluster: ClusterName::new("prod")?,
///         node: NodeId::new(name)?,
///         limits: Limits::default(),
///         features: Features::default(),
///     };
///     Ok(Us { key: AuthorKey::from_seed([seed; 32]), terms })
/// };
/// let notes = Offer { dataset: DatasetId::new("notes")?, prune_digest: [0; 32] };
/// let exporter = [9; 32]; // Both ends of one channel have the same.
/// let mut a = Claimant::dialled(us("a", 1)?, exporter, NodeId::new("b")?);
/// let mut b = Claimant::accepted(us("b", 2)?, exporter, NodeId::new("a")?);
///
/// let at_b = b.check(&a.claim(vec![notes.clone()]))?;
/// let at_a = a.check(&b.claim(at_b.datasets.clone()))?;
/// assert_eq!(at_a.datasets, [notes]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Claimant {
    us: Us,
    exporter: [u8; 32],
    certified: NodeId,
    side: Side,
    /// What we asked for, where we dialled.
    asked: Vec<Offer>,
}

impl Claimant {
    /// What to ask the channel's exporter for: 32 bytes, without a context.
    pub const EXPORTER_LABEL: &str = "EXPORTER-mesh-sync-author-v1";
    /// The versions of the protocol that this program speaks.
    pub const VERSIONS: VersionRange = VersionRange::new(1, 1);

    /// The side that opened the channel. `certified` is whom the other's certificate names.
    pub fn dialled(us: Us, exporter: [u8; 32], certified: NodeId) -> Self {
        Self { us, exporter, certified, side: Side::Dialled, asked: Vec::new() }
    }

    /// The other side.
    pub fn accepted(us: Us, exporter: [u8; 32], certified: NodeId) -> Self {
        Self { us, exporter, certified, side: Side::Accepted, asked: Vec::new() }
    }

    /// Our claim, with what we want, or what is open.
    pub fn claim(&mut self, offers: Vec<Offer>) -> Vec<u8> {
        let mut claim = Claim {
            terms: self.us.terms.clone(),
            author: self.us.key.id(),
            offers: sorted(offers),
            signature: [0; 64],
        };
        let message = self.signed(&claim);
        claim.signature = self.us.key.sign_message(self.side.context(), &message);
        let bytes = claim.encode();
        self.asked = claim.offers;
        bytes
    }

    fn signed(&self, claim: &Claim) -> Vec<u8> {
        [&self.exporter[..], &claim.unsigned()].concat()
    }

    /// Checks the other's claim. Where we accepted, the datasets are those that it wants: open some of them with our own
    /// claim. Where we dialled, they are those that are open.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; tell the peer what [`HandshakeError::refusal`] says, and close.
    pub fn check(&self, bytes: &[u8]) -> Result<Established, HandshakeError> {
        let claim = match Message::decode(bytes)? {
            Message::Claim(claim) => claim,
            other => return Err(unexpected(other, "a claim")),
        };
        let author = claim.author;
        let version = check_terms(&self.us, &claim.terms, author)?;
        if claim.terms.node != self.certified {
            let (claimed, certified) = (claim.terms.node, self.certified.clone());
            return Err(HandshakeError::WrongNode { claimed, certified });
        }
        let context = self.side.other().context();
        verify_message(&author, context, &self.signed(&claim), &claim.signature)
            .map_err(|source| HandshakeError::Proof { author, source })?;
        let asked = |open: &Offer| self.asked.iter().any(|asked| asked.dataset == open.dataset);
        if self.side == Side::Dialled && !claim.offers.iter().all(asked) {
            return Err(HandshakeError::Datasets { author });
        }
        Ok(established(&self.us, claim.terms, author, version, claim.offers))
    }
}
