//! A connection in use, and the task that keeps it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ::h3::{ConnectionState as _, error::ConnectionError};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Response, request::Parts};
use http_body::{Body, Frame};
use tokio::{sync::Notify, time::Instant};
use tonic::Status;

use super::{Failure, Inner, attempt_head, h2, h3, upload::AttemptBody};
use crate::rpc::{Reason, Transport};

/// A connection that requests go out on. The last one to hold it closes it, so that
/// requests at work outlive their connection's replacement.
pub(super) struct Live {
    carrier: Carrier,
    pub(super) reason: Reason,
    /// Tells connections of one channel apart.
    pub(super) serial: u64,
    pulse: Arc<Pulse>,
    /// A request got a response.
    proven: AtomicBool,
}

enum Carrier {
    Http3(h3::Http3),
    Http2(h2::Http2),
}

/// How much longer a connection may be silent when nobody waits for a response to begin.
const REST_FACTOR: u32 = 10;

/// What the keeper sees of the traffic.
#[derive(Default)]
struct Pulse {
    in_flight: AtomicUsize,
    /// Those of them whose response has not begun.
    waiting: AtomicUsize,
    /// A request started while none was waiting.
    work: Notify,
    /// Takes no more requests.
    retired: AtomicBool,
}

/// A connection that was just made, with what has to be polled for it to work.
pub(super) enum Fresh {
    Http3(h3::Http3, Box<h3::Driver>),
    Http2(h2::Http2, h2::Driver),
}

impl Live {
    /// Takes up a new connection for `channel` and starts its keeper.
    pub(super) fn start(fresh: Fresh, reason: Reason, serial: u64, channel: &Arc<Inner>) -> Arc<Self> {
        let pulse = Arc::<Pulse>::default();
        let owner = Arc::downgrade(channel);
        let age_max = channel.config.connection_age_max;
        let carrier = match fresh {
            Fresh::Http3(http3, driver) => {
                let silence_max = channel.config.silence_max;
                let keeper =
                    KeepH3 { connection: http3.connection.clone(), pulse: pulse.clone(), silence_max };
                tokio::spawn(keeper.run(driver, owner, serial, age_max));
                Carrier::Http3(http3)
            }
            Fresh::Http2(http2, driver) => {
                tokio::spawn(keep_h2(driver, owner, serial, age_max));
                Carrier::Http2(http2)
            }
        };
        Arc::new(Self { carrier, reason, serial, pulse, proven: AtomicBool::new(false) })
    }

    pub(super) fn transport(&self) -> Transport {
        match self.carrier {
            Carrier::Http3(_) => Transport::Http3,
            Carrier::Http2(_) => Transport::Http2,
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        let closed = match &self.carrier {
            Carrier::Http3(http3) => http3.is_closed(),
            Carrier::Http2(http2) => http2.is_closed(),
        };
        !closed && !self.pulse.retired.load(Ordering::Relaxed)
    }

    /// No new requests from here on; those at work go on.
    pub(super) fn retire(&self) {
        self.pulse.retired.store(true, Ordering::Relaxed);
    }

    /// A request got a response; true the first time.
    pub(super) fn prove(&self) -> bool {
        !self.proven.load(Ordering::Relaxed) && !self.proven.swap(true, Ordering::Relaxed)
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        self: &Arc<Self>,
        head: &Parts,
        body: AttemptBody,
    ) -> Result<Response<LiveBody>, Failure> {
        let at_work = AtWork::new(self.clone());
        let response = match &self.carrier {
            Carrier::Http3(http3) => http3.send(head, self.reason, body).await?.map(CarrierBody::Http3),
            Carrier::Http2(http2) => {
                http2.send(attempt_head(head, self.reason), body).await?.map(CarrierBody::Http2)
            }
        };
        let at_work = at_work.begun();
        let mut response = response;
        let exporter = match &self.carrier {
            Carrier::Http3(http3) => http3.exporter,
            Carrier::Http2(http2) => http2.exporter,
        };
        if let Some(exporter) = exporter {
            response.extensions_mut().insert(exporter);
        }
        Ok(response.map(|body| LiveBody { body, _at_work: at_work }))
    }
}

/// A request at work on a connection.
struct AtWork {
    live: Arc<Live>,
    waiting: bool,
}

impl AtWork {
    fn new(live: Arc<Live>) -> Self {
        live.pulse.in_flight.fetch_add(1, Ordering::Relaxed);
        if live.pulse.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            live.pulse.work.notify_one();
        }
        Self { live, waiting: true }
    }

