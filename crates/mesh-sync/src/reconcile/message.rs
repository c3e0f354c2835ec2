//! What the two sides of a session say to each other, and how it is written.
//!
//! Numbers are little-endian or varints; a bound between ranges is a difference of stamps and as much of an id as tells
//! it from its neighbour. Reading is bounded: nothing is reserved that the bytes at hand can't fill.

use mesh_core::Hlc;

use super::{
    key::{Nonce, ShortId},
    limits::{Limits, Refusal},
    probe::Probes,
    root::{Arrival, Root, SetHash},
    sketch::Cell,
    wire::{Reader, WireError, put_varint},
};
use crate::{EntryId, Item};

/// Most tails of a hello.
pub(super) const TAILS_MAX: u8 = 12;

/// A message of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The initiator begins.
    Hello(Box<Hello>),
    /// The responder says what it will do.
    Welcome(Welcome),
    /// The next cells of the responder's sketch; `last` if it sends no more unless asked.
    Symbols {
        /// The cells.
        cells: Vec<Cell>,
        /// Whether the responder pauses now.
        last: bool,
    },
    /// The initiator needs that many more cells.
    More(u32),
    /// The initiator has decoded the difference. The last message of several carries what proves it.
    Found {
        /// Entries of the responder that the initiator wants.
        want: Vec<ShortId>,
        /// Entries of the responder that it lacks, but doesn't want now.
        unwanted: Vec<ShortId>,
        /// Count and sum of the entries that the responder lacks.
        proof: Option<(u64, SetHash)>,
    },
    /// The sketch was no use. Ranges follow, under a fresh key if `salted`.
    Fallback {
        /// Whether the epoch's key is not to be relied on.
        salted: bool,
    },
    /// What was found explains both roots.
    Settled,
    /// Answers about ranges.
    Parts(Vec<Part>),
    /// The sender has given up.
    Refused(Refusal),
}

/// The initiator's first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The key under which its cached hashes are kept.
    pub key_tag: u64,
    /// Its set.
    pub root: Root,
    /// Its half of the session's key.
    pub nonce: Nonce,
    /// What it accepts.
    pub limits: Limits,
    /// How far it has followed the responder's arrivals.
    pub cursor: Option<Arrival>,
    /// Whether the cached hashes must not be relied on.
    pub salted: bool,
    /// Bits of its sketch, for a guess at the difference.
    pub probes: Probes,
    /// Fingerprints of all but its newest 256, 1024, 4096, … items.
    pub tails: Vec<Tail>,
}

/// Where the newest items begin, and a fingerprint of all before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The first of the newest items, or a bound just before it.
    pub from: Item,
    /// Of what is before, under the initiator's nonce. One in four billion is mistaken for equal; the next session,
    /// with another nonce, finds what was missed.
    pub seal: u32,
}

/// The responder's first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// Its set, if it is the same: what makes up another one is told by what follows.
    pub root: Option<Root>,
    /// Its half of the session's key.
    pub nonce: Nonce,
    /// What it accepts.
    pub limits: Limits,
    /// How many differences it guesses.
    pub estimate: u64,
    /// What happens next.
    pub plan: Plan,
}

/// How a session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Not at all: the sets are equal.
    Equal,
    /// The initiator reads what arrived after its cursor.
    Since,
    /// The responder sends cells.
    Sketch,
    /// The responder sends parts, from the initiator's tail of that number or from the start.
    Ranges {
        /// Whether fingerprints are made under the session's key.
        salted: bool,
        /// Which tail.
        tail: Option<u8>,
    },
}

/// What is said about a stretch of a range: from where the part before it ended to `upper`, or to the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Where it ends; `None` at the end of the range that was asked about.
    pub upper: Option<Item>,
    /// What is said.
    pub body: Body,
}

