//! Forgetting what is worth nothing any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::engine::{
    PruneReport, SyncError,
    actor::Actor,
    core::{Core, stopped},
    dataset::{Dataset, tell},
};
use crate::{
    EntryId,
    documents::{DocumentKey, Worth},
    entry::{AuthorId, AuthorSequence, Collection, DatasetId, Entry, Verified},
    replica::{PRUNE_COLLECTION, Retention, Spent},
    store::StoreError,
};

use super::{blocking, store_error};

/// Authors that are read together.
const AUTHORS_MAX: usize = 1000;
/// Entries that are read together.
const READ_MAX: usize = 64;

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
        if !front.config.prune {
            return Err(SyncError::KeepsAll { dataset: dataset.clone() });
        }
        let (reading, wall) = (Arc::clone(&front), self.clock.wall());
        let retention = front.ask(move |actor, told| tell(told, actor.replica.retention(wall))).await?;
        let spent = blocking(move || spent(&reading, retention, &author)).await?;
        let spent = spent.map_err(store_error(dataset))?;
        let wanted: Vec<_> = spent.iter().map(|spent| (spent.author, spent.up_to)).collect();
        let plan =
            front.ask(move |actor, told| tell(told, actor.replica.plan_prune(&author, &wanted))).await?;
        let before: BTreeMap<AuthorId, AuthorSequence> =
            spent.iter().map(|spent| (spent.author, spent.pruned)).collect();
        let went = |author| before.get(author).copied().unwrap_or_default();
        let entries = plan.watermarks.iter().map(|(author, up_to)| up_to.0.saturating_sub(went(author).0));
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
        let prunable = core.all().into_iter().filter(|front| front.config.prune);
        for dataset in prunable.map(|front| front.id.clone()) {
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
    let mut newest = Vec::new();
    for pruner in pruners {
        let document = document_of(pruner);
        let last = front.view.read().last_write(&document).copied();
        match last {
            None => {}
            Some(last) if last.author == *pruner => newest.push(last.item.id),
            // Somebody else wrote where the pruner's orders are: among its own entries there may be one.
            Some(_) => newest.extend(newest_by(front, pruner)?),
        }
    }
    Ok(front.store.get(&newest)?.into_iter().flatten().map(|stored| stored.entry).collect())
}

fn document_of(pruner: &AuthorId) -> DocumentKey {
    let collection = Collection::new(PRUNE_COLLECTION).expect("it is a valid name");
    DocumentKey { collection, key: Bytes::copy_from_slice(pruner.as_bytes()) }
}

fn newest_by(front: &Dataset, pruner: &AuthorId) -> Result<Option<EntryId>, StoreError> {
    let (mut newest, mut from) = (None, Some(AuthorSequence::FIRST));
    while let Some(first) = from {
        let listed = front.store.by_author(pruner, first, READ_MAX)?;
        let ids: Vec<EntryId> = listed.iter().map(|one| one.item.id).collect();
        let entries = front.store.get(&ids)?.into_iter().flatten().map(|stored| stored.entry);
        let orders = entries.filter(|entry| entry.collection().as_str() == PRUNE_COLLECTION);
        newest = orders.last().map(|entry| entry.id()).or(newest);
        from = listed.last().filter(|_| listed.len() == READ_MAX).and_then(|last| last.sequence.next());
    }
    Ok(newest)
}

/// How far an author's entries are worth nothing any more.
struct Wanted {
    author: AuthorId,
    pruned: AuthorSequence,
    up_to: AuthorSequence,
    /// Whether some of it is more than orders to prune.
    is_news: bool,
}

fn spent(front: &Dataset, retention: Retention, own: &AuthorId) -> Result<Vec<Wanted>, StoreError> {
    let (mut wanted, mut after) = (Vec::new(), None);
    loop {
        let page = front.store.vector(after.as_ref(), AUTHORS_MAX)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (author, head) in &page {
            wanted.extend(spent_of(front, retention, author, head.pruned)?);
        }
    }
    // A pruner's own orders follow one another, and each makes the one before worth nothing: that alone is no reason
    // for the next one, or there would be no end.
    let is_news = wanted.iter().any(|wanted| wanted.author != *own || wanted.is_news);
    Ok(if is_news { wanted } else { Vec::new() })
}

fn spent_of(
    front: &Dataset,
    retention: Retention,
    author: &AuthorId,
    pruned: AuthorSequence,
) -> Result<Option<Wanted>, StoreError> {
    let (mut spent, mut is_news, mut limit) = (Spent::new(retention), false, READ_MAX);
    let mut from = pruned.next();
    'pages: while let Some(first) = from {
        let listed = front.store.by_author(author, first, limit)?;
        let is_end = listed.len() < limit;
        let last = listed.last().map(|last| last.sequence);
        let ids: Vec<EntryId> = listed.iter().map(|one| one.item.id).collect();
        for stored in front.store.get(&ids)?.into_iter().flatten() {
            let entry = &stored.entry;
            if !spent.take(entry, worth(front, entry)) {
                break 'pages;
            }
            is_news |= !entry.collection().is_reserved();
        }
        // Several entries may share a number: that of a full page's last one is read again, with what follows.
        from = last.filter(|_| !is_end);
        if from == Some(first) {
            limit *= 2;
        }
    }
    Ok(spent.watermark().map(|up_to| Wanted { author: *author, pruned, up_to, is_news }))
}

/// An order is overwritten by a later one of its author; what others write to its document does not count.
fn worth(front: &Dataset, entry: &Entry) -> Worth {
    let documents = front.view.read();
    let last = documents.last_write(&DocumentKey::of(entry));
    match entry.collection().is_reserved() && last.is_some_and(|last| last.author != entry.author()) {
        true => Worth::Needed,
        false => documents.worth(entry),
    }
}
