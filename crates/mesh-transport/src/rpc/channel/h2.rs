//! Requests over HTTP/2.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, Connection, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::BoxError;
use tonic::Status;

use super::{
    Failure,
    connector::{H2Connection, H2Io},
    upload::AttemptBody,
};

/// An HTTP/2 connection, ready for requests.
pub(super) struct Http2 {
    requests: SendRequest<AttemptBody>,
}

/// What has to be polled for the connection to work. Ends with the connection.
pub(super) type Driver = Connection<TokioIo<Box<dyn H2Io>>, AttemptBody, TokioExecutor>;

impl Http2 {
    pub(super) async fn start(connected: H2Connection) -> Result<(Self, Driver), BoxError> {
        let (requests, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .handshake(TokioIo::new(connected.io))
            .await?;
        Ok((Self { requests }, driver))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(&self, head: Parts, body: AttemptBody) -> Result<Response<Http2Body>, Failure> {
        let mut requests = self.requests.clone();
        match requests.try_send_request(Request::from_parts(head, body)).await {
            Ok(response) => Ok(response.map(|body| Http2Body { body, over: false })),
            Err(mut error) => {
                let untouched = error.take_message().is_some();
                Err(failure(error.into_error(), untouched))
            }
        }
    }
}

fn failure(error: hyper::Error, untouched: bool) -> Failure {
    let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    let unsent = untouched
        || h2.is_some_and(|h2| {
            // The peer said of this stream that it did not look at it: refused, or above
            // the last one that its GOAWAY will process.
            h2.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR))
        });
    let reset = h2.is_some_and(h2::Error::is_reset);
    if unsent || !reset {
        Failure::Lost { unsent, source: Box::new(error) }
    } else {
        Failure::Reset(Box::new(error))
    }
}

/// The body of a response. Dropped before its end, it stops the request.
pub(super) struct Http2Body {
    body: Incoming,
    over: bool,
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                self.over = true;
                let h2 =
                    std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
                let reset = h2.is_some_and(h2::Error::is_reset);
                let text = format!("response ended early: {error}");
                let mut status = if reset { Status::aborted(text) } else { Status::unavailable(text) };
                status.set_source(Arc::new(error));
                status
            })
        }))
    }
}
