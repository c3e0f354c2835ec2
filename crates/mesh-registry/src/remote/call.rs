//! One request until it is answered: whom it goes to, when another voter is asked, what a failure means.
//!
//! A request begins with the voter that is likely to answer. If that one refers to the leader, fails, or
//! is slow, others are asked, the slow one all the while still having its chance; the first answer counts.
//! That is safe since each request either changes nothing or names itself, so that it is applied once.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mesh_core::{
    NodeId,
    store::{Applied, StoreError},
};
use mesh_transport::rpc::{Channel, Lane};
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::{
    RemoteConfig,
    peers::{Peers, Whom},
};
use crate::service::REPLY_BYTES_MAX;
use crate::{
    counters::RemoteCounters,
    wire::{
        failures::{self, Failure},
        store_client::StoreClient,
    },
};

/// What is known of a request beforehand.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// As errors name it.
    pub(super) operation: &'static str,
    pub(super) whom: Whom,
    pub(super) lane: Lane,
    /// Whether it changes anything.
    pub(super) changes: bool,
    /// Whether it may be at work at two voters at once.
    pub(super) hedge: bool,
    /// Whether it may be sent again while it is not known what became of it.
    pub(super) repeat: bool,
    pub(super) timeout: Duration,
    /// Whether the answer is a stream: the time limit is for its beginning.
    pub(super) streams: bool,
    /// Ask this one last.
    pub(super) avoid: Option<NodeId>,
}

impl Call {
    /// A request that changes nothing.
    pub(super) fn read(operation: &'static str, whom: Whom, timeout: Duration) -> Self {
        Self {
            operation,
            whom,
            lane: Lane::Control,
            changes: false,
            hedge: true,
            repeat: true,
            timeout,
            streams: false,
            avoid: None,
        }
    }

    /// A request to the leader that changes something, and may be repeated.
    pub(super) fn change(operation: &'static str, timeout: Duration) -> Self {
        Self { changes: true, ..Self::read(operation, Whom::Leader, timeout) }
    }

    /// The request with its deadline.
    pub(super) fn request<T>(&self, message: T, left: Duration) -> Request<T> {
        let mut request = Request::new(message);
        if !self.streams {
            request.set_timeout(left);
        }
        request
    }
}

/// An answer, and what it took.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) reply: T,
    /// Who gave it.
    pub(super) from: NodeId,
    /// Another try of the same request may have been applied, or may yet be.
    pub(super) uncertain: bool,
}

/// What the tries of one request share.
pub(super) struct Caller<'c> {
    pub(super) peers: &'c Peers,
    pub(super) config: &'c RemoteConfig,
    pub(super) counters: &'c RemoteCounters,
}

/// The state of one request.
struct Tries {
    /// Asked since the last pause.
    asked: BTreeSet<NodeId>,
    /// Those that have not answered, and whether the request has been sent to them.
    at_work: BTreeMap<NodeId, Arc<AtomicBool>>,
    /// When to ask the next one; `None` while an answer is waited for.
    next: Option<Instant>,
    pause: Duration,
    uncertain: bool,
    last: Option<Failure>,
}

/// Between half of `pause` and all of it, so that callers who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Tries {
    /// Asks the next one after a pause: everybody was asked.
    fn pause(&mut self, pause_max: Duration) {
        self.asked = self.at_work.keys().cloned().collect();
        self.next = Some(Instant::now() + jittered(self.pause));
        self.pause = (self.pause * 2).min(pause_max);
    }

    /// Whether the request was sent to somebody who has not answered.
    fn is_out(&self) -> bool {
        self.at_work.values().any(|sent| sent.load(Ordering::Relaxed))
    }
}

