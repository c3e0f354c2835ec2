//! A read that this client confirms itself: it asks the leader for the record and others whether the leader still
//! leads, all at once ([`crate::quorum`] says why that is enough).
//!
//! It is the quicker way for a client that waits for one read, and the dearer one for many at a time: those share the
//! leader's own rounds. So it is taken by the only read that is under way.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mesh_core::{
    Revision,
    store::{Key, Record, StoreError},
};
use mesh_transport::rpc::{Channel, Lane, Target};
use tokio::time::{Instant, timeout};
use tonic::{Response, Status};

use super::{Answer, Call, Shared, StoreClient, Whom, read};
use crate::{
    quorum::{Lead, Witness},
    wire::{self, failures::Failure},
};

/// How much longer than twice the leader's time others may take.
const GRACE: Duration = Duration::from_millis(3);
/// What a voter that did not vouch in time is taken to need, so that another is asked next time.
const PENALTY: Duration = Duration::from_millis(200);
/// How long the other way is taken after this one did not work out.
const PAUSE: Duration = Duration::from_secs(1);

/// The reads under way.
#[derive(Debug, Default)]
pub(super) struct Readers {
    under_way: AtomicUsize,
    paused_until: Mutex<Option<Instant>>,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Reader<'r> {
    readers: &'r Readers,
    /// Whether it began as the only one.
    pub(super) alone: bool,
}

impl Readers {
    pub(super) fn begin(&self) -> Reader<'_> {
        Reader { readers: self, alone: self.under_way.fetch_add(1, Ordering::Relaxed) == 0 }
    }

    fn paused_until(&self) -> MutexGuard<'_, Option<Instant>> {
        // It is replaced as a whole.
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.readers.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Reads a record and confirms that. `None` if that did not work out, whatever the reason: there is another way.
    pub(super) async fn read_confirmed(
        &self,
        key: &Key,
    ) -> Option<Result<(Option<Record>, Revision), StoreError>> {
        let began = Instant::now();
        if self.readers.paused_until().is_some_and(|until| began < until) {
            return None;
        }
        let witnesses = self.peers.witnesses()?;
        let call = &Call::read("get", Whom::Leader, self.timeout());
        let send = |mut client: StoreClient<Channel>, left| {
            let request = wire::GetRequest { key: key.as_str().to_owned(), stale: false, led: true };
            let request = call.request(request, left);
            async move { client.get(request).await }
        };
        let asked = self.run(call, send);
        let mut asked = std::pin::pin!(asked);
        let mut vouching: FuturesUnordered<_> = witnesses.iter().map(|target| self.witness(target)).collect();
        let mut words = Vec::with_capacity(witnesses.len());
        let answer: Result<Answer<wire::GetReply>, Failure> = loop {
            tokio::select! {
                biased;
                answer = &mut asked => break answer,
                Some(word) = vouching.next() => words.extend(word),
            }
        };
        let reply = match answer {
            Ok(answer) => answer.reply,
            Err(failure) => return Some(Err(failure.into())),
        };
        if let Some(lead) = reply.lead.map(Lead::from) {
            let confirmed = async {
                while !lead.is_confirmed_by(&words) {
                    match vouching.next().await {
                        Some(word) => words.extend(word),
                        None => return false,
                    }
                }
                true
            };
            if !timeout(GRACE + began.elapsed(), confirmed).await.unwrap_or(false) {
                *self.readers.paused_until() = Some(Instant::now() + PAUSE);
                for target in &witnesses {
                    self.peers.answered(&target.node_id, PENALTY);
                }
                return None;
            }
            self.counters.read_confirmed();
        }
        Some(reply.record.map(read).transpose().map(|record| (record, Revision(reply.revision))))
    }

    /// What a voter vouches for; `None` if it does not answer.
    async fn witness(&self, target: &Target) -> Option<Witness> {
        let began = Instant::now();
        let channel = self.peers.channel(target, Lane::Control);
        let asked: Result<Response<wire::WitnessReply>, Status> =
            StoreClient::new(channel).witness(wire::WitnessRequest {}).await;
        let reply = asked.ok()?.into_inner();
        self.peers.answered(&target.node_id, began.elapsed());
        Some(reply.into())
    }
}
