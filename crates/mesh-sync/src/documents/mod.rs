//! Entries as documents: what a reader sees of a log.
//!
//! [`Documents`] gives each document, a key in a collection, to its last writer. [`Merged`] folds the entries of a
//! document with rules of your own, a [`Merge`]. Both are plain values without I/O. Feed them what a store holds,
//! in the order of arrival or of [`Item`], and then what is committed; the order makes no difference
//! to the values.

mod conflicts;
mod hidden;
mod merge;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::hidden::Hidden;
pub use self::{
    conflicts::{Conflict, ConflictLog},
    merge::{Merge, Merged},
};
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, Collection, Entry, Kind},
};

/// What names a document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DocumentKey {
    /// The collection that it is in.
    pub collection: Collection,
    /// Its key within that.
    pub key: Bytes,
}

impl DocumentKey {
    /// The document that an entry is about.
    pub fn of(entry: &Entry) -> Self {
        // A copy, so that a view doesn't keep whole entries in memory for their keys.
        Self { collection: entry.collection().clone(), key: Bytes::copy_from_slice(entry.key()) }
    }
}

/// The last write to a document. The value itself stays in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The entry that wrote it.
    pub item: Item,
    /// Whether it set a value, deleted it, or set a large one.
    pub kind: Kind,
    /// Who wrote it.
    pub author: AuthorId,
    /// Which of its author's entries it is.
    pub sequence: AuthorSequence,
}

impl Version {
    fn of(entry: &Entry) -> Self {
        Self { item: entry.item(), kind: entry.kind(), author: entry.author(), sequence: entry.sequence() }
    }

    /// Whether the document is deleted.
    pub fn is_tombstone(&self) -> bool {
        self.kind == Kind::Delete
    }
}

/// What an entry did to a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// It is the document's last write now.
    Current {
        /// The one before.
        replaced: Option<Version>,
    },
    /// There is a later one.
    Superseded,
    /// It is the current one already.
    Known,
}

/// Who wrote each document last.
///
/// The last writer is the one with the highest timestamp, and of those with the same one, with the highest id. A
/// delete is a write too: its tombstone stays, so that an older `put` that arrives later doesn't bring the document
/// back, until [`Documents::forget`] removes it.
///
/// ```
/// use mesh_core::{Hlc, WallTime};
/// use mesh_sync::{
///     documents::{Applied, DocumentKey, Documents},
///     entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft},
/// };
///
/// let mut author = Author::new(AuthorKey::from_seed([7; 32]), DatasetId::new("notes")?, AuthorSequence::FIRST);
/// let list = Collection::new("shopping")?;
/// let put = author.sign(Draft::put(&list, "milk", "2 l"), Hlc::from_wall(WallTime(1)))?;
/// let delete = author.sign(Draft::delete(&list, "milk"), Hlc::from_wall(WallTime(2)))?;
///
/// let mut documents = Documents::new();
/// documents.apply(&delete);
/// assert_eq!(documents.apply(&put), Applied::Superseded);
/// assert_eq!(documents.get(&DocumentKey::of(&put)), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Documents {
    versions: BTreeMap<DocumentKey, Known>,
    conflicts: Option<ConflictLog>,
}

/// What is known of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    last: Version,
    hidden: Hidden,
}

/// What an entry is worth to the view of documents, as pruning asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// A later write to its document is known.
    Overwritten,
    /// It is the last write to its document, and nothing would come to light without it.
    Current,
    /// It is needed in any case: it is the last write, and older ones of others would come to light without it; or the
    /// view has not seen it yet.
    Needed,
}

impl Documents {
    /// No documents, and no log of conflicts.
    pub fn new() -> Self {
        Self::default()
    }

    /// No documents, and a log that keeps the last `conflicts_max` conflicts.
    pub fn with_conflict_log(conflicts_max: usize) -> Self {
        Self { versions: BTreeMap::new(), conflicts: Some(ConflictLog::new(conflicts_max)) }
    }

