//! What an engine is made of.

use std::{fmt, sync::Arc};

use mesh_core::{Clock, ClusterName, NodeId, Validated};

use super::Carrier;
use crate::{
    blob::ChunkStore, config::SyncConfig, entry::AuthorKey, replica::ReplicaConfig, store::Datasets,
    ticket::TicketPeer,
};

/// What an engine is made of.
pub struct EngineOptions {
    /// This node.
    pub local: NodeId,
    /// Its cluster. Nodes of others are refused.
    pub cluster: ClusterName,
    /// The settings of `[sync]`.
    pub config: Validated<SyncConfig>,
    /// The key that this node signs entries with. No other node may have it.
    pub author: AuthorKey,
    /// Where entries are kept, with queues, peers and requests beside them. Opened already; one engine alone uses it.
    pub stores: Arc<dyn Datasets>,
    /// Where pieces of large payloads are kept.
    pub chunks: Arc<dyn ChunkStore>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The way to other nodes.
    pub carrier: Arc<dyn Carrier>,
    /// Where others reach this node, for tickets and requests; may be empty.
    pub addresses: Vec<TicketPeer>,
    /// 32 secret random bytes, drawn anew at each start.
    pub seed: [u8; 32],
    /// Settings of replicas that no file names. The ones that `config` names are taken from there.
    pub replica: ReplicaConfig,
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("local", &self.local)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
