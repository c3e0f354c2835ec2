//! What a voter is made of.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_core::{BoxError, Clock, Membership, NodeId, Validated};
use mesh_transport::rpc::{Channel, Lane};

use crate::RegistryConfig;

/// Opens channels to other nodes, wherever they are now. Called often: answer from memory.
pub trait Peers: Send + Sync + 'static {
    /// A channel to `node` for one kind of traffic. Nothing need be connected yet.
    ///
    /// # Errors
    ///
    /// Why there is none, such as that nobody knows where the node is.
    fn channel(&self, node: &NodeId, lane: Lane) -> Result<Channel, BoxError>;
}

/// What to do in a data directory that belongs to no group of voters yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Wait until a group takes this node in.
    Wait,
    /// Begin a new group with this node as its only voter, unless the directory belongs to one.
    NewGroup,
    /// The same, with the store of the snapshot that [`Repair::prepare`](super::repair::Repair::prepare) put
    /// there.
    FromSnapshot,
}

/// What a [`RaftStore`](super::RaftStore) is made of.
pub struct RaftOptions {
    /// Where log and snapshots are: `<data_dir>/registry`. Nobody else may use it.
    pub directory: PathBuf,
    /// This node.
    pub node_id: NodeId,
    /// The settings.
    pub config: Validated<RegistryConfig>,
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Who may become a voter, and who is alive.
    pub membership: Arc<dyn Membership>,
    /// The way to other nodes.
    pub peers: Arc<dyn Peers>,
}

/// Channels that are kept: their connections last as long as somebody holds them, and voters talk all the
/// time.
pub(super) struct Kept {
    peers: Arc<dyn Peers>,
    by_lane: Mutex<BTreeMap<(NodeId, Lane), Channel>>,
}

/// Channels that are kept; far more than one group has.
const KEPT_MAX: usize = 256;

impl Kept {
    pub(super) fn new(peers: Arc<dyn Peers>) -> Self {
        Self { peers, by_lane: Mutex::default() }
    }
}

impl Peers for Kept {
    fn channel(&self, node: &NodeId, lane: Lane) -> Result<Channel, BoxError> {
        let channel = self.peers.channel(node, lane)?;
        let mut by_lane = self.by_lane.lock().unwrap_or_else(PoisonError::into_inner);
        if by_lane.len() >= KEPT_MAX {
            by_lane.clear();
        }
        by_lane.insert((node.clone(), lane), channel.clone());
        Ok(channel)
    }
}
