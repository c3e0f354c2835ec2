//! Events for subscribers: a bounded ring with numbers, so that a subscriber can come back.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::InstanceId;
use tokio::sync::watch;

use crate::{LeaderView, LeadershipEvent, Scope};

/// Names an event: the run of the process that saw it, and its number there.
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

/// What a subscriber gets.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Who leads now. Comes first, and again if the subscriber fell further behind than events are kept.
    Snapshot {
        /// The events that follow come after it.
        id: EventId,
        /// All scopes that are known, in the order of their names.
        leaders: Vec<LeaderView>,
    },
    /// A transition.
    Event {
        /// Resume after it.
        id: EventId,
        /// What happened.
        event: Arc<LeadershipEvent>,
    },
}

/// No further subscriber fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} subscribers follow leadership already; close one or raise leader.subscribers_max")]
pub struct SubscribersMax {
    /// `leader.subscribers_max`.
    pub limit: usize,
}

#[derive(Debug)]
struct Inner {
    leaders: BTreeMap<Scope, LeaderView>,
    ring: VecDeque<Arc<LeadershipEvent>>,
    newest: u64,
    subscribers: usize,
    lagged: u64,
    closed: bool,
}

/// Who leads, the last transitions, and those who follow them.
#[derive(Debug)]
pub(crate) struct Board {
    instance: InstanceId,
    events_kept: usize,
    subscribers_max: usize,
    inner: Mutex<Inner>,
    wake: watch::Sender<()>,
}

impl Board {
    pub(crate) fn new(instance: InstanceId, events_kept: usize, subscribers_max: usize) -> Self {
        let inner = Inner {
            leaders: BTreeMap::new(),
            ring: VecDeque::new(),
            newest: 0,
            subscribers: 0,
            lagged: 0,
            closed: false,
        };
        let (wake, _) = watch::channel(());
        Self { instance, events_kept, subscribers_max, inner: Mutex::new(inner), wake }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Enters changes and events together, so that a snapshot and the events after it fit.
    pub(crate) fn publish(&self, leaders: Vec<LeaderView>, events: Vec<LeadershipEvent>) {
        if leaders.is_empty() && events.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for view in leaders {
            inner.leaders.insert(view.scope.clone(), view);
        }
        for event in events {
            if inner.ring.len() == self.events_kept {
                inner.ring.pop_front();
            }
            inner.newest += 1;
            inner.ring.push_back(Arc::new(event));
        }
        drop(inner);
        self.wake.send_replace(());
    }

    /// Nothing is known of a scope any more.
    pub(crate) fn forget(&self, scope: &Scope) {
        if self.lock().leaders.remove(scope).is_some() {
            self.wake.send_replace(());
        }
    }

    /// Ends all subscriptions once they have read what there is.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.send_replace(());
    }

    pub(crate) fn leader(&self, scope: &Scope) -> Option<LeaderView> {
        self.lock().leaders.get(scope).cloned()
    }

    pub(crate) fn leaders(&self) -> Vec<LeaderView> {
        self.lock().leaders.values().cloned().collect()
    }

    /// Wakes whenever something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Subscribers, and how often one fell behind.
    #[cfg(feature = "metrics")]
    pub(crate) fn subscribers(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.subscribers, inner.lagged)
    }

    pub(crate) fn subscribe(
        self: &Arc<Self>,
        after: Option<EventId>,
    ) -> Result<Subscription, SubscribersMax> {
        let mut inner = self.lock();
        if inner.subscribers >= self.subscribers_max {
            return Err(SubscribersMax { limit: self.subscribers_max });
        }
        inner.subscribers += 1;
        let forgotten = inner.newest - inner.ring.len() as u64;
        let resume = after
            .filter(|id| id.instance == self.instance && (forgotten..=inner.newest).contains(&id.sequence))
            .map(|id| id.sequence);
        drop(inner);
        Ok(Subscription { board: Arc::clone(self), position: resume, wake: self.wake.subscribe() })
    }
}

/// Transitions in order, each once, from a snapshot or a known event on.
///
/// All subscribers read from one bounded ring (`leader.events_kept`): one that falls further behind gets
/// another snapshot in place of what it missed.
#[derive(Debug)]
pub struct Subscription {
    board: Arc<Board>,
    /// Number of the last event read; `None` before a snapshot.
    position: Option<u64>,
    wake: watch::Receiver<()>,
}

