//! Forgetting what everybody has: confirmations, prunes, and who holds them up.
//!
//! A replica tells its peers up to which number it holds each author's entries. What all active peers have confirmed
//! may go. A prune is an entry like any other, in the collection [`PRUNE_COLLECTION`], signed by an author whose
//! prunes are obeyed. It lists a watermark for each author, those of earlier prunes included, so that the newest one
//! is enough. Each replica that commits it removes what is at or below the watermarks, and refuses it from then on,
//! whoever brings it. The order to do so is durable together with the prune itself.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{Instant, NodeId, WallTime};

use super::{Message, Purpose, Replica, SyncEvent, Work, open};
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, Collection, Draft, Entry, Kind},
    planted::PlantedBug,
    store::Head,
};

/// The collection of prunes. Its documents are named after their authors.
pub const PRUNE_COLLECTION: &str = "mesh.prune";
/// Authors in one message or read.
const AUTHORS_AT_ONCE: usize = 1024;
/// Looks after which all is confirmed again, since messages may be lost.
const FULL_EVERY: u64 = 6;

pub(super) struct Retirement {
    /// What is pruned here.
    pruned: BTreeMap<AuthorId, AuthorSequence>,
    /// What prunes ask for.
    ordered: BTreeMap<AuthorId, AuthorSequence>,
    /// Parents that need not be there, to be written.
    pub(super) boundary: Vec<EntryId>,
    /// What is held of each author, and since which look.
    heads: BTreeMap<AuthorId, (AuthorSequence, u64)>,
    look: u64,
    next_look: Instant,
    pub(super) reading: bool,
}

impl Retirement {
    pub(super) fn new(
        now: Instant,
        pruned: BTreeMap<AuthorId, AuthorSequence>,
        ordered: BTreeMap<AuthorId, AuthorSequence>,
    ) -> Self {
        Self {
            pruned,
            ordered,
            boundary: Vec::new(),
            heads: BTreeMap::new(),
            look: 0,
            next_look: now,
            reading: false,
        }
    }

    pub(super) fn watermark(&self, author: &AuthorId) -> Option<AuthorSequence> {
        self.pruned.get(author).copied()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        if self.pruned.is_empty() {
            return [0; 32];
        }
        blake3::derive_key("mesh-sync prune digest v1", &open::encode_watermarks(&self.pruned))
    }

    fn outstanding(&self) -> Vec<(AuthorId, AuthorSequence)> {
        let above = self.ordered.iter().filter(|(author, sequence)| self.pruned.get(author) < Some(sequence));
        above.map(|(author, sequence)| (*author, *sequence)).collect()
    }
}

/// A prune that may be signed and submitted.
#[derive(Clone, Debug)]
pub struct PruneDraft {
    /// The entry to sign, by the author that it was asked for.
    pub draft: Draft,
    /// What it asks for, beyond earlier prunes.
    pub watermarks: Vec<(AuthorId, AuthorSequence)>,
    /// Peers that hold more of it up.
    pub held_up_by: Vec<NodeId>,
}

/// Says how far an author's entries may go, by what they are worth.
///
/// What was overwritten is worth nothing; a tombstone is kept for a time. What is to go ends before the first entry
/// that is still of use.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    now: WallTime,
    tombstones: Duration,
}

impl Retention {
    /// Looks at entries as of `now`; tombstones are kept for `tombstones`.
    pub const fn new(now: WallTime, tombstones: Duration) -> Self {
        Self { now, tombstones }
    }

    /// The number up to which entries may go. `entries` are those of one author in the order of their numbers, from
    /// the first that is there; `is_last_write` tells whether one is the last write to its document.
    pub fn watermark<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
        mut is_last_write: impl FnMut(&Entry) -> bool,
    ) -> Option<AuthorSequence> {
        let mut spent = |entry: &Entry| {
            let age = self.now.0.saturating_sub(entry.hlc().wall().0);
            let old = Duration::from_millis(age) >= self.tombstones;
            !is_last_write(entry) || (entry.kind() == Kind::Delete && old)
        };
        // An author may have given one number to several entries: they go together or not at all.
        let (mut below, mut current) = (None, None);
        for entry in entries {
            if current != Some(entry.sequence()) {
                (below, current) = (current, Some(entry.sequence()));
            }
            if !spent(entry) {
                return below;
            }
        }
        current
    }
}

