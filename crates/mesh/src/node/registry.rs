//! The node's part in the registry: a voter on nodes with the role `control`, a client on all others.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use mesh_core::{
    BoxError, Clock, MemberChange, MemberEvent, MemberSnapshot, Membership, NodeId, PeerIdentity, Role,
    SettingError, Settings, Validated,
    store::{StoreError, VersionedStore},
};
use mesh_leader::Leadership;
use mesh_registry::{
    Provider, RegistryConfig, RemoteStore, StoreService, VoterStore,
    api::{
        Elsewhere, Keeper, MembersOptions, RegistryOptions, RestoreOptions, SnapshotOptions, StatusOptions,
    },
    members::{GroupMembers, Members},
    metrics::MetricSources,
    numbers::{Gauges, StoreNumbers},
    raft::{Begin, Peers, RaftError, RaftOptions, RaftStore, repair::BEGIN_FROM},
    reconcile::{ReconcileConfig, Reconciler, ReconcilerOptions, Retention},
};
use mesh_transport::{
    edge::PageLimits,
    rpc::{Channel, Channels, Lane, Target},
};
use tokio::{sync::watch, task::AbortHandle};
use tonic::service::Routes;

use super::{
    NodeError,
    caches::LeadershipCache,
    metadata,
    rpc::{self, target},
};

/// The folder of the registry in a data directory.
pub(super) const FOLDER: &str = "registry";
/// The folder of snapshots that operators send, until they are restored.
const RESTORES: &str = "registry-restores";
/// A file in it that lets the node begin a new registry. It goes once there is one.
const FOUNDER: &str = "founder";
const FOUNDER_TEXT: &str =
    "This node begins the cluster's registry at its next start, unless it belongs to one.\n";

/// Lets the node whose data directory this is begin the cluster's registry at its next start. One node of a
/// cluster does so, once; the others are taken in.
///
/// # Errors
///
/// [`NodeError::DataDirectory`] if nothing can be written there.
pub fn found_cluster(data_dir: &Path) -> Result<(), NodeError> {
    let folder = data_dir.join(FOLDER);
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(founder(data_dir), FOUNDER_TEXT));
    written.map_err(|source| NodeError::DataDirectory { path: folder, source })
}

fn founder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER).join(FOUNDER)
}

/// What the registry needs of the node.
pub(super) struct RegistryParts<'p> {
    pub(super) config: Validated<RegistryConfig>,
    pub(super) data_dir: &'p Path,
    pub(super) local: &'p PeerIdentity,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) channels: Channels,
    pub(super) clock: Arc<dyn Clock>,
}

/// The registry as this node has it.
pub(super) struct Registry {
    pub(super) store: Arc<dyn VersionedStore>,
    pub(super) raft: Option<RaftStore>,
    service: Option<StoreService>,
    /// `None` where no nodes of the cluster keep the store.
    remote: Option<RemoteStore>,
    members: Arc<dyn Members>,
    membership: Arc<dyn Membership>,
    reconciler: Option<Arc<Reconciler>>,
    reconcile_config: Validated<ReconcileConfig>,
    /// How long history and audit are kept, where every node sees to that.
    retention: Option<Retention>,
    restores: PathBuf,
    pub(super) tasks: Vec<AbortHandle>,
}

/// Channels to wherever membership says that a node is.
struct ByMembership {
    membership: Arc<dyn Membership>,
    channels: Channels,
    /// The last one of each kind: a connection lasts as long as somebody has a channel on it, and voters
    /// talk many times a second. No more than there are nodes that voted.
    kept: Mutex<BTreeMap<(NodeId, Lane), Channel>>,
}

impl Peers for ByMembership {
    fn channel(&self, node: &NodeId, lane: Lane) -> Result<Channel, BoxError> {
        let channel = rpc::channel(&self.channels, &self.membership.snapshot(), node, lane)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert((node.clone(), lane), channel.clone());
        Ok(channel)
    }
}