impl Subscription {
    /// The next notice; `None` once leadership has ended on this node.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            // Seen before the read, so that what is published after it wakes us.
            self.wake.mark_unchanged();
            match self.read() {
                Read::Notice(notice) => return Some(notice),
                Read::Closed => return None,
                Read::Empty => {}
            }
            if self.wake.changed().await.is_err() {
                return None;
            }
        }
    }

    /// The next notice, if there is one already.
    #[cfg(feature = "api")]
    pub(crate) fn ready(&mut self) -> Option<Notice> {
        match self.read() {
            Read::Notice(notice) => Some(notice),
            Read::Empty | Read::Closed => None,
        }
    }

    fn read(&mut self) -> Read {
        let mut inner = self.board.lock();
        let instance = self.board.instance;
        let forgotten = inner.newest - inner.ring.len() as u64;
        let Some(position) = self.position.filter(|position| *position >= forgotten) else {
            if self.position.is_some() {
                inner.lagged += 1;
            }
            self.position = Some(inner.newest);
            let id = EventId { instance, sequence: inner.newest };
            return Read::Notice(Notice::Snapshot { id, leaders: inner.leaders.values().cloned().collect() });
        };
        let at = usize::try_from(position - forgotten).unwrap_or(usize::MAX);
        match inner.ring.get(at) {
            Some(event) => {
                self.position = Some(position + 1);
                let id = EventId { instance, sequence: position + 1 };
                Read::Notice(Notice::Event { id, event: Arc::clone(event) })
            }
            None if inner.closed => Read::Closed,
            None => Read::Empty,
        }
    }
}

enum Read {
    Notice(Notice),
    Empty,
    Closed,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.board.lock().subscribers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{FencingToken, Instant, WallTime};

    use super::*;
    use crate::{Reason, Transition};

    fn event(term: u64) -> LeadershipEvent {
        LeadershipEvent {
            transition: Transition::Observed,
            scope: "s".parse().expect("a scope"),
            leader: "n".parse().expect("a node"),
            token: FencingToken { generation: 1, counter: term },
            term,
            reason: Reason::Vacant,
            correlation_id: 7,
            at: Instant::ZERO,
            wall: WallTime(0),
        }
    }

    async fn terms(subscription: &mut Subscription, count: usize) -> Vec<u64> {
        let mut terms = Vec::new();
        for _ in 0..count {
            match subscription.next().await.expect("open") {
                Notice::Event { event, .. } => terms.push(event.term),
                Notice::Snapshot { .. } => terms.push(0),
            }
        }
        terms
    }

    #[tokio::test]
    async fn a_subscriber_resumes_after_the_event_that_it_knows() {
        let board = Arc::new(Board::new(InstanceId(5), 4, 8));
        let mut first = board.subscribe(None).expect("fits");
        assert_eq!(terms(&mut first, 1).await, [0], "a snapshot");
        board.publish(Vec::new(), vec![event(1), event(2), event(3)]);
        assert_eq!(terms(&mut first, 2).await, [1, 2]);
        let after: EventId = "0000000000000005-2".parse().expect("an id");
        let mut again = board.subscribe(Some(after)).expect("fits");
        assert_eq!(terms(&mut again, 1).await, [3]);

        board.publish(Vec::new(), (4..=8).map(event).collect());
        assert_eq!(terms(&mut first, 1).await, [0], "too far behind: a snapshot again");
        let mut late = board.subscribe(Some(after)).expect("fits");
        assert_eq!(terms(&mut late, 1).await, [0], "no longer kept");
        let other = EventId { instance: InstanceId(6), sequence: 8 };
        let mut other = board.subscribe(Some(other)).expect("fits");
        assert_eq!(terms(&mut other, 1).await, [0], "another run");
        board.close();
        assert!(other.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_forgotten_is_in_no_snapshot_any_more() {
        let board = Arc::new(Board::new(InstanceId(5), 4, 8));
        let view = |name: &str| LeaderView {
            scope: name.parse().expect("a scope"),
            leader: None,
            token: None,
            term: 1,
            since: WallTime(0),
            correlation_id: 0,
            revision: mesh_core::Revision(1),
            candidates: Vec::new(),
        };
        board.publish(vec![view("kept"), view("user/1")], Vec::new());
        let mut changes = board.changes();
        changes.mark_unchanged();
        board.forget(&view("user/1").scope);
        assert!(changes.has_changed().expect("open"), "who follows the board looks again");
        let mut subscription = board.subscribe(None).expect("fits");
        match subscription.next().await.expect("open") {
            Notice::Snapshot { leaders, .. } => assert_eq!(leaders, [view("kept")]),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn subscribers_are_bounded_and_make_room_when_they_go() {
        let board = Arc::new(Board::new(InstanceId(5), 4, 1));
        let first = board.subscribe(None).expect("fits");
        let refused = board.subscribe(None).expect_err("full").to_string();
        assert!(refused.contains("leader.subscribers_max"), "{refused}");
        drop(first);
        board.subscribe(None).expect("fits again");
    }
}
