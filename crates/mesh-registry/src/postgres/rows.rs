//! Records and sessions between Rust and rows.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{
    FencingToken, Revision,
    store::{Change, DeleteCause, Key, Prefix, Record, Session, SessionId},
};
use tokio_postgres::Row;

use super::fault::{Fault, damaged};
use crate::wire::{self, values};

const WHAT: &str = "a row of a record";

/// PostgreSQL has no unsigned numbers; ours stay far below the limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// All of `u64` in the same order.
pub(super) fn ordered(number: u64) -> i64 {
    (number ^ (1 << 63)).cast_signed()
}

pub(super) fn from_ordered(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

pub(super) fn record(row: &Row) -> Result<Record, Fault> {
    let session: Option<i64> = row.try_get("session")?;
    let token: (Option<i64>, Option<i64>) = (row.try_get("token_generation")?, row.try_get("token_counter")?);
    Ok(Record {
        key: values::key(WHAT, row.try_get("key")?)?,
        value: Bytes::from(row.try_get::<_, Vec<u8>>("value")?),
        revision: Revision(unsigned(row.try_get("revision")?)),
        created_revision: Revision(unsigned(row.try_get("created_revision")?)),
        last_writer: values::node(WHAT, "writer", row.try_get("writer")?)?,
        session: session.map(|id| SessionId(unsigned(id))),
        token: match token {
            (Some(generation), Some(counter)) => {
                Some(FencingToken { generation: unsigned(generation), counter: unsigned(counter) })
            }
            _ => None,
        },
    })
}

/// A change as `history` has it.
pub(super) fn change(row: &Row) -> Result<Change, Fault> {
    let cause: Option<i16> = row.try_get("cause")?;
    let Some(cause) = cause else { return record(row).map(Change::Put) };
    let cause = wire::DeleteCause::try_from(i32::from(cause)).map_err(|error| damaged(&error))?;
    Ok(Change::Deleted { key: values::key(WHAT, row.try_get("key")?)?, cause: cause.into() })
}

pub(super) fn cause(cause: DeleteCause) -> i16 {
    i16::try_from(i32::from(wire::DeleteCause::from(cause))).unwrap_or(0)
}

pub(super) fn session(row: &Row) -> Result<Session, Fault> {
    Ok(Session {
        id: SessionId(unsigned(row.try_get("id")?)),
        owner: values::node("a row of a session", "owner", row.try_get("owner")?)?,
        ttl: Duration::from_millis(unsigned(row.try_get("ttl_ms")?)),
        renewals: unsigned(row.try_get("renewals")?),
    })
}

/// Records column by column, to be written by one statement however many they are.
#[derive(Default)]
pub(super) struct Columns<'c> {
    pub(super) key: Vec<&'c str>,
    pub(super) value: Vec<Option<&'c [u8]>>,
    pub(super) revision: Vec<i64>,
    pub(super) created_revision: Vec<Option<i64>>,
    pub(super) writer: Vec<Option<&'c str>>,
    pub(super) session: Vec<Option<i64>>,
    pub(super) token_generation: Vec<Option<i64>>,
    pub(super) token_counter: Vec<Option<i64>>,
    pub(super) cause: Vec<Option<i16>>,
}

impl<'c> Columns<'c> {
    pub(super) fn put(&mut self, record: &'c Record) {
        self.key.push(record.key.as_str());
        self.value.push(Some(&record.value));
        self.revision.push(signed(record.revision.0));
        self.created_revision.push(Some(signed(record.created_revision.0)));
        self.writer.push(Some(record.last_writer.as_str()));
        self.session.push(record.session.map(|id| signed(id.0)));
        self.token_generation.push(record.token.map(|token| signed(token.generation)));
        self.token_counter.push(record.token.map(|token| signed(token.counter)));
        self.cause.push(None);
    }

    pub(super) fn deleted(&mut self, key: &'c Key, at: Revision, why: DeleteCause) {
        self.key.push(key.as_str());
        self.value.push(None);
        self.revision.push(signed(at.0));
        self.created_revision.push(None);
        self.writer.push(None);
        self.session.push(None);
        self.token_generation.push(None);
        self.token_counter.push(None);
        self.cause.push(Some(cause(why)));
    }
}

impl Columns<'_> {
    /// In the order of the columns of `history`; `record` has all but the last.
    pub(super) fn parameters(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 9] {
        [
            &self.key,
            &self.value,
            &self.revision,
            &self.created_revision,
            &self.writer,
            &self.session,
            &self.token_generation,
            &self.token_counter,
            &self.cause,
        ]
    }
}

/// A range of keys as the statements want it: from, up to but not including (`None`: no end), and whether
/// the store's own keys belong to it.
pub(super) fn range(prefix: &Prefix) -> (String, Option<String>, bool) {
    let text = prefix.as_str();
    (text.to_owned(), after_prefix(text), text.starts_with(Key::RESERVED))
}

/// The first text after all that begin with `prefix`, in the order of bytes, which is that of characters.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_after_all_it_covers() {
        assert_eq!(after_prefix("a/"), Some("a0".to_owned()));
        assert_eq!(after_prefix(""), None);
        assert_eq!(after_prefix("a\u{10ffff}"), Some("b".to_owned()));
        // Between these two there are no characters.
        assert_eq!(after_prefix("\u{d7ff}"), Some("\u{e000}".to_owned()));
        assert_eq!(after_prefix("\u{10ffff}"), None);
    }

    #[test]
    fn numbers_keep_their_order() {
        let numbers = [0, 1, u64::from(u32::MAX), 1 << 63, u64::MAX];
        for pair in numbers.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]));
        }
        assert!(numbers.iter().all(|number| from_ordered(ordered(*number)) == *number));
    }
}
