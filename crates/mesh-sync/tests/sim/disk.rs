//! The disk of one node: what was committed, and copies of it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_sync::store::{Backend, StoreError, Visit, Write};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Outlives the node.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Map>>);

impl Disk {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what is on it.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.map().clone())))
    }
}

impl Backend for Disk {
    fn path(&self) -> &Path {
        Path::new("(simulated)")
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.map().get(key).cloned())
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= below {
            return Ok(());
        }
        for (key, value) in self.map().range::<[u8], _>((Bound::Included(from), Bound::Excluded(below))) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if from >= below {
            return Ok(None);
        }
        let map = self.map();
        let last = map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(below))).next_back();
        Ok(last.map(|(key, _)| key.clone()))
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut map = self.map();
        for Write { key, value } in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}
