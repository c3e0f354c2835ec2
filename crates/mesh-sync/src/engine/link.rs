//! A stream to a peer that has proved who it is: what goes out by lanes, and what comes in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{Instant, NodeId};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::{
    ServeError, Wire,
    core::Core,
    dataset::FromPeer,
    frame::{Answer, FRAME_BYTES_MAX, Frame, Request},
};
use crate::{
    compress::{self, Packing},
    entry::{AuthorId, DatasetId},
    handshake::Established,
    lanes::{LaneLimits, Lanes, Rate},
    replica::Message,
};

/// After so long without anything to send, a sign of life goes out.
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);
/// After so long without a sign of life, a stream counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A stream that was silent for this long makes way for a new one of the same peer.
const STALE: Duration = Duration::from_millis(2500);
/// Bytes that wait for a peer in the lane of a dataset; what is beyond is dropped. Twice a replica's window: entries
/// never fill it.
const LANE_BYTES: u64 = 8 << 20;
/// Requests of a peer that are worked on at once.
const REQUESTS_MAX: usize = 8;
/// Requests to a peer that wait for an answer.
const ASKS_MAX: usize = 64;
/// How long an answer may take.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A stream with a proven peer.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) author: AuthorId,
    pub(super) serial: u64,
    /// Whether this node has opened it.
    pub(super) dialled: bool,
    /// What is open, ascending: the place of a dataset is its number on the stream.
    pub(super) datasets: Vec<DatasetId>,
    lanes: Mutex<Lanes<Bytes>>,
    ready: Notify,
    closed: watch::Sender<Option<String>>,
    asks: Mutex<BTreeMap<u32, oneshot::Sender<Answer>>>,
    next_ask: AtomicU32,
    heard: AtomicU64,
    packing: Packing,
    frame_bytes_max: usize,
    requests: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a link out of the engine when its stream ends, however that happens.
struct Registered<'c> {
    core: &'c Core,
    link: Arc<Link>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.link.close("the stream has ended");
        self.core.unregister(&self.link);
    }
}

impl Link {
    pub(super) fn new(core: &Core, established: Established, open: Vec<DatasetId>, dialled: bool) -> Self {
        let now = core.clock.now();
        let ours = core.config.lane_limits();
        let theirs = established.limits.bytes_per_second_max;
        let per_peer = match ours.per_peer {
            Some(rate) if rate.bytes_per_second <= theirs => Some(rate),
            _ if theirs < u64::MAX => Some(Rate { bytes_per_second: theirs, burst_bytes: theirs / 10 }),
            rate => rate,
        };
        // The limit of all peers together is the engine's, since each stream has lanes of its own.
        let limits = LaneLimits { total: None, per_peer, bytes_max: LANE_BYTES, ..ours };
        let mut lanes = Lanes::new(limits, now);
        for dataset in &open {
            lanes.set_weight(dataset, core.weight(dataset));
        }
        let from = core.config.compress_from_bytes;
        let packing = if from == 0 { Packing::PLAIN } else { Packing::agreed(established.features, from) };
        Self {
            peer: established.node,
            author: established.author,
            serial: core.next_serial(),
            dialled,
            datasets: open,
            lanes: Mutex::new(lanes),
            ready: Notify::new(),
            closed: watch::Sender::new(None),
            asks: Mutex::default(),
            next_ask: AtomicU32::new(0),
            heard: AtomicU64::new(now.as_nanos()),
            packing,
            frame_bytes_max: (established.limits.frame_bytes_max as usize).min(FRAME_BYTES_MAX),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }
    }

    pub(super) fn number_of(&self, dataset: &DatasetId) -> Option<u32> {
        self.datasets.binary_search(dataset).ok().and_then(|at| u32::try_from(at).ok())
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed.borrow().is_none()
    }

    /// Ends the stream. The first reason counts.
    pub(super) fn close(&self, reason: &str) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert_with(|| reason.to_owned());
            first
        });
        // Whoever waits for an answer gets none.
        lock(&self.asks).clear();
    }

    pub(super) fn reason(&self) -> String {
        self.closed.borrow().clone().unwrap_or_default()
    }

    /// Whether nothing was heard for a while.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now.since(Instant::from_nanos(self.heard.load(Ordering::Relaxed))) > STALE
    }

    /// Puts a message into the lane of its dataset. `false` if there was no room and it is dropped.
    pub(super) fn send(&self, dataset: &DatasetId, message: &Message) -> bool {
        let Some(number) = self.number_of(dataset) else { return false };
        self.offer(dataset, &Frame::Data { dataset: number, message: message.encode() })
    }

    fn offer(&self, lane: &DatasetId, frame: &Frame) -> bool {
        let bytes = Bytes::from(frame.encode());
        if bytes.len() + 8 > self.frame_bytes_max || !self.is_open() {
            return false;
        }
        let taken = lock(&self.lanes).offer(lane, &self.peer, bytes.len() as u64, bytes).is_ok();
        self.ready.notify_one();
        taken
    }

    /// Asks the peer for something. `None` if it does not answer.
    pub(super) async fn ask(&self, lane: &DatasetId, request: Request) -> Option<Answer> {
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut asks = lock(&self.asks);
            asks.retain(|_, waiting| !waiting.is_closed());
            if asks.len() >= ASKS_MAX || !self.is_open() {
                return None;
            }
            asks.insert(id, sender);
        }
        if !self.offer(lane, &Frame::Ask { id, request }) {
            return None;
        }
        tokio::time::timeout(ANSWER_PATIENCE, answer).await.ok()?.ok()
    }
}

