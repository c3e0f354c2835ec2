//! Events that subscribers follow, and resume, without a gap.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use mesh_core::InstanceId;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    EdgeMetrics, Problem,
    sse::{Subscription, frame},
};

/// Most events that one read hands on together.
const BATCH_MAX: usize = 64;

/// Names an event: the run of the process that made it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// The run of the process.
    pub instance: InstanceId,
    /// Counts from 1; 0 is the state before the first event.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.sequence)
    }
}

/// A text that is not an [`EventId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event id of the form <instance>-<sequence>")]
pub struct EventIdError;

impl FromStr for EventId {
    type Err = EventIdError;
    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let (instance, sequence) = text.split_once('-').ok_or(EventIdError)?;
        Ok(Self {
            instance: InstanceId(u64::from_str_radix(instance, 16).map_err(|_| EventIdError)?),
            sequence: sequence.parse().map_err(|_| EventIdError)?,
        })
    }
}

/// The bounds of an [`EventHub`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Events kept. This is the queue of every subscriber: they read from one shared
    /// ring, and one that is further behind than it reaches gets an `end` event.
    pub events_kept: usize,
    /// Subscribers; further ones are refused.
    pub subscribers_max: usize,
    /// Subscribers of one identity.
    pub subscribers_per_identity_max: usize,
    /// Time between two signs of life when nothing happens.
    pub heartbeat: Duration,
}

/// An event to publish.
#[derive(Clone, Debug)]
pub struct NewEvent<P> {
    /// Its type, which subscribers switch by: `change`.
    pub name: &'static str,
    /// Its JSON.
    pub data: String,
    /// What filters of subscribers look at.
    pub payload: P,
}

impl<P> NewEvent<P> {
    /// An event whose data is `data` as JSON.
    ///
    /// # Errors
    ///
    /// What serialization reports.
    pub fn json<T: Serialize>(name: &'static str, data: &T, payload: P) -> Result<Self, serde_json::Error> {
        Ok(Self { name, data: serde_json::to_string(data)?, payload })
    }
}

/// What a subscriber brings.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// Its `Last-Event-ID`, as sent.
    pub last_event_id: Option<String>,
    /// Who it is, for the bound per identity.
    pub identity: String,
    /// Turns true when its connection is to close.
    pub draining: Option<watch::Receiver<bool>>,
}

/// A state, the events that changed it, and those who follow them.
///
/// State and events move together under one lock, so that a snapshot and the
/// events after it fit without a gap or an overlap.
pub struct EventHub<S, P> {
    shared: Arc<Shared<S, P>>,
}

impl<S, P> Clone for EventHub<S, P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<S, P> {
    instance: InstanceId,
    limits: HubLimits,
    metrics: EdgeMetrics,
    inner: Mutex<Inner<S, P>>,
    wake: watch::Sender<()>,
}

struct Inner<S, P> {
    state: S,
    ring: VecDeque<Kept<P>>,
    /// Number of the newest event; the ring holds the ones up to it.
    newest: u64,
    closed: bool,
    /// Subscribers by identity.
    subscribers: BTreeMap<String, usize>,
}

struct Kept<P> {
    frame: Bytes,
    payload: P,
}

impl<S: Send + 'static, P: Send + 'static> EventHub<S, P> {
    /// A hub without events. `instance` must differ at each start of the process.
    pub fn new(instance: InstanceId, limits: HubLimits, metrics: EdgeMetrics, state: S) -> Self {
        let inner =
            Inner { state, ring: VecDeque::new(), newest: 0, closed: false, subscribers: BTreeMap::new() };
        let (wake, _) = watch::channel(());
        Self { shared: Arc::new(Shared { instance, limits, metrics, inner: Mutex::new(inner), wake }) }
    }

    /// Changes the state and publishes the events that `change` returns.
    pub fn update(&self, change: impl FnOnce(&mut S) -> Vec<NewEvent<P>>) {
        let mut inner = self.shared.lock();
        let events = change(&mut inner.state);
        if events.is_empty() {
            return;
        }
        for event in events {
            inner.newest += 1;
            let id = EventId { instance: self.shared.instance, sequence: inner.newest };
            let frame = frame(Some(id), event.name, &event.data);
            inner.ring.push_back(Kept { frame, payload: event.payload });
            if inner.ring.len() > self.shared.limits.events_kept {
                inner.ring.pop_front();
            }
        }
        drop(inner);
        self.shared.wake.send_replace(());
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.shared.lock().state)
    }

    /// Ends all subscriptions once they have read what there is.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.send_replace(());
    }

    /// Open subscriptions.
    pub fn subscribers(&self) -> usize {
        self.shared.lock().subscribers.values().sum()
    }

    /// Follows the events that pass `filter`.
    ///
    /// With a `Last-Event-ID` of this process that is still kept, the stream goes on
    /// right after it. With any other, or none, it starts with a snapshot: `capture`
    /// copies what is needed under the lock (keep it short), `render` makes the JSON
    /// of one or more `snapshot` events out of it.
    ///
    /// # Errors
    ///
    /// A problem with the code `events.subscribers.full`.
    pub fn subscribe<T: Send + 'static>(
        &self,
        options: SubscribeOptions,
        filter: impl Fn(&P) -> bool + Send + 'static,
        capture: impl FnOnce(&S) -> T,
        render: impl FnOnce(T) -> Vec<String>,
    ) -> Result<Subscription, Problem> {
        let limits = self.shared.limits;
        let mut inner = self.shared.lock();
        inner.admit(&limits, &options.identity)?;
        let resume = options
            .last_event_id
            .and_then(|text| text.parse::<EventId>().ok())
            .filter(|id| id.instance == self.shared.instance && inner.can_resume(id.sequence));
        let captured = if resume.is_some() { None } else { Some(capture(&inner.state)) };
        let position = resume.map_or(inner.newest, |id| id.sequence);
        drop(inner);
        self.shared.metrics.subscribers.inc();

        let reader = Reader {
            shared: self.shared.clone(),
            identity: options.identity,
            position,
            filter: Box::new(filter),
            wake: self.shared.wake.subscribe(),
        };
        let snapshot = captured.map(render).unwrap_or_default();
        let id = EventId { instance: self.shared.instance, sequence: position };
        // Only the last part carries the id: a reader that is cut before it must not resume from here.
        let last = snapshot.len().saturating_sub(1);
        let frames = snapshot
            .iter()
            .enumerate()
            .map(|(part, data)| frame((part == last).then_some(id), "snapshot", data))
            .collect();
        Ok(Subscription::new(reader, frames, limits.heartbeat, options.draining))
    }
}

