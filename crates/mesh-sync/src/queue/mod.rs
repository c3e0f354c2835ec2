//! What is to be sent to peers: bounded, without duplicates, and there again after a restart.
//!
//! The queue holds names; the entries are in the store. It belongs to one dataset and lives in the metadata of that
//! dataset's store. It is a plain value: time and randomness are passed in, and what is to be written comes out of
//! [`Queue::poll_write`].
//!
//! * **An entry is safe** once its ticket is reached ([`Queue::durable`]). Enqueueing never waits for a disk.
//! * **One delivery per peer** is under way. A crash forgets that, so a peer may get something twice; it drops by id
//!   what it has.
//! * **A failure counts** once all addresses of the peer have failed, one after the other without a pause. Then the
//!   peer is left alone for up to 1 s, 2 s, 4 s, … 64 s, uniformly at random.
//! * **A dead letter** is what failed too often, waited too long, or can't be delivered at all. It stays to be seen
//!   until it is requeued or dropped.
//! * **Full** means refused: nothing that waits makes way. What was refused reaches the peer by anti-entropy.

mod peer;
mod records;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Instant, NodeId, WallTime};

pub use self::types::{
    DeadLetter, DeadReason, Delivered, Delivery, Enqueued, Moment, QueueError, QueueLimits, QueueStats,
    SendFailure,
};
use self::{peer::Peer, records::Waiting};
use crate::{
    EntryId,
    state::{Journal, JournalTicket, Space, StateError, WriteBatch},
    store::EntryStore,
};

/// The queue of one dataset, for all its peers.
///
/// ```
/// use mesh_core::{Instant, NodeId, WallTime};
/// use mesh_sync::{EntryId, entry::DatasetId, store::{Creation, Datasets, MemoryStore, StoreIncarnation}};
/// use mesh_sync::queue::{Delivered, Enqueued, Moment, Queue, QueueLimits};
///
/// let notes = DatasetId::new("notes")?;
/// let store = MemoryStore::in_memory().open(&notes, Creation::new(&notes, StoreIncarnation(1)))?;
/// let at = Moment { now: Instant::ZERO, wall: WallTime(1_700_000_000_000) };
/// let mut queue = Queue::open(&*store, QueueLimits::default(), fastrand::Rng::with_seed(7), at)?;
///
/// let peer = NodeId::new("b")?;
/// queue.set_addresses(&peer, vec!["10.0.0.2:7000".into()])?;
/// let Enqueued::New(ticket) = queue.enqueue(&peer, EntryId([1; 32]), 400, at)? else { panic!("it is new") };
/// let batch = queue.poll_write().expect("a change");
/// store.write_metadata(&batch.writes)?;
/// queue.on_written(batch.ticket);
/// assert!(queue.durable() >= ticket);
///
/// let delivery = queue.poll_delivery(at, 256, 1 << 20).expect("it is due");
/// assert_eq!(delivery.address.as_deref(), Some("10.0.0.2:7000"));
/// queue.on_sent(&peer, vec![(EntryId([1; 32]), Delivered::Held)], at);
/// assert_eq!(queue.stats().entries, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    rng: fastrand::Rng,
    peers: BTreeMap<NodeId, Peer>,
    /// Whose turn was last.
    last_served: Option<NodeId>,
    entries: usize,
    bytes: u64,
    by_age: BTreeSet<(WallTime, NodeId, EntryId)>,
    next_sequence: u64,
    dead: BTreeMap<(NodeId, EntryId), (u64, DeadLetter)>,
    dead_order: BTreeMap<u64, (NodeId, EntryId)>,
    next_death: u64,
    dead_dropped: u64,
    journal: Journal,
}

impl Queue {
    /// Reads what waits. What was under way waits again; what failed before is tried after a pause.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the record that can't be read.
    pub fn open(
        store: &dyn EntryStore,
        limits: QueueLimits,
        rng: fastrand::Rng,
        at: Moment,
    ) -> Result<Self, StateError> {
        let mut queue = Self {
            limits,
            rng,
            peers: BTreeMap::new(),
            last_served: None,
            entries: 0,
            bytes: 0,
            by_age: BTreeSet::new(),
            next_sequence: 1,
            dead: BTreeMap::new(),
            dead_order: BTreeMap::new(),
            next_death: 0,
            dead_dropped: 0,
            journal: Journal::default(),
        };
        Space::QUEUE.load_by_peer(store, |peer, rest, value| {
            let (id, waiting) = (records::entry_of_key(rest)?, Waiting::decode(value)?);
            queue.next_sequence = queue.next_sequence.max(waiting.sequence.saturating_add(1));
            let pause = (waiting.attempts > 0).then(|| peer::backoff(waiting.attempts, &mut queue.rng));
            queue.place(&peer, id, waiting, pause.map(|pause| at.now + pause));
            Ok(())
        })?;
        let mut letters = Vec::new();
        Space::DEAD.load_by_peer(store, |peer, rest, value| {
            letters.push(records::decode_dead(peer, records::entry_of_key(rest)?, value)?);
            Ok(())
        })?;
        letters.sort_by_key(|letter| letter.died);
        letters.into_iter().for_each(|letter| queue.bury(letter));
        Ok(queue)
    }

