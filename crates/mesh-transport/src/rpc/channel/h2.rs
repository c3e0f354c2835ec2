//! Requests over HTTP/2.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;

use super::{
    Failure,
    connector::{H2Connection, H2Io},
    upload::AttemptBody,
};

/// An HTTP/2 connection, ready for requests.
pub(super) struct Http2 {
    requests: SendRequest<AttemptBody>,
    refused: Arc<AtomicBool>,
    pub(super) exporter: Option<crate::ChannelExporter>,
}

/// What has to be polled for the connection to work. Ends with the connection.
pub(super) type Driver = Connection<TokioIo<NoticeAlert>, AttemptBody, TokioExecutor>;

impl Http2 {
    pub(super) async fn start(connected: H2Connection) -> Result<(Self, Driver), BoxError> {
        let refused = Arc::<AtomicBool>::default();
        let exporter = connected.exporter;
        let io = NoticeAlert { io: connected.io, refused: refused.clone(), failed: None };
        let (requests, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Until the server said how many it takes; more would be refused.
            .initial_max_send_streams(1)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .handshake(TokioIo::new(io))
            .await?;
        Ok((Self { requests, refused, exporter }, driver))
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
                if self.refused.load(Ordering::Relaxed) {
                    return Err(Failure::Refused(Box::new(error.into_error())));
                }
                Err(failure(error.into_error(), untouched))
            }
        }
    }
}

fn failure(error: hyper::Error, untouched: bool) -> Failure {
    let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    // Refused: this server did not look at this stream. The connection is as good as before.
    if h2.is_some_and(|h2| h2.reason() == Some(h2::Reason::REFUSED_STREAM)) {
        return Failure::NotTaken(Box::new(error));
    }
    // Above the last stream that the server's GOAWAY will process.
    let left_out =
        h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR));
    if !untouched && !left_out && h2.is_some_and(h2::Error::is_reset) {
        return Failure::Reset(Box::new(error));
    }
    Failure::Lost { unsent: untouched || left_out, source: Box::new(error) }
}

/// Notices when the peer does not accept our certificate, which a client only learns
/// after its own part of the handshake is done. h2 passes on the text of the error alone.
pub(super) struct NoticeAlert {
    io: Box<dyn H2Io>,
    refused: Arc<AtomicBool>,
    failed: Option<io::Error>,
}

impl NoticeAlert {
    fn notice(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::AlertReceived(_))) {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// What a write came to. It may fail before the alert that explains it was read, so
    /// that a failure is held back until the stream was read to its end. The stream is
    /// dead, so that this takes nothing from anybody, and soon over.
    fn poll_outcome<T>(&mut self, cx: &mut Context<'_>, outcome: io::Result<T>) -> Poll<io::Result<T>> {
        self.failed = match outcome {
            Ok(written) => return Poll::Ready(Ok(written)),
            Err(error) => Some(self.failed.take().unwrap_or(error)),
        };
        loop {
            let mut scratch = [0; 512];
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) => break,
                Err(error) => {
                    self.notice(&error);
                    break;
                }
            }
        }
        Poll::Ready(Err(self.failed.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }
}

impl AsyncRead for NoticeAlert {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        Poll::Ready(read.inspect_err(|error| self.notice(error)))
    }
}

impl AsyncWrite for NoticeAlert {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, data));
        self.poll_outcome(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        self.poll_outcome(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, data));
        self.poll_outcome(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
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