impl<S, P> Shared<S, P> {
    fn lock(&self) -> MutexGuard<'_, Inner<S, P>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S, P> Inner<S, P> {
    /// Number of the last event that is no longer kept.
    fn forgotten(&self) -> u64 {
        self.newest - self.ring.len() as u64
    }

    fn can_resume(&self, after: u64) -> bool {
        (self.forgotten()..=self.newest).contains(&after)
    }

    fn admit(&mut self, limits: &HubLimits, identity: &str) -> Result<(), Problem> {
        let total: usize = self.subscribers.values().sum();
        let own = self.subscribers.get(identity).copied().unwrap_or(0);
        let full = |cause: String| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "events.subscribers.full",
                "no further subscriber fits on this event stream",
            )
            .object(identity)
            .cause(cause)
            .action("close streams that are not needed, or follow the events of another node")
            .retry_after(Duration::from_secs(5))
        };
        if total >= limits.subscribers_max {
            return Err(full(format!("transport.edge.subscribers_max is {}", limits.subscribers_max)));
        }
        if own >= limits.subscribers_per_identity_max {
            return Err(full(format!(
                "transport.edge.subscribers_per_identity_max is {}",
                limits.subscribers_per_identity_max
            )));
        }
        self.subscribers.insert(identity.to_owned(), own + 1);
        Ok(())
    }

    fn release(&mut self, identity: &str) {
        if let Some(count) = self.subscribers.get_mut(identity) {
            *count -= 1;
            if *count == 0 {
                self.subscribers.remove(identity);
            }
        }
    }
}

/// What a read of the ring found.
pub(super) enum Read {
    /// Frames of events, joined.
    Events(Bytes),
    /// All events were read.
    Empty,
    /// Events that were not read yet are no longer kept.
    TooSlow,
    /// All events were read and there will be none.
    Closed,
}

/// A subscriber's place in the ring, without the types of the hub.
pub(super) trait Events: Send + 'static {
    /// The next events that pass the filter.
    fn read(&mut self) -> Read;
    /// The id of the last event that was read or passed over.
    fn position(&self) -> EventId;
    /// Resolves when a read may find more.
    fn wake(&mut self) -> &mut watch::Receiver<()>;
}

struct Reader<S: Send + 'static, P: Send + 'static> {
    shared: Arc<Shared<S, P>>,
    identity: String,
    /// Number of the last event read.
    position: u64,
    filter: Box<dyn Fn(&P) -> bool + Send>,
    wake: watch::Receiver<()>,
}

impl<S: Send + 'static, P: Send + 'static> Events for Reader<S, P> {
    fn read(&mut self) -> Read {
        let inner = self.shared.lock();
        loop {
            if self.position < inner.forgotten() {
                self.shared.metrics.slow_subscribers.inc();
                return Read::TooSlow;
            }
            if self.position == inner.newest {
                return if inner.closed { Read::Closed } else { Read::Empty };
            }
            let start = usize::try_from(self.position - inner.forgotten()).unwrap_or(usize::MAX);
            let mut batch = BytesMut::new();
            for kept in inner.ring.iter().skip(start).take(BATCH_MAX) {
                self.position += 1;
                if (self.filter)(&kept.payload) {
                    batch.extend_from_slice(&kept.frame);
                }
            }
            if !batch.is_empty() {
                return Read::Events(batch.freeze());
            }
        }
    }

    fn position(&self) -> EventId {
        EventId { instance: self.shared.instance, sequence: self.position }
    }

    fn wake(&mut self) -> &mut watch::Receiver<()> {
        &mut self.wake
    }
}

impl<S: Send + 'static, P: Send + 'static> Drop for Reader<S, P> {
    fn drop(&mut self) {
        self.shared.lock().release(&self.identity);
        self.shared.metrics.subscribers.dec();
    }
}
