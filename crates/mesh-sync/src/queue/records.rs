//! How what waits is written.

use mesh_core::{NodeId, WallTime};

use super::{DeadLetter, DeadReason};
use crate::{
    EntryId,
    codec::{Reader, WireError, cut, put_bytes, put_varint, take_text, take_u32, take_version, take_wall},
};

const VERSION: u8 = 1;
const DETAIL_BYTES_MAX: usize = 200;

/// What is kept of an entry that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The order in which entries were queued.
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) attempts: u32,
    pub(super) queued: WallTime,
}

impl Waiting {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION];
        put_varint(&mut value, self.sequence);
        put_varint(&mut value, self.bytes);
        put_varint(&mut value, self.attempts.into());
        put_varint(&mut value, self.queued.0);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(value);
        take_version(&mut reader, "the version of a queued entry", VERSION)?;
        let waiting = Self {
            sequence: reader.varint()?,
            bytes: reader.varint()?,
            attempts: take_u32(&mut reader, "a number of attempts")?,
            queued: take_wall(&mut reader)?,
        };
        reader.end().map(|()| waiting)
    }
}

pub(super) fn encode_dead(letter: &DeadLetter) -> Vec<u8> {
    let mut value = vec![VERSION, letter.reason.code()];
    put_varint(&mut value, letter.bytes);
    put_varint(&mut value, letter.attempts.into());
    put_varint(&mut value, letter.queued.0);
    put_varint(&mut value, letter.died.0);
    put_bytes(&mut value, letter.detail.as_bytes());
    value
}

pub(super) fn decode_dead(peer: NodeId, entry: EntryId, value: &[u8]) -> Result<DeadLetter, WireError> {
    let mut reader = Reader::new(value);
    take_version(&mut reader, "the version of a dead letter", VERSION)?;
    let code = reader.u8()?;
    let reason = DeadReason::from_code(code)
        .ok_or(WireError::Invalid { what: "the reason of a dead letter", value: code.into() })?;
    let letter = DeadLetter {
        peer,
        entry,
        reason,
        bytes: reader.varint()?,
        attempts: take_u32(&mut reader, "a number of attempts")?,
        queued: take_wall(&mut reader)?,
        died: take_wall(&mut reader)?,
        detail: take_text(&mut reader, "the length or text of a reason", DETAIL_BYTES_MAX)?,
    };
    reader.end().map(|()| letter)
}

/// The part of a reason that is kept.
pub(super) fn detail(text: &str) -> String {
    cut(text, DETAIL_BYTES_MAX).to_owned()
}

pub(super) fn entry_of_key(rest: &[u8]) -> Result<EntryId, WireError> {
    let mut reader = Reader::new(rest);
    let id = EntryId(reader.array()?);
    reader.end().map(|()| id)
}
