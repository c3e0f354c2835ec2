//! A channel to one node.
//!
//! It makes its connection when the first request comes, HTTP/3 raced with HTTP/2, and
//! keeps it. A connection that breaks is replaced; requests that were certainly not
//! acted on are sent again, and so are those marked [`Idempotent`].

mod broken;
mod choice;
mod connector;
mod endpoint;
mod error;
mod h2;
mod h3;
mod live;
mod pool;
mod race;
mod upload;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, request::Parts, uri};
use http_body::{Body, Frame};
use mesh_core::{BoxError, Validated};
use tokio::{sync::watch, time::Sleep};
use tonic::Status;

use self::{
    choice::{Memory, Slot},
    live::{Live, LiveBody},
    upload::Upload,
};
use super::{
    ChannelConfig, Encoding, EndpointGuard, Idempotent, Lane, REASON_HEADER, Reason, RpcMetrics, Transport,
    grpc,
};

pub use self::{
    connector::{ConnectFailure, Connector, H2Connection, H2Io, H3Connection, Target},
    error::ChannelError,
    pool::Channels,
};

/// A channel to one node: a tower service that generated clients accept. Clones share
/// its connection. Comes from [`Channels::open`].
///
/// A request is sent again on another connection if the one that it was on broke before
/// the response began and either the peer certainly did not act on it, or it carries the
/// [`Idempotent`] extension. Its body is recorded for that, up to `replay_bytes_max`.
///
/// # Cancel safety
///
/// Dropping a response future or body resets the request on the wire; an upload that was
/// under way does not look complete to the handler.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    lane: Lane,
    authority: uri::Authority,
    config: Validated<ChannelConfig>,
    endpoint: EndpointGuard,
    connector: Arc<dyn Connector>,
    metrics: RpcMetrics,
    live: ArcSwapOption<Live>,
    memory: Mutex<Memory>,
    in_flight: AtomicUsize,
    /// Dropped with the channel, which ends its background task.
    alive: watch::Sender<()>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.inner.target)
            .field("lane", &self.inner.lane)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

/// Why one attempt failed.
enum Failure {
    /// The peer did not look at the request. The connection may be fine.
    NotTaken(BoxError),
    Lost {
        unsent: bool,
        source: BoxError,
    },
    Reset(BoxError),
    Refused(BoxError),
    Malformed(BoxError),
}

impl Channel {
    /// Who is at the other end.
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// What kind of traffic it carries.
    pub fn lane(&self) -> Lane {
        self.inner.lane
    }

    /// What carries requests now, and why; `None` while there is no connection.
    pub fn current(&self) -> Option<(Transport, Reason)> {
        let live = self.inner.live.load_full()?;
        live.is_usable().then(|| (live.transport(), live.reason))
    }

    /// Connects, if there is no connection yet.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn connect(&self) -> Result<(Transport, Reason), ChannelError> {
        let live = self.inner.current().await?;
        Ok((live.transport(), live.reason))
    }
}

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>;

    /// Always ready. What is too much is refused by the call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let Some(limit) = grpc::timeout(request.headers()) else {
                return Ok(inner.run(request).await?);
            };
            let peer = inner.target.node_id.clone();
            let mut deadline = Box::pin(tokio::time::sleep(limit));
            let late = ChannelError::DeadlineExceeded { peer, limit };
            let mut response = tokio::select! {
                biased;
                response = inner.run(request) => response?,
                () = &mut deadline => return Err(late.into()),
            };
            response.body_mut().deadline = Some((deadline, limit));
            Ok(response)
        })
    }
}

