//! Requests of nodes that want to join a dataset.
//!
//! A request is answered at once if the policy lets it in; otherwise it is kept, with what was said, until an operator
//! approves or rejects it, or it expires. Answers are remembered, so that who asks again gets the same one.
//!
//! Ask only with an identity that was proved in a [handshake](crate::handshake).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{NodeId, WallTime};

use crate::{
    codec::{
        Reader, WireError, cut, put_bytes, put_varint, take_count, take_node, take_text, take_version,
        take_wall,
    },
    entry::AuthorId,
    state::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, Journal, Space, StateError},
    store::EntryStore,
};

/// Who is let into a dataset without being asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessPolicy {
    /// Nobody: an operator decides.
    #[default]
    Ask,
    /// Every node of the cluster.
    Cluster,
    /// These nodes; an operator decides about others.
    Nodes(BTreeSet<NodeId>),
    /// Nobody, and nobody is remembered.
    Closed,
}

/// Bounds of [`AccessBook`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLimits {
    /// Most pending requests; further ones are refused. Default: 256.
    pub pending_max: usize,
    /// Most answers that are remembered; the oldest rejection makes way, then no more are given. Default: 4096.
    pub answered_max: usize,
    /// A request that nobody has answered goes after this. Default: 7 days.
    pub pending_for: Duration,
    /// A rejection is forgotten after this, and the node may ask again. Default: 1 day.
    pub rejected_for: Duration,
}

impl Default for AccessLimits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { pending_max: 256, answered_max: 4096, pending_for: DAY * 7, rejected_for: DAY }
    }
}

/// Who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRequest {
    /// The key that it has proved.
    pub author: AuthorId,
    /// The node.
    pub node: NodeId,
    /// Where it can be reached; at most 16 of 255 bytes are kept.
    pub addresses: Vec<String>,
    /// What it says for the operator to read, as its purpose or version; at most 500 bytes are kept.
    pub note: String,
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessState {
    /// An operator has to decide.
    Pending,
    /// It may join.
    Granted,
    /// It may not.
    Rejected {
        /// What the operator said; at most 500 bytes are kept.
        reason: String,
    },
}

/// A request that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRequest {
    /// Who asks.
    pub request: AccessRequest,
    /// Where it stands.
    pub state: AccessState,
    /// When it was first asked.
    pub asked: WallTime,
    /// When it was answered; when it was asked, if it was not.
    pub changed: WallTime,
}

/// Why a request was not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Nobody may join.
    #[error("the dataset takes no new peers")]
    Closed,
    /// As many requests wait as may.
    #[error("{max} requests wait already, no more are taken; try again later")]
    Full {
        /// The limit.
        max: usize,
    },
    /// There is no such request.
    #[error("there is no request of {author}")]
    Unknown {
        /// Whose.
        author: AuthorId,
    },
}

const VERSION: u8 = 1;
const NOTE_BYTES_MAX: usize = 500;

impl KeptRequest {
    fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        match &self.state {
            AccessState::Pending => value.push(0),
            AccessState::Granted => value.push(1),
            AccessState::Rejected { reason } => {
                value.push(2);
                put_bytes(&mut value, reason.as_bytes());
            }
        }
        put_varint(&mut value, self.asked.0);
        put_varint(&mut value, self.changed.0);
        let AccessRequest { author: _, node, addresses, note } = &self.request;
        put_bytes(&mut value, node.as_str().as_bytes());
        put_bytes(&mut value, note.as_bytes());
        put_varint(&mut value, addresses.len() as u64);
        addresses.iter().for_each(|address| put_bytes(&mut value, address.as_bytes()));
        value
    }

    fn decode(author: AuthorId, value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a request", VERSION)?;
        let state = match reader.u8()? {
            0 => AccessState::Pending,
            1 => AccessState::Granted,
            2 => AccessState::Rejected {
                reason: take_text(&mut reader, "the length or text of a reason", NOTE_BYTES_MAX)?,
            },
            other => return Err(WireError::Invalid { what: "the state of a request", value: other.into() }),
        };
        let (asked, changed) = (take_wall(&mut reader)?, take_wall(&mut reader)?);
        let node = take_node(&mut reader)?;
        let note = take_text(&mut reader, "the length or text of a note", NOTE_BYTES_MAX)?;
        let count = take_count(&mut reader, "the number of addresses", ADDRESSES_MAX)?;
        let addresses = (0..count)
            .map(|_| take_text(&mut reader, "the length or text of an address", ADDRESS_BYTES_MAX))
            .collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { request: AccessRequest { author, node, addresses, note }, state, asked, changed })
    }

    /// When it is forgotten, if ever.
    fn expires(&self, limits: &AccessLimits) -> Option<WallTime> {
        let after = match self.state {
            AccessState::Pending => limits.pending_for,
            AccessState::Rejected { .. } => limits.rejected_for,
            AccessState::Granted => return None,
        };
        Some(WallTime(self.changed.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))))
    }
}

