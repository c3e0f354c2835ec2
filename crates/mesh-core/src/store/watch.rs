//! Watches: changes in order, each once, resumable.

use std::pin::Pin;

use futures_core::Stream;

use super::{Key, Record, StoreError};
use crate::Revision;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the first change that commits from now on.
    Now,
    /// With the first change after this revision: that of a read, or the last one delivered.
    After(Revision),
}

/// What a watch does when its reader is too slow for its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Says so: the reader gets [`WatchEvent::Gap`] in place of what was dropped.
    #[default]
    Gap,
    /// Keeps the newest change of each key and drops those before it. For readers that want the
    /// present state and not its history. If even that is too much, a gap follows.
    Latest,
}

/// How a watch buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// Most changes that wait for the reader. Default 1024, at least 1.
    pub buffer_changes_max: usize,
    /// What happens past that.
    pub overflow: Overflow,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { buffer_changes_max: 1024, overflow: Overflow::Gap }
    }
}

/// Why a record is gone. A closed set, fit for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeleteCause {
    /// A transaction deleted it.
    Written,
    /// Its session was closed by its owner.
    SessionClosed,
    /// Its session was not renewed in time.
    SessionExpired,
    /// A restore replaced the store's contents.
    Restored,
    /// The provider can't tell.
    Unknown,
}

/// What happened to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Record),
    /// It was deleted.
    Deleted {
        /// Its key.
        key: Key,
        /// Why.
        cause: DeleteCause,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(record) => &record.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything that one transaction changed under the prefix, in key order.
    Changes {
        /// Its revision.
        revision: Revision,
        /// The changes; at least one.
        changes: Vec<Change>,
    },
    /// Everything up to here was delivered. Sent before a compaction and now and then while nothing
    /// happens, so that a reader can resume from it.
    Bookmark {
        /// Resume after this one.
        revision: Revision,
    },
    /// Changes of these revisions, ends included, may be missing: the history is compacted or the reader
    /// was too slow. Read the present state again; what is later than `to` follows. `to` is earlier than what the
    /// reader has seen if the store is another since, and has not come that far.
    Gap {
        /// The first that may be missing.
        from: Revision,
        /// The last that may be missing.
        to: Revision,
    },
}

/// Changes as they come. Dropping it ends the watch.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, StoreError>> + Send + 'static>>;
