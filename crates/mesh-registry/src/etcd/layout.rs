//! Where things are in etcd: the keys under the root, and what their values hold.
//!
//! | key under the root | value | lease |
//! |---|---|---|
//! | `r/<key>` | a record, [`StoredRecord`] | its session's |
//! | `a/<key>` | a record of the store itself, whose key begins with `~` | none |
//! | `g/<key>` | the generation of a grant; its mod revision is the token's counter | its session's |
//! | `s/<session>` | a session, [`StoredSession`] | its own |
//! | `o/<session>/<sequence>` | the outcome of a transaction | its session's |
//! | `meta` | format, cluster and generation, [`StoredMeta`] | none |
//!
//! The marker `g/` is written by grants alone, so that etcd itself can compare a
//! token: a later put on the record does not touch it. Numbers in keys have
//! sixteen hexadecimal digits, so that keys are in the order of the numbers.

use bytes::Bytes;
use mesh_core::{
    FencingToken, NodeId, Revision,
    store::{Key, Prefix, Record, Session, SessionId},
};
use prost::Message;

use super::wire as pb;
use crate::{
    AUDIT_PREFIX,
    wire::{WireError, bad, malformed, values},
};

/// The version of this layout.
pub(super) const FORMAT: u32 = 1;
/// Ends the key of a bookmark; no [`Key`] has a control character.
const MARK: u8 = 0;

/// A record's value with what etcd does not keep itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) value: Bytes,
    #[prost(string, tag = "2")]
    pub(super) writer: String,
    /// 0: no grant.
    #[prost(uint64, tag = "3")]
    pub(super) token_generation: u64,
    /// 0: the revision of this write.
    #[prost(uint64, tag = "4")]
    pub(super) token_counter: u64,
}

/// A session. Its id is its key and its lease.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredSession {
    #[prost(string, tag = "1")]
    pub(super) owner: String,
    /// In milliseconds; whole seconds, as etcd granted them.
    #[prost(uint64, tag = "2")]
    pub(super) ttl_ms: u64,
    #[prost(uint64, tag = "3")]
    pub(super) renewals: u64,
    /// Its owner is about to end it.
    #[prost(bool, tag = "4")]
    pub(super) closing: bool,
}

/// What holds for the whole store.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredMeta {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    /// etcd's own id; a restored etcd has another.
    #[prost(uint64, tag = "2")]
    pub(super) cluster: u64,
    /// The first half of tokens.
    #[prost(uint64, tag = "3")]
    pub(super) generation: u64,
}

/// The keys under one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    root: String,
}

impl Layout {
    pub(super) fn new(root: &str) -> Self {
        Self { root: format!("{}/", root.trim_matches('/')) }
    }

    pub(super) fn meta(&self) -> Bytes {
        format!("{}meta", self.root).into()
    }

    pub(super) fn record(&self, key: &Key) -> Bytes {
        format!("{}{}", self.records(key.is_reserved()), key.as_str()).into()
    }

    pub(super) fn grant(&self, key: &Key) -> Bytes {
        format!("{}g/{}", self.root, key.as_str()).into()
    }

    pub(super) fn session(&self, session: SessionId) -> Bytes {
        format!("{}s/{:016x}", self.root, session.0).into()
    }

    pub(super) fn outcome(&self, session: SessionId, sequence: u64) -> Bytes {
        format!("{}o/{:016x}/{sequence:016x}", self.root, session.0).into()
    }

    /// The end of the outcomes of a session, not included.
    pub(super) fn outcomes_end(&self, session: SessionId) -> Bytes {
        // '0' follows '/'.
        format!("{}o/{:016x}0", self.root, session.0).into()
    }

    fn records(&self, reserved: bool) -> String {
        format!("{}{}/", self.root, if reserved { 'a' } else { 'r' })
    }

    /// The first audit record of this time or later.
    pub(super) fn audits(&self, wall_ms: u64) -> Bytes {
        format!("{}{AUDIT_PREFIX}{wall_ms:013}", self.records(true)).into()
    }

    /// All sessions.
    pub(super) fn sessions(&self) -> (Bytes, Bytes) {
        let start = format!("{}s/", self.root);
        (start.clone().into(), after_prefix(start.as_bytes()))
    }

    /// The records under a prefix, as start and end.
    pub(super) fn range(&self, prefix: &Prefix) -> (Bytes, Bytes) {
        let reserved = prefix.as_str().starts_with(Key::RESERVED);
        let start = format!("{}{}", self.records(reserved), prefix.as_str());
        (start.clone().into(), after_prefix(start.as_bytes()))
    }

    /// The first key of the records under `prefix` that can come after `key`.
    pub(super) fn after(&self, prefix: &Prefix, key: &Key) -> Bytes {
        let reserved = prefix.as_str().starts_with(Key::RESERVED);
        format!("{}{}\0", self.records(reserved), key.as_str()).into()
    }

