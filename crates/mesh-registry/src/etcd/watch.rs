//! Watches: one etcd watch for each, resumed where it broke off.
//!
//! A task reads etcd's stream without ever waiting for the reader, as an unread
//! stream would hold up the others of its connection. What comes goes through
//! a [`Hub`] of its own, whose queue has the reader's bound.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, sync::atomic::Ordering, task, time::Duration};

use futures_core::Stream;
use futures_util::StreamExt;
use mesh_core::{
    Revision, WallTime,
    store::{
        Applied, Change, DeleteCause, Prefix, SessionId, StoreError, WatchEvent, WatchFrom, WatchOptions,
        WatchStream,
    },
};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info};

use super::{
    Shared,
    connection::{Kind, Link},
    fault::{self, Fault},
    layout, lock, wire as pb,
};
use crate::{
    hub::{Hub, gap_of_another_history},
    state::Revised,
};

const OPERATION: &str = "watch";
/// Pause between two tries to go on.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a compaction waits for the watches of this handle to pass a mark.
const MARK_WAIT: Duration = Duration::from_secs(2);
/// A watch that catches up and hears nothing for so long has nothing to catch up with.
const QUIET: Duration = Duration::from_secs(1);
/// Audit records that are trimmed at once.
const TRIMMED_MAX: i64 = 1000;
/// Marks in one transaction.
const MARKS_MAX: usize = 100;

/// How far a watch has come.
pub(super) struct Standing {
    mark: bytes::Bytes,
    at: watch::Sender<Revision>,
}

/// Ends the task with the stream.
struct Ending {
    events: WatchStream,
    task: tokio::task::JoinHandle<()>,
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.task.abort();
        lock(&self.shared.standings).remove(&self.id);
    }
}

impl Stream for Ending {
    type Item = Result<WatchEvent, StoreError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(cx)
    }
}

/// Begins a watch.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    prefix: &Prefix,
    from: WatchFrom,
    options: WatchOptions,
) -> Result<WatchStream, StoreError> {
    let now = shared.revision(OPERATION).await?;
    let after = match from {
        WatchFrom::Now => now,
        WatchFrom::After(revision) => revision.min(now),
    };
    let is_ahead = matches!(from, WatchFrom::After(revision) if revision > now);
    let hub = Arc::new(Hub::default());
    let events = hub.watch(prefix.clone(), options, after, is_ahead.then(|| gap_of_another_history(now)));
    let standing = Arc::new(Standing { mark: shared.layout.mark(prefix), at: watch::Sender::new(after) });
    let id = shared.nonce();
    lock(&shared.standings).insert(id, Arc::clone(&standing));
    let (start, end) = shared.layout.range(prefix);
    let run = Run {
        shared: Arc::clone(shared),
        hub,
        standing,
        start,
        end,
        at: after,
        history: now,
        causes: BTreeMap::new(),
    };
    let task = tokio::spawn(run.run());
    Ok(Box::pin(Ending { events, task, shared: Arc::clone(shared), id }))
}

struct Run {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    standing: Arc<Standing>,
    start: bytes::Bytes,
    end: bytes::Bytes,
    /// Everything up to here was handed on.
    at: Revision,
    /// What is not later than this is history: the reader gets it at its own pace.
    history: Revision,
    /// How sessions ended at the revision that is being looked at.
    causes: BTreeMap<SessionId, DeleteCause>,
}

/// Why a stream ended.
enum Broken {
    /// The history begins only here.
    Compacted(Revision),
    /// The rest is not history any more.
    CaughtUp,
    /// It can go on, on another connection.
    Lost(String),
    /// It can't.
    Over(StoreError),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) if !error.is_transient() => Self::Over(error),
            other => Self::Lost(other.into_error(OPERATION).to_string()),
        }
    }
}

