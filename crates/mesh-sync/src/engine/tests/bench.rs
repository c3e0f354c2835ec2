//! Engines of one process, and ways to wait for what they come to.

use std::{sync::Arc, time::Duration};

use mesh_core::{ClusterName, NodeId, Settings as _, SystemClock};

use crate::{
    blob::{ChunkStore, MemoryChunks},
    config::{Access, DatasetConfig, SyncConfig},
    engine::{Carrier, Engine, EngineOptions, PeerAddress, SyncHandle},
    entry::{AuthorKey, Collection, DatasetId},
    memory::MemoryNetwork,
    replica::ReplicaConfig,
    store::{Datasets, MemoryStore},
    ticket::TicketPeer,
};

/// Nothing here takes this long unless it hangs.
pub(crate) const GENEROUS: Duration = Duration::from_secs(30);

pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(GENEROUS, work).await.expect("did not happen within a generous time")
}

/// Polls until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    soon(async {
        while !condition().await {
            // sleeps: polls the condition itself
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::new(format!("n{number}")).expect("valid")
}

pub(crate) fn notes() -> DatasetId {
    DatasetId::new("notes").expect("valid")
}

pub(crate) fn list() -> Collection {
    Collection::new("list").expect("valid")
}

pub(crate) fn key(number: u8) -> AuthorKey {
    AuthorKey::from_seed([number; 32])
}

pub(crate) fn dataset(access: Access) -> DatasetConfig {
    DatasetConfig { name: "notes".into(), access, ..DatasetConfig::default() }
}

/// Settings with which a test need not wait for long.
pub(crate) fn config(access: Access) -> SyncConfig {
    SyncConfig {
        datasets: vec![dataset(access)],
        check_interval: Duration::from_millis(50),
        pruners: vec![key(1).id().to_string()],
        prune_interval: Duration::ZERO,
        ..SyncConfig::default()
    }
}

/// What survives an engine.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) stores: Arc<dyn Datasets>,
    pub(crate) chunks: Arc<dyn ChunkStore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { stores: Arc::new(MemoryStore::in_memory()), chunks: Arc::new(MemoryChunks::default()) }
    }
}

pub(crate) fn options(
    number: u8,
    carrier: Arc<dyn Carrier>,
    config: SyncConfig,
    disk: &Disk,
) -> EngineOptions {
    #[expect(clippy::disallowed_methods, reason = "each start needs another seed")]
    let mut rng = fastrand::Rng::new();
    EngineOptions {
        local: node(number),
        cluster: ClusterName::new("test").expect("valid"),
        config: config.validate().expect("valid"),
        author: key(number),
        stores: Arc::clone(&disk.stores),
        chunks: Arc::clone(&disk.chunks),
        clock: Arc::new(SystemClock),
        addresses: vec![TicketPeer::new(carrier.name(), &format!("n{number}.test:1")).expect("valid")],
        carrier,
        seed: std::array::from_fn(|_| rng.u8(..)),
        replica: ReplicaConfig {
            reconcile_after: Duration::from_millis(100),
            confirm_interval: Duration::from_millis(200),
            ..ReplicaConfig::default()
        },
    }
}

/// An engine that others reach.
pub(crate) async fn start(network: &MemoryNetwork, number: u8, config: SyncConfig, disk: &Disk) -> Engine {
    let carrier = Arc::new(network.carrier(&node(number)));
    let engine = Engine::start(options(number, carrier, config, disk)).await.expect("starts");
    network.serve(&node(number), engine.handle().handler());
    engine
}

pub(crate) fn peers(numbers: &[u8]) -> Vec<PeerAddress> {
    numbers
        .iter()
        .map(|number| PeerAddress { peer: node(*number), addresses: vec!["memory".into()] })
        .collect()
}

/// Engines that all know each other.
pub(crate) async fn cluster(network: &MemoryNetwork, numbers: &[u8]) -> Vec<Engine> {
    let mut engines = Vec::new();
    for number in numbers {
        engines.push(start(network, *number, config(Access::Cluster), &Disk::default()).await);
    }
    for engine in &engines {
        engine.handle().set_peers(peers(numbers));
    }
    engines
}

pub(crate) async fn value(sync: &SyncHandle, key: &str) -> Option<Vec<u8>> {
    let document = sync.get(&notes(), &list(), key.as_bytes()).await.expect("reads");
    document.map(|document| document.payload.to_vec())
}

/// Waits until a document has a value there.
pub(crate) async fn has(sync: &SyncHandle, key: &str, wanted: &str) {
    until(|| async { value(sync, key).await.as_deref() == Some(wanted.as_bytes()) }).await;
}
