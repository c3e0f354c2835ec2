//! Where entries are kept.
//!
//! [`Datasets`] is a store on disk or in memory, [`EntryStore`] one dataset of it. There is one implementation of
//! the rules, [`Ledger`], over an ordered map of bytes with an atomic commit, [`Backend`]: [`MemoryBackend`],
//! `FjallBackend` and `RedbBackend`. A backend of your own is five methods;
//! [`testing::conformance`](crate::testing::conformance) tells whether it keeps the contract.

mod backend;
mod error;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(any(feature = "fjall", feature = "redb"))]
mod guard;
mod keys;
mod ledger;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod set_hash;
mod types;

use std::{ops::Bound, sync::Arc};

#[cfg(feature = "fjall")]
pub use self::fjall::{FjallBackend, FjallOptions, FjallStore};
#[cfg(feature = "redb")]
pub use self::redb::{RedbBackend, RedbStore};
pub use self::{
    backend::{Backend, Visit, Write},
    error::StoreError,
    ledger::{Ledger, Store},
    memory::{MemoryBackend, MemoryStore},
    set_hash::{SetHash, SetKey},
    types::{
        Arrival, Authored, BatchReport, Checkpoint, Creation, Head, Listed, MetadataRecord, MetadataWrite,
        PrunedEntry, ScanLimit, StoreIncarnation, Stored, Summary, VerifyReport,
    },
};
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, DatasetId, Verified},
};

/// The longest key of metadata, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 1024;
/// The largest value of metadata and the largest checkpoint, in bytes.
pub const METADATA_VALUE_BYTES_MAX: usize = 16 << 20;

/// A store of any number of datasets.
pub trait Datasets: Send + Sync {
    /// Opens a dataset, and makes it as `creation` says if it is not there. What is there keeps its own
    /// incarnation and key. Every call gives the same one.
    ///
    /// A cheap check comes first: the counts, and the newest entries with everything that belongs to them. A
    /// prune that was cut short is completed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if something does not fit together; restore the store, or remove it and let it
    /// fill again from peers.
    fn open(&self, dataset: &DatasetId, creation: Creation) -> Result<Arc<dyn EntryStore>, StoreError>;

    /// The datasets that there are.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn datasets(&self) -> Result<Vec<DatasetId>, StoreError>;
}

/// The entries of one dataset.
///
/// Methods block for as long as the disk takes: an fsync for whatever writes. Call them on a thread that may
/// block, such as `tokio::task::spawn_blocking` gives. Reads run beside a write and see a commit as a whole or not
/// at all; writes to one dataset take turns.
///
/// A store is always **closed under parents**: each parent of an entry that is held is held too, or was pruned.
///
/// A write that returns an error may or may not have happened, but never in part. After
/// [`StoreError::Stopped`] the store takes no more; open it again.
pub trait EntryStore: Send + Sync {
    /// Its name.
    fn dataset(&self) -> &DatasetId;

    /// Tells this store from every other, and from itself after it was made anew. Cursors belong to one.
    fn incarnation(&self) -> StoreIncarnation;

    /// The key of [`Summary::set_hash`].
    fn set_key(&self) -> SetKey;

    /// Counts and the set hash, as of the last commit. Does not touch the disk.
    fn summary(&self) -> Summary;

    /// Whether the disk has room for more. A store that runs into the end of its disk has to be opened again, so ask
    /// before a write and let it wait.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] if it has not.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Stores entries in one durable commit, together with `metadata`. When it returns, all of it is on disk.
    ///
    /// There is an outcome for each entry, in order. What is there already is skipped. An entry needs its parents:
    /// held, earlier in the batch, or pruned; sorted by [`Item`], a batch has them in the right order. Entries get
    /// consecutive arrival numbers, also over several batches. The metadata is written whatever the outcomes are.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing was stored, or all of it, but no outcome is known.
    fn insert_batch(
        &self,
        entries: &[Verified],
        metadata: &[MetadataWrite],
    ) -> Result<BatchReport, StoreError>;

    /// The entries with these names, in their order.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if one can't be read.
    fn get(&self, ids: &[EntryId]) -> Result<Vec<Option<Stored>>, StoreError>;

    /// Which of these are held, in their order.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn has(&self, ids: &[EntryId]) -> Result<Vec<bool>, StoreError>;

    /// At most `limit` names in the order of [`Item`], without reading the entries.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn items(&self, range: (Bound<Item>, Bound<Item>), limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// Entries in the order of [`Item`], so parents first. Empty at the end; at least one otherwise, however
    /// large.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if one can't be read.
    fn scan(&self, from: Bound<Item>, limit: ScanLimit) -> Result<Vec<Stored>, StoreError>;

    /// At most `limit` names in the order in which they arrived, from `from` on. Parents come first here too.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn arrivals(&self, from: Arrival, limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// At most `limit` entries of one author, from a sequence number on. Where an author gave a number to several
    /// entries, each is there, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn by_author(
        &self,
        author: &AuthorId,
        from: AuthorSequence,
        limit: usize,
    ) -> Result<Vec<Authored>, StoreError>;

    /// What is held of one author; `None` if nothing ever was.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn head(&self, author: &AuthorId) -> Result<Option<Head>, StoreError>;

    /// At most `limit` authors with what is held of them, in the order of their keys, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn vector(&self, after: Option<&AuthorId>, limit: usize) -> Result<Vec<(AuthorId, Head)>, StoreError>;

    /// Removes each author's entries up to and including the number given, and refuses them from now on as
    /// [`Rejection::Pruned`](crate::entry::Rejection::Pruned). Watermarks only rise.
    ///
    /// The watermarks become durable first, then entries go in several commits; after each, `on_removed` is called
    /// with what went, from within the write, so it must not write to this store. If it is cut short, the next
    /// [`Datasets::open`] completes it.
    ///
    /// The names of what went are kept, as parents that need not be there, and so are those in `boundary`. When about
    /// as many were removed again, those go that no entry names which is held. An entry that comes later and names
    /// one waits for its parent, until a `boundary` has it again. A store that
    /// begins after a prune has none of them: give it those of [`EntryStore::pruned`] of its source, or entries
    /// that build on pruned ones wait for their parents for ever.
    ///
    /// What is removed is gone, also when it is the current value of a document.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some of it may have been done.
    fn prune(
        &self,
        watermarks: &[(AuthorId, AuthorSequence)],
        boundary: &[PrunedEntry],
        on_removed: &mut dyn FnMut(&[Item]),
    ) -> Result<u64, StoreError>;

    /// At most `limit` of what was pruned, in the order of the ids, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn pruned(&self, after: Option<&EntryId>, limit: usize) -> Result<Vec<PrunedEntry>, StoreError>;

    /// A value of the metadata.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn metadata(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` keys and values of the metadata whose key starts with `prefix`, in order, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn metadata_scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<MetadataRecord>, StoreError>;

    /// Writes metadata in one durable commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; all or nothing of it was written.
    fn write_metadata(&self, writes: &[MetadataWrite]) -> Result<(), StoreError>;

    /// The last checkpoint.
    ///
    /// # Errors
    ///
    /// [`StoreError`], if the store can't be read.
    fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// Replaces the checkpoint durably.
    ///
    /// A prune drops it, since arrivals alone don't bring what was removed up to date.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the old one may still be there.
    fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError>;

    /// Reads everything and checks that it fits together: every entry against its id, every index against the
    /// entries, counts and set hash, and that parents are there. Takes as long as reading all of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] tells the first thing that is wrong.
    fn verify(&self) -> Result<VerifyReport, StoreError>;
}