impl Registry {
    /// Starts this node's part; `None` if the settings want none.
    pub(super) async fn start(parts: RegistryParts<'_>) -> Result<Option<Self>, NodeError> {
        match parts.config.provider {
            Provider::Off => return Ok(None),
            Provider::Voters => {}
            // Boxed: the clients of other engines make deep futures, and few nodes have one.
            provider => return Box::pin(Self::elsewhere_kept(provider, parts)).await.map(Some),
        }
        let remote_config = parts.config.remote.clone().validate().map_err(NodeError::Settings)?;
        let reconcile_config = parts.config.reconcile.clone().validate().map_err(NodeError::Settings)?;
        let own = parts.local.node_id().clone();
        let (sender, voters) = watch::channel(candidates(&parts.membership.snapshot(), &own));
        let remote = RemoteStore::new(parts.channels.clone(), Arc::new(voters), remote_config);
        let following = follow(Arc::clone(&parts.membership), own, sender, remote.clone());
        let tasks = vec![tokio::spawn(following).abort_handle()];
        let membership = Arc::clone(&parts.membership);
        let restores = parts.data_dir.join(RESTORES);
        if parts.local.role().as_str() != Role::CONTROL {
            let store = Arc::new(remote.clone());
            return Ok(Some(Self {
                store: Arc::clone(&store) as _,
                raft: None,
                service: None,
                remote: Some(remote),
                members: store,
                membership,
                reconciler: None,
                reconcile_config,
                retention: None,
                restores,
                tasks,
            }));
        }
        let service_config = parts.config.service.clone().validate().map_err(NodeError::Settings)?;
        let raft = voter(parts).await?;
        let service = StoreService::with_group(Arc::new(raft.clone()), service_config);
        let store = Arc::new(VoterStore::new(raft.clone(), remote.clone()));
        Ok(Some(Self {
            store: Arc::clone(&store) as _,
            raft: Some(raft),
            service: Some(service),
            remote: Some(remote),
            members: store,
            membership,
            reconciler: None,
            reconcile_config,
            // The leader among the voters sees to it.
            retention: None,
            restores,
            tasks,
        }))
    }

    /// A registry that no nodes of the cluster keep.
    async fn elsewhere_kept(provider: Provider, parts: RegistryParts<'_>) -> Result<Self, NodeError> {
        let store = external(provider, &parts.config, &parts.clock).await?;
        let config = &parts.config;
        Ok(Self {
            store,
            raft: None,
            service: None,
            remote: None,
            members: Arc::new(NoGroup(provider.as_str())),
            membership: parts.membership,
            reconciler: None,
            reconcile_config: config.reconcile.clone().validate().map_err(NodeError::Settings)?,
            // Nobody leads among them; it does no harm if several do it.
            retention: Some(Retention { history: config.history_retention, audit: config.audit_retention }),
            restores: parts.data_dir.join(RESTORES),
            tasks: Vec::new(),
        })
    }

    /// Compares what this node remembers with the store from here on.
    pub(super) fn reconcile(&mut self, local: &NodeId, leadership: Leadership, clock: Arc<dyn Clock>) {
        self.reconciler = Some(Arc::new(Reconciler::start(ReconcilerOptions {
            store: Arc::clone(&self.store),
            caches: vec![Arc::new(LeadershipCache(leadership))],
            local: local.clone(),
            config: self.reconcile_config.clone(),
            retention: self.retention,
            clock,
        })));
    }

    /// The routes with what this node serves to others.
    pub(super) fn mount(&self, routes: Routes) -> Routes {
        let routes = match &self.raft {
            Some(raft) => raft.mount(routes),
            None => routes,
        };
        match &self.service {
            Some(service) => service.add_to(routes),
            None => routes,
        }
    }

    /// What the control API tells of it.
    pub(super) fn status(&self, observer: &NodeId) -> StatusOptions {
        let raft = self.raft.clone();
        let voters = move || raft.iter().flat_map(RaftStore::voters).collect();
        StatusOptions { observer: observer.clone(), store: Arc::clone(&self.store), voters: Arc::new(voters) }
    }

