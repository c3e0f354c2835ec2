//! HTTP/3 on a QUIC connection.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h3::{
    error::{Code, ConnectionError, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{Request, Response};
use http_body::{Body, Frame};
use mesh_core::BoxError;
use tokio::sync::watch;
use tower::Service;

use super::{ServeError, Shared, stopped};
use crate::endpoint::QuicConnection;
use crate::rpc::{
    PeerInfo, Transport,
    body::ResponseBody,
    h3_quinn::{Connection, Outgoing as _, RecvStream, SendStream, Stopped, response_block, send_body},
};

/// Bytes that may be on their way on one connection, each direction.
const WINDOW_BYTES: u32 = 8 << 20;

/// Serves until the peer leaves, the connection breaks, or the server stops.
pub(super) async fn serve<S, B>(
    shared: Arc<Shared<S>>,
    accepted: QuicConnection,
    peer: PeerInfo,
) -> Result<(), ServeError>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut stopping = shared.stopping.subscribe();
    let connection = accepted.connection().clone();
    // The endpoint starts every connection with the small windows of a gossip link.
    connection.set_max_concurrent_bi_streams(shared.config.requests_per_connection_max.into());
    connection.set_receive_window(WINDOW_BYTES.into());
    connection.set_send_window(WINDOW_BYTES.into());
    let _closes = CloseOnDrop(connection.clone());
    let peer = Arc::new(peer);
    let ended = |error: ConnectionError| by_agreement(error, &peer);

    let mut builder = h3::server::builder();
    builder.send_grease(false).max_field_section_size(shared.config.header_bytes_max.into());
    let built = builder.build(Connection::new(connection.clone())).await;
    let mut h3 = match built {
        Ok(h3) => h3,
        Err(error) => return ended(error),
    };

    // Each request at work holds a sender; `None` of them left closes the channel.
    let at_work = watch::Sender::new(());
    let mut is_stopping = false;
    let mut deadline = pin!(tokio::time::sleep(Duration::ZERO));
    let mut idle = pin!(tokio::time::sleep(Duration::ZERO));
    let mut newest: Option<Work> = None;
    loop {
        let resolver = tokio::select! {
            biased;
            accepted = h3.accept() => match accepted {
                Ok(Some(resolver)) => resolver,
                Ok(None) => return Ok(()),
                Err(error) => return ended(error),
            },
            () = stopped(&mut stopping), if !is_stopping => {
                is_stopping = true;
                if let Err(error) = h3.shutdown(1).await {
                    return ended(error);
                }
                let now = tokio::time::Instant::now();
                deadline.as_mut().reset(now + shared.config.drain_timeout);
                idle.as_mut().reset(now + GRACE);
                continue;
            }
            () = &mut deadline, if is_stopping => return Ok(()),
            // Late requests are turned away rather than cut off, so that the peer
            // knows that it may send them elsewhere.
            () = &mut idle, if is_stopping => {
                if at_work.receiver_count() == 0 {
                    return Ok(());
                }
                idle.as_mut().reset(tokio::time::Instant::now() + GRACE);
                continue;
            }
            () = begin(&mut newest), if newest.is_some() => continue,
        };
        let lost_interest = h3.inner.conn.take_stopped();
        let (shared, peer, place) = (shared.clone(), peer.clone(), at_work.subscribe());
        let work = Box::pin(async move {
            serve_request(shared, resolver, lost_interest, &peer).await;
            drop(place);
        });
        if let Some(work) = newest.replace(work) {
            tokio::spawn(work);
        }
    }
}

/// All that is to be done for one request.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins the work on the newest request here, when no other one has arrived meanwhile.
/// Most calls are over by that, and cost neither a task nor the way of another thread to
/// it. The others go on in a task.
async fn begin(newest: &mut Option<Work>) {
    // So that a connection that always has something to do leaves room for others.
    tokio::task::coop::consume_budget().await;
    let Some(mut work) = newest.take() else { return };
    let first = poll_fn(|cx| {
        // A handler that panics takes its request with it, and no other.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        Poll::Ready(polled.unwrap_or(Poll::Ready(())))
    });
    if first.await.is_pending() {
        tokio::spawn(work);
    }
}

/// Closes a connection on which no request was looked at.
pub(super) fn turn_away(connection: &QuicConnection) {
    let code = quinn::VarInt::from_u32(0x10b);
    debug_assert_eq!(code.into_inner(), Code::H3_REQUEST_REJECTED.value());
    connection.connection().close(code, b"shutting down");
}

/// How long a connection without requests is kept after its GOAWAY. Our channels close it
/// themselves as soon as they are done, and know by then that they have to; closing it
/// under a request that is on its way would leave the peer in doubt.
const GRACE: Duration = Duration::from_secs(1);

/// Closes the connection however serving it ends. h3 closes it as well, but only
/// after a successful start.
struct CloseOnDrop(quinn::Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(quinn::VarInt::from_u32(0x100), b"");
    }
}

fn by_agreement(error: ConnectionError, peer: &PeerInfo) -> Result<(), ServeError> {
    if error.is_h3_no_error() {
        return Ok(());
    }
    let (transport, peer) = (Transport::Http3, peer.identity.node_id().clone());
    Err(ServeError::Connection { transport, peer, source: Box::new(error) })
}

async fn serve_request<S, B>(
    shared: Arc<Shared<S>>,
    resolver: RequestResolver<Connection, Bytes>,
    lost_interest: Option<Stopped>,
    peer: &PeerInfo,
) where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let header_timeout = shared.config.message_stall_timeout;
    let Some(Ok((request, stream))) = or_late(header_timeout, resolver.resolve_request()).await else {
        return;
    };
    let (send, recv) = stream.split();
    let request = request.map(|()| H3RequestBody { stream: recv, data_over: false });
    let work = async {
        let response = shared.handle(request, peer).await;
        respond(send, response).await
    };
    let Some(mut lost_interest) = lost_interest else {
        let _ = work.await;
        return;
    };
    tokio::select! {
        biased;
        outcome = work => if outcome.is_ok() && *shared.stopping.borrow() {
            // The connection is about to close; wait until the peer has it all.
            lost_interest.await;
        },
        // The peer no longer wants the response, or is gone. The handler is dropped
        // and the stream reset.
        _ = &mut lost_interest => {}
    }
}

/// Like a timeout, but makes no timer for what is ready at once.
async fn or_late<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return Some(output);
    }
    tokio::time::timeout(limit, work).await.ok()
}

/// Sends the response.
async fn respond<B>(
    mut stream: RequestStream<SendStream, Bytes>,
    response: Response<ResponseBody<B>>,
) -> Result<(), StreamError>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    match response_block(&parts) {
        Some(block) => stream.block(block).await?,
        None => stream.send_response(Response::from_parts(parts, ())).await?,
    }
    send_body(stream, body, Code::H3_INTERNAL_ERROR).await
}

/// The body of a request.
struct H3RequestBody {
    stream: RequestStream<RecvStream, Bytes>,
    data_over: bool,
}

impl Body for H3RequestBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if !self.data_over {
            if let Some(mut data) = ready!(self.stream.poll_recv_data(cx))? {
                let data = data.copy_to_bytes(data.remaining());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.data_over = true;
        }
        let trailers = ready!(self.stream.poll_recv_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
