//! Values that are merged and not overwritten.

use std::collections::BTreeMap;

use super::DocumentKey;
use crate::entry::Entry;

/// How the entries of a document make up its value.
///
/// Replicas see entries in different orders, and some twice. They have the same values in the end only if `merge`
/// doesn't care about either: the order makes no difference, and an entry that is merged in again changes nothing.
pub trait Merge {
    /// What a document is made up to. It holds what is needed to tell that an entry was merged in before.
    type Value: Default;

    /// Takes an entry into the value.
    fn merge(&self, value: &mut Self::Value, entry: &Entry);
}

/// The documents of a [`Merge`].
///
/// A counter, to which every entry adds the length of its payload:
///
/// ```
/// use std::collections::BTreeMap;
/// use mesh_core::{Hlc, WallTime};
/// use mesh_sync::{
///     EntryId,
///     documents::{DocumentKey, Merge, Merged},
///     entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Entry},
/// };
///
/// struct Sum;
///
/// impl Merge for Sum {
///     type Value = BTreeMap<EntryId, usize>;
///     fn merge(&self, value: &mut Self::Value, entry: &Entry) {
///         value.insert(entry.id(), entry.payload().len());
///     }
/// }
///
/// let mut author = Author::new(AuthorKey::from_seed([7; 32]), DatasetId::new("notes")?, AuthorSequence::FIRST);
/// let entry = author.sign(Draft::put(&Collection::new("sums")?, "a", "xyz"), Hlc::from_wall(WallTime(1)))?;
/// let mut sums = Merged::new(Sum);
/// sums.apply(&entry);
/// sums.apply(&entry);
/// let value = sums.get(&DocumentKey::of(&entry)).map(|terms| terms.values().sum::<usize>());
/// assert_eq!(value, Some(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Merged<M: Merge> {
    merge: M,
    values: BTreeMap<DocumentKey, M::Value>,
}

impl<M: Merge> Merged<M> {
    /// No documents.
    pub const fn new(merge: M) -> Self {
        Self { merge, values: BTreeMap::new() }
    }

    /// Takes in an entry and gives the value that it led to.
    pub fn apply(&mut self, entry: &Entry) -> &M::Value {
        let value = self.values.entry(DocumentKey::of(entry)).or_default();
        self.merge.merge(value, entry);
        value
    }

    /// The value of a document; `None` if no entry was about it.
    pub fn get(&self, key: &DocumentKey) -> Option<&M::Value> {
        self.values.get(key)
    }

    /// All documents, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&DocumentKey, &M::Value)> {
        self.values.iter()
    }
}
