//! A node: identity, port, membership, gRPC and control API, joined and run together.

mod builder;
mod caches;
mod control;
mod edge;
mod error;
mod log;
mod metadata;
mod registry;
mod repair;
mod rpc;
mod startup;
#[cfg(feature = "sync")]
mod sync;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh_core::{Membership, NodeId, PeerIdentity, fs::DirectoryLock, store::VersionedStore};
use mesh_gossip::{GossipError, GossipHandle};
use mesh_leader::Leadership;
use mesh_transport::{
    edge::EdgeServer,
    endpoint::Endpoint,
    error::IdentityError,
    identity::{IdentitySource, IdentityWatch},
    rpc::{Channel, Lane},
};
use tokio::task::AbortHandle;

pub use builder::NodeBuilder;
pub use error::{NodeError, ResolveError};
pub use registry::found_cluster;
pub use repair::RegistryRepair;

use self::{control::LeaveSwitch, edge::State, registry::Registry, rpc::Rpc};

/// Longest wait for peers to learn that the port is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running node.
///
/// Dropping it stops it at once, without a goodbye; [`stop`](Self::stop) is the polite way.
pub struct Node {
    identity: Arc<PeerIdentity>,
    address: SocketAddr,
    endpoint: Endpoint,
    rpc: Rpc,
    /// `None` if membership is off (`gossip.enabled`).
    gossip: Option<GossipHandle>,
    membership: Arc<dyn Membership>,
    /// `None` if it is off (`registry.provider`).
    registry: Option<Registry>,
    leadership: Option<Leadership>,
    /// `None` if it keeps no dataset (`sync.datasets`).
    #[cfg(feature = "sync")]
    sync: Option<sync::Sync>,
    edge: Option<EdgeServer>,
    edge_address: Option<SocketAddr>,
    source: Option<Arc<dyn IdentitySource>>,
    leave_switch: LeaveSwitch,
    leave_timeout: Duration,
    state: Arc<State>,
    tasks: Vec<AbortHandle>,
    _watch: Option<IdentityWatch>,
    _lock: DirectoryLock,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} at {})", self.identity.id, self.address)
    }
}

impl Node {
    /// Says what the node is to be; nothing runs before [`NodeBuilder::start`].
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    /// The node's name.
    pub fn id(&self) -> &NodeId {
        &self.identity.id.node_id
    }

    /// Who the node is, as its certificate said when it started.
    pub fn identity(&self) -> &Arc<PeerIdentity> {
        &self.identity
    }

    /// Where other nodes reach this one, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the edge port is, with the control API and the services that endpoints name;
    /// `None` if there is nothing to serve (`control.enabled`).
    pub fn edge_address(&self) -> Option<SocketAddr> {
        self.edge_address
    }

    /// Who is in the cluster.
    pub fn membership(&self) -> Arc<dyn Membership> {
        Arc::clone(&self.membership)
    }

    /// Membership with its own verbs: metadata, broadcasts, counters. `None` if it is off.
    pub fn gossip(&self) -> Option<&GossipHandle> {
        self.gossip.as_ref()
    }

    /// The store of control state, wherever it is kept; `None` if the settings want none.
    pub fn store(&self) -> Option<Arc<dyn VersionedStore>> {
        self.registry.as_ref().map(|registry| Arc::clone(&registry.store))
    }

    /// Who leads what, and this node's campaigns; `None` without a registry.
    pub fn leadership(&self) -> Option<&Leadership> {
        self.leadership.as_ref()
    }

    /// The datasets that this node keeps; `None` if there are none (`sync.datasets`).
    #[cfg(feature = "sync")]
    pub fn sync(&self) -> Option<&mesh_sync::engine::SyncHandle> {
        self.sync.as_ref().map(sync::Sync::handle)
    }

