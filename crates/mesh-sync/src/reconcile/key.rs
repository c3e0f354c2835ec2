//! The keys under which items are hashed: one per epoch of a dataset, and one per session.

use std::fmt;

use super::sip::SipKey;
use crate::EntryId;

/// An entry id of eight bytes under some key: what sketches and lists carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShortId(pub u64);

/// The public key of a dataset's epoch, under which the cached hashes are kept.
///
/// It is no secret. It makes ids that were prepared for one dataset or epoch worthless in the next, and peers that
/// hold different ones know that their cached hashes can't be compared.
///
/// ```
/// use mesh_sync::reconcile::EpochKey;
/// let key = EpochKey::derive("orders", 7);
/// assert_eq!(key, EpochKey::derive("orders", 7));
/// assert_ne!(key.tag(), EpochKey::derive("orders", 8).tag());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EpochKey([u8; 32]);

impl EpochKey {
    /// The key of `epoch` of the dataset called `dataset`.
    pub fn derive(dataset: &str, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mesh-sync 2026 reconcile epoch");
        hasher.update(&epoch.to_le_bytes());
        hasher.update(dataset.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A short name of the key, by which two peers see whether theirs is the same.
    pub fn tag(&self) -> u64 {
        let hash = blake3::keyed_hash(&self.0, b"tag");
        word(hash.as_bytes(), 0)
    }

    pub(super) fn hasher(&self) -> ItemHasher {
        ItemHasher::from_key(&self.0)
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKey({:016x})", self.tag())
    }
}

/// Random bytes that one side brings into a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce(pub [u8; 16]);

/// A key of one session, made of what both sides brought, so that neither can choose it.
pub(super) fn session_hasher(initiator: Nonce, responder: Nonce) -> ItemHasher {
    let mut hasher = blake3::Hasher::new_derive_key("mesh-sync 2026 reconcile session");
    hasher.update(&initiator.0);
    hasher.update(&responder.0);
    ItemHasher::from_key(hasher.finalize().as_bytes())
}

/// Hashes items under a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemHasher {
    sip: SipKey,
    seed: u64,
    check: u64,
}

impl ItemHasher {
    fn from_key(key: &[u8; 32]) -> Self {
        Self { sip: SipKey { k0: word(key, 0), k1: word(key, 1) }, seed: word(key, 2), check: word(key, 3) }
    }

    /// The summand of an item in additive hashes.
    #[inline]
    pub(super) fn hash(&self, id: &EntryId) -> u128 {
        let id = id.as_bytes();
        self.sip.hash([word(id, 0), word(id, 1), word(id, 2), word(id, 3)])
    }

    /// The short id of an item.
    #[inline]
    pub(super) fn short(&self, id: &EntryId) -> ShortId {
        short_of(self.hash(id))
    }

    /// A fingerprint of a sum, which can be compared in this session only.
    pub(super) fn seal(&self, count: u64, sum: u128) -> u64 {
        short_of(self.sip.hash([count, sum as u64, (sum >> 64) as u64])).0
    }

    /// Where the walk of a short id through the cells of a sketch begins.
    ///
    /// This is one-to-one: two short ids never share all of their cells. It has nothing in common with
    /// [`ItemHasher::check_of`], or two items with one check would share their cells too, and the stream that
    /// carries both would never decode.
    #[inline]
    pub(super) fn seed_of(&self, short: ShortId) -> u64 {
        mix(short.0 ^ self.seed)
    }

    /// What tells a cell with one item from a cell with several: 24 bits. The decoder also looks whether the item
    /// belongs in the cell, so one cell in some ten thousand million is mistaken.
    #[inline]
    pub(super) fn check_of(&self, short: ShortId) -> u32 {
        (mix(short.0.rotate_left(32).wrapping_add(self.check)) >> 40) as u32
    }
}

/// The short id of the item that has this hash.
#[inline]
pub(super) fn short_of(hash: u128) -> ShortId {
    ShortId(hash as u64)
}

/// A bijection whose output bits depend on all input bits (the finaliser of splitmix64).
#[inline]
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[inline]
fn word(bytes: &[u8; 32], index: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn two_items_with_one_check_do_not_share_their_seed() {
        let hasher = EpochKey::derive("seed", 1).hasher();
        let mut by_check = BTreeMap::new();
        let mut pairs = 0;
        for n in 0..40_000_u64 {
            let short = ShortId(mix(n));
            if let Some(other) = by_check.insert(hasher.check_of(short), short) {
                assert_ne!(hasher.seed_of(other), hasher.seed_of(short));
                pairs += 1;
            }
        }
        assert!(pairs > 0, "the birthday bound gives some fifty pairs");
    }
}
