//! What PostgreSQL's refusals mean.

use std::time::Duration;

use mesh_core::store::{Applied, StoreError};
use tokio_postgres::{
    Error,
    error::SqlState,
    types::{WasNull, WrongType},
};

use crate::wire::WireError;

/// What a request meets between a failover and what settles it.
const MOVED: &str = "PostgreSQL failed over or was restored; try again";

/// Why a request had no answer that could be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// It was not carried out; a moment later it may be.
    NotNow(String),
    /// The connection broke, or time ran out, when it may have been carried out.
    Unknown(String),
    /// The database is another than the store knows, or the same after a failover; nothing was carried out.
    Moved,
    /// What everybody else sees.
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self::Store(damaged(&error))
    }
}

impl From<Error> for Fault {
    /// For everything but a commit.
    fn from(error: Error) -> Self {
        let Some(database) = error.as_db_error() else {
            let cause = std::error::Error::source(&error);
            if cause.is_some_and(|cause| cause.is::<WrongType>() || cause.is::<WasNull>()) {
                return damaged(&chain(&error)).into();
            }
            return Self::NotNow(chain(&error));
        };
        let code = database.code();
        let reason = format!("{} (SQLSTATE {})", database.message(), code.code());
        let is = |codes: &[SqlState]| codes.contains(code);
        if is(&[SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION]) {
            return StoreError::Denied {
                reason: format!("PostgreSQL refuses our user: {reason}; see registry.postgres.password_file"),
            }
            .into();
        }
        if is(&[SqlState::INSUFFICIENT_PRIVILEGE]) {
            return StoreError::Denied {
                reason: format!("{reason}; make the user of registry.postgres.url the owner of the schema"),
            }
            .into();
        }
        if is(&[SqlState::READ_ONLY_SQL_TRANSACTION]) {
            return StoreError::ReadOnly { reason: format!("{reason}; see default_transaction_read_only") }
                .into();
        }
        if is(&[SqlState::DISK_FULL]) {
            return StoreError::ReadOnly { reason: format!("{reason}; free space on the database's disk") }
                .into();
        }
        if is(&[SqlState::INVALID_CATALOG_NAME]) {
            return StoreError::Invalid { what: "setting registry.postgres.url", problem: reason }.into();
        }
        if is(&[
            SqlState::DATA_CORRUPTED,
            SqlState::INDEX_CORRUPTED,
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
        ]) {
            return StoreError::Damaged { what: "the store's schema".to_owned(), problem: reason }.into();
        }
        // Serialization failures, deadlocks, restarts, lack of connections, time limits of ours.
        Self::NotNow(reason)
    }
}

impl Fault {
    /// A commit that failed: unless PostgreSQL itself refused it, it may have happened.
    pub(super) fn of_commit(error: Error) -> Self {
        if error.as_db_error().is_some_and(|e| !is_shutdown(e.code())) {
            error.into()
        } else {
            Self::Unknown(chain(&error))
        }
    }

    pub(super) fn into_error(self, operation: &'static str) -> StoreError {
        let (reason, applied) = match self {
            Self::Store(error) => return error,
            Self::NotNow(reason) => (reason, Applied::No),
            Self::Unknown(reason) => (reason, Applied::Unknown),
            Self::Moved => (MOVED.to_owned(), Applied::No),
        };
        StoreError::Unavailable { operation, reason, applied, source: None }
    }
}

/// A backend that is told to end may have committed before it could say so.
fn is_shutdown(code: &SqlState) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code)
}

/// The error with its causes, which tokio-postgres keeps out of its text.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What is known after an earlier try may have been carried out, whatever came of the last one.
pub(super) fn after_unknown(operation: &'static str, error: StoreError) -> StoreError {
    match error.applied() {
        Applied::Unknown => error,
        _ => StoreError::Unavailable {
            operation,
            reason: format!("an earlier try had no answer, and then: {error}"),
            applied: Applied::Unknown,
            source: None,
        },
    }
}

/// The failure of a request that only reads: however it failed, nothing was applied.
pub(super) fn without_effect(error: StoreError) -> StoreError {
    match error {
        StoreError::Timeout { operation, after, .. } => timeout(operation, after, Applied::No),
        other => other,
    }
}

pub(super) fn timeout(operation: &'static str, after: Duration, applied: Applied) -> StoreError {
    StoreError::Timeout { operation, after, applied }
}

/// Rows that we did not write, or a newer program did.
pub(super) fn damaged(problem: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged {
        what: "a table of registry.postgres.schema".to_owned(),
        problem: format!("{problem}; nobody else may write there"),
    }
}
