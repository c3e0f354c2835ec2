//! The store as a gRPC service, over any [`VersionedStore`].
//!
//! Who calls is read from the certificate of the connection ([`PeerInfo`]): it becomes the writer of
//! transactions and the owner of sessions, and decides what is allowed ([`AccessConfig`]). On a node
//! that does not lead, changes and linearizable reads are answered with who does ([`LeaderHint`]), so
//! that callers go there themselves and keep their identity; stale reads and watches are served by any.

mod access;
mod config;
pub(crate) mod each;
mod leadership;
mod owners;
mod transfer;
mod watch;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use mesh_core::{
    NodeId, PeerIdentity, Revision, Validated,
    store::{
        Applied, Key, OpenSession, Page, Prefix, Record, SCAN_LIMIT_MAX, Scan, Session, SessionError,
        SessionId, StoreError, VersionedStore,
    },
};
use mesh_transport::rpc::PeerInfo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    counters::ServiceCounters,
    leader_hint::{LeaderHint, Leadership, LedBy},
    members::Members,
    quorum::QuorumReads,
    wire::{self, WireError, failures, store_server},
};

pub use access::AccessConfig;
pub use config::ServiceConfig;

pub(crate) use transfer::assemble;

use access::Access;
use owners::Owners;

/// Bytes of records in one reply to a scan; the page ends there.
const SCAN_BYTES_MAX: usize = 4 << 20;
/// What a record takes beside its key and its value, at most.
const RECORD_OVERHEAD_BYTES: usize = 160;
/// Largest reply that a client has to take: a page and one record more.
pub(crate) const REPLY_BYTES_MAX: usize = 6 << 20;

/// The gRPC service `mesh.registry.v1.Store`. Clones share one store and its bounds.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use mesh_core::Settings;
/// use mesh_registry::{MemoryStore, ServiceConfig, StoreService};
/// let config = ServiceConfig::default().validate().map_err(|problems| problems[0].clone())?;
/// let service = StoreService::new(Arc::new(MemoryStore::new()), config);
/// let routes = service.add_to(tonic::service::Routes::default());
/// # let _ = routes;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StoreService {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn VersionedStore>,
    leader: Option<Arc<dyn LeaderHint>>,
    members: Option<Arc<dyn Members>>,
    quorum: Option<Arc<dyn QuorumReads>>,
    config: Validated<ServiceConfig>,
    access: Access,
    owners: Owners,
    requests: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    counters: Arc<ServiceCounters>,
}

/// What a store can do for those who call it.
struct Parts {
    store: Arc<dyn VersionedStore>,
    leader: Option<Arc<dyn LeaderHint>>,
    members: Option<Arc<dyn Members>>,
    quorum: Option<Arc<dyn QuorumReads>>,
}

/// Snapshots and restores at work at once.
const TRANSFERS_MAX: usize = 2;

impl StoreService {
    /// Serves `store`, which takes changes and linearizable reads on every node.
    pub fn new(store: Arc<dyn VersionedStore>, config: Validated<ServiceConfig>) -> Self {
        Self::build(Parts { store, leader: None, members: None, quorum: None }, config)
    }

    /// Serves `store`, of which one node leads.
    pub fn with_leader(
        store: Arc<dyn VersionedStore>,
        leader: Arc<dyn LeaderHint>,
        config: Validated<ServiceConfig>,
    ) -> Self {
        Self::build(Parts { store, leader: Some(leader), members: None, quorum: None }, config)
    }

    /// Serves `store`, of which one node leads, tells who else is in its group, and lets callers confirm their
    /// reads.
    pub fn with_group<S: LeaderHint + Members + QuorumReads + VersionedStore>(
        store: Arc<S>,
        config: Validated<ServiceConfig>,
    ) -> Self {
        let leader: Arc<dyn LeaderHint> = Arc::clone(&store) as _;
        let members: Arc<dyn Members> = Arc::clone(&store) as _;
        let quorum: Arc<dyn QuorumReads> = Arc::clone(&store) as _;
        let parts = Parts { store, leader: Some(leader), members: Some(members), quorum: Some(quorum) };
        Self::build(parts, config)
    }