/// The requests for one dataset, in memory, with a [`Journal`] of what is to be written. Give an answer only after it
/// is durable.
///
/// ```
/// use mesh_core::{NodeId, WallTime};
/// use mesh_sync::{entry::{AuthorKey, DatasetId}, store::{Creation, Datasets, MemoryStore, StoreIncarnation}};
/// use mesh_sync::bootstrap::{AccessBook, AccessLimits, AccessPolicy, AccessRequest, AccessState};
///
/// let notes = DatasetId::new("notes")?;
/// let store = MemoryStore::in_memory().open(&notes, Creation::new(&notes, StoreIncarnation(1)))?;
/// let mut book = AccessBook::open(&*store, AccessLimits::default())?;
/// let (author, now) = (AuthorKey::from_seed([7; 32]).id(), WallTime(1_700_000_000_000));
/// let request = AccessRequest {
///     author, node: NodeId::new("new")?, addresses: vec!["10.0.0.9:7700".into()], note: "a laptop".into(),
/// };
/// assert_eq!(book.ask(request.clone(), &AccessPolicy::Ask, now)?, AccessState::Pending);
/// book.approve(&author, now)?;
/// assert_eq!(book.ask(request, &AccessPolicy::Ask, now)?, AccessState::Granted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct AccessBook {
    limits: AccessLimits,
    requests: BTreeMap<AuthorId, KeptRequest>,
    journal: Journal,
}

impl AccessBook {
    /// Reads what was kept.
    ///
    /// # Errors
    ///
    /// [`StateError`] names the record that can't be read.
    pub fn open(store: &dyn EntryStore, limits: AccessLimits) -> Result<Self, StateError> {
        let mut requests = BTreeMap::new();
        Space::ACCESS.load(store, |rest, value| {
            let mut reader = Reader::new(rest);
            let author = AuthorId(reader.array()?);
            reader.end()?;
            requests.insert(author, KeptRequest::decode(author, value)?);
            Ok(())
        })?;
        Ok(Self { limits, requests, journal: Journal::default() })
    }

    /// A node asks. Who asks again gets the answer that stands, or moves with a policy that opened; the note and
    /// addresses are those of the last time while it waits.
    ///
    /// # Errors
    ///
    /// [`AccessError`]; nothing was changed.
    pub fn ask(
        &mut self,
        mut request: AccessRequest,
        policy: &AccessPolicy,
        now: WallTime,
    ) -> Result<AccessState, AccessError> {
        self.expire(now);
        let automatic = match policy {
            AccessPolicy::Cluster => true,
            AccessPolicy::Nodes(nodes) => nodes.contains(&request.node),
            AccessPolicy::Ask | AccessPolicy::Closed => false,
        };
        let earlier = self.requests.get(&request.author);
        match earlier {
            Some(KeptRequest {
                state: state @ (AccessState::Granted | AccessState::Rejected { .. }),
                ..
            }) => {
                return Ok(state.clone());
            }
            _ if *policy == AccessPolicy::Closed => return Err(AccessError::Closed),
            _ => {}
        }
        request.addresses.retain(|address| address.len() <= ADDRESS_BYTES_MAX);
        request.addresses.truncate(ADDRESSES_MAX);
        request.note = cut(&request.note, NOTE_BYTES_MAX).to_owned();
        let asked = earlier.map_or(now, |earlier| earlier.asked);
        if automatic {
            self.room_for_answer()?;
        } else if earlier.is_none() && self.pending().count() >= self.limits.pending_max {
            return Err(AccessError::Full { max: self.limits.pending_max });
        }
        let state = if automatic { AccessState::Granted } else { AccessState::Pending };
        // A request that waits keeps its time, or asking again would keep it for ever.
        let changed = if automatic { now } else { asked };
        self.keep(KeptRequest { request, state: state.clone(), asked, changed });
        Ok(state)
    }

