//! Opens a store and its datasets.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{
    Ledger,
    records::{DatasetRecord, Place, State},
};
use crate::{
    entry::DatasetId,
    store::{
        Arrival, Backend, Creation, Datasets, EntryStore, Listed, StoreError, Summary, Write,
        keys::{self, Number, Space},
    },
};

/// The layout of keys and values that this program reads and writes.
const LAYOUT_VERSION: u64 = 2;
/// How many of the newest entries are looked at when a dataset is opened.
const CHECKED_ON_OPEN: u64 = 64;

/// A store on a [`Backend`].
#[derive(Debug)]
pub struct Store<B> {
    backend: Arc<B>,
    open: Mutex<BTreeMap<DatasetId, Arc<Ledger<B>>>>,
}

impl<B: Backend> Store<B> {
    /// A store on `backend`, which nobody else writes to.
    ///
    /// # Errors
    ///
    /// [`StoreError::Version`] if another version of the program made it.
    pub fn new(backend: B) -> Result<Self, StoreError> {
        let damaged = |problem: &str| StoreError::Damaged {
            path: backend.path().to_owned(),
            problem: problem.to_owned(),
        };
        match backend.get(&keys::FORMAT)? {
            Some(value) => {
                let found = value.try_into().map(u64::from_be_bytes);
                let found = found.map_err(|_| damaged("its format version can't be read"))?;
                if found != LAYOUT_VERSION {
                    let path = backend.path().to_owned();
                    return Err(StoreError::Version { path, found, readable: LAYOUT_VERSION });
                }
            }
            None => {
                let (from, below) = keys::all_datasets();
                if backend.last(&from, &below)?.is_some() {
                    return Err(damaged("its format version is missing"));
                }
                let version = LAYOUT_VERSION.to_be_bytes();
                backend.commit(vec![Write::put(keys::FORMAT.to_vec(), version)])?;
            }
        }
        Ok(Self { backend: Arc::new(backend), open: Mutex::default() })
    }

    /// What it stands on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn records(&self) -> Result<Vec<(DatasetId, DatasetRecord)>, StoreError> {
        let (from, below) = keys::all_datasets();
        let mut records = Vec::new();
        self.backend.scan(&from, &below, &mut |key, value| {
            let name = DatasetId::from_bytes(key.get(1..).unwrap_or_default()).ok();
            let record = name.zip(DatasetRecord::decode(value));
            records.push(record.ok_or_else(|| StoreError::Damaged {
                path: self.backend.path().to_owned(),
                problem: format!("the record of a dataset can't be read, its key is {key:02x?}"),
            })?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }

    fn create(&self, dataset: &DatasetId, creation: Creation) -> Result<DatasetRecord, StoreError> {
        let last = self.records()?.into_iter().map(|(_, record)| record.number.0).max();
        let record = DatasetRecord { number: Number(last.map_or(0, |last| last + 1)), creation };
        self.backend.commit(vec![
            Write::put(keys::dataset(dataset), record.encode()),
            Write::put(keys::state(record.number), State::default().encode()),
        ])?;
        Ok(record)
    }
}

impl<B: Backend> Datasets for Store<B> {
    fn open(&self, dataset: &DatasetId, creation: Creation) -> Result<Arc<dyn EntryStore>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = open.get(dataset) {
            return Ok(Arc::clone(ledger) as Arc<dyn EntryStore>);
        }
        let existing = self.records()?.into_iter().find(|(name, _)| name == dataset);
        let record = match existing {
            Some((_, record)) => record,
            None => self.create(dataset, creation)?,
        };
        let ledger = Arc::new(Ledger {
            backend: Arc::clone(&self.backend),
            dataset: dataset.clone(),
            number: record.number,
            creation: record.creation,
            state: Mutex::new(None),
            published: RwLock::new(Summary::default()),
            look: Mutex::new(None),
        });
        ledger.begin()?;
        open.insert(dataset.clone(), Arc::clone(&ledger));
        Ok(ledger)
    }

    fn datasets(&self) -> Result<Vec<DatasetId>, StoreError> {
        Ok(self.records()?.into_iter().map(|(name, _)| name).collect())
    }
}

impl<B: Backend> Ledger<B> {
    /// Reads the state, checks it against the newest entries, and completes a prune.
    fn begin(&self) -> Result<(), StoreError> {
        let state = self.stored_state()?;
        self.check_newest(&state)?;
        *self.writer() = Some(state);
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = state.summary;
        self.sweep(&mut |_| {}).map(|_| ())
    }

    fn check_newest(&self, state: &State) -> Result<(), StoreError> {
        let summary = &state.summary;
        for space in [Space::Arrivals, Space::Entries] {
            let (from, below) = keys::whole(space, self.number);
            let last = self.backend.last(&from, &below)?;
            let last = last.and_then(|key| keys::Fields(keys::rest(&key)).arrival()).unwrap_or_default();
            let fits = if state.removed == 0 {
                last == summary.last_arrival
            } else {
                last <= summary.last_arrival && (last == Arrival::default()) == (summary.count == 0)
            };
            if !fits {
                let counted = summary.last_arrival;
                return Err(
                    self.damaged(format!("the last arrival is {last}, by its counts it is {counted}"))
                );
            }
        }
        let from = Arrival(summary.last_arrival.0.saturating_sub(CHECKED_ON_OPEN - 1).max(1));
        let newest = self.list_arrivals(from, usize::try_from(CHECKED_ON_OPEN).unwrap_or(usize::MAX))?;
        let expected = summary.last_arrival.0.min(CHECKED_ON_OPEN);
        if state.removed == 0 && (newest.len() as u64 != expected || summary.count != summary.last_arrival.0)
        {
            return Err(self.damaged(format!("of the last {expected} arrivals {} are there", newest.len())));
        }
        newest.iter().try_for_each(|listed| self.check_listed(listed).map(|_| ()))
    }

    /// Checks that an arrival has its entry, and that all indexes have it. Returns the entry's length.
    pub(super) fn check_listed(&self, listed: &Listed) -> Result<u64, StoreError> {
        let Listed { arrival, item } = listed;
        let stored = self.entry(*arrival, item)?;
        let stored = stored.ok_or_else(|| self.damaged(format!("entry {} is missing", item.id)))?;
        let bytes = stored.entry.encoded().len();
        let place =
            Place { hlc: item.hlc, arrival: *arrival, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) };
        let (author, sequence) = (stored.entry.author(), stored.entry.sequence());
        let indexes = [
            (keys::by_id(self.number, &item.id), place.encode()),
            (keys::order(self.number, item), arrival.0.to_be_bytes().to_vec()),
            (
                keys::authored(self.number, &author, sequence, &item.id),
                item.hlc.to_bits().to_be_bytes().to_vec(),
            ),
        ];
        for (key, value) in indexes {
            if self.backend.get(&key)?.as_deref() != Some(&value) {
                return Err(self.damaged(format!("an index does not have entry {}", item.id)));
            }
        }
        Ok(bytes as u64)
    }
}