/// What a part says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing differs.
    Same,
    /// So many items with this fingerprint.
    Print {
        /// How many.
        count: u64,
        /// The fingerprint under the session's key.
        seal: u64,
    },
    /// All items, in order, by their short ids under the session's key.
    List(Vec<ShortId>),
    /// The receiver is to list its items.
    Ask,
    /// The sender has none and wants all.
    All,
    /// A sketch under the session's key.
    Sketch(Vec<Cell>),
    /// Which of the listed items are wanted, as (how many not, how many).
    Want(Vec<(u32, u32)>),
    /// Which items of the sketch are wanted.
    WantIds(Vec<ShortId>),
    /// A limit is near: this is left to the next session.
    Later,
}

impl Message {
    /// What it is called in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "a hello",
            Message::Welcome(_) => "a welcome",
            Message::Symbols { .. } => "symbols",
            Message::More(_) => "a request for symbols",
            Message::Found { .. } => "a difference",
            Message::Fallback { .. } => "a fallback",
            Message::Settled => "a settlement",
            Message::Parts(_) => "range parts",
            Message::Refused(_) => "a refusal",
        }
    }

    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Message::Hello(hello) => {
                out.push(0);
                hello.write(&mut out);
            }
            Message::Welcome(welcome) => {
                out.push(1);
                welcome.write(&mut out);
            }
            Message::Symbols { cells, last } => {
                out.push(if *last { 3 } else { 2 });
                put_cells(&mut out, cells);
            }
            Message::More(symbols) => {
                out.push(4);
                put_varint(&mut out, (*symbols).into());
            }
            Message::Found { want, unwanted, proof } => {
                out.push(if proof.is_some() { 6 } else { 5 });
                put_ids(&mut out, want);
                put_ids(&mut out, unwanted);
                if let Some((count, hash)) = proof {
                    put_varint(&mut out, *count);
                    out.extend_from_slice(&hash.0.to_le_bytes());
                }
            }
            Message::Fallback { salted } => out.push(if *salted { 8 } else { 7 }),
            Message::Settled => out.push(9),
            Message::Parts(parts) => {
                out.push(10);
                let mut hlc = 0;
                parts.iter().for_each(|part| part.write(&mut hlc, &mut out));
            }
            Message::Refused(refusal) => out.extend([11, refusal.code()]),
        }
        out
    }

    /// The message that `bytes` hold.
    ///
    /// # Errors
    ///
    /// [`WireError`] if they hold none, or something after it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Message::Hello(Box::new(Hello::read(&mut reader)?)),
            1 => Message::Welcome(Welcome::read(&mut reader)?),
            tag @ 2..=3 => Message::Symbols { cells: cells(&mut reader)?, last: tag == 3 },
            4 => Message::More(small(&mut reader)?),
            tag @ 5..=6 => {
                let (want, unwanted) = (ids(&mut reader)?, ids(&mut reader)?);
                let proof = match tag {
                    6 => Some((reader.varint()?, SetHash(reader.u128()?))),
                    _ => None,
                };
                Message::Found { want, unwanted, proof }
            }
            tag @ 7..=8 => Message::Fallback { salted: tag == 8 },
            9 => Message::Settled,
            10 => {
                let mut parts = Vec::new();
                let mut hlc = 0;
                while reader.remaining() > 0 {
                    parts.push(Part::read(&mut hlc, &mut reader)?);
                }
                Message::Parts(parts)
            }
            11 => Message::Refused(Refusal::from_code(reader.u8()?)?),
            tag => return Err(WireError::Invalid { what: "a message tag", value: tag.into() }),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Hello {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.cursor.is_some()) | u8::from(self.salted) << 1);
        out.extend_from_slice(&self.key_tag.to_le_bytes());
        self.root.write(out);
        out.extend_from_slice(&self.nonce.0);
        self.limits.write(out);
        if let Some(cursor) = &self.cursor {
            out.extend_from_slice(&cursor.incarnation.to_le_bytes());
            put_varint(out, cursor.sequence);
        }
        out.extend_from_slice(&self.probes.0);
        out.push(self.tails.len().min(usize::from(TAILS_MAX)) as u8);
        let mut hlc = 0;
        // The oldest first, so that stamps grow.
        for tail in self.tails.iter().take(usize::from(TAILS_MAX)).rev() {
            put_bound(out, &mut hlc, &tail.from);
            out.extend_from_slice(&tail.seal.to_le_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(WireError::Invalid { what: "the flags of a hello", value: flags.into() });
        }
        let key_tag = reader.u64()?;
        let root = Root::read_short(reader)?;
        let nonce = Nonce(reader.array()?);
        let limits = Limits::read(reader)?;
        let cursor = match flags & 1 {
            1 => Some(Arrival { incarnation: reader.u64()?, sequence: reader.varint()? }),
            _ => None,
        };
        let probes = Probes(reader.array()?);
        let count = reader.u8()?;
        if count > TAILS_MAX {
            return Err(WireError::Invalid { what: "the number of tails", value: count.into() });
        }
        let mut tails = Vec::new();
        let mut hlc = 0;
        for _ in 0..count {
            tails.push(Tail { from: bound(reader, &mut hlc)?, seal: reader.u32()? });
        }
        tails.reverse();
        Ok(Self { key_tag, root, nonce, limits, cursor, salted: flags & 2 != 0, probes, tails })
    }
}