impl Run {
    async fn run(mut self) {
        let mut lost_since: Option<Instant> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.at;
            let mut heard = false;
            let reason = match self.follow(&mut heard).await {
                Broken::Compacted(through) => {
                    info!(revision = through.0, "etcd has compacted what a watch had not seen yet");
                    self.hub.gap(through);
                    self.stand_at(through);
                    self.shared.compacted.fetch_max(through.0, Ordering::Relaxed);
                    continue;
                }
                Broken::CaughtUp => {
                    self.history = self.at;
                    continue;
                }
                Broken::Over(error) => {
                    let text = error.to_string();
                    self.hub.end(move || over(&text));
                    return;
                }
                Broken::Lost(reason) => reason,
            };
            if heard || self.at > before {
                (lost_since, pause) = (None, PAUSE_MIN);
            }
            let since = *lost_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.shared.config.watch_resume_for {
                self.hub.end(move || unavailable(&reason));
                return;
            }
            debug!(reason, revision = self.at.0, "a watch goes on with another connection");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn stand_at(&mut self, revision: Revision) {
        self.at = self.at.max(revision);
        self.standing.at.send_replace(self.at);
    }

    /// Reads one stream to its end.
    async fn follow(&mut self, heard: &mut bool) -> Broken {
        let shared = Arc::clone(&self.shared);
        let connections = &shared.connections;
        let timeout = connections.request_timeout;
        let lost = |reason: &str| Broken::Lost(reason.to_owned());
        let catches_up = self.at < self.history;
        let link = async {
            // A stream that waits for its reader would hold up the others of its connection.
            if catches_up { connections.link_apart().await } else { connections.link().await }
        };
        let (used, link) = match tokio::time::timeout(timeout, link).await {
            Ok(Ok(link)) => link,
            Ok(Err(fault)) => return fault.into(),
            Err(_) => return lost("etcd does not answer"),
        };
        // Begins with what was seen already: etcd then tells when that is compacted, and so whether
        // something after it may be missing.
        let create = pb::WatchCreateRequest {
            key: self.start.clone(),
            range_end: self.end.clone(),
            start_revision: i64::try_from(self.at.0).unwrap_or(i64::MAX).max(1),
            progress_notify: true,
            prev_kv: true,
            fragment: true,
        };
        let create =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let requests = futures_util::stream::iter([create]).chain(futures_util::stream::pending());
        let mut client = link.watch();
        let mut answers = match tokio::time::timeout(timeout, client.watch(requests)).await {
            Ok(Ok(answers)) => answers.into_inner(),
            failed => {
                connections.turn_from(used);
                return match failed {
                    Ok(Err(status)) => fault::of_status(OPERATION, false, status).into(),
                    _ => lost("etcd does not answer"),
                };
            }
        };
        let mut pending = Pending::default();
        loop {
            let answer = if catches_up {
                match tokio::time::timeout(QUIET, answers.message()).await {
                    Ok(answer) => answer,
                    Err(_) => return Broken::CaughtUp,
                }
            } else {
                answers.message().await
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    connections.turn_from(used);
                    return lost("etcd ended the stream");
                }
                Err(status) => {
                    connections.turn_from(used);
                    return fault::of_status(OPERATION, false, status).into();
                }
            };
            *heard = true;
            self.shared.seen(answer.header.as_ref());
            if answer.compact_revision > 0 {
                return Broken::Compacted(layout::revision(answer.compact_revision));
            }
            if answer.canceled {
                connections.turn_from(used);
                return Broken::Lost(format!("etcd cancelled the watch: {}", answer.cancel_reason));
            }
            if let Err(broken) = self.take(answer, &mut pending).await {
                return broken;
            }
            if catches_up && self.at >= self.history {
                return Broken::CaughtUp;
            }
        }
    }

    /// Takes one answer, or a piece of one.
    async fn take(&mut self, answer: pb::WatchResponse, pending: &mut Pending) -> Result<(), Broken> {
        if answer.events.is_empty() && !answer.created && !answer.fragment && pending.events.is_empty() {
            let revision = layout::revision(answer.header.unwrap_or_default().revision);
            if revision > self.at {
                self.hub.bookmark(revision);
                self.stand_at(revision);
            }
            return Ok(());
        }
        for event in answer.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if revision != pending.revision {
                self.flush(pending).await?;
                pending.revision = revision;
            }
            pending.events.push(event);
        }
        // The rest of this revision may be in the next piece.
        if answer.fragment { Ok(()) } else { self.flush(pending).await }
    }

    /// Hands on the events of one revision.
    async fn flush(&mut self, pending: &mut Pending) -> Result<(), Broken> {
        let events = std::mem::take(&mut pending.events);
        let revision = layout::revision(pending.revision);
        if events.is_empty() || revision <= self.at {
            return Ok(());
        }
        self.causes.clear();
        let mut changes = Vec::new();
        let mut marked = false;
        for event in events {
            match self.change(event).await? {
                Some(change) => changes.push(change),
                None => marked = true,
            }
        }
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        if revision <= self.history {
            self.hub.until_read().await;
        }
        if !changes.is_empty() {
            self.hub.publish(&Revised { revision, changes: changes.into() });
        }
        if marked {
            self.hub.bookmark(revision);
        }
        self.stand_at(revision);
        Ok(())
    }

    /// `None` for a mark.
    async fn change(&mut self, event: pb::Event) -> Result<Option<Change>, Broken> {
        let damaged = |error| Broken::Over(fault::damaged(error));
        let is_delete = event.r#type() == pb::EventType::Delete;
        let Some(kv) = event.kv else { return Ok(None) };
        if !is_delete {
            return Ok(self.shared.layout.read_record(kv).map_err(damaged)?.map(Change::Put));
        }
        let Some(key) = self.shared.layout.key_of(&kv.key).map_err(damaged)? else { return Ok(None) };
        let cause = match event.prev_kv {
            Some(before) => match layout::session_of(before.lease) {
                Some(session) => self.cause(session, kv.mod_revision).await?,
                None => DeleteCause::Written,
            },
            None => DeleteCause::Unknown,
        };
        Ok(Some(Change::Deleted { key, cause }))
    }

    /// Why a record of a session went: with it, or on its own.
    async fn cause(&mut self, session: SessionId, revision: i64) -> Result<DeleteCause, Broken> {
        if let Some(cause) = self.causes.get(&session) {
            return Ok(*cause);
        }
        let cause = match self.shared.ended_by_owner(session, revision).await {
            Ok(None) => DeleteCause::Written,
            Ok(Some(true)) => DeleteCause::SessionClosed,
            Ok(Some(false)) => DeleteCause::SessionExpired,
            Err(Fault::Compacted) => DeleteCause::Unknown,
            Err(fault) => return Err(fault.into()),
        };
        self.causes.insert(session, cause);
        Ok(cause)
    }
}

