//! The messages, and how they are written.

use mesh_core::{ClusterName, NodeId, ProtocolVersion, VersionRange};

use super::HandshakeNonce;
use crate::{
    codec::{
        Reader, WireError, put_bytes, put_varint, take_bytes, take_count, take_dataset, take_node, take_text,
        take_u32,
    },
    entry::{AuthorId, DatasetId},
    reconcile,
};

/// Longest message of a handshake, in bytes. Read no more than that from who has proved nothing yet.
pub const HANDSHAKE_BYTES_MAX: usize = 32 << 10;
/// Most datasets that one connection is for.
pub const DATASETS_MAX: usize = 256;

/// What a side accepts. Each side states its own at the start; what is sent keeps to the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message. Default: 1.25 MiB, so that the largest entry fits.
    pub frame_bytes_max: u32,
    /// Most cells of a sketch. Default: 16,384.
    pub symbols_max: u32,
    /// Most ids and range parts of a reconciliation together. Default: 1,048,576.
    pub entries_max: u32,
    /// Most bytes in a second, over time. Default: no limit, [`u64::MAX`].
    pub bytes_per_second_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 1_310_720,
            symbols_max: 16_384,
            entries_max: 1_048_576,
            bytes_per_second_max: u64::MAX,
        }
    }
}

impl Limits {
    /// Lowest limit of frames with which anything can be done.
    pub const FRAME_BYTES_MIN: u32 = reconcile::Limits::FRAME_BYTES_MIN;

    fn write(self, out: &mut Vec<u8>) {
        for number in [self.frame_bytes_max, self.symbols_max, self.entries_max] {
            put_varint(out, number.into());
        }
        put_varint(out, self.bytes_per_second_max);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let limits = Self {
            frame_bytes_max: take_u32(reader, "a frame limit")?,
            symbols_max: take_u32(reader, "a symbol limit")?,
            entries_max: take_u32(reader, "an entry limit")?,
            bytes_per_second_max: reader.varint()?,
        };
        let too_low = [
            ("a frame limit", u64::from(limits.frame_bytes_max), Self::FRAME_BYTES_MIN.into()),
            ("an entry limit", limits.entries_max.into(), reconcile::Limits::ENTRIES_MIN.into()),
            ("a rate limit", limits.bytes_per_second_max, 1024),
        ];
        match too_low.into_iter().find(|(_, value, min)| value < min) {
            Some((what, value, _)) => Err(WireError::Invalid { what, value }),
            None => Ok(limits),
        }
    }
}

/// What a side can do beyond the protocol's version. Unknown bits are of newer programs and mean nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// It reads frames that are compressed with zstd.
    pub const ZSTD: Self = Self(1);

    /// What both can do.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its node.
    pub node: NodeId,
    /// What it accepts.
    pub limits: Limits,
    /// What it can do.
    pub features: Features,
}

impl Terms {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.versions.min.0.into());
        put_varint(out, self.versions.max.0.into());
        put_bytes(out, self.cluster.as_str().as_bytes());
        put_bytes(out, self.node.as_str().as_bytes());
        self.limits.write(out);
        put_varint(out, self.features.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let min = take_u32(reader, "a version")?;
        let max = take_u32(reader, "a version")?;
        if min > max {
            return Err(WireError::Invalid { what: "the oldest version", value: min.into() });
        }
        const CLUSTER: &str = "the length or text of a cluster name";
        let cluster = take_text(reader, CLUSTER, ClusterName::BYTES_MAX)?;
        let cluster = ClusterName::new(&cluster)
            .map_err(|_| WireError::Invalid { what: CLUSTER, value: cluster.len() as u64 })?;
        Ok(Self {
            versions: VersionRange { min: ProtocolVersion(min), max: ProtocolVersion(max) },
            cluster,
            node: take_node(reader)?,
            limits: Limits::read(reader)?,
            features: Features(reader.varint()?),
        })
    }
}

/// A dataset that one side wants, with the digest of what was pruned from it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer {
    /// Its name.
    pub dataset: DatasetId,
    /// The digest of its prune watermarks. Different ones mean that prunes have to be exchanged before entries.
    pub prune_digest: [u8; 32],
}

/// Writes offers in ascending order of their names.
pub(super) fn write_offers(out: &mut Vec<u8>, offers: &[Offer]) {
    put_varint(out, offers.len() as u64);
    for offer in offers {
        put_bytes(out, offer.dataset.as_str().as_bytes());
        out.extend_from_slice(&offer.prune_digest);
    }
}

pub(super) fn read_offers(reader: &mut Reader<'_>) -> Result<Vec<Offer>, WireError> {
    let count = take_count(reader, "the number of datasets", DATASETS_MAX)?;
    let mut offers = Vec::<Offer>::new();
    for at in 0..count {
        let offer = Offer { dataset: take_dataset(reader)?, prune_digest: reader.array()? };
        if offers.last().is_some_and(|last| last.dataset >= offer.dataset) {
            return Err(WireError::Invalid { what: "the order of datasets", value: at as u64 });
        }
        offers.push(offer);
    }
    Ok(offers)
}

/// What a peer is told when it is turned away. A closed set, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A message that is none, or doesn't belong here.
    #[error("a message can't be read or came at the wrong time")]
    Malformed,
    /// No common version.
    #[error("there is no common version")]
    Version,
    /// Another cluster.
    #[error("this is another cluster")]
    Cluster,
    /// It looked for someone else, or for itself.
    #[error("this is another node than the one that was looked for")]
    WrongPeer,
    /// The proof does not hold.
    #[error("the proof of the key does not hold")]
    Proof,
    /// It is not let in.
    #[error("access is refused")]
    Access,
    /// Not now. The only one that is worth another try.
    #[error("there is no room now")]
    Busy,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Version,
        Self::Cluster,
        Self::WrongPeer,
        Self::Proof,
        Self::Access,
        Self::Busy,
    ];

    fn code(self) -> u8 {
        Self::ALL.iter().position(|refusal| *refusal == self).map_or(u8::MAX, |at| at as u8)
    }

    /// The message that tells it.
    pub fn encode(self) -> Vec<u8> {
        vec![TAG_REFUSAL, self.code()]
    }
}

