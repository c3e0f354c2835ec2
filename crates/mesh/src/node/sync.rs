//! The node's datasets: an engine with its stores, told who is in the cluster.

use std::{fs::DirBuilder, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    BoxError, Clock, InstanceId, Member, MemberSnapshot, Membership, NodeId, PeerIdentity, Validated,
    VersionRange,
    fs::{FileError, Format, read, replace},
};
use mesh_sync::{
    blob::FolderChunks,
    config::SyncConfig,
    engine::{Engine, EngineOptions, PeerAddress, SyncHandle, SyncHealth},
    entry::AuthorKey,
    replica::ReplicaConfig,
    rpc::{GrpcCarrier, SyncService},
    store::{FjallOptions, FjallStore},
    ticket::TicketPeer,
};
use mesh_transport::{
    edge::{EdgeConfig, EdgeMetrics, Readiness, ReadinessReason},
    rpc::Channels,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_blocking},
};
use tonic::service::Routes;

use super::NodeError;

/// The folder of all datasets in a data directory.
const FOLDER: &str = "sync";
/// The key that this node signs entries with.
const KEY: &str = "author.key";
const STORE: &str = "store";
const CHUNKS: &str = "chunks";
/// How addresses of the node's port are named in tickets.
const TRANSPORT: &str = "grpc";

/// Between two looks of how sync stands, for probes.
const LOOK: Duration = Duration::from_secs(1);

const KEY_FORMAT: Format = Format {
    kind: *b"SAUT",
    versions: VersionRange::new(1, 1),
    bytes_max: 32,
    repair: "restore it from a backup; without one, stop the node and remove the folder `sync` of its data directory, \
             and retire the old key's peer entry: mesh sync retire",
};

/// What sync needs of the node.
pub(super) struct SyncParts<'p> {
    pub(super) config: Validated<SyncConfig>,
    pub(super) data_dir: &'p Path,
    pub(super) local: &'p PeerIdentity,
    pub(super) address: SocketAddr,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) channels: Channels,
    pub(super) clock: Arc<dyn Clock>,
}

/// Sync as this node has it.
pub(super) struct Sync {
    /// `None` once it was stopped.
    engine: Option<Engine>,
    handle: SyncHandle,
    lag_degraded: Duration,
    instance: InstanceId,
    /// How it stood when it was last looked at.
    state: watch::Receiver<Looked>,
    tasks: [AbortHandle; 2],
}

/// What probes are told, who can't wait.
#[derive(Default)]
struct Looked {
    health: SyncHealth,
    problems: Vec<String>,
}

impl Sync {
    /// Starts the engine; `None` if the settings want none, or if there is nothing to sync.
    pub(super) async fn start(parts: SyncParts<'_>) -> Result<Option<Self>, NodeError> {
        let folder = parts.data_dir.join(FOLDER);
        // A store that is there may have datasets that were joined with a ticket.
        if !parts.config.enabled || (parts.config.datasets.is_empty() && !folder.join(STORE).exists()) {
            return Ok(None);
        }
        let lag_degraded = parts.config.lag_degraded;
        let opened = spawn_blocking(move || open(&folder)).await;
        let Opened { key, stores, chunks } =
            opened.map_err(|error| NodeError::SyncFiles(std::io::Error::other(error).into()))??;
        let mut seed = [0; 32];
        random(&mut seed);
        let mut instance = [0; 8];
        random(&mut instance);
        let membership = Arc::clone(&parts.membership);
        let engine = Engine::start(EngineOptions {
            local: parts.local.node_id().clone(),
            cluster: parts.local.id.cluster.clone(),
            config: parts.config,
            author: key,
            stores: Arc::new(stores),
            chunks: Arc::new(chunks),
            clock: parts.clock,
            carrier: Arc::new(GrpcCarrier::new(parts.channels)),
            addresses: TicketPeer::new(TRANSPORT, &parts.address.to_string()).into_iter().collect(),
            seed,
            replica: ReplicaConfig::default(),
        });
        let engine = engine.await.map_err(NodeError::Sync)?;
        let handle = engine.handle();
        let following = follow(membership, parts.local.node_id().clone(), handle.clone());
        let (looked, state) = watch::channel(Looked::default());
        let looking = look(handle.clone(), looked);
        let tasks = [tokio::spawn(following).abort_handle(), tokio::spawn(looking).abort_handle()];
        tracing::info!(
            node_id = %handle.local(),
            author = %handle.author(),
            datasets = handle.datasets().len(),
            "datasets are kept"
        );
        let instance = InstanceId(u64::from_le_bytes(instance));
        Ok(Some(Self { engine: Some(engine), handle, lag_degraded, instance, state, tasks }))
    }

    pub(super) fn handle(&self) -> &SyncHandle {
        &self.handle
    }

    /// What the control API tells of it.
    pub(super) fn routes(
        &self,
        config: &Validated<EdgeConfig>,
        metrics: &EdgeMetrics,
    ) -> mesh_sync::api::SyncOptions {
        mesh_sync::api::SyncOptions {
            sync: self.handle.clone(),
            lag_degraded: self.lag_degraded,
            instance: self.instance,
            pages: config.page_limits(),
            hub: config.hub_limits(),
            metrics: metrics.clone(),
        }
    }

