//! Answers of a gRPC handler as JSON.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{Code, Status, body::Body};

use super::{
    frames::Frames,
    problem::of_status,
    stream::{Form, Messages},
};
use crate::edge::Problem;

/// What is needed to read the answers to one call.
#[derive(Debug)]
pub(super) struct Answers {
    /// The method, for problems.
    pub(super) path: String,
    pub(super) output: MessageDescriptor,
    pub(super) message_bytes_max: usize,
}

impl Answers {
    /// The one message of a unary call.
    pub(super) async fn one(self, response: Response<Body>) -> Result<Response<Body>, Problem> {
        let (head, mut body) = response.into_parts();
        self.refused(&head)?;
        let failed = |status: Status| of_status(&status, &self.path);
        let mut frames = Frames::new(self.message_bytes_max);
        let mut message = None;
        let mut ended = None;
        while let Some(frame) = body.frame().await {
            match frame.map_err(failed)?.into_data() {
                Ok(data) => {
                    frames.push(&data);
                    while let Some(next) = frames.next().map_err(failed)? {
                        if message.replace(next).is_some() {
                            return Err(failed(Status::internal(
                                "the handler gave two answers, one is expected",
                            )));
                        }
                    }
                }
                Err(frame) => ended = frame.into_trailers().ok().and_then(|trailers| status_of(&trailers)),
            }
        }
        match ended {
            Some(status) if status.code() != Code::Ok => return Err(failed(status)),
            Some(_) if !frames.is_inside_message() => {}
            _ => return Err(failed(Status::internal("the answer broke off"))),
        }
        let message = message.ok_or_else(|| failed(Status::internal("the handler gave no answer")))?;
        let json = self.json(&message).map_err(failed)?;
        Ok(with_metadata(head, "application/json", Body::new(Full::new(Bytes::from(json)))))
    }

    /// The messages of a call that streams its answers.
    pub(super) fn stream(self, response: Response<Body>, form: Form) -> Result<Response<Body>, Problem> {
        let (head, body) = response.into_parts();
        self.refused(&head)?;
        Ok(with_metadata(head, form.content_type(), Body::new(Messages::new(self, body, form))))
    }

    /// One message as JSON.
    pub(super) fn json(&self, message: &[u8]) -> Result<Vec<u8>, Status> {
        let unreadable = |error: String| {
            let name = self.output.full_name();
            Status::internal(format!("the handler's answer does not fit the descriptor of {name}: {error}"))
        };
        let message = DynamicMessage::decode(self.output.clone(), message)
            .map_err(|error| unreadable(error.to_string()))?;
        serde_json::to_vec(&message).map_err(|error| unreadable(error.to_string()))
    }

    /// Fails if the head alone says that the call has failed.
    fn refused(&self, head: &Parts) -> Result<(), Problem> {
        if let Some(status) = status_of(&head.headers).filter(|status| status.code() != Code::Ok) {
            return Err(of_status(&status, &self.path));
        }
        let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if head.status != StatusCode::OK || !content_type.is_some_and(|t| t.starts_with(b"application/grpc"))
        {
            let status = Status::unimplemented(format!("the service answered {} without gRPC", head.status));
            return Err(of_status(&status, &self.path));
        }
        Ok(())
    }
}

/// The status in headers or trailers.
pub(super) fn status_of(headers: &HeaderMap) -> Option<Status> {
    // Details are messages of their own, which need not be described; tonic would decode them.
    let mut plain = HeaderMap::with_capacity(2);
    for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE] {
        if let Some(value) = headers.get(&name) {
            plain.insert(name, value.clone());
        }
    }
    Status::from_header_map(&plain)
}

/// The response's head with what belongs to HTTP instead of gRPC.
fn with_metadata(mut head: Parts, content_type: &'static str, body: Body) -> Response<Body> {
    let own = |name: &str| name.starts_with("grpc-") || name == "content-length" || name == "trailer";
    let names: Vec<_> = head.headers.keys().filter(|name| own(name.as_str())).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Response::from_parts(head, body)
}
