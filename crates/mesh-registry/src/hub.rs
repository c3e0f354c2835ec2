//! Hands each change to all who watch, without ever waiting for one of them.
//!
//! A watcher has a queue with a bound. Past the bound it loses changes, and is
//! told so, or keeps only the newest change of each key, as it asked.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use mesh_core::{
    Revision,
    store::{Change, Key, Overflow, Prefix, StoreError, WatchEvent, WatchFrom, WatchOptions, WatchStream},
};
use tokio::sync::Notify;

use crate::state::{Revised, State};

/// A watcher is told where it stands after so many revisions that did not concern it.
const BOOKMARK_EVERY: u64 = 1000;

/// Makes the error with which each watch ends.
type EndOfWatch = Arc<dyn Fn() -> StoreError + Send + Sync>;

/// All watchers of one store.
#[derive(Default)]
pub(crate) struct Hub {
    watchers: Mutex<Watchers>,
}

#[derive(Default)]
struct Watchers {
    by_id: BTreeMap<u64, Arc<Watcher>>,
    next_id: u64,
}

struct Watcher {
    prefix: Prefix,
    options: WatchOptions,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Something was taken out of the queue.
    read: Notify,
}

struct Queue {
    /// What was before the watch began, and is delivered before `events`.
    backlog: VecDeque<WatchEvent>,
    events: VecDeque<WatchEvent>,
    /// Changes in `events`.
    changes: usize,
    /// Everything up to here is in the queue or before it.
    seen: Revision,
    /// Why the watch ends after what is queued.
    end: Option<EndOfWatch>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is changed in one step each time, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a watch from a revision that the store has not reached: it belongs to another history, and nobody knows what its
/// reader has seen of this one. The watch goes on after `now`.
pub(crate) fn gap_of_another_history(now: Revision) -> WatchEvent {
    WatchEvent::Gap { from: Revision(now.0.min(1)), to: now }
}

/// Begins a watch on `state`, whose changes are published to `hub` under the lock that the caller holds. A state
/// that may be behind others is brought up to date first if the watch goes on from a later revision.
pub(crate) fn begin(
    hub: &Arc<Hub>,
    state: &State,
    prefix: &Prefix,
    from: WatchFrom,
    options: WatchOptions,
) -> WatchStream {
    let now = state.revision();
    let first: Vec<WatchEvent> = match from {
        WatchFrom::Now => Vec::new(),
        WatchFrom::After(after) if after > now => vec![gap_of_another_history(now)],
        WatchFrom::After(after) => match state.changes_after(after, prefix) {
            Some(revised) => revised
                .into_iter()
                .map(|r| WatchEvent::Changes { revision: r.revision, changes: r.changes.to_vec() })
                .collect(),
            None => vec![WatchEvent::Gap { from: Revision(after.0 + 1), to: now }],
        },
    };
    hub.watch(prefix.clone(), options, now, first)
}

impl Hub {
    /// Adds a watcher that has seen everything up to `seen`. `first` is delivered before anything else,
    /// and however much it is: it comes from a history that has a bound itself, and whoever resumes is
    /// not slow yet.
    ///
    /// The caller holds the lock under which changes are published, so that nothing falls between.
    pub(crate) fn watch(
        self: &Arc<Self>,
        prefix: Prefix,
        options: WatchOptions,
        seen: Revision,
        first: impl IntoIterator<Item = WatchEvent>,
    ) -> WatchStream {
        let options = WatchOptions { buffer_changes_max: options.buffer_changes_max.max(1), ..options };
        let queue = Queue {
            backlog: first.into_iter().collect(),
            events: VecDeque::new(),
            changes: 0,
            seen,
            end: None,
        };
        let watcher = Arc::new(Watcher {
            prefix,
            options,
            queue: Mutex::new(queue),
            wake: Notify::new(),
            read: Notify::new(),
        });
        let mut watchers = lock(&self.watchers);
        let id = watchers.next_id;
        watchers.next_id += 1;
        watchers.by_id.insert(id, Arc::clone(&watcher));
        drop(watchers);
        let reader = Reader { hub: Arc::downgrade(self), id, watcher };
        Box::pin(futures_util::stream::unfold(Some(reader), |reader| async {
            let reader = reader?;
            let next = reader.next().await;
            let ended = next.is_err();
            Some((next, (!ended).then_some(reader)))
        }))
    }

    /// Queues the changes of one revision. Revisions come in order.
    pub(crate) fn publish(&self, revised: &Revised) {
        for watcher in lock(&self.watchers).by_id.values() {
            watcher.offer(revised);
        }
    }

    /// Tells every watcher where it stands.
    pub(crate) fn bookmark(&self, revision: Revision) {
        for watcher in lock(&self.watchers).by_id.values() {
            let mut queue = lock(&watcher.queue);
            queue.bookmark(revision);
            watcher.wake.notify_one();
        }
    }

    /// Tells every watcher that changes up to `to` may be missing.
    pub(crate) fn gap(&self, to: Revision) {
        for watcher in lock(&self.watchers).by_id.values() {
            let mut queue = lock(&watcher.queue);
            let from = queue.first_revision().unwrap_or(Revision(queue.seen.0.saturating_add(1)));
            queue.drop_all(from, to);
            watcher.wake.notify_one();
        }
    }

