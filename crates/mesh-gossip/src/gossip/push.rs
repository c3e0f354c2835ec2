//! Changes flow along the overlay at once: a flood with duplicate suppression.
//!
//! Changes wait a few milliseconds for others to share their packet. A peer from
//! whom the same change arrives in that time is not sent it back. User
//! broadcasts have a share of each flush, behind membership.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{InstanceId, Instant, NodeId};

use super::Gossip;
use crate::{
    event::Event,
    planted::PlantedBug,
    wire::{self, CommandError, MetadataDelta, Packet},
};

/// Updates in one packet. Larger floods are split.
const UPDATES_PER_PACKET: usize = 256;
/// Metadata changes that wait for one peer; older ones are left to repair.
const DELTAS_MAX: usize = 256;
/// User payload bytes in one flush.
const BROADCAST_BYTES_PER_FLUSH: usize = 32 * 1024;
/// Payload bytes of one packet of broadcasts.
const BROADCAST_BYTES_PER_PACKET: usize = 64 * 1024;
/// Between two floods of one node, in flush intervals.
const DISTANCE: u32 = 6;
/// How many times that again a starved node waits.
const STRETCH_MAX: u32 = 3;
/// Push links that must be up, as a share, before the others are spared.
const PUSH_LINKS_UP_MIN: f64 = 0.5;

/// One member whose newest word waits to be pushed.
#[derive(Clone, Debug)]
struct Item {
    full: bool,
    /// When the change was made, on our clock.
    born: Instant,
    /// Who told us this word, and need not hear it from us.
    heard_from: Vec<NodeId>,
}

/// An item as it goes on the wire.
struct Encoded {
    subject: NodeId,
    heard_from: Vec<NodeId>,
    /// A member need not hear what it said itself, but a claim against it is for its own ears.
    for_itself: bool,
    bytes: Vec<u8>,
}

impl Encoded {
    fn is_for(&self, peer: &NodeId) -> bool {
        (self.for_itself || *peer != self.subject) && !self.heard_from.contains(peer)
    }
}

#[derive(Clone, Debug)]
struct WaitingBroadcast {
    message: wire::Broadcast,
    except: Option<NodeId>,
}

/// Broadcast sequences of one run that were seen: the newest and the 128 before it.
#[derive(Clone, Debug, Default)]
struct Seen {
    newest: u64,
    before: u128,
}

impl Seen {
    /// Notes a sequence; false if it was seen, or is too old to tell.
    fn note(&mut self, sequence: u64) -> bool {
        if sequence > self.newest {
            let step = sequence - self.newest;
            self.before = if step > 128 { 0 } else { (self.before << (step - 1) << 1) | (1 << (step - 1)) };
            self.newest = sequence;
            return true;
        }
        let back = self.newest - sequence;
        if back == 0 || back > 128 {
            return false;
        }
        let bit = 1u128 << (back - 1);
        let new = self.before & bit == 0;
        self.before |= bit;
        new
    }
}

/// What waits to be pushed.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By the member that they are about. Whom they go to is seen as they go.
    updates: BTreeMap<NodeId, Item>,
    deltas: BTreeMap<NodeId, VecDeque<MetadataDelta>>,
    broadcasts: VecDeque<WaitingBroadcast>,
    wants: BTreeMap<NodeId, BTreeSet<NodeId>>,
    seen: BTreeMap<(NodeId, InstanceId), Seen>,
    due: Option<Instant>,
    /// When changes were last sent: the next ones keep their distance.
    flushed_at: Option<Instant>,
}

impl Outbox {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn len(&self) -> usize {
        self.updates.len()
            + self.deltas.values().map(VecDeque::len).sum::<usize>()
            + self.wants.values().map(BTreeSet::len).sum::<usize>()
            + self.broadcasts.len()
    }

    pub(super) fn link_up(&mut self, peer: &NodeId) {
        self.link_down(peer);
    }

