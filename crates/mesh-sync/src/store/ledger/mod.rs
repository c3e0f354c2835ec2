//! The rules of a store, over any [`Backend`].

mod forget;
mod insert;
mod open;
mod prune;
mod read;
mod records;
mod verify;

use std::{
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

pub use self::open::Store;
use self::records::{Place, State, decode_entry, decode_head, decode_pruned};
use super::{
    Arrival, Authored, Backend, BatchReport, Checkpoint, Creation, EntryStore, Head, Listed,
    METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, MetadataRecord, MetadataWrite, PrunedEntry, ScanLimit,
    SetKey, StoreError, StoreIncarnation, Stored, Summary, VerifyReport, Write,
    keys::{self, Number},
};
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, DatasetId, Verified},
};

/// One dataset on a [`Backend`].
#[derive(Debug)]
pub struct Ledger<B> {
    backend: Arc<B>,
    dataset: DatasetId,
    number: Number,
    creation: Creation,
    /// Held by the one that writes. `None` after a commit whose end is unknown: read it anew.
    state: Mutex<Option<State>>,
    /// As of the last commit; apart from `state`, so that nobody waits for a disk to read it.
    published: RwLock<Summary>,
    /// Held by the one that prunes, before `state`. Which names are needed, as far as was looked.
    look: Mutex<Option<forget::Look>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Ledger<B> {
    fn writer(&self) -> MutexGuard<'_, Option<State>> {
        lock(&self.state)
    }

    fn damaged(&self, problem: impl Into<String>) -> StoreError {
        let problem = format!("dataset {}: {}", self.dataset, problem.into());
        StoreError::Damaged { path: self.backend.path().to_owned(), problem }
    }

    /// Reads the state from the backend.
    fn stored_state(&self) -> Result<State, StoreError> {
        let value = self.backend.get(&keys::state(self.number))?;
        let value = value.ok_or_else(|| self.damaged("its counts are missing"))?;
        State::decode(&value).ok_or_else(|| self.damaged("its counts can't be read"))
    }

    /// The state to build on. It stays away until [`Ledger::commit`] puts a new one back or the caller does.
    fn take_state(&self, guard: &mut Option<State>) -> Result<State, StoreError> {
        match guard.take() {
            Some(state) => Ok(state),
            None => self.stored_state(),
        }
    }

    /// Commits `writes` together with the new state, then lets others see it.
    fn commit(
        &self,
        guard: &mut Option<State>,
        mut writes: Vec<Write>,
        state: State,
    ) -> Result<(), StoreError> {
        writes.push(Write::put(keys::state(self.number), state.encode()));
        self.backend.commit(writes)?;
        *guard = Some(state);
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = state.summary;
        Ok(())
    }

    fn place(&self, id: &EntryId) -> Result<Option<Place>, StoreError> {
        let value = self.backend.get(&keys::by_id(self.number, id))?;
        let place = |value: Vec<u8>| {
            Place::decode(&value)
                .ok_or_else(|| self.damaged(format!("the place of entry {id} can't be read")))
        };
        value.map(place).transpose()
    }

    fn stored_head(&self, author: &AuthorId) -> Result<Option<Head>, StoreError> {
        let value = self.backend.get(&keys::head(self.number, author))?;
        let head = |value: Vec<u8>| {
            decode_head(&value)
                .ok_or_else(|| self.damaged(format!("the head of author {author} can't be read")))
        };
        value.map(head).transpose()
    }

    /// Reads an entry and checks it against its name.
    fn entry(&self, arrival: Arrival, item: &Item) -> Result<Option<Stored>, StoreError> {
        let Some(value) = self.backend.get(&keys::entry(self.number, arrival))? else { return Ok(None) };
        let entry = decode_entry(value)
            .map_err(|error| self.damaged(format!("entry {} can't be read: {error}", item.id)))?;
        if entry.item() != *item || *entry.dataset() != self.dataset {
            return Err(self.damaged(format!("in the place of entry {} is {}", item.id, entry.id())));
        }
        Ok(Some(Stored { arrival, entry: Verified::trust(entry) }))
    }

