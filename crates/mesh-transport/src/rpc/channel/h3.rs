//! Requests over HTTP/3.

use std::{
    any::Any,
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h3::{
    client::{RequestStream, SendRequest},
    error::{Code, ConnectionError, StreamError},
    quic::ConnectionErrorIncoming,
};
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame};
use mesh_core::BoxError;
use tonic::Status;

use super::{Failure, attempt_head, connector::H3Connection, upload::AttemptBody};
use crate::rpc::{
    Reason,
    h3_quinn::{Connection, Opener, Outgoing as _, RecvStream, request_block, send_body, stand_in},
};

/// Longest header block that we accept from a server.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// An HTTP/3 connection, ready for requests.
pub(super) struct Http3 {
    requests: SendRequest<Opener, Bytes>,
    pub(super) connection: quinn::Connection,
    pub(super) exporter: Option<crate::ChannelExporter>,
    _keep: Box<dyn Any + Send + Sync>,
}

/// What has to be polled for the connection to work. Ends with the connection.
pub(super) type Driver = h3::client::Connection<Connection, Bytes>;

impl Http3 {
    pub(super) async fn start(connected: H3Connection) -> Result<(Self, Driver), BoxError> {
        let H3Connection { connection, load, keep, .. } = connected;
        let mut builder = h3::client::builder();
        builder.send_grease(false).max_field_section_size(HEADER_BYTES_MAX);
        let (driver, requests) = builder.build(Connection::new(connection.clone(), load)).await?;
        let exporter = crate::ChannelExporter::of_quic(&connection);
        Ok((Self { requests, connection, exporter, _keep: keep }, driver))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        &self,
        head: &Parts,
        reason: Reason,
        body: AttemptBody,
    ) -> Result<Response<Http3Body>, Failure> {
        let mut requests = self.requests.clone();
        // Writes are gathered, so that nothing has left when this fails.
        let unsent = |error| match failure(error) {
            Failure::Lost { source, .. } => Failure::Lost { unsent: true, source },
            other => other,
        };
        let block = request_block(head, reason);
        let request = match block {
            Some(_) => stand_in(),
            None => Request::from_parts(attempt_head(head, reason), ()),
        };
        let stream = requests.send_request(request).await.map_err(unsent)?;
        let (mut send, mut recv) = stream.split();
        if let Some(block) = block {
            send.block(block).await.map_err(unsent)?;
        }

        // A unary request is sent by this poll, and needs no task of its own.
        let mut upload = Box::pin(send_body(send, body, Code::H3_REQUEST_CANCELLED));
        let upload = match poll_fn(|cx| Poll::Ready(upload.as_mut().poll(cx))).await {
            // If it failed, the response, or its absence, tells what there is to know.
            Poll::Ready(_) => None,
            Poll::Pending => Some(AbortOnDrop(tokio::spawn(upload))),
        };
        let response = recv.recv_response().await.map_err(failure)?;
        Ok(response.map(|()| Http3Body { stream: recv, data_over: false, over: false, _upload: upload }))
    }
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<Result<(), StreamError>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn failure(error: StreamError) -> Failure {
    match &error {
        StreamError::RemoteTerminate { code } if *code == Code::H3_REQUEST_REJECTED => {
            Failure::NotTaken(Box::new(error))
        }
        StreamError::ConnectionError(ended) if is_refusal(ended) => Failure::Refused(Box::new(error)),
        StreamError::ConnectionError(ConnectionError::Remote(
            ConnectionErrorIncoming::ApplicationClose { error_code },
        )) if Code::H3_REQUEST_REJECTED == *error_code => {
            Failure::Lost { unsent: true, source: Box::new(error) }
        }
        StreamError::ConnectionError(_) => Failure::Lost { unsent: false, source: Box::new(error) },
        StreamError::HeaderTooBig { .. } => Failure::Malformed(Box::new(error)),
        StreamError::RemoteClosing => Failure::Lost { unsent: true, source: Box::new(error) },
        _ => Failure::Reset(Box::new(error)),
    }
}

/// Whether the peer ended the connection because it does not accept our certificate,
/// which a client only learns after its own part of the handshake is done.
fn is_refusal(error: &ConnectionError) -> bool {
    let ConnectionError::Remote(ConnectionErrorIncoming::Undefined(error)) = error else { return false };
    match error.downcast_ref::<quinn::ConnectionError>() {
        // The range of TLS alerts (RFC 9001, 4.8).
        Some(quinn::ConnectionError::ConnectionClosed(closed)) => {
            (0x100..0x200).contains(&u64::from(closed.error_code))
        }
        _ => false,
    }
}

/// Whether a connection ended because nothing came through any more.
pub(super) fn is_timeout(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::Timeout)
        || matches!(error, ConnectionError::Remote(ConnectionErrorIncoming::Timeout))
}

/// The body of a response. Dropped before its end, it stops the request.
pub(super) struct Http3Body {
    stream: RequestStream<RecvStream, Bytes>,
    data_over: bool,
    over: bool,
    _upload: Option<AbortOnDrop>,
}

impl Body for Http3Body {
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
        if !this.data_over {
            match ready!(this.stream.poll_recv_data(cx)) {
                Ok(Some(mut data)) => {
                    return Poll::Ready(Some(Ok(Frame::data(data.copy_to_bytes(data.remaining())))));
                }
                Ok(None) => this.data_over = true,
                Err(error) => return Poll::Ready(this.fail(error)),
            }
        }
        let trailers = ready!(this.stream.poll_recv_trailers(cx));
        this.over = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => this.fail(error),
        })
    }
}

impl Http3Body {
    fn fail(&mut self, error: StreamError) -> Option<Result<Frame<Bytes>, Status>> {
        self.over = true;
        let text = format!("response ended early: {error}");
        let mut status = match &error {
            StreamError::ConnectionError(_) => Status::unavailable(text),
            _ => Status::aborted(text),
        };
        status.set_source(Arc::new(error));
        Some(Err(status))
    }
}
