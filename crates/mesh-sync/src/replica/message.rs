//! What replicas say to each other, and how it is written.
//!
//! Numbers are varints, hashes and keys are as they are. Reading is bounded: nothing is reserved that the bytes at
//! hand can't fill, and entries stay slices of the frame.

use bytes::Bytes;
use mesh_core::Hlc;

use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, ENTRY_BYTES_MAX},
    reconcile::{
        Arrival as Cursor, Root,
        wire::{Reader, WireError, put_varint},
    },
    store::PrunedEntry,
};

/// The longest message.
pub const MESSAGE_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX;
/// Most names in one message.
pub const LIST_MAX: usize = 4096;

/// A message between two replicas of one dataset.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// How the sender's set stands, and how far it has followed the receiver's arrivals, durably.
    Heartbeat {
        /// Count, hash and last arrival.
        root: Root,
        /// The sender's cursor in the receiver's arrivals.
        followed: Option<Cursor>,
    },
    /// What the sender has just committed.
    Announce(Listing),
    /// The next arrivals after a cursor.
    Pull {
        /// The cursor.
        since: Cursor,
        /// Whether bodies shall follow without being asked for.
        bodies: bool,
    },
    /// The answer to a pull.
    Page {
        /// What arrived.
        listing: Listing,
        /// Whether there is more.
        more: bool,
    },
    /// The receiver is to send these entries.
    Want(Vec<EntryId>),
    /// Entries.
    Entries {
        /// The sender's number for this message.
        batch: u64,
        /// Each with its id, so that known ones are dropped unread.
        entries: Vec<(EntryId, Bytes)>,
    },
    /// What became of the entries of a batch, in their order. Sent after the commit.
    Ack {
        /// The number that came with them.
        batch: u64,
        /// One for each entry.
        verdicts: Vec<Verdict>,
    },
    /// All that the sender held at this place of its arrivals was given and acknowledged.
    Caught(Cursor),
    /// Up to which number the sender holds each author's entries.
    Confirm {
        /// Whether what was confirmed before is void.
        first: bool,
        /// The authors.
        heads: Vec<(AuthorId, AuthorSequence)>,
    },
    /// A frame of a comparison.
    Reconcile {
        /// Which comparison; its initiator draws it.
        session: u64,
        /// The number of this frame among the sender's.
        number: u64,
        /// The frame.
        frame: Bytes,
    },
    /// These were wanted, but pruned: as parents they need not be there. It counts as far as the receiver has been
    /// told to prune these numbers itself.
    PrunedBoundary(Vec<PrunedEntry>),
    /// These were wanted, but the sender knows nothing of them.
    Unknown(Vec<EntryId>),
    /// The sender won't.
    Refuse(Refusal),
}

/// A stretch of a replica's arrivals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The store's incarnation.
    pub incarnation: u64,
    /// The stretch begins after this arrival.
    pub after: u64,
    /// And ends with this one.
    pub last: u64,
    /// Whether the bodies come without being asked for.
    pub bodies: bool,
    /// What arrived, without what the receiver has given itself.
    pub items: Vec<(u64, Item)>,
}

/// What became of one entry, as told to the peer that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is durable.
    Stored,
    /// It was there.
    Duplicate,
    /// It is ahead of the clock, and will be asked for.
    Deferred,
    /// It waits for its parents.
    Orphan,
    /// It is refused for good.
    Rejected,
    /// There was no room; send it again later.
    Busy,
}

impl Verdict {
    const ALL: [Self; 6] =
        [Self::Stored, Self::Duplicate, Self::Deferred, Self::Orphan, Self::Rejected, Self::Busy];

    /// Whether the entry is held.
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Stored | Self::Duplicate)
    }
}

/// Why a peer won't. A closed set, so that it can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// The message can't be read, or contradicts itself.
    Malformed,
    /// Something is larger than it may be.
    Limit,
    /// Not now.
    Busy,
    /// The cursor belongs to another incarnation, or is ahead.
    Cursor,
    /// The comparison is over, or lost a frame.
    Session,
}

