//! What a voter is made of.

use std::{path::PathBuf, sync::Arc};

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
    /// Begin a new group with this node as its only voter.
    NewGroup,
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
