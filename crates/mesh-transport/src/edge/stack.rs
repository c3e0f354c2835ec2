//! The layers around every route.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Limited;
use mesh_core::{Clock, PeerIdentity, Validated};
use tracing::Instrument;

use super::{
    CorsPolicy, EdgeConfig, EdgeMetrics, Problem, RateLimiter, RequestId, metrics::RequestLabels, request_id,
};

/// Identities whose request rate is remembered.
const RATE_IDENTITIES_MAX: usize = 65_536;

/// What the layers need.
pub struct StackOptions {
    /// Which web pages may call.
    pub cors: CorsPolicy,
    /// Requests of each identity.
    pub limiter: RateLimiter,
    /// Longest time from a request's headers to those of its answer.
    pub request_timeout: Duration,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Where requests are counted.
    pub metrics: EdgeMetrics,
    /// Times requests.
    pub clock: Arc<dyn Clock>,
}

impl StackOptions {
    /// As the settings say.
    pub fn new(config: &Validated<EdgeConfig>, metrics: EdgeMetrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            cors: CorsPolicy::new(config.origins.iter().cloned()),
            limiter: RateLimiter::new(
                config.requests_per_second,
                config.requests_burst,
                RATE_IDENTITIES_MAX,
                clock.clone(),
            ),
            request_timeout: config.request_timeout,
            body_bytes_max: config.body_bytes_max,
            metrics,
            clock,
        }
    }
}

/// Puts the shared layers around a router with all its routes.
///
/// From the outside in: request id and span; origin check; rate limit by the
/// identity of the connection; timeout; body limit; panics become 500. Every error
/// leaves as problem+json with the request's id, those of axum itself included.
pub fn stack(router: Router, options: StackOptions) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(options), around))
}

async fn around(State(options): State<Arc<StackOptions>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of_request(request.headers());
    request.extensions_mut().insert(id.clone());
    let started = options.clock.now();
    let method = request.method().clone();
    let peer = request.extensions().get::<Arc<PeerIdentity>>().map(|peer| peer.id.to_string());
    let span = tracing::debug_span!(
        "edge.request",
        request_id = %id,
        method = %method,
        path = request.uri().path(),
        peer_id = peer.as_deref(),
    );

    let answer = answer(&options, peer.as_deref().unwrap_or("unidentified"), request, next);
    let mut response = named(&id, &method, answer.instrument(span.clone()).await);
    let headers = response.headers_mut();
    headers.insert(request_id::HEADER, id.header());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));

    let took = options.clock.now().since(started);
    let status = response.status().as_u16();
    span.in_scope(|| tracing::debug!(status, seconds = took.as_secs_f64(), "answered"));
    options.metrics.request_seconds.observe(took.as_secs_f64());
    let labels = RequestLabels { method: method_label(&method), status };
    options.metrics.requests.get_or_create(&labels).inc();
    response
}

async fn answer(options: &StackOptions, identity: &str, request: Request, next: Next) -> Response {
    let origin = match options.cors.check(request.uri(), request.headers()) {
        Ok(origin) => origin,
        Err(problem) => return problem.into_response(),
    };
    let preflight = origin.as_ref().and_then(|_| options.cors.preflight(request.method(), request.headers()));
    let mut response = match options.limiter.admit(identity) {
        Err(problem) => problem.into_response(),
        Ok(()) => match preflight {
            Some(response) => response,
            None => bounded(options, request, next).await,
        },
    };
    options.cors.decorate(origin, response.headers_mut());
    response
}

async fn bounded(options: &StackOptions, request: Request, next: Next) -> Response {
    let stated = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if let Some(bytes) = stated.and_then(|text| text.parse::<u64>().ok())
        && bytes > options.body_bytes_max as u64
    {
        return too_large(Some(bytes), options.body_bytes_max).into_response();
    }
    let request = request.map(|body| Body::new(Limited::new(body, options.body_bytes_max)));
    // A handler that panics takes down its own request only.
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(options.request_timeout, handled).await {
        Ok(Ok(response)) if response.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            too_large(None, options.body_bytes_max).into_response()
        }
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!("a handler panicked");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal.panic", "the request hit a defect")
                .cause("its handler panicked; the node's log has the place")
                .action("report it with the request id; other requests are not affected")
                .into_response()
        }
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "request.timeout", "the request took too long")
            .cause(format!("there was no answer within {:?}", options.request_timeout))
            .action("send the body faster, or try again when the node has less to do")
            .retry_after(Duration::from_secs(1))
            .into_response(),
    }
}

fn too_large(bytes: Option<u64>, bytes_max: usize) -> Problem {
    let size = bytes.map_or("the body".to_owned(), |bytes| format!("a body of {bytes} bytes"));
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request.body.too-large", "the request's body is too large")
        .cause(format!("{size} is over the limit of {bytes_max} bytes"))
        .action("split the request, or raise transport.edge.body_bytes_max")
}

/// Writes the request's id into a problem, and makes a problem of an error that is none.
fn named(id: &RequestId, method: &Method, mut response: Response) -> Response {
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| problem_of(&response));
    let Some(problem) = problem else { return response };
    let (mut parts, _) = response.into_parts();
    let mut rendered = problem.request_id(id.as_str()).into_response();
    if method == Method::HEAD {
        *rendered.body_mut() = Body::empty();
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    for (name, value) in rendered.headers() {
        parts.headers.insert(name, value.clone());
    }
    Response::from_parts(parts, rendered.into_body())
}

/// The errors that axum answers by itself are empty or plain text.
fn problem_of(response: &Response) -> Option<Problem> {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let bare = content_type.is_none_or(|text| text.starts_with("text/plain"));
    if !bare || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    Some(match status {
        StatusCode::NOT_FOUND => {
            Problem::new(status, "request.path.unknown", "nothing is served at this path")
                .action("look at /control/openapi.json for what is")
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(status, "request.method.unsupported", "this path does not take this method")
                .action("use a method of the allow header")
        }
        status if status.is_client_error() => {
            Problem::new(status, "request.invalid", "the request can't be read")
                .action("compare it with /control/openapi.json")
        }
        status => Problem::new(status, "internal.error", "the request failed on this node")
            .action("try again; if it stays, look for the request id in the node's log"),
    })
}

/// A label from a closed set, whatever callers send.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
