//! Nodes in this process, each with an identity, a port and a runtime of its own. They talk over QUIC with
//! mutual TLS, as real ones do.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream;
use mesh_core::{
    BoxError, InstanceId, Instant, Member, MemberEvents, MemberSnapshot, MemberState, Membership, NodeId,
    Role, Settings as _, SystemClock,
    store::{Key, Operation, SessionId, StoreError, Txn, TxnError, TxnOutcome, VersionedStore},
};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, Incoming, NodeSecret},
    rpc::{
        Channel, ChannelConfig, Channels, Lane, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer,
        ServerConfig, Target,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    LeaderHint, Leadership, RegistryConfig, RemoteConfig, RemoteStore, ServiceConfig, StoreService,
    VoterStore,
    raft::{Begin, Peers, RaftError, RaftOptions, RaftStore},
    wire::raft_client::RaftClient,
};

/// Far beyond what anything here takes, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            // sleeps: polls the condition itself
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

pub(crate) fn put(name: &str, value: impl Into<bytes::Bytes>, session: Option<SessionId>) -> Txn {
    let writer = "tester".parse().expect("a node id");
    Txn::new(writer).then(Operation::Put { key: key(name), value: value.into(), session })
}

/// What all nodes know of each other.
#[derive(Default)]
struct World {
    members: BTreeMap<NodeId, Member>,
    /// Nodes that nobody can talk to.
    cut: BTreeSet<NodeId>,
    /// Connections that a server has, with who is at their other end.
    connections: Vec<(NodeId, NodeId, Cut)>,
}

/// Breaks a connection.
type Cut = Box<dyn Fn() + Send>;

#[derive(Clone)]
pub(crate) struct Directory {
    world: Arc<Mutex<World>>,
    /// Where to find those who serve the store.
    targets: tokio::sync::watch::Sender<Arc<[Target]>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { world: Arc::default(), targets: tokio::sync::watch::Sender::new(Arc::new([])) }
    }
}

impl Directory {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let world = self.lock();
        let live = world.members.values().filter(|member| member.state.is_live());
        self.targets.send_replace(live.map(target).collect());
    }

    fn is_cut(&self, one: &NodeId, other: &NodeId) -> bool {
        let world = self.lock();
        world.cut.contains(one) || world.cut.contains(other)
    }
}

fn target(member: &Member) -> Target {
    Target { node_id: member.node_id.clone(), addresses: member.addresses.clone(), http3: Some(true) }
}

impl Membership for Directory {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::new(self.lock().members.values().cloned().map(Arc::new).collect())
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (self.snapshot(), Box::pin(stream::pending()))
    }
}

struct TestPeers {
    own: NodeId,
    directory: Directory,
    channels: Channels,
}

impl Peers for TestPeers {
    fn channel(&self, node: &NodeId, lane: Lane) -> Result<Channel, BoxError> {
        if self.directory.is_cut(&self.own, node) {
            return Err(format!("{node} is cut off").into());
        }
        let world = self.directory.lock();
        let member = world.members.get(node).filter(|member| member.state.is_live());
        let member = member.ok_or_else(|| format!("{node} is not there"))?;
        Ok(self.channels.open(target(member), lane))
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) store: RaftStore,
    /// The store as the node itself uses it.
    #[allow(dead_code, reason = "stories that need it come with more features")]
    pub(crate) own: VoterStore,
    endpoint: Endpoint,
    runtime: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.endpoint.close();
        self.store.die();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Nodes of one authority.
pub(crate) struct Cluster {
    ca: DevCa,
    pub(crate) folder: TempDir,
    pub(crate) config: RegistryConfig,
    directory: Directory,
    pub(crate) nodes: BTreeMap<String, Node>,
}

/// A port on the loopback interface, and channels from it.
fn port(identity: mesh_transport::Identity) -> (Endpoint, mesh_transport::rpc::EndpointGuard, Channels) {
    let config = TransportConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..TransportConfig::default() };
    let secret = NodeSecret::from_bytes([7; 32]);
    let endpoint = Endpoint::bind(config.validate().expect("valid"), identity, Some(secret)).expect("binds");
    let policy = PolicyConfig::default().validate().expect("valid");
    let guard = Policy::new(&policy, Arc::new(SystemClock)).endpoint(None, MESH).expect("there");
    let channel = ChannelConfig { retry_min: Duration::from_millis(100), ..ChannelConfig::default() };
    let metrics = RpcMetrics::new(endpoint.metrics().clone());
    let channels =
        Channels::new(Arc::new(endpoint.clone()), guard.clone(), channel.validate().expect("valid"), metrics);
    (endpoint, guard, channels)
}