    pub(super) fn link_down(&mut self, peer: &NodeId) {
        self.deltas.remove(peer);
        self.wants.remove(peer);
    }

    /// `peer` has just told us the same about `node_id`: it need not hear it from us.
    pub(super) fn heard(&mut self, peer: &NodeId, node_id: &NodeId) {
        if let Some(item) = self.updates.get_mut(node_id)
            && !item.heard_from.contains(peer)
        {
            item.heard_from.push(peer.clone());
        }
    }

    pub(super) fn heard_delta(&mut self, peer: &NodeId, node_id: &NodeId, version: u64) {
        if let Some(deltas) = self.deltas.get_mut(peer) {
            deltas.retain(|d| d.node_id != node_id.as_str() || d.version != version);
        }
    }

    /// Wakes after the flush interval, or later if changes were sent just before: one change is quick, and
    /// when a whole cluster starts or heals, fewer and larger packets are what keeps it quick.
    fn wake_after(&mut self, now: Instant, interval: Duration) {
        let rested = self.flushed_at.map_or(now, |at| at + interval * DISTANCE);
        self.wake((now + interval).max(rested));
    }

    fn wake(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

impl Gossip {
    /// The peers that changes are pushed to: those on the push rings, or all while the overlay is young.
    fn push_peers(&self, now: Instant) -> Vec<NodeId> {
        let on_rings = self.links.peers().filter(|p| self.overlay.push.contains(*p)).count();
        let enough = on_rings as f64 >= self.overlay.push.len() as f64 * PUSH_LINKS_UP_MIN;
        if !enough || on_rings == 0 {
            return self.links.peers().cloned().collect();
        }
        let mut peers: Vec<NodeId> =
            self.links.peers().filter(|p| self.overlay.push.contains(*p)).cloned().collect();
        peers.extend(self.links.bridges(now).filter(|p| !self.overlay.push.contains(*p)).cloned());
        peers
    }

    /// Passes on the newest word about a member. `age_us` is how old the change is.
    pub(super) fn push(
        &mut self,
        now: Instant,
        node_id: &NodeId,
        full: bool,
        except: Option<&NodeId>,
        age_us: u64,
    ) {
        let age = Duration::from_micros(age_us);
        if except.is_some() {
            self.counters.propagation.observe(age);
        }
        let heard_from = except.into_iter().cloned().collect();
        let full = full || self.outbox.updates.get(node_id).is_some_and(|item| item.full);
        self.outbox.updates.insert(node_id.clone(), Item { full, born: now - age, heard_from });
        self.outbox.wake_after(now, self.push_interval());
    }

    /// How long a change waits for others. Who is starved sends fewer and larger packets.
    fn push_interval(&self) -> Duration {
        self.config.push_flush * (1 + self.prober.lateness().min(STRETCH_MAX))
    }

    pub(super) fn push_delta(&mut self, now: Instant, delta: MetadataDelta, except: Option<&NodeId>) {
        for peer in self.push_peers(now) {
            if Some(&peer) == except || peer.as_str() == delta.node_id {
                continue;
            }
            let deltas = self.outbox.deltas.entry(peer).or_default();
            if deltas.len() >= DELTAS_MAX {
                // The receiver notices the gap by the version and asks for the whole.
                deltas.pop_front();
            }
            deltas.push_back(delta.clone());
        }
        self.outbox.wake_after(now, self.push_interval());
    }

    /// Asks `from` for the whole record of a member with the next flush.
    pub(super) fn want(&mut self, from: &NodeId, node_id: &NodeId) {
        const WANTS_MAX: usize = 4096;
        let wants = self.outbox.wants.entry(from.clone()).or_default();
        if wants.len() < WANTS_MAX {
            wants.insert(node_id.clone());
        }
        // Flushed with whatever comes next; at the latest by the tick.
        let tick = self.tick_due;
        self.outbox.wake(tick);
    }

    pub(super) fn broadcast(&mut self, now: Instant, payload: Bytes) -> Result<(), CommandError> {
        let (bytes, bytes_max) = (payload.len(), self.config.broadcast_bytes_max);
        if bytes > bytes_max {
            return Err(CommandError::BroadcastTooLarge { bytes, bytes_max });
        }
        let queue_max = self.config.broadcast_queue_max;
        if self.outbox.broadcasts.len() >= queue_max {
            return Err(CommandError::BroadcastQueueFull(queue_max));
        }
        self.local.broadcast_sequence += 1;
        let message = wire::plain::Broadcast {
            origin: self.local.node_id().to_string(),
            instance: self.local.instance().0,
            sequence: self.local.broadcast_sequence,
            payload,
        };
        self.outbox.broadcasts.push_back(WaitingBroadcast { message: message.into(), except: None });
        self.outbox.wake_after(now, self.push_interval());
        Ok(())
    }

    pub(super) fn take_broadcast(&mut self, now: Instant, from: &NodeId, message: wire::Broadcast) {
        let known = message.origin.parse::<NodeId>().ok().filter(|o| {
            *o != *self.local.node_id()
                && self.table.get(o).is_some_and(|r| r.member.instance.0 == message.instance)
        });
        let Some(origin) = known else { return };
        if message.payload.len() > self.config.broadcast_bytes_max || !message.is_bounded() {
            self.counters.refused_malformed += 1;
            return;
        }
        let repeats = self.has_bug(PlantedBug::RepeatBroadcasts);
        let seen = self.outbox.seen.entry((origin.clone(), InstanceId(message.instance))).or_default();
        if !seen.note(message.sequence) && !repeats {
            self.counters.duplicates += 1;
            return;
        }
        self.counters.broadcasts_delivered += 1;
        self.emit(Event::Broadcast { from: origin, payload: message.payload.clone() });
        // A full queue stops the relay here; the other paths of the flood go on.
        if self.outbox.broadcasts.len() < self.config.broadcast_queue_max {
            self.outbox.broadcasts.push_back(WaitingBroadcast { message, except: Some(from.clone()) });
            self.outbox.wake_after(now, self.push_interval());
        }
        if self.outbox.seen.len() > self.config.members_max * 2 {
            let table = &self.table;
            self.outbox
                .seen
                .retain(|(node, run), _| table.get(node).is_some_and(|r| r.member.instance == *run));
        }
    }

    /// Sends what waits, due or not.
    pub(super) fn flush_now(&mut self, now: Instant) {
        if self.outbox.due.is_some() {
            self.outbox.due = Some(now);
            self.flush(now);
        }
    }

    /// Sends what is due.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.outbox.due.is_none_or(|due| due > now) {
            return;
        }
        self.outbox.due = None;
        self.flush_updates(now);
        for (peer, deltas) in std::mem::take(&mut self.outbox.deltas) {
            if !deltas.is_empty() {
                self.transmit(&peer, Packet { deltas: deltas.into(), ..Packet::default() });
            }
        }
        for (peer, wants) in std::mem::take(&mut self.outbox.wants) {
            let wants = wants.iter().map(ToString::to_string).collect();
            let records = wire::SyncRecords { wants, ..wire::SyncRecords::default() };
            self.transmit(&peer, Packet { sync_records: Some(records), ..Packet::default() });
        }
        self.flush_broadcasts(now);
    }