const TAG_REFUSAL: u8 = 0;
const TAG_HELLO: u8 = 1;
const TAG_ANSWER: u8 = 2;
const TAG_PROOF: u8 = 3;
const TAG_VERDICT: u8 = 4;
const TAG_CLAIM: u8 = 5;

/// First message: who I am, whom I look for, and a commitment to what I want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) terms: Terms,
    pub(super) author: AuthorId,
    pub(super) expected: Option<AuthorId>,
    pub(super) nonce: HandshakeNonce,
    pub(super) commitment: [u8; 32],
}

/// Second message: who I am, with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) terms: Terms,
    pub(super) author: AuthorId,
    pub(super) nonce: HandshakeNonce,
    pub(super) signature: [u8; 64],
}

/// Third message: what I want, with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// What the commitment was made with.
    pub(super) opening: HandshakeNonce,
    pub(super) offers: Vec<Offer>,
    pub(super) signature: [u8; 64],
}

/// What follows: the datasets that are open, with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) granted: Vec<Offer>,
    pub(super) signature: [u8; 64],
}

/// The message over a channel that is secure already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) terms: Terms,
    pub(super) author: AuthorId,
    pub(super) offers: Vec<Offer>,
    pub(super) signature: [u8; 64],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Refusal(Refusal),
    Hello(Hello),
    Answer(Answer),
    Proof(Proof),
    Verdict(Verdict),
    Claim(Claim),
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![TAG_HELLO];
        self.terms.write(&mut out);
        out.extend_from_slice(self.author.as_bytes());
        put_bytes(&mut out, self.expected.as_ref().map_or(&[][..], |expected| expected.as_bytes()));
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&self.commitment);
        out
    }
}

impl Answer {
    /// Everything that the signature covers.
    pub(super) fn unsigned(&self) -> Vec<u8> {
        let mut out = vec![TAG_ANSWER];
        self.terms.write(&mut out);
        out.extend_from_slice(self.author.as_bytes());
        out.extend_from_slice(&self.nonce.0);
        out
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [self.unsigned(), self.signature.to_vec()].concat()
    }
}

impl Proof {
    pub(super) fn unsigned(&self) -> Vec<u8> {
        let mut out = vec![TAG_PROOF];
        out.extend_from_slice(&self.opening.0);
        write_offers(&mut out, &self.offers);
        out
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [self.unsigned(), self.signature.to_vec()].concat()
    }
}

impl Verdict {
    pub(super) fn unsigned(&self) -> Vec<u8> {
        let mut out = vec![TAG_VERDICT];
        write_offers(&mut out, &self.granted);
        out
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [self.unsigned(), self.signature.to_vec()].concat()
    }
}

impl Claim {
    pub(super) fn unsigned(&self) -> Vec<u8> {
        let mut out = vec![TAG_CLAIM];
        self.terms.write(&mut out);
        out.extend_from_slice(self.author.as_bytes());
        write_offers(&mut out, &self.offers);
        out
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [self.unsigned(), self.signature.to_vec()].concat()
    }
}

impl Message {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > HANDSHAKE_BYTES_MAX {
            return Err(WireError::Invalid { what: "the length of a handshake", value: bytes.len() as u64 });
        }
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            TAG_REFUSAL => {
                let code = reader.u8()?;
                // A newer program's reason ends the handshake as well.
                Self::Refusal(Refusal::ALL.get(usize::from(code)).copied().unwrap_or(Refusal::Access))
            }
            TAG_HELLO => Self::Hello(Hello {
                terms: Terms::read(&mut reader)?,
                author: AuthorId(reader.array()?),
                expected: read_expected(&mut reader)?,
                nonce: HandshakeNonce(reader.array()?),
                commitment: reader.array()?,
            }),
            TAG_ANSWER => Self::Answer(Answer {
                terms: Terms::read(&mut reader)?,
                author: AuthorId(reader.array()?),
                nonce: HandshakeNonce(reader.array()?),
                signature: reader.array()?,
            }),
            TAG_PROOF => Self::Proof(Proof {
                opening: HandshakeNonce(reader.array()?),
                offers: read_offers(&mut reader)?,
                signature: reader.array()?,
            }),
            TAG_VERDICT => {
                Self::Verdict(Verdict { granted: read_offers(&mut reader)?, signature: reader.array()? })
            }
            TAG_CLAIM => Self::Claim(Claim {
                terms: Terms::read(&mut reader)?,
                author: AuthorId(reader.array()?),
                offers: read_offers(&mut reader)?,
                signature: reader.array()?,
            }),
            tag => return Err(WireError::Invalid { what: "the tag of a handshake", value: tag.into() }),
        };
        reader.end().map(|()| message)
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Refusal(_) => "a refusal",
            Self::Hello(_) => "a hello",
            Self::Answer(_) => "an answer",
            Self::Proof(_) => "a proof",
            Self::Verdict(_) => "a verdict",
            Self::Claim(_) => "a claim",
        }
    }
}

fn read_expected(reader: &mut Reader<'_>) -> Result<Option<AuthorId>, WireError> {
    let bytes = take_bytes(reader, "the length of a key", 32)?;
    match <[u8; 32]>::try_from(bytes) {
        Ok(key) => Ok(Some(AuthorId(key))),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(WireError::Invalid { what: "the length of a key", value: bytes.len() as u64 }),
    }
}