    /// What the control API tells of those who vote.
    pub(super) fn members(&self, observer: &NodeId) -> MembersOptions {
        let (members, membership) = (Arc::clone(&self.members), Arc::clone(&self.membership));
        MembersOptions { observer: observer.clone(), members, membership }
    }

    /// The whole store, for operators.
    pub(super) fn whole(&self, clock: Arc<dyn Clock>) -> (SnapshotOptions, RestoreOptions) {
        let elsewhere = self.elsewhere();
        let store = Arc::clone(&self.store);
        let snapshot = SnapshotOptions { store: Arc::clone(&store), elsewhere: Arc::clone(&elsewhere) };
        (snapshot, RestoreOptions { store, elsewhere, folder: self.restores.clone(), clock })
    }

    /// Nodes that may vote answer themselves; others name those, the leader first.
    fn elsewhere(&self) -> Elsewhere {
        let (None, Some(remote)) = (&self.raft, self.remote.clone()) else { return Arc::new(|| None) };
        let membership = Arc::clone(&self.membership);
        Arc::new(move || {
            let leader = remote.leader();
            let members = membership.snapshot();
            let control = members.alive().filter(|member| member.role.as_str() == Role::CONTROL);
            let mut keepers: Vec<Keeper> = control
                .map(|member| Keeper { node_id: member.node_id.clone(), edge: metadata::edge(member) })
                .collect();
            keepers.sort_by_key(|keeper| Some(&keeper.node_id) != leader.as_ref());
            Some(keepers)
        })
    }

    /// What the control API tells of differences and of what was done.
    pub(super) fn routes(&self, pages: PageLimits) -> Option<RegistryOptions> {
        let reconciler = Arc::clone(self.reconciler.as_ref()?);
        Some(RegistryOptions { reconciler, store: Arc::clone(&self.store), pages })
    }

    /// Its numbers.
    pub(super) fn metrics(&self) -> MetricSources {
        let numbers = Numbers {
            raft: self.raft.clone(),
            remote: self.remote.clone(),
            reconciler: self.reconciler.clone(),
        };
        let mut sources = MetricSources::new(Arc::new(numbers));
        if let Some(remote) = &self.remote {
            sources = sources.remote(remote.counters());
        }
        if let Some(reconciler) = &self.reconciler {
            sources = sources.reconciler(reconciler.counters());
        }
        match &self.service {
            Some(service) => sources.service(service.counters()),
            None => sources,
        }
    }
}

/// The numbers of whatever this node has of the store.
struct Numbers {
    raft: Option<RaftStore>,
    remote: Option<RemoteStore>,
    reconciler: Option<Arc<Reconciler>>,
}

impl Gauges for Numbers {
    fn numbers(&self) -> StoreNumbers {
        if let Some(raft) = self.raft.as_ref().filter(|raft| raft.group().is_some()) {
            return raft.numbers();
        }
        let seen = self.reconciler.as_ref().map(|reconciler| reconciler.state_diff());
        // A node without a copy knows how far the store was when it last looked.
        let seen = seen.filter(|diff| diff.looked_at.is_some());
        let revision = seen.as_ref().map(|diff| diff.revision.0);
        match &self.remote {
            Some(remote) => StoreNumbers { revision, ..remote.numbers() },
            None => {
                let quorum = seen.map(|diff| diff.failures.is_empty());
                StoreNumbers { revision, quorum, ..StoreNumbers::default() }
            }
        }
    }
}

