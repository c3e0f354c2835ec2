//! Snapshots: the whole state in pieces, and back.
//!
//! A snapshot is a stream of items, each with its length before it. The head
//! names the version, the end repeats the counts and a hash of everything
//! before it, so that a snapshot which was cut short or altered is refused.
//! The same format carries a state between voters, where it is taken as it is,
//! and into a restore, where sessions end and the generation of tokens rises.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mesh_core::{
    Revision,
    store::{Change, DeleteCause, Record, Restored, SessionId},
};
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::{Refusal, Revised, State, history::History, sessions::SessionState};
use crate::wire::{self, WireError, snapshot_item::Item};

/// The version of the snapshot format that we write, and the newest that we read.
const VERSION: u32 = 1;
/// Pieces that a writer hands out are about this large.
const PIECE_BYTES: usize = 64 * 1024;
/// The largest item. A record's value has its own, lower limit; the changes of one revision have not.
const ITEM_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is staged for a restore travels in items of this size.
const STAGED_CHUNK_BYTES: usize = 1024 * 1024;
/// The largest snapshot that can be restored, in bytes.
pub const RESTORE_BYTES_MAX: u64 = 1 << 30;

/// How far revisions and ids of sessions leap, at least: further than a group can have got after a snapshot of it.
#[cfg(feature = "raft")]
const LEAP: u64 = 1_000_000_000;

/// Why a snapshot was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It ends before its end.
    #[error("the snapshot is cut short after {bytes} bytes")]
    Cut {
        /// How many there were.
        bytes: u64,
    },
    /// It does not hold what its end says.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// An item can't be decoded.
    #[error("the snapshot is damaged")]
    Item(#[from] WireError),
}

/// The hash of a snapshot's bytes, by which an upload is known and checked.
#[derive(Clone, Default)]
pub struct SnapshotHash(Xxh3);

impl std::fmt::Debug for SnapshotHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotHash({})", self.hex())
    }
}

impl SnapshotHash {
    /// Takes the next bytes.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all bytes so far, 16 hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", self.0.digest())
    }
}

/// Writes a state in pieces; an iterator of them.
pub struct SnapshotWriter {
    items: Box<dyn Iterator<Item = Item> + Send>,
    hash: Xxh3,
    records: u64,
    sessions: u64,
    done: bool,
}

impl SnapshotWriter {
    /// A writer of `state`, which is best a clone: cloning is cheap, since records are shared.
    pub fn new(state: State) -> Self {
        let records = state.records.len() as u64;
        let sessions = state.sessions.len() as u64;
        Self { items: Box::new(items(state)), hash: Xxh3::new(), records, sessions, done: false }
    }

    fn end(&mut self) -> Item {
        self.done = true;
        Item::End(wire::SnapshotEnd {
            records: self.records,
            sessions: self.sessions,
            xxh3: self.hash.digest(),
        })
    }
}

impl Iterator for SnapshotWriter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while !self.done && piece.len() < PIECE_BYTES {
            let item = self.items.next().unwrap_or_else(|| self.end());
            let before = piece.len();
            let message = wire::SnapshotItem { item: Some(item) };
            piece.put_u32_le(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
            // A BytesMut grows as needed, so encoding can't fail for want of room.
            let _ = message.encode(&mut piece);
            self.hash.update(&piece[before..]);
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

fn items(state: State) -> impl Iterator<Item = Item> + Send {
    let State { generation, revision, records, sessions, next_session, history, staged, .. } = state;
    let head = Item::Head(wire::SnapshotHead {
        version: VERSION,
        generation,
        revision: revision.0,
        compacted: history.compacted().0,
        next_session,
    });
    let records = records.into_records().map(|record| Item::Record((&*record).into()));
    let sessions = sessions.into_values().map(session_item);
    let revised: Vec<Revised> = history.iter().cloned().collect();
    let revised = revised.into_iter().map(|r| {
        Item::Revised(wire::Revised {
            revision: r.revision.0,
            changes: r.changes.iter().map(Into::into).collect(),
        })
    });
    let staged = staged.into_iter().flat_map(|staged| staged.into_chunks());
    std::iter::once(head).chain(records).chain(sessions).chain(revised).chain(staged)
}

fn session_item(state: SessionState) -> Item {
    use wire::session_outcome::Outcome;
    let outcomes = state.outcomes.iter().map(|(sequence, outcome)| wire::SessionOutcome {
        sequence: *sequence,
        outcome: Some(match outcome {
            Ok(outcome) => Outcome::Applied(outcome.into()),
            Err(refusal) => Outcome::Refused(refusal.into()),
        }),
    });
    Item::Session(wire::SnapshotSession {
        session: Some((&state.session).into()),
        outcomes: outcomes.collect(),
        forgotten: state.forgotten,
    })
}

/// Reads a state from pieces of any size.
pub struct SnapshotReader {
    buffer: BytesMut,
    hash: Xxh3,
    bytes: u64,
    state: State,
    history: Vec<Revised>,
    head: bool,
    complete: bool,
}

impl Default for SnapshotReader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            hash: Xxh3::new(),
            bytes: 0,
            state: State::default(),
            history: Vec::new(),
            head: false,
            complete: false,
        }
    }
}

