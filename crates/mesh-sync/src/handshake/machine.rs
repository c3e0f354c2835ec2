//! Three messages over any transport. Each state is a value of its own, used up by the message that it waits for.

use mesh_core::ProtocolVersion;

use super::{
    Established, HandshakeError, HandshakeNonce, Offer, Us, check_terms, established,
    message::{Answer, Hello, Message, Proof, Terms, Verdict, write_offers},
    sorted, unexpected,
};
use crate::entry::{AuthorId, AuthorKey, verify_message};

const ANSWER: &str = "mesh-sync handshake v1: responder's answer";
const PROOF: &str = "mesh-sync handshake v1: initiator's proof";
const VERDICT: &str = "mesh-sync handshake v1: responder's verdict";

/// All that was said so far, each message behind its length.
#[derive(Clone, Debug)]
struct Transcript(blake3::Hasher);

impl Transcript {
    fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("mesh-sync handshake v1: transcript"))
    }

    fn add(&mut self, message: &[u8]) -> [u8; 32] {
        self.0.update(&(message.len() as u64).to_le_bytes());
        self.0.update(message);
        *self.0.finalize().as_bytes()
    }
}

fn sign(key: &AuthorKey, context: &str, transcript: &[u8; 32]) -> [u8; 64] {
    key.sign_message(context, transcript)
}

fn check(
    author: AuthorId,
    context: &str,
    transcript: &[u8; 32],
    signature: &[u8; 64],
) -> Result<(), HandshakeError> {
    verify_message(&author, context, transcript, signature)
        .map_err(|source| HandshakeError::Proof { author, source })
}

/// Hides what is wanted from who has proved nothing, and keeps the initiator to it.
///
/// `opening` stays with the initiator until its proof: under a nonce that goes out at once, names could be guessed.
fn commitment(opening: &HandshakeNonce, offers: &[Offer]) -> [u8; 32] {
    let mut listed = Vec::new();
    write_offers(&mut listed, offers);
    let mut hasher = blake3::Hasher::new_derive_key("mesh-sync handshake v1: datasets");
    hasher.update(&opening.0);
    hasher.update(&listed);
    *hasher.finalize().as_bytes()
}

/// The side that connects, waiting for the answer.
///
/// ```
/// use mesh_core::{ClusterName, NodeId, VersionRange};
/// use mesh_sync::entry::{AuthorKey, DatasetId};
/// use mesh_sync::handshake::{Features, HandshakeNonce, Initiator, Limits, Offer, Responder, Terms, Us};
///
/// let us = |name: &str, seed| -> Result<Us, mesh_core::IdError> {
///     Ok(Us {
///         key: AuthorKey::from_seed([seed; 32]),
///         terms: Terms {
///             versions: VersionRange::new(1, 1),
///             cluster: ClusterName::new("prod")?,
///             node: NodeId::new(name)?,
///             limits: Limits::default(),
///             features: Features::ZSTD,
///         },
///     })
/// };
/// let notes = Offer { dataset: DatasetId::new("notes")?, prune_digest: [0; 32] };
/// let (a, b) = (us("a", 1)?, us("b", 2)?);
/// let expected = Some(b.key.id());
///
/// let (initiator, hello) = Initiator::begin(a, expected, vec![notes.clone()], HandshakeNonce([1; 32]));
/// let (responder, answer) = Responder::new(b).handle_hello(&hello, HandshakeNonce([2; 32]))?;
/// let (initiator, proof) = initiator.handle_answer(&answer)?;
/// let proved = responder.handle_proof(&proof)?;
/// // Only now is there somebody to look up; here all that was asked for is open.
/// let open = proved.asked().to_vec();
/// let (at_b, verdict) = proved.grant(open);
/// let at_a = initiator.handle_verdict(&verdict)?;
/// assert_eq!((at_a.node.as_str(), at_b.node.as_str()), ("b", "a"));
/// assert_eq!(at_a.datasets, [notes]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Initiator {
    us: Us,
    expected: Option<AuthorId>,
    pub(super) offers: Vec<Offer>,
    opening: HandshakeNonce,
    transcript: Transcript,
}