/// There is no group of voters: the name of the provider that has none.
struct NoGroup(&'static str);

#[tonic::async_trait]
impl Members for NoGroup {
    async fn members(&self) -> Result<GroupMembers, StoreError> {
        let (provider, operation) = (self.0, "tell who votes");
        let reason = "no nodes of this cluster keep the store; ask it with its own tools";
        Err(StoreError::Unsupported { provider, operation, reason })
    }
}

/// Opens the store of a provider that is there already.
#[cfg_attr(
    not(any(feature = "etcd", feature = "postgres")),
    allow(unused_variables, clippy::unused_async, reason = "each provider is a feature")
)]
async fn external(
    provider: Provider,
    config: &RegistryConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn VersionedStore>, NodeError> {
    #[cfg(any(feature = "etcd", feature = "postgres"))]
    let failed = |source| NodeError::Store { provider: provider.as_str(), source };
    match provider {
        #[cfg(feature = "etcd")]
        Provider::Etcd => {
            let config = config.etcd.clone().validate().map_err(NodeError::Settings)?;
            let store = mesh_registry::etcd::EtcdStore::with_clock(config, Arc::clone(clock)).await;
            Ok(Arc::new(store.map_err(failed)?))
        }
        #[cfg(feature = "postgres")]
        Provider::Postgres => {
            let config = config.postgres.clone().validate().map_err(NodeError::Settings)?;
            let store = mesh_registry::postgres::PostgresStore::with_clock(config, Arc::clone(clock)).await;
            Ok(Arc::new(store.map_err(failed)?))
        }
        other => {
            let name = other.as_str();
            let rule = format!("is not in this build; build with --features {name}");
            Err(NodeError::Settings(vec![SettingError::new("registry.provider", name, rule)]))
        }
    }
}

/// Opens the voter's directory, or begins a registry if this node is to.
async fn voter(parts: RegistryParts<'_>) -> Result<RaftStore, NodeError> {
    let founder = founder(parts.data_dir);
    let founds = founder.exists();
    let folder = parts.data_dir.join(FOLDER);
    let snapshot = folder.join(BEGIN_FROM);
    let options = RaftOptions {
        directory: folder,
        node_id: parts.local.node_id().clone(),
        config: parts.config,
        clock: parts.clock,
        membership: Arc::clone(&parts.membership),
        peers: Arc::new(ByMembership {
            membership: parts.membership,
            channels: parts.channels,
            kept: Mutex::default(),
        }),
    };
    let begin = match founds {
        true if snapshot.exists() => Begin::FromSnapshot,
        true => Begin::NewGroup,
        false => Begin::Wait,
    };
    let raft = RaftStore::start(options, begin).await.map_err(NodeError::Registry)?;
    if founds && raft.group().is_some() {
        // Left behind it would do nothing while the group is there.
        let _ = fs::remove_file(founder).and_then(|()| fs::remove_file(snapshot));
    }
    Ok(raft)
}

/// The nodes that may vote, and are reached over the network.
fn candidates(members: &MemberSnapshot, own: &NodeId) -> Arc<[Target]> {
    let members = members.all().filter(|m| m.role.as_str() == Role::CONTROL && m.node_id != *own);
    members.filter_map(|member| target(member).ok()).collect()
}

/// Keeps the list of those who may vote up to date, and tells the client who is gone.
async fn follow(
    membership: Arc<dyn Membership>,
    own: NodeId,
    voters: watch::Sender<Arc<[Target]>>,
    client: RemoteStore,
) {
    let (_, mut events) = membership.subscribe();
    loop {
        let now = candidates(&membership.snapshot(), &own);
        voters.send_if_modified(|known| {
            let changed = known.len() != now.len()
                || known
                    .iter()
                    .zip(&*now)
                    .any(|(a, b)| (&a.node_id, &a.addresses, a.http3) != (&b.node_id, &b.addresses, b.http3));
            if changed {
                *known = now;
            }
            changed
        });
        let Some(event) = events.next().await else { return };
        if let MemberEvent::Changed { change: MemberChange::Died | MemberChange::Left, member, .. } = event {
            client.lost(&member.node_id);
        }
    }
}

/// The error of a registry that had to stop.
pub(super) async fn failed(registry: &Registry) -> Arc<RaftError> {
    match &registry.raft {
        Some(raft) => raft.failed().await,
        None => std::future::pending().await,
    }
}
