//! The way in: known ids are dropped, signatures checked in batches, and batches committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_core::{Instant, NodeId};

use super::{Message, Purpose, Refusal, Replica, SubmissionId, SyncEvent, Verdict, Work};
use crate::{
    EntryId, Item,
    entry::{AuthorSequence, Deferral, Entry, Outcome, Rejection, SignatureError, Verified},
    planted::PlantedBug,
    store::{BatchReport, PrunedEntry},
};

/// Bytes in one commit.
const COMMIT_BYTES: usize = 16 << 20;
/// Signatures in one job.
const VERIFY_AT_ONCE: usize = 4096;
/// Messages that wait for one entry.
const WAITERS_MAX: usize = 16;
/// Settled ids that are remembered.
const SETTLED_MAX: usize = 16_384;
/// One peer's entries that wait for parents have one of so many shares of the room.
const ORPHAN_SHARES: usize = 4;
/// Entries of submissions that are on their way; further ones are refused.
const SUBMITTED_MAX: usize = 65_536;

/// Why entries were not taken. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Too much is on its way to the disk. Try again when some of it is there.
    #[error("{waiting} entries wait for the disk, at most {max} may")]
    Full {
        /// How many wait.
        waiting: usize,
        /// The limit.
        max: usize,
    },
    /// The store failed. Open it again.
    #[error("the replica has stopped since its store failed")]
    Stopped,
}

enum Stage {
    Received(Entry),
    Verifying,
    Ready(Verified),
    Committing(Verified),
}

enum Waiter {
    Batch { peer: NodeId, batch: u64, at: usize },
    Submission { id: SubmissionId, at: usize },
}

struct Staged {
    stage: Stage,
    from: Option<NodeId>,
    bytes: usize,
    waiters: Vec<Waiter>,
}

struct Orphan {
    entry: Verified,
    missing: BTreeSet<EntryId>,
    from: NodeId,
    until: Instant,
}

struct Open<T> {
    results: Vec<Option<T>>,
    open: usize,
}

#[derive(Default)]
pub(super) struct Intake {
    staged: BTreeMap<EntryId, Staged>,
    to_verify: VecDeque<EntryId>,
    verifying: bool,
    ready: BTreeSet<Item>,
    /// Those of `ready` that were submitted here.
    ready_local: BTreeSet<Item>,
    orphans: BTreeMap<EntryId, Orphan>,
    /// Who waits for a parent.
    children: BTreeMap<EntryId, BTreeSet<EntryId>>,
    orphan_bytes: usize,
    bytes: usize,
    batches: BTreeMap<(NodeId, u64), Open<Verdict>>,
    submissions: BTreeMap<SubmissionId, Open<Outcome>>,
    submitted: usize,
    next_submission: u64,
    /// Ids that are not held and need not be, such as pruned ones. Not those of bad signatures: another peer may
    /// have a good one.
    settled: BTreeSet<EntryId>,
    settled_order: VecDeque<EntryId>,
}

/// How much is where.
impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("staged", &self.staged.len())
            .field("to_verify", &self.to_verify.len())
            .field("verifying", &self.verifying)
            .field("ready", &self.ready.len())
            .field("orphans", &self.orphans.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Intake {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.orphan_bytes
    }

    pub(super) fn forget_batches(&mut self, peer: &NodeId) {
        self.batches.retain(|(name, _), _| name != peer);
    }

    pub(super) fn note_settled(&mut self, id: EntryId) {
        if self.settled.insert(id) {
            self.settled_order.push_back(id);
            if self.settled_order.len() > SETTLED_MAX
                && let Some(oldest) = self.settled_order.pop_front()
            {
                self.settled.remove(&oldest);
            }
        }
    }

    pub(super) fn is_settled(&self, id: &EntryId) -> bool {
        self.settled.contains(id)
    }

    /// Whether it is on its way, or waits for its parents.
    pub(super) fn is_under_way(&self, id: &EntryId) -> bool {
        self.staged.contains_key(id) || self.orphans.contains_key(id)
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Stored { .. } => Verdict::Stored,
        Outcome::Duplicate => Verdict::Duplicate,
        Outcome::Deferred(Deferral::MissingParents(_)) => Verdict::Orphan,
        Outcome::Deferred(_) => Verdict::Deferred,
        Outcome::Rejected(_) => Verdict::Rejected,
    }
}

