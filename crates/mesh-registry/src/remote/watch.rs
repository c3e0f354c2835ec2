//! A watch that outlives its connections.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::stream;
use mesh_core::{
    NodeId, Revision,
    store::{
        Applied, Change, Key, Overflow, Prefix, StoreError, WatchEvent, WatchFrom, WatchOptions, WatchStream,
    },
};
use mesh_transport::rpc::Channel;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::{Call, Shared, StoreClient, Whom, damaged, peers::Trust, read};
use crate::wire::{WatchChanges, WatchReply, WatchRequest, bad, failures, watch_reply::Event};

/// Changes of one revision that are put together from several messages; one with more becomes a gap.
const REVISION_BYTES_MAX: usize = 64 << 20;

/// A key that nothing is ever written to: reading it tells the revision.
pub(super) fn nowhere() -> Result<Key, StoreError> {
    Key::new("~").map_err(|error| StoreError::Invalid { what: "get", problem: error.to_string() })
}

pub(super) async fn begin(
    shared: Arc<Shared>,
    prefix: &Prefix,
    from: WatchFrom,
    options: WatchOptions,
) -> Result<WatchStream, StoreError> {
    let last = match from {
        WatchFrom::After(revision) => revision,
        // Where "now" is must be known before anything can be lost.
        WatchFrom::Now => shared.fetch(&nowhere()?, Whom::Leader).await?.1,
    };
    let request = WatchRequest {
        prefix: prefix.as_str().to_owned(),
        after: None,
        buffer_changes_max: u32::try_from(options.buffer_changes_max.max(1)).unwrap_or(u32::MAX),
        latest: options.overflow == Overflow::Latest,
    };
    let mut watch = Watch {
        shared,
        request,
        last,
        connection: None,
        parts: Parts::default(),
        queued: VecDeque::new(),
        lost: None,
        avoid: None,
    };
    watch.connect().await?;
    Ok(Box::pin(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(event) => Some((Ok(event), Some(watch))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Watch {
    shared: Arc<Shared>,
    request: WatchRequest,
    /// Everything up to here was delivered.
    last: Revision,
    connection: Option<Connection>,
    parts: Parts,
    queued: VecDeque<WatchEvent>,
    lost: Option<Lost>,
    /// The voter that failed last; asked last.
    avoid: Option<NodeId>,
}

struct Connection {
    messages: Streaming<WatchReply>,
    voter: NodeId,
    trust: Trust,
}

/// Since when the watch has no voter that says anything.
struct Lost {
    since: Instant,
    pause: Duration,
}

/// A revision whose changes have not come all yet.
#[derive(Default)]
struct Parts {
    changes: Vec<Change>,
    bytes: usize,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return Ok(event);
            }
            let silence_max = self.shared.config.watch_silence_max;
            let Some(connection) = &mut self.connection else {
                self.resume().await?;
                continue;
            };
            // A voter that was killed says nothing, not even goodbye. Whoever calls the next leader, or hears of
            // the death, spares the watch to wait for the silence to last.
            let message = tokio::select! {
                biased;
                message = timeout(silence_max, connection.messages.message()) => message,
                () = self.shared.peers.doubted(&mut connection.trust) => {
                    self.lose(gone("it leads no more, or is said to be gone".to_owned()))?;
                    continue;
                }
            };
            let failure = match message {
                Ok(Ok(Some(message))) => {
                    self.lost = None;
                    self.take(message)?;
                    continue;
                }
                Ok(Err(status)) => {
                    failures::from_status(status, "watch", self.shared.timeout()).without_effect().into()
                }
                Ok(Ok(None)) => gone("the voter ended it".to_owned()),
                Err(_) => gone(format!("nothing came for {silence_max:?}")),
            };
            self.lose(failure)?;
        }
    }

    /// The connection is of no more use.
    ///
    /// # Errors
    ///
    /// The failure itself, if another connection would not help.
    fn lose(&mut self, failure: StoreError) -> Result<(), StoreError> {
        self.parts = Parts::default();
        let voter = self.connection.take().map(|connection| connection.voter);
        if !failure.is_transient() {
            return Err(failure);
        }
        tracing::debug!(peer_id = ?voter, error = %failure, last = %self.last, "a watch lost its voter");
        if let Some(voter) = voter {
            self.shared.peers.not_leader(&voter);
            self.avoid = Some(voter);
        }
        let pause = self.shared.config.retry_min;
        let lost = self.lost.get_or_insert_with(|| Lost { since: Instant::now(), pause });
        if lost.since.elapsed() >= self.shared.config.watch_resume_for {
            return Err(failure);
        }
        Ok(())
    }

    /// Goes on at another voter.
    async fn resume(&mut self) -> Result<(), StoreError> {
        let (retry_max, resume_for) = (self.shared.config.retry_max, self.shared.config.watch_resume_for);
        let pause = self.lost.as_mut().map(|lost| {
            let pause = lost.pause;
            lost.pause = (pause * 2).min(retry_max);
            pause
        });
        if let Some(pause) = pause {
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        match self.connect().await {
            Ok(()) => {
                self.shared.counters.watch_resumed();
                Ok(())
            }
            Err(error) => {
                let over = self.lost.as_ref().is_none_or(|lost| lost.since.elapsed() >= resume_for);
                if over || !error.is_transient() { Err(error) } else { Ok(()) }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let request = WatchRequest { after: Some(self.last.0), ..self.request.clone() };
        let call = &Call {
            streams: true,
            avoid: self.avoid.clone(),
            ..Call::read("watch", Whom::LeaderFirst, self.shared.timeout())
        };
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(request.clone(), left);
            async move { client.watch(request).await }
        };
        let answer = self.shared.run(call, send).await?;
        let trust = self.shared.peers.trust(&answer.from);
        self.connection = Some(Connection { messages: answer.reply, voter: answer.from, trust });
        Ok(())
    }

    /// Takes a message in. What was delivered before is dropped.
    fn take(&mut self, message: WatchReply) -> Result<(), StoreError> {
        let event = match message.event {
            Some(Event::Heartbeat(_)) => return Ok(()),
            Some(Event::Changes(part)) => match self.parts.take(part)? {
                Some(event) => event,
                None => return Ok(()),
            },
            Some(Event::Bookmark(revision)) => WatchEvent::Bookmark { revision: Revision(revision) },
            Some(Event::Gap(gap)) => WatchEvent::Gap { from: Revision(gap.from), to: Revision(gap.to) },
            // Of a newer voter, or no event at all: to go on without it might lose changes.
            None => return Err(damaged(&bad("a watch's message", "event", "it is of an unknown kind"))),
        };
        match &event {
            WatchEvent::Changes { revision, .. } if *revision <= self.last => return Ok(()),
            WatchEvent::Bookmark { revision } if *revision < self.last => return Ok(()),
            WatchEvent::Changes { revision, .. } | WatchEvent::Bookmark { revision } => self.last = *revision,
            // It may be of a history that is not as far as the one before, and that goes on from there.
            WatchEvent::Gap { to, .. } => self.last = *to,
        }
        self.queued.push_back(event);
        Ok(())
    }
}

impl Parts {
    /// The changes of a revision, once they are complete.
    fn take(&mut self, part: WatchChanges) -> Result<Option<WatchEvent>, StoreError> {
        let WatchChanges { revision, changes, more } = part;
        for change in changes {
            let change: Change = read(change)?;
            self.bytes += match &change {
                Change::Put(record) => record.key.as_str().len() + record.value.len(),
                Change::Deleted { key, .. } => key.as_str().len(),
            };
            if self.bytes <= REVISION_BYTES_MAX {
                self.changes.push(change);
            } else {
                self.changes.clear();
            }
        }
        if more {
            return Ok(None);
        }
        let revision = Revision(revision);
        let parts = std::mem::take(self);
        if parts.bytes > REVISION_BYTES_MAX {
            return Ok(Some(WatchEvent::Gap { from: revision, to: revision }));
        }
        Ok(Some(WatchEvent::Changes { revision, changes: parts.changes }))
    }
}

fn gone(reason: String) -> StoreError {
    StoreError::Unavailable { operation: "watch", reason, applied: Applied::No, source: None }
}
