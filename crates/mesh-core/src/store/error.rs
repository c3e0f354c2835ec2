//! Why a store did not do what it was asked, and whether it may have done it all the same.

use std::time::Duration;

use super::{Compare, Key, Record, SessionId};
use crate::{BoxError, FencingToken, Revision};

/// Whether a failed request took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It did not and will not.
    No,
    /// It may have, or may yet. Repeat it with the same idempotency key, or read.
    Unknown,
}

/// Why a store did not answer a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The request breaks a limit. It is the caller's to change.
    #[error("{what} refused: {problem}")]
    Invalid {
        /// The kind of request.
        what: &'static str,
        /// The value and the limit.
        problem: String,
    },
    /// The store can't be reached or has no leader. Retry; the store or the network is to mend.
    #[error("the store is unavailable while trying to {operation}: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// What is wrong, in a few words.
        reason: String,
        /// Whether it may have been applied.
        applied: Applied,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// No answer came in time. Retry.
    #[error("the store did not {operation} within {after:?}")]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// How long we waited.
        after: Duration,
        /// Whether it may have been applied.
        applied: Applied,
    },
    /// Too many requests are under way. Nothing was applied; retry later.
    #[error("the store is busy: {limit} requests are under way already")]
    Busy {
        /// The limit that is reached.
        limit: usize,
    },
    /// Writes are refused, for now or until an operator acts; reads go on. Nothing was applied.
    #[error("the store is read-only: {reason}")]
    ReadOnly {
        /// Why, and what to do about it.
        reason: String,
    },
    /// The caller's certificate does not allow it. Nothing was applied.
    #[error("not allowed: {reason}")]
    Denied {
        /// What was tried and who may.
        reason: String,
    },
    /// The provider can't do this at all.
    #[error("the {provider} provider can't {operation}: {reason}")]
    Unsupported {
        /// The provider.
        provider: &'static str,
        /// What was asked.
        operation: &'static str,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// What is on disk or came over the wire is damaged.
    #[error("{what} is damaged: {problem}")]
    Damaged {
        /// The file or message.
        what: String,
        /// What is wrong, and the repair command.
        problem: String,
    },
}

impl StoreError {
    /// Whether the request may have taken effect.
    pub fn applied(&self) -> Applied {
        match self {
            Self::Unavailable { applied, .. } | Self::Timeout { applied, .. } => *applied,
            _ => Applied::No,
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Busy { .. } | Self::ReadOnly { .. }
        )
    }
}

/// Why a transaction did not take effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxnError {
    /// A compare does not hold. Read again and decide anew.
    #[error("compare {index} does not hold: {compare:?}, the record is {}", describe(found.as_deref()))]
    Conflict {
        /// Which one, from 0.
        index: usize,
        /// The compare.
        compare: Compare,
        /// What is there; boxed, since records are large.
        found: Option<Box<Record>>,
        /// The store's revision when it was looked at.
        revision: Revision,
    },
    /// The stated token is not the one that holds the grant. Stop acting as its holder at once.
    #[error("fenced: {key:?} is {}, and the write states {stated}", held(*current))]
    Fenced {
        /// The key of the grant.
        key: Key,
        /// What the transaction stated.
        stated: FencingToken,
        /// The token that holds it now; `None` if nobody does.
        current: Option<FencingToken>,
    },
    /// A granted record was to be changed without stating its token.
    #[error(
        "{key:?} is granted with token {current}: state it with Compare::Fence to change or hand it over"
    )]
    Unfenced {
        /// The key of the grant.
        key: Key,
        /// The token that holds it.
        current: FencingToken,
    },
    /// A session that an operation or the idempotency key names is gone. Nothing was applied by this call;
    /// for a retry, the first try may have been.
    #[error("session {session} is closed or has expired; open a new one")]
    SessionGone {
        /// The session.
        session: SessionId,
    },
    /// The retry came too late: the outcome of this sequence number is no longer kept.
    #[error(
        "the outcome of transaction {sequence} of session {session} is no longer known; read to learn it"
    )]
    Forgotten {
        /// The session.
        session: SessionId,
        /// The sequence number.
        sequence: u64,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TxnError {
    /// Whether the transaction may have taken effect, now or in an earlier try.
    pub fn applied(&self) -> Applied {
        match self {
            Self::Store(error) => error.applied(),
            Self::Forgotten { .. } => Applied::Unknown,
            _ => Applied::No,
        }
    }
}

fn describe(found: Option<&Record>) -> String {
    found.map_or_else(|| "absent".to_owned(), |r| format!("at revision {} by {}", r.revision, r.last_writer))
}

fn held(current: Option<FencingToken>) -> String {
    current.map_or_else(|| "held by nobody".to_owned(), |token| format!("held with token {token}"))
}

/// Why a session request did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It was closed or has expired, and what was attached to it is gone. Open a new one.
    #[error("session {session} is closed or has expired; open a new one")]
    Gone {
        /// The session.
        session: SessionId,
    },
    /// The store can't keep this time to live.
    #[error("a session's time to live of {asked:?} is outside {min:?} to {max:?}")]
    Ttl {
        /// What was asked for.
        asked: Duration,
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
