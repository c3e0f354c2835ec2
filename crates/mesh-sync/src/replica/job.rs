//! What a replica wants done elsewhere: by the store, or on other cores.

use std::ops::Bound;

use super::message::LIST_MAX;
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, Entry, SignatureError, Verified, verify_batch},
    store::{
        Arrival, BatchReport, Checkpoint, EntryStore, Head, Listed, MetadataWrite, PrunedEntry, ScanLimit,
        StoreError, Stored,
    },
};

/// Names one job of one replica, so that its end finds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Something to do. Tell [`Replica::handle_done`](super::Replica::handle_done) what came of it.
///
/// Several may be under way at once, but at most one that writes. They may end in any order.
#[derive(Clone, Debug)]
pub struct Job {
    /// Returned with the result.
    pub id: JobId,
    /// What to do.
    pub work: Work,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// Check these signatures; a large batch is worth several cores.
    Verify(Vec<Entry>),
    /// [`EntryStore::insert_batch`]. Done when it is durable, not before.
    Insert {
        /// Entries, parents first.
        entries: Vec<Verified>,
        /// Goes with them.
        metadata: Vec<MetadataWrite>,
    },
    /// [`EntryStore::get`], as many of the first of them as fit.
    Read {
        /// Which.
        ids: Vec<EntryId>,
        /// It ends with the entry that passes this many bytes.
        bytes_max: usize,
    },
    /// [`EntryStore::scan`].
    Scan {
        /// From where.
        from: Bound<Item>,
        /// How many.
        limit: ScanLimit,
    },
    /// [`EntryStore::arrivals`].
    Arrivals {
        /// From where.
        from: Arrival,
        /// How many.
        limit: usize,
    },
    /// Which of these were pruned.
    Pruned(Vec<EntryId>),
    /// [`EntryStore::vector`].
    Vector {
        /// After whom.
        after: Option<AuthorId>,
        /// How many.
        limit: usize,
    },
    /// [`EntryStore::prune`].
    Prune {
        /// Up to which number entries go.
        watermarks: Vec<(AuthorId, AuthorSequence)>,
        /// Parents that need not be there.
        boundary: Vec<PrunedEntry>,
    },
    /// [`EntryStore::write_metadata`].
    WriteMetadata(Vec<MetadataWrite>),
    /// [`EntryStore::write_checkpoint`].
    Checkpoint(Checkpoint),
}

/// What came of a job.
#[derive(Clone, Debug)]
pub enum Done {
    /// One for each entry.
    Verified(Vec<Result<Verified, SignatureError>>),
    /// All of it is durable.
    Inserted(BatchReport),
    /// As many as were read, in the order of the ids; `None` for what is not held.
    Read(Vec<Option<Stored>>),
    /// Empty at the end.
    Scanned(Vec<Stored>),
    /// Empty at the end.
    Arrivals(Vec<Listed>),
    /// Those that were pruned.
    Pruned(Vec<PrunedEntry>),
    /// Empty at the end.
    Vector(Vec<(AuthorId, Head)>),
    /// What went.
    Removed(Vec<Item>),
    /// A write without a result.
    Written,
}

impl Work {
    /// Whether it writes to the store.
    pub const fn writes(&self) -> bool {
        matches!(
            self,
            Self::Insert { .. } | Self::Prune { .. } | Self::WriteMetadata(_) | Self::Checkpoint(_)
        )
    }

    /// Does it, blocking, on this thread.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn perform(&self, store: &dyn EntryStore) -> Result<Done, StoreError> {
        Ok(match self {
            Self::Verify(entries) => Done::Verified(verify_batch(entries.clone())),
            Self::Insert { entries, metadata } => Done::Inserted(store.insert_batch(entries, metadata)?),
            Self::Read { ids, bytes_max } => Done::Read(read(store, ids, *bytes_max)?),
            Self::Scan { from, limit } => Done::Scanned(store.scan(*from, *limit)?),
            Self::Arrivals { from, limit } => Done::Arrivals(store.arrivals(*from, *limit)?),
            Self::Pruned(ids) => {
                let mut pruned = Vec::new();
                for id in ids {
                    pruned.extend(find_pruned(store, id)?);
                }
                Done::Pruned(pruned)
            }
            Self::Vector { after, limit } => Done::Vector(store.vector(after.as_ref(), *limit)?),
            Self::Prune { watermarks, boundary } => {
                let mut removed = Vec::new();
                store.prune(watermarks, boundary, &mut |items| removed.extend_from_slice(items))?;
                Done::Removed(removed)
            }
            Self::WriteMetadata(writes) => {
                store.write_metadata(writes)?;
                Done::Written
            }
            Self::Checkpoint(checkpoint) => {
                store.write_checkpoint(checkpoint)?;
                Done::Written
            }
        })
    }
}

/// How many entries are read together.
const READ_AT_ONCE: usize = 16;

fn read(
    store: &dyn EntryStore,
    ids: &[EntryId],
    bytes_max: usize,
) -> Result<Vec<Option<Stored>>, StoreError> {
    let mut found = Vec::with_capacity(ids.len().min(LIST_MAX));
    let mut bytes = 0;
    for ids in ids.chunks(READ_AT_ONCE) {
        let some = store.get(ids)?;
        bytes += some.iter().flatten().map(|stored| stored.entry.encoded().len()).sum::<usize>();
        found.extend(some);
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

/// The store lists what was pruned in order, so the one after the id below this one tells.
fn find_pruned(store: &dyn EntryStore, id: &EntryId) -> Result<Option<PrunedEntry>, StoreError> {
    let mut below = id.0;
    for byte in below.iter_mut().rev() {
        let borrow = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    let after = (id.0 != [0; 32]).then_some(EntryId(below));
    Ok(store.pruned(after.as_ref(), 1)?.into_iter().next().filter(|pruned| pruned.id == *id))
}
