//! The way out: entries that a peer asked for, or was found to lack, within a window of unacknowledged bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use mesh_core::{Instant, NodeId};

use super::{Message, Purpose, Replica, SyncEvent, Verdict, Work, message::LIST_MAX};
use crate::{
    EntryId, Item,
    planted::PlantedBug,
    reconcile::{Arrival as Cursor, Bulk},
    store::{PrunedEntry, ScanLimit, Stored},
};

/// Bytes of entries in one message, unless one entry is larger.
const FRAME_BYTES: usize = 256 << 10;
/// Entries in one message.
const FRAME_ENTRIES: usize = 512;
/// Entries that are sent to see whether a peer has room again.
const PROBE_ENTRIES: usize = 64;
const _: () = assert!(FRAME_ENTRIES <= LIST_MAX, "what is sent can be read");

struct Sent {
    ids: Vec<EntryId>,
    bytes: usize,
    deadline: Instant,
}

/// A stretch of the store that is streamed. Where it goes on is the key to resume it from: a peer that was cut off
/// compares again, and the stretch that is found then begins behind what it got.
struct Stretch {
    from: Bound<Item>,
    until: Option<Item>,
    except: Vec<EntryId>,
}

/// What one peer is to get.
#[derive(Default)]
pub(super) struct Give {
    /// What it asked for, and what has to be sent again; before everything else.
    pub(super) asked: VecDeque<EntryId>,
    /// What it was found to lack, in order.
    items: VecDeque<Item>,
    /// Stretches of our set, in order and apart from `items`.
    stretches: VecDeque<Stretch>,
    /// What it had no room for. Nothing else of the plan is sent before, or all of it would end here.
    later: VecDeque<EntryId>,
    /// Its last answer was that it has no room; tried again with the next heartbeat.
    full: bool,
    reading: bool,
    pub(super) paging: bool,
    /// Where our arrivals stood when the page was asked for.
    pub(super) paged_until: u64,
    looking: bool,
    unacked: BTreeMap<u64, Sent>,
    unacked_bytes: usize,
    pub(super) batch: u64,
    losses: u32,
    pub(super) stalled: bool,
    /// Where our arrivals stood when the difference was found, and whether all of it was stored so far.
    caught: Option<(Cursor, bool)>,
    fresh_until: Instant,
}

impl Give {
    pub(super) fn is_idle(&self) -> bool {
        self.has_given_all() && self.asked.is_empty()
    }

    fn has_given_all(&self) -> bool {
        self.items.is_empty()
            && self.stretches.is_empty()
            && self.asked.is_empty()
            && self.later.is_empty()
            && self.unacked.is_empty()
            && !self.reading
    }

    /// Whether it is getting what a comparison has found, or has just got it. Another comparison would find the same.
    ///
    /// What is unacknowledged counts for a time only, so that other traffic doesn't put off comparisons for ever.
    pub(super) fn has_plan(&self, now: Instant) -> bool {
        let is_fresh = self.caught.is_some() && now < self.fresh_until;
        is_fresh || !self.items.is_empty() || !self.stretches.is_empty()
    }

    pub(super) fn room(&self, max: usize) -> usize {
        max.saturating_sub(self.asked.len())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.unacked.values().map(|sent| sent.deadline).min()
    }

    /// Gives what a comparison has found.
    pub(super) fn plan(
        &mut self,
        fresh_until: Instant,
        give: Vec<Item>,
        bulk: Vec<Bulk>,
        caught: Option<Cursor>,
    ) {
        self.fresh_until = fresh_until;
        self.items = give.into();
        let stretch =
            |bulk: Bulk| Stretch { from: Bound::Included(bulk.from), until: bulk.until, except: bulk.except };
        self.stretches = bulk.into_iter().map(stretch).collect();
        self.caught = caught.map(|cursor| (cursor, true));
    }

    fn drop_all(&mut self) {
        let (batch, paging, looking) = (self.batch, self.paging, self.looking);
        *self = Self { batch, paging, looking, reading: self.reading, ..Self::default() };
    }

    /// The stretch that comes before the next item, if one does.
    fn next_stretch(&self) -> Option<&Stretch> {
        let stretch = self.stretches.front()?;
        let from = match &stretch.from {
            Bound::Included(item) | Bound::Excluded(item) => item,
            Bound::Unbounded => return Some(stretch),
        };
        self.items.front().is_none_or(|item| from <= item).then_some(stretch)
    }

    fn next_later(&mut self, max: usize) -> Vec<EntryId> {
        self.later.drain(..self.later.len().min(max)).collect()
    }

