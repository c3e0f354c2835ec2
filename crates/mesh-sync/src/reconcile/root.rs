//! What a replica says about its whole set in forty bytes.

use std::fmt;

use super::{
    key::{EpochKey, ItemHasher},
    wire::{Reader, WireError, put_varint},
};
use crate::EntryId;

/// An additive hash of a set, 128 bits wide, under a key.
///
/// Items are added and taken out in any order. Someone who makes entries by the million can construct two sets with
/// one sum under a key that they know, so now and then peers compare sums under a fresh one ([`Index::audit`]).
///
/// [`Index::audit`]: super::Index::audit
///
/// ```
/// use mesh_sync::{EntryId, reconcile::{EpochKey, SetHash}};
/// let key = EpochKey::derive("orders", 1);
/// let mut hash = SetHash::default();
/// hash.insert(&key, &EntryId([1; 32]));
/// hash.insert(&key, &EntryId([2; 32]));
/// hash.remove(&key, &EntryId([1; 32]));
/// let mut other = SetHash::default();
/// other.insert(&key, &EntryId([2; 32]));
/// assert_eq!(hash, other);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SetHash(pub u128);

impl SetHash {
    /// Adds an item that is not in the set.
    pub fn insert(&mut self, key: &EpochKey, id: &EntryId) {
        self.add(key.hasher().hash(id));
    }

    /// Takes out an item that is in the set.
    pub fn remove(&mut self, key: &EpochKey, id: &EntryId) {
        self.subtract(key.hasher().hash(id));
    }

    pub(super) fn of<'i>(hasher: &ItemHasher, ids: impl IntoIterator<Item = &'i EntryId>) -> Self {
        let mut sum = Self::default();
        ids.into_iter().for_each(|id| sum.add(hasher.hash(id)));
        sum
    }

    pub(super) fn add(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash);
    }

    pub(super) fn subtract(&mut self, hash: u128) {
        self.0 = self.0.wrapping_sub(hash);
    }
}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetHash({:032x})", self.0)
    }
}

/// A place in the order in which a store's entries arrived. Places of different incarnations can't be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrival {
    /// Which life of the store this is; a store that was restored from a copy begins a new one.
    pub incarnation: u64,
    /// How many entries had arrived.
    pub sequence: u64,
}

impl Arrival {
    /// Whether a peer whose cursor is at `cursor` can be told what arrived since.
    ///
    /// A cursor ahead of the store was made before the store lost something, so it counts as another incarnation.
    pub fn serves(&self, cursor: &Arrival) -> bool {
        self.incarnation == cursor.incarnation && cursor.sequence <= self.sequence
    }
}

/// What the heartbeat carries: equal counts and hashes mean equal sets.
///
/// ```
/// use mesh_sync::reconcile::Root;
/// let root = Root { count: 3, ..Root::default() };
/// assert_eq!(Root::decode(&root.encode())?, root);
/// # Ok::<(), mesh_sync::reconcile::WireError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Root {
    /// How many entries the set holds.
    pub count: u64,
    /// The sum of their hashes under the epoch's key.
    pub hash: SetHash,
    /// How far the store's arrivals have come.
    pub arrival: Arrival,
}

impl Root {
    /// How long an encoded root is.
    pub const BYTES: usize = 40;

    /// Whether both name the same set, however it arrived.
    pub fn same_set(&self, other: &Root) -> bool {
        self.count == other.count && self.hash == other.hash
    }

    /// The root as bytes.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.count.to_le_bytes());
        out[8..24].copy_from_slice(&self.hash.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.arrival.sequence.to_le_bytes());
        out[32..].copy_from_slice(&self.arrival.incarnation.to_le_bytes());
        out
    }

    /// The root that `bytes` hold.
    ///
    /// # Errors
    ///
    /// [`WireError`] if there are more or fewer than [`Root::BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let root = Self::read(&mut reader)?;
        reader.end()?;
        Ok(root)
    }

    /// As few bytes as will do, in messages that are no heartbeats.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.count);
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        put_varint(out, self.arrival.sequence);
        out.extend_from_slice(&self.arrival.incarnation.to_le_bytes());
    }

    pub(super) fn read_short(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.varint()?;
        let hash = SetHash(reader.u128()?);
        let sequence = reader.varint()?;
        Ok(Self { count, hash, arrival: Arrival { incarnation: reader.u64()?, sequence } })
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.u64()?;
        let hash = SetHash(reader.u128()?);
        let sequence = reader.u64()?;
        let incarnation = reader.u64()?;
        Ok(Self { count, hash, arrival: Arrival { incarnation, sequence } })
    }
}