/// The events of one revision that came so far.
#[derive(Default)]
struct Pending {
    revision: i64,
    events: Vec<pb::Event>,
}

fn over(problem: &str) -> StoreError {
    StoreError::Damaged { what: "a watch".to_owned(), problem: problem.to_owned() }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        operation: OPERATION,
        reason: reason.to_owned(),
        applied: Applied::No,
        source: None,
    }
}

impl Shared {
    /// Compacts the whole etcd, after the watches of this handle have passed that point.
    pub(super) async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        const OPERATION: &str = "compact";
        let through = through.min(self.revision(OPERATION).await?);
        if through == Revision(0) {
            return Ok(());
        }
        let error = |fault: Fault| fault.into_error(OPERATION);
        let standings: Vec<Arc<Standing>> = lock(&self.standings).values().cloned().collect();
        let mut marks: Vec<bytes::Bytes> = standings.iter().map(|standing| standing.mark.clone()).collect();
        marks.sort();
        marks.dedup();
        let mut marked = Revision(0);
        for marks in marks.chunks(MARKS_MAX) {
            let put = |key: &bytes::Bytes| pb::PutRequest { key: key.clone(), ..Default::default() }.op();
            let request = pb::TxnRequest { success: marks.iter().map(put).collect(), ..Default::default() };
            let answer = self.txn(OPERATION, Kind::Repeatable, request).await.map_err(error)?;
            marked = self.seen(answer.header.as_ref()).min(if marked.0 == 0 {
                Revision(u64::MAX)
            } else {
                marked
            });
        }
        // Who does not pass in time gets a gap instead.
        let deadline = Instant::now() + MARK_WAIT;
        for standing in standings {
            let mut at = standing.at.subscribe();
            let passed = at.wait_for(|at| *at >= marked);
            // An error says that the watch is over.
            let _ = tokio::time::timeout_at(deadline, passed).await;
        }
        let revision = i64::try_from(through.0).unwrap_or(i64::MAX);
        let request = pb::CompactionRequest { revision };
        let send = |link: Link| async move { link.kv().compact(request).await };
        match self.connections.call(OPERATION, Kind::Read, send).await {
            Ok(_) | Err(Fault::Compacted) => {}
            Err(fault) => return Err(error(fault)),
        }
        for marks in marks.chunks(MARKS_MAX) {
            let delete = |key: &bytes::Bytes| {
                pb::DeleteRangeRequest { key: key.clone(), range_end: bytes::Bytes::new() }.op()
            };
            let request =
                pb::TxnRequest { success: marks.iter().map(delete).collect(), ..Default::default() };
            self.txn(OPERATION, Kind::Repeatable, request).await.map_err(error)?;
        }
        Ok(())
    }

    /// Deletes the oldest audit records from before a moment, at one revision.
    pub(super) async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        const OPERATION: &str = "trim the audit records";
        let error = |fault: Fault| fault.into_error(OPERATION);
        let (first, end) = (self.layout.audits(0), self.layout.audits(before.0));
        if first >= end {
            return Ok(0);
        }
        let due = pb::RangeRequest::between(first.clone(), end, TRIMMED_MAX);
        let due = self.range(OPERATION, pb::RangeRequest { keys_only: true, ..due }).await.map_err(error)?;
        let Some(last) = due.kvs.last() else { return Ok(0) };
        let end = [&*last.key, &[0]].concat();
        let delete = pb::DeleteRangeRequest { key: first, range_end: end.into() };
        let request = pb::TxnRequest { success: vec![delete.op()], ..Default::default() };
        let answer = self.txn(OPERATION, Kind::Repeatable, request).await.map_err(error)?;
        let deleted = answer.responses.into_iter().filter_map(|response| match response.response {
            Some(pb::response_op::Response::ResponseDeleteRange(range)) => u64::try_from(range.deleted).ok(),
            _ => None,
        });
        Ok(deleted.sum())
    }
}