impl Inner {
    async fn run(
        self: &Arc<Self>,
        request: Request<tonic::body::Body>,
    ) -> Result<Response<ResponseBody>, ChannelError> {
        let slot = self.admit()?;
        let (mut head, body) = request.into_parts();
        let idempotent = head.extensions.get::<Idempotent>().is_some();
        let encoding = Encoding::of(&head.headers).unwrap_or(Encoding::GrpcProto);
        self.address(&mut head)?;
        let upload = Upload::new(body, self.config.replay_bytes_max);
        let mut attempts = 0;
        loop {
            let live = self.current().await?;
            let Some(body) = upload.attempt() else { unreachable!("checked before each repetition") };
            let sent = live.send(&head, body).await;
            attempts += 1;
            let failure = match sent {
                Ok(response) => {
                    self.metrics.request(live.transport(), encoding, live.reason);
                    if live.prove() && live.transport() == Transport::Http3 {
                        self.on_http3_proven();
                    }
                    upload.forget();
                    let wrap = |body| ResponseBody {
                        body: Some(body),
                        deadline: None,
                        _upload: upload,
                        _slot: slot,
                    };
                    return Ok(response.map(wrap));
                }
                Err(failure) => failure,
            };
            let error = self.judge(&live, failure);
            let may_repeat = error.is_unsent() || idempotent;
            let lost = matches!(error, ChannelError::Lost { .. } | ChannelError::NotTaken { .. });
            if !lost || !may_repeat || attempts >= self.config.attempts_max || !upload.can_repeat() {
                return Err(error);
            }
            self.metrics.retry(live.transport());
        }
    }

    /// Names the failure, and sees to it that a broken connection is not used again.
    fn judge(&self, live: &Live, failure: Failure) -> ChannelError {
        let (peer, transport) = (self.target.node_id.clone(), live.transport());
        match failure {
            Failure::Lost { unsent, source } => {
                live.retire();
                ChannelError::Lost { peer, transport, unsent, source: Arc::new(source) }
            }
            Failure::NotTaken(source) => ChannelError::NotTaken { peer, transport, source: Arc::new(source) },
            Failure::Reset(source) => ChannelError::Reset { peer, transport, source: Arc::new(source) },
            Failure::Refused(source) => {
                live.retire();
                let source = ConnectFailure::Refused { peer: peer.clone(), transport, source };
                ChannelError::Connect { peer, source: Arc::new(source) }
            }
            Failure::Malformed(source) => ChannelError::Malformed { peer, source: Arc::new(source) },
        }
    }

    /// Completes the request's URI: generated clients give a path alone.
    fn address(&self, head: &mut Parts) -> Result<(), ChannelError> {
        let mut parts = uri::Parts::default();
        parts.scheme = Some(uri::Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(parts).map_err(|source| ChannelError::Malformed {
            peer: self.target.node_id.clone(),
            source: Arc::new(source.into()),
        })?;
        Ok(())
    }
}

/// The head for one attempt. It says why the transport is not the preferred one.
fn attempt_head(head: &Parts, reason: Reason) -> Parts {
    let mut attempt = Request::new(()).into_parts().0;
    attempt.method = head.method.clone();
    attempt.uri = head.uri.clone();
    attempt.headers = head.headers.clone();
    if reason != Reason::Negotiated {
        attempt.headers.insert(REASON_HEADER, HeaderValue::from_static(reason.as_str()));
    }
    attempt
}

/// The body of a response. Dropped before its end, it resets the request.
pub struct ResponseBody {
    body: Option<LiveBody>,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    _upload: Upload,
    _slot: Slot,
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("over", &self.body.is_none()).finish_non_exhaustive()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some((deadline, limit)) = &mut this.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        this.body = None;
        let text = format!("the response was not complete within {limit:?}");
        Poll::Ready(Some(Err(Status::deadline_exceeded(text))))
    }
}

#[cfg(test)]
impl Channel {
    /// Tells connections apart.
    pub(crate) fn serial(&self) -> u64 {
        self.inner.live.load().as_ref().map_or(0, |live| live.serial)
    }

    /// The next request finds no connection.
    pub(crate) fn drop_connection(&self) {
        self.inner.live.store(None);
    }
}
