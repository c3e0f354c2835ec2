//! Forgetting what is worth nothing any more.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::{
    SyncError,
    actor::Actor,
    core::Core,
    dataset::{Dataset, tell},
};
use crate::{
    documents::DocumentKey,
    entry::{AuthorId, AuthorSequence, DatasetId, Entry},
    replica::PruneDraft,
    store::StoreError,
};

use super::{blocking, store_error};

/// Authors that are read together.
const AUTHORS_MAX: usize = 1000;
/// Entries of one author that one prune looks at.
const PRUNE_LOOK_MAX: usize = 4096;

impl Core {
    pub(in crate::engine) async fn prune(
        &self,
        dataset: &DatasetId,
    ) -> Result<Option<PruneDraft>, SyncError> {
        if !self.pruners.contains(&self.author) {
            return Err(SyncError::NoPruner { author: self.author });
        }
        let front = self.viewed(dataset).await?;
        let (reading, wall) = (Arc::clone(&front), self.clock.wall());
        let retention = front.ask(move |actor, told| tell(told, actor.replica.retention(wall))).await?;
        let spent = blocking(move || spent(&reading, retention)).await?.map_err(store_error(dataset))?;
        let author = self.author;
        let draft =
            front.ask(move |actor, told| tell(told, actor.replica.prune_draft(&author, &spent))).await?;
        let Some(prune) = draft else { return Ok(None) };
        self.write(dataset, prune.draft.clone()).await?;
        Ok(Some(prune))
    }
}

impl Actor {
    /// Where a prune that is in force here was pruned itself, as a restored disk brings about, nobody else may ever hear
    /// of it, and the sets would stay apart. So it is said again.
    pub(in crate::engine) fn restate_prunes(&mut self) {
        let author = self.core.author;
        if self.core.pruners.contains(&author)
            && let Some(prune) = self.replica.prune_draft(&author, &[])
        {
            tracing::info!(dataset = %self.dataset.id, "a prune that was itself pruned is said again");
            // Nobody waits for it: the next look tries again if it could not be written.
            self.write_draft(prune.draft, oneshot::channel().0);
        }
    }
}

/// How far each author's entries are worth nothing any more.
fn spent(
    front: &Dataset,
    retention: crate::replica::Retention,
) -> Result<Vec<(AuthorId, AuthorSequence)>, StoreError> {
    let (mut spent, mut after) = (Vec::new(), None);
    loop {
        let page = front.store.vector(after.as_ref(), AUTHORS_MAX)?;
        let Some((last, _)) = page.last() else { return Ok(spent) };
        after = Some(*last);
        for (author, head) in &page {
            let Some(from) = head.pruned.next() else { continue };
            let listed = front.store.by_author(author, from, PRUNE_LOOK_MAX)?;
            let mut entries = Vec::new();
            for ids in listed.chunks(64) {
                let ids: Vec<_> = ids.iter().map(|authored| authored.item.id).collect();
                entries.extend(front.store.get(&ids)?.into_iter().flatten().map(|stored| stored.entry));
                let last_is_spent = entries.last().is_some_and(|entry| !is_last_write(front, entry));
                if !last_is_spent {
                    break;
                }
            }
            let entries = entries.iter().map(|entry| &**entry);
            let watermark = retention.watermark(entries, |entry| is_last_write(front, entry));
            spent.extend(watermark.map(|watermark| (*author, watermark)));
        }
    }
}

fn is_last_write(front: &Dataset, entry: &Entry) -> bool {
    let documents = front.view.read();
    documents.last_write(&DocumentKey::of(entry)).is_some_and(|version| version.item.id == entry.id())
}
