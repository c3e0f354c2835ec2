//! The queue to peers, and records that become durable.

use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{SyncError, core::lock, dataset::tell};
use crate::{
    entry::Entry,
    queue::{Delivered, Enqueued, SendFailure},
    store::{MetadataWrite, StoreError},
};

use super::{
    Actor, DELIVERY_BYTES, DELIVERY_ENTRIES, DELIVERY_PATIENCE, Delivery, Observer, Tickets, room::Held,
};

impl Actor {
    /// Queues an entry for a peer; `told` hears of it once that is durable.
    pub(in crate::engine) fn enqueue(
        &mut self,
        peer: &NodeId,
        entry: &Entry,
        told: oneshot::Sender<Result<crate::engine::Queued, SyncError>>,
    ) {
        use crate::engine::Queued;
        let at = self.moment();
        let queued = match self.queue.enqueue(peer, entry.id(), entry.encoded().len() as u64, at) {
            Ok(Enqueued::New(_)) => Queued::New,
            Ok(Enqueued::Duplicate) => Queued::Duplicate,
            Ok(Enqueued::Dead) => Queued::Dead,
            Err(error) => return tell(told, Err(error.into())),
        };
        self.when_written(move || tell(told, Ok(queued)));
    }

    /// Hands deliveries of the queue to the replica, which brings peers what they lack, and to the task that connects.
    pub(super) fn deliver(&mut self) {
        let at = self.moment();
        let mut more = false;
        while let Some(delivery) = self.queue.poll_delivery(at, DELIVERY_ENTRIES, DELIVERY_BYTES) {
            more = true;
            let arrival = self.replica.root().arrival.sequence;
            let until = at.now + DELIVERY_PATIENCE;
            if self.links.contains_key(&delivery.peer) {
                self.replica.check(self.core.now(), &delivery.peer);
            }
            self.deliveries.insert(delivery.peer, Delivery { entries: delivery.entries, arrival, until });
        }
        if more {
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
            self.core.dial.notify_one();
        }
    }

    /// A peer could not be reached.
    pub(in crate::engine) fn on_unreachable(&mut self, peer: &NodeId, failure: SendFailure) {
        if self.links.contains_key(peer) {
            return;
        }
        let text = match &failure {
            SendFailure::Unreachable(text)
            | SendFailure::Busy(text)
            | SendFailure::Authentication(text)
            | SendFailure::Version(text)
            | SendFailure::Refused(text) => text.clone(),
        };
        lock(&self.dataset.board).problems.insert(peer.clone(), text);
        if self.deliveries.remove(peer).is_some() {
            // All addresses were tried by the carrier.
            self.queue.on_failed(peer, failure, self.moment());
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
        }
    }

    /// Looks whether what somebody waits for has come about.
    pub(super) fn observe(&mut self) {
        let now = self.core.clock.now();
        let peers = self.replica.peers();
        let incarnation = self.replica.root().arrival.incarnation;
        let mut over = Vec::new();
        for (peer, delivery) in &self.deliveries {
            let status = peers.iter().find(|status| status.peer == *peer);
            let followed = status.and_then(|status| status.followed);
            let has_it =
                followed.is_some_and(|at| at.incarnation == incarnation && at.sequence >= delivery.arrival);
            if has_it {
                over.push((peer.clone(), true));
            } else if now >= delivery.until {
                over.push((peer.clone(), false));
            }
        }
        let at = self.moment();
        for (peer, held) in over {
            let Some(delivery) = self.deliveries.remove(&peer) else { continue };
            if held {
                let outcomes = delivery.entries.into_iter().map(|id| (id, Delivered::Held)).collect();
                self.queue.on_sent(&peer, outcomes, at);
            } else {
                let open_elsewhere = self.core.link(&peer).is_some() && !self.links.contains_key(&peer);
                let failure = match (open_elsewhere, self.links.contains_key(&peer)) {
                    (true, _) => {
                        SendFailure::Refused("the peer does not open the dataset to this node".into())
                    }
                    (_, true) => {
                        SendFailure::Busy(format!("it was not confirmed within {DELIVERY_PATIENCE:?}"))
                    }
                    _ => SendFailure::Unreachable(format!("no stream within {DELIVERY_PATIENCE:?}")),
                };
                self.queue.on_failed(&peer, failure, at);
            }
            lock(&self.dataset.board).needed = self.deliveries.keys().cloned().collect();
        }
        self.observers.retain_mut(|observer| !observer(&peers, now));
    }

    /// Shows `observer` how peers stand until it has seen enough.
    pub(in crate::engine) fn add_observer(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Calls `told` once all changes to records up to now are durable.
    pub(in crate::engine) fn when_written(&mut self, told: impl FnOnce() + Send + 'static) {
        let board = lock(&self.dataset.board);
        if board.failed.is_some() || board.full.is_some() {
            // Whoever waits learns why from the board. Where there is room again, the change is written then.
            return;
        }
        drop(board);
        self.book_waiters.push(Box::new(told));
    }

    /// Writes what has changed of queue, peers and requests; one write at a time.
    pub(super) fn write_books(&mut self) {
        if self.writing_books {
            return;
        }
        let mut tickets = Tickets::default();
        let mut writes: Vec<MetadataWrite> = Vec::new();
        let mut add = |batch: Option<crate::state::WriteBatch>| {
            batch.map(|batch| {
                writes.extend(batch.writes);
                batch.ticket
            })
        };
        tickets.queue = add(self.queue.poll_write());
        {
            let mut books = lock(&self.dataset.books);
            tickets.peers = add(books.peers.journal().poll_write());
            tickets.access = add(books.access.journal().poll_write());
        }
        if writes.is_empty() {
            self.book_waiters.drain(..).for_each(|told| told());
            return;
        }
        self.writing_books = true;
        self.written_waiters.append(&mut self.book_waiters);
        self.start_write(Held::Books(tickets, writes));
    }

    pub(super) fn on_books(&mut self, tickets: Tickets, result: Result<(), StoreError>) {
        self.writing_books = false;
        match result {
            Ok(()) => {
                if let Some(ticket) = tickets.queue {
                    self.queue.on_written(ticket);
                }
                let mut books = lock(&self.dataset.books);
                if let Some(ticket) = tickets.peers {
                    books.peers.journal().on_written(ticket);
                }
                if let Some(ticket) = tickets.access {
                    books.access.journal().on_written(ticket);
                }
                drop(books);
                self.written_waiters.drain(..).for_each(|told| told());
            }
            Err(error) => self.fail(&crate::engine::shake::describe(&error)),
        }
    }
}