    /// Ends every watch, after what is queued, with an error.
    #[cfg_attr(
        not(any(feature = "etcd", feature = "postgres", feature = "raft")),
        allow(dead_code, reason = "the memory provider goes on until it is dropped")
    )]
    pub(crate) fn end(&self, error: impl Fn() -> StoreError + Send + Sync + 'static) {
        let error: EndOfWatch = Arc::new(error);
        let watchers = std::mem::take(&mut lock(&self.watchers).by_id);
        for watcher in watchers.values() {
            lock(&watcher.queue).end = Some(Arc::clone(&error));
            watcher.wake.notify_one();
        }
    }

    /// Waits until everybody has read all that was published. For a hub with one watcher and one publisher.
    #[cfg(feature = "etcd")]
    pub(crate) async fn until_read(&self) {
        let watchers: Vec<_> = lock(&self.watchers).by_id.values().cloned().collect();
        for watcher in watchers {
            while !lock(&watcher.queue).is_read() {
                watcher.read.notified().await;
            }
        }
    }

    /// How many watch.
    pub(crate) fn len(&self) -> usize {
        lock(&self.watchers).by_id.len()
    }
}

impl Watcher {
    fn offer(&self, revised: &Revised) {
        let mut queue = lock(&self.queue);
        if revised.revision <= queue.seen {
            return;
        }
        let Some(covered) = revised.under(&self.prefix) else {
            if revised.revision.0 - queue.seen.0 >= BOOKMARK_EVERY {
                queue.bookmark(revised.revision);
                self.wake.notify_one();
            }
            return;
        };
        let changes = covered.changes.to_vec();
        queue.push(WatchEvent::Changes { revision: covered.revision, changes });
        queue.seen = covered.revision;
        if queue.changes > self.options.buffer_changes_max {
            queue.shrink(self.options);
        }
        drop(queue);
        self.wake.notify_one();
    }
}

impl Queue {
    fn push(&mut self, event: WatchEvent) {
        if let WatchEvent::Changes { changes, .. } = &event {
            self.changes += changes.len();
        }
        // A bookmark says no more than what follows it.
        if matches!(self.events.back(), Some(WatchEvent::Bookmark { .. })) {
            self.events.pop_back();
        }
        self.events.push_back(event);
    }

    fn bookmark(&mut self, revision: Revision) {
        self.push(WatchEvent::Bookmark { revision });
        self.seen = self.seen.max(revision);
    }

    #[cfg(feature = "etcd")]
    fn is_read(&self) -> bool {
        self.backlog.is_empty() && self.events.is_empty()
    }

    fn pop(&mut self) -> Option<WatchEvent> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(event);
        }
        let event = self.events.pop_front()?;
        if let WatchEvent::Changes { changes, .. } = &event {
            self.changes -= changes.len();
        }
        Some(event)
    }

    fn shrink(&mut self, options: WatchOptions) {
        let first = self.first_revision();
        if options.overflow == Overflow::Latest {
            self.keep_latest();
        }
        // A transaction that is larger than the bound is no fault of a reader that has nothing else to read.
        if self.changes > options.buffer_changes_max && self.events.len() > 1 {
            let to = self.seen;
            self.drop_all(first.unwrap_or(to), to);
        }
    }

    /// The earliest revision that would be lost if the queue were dropped.
    fn first_revision(&self) -> Option<Revision> {
        self.events.iter().find_map(|event| match event {
            WatchEvent::Changes { revision, .. } => Some(*revision),
            WatchEvent::Gap { from, .. } => Some(*from),
            WatchEvent::Bookmark { .. } => None,
        })
    }

    fn drop_all(&mut self, from: Revision, to: Revision) {
        self.events.clear();
        self.changes = 0;
        self.seen = self.seen.max(to);
        self.events.push_back(WatchEvent::Gap { from, to });
    }

    fn keep_latest(&mut self) {
        let mut newest: BTreeMap<Key, Revision> = BTreeMap::new();
        for event in &self.events {
            if let WatchEvent::Changes { revision, changes } = event {
                newest.extend(changes.iter().map(|change| (change.key().clone(), *revision)));
            }
        }
        for event in &mut self.events {
            if let WatchEvent::Changes { revision, changes } = event {
                changes.retain(|change: &Change| newest.get(change.key()) == Some(revision));
            }
        }
        self.events
            .retain(|event| !matches!(event, WatchEvent::Changes { changes, .. } if changes.is_empty()));
        self.changes = newest.len();
    }
}

/// The reading end; its end takes the watcher out of the hub.
struct Reader {
    hub: Weak<Hub>,
    id: u64,
    watcher: Arc<Watcher>,
}

impl Reader {
    async fn next(&self) -> Result<WatchEvent, StoreError> {
        loop {
            {
                let mut queue = lock(&self.watcher.queue);
                if let Some(event) = queue.pop() {
                    self.watcher.read.notify_one();
                    return Ok(event);
                }
                if let Some(error) = &queue.end {
                    return Err(error());
                }
            }
            self.watcher.wake.notified().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            lock(&hub.watchers).by_id.remove(&self.id);
        }
    }
}
