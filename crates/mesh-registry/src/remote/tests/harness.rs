//! Voters in this process, each with an identity and a port of its own, and clients of them.

use std::{
    future::Future,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use mesh_core::{
    NodeId, Settings as _, SystemClock,
    store::{
        ByteStream, Fresh, Key, OpenSession, Operation, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    rpc::{
        Channel, ChannelConfig, Channels, Lane, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer,
        ServerConfig, Target,
    },
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::{
    LeaderHint, Leadership, MemoryStore, RemoteConfig, RemoteStore, ServiceConfig, StoreService,
    service::REPLY_BYTES_MAX, wire::store_client::StoreClient,
};

/// Nothing on the loopback interface takes this long unless it hangs.
const GENEROUS: Duration = Duration::from_secs(30);

pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(GENEROUS, work).await.expect("did not happen within a generous time")
}

pub(crate) fn node(id: &str) -> NodeId {
    id.parse().expect("an id")
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

pub(crate) fn put(name: &str, value: impl Into<bytes::Bytes>) -> Txn {
    Txn::new(node("somebody-else")).then(Operation::Put {
        key: key(name),
        value: value.into(),
        session: None,
    })
}

/// Who issues the identities of one cluster.
pub(crate) struct World {
    ca: DevCa,
}

/// A node that serves a store.
pub(crate) struct Voter {
    endpoint: Endpoint,
    id: NodeId,
    serving: JoinHandle<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { ca: DevCa::new("example.org").expect("a CA") }
    }

    fn endpoint(&self, role: &str, id: &str) -> Endpoint {
        let config = TransportConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..TransportConfig::default() };
        let identity = self.ca.identity("c", role, id).expect("an identity");
        let secret = NodeSecret::from_bytes([id.len() as u8; 32]);
        Endpoint::bind(config.validate().expect("valid"), identity, Some(secret)).expect("binds")
    }

    pub(crate) fn voter(&self, id: &str, service: &StoreService) -> Voter {
        self.serve(id, service.add_to(tonic::service::Routes::default()))
    }

    /// A voter of the time before requests of many transactions.
    pub(crate) fn old_voter(&self, id: &str, service: &StoreService) -> Voter {
        let routes = service.add_to(tonic::service::Routes::default()).into_axum_router();
        let unknown = || async { tonic::Status::unimplemented("").into_http::<tonic::body::Body>() };
        let path = "/mesh.registry.v1.Store/TransactEach";
        let routes = axum::Router::new().route(path, axum::routing::any(unknown)).fallback_service(routes);
        self.serve(id, routes.into())
    }

    fn serve(&self, id: &str, routes: tonic::service::Routes) -> Voter {
        let endpoint = self.endpoint("control", id);
        let routes = routes.prepare();
        let config = ServerConfig::default().validate().expect("valid");
        let metrics = RpcMetrics::new(endpoint.metrics().clone());
        let server = RpcServer::new(routes, guard(), config, metrics);
        let incoming = endpoint.rpc_incoming().expect("is new");
        let serving = tokio::spawn(async move {
            // Connections are served in this task, so that they end with it, as with a process.
            let mut connections = tokio::task::JoinSet::new();
            let mut incoming = incoming;
            while let Some(connection) = incoming.recv().await {
                let server = server.clone();
                connections.spawn(async move { server.serve_connection(connection).await });
            }
        });
        Voter { endpoint, id: node(id), serving }
    }

    pub(crate) fn channels(&self, role: &str, id: &str) -> Channels {
        let endpoint = self.endpoint(role, id);
        let config = ChannelConfig { retry_min: Duration::from_millis(100), ..ChannelConfig::default() };
        let metrics = RpcMetrics::new(endpoint.metrics().clone());
        Channels::new(Arc::new(endpoint), guard(), config.validate().expect("valid"), metrics)
    }

    /// The provider, as a node with the role `worker`.
    pub(crate) fn remote(&self, id: &str, voters: &[&Voter]) -> RemoteStore {
        self.remote_as("worker", id, voters, RemoteConfig::default())
    }

    pub(crate) fn remote_as(
        &self,
        role: &str,
        id: &str,
        voters: &[&Voter],
        config: RemoteConfig,
    ) -> RemoteStore {
        let voters: Arc<[Target]> = voters.iter().map(|voter| voter.target()).collect();
        RemoteStore::new(self.channels(role, id), Arc::new(voters), config.validate().expect("valid"))
    }

    /// A bare client, for requests that the provider would not send.
    pub(crate) fn client(&self, role: &str, id: &str, voter: &Voter) -> StoreClient<Channel> {
        let channel = self.channels(role, id).open(voter.target(), Lane::Control);
        StoreClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
    }
}

impl Voter {
    pub(crate) fn target(&self) -> Target {
        Target::new(self.id.clone(), self.endpoint.local_address())
    }

    /// Ends it as the death of its process would: requests at work are dropped, the port is closed.
    pub(crate) fn kill(&self) {
        self.serving.abort();
        self.endpoint.close();
    }
}

impl Drop for Voter {
    fn drop(&mut self) {
        self.kill();
    }
}

fn guard() -> mesh_transport::rpc::EndpointGuard {
    let config = PolicyConfig::default().validate().expect("valid");
    Policy::new(&config, Arc::new(SystemClock)).endpoint(None, MESH).expect("is there")
}

pub(crate) fn service(store: impl VersionedStore) -> StoreService {
    service_with(store, ServiceConfig::default())
}

pub(crate) fn service_with(store: impl VersionedStore, config: ServiceConfig) -> StoreService {
    StoreService::new(Arc::new(store), config.validate().expect("valid"))
}

/// Who leads, as a test says.
#[derive(Clone)]
pub(crate) struct Says(Arc<Mutex<Leadership>>);

impl Says {
    pub(crate) fn new(leadership: Leadership) -> Self {
        Self(Arc::new(Mutex::new(leadership)))
    }

    pub(crate) fn set(&self, leadership: Leadership) {
        *self.0.lock().expect("not poisoned") = leadership;
    }

    pub(crate) fn serve(&self, store: impl VersionedStore) -> StoreService {
        self.serve_with(store, ServiceConfig::default())
    }

    pub(crate) fn serve_with(&self, store: impl VersionedStore, config: ServiceConfig) -> StoreService {
        let config = config.validate().expect("valid");
        StoreService::with_leader(Arc::new(store), Arc::new(self.clone()), config)
    }
}

impl LeaderHint for Says {
    fn leadership(&self) -> Leadership {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// Where transactions get stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    Nowhere,
    BeforeApplied,
    AfterApplied,
}

/// A store whose transactions can be held up.
#[derive(Clone)]
pub(crate) struct Holdable {
    pub(crate) inner: MemoryStore,
    stuck: Arc<watch::Sender<Stuck>>,
    /// A transaction got stuck.
    held: Arc<Notify>,
}

impl Holdable {
    pub(crate) fn new(inner: MemoryStore) -> Self {
        Self { inner, stuck: Arc::new(watch::Sender::new(Stuck::Nowhere)), held: Arc::default() }
    }

    pub(crate) fn hold(&self, stuck: Stuck) {
        self.stuck.send_replace(stuck);
    }

    pub(crate) async fn held(&self) {
        soon(self.held.notified()).await;
    }

    async fn pass(&self, here: Stuck) {
        let mut stuck = self.stuck.subscribe();
        if *stuck.borrow() == here {
            self.held.notify_one();
        }
        let _ = stuck.wait_for(|stuck| *stuck != here).await;
    }
}

#[async_trait]
impl VersionedStore for Holdable {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        self.inner.get(key).await
    }
    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        self.inner.get_stale(key).await
    }
    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        self.inner.scan(scan).await
    }
    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        self.inner.scan_stale(scan).await
    }
    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.pass(Stuck::BeforeApplied).await;
        let outcome = self.inner.transact(txn).await;
        self.pass(Stuck::AfterApplied).await;
        outcome
    }
    async fn watch(&self, p: &Prefix, from: WatchFrom, o: WatchOptions) -> Result<WatchStream, StoreError> {
        self.inner.watch(p, from, o).await
    }
    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        self.inner.open_session(request).await
    }
    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.inner.keep_alive(session).await
    }
    async fn close_session(&self, session: SessionId) -> Result<mesh_core::Revision, SessionError> {
        self.inner.close_session(session).await
    }
    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.inner.session(session).await
    }
    async fn compact(&self, through: mesh_core::Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }
    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.inner.snapshot().await
    }
    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        self.inner.restore(snapshot).await
    }
    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.inner.status().await
    }
}