    /// Readiness with what should be known of sync.
    pub(super) fn warning(
        &self,
        ready: impl Fn() -> Readiness + Send + std::marker::Sync + 'static,
    ) -> Arc<dyn Fn() -> Readiness + Send + std::marker::Sync> {
        let state = self.state.clone();
        Arc::new(move || {
            let state = state.borrow();
            warn(ready(), state.health, &state.problems)
        })
    }

    /// The routes with what this node serves to its peers.
    pub(super) fn mount(&self, routes: Routes) -> Routes {
        routes.add_service(SyncService::new(self.handle.handler()).into_server())
    }

    /// Finishes what is under way and lets go of the stores, within a time.
    pub(super) async fn stop(&mut self, patience: Duration) {
        self.tasks.iter().for_each(AbortHandle::abort);
        let Some(engine) = self.engine.take() else { return };
        if tokio::time::timeout(patience, engine.shutdown()).await.is_err() {
            tracing::warn!(?patience, "sync did not stop in time; what it has acknowledged is durable");
        }
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Opened {
    key: AuthorKey,
    stores: FjallStore,
    chunks: FolderChunks,
}

/// Opens the files, or makes them. Blocks for as long as the disk takes.
fn open(folder: &Path) -> Result<Opened, NodeError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.create(folder);
    made.map_err(|source| NodeError::DataDirectory { path: folder.to_owned(), source })?;
    // The key first: a store whose entries nobody can sign any more would be of little use.
    let key = author_key(&folder.join(KEY))?;
    let failed = |error: BoxError| NodeError::SyncFiles(error);
    let stores = FjallStore::in_folder(folder.join(STORE), FjallOptions::default());
    let stores = stores.map_err(|error| failed(error.into()))?;
    let chunks = FolderChunks::open(&folder.join(CHUNKS)).map_err(|error| failed(error.into()))?;
    Ok(Opened { key, stores, chunks })
}

/// Reads the key that this node signs entries with, or makes one that nobody has had before.
fn author_key(path: &Path) -> Result<AuthorKey, FileError> {
    if let Some(contents) = read(path, KEY_FORMAT)? {
        let seed: Result<[u8; 32], Vec<u8>> = contents.body.try_into();
        return seed.map(AuthorKey::from_seed).map_err(|body| FileError::Damaged {
            path: path.to_owned(),
            problem: format!("it holds {} bytes, expected 32", body.len()),
            repair: KEY_FORMAT.repair,
        });
    }
    let mut seed = [0; 32];
    random(&mut seed);
    replace(path, KEY_FORMAT, &seed)?;
    Ok(AuthorKey::from_seed(seed))
}

fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
}

/// Tells the engine who is in the cluster, and where, for as long as membership lasts.
async fn follow(membership: Arc<dyn Membership>, own: NodeId, sync: SyncHandle) {
    let (_, mut events) = membership.subscribe();
    let mut told = None;
    loop {
        let now = peers(&membership.snapshot(), &own);
        if told.as_ref() != Some(&now) {
            sync.set_peers(now.clone());
            told = Some(now);
        }
        if events.next().await.is_none() {
            return;
        }
    }
}

/// Looks how sync stands, for as long as somebody wants to know.
async fn look(sync: SyncHandle, looked: watch::Sender<Looked>) {
    while !looked.is_closed() {
        let status = sync.status().await;
        looked.send_replace(Looked { health: status.health, problems: status.problems });
        tokio::time::sleep(LOOK).await;
    }
}

/// Everybody who may be reached. Those who are gone stay peers; only where they are is not known.
fn peers(members: &MemberSnapshot, own: &NodeId) -> Vec<PeerAddress> {
    let others = members.all().filter(|member| member.state.is_live() && member.node_id != *own);
    let peer = |member: &Arc<Member>| PeerAddress {
        peer: member.node_id.clone(),
        addresses: member.addresses.iter().map(ToString::to_string).collect(),
    };
    others.map(peer).collect()
}

/// What people and probes should know of sync. None of it makes the node unfit for other work: a peer that is away for
/// days is no fault of those that are there.
pub(super) fn warn(readiness: Readiness, health: SyncHealth, problems: &[String]) -> Readiness {
    let (code, action) = match health {
        SyncHealth::Ok => return readiness,
        SyncHealth::Degraded => ("sync.degraded", "see who is behind: mesh sync peers"),
        SyncHealth::Unhealthy => {
            ("sync.unhealthy", "see who is behind: mesh sync peers; retire peers that are gone for good")
        }
    };
    readiness.with_warning(ReadinessReason {
        code: code.into(),
        detail: problems.join("; "),
        action: action.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_outlives_the_process_and_damage_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(KEY);
        let first = author_key(&path).expect("made");
        assert_eq!(author_key(&path).expect("read").id(), first.id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "for its owner alone");
        }
        std::fs::write(&path, b"MESHFILE but not really, and long enough for a header").expect("written");
        let error = author_key(&path).expect_err("damaged").to_string();
        assert!(error.contains("author.key") && error.contains("backup"), "{error}");
    }

    #[test]
    fn lag_is_told_and_keeps_nobody_from_using_the_node() {
        let ready = warn(Readiness::from_reasons(Vec::new()), SyncHealth::Unhealthy, &["n-2 is away".into()]);
        assert!(ready.ready && ready.reasons.is_empty());
        assert_eq!(ready.warnings[0].code, "sync.unhealthy");
        assert!(warn(ready.clone(), SyncHealth::Ok, &[]).warnings.len() == 1);
    }
}