    fn next_items(&mut self) -> Vec<EntryId> {
        let from = self.stretches.front().and_then(|stretch| match stretch.from {
            Bound::Included(item) | Bound::Excluded(item) => Some(item),
            Bound::Unbounded => None,
        });
        let before =
            self.items.iter().take(FRAME_ENTRIES).take_while(|item| from.is_none_or(|from| **item < from));
        let count = before.count();
        self.items.drain(..count).map(|item| item.id).collect()
    }
}

impl Replica {
    /// Starts the next read for a peer, if its window has room.
    pub(super) fn give(&mut self, peer: &NodeId) {
        let window = self.config.window_bytes;
        let Some(taker) = self.peers.get_mut(peer) else { return };
        let (connection, give) = (taker.connection, &mut taker.give);
        if give.has_given_all()
            && let Some((cursor, clean)) = give.caught.take()
        {
            if clean {
                self.send(peer, Message::Caught(cursor));
            }
            return;
        }
        if give.stalled || give.reading || give.unacked_bytes >= window {
            return;
        }
        let mut ids: Vec<EntryId> = give.asked.drain(..give.asked.len().min(FRAME_ENTRIES)).collect();
        if ids.is_empty() && !give.full && !give.later.is_empty() {
            ids = give.next_later(FRAME_ENTRIES);
        } else if ids.is_empty() && give.later.is_empty() {
            if let Some(stretch) = give.next_stretch() {
                let limit = ScanLimit { entries: FRAME_ENTRIES, bytes: FRAME_BYTES };
                let from = stretch.from;
                give.reading = true;
                self.start(Work::Scan { from, limit }, Purpose::GiveScan { peer: peer.clone(), connection });
                return;
            }
            ids = give.next_items();
        }
        if !ids.is_empty() {
            give.reading = true;
            let work = Work::Read { ids: ids.clone(), bytes_max: FRAME_BYTES };
            self.start(work, Purpose::GiveRead { peer: peer.clone(), connection, ids });
        }
    }

    pub(super) fn on_read(&mut self, peer: &NodeId, ids: Vec<EntryId>, found: Vec<Option<Stored>>) {
        let Some(taker) = self.peers.get_mut(peer) else { return };
        taker.give.reading = false;
        if !taker.connected {
            return;
        }
        let read = found.len().min(ids.len());
        // What did not fit comes next.
        for id in ids[read..].iter().rev() {
            taker.give.asked.push_front(*id);
        }
        self.send_entries(peer, found.into_iter().flatten().collect());
    }

    pub(super) fn on_scanned(&mut self, peer: &NodeId, found: Vec<Stored>) {
        let Some(taker) = self.peers.get_mut(peer) else { return };
        taker.give.reading = false;
        let Some(stretch) = taker.give.stretches.front_mut().filter(|_| taker.connected) else { return };
        let (until, count) = (stretch.until, found.len());
        let within = |stored: &Stored| until.is_none_or(|until| stored.entry.item() < until);
        let mut found: Vec<Stored> = found.into_iter().take_while(within).collect();
        match found.last() {
            Some(last) => stretch.from = Bound::Excluded(last.entry.item()),
            None => drop(taker.give.stretches.pop_front()),
        }
        if count > found.len() && !found.is_empty() {
            // It ended within what was read.
            let ended = taker.give.stretches.pop_front();
            let except = ended.map(|ended| ended.except).unwrap_or_default();
            found.retain(|stored| except.binary_search(&stored.entry.id()).is_err());
        } else if let Some(stretch) = taker.give.stretches.front() {
            found.retain(|stored| stretch.except.binary_search(&stored.entry.id()).is_err());
        }
        self.send_entries(peer, found);
    }

