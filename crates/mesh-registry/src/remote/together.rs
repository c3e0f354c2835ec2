//! Transactions that come while enough are on their way wait, and go in one request.
//!
//! They stay apart in all else: each has its name, its answer, its tries, and its time. So whoever waits for one at a
//! time loses nothing, and many at once don't pay for a request each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::NodeId;
use mesh_transport::rpc::Channel;
use prost::Message;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};
use tonic::{Code, Request, Response, Status};

use super::StoreClient;
use crate::{
    gather::{self, Gather, Waits},
    wire::{self, failures, transact_each_answer::Answer},
};

/// Requests at once to one voter, and what one of them holds.
const REQUESTS: gather::Together = gather::Together { under_way_max: 4, jobs_max: 64, bytes_max: 512 << 10 };
/// A voter that does not know such requests is asked for one at a time for so long.
const APART: Duration = Duration::from_secs(60);
/// Voters whose ways are kept though nothing is on them.
const WAYS_MAX: usize = 8;

type Answered = Result<wire::TransactReply, Status>;

/// A transaction that waits.
#[derive(Debug)]
struct Job {
    txn: wire::Txn,
    until: Instant,
    answer: oneshot::Sender<Answered>,
}

impl Waits for Job {
    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }
}

/// The way to one voter.
#[derive(Debug)]
struct Way {
    gather: Gather<Job>,
    apart_until: Mutex<Option<Instant>>,
}

impl Way {
    fn apart_until(&self) -> MutexGuard<'_, Option<Instant>> {
        // It is replaced as a whole.
        self.apart_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways to all voters.
#[derive(Debug, Default)]
pub(super) struct Together {
    ways: Mutex<BTreeMap<NodeId, Arc<Way>>>,
}

impl Together {
    fn way(&self, voter: NodeId) -> Arc<Way> {
        // Each change is one step.
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if ways.len() >= WAYS_MAX && !ways.contains_key(&voter) {
            ways.retain(|_, way| Arc::strong_count(way) > 1);
        }
        let way = || Arc::new(Way { gather: Gather::new(REQUESTS), apart_until: Mutex::default() });
        Arc::clone(ways.entry(voter).or_insert_with(way))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.values().map(|way| way.gather.waiting()).sum()
    }

    /// One try of a transaction at one voter. Dropping the future leaves it where it is.
    pub(super) async fn transact(
        &self,
        voter: NodeId,
        client: StoreClient<Channel>,
        txn: wire::Txn,
        left: Duration,
    ) -> Result<Response<wire::TransactReply>, Status> {
        let way = self.way(voter);
        let until = Instant::now() + left;
        if way.apart_until().is_some_and(|end| Instant::now() < end) {
            return alone(client, txn, until).await.map(Response::new);
        }
        let (answer, answered) = oneshot::channel();
        let wait = |txn| Job { txn, until, answer };
        let Some(txn) = way.gather.enter(txn.encoded_len(), txn, wait) else {
            let gone = |_| Err(Status::unknown("this client stopped before there was an answer"));
            return answered.await.unwrap_or_else(gone).map(Response::new);
        };
        let _under_way = UnderWay { way: &way, client: client.clone(), runtime: Handle::current() };
        alone(client, txn, until).await.map(Response::new)
    }
}

/// A request that its only caller sees through. When it is done, or the caller goes away, those who waited meanwhile
/// have the next.
struct UnderWay<'w> {
    way: &'w Arc<Way>,
    client: StoreClient<Channel>,
    runtime: Handle,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Some(jobs) = self.way.gather.next() else { return };
        let (way, client) = (Arc::clone(self.way), self.client.clone());
        self.runtime.spawn(Going { way, is_back: false }.go(client, jobs));
    }
}

/// Goes on with those who wait. If the runtime ends before it is done, they are told, and others may go.
struct Going {
    way: Arc<Way>,
    is_back: bool,
}

impl Going {
    async fn go(mut self, client: StoreClient<Channel>, jobs: Vec<Job>) {
        let mut next = Some(jobs);
        while let Some(jobs) = next {
            trip(&self.way, client.clone(), jobs).await;
            next = self.way.gather.next();
        }
        self.is_back = true;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if !self.is_back {
            self.way.gather.abandon();
        }
    }
}

async fn alone(mut client: StoreClient<Channel>, txn: wire::Txn, until: Instant) -> Answered {
    let mut request = Request::new(wire::TransactRequest { txn: Some(txn) });
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    Ok(client.transact(request).await?.into_inner())
}

/// One request, and the answers to those who wait for them.
async fn trip(way: &Way, mut client: StoreClient<Channel>, jobs: Vec<Job>) {
    let (mut txns, mut callers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    let mut until = Instant::now();
    for job in jobs {
        until = until.max(job.until);
        txns.push(job.txn);
        callers.push(job.answer);
    }
    if callers.len() == 1
        && let (Some(txn), Some(caller)) = (txns.pop(), callers.pop())
    {
        let _ = caller.send(alone(client, txn, until).await);
        return;
    }
    let mut request = Request::new(wire::TransactEachRequest { txns });
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    let failure = match client.transact_each(request).await.map(Response::into_inner) {
        Ok(reply) if reply.answers.len() == callers.len() => {
            for (caller, answer) in callers.into_iter().zip(reply.answers) {
                let _ = caller.send(read(answer));
            }
            return;
        }
        Ok(reply) => {
            let (got, asked) = (reply.answers.len(), callers.len());
            Status::unknown(format!("{got} answers to {asked} transactions"))
        }
        Err(status) => status,
    };
    if failure.code() == Code::Unimplemented {
        // Nothing was applied, so that each is tried again, by itself.
        *way.apart_until() = Some(Instant::now() + APART);
    }
    for caller in callers {
        let _ = caller.send(Err(failure.clone()));
    }
}

fn read(answer: wire::TransactEachAnswer) -> Answered {
    match answer.answer {
        Some(Answer::Reply(reply)) => Ok(reply),
        Some(Answer::Failure(failure)) => Err(failures::out_of_reply(&failure)),
        None => Err(Status::unknown("the answer does not say what came of it")),
    }
}
