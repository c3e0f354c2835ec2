//! Values between their Rust types and their messages.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{
    FencingToken, NodeId, Revision,
    store::{
        AuditNote, Change, Compare, DeleteCause, Grant, IdempotencyKey, Key, Operation, Record, Session,
        SessionId, Txn, TxnOutcome,
    },
};

use super::{WireError, bad, generated as wire};
use crate::state::Refusal;

pub(crate) fn key(what: &'static str, text: &str) -> Result<Key, WireError> {
    Key::new(text).map_err(|error| bad(what, "key", error))
}

pub(crate) fn node(what: &'static str, field: &'static str, text: &str) -> Result<NodeId, WireError> {
    NodeId::new(text).map_err(|error| bad(what, field, error))
}

fn session_or_none(id: u64) -> Option<SessionId> {
    (id != 0).then_some(SessionId(id))
}

fn missing(what: &'static str, field: &'static str) -> WireError {
    bad(what, field, "it is missing")
}

/// Values shorter than this are copied when they come in.
const COPIED_BYTES_MAX: usize = 32 * 1024;

/// A value that may be kept for long. What is decoded is a view of the buffer that its message came in, some
/// 8 KiB at least, and would hold all of it; log, history and records then take far more than their bounds say.
fn kept(value: Bytes) -> Bytes {
    if value.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(&value) } else { value }
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

impl From<&Record> for wire::Record {
    fn from(record: &Record) -> Self {
        Self {
            key: record.key.as_str().to_owned(),
            value: record.value.clone(),
            revision: record.revision.0,
            created_revision: record.created_revision.0,
            last_writer: record.last_writer.as_str().to_owned(),
            session: record.session.unwrap_or_default().0,
            token: record.token.map(Into::into),
        }
    }
}

impl TryFrom<wire::Record> for Record {
    type Error = WireError;
    fn try_from(record: wire::Record) -> Result<Self, WireError> {
        Ok(Self {
            key: key("a record", &record.key)?,
            value: record.value,
            revision: Revision(record.revision),
            created_revision: Revision(record.created_revision),
            last_writer: node("a record", "last_writer", &record.last_writer)?,
            session: session_or_none(record.session),
            token: record.token.map(Into::into),
        })
    }
}

impl From<&Compare> for wire::Compare {
    fn from(compare: &Compare) -> Self {
        use wire::compare::Condition;
        let condition = match compare {
            Compare::Revision { revision, .. } => Condition::Revision(revision.0),
            Compare::Absent { .. } => Condition::Absent(wire::Empty {}),
            Compare::Present { .. } => Condition::Present(wire::Empty {}),
            Compare::Value { value, .. } => Condition::Value(value.clone()),
            Compare::Fence { token, .. } => Condition::Fence((*token).into()),
        };
        Self { key: compare.key().as_str().to_owned(), condition: Some(condition) }
    }
}

impl TryFrom<wire::Compare> for Compare {
    type Error = WireError;
    fn try_from(compare: wire::Compare) -> Result<Self, WireError> {
        use wire::compare::Condition;
        let key = key("a compare", &compare.key)?;
        Ok(match compare.condition.ok_or_else(|| missing("a compare", "condition"))? {
            Condition::Revision(revision) => Self::Revision { key, revision: Revision(revision) },
            Condition::Absent(_) => Self::Absent { key },
            Condition::Present(_) => Self::Present { key },
            Condition::Value(value) => Self::Value { key, value },
            Condition::Fence(token) => Self::Fence { key, token: token.into() },
        })
    }
}

impl From<&Operation> for wire::Operation {
    fn from(operation: &Operation) -> Self {
        use wire::operation::Action;
        let action = match operation {
            Operation::Put { value, session, .. } => {
                Action::Put(wire::Put { value: value.clone(), session: session.unwrap_or_default().0 })
            }
            Operation::Delete { .. } => Action::Delete(wire::Empty {}),
            Operation::Grant { value, session, .. } => {
                Action::Grant(wire::Put { value: value.clone(), session: session.0 })
            }
        };
        Self { key: operation.key().as_str().to_owned(), action: Some(action) }
    }
}

