//! The records in key order.

use std::{collections::BTreeMap, ops::Bound};

use mesh_core::store::{Key, Record, Scan};

/// Records by key, with a count of their bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    // An Arc, so that a copy of the whole for a snapshot is cheap.
    by_key: BTreeMap<Key, std::sync::Arc<Record>>,
    bytes: usize,
}

fn weight(record: &Record) -> usize {
    record.key.as_str().len() + record.value.len()
}

impl Records {
    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.by_key.get(key).map(|record| &**record)
    }

    pub(super) fn put(&mut self, record: Record) {
        self.bytes += weight(&record);
        if let Some(old) = self.by_key.insert(record.key.clone(), record.into()) {
            self.bytes -= weight(&old);
        }
    }

    pub(super) fn delete(&mut self, key: &Key) -> Option<std::sync::Arc<Record>> {
        let old = self.by_key.remove(key)?;
        self.bytes -= weight(&old);
        Some(old)
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.by_key.values().map(|record| &**record)
    }

    pub(super) fn scan(&self, scan: &Scan) -> (Vec<Record>, bool) {
        let prefix = scan.prefix.as_str();
        let start = match &scan.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let mut found = Vec::new();
        for (key, record) in self.by_key.range::<str, _>((start, Bound::Unbounded)) {
            if !key.as_str().starts_with(prefix) {
                break;
            }
            if !scan.prefix.covers(key) {
                continue;
            }
            if found.len() == scan.limit {
                return (found, true);
            }
            found.push((**record).clone());
        }
        (found, false)
    }
}

impl Records {
    pub(super) fn into_records(self) -> impl ExactSizeIterator<Item = std::sync::Arc<Record>> + Send {
        self.by_key.into_values()
    }
}
