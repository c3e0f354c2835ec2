//! Forgets what everybody has.

use super::{
    Ledger,
    records::{State, encode_head, encode_pruned},
};
use crate::{
    Item,
    entry::{AuthorId, AuthorSequence},
    store::{Authored, Backend, Head, PrunedEntry, StoreError, Write, keys},
};

/// How many entries one commit removes.
const REMOVED_AT_ONCE: usize = 1024;
/// How many authors are looked at together.
const AUTHORS_AT_ONCE: usize = 256;

impl<B: Backend> Ledger<B> {
    /// Makes the watermarks durable, from where on entries below them are refused.
    pub(super) fn raise_watermarks(
        &self,
        watermarks: &[(AuthorId, AuthorSequence)],
        boundary: &[PrunedEntry],
    ) -> Result<(), StoreError> {
        let mut guard = self.writer();
        let state = self.take_state(&mut guard)?;
        *guard = Some(state);
        let mut writes: Vec<Write> = Vec::new();
        let mut heads = std::collections::BTreeMap::new();
        for (author, watermark) in watermarks {
            let mut head = match heads.get(author) {
                Some(head) => *head,
                None => self.stored_head(author)?.unwrap_or_default(),
            };
            if *watermark > head.pruned {
                head.pruned = *watermark;
                head.highest = head.highest.max(*watermark);
                head.contiguous = head.contiguous.max(*watermark);
                self.close_gaps(&mut head, *author, |_| false)?;
                heads.insert(*author, head);
            }
        }
        for (author, head) in &heads {
            writes.push(Write::put(keys::head(self.number, author), encode_head(head)));
        }
        for pruned in boundary {
            if self.place(&pruned.id)?.is_none() {
                writes.push(Write::put(
                    keys::pruned(self.number, &pruned.id),
                    encode_pruned(pruned, state.removed),
                ));
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        if !heads.is_empty() {
            writes.push(Write::remove(keys::checkpoint(self.number)));
        }
        let state = State { pruning: state.pruning || !heads.is_empty(), ..state };
        *guard = None;
        self.commit(&mut guard, writes, state)
    }

    /// Removes everything at or below the watermarks.
    pub(super) fn sweep(&self, on_removed: &mut dyn FnMut(&[Item])) -> Result<u64, StoreError> {
        let mut guard = self.writer();
        let mut state = self.take_state(&mut guard)?;
        *guard = Some(state);
        if !state.pruning {
            return Ok(0);
        }
        let (mut removed, mut after) = (0, None);
        loop {
            let heads = self.list_heads(after.as_ref(), AUTHORS_AT_ONCE)?;
            for (author, head) in &heads {
                removed += self.sweep_author(&mut guard, &mut state, *author, *head, on_removed)?;
            }
            match heads.last() {
                Some((author, _)) => after = Some(*author),
                None => break,
            }
        }
        state.pruning = false;
        *guard = None;
        self.commit(&mut guard, Vec::new(), state)?;
        Ok(removed)
    }

    fn sweep_author(
        &self,
        guard: &mut Option<State>,
        state: &mut State,
        author: AuthorId,
        mut head: Head,
        on_removed: &mut dyn FnMut(&[Item]),
    ) -> Result<u64, StoreError> {
        let mut removed = 0;
        let from = keys::of_author(self.number, &author);
        let mut below = keys::numbered(self.number, &author, head.pruned);
        keys::increment(&mut below);
        if head.pruned < AuthorSequence::FIRST {
            return Ok(0);
        }
        loop {
            let gone = self.list_authored((&from, &below), REMOVED_AT_ONCE)?;
            if gone.is_empty() {
                return Ok(removed);
            }
            let mut writes = Vec::with_capacity(6 * gone.len() + 2);
            for one in &gone {
                self.remove(&mut writes, state, &author, one)?;
            }
            let count = gone.len() as u64;
            removed += count;
            head.held = head.held.saturating_sub(count);
            writes.push(Write::put(keys::head(self.number, &author), encode_head(&head)));
            *guard = None;
            self.commit(guard, writes, *state)?;
            let items: Vec<Item> = gone.iter().map(|one| one.item).collect();
            on_removed(&items);
        }
    }

    fn remove(
        &self,
        writes: &mut Vec<Write>,
        state: &mut State,
        author: &AuthorId,
        one: &Authored,
    ) -> Result<(), StoreError> {
        let (number, item) = (self.number, &one.item);
        let place = self.place(&item.id)?;
        let place =
            place.ok_or_else(|| self.damaged(format!("entry {} is only with its author", item.id)))?;
        let pruned = PrunedEntry { id: item.id, author: *author, sequence: one.sequence };
        writes.extend([
            Write::remove(keys::by_id(number, &item.id)),
            Write::remove(keys::order(number, item)),
            Write::remove(keys::arrival(number, place.arrival)),
            Write::remove(keys::entry(number, place.arrival)),
            Write::remove(keys::authored(number, author, one.sequence, &item.id)),
            Write::put(keys::pruned(number, &item.id), encode_pruned(&pruned, state.removed + 1)),
        ]);
        let summary = &mut state.summary;
        summary.count = summary.count.saturating_sub(1);
        summary.bytes = summary.bytes.saturating_sub(u64::from(place.bytes));
        summary.set_hash.remove(&self.creation.set_key, &item.id);
        state.removed += 1;
        Ok(())
    }
}