    /// A key among the records of a prefix that is no record: writing it shows how far a watch has come.
    pub(super) fn mark(&self, prefix: &Prefix) -> Bytes {
        let mut mark = Vec::from(self.range(prefix).0);
        mark.push(MARK);
        mark.into()
    }

    /// The record's key in one of etcd's; `None` for a mark.
    ///
    /// # Errors
    ///
    /// It is none of ours.
    pub(super) fn key_of(&self, etcd: &[u8]) -> Result<Option<Key>, WireError> {
        if etcd.last() == Some(&MARK) {
            return Ok(None);
        }
        let strange = || bad("a record in etcd", "key", String::from_utf8_lossy(etcd));
        let text = std::str::from_utf8(etcd).map_err(|_| strange())?;
        let key = text.strip_prefix(&self.root).and_then(|rest| rest.get(2..)).ok_or_else(strange)?;
        values::key("a record in etcd", key).map(Some)
    }

    /// A record as etcd has it; `None` for a mark.
    pub(super) fn read_record(&self, kv: pb::KeyValue) -> Result<Option<Record>, WireError> {
        const WHAT: &str = "a record in etcd";
        let Some(key) = self.key_of(&kv.key)? else { return Ok(None) };
        let stored = StoredRecord::decode(kv.value).map_err(malformed(WHAT))?;
        let revision = revision(kv.mod_revision);
        let counter = if stored.token_counter == 0 { revision.0 } else { stored.token_counter };
        let token = FencingToken { generation: stored.token_generation, counter };
        Ok(Some(Record {
            key,
            value: stored.value,
            revision,
            created_revision: self::revision(kv.create_revision),
            last_writer: values::node(WHAT, "writer", &stored.writer)?,
            session: session_of(kv.lease),
            token: (stored.token_generation != 0).then_some(token),
        }))
    }

    pub(super) fn read_session(id: SessionId, kv: pb::KeyValue) -> Result<Session, WireError> {
        const WHAT: &str = "a session in etcd";
        let stored = StoredSession::decode(kv.value).map_err(malformed(WHAT))?;
        Ok(Session {
            id,
            owner: values::node(WHAT, "owner", &stored.owner)?,
            ttl: std::time::Duration::from_millis(stored.ttl_ms),
            renewals: stored.renewals,
        })
    }
}

/// The value of a record that is no grant, of one whose token is given, or of one that gets its token by
/// this write.
pub(super) fn record_value(value: &Bytes, writer: &NodeId, token: Option<FencingToken>) -> Bytes {
    let token = token.unwrap_or_default();
    let stored = StoredRecord {
        value: value.clone(),
        writer: writer.as_str().to_owned(),
        token_generation: token.generation,
        token_counter: token.counter,
    };
    stored.encode_to_vec().into()
}

/// etcd's revisions are never negative.
pub(super) fn revision(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or(0))
}

/// A session's lease; `None` if etcd can't have one with that id.
pub(super) fn lease_of(session: SessionId) -> Option<i64> {
    i64::try_from(session.0).ok().filter(|lease| *lease > 0)
}

pub(super) fn session_of(lease: i64) -> Option<SessionId> {
    u64::try_from(lease).ok().filter(|id| *id > 0).map(SessionId)
}

/// The first key after all that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[test]
    fn a_records_key_comes_back_and_a_mark_is_none() {
        let layout = Layout::new("/mesh/");
        for text in ["a", "leases/global", "~audit/1", "ü/\u{10ffff}"] {
            let etcd = layout.record(&key(text));
            assert!(etcd.starts_with(b"mesh/"), "{etcd:?}");
            assert_eq!(layout.key_of(&etcd).expect("ours"), Some(key(text)));
        }
        let mark = layout.mark(&Prefix::all());
        assert_eq!(layout.key_of(&mark).expect("ours"), None);
        assert!(layout.key_of(b"other/r/a").is_err());
    }

    #[test]
    fn the_range_of_all_leaves_the_stores_own_records_out() {
        let layout = Layout::new("mesh");
        let within = |prefix: &str, text: &str| {
            let (start, end) = layout.range(&Prefix::new(prefix).expect("a prefix"));
            let etcd = layout.record(&key(text));
            start <= etcd && etcd < end
        };
        assert!(within("", "a") && within("", "\u{10ffff}z") && within("a", "a") && within("~", "~audit/1"));
        assert!(!within("", "~audit/1") && !within("a", "b") && !within("~audit/", "~b"));
    }

    #[test]
    fn outcomes_are_in_the_order_of_their_numbers_and_end_before_the_next_session() {
        let layout = Layout::new("mesh");
        let (session, next) = (SessionId(7), SessionId(8));
        assert!(layout.outcome(session, 9) < layout.outcome(session, 10));
        assert!(layout.outcome(session, u64::MAX) < layout.outcomes_end(session));
        assert!(layout.outcomes_end(session) < layout.outcome(next, 0));
    }
}
