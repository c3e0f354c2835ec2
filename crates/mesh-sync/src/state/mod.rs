//! What a node remembers about its peers, in the metadata of a dataset's store.
//!
//! Each kind of record has a place of its own among the keys, under `sync/`, and begins with a version. [`Journal`] lets
//! cores change records in memory at once and have them written in batches later, with a ticket that tells when a
//! change is safe.
//!
//! | record | written |
//! |---|---|
//! | [`Cursor`]: how far we have read a peer's arrivals | in the commit that stores the entries, see [`Cursor::write`] |
//! | [`Relationship`]: a peer with its addresses, and whether it still counts | when it changes |
//! | [`PeerStats`]: bytes, entries, successes, failures, durations | now and then |
//! | [`Round`]: how single rounds ended, a bounded number for a bounded time | after a round |

mod journal;
mod peers;
mod records;

use mesh_core::NodeId;

pub(crate) use self::records::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
pub use self::{
    journal::{Journal, JournalTicket, WriteBatch},
    peers::{HistoryLimits, PeerBook, PeerBookError, PeerStats},
    records::{Cursor, Relationship, Round, RoundEnd, Standing},
};
use crate::{
    codec::WireError,
    store::{EntryStore, StoreError},
};

/// Why what was kept can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store can't be read or written.
    #[error("cannot use the metadata of the store")]
    Store(#[from] StoreError),
    /// A record is not what this program writes: damaged, or from a newer program.
    #[error("the {space} record {key:?} can't be read; use the program that wrote it, or restore the store")]
    Record {
        /// What kind of record.
        space: &'static str,
        /// Its key, in readable form.
        key: String,
        /// What is wrong.
        #[source]
        source: WireError,
    },
}

/// A kind of record: where its keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space(&'static str);

impl Space {
    pub(crate) const QUEUE: Self = Self("queue");
    pub(crate) const DEAD: Self = Self("dead");
    pub(crate) const ACCESS: Self = Self("access");
    pub(crate) const CURSOR: Self = Self("cursor");
    pub(crate) const RELATIONSHIP: Self = Self("relationship");
    pub(crate) const STATS: Self = Self("stats");
    pub(crate) const HISTORY: Self = Self("history");

    /// What all keys of this kind start with. No kind's prefix starts another's.
    fn prefix(self) -> Vec<u8> {
        [b"sync/", self.0.as_bytes(), b"/"].concat()
    }

    /// The key of what belongs to no peer.
    pub(crate) fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(rest);
        key
    }

    /// The key of what belongs to a peer. A node id has no zero byte, so ids can't run into each other.
    pub(crate) fn peer_key(self, peer: &NodeId, rest: &[u8]) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(peer.as_str().as_bytes());
        key.push(0);
        key.extend_from_slice(rest);
        key
    }

    /// Peer and rest of a key that [`Space::peer_key`] made.
    fn split_peer_key(self, key: &[u8]) -> Option<(NodeId, &[u8])> {
        let named = key.strip_prefix(&self.prefix()[..])?;
        let end = named.iter().position(|byte| *byte == 0)?;
        let peer = NodeId::new(std::str::from_utf8(&named[..end]).ok()?).ok()?;
        Some((peer, &named[end + 1..]))
    }

    fn error(self, key: &[u8], source: WireError) -> StateError {
        let key = String::from_utf8_lossy(&key[self.prefix().len().min(key.len())..]).into_owned();
        StateError::Record { space: self.0, key, source }
    }

    /// Reads all records of this kind, a page at a time.
    pub(crate) fn load(
        self,
        store: &dyn EntryStore,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), WireError>,
    ) -> Result<(), StateError> {
        let prefix = self.prefix();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.metadata_scan(&prefix, after.as_deref(), PAGE)?;
            for record in &page {
                visit(&record.key[prefix.len()..], &record.value)
                    .map_err(|source| self.error(&record.key, source))?;
            }
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|record| record.key);
        }
    }

    /// Reads all records of this kind that belong to peers.
    pub(crate) fn load_by_peer(
        self,
        store: &dyn EntryStore,
        mut visit: impl FnMut(NodeId, &[u8], &[u8]) -> Result<(), WireError>,
    ) -> Result<(), StateError> {
        let prefix = self.prefix();
        self.load(store, |rest, value| {
            let full = [&prefix[..], rest].concat();
            let (peer, rest) = self
                .split_peer_key(&full)
                .ok_or(WireError::Invalid { what: "a key of a peer", value: rest.len() as u64 })?;
            visit(peer, rest, value)
        })
    }
}

/// Records that are read at once.
const PAGE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_peer_are_never_those_of_another() {
        let short = NodeId::new("a").expect("valid");
        let long = NodeId::new("a.b").expect("valid");
        let key = Space::QUEUE.peer_key(&long, &[0, 1]);
        assert!(!key.starts_with(&Space::QUEUE.peer_key(&short, &[])));
        assert_eq!(Space::QUEUE.split_peer_key(&key), Some((long, &[0, 1][..])));
        assert_eq!(Space::DEAD.split_peer_key(&key), None);
    }
}