    /// Says where a peer is, best first. New addresses end its pause.
    ///
    /// # Errors
    ///
    /// [`QueueError::Peers`].
    pub fn set_addresses(&mut self, peer: &NodeId, addresses: Vec<String>) -> Result<(), QueueError> {
        self.room_for_peer(peer)?;
        self.peers.entry(peer.clone()).or_default().set_addresses(addresses);
        Ok(())
    }

    /// Forgets a peer, all that waits for it and its dead letters.
    pub fn remove_peer(&mut self, peer: &NodeId) {
        let entries: Vec<_> = self.peers.get(peer).into_iter().flat_map(Peer::entries).collect();
        for (id, _) in entries {
            self.discard(peer, &id);
        }
        self.peers.remove(peer);
        let ids: Vec<_> =
            self.dead_letters().filter(|letter| letter.peer == *peer).map(|l| l.entry).collect();
        for id in ids {
            self.drop_dead_letter(peer, &id);
        }
    }

    /// Queues an entry of `bytes` for a peer.
    ///
    /// # Errors
    ///
    /// [`QueueError`]; nothing was changed.
    pub fn enqueue(
        &mut self,
        peer: &NodeId,
        id: EntryId,
        bytes: u64,
        at: Moment,
    ) -> Result<Enqueued, QueueError> {
        if self.peers.get(peer).is_some_and(|known| known.waiting(&id).is_some()) {
            return Ok(Enqueued::Duplicate);
        }
        if !self.dead.is_empty() && self.dead.contains_key(&(peer.clone(), id)) {
            return Ok(Enqueued::Dead);
        }
        self.room(peer, bytes)?;
        Ok(Enqueued::New(self.admit(peer, id, bytes, at)))
    }

    fn room_for_peer(&self, peer: &NodeId) -> Result<(), QueueError> {
        let max = self.limits.peers_max;
        if self.peers.len() >= max && !self.peers.contains_key(peer) {
            return Err(QueueError::Peers { max });
        }
        Ok(())
    }

    fn room(&self, peer: &NodeId, more: u64) -> Result<(), QueueError> {
        self.room_for_peer(peer)?;
        let QueueLimits { entries_max, bytes_max, .. } = self.limits;
        if self.entries >= entries_max {
            return Err(QueueError::Entries { entries: self.entries, max: entries_max });
        }
        if self.bytes.saturating_add(more) > bytes_max {
            return Err(QueueError::Bytes { bytes: self.bytes, more, max: bytes_max });
        }
        Ok(())
    }

    fn admit(&mut self, peer: &NodeId, id: EntryId, bytes: u64, at: Moment) -> JournalTicket {
        let waiting = Waiting { sequence: self.next_sequence, bytes, attempts: 0, queued: at.wall };
        self.next_sequence += 1;
        self.place(peer, id, waiting, None);
        self.journal.put(Space::QUEUE.peer_key(peer, id.as_bytes()), waiting.encode())
    }