impl Refusal {
    const ALL: [Self; 5] = [Self::Malformed, Self::Limit, Self::Busy, Self::Cursor, Self::Session];
}

impl Message {
    /// Its name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Heartbeat { .. } => "heartbeat",
            Self::Announce(_) => "announce",
            Self::Pull { .. } => "pull",
            Self::Page { .. } => "page",
            Self::Want(_) => "want",
            Self::Entries { .. } => "entries",
            Self::Ack { .. } => "ack",
            Self::Caught(_) => "caught",
            Self::Confirm { .. } => "confirm",
            Self::Reconcile { .. } => "reconcile",
            Self::PrunedBoundary(_) => "pruned_boundary",
            Self::Unknown(_) => "unknown",
            Self::Refuse(_) => "refuse",
        }
    }

    /// The message as bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Heartbeat { root, followed } => {
                out.push(1 + u8::from(followed.is_some()));
                out.extend_from_slice(&root.encode());
                followed.iter().for_each(|cursor| put_cursor(&mut out, cursor));
            }
            Self::Announce(listing) => {
                out.push(3);
                listing.write(&mut out);
            }
            Self::Pull { since, bodies } => {
                out.push(4 + u8::from(*bodies));
                put_cursor(&mut out, since);
            }
            Self::Page { listing, more } => {
                out.push(6 + u8::from(*more));
                listing.write(&mut out);
            }
            Self::Want(ids) => put_ids(&mut out, 8, ids),
            Self::Entries { batch, entries } => {
                out.reserve(entries.iter().map(|(_, body)| body.len() + 40).sum());
                out.push(9);
                put_varint(&mut out, *batch);
                put_varint(&mut out, entries.len() as u64);
                for (id, body) in entries {
                    out.extend_from_slice(id.as_bytes());
                    put_varint(&mut out, body.len() as u64);
                    out.extend_from_slice(body);
                }
            }
            Self::Ack { batch, verdicts } => {
                out.push(10);
                put_varint(&mut out, *batch);
                for run in verdicts.chunk_by(|a, b| a == b) {
                    out.push(run[0] as u8);
                    put_varint(&mut out, run.len() as u64);
                }
            }
            Self::Caught(cursor) => {
                out.push(11);
                put_cursor(&mut out, cursor);
            }
            Self::Confirm { first, heads } => {
                out.push(12 + u8::from(*first));
                put_varint(&mut out, heads.len() as u64);
                for (author, sequence) in heads {
                    out.extend_from_slice(author.as_bytes());
                    put_varint(&mut out, sequence.0);
                }
            }
            Self::Reconcile { session, number, frame } => {
                out.push(14);
                out.extend_from_slice(&session.to_le_bytes());
                put_varint(&mut out, *number);
                out.extend_from_slice(frame);
            }
            Self::PrunedBoundary(pruned) => {
                out.push(15);
                put_varint(&mut out, pruned.len() as u64);
                for PrunedEntry { id, author, sequence } in pruned {
                    out.extend_from_slice(id.as_bytes());
                    out.extend_from_slice(author.as_bytes());
                    put_varint(&mut out, sequence.0);
                }
            }
            Self::Unknown(ids) => put_ids(&mut out, 16, ids),
            Self::Refuse(refusal) => out.extend([17, *refusal as u8]),
        }
        out.into()
    }

    /// The message that `bytes` hold.
    ///
    /// # Errors
    ///
    /// [`WireError`] if they hold none, or something after it. No bytes make it panic.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(WireError::Invalid { what: "the length of a message", value: bytes.len() as u64 });
        }
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            tag @ 1..=2 => {
                let root = Root::decode(reader.take(Root::BYTES)?)?;
                let followed = if tag == 2 { Some(cursor(&mut reader)?) } else { None };
                Self::Heartbeat { root, followed }
            }
            3 => Self::Announce(Listing::read(&mut reader)?),
            tag @ 4..=5 => Self::Pull { since: cursor(&mut reader)?, bodies: tag == 5 },
            tag @ 6..=7 => Self::Page { listing: Listing::read(&mut reader)?, more: tag == 7 },
            8 => Self::Want(ids(&mut reader)?),
            9 => Self::Entries { batch: reader.varint()?, entries: entries(bytes, &mut reader)? },
            10 => Self::Ack { batch: reader.varint()?, verdicts: verdicts(&mut reader)? },
            11 => Self::Caught(cursor(&mut reader)?),
            tag @ 12..=13 => {
                let count = list_length(&mut reader, 33)?;
                let mut heads = Vec::with_capacity(count);
                for _ in 0..count {
                    heads.push((AuthorId(reader.array()?), AuthorSequence(reader.varint()?)));
                }
                Self::Confirm { first: tag == 13, heads }
            }
            14 => {
                let (session, number) = (reader.u64()?, reader.varint()?);
                let frame = bytes.slice(bytes.len() - reader.remaining()..);
                reader.take(frame.len())?;
                Self::Reconcile { session, number, frame }
            }
            15 => {
                let count = list_length(&mut reader, 65)?;
                let mut pruned = Vec::with_capacity(count);
                for _ in 0..count {
                    let (id, author) = (EntryId(reader.array()?), AuthorId(reader.array()?));
                    pruned.push(PrunedEntry { id, author, sequence: AuthorSequence(reader.varint()?) });
                }
                Self::PrunedBoundary(pruned)
            }
            16 => Self::Unknown(ids(&mut reader)?),
            17 => Self::Refuse(one_of(&Refusal::ALL, reader.u8()?, "a refusal")?),
            tag => return Err(WireError::Invalid { what: "a message tag", value: tag.into() }),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Listing {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        put_varint(out, self.after);
        put_varint(out, self.last.wrapping_sub(self.after));
        out.push(u8::from(self.bodies));
        put_varint(out, self.items.len() as u64);
        let (mut sequence, mut hlc) = (self.after, 0_u64);
        for (at, item) in &self.items {
            put_varint(out, at.wrapping_sub(sequence));
            let bits = item.hlc.to_bits();
            let step = bits.wrapping_sub(hlc).cast_signed();
            put_varint(out, ((step << 1) ^ (step >> 63)).cast_unsigned());
            out.extend_from_slice(item.id.as_bytes());
            (sequence, hlc) = (*at, bits);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let incarnation = reader.u64()?;
        let after = reader.varint()?;
        let last = after.checked_add(reader.varint()?);
        let last = last.ok_or(WireError::Invalid { what: "an arrival", value: after })?;
        let bodies = match reader.u8()? {
            flag @ 0..=1 => flag == 1,
            flag => return Err(WireError::Invalid { what: "the flag of a list", value: flag.into() }),
        };
        let count = list_length(reader, 34)?;
        let mut items = Vec::with_capacity(count);
        let (mut sequence, mut hlc) = (after, 0_u64);
        for _ in 0..count {
            let step = reader.varint()?;
            sequence = sequence.saturating_add(step);
            if step == 0 || sequence > last {
                return Err(WireError::Invalid { what: "the arrival of an entry", value: sequence });
            }
            let zigzag = reader.varint()?;
            let step = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
            hlc = hlc.wrapping_add(step.cast_unsigned());
            items.push((sequence, Item { hlc: Hlc::from_bits(hlc), id: EntryId(reader.array()?) }));
        }
        Ok(Self { incarnation, after, last, bodies, items })
    }
}