    fn send_entries(&mut self, peer: &NodeId, found: Vec<Stored>) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for stored in found {
            let body = stored.entry.encoded().clone();
            if !entries.is_empty() && (bytes + body.len() > FRAME_BYTES || entries.len() >= FRAME_ENTRIES) {
                self.send_batch(peer, std::mem::take(&mut entries), std::mem::take(&mut bytes));
            }
            bytes += body.len();
            entries.push((stored.entry.id(), body));
        }
        if !entries.is_empty() {
            self.send_batch(peer, entries, bytes);
        }
    }

    fn send_batch(&mut self, peer: &NodeId, entries: Vec<(EntryId, bytes::Bytes)>, bytes: usize) {
        let deadline = self.now.at + self.config.ack_timeout;
        let Some(taker) = self.peers.get_mut(peer) else { return };
        let give = &mut taker.give;
        give.batch += 1;
        let batch = give.batch;
        let ids = entries.iter().map(|(id, _)| *id).collect();
        give.unacked.insert(batch, Sent { ids, bytes, deadline });
        give.unacked_bytes += bytes;
        self.send(peer, Message::Entries { batch, entries });
    }

    pub(super) fn on_ack(&mut self, peer: &NodeId, batch: u64, verdicts: &[Verdict]) {
        let Some(taker) = self.peers.get_mut(peer) else { return };
        let give = &mut taker.give;
        let Some(sent) = give.unacked.remove(&batch) else { return };
        give.unacked_bytes -= sent.bytes;
        give.losses = 0;
        // What was sent later is behind it on a slow way: it is not lost while the way moves.
        for (_, behind) in give.unacked.range_mut(batch..) {
            behind.deadline = behind.deadline.max(self.now.at + self.config.ack_timeout);
        }
        let all_held = verdicts.len() == sent.ids.len() && verdicts.iter().all(|verdict| verdict.is_held());
        if let Some((_, clean)) = &mut give.caught {
            *clean &= all_held;
        }
        let busy = sent.ids.iter().zip(verdicts).filter(|(_, verdict)| **verdict == Verdict::Busy);
        let before = give.later.len();
        give.later.extend(busy.map(|(id, _)| *id));
        give.full = give.later.len() > before;
    }

    /// With each heartbeat, some of what a peer had no room for is sent again, and more once that was taken.
    pub(super) fn give_later(&mut self, peer: &NodeId) {
        if let Some(taker) = self.peers.get_mut(peer)
            && taker.give.full
        {
            let some = taker.give.next_later(PROBE_ENTRIES);
            taker.give.asked.extend(some);
        }
    }

    /// What was not acknowledged in time was lost, and is sent again; a few times.
    pub(super) fn expire_gives(&mut self) {
        for peer in self.connected() {
            let Some(taker) = self.peers.get_mut(&peer) else { continue };
            let give = &mut taker.give;
            let late: Vec<u64> = give
                .unacked
                .iter()
                .filter(|(_, sent)| sent.deadline <= self.now.at)
                .map(|(batch, _)| *batch)
                .collect();
            if late.is_empty() {
                continue;
            }
            give.losses += 1;
            if give.losses > self.config.resends_max {
                give.drop_all();
                give.stalled = true;
                self.out.events.push_back(SyncEvent::PeerStalled { peer });
                continue;
            }
            for batch in late.into_iter().rev() {
                let Some(sent) = give.unacked.remove(&batch) else { continue };
                give.unacked_bytes -= sent.bytes;
                if self.planted.has(PlantedBug::NeverResend) {
                    continue;
                }
                for id in sent.ids.into_iter().rev() {
                    give.asked.push_front(id);
                }
            }
        }
    }

    pub(super) fn give_up_on(&mut self, peer: &NodeId) {
        if let Some(taker) = self.peers.get_mut(peer) {
            taker.give.drop_all();
            taker.give.reading = false;
        }
    }

    pub(super) fn on_want(&mut self, peer: &NodeId, ids: Vec<EntryId>) {
        let (held, absent): (Vec<EntryId>, Vec<EntryId>) =
            ids.into_iter().partition(|id| self.held(id).is_some());
        let max = self.config.give_entries_max;
        let Some(taker) = self.peers.get_mut(peer) else { return };
        let room = taker.give.room(max);
        taker.give.asked.extend(held.into_iter().take(room));
        // One look at a time; who gets no answer asks again.
        if !absent.is_empty() && !std::mem::replace(&mut taker.give.looking, true) {
            self.start(Work::Pruned(absent.clone()), Purpose::Boundary { peer: peer.clone(), ids: absent });
        }
    }

    pub(super) fn tell_absent(&mut self, peer: &NodeId, ids: &[EntryId], mut pruned: Vec<PrunedEntry>) {
        if let Some(taker) = self.peers.get_mut(peer) {
            taker.give.looking = false;
        }
        pruned.sort_unstable();
        let was_pruned = |id: &EntryId| pruned.binary_search_by(|pruned| pruned.id.cmp(id)).is_ok();
        // What came in since is neither.
        let unknown = ids.iter().filter(|id| !was_pruned(id) && self.held(id).is_none());
        let unknown: Vec<EntryId> = unknown.copied().collect();
        if !pruned.is_empty() {
            self.show_orders(peer);
            self.send(peer, Message::PrunedBoundary(pruned));
        }
        if !unknown.is_empty() {
            self.send(peer, Message::Unknown(unknown));
        }
    }
}
