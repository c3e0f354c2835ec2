//! The queue from links to their user: bounded for each peer, so that one that floods stops itself alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mesh_core::{DatagramError, DatagramEvent};
use tokio::sync::{Mutex, Semaphore, mpsc};

/// Bytes of payload that count as one more entry of the queue.
const BYTES_PER_ENTRY: usize = 4096;

/// How much of one peer waits to be received.
#[derive(Debug)]
pub(crate) struct Quota {
    room: Semaphore,
    max: u32,
}

/// A place in the queue, given back when the event is received.
struct Place {
    quota: Arc<Quota>,
    entries: u32,
}

impl Quota {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        Arc::new(Self { room: Semaphore::new(max as usize), max })
    }

    /// Waits until a payload of this size may enter. Returns what it takes up.
    pub(crate) async fn enter(&self, bytes: usize) -> u32 {
        let entries = u32::try_from(1 + bytes / BYTES_PER_ENTRY).unwrap_or(u32::MAX).min(self.max);
        if let Ok(permit) = self.room.acquire_many(entries).await {
            permit.forget();
        }
        entries
    }
}

struct Item {
    event: DatagramEvent,
    place: Option<Place>,
}

/// The queue itself. Events without a quota come from calls of its user and from changes of links,
/// of which there is a bounded number for each link.
pub(crate) struct Events {
    sender: mpsc::UnboundedSender<Item>,
    receiver: Mutex<mpsc::UnboundedReceiver<Item>>,
    closed: AtomicBool,
    closing: tokio::sync::Notify,
}

impl Events {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            sender,
            receiver: Mutex::new(receiver),
            closed: AtomicBool::new(false),
            closing: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn push(&self, event: DatagramEvent) {
        let _ = self.sender.send(Item { event, place: None });
    }

    /// A payload whose place was taken with [`Quota::enter`].
    pub(crate) fn push_payload(&self, event: DatagramEvent, quota: Arc<Quota>, entries: u32) {
        let _ = self.sender.send(Item { event, place: Some(Place { quota, entries }) });
    }

    /// What is in the queue can still be received; after that there is nothing more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The next event; dropping the future loses none.
    pub(crate) async fn recv(&self) -> Result<DatagramEvent, DatagramError> {
        let mut receiver = self.receiver.lock().await;
        loop {
            let closing = self.closing.notified();
            tokio::pin!(closing);
            // Registered before the flag is read, so that a close in between is not missed.
            closing.as_mut().enable();
            if self.is_closed() {
                return receiver.try_recv().map(Item::receive).map_err(|_| DatagramError::Closed);
            }
            tokio::select! {
                biased;
                item = receiver.recv() => return item.map(Item::receive).ok_or(DatagramError::Closed),
                () = closing => {}
            }
        }
    }
}

impl Item {
    fn receive(self) -> DatagramEvent {
        if let Some(Place { quota, entries }) = self.place {
            quota.room.add_permits(entries as usize);
        }
        self.event
    }
}
