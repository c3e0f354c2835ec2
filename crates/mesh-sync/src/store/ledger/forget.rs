//! Forgets the names of pruned entries that nothing builds on any more.
//!
//! The name of a pruned entry is needed while an entry that is held names it as a parent, and for a while longer, since
//! a child of it may be on its way. Refusing what was pruned needs the watermark only. A child that comes later still
//! is told by whoever has it that its parent was pruned, as it would be in a new store.
//!
//! Once enough was removed since the last look, a look begins: all entries that are held are read, in the order of
//! arrival, and their parents marked in a [`Marks`]; then the names are walked, and those go that are not marked and
//! were there at the last look already. Each prune pays for a share of it, so that none takes for ever. A look that
//! is cut short begins anew.

use super::{
    Ledger, lock,
    records::{Looked, State, decode_removed},
};
use crate::{
    EntryId,
    store::{
        Arrival, Backend, StoreError, Write,
        keys::{self, Space},
    },
};

/// A look begins when so many entries were removed since the last one, and as many as there were names in need then.
const LOOK_MIN: u64 = 1024;
/// How many entries or names a prune looks at, at least.
const SHARE_MIN: u64 = if cfg!(test) { 512 } else { 16_384 };
/// How many it looks at for each entry that was removed since the last share.
const SHARE_OF_REMOVED: u64 = 4;
/// Bytes of an entry that cost as much as another one.
const BYTES_LIKE_ONE: u64 = 4096;
/// How many of them are listed together.
const LISTED_AT_ONCE: usize = 256;
/// How many names one commit removes.
const FORGOTTEN_AT_ONCE: usize = 1024;

/// A look that is under way.
#[derive(Debug)]
pub(super) struct Look {
    marks: Marks,
    /// Entries up to this one are marked for.
    marked: Arrival,
    /// Names up to this one are looked at.
    walked: Option<EntryId>,
    /// Names that were noted when more had been removed stay.
    oldest: u64,
    /// How many entries had been removed when it began, and at its last share.
    began: u64,
    paid: u64,
    /// Names that are needed.
    named: u64,
}

impl<B: Backend> Ledger<B> {
    /// Does a share of a look, if there is one or it is time for one. The caller keeps others from pruning.
    pub(super) fn forget_some(&self, look: &mut Option<Look>) -> Result<(), StoreError> {
        let state = self.current_state()?;
        if look.is_none() {
            let last = self.stored_looked()?;
            if state.removed.saturating_sub(last.removed) < last.named.max(LOOK_MIN) {
                return Ok(());
            }
            *look = Some(Look {
                marks: Marks::for_names(state.summary.count),
                marked: Arrival::default(),
                walked: None,
                oldest: last.removed,
                began: state.removed,
                paid: state.removed,
                named: 0,
            });
        }
        let Some(under_way) = look else { return Ok(()) };
        let due = state.removed.saturating_sub(under_way.paid).saturating_mul(SHARE_OF_REMOVED);
        under_way.paid = state.removed;
        if self.do_share(under_way, due.max(SHARE_MIN))? {
            *look = None;
        }
        Ok(())
    }

    fn current_state(&self) -> Result<State, StoreError> {
        let mut guard = self.writer();
        let state = self.take_state(&mut guard)?;
        *guard = Some(state);
        Ok(state)
    }

    fn stored_looked(&self) -> Result<Looked, StoreError> {
        let Some(value) = self.backend.get(&keys::looked(self.number))? else { return Ok(Looked::default()) };
        Looked::decode(&value).ok_or_else(|| self.damaged("when names were looked at can't be read"))
    }

    /// Whether the look is at its end.
    fn do_share(&self, look: &mut Look, share: u64) -> Result<bool, StoreError> {
        let mut left = share;
        while left > 0 {
            let (marked, cost) = self.mark(look)?;
            left = left.saturating_sub(cost);
            if marked < LISTED_AT_ONCE {
                let Some(walked) = self.walk(look)? else { return Ok(true) };
                left = left.saturating_sub(walked);
            }
        }
        Ok(false)
    }