    fn build(parts: Parts, config: Validated<ServiceConfig>) -> Self {
        let Parts { store, leader, members, quorum } = parts;
        let shared = Shared {
            store,
            leader,
            members,
            quorum,
            access: Access::new(&config.access),
            owners: Owners::default(),
            requests: Arc::new(Semaphore::new(config.requests_in_flight_max)),
            watches: Arc::new(Semaphore::new(config.watches_max)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            counters: Arc::default(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The routes with this service among them.
    #[must_use]
    pub fn add_to(&self, routes: tonic::service::Routes) -> tonic::service::Routes {
        routes.add_service(store_server::StoreServer::new(self.clone()))
    }

    /// What it counts, for [`metrics`](crate::metrics).
    pub fn counters(&self) -> Arc<ServiceCounters> {
        Arc::clone(&self.shared.counters)
    }
}

impl std::fmt::Debug for StoreService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreService").field("config", &*self.shared.config).finish_non_exhaustive()
    }
}

fn malformed(error: &WireError) -> Status {
    failures::of_store(&StoreError::Invalid { what: "request", problem: error.to_string() })
}

fn invalid(what: &'static str, problem: impl ToString) -> Status {
    failures::of_store(&StoreError::Invalid { what, problem: problem.to_string() })
}

fn permit(of: &Arc<Semaphore>, limit: usize) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(of).try_acquire_owned().map_err(|_| failures::of_store(&StoreError::Busy { limit }))
}

impl Shared {
    /// Counts the refusal of a caller that may not do this.
    fn allow(&self, allowed: Result<(), StoreError>, peer: &PeerIdentity) -> Result<(), Status> {
        allowed.map_err(|denied| {
            self.counters.denied();
            tracing::warn!(peer_id = %peer.node_id(), role = %peer.role(), %denied, "refused a store request");
            failures::of_store(&denied)
        })
    }

