//! What a store brings to be examined, and what the cases work with.

use std::sync::Arc;

use mesh_core::Hlc;

use crate::{
    EntryId,
    entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Outcome, Verified},
    store::{BatchReport, Creation, Datasets, EntryStore, StoreError, StoreIncarnation},
};

/// Makes places for stores.
pub trait StoreFactory: Send + Sync {
    /// The store's name.
    fn store(&self) -> &'static str;

    /// A new place without a store. Drop it to remove what is there.
    fn place(&self) -> Box<dyn Place>;
}

/// Where one store is.
pub trait Place: Send + Sync {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn open(&self) -> Result<Arc<dyn Datasets>, StoreError>;

    /// Whether the store is there again when it is opened after it was dropped.
    fn survives_closing(&self) -> bool {
        true
    }
}

/// A place for one case, with entries to put there.
pub struct Workbench {
    place: Box<dyn Place>,
}

impl std::fmt::Debug for Workbench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workbench").finish_non_exhaustive()
    }
}

/// What every case's main dataset is called.
const DATASET: &str = "main";

impl Workbench {
    pub(super) fn new(place: Box<dyn Place>) -> Self {
        Self { place }
    }

    pub(super) fn place(&self) -> &dyn Place {
        &*self.place
    }

    /// Opens the store. Drop what it gave before, or it is in use.
    pub(super) fn open(&self) -> Opened {
        self.open_as(DATASET, 1)
    }

    pub(super) fn open_as(&self, dataset: &str, incarnation: u64) -> Opened {
        let datasets = self.place.open().expect("the store opens");
        let name = name(dataset);
        let creation = Creation::new(&name, StoreIncarnation(incarnation));
        let store = datasets.open(&name, creation).expect("the dataset opens");
        Opened { datasets, store }
    }
}

/// An open store and one dataset of it.
pub(super) struct Opened {
    pub(super) datasets: Arc<dyn Datasets>,
    pub(super) store: Arc<dyn EntryStore>,
}

impl Opened {
    pub(super) fn dataset(&self, dataset: &str) -> Arc<dyn EntryStore> {
        let name = name(dataset);
        self.datasets.open(&name, Creation::new(&name, StoreIncarnation(2))).expect("the dataset opens")
    }

    /// Inserts and expects that all of it is stored.
    pub(super) fn store_all(&self, entries: &[Verified]) -> BatchReport {
        let report = self.store.insert_batch(entries, &[]).expect("inserted");
        let stored = report.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored { .. }));
        assert!(stored, "not everything was stored: {:?}", report.outcomes);
        report
    }

    pub(super) fn insert(&self, entries: &[Verified]) -> Vec<Outcome> {
        self.store.insert_batch(entries, &[]).expect("inserted").outcomes
    }

    /// Expects that everything fits together.
    pub(super) fn verify(&self) {
        let report = self.store.verify().expect("everything fits together");
        assert_eq!(report.entries, self.store.summary().count);
    }
}

pub(super) fn name(dataset: &str) -> DatasetId {
    DatasetId::new(dataset).expect("a valid name")
}

/// An author of the main dataset whose entries are stamped one after the other.
pub(super) struct Writer {
    author: Author,
    key: AuthorKey,
    dataset: DatasetId,
    at: u64,
}

impl Writer {
    pub(super) fn new(seed: u8) -> Self {
        Self::of(DATASET, seed)
    }

    pub(super) fn of(dataset: &str, seed: u8) -> Self {
        let (key, dataset) = (AuthorKey::from_seed([seed; 32]), name(dataset));
        let author = Author::new(key.clone(), dataset.clone(), AuthorSequence::FIRST);
        // So that entries of several writers lie between each other.
        Self { author, key, dataset, at: u64::from(seed) }
    }

    pub(super) fn id(&self) -> crate::entry::AuthorId {
        self.author.id()
    }

    pub(super) fn entry(&mut self, parents: &[EntryId]) -> Verified {
        self.at += 100;
        self.entry_at(self.at, parents)
    }

    pub(super) fn entry_at(&mut self, at: u64, parents: &[EntryId]) -> Verified {
        let collection = Collection::new("things").expect("a valid name");
        let payload = format!("made at {at}").repeat(1 + usize::try_from(at % 7).expect("small"));
        let draft =
            Draft::put(&collection, at.to_be_bytes().to_vec(), payload).after(parents.iter().copied());
        self.author.sign(draft, Hlc::from_bits(at)).expect("within limits")
    }

    pub(super) fn entries(&mut self, count: usize) -> Vec<Verified> {
        (0..count).map(|_| self.entry(&[])).collect()
    }

    /// Each the parent of the next.
    pub(super) fn chain(&mut self, count: usize) -> Vec<Verified> {
        let mut chain: Vec<Verified> = Vec::new();
        for _ in 0..count {
            let parent: Vec<EntryId> = chain.last().map(|last| last.id()).into_iter().collect();
            chain.push(self.entry(&parent));
        }
        chain
    }

    /// Forgets which numbers it has used.
    pub(super) fn back_to(&mut self, sequence: u64) {
        self.author = Author::new(self.key.clone(), self.dataset.clone(), AuthorSequence(sequence));
    }
}

pub(super) fn ids(entries: &[Verified]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id()).collect()
}
