//! One number for a set of entries, kept up to date as they come and go.

use std::fmt;

use crate::{EntryId, entry::DatasetId};

/// The key of a set hash. It is no secret among the peers of a dataset, but whoever makes an entry should not be
/// able to choose it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetKey(pub [u8; 32]);

impl SetKey {
    /// The public key of a dataset's epoch.
    pub fn of_epoch(dataset: &DatasetId, epoch: u64) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("mesh-sync set hash v1");
        hash.update(&epoch.to_be_bytes());
        hash.update(dataset.as_str().as_bytes());
        Self(*hash.finalize().as_bytes())
    }

    fn term(&self, id: &EntryId) -> u128 {
        let hash = blake3::keyed_hash(&self.0, id.as_bytes());
        let mut term = [0; 16];
        term.copy_from_slice(&hash.as_bytes()[..16]);
        u128::from_be_bytes(term)
    }
}

/// The sum, modulo 2^128, of the first 16 bytes of each id's keyed BLAKE3 hash. It does not depend on the order in
/// which entries came.
///
/// It tells honest replicas apart. Against one that forges sums there is the salted hash over the whole set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SetHash(pub u128);

impl SetHash {
    /// Adds an entry that was not in the set.
    pub fn add(&mut self, key: &SetKey, id: &EntryId) {
        self.0 = self.0.wrapping_add(key.term(id));
    }

    /// Takes out an entry that was in the set.
    pub fn remove(&mut self, key: &SetKey, id: &EntryId) {
        self.0 = self.0.wrapping_sub(key.term(id));
    }
}

impl fmt::Display for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
