//! What a node is made of, and the order in which its parts start.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use mesh_core::{Clock, Membership, PeerIdentity, Role, Settings, SystemClock, Validated, fs::DirectoryLock};
use mesh_gossip::{Driver, DriverOptions, GossipConfig, GossipHandle, LocalNode};
use mesh_leader::{
    LeaderConfig, Leadership, Scope, ScopeConfig,
    rpc::{LeadershipService, leadership_server::LeadershipServer},
};
use mesh_registry::RegistryConfig;
#[cfg(feature = "sync")]
use mesh_sync::config::SyncConfig;
use mesh_transport::{
    Identity, TransportConfig, TransportMetrics,
    endpoint::{Endpoint, NodeSecret},
    identity::IdentitySource,
    links::Links,
    transcode::Descriptors,
};

#[cfg(feature = "sync")]
use super::sync::{Sync, SyncParts};
use super::{
    Node, NodeError,
    control::LeaveSwitch,
    edge::{self, EdgeParts, State},
    log, metadata,
    registry::{Registry, RegistryParts},
    rpc::Outgoing,
    startup,
};
use crate::config::{MeshConfig, NodeConfig};

/// Says what a node is to be.
#[derive(Clone, Default)]
#[must_use = "call `start` to run the node"]
pub struct NodeBuilder {
    config: MeshConfig,
    identity: IdentityFrom,
    clock: Option<Arc<dyn Clock>>,
    grpc: tonic::service::Routes,
    descriptors: Vec<Bytes>,
}

/// Where the node's identity comes from.
#[derive(Clone, Default)]
pub(super) enum IdentityFrom {
    /// The files that the settings name, or those in the data directory.
    #[default]
    Settings,
    Given(Identity),
    Source(Arc<dyn IdentitySource>),
}

/// Settings that were checked, section by section.
struct Checked {
    node: Validated<NodeConfig>,
    transport: Validated<TransportConfig>,
    gossip: Validated<GossipConfig>,
    registry: Validated<RegistryConfig>,
    leader: Validated<LeaderConfig>,
    #[cfg(feature = "sync")]
    sync: Validated<SyncConfig>,
}

