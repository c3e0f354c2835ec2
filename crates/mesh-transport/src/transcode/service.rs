//! The service around a gRPC service.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prost_reflect::{DynamicMessage, MessageDescriptor, prost::Message as _};
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt as _};

use super::{
    Descriptors, answer,
    frames::framed,
    problem::{self, of_status},
    stream::Form,
};
use crate::{edge::Problem, rpc::Encoding};

/// Serves a gRPC service to callers that speak JSON, and to those that speak gRPC as before.
///
/// Whether JSON is allowed is not decided here: put it into an
/// [`RpcServer`](crate::rpc::RpcServer), which asks the policy first.
#[derive(Clone, Debug)]
pub struct Transcoder<S> {
    inner: S,
    descriptors: Arc<Descriptors>,
    message_bytes_max: usize,
}

impl<S> Transcoder<S> {
    /// Around `inner`. `message_bytes_max` bounds a request's JSON, and each message of an
    /// answer before it becomes JSON.
    pub fn new(inner: S, descriptors: Descriptors, message_bytes_max: u64) -> Self {
        // Longer ones have no length prefix.
        let message_bytes_max = message_bytes_max.min(u64::from(u32::MAX));
        let message_bytes_max = usize::try_from(message_bytes_max).unwrap_or(usize::MAX);
        Self { inner, descriptors: Arc::new(descriptors), message_bytes_max }
    }
}

type Transcoding = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for Transcoder<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Transcoding>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if Encoding::of(request.headers()) != Some(Encoding::Json) {
            return Either::Left(self.inner.call(request));
        }
        // The one that is ready is used up; the copy that stays gets ready again.
        let inner = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, inner);
        let (descriptors, message_bytes_max) = (Arc::clone(&self.descriptors), self.message_bytes_max);
        Either::Right(Box::pin(async move {
            let called = transcode(ready, &descriptors, message_bytes_max, request).await;
            Ok(called.unwrap_or_else(|problem| problem::response(&problem)))
        }))
    }
}

async fn transcode<S>(
    inner: S,
    descriptors: &Descriptors,
    message_bytes_max: usize,
    request: Request<Body>,
) -> Result<Response<Body>, Problem>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
    S::Future: Send,
{
    let (mut head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if head.method != Method::POST {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "rpc.method.not-post",
            "methods of services are called with POST",
        )
        .object(head.method.as_str())
        .action("send the request's message as the body of a POST"));
    }
    let Some(method) = descriptors.method(&path) else {
        return Err(of_status(&Status::unimplemented("no service is known to have this method"), &path));
    };
    if method.is_client_streaming() {
        return Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "rpc.method.client-streaming",
            "a stream of requests can't be sent as JSON",
        )
        .object(path)
        .cause("the method takes a stream of messages")
        .action("call it with gRPC"));
    }
    let form = Form::accepted(&head.headers);
    let bytes = read(body, message_bytes_max, &path).await?;
    let message = parse(method.input(), &bytes, &path)?;
    let length = message.encoded_len();
    if length > message_bytes_max {
        return Err(too_long(length, message_bytes_max, &path));
    }
    as_grpc(&mut head);
    let call = Request::from_parts(head, Body::new(Full::new(framed(&message))));
    let Ok(response) = inner.oneshot(call).await;
    let answers = answer::Answers { path, output: method.output(), message_bytes_max };
    if method.is_server_streaming() { answers.stream(response, form) } else { answers.one(response).await }
}

/// The whole body.
async fn read(body: Body, bytes_max: usize, path: &str) -> Result<Bytes, Problem> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_long(bytes_max + 1, bytes_max, path)),
        Err(error) => Err(match error.downcast::<Status>() {
            // A limit outside of this one: the edge answers for it.
            Ok(status) if is_limit(&status) => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request.body.too-large",
                "the request's body is too large",
            ),
            Ok(status) => of_status(&status, path),
            Err(error) => of_status(&Status::aborted(error.to_string()), path),
        }),
    }
}

fn is_limit(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(status);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn too_long(bytes: usize, bytes_max: usize, path: &str) -> Problem {
    let more = if bytes == bytes_max + 1 {
        "more than the limit of".to_owned()
    } else {
        format!("{bytes}, the limit is")
    };
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "rpc.request.too-large", "the message is too long")
        .object(path)
        .cause(format!("it has {more} {bytes_max} bytes"))
        .action("send less, or raise transport.server.message_bytes_max")
}

/// The message that JSON text says.
fn parse(descriptor: MessageDescriptor, text: &[u8], path: &str) -> Result<DynamicMessage, Problem> {
    let name = descriptor.full_name().to_owned();
    let mut json = serde_json::Deserializer::from_slice(text);
    DynamicMessage::deserialize(descriptor, &mut json)
        .and_then(|message| json.end().map(|()| message))
        .map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "rpc.request.invalid",
                "the body is not the method's message",
            )
            .object(path)
            .cause(format!("{name} can't be read from it: {error}"))
            .action(format!("send {name} as JSON, {{}} if it is empty; field names are in the .proto file"))
        })
}

/// Headers that are about the HTTP request, and nothing for the handler.
const OF_HTTP: [header::HeaderName; 12] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Makes a gRPC request of the head of one with JSON.
fn as_grpc(head: &mut Parts) {
    let headers: &mut HeaderMap = &mut head.headers;
    for name in OF_HTTP {
        headers.remove(name);
    }
    // Answers are read here, and not unpacked.
    headers.remove("grpc-accept-encoding");
    headers.remove("grpc-encoding");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    head.version = Version::HTTP_2;
}
