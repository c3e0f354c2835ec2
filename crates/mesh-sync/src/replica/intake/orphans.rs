//! Entries that wait for their parents.

use std::collections::BTreeSet;

use mesh_core::NodeId;

use super::{ORPHAN_SHARES, Orphan, Stage, Staged};
use crate::{
    EntryId,
    entry::{AuthorSequence, Deferral, Outcome, Verified},
    planted::PlantedBug,
    replica::{Replica, Verdict},
    store::PrunedEntry,
};

impl Replica {
    /// An entry whose parents are not there waits for them, and they are fetched from whoever sent it.
    pub(super) fn orphan(
        &mut self,
        id: EntryId,
        entry: Verified,
        from: Option<NodeId>,
        missing: Vec<EntryId>,
    ) {
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
    pub(in crate::replica) fn release_children(&mut self, parents: &[EntryId]) {
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
    pub(in crate::replica) fn want_parents(&mut self) {
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

    pub(in crate::replica) fn has_children(&self, parent: &EntryId) -> bool {
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
    pub(in crate::replica) fn expire_orphans(&mut self) {
        let now = self.now.at;
        let late: Vec<EntryId> =
            self.intake.orphans.iter().filter(|(_, orphan)| orphan.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.take_orphan(id);
        }
    }
}
