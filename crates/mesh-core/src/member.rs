//! What is known of one member.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use crate::{Incarnation, InstanceId, Instant, LoadReport, NodeId, Role};

/// A member's state, as SWIM names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody got no answer; it may still refute.
    Suspect,
    /// It did not refute in time.
    Dead,
    /// It said goodbye.
    Left,
}

impl MemberState {
    /// Alive or suspect: still counted as part of the cluster.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How well a live member can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Health {
    /// Over QUIC, as it should be.
    #[default]
    Healthy,
    /// Over HTTP/2 alone: something drops its UDP.
    Degraded,
}

/// Who vouches for what a member says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Verification {
    /// Its own certificate answered us.
    Direct,
    /// Its certificate answered somebody who told us; its role is that node's word.
    Relayed,
}

/// One member as the local node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its name.
    pub node_id: NodeId,
    /// The run of its process.
    pub instance: InstanceId,
    /// Its own counter.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: MemberState,
    /// When it entered that state, on the local clock.
    pub since: Instant,
    /// Its role; a fact if [`verification`](Self::verification) is direct.
    pub role: Role,
    /// How its role is known.
    pub verification: Verification,
    /// How it can be reached.
    pub health: Health,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
    /// The version of its metadata: grows with each change it makes.
    pub metadata_version: u64,
    /// What it says about itself.
    pub metadata: BTreeMap<String, String>,
    /// The last measured round trip from here, if this node probes it.
    pub rtt: Option<std::time::Duration>,
    /// How busy it says it is. Changes without an event, as round trips do; `None` if nothing was heard.
    pub load: Option<LoadReport>,
}

impl Member {
    /// A member that has just been heard of, with empty metadata.
    pub fn new(node_id: NodeId, instance: InstanceId, role: Role, since: Instant) -> Self {
        Self {
            node_id,
            instance,
            incarnation: Incarnation::default(),
            state: MemberState::Alive,
            since,
            role,
            verification: Verification::Relayed,
            health: Health::Healthy,
            addresses: Vec::new(),
            metadata_version: 0,
            metadata: BTreeMap::new(),
            rtt: None,
            load: None,
        }
    }

    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}
