//! Links over HTTP/2, for where UDP does not get through.
//!
//! One request whose body and response stay open are the two directions. The
//! greeting travels in the header of the request, its answer in that of the
//! response, so that a dialer knows the verdict before it sends a payload.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::{Direction, LinkDownReason, PeerIdentity};
use tokio::sync::{Notify, mpsc};

use super::{
    Inner,
    dial::Carry,
    link::{Carrier, Link, NewLink},
    wire::{self, Hello, Verdict, Welcome, kind},
};
use crate::{endpoint::MeshStream, error::TransportError};

const PATH: &str = "/mesh.gossip.v1.Links/Open";
const HELLO: &str = "mesh-link-hello";
const WELCOME: &str = "mesh-link-welcome";
/// Frames that wait to be written; a further one is refused as busy.
const FRAMES_QUEUE: usize = 64;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// Flow-control window of the one stream. Two of the largest payloads.
const WINDOW: u32 = 512 * 1024;

/// A body fed from a queue. It ends in good order when the queue is closed.
struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Both ends of what a link sends, and what stops it.
fn outgoing() -> (mpsc::Sender<Bytes>, Frames, Arc<Notify>) {
    let (sender, receiver) = mpsc::channel(FRAMES_QUEUE);
    (sender, Frames(receiver), Arc::new(Notify::new()))
}

/// Serves a dialer until its connection ends.
pub(super) async fn serve(inner: Arc<Inner>, stream: MeshStream) {
    if stream.peer().node_id() == &inner.us {
        return;
    }
    let (peer, remote) = (Arc::clone(stream.peer()), stream.remote_address());
    let revoked = stream.revoked_flag();
    let opened = Arc::new(Notify::new());
    let stop_all = Arc::new(Notify::new());
    let service = service_fn({
        let (inner, opened, stop_all) = (Arc::clone(&inner), Arc::clone(&opened), Arc::clone(&stop_all));
        move |request| {
            let (inner, peer) = (Arc::clone(&inner), Arc::clone(&peer));
            let (revoked, opened, stop_all) =
                (Arc::clone(&revoked), Arc::clone(&opened), Arc::clone(&stop_all));
            async move {
                let response = open(inner, peer, remote, request, revoked, stop_all).await;
                opened.notify_one();
                Ok::<_, Infallible>(response)
            }
        }
    });
    let keep_alive = inner.config.idle_timeout / 3;
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(4)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    let patience = inner.endpoint.config().limits.handshake_timeout;
    tokio::pin!(connection);
    // Whoever does not ask for a link in time loses the connection.
    tokio::select! {
        _ = &mut connection => return,
        () = opened.notified() => {}
        () = tokio::time::sleep(patience) => return,
    }
    tokio::select! {
        _ = &mut connection => {}
        () = stop_all.notified() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(1), connection).await;
        }
    }
}

/// What a response carries: nothing, or the frames of a link.
type ResponseBody = http_body_util::Either<http_body_util::Empty<Bytes>, Frames>;

fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Left(http_body_util::Empty::new()));
    *response.status_mut() = status;
    response
}

async fn open(
    inner: Arc<Inner>,
    peer: Arc<PeerIdentity>,
    remote: SocketAddr,
    request: Request<Incoming>,
    revoked: Arc<AtomicBool>,
    stop_all: Arc<Notify>,
) -> Response<ResponseBody> {
    if request.method() != Method::POST || request.uri().path() != PATH {
        return empty(StatusCode::NOT_FOUND);
    }
    let hello = request.headers().get(HELLO).and_then(|value| wire::from_hex(value.as_bytes()));
    let Some(hello) = hello.and_then(|bytes| Hello::decode(&bytes)) else {
        return empty(StatusCode::BAD_REQUEST);
    };
    let verdict = inner.judge(&peer, &hello).await;
    let mut response = empty(StatusCode::OK);
    if verdict == Verdict::Accepted {
        let (frames, body, stop) = outgoing();
        let link = inner.make(NewLink {
            id: hello.link,
            peer,
            peer_instance: hello.instance,
            remote,
            direction: Direction::Inbound,
            carrier: Carrier::Http2 { frames, stop: Arc::clone(&stop), revoked },
        });
        if !inner.install(&link) {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        }
        let finished = Finished(stop_all);
        tokio::spawn(run(inner.clone(), link, request.into_body(), stop, finished));
        *response.body_mut() = ResponseBody::Right(body);
    }
    let welcome = wire::to_hex(&inner.welcome(verdict).encode());
    response.headers_mut().insert(WELCOME, welcome.parse().expect("hexadecimal digits"));
    response
}

/// Wakes the connection's task when the link is over, so that it does not stay open for nothing.
struct Finished(Arc<Notify>);

