//! Server-sent events (WHATWG HTML, section 9.2) as a response body.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::stream;
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::sync::watch;

use super::hub::{EventId, Events, Read};

/// How long a client that lost its stream waits before it comes back.
const RETRY: &str = "retry: 1000\n\n";

/// One event as text. `data` is JSON on one line.
pub(super) fn frame(id: Option<EventId>, name: &str, data: &str) -> Bytes {
    let mut text = BytesMut::with_capacity(data.len() + 64);
    if let Some(id) = id {
        text.put_slice(format!("id: {id}\n").as_bytes());
    }
    text.put_slice(format!("event: {name}\n").as_bytes());
    for line in data.lines() {
        text.put_slice(b"data: ");
        text.put_slice(line.as_bytes());
        text.put_slice(b"\n");
    }
    text.put_slice(b"\n");
    text.freeze()
}

/// Why we end a stream, for the client. It is sent as the event `end`.
#[derive(Serialize)]
struct End {
    code: &'static str,
    detail: &'static str,
    action: &'static str,
}

const TOO_SLOW: End = End {
    code: "events.subscriber.slow",
    detail: "the subscriber fell further behind than events are kept",
    action: "connect again; the stream starts with a snapshot",
};
const CLOSING: End = End {
    code: "events.stream.closing",
    detail: "the node stops or renews this connection",
    action: "connect again with the last event id, here or at another node with none",
};

/// A stream of events, ready to be a response.
///
/// Yields the text of events; a quiet stream yields heartbeats: comments that also
/// move the client's last event id on, past events that its filter dropped.
///
/// # Cancel safety
///
/// Dropping it ends the subscription.
pub struct Subscription {
    frames: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
}

struct Following<E> {
    events: E,
    ready: VecDeque<Bytes>,
    heartbeat: Duration,
    draining: Option<watch::Receiver<bool>>,
    ended: bool,
}

impl Subscription {
    pub(super) fn new<E: Events>(
        events: E,
        snapshot: VecDeque<Bytes>,
        heartbeat: Duration,
        draining: Option<watch::Receiver<bool>>,
    ) -> Self {
        let mut ready = snapshot;
        ready.push_front(Bytes::from_static(RETRY.as_bytes()));
        let following = Following { events, ready, heartbeat, draining, ended: false };
        let frames = stream::unfold(following, |mut following| async move {
            let next = following.next().await?;
            Some((next, following))
        });
        Self { frames: Box::pin(futures_util::StreamExt::fuse(frames)) }
    }
}

impl<E: Events> Following<E> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.ended {
                return None;
            }
            // Seen before the read, so that an event published after it wakes us.
            self.events.wake().mark_unchanged();
            match self.events.read() {
                Read::Events(events) => return Some(events),
                Read::TooSlow => return Some(self.end(&TOO_SLOW)),
                Read::Closed => return Some(self.end(&CLOSING)),
                Read::Empty => {}
            }
            let position = self.events.position();
            let drained = drained(self.draining.as_mut());
            tokio::select! {
                changed = self.events.wake().changed() => if changed.is_err() {
                    return Some(self.end(&CLOSING));
                },
                () = drained => return Some(self.end(&CLOSING)),
                () = tokio::time::sleep(self.heartbeat) => {
                    return Some(Bytes::from(format!("id: {position}\n: heartbeat\n\n")));
                }
            }
        }
    }

    fn end(&mut self, end: &End) -> Bytes {
        self.ended = true;
        // Three fixed texts always serialize.
        frame(None, "end", &serde_json::to_string(end).unwrap_or_default())
    }
}

async fn drained(draining: Option<&mut watch::Receiver<bool>>) {
    if let Some(draining) = draining
        && draining.wait_for(|draining| *draining).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Stream for Subscription {
    type Item = Bytes;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.frames.as_mut().poll_next(context)
    }
}

impl IntoResponse for Subscription {
    fn into_response(self) -> Response {
        let frames = futures_util::StreamExt::map(self.frames, Ok::<_, std::convert::Infallible>);
        let mut response = Response::new(Body::from_stream(frames));
        for (name, value) in [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            // Asks proxies in between not to hold events back.
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