impl Welcome {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.root.is_some()));
        self.root.iter().for_each(|root| root.write(out));
        out.extend_from_slice(&self.nonce.0);
        self.limits.write(out);
        put_varint(out, self.estimate);
        match self.plan {
            Plan::Equal => out.push(0),
            Plan::Since => out.push(1),
            Plan::Sketch => out.push(2),
            Plan::Ranges { salted, tail } => {
                out.extend([if salted { 4 } else { 3 }, tail.map_or(0, |tail| tail.saturating_add(1))]);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let root = match reader.u8()? {
            0 => None,
            1 => Some(Root::read_short(reader)?),
            flag => return Err(WireError::Invalid { what: "the flag of a welcome", value: flag.into() }),
        };
        let nonce = Nonce(reader.array()?);
        let limits = Limits::read(reader)?;
        let estimate = reader.varint()?;
        let plan = match reader.u8()? {
            0 => Plan::Equal,
            1 => Plan::Since,
            2 => Plan::Sketch,
            tag @ 3..=4 => Plan::Ranges { salted: tag == 4, tail: reader.u8()?.checked_sub(1) },
            tag => return Err(WireError::Invalid { what: "a plan", value: tag.into() }),
        };
        Ok(Self { root, nonce, limits, estimate, plan })
    }
}

impl Part {
    /// At least how many bytes it takes, within a few.
    pub(super) fn bytes(&self) -> usize {
        let body = match &self.body {
            Body::Same | Body::Ask | Body::All | Body::Later => 0,
            Body::Print { .. } => 13,
            Body::List(ids) | Body::WantIds(ids) => 5 + ids.len() * 8,
            Body::Sketch(cells) => 5 + cells.len() * Cell::BYTES,
            Body::Want(runs) => 5 + runs.len() * 10,
        };
        body + if self.upper.is_some() { 48 } else { 1 }
    }

    fn write(&self, hlc: &mut u64, out: &mut Vec<u8>) {
        let tag = match &self.body {
            Body::Same => 0,
            Body::Print { .. } => 1,
            Body::List(_) => 2,
            Body::Ask => 3,
            Body::All => 4,
            Body::Sketch(_) => 5,
            Body::Want(_) => 6,
            Body::WantIds(_) => 7,
            Body::Later => 8,
        };
        out.push(tag << 1 | u8::from(self.upper.is_some()));
        if let Some(upper) = &self.upper {
            put_bound(out, hlc, upper);
        }
        match &self.body {
            Body::Same | Body::Ask | Body::All | Body::Later => {}
            Body::Print { count, seal } => {
                put_varint(out, *count);
                out.extend_from_slice(&seal.to_le_bytes());
            }
            Body::List(ids) | Body::WantIds(ids) => put_ids(out, ids),
            Body::Sketch(cells) => put_cells(out, cells),
            Body::Want(runs) => {
                put_varint(out, runs.len() as u64);
                for (skip, take) in runs {
                    put_varint(out, (*skip).into());
                    put_varint(out, (*take).into());
                }
            }
        }
    }

