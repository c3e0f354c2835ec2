//! What differs, and since when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{Instant, WallTime, store::Key};

/// A record that a cache has otherwise than the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The cache.
    pub cache: &'static str,
    /// The record.
    pub key: Key,
    /// What the cache has; `None` if nothing.
    pub cached: Option<Bytes>,
    /// What it should have, by the store; `None` if nothing.
    pub stored: Option<Bytes>,
    /// When this was first seen, as it is now.
    pub since: WallTime,
}

/// The differences of one cache that have not been mended.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_key: BTreeMap<Key, (Difference, Instant)>,
}

impl Pending {
    /// Takes a new look in. A difference stays the same one only while both sides stay as they are.
    pub(super) fn update(
        &mut self,
        cache: &'static str,
        mut cached: BTreeMap<Key, Bytes>,
        mut stored: BTreeMap<Key, Bytes>,
        wall: WallTime,
        now: Instant,
    ) {
        let keys: BTreeSet<Key> = cached.keys().chain(stored.keys()).cloned().collect();
        let mut before = std::mem::take(&mut self.by_key);
        for key in keys {
            let (cached, stored) = (cached.remove(&key), stored.remove(&key));
            if cached == stored {
                continue;
            }
            let same = |(old, _): &(Difference, Instant)| old.cached == cached && old.stored == stored;
            let entry = match before.remove(&key).filter(same) {
                Some(lasting) => lasting,
                None => (Difference { cache, key: key.clone(), cached, stored, since: wall }, now),
            };
            self.by_key.insert(key, entry);
        }
    }

    /// The first `most` differences that have lasted for `settle`.
    pub(super) fn settled(&self, now: Instant, settle: Duration, most: usize) -> Vec<Difference> {
        let lasting = self.by_key.values().filter(|(_, since)| now.since(*since) >= settle);
        lasting.map(|(difference, _)| difference.clone()).take(most).collect()
    }

    /// Whether a difference has yet to last for `settle`.
    pub(super) fn is_unsettled(&self, now: Instant, settle: Duration) -> bool {
        self.by_key.values().any(|(_, since)| now.since(*since) < settle)
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.by_key.remove(key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn differences(&self) -> impl ExactSizeIterator<Item = &Difference> {
        self.by_key.values().map(|(difference, _)| difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<Key, Bytes> {
        let entry =
            |(key, value): (&str, &str)| (Key::new(key).expect("a key"), Bytes::from(value.to_owned()));
        entries.map(entry).into()
    }

    #[test]
    fn a_difference_counts_from_when_both_sides_became_what_they_are() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let settle = Duration::from_secs(2);
        let mut pending = Pending::default();
        let mut look = |cached, stored, second: u64| {
            pending.update("routes", cached, stored, WallTime(second * 1000), at(second));
            let settled = pending.settled(at(second), settle, 10);
            (pending.differences().len(), settled.into_iter().map(|d| d.key.to_string()).collect::<Vec<_>>())
        };
        let stored = || map([("a", "1"), ("b", "1")]);
        assert_eq!(look(map([("a", "1"), ("b", "0"), ("c", "1")]), stored(), 1), (2, vec![]));
        // `b` moved on its own, if not to where it should be; `c` still should not be there.
        assert_eq!(look(map([("a", "1"), ("b", "?"), ("c", "1")]), stored(), 3), (2, vec!["c".to_owned()]));
        assert_eq!(look(stored(), stored(), 9), (0, vec![]));
        // A difference that was gone in between begins anew.
        assert_eq!(look(map([("a", "1")]), stored(), 10), (1, vec![]));
    }
}