impl Replica {
    /// Writes entries that were made on this node. [`SyncEvent::Submitted`] tells when they are durable; until then,
    /// nobody else hears of them.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; nothing was taken.
    pub fn submit(&mut self, now: super::Now, entries: Vec<Verified>) -> Result<SubmissionId, SubmitError> {
        self.now = now;
        if self.stopped {
            return Err(SubmitError::Stopped);
        }
        if self.intake.submitted + entries.len() > SUBMITTED_MAX {
            return Err(SubmitError::Full { waiting: self.intake.submitted, max: SUBMITTED_MAX });
        }
        self.intake.next_submission += 1;
        let id = SubmissionId(self.intake.next_submission);
        let mut results = Vec::with_capacity(entries.len());
        for (at, entry) in entries.into_iter().enumerate() {
            results.push(self.take_submitted(id, at, entry));
        }
        let open = results.iter().filter(|result| result.is_none()).count();
        self.intake.submitted += open;
        self.intake.submissions.insert(id, Open { results, open });
        self.finish_submission(id);
        self.pump();
        Ok(id)
    }

    fn take_submitted(&mut self, id: SubmissionId, at: usize, entry: Verified) -> Option<Outcome> {
        let item = entry.item();
        if self.held(&item.id).is_some() {
            return Some(Outcome::Duplicate);
        }
        let waiter = Waiter::Submission { id, at };
        if let Some(staged) = self.intake.staged.get_mut(&item.id) {
            staged.waiters.push(waiter);
            return None;
        }
        let bytes = entry.encoded().len();
        self.intake.bytes += bytes;
        self.intake.ready.insert(item);
        self.intake.ready_local.insert(item);
        let staged = Staged { stage: Stage::Ready(entry), from: None, bytes, waiters: vec![waiter] };
        self.intake.staged.insert(item.id, staged);
        None
    }

    pub(super) fn on_entries(&mut self, peer: &NodeId, batch: u64, entries: Vec<(EntryId, Bytes)>) {
        if let Some(sender) = self.peers.get_mut(peer) {
            sender.entries_at = self.now.at;
        }
        let mut results = Vec::with_capacity(entries.len());
        for (at, (id, body)) in entries.into_iter().enumerate() {
            results.push(self.take_received(peer, batch, at, id, body));
        }
        let open = results.iter().filter(|result| result.is_none()).count();
        self.intake.batches.insert((peer.clone(), batch), Open { results, open });
        self.finish_batch(peer, batch);
    }

    /// The verdict if there is one already. Nothing of a known entry is read.
    fn take_received(
        &mut self,
        peer: &NodeId,
        batch: u64,
        at: usize,
        id: EntryId,
        body: Bytes,
    ) -> Option<Verdict> {
        if self.held(&id).is_some() {
            self.wants.remove(&id);
            return Some(Verdict::Duplicate);
        }
        if let Some(orphan) = self.intake.orphans.get(&id) {
            // Another one may have its parents.
            for parent in orphan.missing.clone() {
                if !self.intake.is_under_way(&parent) {
                    self.want(parent, peer, false);
                }
            }
            return Some(Verdict::Orphan);
        }
        let waiter = Waiter::Batch { peer: peer.clone(), batch, at };
        if let Some(staged) = self.intake.staged.get_mut(&id) {
            if staged.waiters.len() >= WAITERS_MAX {
                return Some(Verdict::Busy);
            }
            staged.waiters.push(waiter);
            return None;
        }
        let bytes = body.len();
        let of_peer = self.peers.get(peer).map_or(0, |peer| peer.intake_bytes);
        if of_peer + bytes > self.config.intake_bytes_per_peer_max
            || self.intake.bytes + bytes > self.config.intake_bytes_max
        {
            return Some(Verdict::Busy);
        }
        let entry = match self.read(id, body) {
            Ok(entry) => entry,
            Err(outcome) => {
                let settled = verdict(&outcome);
                if settled == Verdict::Rejected {
                    self.refuse_entry(Some(peer), id, outcome);
                }
                return Some(settled);
            }
        };
        self.wants.remove(&id);
        self.intake.bytes += bytes;
        if let Some(sender) = self.peers.get_mut(peer) {
            sender.intake_bytes += bytes;
        }
        let staged =
            Staged { stage: Stage::Received(entry), from: Some(peer.clone()), bytes, waiters: vec![waiter] };
        self.intake.staged.insert(id, staged);
        self.intake.to_verify.push_back(id);
        None
    }

    /// Reads an entry, and refuses it if a look at its header is enough for that.
    fn read(&mut self, id: EntryId, body: Bytes) -> Result<Entry, Outcome> {
        let entry = Entry::decode(body).map_err(|error| Outcome::Rejected(Rejection::Malformed(error)))?;
        if entry.id() != id {
            // The body is that of another entry; the id itself may be good.
            return Err(Outcome::Rejected(Rejection::Signature(SignatureError::Invalid)));
        }
        if *entry.dataset() != self.dataset {
            let found = entry.dataset().clone();
            return Err(Outcome::Rejected(Rejection::OtherDataset { found }));
        }
        if let Some(watermark) = self.retirement.watermark(&entry.author())
            && entry.sequence() <= watermark
        {
            // Its own bytes tell that it is below the watermark.
            self.note_boundary(PrunedEntry { id, author: entry.author(), sequence: entry.sequence() });
            return Err(Outcome::Rejected(Rejection::Pruned { watermark }));
        }
        if self.admission.is_deferred(&entry.item())
            && let Err(later) = self.admission.check(self.now.wall, entry.hlc())
            && let Some(outcome) = later.outcome()
        {
            return Err(outcome);
        }
        Ok(entry)
    }

