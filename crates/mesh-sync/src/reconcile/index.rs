//! What a replica keeps in memory about its set, so that sessions cost nothing that grows with it.

use std::fmt;

use super::{
    key::{EpochKey, ItemHasher, Nonce, ShortId, session_hasher, short_of},
    order::{Order, Sum, View},
    root::{Arrival, Root, SetHash},
    sketch::{Sketch, checked},
    slab::{Shorts, Slab},
    wire::{Reader, WireError},
};
use crate::{EntryId, Item};

/// The items of one dataset: their set hash, their sketch, their order, and a way back from short ids.
///
/// About sixty bytes an item ([`Index::memory_bytes`]). Inserting takes about a microsecond.
///
/// ```
/// use mesh_core::Hlc;
/// use mesh_sync::{EntryId, Item, reconcile::{EpochKey, Index}};
/// let mut index = Index::new(EpochKey::derive("orders", 1));
/// let item = Item { hlc: Hlc::from_bits(1), id: EntryId([7; 32]) };
/// assert!(index.insert(item));
/// assert!(!index.insert(item));
/// let saved = index.save();
/// let restored = Index::restore(EpochKey::derive("orders", 1), &saved)?;
/// assert_eq!(restored.root(), index.root());
/// # Ok::<(), mesh_sync::reconcile::WireError>(())
/// ```
pub struct Index {
    arrival: Arrival,
    slab: Slab,
    shorts: Shorts,
    order: Order,
    sketch: Sketch,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Index {
    /// An empty index with a sketch of [`Sketch::CELLS`].
    pub fn new(key: EpochKey) -> Self {
        Self::with_sketch(Sketch::new(key, Sketch::CELLS))
    }

    fn with_sketch(sketch: Sketch) -> Self {
        Self {
            arrival: Arrival::default(),
            slab: Slab::default(),
            shorts: Shorts::default(),
            order: Order::default(),
            sketch,
        }
    }

    /// The index of a store's items, which come in (hlc, id) order, each once; others are left out.
    ///
    /// `sketch` is one that covers exactly these items, as [`Sketch::restore`] gave it and a replay of later arrivals
    /// completed it, with its root. If there is none, or if it doesn't fit the items, it is made anew, which costs
    /// about half a microsecond an item.
    pub fn from_sorted(
        key: EpochKey,
        items: impl IntoIterator<Item = Item>,
        sketch: Option<(Sketch, Root)>,
    ) -> Self {
        let hasher = key.hasher();
        let mut slab = Slab::default();
        let mut slots = Vec::new();
        let mut last = None;
        for item in items {
            if last.is_none_or(|last| last < item) {
                slots.push(slab.insert(item));
                last = Some(item);
            }
        }
        let order = Order::from_sorted(View { slab: &slab, hasher: &hasher }, &slots);
        let mut shorts = Shorts::with_capacity(slab.len());
        let all: Vec<ShortId> = slots.iter().map(|slot| hasher.short(slab.id(*slot))).collect();
        slots.iter().zip(&all).for_each(|(slot, short)| shorts.insert(*short, *slot));
        let sum = order.sum();
        let fits = |(sketch, root): &(Sketch, Root)| {
            let whole = sketch.key() == key && sketch.cells().len() == Sketch::CELLS;
            whole && root.count == sum.count && root.hash.0 == sum.hash
        };
        let (sketch, arrival) = match sketch.filter(fits) {
            Some((sketch, root)) => (sketch, root.arrival),
            None => {
                let mut sketch = Sketch::new(key, Sketch::CELLS);
                all.iter().for_each(|short| sketch.toggle(*short));
                (sketch, Arrival::default())
            }
        };
        Self { arrival, slab, shorts, order, sketch }
    }

    /// Adds an item; `false` if it is there already.
    pub fn insert(&mut self, item: Item) -> bool {
        let hasher = *self.hasher();
        let hash = hasher.hash(&item.id);
        let slot = self.slab.insert(item);
        if !self.order.insert(View { slab: &self.slab, hasher: &hasher }, slot, hash) {
            self.slab.remove(slot);
            return false;
        }
        self.shorts.insert(short_of(hash), slot);
        self.sketch.toggle(short_of(hash));
        true
    }

    /// Takes an item out; `false` if it isn't there.
    pub fn remove(&mut self, item: &Item) -> bool {
        let hasher = *self.hasher();
        let Some(slot) = self.order.find(self.view(), item) else { return false };
        let hash = hasher.hash(&item.id);
        self.order.remove(View { slab: &self.slab, hasher: &hasher }, item, hash);
        self.shorts.remove(short_of(hash), slot);
        self.sketch.toggle(short_of(hash));
        self.slab.remove(slot);
        true
    }

    /// Whether it holds `item`.
    pub fn contains(&self, item: &Item) -> bool {
        self.order.find(self.view(), item).is_some()
    }

    /// How many items it holds.
    pub fn len(&self) -> u64 {
        self.order.sum().count
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key under which it is kept.
    pub fn key(&self) -> EpochKey {
        self.sketch.key()
    }

    /// Says how far the store's arrivals have come; part of [`Index::root`].
    pub fn set_arrival(&mut self, arrival: Arrival) {
        self.arrival = arrival;
    }

    /// Count, hash and place in the order of arrivals.
    pub fn root(&self) -> Root {
        let sum = self.order.sum();
        Root { count: sum.count, hash: SetHash(sum.hash), arrival: self.arrival }
    }

    /// The sketch.
    pub fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// The hash of the whole set under a key of this moment, which both peers made. Linear in the set, about 30 ms for
    /// a million: for one check in so many, against forged sums and rot.
    pub fn audit(&self, initiator: Nonce, responder: Nonce) -> SetHash {
        let hasher = session_hasher(initiator, responder);
        let mut sum = SetHash::default();
        self.visit(&Item::START, None, |item| sum.add(hasher.hash(&item.id)));
        sum
    }

    /// Items at or after `from`, in (hlc, id) order, at most `limit` of them.
    pub fn scan(&self, from: &Item, limit: usize) -> Vec<Item> {
        let mut out = Vec::with_capacity(limit.min(1024));
        if limit > 0 {
            self.order.visit(self.view(), from, None, &mut |slot| {
                out.push(*self.slab.item(slot));
                out.len() < limit
            });
        }
        out
    }

    /// The item with this short id under the epoch's key.
    pub fn resolve(&self, short: ShortId) -> Option<Item> {
        self.shorts.find(short, self.hasher(), &self.slab).map(|slot| *self.slab.item(slot))
    }

    /// How much memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.slab.bytes() + self.shorts.bytes() + self.order.bytes() + size_of_val(self.sketch.cells())
    }

    pub(super) fn hasher(&self) -> &ItemHasher {
        self.sketch.hasher()
    }

    fn view(&self) -> View<'_> {
        View { slab: &self.slab, hasher: self.hasher() }
    }

