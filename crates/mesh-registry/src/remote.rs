//! The `remote` provider: the store of other nodes, reached over gRPC.
//!
//! Changes and linearizable reads go to the leader, which any voter names; stale reads go to the nearest
//! voter. A read with no other beside it asks for proof that the leader leads still by itself ([`quorum`]). Every transaction has a name, so that it is applied once however often it is sent. A watch that
//! loses its voter goes on at another from the last revision that it delivered.

mod call;
mod config;
mod naming;
mod peers;
mod quorum;
mod together;
mod transfer;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use mesh_core::{
    NodeId, Revision, Validated,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};
use mesh_transport::rpc::{Channel, Channels, Lane};
use tonic::{Response, Status};

use crate::{
    counters::RemoteCounters,
    members::{GroupMembers, Members},
    state::Refusal,
    wire::{self, WireError, failures::Failure, store_client::StoreClient, values},
};

pub use config::RemoteConfig;
pub use peers::Voters;

use call::{Answer, Call, Caller};
use naming::{Name, Naming, Next};
use peers::{Peers, Whom};
use quorum::Readers;
use together::Together;

/// Sessions whose time to live is kept, to know how much time a renewal has.
const TTLS_MAX: usize = 65_536;
/// Records of a list that is as good as a single read.
const SHORT_SCAN: usize = 64;
/// How often a transaction is named anew after the session of its name was gone.
const NAMES_MAX: usize = 3;

/// A store that other nodes keep. Clones share it.
///
/// It needs a tokio runtime. Nothing is connected until the first request.
///
/// ```no_run
/// # async fn f(channels: mesh_transport::rpc::Channels, voter: mesh_transport::rpc::Target)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use mesh_core::{Settings, store::{Key, VersionedStore}};
/// use mesh_registry::{RemoteConfig, RemoteStore};
/// let config = RemoteConfig::default().validate().map_err(|problems| problems[0].clone())?;
/// let voters: Arc<[_]> = Arc::new([voter]);
/// let store = RemoteStore::new(channels, Arc::new(voters), config);
/// let read = store.get(&Key::new("leases/global-control")?).await?;
/// println!("{:?} at revision {}", read.value, read.revision);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemoteStore {
    shared: Arc<Shared>,
}

struct Shared {
    peers: Peers,
    config: Validated<RemoteConfig>,
    naming: Arc<Naming>,
    counters: Arc<RemoteCounters>,
    ttls: Mutex<BTreeMap<SessionId, Duration>>,
    readers: Readers,
    together: Together,
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteStore").field("leader", &self.leader()).finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// The store that `voters` keep, reached over `channels`.
    pub fn new(channels: Channels, voters: Arc<dyn Voters>, config: Validated<RemoteConfig>) -> Self {
        let shared = Shared {
            peers: Peers::new(channels, voters),
            config,
            naming: Arc::default(),
            counters: Arc::default(),
            ttls: Mutex::default(),
            readers: Readers::default(),
            together: Together::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Who led when this client last heard.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.peers.leader()
    }

    /// A hint that a node is gone: it is not taken for the leader any more, and watches that it serves go on
    /// at another voter at once. Wrong hints cost a request for each watch, and nothing else.
    pub fn lost(&self, node: &NodeId) {
        self.shared.peers.doubt(node);
    }

    /// What it counts, for [`metrics`](crate::metrics).
    pub fn counters(&self) -> Arc<RemoteCounters> {
        Arc::clone(&self.shared.counters)
    }
}

impl crate::numbers::Gauges for RemoteStore {
    fn numbers(&self) -> crate::numbers::StoreNumbers {
        // A leader that does not answer is forgotten.
        let quorum = Some(self.leader().is_some());
        crate::numbers::StoreNumbers { quorum, ..Default::default() }
    }
}

#[async_trait]
impl Members for RemoteStore {
    /// As the leader knows it, else as a voter does that answers.
    async fn members(&self) -> Result<GroupMembers, StoreError> {
        let shared = &self.shared;
        let call = &Call::read("tell who votes", Whom::LeaderFirst, shared.timeout());
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::MembersRequest {}, left);
            async move { client.members(request).await }
        };
        read(shared.run(call, send).await?.reply)
    }
}