    fn flush_updates(&mut self, now: Instant) {
        let items = std::mem::take(&mut self.outbox.updates);
        // Most peers are owed the same changes: each is encoded once for all of them.
        let encoded: Vec<Encoded> =
            items.into_iter().filter_map(|(node_id, item)| self.encode_item(now, node_id, item)).collect();
        if encoded.is_empty() {
            return;
        }
        self.outbox.flushed_at = Some(now);
        let head = wire::encode(&self.addressed(Packet::default()));
        for peer in self.push_peers(now) {
            let mine: Vec<&[u8]> =
                encoded.iter().filter(|item| item.is_for(&peer)).map(|item| &item.bytes[..]).collect();
            for page in pages(mine, |bytes| bytes.len()) {
                self.transmit_encoded(&peer, wire::with_updates(&head, &page));
            }
        }
    }

    fn encode_item(&self, now: Instant, subject: NodeId, item: Item) -> Option<Encoded> {
        let mut update = self.update_about(&subject, item.full)?;
        update.age_us = u64::try_from(now.since(item.born).as_micros()).unwrap_or(u64::MAX);
        let for_itself = update.challenged;
        Some(Encoded {
            subject,
            heard_from: item.heard_from,
            for_itself,
            bytes: wire::encode_update(&update),
        })
    }

