//! Stories of a few replicas over a loopback: everything that is sent arrives at once, unless it is dropped.

mod bounds;
mod hostile;
mod loopback;
#[cfg(feature = "planted-bugs")]
mod planted;
mod retirement;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh_core::{Hlc, Instant, NodeId, Settings, WallTime};

use super::*;
use crate::{
    entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Verified},
    reconcile::EpochKey,
    store::{Creation, Datasets, EntryStore, MemoryStore, StoreIncarnation},
};

pub(super) const PRUNER: u8 = 99;

pub(super) fn dataset() -> DatasetId {
    DatasetId::new("notes").expect("valid")
}

pub(super) fn author(seed: u8) -> Author {
    Author::new(AuthorKey::from_seed([seed; 32]), dataset(), AuthorSequence::FIRST)
}

pub(super) fn name(at: usize) -> NodeId {
    NodeId::new(format!("n{at}")).expect("valid")
}

pub(super) struct Node {
    pub(super) store: Arc<dyn EntryStore>,
    pub(super) replica: Replica,
    pub(super) events: Vec<SyncEvent>,
}

/// Whether a message is dropped: from, to, message.
pub(super) type Drops = Box<dyn FnMut(usize, usize, &Message) -> bool>;

/// A few nodes, and what was sent.
pub(super) struct Loop {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Now,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    /// Whether a message is dropped: from, to, message.
    pub(super) drops: Drops,
    /// Messages to others than these nodes: from, message.
    pub(super) outside: Vec<(usize, Message)>,
}

/// Where time begins, so that stamps may be before it.
pub(super) const EPOCH: u64 = 1_000_000_000;

impl Loop {
    pub(super) fn new(count: usize) -> Self {
        Self::with(count, ReplicaConfig::default())
    }

    pub(super) fn with(count: usize, config: ReplicaConfig) -> Self {
        let now = Now { at: Instant::ZERO, wall: WallTime(EPOCH) };
        let nodes = (0..count).map(|at| {
            let creation = Creation::new(&dataset(), StoreIncarnation(7000 + at as u64));
            let store = MemoryStore::in_memory().open(&dataset(), creation).expect("opens");
            let replica = open(&store, at, now, config.clone());
            Node { store, replica, events: Vec::new() }
        });
        Self {
            nodes: nodes.collect(),
            now,
            bytes: 0,
            messages: 0,
            drops: Box::new(|_, _, _| false),
            outside: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        self.nodes[a].replica.add_peer(self.now, &name(b));
        self.nodes[b].replica.add_peer(self.now, &name(a));
        self.nodes[a].replica.handle_connected(self.now, &name(b));
        self.nodes[b].replica.handle_connected(self.now, &name(a));
        self.settle();
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        self.nodes[a].replica.handle_disconnected(self.now, &name(b));
        self.nodes[b].replica.handle_disconnected(self.now, &name(a));
        self.settle();
    }

    pub(super) fn submit(&mut self, at: usize, entries: Vec<Verified>) {
        self.nodes[at].replica.submit(self.now, entries).expect("there is room");
        self.settle();
    }

    /// Does whatever is to be done at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                while let Some(job) = self.nodes[at].replica.poll_job() {
                    let result = job.work.perform(&*self.nodes[at].store);
                    self.nodes[at].replica.handle_done(self.now, job.id, result);
                    idle = false;
                }
                let node = &mut self.nodes[at];
                node.events.extend(std::iter::from_fn(|| node.replica.poll_event()));
                while let Some(Transmit { to, message }) = self.nodes[at].replica.poll_transmit() {
                    idle = false;
                    let bytes: Bytes = message.encode();
                    self.bytes += bytes.len() as u64;
                    self.messages += 1;
                    let Some(other) = (0..self.nodes.len()).find(|other| name(*other) == to) else {
                        self.outside.push((at, message));
                        continue;
                    };
                    if !(self.drops)(at, other, &message) {
                        let message = Message::decode(&bytes).expect("what is written can be read");
                        self.nodes[other].replica.handle_message(self.now, &name(at), message);
                    }
                }
            }
            if idle {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.at + time;
        loop {
            let next = self.nodes.iter().filter_map(|node| node.replica.poll_timeout()).min();
            let next = next.map_or(end, |next| next.max(self.now.at + Duration::from_millis(1)).min(end));
            let by = next.since(self.now.at);
            self.now.at = next;
            self.now.wall.0 += u64::try_from(by.as_millis()).expect("short").max(1);
            for node in &mut self.nodes {
                node.replica.handle_timeout(self.now);
            }
            self.settle();
            if next >= end {
                return;
            }
        }
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    pub(super) fn are_equal(&self) -> bool {
        let root = self.nodes[0].replica.root();
        self.nodes.iter().all(|node| {
            node.replica.root().same_set(&root) && node.store.summary().count == node.replica.root().count
        })
    }

    pub(super) fn restart(&mut self, at: usize, config: ReplicaConfig) {
        for other in 0..self.nodes.len() {
            self.nodes[other].replica.handle_disconnected(self.now, &name(at));
        }
        let replica = open(&self.nodes[at].store, at, self.now, config);
        self.nodes[at].replica = replica;
        self.settle();
    }
}

fn open(store: &Arc<dyn EntryStore>, at: usize, now: Now, config: ReplicaConfig) -> Replica {
    let opened = Opened::read(&**store, EpochKey::derive("notes", 0)).expect("reads");
    let options = ReplicaOptions {
        local: name(at),
        config: config.validate().expect("valid"),
        pruners: BTreeSet::from([author(PRUNER).id()]),
        seed: [at as u8 + 1; 32],
    };
    Replica::new(now, options, opened)
}

/// Entries of one author, each with the one before as its parent, from a millisecond on.
pub(super) fn chain(author: &mut Author, count: usize, from: u64) -> Vec<Verified> {
    let mut parent = None;
    let notes = Collection::new("notes").expect("valid");
    (0..count as u64)
        .map(|n| {
            let draft = Draft::put(&notes, format!("key {n}"), vec![7; 64]).after(parent);
            let entry = author.sign(draft, Hlc::from_wall(WallTime(from + n))).expect("signs");
            parent = Some(entry.id());
            entry
        })
        .collect()
}