    /// Collects what `read` makes of at most `limit` keys and values.
    fn collect<T>(
        &self,
        range: (&[u8], &[u8]),
        limit: usize,
        mut read: impl FnMut(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut collected = Vec::new();
        if limit == 0 {
            return Ok(collected);
        }
        self.backend.scan(range.0, range.1, &mut |key, value| {
            let one = read(keys::rest(key), value);
            collected.push(one.ok_or_else(|| self.damaged(format!("the record {key:02x?} can't be read")))?);
            Ok(if collected.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(collected)
    }

    fn metadata_writes(&self, metadata: &[MetadataWrite]) -> Result<Vec<Write>, StoreError> {
        let write = |change: &MetadataWrite| {
            check_size("key of the metadata", change.key.len(), METADATA_KEY_BYTES_MAX)?;
            let length = change.value.as_ref().map_or(0, Vec::len);
            check_size("value of the metadata", length, METADATA_VALUE_BYTES_MAX)?;
            Ok(Write { key: keys::metadata(self.number, &change.key), value: change.value.clone() })
        };
        metadata.iter().map(write).collect()
    }
}

fn check_size(what: &'static str, found: usize, max: usize) -> Result<(), StoreError> {
    if found > max { Err(StoreError::TooLarge { what, found, max }) } else { Ok(()) }
}

impl<B: Backend> EntryStore for Ledger<B> {
    fn dataset(&self) -> &DatasetId {
        &self.dataset
    }

    fn incarnation(&self) -> StoreIncarnation {
        self.creation.incarnation
    }

    fn set_key(&self) -> SetKey {
        self.creation.set_key
    }

    fn summary(&self) -> Summary {
        *self.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.backend.room()
    }

    fn insert_batch(
        &self,
        entries: &[Verified],
        metadata: &[MetadataWrite],
    ) -> Result<BatchReport, StoreError> {
        self.insert(entries, metadata)
    }

    fn get(&self, ids: &[EntryId]) -> Result<Vec<Option<Stored>>, StoreError> {
        ids.iter().map(|id| self.get_one(id)).collect()
    }

    fn has(&self, ids: &[EntryId]) -> Result<Vec<bool>, StoreError> {
        ids.iter().map(|id| Ok(self.backend.get(&keys::by_id(self.number, id))?.is_some())).collect()
    }

    fn items(&self, range: (Bound<Item>, Bound<Item>), limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.list_items(range, limit)
    }

    fn scan(&self, from: Bound<Item>, limit: ScanLimit) -> Result<Vec<Stored>, StoreError> {
        self.scan_entries(from, limit)
    }

    fn arrivals(&self, from: Arrival, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.list_arrivals(from, limit)
    }

    fn by_author(
        &self,
        author: &AuthorId,
        from: AuthorSequence,
        limit: usize,
    ) -> Result<Vec<Authored>, StoreError> {
        let mut below = keys::of_author(self.number, author);
        keys::increment(&mut below);
        self.list_authored((&keys::numbered(self.number, author, from), &below), limit)
    }

    fn head(&self, author: &AuthorId) -> Result<Option<Head>, StoreError> {
        self.stored_head(author)
    }

    fn vector(&self, after: Option<&AuthorId>, limit: usize) -> Result<Vec<(AuthorId, Head)>, StoreError> {
        self.list_heads(after, limit)
    }

    fn prune(
        &self,
        watermarks: &[(AuthorId, AuthorSequence)],
        boundary: &[PrunedEntry],
        on_removed: &mut dyn FnMut(&[Item]),
    ) -> Result<u64, StoreError> {
        self.with_look(|| {
            self.raise_watermarks(watermarks, boundary)?;
            self.sweep(on_removed)
        })
    }

    fn pruned(&self, after: Option<&EntryId>, limit: usize) -> Result<Vec<PrunedEntry>, StoreError> {
        self.list_pruned(after, limit)
    }

    fn metadata(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        check_size("key of the metadata", key.len(), METADATA_KEY_BYTES_MAX)?;
        self.backend.get(&keys::metadata(self.number, key))
    }

    fn metadata_scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<MetadataRecord>, StoreError> {
        let first = keys::metadata(self.number, prefix);
        let mut below = first.clone();
        keys::increment(&mut below);
        let from = after.map_or(first.clone(), |key| first.max(behind(keys::metadata(self.number, key))));
        self.collect((&from, &below), limit, |key, value| {
            Some(MetadataRecord { key: key.to_vec(), value: value.to_vec() })
        })
    }

    fn write_metadata(&self, writes: &[MetadataWrite]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.backend.commit(self.metadata_writes(writes)?)
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let Some(value) = self.backend.get(&keys::checkpoint(self.number))? else { return Ok(None) };
        let (arrival, blob) =
            value.split_first_chunk::<8>().ok_or_else(|| self.damaged("the checkpoint can't be read"))?;
        Ok(Some(Checkpoint { arrival: Arrival(u64::from_be_bytes(*arrival)), blob: blob.to_vec() }))
    }

    fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        check_size("checkpoint", checkpoint.blob.len(), METADATA_VALUE_BYTES_MAX)?;
        let mut value = checkpoint.arrival.0.to_be_bytes().to_vec();
        value.extend_from_slice(&checkpoint.blob);
        // Waits for a prune, which drops the checkpoint.
        let _writer = self.writer();
        self.backend.commit(vec![Write::put(keys::checkpoint(self.number), value)])
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.verify_all()
    }
}

/// The first key behind this one.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

#[cfg(test)]
mod tests;
