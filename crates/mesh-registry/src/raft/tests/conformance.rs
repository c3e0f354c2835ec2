//! The contract of a store, kept by a group of one voter and by one of three.

use std::sync::Arc;

use async_trait::async_trait;
use mesh_core::{BoxError, NodeId, store::VersionedStore};
use tokio::sync::Mutex;

use super::cluster::{Cluster, put};
use crate::{
    RemoteStore,
    raft::{Begin, RaftStore},
    testing::{Limits, Promise, Provider, ProviderFactory},
};

struct One;

struct Alone {
    cluster: Mutex<Cluster>,
    store: std::sync::Mutex<RaftStore>,
}

#[async_trait]
impl ProviderFactory for One {
    fn provider(&self) -> &'static str {
        "raft, one voter"
    }

    fn limits(&self) -> Limits {
        Limits::default().without(Promise::Failover, "there is nobody to take over; run three voters")
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        let mut cluster = Cluster::new();
        cluster.start("n1", Begin::NewGroup).await;
        cluster.write(put("warm", "up", None)).await;
        let store = std::sync::Mutex::new(cluster.store("n1").clone());
        Ok(Box::new(Alone { cluster: Mutex::new(cluster), store }))
    }
}

#[async_trait]
impl Provider for Alone {
    fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::new(self.store.lock().expect("not poisoned").clone())
    }

    async fn restart(&self) -> Result<(), BoxError> {
        let mut cluster = self.cluster.lock().await;
        cluster.kill("n1");
        cluster.start("n1", Begin::Wait).await;
        cluster.leader().await;
        *self.store.lock().expect("not poisoned") = cluster.store("n1").clone();
        Ok(())
    }
}

struct Three;

struct Group {
    cluster: Mutex<Cluster>,
    /// Clients across the network, operators since cases compact and restore.
    clients: Vec<RemoteStore>,
    killed: Mutex<Option<String>>,
}

#[async_trait]
impl ProviderFactory for Three {
    fn provider(&self) -> &'static str {
        "raft, three voters"
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        let cluster = Cluster::three().await;
        let clients: Vec<_> = (0..2).map(|_| cluster.client("operator", "op")).collect();
        for client in &clients {
            // Opens the session that names transactions, so that cases which count sessions find it there.
            client.transact(put("warm", "up", None)).await?;
        }
        let (cluster, killed) = (Mutex::new(cluster), Mutex::new(None));
        Ok(Box::new(Group { cluster, clients, killed }))
    }
}

#[async_trait]
impl Provider for Group {
    fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::new(self.clients[0].clone())
    }

    fn handles(&self) -> Vec<Arc<dyn VersionedStore>> {
        self.clients.iter().map(|client| Arc::new(client.clone()) as Arc<dyn VersionedStore>).collect()
    }

    fn writer(&self) -> Option<NodeId> {
        "op".parse().ok()
    }

    async fn restart(&self) -> Result<(), BoxError> {
        let mut cluster = self.cluster.lock().await;
        let names: Vec<String> = cluster.nodes.keys().cloned().collect();
        for name in &names {
            cluster.kill(name);
        }
        for name in &names {
            cluster.start(name, Begin::Wait).await;
        }
        cluster.leader().await;
        Ok(())
    }

    async fn kill_leader(&self) -> Result<(), BoxError> {
        let mut cluster = self.cluster.lock().await;
        let leader = cluster.leader().await;
        cluster.kill(&leader);
        *self.killed.lock().await = Some(leader);
        Ok(())
    }

    async fn revive(&self) -> Result<(), BoxError> {
        let mut cluster = self.cluster.lock().await;
        let killed = self.killed.lock().await.take().ok_or("nobody was killed")?;
        cluster.start(&killed, Begin::Wait).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
        Ok(())
    }
}

mod one {
    crate::conformance_tests!(super::One);
}

mod three {
    crate::conformance_tests!(super::Three);
}
