//! The contract of a store, kept from afar: three nodes serve one store in memory, the provider uses them
//! over mutual TLS.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use mesh_core::{BoxError, NodeId, Settings as _, store::VersionedStore};
use mesh_transport::rpc::Target;
use tokio::sync::watch;

use super::harness::{Voter, World, node, put, service};
use crate::{
    MemoryStore, RemoteConfig, RemoteStore, StoreService,
    testing::{Limits, Promise, Provider, ProviderFactory},
};

struct Factory;

struct Cluster {
    world: World,
    service: StoreService,
    voters: Mutex<Vec<Voter>>,
    list: watch::Sender<Arc<[Target]>>,
    stores: Vec<RemoteStore>,
    started: AtomicU64,
}

#[async_trait]
impl ProviderFactory for Factory {
    fn provider(&self) -> &'static str {
        "remote"
    }

    fn limits(&self) -> Limits {
        Limits::default().without(Promise::Restart, "what is behind it here is in memory")
    }

    async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
        let world = World::new();
        let service = service(MemoryStore::new());
        let voters: Vec<Voter> = (1..=3).map(|at| world.voter(&format!("v-{at}"), &service)).collect();
        let (list, receiver) = watch::channel(targets(&voters));
        let stores = (0..2).map(|_| {
            // An operator, since cases compact and restore.
            let channels = world.channels("operator", "op");
            let config = RemoteConfig::default().validate().expect("valid");
            RemoteStore::new(channels, Arc::new(receiver.clone()), config)
        });
        let stores: Vec<RemoteStore> = stores.collect();
        for store in &stores {
            // Opens the session that names transactions, so that cases which count sessions find it there.
            store.transact(put("warm", "up")).await?;
        }
        let (voters, started) = (Mutex::new(voters), AtomicU64::new(3));
        Ok(Box::new(Cluster { world, service, voters, list, stores, started }))
    }
}

fn targets(voters: &[Voter]) -> Arc<[Target]> {
    voters.iter().map(Voter::target).collect()
}

#[async_trait]
impl Provider for Cluster {
    fn store(&self) -> Arc<dyn VersionedStore> {
        Arc::new(self.stores[0].clone())
    }

    fn handles(&self) -> Vec<Arc<dyn VersionedStore>> {
        self.stores.iter().map(|store| Arc::new(store.clone()) as Arc<dyn VersionedStore>).collect()
    }

    fn writer(&self) -> Option<NodeId> {
        Some(node("op"))
    }

    async fn kill_leader(&self) -> Result<(), BoxError> {
        let mut voters = self.voters.lock().map_err(|_| "poisoned")?;
        let leader = self.stores[0].leader();
        let at = voters.iter().position(|voter| Some(&voter.target().node_id) == leader.as_ref());
        // The list still names it: clients have to find out.
        voters.remove(at.unwrap_or(0)).kill();
        Ok(())
    }

    async fn revive(&self) -> Result<(), BoxError> {
        let mut voters = self.voters.lock().map_err(|_| "poisoned")?;
        let number = self.started.fetch_add(1, Relaxed) + 1;
        voters.push(self.world.voter(&format!("v-{number}"), &self.service));
        self.list.send_replace(targets(&voters));
        Ok(())
    }
}

crate::conformance_tests!(Factory);