    fn read(hlc: &mut u64, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let tag = reader.u8()?;
        let upper = match tag & 1 {
            1 => Some(bound(reader, hlc)?),
            _ => None,
        };
        let body = match tag >> 1 {
            0 => Body::Same,
            1 => Body::Print { count: reader.varint()?, seal: reader.u64()? },
            2 => Body::List(ids(reader)?),
            3 => Body::Ask,
            4 => Body::All,
            5 => Body::Sketch(cells(reader)?),
            6 => {
                let count = reader.count(2)?;
                let mut runs = Vec::with_capacity(count);
                for _ in 0..count {
                    runs.push((small(reader)?, small(reader)?));
                }
                Body::Want(runs)
            }
            7 => Body::WantIds(ids(reader)?),
            8 => Body::Later,
            tag => return Err(WireError::Invalid { what: "a part", value: tag.into() }),
        };
        Ok(Self { upper, body })
    }
}

/// A bound below `item` and above `before`, the item before it, with few bytes that are not zero.
pub(super) fn bound_between(before: Option<&Item>, item: &Item) -> Item {
    let shared = match before {
        Some(before) if before.hlc == item.hlc => {
            before.id.0.iter().zip(&item.id.0).take_while(|(a, b)| a == b).count() + 1
        }
        _ => 0,
    };
    let mut id = [0; 32];
    let kept = shared.min(32);
    id[..kept].copy_from_slice(&item.id.0[..kept]);
    Item { hlc: item.hlc, id: EntryId(id) }
}

fn put_bound(out: &mut Vec<u8>, hlc: &mut u64, bound: &Item) {
    put_varint(out, bound.hlc.to_bits().wrapping_sub(*hlc));
    *hlc = bound.hlc.to_bits();
    let id = bound.id.as_bytes();
    let length = id.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    out.push(length as u8);
    out.extend_from_slice(&id[..length]);
}

fn bound(reader: &mut Reader<'_>, hlc: &mut u64) -> Result<Item, WireError> {
    *hlc = hlc.wrapping_add(reader.varint()?);
    let length = reader.u8()?;
    if length > 32 {
        return Err(WireError::Invalid { what: "the length of a bound", value: length.into() });
    }
    let mut id = [0; 32];
    id[..usize::from(length)].copy_from_slice(reader.take(usize::from(length))?);
    Ok(Item { hlc: Hlc::from_bits(*hlc), id: EntryId(id) })
}

fn put_ids(out: &mut Vec<u8>, ids: &[ShortId]) {
    put_varint(out, ids.len() as u64);
    ids.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
}

fn ids(reader: &mut Reader<'_>) -> Result<Vec<ShortId>, WireError> {
    (0..reader.count(8)?).map(|_| Ok(ShortId(reader.u64()?))).collect()
}

fn put_cells(out: &mut Vec<u8>, cells: &[Cell]) {
    put_varint(out, cells.len() as u64);
    cells.iter().for_each(|cell| cell.write(out));
}

fn cells(reader: &mut Reader<'_>) -> Result<Vec<Cell>, WireError> {
    (0..reader.count(Cell::BYTES)?).map(|_| Cell::read(reader)).collect()
}

fn small(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    let value = reader.varint()?;
    u32::try_from(value).map_err(|_| WireError::Invalid { what: "a small number", value })
}