    /// Lets a node in, whether it waits or was rejected.
    ///
    /// # Errors
    ///
    /// [`AccessError`]; nothing was changed.
    pub fn approve(&mut self, author: &AuthorId, now: WallTime) -> Result<&KeptRequest, AccessError> {
        self.answer(author, AccessState::Granted, now)
    }

    /// Turns a node away, also one that was let in before.
    ///
    /// # Errors
    ///
    /// [`AccessError`]; nothing was changed.
    pub fn reject(
        &mut self,
        author: &AuthorId,
        reason: &str,
        now: WallTime,
    ) -> Result<&KeptRequest, AccessError> {
        let reason = cut(reason, NOTE_BYTES_MAX).to_owned();
        self.answer(author, AccessState::Rejected { reason }, now)
    }

    fn answer(
        &mut self,
        author: &AuthorId,
        state: AccessState,
        now: WallTime,
    ) -> Result<&KeptRequest, AccessError> {
        let unknown = AccessError::Unknown { author: *author };
        let mut kept = self.requests.get(author).cloned().ok_or(unknown.clone())?;
        if kept.state == AccessState::Pending {
            self.room_for_answer()?;
        }
        kept.state = state;
        kept.changed = now;
        self.keep(kept);
        self.requests.get(author).ok_or(unknown)
    }

    fn room_for_answer(&mut self) -> Result<(), AccessError> {
        let max = self.limits.answered_max;
        let answered = self.requests.values().filter(|kept| kept.state != AccessState::Pending);
        if answered.count() < max {
            return Ok(());
        }
        let rejected = |kept: &&KeptRequest| matches!(kept.state, AccessState::Rejected { .. });
        let oldest = self.requests.values().filter(rejected).min_by_key(|kept| kept.changed);
        let oldest = oldest.map(|kept| kept.request.author).ok_or(AccessError::Full { max })?;
        self.forget(&oldest);
        Ok(())
    }

    fn keep(&mut self, kept: KeptRequest) {
        let author = kept.request.author;
        self.journal.put(Space::ACCESS.key(author.as_bytes()), kept.encode());
        self.requests.insert(author, kept);
    }

    /// Forgets a request and its answer. Whether there was one.
    pub fn forget(&mut self, author: &AuthorId) -> bool {
        let known = self.requests.remove(author).is_some();
        if known {
            self.journal.remove(Space::ACCESS.key(author.as_bytes()));
        }
        known
    }

    /// Forgets what is too old. Never too early or too late.
    pub fn expire(&mut self, now: WallTime) {
        let old = |kept: &&KeptRequest| kept.expires(&self.limits).is_some_and(|expires| expires <= now);
        let old: Vec<_> = self.requests.values().filter(old).map(|kept| kept.request.author).collect();
        for author in old {
            self.forget(&author);
        }
    }

    /// What an operator has to decide, in the order of the keys.
    pub fn pending(&self) -> impl Iterator<Item = &KeptRequest> {
        self.requests.values().filter(|kept| kept.state == AccessState::Pending)
    }

    /// All requests that are kept, answered ones included, in the order of the keys.
    pub fn requests(&self) -> impl Iterator<Item = &KeptRequest> {
        self.requests.values()
    }

    /// The request of a key.
    pub fn request(&self, author: &AuthorId) -> Option<&KeptRequest> {
        self.requests.get(author)
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
        entry::DatasetId,
        store::{Creation, Datasets, MemoryStore, StoreIncarnation},
    };

    fn bench(limits: AccessLimits) -> (Arc<dyn EntryStore>, AccessBook) {
        let notes = DatasetId::new("notes").expect("valid");
        let creation = Creation::new(&notes, StoreIncarnation(1));
        let store = MemoryStore::in_memory().open(&notes, creation).expect("opens");
        let book = AccessBook::open(&*store, limits).expect("empty");
        (store, book)
    }

    fn reopen(store: &dyn EntryStore, book: &mut AccessBook) {
        if let Some(batch) = book.journal().poll_write() {
            store.write_metadata(&batch.writes).expect("memory takes it");
        }
        *book = AccessBook::open(store, book.limits.clone()).expect("reads");
    }

    fn request(n: u8) -> AccessRequest {
        AccessRequest {
            author: AuthorId([n; 32]),
            node: NodeId::new(format!("n{n}")).expect("valid"),
            addresses: vec!["a:1".into(), "x".repeat(256)],
            note: "n".repeat(600),
        }
    }

