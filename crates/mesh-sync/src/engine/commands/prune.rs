//! Forgetting what is worth nothing any more.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::engine::{
    PruneReport, SyncError,
    actor::Actor,
    core::{Core, stopped},
    dataset::{Dataset, tell},
};
use crate::{
    documents::DocumentKey,
    entry::{AuthorId, AuthorSequence, Collection, DatasetId, Entry, Verified},
    replica::{PRUNE_COLLECTION, Retention},
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
        dry_run: bool,
    ) -> Result<PruneReport, SyncError> {
        let author = self.author;
        if !dry_run && !self.pruners.contains(&author) {
            return Err(SyncError::NoPruner { author });
        }
        let front = self.viewed(dataset).await?;
        let (reading, wall) = (Arc::clone(&front), self.clock.wall());
        let retention = front.ask(move |actor, told| tell(told, actor.replica.retention(wall))).await?;
        let spent = blocking(move || spent(&reading, retention)).await?.map_err(store_error(dataset))?;
        let wanted: Vec<_> = spent.iter().map(|spent| (spent.author, spent.up_to)).collect();
        let plan =
            front.ask(move |actor, told| tell(told, actor.replica.plan_prune(&author, &wanted))).await?;
        let before =
            |author: &AuthorId| spent.iter().find(|spent| spent.author == *author).map(|spent| spent.pruned);
        let entries = plan
            .watermarks
            .iter()
            .map(|(author, up_to)| up_to.0.saturating_sub(before(author).unwrap_or_default().0));
        let mut report = PruneReport {
            dataset: dataset.clone(),
            entries: entries.sum(),
            watermarks: plan.watermarks,
            held_up_by: plan.held_up_by,
            ordered_by: None,
        };
        if let Some(draft) = plan.draft.filter(|_| !dry_run) {
            report.ordered_by = Some(self.write(dataset, draft).await?.id);
        }
        Ok(report)
    }
}

/// Prunes now and then, if the settings want it and this node may.
pub(in crate::engine) async fn run(core: Arc<Core>) {
    let every = core.config.prune_interval;
    if every.is_zero() || !core.pruners.contains(&core.author) {
        return;
    }
    let mut stop = core.stop.subscribe();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(every) => {}
        }
        for dataset in core.dataset_names() {
            let pruned = tokio::select! {
                () = stopped(&mut stop) => return,
                pruned = core.prune(&dataset, false) => pruned,
            };
            match pruned {
                Ok(PruneReport { entries, held_up_by, .. }) => {
                    if !held_up_by.is_empty() {
                        tracing::warn!(%dataset, ?held_up_by, "pruning waits for peers; retire those that are gone for good");
                    }
                    tracing::debug!(%dataset, entries, "pruned");
                }
                Err(error) => tracing::warn!(%dataset, %error, "nothing was pruned; trying again later"),
            }
        }
    }
}

impl Actor {
    /// Where a prune that is in force here was pruned itself, as a restored disk brings about, nobody else may ever hear
    /// of it, and the sets would stay apart. So it is said again.
    pub(in crate::engine) fn restate_prunes(&mut self) {
        let author = self.core.author;
        if self.core.pruners.contains(&author)
            && let Some(draft) = self.replica.plan_prune(&author, &[]).draft
        {
            tracing::info!(dataset = %self.dataset.id, "a prune that was itself pruned is said again");
            // Nobody waits for it: the next look tries again if it could not be written.
            self.write_draft(draft, oneshot::channel().0);
        }
    }

    /// Prunes that are held from before the settings named their authors are obeyed now.
    pub(in crate::engine) fn obey_held_prunes(&mut self, prunes: &[Verified]) {
        prunes.iter().for_each(|prune| self.replica.obey_held(self.core.now(), prune));
    }
}

/// The newest prune of each of these authors that is held. Blocks; the view must be there.
pub(in crate::engine) fn held(
    front: &Dataset,
    pruners: &BTreeSet<AuthorId>,
) -> Result<Vec<Verified>, StoreError> {
    let collection = Collection::new(PRUNE_COLLECTION).expect("it is a valid name");
    let newest: Vec<_> = {
        let documents = front.view.read();
        let by = |pruner: &AuthorId| {
            let key = Bytes::copy_from_slice(pruner.as_bytes());
            let last = documents.last_write(&DocumentKey { collection: collection.clone(), key });
            last.map(|version| version.item.id)
        };
        pruners.iter().filter_map(by).collect()
    };
    Ok(front.store.get(&newest)?.into_iter().flatten().map(|stored| stored.entry).collect())
}

/// How far an author's entries are worth nothing any more.
struct Spent {
    author: AuthorId,
    pruned: AuthorSequence,
    up_to: AuthorSequence,
}

fn spent(front: &Dataset, retention: Retention) -> Result<Vec<Spent>, StoreError> {
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
            spent.extend(watermark.map(|up_to| Spent { author: *author, pruned: head.pruned, up_to }));
        }
    }
}

fn is_last_write(front: &Dataset, entry: &Entry) -> bool {
    let documents = front.view.read();
    documents.last_write(&DocumentKey::of(entry)).is_some_and(|version| version.item.id == entry.id())
}