    /// The caller, who may use the store at all, and a place among the requests at work.
    fn admit<T>(&self, request: &Request<T>) -> Result<(Arc<PeerIdentity>, OwnedSemaphorePermit), Status> {
        let peer = self.caller(request)?;
        let place = permit(&self.requests, self.config.requests_in_flight_max)
            .inspect_err(|_| self.counters.shed())?;
        Ok((peer, place))
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Arc<PeerIdentity>, Status> {
        let Some(peer) = request.extensions().get::<PeerInfo>() else {
            let reason = "the connection has no verified identity; nodes and operators of the cluster may";
            return Err(failures::of_store(&StoreError::Denied { reason: reason.to_owned() }));
        };
        let peer = Arc::clone(&peer.identity);
        self.allow(self.access.user(&peer), &peer)?;
        Ok(peer)
    }

    /// Refuses what only the leader can do, with who that is.
    fn require_leader(&self, operation: &'static str) -> Result<(), Status> {
        let Some(leader) = &self.leader else { return Ok(()) };
        let (reason, source) = match leader.leadership() {
            Leadership::Here => return Ok(()),
            Leadership::There(leader) => {
                (format!("{leader} leads, ask there"), Some(LedBy { leader }.into()))
            }
            Leadership::Unknown => ("no leader is known here at the moment".to_owned(), None),
        };
        self.counters.redirected();
        Err(failures::of_store(&StoreError::Unavailable { operation, reason, applied: Applied::No, source }))
    }

    /// Sessions are renewed, closed and used for retries by their owners alone.
    async fn own_session(
        &self,
        session: SessionId,
        peer: &PeerIdentity,
        action: &'static str,
    ) -> Result<(), Status> {
        match self.owner_of(session).await.map_err(|error| failures::of_store(&error))? {
            Some(owner) => self.allow(Access::owner(session, &owner, peer, action), peer),
            // The store itself answers for one that is gone.
            None => Ok(()),
        }
    }

    /// Whose a session is; `None` if it is gone.
    async fn owner_of(&self, session: SessionId) -> Result<Option<NodeId>, StoreError> {
        if let Some(owner) = self.owners.get(session) {
            return Ok(Some(owner));
        }
        let Some(found) = self.store.session(session).await? else { return Ok(None) };
        self.owners.remember(&found);
        Ok(Some(found.owner))
    }
}

/// The records of a page that fit into one reply.
fn fitting(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fit = records.iter().take_while(|record| {
        bytes += record.key.as_str().len() + record.value.len() + RECORD_OVERHEAD_BYTES;
        bytes <= SCAN_BYTES_MAX
    });
    // A single record always does.
    fit.count().max(1).min(records.len())
}

fn scan_reply(page: &Page, revision: Revision) -> wire::ScanReply {
    let fit = fitting(&page.records);
    wire::ScanReply {
        records: page.records[..fit].iter().map(Into::into).collect(),
        more: page.more || fit < page.records.len(),
        revision: revision.0,
    }
}

fn read_scan(request: &wire::ScanRequest) -> Result<Scan, Status> {
    let after = (!request.after.is_empty()).then(|| Key::new(&request.after)).transpose();
    Ok(Scan {
        prefix: Prefix::new(&request.prefix).map_err(|error| invalid("scan", error))?,
        after: after.map_err(|error| invalid("scan", error))?,
        limit: usize::try_from(request.limit).unwrap_or(SCAN_LIMIT_MAX + 1),
    })
}

fn session_reply(session: Option<&Session>) -> Response<wire::SessionReply> {
    Response::new(wire::SessionReply { session: session.map(Into::into) })
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl store_server::Store for StoreService {
    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetReply>, Status> {
        let (_peer, _place) = self.shared.admit(&request)?;
        let request = request.into_inner();
        let key = Key::new(&request.key).map_err(|error| invalid("get", error))?;
        let store = &self.shared.store;
        let mut lead = None;
        let (record, revision) = if request.stale {
            let read = store.get_stale(&key).await.map_err(|error| failures::of_store(&error))?;
            (read.value, read.revision)
        } else {
            self.shared.require_leader("get")?;
            let led = match &self.shared.quorum {
                Some(quorum) if request.led => quorum.get_led(&key).await,
                _ => Ok(None),
            };
            let read = match led.map_err(|error| failures::of_store(&error))? {
                Some((read, by)) => {
                    lead = Some(by.into());
                    read
                }
                None => store.get(&key).await.map_err(|error| failures::of_store(&error))?,
            };
            (read.value, read.revision)
        };
        let record = record.as_ref().map(Into::into);
        Ok(Response::new(wire::GetReply { record, revision: revision.0, lead }))
    }

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<wire::ScanReply>, Status> {
        let (_peer, _place) = self.shared.admit(&request)?;
        let request = request.into_inner();
        let scan = read_scan(&request)?;
        scan.check().map_err(|error| failures::of_store(&error))?;
        let store = &self.shared.store;
        let (page, revision) = if request.stale {
            let read = store.scan_stale(&scan).await.map_err(|error| failures::of_store(&error))?;
            (read.value, read.revision)
        } else {
            self.shared.require_leader("scan")?;
            let read = store.scan(&scan).await.map_err(|error| failures::of_store(&error))?;
            (read.value, read.revision)
        };
        Ok(Response::new(scan_reply(&page, revision)))
    }

    async fn transact(
        &self,
        request: Request<wire::TransactRequest>,
    ) -> Result<Response<wire::TransactReply>, Status> {
        let shared = &self.shared;
        let (peer, _place) = shared.admit(&request)?;
        shared.require_leader("transact")?;
        let Some(txn) = request.into_inner().txn else {
            return Err(invalid("transaction", "it is missing in the request"));
        };
        Ok(Response::new(each::one(shared, &peer, txn).await?))
    }

    async fn transact_each(
        &self,
        request: Request<wire::TransactEachRequest>,
    ) -> Result<Response<wire::TransactEachReply>, Status> {
        let shared = &self.shared;
        let peer = shared.caller(&request)?;
        shared.require_leader("transact")?;
        Ok(Response::new(each::transact(shared, &peer, request.into_inner()).await?))
    }

    type WatchStream = Replies<wire::WatchReply>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let shared = &self.shared;
        shared.caller(&request)?;
        let place =
            permit(&shared.watches, shared.config.watches_max).inspect_err(|_| shared.counters.shed())?;
        let asked = watch::Asked::read(&request.into_inner(), &shared.config)?;
        if asked.is_from_now() {
            // A copy that is behind would begin too early.
            shared.require_leader("watch")?;
        }
        let replies = asked.begin(shared, place).await?;
        Ok(Response::new(replies))
    }

    async fn open(
        &self,
        request: Request<wire::OpenRequest>,
    ) -> Result<Response<wire::SessionReply>, Status> {
        let shared = &self.shared;
        let (peer, _place) = shared.admit(&request)?;
        let ttl = Duration::from_millis(request.into_inner().ttl_ms);
        let open = OpenSession { owner: peer.node_id().clone(), ttl };
        open.check().map_err(|error| failures::of_session(&error))?;
        shared.require_leader("open a session")?;
        let session = shared.store.open_session(open).await.map_err(|error| failures::of_session(&error))?;
        shared.owners.remember(&session);
        Ok(session_reply(Some(&session)))
    }

    async fn keep_alive(
        &self,
        request: Request<wire::SessionRequest>,
    ) -> Result<Response<wire::SessionReply>, Status> {
        let shared = &self.shared;
        let (peer, _place) = shared.admit(&request)?;
        shared.require_leader("renew a session")?;
        let id = SessionId(request.into_inner().session);
        shared.own_session(id, &peer, "renew it").await?;
        match shared.store.keep_alive(id).await {
            Ok(session) => Ok(session_reply(Some(&session))),
            Err(error) => Err(shared.session_failed(&error)),
        }
    }

    async fn close(
        &self,
        request: Request<wire::SessionRequest>,
    ) -> Result<Response<wire::CloseReply>, Status> {
        let shared = &self.shared;
        let (peer, _place) = shared.admit(&request)?;
        shared.require_leader("close a session")?;
        let id = SessionId(request.into_inner().session);
        shared.own_session(id, &peer, "close it").await?;
        let closed = shared.store.close_session(id).await;
        shared.owners.forget(id);
        let revision = closed.map_err(|error| failures::of_session(&error))?;
        Ok(Response::new(wire::CloseReply { revision: revision.0 }))
    }

    async fn session(
        &self,
        request: Request<wire::SessionRequest>,
    ) -> Result<Response<wire::SessionReply>, Status> {
        let shared = &self.shared;
        let (_peer, _place) = shared.admit(&request)?;
        shared.require_leader("look a session up")?;
        let id = SessionId(request.into_inner().session);
        let found = shared.store.session(id).await.map_err(|error| failures::of_store(&error))?;
        Ok(session_reply(found.as_ref()))
    }

    async fn compact(
        &self,
        request: Request<wire::CompactRequest>,
    ) -> Result<Response<wire::CompactReply>, Status> {
        let shared = &self.shared;
        let (peer, _place) = shared.admit(&request)?;
        shared.allow(Access::operator(&peer, "compact the store's history"), &peer)?;
        shared.require_leader("compact")?;
        let through = Revision(request.into_inner().through);
        shared.store.compact(through).await.map_err(|error| failures::of_store(&error))?;
        shared
            .audit(&peer, "registry.compact", format!("history up to revision {through} is forgotten"))
            .await;
        Ok(Response::new(wire::CompactReply {}))
    }

    type SnapshotStream = Replies<wire::SnapshotPart>;

    async fn snapshot(
        &self,
        request: Request<wire::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let shared = &self.shared;
        let peer = shared.caller(&request)?;
        shared.allow(Access::keeper(&peer, "take a snapshot"), &peer)?;
        shared.require_leader("take a snapshot")?;
        let place = permit(&shared.transfers, TRANSFERS_MAX).inspect_err(|_| shared.counters.shed())?;
        let snapshot = shared.store.snapshot().await.map_err(|error| failures::of_store(&error))?;
        shared.audit(&peer, "registry.snapshot", "the whole store was read".to_owned()).await;
        Ok(Response::new(transfer::parts(snapshot, place)))
    }

    async fn restore(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::RestoreReply>, Status> {
        let shared = &self.shared;
        let peer = shared.caller(&request)?;
        shared.allow(Access::keeper(&peer, "restore a snapshot"), &peer)?;
        shared.require_leader("restore a snapshot")?;
        let _place = permit(&shared.transfers, TRANSFERS_MAX).inspect_err(|_| shared.counters.shed())?;
        let snapshot = transfer::pieces(request.into_inner());
        let restored = shared.store.restore(snapshot).await.map_err(|error| failures::of_store(&error))?;
        shared.owners.clear();
        let what = format!("the store is that of a snapshot since revision {}", restored.revision);
        shared.audit(&peer, "registry.restore", what).await;
        Ok(Response::new(wire::RestoreReply {
            revision: restored.revision.0,
            generation: restored.generation,
        }))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        let (_peer, _place) = self.shared.admit(&request)?;
        let status = self.shared.store.status().await.map_err(|error| failures::of_store(&error))?;
        Ok(Response::new(wire::StatusReply {
            revision: status.revision.0,
            compacted: status.compacted.0,
            generation: status.generation,
            leader: status.leader.map(|leader| leader.as_str().to_owned()).unwrap_or_default(),
            read_only: status.read_only.unwrap_or_default(),
            records: status.records,
            sessions: status.sessions,
            cluster: status.cluster,
        }))
    }

    async fn members(
        &self,
        request: Request<wire::MembersRequest>,
    ) -> Result<Response<wire::MembersReply>, Status> {
        let (_peer, _place) = self.shared.admit(&request)?;
        let Some(members) = &self.shared.members else {
            let (operation, provider) = ("tell who votes", "served");
            let reason = "no group of voters keeps it";
            return Err(failures::of_store(&StoreError::Unsupported { provider, operation, reason }));
        };
        let group = members.members().await.map_err(|error| failures::of_store(&error))?;
        Ok(Response::new(group.into()))
    }

    async fn witness(
        &self,
        request: Request<wire::WitnessRequest>,
    ) -> Result<Response<wire::WitnessReply>, Status> {
        let (_peer, _place) = self.shared.admit(&request)?;
        let witness = self.shared.quorum.as_ref().and_then(|quorum| quorum.witness());
        let Some(witness) = witness else {
            let (operation, provider) = ("tell what it promised", "served");
            let reason = "this node does not vote";
            return Err(failures::of_store(&StoreError::Unsupported { provider, operation, reason }));
        };
        Ok(Response::new(witness.into()))
    }
}

impl Shared {
    fn session_failed(&self, error: &SessionError) -> Status {
        if let SessionError::Gone { session } = error {
            self.owners.forget(*session);
        }
        failures::of_session(error)
    }

    /// Leaves an audit record of what an operator did. What was done stays done if that fails.
    async fn audit(&self, peer: &PeerIdentity, action: &'static str, reason: String) {
        let correlation_id = fastrand::u64(..);
        tracing::info!(peer_id = %peer.node_id(), action, reason, correlation_id = %format_args!("{correlation_id:016x}"), "an operator steers the store");
        let note = mesh_core::store::AuditNote { action: action.to_owned(), reason, correlation_id };
        let txn = mesh_core::store::Txn::new(peer.node_id().clone()).audited(note);
        if let Err(error) = self.store.transact(txn).await {
            tracing::warn!(action, %error, "the audit record could not be written");
        }
    }
}

#[cfg(test)]
mod tests;
