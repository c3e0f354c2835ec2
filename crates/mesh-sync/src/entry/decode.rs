//! Reads the form of an entry.

use std::ops::Range;

use mesh_core::Hlc;

use super::{
    AuthorId, AuthorSequence, Collection, DatasetId, ENTRY_BYTES_MAX, FORMAT_VERSION, KEY_BYTES_MAX, Kind,
    NameError, PARENTS_MAX, PAYLOAD_BYTES_MAX, SIGNATURE_BYTES,
};

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the entry ends within its {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// There is more than an entry.
    #[error("{bytes} bytes follow the entry")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A newer program made it.
    #[error("the entry has format version {found}, this program reads {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u8,
    },
    /// Its kind is unknown.
    #[error("the entry has the unknown kind {found}")]
    Kind {
        /// What stands for the kind.
        found: u8,
    },
    /// A field is longer than it may be.
    #[error("the {field} has {found}, at most {max} are allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Parents are not in ascending order, or one is there twice.
    #[error("the parents are not in ascending order, or one of them is there twice")]
    Parents,
    /// The sequence number is 0; they start at 1.
    #[error("the author's sequence number is 0, they start at 1")]
    SequenceZero,
    /// A `delete` carries a payload.
    #[error("a delete carries a payload of {bytes} bytes, it must have none")]
    DeleteWithPayload {
        /// Its length.
        bytes: usize,
    },
}

/// Where the fields of a checked entry are, and those that are small.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    pub(super) dataset: DatasetId,
    pub(super) author: AuthorId,
    pub(super) sequence: AuthorSequence,
    pub(super) hlc: Hlc,
    pub(super) parents: Range<usize>,
    pub(super) collection: Collection,
    pub(super) key: Range<usize>,
    pub(super) payload: Range<usize>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError::Truncated { field })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn range(&mut self, length: usize, field: &'static str) -> Result<Range<usize>, DecodeError> {
        let start = self.at;
        self.take(length, field)?;
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }
}

fn limit(field: &'static str, found: usize, max: usize) -> Result<usize, DecodeError> {
    if found > max { Err(DecodeError::TooLong { field, found, max }) } else { Ok(found) }
}

pub(super) fn layout(bytes: &[u8]) -> Result<Layout, DecodeError> {
    limit("entry", bytes.len(), ENTRY_BYTES_MAX)?;
    let mut reader = Reader { bytes, at: 0 };
    let found = reader.byte("version")?;
    if found != FORMAT_VERSION {
        return Err(DecodeError::Version { found });
    }
    let found = reader.byte("kind")?;
    let kind = Kind::from_code(found).ok_or(DecodeError::Kind { found })?;
    let length = usize::from(reader.byte("dataset")?);
    let dataset = DatasetId::from_bytes(reader.take(length, "dataset")?)?;
    let author = AuthorId(reader.array("author")?);
    let sequence = AuthorSequence(u64::from_be_bytes(reader.array("sequence")?));
    if sequence < AuthorSequence::FIRST {
        return Err(DecodeError::SequenceZero);
    }
    let hlc = Hlc::from_bits(u64::from_be_bytes(reader.array("timestamp")?));
    let count = limit("list of parents", reader.byte("parents")?.into(), PARENTS_MAX)?;
    let parents = reader.range(32 * count, "parents")?;
    let ascending = bytes[parents.clone()].chunks_exact(32).is_sorted_by(|one, next| one < next);
    if !ascending {
        return Err(DecodeError::Parents);
    }
    let length = usize::from(reader.byte("collection")?);
    let collection = Collection::from_bytes(reader.take(length, "collection")?)?;
    let length = limit("key", u16::from_be_bytes(reader.array("key")?).into(), KEY_BYTES_MAX)?;
    let key = reader.range(length, "key")?;
    let length = u32::from_be_bytes(reader.array("payload's length")?);
    let length = limit("payload", usize::try_from(length).unwrap_or(usize::MAX), PAYLOAD_BYTES_MAX)?;
    if kind == Kind::Delete && length > 0 {
        return Err(DecodeError::DeleteWithPayload { bytes: length });
    }
    let payload = reader.range(length, "payload")?;
    reader.take(SIGNATURE_BYTES, "signature")?;
    match bytes.len() - reader.at {
        0 => Ok(Layout { kind, dataset, author, sequence, hlc, parents, collection, key, payload }),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}
