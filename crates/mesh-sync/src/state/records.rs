//! The records, and how they are written.

use std::time::Duration;

use mesh_core::{NodeId, WallTime};

use super::Space;
use crate::{
    codec::{
        Reader, WireError, cut, put_bytes, put_varint, take_bytes, take_count, take_text, take_version,
        take_wall,
    },
    entry::AuthorId,
    store::{Arrival, MetadataWrite, StoreIncarnation},
};

const VERSION: u8 = 1;
/// Most addresses of a peer.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// Longest address, in bytes.
pub(crate) const ADDRESS_BYTES_MAX: usize = 255;
const NOTE_BYTES_MAX: usize = 200;

fn finish<T>(reader: &Reader<'_>, value: T) -> Result<T, WireError> {
    reader.end().map(|()| value)
}

/// How far a peer's entries were read, in the order in which they arrived there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The store that the number belongs to. In another one it means nothing.
    pub incarnation: StoreIncarnation,
    /// The last arrival that was read and is durable here.
    pub arrival: Arrival,
}

impl Cursor {
    /// The write that keeps it. Commit it together with the entries that it stands for, with
    /// [`EntryStore::insert_batch`](crate::store::EntryStore::insert_batch).
    ///
    /// ```
    /// use mesh_sync::state::Cursor;
    /// use mesh_sync::store::{Arrival, StoreIncarnation};
    ///
    /// let peer = mesh_core::NodeId::new("b")?;
    /// let cursor = Cursor { incarnation: StoreIncarnation(7), arrival: Arrival(9) };
    /// let write = cursor.write(&peer);
    /// assert_eq!(Cursor::decode(&write.value.expect("a value"))?, cursor);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, peer: &NodeId) -> MetadataWrite {
        let mut value = vec![VERSION];
        value.extend_from_slice(&self.incarnation.0.to_le_bytes());
        put_varint(&mut value, self.arrival.0);
        MetadataWrite { key: Space::CURSOR.peer_key(peer, &[]), value: Some(value) }
    }

    /// The write that forgets a peer's cursor.
    pub fn forget(peer: &NodeId) -> MetadataWrite {
        MetadataWrite { key: Space::CURSOR.peer_key(peer, &[]), value: None }
    }

    /// Reads what [`Cursor::write`] wrote.
    ///
    /// # Errors
    ///
    /// [`WireError`], if it is not that.
    pub fn decode(value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a cursor", VERSION)?;
        let cursor =
            Self { incarnation: StoreIncarnation(reader.u64()?), arrival: Arrival(reader.varint()?) };
        finish(&reader, cursor)
    }

    /// Whether to go on from it at a store that says this of itself. A cursor of another incarnation, or ahead of
    /// what the store has, as after a restored disk, is worth nothing: reconcile, and begin a new one.
    pub fn fits(&self, incarnation: StoreIncarnation, last: Arrival) -> bool {
        self.incarnation == incarnation && self.arrival <= last
    }
}

/// Whether a peer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It syncs, and pruning waits for it.
    Active,
    /// An operator gave it up: pruning no longer waits for it.
    Retired,
}

/// A peer of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    /// The key that it proves, once it is known; another one is refused then.
    pub author: Option<AuthorId>,
    /// Where it is found, best first; at most 16, of 255 bytes.
    pub addresses: Vec<String>,
    /// Whether it counts.
    pub standing: Standing,
    /// Since when it is a peer.
    pub since: WallTime,
}

impl Relationship {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        match &self.author {
            None => value.push(0),
            Some(author) => {
                value.push(1);
                value.extend_from_slice(author.as_bytes());
            }
        }
        value.push(match self.standing {
            Standing::Active => 0,
            Standing::Retired => 1,
        });
        put_varint(&mut value, self.since.0);
        put_varint(&mut value, self.addresses.len() as u64);
        self.addresses.iter().for_each(|address| put_bytes(&mut value, address.as_bytes()));
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a relationship", VERSION)?;
        let author = match reader.u8()? {
            0 => None,
            1 => Some(AuthorId(reader.array()?)),
            other => return Err(WireError::Invalid { what: "the tag of a key", value: other.into() }),
        };
        let standing = match reader.u8()? {
            0 => Standing::Active,
            1 => Standing::Retired,
            other => return Err(WireError::Invalid { what: "a standing", value: other.into() }),
        };
        let since = take_wall(&mut reader)?;
        let count = take_count(&mut reader, "the number of addresses", ADDRESSES_MAX)?;
        let addresses = (0..count)
            .map(|_| take_text(&mut reader, "the length or text of an address", ADDRESS_BYTES_MAX))
            .collect::<Result<_, _>>()?;
        finish(&reader, Self { author, addresses, standing, since })
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoundEnd {
    /// Both sides have the same entries, as of its start.
    Equal,
    /// Entries came or went, and there is more.
    Progress,
    /// It failed.
    Failed,
}

/// One round with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it began.
    pub begun: WallTime,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub end: RoundEnd,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Bytes that came in.
    pub bytes_received: u64,
    /// Entries that were sent.
    pub entries_sent: u64,
    /// Entries that came in and are durable.
    pub entries_received: u64,
    /// The method of reconciliation, or why it failed; at most 200 bytes are kept.
    pub note: String,
}

impl Round {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.push(match self.end {
            RoundEnd::Equal => 0,
            RoundEnd::Progress => 1,
            RoundEnd::Failed => 2,
        });
        let took = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        let numbers = [
            self.begun.0,
            took,
            self.bytes_sent,
            self.bytes_received,
            self.entries_sent,
            self.entries_received,
        ];
        numbers.iter().for_each(|number| put_varint(&mut value, *number));
        put_bytes(&mut value, cut(&self.note, NOTE_BYTES_MAX).as_bytes());
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a round", VERSION)?;
        let end = match reader.u8()? {
            0 => RoundEnd::Equal,
            1 => RoundEnd::Progress,
            2 => RoundEnd::Failed,
            other => return Err(WireError::Invalid { what: "the end of a round", value: other.into() }),
        };
        let round = Self {
            end,
            begun: take_wall(&mut reader)?,
            took: Duration::from_micros(reader.varint()?),
            bytes_sent: reader.varint()?,
            bytes_received: reader.varint()?,
            entries_sent: reader.varint()?,
            entries_received: reader.varint()?,
            note: String::from_utf8_lossy(take_bytes(&mut reader, "the length of a note", NOTE_BYTES_MAX)?)
                .into_owned(),
        };
        finish(&reader, round)
    }
}