impl SnapshotReader {
    /// Takes the next piece.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; the reader is of no use after one.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.bytes += piece.len() as u64;
        self.buffer.extend_from_slice(piece);
        while let Some(length) = self.buffer.first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > ITEM_BYTES_MAX {
                return Err(SnapshotError::Damaged(format!(
                    "an item of {length} bytes is larger than {ITEM_BYTES_MAX}"
                )));
            }
            if self.buffer.len() < 4 + length {
                break;
            }
            let expected = self.hash.digest();
            let framed = self.buffer.split_to(4 + length).freeze();
            self.hash.update(&framed);
            let mut body = framed;
            body.advance(4);
            let message = wire::SnapshotItem::decode(body).map_err(wire::malformed("a snapshot's item"))?;
            let item = message.item.ok_or_else(|| SnapshotError::Damaged("an item is empty".to_owned()))?;
            self.take(item, expected)?;
        }
        Ok(())
    }

    /// The state, once everything was pushed.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Cut`] if the end is missing.
    pub fn finish(mut self) -> Result<State, SnapshotError> {
        if !self.complete {
            return Err(SnapshotError::Cut { bytes: self.bytes });
        }
        let compacted = self.state.history.compacted();
        self.state.history = History::starting_after(compacted);
        for revised in self.history {
            self.state.history.push(revised);
        }
        Ok(self.state)
    }

    fn take(&mut self, item: Item, hash: u64) -> Result<(), SnapshotError> {
        if self.complete {
            return Err(SnapshotError::Damaged("something follows its end".to_owned()));
        }
        match item {
            Item::Head(head) => {
                if head.version > VERSION {
                    let version =
                        WireError::Version { what: "the snapshot", found: head.version, ours: VERSION };
                    return Err(version.into());
                }
                self.head = true;
                self.state.generation = head.generation;
                self.state.revision = Revision(head.revision);
                self.state.history = History::starting_after(Revision(head.compacted));
                self.state.next_session = head.next_session;
            }
            _ if !self.head => {
                return Err(SnapshotError::Damaged("it does not begin with its head".to_owned()));
            }
            Item::Record(record) => self.state.records.put(record.try_into()?),
            Item::Session(session) => self.take_session(session)?,
            Item::Revised(revised) => {
                let changes =
                    revised.changes.into_iter().map(Change::try_from).collect::<Result<Vec<_>, _>>()?;
                self.history.push(Revised { revision: Revision(revised.revision), changes: changes.into() });
            }
            Item::Staged(chunk) => {
                self.state.stage(chunk.id, chunk.offset, chunk.data).map_err(SnapshotError::Damaged)?;
            }
            Item::End(end) => self.check_end(end, hash)?,
        }
        Ok(())
    }

    fn take_session(&mut self, message: wire::SnapshotSession) -> Result<(), SnapshotError> {
        use wire::session_outcome::Outcome;
        let session =
            message.session.ok_or_else(|| SnapshotError::Damaged("a session is empty".to_owned()))?;
        let mut state = SessionState::new(session.try_into()?);
        state.forgotten = message.forgotten;
        for kept in message.outcomes {
            let outcome = match kept.outcome {
                Some(Outcome::Applied(outcome)) => Ok(outcome.try_into()?),
                Some(Outcome::Refused(refusal)) => Err(Refusal::try_from(refusal)?),
                None => return Err(SnapshotError::Damaged("an outcome is empty".to_owned())),
            };
            state.outcomes.insert(kept.sequence, outcome);
        }
        self.state.sessions.insert(state.session.id, state);
        Ok(())
    }

    fn check_end(&mut self, end: wire::SnapshotEnd, hash: u64) -> Result<(), SnapshotError> {
        let (records, sessions) = (self.state.records.len() as u64, self.state.sessions.len() as u64);
        if (end.records, end.sessions) != (records, sessions) {
            return Err(SnapshotError::Damaged(format!(
                "it has {records} records and {sessions} sessions, its end says {} and {}",
                end.records, end.sessions
            )));
        }
        if end.xxh3 != hash {
            return Err(SnapshotError::Damaged("its hash does not fit".to_owned()));
        }
        let attached: Vec<_> =
            self.state.records.iter().filter_map(|r| Some((r.session?, r.key.clone()))).collect();
        for (session, key) in attached {
            let Some(state) = self.state.sessions.get_mut(&session) else {
                return Err(SnapshotError::Damaged(format!(
                    "{key:?} hangs on session {session}, which is not in it"
                )));
            };
            state.keys.insert(key);
        }
        self.complete = true;
        Ok(())
    }
}

/// The pieces of a snapshot that is to replace the store, as they came.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    id: u64,
    // Shared, so that a copy of the whole for a snapshot is cheap.
    pieces: Vec<Bytes>,
    bytes: u64,
}

