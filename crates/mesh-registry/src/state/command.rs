//! What can be asked of a [`State`](super::State), and how it answers.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{
    FencingToken, NodeId, Revision, WallTime,
    store::{Compare, IdempotencyKey, Key, Record, Restored, Session, SessionId, Txn, TxnError, TxnOutcome},
};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A transaction.
    Txn(TxnCommand),
    /// Opens a session.
    Open {
        /// Whose it is.
        owner: NodeId,
        /// How long it lives without a renewal.
        ttl: Duration,
    },
    /// Renews these sessions.
    Renew(Vec<SessionId>),
    /// Ends a session at its owner's wish.
    Close(SessionId),
    /// Ends those sessions that were not renewed since.
    Expire(Vec<Expiry>),
    /// Forgets the history up to and including this revision.
    Compact(Revision),
    /// Deletes the oldest audit records from before this moment, as many as one command may.
    TrimAudit(WallTime),
    /// Several commands, one after the other.
    Batch(Vec<Command>),
    /// A piece of a snapshot that is to replace everything. Pieces come in order; one of another `id`
    /// drops what was staged before.
    RestoreChunk {
        /// The same for all pieces.
        id: u64,
        /// Where the piece belongs.
        offset: u64,
        /// The piece.
        data: Bytes,
    },
    /// The snapshot is complete: put it in place.
    RestoreEnd {
        /// The id of the pieces.
        id: u64,
        /// How many bytes they have together.
        bytes: u64,
        /// The hash of all of them.
        xxh3: u64,
    },
    /// Nobody goes on with a restore: drops what was staged, unless more came since.
    RestoreDrop {
        /// The id of the pieces.
        id: u64,
        /// How many bytes they have together, at most.
        bytes: u64,
    },
}

impl Command {
    /// A transaction without an audit record.
    pub fn txn(txn: Txn) -> Self {
        Self::Txn(TxnCommand { txn, audit: None })
    }
}

/// A transaction and what the store adds to it before it enters the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnCommand {
    /// The transaction.
    pub txn: Txn,
    /// Key and value of its audit record. They hold the time, which [`State::apply`](super::State::apply)
    /// can't know.
    pub audit: Option<(Key, Bytes)>,
}

/// A session whose time ran out, as one observer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The session.
    pub session: SessionId,
    /// Its count of renewals at that time. If it has another by now, the session lives on.
    pub renewals: u64,
}

/// How a command was answered, in the order of the variants of [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What came of a transaction.
    Txn(Result<TxnOutcome, Refusal>),
    /// The new session.
    Opened(Session),
    /// Each session as renewed, `None` for one that is gone.
    Renewed(Vec<Option<Session>>),
    /// The revision at which its records went; `None` if there was no such session.
    Closed(Option<Revision>),
    /// The sessions that did expire.
    Expired(Vec<SessionId>),
    /// The history is forgotten up to here.
    Compacted(Revision),
    /// So many audit records went; as many as one command may, if there are more.
    Trimmed(usize),
    /// One reply for each command.
    Batch(Vec<Reply>),
    /// How many bytes are staged, or why the piece was refused.
    Staged(Result<u64, String>),
    /// What the restore brought about, or why the snapshot was refused.
    Restored(Result<Restored, String>),
    /// Whether anything was dropped.
    Dropped(bool),
}

/// Why a transaction had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A compare does not hold.
    Conflict {
        /// Which.
        index: usize,
        /// What is there.
        found: Option<Box<Record>>,
        /// The revision at which it was looked at.
        revision: Revision,
    },
    /// The stated token does not hold the grant.
    Fenced {
        /// The key of the grant.
        key: Key,
        /// What was stated.
        stated: FencingToken,
        /// What holds it.
        current: Option<FencingToken>,
    },
    /// A grant was to be changed without its token.
    Unfenced {
        /// The key of the grant.
        key: Key,
        /// What holds it.
        current: FencingToken,
    },
    /// A session is gone.
    SessionGone(SessionId),
    /// The outcome is no longer kept.
    Forgotten(IdempotencyKey),
    /// The transaction contradicts a record's kind.
    Invalid(String),
}

impl Refusal {
    /// As it is kept for retries: the record of a conflict may be large, and be another by then.
    pub(crate) fn without_record(self) -> Self {
        match self {
            Self::Conflict { index, revision, .. } => Self::Conflict { index, found: None, revision },
            other => other,
        }
    }

    /// The error for the caller who sent `compares`.
    pub fn into_error(self, compares: &[Compare]) -> TxnError {
        match self {
            Self::Conflict { index, found, revision } => match compares.get(index) {
                Some(compare) => TxnError::Conflict { index, compare: compare.clone(), found, revision },
                None => TxnError::Store(mesh_core::store::StoreError::Damaged {
                    what: "the store's answer".to_owned(),
                    problem: format!("it names compare {index} of {}", compares.len()),
                }),
            },
            Self::Fenced { key, stated, current } => TxnError::Fenced { key, stated, current },
            Self::Unfenced { key, current } => TxnError::Unfenced { key, current },
            Self::SessionGone(session) => TxnError::SessionGone { session },
            Self::Forgotten(IdempotencyKey { session, sequence }) => {
                TxnError::Forgotten { session, sequence }
            }
            Self::Invalid(problem) => {
                TxnError::Store(mesh_core::store::StoreError::Invalid { what: "transaction", problem })
            }
        }
    }
}