impl Drop for Finished {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A connection to a peer over which a link may be asked for.
pub(super) struct Dialled {
    pub(super) peer: Arc<PeerIdentity>,
    address: SocketAddr,
    requests: hyper::client::conn::http2::SendRequest<Frames>,
    revoked: Arc<AtomicBool>,
    /// Ends the connection's task when the last user is gone.
    connection: Arc<AbortOnDrop>,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a link over HTTP/2 is made from, once the peer has agreed.
pub(super) struct Opened {
    frames: mpsc::Sender<Bytes>,
    stop: Arc<Notify>,
    body: Incoming,
}

/// Starts HTTP/2 on a secured stream.
pub(super) async fn handshake(inner: &Inner, stream: MeshStream) -> Result<Dialled, TransportError> {
    let (peer, address, revoked) =
        (Arc::clone(stream.peer()), stream.remote_address(), stream.revoked_flag());
    let keep_alive = inner.config.idle_timeout / 3;
    let (requests, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(keep_alive)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(address, &error))?;
    let task = tokio::spawn(async move {
        // Its end ends the bodies, which is where it is noticed.
        let _ = connection.await;
    });
    Ok(Dialled { peer, address, requests, revoked, connection: Arc::new(AbortOnDrop(task)) })
}

fn broken(address: SocketAddr, error: &hyper::Error) -> TransportError {
    let problem = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    // TLS 1.3 tells a client that its certificate is refused only after the client's handshake is done.
    let identity = problem.contains("AlertReceived") || problem.contains("received fatal alert");
    if identity {
        TransportError::Handshake { address, problem, identity }
    } else {
        TransportError::Connection { address, problem }
    }
}

impl Dialled {
    /// Asks for a link.
    pub(super) async fn ask(&mut self, hello: &Hello) -> Result<(Welcome, Opened), TransportError> {
        let address = self.address;
        let (frames, body, stop) = outgoing();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://mesh.internal{PATH}"))
            .header(HELLO, wire::to_hex(&hello.encode()))
            .body(body)
            .expect("constants and hexadecimal digits");
        let response = self.requests.send_request(request).await.map_err(|error| broken(address, &error))?;
        let welcome = response.headers().get(WELCOME).and_then(|value| wire::from_hex(value.as_bytes()));
        let welcome = welcome.and_then(|bytes| Welcome::decode(&bytes)).ok_or_else(|| {
            let problem = format!("the peer answered {} without a greeting", response.status());
            TransportError::Connection { address, problem }
        })?;
        Ok((welcome, Opened { frames, stop, body: response.into_body() }))
    }

    /// Makes a link of what [`ask`](Self::ask) opened.
    pub(super) fn link(
        self,
        inner: &Arc<Inner>,
        opened: Opened,
        id: u64,
        peer_instance: u64,
    ) -> (Arc<Link>, Carry) {
        let Opened { frames, stop, body } = opened;
        let link = inner.make(NewLink {
            id,
            peer: self.peer,
            peer_instance,
            remote: self.address,
            direction: Direction::Outbound,
            carrier: Carrier::Http2 { frames, stop: Arc::clone(&stop), revoked: self.revoked },
        });
        let keep = (self.connection, self.requests);
        let carry = Box::pin(run(Arc::clone(inner), Arc::clone(&link), body, stop, keep));
        (link, carry)
    }
}

/// Carries payloads until the body ends or the link is stopped, and reports why. `_keep` is what
/// must live as long as the link.
async fn run<K>(inner: Arc<Inner>, link: Arc<Link>, mut body: Incoming, stop: Arc<Notify>, _keep: K) {
    let mut buffer = BytesMut::new();
    let reason = loop {
        let chunk = tokio::select! {
            chunk = body.frame() => chunk,
            () = stop.notified() => {
                link.control(kind::BYE);
                break link.local_reason();
            }
        };
        let Some(chunk) = chunk else { break LinkDownReason::Closed };
        let Ok(chunk) = chunk else { break broken_reason(&link) };
        let Ok(data) = chunk.into_data() else { continue };
        buffer.extend_from_slice(&data);
        match take_frames(&inner, &link, &mut buffer).await {
            Taken::All => {}
            Taken::Bye => break LinkDownReason::Closed,
            Taken::Broken => break LinkDownReason::Failed,
        }
    };
    inner.ended(&link, reason);
    // The peer ends its side once it has read the goodbye.
    let _ = tokio::time::timeout(GOODBYE, async { while let Some(Ok(_)) = body.frame().await {} }).await;
}

fn broken_reason(link: &Link) -> LinkDownReason {
    match link.local_reason() {
        LinkDownReason::Revoked => LinkDownReason::Revoked,
        _ => LinkDownReason::Failed,
    }
}

/// What came of reading frames.
enum Taken {
    All,
    /// The peer closed the link.
    Bye,
    /// The peer broke the protocol.
    Broken,
}

/// Handles every whole frame in the buffer.
async fn take_frames(inner: &Inner, link: &Arc<Link>, buffer: &mut BytesMut) -> Taken {
    loop {
        match wire::next_frame(buffer) {
            Ok(Some((kind::PAYLOAD, payload))) => inner.deliver(link, payload).await,
            Ok(Some((kind::PING, _))) => link.control(kind::PONG),
            Ok(Some((kind::PONG, _))) => link.on_pong(),
            Ok(Some((kind::BYE, _))) => return Taken::Bye,
            Ok(Some(_)) => {}
            Ok(None) => return Taken::All,
            Err(_) => {
                inner.counters.broken.inc();
                return Taken::Broken;
            }
        }
    }
}
