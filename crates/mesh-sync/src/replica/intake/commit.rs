//! From the check of signatures to the commit, in batches.

use std::collections::BTreeSet;

use super::{COMMIT_BYTES, Stage, Staged, VERIFY_AT_ONCE};
use crate::{
    EntryId, Item,
    entry::{Deferral, Outcome, Rejection, SignatureError, Verified},
    planted::PlantedBug,
    replica::{Purpose, Replica, SyncEvent, Work},
    store::{BatchReport, PrunedEntry},
};

impl Replica {
    pub(in crate::replica) fn start_verify(&mut self) {
        if self.intake.verifying || self.intake.to_verify.is_empty() {
            return;
        }
        let count = self.intake.to_verify.len().min(VERIFY_AT_ONCE);
        let (mut ids, mut entries) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for id in self.intake.to_verify.drain(..count) {
            let Some(staged) = self.intake.staged.get_mut(&id) else { continue };
            if let Stage::Received(entry) = std::mem::replace(&mut staged.stage, Stage::Verifying) {
                ids.push(id);
                entries.push(entry);
            }
        }
        self.intake.verifying = true;
        self.start(Work::Verify(entries), Purpose::Verify(ids));
    }

    pub(in crate::replica) fn on_verified(
        &mut self,
        ids: Vec<EntryId>,
        results: Vec<Result<Verified, SignatureError>>,
    ) {
        self.intake.verifying = false;
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(entry) => self.admit(id, entry),
                Err(error) => self.settle(id, &Outcome::Rejected(Rejection::Signature(error))),
            }
        }
        self.advance_all();
    }

    fn admit(&mut self, id: EntryId, entry: Verified) {
        let admitted = self.admission.admit(self.now.wall, &entry);
        if let Some(outcome) = admitted.outcome() {
            if matches!(outcome, Outcome::Deferred(_)) {
                self.out.events.push_back(SyncEvent::Deferred { id, author: entry.author() });
                if !self.admission.is_deferred(&entry.item()) {
                    // No room to remember it, so it is left to the next comparison.
                    self.intake.note_settled(id);
                }
            }
            self.settle(id, &outcome);
            return;
        }
        if let Some(staged) = self.intake.staged.get_mut(&id) {
            self.intake.ready.insert(entry.item());
            staged.stage = Stage::Ready(entry);
        }
    }

    /// Commits what is ready, parents first; what was submitted here does not wait behind what peers send.
    pub(in crate::replica) fn start_commit(&mut self) -> bool {
        if self.intake.ready.is_empty() {
            return false;
        }
        let max = self.config.batch_entries_max;
        let local = self.intake.ready_local.iter().take(max.div_ceil(2)).copied();
        let mut batch: BTreeSet<Item> = local.collect();
        let room = max - batch.len();
        let others: Vec<Item> =
            self.intake.ready.iter().filter(|item| !batch.contains(item)).take(room).copied().collect();
        batch.extend(others);
        let (mut ids, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
        for item in batch {
            if bytes > COMMIT_BYTES {
                break;
            }
            self.intake.ready.remove(&item);
            self.intake.ready_local.remove(&item);
            let Some(staged) = self.intake.staged.get_mut(&item.id) else { continue };
            let Stage::Ready(entry) = &staged.stage else { continue };
            let entry = entry.clone();
            staged.stage = Stage::Committing(entry.clone());
            bytes += staged.bytes;
            ids.push(item.id);
            entries.push(entry);
        }
        if self.planted.has(PlantedBug::AcknowledgeBeforeCommit) {
            self.acknowledge_early(&ids);
        }
        entries.iter().for_each(|entry| self.note_prune(entry));
        let (metadata, cursors) = self.take_metadata();
        self.start(Work::Insert { entries, metadata }, Purpose::Commit { ids, cursors });
        true
    }

    fn acknowledge_early(&mut self, ids: &[EntryId]) {
        for id in ids {
            let Some(staged) = self.intake.staged.get_mut(id) else { continue };
            for waiter in std::mem::take(&mut staged.waiters) {
                self.answer(waiter, &Outcome::Stored { arrival: crate::store::Arrival(0) });
            }
        }
    }

    pub(in crate::replica) fn on_inserted(&mut self, ids: Vec<EntryId>, report: BatchReport) {
        let mut committed = Vec::new();
        let mut arrived = Vec::new();
        let mut sequence = self.index.root().arrival.sequence;
        let mut unready = Vec::new();
        for (id, outcome) in ids.into_iter().zip(report.outcomes) {
            let Some(Staged { stage: Stage::Committing(entry), from, .. }) = self.intake.staged.get(&id)
            else {
                continue;
            };
            let (entry, from) = (entry.clone(), from.clone());
            match &outcome {
                Outcome::Stored { arrival } => {
                    sequence = sequence.max(arrival.0);
                    self.index.insert(entry.item());
                    if let Some(sender) = from.as_ref().and_then(|from| self.peers.get_mut(from)) {
                        sender.note_brought(arrival.0);
                    }
                    arrived.push((arrival.0, entry.item(), from));
                    committed.push(entry);
                }
                Outcome::Duplicate => drop(self.index.insert(entry.item())),
                Outcome::Deferred(Deferral::MissingParents(missing)) => {
                    unready.push((id, entry, from, missing.clone()));
                    continue;
                }
                Outcome::Rejected(Rejection::Pruned { .. }) => {
                    let (author, sequence) = (entry.author(), entry.sequence());
                    self.note_boundary(PrunedEntry { id, author, sequence });
                }
                Outcome::Deferred(_) | Outcome::Rejected(_) => {}
            }
            self.settle(id, &outcome);
        }
        let incarnation = self.index.root().arrival.incarnation;
        self.index.set_arrival(crate::reconcile::Arrival { incarnation, sequence });
        // Parents that came with this very batch are in the index by now.
        for (id, entry, from, missing) in unready {
            self.orphan(id, entry, from, missing);
        }
        let events = report.equivocations.into_iter().map(SyncEvent::Equivocation);
        self.out.events.extend(events);
        self.release_children(&committed.iter().map(|entry| entry.id()).collect::<Vec<_>>());
        self.announce(&arrived);
        if !committed.is_empty() {
            self.out.events.push_back(SyncEvent::Committed(committed));
        }
        self.advance_all();
    }
}
