//! Watches over the network: the store's events, cut to size, and signs of life between them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use mesh_core::{
    Revision,
    store::{Change, Key, Overflow, Prefix, WatchEvent, WatchFrom, WatchOptions, WatchStream},
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{Replies, ServiceConfig, Shared, invalid};
use crate::{
    counters::ServiceCounters,
    wire::{Empty, WatchChanges, WatchGap, WatchReply, WatchRequest, failures, watch_reply::Event},
};

/// Bytes of changes in one message; a revision with more comes in several.
const PART_BYTES_MAX: usize = 1 << 20;
/// What a change takes beside its key and its value, at most.
const CHANGE_OVERHEAD_BYTES: usize = 170;

/// A watch as a caller asked for it.
pub(super) struct Asked {
    prefix: Prefix,
    from: WatchFrom,
    options: WatchOptions,
    heartbeat: Duration,
}

impl Asked {
    pub(super) fn read(request: &WatchRequest, config: &ServiceConfig) -> Result<Self, Status> {
        let prefix = Prefix::new(&request.prefix).map_err(|error| invalid("watch", error))?;
        let from = request.after.map_or(WatchFrom::Now, |after| WatchFrom::After(Revision(after)));
        let buffer = match usize::try_from(request.buffer_changes_max).unwrap_or(usize::MAX) {
            0 => WatchOptions::default().buffer_changes_max,
            asked => asked,
        };
        let options = WatchOptions {
            buffer_changes_max: buffer.min(config.watch_buffer_changes_max),
            overflow: if request.latest { Overflow::Latest } else { Overflow::Gap },
        };
        Ok(Self { prefix, from, options, heartbeat: config.watch_heartbeat })
    }

    pub(super) fn is_from_now(&self) -> bool {
        self.from == WatchFrom::Now
    }

    /// Begins it. A watch from now on first says where that is, so that it can be resumed from there.
    pub(super) async fn begin(
        self,
        shared: &Shared,
        place: OwnedSemaphorePermit,
    ) -> Result<Replies<WatchReply>, Status> {
        let failed = |error| failures::of_store(&error);
        let mut queued = VecDeque::new();
        let from = match self.from {
            WatchFrom::Now => {
                // No transaction can write this key; the revision is what is asked for.
                let nowhere = Key::new("~").map_err(|error| invalid("watch", error))?;
                let now = shared.store.get(&nowhere).await.map_err(failed)?.revision;
                queued.push_back(WatchReply { event: Some(Event::Bookmark(now.0)) });
                WatchFrom::After(now)
            }
            after => after,
        };
        let events = shared.store.watch(&self.prefix, from, self.options).await.map_err(failed)?;
        let counters = Arc::clone(&shared.counters);
        counters.watch_begun();
        let watch = Watch { events, queued, heartbeat: self.heartbeat, over: false, counters, _place: place };
        Ok(Box::pin(stream::unfold(watch, |mut watch| async {
            let reply = watch.next().await?;
            Some((reply, watch))
        })))
    }
}

struct Watch {
    events: WatchStream,
    queued: VecDeque<WatchReply>,
    heartbeat: Duration,
    over: bool,
    counters: Arc<ServiceCounters>,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchReply, Status>> {
        if let Some(reply) = self.queued.pop_front() {
            return Some(Ok(reply));
        }
        if self.over {
            return None;
        }
        let event = match tokio::time::timeout(self.heartbeat, self.events.next()).await {
            Err(_quiet) => return Some(Ok(WatchReply { event: Some(Event::Heartbeat(Empty {})) })),
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => {
                self.over = true;
                return Some(Err(failures::of_store(&error)));
            }
            Ok(None) => return None,
        };
        let event = match event {
            WatchEvent::Changes { revision, changes } => {
                self.counters.changes_sent(changes.len());
                self.queue_changes(revision, &changes);
                return self.queued.pop_front().map(Ok);
            }
            WatchEvent::Bookmark { revision } => Event::Bookmark(revision.0),
            WatchEvent::Gap { from, to } => {
                self.counters.gap();
                Event::Gap(WatchGap { from: from.0, to: to.0 })
            }
        };
        Some(Ok(WatchReply { event: Some(event) }))
    }

    fn queue_changes(&mut self, revision: Revision, mut changes: &[Change]) {
        loop {
            let fit = fitting(changes);
            let (part, rest) = changes.split_at(fit);
            let part = WatchChanges {
                revision: revision.0,
                changes: part.iter().map(Into::into).collect(),
                more: !rest.is_empty(),
            };
            self.queued.push_back(WatchReply { event: Some(Event::Changes(part)) });
            changes = rest;
            if changes.is_empty() {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.counters.watch_ended();
    }
}

/// The changes that fit into one message; at least one, if there is one.
fn fitting(changes: &[Change]) -> usize {
    let mut bytes = 0;
    let fit = changes.iter().take_while(|change| {
        let own = match change {
            Change::Put(record) => record.key.as_str().len() + record.value.len(),
            Change::Deleted { key, .. } => key.as_str().len(),
        };
        bytes += own + CHANGE_OVERHEAD_BYTES;
        bytes <= PART_BYTES_MAX
    });
    fit.count().max(1).min(changes.len())
}