/// Runs a stream until it ends. `begun` is told once it counts.
pub(super) async fn run(
    core: &Arc<Core>,
    link: Arc<Link>,
    wire: Wire,
    begun: Option<oneshot::Sender<()>>,
) -> Result<(), ServeError> {
    let Wire { sender, receiver, keep, .. } = wire;
    if !core.register(&link) {
        let bye = link.packing.pack(&Frame::Bye("there is another stream".into()).encode());
        let _ = sender.send(bye.into()).await;
        return Err(ServeError::Ended("there is another stream to this peer".into()));
    }
    let registered = Registered { core, link: Arc::clone(&link) };
    // Whoever wants to know may have gone.
    begun.map(|begun| begun.send(()));
    let ended = tokio::select! {
        ended = write(core, &link, sender) => ended,
        ended = read(core, &link, receiver) => ended,
    };
    if let Err(error) = &ended {
        link.close(&error.to_string());
    }
    drop(registered);
    drop(keep);
    ended
}

async fn write(core: &Core, link: &Link, sender: mpsc::Sender<Bytes>) -> Result<(), ServeError> {
    let mut closed = link.closed.subscribe();
    let mut last_sent = core.clock.now();
    loop {
        let now = core.clock.now();
        let ping_in = PING_EVERY.saturating_sub(now.since(last_sent));
        let (frame, wait) = match core.total_rate_wait(now) {
            // Limits hold up what is large, never the sign of life: without it peers would give the stream up.
            _ if ping_in.is_zero() => (Some(Frame::Ping.encode().into()), ping_in),
            Some(wait) => (None, wait.min(ping_in)),
            None => {
                let mut lanes = lock(&link.lanes);
                let turn = lanes.poll_next(now).map(|turn| turn.piece);
                (turn, lanes.poll_timeout().map_or(ping_in, |at| at.since(now).min(ping_in)))
            }
        };
        let Some(frame) = frame else {
            tokio::select! {
                biased;
                over = closed.wait_for(Option::is_some) => {
                    let reason = over.ok().and_then(|reason| reason.clone()).unwrap_or_default();
                    let bye = link.packing.pack(&Frame::Bye(reason.clone()).encode());
                    let _ = sender.try_send(bye.into());
                    return Err(ServeError::Ended(reason));
                }
                () = link.ready.notified() => {}
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
            continue;
        };
        let packed = Bytes::from(link.packing.pack(&frame));
        core.note_sent(packed.len(), now);
        tokio::select! {
            biased;
            sent = sender.send(packed) => {
                if sent.is_err() {
                    return Err(ServeError::Ended("the way to the peer is closed".into()));
                }
            }
            // A clogged stream is given up all the same.
            _ = closed.wait_for(Option::is_some) => return Err(ServeError::Ended(link.reason())),
        }
        last_sent = core.clock.now();
    }
}

async fn read(
    core: &Arc<Core>,
    link: &Arc<Link>,
    mut receiver: mpsc::Receiver<Bytes>,
) -> Result<(), ServeError> {
    loop {
        let received = tokio::time::timeout(SILENCE_MAX, receiver.recv()).await;
        let Ok(received) = received else { return Err(ServeError::Silent(SILENCE_MAX)) };
        let Some(packed) = received else { return Err(ServeError::Ended("the stream was closed".into())) };
        link.heard.store(core.clock.now().as_nanos(), Ordering::Relaxed);
        core.counters.lock().bytes_in += packed.len() as u64;
        let malformed = |what: String| {
            core.counters.lock().malformed += 1;
            ServeError::Malformed(what)
        };
        let frame =
            compress::unpack(&packed, FRAME_BYTES_MAX).map_err(|error| malformed(error.to_string()))?;
        match Frame::decode(&frame.into()).map_err(|error| malformed(error.to_string()))? {
            Frame::Ping => {}
            Frame::Data { dataset, message } => {
                let Some(name) = link.datasets.get(dataset as usize) else {
                    return Err(malformed(format!(
                        "a message for dataset number {dataset} that is not open"
                    )));
                };
                let message = Message::decode(&message).map_err(|error| malformed(error.to_string()))?;
                // Waits for a busy dataset: that holds up this peer alone.
                core.deliver(name, FromPeer { link: Arc::clone(link), message }).await;
            }
            Frame::Ask { id, request } => serve(core, link, id, request),
            Frame::Answer { id, answer } => {
                let waiting = lock(&link.asks).remove(&id);
                if let Some(waiting) = waiting {
                    // Whoever asked may have gone.
                    let _ = waiting.send(answer);
                }
            }
            Frame::Bye(reason) => return Err(ServeError::Ended(reason)),
        }
    }
}

/// Works on a request beside the stream.
fn serve(core: &Arc<Core>, link: &Arc<Link>, id: u32, request: Request) {
    let lane = match &request {
        Request::Access { dataset, .. } => Some(dataset.clone()),
        Request::Chunk { dataset, .. } => link.datasets.get(*dataset as usize).cloned(),
    };
    let Some(lane) = lane else { return };
    let Ok(permit) = Arc::clone(&link.requests).try_acquire_owned() else {
        let answer = Answer::Refused("too many requests at once".into());
        link.offer(&lane, &Frame::Answer { id, answer });
        return;
    };
    let (core, link) = (Arc::clone(core), Arc::clone(link));
    tokio::spawn(async move {
        let answer = match request {
            Request::Access { dataset, addresses, note } => {
                core.on_access_asked(&link.peer, link.author, &dataset, addresses, note).await
            }
            Request::Chunk { id, .. } => core.read_chunk(id).await,
        };
        link.offer(&lane, &Frame::Answer { id, answer });
        drop(permit);
    });
}
