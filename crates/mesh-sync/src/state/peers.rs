//! Peers of one dataset, with what was seen of each.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{NodeId, WallTime};

use super::{
    Cursor, Journal, Relationship, Round, RoundEnd, Space, StateError,
    records::{ADDRESS_BYTES_MAX, ADDRESSES_MAX},
};
use crate::{
    codec::{Reader, WireError, put_varint, take_version},
    store::EntryStore,
};

/// What was seen of one peer in one dataset, since it is a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Bytes that were sent to it.
    pub bytes_sent: u64,
    /// Bytes that it sent.
    pub bytes_received: u64,
    /// Entries that were sent to it.
    pub entries_sent: u64,
    /// Entries that it sent.
    pub entries_received: u64,
    /// Rounds that ended well.
    pub successes: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// Failures since the last success.
    pub failures_in_a_row: u64,
    /// All rounds together.
    pub took_total: Duration,
    /// The longest round.
    pub took_max: Duration,
    /// When the last round that ended well began.
    pub last_success: Option<WallTime>,
    /// When the last round that failed began.
    pub last_failure: Option<WallTime>,
}

const VERSION: u8 = 1;

impl PeerStats {
    fn add(&mut self, round: &Round) {
        let sums = [
            (&mut self.bytes_sent, round.bytes_sent),
            (&mut self.bytes_received, round.bytes_received),
            (&mut self.entries_sent, round.entries_sent),
            (&mut self.entries_received, round.entries_received),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
        self.took_total = self.took_total.saturating_add(round.took);
        self.took_max = self.took_max.max(round.took);
        if round.end == RoundEnd::Failed {
            self.failures += 1;
            self.failures_in_a_row += 1;
            self.last_failure = Some(round.begun);
        } else {
            self.successes += 1;
            self.failures_in_a_row = 0;
            self.last_success = Some(round.begun);
        }
    }

    fn encode(&self) -> Vec<u8> {
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // 0 stands for never; nothing of ours happened in 1970.
        let when = |when: Option<WallTime>| when.map_or(0, |wall| wall.0);
        let numbers = [
            self.bytes_sent,
            self.bytes_received,
            self.entries_sent,
            self.entries_received,
            self.successes,
            self.failures,
            self.failures_in_a_row,
            micros(self.took_total),
            micros(self.took_max),
            when(self.last_success),
            when(self.last_failure),
        ];
        let mut value = vec![VERSION];
        numbers.iter().for_each(|number| put_varint(&mut value, *number));
        value
    }

    fn decode(value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a peer's numbers", VERSION)?;
        let mut number = || reader.varint();
        let when = |wall: u64| (wall > 0).then_some(WallTime(wall));
        let stats = Self {
            bytes_sent: number()?,
            bytes_received: number()?,
            entries_sent: number()?,
            entries_received: number()?,
            successes: number()?,
            failures: number()?,
            failures_in_a_row: number()?,
            took_total: Duration::from_micros(number()?),
            took_max: Duration::from_micros(number()?),
            last_success: when(number()?),
            last_failure: when(number()?),
        };
        reader.end().map(|()| stats)
    }
}

/// How much history is kept, of each peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most rounds; the oldest goes. Default: 256.
    pub rounds_max: usize,
    /// Older rounds go. Default: 7 days.
    pub age_max: Duration,
    /// Most peers. Default: 4096.
    pub peers_max: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { rounds_max: 256, age_max: Duration::from_secs(7 * 24 * 3600), peers_max: 4096 }
    }
}

/// Why a peer was not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerBookError {
    /// There are as many peers as there may be.
    #[error("there are {max} peers already, no more are allowed")]
    Full {
        /// The limit.
        max: usize,
    },
    /// It has too many addresses, or one is too long.
    #[error(
        "peer {peer} has {count} addresses, the longest of {longest} bytes; at most {ADDRESSES_MAX} of {ADDRESS_BYTES_MAX} bytes are allowed"
    )]
    Addresses {
        /// The peer.
        peer: NodeId,
        /// How many.
        count: usize,
        /// The longest of them.
        longest: usize,
    },
    /// It is no peer.
    #[error("{peer} is no peer of this dataset")]
    Unknown {
        /// Who.
        peer: NodeId,
    },
}