impl Initiator {
    /// Begins a handshake for at most [`DATASETS_MAX`](super::DATASETS_MAX) datasets and gives its first message. With
    /// `expected`, another key at the other end is refused; without, anyone of the cluster is taken.
    pub fn begin(
        us: Us,
        expected: Option<AuthorId>,
        offers: Vec<Offer>,
        nonce: HandshakeNonce,
    ) -> (Self, Vec<u8>) {
        let offers = sorted(offers);
        // What goes out and what stays come from one secret, so that the caller draws once.
        let derive = |context| HandshakeNonce(blake3::derive_key(context, &nonce.0));
        let opening = derive("mesh-sync handshake v1: opening of the commitment");
        let hello = Hello {
            terms: us.terms.clone(),
            author: us.key.id(),
            expected,
            nonce: derive("mesh-sync handshake v1: public nonce"),
            commitment: commitment(&opening, &offers),
        };
        let hello = hello.encode();
        let mut transcript = Transcript::new();
        transcript.add(&hello);
        (Self { us, expected, offers, opening, transcript }, hello)
    }

    /// Takes the answer and gives the proof.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; tell the peer what [`HandshakeError::refusal`] says, and close.
    pub fn handle_answer(mut self, bytes: &[u8]) -> Result<(AwaitingVerdict, Vec<u8>), HandshakeError> {
        let answer = match Message::decode(bytes)? {
            Message::Answer(answer) => answer,
            other => return Err(unexpected(other, "an answer")),
        };
        let author = answer.author;
        if let Some(expected) = self.expected.filter(|expected| *expected != author) {
            return Err(HandshakeError::WrongPeer { expected, found: author });
        }
        let version = check_terms(&self.us, &answer.terms, author)?;
        let transcript = self.transcript.add(&answer.unsigned());
        check(author, ANSWER, &transcript, &answer.signature)?;
        let mut proof = Proof { opening: self.opening, offers: self.offers, signature: [0; 64] };
        let transcript = self.transcript.add(&proof.unsigned());
        proof.signature = sign(&self.us.key, PROOF, &transcript);
        let bytes = proof.encode();
        let next = AwaitingVerdict {
            us: self.us,
            theirs: answer.terms,
            author,
            version,
            asked: proof.offers,
            transcript: self.transcript,
        };
        Ok((next, bytes))
    }
}

/// The side that connects, after it has proved its key.
#[derive(Clone, Debug)]
pub struct AwaitingVerdict {
    us: Us,
    theirs: Terms,
    author: AuthorId,
    version: ProtocolVersion,
    asked: Vec<Offer>,
    transcript: Transcript,
}

impl AwaitingVerdict {
    /// Takes the verdict.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; tell the peer what [`HandshakeError::refusal`] says, and close.
    pub fn handle_verdict(mut self, bytes: &[u8]) -> Result<Established, HandshakeError> {
        let verdict = match Message::decode(bytes)? {
            Message::Verdict(verdict) => verdict,
            other => return Err(unexpected(other, "a verdict")),
        };
        let transcript = self.transcript.add(&verdict.unsigned());
        check(self.author, VERDICT, &transcript, &verdict.signature)?;
        let asked = |open: &Offer| self.asked.iter().any(|asked| asked.dataset == open.dataset);
        if !verdict.granted.iter().all(asked) {
            return Err(HandshakeError::Datasets { author: self.author });
        }
        Ok(established(&self.us, self.theirs, self.author, self.version, verdict.granted))
    }
}

/// The side that is connected to, waiting for the hello.
#[derive(Clone, Debug)]
pub struct Responder {
    us: Us,
}

impl Responder {
    /// Waits for the hello.
    pub const fn new(us: Us) -> Self {
        Self { us }
    }

