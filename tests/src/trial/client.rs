//! A client: a node of the cluster in threads of this process, perhaps in a network of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh::{ControlConfig, MeshConfig, Node, NodeConfig};
use mesh_core::{NodeId, store::VersionedStore};
use mesh_gossip::GossipConfig;
use mesh_transport::{Identity, TransportConfig, identity::IdentityOptions};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};

use crate::harness::{Cluster, Namespace};

/// Longest wait for the client to be a member.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for its goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// A worker of the cluster, which it reaches over mutual TLS as all do.
pub(super) struct Client {
    id: NodeId,
    node: Option<Node>,
    store: Arc<dyn VersionedStore>,
    runtime: Runtime,
}

impl Client {
    /// Joins the cluster and waits until it is a member.
    pub(super) fn join(cluster: &Cluster, name: &str, namespace: Option<&Namespace>) -> Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all();
        let ip = namespace.map_or_else(|| [127, 0, 0, 1].into(), Namespace::ip);
        if let Some(namespace) = namespace.cloned() {
            // Its sockets are made by these threads, and stay where they were made.
            runtime.on_thread_start(move || namespace.enter().expect("whoever made it may enter it"));
        }
        let runtime = runtime.build()?;
        let leaf = cluster.authority().issue("worker", name)?;
        let identity = Identity::new(leaf.material, IdentityOptions::default())?;
        let seeds = cluster.running().filter_map(|node| cluster.addresses(node).ok());
        let seeds = seeds.map(|addresses| addresses.mesh.to_string()).collect();
        let config = MeshConfig {
            node: NodeConfig { data_dir: cluster.folder().join(name), ..NodeConfig::default() },
            transport: TransportConfig { bind: SocketAddr::new(ip, 0), ..TransportConfig::default() },
            gossip: GossipConfig { seeds, ..GossipConfig::default() },
            control: ControlConfig { enabled: false },
            ..MeshConfig::default()
        };
        let builder = Node::builder().config(config).identity(identity);
        let joined = runtime.spawn(async move {
            let node = builder.start().await?;
            timeout(PATIENCE, node.ready()).await??;
            anyhow::Ok(node)
        });
        let node = runtime.block_on(joined)?.with_context(|| format!("{name} does not join"))?;
        let store = node.store().context("a node without a store")?;
        Ok(Self { id: node.id().clone(), node: Some(node), store, runtime })
    }

    pub(super) fn id(&self) -> &NodeId {
        &self.id
    }

    pub(super) fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::clone(&self.store)
    }

    /// Where its tasks run.
    pub(super) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Runs something on its threads and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.block_on(self.runtime.spawn(work)).context("a client's task panicked")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(node) = self.node.take() else { return };
        // The cluster may be in any state: who does not hear the goodbye finds out by itself.
        let goodbye = self.runtime.spawn(async move { drop(timeout(GOODBYE, node.stop()).await) });
        let _ = self.runtime.block_on(goodbye);
    }
}