fn id(name: &str) -> NodeId {
    name.parse().expect("a node id")
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut RegistryConfig)) -> Self {
        let mut config =
            RegistryConfig { voter_dead_after: Duration::from_secs(3), ..RegistryConfig::default() };
        change(&mut config);
        Self {
            ca: DevCa::new("example.org").expect("an authority"),
            folder: tempfile::tempdir().expect("a folder"),
            config,
            directory: Directory::default(),
            nodes: BTreeMap::new(),
        }
    }

    /// Three voters, the first of which began the group.
    pub(crate) async fn three() -> Self {
        Self::three_with(|_| {}).await
    }

    pub(crate) async fn three_with(change: impl FnOnce(&mut RegistryConfig)) -> Self {
        let mut cluster = Self::with(change);
        cluster.start("n1", Begin::NewGroup).await;
        cluster.start("n2", Begin::Wait).await;
        cluster.start("n3", Begin::Wait).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
        cluster
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn start(&mut self, name: &str, begin: Begin) {
        soon("the start of a node", async {
            loop {
                match self.try_start(name, begin).await {
                    // sleeps: the run before this one is still about to end, and tells nobody when
                    Err(RaftError::Lock(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                    started => return started.expect("the node starts"),
                }
            }
        })
        .await;
    }

    /// Starts a node on its data directory, on a new port.
    pub(crate) async fn try_start(&mut self, name: &str, begin: Begin) -> Result<(), RaftError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (node_id, directory) = (id(name), self.directory.clone());
        let identity = self.ca.identity("c", Role::CONTROL, name).expect("an identity");
        let options = (self.data(name), self.config.clone().validate().expect("valid"));
        let started = runtime.spawn(async move {
            let (endpoint, guard, channels) = port(identity);
            let metrics = RpcMetrics::new(endpoint.metrics().clone());
            let peers =
                TestPeers { own: node_id.clone(), directory: directory.clone(), channels: channels.clone() };
            let (folder, config) = options;
            let options = RaftOptions {
                directory: folder,
                node_id: node_id.clone(),
                config,
                clock: Arc::new(SystemClock),
                membership: Arc::new(directory.clone()),
                peers: Arc::new(peers),
            };
            let store = match RaftStore::start(options, begin).await {
                Ok(store) => store,
                Err(error) => {
                    endpoint.close();
                    return Err(error);
                }
            };
            let config = ServiceConfig::default().validate().expect("valid");
            let service = StoreService::with_group(Arc::new(store.clone()), config);
            let routes = service.add_to(store.mount(tonic::service::Routes::default())).prepare();
            let remote = RemoteConfig::default().validate().expect("valid");
            let remote = RemoteStore::new(channels, Arc::new(directory.targets.subscribe()), remote);
            let own = VoterStore::new(store.clone(), remote);
            let server =
                RpcServer::new(routes, guard, ServerConfig::default().validate().expect("valid"), metrics);
            let incoming = endpoint.rpc_incoming().expect("is new");
            tokio::spawn(serve(server, incoming, node_id, directory));
            Ok((store, own, endpoint))
        });
        let started = started.await.expect("no panic");
        let (store, own, endpoint) = match started {
            Ok(started) => started,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        self.announce(name, endpoint.local_address());
        self.nodes.insert(name.to_owned(), Node { store, own, endpoint, runtime: Some(runtime) });
        Ok(())
    }

    fn announce(&self, name: &str, address: SocketAddr) {
        let role = Role::new(Role::CONTROL).expect("a role");
        let mut member = Member::new(id(name), InstanceId(1), role, Instant::ZERO);
        member.addresses = vec![address];
        self.directory.lock().members.insert(id(name), member);
        self.directory.tell();
    }

    /// A client of the voters that is none itself. Call it inside a runtime.
    pub(crate) fn client(&self, role: &str, name: &str) -> RemoteStore {
        let (_, _, channels) = port(self.ca.identity("c", role, name).expect("an identity"));
        let config = RemoteConfig::default().validate().expect("valid");
        RemoteStore::new(channels, Arc::new(self.directory.targets.subscribe()), config)
    }

    /// Speaks to a voter as another voter would. Call it inside a runtime.
    pub(crate) fn raft_client(&self, role: &str, name: &str, to: &str) -> RaftClient<Channel> {
        let (_, _, channels) = port(self.ca.identity("c", role, name).expect("an identity"));
        let world = self.directory.lock();
        RaftClient::new(channels.open(target(&world.members[&id(to)]), Lane::Control))
    }

    /// Ends a node as the death of its process would.
    pub(crate) fn kill(&mut self, name: &str) {
        drop(self.nodes.remove(name).expect("it runs"));
        if let Some(member) = self.directory.lock().members.get_mut(&id(name)) {
            member.state = MemberState::Dead;
        }
        self.directory.tell();
    }

    /// Nobody can talk to this node any more, nor it to anybody.
    pub(crate) fn cut(&self, name: &str) {
        let mut world = self.directory.lock();
        let node = id(name);
        world.connections.retain(|(server, client, close)| {
            let ends = *server == node || *client == node;
            if ends {
                close();
            }
            !ends
        });
        world.cut.insert(node);
    }

    pub(crate) fn heal(&self, name: &str) {
        self.directory.lock().cut.remove(&id(name));
    }

    pub(crate) fn store(&self, name: &str) -> &RaftStore {
        &self.nodes.get(name).expect("it runs").store
    }

    /// Waits until these are the voters, as the leader sees it, and nobody else.
    pub(crate) async fn voters(&self, names: &[&str]) {
        let wanted: BTreeSet<NodeId> = names.iter().map(|name| id(name)).collect();
        until(&format!("{names:?} to be the voters"), || {
            self.leader_now().is_some_and(|leader| self.store(&leader).voters() == wanted)
        })
        .await;
    }

    /// The node that leads at the moment, by its own word and that of most.
    pub(crate) fn leader_now(&self) -> Option<String> {
        let leads = |(name, node): (&String, &Node)| {
            let world = self.directory.lock();
            (!world.cut.contains(&id(name)) && node.store.leadership() == Leadership::Here)
                .then(|| name.clone())
        };
        let leader = self.nodes.iter().find_map(leads)?;
        let agree = |(name, node): &(&String, &Node)| {
            **name == leader || node.store.leadership() == Leadership::There(id(&leader))
        };
        (self.nodes.iter().filter(agree).count() * 2 > self.nodes.len()).then_some(leader)
    }

    pub(crate) async fn leader(&self) -> String {
        let mut leader = None;
        until("a leader", || {
            leader = self.leader_now();
            leader.is_some()
        })
        .await;
        leader.expect("there is one")
    }

    pub(crate) async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.nodes.keys().find(|name| **name != leader).expect("another").clone()
    }

    /// Writes through whoever leads, for as long as it takes.
    pub(crate) async fn write(&self, txn: Txn) -> TxnOutcome {
        soon("a write", async {
            loop {
                let leader = self.leader().await;
                match self.store(&leader).transact(txn.clone()).await {
                    Ok(outcome) => return outcome,
                    Err(TxnError::Store(StoreError::Unavailable { .. } | StoreError::Timeout { .. })) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }

    /// The value at a key, read from a node as if it led.
    pub(crate) async fn read(&self, name: &str, at: &str) -> Option<bytes::Bytes> {
        let store = self.store(name);
        soon("a read", async {
            loop {
                match store.get(&key(at)).await {
                    Ok(fresh) => return fresh.value.map(|record| record.value),
                    Err(error) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }
}

type Server = RpcServer<tonic::service::Routes>;

/// Serves connections in tasks that can be cut one by one.
async fn serve(
    server: Server,
    mut incoming: tokio::sync::mpsc::Receiver<Incoming>,
    node: NodeId,
    directory: Directory,
) {
    while let Some(connection) = incoming.recv().await {
        // Streams have tasks of their own, and end with their connection only.
        let (peer, close): (_, Box<dyn Fn() + Send>) = match &connection {
            Incoming::Quic(connection) => {
                let quic = connection.connection().clone();
                (connection.peer().node_id().clone(), Box::new(move || quic.close(0_u32.into(), b"cut")))
            }
            Incoming::Tcp(stream) => (stream.peer().node_id().clone(), Box::new(|| ())),
            _ => continue,
        };
        if directory.is_cut(&node, &peer) {
            continue;
        }
        let server = server.clone();
        tokio::spawn(async move {
            // A connection that was cut ends with an error.
            let _ = server.serve_connection(connection).await;
        });
        directory.lock().connections.push((node.clone(), peer, close));
    }
}
