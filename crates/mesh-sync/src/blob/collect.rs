//! Removes chunks that no manifest names.

use std::collections::BTreeSet;

use mesh_core::WallTime;

use super::{BlobError, ChunkId, ChunkStore, Manifest, walk};

/// What a collection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Collected {
    /// Chunks that are named.
    pub named: u64,
    /// Chunks that nothing names, but that are too new to go.
    pub new: u64,
    /// Chunks that went.
    pub removed: u64,
}

/// Removes what none of `manifests` names and was last put before `before`.
///
/// Give all manifests of entries that are held, and those of payloads on their way. `before` is to leave time between
/// the first chunk of a payload and the entry with its manifest: a day is plenty. Takes 32 bytes of memory for each
/// chunk that is named.
///
/// # Errors
///
/// [`BlobError`]; what was removed until then is gone. Run it again.
pub fn collect_garbage<'m>(
    manifests: impl IntoIterator<Item = &'m Manifest>,
    chunks: &dyn ChunkStore,
    before: WallTime,
) -> Result<Collected, BlobError> {
    let mut named = BTreeSet::<ChunkId>::new();
    for manifest in manifests {
        walk::visit(manifest, chunks, &mut |wanted, _| {
            named.insert(wanted.id);
            Ok(())
        })?;
    }
    let mut collected = Collected::default();
    let mut garbage = Vec::new();
    let listed = chunks.list(&mut |id, put| {
        match (named.contains(&id), put < before) {
            (true, _) => collected.named += 1,
            (false, false) => collected.new += 1,
            (false, true) => garbage.push(id),
        }
        Ok(())
    });
    let first = ChunkId([0; 32]);
    listed.map_err(|source| BlobError::Store { verb: "list chunks from", id: first, source })?;
    for id in garbage {
        let removed = chunks.remove(id, before);
        match removed.map_err(|source| BlobError::Store { verb: "remove", id, source })? {
            true => collected.removed += 1,
            false => collected.new += 1,
        }
    }
    Ok(collected)
}