    /// An entry that is refused for good. Its id is remembered where the id itself is the reason.
    fn refuse_entry(&mut self, peer: Option<&NodeId>, id: EntryId, outcome: Outcome) {
        self.wants.remove(&id);
        if let Outcome::Rejected(rejection) = &outcome
            && !matches!(rejection, Rejection::Signature(_) | Rejection::Malformed(_))
        {
            self.intake.note_settled(id);
        }
        self.out.events.push_back(SyncEvent::Rejected { peer: peer.cloned(), id, outcome });
    }

    pub(super) fn start_verify(&mut self) {
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

    pub(super) fn on_verified(&mut self, ids: Vec<EntryId>, results: Vec<Result<Verified, SignatureError>>) {
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
    pub(super) fn start_commit(&mut self) -> bool {
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

    pub(super) fn on_inserted(&mut self, ids: Vec<EntryId>, report: BatchReport) {
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

    /// An entry whose parents are not there waits for them, and they are fetched from whoever sent it.
    fn orphan(&mut self, id: EntryId, entry: Verified, from: Option<NodeId>, missing: Vec<EntryId>) {
        if self.planted.has(PlantedBug::AcceptOrphans) {
            // Any number that is pruned would do, and the store does not look.
            let of = (entry.author(), AuthorSequence(0));
            let fake = |id| PrunedEntry { id, author: of.0, sequence: of.1 };
            self.retirement.boundary.extend(missing.into_iter().map(fake));
            if let Some(staged) = self.intake.staged.get_mut(&id) {
                self.intake.ready.insert(entry.item());
                staged.stage = Stage::Ready(entry);
            }
            return;
        }
        let outcome = Outcome::Deferred(Deferral::MissingParents(missing.clone()));
        let bytes = entry.encoded().len();
        let Some(from) = from else {
            self.settle(id, &outcome);
            return;
        };
        let of_peer = self.peers.get(&from).map_or(0, |peer| peer.orphan_bytes);
        let share = self.config.orphan_bytes_max / ORPHAN_SHARES;
        if self.intake.orphan_bytes + bytes > self.config.orphan_bytes_max
            || (of_peer > 0 && of_peer + bytes > share)
        {
            // No room: nothing remembers it, so that it is asked for or given again.
            self.settle_as(id, &outcome, Some(Verdict::Busy));
            return;
        }
        self.settle(id, &outcome);
        self.intake.orphan_bytes += bytes;
        if let Some(sender) = self.peers.get_mut(&from) {
            sender.orphan_bytes += bytes;
        }
        let mut missing: BTreeSet<EntryId> = missing.into_iter().collect();
        missing.retain(|parent| self.held(parent).is_none());
        for parent in &missing {
            self.intake.children.entry(*parent).or_default().insert(id);
            if !self.intake.is_under_way(parent) {
                self.want(*parent, &from, false);
            }
        }
        let is_whole = missing.is_empty();
        let until = self.now.at + self.config.orphan_timeout;
        self.intake.orphans.insert(id, Orphan { entry, missing, from, until });
        if is_whole {
            self.adopt(id);
        }
    }

    /// Parents are there, or need not be: their children can be stored.
    pub(super) fn release_children(&mut self, parents: &[EntryId]) {
        for parent in parents {
            for child in self.intake.children.remove(parent).unwrap_or_default() {
                let Some(orphan) = self.intake.orphans.get_mut(&child) else { continue };
                orphan.missing.remove(parent);
                if orphan.missing.is_empty() {
                    self.adopt(child);
                }
            }
        }
    }

    /// Parents that are waited for are asked of those who sent their children.
    pub(super) fn want_parents(&mut self) {
        let wanted: Vec<(EntryId, NodeId)> = self
            .intake
            .orphans
            .values()
            .flat_map(|orphan| orphan.missing.iter().map(|parent| (*parent, orphan.from.clone())))
            .collect();
        for (parent, holder) in wanted {
            if !self.intake.is_under_way(&parent) {
                self.want(parent, &holder, false);
            }
        }
    }

    pub(super) fn has_children(&self, parent: &EntryId) -> bool {
        self.intake.children.contains_key(parent)
    }

    fn take_orphan(&mut self, id: EntryId) -> Option<Orphan> {
        let orphan = self.intake.orphans.remove(&id)?;
        let bytes = orphan.entry.encoded().len();
        self.intake.orphan_bytes -= bytes;
        if let Some(sender) = self.peers.get_mut(&orphan.from) {
            sender.orphan_bytes = sender.orphan_bytes.saturating_sub(bytes);
        }
        for parent in &orphan.missing {
            if let Some(children) = self.intake.children.get_mut(parent) {
                children.remove(&id);
                if children.is_empty() {
                    self.intake.children.remove(parent);
                }
            }
        }
        Some(orphan)
    }

    fn adopt(&mut self, id: EntryId) {
        let Some(orphan) = self.take_orphan(id) else { return };
        let bytes = orphan.entry.encoded().len();
        self.intake.bytes += bytes;
        if let Some(sender) = self.peers.get_mut(&orphan.from) {
            sender.intake_bytes += bytes;
        }
        self.intake.ready.insert(orphan.entry.item());
        let stage = Stage::Ready(orphan.entry);
        self.intake.staged.insert(id, Staged { stage, from: Some(orphan.from), bytes, waiters: Vec::new() });
    }

    /// Orphans whose parents can't be had are dropped; another comparison brings them again.
    pub(super) fn expire_orphans(&mut self) {
        let now = self.now.at;
        let late: Vec<EntryId> =
            self.intake.orphans.iter().filter(|(_, orphan)| orphan.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.take_orphan(id);
        }
    }

    fn settle(&mut self, id: EntryId, outcome: &Outcome) {
        self.settle_as(id, outcome, None);
    }

    /// Tells everybody who waits for it what became of an entry.
    fn settle_as(&mut self, id: EntryId, outcome: &Outcome, busy: Option<Verdict>) {
        let Some(staged) = self.intake.staged.remove(&id) else { return };
        self.intake.bytes -= staged.bytes;
        if let Some(sender) = staged.from.as_ref().and_then(|from| self.peers.get_mut(from)) {
            sender.intake_bytes = sender.intake_bytes.saturating_sub(staged.bytes);
        }
        self.wants.remove(&id);
        if matches!(outcome, Outcome::Rejected(_)) {
            self.refuse_entry(staged.from.as_ref(), id, outcome.clone());
        }
        for waiter in staged.waiters {
            match (waiter, busy) {
                (Waiter::Batch { peer, batch, at }, Some(verdict)) => {
                    self.answer_batch(&peer, batch, at, verdict);
                }
                (waiter, _) => self.answer(waiter, outcome),
            }
        }
    }

    fn answer(&mut self, waiter: Waiter, outcome: &Outcome) {
        match waiter {
            Waiter::Batch { peer, batch, at } => self.answer_batch(&peer, batch, at, verdict(outcome)),
            Waiter::Submission { id, at } => {
                let Some(open) = self.intake.submissions.get_mut(&id) else { return };
                if let Some(slot) = open.results.get_mut(at)
                    && slot.replace(outcome.clone()).is_none()
                {
                    open.open -= 1;
                    self.intake.submitted -= 1;
                }
                self.finish_submission(id);
            }
        }
    }

    fn answer_batch(&mut self, peer: &NodeId, batch: u64, at: usize, verdict: Verdict) {
        let Some(open) = self.intake.batches.get_mut(&(peer.clone(), batch)) else { return };
        if let Some(slot) = open.results.get_mut(at)
            && slot.replace(verdict).is_none()
        {
            open.open -= 1;
        }
        self.finish_batch(peer, batch);
    }

    fn finish_submission(&mut self, id: SubmissionId) {
        if self.intake.submissions.get(&id).is_some_and(|open| open.open == 0)
            && let Some(open) = self.intake.submissions.remove(&id)
        {
            let outcomes = open.results.into_iter().flatten().collect();
            self.out.events.push_back(SyncEvent::Submitted { submission: id, outcomes });
        }
    }

    fn finish_batch(&mut self, peer: &NodeId, batch: u64) {
        let key = (peer.clone(), batch);
        if self.intake.batches.get(&key).is_some_and(|open| open.open == 0)
            && let Some(open) = self.intake.batches.remove(&key)
        {
            let verdicts = open.results.into_iter().flatten().collect();
            self.send(peer, Message::Ack { batch, verdicts });
        }
    }

    pub(super) fn on_refusal(&mut self, peer: &NodeId, refusal: Refusal) {
        let Some(sender) = self.peers.get_mut(peer) else { return };
        match refusal {
            // Its store begins anew, so that what we followed is void.
            Refusal::Cursor => sender.follow.reset(None),
            Refusal::Session | Refusal::Busy => self.end_session(peer, None),
            Refusal::Malformed | Refusal::Limit => {}
        }
    }
}
