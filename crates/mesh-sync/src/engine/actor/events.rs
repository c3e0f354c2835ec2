//! What a replica tells is passed on.

use std::{sync::Arc, time::Duration};

use mesh_core::NodeId;

use crate::engine::{Change, DocumentHead, EngineEvent, Progress, SyncError, core::lock};
use crate::{
    documents::DocumentKey,
    entry::{Kind, Verified},
    replica::SyncEvent,
    state::{Round, RoundEnd},
};

use super::{Actor, PROGRESS_EVERY, ROUND_EVERY, Submission, Waiter};

impl Actor {
    pub(super) fn on_event(&mut self, event: SyncEvent) {
        let dataset = self.dataset.id.clone();
        match event {
            SyncEvent::Submitted { submission, outcomes } => self.on_submitted(submission, outcomes),
            SyncEvent::Committed(entries) => self.on_committed(&entries),
            SyncEvent::Equivocation(equivocation) => {
                self.core.counters.lock().equivocations += 1;
                tracing::warn!(
                    %dataset,
                    author = %equivocation.author,
                    sequence = %equivocation.sequence,
                    "an author gave one number to two entries; both are kept"
                );
                self.core.tell(EngineEvent::Equivocation { dataset, equivocation });
            }
            SyncEvent::Deferred { .. } => {}
            SyncEvent::Rejected { peer, id, outcome } => {
                self.core.tell(EngineEvent::Rejected { dataset, peer, id, outcome });
            }
            SyncEvent::Pruned { removed, watermarks } => {
                self.dataset.view.forget(&watermarks);
                if let Some((_, up_to)) = watermarks.iter().find(|(author, _)| *author == self.core.author) {
                    self.go_on_behind(*up_to);
                }
                lock(&self.dataset.board).prune_digest = self.replica.prune_digest();
                self.core.tell(EngineEvent::Pruned { dataset, removed });
            }
            SyncEvent::InSync { peer } => self.on_in_sync(peer),
            SyncEvent::PeerLagging { peer, behind } => {
                tracing::warn!(%dataset, peer_id = %peer, ?behind, "a peer is behind; pruning waits for it");
                self.core.tell(EngineEvent::Lagging { dataset, peer });
            }
            SyncEvent::PeerCaughtUp { peer } => self.core.tell(EngineEvent::CaughtUp { dataset, peer }),
            SyncEvent::PeerStalled { peer } => {
                tracing::debug!(%dataset, peer_id = %peer, "a peer does not acknowledge what it is sent");
            }
            SyncEvent::Reconciled { peer, method, give, need } => {
                self.count_comparison(&peer, method.as_str(), "done");
                self.record(&peer, RoundEnd::Progress, method.as_str());
                self.core.tell(EngineEvent::Reconciled { dataset, peer, method, give, need });
            }
            SyncEvent::ReconcileFailed { peer, error } => {
                let why = error.map_or_else(|| "the peer fell silent".to_owned(), |error| error.to_string());
                self.count_comparison(&peer, "none", "failed");
                self.record(&peer, RoundEnd::Failed, &why);
            }
            SyncEvent::Stopped(error) => self.fail(&crate::engine::shake::describe(&error)),
        }
    }

    pub(super) fn count_comparison(&mut self, peer: &NodeId, method: &'static str, outcome: &'static str) {
        let bytes = self.rounds.get_mut(peer).map_or(0, |round| std::mem::take(&mut round.reconcile_bytes));
        let mut numbers = self.core.counters.lock();
        *numbers.reconciliations.entry((method, outcome)).or_default() += 1;
        numbers.reconciliation_bytes.observe(bytes as f64);
    }

    pub(super) fn on_in_sync(&mut self, peer: NodeId) {
        let now = self.core.now();
        let waited = self.queue.waiting_since(&peer).map(|queued| now.wall.0.saturating_sub(queued.0));
        let settled = self.queue.on_peer_equal(&peer);
        if let Some(waited) = waited.filter(|_| settled > 0) {
            self.core.counters.lock().queue.time(Duration::from_millis(waited));
        }
        if let Some(round) = self.rounds.get(&peer) {
            self.core.counters.lock().lag.time(now.at.since(round.behind.max(round.begun)));
        }
        if let Some(delivery) = self.deliveries.remove(&peer) {
            tracing::debug!(peer_id = %peer, entries = delivery.entries.len().max(settled), "a delivery is settled");
        }
        self.record(&peer, RoundEnd::Equal, "");
        let dataset = self.dataset.id.clone();
        self.core.tell(EngineEvent::InSync { dataset, peer });
    }

