//! What goes into a store and comes out of it.

use std::fmt;

use super::{SetHash, SetKey};
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, DatasetId, Equivocation, Outcome, Verified},
};

/// The number of an entry in the order in which a store got them. The first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Arrival(pub u64);

impl Arrival {
    /// The first that arrives.
    pub const FIRST: Self = Self(1);

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A random number that a store of a dataset gets when it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreIncarnation(pub u64);

impl fmt::Display for StoreIncarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How to make a dataset that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Creation {
    /// Its incarnation. Draw it at random, each time anew: it is used only if the dataset has to be made.
    pub incarnation: StoreIncarnation,
    /// The key of its set hash. Replicas that compare hashes need the same one.
    pub set_key: SetKey,
}

impl Creation {
    /// A dataset with this incarnation, and the set key of the dataset's first epoch.
    pub fn new(dataset: &DatasetId, incarnation: StoreIncarnation) -> Self {
        Self { incarnation, set_key: SetKey::of_epoch(dataset, 0) }
    }
}

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the order of arrival.
    pub arrival: Arrival,
    /// The entry, with the bytes that came in.
    pub entry: Verified,
}

/// What is left of an entry that was pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrunedEntry {
    /// Its id, which children still name.
    pub id: EntryId,
    /// Its author.
    pub author: AuthorId,
    /// Its number, at or below that author's watermark.
    pub sequence: AuthorSequence,
}

/// A stored entry's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number in the order of arrival.
    pub arrival: Arrival,
    /// Its timestamp and id.
    pub item: Item,
}

/// An entry in the order of its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authored {
    /// Its number.
    pub sequence: AuthorSequence,
    /// Its timestamp and id.
    pub item: Item,
}

/// What is held of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// All numbers up to this one are held or pruned. What a peer confirms.
    pub contiguous: AuthorSequence,
    /// The highest number that was ever held or pruned. The author goes on behind it.
    pub highest: AuthorSequence,
    /// Numbers up to this one are pruned.
    pub pruned: AuthorSequence,
    /// How many entries are held.
    pub held: u64,
}

/// A dataset in numbers: what a heartbeat carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// How many entries are held.
    pub count: u64,
    /// Their encoded length together.
    pub bytes: u64,
    /// The sum over their names.
    pub set_hash: SetHash,
    /// The last arrival number that was given away; 0 if none was.
    pub last_arrival: Arrival,
}

/// How much a scan gives at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimit {
    /// At most this many entries.
    pub entries: usize,
    /// It ends with the entry that passes this many encoded bytes.
    pub bytes: usize,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// One for each entry, in their order.
    pub outcomes: Vec<Outcome>,
    /// Authors that gave one number to several entries. Report them.
    pub equivocations: Vec<Equivocation>,
}

/// A change to one key of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataWrite {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// A key of the metadata with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataRecord {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Something derived from the entries up to an arrival number, kept so that it need not be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last arrival that is in it. Replay what comes after.
    pub arrival: Arrival,
    /// The thing itself.
    pub blob: Vec<u8>,
}

/// What a full check has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Entries, all of them intact.
    pub entries: u64,
    /// Their encoded length together.
    pub bytes: u64,
    /// Authors.
    pub authors: u64,
    /// Ids that are remembered of what was pruned.
    pub pruned: u64,
}

/// The ids of a list.
impl From<Listed> for EntryId {
    fn from(listed: Listed) -> Self {
        listed.item.id
    }
}