    /// Puts an entry among those that wait, and counts it.
    fn place(&mut self, peer: &NodeId, id: EntryId, waiting: Waiting, until: Option<Instant>) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(waiting.bytes);
        self.by_age.insert((waiting.queued, peer.clone(), id));
        self.peers.entry(peer.clone()).or_default().insert(id, waiting, until);
    }

    /// Undoes the counts of [`Queue::place`].
    fn uncount(&mut self, peer: &NodeId, id: &EntryId, waiting: Waiting) {
        self.entries -= 1;
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        self.by_age.remove(&(waiting.queued, peer.clone(), *id));
    }

    fn discard(&mut self, peer: &NodeId, id: &EntryId) -> Option<Waiting> {
        let waiting = self.peers.get_mut(peer)?.remove(id)?;
        self.uncount(peer, id, waiting);
        self.journal.remove(Space::QUEUE.peer_key(peer, id.as_bytes()));
        Some(waiting)
    }

    /// Takes an entry out for a peer that has it by now, as reconciliation may find out. Whether it was there.
    pub fn cancel(&mut self, peer: &NodeId, id: &EntryId) -> bool {
        self.discard(peer, id).is_some()
    }

    /// A peer has all that we have: nothing waits for it any more, and its dead letters are settled. How many entries
    /// that were.
    pub fn on_peer_equal(&mut self, peer: &NodeId) -> usize {
        let waiting: Vec<_> =
            self.peers.get(peer).into_iter().flat_map(Peer::entries).map(|(id, _)| id).collect();
        let settled = waiting.len();
        for id in &waiting {
            self.discard(peer, id);
        }
        let dead: Vec<_> =
            self.dead_letters().filter(|letter| letter.peer == *peer).map(|l| l.entry).collect();
        for id in dead {
            self.drop_dead_letter(peer, &id);
        }
        settled
    }

    /// The next delivery: at most `entries_max`, and until `bytes_max` are passed, but at least one. Peers take turns.
    /// `None` if nothing is due; ask again at [`Queue::poll_timeout`], after a change and after each delivery.
    pub fn poll_delivery(&mut self, at: Moment, entries_max: usize, bytes_max: u64) -> Option<Delivery> {
        let due = |(_, known): &(&NodeId, &Peer)| known.due().is_some_and(|due| due <= at.now);
        let next = match &self.last_served {
            Some(last) => {
                let after = (std::ops::Bound::Excluded(last.clone()), std::ops::Bound::Unbounded);
                self.peers.range::<NodeId, _>(after).find(due).or_else(|| self.peers.iter().find(due))
            }
            None => self.peers.iter().find(due),
        };
        let peer = next.map(|(peer, _)| peer.clone())?;
        let known = self.peers.get_mut(&peer)?;
        let entries = known.take(at.now, entries_max, bytes_max);
        let address = known.address().cloned();
        self.last_served = Some(peer.clone());
        Some(Delivery { peer, address, entries })
    }

    /// When to ask for a delivery again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::due).min()
    }

    /// The peer has answered. What it said nothing about is tried again.
    pub fn on_sent(&mut self, peer: &NodeId, outcomes: Vec<(EntryId, Delivered)>, at: Moment) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        let mut outcomes: BTreeMap<_, _> = outcomes.into_iter().collect();
        let ended = known.end_delivery();
        if !ended.is_empty() {
            known.on_answer();
        }
        for (id, waiting) in ended {
            let outcome = outcomes.remove(&id);
            match outcome.unwrap_or_else(|| Delivered::NotYet("the peer said nothing about it".into())) {
                Delivered::Held => {
                    self.uncount(peer, &id, waiting);
                    self.journal.remove(Space::QUEUE.peer_key(peer, id.as_bytes()));
                }
                Delivered::NotYet(why) => self.after_failure(peer, id, waiting, &why, at, true),
                Delivered::Refused(why) => self.die(peer, id, waiting, DeadReason::Refused, &why, at.wall),
            }
        }
    }

    /// Nothing could be sent.
    pub fn on_failed(&mut self, peer: &NodeId, failure: SendFailure, at: Moment) {
        let Some(known) = self.peers.get_mut(peer).filter(|known| !known.under_way().is_empty()) else {
            return;
        };
        let (permanent, why) = match &failure {
            SendFailure::Unreachable(why) | SendFailure::Busy(why) => (None, why.clone()),
            SendFailure::Authentication(why) => (Some(DeadReason::Authentication), why.clone()),
            SendFailure::Version(why) => (Some(DeadReason::Version), why.clone()),
            SendFailure::Refused(why) => (Some(DeadReason::Refused), why.clone()),
        };
        let ended = known.end_delivery();
        let all_tried = match failure {
            SendFailure::Busy(_) => Some(true),
            _ => known.on_address_failed(permanent.is_none()),
        };
        let Some(unreachable) = all_tried else {
            ended.into_iter().for_each(|(id, waiting)| known.insert(id, waiting, None));
            return;
        };
        known.on_failure(at.now, &mut self.rng);
        for (id, waiting) in ended {
            match permanent {
                Some(reason) if !unreachable => self.die(peer, id, waiting, reason, &why, at.wall),
                _ => self.after_failure(peer, id, waiting, &why, at, false),
            }
        }
    }

    /// Counts a failure of an entry. With `pause` it waits on its own; otherwise its peer does.
    fn after_failure(
        &mut self,
        peer: &NodeId,
        id: EntryId,
        mut waiting: Waiting,
        why: &str,
        at: Moment,
        pause: bool,
    ) {
        waiting.attempts = waiting.attempts.saturating_add(1);
        if waiting.attempts >= self.limits.attempts_max {
            return self.die(peer, id, waiting, DeadReason::Attempts, why, at.wall);
        }
        self.journal.put(Space::QUEUE.peer_key(peer, id.as_bytes()), waiting.encode());
        let until = pause.then(|| at.now + peer::backoff(waiting.attempts, &mut self.rng));
        if let Some(known) = self.peers.get_mut(peer) {
            known.insert(id, waiting, until);
        }
    }

    fn die(
        &mut self,
        peer: &NodeId,
        entry: EntryId,
        waiting: Waiting,
        reason: DeadReason,
        why: &str,
        died: WallTime,
    ) {
        self.uncount(peer, &entry, waiting);
        self.journal.remove(Space::QUEUE.peer_key(peer, entry.as_bytes()));
        let letter = DeadLetter {
            peer: peer.clone(),
            entry,
            bytes: waiting.bytes,
            reason,
            detail: records::detail(why),
            attempts: waiting.attempts,
            queued: waiting.queued,
            died,
        };
        self.journal.put(Space::DEAD.peer_key(peer, entry.as_bytes()), records::encode_dead(&letter));
        self.bury(letter);
    }

    fn bury(&mut self, letter: DeadLetter) {
        let key = (letter.peer.clone(), letter.entry);
        self.dead_order.insert(self.next_death, key.clone());
        if let Some((earlier, _)) = self.dead.insert(key, (self.next_death, letter)) {
            self.dead_order.remove(&earlier);
        }
        self.next_death += 1;
        while self.dead.len() > self.limits.dead_letters_max {
            let Some((_, (peer, entry))) = self.dead_order.first_key_value() else { break };
            let (peer, entry) = (peer.clone(), *entry);
            self.drop_dead_letter(&peer, &entry);
            self.dead_dropped += 1;
        }
    }

    /// Gives up what waited for too long. Call it every minute or so; that is never too early or too late.
    pub fn handle_timeout(&mut self, at: Moment) {
        let age_max = u64::try_from(self.limits.age_max.as_millis()).unwrap_or(u64::MAX);
        let oldest = WallTime(at.wall.0.saturating_sub(age_max));
        let old: Vec<_> = self.by_age.iter().take_while(|(queued, ..)| *queued < oldest).cloned().collect();
        for (_, peer, id) in old {
            let Some(known) = self.peers.get_mut(&peer).filter(|known| !known.is_under_way(&id)) else {
                continue;
            };
            if let Some(waiting) = known.remove(&id) {
                let why = format!("it waited for more than {:?}", self.limits.age_max);
                self.die(&peer, id, waiting, DeadReason::Age, &why, at.wall);
            }
        }
        self.peers.retain(|_, known| !known.is_idle(at.now));
    }

    /// Dead letters, the oldest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.dead_order.values().filter_map(|key| self.dead.get(key)).map(|(_, letter)| letter)
    }

    /// Queues a dead letter again, as if it were new. Whether there was one.
    ///
    /// # Errors
    ///
    /// [`QueueError`]; it is a dead letter still.
    pub fn requeue_dead_letter(
        &mut self,
        peer: &NodeId,
        entry: &EntryId,
        at: Moment,
    ) -> Result<bool, QueueError> {
        let Some((_, letter)) = self.dead.get(&(peer.clone(), *entry)) else { return Ok(false) };
        let bytes = letter.bytes;
        self.room(peer, bytes)?;
        self.drop_dead_letter(peer, entry);
        self.admit(peer, *entry, bytes, at);
        Ok(true)
    }

    /// Drops a dead letter. Whether there was one.
    pub fn drop_dead_letter(&mut self, peer: &NodeId, entry: &EntryId) -> bool {
        let Some((number, _)) = self.dead.remove(&(peer.clone(), *entry)) else { return false };
        self.dead_order.remove(&number);
        self.journal.remove(Space::DEAD.peer_key(peer, entry.as_bytes()));
        true
    }

    /// Everything that is to be written, in one commit; `None` if there is nothing or a batch is out.
    pub fn poll_write(&mut self) -> Option<WriteBatch> {
        self.journal.poll_write()
    }

    /// A batch is on disk.
    pub fn on_written(&mut self, ticket: JournalTicket) {
        self.journal.on_written(ticket);
    }

    /// A batch is not on disk, or nobody knows. It comes out again.
    pub fn on_write_failed(&mut self, ticket: JournalTicket) {
        self.journal.on_write_failed(ticket);
    }

    /// All changes up to this one are on disk.
    pub const fn durable(&self) -> JournalTicket {
        self.journal.durable()
    }

    /// The queue in numbers.
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            entries: self.entries,
            bytes: self.bytes,
            under_way: self.peers.values().map(|known| known.under_way().len()).sum(),
            oldest: self.by_age.first().map(|(queued, ..)| *queued),
            dead_letters: self.dead.len(),
            dead_letters_dropped: self.dead_dropped,
        }
    }

    /// When the oldest entry that waits for a peer was queued.
    pub fn waiting_since(&self, peer: &NodeId) -> Option<WallTime> {
        self.peers.get(peer)?.entries().map(|(_, waiting)| waiting.queued).min()
    }

    /// How many entries wait for a peer.
    pub fn waiting_for(&self, peer: &NodeId) -> usize {
        self.peers.get(peer).map_or(0, |known| known.entries().count())
    }
}
