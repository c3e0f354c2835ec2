//! Pieces of large payloads that nobody needs any more.

use std::{sync::Arc, time::Duration};

use mesh_core::WallTime;

use crate::blob::{self, Collected, Manifest};
use crate::engine::{
    SyncError,
    core::{Core, stopped},
};
use crate::{EntryId, entry::Kind};

use super::{blocking, store_error};

/// How long a piece is kept that nothing names: its entry may be on its way.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked for such pieces.
const COLLECT_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Entries that are read together.
const READ_MAX: usize = 64;

impl Core {
    /// Removes pieces that no last write of any dataset names.
    pub(in crate::engine) async fn collect_chunks(&self) -> Result<Collected, SyncError> {
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        // What is put from now on is newer than this, whatever is read below.
        let before = WallTime(self.clock.wall().0.saturating_sub(kept));
        let mut manifests = Vec::new();
        for dataset in self.all() {
            // With one dataset unread, nobody knows what it needs.
            let front = self.viewed(&dataset.id).await?;
            let read = blocking(move || {
                let blobs: Vec<EntryId> = {
                    let documents = front.view.read();
                    let blobs = documents.versions().filter(|(_, version)| version.kind == Kind::Blob);
                    blobs.map(|(_, version)| version.item.id).collect()
                };
                let mut read = Vec::new();
                for ids in blobs.chunks(READ_MAX) {
                    let stored = front.store.get(ids)?;
                    // One that can't be read has no pieces.
                    let decoded = |entry: &crate::entry::Entry| Manifest::decode(&entry.payload()).ok();
                    read.extend(stored.iter().flatten().filter_map(|stored| decoded(&stored.entry)));
                }
                Ok(read)
            });
            manifests.extend(read.await?.map_err(store_error(&dataset.id))?);
        }
        let chunks = Arc::clone(&self.chunks);
        Ok(blocking(move || blob::collect_garbage(&manifests, &*chunks, before)).await??)
    }
}

/// Collects now and then.
pub(in crate::engine) async fn run(core: Arc<Core>) {
    let mut stop = core.stop.subscribe();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(COLLECT_EVERY) => {}
        }
        let collected = tokio::select! {
            () = stopped(&mut stop) => return,
            collected = core.collect_chunks() => collected,
        };
        match collected {
            Ok(Collected { removed, named, .. }) => {
                tracing::debug!(removed, named, "pieces of payloads were collected");
            }
            Err(error) => tracing::warn!(%error, "pieces of payloads were not collected; trying again later"),
        }
    }
}
