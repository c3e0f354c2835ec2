//! Transactions: what must hold, what to do, what came of it.

use bytes::Bytes;

use super::{IdempotencyKey, Key, SessionId, StoreError, TXN_BYTES_MAX, TXN_ITEMS_MAX, VALUE_BYTES_MAX};
use crate::{FencingToken, NodeId, Revision};

/// Something that must hold for a transaction to take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The record exists and was last written at this revision.
    Revision {
        /// Its key.
        key: Key,
        /// The revision.
        revision: Revision,
    },
    /// There is no record.
    Absent {
        /// The key.
        key: Key,
    },
    /// There is a record, whatever it holds.
    Present {
        /// Its key.
        key: Key,
    },
    /// The record exists and has this value.
    Value {
        /// Its key.
        key: Key,
        /// The value.
        value: Bytes,
    },
    /// The grant at the key is held, with exactly this token. False as soon as it was released, has
    /// expired or was granted anew, so an old holder's write is refused.
    Fence {
        /// The key of the grant.
        key: Key,
        /// The token that the writer was given.
        token: FencingToken,
    },
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &Key {
        match self {
            Self::Revision { key, .. }
            | Self::Absent { key }
            | Self::Present { key }
            | Self::Value { key, .. }
            | Self::Fence { key, .. } => key,
        }
    }
}

/// Something that a transaction does. Each key may appear in one operation only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a record. On a granted record it replaces the value and keeps token and session, and the
    /// transaction must state its token ([`Compare::Fence`]).
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// The session that the record goes with; must be open.
        session: Option<SessionId>,
    },
    /// Deletes a record; deleting none is no error. A granted record is released, and the transaction
    /// must state its token.
    Delete {
        /// The key.
        key: Key,
    },
    /// Writes a granted record with the next token of its key. If the key is granted already, the
    /// transaction must state the present token: that hands the grant over.
    Grant {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// The session of the new holder; must be open.
        session: SessionId,
    },
}

impl Operation {
    /// The key it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Grant { key, .. } => key,
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::Put { value, .. } | Self::Grant { value, .. } => value,
            Self::Delete { .. } => &[],
        }
    }
}

/// Who did something and why, kept in the same revision as what was done.
///
/// It becomes a record under `~audit/` with the writer's identity, the time and this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditNote {
    /// What was done, as a verb and an object: `leader.step-down`.
    pub action: String,
    /// Why, in the words of who asked.
    pub reason: String,
    /// The number that the log lines of this action share.
    pub correlation_id: u64,
}

/// A transaction.
///
/// ```
/// use mesh_core::{Revision, store::{Compare, Key, Operation, Txn}};
/// let key = Key::new("tables/orders")?;
/// let txn = Txn::new("n1".parse()?)
///     .when(Compare::Revision { key: key.clone(), revision: Revision(41) })
///     .then(Operation::Put { key, value: "owner=n2".into(), session: None });
/// txn.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// All happen at one revision.
    pub operations: Vec<Operation>,
    /// Who writes. Where the request came over the network, the certificate decides.
    pub writer: NodeId,
    /// Makes a retry safe.
    pub idempotency: Option<IdempotencyKey>,
    /// Leaves an audit record if the transaction takes effect.
    pub audit: Option<AuditNote>,
}

impl Txn {
    /// An empty one by `writer`.
    pub fn new(writer: NodeId) -> Self {
        Self { compares: Vec::new(), operations: Vec::new(), writer, idempotency: None, audit: None }
    }

    /// Adds a compare.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an operation.
    #[must_use]
    pub fn then(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Makes a retry with the same key apply once.
    #[must_use]
    pub fn once(mut self, key: IdempotencyKey) -> Self {
        self.idempotency = Some(key);
        self
    }

    /// Leaves an audit record.
    #[must_use]
    pub fn audited(mut self, note: AuditNote) -> Self {
        self.audit = Some(note);
        self
    }

    /// Checks sizes, counts and keys: what every provider refuses alike, before it does anything.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] names what is too large, twice there, or not the writer's to change.
    pub fn check(&self) -> Result<(), StoreError> {
        let invalid = |problem: String| Err(StoreError::Invalid { what: "transaction", problem });
        for (what, count) in [("compares", self.compares.len()), ("operations", self.operations.len())] {
            if count > TXN_ITEMS_MAX {
                return invalid(format!("{count} {what} are more than {TXN_ITEMS_MAX}; split it"));
            }
        }
        let mut keys: Vec<&Key> = self.operations.iter().map(Operation::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("key {:?} is changed twice; merge the two operations", twice[0]));
        }
        if let Some(reserved) = keys.iter().find(|key| key.is_reserved()) {
            return invalid(format!(
                "key {reserved:?} belongs to the store; choose one that does not begin with '~'"
            ));
        }
        let mut bytes = self.audit.as_ref().map_or(0, |note| note.action.len() + note.reason.len());
        for operation in &self.operations {
            let value = operation.value().len();
            if value > VALUE_BYTES_MAX {
                return invalid(format!(
                    "the value of {:?} has {value} bytes, the limit is {VALUE_BYTES_MAX}; store it elsewhere and keep a reference here",
                    operation.key()
                ));
            }
            bytes += value + operation.key().as_str().len();
        }
        for compare in &self.compares {
            bytes += compare.key().as_str().len();
            if let Compare::Value { value, .. } = compare {
                bytes += value.len();
            }
        }
        if bytes > TXN_BYTES_MAX {
            return invalid(format!("it has {bytes} bytes, the limit is {TXN_BYTES_MAX}; split it"));
        }
        Ok(())
    }
}

/// A token that a transaction gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The granted key.
    pub key: Key,
    /// Its token.
    pub token: FencingToken,
}

/// What came of a transaction that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Its revision; the store's present one if it changed nothing.
    pub revision: Revision,
    /// The tokens of its grants, in the order of its operations.
    pub grants: Vec<Grant>,
}
