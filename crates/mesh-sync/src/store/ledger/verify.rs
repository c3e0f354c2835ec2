//! Checks everything.

use std::ops::ControlFlow;

use super::{Ledger, records::State};
use crate::{
    EntryId,
    entry::AuthorId,
    store::{
        Arrival, Backend, Head, PrunedEntry, SetHash, StoreError, Summary, VerifyReport,
        keys::{self, Space},
    },
};

/// How many entries are checked between two looks at the list.
const AT_ONCE: usize = 1024;

impl<B: Backend> Ledger<B> {
    pub(super) fn verify_all(&self) -> Result<VerifyReport, StoreError> {
        self.backend.check()?;
        // Nothing changes meanwhile.
        let mut guard = self.writer();
        let state = self.stored_state()?;
        *guard = Some(state);
        let counted = self.verify_entries()?;
        let expected = Summary { last_arrival: counted.last_arrival, ..state.summary };
        if counted != expected {
            return Err(self.damaged(format!("it has {counted:?}, by its counts {expected:?}")));
        }
        self.verify_indexes(&state)?;
        let authors = self.verify_authors(&state)?;
        let pruned = self.verify_pruned()?;
        Ok(VerifyReport { entries: counted.count, bytes: counted.bytes, authors, pruned })
    }

    fn verify_entries(&self) -> Result<Summary, StoreError> {
        let mut sum = Summary { set_hash: SetHash::default(), ..Summary::default() };
        loop {
            let listed = self.list_arrivals(sum.last_arrival.next(), AT_ONCE)?;
            for one in &listed {
                sum.bytes += self.check_listed(one)?;
                sum.count += 1;
                sum.set_hash.add(&self.creation.set_key, &one.item.id);
                self.verify_parents(one.arrival, &one.item.id)?;
            }
            match listed.last() {
                Some(last) => sum.last_arrival = last.arrival,
                None => return Ok(sum),
            }
        }
    }

    fn verify_parents(&self, arrival: Arrival, id: &EntryId) -> Result<(), StoreError> {
        let stored = self.get_one(id)?;
        let stored = stored.ok_or_else(|| self.damaged(format!("entry {id} is missing")))?;
        for parent in stored.entry.parents() {
            let fits = match self.place(&parent)? {
                Some(place) => place.arrival < arrival && place.hlc < stored.entry.hlc(),
                None => self.backend.get(&keys::pruned(self.number, &parent))?.is_some(),
            };
            if !fits {
                return Err(self.damaged(format!("entry {id} is there without its parent {parent}")));
            }
        }
        Ok(())
    }

    /// With every entry in every index, an index of that size has nothing else.
    fn verify_indexes(&self, state: &State) -> Result<(), StoreError> {
        let spaces = [
            (Space::ById, "by id"),
            (Space::Order, "by timestamp"),
            (Space::Entries, "of the entries"),
            (Space::ByAuthor, "by author"),
        ];
        for (space, name) in spaces {
            let (size, count) = (self.size(space)?, state.summary.count);
            if size != count {
                return Err(self.damaged(format!("the index {name} has {size} entries, there are {count}")));
            }
        }
        Ok(())
    }

    fn size(&self, space: Space) -> Result<u64, StoreError> {
        let (from, below) = keys::whole(space, self.number);
        let mut size = 0;
        self.backend.scan(&from, &below, &mut |_, _| {
            size += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(size)
    }

    fn verify_authors(&self, state: &State) -> Result<u64, StoreError> {
        let (mut authors, mut held, mut after) = (0, 0, None);
        loop {
            let heads = self.list_heads(after.as_ref(), AT_ONCE)?;
            for (author, head) in &heads {
                self.verify_head(author, head)?;
                authors += 1;
                held += head.held;
            }
            match heads.last() {
                Some((author, _)) => after = Some(*author),
                None => break,
            }
        }
        let count = state.summary.count;
        if held != count {
            return Err(self.damaged(format!("its authors have {held} entries, there are {count}")));
        }
        Ok(authors)
    }

    /// What is left of each pruned entry says truly that it was pruned.
    fn verify_pruned(&self) -> Result<u64, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.list_pruned(after.as_ref(), AT_ONCE)?;
            for PrunedEntry { id, author, sequence } in &page {
                let up_to = self.stored_head(author)?.unwrap_or_default().pruned;
                if *sequence > up_to {
                    let problem =
                        format!("{id} is pruned as {sequence} of {author}, who is pruned up to {up_to}");
                    return Err(self.damaged(problem));
                }
            }
            count += page.len() as u64;
            match page.last() {
                Some(last) => after = Some(last.id),
                None => return Ok(count),
            }
        }
    }

    fn verify_head(&self, author: &AuthorId, stored: &Head) -> Result<(), StoreError> {
        let pruned = stored.pruned;
        let mut head = Head { contiguous: pruned, highest: pruned, pruned, held: 0 };
        let from = keys::of_author(self.number, author);
        let mut below = from.clone();
        keys::increment(&mut below);
        self.backend.scan(&from, &below, &mut |key, _| {
            let sequence = keys::Fields(keys::rest(key).get(32..).unwrap_or_default()).sequence();
            let sequence = sequence.unwrap_or_default();
            head.held += 1;
            head.highest = head.highest.max(sequence);
            if head.contiguous.next() == Some(sequence) {
                head.contiguous = sequence;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if head == *stored {
            return Ok(());
        }
        Err(self.damaged(format!("author {author} has {head:?}, recorded is {stored:?}")))
    }
}
