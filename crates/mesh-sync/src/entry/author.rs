//! Makes entries.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use ed25519_zebra::SigningKey;
use mesh_core::Hlc;

use super::{
    AuthorId, AuthorSequence, Collection, DatasetId, Entry, FORMAT_VERSION, KEY_BYTES_MAX, Kind, PARENTS_MAX,
    PAYLOAD_BYTES_MAX, SIGNATURE_BYTES, Verified, signature::in_context, signed_message,
};
use crate::EntryId;

/// An Ed25519 signing key. Never shown.
#[derive(Clone)]
pub struct AuthorKey(SigningKey);

impl AuthorKey {
    /// The key that these 32 secret bytes stand for.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from(seed))
    }

    /// The public key.
    pub fn id(&self) -> AuthorId {
        AuthorId(self.0.verification_key().into())
    }

    /// Signs something that is no entry, as a handshake. The context tells what it is for; whoever checks it with
    /// [`verify_message`](super::verify_message) names the same one.
    pub fn sign_message(&self, context: &str, message: &[u8]) -> [u8; 64] {
        self.0.sign(&in_context(context, message)).to_bytes()
    }
}

impl fmt::Debug for AuthorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthorKey").field(&self.id()).finish_non_exhaustive()
    }
}

/// What an entry is to say, before it gets its author, number and timestamp.
#[derive(Clone, Debug)]
pub struct Draft {
    kind: Kind,
    collection: Collection,
    key: Bytes,
    payload: Bytes,
    parents: Vec<EntryId>,
}

impl Draft {
    /// Sets the value of a document.
    pub fn put(collection: &Collection, key: impl Into<Bytes>, payload: impl Into<Bytes>) -> Self {
        Self::new(Kind::Put, collection, key.into(), payload.into())
    }

    /// Deletes a document.
    pub fn delete(collection: &Collection, key: impl Into<Bytes>) -> Self {
        Self::new(Kind::Delete, collection, key.into(), Bytes::new())
    }

    /// Sets the value of a document to what the chunks of `manifest` make up.
    pub fn blob(collection: &Collection, key: impl Into<Bytes>, manifest: impl Into<Bytes>) -> Self {
        Self::new(Kind::Blob, collection, key.into(), manifest.into())
    }

    fn new(kind: Kind, collection: &Collection, key: Bytes, payload: Bytes) -> Self {
        Self { kind, collection: collection.clone(), key, payload, parents: Vec::new() }
    }

    /// The document that it is about.
    pub fn document(&self) -> crate::documents::DocumentKey {
        crate::documents::DocumentKey { collection: self.collection.clone(), key: self.key.clone() }
    }

    /// Names the entries that this one builds on, in any order. Its timestamp has to be above theirs.
    #[must_use]
    pub fn after(mut self, parents: impl IntoIterator<Item = EntryId>) -> Self {
        self.parents.extend(parents);
        self.parents.sort_unstable();
        self.parents.dedup();
        self
    }
}

/// Why an entry was not made. No sequence number was used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// A part is longer than it may be.
    #[error("the {field} has {found}, at most {max} are allowed")]
    TooLong {
        /// The part.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// The author has used up all numbers.
    #[error("author {author} has used up its sequence numbers")]
    SequenceExhausted {
        /// The author.
        author: AuthorId,
    },
}

/// Makes the entries of one author in one dataset, each with the next sequence number.
///
/// After a restart it has to go on behind the highest number that was ever used, or two entries share one, which
/// others report as equivocation: take the store's
/// [`head`](crate::store::EntryStore::head), and store an entry before it is shown to anybody.
///
/// ```
/// use mesh_core::{Hlc, WallTime};
/// use mesh_sync::entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Entry, verify};
///
/// let dataset = DatasetId::new("notes")?;
/// let mut author = Author::new(AuthorKey::from_seed([7; 32]), dataset, AuthorSequence::FIRST);
/// let list = Collection::new("shopping")?;
/// let entry = author.sign(Draft::put(&list, "milk", "2 l"), Hlc::from_wall(WallTime(1_000)))?;
///
/// let received = Entry::decode(entry.encoded().clone())?;
/// assert_eq!(verify(received)?.id(), entry.id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Author {
    key: AuthorKey,
    dataset: DatasetId,
    next: Option<AuthorSequence>,
}

