//! Who sent an entry or submitted it is told what became of it.

use mesh_core::NodeId;

use super::{Waiter, verdict};
use crate::{
    EntryId,
    entry::Outcome,
    replica::{Message, Refusal, Replica, SubmissionId, SyncEvent, Verdict},
};

impl Replica {
    pub(super) fn settle(&mut self, id: EntryId, outcome: &Outcome) {
        self.settle_as(id, outcome, None);
    }

    /// Tells everybody who waits for it what became of an entry.
    pub(super) fn settle_as(&mut self, id: EntryId, outcome: &Outcome, busy: Option<Verdict>) {
        let Some(staged) = self.intake.staged.remove(&id) else { return };
        match &staged.from {
            Some(_) => self.intake.bytes -= staged.bytes,
            None => self.intake.submitted_bytes -= staged.bytes,
        }
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

    pub(super) fn answer(&mut self, waiter: Waiter, outcome: &Outcome) {
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

    pub(super) fn finish_submission(&mut self, id: SubmissionId) {
        if self.intake.submissions.get(&id).is_some_and(|open| open.open == 0)
            && let Some(open) = self.intake.submissions.remove(&id)
        {
            let outcomes = open.results.into_iter().flatten().collect();
            self.out.events.push_back(SyncEvent::Submitted { submission: id, outcomes });
        }
    }

    pub(super) fn finish_batch(&mut self, peer: &NodeId, batch: u64) {
        let key = (peer.clone(), batch);
        if self.intake.batches.get(&key).is_some_and(|open| open.open == 0)
            && let Some(open) = self.intake.batches.remove(&key)
        {
            let verdicts = open.results.into_iter().flatten().collect();
            self.send(peer, Message::Ack { batch, verdicts });
        }
    }

    pub(in crate::replica) fn on_refusal(&mut self, peer: &NodeId, refusal: Refusal) {
        let Some(sender) = self.peers.get_mut(peer) else { return };
        match refusal {
            // Its store begins anew, so that what we followed is void.
            Refusal::Cursor => sender.follow.reset(None),
            Refusal::Session => self.end_session(peer, None),
            Refusal::Busy => self.postpone_session(peer),
            Refusal::Malformed | Refusal::Limit => {}
        }
    }
}
