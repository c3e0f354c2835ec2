//! What happens to a request on any transport, before and after the handler.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use mesh_core::BoxError;
use tonic::Status;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::Shared;
use crate::rpc::{
    ENCODING_HEADER, Encoding, PeerInfo, PolicyViolation, TRANSPORT_HEADER,
    body::{AtWork, BodyLimits, RequestBody, ResponseBody},
    grpc,
    vocabulary::{claimed_reason, transport_header},
};

impl<S, B> Shared<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Runs one request. Whatever goes wrong becomes a response.
    pub(super) async fn handle<R>(&self, request: Request<R>, peer: &PeerInfo) -> Response<ResponseBody<B>>
    where
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        let encoding = Encoding::of(request.headers());
        let reason = claimed_reason(request.headers());
        let span = tracing::debug_span!(
            "transport.request",
            peer_id = %peer.identity.node_id(),
            transport = %peer.transport,
            encoding = encoding.map(Encoding::as_str),
            %reason,
            path = request.uri().path(),
        );
        let mut response = match self.admit(request, encoding, peer).instrument(span).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(encoding),
        };
        let headers = response.headers_mut();
        headers.insert(TRANSPORT_HEADER, transport_header(peer.transport, reason));
        if let Some(encoding) = encoding {
            headers.insert(ENCODING_HEADER, HeaderValue::from_static(encoding.as_str()));
            self.metrics.served(peer.transport, encoding);
        }
        response
    }

    async fn admit<R>(
        &self,
        request: Request<R>,
        encoding: Option<Encoding>,
        peer: &PeerInfo,
    ) -> Result<Response<ResponseBody<B>>, Refusal>
    where
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        let encoding =
            self.endpoint.check(peer.transport, encoding, &peer.identity).map_err(|violation| {
                self.metrics.violation(self.endpoint.name());
                tracing::debug!(peer_id = %peer.identity.node_id(), %violation, "request refused by policy");
                Refusal::Policy(violation)
            })?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            self.metrics.shed();
            Refusal::Overloaded { limit: self.config.requests_in_flight_max }
        })?;
        let at_work = AtWork::new(permit, self.metrics.in_flight());

        let timeout = match (grpc::timeout(request.headers()), self.config.deadline_max) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        let limits = BodyLimits {
            message_bytes_max: self.config.message_bytes_max,
            message_stall: self.config.message_stall_timeout,
            first_message: self.config.first_message_timeout,
            grpc: encoding == Encoding::GrpcProto,
        };
        let mut request = request.map(|body| tonic::body::Body::new(RequestBody::new(body, limits)));
        request.extensions_mut().insert(peer.clone());

        let work = self.service.clone().oneshot(request);
        let Some(timeout) = timeout else {
            let Ok(response) = work.await;
            return Ok(response.map(|body| ResponseBody::new(body, None, at_work, limits.grpc)));
        };
        let mut deadline = Box::pin(tokio::time::sleep(timeout));
        tokio::select! {
            biased;
            Ok(response) = work => {
                Ok(response.map(|body| ResponseBody::new(body, Some(deadline), at_work, limits.grpc)))
            }
            () = &mut deadline => Err(Refusal::Late),
        }
    }
}

/// Why a request got no answer from its handler.
enum Refusal {
    Policy(PolicyViolation),
    Overloaded { limit: usize },
    Late,
}

impl Refusal {
    fn into_response<B>(self, encoding: Option<Encoding>) -> Response<ResponseBody<B>> {
        let violation = matches!(self, Self::Policy(_));
        let (status, http) = match self {
            Self::Policy(violation @ PolicyViolation::RawBudget { .. }) => {
                (Status::resource_exhausted(violation.to_string()), StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Policy(violation @ PolicyViolation::Encoding { .. }) => {
                (Status::permission_denied(violation.to_string()), StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::Policy(violation) => {
                (Status::permission_denied(violation.to_string()), StatusCode::FORBIDDEN)
            }
            Self::Overloaded { limit } => {
                let text = format!("the server works on {limit} requests already; retry later");
                (Status::resource_exhausted(text), StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Late => (Status::deadline_exceeded("the deadline passed"), StatusCode::GATEWAY_TIMEOUT),
        };
        if encoding == Some(Encoding::GrpcProto) {
            return status.into_http::<()>().map(|()| ResponseBody::own(Bytes::new()));
        }
        in_words(http, &status, violation)
    }
}

/// What callers get that do not speak gRPC: a problem document where this build has them.
#[cfg(feature = "transcode")]
fn in_words<B>(http: StatusCode, status: &Status, violation: bool) -> Response<ResponseBody<B>> {
    use crate::edge::Problem;
    let mut problem = match (http, violation) {
        (_, true) => Problem::new(http, "rpc.policy", "the policy of this endpoint refuses the request")
            .action("send the request as the endpoint allows, or change the setting that is named"),
        (StatusCode::GATEWAY_TIMEOUT, _) => {
            Problem::new(http, "rpc.deadline-exceeded", "the deadline passed")
                .action("allow more time with the header grpc-timeout")
        }
        _ => Problem::new(http, "rpc.overloaded", "the server has too much to do")
            .action("try again a little later"),
    }
    .cause(status.message());
    if matches!(http, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        problem = problem.retry_after(std::time::Duration::from_secs(1));
    }
    let (parts, _) = axum::response::IntoResponse::into_response(problem.clone()).into_parts();
    Response::from_parts(parts, ResponseBody::own(crate::transcode::document(&problem)))
}

#[cfg(not(feature = "transcode"))]
fn in_words<B>(http: StatusCode, status: &Status, _violation: bool) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::own(Bytes::from(format!("{}\n", status.message()))));
    *response.status_mut() = http;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}
