//! What a session has found out.

use super::{Arrival, Index, key::ShortId};
use crate::{EntryId, Item};

/// The method that settled a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Method {
    /// The sets were equal.
    Equal,
    /// The initiator reads the responder's arrivals from a cursor.
    Cursor,
    /// A sketch.
    Sketch,
    /// Ranges, with cached fingerprints.
    Ranges,
    /// Ranges, with fingerprints under a fresh key.
    SaltedRanges,
}

impl Method {
    /// Its name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Cursor => "cursor",
            Self::Sketch => "sketch",
            Self::Ranges => "ranges",
            Self::SaltedRanges => "salted_ranges",
        }
    }
}

impl Method {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Method::Equal => "equal",
            Method::Cursor => "cursor",
            Method::Sketch => "sketch",
            Method::Ranges => "ranges",
            Method::SaltedRanges => "salted_ranges",
        }
    }
}

/// A stretch of our set that the peer lacks but for a few items: to be streamed from the store, resumably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bulk {
    /// The first item, or a bound before it.
    pub from: Item,
    /// What comes after it; `None` at the end of the set.
    pub until: Option<Item>,
    /// What the peer has already, sorted.
    pub except: Vec<EntryId>,
}

/// What one side knows at the end of a session.
///
/// What a side lacks it knows by short ids only; the other side knows the same entries by name, as what it gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it was found out.
    pub method: Method,
    /// Entries of ours that the peer lacks, in (hlc, id) order.
    pub give: Vec<Item>,
    /// Stretches of our set that the peer lacks, in order and apart from `give`.
    pub bulk: Vec<Bulk>,
    /// How many entries the peer will give us, as far as it was this side that found out.
    pub need: u64,
    /// With [`Method::Cursor`]: where the initiator's cursor stands at the responder.
    pub since: Option<Arrival>,
    /// Whether a limit left something to the next session.
    pub partial: bool,
}

impl Outcome {
    pub(super) fn new(method: Method) -> Self {
        Self { method, give: Vec::new(), bulk: Vec::new(), need: 0, since: None, partial: false }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.give.capacity() * size_of::<Item>()
            + self.bulk.iter().map(|bulk| bulk.except.capacity() * 32 + size_of::<Bulk>()).sum::<usize>()
    }

    /// All that is to be given, including the stretches, in (hlc, id) order. For small sets and tests; a large
    /// stretch is better streamed.
    pub fn give_all(&self, index: &Index) -> Vec<Item> {
        let mut all = self.give.clone();
        for bulk in &self.bulk {
            index.visit(&bulk.from, bulk.until.as_ref(), |item| {
                if bulk.except.binary_search(&item.id).is_err() {
                    all.push(*item);
                }
            });
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What a session has cost so far, as seen from one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// How often this side sent something and then waited for the answer, until it knew the difference.
    pub round_trips: u32,
    /// Bytes both ways until this side knew the difference; what follows is its want list and the settlement.
    pub bytes_known: u64,
    /// How many differences there were thought to be.
    pub estimate: u64,
}

/// Ids that are not wanted now, such as those of deferred entries, as short ids under some key.
pub(super) fn shorts_of(hasher: &super::key::ItemHasher, ids: &[EntryId]) -> Vec<ShortId> {
    let mut shorts: Vec<ShortId> = ids.iter().map(|id| hasher.short(id)).collect();
    shorts.sort_unstable();
    shorts
}