    /// Makes this node's voter, if it has one, break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&self, bug: mesh_registry::PlantedBug) {
        if let Some(raft) = self.registry.as_ref().and_then(|registry| registry.raft.as_ref()) {
            raft.plant(bug);
        }
    }

    /// The node's port.
    pub fn transport(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A channel to another member, which generated clients accept. Nothing is connected yet.
    ///
    /// Where the member is, and whether it serves HTTP/3, comes from membership. A channel
    /// keeps to what was known when it was made: ask again for each burst of calls, or when
    /// calls fail. Clones, and channels to the same member and lane, share a connection.
    ///
    /// # Errors
    ///
    /// [`ResolveError`] if the node is not a live member with an address.
    pub fn channel(&self, node_id: &NodeId, lane: Lane) -> Result<Channel, ResolveError> {
        self.rpc.channel(&self.membership.snapshot(), node_id, lane)
    }

    /// Ends once a part of the node has ended by itself: the node is of no use any more and
    /// should be dropped or [stopped](Self::stop). `/healthz` answers 503 from then on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn failed(&self) -> NodeError {
        let gossip_ended = async {
            match &self.gossip {
                Some(gossip) => gossip.ended().await,
                None => std::future::pending().await,
            }
        };
        let registry_ended = async {
            match &self.registry {
                Some(registry) => registry::failed(registry).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gossip_ended => NodeError::Gossip(GossipError::Stopped),
            error = registry_ended => NodeError::RegistryEnded(error),
        }
    }

    /// Waits until the node has the full list of members, or is the first of its cluster.
    ///
    /// # Errors
    ///
    /// [`NodeError::Gossip`] if membership ended before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), NodeError> {
        match &self.gossip {
            Some(gossip) => gossip.ready().await.map_err(NodeError::Gossip),
            None => Ok(()),
        }
    }

    /// Ends once an operator asked the node to leave, over the control API.
    ///
    /// Whoever runs the node calls [`stop`](Self::stop) then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no request.
    pub async fn leave_asked(&self) {
        self.leave_switch.asked().await;
    }

    /// Reads certificate, key and trust bundle again. Live connections go on, unless the new
    /// trust refuses their peer. Changed files are also seen without this call.
    ///
    /// # Errors
    ///
    /// [`NodeError::Identity`]; the identity is unchanged then.
    pub async fn reload_identity(&self) -> Result<(), NodeError> {
        let Some(source) = &self.source else {
            let source = "the identity was given by the program, which has to replace it itself".into();
            return Err(NodeError::Identity(IdentityError::Source(source)));
        };
        Ok(self.endpoint.identity().reload(&**source).await?)
    }

    /// Says goodbye, ends what is under way and closes the node, in bounded time.
    ///
    /// The bounds are `node.leave_timeout`, then the longer of `transport.edge.drain_timeout`
    /// and `transport.server.drain_timeout` for calls at work, and about two seconds.
    ///
    /// # Errors
    ///
    /// [`NodeError::Leave`] if nobody acknowledged the goodbye. The node has stopped all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the node at once.
    pub async fn stop(mut self) -> Result<(), NodeError> {
        self.state.stopping();
        // Leases move first, then votes, then the node says goodbye.
        if let Some(leadership) = &self.leadership {
            leadership.stop(self.leave_timeout).await;
        }
        if let Some(raft) = self.registry.as_ref().and_then(|registry| registry.raft.as_ref()) {
            raft.stop().await;
        }
        // Its streams would keep the server from draining.
        #[cfg(feature = "sync")]
        if let Some(sync) = &mut self.sync {
            sync.stop(self.leave_timeout).await;
        }
        let left = match &self.gossip {
            Some(gossip) => gossip.leave(self.leave_timeout).await,
            None => Ok(()),
        };
        let edge = self.edge.take();
        let edge_ends = async {
            if let Some(edge) = edge {
                edge.shutdown().await;
            }
        };
        tokio::join!(edge_ends, self.rpc.drain());
        self.endpoint.close();
        // Peers that do not answer are told by their own timeouts.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
        match left {
            // Membership ended before, with its own error in the log.
            Ok(()) | Err(GossipError::Stopped) => Ok(()),
            Err(error) => Err(NodeError::Leave(error)),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let registry = self.registry.iter().flat_map(|registry| &registry.tasks);
        for task in self.tasks.iter().chain(registry) {
            task.abort();
        }
        if let Some(gossip) = &self.gossip {
            gossip.stop();
        }
        self.endpoint.close();
    }
}