impl NodeBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The settings. Default: [`MeshConfig::default`].
    pub fn config(mut self, config: MeshConfig) -> Self {
        self.config = config;
        self
    }

    /// An identity that the program keeps up to date itself, instead of files.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = IdentityFrom::Given(identity);
        self
    }

    /// Takes the identity from this source and follows its changes, instead of files.
    pub fn identity_source(mut self, source: Arc<dyn IdentitySource>) -> Self {
        self.identity = IdentityFrom::Source(source);
        self
    }

    /// Where the time comes from. Default: the system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// gRPC services for other nodes to call, beside the health protocol that every node
    /// answers. They are served over HTTP/3 and HTTP/2 on the node's port; handlers find
    /// the caller in the request's extensions, as
    /// [`PeerInfo`](mesh_transport::rpc::PeerInfo). Callers use [`Node::channel`].
    ///
    /// `routes` must not have `grpc.health.v1.Health` itself: [`start`](Self::start) would panic.
    pub fn grpc(mut self, routes: tonic::service::Routes) -> Self {
        self.grpc = routes;
        self
    }

    /// What the services of [`grpc`](Self::grpc) look like: an encoded
    /// `google.protobuf.FileDescriptorSet`, which generators write beside the code. Endpoints that
    /// serve JSON (`transport.endpoints.<name>.services`) need it; files with it can be named in
    /// the settings instead. May be called for each set that there is.
    pub fn grpc_descriptors(mut self, encoded: impl Into<Bytes>) -> Self {
        self.descriptors.push(encoded.into());
        self
    }

    /// Starts the node. It listens when this returns; [`Node::ready`] tells when it is a member.
    ///
    /// # Errors
    ///
    /// [`NodeError`] says what is in the way. Nothing is left running.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, and if the services given to [`grpc`](Self::grpc) have a
    /// health service of their own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn start(self) -> Result<Node, NodeError> {
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let control = self.config.control.clone();
        let config = check(self.config)?;
        let lock = startup::lock(&config.node.data_dir)?;
        let metrics = TransportMetrics::default();
        let found =
            startup::identity(self.identity, &config.node, &config.transport, metrics, &clock).await?;
        let local = found.identity.local();
        startup::check_identity(&config.node, &local)?;
        startup::check_validity(&local, &found.place, &*clock)?;

        let secret = NodeSecret::load_or_create(&startup::identity_folder(&config.node.data_dir)?)?;
        let edge_config = config.transport.edge.clone();
        let endpoint = Endpoint::bind(config.transport, found.identity.clone(), Some(secret))?;
        let address = startup::advertised(&endpoint)?;
        let links = Arc::new(Links::new(endpoint.clone())?);
        let mut descriptors = Descriptors::default();
        for encoded in &self.descriptors {
            descriptors.add(encoded)?;
        }
        let outgoing = Outgoing::new(&endpoint, Arc::clone(&clock))?;
        let channels = outgoing.channels().clone();
        let state: Arc<State> = Arc::default();
        let mut tasks = Vec::new();
        let http3 = endpoint.config().http3.enabled;
        let started =
            Started { node_config: &config.node, local: Arc::clone(&local), address, http3, clock: &clock };
        let mut gossip = None;
        let mut membership: Arc<dyn Membership> = Arc::new(startup::Nobody);
        if config.gossip.enabled {
            let handle = started.gossip(config.gossip, links, &lock).await?;
            membership = Arc::new(handle.clone());
            state.follow(handle.clone());
            let (_, events) = handle.subscribe();
            let logging = log::log_transitions(events, local.id.cluster.to_string());
            tasks.push(tokio::spawn(logging).abort_handle());
            gossip = Some(handle);
        }
        let mut registry = Registry::start(RegistryParts {
            config: config.registry,
            data_dir: &config.node.data_dir,
            local: &local,
            membership: Arc::clone(&membership),
            channels: channels.clone(),
            clock: Arc::clone(&clock),
        })
        .await?;
        #[cfg(feature = "sync")]
        let sync = Sync::start(SyncParts {
            config: config.sync,
            data_dir: &config.node.data_dir,
            local: &local,
            address,
            membership: Arc::clone(&membership),
            channels,
            clock: Arc::clone(&clock),
        })
        .await?;
        let leadership = registry.as_ref().map(|registry| {
            let store = Arc::clone(&registry.store);
            let node_id = local.id.node_id.clone();
            let config = with_global_control(config.leader, &local);
            Leadership::spawn(config, store, Arc::clone(&membership), Arc::clone(&clock), node_id)
        });
        if let (Some(registry), Some(leadership)) = (&mut registry, &leadership) {
            registry.reconcile(&local.id.node_id, leadership.clone(), Arc::clone(&clock));
        }
        let mut routes = self.grpc;
        if let Some(registry) = &registry {
            routes = registry.mount(routes);
        }
        if let Some(leadership) = &leadership {
            routes = routes.add_service(LeadershipServer::new(LeadershipService::new(leadership.clone())));
        }
        #[cfg(feature = "sync")]
        if let Some(sync) = &sync {
            routes = sync.mount(routes);
        }
        let (rpc, serving) = outgoing.serve(routes, descriptors).await?;
        tasks.extend(serving);
        let mut node = Node {
            identity: Arc::clone(&local),
            address,
            endpoint: endpoint.clone(),
            rpc,
            gossip,
            membership,
            registry,
            leadership,
            #[cfg(feature = "sync")]
            sync,
            edge: None,
            edge_address: None,
            source: found.source,
            leave_switch: LeaveSwitch::new(local.id.node_id.clone()),
            leave_timeout: config.node.leave_timeout,
            state,
            tasks,
            _watch: found.watch,
            _lock: lock,
        };
        node.tasks.push(node.rpc.follow(Arc::clone(&node.state)));
        let services = node.rpc.on_edge();
        if control.enabled || services.is_some() {
            let edge_config = edge_config.validate().map_err(NodeError::Settings)?;
            let pages = edge_config.page_limits();
            let parts = EdgeParts {
                control: control.enabled,
                services,
                config: edge_config,
                identity: endpoint.identity().clone(),
                membership: &node.membership,
                gossip: node.gossip.clone(),
                state: Arc::clone(&node.state),
                leave_switch: node.leave_switch.clone(),
                clock: Arc::clone(&clock),
                rpc_metrics: node.rpc.metrics().clone(),
                leadership: node.leadership.clone(),
                #[cfg(feature = "sync")]
                sync: node.sync.as_ref(),
                registry_metrics: node.registry.as_ref().map(Registry::metrics),
                registry_status: node.registry.as_ref().map(|registry| registry.status(node.id())),
                registry_whole: node.registry.as_ref().map(|registry| registry.whole(Arc::clone(&clock))),
                registry_members: node.registry.as_ref().map(|registry| registry.members(node.id())),
                registry_routes: node.registry.as_ref().and_then(|registry| registry.routes(pages)),
            };
            let server = edge::serve(parts).await?;
            node.edge_address = Some(server.local_addr());
            node.edge = Some(server);
        }
        if control.enabled {
            started.announce_edge(&node).await?;
        }
        tracing::info!(
            node_id = %node.id(),
            cluster_id = %node.identity.id.cluster,
            role = %node.identity.id.role,
            mesh = %node.address,
            edge = node.edge_address.map(tracing::field::display),
            mesh_version = metadata::MESH_VERSION,
            "the node listens"
        );
        Ok(node)
    }
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is known once the port is open.
struct Started<'s> {
    node_config: &'s NodeConfig,
    local: Arc<PeerIdentity>,
    address: SocketAddr,
    http3: bool,
    clock: &'s Arc<dyn Clock>,
}

