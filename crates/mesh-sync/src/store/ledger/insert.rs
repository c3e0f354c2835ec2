//! Takes in a batch.

use std::collections::BTreeMap;

use mesh_core::Hlc;

use super::{
    Ledger,
    records::{Place, State, encode_entry, encode_head, encode_item},
};
use crate::{
    EntryId,
    entry::{AuthorId, AuthorSequence, Deferral, Entry, Equivocation, Outcome, Rejection, Verified},
    store::{Backend, BatchReport, Head, MetadataWrite, StoreError, Write, keys},
};

/// Of an author that gives one number to ever more entries, so many are told with each: reading all of them each
/// time would cost ever more.
const TWINS_TOLD: usize = 16;

/// A batch as far as it was looked at: what it will write, and what its later entries see of its earlier ones.
struct Batch {
    state: State,
    writes: Vec<Write>,
    stamps: BTreeMap<EntryId, Hlc>,
    numbered: BTreeMap<(AuthorId, AuthorSequence), Vec<EntryId>>,
    heads: BTreeMap<AuthorId, Head>,
    equivocations: Vec<Equivocation>,
}

impl<B: Backend> Ledger<B> {
    pub(super) fn insert(
        &self,
        entries: &[Verified],
        metadata: &[MetadataWrite],
    ) -> Result<BatchReport, StoreError> {
        let metadata = self.metadata_writes(metadata)?;
        let mut guard = self.writer();
        let before = self.take_state(&mut guard)?;
        *guard = Some(before);
        let mut batch = Batch {
            state: before,
            writes: metadata,
            stamps: BTreeMap::new(),
            numbered: BTreeMap::new(),
            heads: BTreeMap::new(),
            equivocations: Vec::new(),
        };
        let outcomes = entries.iter().map(|entry| self.take_in(&mut batch, entry));
        let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
        for (author, head) in &batch.heads {
            batch.writes.push(Write::put(keys::head(self.number, author), encode_head(head)));
        }
        if !batch.writes.is_empty() {
            // If the commit fails, nobody knows the state until it is read again.
            *guard = None;
            self.commit(&mut guard, batch.writes, batch.state)?;
        }
        Ok(BatchReport { outcomes, equivocations: batch.equivocations })
    }

    fn take_in(&self, batch: &mut Batch, entry: &Entry) -> Result<Outcome, StoreError> {
        if *entry.dataset() != self.dataset {
            return Ok(Outcome::Rejected(Rejection::OtherDataset { found: entry.dataset().clone() }));
        }
        if self.stamp(batch, &entry.id())?.is_some() {
            return Ok(Outcome::Duplicate);
        }
        let (author, sequence) = (entry.author(), entry.sequence());
        let head = match batch.heads.get(&author) {
            Some(head) => *head,
            None => self.stored_head(&author)?.unwrap_or_default(),
        };
        if sequence <= head.pruned {
            return Ok(Outcome::Rejected(Rejection::Pruned { watermark: head.pruned }));
        }
        if let Some(outcome) = self.check_parents(batch, entry)? {
            return Ok(outcome);
        }
        let twins =
            if sequence > head.highest { Vec::new() } else { self.with_number(batch, author, sequence)? };
        let is_first = twins.is_empty();
        if !is_first {
            let incoming = entry.id();
            batch.equivocations.push(Equivocation { author, sequence, held: twins, incoming });
        }
        let outcome = self.write(batch, entry);
        let head = self.advanced(batch, author, head, sequence)?;
        batch.heads.insert(author, head);
        Ok(outcome)
    }

    /// When an entry that is held, or earlier in the batch, was made.
    fn stamp(&self, batch: &Batch, id: &EntryId) -> Result<Option<Hlc>, StoreError> {
        match batch.stamps.get(id) {
            Some(hlc) => Ok(Some(*hlc)),
            None => Ok(self.place(id)?.map(|place| place.hlc)),
        }
    }

