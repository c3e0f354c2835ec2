//! Frames: what one write puts into the log, whole or not at all.
//!
//! ```text
//! frame   magic 4  version 2  reserved 2  sequence 8  synced 8  body 4  records 4  body xxh3 8  head xxh3 8
//!         record*  padding to 8 bytes, never empty, never zero
//! record  length 4  kind 1  reserved 3  xxh3 8  payload
//! ```
//!
//! Numbers are little-endian. A segment is zero where nothing was written, and no byte that ends a frame is
//! zero; so a frame of which a part never reached the disk shows zeros where it should not, and one that is
//! damaged without them was damaged later. `synced` is the last frame that was on disk for certain when this
//! one was written.

use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::wire;

const MAGIC: [u8; 4] = *b"MLOG";
const VERSION: u16 = 1;
/// Bytes before the records.
pub(super) const HEAD_BYTES: usize = 48;
/// Bytes before each payload.
const RECORD_HEAD_BYTES: usize = 16;
/// What pads a frame.
const PADDING: u8 = 0xA5;
/// A disk writes so much at once or nothing of it.
const SECTOR_BYTES: u64 = 512;
/// Where frames may begin.
pub(super) const ALIGNMENT: u64 = 8;

/// One fact that the log keeps.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Entry(wire::RaftEntry),
    Vote(wire::RaftBallot),
    /// All up to here is committed.
    Committed(wire::RaftLogId),
    /// Entries after this are void; `None` voids all.
    Truncated(Option<wire::RaftLogId>),
    /// Entries up to here are in a snapshot and gone.
    Purged(wire::RaftLogId),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => 1,
            Self::Vote(_) => 2,
            Self::Committed(_) => 3,
            Self::Truncated(_) => 4,
            Self::Purged(_) => 5,
        }
    }

    fn encode(&self, to: &mut Vec<u8>) {
        // A Vec grows as needed, so encoding can't fail for want of room.
        let _ = match self {
            Self::Entry(entry) => entry.encode(to),
            Self::Vote(ballot) => ballot.encode(to),
            Self::Committed(id) | Self::Purged(id) => id.encode(to),
            Self::Truncated(through) => wire::RaftPartial { through: *through }.encode(to),
        };
    }

    fn decode(kind: u8, payload: bytes::Bytes) -> Result<Self, String> {
        let text = |error: prost::DecodeError| format!("a record of kind {kind} can't be decoded: {error}");
        Ok(match kind {
            1 => Self::Entry(wire::RaftEntry::decode(payload).map_err(text)?),
            2 => Self::Vote(wire::RaftBallot::decode(payload).map_err(text)?),
            3 => Self::Committed(wire::RaftLogId::decode(payload).map_err(text)?),
            4 => Self::Truncated(wire::RaftPartial::decode(payload).map_err(text)?.through),
            5 => Self::Purged(wire::RaftLogId::decode(payload).map_err(text)?),
            _ => return Err(format!("a record is of kind {kind}, which this program does not know")),
        })
    }
}

/// Where a record is within its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

/// A frame under construction.
pub(super) struct FrameBuilder {
    buffer: Vec<u8>,
    records: u32,
}

