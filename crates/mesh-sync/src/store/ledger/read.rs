//! Lists and reads.

use std::ops::Bound;

use super::{Ledger, behind, decode_head, decode_pruned};
use crate::{
    EntryId, Item,
    entry::AuthorId,
    store::{
        Arrival, Authored, Backend, Head, Listed, PrunedEntry, ScanLimit, StoreError, Stored,
        keys::{self, Fields, Space},
    },
};

/// How many names are listed before their entries are read.
const NAMES_AT_ONCE: usize = 256;

impl<B: Backend> Ledger<B> {
    pub(super) fn get_one(&self, id: &EntryId) -> Result<Option<Stored>, StoreError> {
        match self.place(id)? {
            Some(place) => self.entry(place.arrival, &Item { hlc: place.hlc, id: *id }),
            None => Ok(None),
        }
    }

    pub(super) fn list_items(
        &self,
        (from, to): (Bound<Item>, Bound<Item>),
        limit: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let (first, below) = keys::whole(Space::Order, self.number);
        let from = match from {
            Bound::Unbounded => first,
            Bound::Included(item) => keys::order(self.number, &item),
            Bound::Excluded(item) => behind(keys::order(self.number, &item)),
        };
        let below = match to {
            Bound::Unbounded => below,
            Bound::Included(item) => behind(keys::order(self.number, &item)),
            Bound::Excluded(item) => keys::order(self.number, &item),
        };
        self.collect((&from, &below), limit, |key, value| {
            let (mut key, mut value) = (Fields(key), Fields(value));
            let listed = Listed { arrival: value.arrival()?, item: key.item()? };
            key.end(())?;
            value.end(listed)
        })
    }

    pub(super) fn scan_entries(
        &self,
        mut from: Bound<Item>,
        limit: ScanLimit,
    ) -> Result<Vec<Stored>, StoreError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < limit.entries {
            let names = NAMES_AT_ONCE.min(limit.entries - found.len());
            let listed = self.list_items((from, Bound::Unbounded), names)?;
            for Listed { arrival, item } in &listed {
                // Between the list and here it may have been pruned.
                let Some(stored) = self.entry(*arrival, item)? else { continue };
                bytes += stored.entry.encoded().len();
                found.push(stored);
                if bytes >= limit.bytes {
                    return Ok(found);
                }
            }
            match listed.last() {
                Some(last) if listed.len() == names => from = Bound::Excluded(last.item),
                _ => break,
            }
        }
        Ok(found)
    }

    pub(super) fn list_arrivals(&self, from: Arrival, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let (_, below) = keys::whole(Space::Arrivals, self.number);
        self.collect((&keys::arrival(self.number, from), &below), limit, |key, value| {
            let (mut key, mut value) = (Fields(key), Fields(value));
            let listed = Listed { arrival: key.arrival()?, item: value.item()? };
            key.end(())?;
            value.end(listed)
        })
    }

    pub(super) fn list_authored(
        &self,
        range: (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<Authored>, StoreError> {
        self.collect(range, limit, |key, value| {
            let (mut key, mut value) = (Fields(key), Fields(value));
            key.array::<32>()?;
            let sequence = key.sequence()?;
            let item = Item { hlc: value.hlc()?, id: key.id()? };
            key.end(())?;
            value.end(Authored { sequence, item })
        })
    }

    pub(super) fn list_pruned(
        &self,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<Vec<PrunedEntry>, StoreError> {
        let (first, below) = keys::whole(Space::Pruned, self.number);
        let from = after.map_or(first, |id| behind(keys::pruned(self.number, id)));
        self.collect((&from, &below), limit, decode_pruned)
    }

    pub(super) fn list_heads(
        &self,
        after: Option<&AuthorId>,
        limit: usize,
    ) -> Result<Vec<(AuthorId, Head)>, StoreError> {
        let (first, below) = keys::whole(Space::Heads, self.number);
        let from = after.map_or(first, |author| behind(keys::head(self.number, author)));
        self.collect((&from, &below), limit, |key, value| {
            let mut key = Fields(key);
            let author = AuthorId(key.array()?);
            key.end((author, decode_head(value)?))
        })
    }
}