    #[test]
    fn a_request_waits_until_it_is_approved_over_restarts() {
        let (store, mut book) = bench(AccessLimits::default());
        let at = WallTime(1000);
        assert_eq!(book.ask(request(1), &AccessPolicy::Ask, at), Ok(AccessState::Pending));
        reopen(&*store, &mut book);
        let kept = book.pending().next().expect("it waits").clone();
        assert_eq!((kept.asked, kept.request.note.len()), (at, 500));
        assert_eq!(kept.request.addresses, ["a:1"]);
        book.approve(&AuthorId([1; 32]), WallTime(2000)).expect("known");
        reopen(&*store, &mut book);
        assert_eq!(book.ask(request(1), &AccessPolicy::Closed, at), Ok(AccessState::Granted));
        assert_eq!(book.pending().count(), 0);
        let unknown = book.approve(&AuthorId([9; 32]), at).expect_err("nobody");
        assert_eq!(unknown, AccessError::Unknown { author: AuthorId([9; 32]) });
    }

    #[test]
    fn a_policy_lets_in_at_once_whom_it_names() {
        let (_, mut book) = bench(AccessLimits::default());
        let nodes = AccessPolicy::Nodes([NodeId::new("n1").expect("valid")].into());
        assert_eq!(book.ask(request(1), &nodes, WallTime(1)), Ok(AccessState::Granted));
        assert_eq!(book.ask(request(2), &nodes, WallTime(1)), Ok(AccessState::Pending));
        assert_eq!(book.ask(request(2), &AccessPolicy::Cluster, WallTime(2)), Ok(AccessState::Granted));
        assert_eq!(book.ask(request(3), &AccessPolicy::Closed, WallTime(1)), Err(AccessError::Closed));
        assert_eq!(book.request(&AuthorId([3; 32])), None);
    }

    #[test]
    fn a_rejection_stands_for_a_while_and_can_be_taken_back() {
        let limits = AccessLimits { rejected_for: Duration::from_millis(100), ..AccessLimits::default() };
        let (store, mut book) = bench(limits);
        book.ask(request(1), &AccessPolicy::Ask, WallTime(0)).expect("room");
        book.reject(&AuthorId([1; 32]), "unknown laptop", WallTime(10)).expect("known");
        reopen(&*store, &mut book);
        let rejected = AccessState::Rejected { reason: "unknown laptop".into() };
        assert_eq!(book.ask(request(1), &AccessPolicy::Cluster, WallTime(109)), Ok(rejected));
        assert_eq!(book.ask(request(1), &AccessPolicy::Ask, WallTime(110)), Ok(AccessState::Pending));
    }

    #[test]
    fn pending_requests_are_bounded_and_expire_however_often_one_asks() {
        let limits = AccessLimits {
            pending_max: 2,
            answered_max: 1,
            pending_for: Duration::from_millis(100),
            ..AccessLimits::default()
        };
        let (store, mut book) = bench(limits);
        for n in [1, 2] {
            book.ask(request(n), &AccessPolicy::Ask, WallTime(0)).expect("room");
        }
        assert_eq!(book.ask(request(3), &AccessPolicy::Ask, WallTime(1)), Err(AccessError::Full { max: 2 }));
        book.ask(request(1), &AccessPolicy::Ask, WallTime(99)).expect("known");
        assert_eq!(book.ask(request(3), &AccessPolicy::Ask, WallTime(100)), Ok(AccessState::Pending));
        assert_eq!(book.pending().count(), 1);
        book.approve(&AuthorId([3; 32]), WallTime(100)).expect("room");
        let full = book.ask(request(4), &AccessPolicy::Cluster, WallTime(100));
        assert_eq!(full, Err(AccessError::Full { max: 1 }), "those who were let in don't make way");
        reopen(&*store, &mut book);
        assert_eq!(book.requests.len(), 1);
    }

    #[test]
    fn damaged_records_are_read_with_bounds() {
        let kept = KeptRequest {
            request: AccessRequest { addresses: vec!["a:1".into()], note: "hi".into(), ..request(1) },
            state: AccessState::Rejected { reason: "no".into() },
            asked: WallTime(1),
            changed: WallTime(2),
        };
        let bytes = kept.encode();
        assert_eq!(KeptRequest::decode(AuthorId([1; 32]), &bytes), Ok(kept));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x81;
            let _ = KeptRequest::decode(AuthorId([1; 32]), &flipped);
            assert!(KeptRequest::decode(AuthorId([1; 32]), &bytes[..at]).is_err());
        }
    }
}