#[derive(Clone, Debug)]
struct Peer {
    relationship: Relationship,
    stats: PeerStats,
    /// Rounds by their number; the numbers only grow.
    history: BTreeMap<u64, Round>,
}

/// The peers of one dataset, in memory, with a [`Journal`] of what is to be written.
///
/// Cursors are not in it: they go into the store with the entries that they stand for. [`PeerBook::cursors`] reads
/// them.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::{NodeId, WallTime};
/// use mesh_sync::{entry::DatasetId, store::{Creation, Datasets, MemoryStore, StoreIncarnation}};
/// use mesh_sync::state::{HistoryLimits, PeerBook, Relationship, Round, RoundEnd, Standing};
///
/// let notes = DatasetId::new("notes")?;
/// let store = MemoryStore::in_memory().open(&notes, Creation::new(&notes, StoreIncarnation(1)))?;
/// let mut book = PeerBook::open(&*store, HistoryLimits::default())?;
/// let peer = NodeId::new("b")?;
/// let now = WallTime(1_700_000_000_000);
/// let addresses = vec!["10.0.0.2:7000".to_owned()];
/// book.add(&peer, Relationship { author: None, addresses, standing: Standing::Active, since: now })?;
/// book.record(&peer, Round {
///     begun: now, took: Duration::from_millis(3), end: RoundEnd::Equal, bytes_sent: 40, bytes_received: 40,
///     entries_sent: 0, entries_received: 0, note: "root check".into(),
/// })?;
/// while let Some(batch) = book.journal().poll_write() {
///     store.write_metadata(&batch.writes)?;
///     book.journal().on_written(batch.ticket);
/// }
/// let again = PeerBook::open(&*store, HistoryLimits::default())?;
/// assert_eq!(again.stats(&peer).expect("a peer").successes, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PeerBook {
    limits: HistoryLimits,
    peers: BTreeMap<NodeId, Peer>,
    journal: Journal,
}

impl PeerBook {
    /// Reads what was kept.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the record that can't be read.
    pub fn open(store: &dyn EntryStore, limits: HistoryLimits) -> Result<Self, StateError> {
        let mut peers = BTreeMap::new();
        Space::RELATIONSHIP.load_by_peer(store, |peer, _, value| {
            let relationship = Relationship::decode(value)?;
            peers.insert(peer, Peer { relationship, stats: PeerStats::default(), history: BTreeMap::new() });
            Ok(())
        })?;
        let mut journal = Journal::default();
        Space::STATS.load_by_peer(store, |peer, rest, value| {
            let stats = PeerStats::decode(value)?;
            match peers.get_mut(&peer) {
                Some(known) => known.stats = stats,
                None => drop(journal.remove(Space::STATS.peer_key(&peer, rest))),
            }
            Ok(())
        })?;
        Space::HISTORY.load_by_peer(store, |peer, rest, value| {
            let round = Round::decode(value)?;
            let number = Reader::new(rest).array().map(u64::from_be_bytes)?;
            match peers.get_mut(&peer) {
                Some(known) => drop(known.history.insert(number, round)),
                None => drop(journal.remove(Space::HISTORY.peer_key(&peer, rest))),
            }
            Ok(())
        })?;
        Ok(Self { limits, peers, journal })
    }

    /// Adds a peer, or replaces what is known of it except its numbers and history.
    ///
    /// # Errors
    ///
    /// [`PeerBookError`]; nothing was changed.
    pub fn add(&mut self, peer: &NodeId, relationship: Relationship) -> Result<(), PeerBookError> {
        let longest = relationship.addresses.iter().map(String::len).max().unwrap_or(0);
        let count = relationship.addresses.len();
        if count > ADDRESSES_MAX || longest > ADDRESS_BYTES_MAX {
            return Err(PeerBookError::Addresses { peer: peer.clone(), count, longest });
        }
        let max = self.limits.peers_max;
        if self.peers.len() >= max && !self.peers.contains_key(peer) {
            return Err(PeerBookError::Full { max });
        }
        self.journal.put(Space::RELATIONSHIP.peer_key(peer, &[]), relationship.encode());
        match self.peers.get_mut(peer) {
            Some(known) => known.relationship = relationship,
            None => {
                let new = Peer { relationship, stats: PeerStats::default(), history: BTreeMap::new() };
                self.peers.insert(peer.clone(), new);
            }
        }
        Ok(())
    }