impl Replica {
    /// Up to which number all active peers, and this one, hold an author's entries.
    pub fn confirmed(&self, author: &AuthorId) -> AuthorSequence {
        let own = self.retirement.heads.get(author).map_or(AuthorSequence(0), |(sequence, _)| *sequence);
        let active = self.peers.values().filter(|peer| peer.active);
        let theirs = active.map(|peer| peer.confirmed.get(author).copied().unwrap_or_default());
        theirs.fold(own, AuthorSequence::min)
    }

    /// A prune up to `wanted`, as far as it is confirmed; `None` if it would change nothing. Let `author` sign it,
    /// one of those whose prunes are obeyed, and submit it.
    pub fn prune_draft(
        &self,
        author: &AuthorId,
        wanted: &[(AuthorId, AuthorSequence)],
    ) -> Option<PruneDraft> {
        let mut all = self.retirement.pruned.clone();
        for (author, sequence) in &self.retirement.ordered {
            let own = all.entry(*author).or_default();
            *own = (*own).max(*sequence);
        }
        let (mut watermarks, mut held_up_by) = (Vec::new(), std::collections::BTreeSet::new());
        for (of, sequence) in wanted {
            let confirmed = self.confirmed(of);
            let confirmed =
                if self.planted.has(PlantedBug::PruneUnconfirmed) { *sequence } else { confirmed };
            if confirmed < *sequence {
                let behind = |peer: &&super::peer::Peer| {
                    peer.active && peer.confirmed.get(of).copied().unwrap_or_default() < *sequence
                };
                let names = self.peers.iter().filter(|(_, peer)| behind(peer)).map(|(name, _)| name.clone());
                held_up_by.extend(names);
            }
            let sequence = confirmed.min(*sequence);
            let own = all.entry(*of).or_default();
            if sequence > *own {
                *own = sequence;
                watermarks.push((*of, sequence));
            }
        }
        if watermarks.is_empty() {
            return None;
        }
        all.retain(|_, sequence| *sequence >= AuthorSequence::FIRST);
        let collection = Collection::new(PRUNE_COLLECTION).expect("it is a valid name");
        let draft = Draft::put(&collection, author.as_bytes().to_vec(), open::encode_watermarks(&all));
        Some(PruneDraft { draft, watermarks, held_up_by: held_up_by.into_iter().collect() })
    }

    /// Retention as the settings say.
    pub fn retention(&self, now: WallTime) -> Retention {
        let keep = self.config.tombstone_retention;
        let too_soon = self.planted.has(PlantedBug::TombstoneTooSoon);
        Retention::new(now, if too_soon { Duration::ZERO } else { keep })
    }

