//! What last writer wins has thrown away without its author knowing.

use std::collections::VecDeque;

use super::{DocumentKey, Version};
use crate::entry::Entry;

/// Two writes to a document of which neither author knew the other's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The document.
    pub document: DocumentKey,
    /// The one that counts.
    pub winner: Version,
    /// The one that was overwritten. Its value is in the store until it is pruned.
    pub loser: Version,
}

/// The last conflicts of a view, up to a bound; then the oldest is dropped and counted.
///
/// Two writes are told to be concurrent if they are of different authors, and neither names the other as a parent
/// or could have: an entry that arrives is compared with the current write only, and parents of parents are not
/// looked up. So a writer that builds on a value should name it among the parents. What is logged depends on the
/// order of arrival: of three concurrent writes a node sees two conflicts, and not each node the same two.
#[derive(Clone, Debug)]
pub struct ConflictLog {
    conflicts: VecDeque<Conflict>,
    conflicts_max: usize,
    dropped: u64,
}

impl ConflictLog {
    pub(super) const fn new(conflicts_max: usize) -> Self {
        Self { conflicts: VecDeque::new(), conflicts_max, dropped: 0 }
    }

    /// Compares an entry that arrives with the current write.
    pub(super) fn look(&mut self, key: &DocumentKey, current: &Version, entry: &Entry) {
        let incoming = Version::of(entry);
        let builds_on_current = entry.parents().any(|parent| parent == current.item.id);
        if builds_on_current || incoming.author == current.author {
            return;
        }
        let (winner, loser) =
            if incoming.item > current.item { (incoming, *current) } else { (*current, incoming) };
        self.conflicts.push_back(Conflict { document: key.clone(), winner, loser });
        while self.conflicts.len() > self.conflicts_max {
            self.conflicts.pop_front();
            self.dropped += 1;
        }
    }

    /// The conflicts, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Conflict> {
        self.conflicts.iter()
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<Conflict> {
        self.conflicts.pop_front()
    }

    /// How many were dropped because the log was full.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}
