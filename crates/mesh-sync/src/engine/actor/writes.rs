//! Entries that are written here.

use tokio::sync::oneshot;

use crate::engine::{SyncError, Written, core::lock};
use crate::{
    EntryId,
    entry::{Author, AuthorSequence, Draft, DraftError, Outcome, Rejection, Verified},
    replica::SubmissionId,
};

use super::{Actor, Submission, Waiter};

impl Actor {
    pub(super) fn on_submitted(&mut self, submission: SubmissionId, outcomes: Vec<Outcome>) {
        let Some(Submission { entries, waiter }) = self.submissions.remove(&submission) else { return };
        for outcome in &outcomes {
            let outcome = match outcome {
                Outcome::Stored { .. } => "stored",
                Outcome::Duplicate => "duplicate",
                Outcome::Deferred(_) => "deferred",
                Outcome::Rejected(_) => "rejected",
            };
            self.core.counters.entries("local", outcome, 1);
        }
        let held: Vec<Verified> = entries
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_held())
            .map(|(entry, _)| entry.clone())
            .collect();
        let queued_for = self.queue_for_absent(&held);
        match waiter {
            Waiter::Entries(waiter) => drop(waiter.send(Ok(outcomes))),
            Waiter::Write(waiter) => {
                let (Some(entry), Some(outcome)) = (entries.into_iter().next(), outcomes.into_iter().next())
                else {
                    return;
                };
                let id = entry.id();
                drop(waiter.send(match outcome.is_held() {
                    true => Ok(Written { id, entry, queued_for }),
                    false => Err(SyncError::NotStored { id, outcome }),
                }));
            }
        }
    }

    /// What was written here waits for the peers that are away.
    pub(super) fn queue_for_absent(&mut self, entries: &[Verified]) -> usize {
        if entries.is_empty() {
            return 0;
        }
        let at = self.moment();
        for peer in &self.absent {
            for entry in entries {
                // Where there is no room, anti-entropy brings it there.
                let _ = self.queue.enqueue(peer, entry.id(), entry.encoded().len() as u64, at);
            }
        }
        self.absent.len()
    }

    /// Signs a draft and has it stored.
    pub(in crate::engine) fn write(
        &mut self,
        draft: Draft,
        parent: Option<EntryId>,
        waiter: oneshot::Sender<Result<Written, SyncError>>,
    ) {
        let entry = match self.sign(draft, parent) {
            Ok(entry) => entry,
            Err(error) => return drop(waiter.send(Err(error.into()))),
        };
        let before = entry.sequence();
        if let Err((waiter, error)) = self.submit(vec![entry], Waiter::Write(waiter)) {
            // The number was not used, so that no gap is left behind.
            self.author = Author::new(self.core.key.clone(), self.dataset.id.clone(), before);
            if let Waiter::Write(waiter) = waiter {
                drop(waiter.send(Err(error)));
            }
        }
    }

    pub(super) fn sign(&mut self, draft: Draft, parent: Option<EntryId>) -> Result<Verified, DraftError> {
        let author = self.author.id();
        let draft = draft.after(parent);
        let hlc = self.core.stamp().map_err(|_| DraftError::SequenceExhausted { author })?;
        self.author.sign(draft, hlc)
    }

    /// Takes entries whose signatures were checked.
    pub(in crate::engine) fn take(
        &mut self,
        entries: Vec<Verified>,
        waiter: oneshot::Sender<Result<Vec<Outcome>, SyncError>>,
    ) {
        let entries_of_us: Option<AuthorSequence> = entries
            .iter()
            .filter(|entry| entry.author() == self.core.author)
            .map(|entry| entry.sequence())
            .max();
        match self.submit(entries, Waiter::Entries(waiter)) {
            Err((Waiter::Entries(waiter), error)) => drop(waiter.send(Err(error))),
            Err(_) => {}
            // Entries of our own key that were made elsewhere.
            Ok(()) => entries_of_us.into_iter().for_each(|highest| self.go_on_behind(highest)),
        }
    }

    /// The next entry that is signed here has a number behind this one, which is taken.
    pub(super) fn go_on_behind(&mut self, taken: AuthorSequence) {
        if let Some(next) = taken.next()
            && self.author.next_sequence().is_some_and(|ours| ours < next)
        {
            self.author = Author::new(self.core.key.clone(), self.dataset.id.clone(), next);
        }
    }

    pub(super) fn submit(
        &mut self,
        entries: Vec<Verified>,
        waiter: Waiter,
    ) -> Result<(), (Waiter, SyncError)> {
        let other = entries.iter().find(|entry| *entry.dataset() != self.dataset.id);
        if let Some(other) = other {
            let outcome = Outcome::Rejected(Rejection::OtherDataset { found: other.dataset().clone() });
            return Err((waiter, SyncError::NotStored { id: other.id(), outcome }));
        }
        if let Some(full) = self.no_room() {
            return Err((waiter, full));
        }
        if let Some(problem) = lock(&self.dataset.board).failed.clone() {
            return Err((waiter, SyncError::Failed { dataset: self.dataset.id.clone(), problem }));
        }
        match self.replica.submit(self.core.now(), entries.clone()) {
            Ok(submission) => {
                self.submissions.insert(submission, Submission { entries, waiter });
                Ok(())
            }
            Err(crate::replica::SubmitError::Stopped) => {
                let problem = lock(&self.dataset.board).failed.clone().unwrap_or_default();
                Err((waiter, SyncError::Failed { dataset: self.dataset.id.clone(), problem }))
            }
            Err(source) => Err((waiter, SyncError::Busy { dataset: self.dataset.id.clone(), source })),
        }
    }
}
