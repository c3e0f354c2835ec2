//! Serves HTTP/3 on one QUIC connection. What is served, and to whom, is the caller's matter.

use std::{
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
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use mesh_core::BoxError;
use tokio::sync::watch;

use crate::endpoint::Load;

use super::h3_quinn::{Connection, Outgoing, RecvStream, SendStream, Stopped, response_block, send_body};

/// Bytes that may be on their way on one connection, each direction.
const WINDOW_BYTES: u32 = 8 << 20;
/// How long a connection without requests is kept after its GOAWAY. Our channels close it
/// themselves as soon as they are done, and know by then that they have to; closing it
/// under a request that is on its way would leave the peer in doubt.
const GRACE: Duration = Duration::from_secs(1);

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests at work at once; the client queues more.
    pub(crate) requests_max: u32,
    /// Longest header block.
    pub(crate) header_bytes_max: u64,
    /// Longest wait for a header block that has begun.
    pub(crate) header_timeout: Duration,
    /// How long requests at work may go on after the end was announced.
    pub(crate) drain_timeout: Duration,
    /// Longest time in which the caller takes none of the bytes that wait for it; `None`
    /// lets it take all the time it wants.
    pub(crate) write_timeout: Option<Duration>,
}

/// What is served.
pub(crate) trait Answer: Send + Sync + 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static;

    /// Answers one request. Whatever goes wrong becomes a response.
    fn answer(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What the work on all requests of a connection shares.
struct Shared<A> {
    answer: A,
    limits: Limits,
    stopping: watch::Receiver<bool>,
}

/// Resolves when `stopping` turns true; never, if its sender is gone without that.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves until the peer leaves, the connection breaks, or `stopping` turns true and
/// requests at work are done.
///
/// # Errors
///
/// Why it did not end by agreement.
pub(crate) async fn serve<A: Answer>(
    connection: quinn::Connection,
    load: Load,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
    answer: A,
) -> Result<(), ConnectionError> {
    // An endpoint starts every connection with small windows.
    connection.set_max_concurrent_bi_streams(limits.requests_max.into());
    connection.set_receive_window(WINDOW_BYTES.into());
    connection.set_send_window(WINDOW_BYTES.into());
    let _closes = CloseOnDrop(connection.clone());
    let shared = Arc::new(Shared { answer, limits, stopping: stopping.clone() });

    let mut builder = h3::server::builder();
    builder.send_grease(false).max_field_section_size(limits.header_bytes_max);
    let built = builder.build(Connection::new(connection.clone(), load)).await;
    let mut h3 = match built {
        Ok(h3) => h3,
        Err(error) => return by_agreement(error),
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
                Err(error) => return by_agreement(error),
            },
            () = stopped(&mut stopping), if !is_stopping => {
                is_stopping = true;
                if let Err(error) = h3.shutdown(1).await {
                    return by_agreement(error);
                }
                let now = tokio::time::Instant::now();
                deadline.as_mut().reset(now + limits.drain_timeout);
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
        let (shared, place) = (shared.clone(), at_work.subscribe());
        let work = Box::pin(async move {
            serve_request(&shared, resolver, lost_interest).await;
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

/// Closes the connection however serving it ends. h3 closes it as well, but only
/// after a successful start.
struct CloseOnDrop(quinn::Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(quinn::VarInt::from_u32(0x100), b"");
    }
}

fn by_agreement(error: ConnectionError) -> Result<(), ConnectionError> {
    if error.is_h3_no_error() { Ok(()) } else { Err(error) }
}

async fn serve_request<A: Answer>(
    shared: &Shared<A>,
    resolver: RequestResolver<Connection, Bytes>,
    lost_interest: Option<Stopped>,
) {
    let header_timeout = shared.limits.header_timeout;
    let Some(Ok((request, stream))) = or_late(header_timeout, resolver.resolve_request()).await else {
        return;
    };
    let (send, recv) = stream.split();
    let request = request.map(|()| RequestBody { stream: recv, data_over: false });
    let work = async {
        let response = shared.answer.answer(request).await;
        respond(send, response, shared.limits.write_timeout).await
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

/// Pieces in which bytes are handed to a caller that has to take them in time.
const PIECE_BYTES: usize = 64 << 10;

/// The sending half of a stream whose caller has to take something now and then.
struct Impatient {
    stream: RequestStream<SendStream, Bytes>,
    limit: Duration,
}

impl Impatient {
    async fn in_time<F>(limit: Duration, write: F) -> Result<(), StreamError>
    where
        F: Future<Output = Result<(), StreamError>> + Send,
    {
        // Dropping the stream for it resets it.
        or_late(limit, write).await.unwrap_or_else(|| {
            let reason = format!("the peer took no bytes for {limit:?}");
            Err(StreamError::StreamError { code: Code::H3_REQUEST_CANCELLED, reason })
        })
    }
}

impl Outgoing for Impatient {
    async fn data(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        // Empty data are a mark, and go through as such.
        loop {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            Self::in_time(self.limit, self.stream.send_data(piece)).await?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }

    async fn trailers(&mut self, trailers: HeaderMap) -> Result<(), StreamError> {
        Self::in_time(self.limit, self.stream.send_trailers(trailers)).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Self::in_time(self.limit, self.stream.finish()).await
    }

    fn reset(&mut self, code: Code) {
        self.stream.stop_stream(code);
    }
}

/// Sends the response.
async fn respond<B>(
    mut stream: RequestStream<SendStream, Bytes>,
    response: Response<B>,
    write_timeout: Option<Duration>,
) -> Result<(), StreamError>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    // Heads are small: they go into a buffer here, and wait for nobody.
    match response_block(&parts) {
        Some(block) => stream.block(block).await?,
        None => stream.send_response(Response::from_parts(parts, ())).await?,
    }
    match write_timeout {
        None => send_body(stream, body, Code::H3_INTERNAL_ERROR).await,
        Some(limit) => send_body(Impatient { stream, limit }, body, Code::H3_INTERNAL_ERROR).await,
    }
}

/// The body of a request.
pub(crate) struct RequestBody {
    stream: RequestStream<RecvStream, Bytes>,
    data_over: bool,
}

impl Body for RequestBody {
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
