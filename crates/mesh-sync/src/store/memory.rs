//! A store that is gone with the process. For tests, and for datasets that are worth nothing later.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{PoisonError, RwLock},
};

use super::{Backend, Store, StoreError, Visit, Write};

/// A store in memory.
///
/// ```
/// use mesh_sync::{entry::DatasetId, store::{Creation, Datasets, MemoryStore, StoreIncarnation}};
///
/// let notes = DatasetId::new("notes")?;
/// let store = MemoryStore::in_memory();
/// let dataset = store.open(&notes, Creation::new(&notes, StoreIncarnation(4711)))?;
/// assert_eq!(dataset.summary().count, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type MemoryStore = Store<MemoryBackend>;

impl MemoryStore {
    /// An empty store.
    pub fn in_memory() -> Self {
        Self::new(MemoryBackend::default()).expect("an empty store has no version to differ from")
    }
}

/// An ordered map in memory.
#[derive(Debug, Default)]
pub struct MemoryBackend(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Backend for MemoryBackend {
    fn path(&self) -> &Path {
        Path::new("(memory)")
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if from >= below {
            return Ok(());
        }
        for (key, value) in map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(below))) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if from >= below {
            return Ok(None);
        }
        let last = map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(below))).next_back();
        Ok(last.map(|(key, _)| key.clone()))
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for Write { key, value } in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
