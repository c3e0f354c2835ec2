//! What people do: they write, and the first node prunes.

use std::{sync::Arc, time::Duration};

use mesh_core::Hlc;
use mesh_sync::{
    EntryId,
    documents::Documents,
    entry::{AuthorId, AuthorSequence, Collection, Draft, Verified},
    replica::Now,
    store::{Arrival, Creation, Datasets, EntryStore, ScanLimit, Store, StoreIncarnation},
};

use super::{Event, Violation, World, dataset, key};

impl World<'_> {
    pub(super) fn merge(&mut self, node: usize, stamp: Hlc) {
        let wall = self.now_of(node).wall;
        let _ = self.nodes[node].clock.merge(wall, stamp);
    }

    fn issue(&mut self, node: usize) -> Hlc {
        let wall = self.now_of(node).wall;
        self.nodes[node].clock.issue(wall).expect("nothing is durable ahead, so nothing is passed")
    }

    pub(super) fn write(&mut self, node: usize) -> Result<(), Violation> {
        if !self.faulty {
            return Ok(());
        }
        self.push_in(1, self.options.write_every_ms * 2, Event::Write { node });
        if !self.nodes[node].up {
            return Ok(());
        }
        let at = self.rng.usize(0..self.options.datasets);
        let mut entries = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            let stamp = self.issue(node);
            if stamp <= self.nodes[node].last_stamp && !self.nodes[node].restored {
                return Err(self.broken(("a node's stamps never go back", stamp.to_string())));
            }
            self.nodes[node].last_stamp = stamp;
            let parents = self.parents(node, at, stamp, &entries);
            let docs = Collection::new("docs").expect("valid");
            let doc = format!("doc {}", self.rng.u32(0..12));
            let draft = match self.rng.u32(0..4) {
                0 => Draft::delete(&docs, doc),
                _ => Draft::put(&docs, doc, vec![self.rng.u8(..); self.rng.usize(0..400)]),
            };
            let entry = self.nodes[node].parts[at].author.sign(draft.after(parents), stamp).expect("signs");
            self.rules[at].all.insert(entry.id(), entry.clone());
            entries.push(entry);
        }
        self.submit(node, at, entries)
    }

    fn submit(&mut self, node: usize, at: usize, entries: Vec<Verified>) -> Result<(), Violation> {
        let now = self.now_of(node);
        let ids = entries.iter().map(|entry| entry.id()).collect();
        let part = &mut self.nodes[node].parts[at];
        // A node that is full would tell its client so.
        if let Ok(submission) = part.replica.submit(now, entries) {
            part.submitted.insert(submission, ids);
        }
        self.drain(node)
    }

    /// Some entries that are held, or come before in the same batch.
    pub(super) fn parents(&mut self, node: usize, at: usize, stamp: Hlc, batch: &[Verified]) -> Vec<EntryId> {
        let part = &self.nodes[node].parts[at];
        let last = part.store.summary().last_arrival.0;
        let from = Arrival(last.saturating_sub(8) + 1);
        let mut held: Vec<EntryId> = part
            .store
            .arrivals(from, 8)
            .expect("reads")
            .iter()
            .filter(|listed| listed.item.hlc < stamp)
            .map(|listed| listed.item.id)
            .collect();
        held.extend(batch.iter().map(|entry| entry.id()));
        let count = self.rng.usize(0..3).min(held.len());
        self.rng.shuffle(&mut held);
        held.truncate(count);
        held
    }

    /// The first node prunes what is spent in one dataset.
    pub(super) fn prune(&mut self) -> Result<(), Violation> {
        self.push_in(3000, 15_000, Event::Prune);
        if !self.nodes[0].up {
            return Ok(());
        }
        let at = self.rng.usize(0..self.options.datasets);
        let now = self.now_of(0);
        let store = self.nodes[0].parts[at].store.clone();
        // In the end, only what is in force and was lost is said again.
        let wanted = if self.faulty { self.spent(at, now) } else { Vec::new() };
        let pruner = key(0).id();
        let plan = self.nodes[0].parts[at].replica.plan_prune(&pruner, &wanted);
        let Some(draft) = plan.draft else { return Ok(()) };
        let retired = self.retired.clone();
        let active: Vec<Arc<dyn EntryStore>> = (0..self.options.nodes)
            .filter(|node| *node == 0 || (self.options.linked(0, *node) && !retired.contains(node)))
            .filter(|node| !self.nodes[*node].restored)
            .map(|node| self.store_of(node, at))
            .collect();
        let held = |author: &AuthorId| {
            let held =
                active.iter().map(|store| store.head(author).expect("reads").unwrap_or_default().contiguous);
            held.min().unwrap_or(AuthorSequence(u64::MAX))
        };
        let keep = self.options.config.tombstone_retention;
        let young = |entry: &mesh_sync::entry::Entry| {
            Duration::from_millis(now.wall.0.saturating_sub(entry.hlc().wall().0)) < keep
        };
        self.rules[at]
            .on_prune(&plan.watermarks, held, young, &*store)
            .map_err(|broken| self.broken(broken))?;
        self.report.prunes += 1;
        let stamp = self.issue(0);
        self.nodes[0].last_stamp = stamp;
        let entry = self.nodes[0].parts[at].author.sign(draft, stamp).expect("signs");
        self.rules[at].all.insert(entry.id(), entry.clone());
        self.rules[at].prunes.insert(entry.id(), plan.watermarks);
        self.submit(0, at, vec![entry])
    }

    /// The store of a node, also while that is down.
    pub(super) fn store_of(&self, node: usize, at: usize) -> Arc<dyn EntryStore> {
        if self.nodes[node].up {
            return self.nodes[node].parts[at].store.clone();
        }
        let store = Store::new(self.nodes[node].disk.copy()).expect("the disk is intact");
        store.open(&dataset(at), Creation::new(&dataset(at), StoreIncarnation(0))).expect("opens")
    }

    fn spent(&self, at: usize, now: Now) -> Vec<(AuthorId, AuthorSequence)> {
        let part = &self.nodes[0].parts[at];
        let limit = ScanLimit { entries: usize::MAX, bytes: usize::MAX };
        let all = part.store.scan(std::ops::Bound::Unbounded, limit).expect("reads");
        let mut documents = Documents::new();
        all.iter().for_each(|stored| {
            let _ = documents.apply(&stored.entry);
        });
        let retention = part.replica.retention(now.wall);
        let authors = part.store.vector(None, 100).expect("reads");
        let spent = authors.iter().filter_map(|(author, _)| {
            let mut own: Vec<&Verified> =
                all.iter().map(|stored| &stored.entry).filter(|entry| entry.author() == *author).collect();
            own.sort_by_key(|entry| (entry.sequence(), entry.id()));
            let own = own.into_iter().map(|entry| &**entry);
            retention.watermark(own, |entry| documents.worth(entry)).map(|up_to| (*author, up_to))
        });
        spent.collect()
    }
}