impl TryFrom<wire::Operation> for Operation {
    type Error = WireError;
    fn try_from(operation: wire::Operation) -> Result<Self, WireError> {
        use wire::operation::Action;
        let key = key("an operation", &operation.key)?;
        Ok(match operation.action.ok_or_else(|| missing("an operation", "action"))? {
            Action::Put(put) => {
                Self::Put { key, value: kept(put.value), session: session_or_none(put.session) }
            }
            Action::Delete(_) => Self::Delete { key },
            Action::Grant(put) => Self::Grant {
                key,
                value: kept(put.value),
                session: session_or_none(put.session).ok_or_else(|| missing("a grant", "session"))?,
            },
        })
    }
}

impl From<&Txn> for wire::Txn {
    fn from(txn: &Txn) -> Self {
        Self {
            compares: txn.compares.iter().map(Into::into).collect(),
            operations: txn.operations.iter().map(Into::into).collect(),
            writer: txn.writer.as_str().to_owned(),
            idempotency: txn.idempotency.map(Into::into),
            audit: txn.audit.as_ref().map(|note| wire::AuditNote {
                action: note.action.clone(),
                reason: note.reason.clone(),
                correlation_id: note.correlation_id,
            }),
        }
    }
}

/// A transaction as a peer sent it. Who writes is known from elsewhere: from the peer's certificate, or
/// from the log.
pub(crate) fn txn(message: wire::Txn, writer: NodeId) -> Result<Txn, WireError> {
    Ok(Txn {
        compares: message.compares.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        operations: message.operations.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        writer,
        idempotency: message.idempotency.map(Into::into),
        audit: message.audit.map(|note| AuditNote {
            action: note.action,
            reason: note.reason,
            correlation_id: note.correlation_id,
        }),
    })
}

impl From<IdempotencyKey> for wire::Idempotency {
    fn from(key: IdempotencyKey) -> Self {
        Self { session: key.session.0, sequence: key.sequence }
    }
}

impl From<wire::Idempotency> for IdempotencyKey {
    fn from(key: wire::Idempotency) -> Self {
        Self { session: SessionId(key.session), sequence: key.sequence }
    }
}

impl From<&TxnOutcome> for wire::TxnOutcome {
    fn from(outcome: &TxnOutcome) -> Self {
        let grant = |g: &Grant| wire::Grant { key: g.key.as_str().to_owned(), token: Some(g.token.into()) };
        Self { revision: outcome.revision.0, grants: outcome.grants.iter().map(grant).collect() }
    }
}

