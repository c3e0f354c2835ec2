//! Entries that are to be fetched, and whom they were asked of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{Instant, NodeId};

use super::{Message, Replica};
use crate::{EntryId, planted::PlantedBug};

/// Peers that are remembered as holders of a wanted entry.
const HOLDERS_MAX: usize = 4;
/// Wants that are looked at in one step.
const ASKED_AT_ONCE: usize = 4096;
/// Names in one message.
const NAMES_AT_ONCE: usize = 1024;

struct Want {
    holders: Vec<NodeId>,
    asked: Option<(NodeId, Instant)>,
    attempts: u32,
}

/// Bounded; what doesn't fit is learned of again.
#[derive(Default)]
pub(super) struct Wants {
    wants: BTreeMap<EntryId, Want>,
    deadlines: BTreeSet<(Instant, EntryId)>,
    /// In the order in which they came up, so parents first. May name some that are settled.
    unasked: VecDeque<EntryId>,
    in_flight: BTreeMap<NodeId, usize>,
}

impl Wants {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn contains(&self, id: &EntryId) -> bool {
        self.wants.contains_key(id)
    }

    pub(super) fn was_asked(&self, id: &EntryId, peer: &NodeId) -> bool {
        self.wants.get(id).and_then(|want| want.asked.as_ref()).is_some_and(|(asked, _)| asked == peer)
    }

    /// Wants an entry that `holder` has. `coming` tells that it will send it anyway.
    fn add(&mut self, id: EntryId, holder: &NodeId, coming: Option<Instant>, max: usize) {
        if let Some(want) = self.wants.get_mut(&id) {
            if want.holders.len() < HOLDERS_MAX && !want.holders.contains(holder) {
                want.holders.push(holder.clone());
            }
            return;
        }
        if self.wants.len() >= max {
            return;
        }
        let want = Want { holders: vec![holder.clone()], asked: None, attempts: 0 };
        self.wants.insert(id, want);
        match coming {
            Some(deadline) => self.note_asked(id, holder.clone(), deadline),
            None => self.unasked.push_back(id),
        }
    }

    fn note_asked(&mut self, id: EntryId, peer: NodeId, deadline: Instant) {
        if let Some(want) = self.wants.get_mut(&id) {
            *self.in_flight.entry(peer.clone()).or_default() += 1;
            want.asked = Some((peer, deadline));
            want.attempts += 1;
            self.deadlines.insert((deadline, id));
        }
    }

    fn note_unasked(&mut self, id: EntryId) -> Option<NodeId> {
        let (peer, deadline) = self.wants.get_mut(&id)?.asked.take()?;
        self.deadlines.remove(&(deadline, id));
        if let Some(count) = self.in_flight.get_mut(&peer) {
            *count = count.saturating_sub(1);
        }
        Some(peer)
    }

    /// It came, or is not to be had.
    pub(super) fn remove(&mut self, id: &EntryId) {
        self.note_unasked(*id);
        self.wants.remove(id);
    }

    /// A peer is gone: what it was asked for is asked of others.
    pub(super) fn lose(&mut self, peer: &NodeId) {
        let of_peer: Vec<EntryId> =
            self.wants.iter().filter(|(_, want)| want.holders.contains(peer)).map(|(id, _)| *id).collect();
        of_peer.iter().for_each(|id| self.lose_holder(id, peer));
        self.in_flight.remove(peer);
    }

    /// A peer doesn't have it after all.
    fn lose_holder(&mut self, id: &EntryId, peer: &NodeId) {
        let was_asked = self.was_asked(id, peer);
        if was_asked {
            self.note_unasked(*id);
        }
        let Some(want) = self.wants.get_mut(id) else { return };
        want.holders.retain(|holder| holder != peer);
        if want.holders.is_empty() {
            self.remove(id);
        } else if was_asked {
            self.unasked.push_back(*id);
        }
    }
}

impl Replica {
    /// Wants an entry of a peer, unless it is held or on its way.
    pub(super) fn want(&mut self, id: EntryId, holder: &NodeId, coming: bool) {
        let deadline = self.now.at + self.config.want_timeout;
        let coming = coming.then_some(deadline);
        self.wants.add(id, holder, coming, self.config.wants_max);
    }

    /// Asks for what is wanted, each entry of one peer that has room.
    pub(super) fn ask(&mut self) {
        let mut asked: BTreeMap<NodeId, Vec<EntryId>> = BTreeMap::new();
        let mut waiting = VecDeque::new();
        for _ in 0..self.wants.unasked.len().min(ASKED_AT_ONCE) {
            let Some(id) = self.wants.unasked.pop_front() else { break };
            let Some(want) = self.wants.wants.get(&id).filter(|want| want.asked.is_none()) else { continue };
            let count = want.holders.len();
            // Another one each time.
            let mut holders = (0..count).map(|at| &want.holders[(at + want.attempts as usize) % count]);
            let room = |holder: &&NodeId| {
                let in_flight = self.wants.in_flight.get(*holder).copied().unwrap_or(0);
                in_flight < self.config.wants_per_peer_max
                    && self.peers.get(*holder).is_some_and(|peer| peer.connected)
            };
            match holders.find(room).cloned() {
                Some(holder) => {
                    let deadline = self.now.at + self.config.want_timeout;
                    self.wants.note_asked(id, holder.clone(), deadline);
                    asked.entry(holder).or_default().push(id);
                }
                None => waiting.push_back(id),
            }
        }
        while let Some(id) = waiting.pop_back() {
            self.wants.unasked.push_front(id);
        }
        for (peer, ids) in asked {
            for ids in ids.chunks(NAMES_AT_ONCE) {
                self.send(&peer, Message::Want(ids.to_vec()));
            }
        }
    }

    pub(super) fn expire_wants(&mut self) {
        while let Some((deadline, id)) = self.wants.deadlines.first().copied() {
            if deadline > self.now.at {
                break;
            }
            self.wants.note_unasked(id);
            let attempts = self.wants.wants.get(&id).map_or(0, |want| want.attempts);
            if self.planted.has(PlantedBug::ForgetWant) {
                self.wants.remove(&id);
                self.intake.note_settled(id);
            } else if attempts >= self.config.want_attempts_max {
                self.wants.remove(&id);
            } else {
                self.wants.unasked.push_back(id);
            }
        }
    }

    pub(super) fn on_unknown(&mut self, peer: &NodeId, ids: &[EntryId]) {
        ids.iter().for_each(|id| self.wants.lose_holder(id, peer));
    }

    /// What a peer has pruned need not be there as a parent. Only what it was asked for counts.
    pub(super) fn on_boundary(&mut self, peer: &NodeId, ids: &[EntryId]) {
        for id in ids {
            if self.wants.was_asked(id, peer) {
                self.wants.remove(id);
                self.intake.note_settled(*id);
                self.note_boundary(*id);
            }
        }
        self.advance_all();
    }
}