    /// An entry that is about to be committed may be a prune; its order becomes durable with it.
    pub(super) fn note_prune(&mut self, entry: &Entry) {
        if entry.collection().as_str() != PRUNE_COLLECTION
            || entry.kind() != Kind::Put
            || !self.pruners.contains(&entry.author())
            || self.planted.has(PlantedBug::IgnorePrune)
        {
            return;
        }
        // One that can't be read orders nothing.
        for (author, mut sequence) in open::decode_watermarks(&entry.payload()).unwrap_or_default() {
            if author == entry.author() {
                // A prune never removes itself.
                sequence = sequence.min(AuthorSequence(entry.sequence().0 - 1));
            }
            let ordered = self.retirement.ordered.entry(author).or_default();
            *ordered = (*ordered).max(sequence);
        }
        self.metadata.push(open::prune_write(&self.retirement.ordered));
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn forget_orders(&mut self) {
        self.retirement.ordered.clear();
    }

    /// A parent that need not be there, if somebody waits for it.
    pub(super) fn note_boundary(&mut self, parent: EntryId) {
        if self.has_children(&parent) {
            self.retirement.boundary.push(parent);
        }
    }

    pub(super) fn start_prune(&mut self) -> bool {
        let watermarks = self.retirement.outstanding();
        if watermarks.is_empty() && self.retirement.boundary.is_empty() {
            return false;
        }
        let boundary = std::mem::take(&mut self.retirement.boundary);
        let work = Work::Prune { watermarks: watermarks.clone(), boundary: boundary.clone() };
        self.start(work, Purpose::Prune { boundary, watermarks });
        true
    }

    pub(super) fn on_removed(
        &mut self,
        boundary: &[EntryId],
        watermarks: Vec<(AuthorId, AuthorSequence)>,
        removed: &[Item],
    ) {
        for item in removed {
            self.index.remove(item);
            self.intake.note_settled(item.id);
        }
        self.retirement.pruned.extend(watermarks.iter().copied());
        if !watermarks.is_empty() {
            // The store has dropped it.
            self.checkpoint = 0;
            let removed = removed.len() as u64;
            self.out.events.push_back(SyncEvent::Pruned { removed, watermarks });
        }
        let gone: Vec<EntryId> = removed.iter().map(|item| item.id).chain(boundary.iter().copied()).collect();
        self.release_children(&gone);
        self.advance_all();
    }

    /// With each heartbeat: tells peers how we stand, and looks who is behind.
    pub(super) fn beat(&mut self) {
        if self.now.at >= self.retirement.next_look && !self.retirement.reading {
            self.retirement.next_look = self.now.at + self.config.confirm_interval;
            self.retirement.reading = true;
            self.retirement.look += 1;
            let work = Work::Vector { after: None, limit: AUTHORS_AT_ONCE };
            self.start(work, Purpose::Vector);
        }
        let peers: Vec<NodeId> = self.peers.keys().cloned().collect();
        for peer in peers {
            self.send_heartbeat(&peer);
            self.give_later(&peer);
            self.look_at_lag(&peer);
        }
    }

    pub(super) fn send_heartbeat(&mut self, peer: &NodeId) {
        let root = self.index.root();
        let Some(followed) = self.peers.get(peer).map(|peer| peer.follow.durable) else { return };
        self.send(peer, Message::Heartbeat { root, followed });
    }

    pub(super) fn look_at_lag(&mut self, name: &NodeId) {
        let (now, arrival) = (self.now.at, self.index.root().arrival);
        let Some(peer) = self.peers.get_mut(name) else { return };
        let caught_up = peer.connected && (peer.in_sync || peer.followed == Some(arrival));
        if caught_up || !peer.active {
            peer.behind_since = None;
            if std::mem::take(&mut peer.lagging) {
                self.out.events.push_back(SyncEvent::PeerCaughtUp { peer: name.clone() });
            }
            return;
        }
        let behind = now.since(*peer.behind_since.get_or_insert(now));
        if behind >= self.config.lag_limit && !std::mem::replace(&mut peer.lagging, true) {
            self.out.events.push_back(SyncEvent::PeerLagging { peer: name.clone(), behind });
        }
    }

    pub(super) fn on_vector(&mut self, page: Vec<(AuthorId, Head)>) {
        let look = self.retirement.look;
        for (author, head) in &page {
            let held = self.retirement.heads.entry(*author).or_insert((AuthorSequence(0), 0));
            if held.0 != head.contiguous {
                *held = (head.contiguous, look);
            }
        }
        if let Some((last, _)) = page.last().filter(|_| page.len() >= AUTHORS_AT_ONCE) {
            let work = Work::Vector { after: Some(*last), limit: AUTHORS_AT_ONCE };
            self.start(work, Purpose::Vector);
            return;
        }
        self.retirement.reading = false;
        for peer in self.connected() {
            self.send_confirm(&peer);
        }
    }

    /// Confirms what has changed since the last time; everything on a new connection and every few looks.
    pub(super) fn send_confirm(&mut self, peer: &NodeId) {
        let look = self.retirement.look;
        let Some(sent) = self.peers.get(peer).map(|peer| peer.confirm_sent) else { return };
        if look == 0 || self.retirement.reading {
            return;
        }
        let mut first = sent.is_none();
        let since = match sent {
            Some(sent) if !look.is_multiple_of(FULL_EVERY) => sent,
            _ => 0,
        };
        let news = self.retirement.heads.iter().filter(|(_, (_, at))| *at > since);
        let news: Vec<(AuthorId, AuthorSequence)> =
            news.map(|(author, (sequence, _))| (*author, *sequence)).collect();
        for heads in news.chunks(AUTHORS_AT_ONCE) {
            self.send(peer, Message::Confirm { first, heads: heads.to_vec() });
            first = false;
        }
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.confirm_sent = Some(look);
        }
    }

    pub(super) fn on_confirm(&mut self, peer: &NodeId, first: bool, heads: Vec<(AuthorId, AuthorSequence)>) {
        let max = self.config.confirmed_authors_max;
        let Some(sender) = self.peers.get_mut(peer) else { return };
        if first {
            sender.confirmed.clear();
        }
        sender.has_confirmed = true;
        for (author, sequence) in heads {
            if sender.confirmed.len() < max || sender.confirmed.contains_key(&author) {
                sender.confirmed.insert(author, sequence);
            }
        }
    }
}
