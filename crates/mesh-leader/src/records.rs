//! The records of leadership in the store: keys, values, and what is there if a value can't be read.
//!
//! | key | value | goes with |
//! |---|---|---|
//! | `leader/lease/<scope>` | who leads; the record's token is the fencing token | the holder's session |
//! | `leader/scope/<scope>` | the last term; written with each grant | the last candidate, after `forget_after` |
//! | `leader/candidate/<scope>/<node>` | who would lead, and how well | the candidate's session |
//! | `leader/ask/<scope>` | that the holder is asked to hand over | the next reign |

use bytes::Bytes;
use mesh_core::{
    FencingToken, NodeId, WallTime,
    store::{Key, Prefix},
};
use prost::{
    Message,
    encoding::{DecodeContext, decode_key, skip_field},
};

use crate::{Scope, wire};

/// What all keys of leadership begin with.
pub(crate) const PREFIX: &str = "leader/";

const LEASE: &str = "lease/";
const SCOPE: &str = "scope/";
const CANDIDATE: &str = "candidate/";
const ASK: &str = "ask/";

/// The version of the values that this crate writes. Later ones only add fields.
const VERSION: u32 = 1;

/// Highest field of `ScopeRecord` that this version knows.
const SCOPE_FIELDS: u32 = 4;

/// Longest text of a person that a record keeps, in characters.
pub(crate) const TEXT_CHARS_MAX: usize = 500;

/// The key of a scope's lease: what guarded writes state in their `Compare::Fence`.
pub fn lease_key(scope: &Scope) -> Key {
    key(LEASE, scope.as_str())
}

pub(crate) fn scope_key(scope: &Scope) -> Key {
    key(SCOPE, scope.as_str())
}

pub(crate) fn ask_key(scope: &Scope) -> Key {
    key(ASK, scope.as_str())
}

pub(crate) fn candidate_key(scope: &Scope, node_id: &NodeId) -> Key {
    key(CANDIDATE, &format!("{scope}/{node_id}"))
}

fn key(folder: &str, rest: &str) -> Key {
    // A scope has at most 200 bytes, a node id 63, neither has control characters.
    Key::new(format!("{PREFIX}{folder}{rest}")).expect("a scope and a node id fit into a key")
}

pub(crate) fn prefix() -> Prefix {
    Prefix::new(PREFIX).expect("a constant without control characters")
}

/// Which record a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Lease(Scope),
    Scope(Scope),
    Candidate(Scope, NodeId),
    Ask(Scope),
}

impl Name {
    /// `None` for keys that this version does not know.
    pub(crate) fn of(key: &Key) -> Option<Self> {
        let rest = key.as_str().strip_prefix(PREFIX)?;
        if let Some(scope) = rest.strip_prefix(LEASE) {
            return Some(Self::Lease(Scope::new(scope).ok()?));
        }
        if let Some(scope) = rest.strip_prefix(SCOPE) {
            return Some(Self::Scope(Scope::new(scope).ok()?));
        }
        if let Some(scope) = rest.strip_prefix(ASK) {
            return Some(Self::Ask(Scope::new(scope).ok()?));
        }
        // Scopes have slashes, node ids have none.
        let (scope, node) = rest.strip_prefix(CANDIDATE)?.rsplit_once('/')?;
        Some(Self::Candidate(Scope::new(scope).ok()?, NodeId::new(node).ok()?))
    }
}

/// Who leads, as the lease's value says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseValue {
    pub(crate) holder: NodeId,
    pub(crate) term: u64,
    pub(crate) acquired: WallTime,
    pub(crate) correlation_id: u64,
    pub(crate) zone: Option<String>,
    pub(crate) spread: Option<String>,
}

impl LeaseValue {
    pub(crate) fn encode(&self) -> Bytes {
        let record = wire::LeaseRecord {
            version: VERSION,
            holder: self.holder.as_str().to_owned(),
            term: self.term,
            acquired_ms: self.acquired.0,
            correlation_id: self.correlation_id,
            zone: self.zone.clone().unwrap_or_default(),
            spread: self.spread.clone().unwrap_or_default(),
        };
        record.encode_to_vec().into()
    }

    /// A lease that can't be read is a lease all the same: it counts as its writer's.
    pub(crate) fn decode(value: &[u8], last_writer: &NodeId) -> Self {
        let record = wire::LeaseRecord::decode(value).unwrap_or_default();
        Self {
            holder: NodeId::new(&record.holder).unwrap_or_else(|_| last_writer.clone()),
            term: record.term,
            acquired: WallTime(record.acquired_ms),
            correlation_id: record.correlation_id,
            zone: some(record.zone),
            spread: some(record.spread),
        }
    }
}

/// What outlives a reign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopeValue {
    pub(crate) term: u64,
    pub(crate) last_holder: Option<NodeId>,
    pub(crate) preferred: Option<NodeId>,
    /// Fields of a later version, kept as they are.
    pub(crate) unknown: Bytes,
}

impl ScopeValue {
    pub(crate) fn encode(&self) -> Bytes {
        let text = |id: &Option<NodeId>| id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let record = wire::ScopeRecord {
            version: VERSION,
            term: self.term,
            last_holder: text(&self.last_holder),
            preferred: text(&self.preferred),
        };
        let mut bytes = record.encode_to_vec();
        bytes.extend_from_slice(&self.unknown);
        bytes.into()
    }

