//! Streams come and go, and nodes become peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::NodeId;

use crate::engine::{SyncError, core::lock, link::Link};
use crate::state::{Relationship, Standing};

use super::{Actor, RoundSoFar};

impl Actor {
    /// Compares the streams that there are with those that the replica knows.
    pub(super) fn look_at_links(&mut self) {
        let mut current: BTreeMap<NodeId, Arc<Link>> = BTreeMap::new();
        for link in self.core.links() {
            if link.is_open() && link.number_of(&self.dataset.id).is_some() {
                current.insert(link.peer.clone(), link);
            }
        }
        let gone: Vec<NodeId> =
            self.links.keys().filter(|peer| !current.contains_key(*peer)).cloned().collect();
        let mut changed = !gone.is_empty();
        for peer in gone {
            self.links.remove(&peer);
            self.replica.handle_disconnected(self.core.now(), &peer);
        }
        for (peer, link) in current {
            if self.links.get(&peer).is_some_and(|known| known.serial == link.serial) {
                continue;
            }
            let now = self.core.now();
            self.rounds.insert(peer.clone(), RoundSoFar::begin(now.at));
            self.links.insert(peer.clone(), link);
            self.relate_connected(&peer);
            lock(&self.dataset.board).problems.remove(&peer);
            self.replica.handle_connected(now, &peer);
            changed = true;
        }
        if changed {
            self.note_absent();
        }
    }

    /// A node that was let in is a peer from then on, so that it is known while it is away.
    pub(super) fn relate_connected(&mut self, peer: &NodeId) {
        let known = lock(&self.dataset.books).peers.relationship(peer).is_some();
        if !known {
            // With no room it is served, and pruning does not wait for it.
            let _ = self.relate(peer, Vec::new());
        }
    }

    /// Makes a node a peer.
    pub(in crate::engine) fn relate(
        &mut self,
        peer: &NodeId,
        addresses: Vec<String>,
    ) -> Result<(), SyncError> {
        let now = self.core.now();
        {
            let mut books = lock(&self.dataset.books);
            let known = books.peers.relationship(peer).cloned();
            let is_active = known.as_ref().is_some_and(|known| known.standing == Standing::Active);
            let author = self.links.get(peer).map(|link| link.author);
            let relationship = match known {
                Some(known) => Relationship {
                    standing: Standing::Active,
                    addresses: if addresses.is_empty() { known.addresses.clone() } else { addresses },
                    ..known
                },
                None => Relationship { author, addresses, standing: Standing::Active, since: now.wall },
            };
            if books.peers.relationship(peer) != Some(&relationship) {
                books.peers.add(peer, relationship)?;
            } else if is_active {
                return Ok(());
            }
        }
        self.replica.add_peer(now, peer);
        self.note_absent();
        self.core.dial.notify_one();
        Ok(())
    }

    /// Ends a relationship.
    pub(in crate::engine) fn part(&mut self, peer: &NodeId) -> bool {
        let was = lock(&self.dataset.books).peers.remove(peer);
        let now = self.core.now();
        self.replica.retire(now, peer);
        self.queue.remove_peer(peer);
        self.deliveries.remove(peer);
        self.note_absent();
        was
    }

    pub(in crate::engine) fn retire(&mut self, peer: &NodeId) -> bool {
        let mut books = lock(&self.dataset.books);
        let Some(known) = books.peers.relationship(peer).cloned() else { return false };
        // It was there, so there is room.
        let _ = books.peers.add(peer, Relationship { standing: Standing::Retired, ..known });
        drop(books);
        self.replica.retire(self.core.now(), peer);
        self.note_absent();
        true
    }

    pub(super) fn note_absent(&mut self) {
        let wanted = self.dataset.neighbours(&self.core.local);
        self.replica.expect(&self.dataset.wanted(&self.core.local, self.core.turn()));
        self.absent = wanted.into_iter().filter(|peer| !self.links.contains_key(peer)).collect();
    }

    /// Peers that need to be looked at when the dataset's streams are to be opened anew.
    pub(in crate::engine) fn connected(&self) -> BTreeSet<NodeId> {
        self.links.keys().cloned().collect()
    }
}