    /// Removes a peer with everything that is kept of it, its cursor too. Whether there was one.
    pub fn remove(&mut self, peer: &NodeId) -> bool {
        let Some(known) = self.peers.remove(peer) else { return false };
        for space in [Space::RELATIONSHIP, Space::STATS, Space::CURSOR] {
            self.journal.remove(space.peer_key(peer, &[]));
        }
        for number in known.history.keys() {
            self.journal.remove(Space::HISTORY.peer_key(peer, &number.to_be_bytes()));
        }
        true
    }

    /// Adds a round to the numbers and the history of a peer; old rounds go.
    ///
    /// # Errors
    ///
    /// [`PeerBookError::Unknown`].
    pub fn record(&mut self, peer: &NodeId, round: Round) -> Result<(), PeerBookError> {
        let known = self.peers.get_mut(peer);
        let known = known.ok_or_else(|| PeerBookError::Unknown { peer: peer.clone() })?;
        known.stats.add(&round);
        self.journal.put(Space::STATS.peer_key(peer, &[]), known.stats.encode());
        let number = known.history.last_key_value().map_or(0, |(last, _)| last + 1);
        self.journal.put(Space::HISTORY.peer_key(peer, &number.to_be_bytes()), round.encode());
        let age_max = u64::try_from(self.limits.age_max.as_millis()).unwrap_or(u64::MAX);
        let oldest = round.begun.0.saturating_sub(age_max);
        known.history.insert(number, round);
        while known.history.len() > 1
            && (known.history.len() > self.limits.rounds_max
                || known.history.first_key_value().is_some_and(|(_, round)| round.begun.0 < oldest))
        {
            let Some((number, _)) = known.history.pop_first() else { break };
            self.journal.remove(Space::HISTORY.peer_key(peer, &number.to_be_bytes()));
        }
        Ok(())
    }