    pub(super) fn visit(&self, lower: &Item, upper: Option<&Item>, mut visit: impl FnMut(&Item)) {
        self.order.visit(self.view(), lower, upper, &mut |slot| {
            visit(self.slab.item(slot));
            true
        });
    }

    pub(super) fn sum(&self, lower: &Item, upper: Option<&Item>) -> Sum {
        let view = self.view();
        self.order.below(view, upper).minus(self.order.below(view, Some(lower)))
    }

    /// How many items are below `bound`.
    pub(super) fn rank(&self, bound: Option<&Item>) -> u64 {
        self.order.rank(self.view(), bound)
    }

    pub(crate) fn select(&self, rank: u64) -> Option<&Item> {
        self.order.select(rank).map(|slot| self.slab.item(slot))
    }

    /// Everything as bytes, with a checksum: forty bytes an item, for stores that can't scan their keys quickly. Others
    /// keep only [`Sketch::checkpoint`] and call [`Index::from_sorted`].
    pub fn save(&self) -> Vec<u8> {
        let sketch = self.sketch.checkpoint(&self.root());
        let mut out = Vec::with_capacity(sketch.len() + self.slab.len() * Item::BYTES + 32);
        out.extend_from_slice(&(sketch.len() as u64).to_le_bytes());
        out.extend_from_slice(&sketch);
        self.visit(&Item::START, None, |item| {
            out.extend_from_slice(&item.hlc.to_bits().to_le_bytes());
            out.extend_from_slice(item.id.as_bytes());
        });
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..16]);
        out
    }

    /// The index that [`Index::save`] wrote under `key`.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the bytes are not such, were torn, or contradict themselves.
    pub fn restore(key: EpochKey, bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(checked(bytes)?);
        let length = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
        let (sketch, root) = Sketch::restore(key, reader.take(length)?)?;
        if !reader.remaining().is_multiple_of(Item::BYTES) {
            return Err(WireError::Trailing { bytes: reader.remaining() % Item::BYTES });
        }
        let mut items = Vec::with_capacity(reader.remaining() / Item::BYTES);
        while reader.remaining() > 0 {
            let hlc = mesh_core::Hlc::from_bits(reader.u64()?);
            items.push(Item { hlc, id: EntryId(reader.array()?) });
        }
        let index = Self::from_sorted(key, items, Some((sketch, root)));
        if index.root() != root {
            return Err(WireError::Invalid { what: "the count of a saved index", value: root.count });
        }
        Ok(index)
    }
}