fn damaged(error: &WireError) -> StoreError {
    StoreError::Damaged { what: "the store's answer".to_owned(), problem: error.to_string() }
}

fn read<T, W>(message: W) -> Result<T, StoreError>
where
    T: TryFrom<W, Error = WireError>,
{
    T::try_from(message).map_err(|error| damaged(&error))
}

fn uncertain(reason: String) -> StoreError {
    StoreError::Unavailable { operation: "transact", reason, applied: Applied::Unknown, source: None }
}

impl Shared {
    async fn run<T, F, R>(&self, call: &Call, attempt: F) -> Result<Answer<T>, Failure>
    where
        F: Fn(StoreClient<Channel>, Duration) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        self.run_at(call, |_, client, left| attempt(client, left)).await
    }

    /// As [`run`](Self::run), for those who need to know which voter it is.
    async fn run_at<T, F, R>(&self, call: &Call, attempt: F) -> Result<Answer<T>, Failure>
    where
        F: Fn(NodeId, StoreClient<Channel>, Duration) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        Caller { peers: &self.peers, config: &self.config, counters: &self.counters }.run(call, attempt).await
    }

    fn timeout(&self) -> Duration {
        self.config.request_timeout
    }

    /// The record at a key as of now.
    async fn fetch_fresh(&self, key: &Key) -> Result<(Option<Record>, Revision), StoreError> {
        let reader = self.readers.begin();
        if reader.alone
            && let Some(done) = self.read_confirmed(key).await
        {
            return done;
        }
        self.fetch(key, Whom::Leader).await
    }

    async fn fetch(&self, key: &Key, whom: Whom) -> Result<(Option<Record>, Revision), StoreError> {
        let call = &Call::read("get", whom, self.timeout());
        let stale = whom == Whom::Nearest;
        let send = |mut client: StoreClient<Channel>, left| {
            let request = wire::GetRequest { key: key.as_str().to_owned(), stale, led: false };
            let request = call.request(request, left);
            async move { client.get(request).await }
        };
        let reply = self.run(call, send).await?.reply;
        Ok((reply.record.map(read).transpose()?, Revision(reply.revision)))
    }

    async fn list(&self, scan: &Scan, whom: Whom) -> Result<(Page, Revision), StoreError> {
        scan.check()?;
        // What is long goes beside short requests, over the transport that is quicker with much.
        let lane = if scan.limit > SHORT_SCAN { Lane::Bulk } else { Lane::Control };
        let call = &Call { lane, ..Call::read("scan", whom, self.timeout()) };
        let send = |mut client: StoreClient<Channel>, left| {
            let request = wire::ScanRequest {
                prefix: scan.prefix.as_str().to_owned(),
                after: scan.after.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default(),
                limit: u32::try_from(scan.limit).unwrap_or(u32::MAX),
                stale: whom == Whom::Nearest,
            };
            let request = call.request(request, left);
            async move { client.scan(request).await }
        };
        let reply = self.run(call, send).await?.reply;
        let records = reply.records.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok((Page { records, more: reply.more }, Revision(reply.revision)))
    }

    async fn open(&self, ttl: Duration) -> Result<Session, SessionError> {
        // A second try after a lost answer may leave a session behind that nobody renews; it expires.
        let call = &Call { hedge: false, ..Call::change("open a session", self.timeout()) };
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::OpenRequest { ttl_ms: values::millis(ttl) }, left);
            async move { client.open(request).await }
        };
        let reply = self.run(call, send).await?.reply;
        let Some(session) = reply.session else {
            return Err(damaged(&wire::bad("an opened session", "session", "it is missing")).into());
        };
        let session: Session = read(session)?;
        let mut ttls = self.ttls.lock().unwrap_or_else(PoisonError::into_inner);
        ttls.insert(session.id, session.ttl);
        if ttls.len() > TTLS_MAX {
            ttls.pop_first();
        }
        Ok(session)
    }

    async fn renew(&self, session: SessionId) -> Result<Session, SessionError> {
        let ttl = self.ttls.lock().unwrap_or_else(PoisonError::into_inner).get(&session).copied();
        // Another try must fit before the session runs out.
        let timeout = ttl.map_or(self.timeout(), |ttl| (ttl / 3).min(self.timeout()));
        let call = &Call { lane: Lane::Heartbeat, ..Call::change("renew a session", timeout) };
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::SessionRequest { session: session.0 }, left);
            async move { client.keep_alive(request).await }
        };
        let reply = self.run(call, send).await.inspect_err(|failure| {
            if matches!(failure, Failure::SessionGone(_)) {
                self.forget_ttl(session);
            }
        })?;
        reply.reply.session.map(read).transpose()?.ok_or(SessionError::Gone { session })
    }

    async fn close(&self, session: SessionId) -> Result<Revision, SessionError> {
        self.forget_ttl(session);
        let call = &Call { hedge: false, ..Call::change("close a session", self.timeout()) };
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::SessionRequest { session: session.0 }, left);
            async move { client.close(request).await }
        };
        Ok(Revision(self.run(call, send).await?.reply.revision))
    }

    fn forget_ttl(&self, session: SessionId) {
        self.ttls.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }

    /// A name for a transaction. Opens a session for names if there is none with room.
    async fn name(self: &Arc<Self>) -> Result<Name, StoreError> {
        let named = async {
            loop {
                match self.naming.next() {
                    Next::Take(name) => return Ok(name),
                    Next::Wait => {
                        // A name that became free in between has left a permit.
                        let _ = tokio::time::timeout(Duration::from_millis(50), self.naming.changed()).await;
                    }
                    Next::Open => self.open_for_names().await?,
                }
            }
        };
        let limit = self.timeout();
        tokio::time::timeout(limit, named).await.unwrap_or_else(|_| {
            let (operation, applied) = ("name a transaction", Applied::No);
            Err(StoreError::Timeout { operation, after: limit, applied })
        })
    }

    async fn open_for_names(self: &Arc<Self>) -> Result<(), StoreError> {
        let _opening = self.naming.opening.lock().await;
        // Somebody else may have opened one meanwhile.
        if !matches!(self.naming.next(), Next::Open) {
            return Ok(());
        }
        let ttl = self.config.retry_session_ttl;
        let session = self.open(ttl).await.map_err(|error| match error {
            SessionError::Store(error) => Failure::Store(error).without_effect().into(),
            other => {
                StoreError::Invalid { what: "registry.remote.retry_session_ttl", problem: other.to_string() }
            }
        })?;
        self.counters.session_opened();
        if self.naming.opened(&session) {
            tokio::spawn(keep_names(Arc::downgrade(self), ttl / 3));
        }
        Ok(())
    }

    async fn transact(self: &Arc<Self>, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let mut message = wire::Txn::from(txn);
        // The certificate says who writes.
        message.writer.clear();
        for _ in 0..NAMES_MAX {
            let name = match txn.idempotency {
                Some(_) => None,
                None => Some(self.name().await?),
            };
            if let Some(name) = &name {
                message.idempotency = Some(name.key.into());
            }
            let call = &Call::change("transact", self.timeout());
            let send = |voter: NodeId, client: StoreClient<Channel>, left| {
                self.together.transact(voter, client, message.clone(), left)
            };
            let answer = self.run_at(call, send).await.map_err(StoreError::from)?;
            use wire::transact_reply::Outcome;
            let refusal: Refusal = match answer.reply.outcome {
                Some(Outcome::Applied(outcome)) => return Ok(read(outcome)?),
                Some(Outcome::Refused(refusal)) => read(refusal)?,
                None => {
                    return Err(uncertain("the answer does not say what came of it".to_owned()).into());
                }
            };
            match (&refusal, name) {
                // What an earlier try did went with the memory of the session.
                (Refusal::SessionGone(session), _) if answer.uncertain => {
                    self.naming.forget(*session);
                    let reason =
                        format!("a first try may have been applied; then session {session} was gone");
                    return Err(uncertain(reason).into());
                }
                (Refusal::SessionGone(session), Some(name)) if *session == name.key.session => {
                    tracing::debug!(%session, peer_id = %answer.from, "the session of names is gone");
                    self.naming.forget(*session);
                }
                _ => return Err(refusal.into_error(&txn.compares)),
            }
        }
        let reason = format!("{NAMES_MAX} sessions in a row were gone before the transaction arrived");
        Err(StoreError::Unavailable { operation: "transact", reason, applied: Applied::No, source: None }
            .into())
    }
}