    /// All peers, in the order of their names.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeId, &Relationship)> {
        self.peers.iter().map(|(peer, known)| (peer, &known.relationship))
    }

    /// What is known of a peer.
    pub fn relationship(&self, peer: &NodeId) -> Option<&Relationship> {
        self.peers.get(peer).map(|known| &known.relationship)
    }

    /// A peer in numbers.
    pub fn stats(&self, peer: &NodeId) -> Option<&PeerStats> {
        self.peers.get(peer).map(|known| &known.stats)
    }

    /// A peer's rounds, the oldest first.
    pub fn history(&self, peer: &NodeId) -> impl Iterator<Item = &Round> {
        self.peers.get(peer).into_iter().flat_map(|known| known.history.values())
    }

    /// The cursors that the store has. Those of who is no peer are there too.
    ///
    /// # Errors
    ///
    /// [`StateError`].
    pub fn cursors(store: &dyn EntryStore) -> Result<BTreeMap<NodeId, Cursor>, StateError> {
        let mut cursors = BTreeMap::new();
        Space::CURSOR.load_by_peer(store, |peer, _, value| {
            cursors.insert(peer, Cursor::decode(value)?);
            Ok(())
        })?;
        Ok(cursors)
    }

    /// What is to be written.
    pub const fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        entry::{AuthorId, DatasetId},
        state::Standing,
        store::{Arrival, Creation, Datasets, MemoryStore, MetadataWrite, StoreIncarnation},
    };

    fn store() -> Arc<dyn EntryStore> {
        let notes = DatasetId::new("notes").expect("valid");
        let creation = Creation::new(&notes, StoreIncarnation(1));
        MemoryStore::in_memory().open(&notes, creation).expect("opens")
    }

    fn write(store: &dyn EntryStore, journal: &mut Journal) {
        while let Some(batch) = journal.poll_write() {
            store.write_metadata(&batch.writes).expect("memory takes it");
            journal.on_written(batch.ticket);
        }
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn relationship() -> Relationship {
        Relationship {
            author: Some(AuthorId([3; 32])),
            addresses: vec!["a:1".into(), "b:2".into()],
            standing: Standing::Retired,
            since: WallTime(77),
        }
    }

    fn round(begun: u64, end: RoundEnd) -> Round {
        Round {
            begun: WallTime(begun),
            took: Duration::from_micros(1500),
            end,
            bytes_sent: 1,
            bytes_received: 2,
            entries_sent: 3,
            entries_received: 4,
            note: "ä".repeat(150),
        }
    }

    #[test]
    fn what_is_known_of_peers_survives_a_restart() {
        let store = store();
        let mut book = PeerBook::open(&*store, HistoryLimits::default()).expect("empty");
        book.add(&node("a"), relationship()).expect("room");
        book.add(&node("b"), relationship()).expect("room");
        for (begun, end) in [(10, RoundEnd::Equal), (20, RoundEnd::Failed), (30, RoundEnd::Failed)] {
            book.record(&node("a"), round(begun, end)).expect("a peer");
        }
        assert!(book.remove(&node("b")) && !book.remove(&node("b")));
        write(&*store, book.journal());

        let again = PeerBook::open(&*store, HistoryLimits::default()).expect("reads");
        assert_eq!(again.peers().collect::<Vec<_>>(), [(&node("a"), &relationship())]);
        assert_eq!(again.stats(&node("a")), book.stats(&node("a")));
        let stats = again.stats(&node("a")).expect("a peer");
        assert_eq!((stats.successes, stats.failures, stats.failures_in_a_row), (1, 2, 2));
        assert_eq!(stats.last_failure, Some(WallTime(30)));
        assert_eq!(again.history(&node("a")).map(|round| round.begun.0).collect::<Vec<_>>(), [10, 20, 30]);
        assert!(again.history(&node("a")).all(|round| round.note.len() == 200));
    }

    #[test]
    fn history_is_bounded_by_number_and_age_on_disk_too() {
        let store = store();
        let limits = HistoryLimits { rounds_max: 3, age_max: Duration::from_millis(15), peers_max: 1 };
        let mut book = PeerBook::open(&*store, limits.clone()).expect("empty");
        book.add(&node("a"), relationship()).expect("room");
        assert_eq!(book.add(&node("b"), relationship()), Err(PeerBookError::Full { max: 1 }));
        for begun in [1, 2, 3, 4] {
            book.record(&node("a"), round(begun, RoundEnd::Equal)).expect("a peer");
        }
        assert_eq!(book.history(&node("a")).count(), 3);
        book.record(&node("a"), round(18, RoundEnd::Equal)).expect("a peer");
        write(&*store, book.journal());
        let again = PeerBook::open(&*store, limits).expect("reads");
        assert_eq!(again.history(&node("a")).map(|round| round.begun.0).collect::<Vec<_>>(), [3, 4, 18]);
    }

    #[test]
    fn a_cursor_of_another_store_or_ahead_of_it_is_worth_nothing() {
        let cursor = Cursor { incarnation: StoreIncarnation(7), arrival: Arrival(9) };
        assert!(cursor.fits(StoreIncarnation(7), Arrival(9)));
        assert!(!cursor.fits(StoreIncarnation(8), Arrival(9)));
        assert!(!cursor.fits(StoreIncarnation(7), Arrival(8)), "a restored disk");
        let store = store();
        store.write_metadata(&[cursor.write(&node("a")), cursor.write(&node("a.b"))]).expect("written");
        store.write_metadata(&[Cursor::forget(&node("a"))]).expect("written");
        let cursors = PeerBook::cursors(&*store).expect("reads");
        assert_eq!(cursors.into_iter().collect::<Vec<_>>(), [(node("a.b"), cursor)]);
    }

    #[test]
    fn a_record_of_a_newer_program_is_named_not_guessed() {
        let store = store();
        let key = Space::RELATIONSHIP.peer_key(&node("a"), &[]);
        store.write_metadata(&[MetadataWrite { key, value: Some(vec![9, 9]) }]).expect("written");
        let error = PeerBook::open(&*store, HistoryLimits::default()).expect_err("newer");
        assert!(error.to_string().contains("relationship record \"a\\0\""), "{error}");
    }

    #[test]
    fn flipped_and_missing_bytes_never_panic() {
        let encoded = [relationship().encode(), round(5, RoundEnd::Failed).encode()];
        for bytes in encoded {
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0xff;
                for value in [&flipped[..], &bytes[..at]] {
                    let _ = (Relationship::decode(value), Round::decode(value), PeerStats::decode(value));
                    let _ = Cursor::decode(value);
                }
            }
        }
    }
}