    /// Takes the hello and gives the answer. Costs one signature; limit how many a stranger may ask for.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; tell the peer what [`HandshakeError::refusal`] says, and close.
    pub fn handle_hello(
        self,
        bytes: &[u8],
        nonce: HandshakeNonce,
    ) -> Result<(AwaitingProof, Vec<u8>), HandshakeError> {
        let hello = match Message::decode(bytes)? {
            Message::Hello(hello) => hello,
            other => return Err(unexpected(other, "a hello")),
        };
        let version = check_terms(&self.us, &hello.terms, hello.author)?;
        let found = self.us.key.id();
        if let Some(expected) = hello.expected.filter(|expected| *expected != found) {
            return Err(HandshakeError::WrongPeer { expected, found });
        }
        let mut transcript = Transcript::new();
        transcript.add(bytes);
        let mut answer = Answer { terms: self.us.terms.clone(), author: found, nonce, signature: [0; 64] };
        let said = transcript.add(&answer.unsigned());
        answer.signature = sign(&self.us.key, ANSWER, &said);
        let bytes = answer.encode();
        Ok((AwaitingProof { us: self.us, hello, version, transcript }, bytes))
    }
}

/// The side that is connected to, before the other one has proved anything. Drop it after a second or two.
#[derive(Clone, Debug)]
pub struct AwaitingProof {
    us: Us,
    hello: Hello,
    version: ProtocolVersion,
    transcript: Transcript,
}

impl AwaitingProof {
    /// Takes the proof.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; tell the peer what [`HandshakeError::refusal`] says, and close.
    pub fn handle_proof(mut self, bytes: &[u8]) -> Result<Proved, HandshakeError> {
        let author = self.hello.author;
        let proof = match Message::decode(bytes)? {
            Message::Proof(proof) => proof,
            other => return Err(unexpected(other, "a proof")),
        };
        let transcript = self.transcript.add(&proof.unsigned());
        check(author, PROOF, &transcript, &proof.signature)?;
        if commitment(&proof.opening, &proof.offers) != self.hello.commitment {
            return Err(HandshakeError::Datasets { author });
        }
        Ok(Proved {
            us: self.us,
            hello: self.hello,
            version: self.version,
            asked: proof.offers,
            transcript: self.transcript,
        })
    }
}

/// The side that is connected to, after the other one has proved its key. It decides what is open.
#[derive(Clone, Debug)]
pub struct Proved {
    us: Us,
    hello: Hello,
    version: ProtocolVersion,
    asked: Vec<Offer>,
    transcript: Transcript,
}

impl Proved {
    /// Who it is.
    pub const fn author(&self) -> AuthorId {
        self.hello.author
    }

    /// The node that it says it is.
    pub const fn node(&self) -> &mesh_core::NodeId {
        &self.hello.terms.node
    }

    /// The datasets that it asks for, with its digests of what was pruned.
    pub fn asked(&self) -> &[Offer] {
        &self.asked
    }

    /// Opens these datasets, of those that were asked for, with our own digests, and gives the verdict. To let nobody
    /// in, send [`Refusal::Access`](super::Refusal::Access) instead.
    pub fn grant(mut self, open: Vec<Offer>) -> (Established, Vec<u8>) {
        let is_open = |dataset| open.iter().any(|open: &Offer| open.dataset == dataset);
        let theirs: Vec<_> =
            self.asked.iter().filter(|asked| is_open(asked.dataset.clone())).cloned().collect();
        let granted = open.iter().filter(|open| theirs.iter().any(|asked| asked.dataset == open.dataset));
        let mut verdict = Verdict { granted: sorted(granted.cloned().collect()), signature: [0; 64] };
        let said = self.transcript.add(&verdict.unsigned());
        verdict.signature = sign(&self.us.key, VERDICT, &said);
        let author = self.hello.author;
        (established(&self.us, self.hello.terms, author, self.version, theirs), verdict.encode())
    }
}
