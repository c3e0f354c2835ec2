//! What became of an entry that was offered.

use mesh_core::{Hlc, WallTime};

use super::{AuthorId, AuthorSequence, DatasetId, DecodeError, SignatureError};
use crate::{EntryId, store::Arrival};

/// What became of one entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is durable.
    Stored {
        /// Its number in the order of arrival.
        arrival: Arrival,
    },
    /// It was there already, or is twice in the batch.
    Duplicate,
    /// Not now. Offer it again when the reason is gone.
    Deferred(Deferral),
    /// Not ever.
    Rejected(Rejection),
}

impl Outcome {
    /// Whether the entry is in the store now.
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Duplicate)
    }
}

/// Why an entry has to wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Deferral {
    /// Its timestamp is ahead of the clock.
    #[error("its timestamp is ahead of the clock until {}", until.0)]
    AheadOfClock {
        /// When its time comes.
        until: WallTime,
    },
    /// Entries that it builds on are not there.
    #[error("{} of its parents are not there", .0.len())]
    MissingParents(Vec<EntryId>),
}

/// Why an entry is refused. The same entry will be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It can't be read.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Its signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Its timestamp is so far ahead that its author's clock is wrong.
    #[error("its timestamp {hlc} is more than a day ahead of the clock")]
    FarAhead {
        /// Its timestamp.
        hlc: Hlc,
    },
    /// Its timestamp is not above that of a parent.
    #[error("its timestamp {hlc} is not above {parent_hlc}, that of its parent {parent}")]
    NotAfterParent {
        /// Its timestamp.
        hlc: Hlc,
        /// The parent.
        parent: EntryId,
        /// The parent's timestamp.
        parent_hlc: Hlc,
    },
    /// It was pruned everywhere.
    #[error("it was pruned: its author's entries up to {watermark} are gone")]
    Pruned {
        /// The last that was pruned of its author.
        watermark: AuthorSequence,
    },
    /// It belongs elsewhere.
    #[error("it belongs to the dataset {found}")]
    OtherDataset {
        /// Its dataset.
        found: DatasetId,
    },
}

/// An author has given one number to two entries. Both are kept, and this is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// Who did.
    pub author: AuthorId,
    /// The number.
    pub sequence: AuthorSequence,
    /// The entries that had it before; of very many, some.
    pub held: Vec<EntryId>,
    /// The one that came now.
    pub incoming: EntryId,
}