    /// The response has begun.
    fn begun(mut self) -> Self {
        self.waiting = false;
        self.live.pulse.waiting.fetch_sub(1, Ordering::Relaxed);
        self
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.waiting {
            self.live.pulse.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.live.pulse.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, whatever carries it.
pub(super) struct LiveBody {
    body: CarrierBody,
    _at_work: AtWork,
}

enum CarrierBody {
    Http3(h3::Http3Body),
    Http2(h2::Http2Body),
}

impl Body for LiveBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.body {
            CarrierBody::Http3(body) => Pin::new(body).poll_frame(cx),
            CarrierBody::Http2(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

/// Keeps an HTTP/3 connection: drives it, ends it when the path is blocked, and has it
/// replaced when it is old.
struct KeepH3 {
    connection: quinn::Connection,
    pulse: Arc<Pulse>,
    silence_max: Duration,
}

impl KeepH3 {
    async fn run(self, mut driver: Box<h3::Driver>, owner: Weak<Inner>, serial: u64, age_max: Duration) {
        let mut silent = pin!(self.silent().fuse());
        let mut old = pin!(tokio::time::sleep(age_max));
        let (mut blocked, mut leaving) = (false, false);
        loop {
            tokio::select! {
                progress = poll_fn(|cx| poll_progress(&mut driver, leaving, cx)) => {
                    let Progress::Ended(error) = progress else {
                        // Once the requests at work are done, nobody holds the
                        // connection any more, and it closes.
                        leaving = true;
                        if let Some(channel) = owner.upgrade() {
                            channel.on_ended(serial, false);
                        }
                        continue;
                    };
                    if let Some(channel) = owner.upgrade() {
                        tracing::debug!(peer_id = %channel.target.node_id, %error, "HTTP/3 connection ended");
                        channel.on_ended(serial, blocked || h3::is_timeout(&error));
                    }
                    return;
                }
                () = &mut silent => {
                    blocked = true;
                    if let Some(channel) = owner.upgrade() {
                        tracing::info!(
                            peer_id = %channel.target.node_id,
                            silence_max = ?self.silence_max,
                            "nothing comes over HTTP/3 any more"
                        );
                        channel.on_ended(serial, true);
                    }
                    // Requests at work fail now, and those that may are sent again.
                    self.connection.close(quinn::VarInt::from_u32(0x100), b"nothing comes through");
                }
                () = &mut old => {
                    old.as_mut().reset(Instant::now() + age_max / 10);
                    if let Some(channel) = owner.upgrade() {
                        channel.refresh(serial);
                    }
                }
            }
        }
    }

    /// Resolves when requests are at work but nothing was received for `silence_max`,
    /// not even in answer to a sign of life that we asked for half way.
    ///
    /// While all that is open are responses that have begun, such as watches at rest, the
    /// silence may be [`REST_FACTOR`] times as long.
    ///
    /// Silence is counted in steps rather than read off a clock, so that a pause of our
    /// own process is not taken for one of the network.
    async fn silent(&self) {
        const STEPS: u32 = 6;
        let (mut heard, mut quiet_steps) = (0, 0);
        loop {
            if self.pulse.in_flight.load(Ordering::Relaxed) == 0 {
                self.pulse.work.notified().await;
                quiet_steps = 0;
            }
            let urgent = self.pulse.waiting.load(Ordering::Relaxed) > 0;
            let patience = if urgent { 1 } else { REST_FACTOR };
            let limit = (self.silence_max * patience).max(6 * self.connection.rtt());
            tokio::select! {
                () = tokio::time::sleep(limit / STEPS) => {}
                () = self.pulse.work.notified(), if !urgent => {
                    quiet_steps = 0;
                    continue;
                }
            }
            let received = self.connection.stats().udp_rx.datagrams;
            if received != heard {
                (heard, quiet_steps) = (received, 0);
                continue;
            }
            quiet_steps += 1;
            if quiet_steps == STEPS / 2 {
                self.ask_for_life();
            }
            if quiet_steps >= STEPS {
                return;
            }
        }
    }

    /// Makes the peer acknowledge something. quinn offers no ping; a stream of a
    /// reserved type means nothing to the peer (RFC 9114, 6.2.3) and is acknowledged.
    fn ask_for_life(&self) {
        const RESERVED_STREAM_TYPE: u8 = 0x21;
        if let Some(Ok(mut stream)) = self.connection.open_uni().now_or_never() {
            let _ = stream.write(&[RESERVED_STREAM_TYPE]).now_or_never();
            let _ = stream.finish();
        }
    }
}

/// What happens to an HTTP/3 connection.
enum Progress {
    Ended(ConnectionError),
    /// The peer takes no more requests (GOAWAY).
    GoingAway,
}

/// Drives the connection. Tells of a GOAWAY unless that is `known`; h3 keeps it to itself.
fn poll_progress(driver: &mut h3::Driver, known: bool, cx: &mut Context<'_>) -> Poll<Progress> {
    match driver.poll_close(cx) {
        Poll::Ready(error) => Poll::Ready(Progress::Ended(error)),
        Poll::Pending if !known && driver.is_closing() => Poll::Ready(Progress::GoingAway),
        Poll::Pending => Poll::Pending,
    }
}

/// Keeps an HTTP/2 connection: drives it, and has it replaced when it is old.
async fn keep_h2(driver: h2::Driver, owner: Weak<Inner>, serial: u64, age_max: Duration) {
    let mut driver = pin!(driver);
    let mut old = pin!(tokio::time::sleep(age_max));
    loop {
        tokio::select! {
            ended = &mut driver => {
                if let Some(channel) = owner.upgrade() {
                    tracing::debug!(peer_id = %channel.target.node_id, ?ended, "HTTP/2 connection ended");
                    channel.on_ended(serial, false);
                }
                return;
            }
            () = &mut old => {
                old.as_mut().reset(Instant::now() + age_max / 10);
                if let Some(channel) = owner.upgrade() {
                    channel.refresh(serial);
                }
            }
        }
    }
}