impl Staged {
    fn into_chunks(self) -> impl Iterator<Item = Item> + Send {
        let Self { id, pieces, .. } = self;
        let mut offset = 0;
        let pieces = pieces.into_iter().flat_map(|piece| {
            let starts = (0..piece.len()).step_by(STAGED_CHUNK_BYTES);
            starts.map(move |start| piece.slice(start..piece.len().min(start + STAGED_CHUNK_BYTES)))
        });
        pieces.map(move |data| {
            let chunk = wire::RestoreChunk { id, offset, data };
            offset += chunk.data.len() as u64;
            Item::Staged(chunk)
        })
    }
}

impl State {
    /// Lets the generation of tokens be at least this one: a restore of this state gives out higher ones.
    pub fn raise_generation(&mut self, least: u64) {
        self.generation = self.generation.max(least);
    }

    /// Leaves out revisions and ids of sessions that may have been given out after this state was taken, whatever
    /// became of them: the next ones are at least `least`.
    #[cfg(feature = "raft")]
    pub(crate) fn leap(&mut self, least: u64) {
        let ahead = |number: u64| number.saturating_add(LEAP).max(least);
        self.revision = Revision(ahead(self.revision.0));
        self.next_session = ahead(self.next_session);
    }

    pub(super) fn stage(&mut self, id: u64, offset: u64, data: Bytes) -> Result<u64, String> {
        if self.staged.as_ref().is_none_or(|staged| staged.id != id) {
            self.staged = Some(Box::new(Staged { id, pieces: Vec::new(), bytes: 0 }));
        }
        let Some(staged) = &mut self.staged else { return Ok(0) };
        let have = staged.bytes;
        if offset != have {
            return Err(format!(
                "the piece belongs at {offset}, and {have} bytes are here; send the snapshot again"
            ));
        }
        if have + data.len() as u64 > RESTORE_BYTES_MAX {
            self.staged = None;
            return Err(format!("the snapshot is larger than {RESTORE_BYTES_MAX} bytes"));
        }
        staged.bytes += data.len() as u64;
        staged.pieces.push(data);
        Ok(staged.bytes)
    }

    /// The restore that is under way: its id, and how many bytes of its snapshot are here.
    #[cfg(feature = "raft")]
    pub(crate) fn staged(&self) -> Option<(u64, u64)> {
        self.staged.as_ref().map(|staged| (staged.id, staged.bytes))
    }

    pub(super) fn drop_restore(&mut self, id: u64, bytes: u64) -> bool {
        self.staged.take_if(|staged| staged.id == id && staged.bytes <= bytes).is_some()
    }

    pub(super) fn finish_restore(&mut self, id: u64, bytes: u64, xxh3: u64) -> Result<Restored, String> {
        let staged = self.staged.take().filter(|staged| staged.id == id);
        let staged = staged.ok_or("its pieces are not here; send the snapshot again")?;
        let mut hash = Xxh3::new();
        staged.pieces.iter().for_each(|piece| hash.update(piece));
        if staged.bytes != bytes || hash.digest() != xxh3 {
            return Err(format!(
                "{} of {bytes} bytes arrived, or they were altered; send it again",
                staged.bytes
            ));
        }
        let mut reader = SnapshotReader::default();
        for piece in &staged.pieces {
            reader.push(piece).map_err(|error| error.to_string())?;
        }
        let snapshot = reader.finish().map_err(|error| error.to_string())?;
        Ok(self.replace_by(snapshot))
    }

    /// Takes over the records of `snapshot`, as written at the revision of the restore. Nothing that was given out before stays valid: no session,
    /// no grant, no token, no revision to resume from. What was audited here is kept.
    ///
    /// The changes that [`State::take_changes`] then holds are of no use to watchers, who are better told of
    /// a gap: it may be the whole store.
    pub fn replace_by(&mut self, snapshot: State) -> Restored {
        let mut changes = Vec::new();
        let old = std::mem::take(&mut self.records);
        for record in old.iter() {
            if record.key.is_reserved() {
                self.records.put(record.clone());
            }
        }
        let revision = Revision(self.revision.max(snapshot.revision).0 + 1);
        for record in snapshot.records.into_records().filter(|record| record.session.is_none()) {
            // A key's revision never goes back: whoever has seen a later one would not believe it.
            self.records.put(Record { revision, ..(*record).clone() });
        }
        for record in old.iter().filter(|record| self.records.get(&record.key).is_none()) {
            changes.push(Change::Deleted { key: record.key.clone(), cause: DeleteCause::Restored });
        }
        changes.extend(self.records.iter().filter(|r| r.revision == revision).cloned().map(Change::Put));
        self.sessions.clear();
        self.next_session = self.next_session.max(snapshot.next_session);
        self.generation = self.generation.max(snapshot.generation) + 1;
        self.revision = Revision(revision.0 - 1);
        self.commit(changes);
        // Revisions of the snapshot mean nothing to whoever watched before.
        self.history = History::starting_after(revision);
        Restored { revision, generation: self.generation }
    }

    /// The highest session id that was ever given out.
    pub fn last_session(&self) -> SessionId {
        SessionId(self.next_session.saturating_sub(1))
    }
}