fn put_cursor(out: &mut Vec<u8>, cursor: &Cursor) {
    out.extend_from_slice(&cursor.incarnation.to_le_bytes());
    put_varint(out, cursor.sequence);
}

fn cursor(reader: &mut Reader<'_>) -> Result<Cursor, WireError> {
    Ok(Cursor { incarnation: reader.u64()?, sequence: reader.varint()? })
}

fn put_ids(out: &mut Vec<u8>, tag: u8, ids: &[EntryId]) {
    out.push(tag);
    put_varint(out, ids.len() as u64);
    ids.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
}

fn ids(reader: &mut Reader<'_>) -> Result<Vec<EntryId>, WireError> {
    let count = list_length(reader, 32)?;
    (0..count).map(|_| Ok(EntryId(reader.array()?))).collect()
}

fn entries(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Vec<(EntryId, Bytes)>, WireError> {
    let count = list_length(reader, 33)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let id = EntryId(reader.array()?);
        let length = reader.count(1)?;
        let at = bytes.len() - reader.remaining();
        reader.take(length)?;
        entries.push((id, bytes.slice(at..at + length)));
    }
    Ok(entries)
}

fn verdicts(reader: &mut Reader<'_>) -> Result<Vec<Verdict>, WireError> {
    let mut verdicts = Vec::new();
    while reader.remaining() > 0 {
        let verdict = one_of(&Verdict::ALL, reader.u8()?, "a verdict")?;
        let run = reader.varint()?;
        let room = (LIST_MAX - verdicts.len()) as u64;
        if run == 0 || run > room {
            return Err(WireError::Invalid { what: "a run of verdicts", value: run });
        }
        verdicts.extend(std::iter::repeat_n(verdict, run as usize));
    }
    Ok(verdicts)
}

