//! Entries come in: from here, and from peers. What is known already is not even read.

use bytes::Bytes;
use mesh_core::NodeId;

use super::{
    Open, SUBMITTED_BYTES_MAX, SUBMITTED_MAX, Stage, Staged, SubmitError, WAITERS_MAX, Waiter, verdict,
};
use crate::{
    EntryId,
    entry::{Entry, Outcome, Rejection, SignatureError, Verified},
    replica::{Now, Replica, SubmissionId, SyncEvent, Verdict},
    store::PrunedEntry,
};

impl Replica {
    /// Writes entries that were made on this node. [`SyncEvent::Submitted`] tells when they are durable; until then,
    /// nobody else hears of them.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; nothing was taken.
    pub fn submit(&mut self, now: Now, entries: Vec<Verified>) -> Result<SubmissionId, SubmitError> {
        self.now = now;
        if self.stopped {
            return Err(SubmitError::Stopped);
        }
        if self.intake.submitted + entries.len() > SUBMITTED_MAX {
            return Err(SubmitError::Full { waiting: self.intake.submitted, max: SUBMITTED_MAX });
        }
        // One submission of any length is taken, or none could be that is longer than the room.
        let waiting = self.intake.submitted_bytes;
        if waiting >= SUBMITTED_BYTES_MAX {
            return Err(SubmitError::FullBytes { waiting, max: SUBMITTED_BYTES_MAX });
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
        self.intake.submitted_bytes += bytes;
        self.intake.ready.insert(item);
        self.intake.ready_local.insert(item);
        let staged = Staged { stage: Stage::Ready(entry), from: None, bytes, waiters: vec![waiter] };
        self.intake.staged.insert(item.id, staged);
        None
    }

    pub(in crate::replica) fn on_entries(
        &mut self,
        peer: &NodeId,
        batch: u64,
        entries: Vec<(EntryId, Bytes)>,
    ) {
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
    pub(super) fn refuse_entry(&mut self, peer: Option<&NodeId>, id: EntryId, outcome: Outcome) {
        self.wants.remove(&id);
        if let Outcome::Rejected(rejection) = &outcome
            && !matches!(rejection, Rejection::Signature(_) | Rejection::Malformed(_))
        {
            self.intake.note_settled(id);
        }
        self.out.events.push_back(SyncEvent::Rejected { peer: peer.cloned(), id, outcome });
    }
}