    /// Marks the parents of the next entries. Tells how many these were, and what they cost of a share.
    fn mark(&self, look: &mut Look) -> Result<(usize, u64), StoreError> {
        let listed = self.list_arrivals(look.marked.next(), LISTED_AT_ONCE)?;
        let mut cost = 0;
        for one in &listed {
            let stored = self.entry(one.arrival, &one.item)?;
            let stored = stored.ok_or_else(|| self.damaged(format!("entry {} is missing", one.item.id)))?;
            stored.entry.parents().for_each(|parent| look.marks.insert(&parent));
            look.marked = one.arrival;
            cost += 1 + stored.entry.encoded().len() as u64 / BYTES_LIKE_ONE;
        }
        Ok((listed.len(), cost))
    }

    /// Looks at the next names while nothing is inserted. Tells how many these were; `None` at the end.
    fn walk(&self, look: &mut Look) -> Result<Option<u64>, StoreError> {
        let mut guard = self.writer();
        let state = self.take_state(&mut guard)?;
        *guard = Some(state);
        // What came since then may name any of them.
        while look.marked < state.summary.last_arrival {
            if self.mark(look)?.0 == 0 {
                look.marked = state.summary.last_arrival;
            }
        }
        let (first, below) = keys::whole(Space::Pruned, self.number);
        let from = look.walked.map_or(first, |id| super::behind(keys::pruned(self.number, &id)));
        let page = self.collect((&from, &below), FORGOTTEN_AT_ONCE, |key, value| {
            Some((keys::Fields(key).id()?, decode_removed(value)?))
        })?;
        let mut writes = Vec::new();
        for (id, removed) in &page {
            if look.marks.contains(id) {
                look.named += 1;
            } else if *removed <= look.oldest {
                writes.push(Write::remove(keys::pruned(self.number, id)));
            }
            look.walked = Some(*id);
        }
        let is_end = page.len() < FORGOTTEN_AT_ONCE;
        if is_end {
            let looked = Looked { removed: look.began, named: look.named };
            writes.push(Write::put(keys::looked(self.number), looked.encode()));
        }
        if !writes.is_empty() {
            *guard = None;
            self.commit(&mut guard, writes, state)?;
        }
        Ok((!is_end).then_some(page.len() as u64))
    }

    /// Does what is due of a look, and keeps others from pruning meanwhile.
    pub(super) fn with_look<T>(
        &self,
        prune: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut look = lock(&self.look);
        self.forget_some(&mut look)?;
        prune()
    }
}

/// A set of names that may have some more in it (Bloom 1970). Names are hashes, so their own bits will do.
struct Marks(Vec<u64>);

impl Marks {
    const WORDS_MIN: u64 = 1 << 7;
    /// Eight megabytes.
    const WORDS_MAX: u64 = 1 << 20;

    /// Of so many names, one in some four hundred is found by mistake; of ten million, one in twenty.
    fn for_names(count: u64) -> Self {
        let words = (count / 4).clamp(Self::WORDS_MIN, Self::WORDS_MAX).next_power_of_two();
        Self(vec![0; words as usize])
    }

    fn places(&self, id: &EntryId) -> [(usize, u64); 4] {
        let mut places = [(0, 0); 4];
        for (place, word) in places.iter_mut().zip(id.as_bytes().chunks_exact(8)) {
            let word = word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            *place = ((word >> 6) as usize & (self.0.len() - 1), 1 << (word & 63));
        }
        places
    }

    fn insert(&mut self, id: &EntryId) {
        self.places(id).into_iter().for_each(|(at, bit)| self.0[at] |= bit);
    }

    fn contains(&self, id: &EntryId) -> bool {
        self.places(id).into_iter().all(|(at, bit)| self.0[at] & bit != 0)
    }
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Marks({} words)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_what_was_put_in_and_hardly_anything_else() {
        let id = |n: u64| EntryId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let mut marks = Marks::for_names(10_000);
        (0..10_000).for_each(|n| marks.insert(&id(n)));
        assert!((0..10_000).all(|n| marks.contains(&id(n))));
        let mistaken = (10_000..20_000).filter(|n| marks.contains(&id(*n))).count();
        assert!(mistaken < 60, "{mistaken}");
    }
}
