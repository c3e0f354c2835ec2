//! What goes into the core and what comes out of it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use mesh_core::{
    DatagramEvent, DiskCompletion, DiskRequest, InstanceId, LinkTarget, Load, MemberEvent, NodeId,
    PeerIdentity,
};

/// The node that a core speaks for.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Its certificate's identity.
    pub identity: Arc<PeerIdentity>,
    /// Where others reach it, best first.
    pub addresses: Vec<SocketAddr>,
    /// What it says about itself from the start.
    pub metadata: BTreeMap<String, String>,
}

/// Something that happened to the node.
#[derive(Clone, Debug)]
pub enum Input {
    /// The carrier reports.
    Link(DatagramEvent),
    /// A disk request ended.
    Disk(DiskCompletion),
    /// The node's owner wants something.
    Command(Command),
}

/// What a node's owner can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Set a metadata key, or remove it with `None`.
    SetMetadata {
        /// The key, 1 to 128 bytes.
        key: String,
        /// The value.
        value: Option<String>,
    },
    /// Say how busy the node is. It travels with probes, so it may change as often as it likes.
    SetLoad(Load),
    /// Send a payload to every member.
    Broadcast(Bytes),
    /// Say goodbye; [`Event::LeaveDone`] follows once two neighbours know.
    Leave,
    /// More addresses where members may be.
    AddSeeds(Vec<SocketAddr>),
}

/// Something that the core wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a payload over a link. A refusal may be ignored: repair makes up for it.
    Transmit {
        /// To whom.
        to: NodeId,
        /// The bytes.
        payload: Bytes,
    },
    /// Open or check a link.
    Connect(LinkTarget),
    /// Close a link.
    Disconnect(NodeId),
    /// Read or write a file.
    Disk(DiskRequest),
    /// Tell the owner.
    Event(Event),
}

/// Something that the node's owner wants to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member changed.
    Member(MemberEvent),
    /// The node has the full list, or is the first of its cluster.
    Ready,
    /// The node knows of others and reaches none of them.
    Isolated,
    /// It reaches others again.
    Healed,
    /// Another living process has this node's id.
    Conflict {
        /// Its run.
        other: InstanceId,
        /// Whether this process steps aside: its certificate is the older one.
        we_step_aside: bool,
    },
    /// A payload that a member sent to all.
    Broadcast {
        /// Who sent it first.
        from: NodeId,
        /// The payload.
        payload: Bytes,
    },
    /// Neighbours know of our leaving, or there are none.
    LeaveDone,
}

/// How a node sees itself and its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipStatus {
    /// It takes part: it has the full list, or is the first of its cluster.
    pub ready: bool,
    /// It knows of others and reaches none.
    pub isolated: bool,
    /// It left.
    pub left: bool,
    /// It stepped aside because another process has its node id.
    pub stepped_aside: bool,
    /// Links that are up.
    pub links: usize,
    /// Members that answer, this node included.
    pub alive: usize,
    /// Members under suspicion.
    pub suspect: usize,
    /// Members declared dead and not yet forgotten.
    pub dead: usize,
    /// Members that left and are not yet forgotten.
    pub left_members: usize,
    /// How ill the node itself feels, 0 (well) to 8: it grants others more time.
    pub health_score: u32,
    /// Members whose links are part of the overlay and up.
    pub overlay_up: usize,
    /// Members that the overlay wants links to.
    pub overlay_wanted: usize,
}