impl TryFrom<wire::TxnOutcome> for TxnOutcome {
    type Error = WireError;
    fn try_from(outcome: wire::TxnOutcome) -> Result<Self, WireError> {
        let grant = |g: wire::Grant| -> Result<Grant, WireError> {
            let token = g.token.ok_or_else(|| missing("a grant", "token"))?;
            Ok(Grant { key: key("a grant", &g.key)?, token: token.into() })
        };
        Ok(Self {
            revision: Revision(outcome.revision),
            grants: outcome.grants.into_iter().map(grant).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Refusal> for wire::Refusal {
    fn from(refusal: &Refusal) -> Self {
        use wire::refusal::Reason;
        let reason = match refusal {
            Refusal::Conflict { index, found, revision } => Reason::Conflict(wire::Conflict {
                index: u32::try_from(*index).unwrap_or(u32::MAX),
                found: found.as_deref().map(Into::into),
                revision: revision.0,
            }),
            Refusal::Fenced { key, stated, current } => Reason::Fenced(wire::Fenced {
                key: key.as_str().to_owned(),
                stated: Some((*stated).into()),
                current: current.map(Into::into),
            }),
            Refusal::Unfenced { key, current } => Reason::Unfenced(wire::Unfenced {
                key: key.as_str().to_owned(),
                current: Some((*current).into()),
            }),
            Refusal::SessionGone(session) => Reason::SessionGone(session.0),
            Refusal::Forgotten(key) => Reason::Forgotten((*key).into()),
            Refusal::Invalid(problem) => Reason::Invalid(problem.clone()),
        };
        Self { reason: Some(reason) }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = WireError;
    fn try_from(refusal: wire::Refusal) -> Result<Self, WireError> {
        use wire::refusal::Reason;
        const WHAT: &str = "a refusal";
        Ok(match refusal.reason.ok_or_else(|| missing(WHAT, "reason"))? {
            Reason::Conflict(conflict) => Self::Conflict {
                index: conflict.index as usize,
                found: conflict.found.map(Record::try_from).transpose()?.map(Box::new),
                revision: Revision(conflict.revision),
            },
            Reason::Fenced(fenced) => Self::Fenced {
                key: key(WHAT, &fenced.key)?,
                stated: fenced.stated.ok_or_else(|| missing(WHAT, "stated token"))?.into(),
                current: fenced.current.map(Into::into),
            },
            Reason::Unfenced(unfenced) => Self::Unfenced {
                key: key(WHAT, &unfenced.key)?,
                current: unfenced.current.ok_or_else(|| missing(WHAT, "present token"))?.into(),
            },
            Reason::SessionGone(session) => Self::SessionGone(SessionId(session)),
            Reason::Forgotten(key) => Self::Forgotten(key.into()),
            Reason::Invalid(problem) => Self::Invalid(problem),
        })
    }
}

impl From<&Session> for wire::Session {
    fn from(session: &Session) -> Self {
        Self {
            id: session.id.0,
            owner: session.owner.as_str().to_owned(),
            ttl_ms: millis(session.ttl),
            renewals: session.renewals,
        }
    }
}

impl TryFrom<wire::Session> for Session {
    type Error = WireError;
    fn try_from(session: wire::Session) -> Result<Self, WireError> {
        Ok(Self {
            id: session_or_none(session.id).ok_or_else(|| missing("a session", "id"))?,
            owner: node("a session", "owner", &session.owner)?,
            ttl: Duration::from_millis(session.ttl_ms),
            renewals: session.renewals,
        })
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<DeleteCause> for wire::DeleteCause {
    fn from(cause: DeleteCause) -> Self {
        match cause {
            DeleteCause::Written => Self::Written,
            DeleteCause::SessionClosed => Self::SessionClosed,
            DeleteCause::SessionExpired => Self::SessionExpired,
            DeleteCause::Restored => Self::Restored,
            _ => Self::Unknown,
        }
    }
}

impl From<wire::DeleteCause> for DeleteCause {
    fn from(cause: wire::DeleteCause) -> Self {
        match cause {
            wire::DeleteCause::Unknown => Self::Unknown,
            wire::DeleteCause::Written => Self::Written,
            wire::DeleteCause::SessionClosed => Self::SessionClosed,
            wire::DeleteCause::SessionExpired => Self::SessionExpired,
            wire::DeleteCause::Restored => Self::Restored,
        }
    }
}

impl From<&Change> for wire::Change {
    fn from(change: &Change) -> Self {
        use wire::change::Change as Kind;
        let change = match change {
            Change::Put(record) => Kind::Put(record.into()),
            Change::Deleted { key, cause } => Kind::Deleted(wire::Deleted {
                key: key.as_str().to_owned(),
                cause: wire::DeleteCause::from(*cause).into(),
            }),
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<wire::Change> for Change {
    type Error = WireError;
    fn try_from(change: wire::Change) -> Result<Self, WireError> {
        use wire::change::Change as Kind;
        Ok(match change.change.ok_or_else(|| missing("a change", "kind"))? {
            Kind::Put(record) => Self::Put(record.try_into()?),
            Kind::Deleted(deleted) => {
                Self::Deleted { key: key("a deletion", &deleted.key)?, cause: deleted.cause().into() }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_value_does_not_hold_the_buffer_that_it_came_in() {
        let buffer = Bytes::from(vec![7_u8; 8 * 1024]);
        let put = wire::Put { value: buffer.slice(..256), session: 1 };
        for action in [wire::operation::Action::Put(put.clone()), wire::operation::Action::Grant(put.clone())]
        {
            let operation = wire::Operation { key: "k".to_owned(), action: Some(action) };
            let read = Operation::try_from(operation).expect("valid");
            let (Operation::Put { value, .. } | Operation::Grant { value, .. }) = read else {
                panic!("{read:?}")
            };
            assert_eq!(value, put.value);
            assert!(!buffer.as_ptr_range().contains(&value.as_ptr()), "it is a view of the buffer");
        }
    }
}
