//! Entries that are to be fetched, and whom they were asked of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{Instant, NodeId};

use super::{Message, Replica};
use crate::{EntryId, planted::PlantedBug, store::PrunedEntry};

/// Peers that are remembered as holders of a wanted entry.
const HOLDERS_MAX: usize = 4;
/// Wants by one peer that are looked at in one step.
const ASKED_AT_ONCE: usize = 4096;
/// So many of one peer that have to wait, and those behind them wait too.
const WAITING_SEEN: usize = 64;
/// Wants that came up by one peer have one of so many shares of the room, so that one who lists what there isn't
/// leaves room for others.
const SHARES: usize = 4;
/// Names in one message.
const NAMES_AT_ONCE: usize = 1024;

struct Want {
    /// By whom it came up.
    by: NodeId,
    holders: Vec<NodeId>,
    asked: Option<(NodeId, Instant)>,
    attempts: u32,
}

/// Bounded; what doesn't fit is learned of again.
#[derive(Default)]
pub(super) struct Wants {
    wants: BTreeMap<EntryId, Want>,
    deadlines: BTreeSet<(Instant, EntryId)>,
    /// By the peer by whom they came up, in that order, so parents first. May name some that are settled.
    unasked: BTreeMap<NodeId, VecDeque<EntryId>>,
    in_flight: BTreeMap<NodeId, usize>,
    /// How many came up by each peer.
    by_peer: BTreeMap<NodeId, usize>,
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
        let of_peer = self.by_peer.get(holder).copied().unwrap_or(0);
        if self.wants.len() >= max || of_peer >= max / SHARES {
            return;
        }
        self.by_peer.insert(holder.clone(), of_peer + 1);
        let want = Want { by: holder.clone(), holders: vec![holder.clone()], asked: None, attempts: 0 };
        self.wants.insert(id, want);
        match coming {
            Some(deadline) => self.note_asked(id, holder.clone(), deadline),
            None => self.note_waiting(id),
        }
    }

    fn note_waiting(&mut self, id: EntryId) {
        if let Some(want) = self.wants.get(&id) {
            self.unasked.entry(want.by.clone()).or_default().push_back(id);
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
        let Some(want) = self.wants.remove(id) else { return };
        if let Some(count) = self.by_peer.get_mut(&want.by) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&want.by);
            }
        }
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
            self.note_waiting(*id);
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
        // One who lists what it doesn't have is in nobody's way.
        for by in self.wants.unasked.keys().cloned().collect::<Vec<_>>() {
            self.ask_for(&by, &mut asked);
        }
        self.wants.unasked.retain(|_, ids| !ids.is_empty());
        for (peer, ids) in asked {
            for ids in ids.chunks(NAMES_AT_ONCE) {
                self.send(&peer, Message::Want(ids.to_vec()));
            }
        }
    }

    fn ask_for(&mut self, by: &NodeId, asked: &mut BTreeMap<NodeId, Vec<EntryId>>) {
        let Some(mut unasked) = self.wants.unasked.remove(by) else { return };
        let mut waiting = VecDeque::new();
        for _ in 0..unasked.len().min(ASKED_AT_ONCE) {
            if waiting.len() >= WAITING_SEEN {
                break;
            }
            let Some(id) = unasked.pop_front() else { break };
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
            unasked.push_front(id);
        }
        self.wants.unasked.insert(by.clone(), unasked);
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
                self.wants.note_waiting(id);
            }
        }
    }

    pub(super) fn on_unknown(&mut self, peer: &NodeId, ids: &[EntryId]) {
        ids.iter().for_each(|id| self.wants.lose_holder(id, peer));
    }

    /// What a peer has pruned need not be there as a parent, nor for the cursor in that peer's arrivals.
    ///
    /// It counts only for what the peer was asked for, and only below a watermark that is in force here: a peer alone
    /// can't make us do without anything. One that is not covered yet is asked for again after the next prune. Should
    /// the entry exist after all, it is taken from whoever has it, since it does not count as settled.
    pub(super) fn on_boundary(&mut self, peer: &NodeId, pruned: &[PrunedEntry]) {
        let mut dismissed = BTreeSet::new();
        for one in pruned {
            if !self.wants.was_asked(&one.id, peer) {
                continue;
            }
            if self.retirement.watermark(&one.author).is_some_and(|up_to| one.sequence <= up_to) {
                self.wants.remove(&one.id);
                self.note_boundary(*one);
                dismissed.insert(one.id);
            } else {
                self.wants.lose_holder(&one.id, peer);
            }
        }
        if let Some(sender) = self.peers.get_mut(peer) {
            sender.follow.dismiss(&dismissed);
        }
        self.advance(peer);
    }
}