impl Author {
    /// An author whose next entry has the number `next`.
    pub const fn new(key: AuthorKey, dataset: DatasetId, next: AuthorSequence) -> Self {
        Self { key, dataset, next: Some(next) }
    }

    /// The public key.
    pub fn id(&self) -> AuthorId {
        self.key.id()
    }

    /// The number of the next entry; `None` when they are used up.
    pub const fn next_sequence(&self) -> Option<AuthorSequence> {
        self.next
    }

    /// Makes an entry of `draft`. `hlc` comes from the node's [`HlcClock`](mesh_core::HlcClock) and has to be above
    /// those of the parents.
    ///
    /// # Errors
    ///
    /// [`DraftError`]; no sequence number was used up.
    pub fn sign(&mut self, draft: Draft, hlc: Hlc) -> Result<Verified, DraftError> {
        let author = self.id();
        let sequence = self.next.filter(|next| *next >= AuthorSequence::FIRST);
        let sequence = sequence.ok_or(DraftError::SequenceExhausted { author })?;
        check_lengths(&draft)?;
        let mut bytes = header(&draft, &self.dataset, author, sequence, hlc);
        bytes.put_slice(&draft.payload);
        let hashed = bytes.len() - crate::planted::left_out_of_hash(draft.payload.len());
        let id = EntryId(*blake3::hash(&bytes[..hashed]).as_bytes());
        let signature = self.key.0.sign(&signed_message(id));
        bytes.put_slice(&signature.to_bytes());
        let entry = Entry::decode(bytes.freeze()).expect("what an author makes can be read");
        self.next = sequence.next();
        Ok(Verified::trust(entry))
    }
}

fn check_lengths(draft: &Draft) -> Result<(), DraftError> {
    let limits = [
        ("key", draft.key.len(), KEY_BYTES_MAX),
        ("payload", draft.payload.len(), PAYLOAD_BYTES_MAX),
        ("list of parents", draft.parents.len(), PARENTS_MAX),
    ];
    match limits.into_iter().find(|(_, found, max)| found > max) {
        Some((field, found, max)) => Err(DraftError::TooLong { field, found, max }),
        None => Ok(()),
    }
}

fn header(
    draft: &Draft,
    dataset: &DatasetId,
    author: AuthorId,
    sequence: AuthorSequence,
    hlc: Hlc,
) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(512 + draft.key.len() + draft.payload.len() + SIGNATURE_BYTES);
    bytes.put_u8(FORMAT_VERSION);
    bytes.put_u8(draft.kind.code());
    put_short(&mut bytes, dataset.as_str().as_bytes());
    bytes.put_slice(author.as_bytes());
    bytes.put_u64(sequence.0);
    bytes.put_u64(hlc.to_bits());
    bytes.put_u8(u8::try_from(draft.parents.len()).expect("at most PARENTS_MAX"));
    draft.parents.iter().for_each(|parent| bytes.put_slice(parent.as_bytes()));
    put_short(&mut bytes, draft.collection.as_str().as_bytes());
    bytes.put_u16(u16::try_from(draft.key.len()).expect("at most KEY_BYTES_MAX"));
    bytes.put_slice(&draft.key);
    bytes.put_u32(u32::try_from(draft.payload.len()).expect("at most PAYLOAD_BYTES_MAX"));
    bytes
}

fn put_short(bytes: &mut BytesMut, text: &[u8]) {
    bytes.put_u8(u8::try_from(text.len()).expect("names have at most 63 bytes"));
    bytes.put_slice(text);
}