fn list_length(reader: &mut Reader<'_>, each: usize) -> Result<usize, WireError> {
    match reader.count(each)? {
        count if count <= LIST_MAX => Ok(count),
        count => Err(WireError::Invalid { what: "the length of a list", value: count as u64 }),
    }
}

fn one_of<T: Copy>(all: &[T], code: u8, what: &'static str) -> Result<T, WireError> {
    all.get(usize::from(code)).copied().ok_or(WireError::Invalid { what, value: code.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples() -> Vec<Message> {
        let id = |n: u8| EntryId([n; 32]);
        let item = |hlc, n| Item { hlc: Hlc::from_bits(hlc), id: id(n) };
        let cursor = Cursor { incarnation: 7, sequence: 300 };
        let listing = Listing {
            incarnation: 9,
            after: 3,
            last: 10,
            bodies: true,
            items: vec![(4, item(500, 1)), (9, item(2, 2)), (10, item(u64::MAX, 3))],
        };
        vec![
            Message::Heartbeat { root: Root::default(), followed: None },
            Message::Heartbeat { root: Root::default(), followed: Some(cursor) },
            Message::Announce(listing.clone()),
            Message::Pull { since: cursor, bodies: true },
            Message::Page { listing, more: true },
            Message::Want(vec![id(1), id(2)]),
            Message::Entries {
                batch: 4,
                entries: vec![(id(1), Bytes::from_static(b"one")), (id(2), Bytes::new())],
            },
            Message::Ack { batch: 4, verdicts: vec![Verdict::Stored, Verdict::Stored, Verdict::Busy] },
            Message::Caught(cursor),
            Message::Confirm { first: true, heads: vec![(AuthorId([3; 32]), AuthorSequence(4))] },
            Message::Reconcile { session: 1, number: 2, frame: Bytes::from_static(b"frame") },
            Message::PrunedBoundary(vec![PrunedEntry {
                id: id(4),
                author: AuthorId([5; 32]),
                sequence: AuthorSequence(600),
            }]),
            Message::Unknown(vec![]),
            Message::Refuse(Refusal::Cursor),
        ]
    }

    #[test]
    fn every_message_comes_back_and_every_prefix_is_refused_or_another_message() {
        for message in samples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message));
            for length in 0..bytes.len() {
                assert_ne!(Message::decode(&bytes.slice(..length)), Ok(message.clone()));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes.into());
        }

        #[test]
        fn what_can_be_read_is_written_as_it_was_read(
            which in 0..14_usize, at in any::<usize>(), flip in 1..=255_u8,
        ) {
            let mut bytes = samples()[which].encode().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(message) = Message::decode(&bytes.into()) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
