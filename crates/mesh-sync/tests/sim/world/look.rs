//! What is looked at, against the rules.

use std::time::Duration;

use mesh_core::Instant;
use mesh_sync::{EntryId, entry::Verified, replica::SyncEvent, store::Arrival};

use super::{EPOCH, Node, Violation, World, at_of, dataset, key};

impl World<'_> {
    /// For each dataset, what some lack.
    pub(super) fn differences(&self) -> String {
        let mut out = String::new();
        for (at, rules) in self.rules.iter().enumerate() {
            for entry in rules.all.values() {
                let has = |node: &Node| node.parts[at].store.has(&[entry.id()]).expect("reads")[0];
                let holders: Vec<usize> =
                    (0..self.nodes.len()).filter(|node| has(&self.nodes[*node])).collect();
                if !holders.is_empty() && holders.len() < self.nodes.len() && out.len() < 2000 {
                    let author = (0..self.nodes.len()).find(|node| key(*node).id() == entry.author());
                    let heads: Vec<_> = self
                        .nodes
                        .iter()
                        .map(|node| {
                            node.parts[at]
                                .store
                                .head(&entry.author())
                                .expect("reads")
                                .map(|head| (head.pruned.0, head.contiguous.0))
                        })
                        .collect();
                    let pruned = rules.ordered.get(&entry.author());
                    out += &format!(
                        "\nset {at}: {} of {author:?} #{} {:?} at {} is on {holders:?} only; pruned {pruned:?} {heads:?} parents {:?}",
                        entry.id(),
                        entry.sequence(),
                        entry.collection(),
                        entry.hlc(),
                        entry.parents().collect::<Vec<_>>()
                    );
                }
            }
        }
        out
    }

    pub(super) fn are_equal(&self) -> bool {
        let same = |at: usize| {
            let root = self.nodes[0].parts[at].replica.root();
            self.nodes.iter().all(|node| node.parts[at].replica.root().same_set(&root))
        };
        (0..self.options.datasets).all(same) && self.has_obeyed_all()
    }

    /// When the last entry's time has come on every clock.
    pub(super) fn last_due(&self) -> Instant {
        let drift = self.options.config.max_drift;
        let slowest = self.nodes.iter().map(|node| node.skew_ms).min().unwrap_or(0);
        let last = self.rules.iter().flat_map(|rules| rules.all.values());
        let last = last.filter(|entry| {
            let at = self.dataset_of(entry);
            self.nodes.iter().any(|node| node.parts[at].store.has(&[entry.id()]).expect("reads")[0])
        });
        let wall = last.map(|entry| entry.hlc().wall().0).max().unwrap_or(EPOCH);
        let ms = wall.saturating_sub(EPOCH).saturating_add_signed(-slowest);
        Instant::ZERO + Duration::from_millis(ms).saturating_sub(drift)
    }

    fn dataset_of(&self, entry: &Verified) -> usize {
        (0..self.options.datasets).find(|at| dataset(*at) == *entry.dataset()).expect("one of ours")
    }

    /// Whether every order to prune has reached every disk.
    fn has_obeyed_all(&self) -> bool {
        self.rules.iter().enumerate().all(|(at, rules)| {
            let pruned_on = |node: &Node, author| {
                node.parts[at].store.head(author).expect("reads").unwrap_or_default().pruned
            };
            rules.ordered.keys().all(|author| {
                let first = pruned_on(&self.nodes[0], author);
                // A disk that was restored may have lost the one prune that was told.
                let lost = self.nodes.iter().any(|node| node.restored);
                let enough = lost || rules.must.get(author).is_none_or(|up_to| first >= *up_to);
                enough && self.nodes.iter().all(|node| pruned_on(node, author) == first)
            })
        })
    }

    pub(super) fn look_at_event(
        &mut self,
        node: usize,
        at: usize,
        event: SyncEvent,
    ) -> Result<(), Violation> {
        let part = &mut self.nodes[node].parts[at];
        match event {
            SyncEvent::Submitted { submission, outcomes } => {
                let ids = part.submitted.remove(&submission).unwrap_or_default();
                let told = ids.into_iter().zip(outcomes).filter(|(_, outcome)| outcome.is_held());
                let told: Vec<EntryId> = told.map(|(id, _)| id).collect();
                let store = part.store.clone();
                let stamps = told.iter().filter_map(|id| self.rules[at].all.get(id)).map(|entry| entry.hlc());
                let highest = stamps.max().unwrap_or_default();
                self.nodes[node].told_stamp = self.nodes[node].told_stamp.max(highest);
                self.report.entries += told.len() as u64;
                self.rules[at].on_told(&*store, &told).map_err(|broken| self.broken(broken))
            }
            SyncEvent::Committed(entries) => {
                let store = part.store.clone();
                for entry in &entries {
                    self.merge(node, entry.hlc());
                }
                self.rules[at].on_committed(&*store, &entries).map_err(|broken| self.broken(broken))
            }
            SyncEvent::Reconciled { .. } => {
                self.report.comparisons += 1;
                Ok(())
            }
            SyncEvent::ReconcileFailed { .. } => {
                self.report.failed += 1;
                Ok(())
            }
            SyncEvent::Deferred { id, .. } => {
                self.report.deferred += 1;
                self.nodes[node].deferred.insert(id);
                Ok(())
            }
            SyncEvent::Equivocation(_) => {
                self.report.equivocations += 1;
                Ok(())
            }
            SyncEvent::Stopped(error) => Err(self.broken(("stores do not fail here", error.to_string()))),
            _ => Ok(()),
        }
    }

    /// Whatever is behind a durable cursor is held. Each arrival is looked at once.
    pub(super) fn look_at_cursors(&mut self, node: usize, at: usize) -> Result<(), Violation> {
        for status in self.nodes[node].parts[at].replica.peers() {
            let peer = at_of(&status.peer);
            let Some(cursor) = status.cursor else { continue };
            if !self.nodes[peer].up || self.nodes[peer].restored || self.nodes[node].restored {
                continue;
            }
            let (ours, theirs) = (&self.nodes[node].parts[at], &self.nodes[peer].parts[at]);
            if theirs.store.incarnation().0 != cursor.incarnation {
                continue;
            }
            let from = ours.looked.get(&peer).copied().unwrap_or(0);
            let new = usize::try_from(cursor.sequence.saturating_sub(from)).expect("few");
            let listed = theirs.store.arrivals(Arrival(from + 1), new).expect("reads");
            for one in listed.iter().filter(|one| one.arrival.0 <= cursor.sequence) {
                let entry = &self.rules[at].all[&one.item.id];
                let ahead = self.nodes[node].deferred.contains(&entry.id());
                let held = ours.store.has(&[one.item.id]).expect("reads")[0];
                if !held && !ahead && !self.rules[at].is_pruned(entry) {
                    let text = format!("n{node} lacks {} behind its cursor in n{peer}", one.item.id);
                    return Err(self.broken(("what is behind a durable cursor is held", text)));
                }
            }
            self.nodes[node].parts[at].looked.insert(peer, cursor.sequence.max(from));
        }
        Ok(())
    }

    pub(super) fn look_at_all(&self) -> Result<(), Violation> {
        for node in &self.nodes {
            for (part, rules) in node.parts.iter().zip(&self.rules) {
                rules.at_the_end(&*part.store).map_err(|broken| self.broken(broken))?;
                // An older disk may have lost what nobody else had, and nobody waits for what a retired node has.
                if self.retired.is_empty() && self.nodes.iter().all(|node| !node.restored) {
                    rules.documents_at_the_end(&*part.store).map_err(|broken| self.broken(broken))?;
                }
            }
        }
        Ok(())
    }
}
