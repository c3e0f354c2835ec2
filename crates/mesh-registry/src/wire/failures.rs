//! Failures between their Rust types and gRPC statuses.

use std::{error::Error as _, time::Duration};

use mesh_core::{
    NodeId,
    store::{Applied, SessionError, SessionId, StoreError, TxnError},
};
use mesh_transport::rpc::ChannelError;
use prost::Message;
use tonic::{Code, Status};

use super::{generated as wire, values::millis};
use crate::{
    leader_hint::{AskAgain, LedBy},
    state::Refusal,
    wire::store_failure::{Damaged, Failure as Kind, TimeToLive, Timeout, Unavailable},
};

/// Names the message in the details of a status.
const TYPE_URL: &str = "type.googleapis.com/mesh.registry.v1.StoreFailure";
/// Longest text in a status: it travels in a header, as much as twice.
const TEXT_BYTES_MAX: usize = 1024;

/// A failure as a caller across the network learns of it.
#[derive(Debug)]
pub(crate) enum Failure {
    Store(StoreError),
    SessionGone(SessionId),
    TimeToLive { asked: Duration, min: Duration, max: Duration },
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let odd = |problem: String| Self::Damaged { what: "the store's answer".to_owned(), problem };
        match failure {
            Failure::Store(error) => error,
            Failure::SessionGone(session) => {
                odd(format!("session {session} is gone, it says, but none was named"))
            }
            Failure::TimeToLive { .. } => odd("it speaks of a time to live, but none was named".to_owned()),
        }
    }
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => Self::Store(error),
            Failure::SessionGone(session) => Self::Gone { session },
            Failure::TimeToLive { asked, min, max } => Self::Ttl { asked, min, max },
        }
    }
}

