//! Bodies of served requests and responses.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mesh_core::BoxError;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};
use tonic::Status;

use super::grpc::{self, MessageScanner};

/// Limits that a request body is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) message_bytes_max: u64,
    pub(crate) message_stall: Duration,
    pub(crate) first_message: Duration,
    /// Whether the body consists of gRPC messages.
    pub(crate) grpc: bool,
}

/// A request body that can't be mistaken for complete when it is not.
///
/// tonic takes a body error with the code `Cancelled` for the regular end of a
/// request stream, and that is what a reset by the client maps to. Here every error
/// becomes `Aborted` or another code that handlers do see.
pub(crate) struct RequestBody<B> {
    inner: B,
    limits: BodyLimits,
    scanner: MessageScanner,
    begun: bool,
    over: bool,
    stall: Option<Pin<Box<Sleep>>>,
    /// Whether `stall` runs for the current wait.
    waiting: bool,
}

impl<B> RequestBody<B> {
    pub(crate) fn new(inner: B, limits: BodyLimits) -> Self {
        let scanner = MessageScanner::default();
        Self { inner, limits, scanner, begun: false, over: false, stall: None, waiting: false }
    }

    /// How long to wait for the next frame; `None` between messages, where a stream
    /// may rest as long as it likes.
    fn patience(&self) -> Option<Duration> {
        if !self.begun {
            Some(self.limits.first_message)
        } else if !self.limits.grpc || self.scanner.inside_message() {
            Some(self.limits.message_stall)
        } else {
            None
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(patience) = self.patience() else { return Poll::Pending };
        if !self.waiting {
            let at = Instant::now() + patience;
            match &mut self.stall {
                Some(stall) => stall.as_mut().reset(at),
                None => self.stall = Some(Box::pin(tokio::time::sleep_until(at))),
            }
            self.waiting = true;
        }
        match &mut self.stall {
            Some(stall) => ready!(stall.as_mut().poll(cx)),
            None => return Poll::Pending,
        }
        let what = if self.begun { "request body stalled inside a message" } else { "no message arrived" };
        Poll::Ready(Status::aborted(format!("{what} for {patience:?}")))
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.over = true;
        Poll::Ready(Some(Err(status)))
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let status = ready!(this.poll_stall(cx));
                return this.fail(status);
            }
        };
        this.waiting = false;
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && !data.is_empty()
                {
                    this.begun = true;
                    if this.limits.grpc
                        && let Err(bytes) = this.scanner.advance(data, this.limits.message_bytes_max)
                    {
                        let limit = this.limits.message_bytes_max;
                        return this.fail(Status::resource_exhausted(format!(
                            "message of {bytes} bytes is longer than the limit of {limit}"
                        )));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error: BoxError = error.into();
                let mut status = Status::aborted(format!("request body ended early: {error}"));
                status.set_source(error.into());
                this.fail(status)
            }
            None => {
                this.over = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request at work: holds its place in the server until the response is over.
pub(crate) struct AtWork {
    _permit: OwnedSemaphorePermit,
    gauge: Gauge,
}

impl AtWork {
    pub(crate) fn new(permit: OwnedSemaphorePermit, gauge: &Gauge) -> Self {
        gauge.inc();
        Self { _permit: permit, gauge: gauge.clone() }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// A response body that keeps the deadline of its request.
pub(crate) struct ResponseBody<B> {
    inner: Inner<B>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether trailers can tell that the deadline passed.
    grpc: bool,
    _at_work: Option<AtWork>,
}

enum Inner<B> {
    Service(B),
    /// A text that we wrote, or nothing.
    Own(Option<Bytes>),
}

impl<B> ResponseBody<B> {
    pub(crate) fn new(inner: B, deadline: Option<Pin<Box<Sleep>>>, at_work: AtWork, grpc: bool) -> Self {
        Self { inner: Inner::Service(inner), deadline, grpc, _at_work: Some(at_work) }
    }

    pub(crate) fn own(text: Bytes) -> Self {
        let text = Some(text).filter(|text| !text.is_empty());
        Self { inner: Inner::Own(text), deadline: None, grpc: false, _at_work: None }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let body = match &mut this.inner {
            Inner::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Inner::Service(body) => body,
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(deadline) = &mut this.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        // The stream ends here, and the handler's part of it is dropped.
        this.inner = Inner::Own(None);
        let late = Status::deadline_exceeded("the deadline passed while the response was being sent");
        if !this.grpc {
            // Nothing but a broken stream keeps the part that was sent from being taken for the whole.
            return Poll::Ready(Some(Err(late.into())));
        }
        Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(&late)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Service(body) => body.is_end_stream(),
            Inner::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Service(body) => body.size_hint(),
            Inner::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
