//! What the log holds, in memory: where each entry is, and the newest entries themselves.

use std::{
    collections::VecDeque,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::EntryPayload;

use super::{frame::Span, segment::Segment};
use crate::raft::types::{Entry, LogId, Vote};

/// Bytes of entries that are kept in memory besides those that are not on disk yet.
#[cfg(not(test))]
const CACHED_BYTES_MAX: usize = 16 << 20;
/// Few, so that tests read from disk.
#[cfg(test)]
const CACHED_BYTES_MAX: usize = 16 << 10;
/// What an entry weighs besides its payload.
const ENTRY_BYTES: usize = 64;

/// Where an entry is on disk.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) span: Span,
}

#[derive(Debug)]
struct Slot {
    id: LogId,
    bytes: usize,
    /// `None` until it is on disk.
    place: Option<Place>,
    /// `None` if it must be read from disk.
    entry: Option<Entry>,
}

/// An entry, or where it is.
pub(super) enum Found {
    Here(Entry),
    OnDisk(Place),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    /// The newest vote that was to be saved, whether or not it is on disk yet.
    pub(super) promised: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// Without gaps.
    slots: VecDeque<Slot>,
    /// Slots before this one have no entry in memory.
    cached_from: usize,
    cached_bytes: usize,
    bytes: u64,
}

fn weigh(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => ENTRY_BYTES + proposal.bytes.len(),
        _ => ENTRY_BYTES,
    }
}

impl Index {
    fn first(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.id.index)
    }

    fn slot(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.first()?)?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The last entry, or the last that was purged.
    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// Bytes of all entries.
    #[allow(dead_code, reason = "figures of the log, for metrics")]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an entry after the last one; an empty log begins with any.
    pub(super) fn append(&mut self, entry: Entry, place: Option<Place>) -> Result<(), String> {
        let index = entry.log_id.index;
        let due = self.last().map_or(index, |last| last.index + 1);
        if index != due {
            return Err(format!("entry {index} stands where entry {due} is due"));
        }
        self.push(entry, place);
        Ok(())
    }

    /// Adds an entry that was found on disk. It may have been purged before it was written, and those
    /// before the first one may have been purged later.
    pub(super) fn recover(&mut self, entry: Entry, place: Place) -> Result<(), String> {
        if self.purged.is_some_and(|purged| entry.log_id.index <= purged.index) {
            return Ok(());
        }
        if self.slots.is_empty() {
            self.push(entry, Some(place));
        } else {
            self.append(entry, Some(place))?;
        }
        self.shrink();
        Ok(())
    }

    /// Whether everything is there once all was recovered.
    pub(super) fn check(&self) -> Result<(), String> {
        let due = self.purged.map_or(0, |id| id.index + 1);
        match self.first() {
            Some(first) if first > due => Err(format!("entries {due} to {} are missing", first - 1)),
            _ => Ok(()),
        }
    }

    fn push(&mut self, entry: Entry, place: Option<Place>) {
        let bytes = weigh(&entry);
        self.bytes += bytes as u64;
        self.cached_bytes += bytes;
        self.slots.push_back(Slot { id: entry.log_id, bytes, place, entry: Some(entry) });
    }

    /// The entry of this id is on disk.
    pub(super) fn place(&mut self, id: LogId, place: Place) {
        if let Some(slot) = self.slot(id.index).filter(|slot| slot.id == id) {
            slot.place = Some(place);
        }
    }

    /// Drops the oldest entries from memory, as far as they are on disk.
    pub(super) fn shrink(&mut self) {
        while self.cached_bytes > CACHED_BYTES_MAX {
            let Some(slot) = self.slots.get_mut(self.cached_from) else { return };
            if slot.place.is_none() {
                return;
            }
            slot.entry = None;
            self.cached_bytes -= slot.bytes;
            self.cached_from += 1;
        }
    }

    /// Voids all entries after this one.
    pub(super) fn truncate(&mut self, through: Option<LogId>) {
        while self.slots.back().is_some_and(|slot| through.is_none_or(|id| slot.id.index > id.index)) {
            if let Some(slot) = self.slots.pop_back() {
                self.forget(&slot);
            }
        }
        self.cached_from = self.cached_from.min(self.slots.len());
    }

    /// Drops all entries up to this one.
    pub(super) fn purge(&mut self, through: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= through.index) {
            return;
        }
        self.purged = Some(through);
        while self.slots.front().is_some_and(|slot| slot.id.index <= through.index) {
            if let Some(slot) = self.slots.pop_front() {
                self.forget(&slot);
                self.cached_from = self.cached_from.saturating_sub(1);
            }
        }
    }

    fn forget(&mut self, slot: &Slot) {
        self.bytes -= slot.bytes as u64;
        if slot.entry.is_some() {
            self.cached_bytes -= slot.bytes;
        }
    }

    /// The entries of a range that are there, in order, up to about so many bytes but at least one.
    pub(super) fn range(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Vec<Found> {
        let Some(first) = self.first() else { return Vec::new() };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        self.slots
            .iter()
            .skip(skip)
            .take_while(|slot| range.contains(&slot.id.index))
            .take_while(|slot| {
                let fits = bytes == 0 || bytes + slot.bytes <= bytes_max;
                bytes += slot.bytes;
                fits
            })
            .filter_map(|slot| match (&slot.entry, &slot.place) {
                (Some(entry), _) => Some(Found::Here(entry.clone())),
                (None, Some(place)) => Some(Found::OnDisk(place.clone())),
                (None, None) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    fn entry(index: u64) -> Entry {
        Entry { log_id: log_id(1, 1, index), payload: EntryPayload::Blank }
    }

    fn indexes(index: &Index, range: impl RangeBounds<u64>, bytes_max: usize) -> Vec<u64> {
        let found = index.range(range, bytes_max);
        found
            .into_iter()
            .map(|found| match found {
                Found::Here(entry) => entry.log_id.index,
                Found::OnDisk(_) => panic!("nothing is on disk here"),
            })
            .collect()
    }

    #[test]
    fn entries_come_without_gaps_and_go_at_both_ends() {
        let mut index = Index::default();
        for i in 0..10 {
            index.append(entry(i), None).expect("next");
        }
        assert!(index.append(entry(11), None).is_err());
        index.truncate(Some(log_id(1, 1, 7)));
        index.purge(log_id(1, 1, 2));
        assert_eq!(index.last(), Some(log_id(1, 1, 7)));
        assert_eq!(indexes(&index, .., usize::MAX), [3, 4, 5, 6, 7]);
        assert_eq!(indexes(&index, 5..7, usize::MAX), [5, 6]);
        assert_eq!(indexes(&index, 0.., 1), [3], "at least one");
        index.purge(log_id(1, 1, 20));
        assert_eq!((index.last(), index.bytes()), (Some(log_id(1, 1, 20)), 0));
        index.append(entry(21), None).expect("next");
    }
}