impl FrameBuilder {
    pub(super) fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEAD_BYTES, 0);
        Self { buffer, records: 0 }
    }

    /// Adds a record; its span counts from the frame's beginning.
    pub(super) fn push(&mut self, record: &Record) -> Span {
        let start = self.buffer.len();
        self.buffer.resize(start + RECORD_HEAD_BYTES, 0);
        record.encode(&mut self.buffer);
        let payload = self.buffer.len() - start - RECORD_HEAD_BYTES;
        let length = u32::try_from(payload).unwrap_or(u32::MAX);
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.buffer[start + 4] = record.kind();
        let sum = record_sum(&self.buffer[start..start + 8], &self.buffer[start + RECORD_HEAD_BYTES..]);
        self.buffer[start + 8..start + 16].copy_from_slice(&sum.to_le_bytes());
        self.records += 1;
        let bytes = u32::try_from(self.buffer.len() - start).unwrap_or(u32::MAX);
        Span { offset: start as u64, bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the frame if it were finished now.
    pub(super) fn finished_len(&self) -> usize {
        (self.buffer.len() / ALIGNMENT as usize + 1) * ALIGNMENT as usize
    }

    /// The finished frame.
    pub(super) fn finish(mut self, sequence: u64, synced: u64) -> Vec<u8> {
        let padded = self.finished_len();
        self.buffer.resize(padded, PADDING);
        let body = u32::try_from(self.buffer.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        let sum = xxh3_64(&self.buffer[HEAD_BYTES..]);
        let head = Head { sequence, synced, body, records: self.records, sum };
        self.buffer[..HEAD_BYTES].copy_from_slice(&head.encode());
        self.buffer
    }
}

fn record_sum(head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

/// What stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) synced: u64,
    pub(super) body: u32,
    pub(super) records: u32,
    sum: u64,
}

/// Why there is no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was written here.
    Nothing,
    /// A part of it never reached the disk.
    Torn,
    /// It was whole once, and is not any more.
    Damaged(String),
    /// A newer program wrote it.
    Version(u16),
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&VERSION.to_le_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.synced.to_le_bytes());
        head[24..28].copy_from_slice(&self.body.to_le_bytes());
        head[28..32].copy_from_slice(&self.records.to_le_bytes());
        head[32..40].copy_from_slice(&self.sum.to_le_bytes());
        let sum = xxh3_64(&head[..40]);
        head[40..].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// The head at the beginning of `bytes`, which are at `offset` of their segment.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self, Fault> {
        let head = bytes.get(..HEAD_BYTES).unwrap_or(bytes);
        if head.iter().all(|byte| *byte == 0) {
            return Err(Fault::Nothing);
        }
        if head.len() < HEAD_BYTES {
            return Err(Fault::Torn);
        }
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes of a head"));
        let half = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes of a head"));
        if head[..4] != MAGIC || word(40) != xxh3_64(&head[..40]) {
            return Err(if has_hole(head, offset) {
                Fault::Torn
            } else {
                Fault::Damaged("the head of a frame does not fit its checksum".to_owned())
            });
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        Ok(Self { sequence: word(8), synced: word(16), body: half(24), records: half(28), sum: word(32) })
    }

    /// Bytes of the whole frame.
    pub(super) fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.body)
    }

    /// The records after this head. `body` begins at `offset` of its segment and may be cut short.
    pub(super) fn records(&self, body: &bytes::Bytes, offset: u64) -> Result<Vec<(Span, Record)>, Fault> {
        let length = self.body as usize;
        if body.len() < length {
            return Err(Fault::Torn);
        }
        let body = body.slice(..length);
        if xxh3_64(&body) != self.sum {
            return Err(if has_hole(&body, offset) {
                Fault::Torn
            } else {
                Fault::Damaged(format!("frame {} does not fit its checksum", self.sequence))
            });
        }
        // What fits its checksum was written so; a mistake in it is one of ours.
        let mut records = Vec::new();
        let mut at = 0;
        for _ in 0..self.records {
            let (bytes, record) = parse_record(&body.slice(at..)).map_err(Fault::Damaged)?;
            records.push((Span { offset: offset + at as u64, bytes }, record));
            at += bytes as usize;
        }
        Ok(records)
    }
}