/// `text`, cut to what a header may hold.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn status(code: Code, message: &str, failure: Kind) -> Status {
    let failure = wire::StoreFailure { failure: Some(failure) };
    let detail = wire::FailureDetail { type_url: TYPE_URL.to_owned(), value: failure.encode_to_vec().into() };
    let message = cut(message);
    let details = wire::FailureStatus { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// A store's error as a status.
pub(crate) fn of_store(error: &StoreError) -> Status {
    let text = error.to_string();
    let (code, kind) = match error {
        StoreError::Invalid { problem, .. } => (Code::InvalidArgument, Kind::Invalid(cut(problem))),
        StoreError::Unavailable { reason, applied, source, .. } => {
            let led_by = source.as_ref().and_then(|source| source.downcast_ref::<LedBy>());
            let unavailable = Unavailable {
                reason: cut(reason),
                applied_unknown: *applied == Applied::Unknown,
                leader: led_by.map(|led| led.leader.as_str().to_owned()).unwrap_or_default(),
                again: source.as_ref().is_some_and(|source| source.is::<AskAgain>()),
            };
            (Code::Unavailable, Kind::Unavailable(unavailable))
        }
        StoreError::Timeout { after, applied, .. } => {
            let timeout = Timeout { after_ms: millis(*after), applied_unknown: *applied == Applied::Unknown };
            (Code::DeadlineExceeded, Kind::Timeout(timeout))
        }
        StoreError::Busy { limit } => (Code::ResourceExhausted, Kind::Busy(*limit as u64)),
        StoreError::ReadOnly { reason } => (Code::FailedPrecondition, Kind::ReadOnly(cut(reason))),
        StoreError::Denied { reason } => (Code::PermissionDenied, Kind::Denied(cut(reason))),
        StoreError::Unsupported { .. } => (Code::Unimplemented, Kind::Unsupported(cut(&text))),
        StoreError::Damaged { what, problem } => {
            (Code::DataLoss, Kind::Damaged(Damaged { what: cut(what), problem: cut(problem) }))
        }
        // A kind that is newer than this module: nothing about it is known.
        _ => {
            let unavailable = Unavailable {
                reason: cut(&text),
                applied_unknown: error.applied() == Applied::Unknown,
                leader: String::new(),
                again: false,
            };
            (Code::Unavailable, Kind::Unavailable(unavailable))
        }
    };
    status(code, &text, kind)
}

/// A status as a part of a reply.
pub(crate) fn in_reply(status: &Status) -> wire::FailureStatus {
    let details =
        wire::FailureStatus::decode(status.details()).map(|status| status.details).unwrap_or_default();
    wire::FailureStatus { code: status.code() as i32, message: cut(status.message()), details }
}

/// The status that a part of a reply stands for.
pub(crate) fn out_of_reply(failure: &wire::FailureStatus) -> Status {
    Status::with_details(
        Code::from_i32(failure.code),
        failure.message.clone(),
        failure.encode_to_vec().into(),
    )
}

/// A session's error as a status.
pub(crate) fn of_session(error: &SessionError) -> Status {
    match error {
        SessionError::Gone { session } => {
            status(Code::NotFound, &error.to_string(), Kind::SessionGone(session.0))
        }
        SessionError::Ttl { asked, min, max } => {
            let range = TimeToLive { asked_ms: millis(*asked), min_ms: millis(*min), max_ms: millis(*max) };
            status(Code::OutOfRange, &error.to_string(), Kind::TimeToLive(range))
        }
        SessionError::Store(error) => of_store(error),
        // A kind that is newer than this module. Its text is all that can travel.
        other => {
            let (reason, applied) = (other.to_string(), Applied::Unknown);
            of_store(&StoreError::Unavailable { operation: "serve a session", reason, applied, source: None })
        }
    }
}

/// Why a transaction had no effect, as its reply says it; a status if the store failed.
pub(crate) fn of_txn(error: TxnError) -> Result<Refusal, Status> {
    Ok(match error {
        TxnError::Conflict { index, found, revision, .. } => Refusal::Conflict { index, found, revision },
        TxnError::Fenced { key, stated, current } => Refusal::Fenced { key, stated, current },
        TxnError::Unfenced { key, current } => Refusal::Unfenced { key, current },
        TxnError::SessionGone { session } => Refusal::SessionGone(session),
        TxnError::Forgotten { session, sequence } => {
            Refusal::Forgotten(mesh_core::store::IdempotencyKey { session, sequence })
        }
        TxnError::Store(error) => return Err(of_store(&error)),
        // A kind that is newer than this module. Its text is all that can travel.
        other => {
            return Err(of_store(&StoreError::Unavailable {
                operation: "transact",
                reason: other.to_string(),
                applied: other.applied(),
                source: None,
            }));
        }
    })
}

/// The failure in a status that a store's service, a server before it, or the channel made.
///
/// `operation` and `after` are what the caller tried and for how long.
pub(crate) fn from_status(status: Status, operation: &'static str, after: Duration) -> Failure {
    if let Some(kind) = kind(status.details()) {
        return from_kind(kind, operation);
    }
    let never_sent = channel_error(&status).is_some_and(ChannelError::is_unsent);
    let refused = matches!(
        status.code(),
        Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::InvalidArgument
    );
    let applied = if never_sent || refused { Applied::No } else { Applied::Unknown };
    let from_peer = channel_error(&status).is_none();
    Failure::Store(match status.code() {
        Code::PermissionDenied if from_peer => StoreError::Denied { reason: status.message().to_owned() },
        Code::InvalidArgument if from_peer => {
            StoreError::Invalid { what: what(operation), problem: status.message().to_owned() }
        }
        Code::DeadlineExceeded => StoreError::Timeout { operation, after, applied },
        _ => {
            let reason =
                if status.message().is_empty() { status.code().description() } else { status.message() };
            let reason = reason.to_owned();
            StoreError::Unavailable { operation, reason, applied, source: Some(Box::new(status)) }
        }
    })
}

fn channel_error(status: &Status) -> Option<&ChannelError> {
    let mut cause = status.source();
    while let Some(error) = cause {
        // The status holds it in an Arc, which is what its source shows.
        if let Some(found) = error.downcast_ref::<ChannelError>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn kind(details: &[u8]) -> Option<Kind> {
    let status = wire::FailureStatus::decode(details).ok()?;
    let detail = status.details.into_iter().find(|detail| detail.type_url == TYPE_URL)?;
    wire::StoreFailure::decode(detail.value).ok()?.failure
}

/// The kind of request that an [`StoreError::Invalid`] speaks of.
fn what(operation: &'static str) -> &'static str {
    match operation {
        "transact" => "transaction",
        other => other,
    }
}

fn from_kind(kind: Kind, operation: &'static str) -> Failure {
    let applied = |unknown: bool| if unknown { Applied::Unknown } else { Applied::No };
    Failure::Store(match kind {
        Kind::Invalid(problem) => StoreError::Invalid { what: what(operation), problem },
        Kind::Unavailable(Unavailable { reason, applied_unknown, leader, again }) => {
            let led_by = NodeId::new(leader).ok().map(|leader| LedBy { leader });
            let source = if again { Some(AskAgain.into()) } else { led_by.map(|led_by| led_by.into()) };
            StoreError::Unavailable { operation, reason, applied: applied(applied_unknown), source }
        }
        Kind::Timeout(Timeout { after_ms, applied_unknown }) => StoreError::Timeout {
            operation,
            after: Duration::from_millis(after_ms),
            applied: applied(applied_unknown),
        },
        Kind::Busy(limit) => StoreError::Busy { limit: usize::try_from(limit).unwrap_or(usize::MAX) },
        Kind::ReadOnly(reason) => StoreError::ReadOnly { reason },
        Kind::Denied(reason) => StoreError::Denied { reason },
        Kind::Unsupported(text) => {
            tracing::debug!(operation, text, "the store's provider can't do this");
            let reason = "the provider behind the voters does not offer it; see its documentation";
            StoreError::Unsupported { provider: "remote", operation, reason }
        }
        Kind::Damaged(Damaged { what, problem }) => StoreError::Damaged { what, problem },
        Kind::SessionGone(session) => return Failure::SessionGone(SessionId(session)),
        Kind::TimeToLive(TimeToLive { asked_ms, min_ms, max_ms }) => {
            let [asked, min, max] = [asked_ms, min_ms, max_ms].map(Duration::from_millis);
            return Failure::TimeToLive { asked, min, max };
        }
    })
}

impl Failure {
    /// Whether the voter that says so is as good as any, only not at this moment.
    pub(crate) fn is_of_the_moment(&self) -> bool {
        match self {
            Self::Store(StoreError::Busy { .. }) => true,
            Self::Store(StoreError::Unavailable { source: Some(source), .. }) => source.is::<AskAgain>(),
            _ => false,
        }
    }

    /// Whether the request may have taken effect.
    pub(crate) fn applied(&self) -> Applied {
        match self {
            Self::Store(error) => error.applied(),
            _ => Applied::No,
        }
    }

    /// The failure of a request that changes nothing.
    pub(crate) fn without_effect(mut self) -> Self {
        if let Self::Store(StoreError::Unavailable { applied, .. } | StoreError::Timeout { applied, .. }) =
            &mut self
        {
            *applied = Applied::No;
        }
        self
    }

    /// Who leads, if the failure says so.
    pub(crate) fn leader(&self) -> Option<&NodeId> {
        let Self::Store(StoreError::Unavailable { source: Some(source), .. }) = self else { return None };
        source.downcast_ref::<LedBy>().map(|led_by| &led_by.leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_the_wire(error: &StoreError) -> StoreError {
        let sent = out_of_reply(&in_reply(&of_store(error)));
        let received = Status::with_details(sent.code(), sent.message(), sent.details().to_vec().into());
        from_status(received, "transact", Duration::from_secs(1)).into()
    }

    #[test]
    fn a_failure_keeps_its_kind_and_whether_it_was_applied() {
        for applied in [Applied::No, Applied::Unknown] {
            let leader: NodeId = "n2".parse().expect("an id");
            let error = StoreError::Unavailable {
                operation: "transact",
                reason: "no quorum".to_owned(),
                applied,
                source: Some(LedBy { leader: leader.clone() }.into()),
            };
            let back = over_the_wire(&error);
            assert_eq!(back.applied(), applied);
            assert_eq!(back.to_string(), error.to_string());
            assert_eq!(Failure::Store(back).leader(), Some(&leader));
            let timeout =
                StoreError::Timeout { operation: "transact", after: Duration::from_millis(1500), applied };
            assert_eq!(over_the_wire(&timeout).to_string(), timeout.to_string());
            assert_eq!(over_the_wire(&timeout).applied(), applied);
        }
        for error in [
            StoreError::Invalid { what: "transaction", problem: "too much".to_owned() },
            StoreError::Busy { limit: 7 },
            StoreError::ReadOnly { reason: "disk full".to_owned() },
            StoreError::Denied { reason: "operators may".to_owned() },
            StoreError::Damaged { what: "a file".to_owned(), problem: "its sum".to_owned() },
        ] {
            assert_eq!(over_the_wire(&error).to_string(), error.to_string());
        }
    }

    #[test]
    fn long_texts_are_cut_to_what_a_header_holds() {
        let error = StoreError::Denied { reason: "é".repeat(50_000) };
        assert!(of_store(&error).details().len() < 4096);
    }

    #[test]
    fn garbage_in_the_details_leaves_the_code() {
        let garbage = Status::with_details(Code::Internal, "oops", vec![0xff; 40].into());
        let error = StoreError::from(from_status(garbage, "get", Duration::ZERO));
        assert!(matches!(&error, StoreError::Unavailable { applied: Applied::Unknown, .. }), "{error}");
        let denied = Status::with_details(Code::PermissionDenied, "no", vec![8, 1].into());
        let error = StoreError::from(from_status(denied, "get", Duration::ZERO));
        assert!(matches!(error, StoreError::Denied { .. }));
        // A detail of ours that names no failure says nothing either.
        let detail = wire::FailureDetail { type_url: TYPE_URL.to_owned(), value: bytes::Bytes::new() };
        let empty = wire::FailureStatus { code: 14, message: String::new(), details: vec![detail] };
        let status = Status::with_details(Code::Unavailable, "x", empty.encode_to_vec().into());
        let error = StoreError::from(from_status(status, "get", Duration::ZERO));
        assert_eq!(error.applied(), Applied::Unknown);
    }
}
