//! Payloads that are too large for an entry: in chunks, each checked for itself, never whole in memory.
//!
//! A payload above [`PAYLOAD_BYTES_MAX`](crate::entry::PAYLOAD_BYTES_MAX) becomes a [`Manifest`], which an entry of kind
//! `blob` carries, and chunks, which a [`ChunkStore`] keeps. [`split`] makes both of any reader. A peer that gets the
//! entry asks [`missing`] for what it lacks, fetches that from anybody, checks each chunk with [`Wanted::check`] and
//! puts it into its own store, in any order and over any number of restarts. [`assemble`] writes the payload out.
//!
//! Lists of chunks, where a payload is so long that its manifest does not name all of it, are chunks as well.

mod collect;
#[cfg(feature = "chunks")]
mod folder;
mod manifest;
mod split;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use mesh_core::{BoxError, WallTime};

#[cfg(feature = "chunks")]
pub use self::folder::{FolderChunks, FolderChunksError};
pub use self::{
    collect::{Collected, collect_garbage},
    manifest::{
        BlobError, CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, ChunkId, ChunkKind, LEVELS_MAX, Manifest,
        ManifestError, Wanted, WrongChunk,
    },
    split::split,
    walk::{Missing, MissingFrom, assemble, missing},
};

/// Called with a chunk and the time at which it was last put.
pub type VisitChunk<'a> = dyn FnMut(ChunkId, WallTime) -> Result<(), BoxError> + 'a;

/// Where chunks are kept, by their names. Methods block.
///
/// What comes out of it is checked by whoever asked, so a store need not check: content that decayed counts as missing.
pub trait ChunkStore: Send + Sync {
    /// Keeps a chunk, whole or not at all, also over a crash. When it returns, it is on disk. Putting what is there
    /// makes its time new, so that a collection that is under way leaves it.
    ///
    /// # Errors
    ///
    /// Those of the store; the chunk may be there or not.
    fn put(&self, id: ChunkId, content: &[u8]) -> Result<(), BoxError>;

    /// A chunk, of at most [`CHUNK_BYTES_MAX`]; `None` if it is not there or longer than that.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn get(&self, id: ChunkId) -> Result<Option<Vec<u8>>, BoxError>;

    /// Whether a chunk of exactly this length is there, without reading it.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn has(&self, id: ChunkId, bytes: u32) -> Result<bool, BoxError>;

    /// Removes a chunk if it was last put before `before`. Whether it did.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn remove(&self, id: ChunkId, before: WallTime) -> Result<bool, BoxError>;

    /// Visits all chunks, in any order.
    ///
    /// # Errors
    ///
    /// Those of the store, and those of `visit`.
    fn list(&self, visit: &mut VisitChunk<'_>) -> Result<(), BoxError>;
}

/// Chunks in memory. For tests: it has no clock, so that all chunks are from the start of time.
#[derive(Debug, Default)]
pub struct MemoryChunks(Mutex<BTreeMap<ChunkId, Vec<u8>>>);

impl MemoryChunks {
    fn map(&self) -> std::sync::MutexGuard<'_, BTreeMap<ChunkId, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore for MemoryChunks {
    fn put(&self, id: ChunkId, content: &[u8]) -> Result<(), BoxError> {
        self.map().insert(id, content.to_vec());
        Ok(())
    }

    fn get(&self, id: ChunkId) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(self.map().get(&id).cloned())
    }

    fn has(&self, id: ChunkId, bytes: u32) -> Result<bool, BoxError> {
        Ok(self.map().get(&id).is_some_and(|content| content.len() == bytes as usize))
    }

    fn remove(&self, id: ChunkId, _before: WallTime) -> Result<bool, BoxError> {
        Ok(self.map().remove(&id).is_some())
    }

    fn list(&self, visit: &mut VisitChunk<'_>) -> Result<(), BoxError> {
        let ids: Vec<_> = self.map().keys().copied().collect();
        ids.into_iter().try_for_each(|id| visit(id, WallTime(0)))
    }
}
