//! What callers read and follow without asking the loop.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use mesh_core::{Member, MemberChange, MemberEvent, MemberEvents, MemberSnapshot, NodeId};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::{Counters, Gossip, GossipStatus};

/// Changes that a subscriber may lag behind before it is told to start again.
const EVENTS_KEPT: usize = 1024;
/// Broadcasts that a subscriber may lag behind before it misses some.
const BROADCASTS_KEPT: usize = 256;

/// A user payload, or word that some were missed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BroadcastEvent {
    /// A member sent this to all.
    Message {
        /// The member.
        from: NodeId,
        /// What it sent.
        payload: Bytes,
    },
    /// The subscriber was too slow: this many are gone.
    Missed(u64),
}

/// User payloads in order of arrival. Ends when the driver does.
pub type BroadcastEvents = Pin<Box<dyn Stream<Item = BroadcastEvent> + Send + 'static>>;

struct View {
    members: BTreeMap<NodeId, Arc<Member>>,
    local: Arc<Member>,
    counters: Counters,
    queue_length: usize,
    /// `None` once the driver has ended, so that subscribers end too.
    events: Option<broadcast::Sender<MemberEvent>>,
    broadcasts: Option<broadcast::Sender<(NodeId, Bytes)>>,
}

impl View {
    /// Takes over what changed without an event: round trips, our own record.
    fn take_members(&mut self, gossip: &Gossip) {
        let same_names = self.members.len() == gossip.members().count();
        if same_names && self.members.values().zip(gossip.members()).all(|(a, b)| a.node_id == b.node_id) {
            for (held, member) in self.members.values_mut().zip(gossip.members()) {
                if !Arc::ptr_eq(held, &member) {
                    *held = member;
                }
            }
        } else {
            self.members = gossip.members().map(|m| (m.node_id.clone(), m)).collect();
        }
    }
}

pub(super) struct Shared {
    view: RwLock<View>,
    pub(super) status: watch::Sender<GossipStatus>,
    pub(super) left: watch::Sender<bool>,
    pub(super) stop: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(gossip: &Gossip) -> Self {
        let view = View {
            members: gossip.members().map(|m| (m.node_id.clone(), m)).collect(),
            local: gossip.local(),
            counters: Counters::default(),
            queue_length: 0,
            events: Some(broadcast::Sender::new(EVENTS_KEPT)),
            broadcasts: Some(broadcast::Sender::new(BROADCASTS_KEPT)),
        };
        Self {
            view: RwLock::new(view),
            status: watch::Sender::new(gossip.status()),
            left: watch::Sender::new(false),
            stop: watch::Sender::new(false),
        }
    }

    // A panic while the lock is held can't leave the view half changed: each change is one assignment.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::new(self.read().members.values().cloned().collect())
    }

    pub(super) fn local(&self) -> Arc<Member> {
        self.read().local.clone()
    }

    pub(super) fn counters(&self) -> Counters {
        self.read().counters.clone()
    }

    pub(super) fn queue_length(&self) -> usize {
        self.read().queue_length
    }

    pub(super) fn publish_member(&self, event: MemberEvent) {
        let mut view = self.write();
        if let MemberEvent::Changed { change, member, .. } = &event {
            if *change == MemberChange::Reclaimed {
                view.members.remove(&member.node_id);
            } else {
                view.members.insert(member.node_id.clone(), member.clone());
            }
        }
        if let Some(events) = &view.events {
            // Nobody may be listening.
            let _ = events.send(event);
        }
    }

    pub(super) fn publish_broadcast(&self, from: NodeId, payload: Bytes) {
        if let Some(broadcasts) = &self.read().broadcasts {
            let _ = broadcasts.send((from, payload));
        }
    }

    pub(super) fn refresh(&self, gossip: &Gossip) {
        {
            let mut view = self.write();
            view.take_members(gossip);
            view.local = gossip.local();
            view.counters = gossip.counters().clone();
            view.queue_length = gossip.queue_length();
        }
        self.refresh_status(gossip);
    }

    pub(super) fn refresh_status(&self, gossip: &Gossip) {
        let status = gossip.status();
        self.status.send_if_modified(|held| {
            let changed = *held != status;
            *held = status;
            changed
        });
    }

    /// Ends all subscriptions.
    pub(super) fn end(&self) {
        let mut view = self.write();
        view.events = None;
        view.broadcasts = None;
    }

    /// A snapshot and the events from exactly there on.
    fn follow(&self) -> (MemberSnapshot, Option<broadcast::Receiver<MemberEvent>>) {
        let view = self.read();
        let snapshot = MemberSnapshot::new(view.members.values().cloned().collect());
        (snapshot, view.events.as_ref().map(broadcast::Sender::subscribe))
    }

    pub(super) fn subscribe(self: Arc<Self>) -> (MemberSnapshot, MemberEvents) {
        let (snapshot, receiver) = self.follow();
        let weak = Arc::downgrade(&self);
        let events = stream::unfold(receiver, move |receiver| {
            let weak = weak.clone();
            async move {
                let mut receiver = receiver?;
                match receiver.recv().await {
                    Ok(event) => Some((event, Some(receiver))),
                    Err(RecvError::Lagged(_)) => {
                        let (snapshot, receiver) = weak.upgrade()?.follow();
                        Some((MemberEvent::Resynced(snapshot), receiver))
                    }
                    Err(RecvError::Closed) => None,
                }
            }
        });
        (snapshot, Box::pin(events))
    }

    pub(super) fn broadcasts(&self) -> BroadcastEvents {
        let receiver = self.read().broadcasts.as_ref().map(broadcast::Sender::subscribe);
        Box::pin(stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            let event = match receiver.recv().await {
                Ok((from, payload)) => BroadcastEvent::Message { from, payload },
                Err(RecvError::Lagged(missed)) => BroadcastEvent::Missed(missed),
                Err(RecvError::Closed) => return None,
            };
            Some((event, Some(receiver)))
        }))
    }
}