/// Renews the sessions of names until the store is dropped or they are not needed any more.
async fn keep_names(shared: Weak<Shared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(shared) = shared.upgrade() else { return };
        let due = shared.naming.due();
        for session in due.close {
            // If that fails, it expires.
            let _ = shared.close(session).await;
        }
        for session in &due.renew {
            match shared.renew(*session).await {
                Ok(_) => {}
                Err(SessionError::Gone { .. }) => shared.naming.forget(*session),
                Err(error) => tracing::debug!(%session, %error, "a session of names was not renewed"),
            }
        }
        if due.renew.is_empty() {
            return;
        }
    }
}

#[async_trait]
impl VersionedStore for RemoteStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.fetch_fresh(key).await?;
        Ok(Fresh { value, revision })
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.fetch(key, Whom::Nearest).await?;
        Ok(Stale { value, revision })
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        let (value, revision) = self.shared.list(scan, Whom::Leader).await?;
        Ok(Fresh { value, revision })
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        let (value, revision) = self.shared.list(scan, Whom::Nearest).await?;
        Ok(Stale { value, revision })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.shared.transact(&txn).await
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        watch::begin(Arc::clone(&self.shared), prefix, from, options).await
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        request.check()?;
        self.shared.open(request.ttl).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.shared.renew(session).await
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        self.shared.close(session).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        let shared = &self.shared;
        let call = &Call::read("look a session up", Whom::Leader, shared.timeout());
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::SessionRequest { session: session.0 }, left);
            async move { client.session(request).await }
        };
        shared.run(call, send).await?.reply.session.map(read).transpose()
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let shared = &self.shared;
        let call = &Call::change("compact", shared.timeout());
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::CompactRequest { through: through.0 }, left);
            async move { client.compact(request).await }
        };
        shared.run(call, send).await?;
        Ok(())
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        transfer::snapshot(&self.shared).await
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        transfer::restore(&self.shared, snapshot).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let shared = &self.shared;
        let call = &Call::read("tell its status", Whom::LeaderFirst, shared.timeout());
        let send = |mut client: StoreClient<Channel>, left| {
            let request = call.request(wire::StatusRequest {}, left);
            async move { client.status(request).await }
        };
        let status = shared.run(call, send).await?.reply;
        let told = (!status.leader.is_empty()).then(|| values::node("a status", "leader", &status.leader));
        let leader = told.transpose().map_err(|error| damaged(&error))?.or_else(|| shared.peers.leader());
        Ok(StoreStatus {
            provider: "remote",
            cluster: status.cluster,
            revision: Revision(status.revision),
            compacted: Revision(status.compacted),
            generation: status.generation,
            leader,
            read_only: (!status.read_only.is_empty()).then_some(status.read_only),
            records: status.records,
            sessions: status.sessions,
        })
    }
}

#[cfg(test)]
mod tests;
