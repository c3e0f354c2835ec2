//! What etcd's refusals mean.

use std::time::Duration;

use mesh_core::store::{Applied, StoreError};
use tonic::{Code, ConnectError, Status};

use crate::wire::WireError;

/// Why a call had no answer that could be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// The revision asked for is compacted.
    Compacted,
    /// There is no such lease.
    NoSuchLease,
    /// Our login has run out; the call was not carried out.
    LoginExpired,
    /// The member did not carry it out. Another one, or this one later, may.
    NotNow(String),
    /// The answer is larger than we take.
    TooLarge(String),
    /// What everybody else sees.
    Store(StoreError),
}

/// What to do when etcd has no space left.
pub(super) const FULL: &str =
    "etcd's space is used up; compact and defragment it, then `etcdctl alarm disarm`";

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// As the caller of the store sees it.
    pub(super) fn into_error(self, operation: &'static str) -> StoreError {
        let reason = match self {
            Self::Store(error) => return error,
            Self::Compacted => "etcd compacted that revision meanwhile; try again".to_owned(),
            Self::NoSuchLease => "a lease went away meanwhile; try again".to_owned(),
            Self::LoginExpired => "etcd does not accept our login".to_owned(),
            Self::NotNow(reason) => reason,
            Self::TooLarge(problem) => return StoreError::Invalid { what: "request to etcd", problem },
        };
        StoreError::Unavailable { operation, reason, applied: Applied::No, source: None }
    }
}

/// What a status means for a call that `writes` or not.
pub(super) fn of_status(operation: &'static str, writes: bool, status: Status) -> Fault {
    let says = |text: &str| status.message().contains(text);
    let invalid = |problem: String| Fault::Store(StoreError::Invalid { what: "request to etcd", problem });
    let denied =
        |reason: &str| Fault::Store(StoreError::Denied { reason: format!("{reason}: {}", status.message()) });
    match status.code() {
        Code::OutOfRange if says("compacted") => Fault::Compacted,
        Code::NotFound if says("lease not found") => Fault::NoSuchLease,
        Code::Unauthenticated => Fault::LoginExpired,
        Code::PermissionDenied => denied("etcd's user may not; grant it the registry.etcd.root prefix"),
        Code::InvalidArgument if says("user name is empty") || says("authentication failed") => {
            denied("etcd wants a user; see registry.etcd.user and registry.etcd.password_file")
        }
        Code::InvalidArgument if says("too many operations") => invalid(format!(
            "{}; start etcd with a larger --max-txn-ops (default 128) or split the transaction",
            status.message()
        )),
        Code::InvalidArgument | Code::ResourceExhausted if says("too large") || says("larger than max") => {
            invalid(format!(
                "{}; start etcd with a larger --max-request-bytes (default 1.5 MiB) or split it",
                status.message()
            ))
        }
        Code::OutOfRange if says("too large") => Fault::TooLarge(status.message().to_owned()),
        Code::ResourceExhausted if says("space exceeded") => {
            Fault::Store(StoreError::ReadOnly { reason: FULL.to_owned() })
        }
        Code::ResourceExhausted if says("too many requests") => {
            Fault::NotNow("etcd has too many requests under way".to_owned())
        }
        Code::DataLoss => Fault::Store(StoreError::Damaged {
            what: "etcd's data".to_owned(),
            problem: format!("{}; see etcd's guide to disaster recovery", status.message()),
        }),
        Code::Unavailable if !writes || was_not_sent(&status) || says("no leader") => {
            Fault::NotNow(status.message().to_owned())
        }
        _ if !writes && status.code() != Code::InvalidArgument => Fault::NotNow(status.message().to_owned()),
        Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition => {
            invalid(status.message().to_owned())
        }
        _ => Fault::Store(StoreError::Unavailable {
            operation,
            reason: status.message().to_owned(),
            applied: Applied::Unknown,
            source: Some(Box::new(status)),
        }),
    }
}

/// Whether the connection was not even made.
fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

pub(super) fn timeout(operation: &'static str, after: Duration, writes: bool) -> StoreError {
    let applied = if writes { Applied::Unknown } else { Applied::No };
    StoreError::Timeout { operation, after, applied }
}

/// Something under our root that we did not write, or a newer program did.
pub(super) fn damaged(error: WireError) -> StoreError {
    StoreError::Damaged {
        what: "etcd's data under registry.etcd.root".to_owned(),
        problem: format!("{error}; nobody else may write there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_it_was_applied() {
        let lost = of_status("write", true, Status::unavailable("transport error"));
        let Fault::Store(error) = lost else { panic!("{lost:?}") };
        assert_eq!(error.applied(), Applied::Unknown);
        assert!(matches!(
            of_status("write", true, Status::unavailable("etcdserver: no leader")),
            Fault::NotNow(_)
        ));
        assert!(matches!(of_status("read", false, Status::unavailable("reset")), Fault::NotNow(_)));
    }

    #[test]
    fn limits_of_etcd_name_the_flag_that_raises_them() {
        let text = |status| of_status("write", true, status).into_error("write").to_string();
        let ops = text(Status::invalid_argument("etcdserver: too many operations in txn request"));
        assert!(ops.contains("--max-txn-ops"), "{ops}");
        let size = text(Status::invalid_argument("etcdserver: request is too large"));
        assert!(size.contains("--max-request-bytes"), "{size}");
        let space = text(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
        assert!(space.contains("read-only") && space.contains("disarm"), "{space}");
    }
}
