//! gRPC statuses as HTTP statuses and problem documents.

use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{Response, StatusCode};
use std::time::Duration;
use tonic::{Code, Status, body::Body};

use crate::edge::Problem;

/// The HTTP status, the problem's code and its title. Statuses are those of
/// `google/rpc/code.proto`.
fn words(code: Code) -> (u16, &'static str, &'static str) {
    match code {
        Code::Ok => (500, "rpc.internal", "the call ended well and without an answer"),
        Code::Cancelled => (499, "rpc.cancelled", "the call was cancelled"),
        Code::Unknown => (500, "rpc.unknown", "the call failed for an unknown reason"),
        Code::InvalidArgument => (400, "rpc.invalid-argument", "the service does not accept the request"),
        Code::DeadlineExceeded => (504, "rpc.deadline-exceeded", "the deadline passed"),
        Code::NotFound => (404, "rpc.not-found", "the service knows no such thing"),
        Code::AlreadyExists => (409, "rpc.already-exists", "it exists already"),
        Code::PermissionDenied => (403, "rpc.permission-denied", "the caller may not do this"),
        Code::ResourceExhausted => (429, "rpc.resource-exhausted", "a limit is reached"),
        Code::FailedPrecondition => {
            (400, "rpc.failed-precondition", "the service is not in the state that this needs")
        }
        Code::Aborted => (409, "rpc.aborted", "the call was aborted"),
        Code::OutOfRange => (400, "rpc.out-of-range", "a value is out of range"),
        Code::Unimplemented => (501, "rpc.unimplemented", "the service does not do this"),
        Code::Internal => (500, "rpc.internal", "the service failed"),
        Code::Unavailable => (503, "rpc.unavailable", "the service can't answer now"),
        Code::DataLoss => (500, "rpc.data-loss", "data is lost or damaged"),
        Code::Unauthenticated => (401, "rpc.unauthenticated", "the caller is not known to the service"),
    }
}

/// What a failed call of the method at `path` looks like.
pub(super) fn of_status(status: &Status, path: &str) -> Problem {
    let (http, code, title) = words(status.code());
    let http = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut problem = Problem::new(http, code, title).object(path);
    if !status.message().is_empty() {
        problem = problem.cause(status.message());
    }
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
            problem.action("try again a little later").retry_after(Duration::from_secs(1))
        }
        Code::DeadlineExceeded => problem.action("allow more time with the header grpc-timeout"),
        Code::Unimplemented => problem.action("compare the path with the service's .proto file"),
        _ => problem,
    }
}

/// A problem as a response. It is among the extensions too, so that the edge's layers can
/// write the request's id into it.
pub(super) fn response(problem: &Problem) -> Response<Body> {
    let (parts, _) = problem.clone().into_response().into_parts();
    Response::from_parts(parts, Body::new(http_body_util::Full::new(json(problem))))
}

/// The document itself.
pub(crate) fn json(problem: &Problem) -> Bytes {
    // A struct of texts and numbers always serializes.
    Bytes::from(serde_json::to_vec(problem).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_status_and_word() {
        let lines: Vec<String> = (0..=16)
            .map(|number| {
                let status = Status::new(Code::from(number), "why");
                let problem = of_status(&status, "/a.B/C");
                format!("{number} {} {}", problem.status, problem.code)
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        0 500 rpc.internal
        1 499 rpc.cancelled
        2 500 rpc.unknown
        3 400 rpc.invalid-argument
        4 504 rpc.deadline-exceeded
        5 404 rpc.not-found
        6 409 rpc.already-exists
        7 403 rpc.permission-denied
        8 429 rpc.resource-exhausted
        9 400 rpc.failed-precondition
        10 409 rpc.aborted
        11 400 rpc.out-of-range
        12 501 rpc.unimplemented
        13 500 rpc.internal
        14 503 rpc.unavailable
        15 500 rpc.data-loss
        16 401 rpc.unauthenticated
        ");
    }
}