    /// Tells how far peers are with whom entries were exchanged.
    pub(super) fn tell_progress(&mut self) {
        let (now, ours) = (self.core.clock.now(), self.replica.root());
        for status in self.replica.peers().iter().filter(|status| status.connected && !status.in_sync) {
            let Some(round) = self.rounds.get_mut(&status.peer) else { continue };
            let since = now.since(round.told);
            if round.moved.0 == 0 || since < PROGRESS_EVERY {
                continue;
            }
            let (entries, bytes) = std::mem::take(&mut round.moved);
            round.told = now;
            let bytes_per_second = (bytes as f64 / since.as_secs_f64()) as u64;
            let progress = Progress { left: status.left(&ours), entries, bytes, bytes_per_second };
            let (dataset, peer) = (self.dataset.id.clone(), status.peer.clone());
            self.core.tell(EngineEvent::Progress { dataset, peer, progress });
        }
    }

    /// Remembers how a round ended, and begins the next.
    pub(super) fn record(&mut self, peer: &NodeId, end: RoundEnd, note: &str) {
        let now = self.core.now();
        let Some(round) = self.rounds.get_mut(peer) else { return };
        let is_soon = round.recorded.is_some_and(|at| now.at.since(at) < ROUND_EVERY);
        if is_soon && end == RoundEnd::Equal && round.entries_received + round.entries_sent == 0 {
            return;
        }
        let took = now.at.since(round.begun);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let record = Round {
            begun: mesh_core::WallTime(now.wall.0.saturating_sub(took_ms)),
            took,
            end,
            bytes_sent: std::mem::take(&mut round.bytes_sent),
            bytes_received: std::mem::take(&mut round.bytes_received),
            entries_sent: std::mem::take(&mut round.entries_sent),
            entries_received: std::mem::take(&mut round.entries_received),
            note: if note.is_empty() { std::mem::take(&mut round.note) } else { note.to_owned() },
        };
        round.begun = now.at;
        round.recorded = Some(now.at);
        // A peer that is only served is not in the book.
        let _ = lock(&self.dataset.books).peers.record(peer, record);
    }

    pub(super) fn on_committed(&mut self, entries: &[Verified]) {
        for entry in entries {
            self.core.note_stamp(entry.hlc());
            if entry.author() == self.core.author {
                // From before the disk was restored, or the store lost: those numbers are taken.
                self.go_on_behind(entry.sequence());
            }
        }
        let changes: Vec<Change> = self.dataset.view.apply(entries);
        for change in &changes {
            if change.document.version.kind == Kind::Blob {
                let DocumentHead { collection, key, version } = &change.document;
                let document = DocumentKey { collection: collection.clone(), key: key.clone() };
                self.want_blob(document, version.item.id, &change.payload);
            }
        }
        if !changes.is_empty() && self.dataset.changes.receiver_count() > 0 {
            // A watcher may have gone meanwhile.
            let _ = self.dataset.changes.send(Arc::new(changes));
        }
        self.core.offer_to_hooks(&self.dataset.id, entries);
        self.core.tell(EngineEvent::Committed { dataset: self.dataset.id.clone(), entries: entries.len() });
    }

    /// The store failed: nothing is taken any more, and streams of this dataset mean nothing.
    pub(super) fn fail(&mut self, problem: &str) {
        tracing::error!(dataset = %self.dataset.id, problem, "the store of a dataset has failed; restart the node");
        lock(&self.dataset.board).failed = Some(problem.to_owned());
        self.core.tell(EngineEvent::Failed { dataset: self.dataset.id.clone(), problem: problem.to_owned() });
        let dataset = self.dataset.id.clone();
        for (_, Submission { waiter, .. }) in std::mem::take(&mut self.submissions) {
            let error = SyncError::Failed { dataset: dataset.clone(), problem: problem.to_owned() };
            match waiter {
                Waiter::Write(waiter) => drop(waiter.send(Err(error))),
                Waiter::Entries(waiter) => drop(waiter.send(Err(error))),
            }
        }
        self.book_waiters.clear();
        self.written_waiters.clear();
        // Writes of records would fail as well.
        self.writing_books = true;
    }
}