/// The record at the beginning of `bytes`, and its length.
pub(super) fn parse_record(bytes: &bytes::Bytes) -> Result<(u32, Record), String> {
    let Some(head) = bytes.get(..RECORD_HEAD_BYTES) else {
        return Err("a record is cut short".to_owned());
    };
    let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes of a record's head"));
    let sum = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes of a record's head"));
    let end = RECORD_HEAD_BYTES + length as usize;
    let Some(payload) = bytes.get(RECORD_HEAD_BYTES..end) else {
        return Err("a record is cut short".to_owned());
    };
    if record_sum(&head[..8], payload) != sum {
        return Err("a record does not fit its checksum".to_owned());
    }
    let record = Record::decode(head[4], bytes.slice(RECORD_HEAD_BYTES..end))?;
    Ok((u32::try_from(end).unwrap_or(u32::MAX), record))
}

/// Whether a sector that `bytes`, at `offset`, have a part in holds nothing of them.
fn has_hole(mut bytes: &[u8], mut offset: u64) -> bool {
    while !bytes.is_empty() {
        let left = (SECTOR_BYTES - offset % SECTOR_BYTES).min(bytes.len() as u64);
        let (part, rest) = bytes.split_at(usize::try_from(left).unwrap_or(bytes.len()));
        if part.iter().all(|byte| *byte == 0) {
            return true;
        }
        offset += left;
        bytes = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(index: u64, bytes: usize) -> Record {
        Record::Entry(wire::RaftEntry {
            id: Some(wire::RaftLogId { term: 1, voter: 1, index }),
            payload: Some(wire::raft_entry::Payload::Command(Bytes::from(vec![7; bytes]))),
        })
    }

    fn frame(records: &[Record]) -> Vec<u8> {
        let mut builder = FrameBuilder::new(Vec::new());
        for record in records {
            builder.push(record);
        }
        builder.finish(5, 4)
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Record>, Fault> {
        let head = Head::parse(bytes, 0)?;
        let body = Bytes::copy_from_slice(&bytes[HEAD_BYTES..]);
        let records = head.records(&body, HEAD_BYTES as u64)?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    #[test]
    fn what_was_written_is_read() {
        let id = wire::RaftLogId { term: 1, voter: 2, index: 3 };
        let records = [
            entry(1, 0),
            Record::Vote(wire::RaftBallot { term: 2, voter: 1, committed: true }),
            Record::Committed(id),
            Record::Truncated(None),
            Record::Truncated(Some(id)),
            Record::Purged(id),
            entry(2, 2000),
        ];
        let bytes = frame(&records);
        assert_eq!(bytes.len() % ALIGNMENT as usize, 0);
        assert_eq!(parse(&bytes).expect("whole"), records);
        let head = Head::parse(&bytes, 0).expect("whole");
        assert_eq!((head.sequence, head.synced, head.bytes()), (5, 4, bytes.len() as u64));
    }

    #[test]
    fn each_changed_byte_is_damage_and_each_missing_sector_a_torn_write() {
        let good = frame(&[entry(1, 3000), entry(2, 10)]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let fault = parse(&bad).expect_err("noticed");
            assert!(matches!(fault, Fault::Damaged(_)), "byte {at}: {fault:?}");
        }
        for sector in 0..good.len().div_ceil(512) {
            let mut torn = good.clone();
            let end = torn.len().min(sector * 512 + 512);
            torn[sector * 512..end].fill(0);
            let fault = parse(&torn).expect_err("noticed");
            let expected = if sector == 0 { Fault::Nothing } else { Fault::Torn };
            assert_eq!(fault, expected, "sector {sector}");
        }
        for cut in 0..good.len() {
            let mut torn = good[..cut].to_vec();
            assert!(parse_or_cut(&torn).is_err());
            torn.resize(good.len(), 0);
            let fault = parse(&torn).expect_err("noticed");
            // A write that ends within a sector is none that a disk does; it is refused all the same.
            assert!(!matches!(fault, Fault::Version(_)), "cut {cut}");
        }
    }

    fn parse_or_cut(bytes: &[u8]) -> Result<Vec<Record>, Fault> {
        if bytes.len() < HEAD_BYTES {
            return Head::parse(bytes, 0).map(|_| Vec::new());
        }
        parse(bytes)
    }
}