    fn flush_broadcasts(&mut self, now: Instant) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.outbox.broadcasts.front() {
            bytes += next.message.payload.len();
            if !batch.is_empty() && bytes > BROADCAST_BYTES_PER_FLUSH {
                break;
            }
            batch.extend(self.outbox.broadcasts.pop_front());
        }
        if batch.is_empty() {
            return;
        }
        for peer in self.push_peers(now) {
            let mut broadcasts = Vec::new();
            let mut bytes = 0;
            for waiting in batch.iter().filter(|w| w.except.as_ref() != Some(&peer)) {
                bytes += waiting.message.payload.len();
                broadcasts.push(waiting.message.clone());
                if bytes > BROADCAST_BYTES_PER_PACKET {
                    self.transmit(
                        &peer,
                        Packet { broadcasts: std::mem::take(&mut broadcasts), ..Packet::default() },
                    );
                    bytes = 0;
                }
            }
            if !broadcasts.is_empty() {
                self.counters.broadcasts_sent += broadcasts.len() as u64;
                self.transmit(&peer, Packet { broadcasts, ..Packet::default() });
            }
        }
        if !self.outbox.broadcasts.is_empty() {
            self.outbox.wake_after(now, self.push_interval());
        }
    }
}

/// Splits updates so that each packet stays well below the payload limit.
pub(super) fn pages<T>(updates: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    const PAGE_BYTES: usize = 64 * 1024;
    let mut pages = Vec::new();
    let mut page = Vec::new();
    let mut bytes = 0;
    for update in updates {
        let size = bytes_of(&update) + 4;
        if !page.is_empty() && (bytes + size > PAGE_BYTES || page.len() >= UPDATES_PER_PACKET) {
            pages.push(std::mem::take(&mut page));
            bytes = 0;
        }
        bytes += size;
        page.push(update);
    }
    if !page.is_empty() {
        pages.push(page);
    }
    pages
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn each_sequence_is_new_once() {
        let mut seen = Seen::default();
        for sequence in [1, 2, 5, 3, 4, 200, 199, 100] {
            assert!(seen.note(sequence), "{sequence} is new");
            assert!(!seen.note(sequence), "{sequence} was seen");
        }
        assert!(!seen.note(3), "too old to tell");
        assert!(seen.note(330) && seen.note(250) && !seen.note(200));
    }

    #[test]
    fn pages_stay_below_the_limit_and_lose_nothing() {
        let entry = wire::Entry { key: "k".into(), value: "v".repeat(30_000) };
        let descriptor = wire::plain::Descriptor { entries: vec![entry], ..Default::default() };
        let update = wire::plain::Update { descriptor: Some(descriptor.into()), ..Default::default() };
        let split = pages(vec![wire::Update::from(update); 7], Message::encoded_len);
        assert_eq!(split.iter().map(Vec::len).sum::<usize>(), 7);
        assert!(split.iter().all(|p| p.len() <= 2));
        assert_eq!(pages(vec![wire::Update::default(); 600], Message::encoded_len).len(), 3);
    }
}