impl Item {
    /// Below or equal to every item.
    pub(super) const START: Self = Self { hlc: mesh_core::Hlc::from_bits(0), id: EntryId([0; 32]) };
    const BYTES: usize = 40;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_core::Hlc;
    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::key::mix;

    fn item(n: u64) -> Item {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&mix(n).to_le_bytes());
        Item { hlc: Hlc::from_bits(mix(n ^ 0xabc) % 500), id: EntryId(id) }
    }

    fn check(index: &Index, truth: &BTreeSet<Item>) {
        let mut items = Vec::new();
        index.visit(&Item::START, None, |item| items.push(*item));
        assert_eq!(items, truth.iter().copied().collect::<Vec<_>>());
        assert_eq!(index.len(), truth.len() as u64);
        let fresh = Index::from_sorted(index.key(), truth.iter().copied(), None);
        assert_eq!(index.root().hash, fresh.root().hash);
        assert_eq!(index.sketch(), fresh.sketch());
        for (rank, item) in truth.iter().enumerate() {
            assert_eq!(index.select(rank as u64), Some(item));
            assert_eq!(index.rank(Some(item)), rank as u64);
            assert_eq!(index.resolve(index.sketch().short(&item.id)), Some(*item));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_agrees_with_a_plain_set(
            steps in prop::collection::vec((0..900_u64, any::<bool>()), 0..2500),
            ordered in any::<bool>(),
        ) {
            let mut index = Index::new(EpochKey::derive("index", 1));
            let mut truth = BTreeSet::new();
            let mut items: Vec<(Item, bool)> = steps.into_iter().map(|(n, add)| (item(n), add)).collect();
            if ordered {
                items.sort_unstable();
            }
            for (item, add) in items {
                if add {
                    prop_assert_eq!(index.insert(item), truth.insert(item));
                } else {
                    prop_assert_eq!(index.remove(&item), truth.remove(&item));
                }
            }
            check(&index, &truth);
            let (low, high) = (item(1), item(2));
            let (low, high) = (low.min(high), low.max(high));
            let inside: Vec<EntryId> = truth.range(low..high).map(|item| item.id).collect();
            let sum = index.sum(&low, Some(&high));
            prop_assert_eq!(sum.count, inside.len() as u64);
            prop_assert_eq!(SetHash(sum.hash), SetHash::of(index.hasher(), &inside));
            let restored = Index::restore(index.key(), &index.save()).expect("what was saved");
            check(&restored, &truth);
        }
    }

    #[test]
    fn a_torn_or_foreign_checkpoint_is_refused_and_a_stale_sketch_is_made_anew() {
        let key = EpochKey::derive("index", 1);
        let items: BTreeSet<Item> = (0..300).map(item).collect();
        let index = Index::from_sorted(key, items.iter().copied(), None);
        let saved = index.save();
        assert_eq!(Index::restore(key, &saved[..saved.len() - 1]).err(), Some(WireError::Checksum));
        assert!(Index::restore(EpochKey::derive("index", 2), &saved).is_err());
        for at in (0..saved.len()).step_by(997) {
            let mut torn = saved.clone();
            torn[at] ^= 1;
            assert_eq!(Index::restore(key, &torn).err(), Some(WireError::Checksum));
        }
        let checkpoint = Sketch::restore(key, &index.sketch().checkpoint(&index.root())).expect("good");
        let more: BTreeSet<Item> = (0..301).map(item).collect();
        check(&Index::from_sorted(key, more.iter().copied(), Some(checkpoint)), &more);
    }

    #[test]
    fn items_that_come_in_order_fill_their_leaves() {
        let mut index = Index::new(EpochKey::derive("index", 1));
        for n in 0..50_000_u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&mix(n).to_le_bytes());
            index.insert(Item { hlc: Hlc::from_bits(n), id: EntryId(id) });
        }
        let without_sketch = index.memory_bytes() - Sketch::CELLS * size_of::<super::super::Cell>();
        assert!(without_sketch / 50_000 <= 72, "{} bytes an item", without_sketch / 50_000);
    }
}
