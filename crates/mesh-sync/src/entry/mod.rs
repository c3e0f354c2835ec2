//! Entries: immutable, signed, and named by the hash of everything that they say.
//!
//! [`Author`] makes them, [`Entry::decode`] reads what came from elsewhere, [`verify`] and [`verify_batch`] turn
//! it into something that a store takes, and [`Admission`] holds back what comes from the future.
//!
//! # Encoding
//!
//! One encoding, in memory, on the wire and on disk, so that the bytes of an entry never change on their way:
//!
//! ```text
//! size
//!    1   format version: 1
//!    1   kind: 1 put, 2 delete, 3 blob
//!  1+n   dataset: its length, then its text
//!   32   author: an Ed25519 public key
//!    8   the author's sequence number, from 1
//!    8   hybrid timestamp, as `Hlc::to_bits` gives it
//!  1+32n parents: how many, then their ids in ascending order, none twice
//!  1+n   collection: its length, then its text
//!  2+n   key: its length, then its bytes
//!    4   length of the payload
//!          --- the header ends here ---
//!    n   payload
//!   64   signature: Ed25519 over SIGNATURE_CONTEXT followed by the id
//! ```
//!
//! Numbers are big endian. Every field has one spelling: lengths are of a fixed size, texts are checked, and what
//! follows the signature is refused. So two encodings of one entry can't exist, and the header needs no second,
//! canonical form to be hashed.
//!
//! **The id is BLAKE3, in its plain mode, over the header and the payload**: every byte above except the
//! signature. The signature covers the id behind [`SIGNATURE_CONTEXT`], so that a signature for a handshake can't
//! be passed off as one for an entry.
//!
//! An archive of rkyv would have been a second encoding beside the one that is hashed, since its bytes depend on
//! the layout of a type; reading this one takes no copy either.

mod admission;
mod author;
mod decode;
mod names;
mod outcome;
mod points;
mod signature;

use std::fmt;

use bytes::Bytes;
use mesh_core::Hlc;

use self::decode::Layout;
pub use self::{
    admission::{Admission, AdmissionConfig, Admitted},
    author::{Author, AuthorKey, Draft, DraftError},
    decode::DecodeError,
    names::{AuthorId, AuthorSequence, Collection, DatasetId, NameError},
    outcome::{Deferral, Equivocation, Outcome, Rejection},
    points::PointError,
    signature::{SignatureError, Verified, verify, verify_batch, verify_message},
};
use crate::{EntryId, Item};

/// The only format there is so far.
pub const FORMAT_VERSION: u8 = 1;
/// The longest name of a dataset, in bytes.
pub const DATASET_BYTES_MAX: usize = 63;
/// The longest name of a collection, in bytes.
pub const COLLECTION_BYTES_MAX: usize = 63;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// The most parents of an entry.
pub const PARENTS_MAX: usize = 16;
/// The largest payload, in bytes. What is larger becomes a `blob`: a manifest of chunks.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The largest entry, encoded.
pub const ENTRY_BYTES_MAX: usize = 2
    + (1 + DATASET_BYTES_MAX)
    + 32
    + 16
    + (1 + 32 * PARENTS_MAX)
    + (1 + COLLECTION_BYTES_MAX)
    + (2 + KEY_BYTES_MAX)
    + 4
    + PAYLOAD_BYTES_MAX
    + SIGNATURE_BYTES;
/// What is signed before the id.
pub const SIGNATURE_CONTEXT: &[u8] = b"mesh-sync entry v1\0";

const SIGNATURE_BYTES: usize = 64;

/// What an entry does to the document that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The payload is the document's new value.
    Put,
    /// The document is deleted; there is no payload.
    Delete,
    /// The payload is a manifest, and the value is the chunks that it lists.
    Blob,
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
            Self::Blob => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            3 => Some(Self::Blob),
            _ => None,
        }
    }
}

/// An entry whose form was checked. Nothing is said about who made it: that is [`Verified`]'s part.
///
/// Cloning is cheap, the bytes are shared.
#[derive(Clone)]
pub struct Entry {
    bytes: Bytes,
    id: EntryId,
    layout: Layout,
}

impl Entry {
    /// Reads an entry from exactly these bytes, checks its form, and computes its id.
    ///
    /// Nothing is copied; the entry keeps the buffer. Pass one of its own if `bytes` is a small part of a large
    /// frame and the entry lives long.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] tells the first thing that is wrong. No bytes make it panic.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let layout = decode::layout(&bytes)?;
        let left_out = crate::planted::left_out_of_hash(layout.payload.len());
        let hashed = bytes.len() - SIGNATURE_BYTES - left_out;
        let id = EntryId(*blake3::hash(&bytes[..hashed]).as_bytes());
        Ok(Self { bytes, id, layout })
    }

    /// The entry's name.
    pub const fn id(&self) -> EntryId {
        self.id
    }

    /// What reconciliation needs of it.
    pub const fn item(&self) -> Item {
        Item { hlc: self.layout.hlc, id: self.id }
    }

    /// The dataset that it belongs to.
    pub const fn dataset(&self) -> &DatasetId {
        &self.layout.dataset
    }

    /// Who made it.
    pub const fn author(&self) -> AuthorId {
        self.layout.author
    }

    /// Which of its author's entries it is.
    pub const fn sequence(&self) -> AuthorSequence {
        self.layout.sequence
    }

    /// When it was made.
    pub const fn hlc(&self) -> Hlc {
        self.layout.hlc
    }

    /// What it does.
    pub const fn kind(&self) -> Kind {
        self.layout.kind
    }

    /// The entries that its author knew and builds on, in ascending order.
    pub fn parents(&self) -> impl ExactSizeIterator<Item = EntryId> + '_ {
        self.bytes[self.layout.parents.clone()].chunks_exact(32).map(|parent| {
            let mut id = [0; 32];
            id.copy_from_slice(parent);
            EntryId(id)
        })
    }

    /// The collection of the document.
    pub const fn collection(&self) -> &Collection {
        &self.layout.collection
    }

    /// The key of the document within its collection.
    pub fn key(&self) -> &[u8] {
        &self.bytes[self.layout.key.clone()]
    }

    /// What it carries.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(self.layout.payload.clone())
    }

    /// The signature, as it came in.
    pub fn signature(&self) -> [u8; 64] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(&self.bytes[self.bytes.len() - SIGNATURE_BYTES..]);
        signature
    }

    /// All its bytes, as they came in. [`Entry::decode`] reads them back.
    pub const fn encoded(&self) -> &Bytes {
        &self.bytes
    }

    fn signed_message(&self) -> [u8; SIGNATURE_CONTEXT.len() + 32] {
        signed_message(self.id)
    }
}

fn signed_message(id: EntryId) -> [u8; SIGNATURE_CONTEXT.len() + 32] {
    let mut message = [0; SIGNATURE_CONTEXT.len() + 32];
    message[..SIGNATURE_CONTEXT.len()].copy_from_slice(SIGNATURE_CONTEXT);
    message[SIGNATURE_CONTEXT.len()..].copy_from_slice(id.as_bytes());
    message
}

/// Two entries are equal if they have the same bytes: the same id may have been signed twice.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("dataset", self.dataset())
            .field("author", &self.author())
            .field("sequence", &self.sequence())
            .field("hlc", &self.hlc())
            .field("kind", &self.kind())
            .field("payload_bytes", &self.layout.payload.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