    fn check_parents(&self, batch: &Batch, entry: &Entry) -> Result<Option<Outcome>, StoreError> {
        let hlc = entry.hlc();
        let mut missing = Vec::new();
        for parent in entry.parents() {
            match self.stamp(batch, &parent)? {
                Some(parent_hlc) if parent_hlc >= hlc => {
                    let rejection = Rejection::NotAfterParent { hlc, parent, parent_hlc };
                    return Ok(Some(Outcome::Rejected(rejection)));
                }
                Some(_) => {}
                None if self.was_pruned(&parent)? => {}
                None => missing.push(parent),
            }
        }
        let deferred = || Outcome::Deferred(Deferral::MissingParents(missing.clone()));
        Ok((!missing.is_empty()).then(deferred))
    }

    fn was_pruned(&self, id: &EntryId) -> Result<bool, StoreError> {
        Ok(self.backend.get(&keys::pruned(self.number, id))?.is_some())
    }

    /// Entries of an author that have this number already; of very many, some.
    fn with_number(
        &self,
        batch: &Batch,
        author: AuthorId,
        sequence: AuthorSequence,
    ) -> Result<Vec<EntryId>, StoreError> {
        let from = keys::numbered(self.number, &author, sequence);
        let mut below = from.clone();
        keys::increment(&mut below);
        let held = self.list_authored((&from, &below), TWINS_TOLD)?;
        let mut ids: Vec<EntryId> = held.into_iter().map(|authored| authored.item.id).collect();
        ids.extend(batch.numbered.get(&(author, sequence)).into_iter().flatten());
        ids.truncate(TWINS_TOLD);
        Ok(ids)
    }

    fn write(&self, batch: &mut Batch, entry: &Entry) -> Outcome {
        let (number, item) = (self.number, entry.item());
        let summary = &mut batch.state.summary;
        let arrival = summary.last_arrival.next();
        let bytes = u32::try_from(entry.encoded().len()).expect("entries have at most ENTRY_BYTES_MAX");
        summary.last_arrival = arrival;
        summary.count += 1;
        summary.bytes += u64::from(bytes);
        summary.set_hash.add(&self.creation.set_key, &item.id);
        let place = Place { hlc: item.hlc, arrival, bytes };
        let stamp = item.hlc.to_bits().to_be_bytes();
        batch.writes.extend([
            Write::put(keys::by_id(number, &item.id), place.encode()),
            Write::put(keys::order(number, &item), arrival.0.to_be_bytes()),
            Write::put(keys::arrival(number, arrival), encode_item(&item)),
            Write::put(keys::entry(number, arrival), encode_entry(entry)),
            Write::put(keys::authored(number, &entry.author(), entry.sequence(), &item.id), stamp),
        ]);
        batch.stamps.insert(item.id, item.hlc);
        batch.numbered.entry((entry.author(), entry.sequence())).or_default().push(item.id);
        Outcome::Stored { arrival }
    }

    /// The head of an author after an entry with this number was written to the batch.
    fn advanced(
        &self,
        batch: &Batch,
        author: AuthorId,
        mut head: Head,
        sequence: AuthorSequence,
    ) -> Result<Head, StoreError> {
        head.held += 1;
        head.highest = head.highest.max(sequence);
        if head.contiguous.next() == Some(sequence) {
            head.contiguous = sequence;
            self.close_gaps(&mut head, author, |next| batch.numbered.contains_key(&(author, next)))?;
        }
        Ok(head)
    }

    /// Moves `contiguous` over numbers that came before those below them.
    pub(super) fn close_gaps(
        &self,
        head: &mut Head,
        author: AuthorId,
        in_batch: impl Fn(AuthorSequence) -> bool,
    ) -> Result<(), StoreError> {
        while let Some(next) = head.contiguous.next().filter(|next| *next <= head.highest) {
            if !in_batch(next) {
                let from = keys::numbered(self.number, &author, next);
                let mut below = from.clone();
                keys::increment(&mut below);
                if self.list_authored((&from, &below), 1)?.is_empty() {
                    break;
                }
            }
            head.contiguous = next;
        }
        Ok(())
    }
}
