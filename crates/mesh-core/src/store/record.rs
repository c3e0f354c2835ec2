//! Records, and how reads return them.

use bytes::Bytes;

use super::{Key, Prefix, SCAN_LIMIT_MAX, SessionId, StoreError};
use crate::{FencingToken, NodeId, Revision};

/// A key with its value and its history in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The transaction that last wrote it.
    pub revision: Revision,
    /// The transaction that made it; a delete in between starts it anew.
    pub created_revision: Revision,
    /// Who last wrote it, by certificate where the write came over the network.
    pub last_writer: NodeId,
    /// The session that it goes with.
    pub session: Option<SessionId>,
    /// The token of the grant, if it is one.
    pub token: Option<FencingToken>,
}

/// What a linearizable read returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh<T> {
    /// The value.
    pub value: T,
    /// The store's revision at the moment of the read: a watch from here misses nothing.
    pub revision: Revision,
}

/// What a read returns that may be behind. It was true at `revision`, some time ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale<T> {
    /// The value.
    pub value: T,
    /// The revision of the copy that was read.
    pub revision: Revision,
}

/// Which records to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Only keys that it covers.
    pub prefix: Prefix,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<Key>,
    /// At most so many records, 1 to [`SCAN_LIMIT_MAX`].
    pub limit: usize,
}

impl Scan {
    /// Everything under a prefix, from its beginning, 1,000 records a page.
    pub fn of(prefix: Prefix) -> Self {
        Self { prefix, after: None, limit: 1000 }
    }

    /// Checks the limit.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] names the limit and its range.
    pub fn check(&self) -> Result<(), StoreError> {
        if (1..=SCAN_LIMIT_MAX).contains(&self.limit) {
            return Ok(());
        }
        Err(StoreError::Invalid {
            what: "scan",
            problem: format!("limit {} is outside 1 to {SCAN_LIMIT_MAX}", self.limit),
        })
    }
}

/// Some records in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Whether more follow the last one.
    pub more: bool,
}