impl Caller<'_> {
    /// Sends a request until it is answered. `attempt` sends it to one voter, by its name and a client, with so much
    /// time left.
    pub(super) async fn run<T, F, R>(&self, call: &Call, attempt: F) -> Result<Answer<T>, Failure>
    where
        F: Fn(NodeId, StoreClient<Channel>, Duration) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        let deadline = started + call.timeout;
        let mut tries = Tries {
            asked: BTreeSet::new(),
            at_work: BTreeMap::new(),
            next: Some(started),
            pause: self.config.retry_min,
            uncertain: false,
            last: None,
        };
        let mut at_work = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            if tries.next.is_some_and(|next| next <= now) {
                let avoid = call.avoid.as_ref();
                let Some(target) = self.peers.choose(call.whom, avoid, |id| !tries.asked.contains(id)) else {
                    tries.pause(self.config.retry_max);
                    continue;
                };
                if !tries.asked.is_empty() || tries.last.is_some() {
                    self.counters.retried();
                }
                tries.asked.insert(target.node_id.clone());
                let sent = Arc::<AtomicBool>::default();
                tries.at_work.insert(target.node_id.clone(), Arc::clone(&sent));
                let channel = self.peers.channel(&target, call.lane);
                let (attempt, voter) = (&attempt, target.node_id.clone());
                at_work.push(async move {
                    let answer = async {
                        // Whoever gives up before this is done knows that nothing was sent.
                        channel.connect().await?;
                        sent.store(true, Ordering::Relaxed);
                        let client = StoreClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
                        let left = deadline.saturating_duration_since(Instant::now());
                        attempt(voter, client, left).await
                    };
                    (target.node_id, now, answer.await)
                });
                tries.next = call.hedge.then(|| now + self.config.hedge_after.min(call.timeout / 4));
            }
            tokio::select! {
                biased;
                Some((node, began, answer)) = at_work.next() => match answer {
                    Ok(response) => {
                        self.peers.answered(&node, began.elapsed());
                        if call.whom == Whom::Leader {
                            self.peers.set_leader(&node);
                        }
                        tries.at_work.remove(&node);
                        let uncertain = call.changes && (tries.uncertain || tries.is_out());
                        return Ok(Answer { reply: response.into_inner(), from: node, uncertain });
                    }
                    Err(status) => {
                        let failure = failures::from_status(status, call.operation, call.timeout);
                        if let Some(end) = self.failed(call, &mut tries, &node, failure) {
                            return Err(end);
                        }
                    }
                },
                () = sleep_until(tries.next.unwrap_or(deadline).min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(late(call, tries));
                    }
                }
            }
        }
    }

    /// Decides what follows a failure; `Some` if that is the end.
    fn failed(&self, call: &Call, tries: &mut Tries, node: &NodeId, failure: Failure) -> Option<Failure> {
        let failure = if call.changes { failure } else { failure.without_effect() };
        tries.at_work.remove(node);
        tries.uncertain |= failure.applied() == Applied::Unknown;
        let transient = match &failure {
            // Somebody has to act first; whoever asked should know at once.
            Failure::Store(StoreError::ReadOnly { .. }) => false,
            Failure::Store(error) => error.is_transient(),
            _ => false,
        };
        let done = !transient || (tries.uncertain && !call.repeat);
        if done {
            let out = call.changes && tries.is_out();
            return Some(certain(call, failure, tries.uncertain || out));
        }
        tracing::debug!(peer_id = %node, operation = call.operation, ?failure, "a voter did not answer");
        if failure.is_of_the_moment() {
            // It says nothing about who leads, so that no watch has to move.
            tries.next = Some(Instant::now());
            let leads = call.whom == Whom::Leader && self.peers.leader().as_ref() == Some(node);
            if leads && tries.pause < self.config.retry_max {
                // Others would only refer to it. If it stays so, they are asked whether it leads still.
                tries.asked.remove(node);
                tries.next = Some(Instant::now() + jittered(tries.pause));
                tries.pause = (tries.pause * 2).min(self.config.retry_max);
            }
            tries.last = Some(failure);
            return None;
        }
        self.peers.not_leader(node);
        if let Some(leader) = failure.leader().filter(|leader| *leader != node) {
            self.counters.redirected();
            self.peers.set_leader(leader);
        }
        tries.last = Some(failure);
        // If everybody was asked, the choice comes out empty, and a pause follows.
        tries.next = Some(Instant::now());
        None
    }
}

/// A failure in words that do not deny what an earlier try may have done.
fn certain(call: &Call, failure: Failure, uncertain: bool) -> Failure {
    if !uncertain || failure.applied() == Applied::Unknown {
        return failure;
    }
    let reason = match failure {
        Failure::Store(error) => format!("a first try may have been applied; then: {error}"),
        Failure::SessionGone(session) => {
            format!("a first try may have been applied; then session {session} was gone")
        }
        // Says nothing about anything that was done.
        ttl @ Failure::TimeToLive { .. } => return ttl,
    };
    let operation = call.operation;
    Failure::Store(StoreError::Unavailable { operation, reason, applied: Applied::Unknown, source: None })
}

fn late(call: &Call, tries: Tries) -> Failure {
    let (operation, after) = (call.operation, call.timeout);
    let timeout = |applied| Failure::Store(StoreError::Timeout { operation, after, applied });
    // Those still at work may be applied.
    if tries.uncertain || call.changes && tries.is_out() {
        return timeout(Applied::Unknown);
    }
    // That a voter is busy says more than that its next answer is not here yet.
    let busy = tries.last.as_ref().is_some_and(Failure::is_of_the_moment);
    if !tries.at_work.is_empty() && !busy {
        return timeout(Applied::No);
    }
    tries.last.unwrap_or_else(|| {
        let reason = "no voter is known; is this node part of a cluster?".to_owned();
        Failure::Store(StoreError::Unavailable { operation, reason, applied: Applied::No, source: None })
    })
}