impl Started<'_> {
    async fn gossip(
        &self,
        config: Validated<GossipConfig>,
        links: Arc<Links>,
        data_dir: &DirectoryLock,
    ) -> Result<GossipHandle, NodeError> {
        let addresses = vec![self.address];
        let metadata = metadata::well_known(self.node_config, &self.local, &addresses, None, self.http3);
        let local = LocalNode { identity: Arc::clone(&self.local), addresses, metadata };
        let options = DriverOptions {
            data_dir: Some(data_dir.path().join("gossip")),
            seed: None,
            clock: Arc::clone(self.clock),
        };
        Driver::spawn(config, local, links, options).await.map_err(NodeError::Gossip)
    }

    /// Tells the members where the control API is, now that its port is known.
    async fn announce_edge(&self, node: &Node) -> Result<(), NodeError> {
        let Some(gossip) = &node.gossip else { return Ok(()) };
        let addresses = [self.address];
        let metadata =
            metadata::well_known(self.node_config, &self.local, &addresses, node.edge_address, self.http3);
        for (key, value) in metadata.iter().filter(|(key, _)| *key == metadata::ENDPOINTS) {
            gossip.set_metadata(key, value).await.map_err(NodeError::Gossip)?;
        }
        Ok(())
    }
}

/// Nodes that may carry control state campaign for the scope that steers the cluster, unless the settings
/// say otherwise of it.
fn with_global_control(config: Validated<LeaderConfig>, local: &PeerIdentity) -> Validated<LeaderConfig> {
    let known = config.scopes.iter().any(|scope| scope.name == Scope::GLOBAL_CONTROL);
    if known || local.role().as_str() != Role::CONTROL {
        return config;
    }
    let mut with = config.clone().into_inner();
    with.scopes.push(ScopeConfig { name: Scope::GLOBAL_CONTROL.to_owned(), ..ScopeConfig::default() });
    // One campaign more may be one too many; the settings are right as they are then.
    with.validate().unwrap_or(config)
}

/// Checks all sections, so that all problems are told at once.
fn check(config: MeshConfig) -> Result<Checked, NodeError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(NodeError::Settings(problems));
    }
    #[cfg(feature = "sync")]
    let sync = config.sync.validate().map_err(NodeError::Settings)?;
    let MeshConfig { node, transport, gossip, registry, leader, .. } = config;
    Ok(Checked {
        node: node.validate().map_err(NodeError::Settings)?,
        transport: transport.validate().map_err(NodeError::Settings)?,
        gossip: gossip.validate().map_err(NodeError::Settings)?,
        registry: registry.validate().map_err(NodeError::Settings)?,
        leader: leader.validate().map_err(NodeError::Settings)?,
        #[cfg(feature = "sync")]
        sync,
    })
}
