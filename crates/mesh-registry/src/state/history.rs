//! The changes of the last revisions, for watches that resume.

use std::{collections::VecDeque, sync::Arc};

use mesh_core::{
    Revision,
    store::{Change, Prefix},
};

/// Most revisions that are kept; older ones are forgotten.
pub const HISTORY_REVISIONS_MAX: usize = 10_000;
/// Most bytes of keys and values that are kept; older ones are forgotten.
pub const HISTORY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What one transaction changed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revised {
    /// Its revision.
    pub revision: Revision,
    /// The changes in key order.
    pub changes: Arc<[Change]>,
}

impl Revised {
    /// The part that `prefix` covers; `None` if that is nothing.
    pub fn under(&self, prefix: &Prefix) -> Option<Self> {
        let covered = self.changes.iter().filter(|change| prefix.covers(change.key())).count();
        if covered == 0 {
            None
        } else if covered == self.changes.len() {
            Some(self.clone())
        } else {
            let changes = self.changes.iter().filter(|change| prefix.covers(change.key())).cloned().collect();
            Some(Self { revision: self.revision, changes })
        }
    }

    fn bytes(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Put(record) => record.key.as_str().len() + record.value.len(),
            Change::Deleted { key, .. } => key.as_str().len(),
        };
        self.changes.iter().map(of).sum()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct History {
    kept: VecDeque<Revised>,
    bytes: usize,
    compacted: Revision,
}

impl History {
    /// A history that begins after `compacted`.
    pub(super) fn starting_after(compacted: Revision) -> Self {
        Self { compacted, ..Self::default() }
    }

    pub(super) fn push(&mut self, revised: Revised) {
        self.bytes += revised.bytes();
        self.kept.push_back(revised);
        // The newest stays, however large: whoever is up to date must not fall into a gap for it.
        while self.kept.len() > 1
            && (self.kept.len() > HISTORY_REVISIONS_MAX || self.bytes > HISTORY_BYTES_MAX)
        {
            self.forget_oldest();
        }
    }

    pub(super) fn compact(&mut self, through: Revision) {
        while self.kept.front().is_some_and(|oldest| oldest.revision <= through) {
            self.forget_oldest();
        }
        self.compacted = self.compacted.max(through);
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Revised> {
        self.kept.iter()
    }

    pub(super) fn after(&self, after: Revision, prefix: &Prefix) -> Option<Vec<Revised>> {
        if after < self.compacted {
            return None;
        }
        let start = self.kept.partition_point(|revised| revised.revision <= after);
        Some(self.kept.range(start..).filter_map(|revised| revised.under(prefix)).collect())
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= oldest.bytes();
            self.compacted = oldest.revision;
        }
    }
}