    /// Takes in an entry. Entries of one dataset only; the view does not look.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let (key, incoming) = (DocumentKey::of(entry), Version::of(entry));
        let Some(known) = self.versions.get_mut(&key) else {
            self.versions.insert(key, Known { last: incoming, hidden: Hidden::default() });
            return Applied::Current { replaced: None };
        };
        let current = known.last;
        if current.item == incoming.item {
            return Applied::Known;
        }
        if let Some(conflicts) = &mut self.conflicts {
            conflicts.look(&key, &current, entry);
        }
        if incoming.item < current.item {
            known.hidden.insert(incoming.author, incoming.sequence);
            return Applied::Superseded;
        }
        known.hidden.insert(current.author, current.sequence);
        known.last = incoming;
        Applied::Current { replaced: Some(current) }
    }

    /// The last write to a document that exists; `None` if it was deleted or never was.
    pub fn get(&self, key: &DocumentKey) -> Option<&Version> {
        self.last_write(key).filter(|version| !version.is_tombstone())
    }

    /// The last write to a document, also if that deleted it.
    pub fn last_write(&self, key: &DocumentKey) -> Option<&Version> {
        self.versions.get(key).map(|known| &known.last)
    }

    /// What an entry is worth. An author's entries are pruned in the order of their numbers, so that a write hides
    /// nothing if all that is older is its own author's: that goes with it, or went before.
    pub fn worth(&self, entry: &Entry) -> Worth {
        let Some(known) = self.versions.get(&DocumentKey::of(entry)) else { return Worth::Needed };
        match entry.item().cmp(&known.last.item) {
            std::cmp::Ordering::Less => Worth::Overwritten,
            std::cmp::Ordering::Greater => Worth::Needed,
            std::cmp::Ordering::Equal => match known.hidden.goes_with(entry.author(), entry.sequence()) {
                true => Worth::Current,
                false => Worth::Needed,
            },
        }
    }

    /// The documents of a collection that exist, in the order of their keys.
    pub fn list<'a>(
        &'a self,
        collection: &'a Collection,
    ) -> impl Iterator<Item = (&'a DocumentKey, &'a Version)> {
        let first = DocumentKey { collection: collection.clone(), key: Bytes::new() };
        self.existing(first.., collection)
    }

    /// How many documents there are, tombstones included.
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether there is none, not even a deleted one.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Forgets a document if `id` is still its last write: for entries that were pruned.
    pub fn forget(&mut self, key: &DocumentKey, id: &EntryId) -> bool {
        let is_last = self.last_write(key).is_some_and(|version| version.item.id == *id);
        if is_last {
            self.versions.remove(key);
        }
        is_last
    }

    /// Forgets the documents whose last write is one of an author's up to a number: for entries that were pruned. Looks
    /// at all documents.
    pub fn forget_up_to(&mut self, author: &AuthorId, watermark: AuthorSequence) {
        self.versions.retain(|_, known| {
            known.hidden.forget_up_to(author, watermark);
            known.last.author != *author || known.last.sequence > watermark
        });
    }

    /// The collections that have documents, in the order of their names.
    pub fn collections(&self) -> Vec<Collection> {
        let mut collections: Vec<Collection> = Vec::new();
        let mut after = std::ops::Bound::Unbounded;
        while let Some((key, _)) =
            self.versions.range::<DocumentKey, _>((after, std::ops::Bound::Unbounded)).next()
        {
            collections.push(key.collection.clone());
            // Behind every key that this collection may have.
            let last = vec![u8::MAX; crate::entry::KEY_BYTES_MAX + 1];
            after = std::ops::Bound::Excluded(DocumentKey {
                collection: key.collection.clone(),
                key: last.into(),
            });
        }
        collections
    }

    /// The documents of a collection that exist, after a key, in the order of their keys.
    pub fn list_after<'a>(
        &'a self,
        collection: &'a Collection,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a DocumentKey, &'a Version)> {
        let key =
            |key: &[u8]| DocumentKey { collection: collection.clone(), key: Bytes::copy_from_slice(key) };
        let from = match after {
            Some(after) => std::ops::Bound::Excluded(key(after)),
            None => std::ops::Bound::Included(key(&[])),
        };
        self.existing((from, std::ops::Bound::Unbounded), collection)
    }

    fn existing<'a>(
        &'a self,
        range: impl std::ops::RangeBounds<DocumentKey>,
        collection: &'a Collection,
    ) -> impl Iterator<Item = (&'a DocumentKey, &'a Version)> {
        let of_collection = self.versions.range(range).take_while(|(key, _)| key.collection == *collection);
        of_collection.map(|(key, known)| (key, &known.last)).filter(|(_, version)| !version.is_tombstone())
    }

    /// All last writes, tombstones included, in the order of their documents.
    pub fn versions(&self) -> impl Iterator<Item = (&DocumentKey, &Version)> {
        self.versions.iter().map(|(key, known)| (key, &known.last))
    }

    /// The conflicts that were seen; `None` without a log.
    pub const fn conflicts(&self) -> Option<&ConflictLog> {
        self.conflicts.as_ref()
    }

    /// The log, to take conflicts out of it.
    pub const fn conflicts_mut(&mut self) -> Option<&mut ConflictLog> {
        self.conflicts.as_mut()
    }
}

#[cfg(test)]
mod tests;