    pub(crate) fn decode(value: &[u8]) -> Self {
        let record = wire::ScopeRecord::decode(value).unwrap_or_default();
        Self {
            term: record.term,
            last_holder: NodeId::new(&record.last_holder).ok(),
            preferred: NodeId::new(&record.preferred).ok(),
            unknown: unknown_fields(value, SCOPE_FIELDS),
        }
    }
}

/// The fields of a message whose numbers are above `known`, as they were written. Bounded by the value.
fn unknown_fields(mut value: &[u8], known: u32) -> Bytes {
    let mut kept = Vec::new();
    while !value.is_empty() {
        let start = value;
        let Ok((tag, wire_type)) = decode_key(&mut value) else { break };
        if skip_field(wire_type, tag, &mut value, DecodeContext::default()).is_err() {
            break;
        }
        if tag > known {
            kept.extend_from_slice(&start[..start.len() - value.len()]);
        }
    }
    kept.into()
}

/// How well a candidate would lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CandidateValue {
    pub(crate) priority: i32,
    pub(crate) zone: Option<String>,
    pub(crate) spread: Option<String>,
}

impl CandidateValue {
    pub(crate) fn encode(&self) -> Bytes {
        let record = wire::CandidateRecord {
            version: VERSION,
            priority: self.priority,
            zone: self.zone.clone().unwrap_or_default(),
            spread: self.spread.clone().unwrap_or_default(),
        };
        record.encode_to_vec().into()
    }

    pub(crate) fn decode(value: &[u8]) -> Self {
        let record = wire::CandidateRecord::decode(value).unwrap_or_default();
        Self { priority: record.priority, zone: some(record.zone), spread: some(record.spread) }
    }
}

/// That the holder is asked to hand over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskValue {
    pub(crate) token: FencingToken,
    pub(crate) to: Option<NodeId>,
    pub(crate) by: String,
    pub(crate) reason: String,
    pub(crate) correlation_id: u64,
    pub(crate) refused: Option<String>,
}

impl AskValue {
    pub(crate) fn encode(&self) -> Bytes {
        let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect();
        let record = wire::AskRecord {
            version: VERSION,
            token: Some(self.token.into()),
            to: self.to.as_ref().map(|to| to.as_str().to_owned()).unwrap_or_default(),
            by: cut(&self.by),
            reason: cut(&self.reason),
            correlation_id: self.correlation_id,
            refused: cut(self.refused.as_deref().unwrap_or_default()),
        };
        record.encode_to_vec().into()
    }

    /// `None` if it can't be read, which is then as if nobody asked.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let record = wire::AskRecord::decode(value).ok()?;
        let to = if record.to.is_empty() { None } else { Some(NodeId::new(&record.to).ok()?) };
        Some(Self {
            token: record.token.unwrap_or_default().into(),
            to,
            by: record.by,
            reason: record.reason,
            correlation_id: record.correlation_id,
            refused: some(record.refused),
        })
    }
}

impl From<FencingToken> for wire::Token {
    fn from(token: FencingToken) -> Self {
        Self { generation: token.generation, counter: token.counter }
    }
}

impl From<wire::Token> for FencingToken {
    fn from(token: wire::Token) -> Self {
        Self { generation: token.generation, counter: token.counter }
    }
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::new(text).expect("a scope")
    }

    #[test]
    fn a_key_names_its_record_again() {
        let scope = scope("shard/orders/7");
        let node: NodeId = "n-1.eu".parse().expect("a node");
        assert_eq!(Name::of(&lease_key(&scope)), Some(Name::Lease(scope.clone())));
        assert_eq!(Name::of(&scope_key(&scope)), Some(Name::Scope(scope.clone())));
        assert_eq!(Name::of(&ask_key(&scope)), Some(Name::Ask(scope.clone())));
        assert_eq!(Name::of(&candidate_key(&scope, &node)), Some(Name::Candidate(scope, node)));
        for other in ["leader/later/x", "leader/lease/", "leader/candidate/a", "tables/x"] {
            assert_eq!(Name::of(&Key::new(other).expect("a key")), None, "{other}");
        }
    }

    #[test]
    fn the_longest_scope_and_node_fit_into_a_key() {
        let scope = scope(&"ü".repeat(100));
        let node = NodeId::new("n".repeat(63)).expect("a node");
        assert!(candidate_key(&scope, &node).as_str().len() <= Key::BYTES_MAX);
    }

    #[test]
    fn fields_of_a_later_version_survive_a_rewrite() {
        let mut later = ScopeValue { term: 4, ..ScopeValue::default() }.encode().to_vec();
        // Field 9, a text.
        later.extend_from_slice(&[0x4a, 3, b'n', b'e', b'w']);
        let mut value = ScopeValue::decode(&later);
        value.term += 1;
        let again = ScopeValue::decode(&value.encode());
        assert_eq!((again.term, &again.unknown[..]), (5, &[0x4a, 3, b'n', b'e', b'w'][..]));
    }

    #[test]
    fn a_lease_that_can_not_be_read_is_its_writers() {
        let writer: NodeId = "n-2".parse().expect("a node");
        assert_eq!(LeaseValue::decode(&[0xff, 0xff], &writer).holder, writer);
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let writer: NodeId = "n".parse().expect("a node");
            LeaseValue::decode(&bytes, &writer);
            CandidateValue::decode(&bytes);
            AskValue::decode(&bytes);
            let value = ScopeValue::decode(&bytes);
            prop_assert_eq!(ScopeValue::decode(&value.encode()), value);
        }
    }
}
