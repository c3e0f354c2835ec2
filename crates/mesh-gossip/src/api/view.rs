//! A member as JSON.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use mesh_core::{
    Clock, Health, Incarnation, InstanceId, Load, LoadReport, Member, MemberState, NodeId, Role,
    Verification, WallTime,
};
use mesh_transport::edge::{WallAnchor, rfc3339};
use serde::{Deserialize, Serialize};

/// The metadata keys that have fields of their own in a [`Peer`].
pub mod keys {
    /// The name of the cluster.
    pub const CLUSTER: &str = "cluster";
    /// The region.
    pub const REGION: &str = "region";
    /// The zone within the region.
    pub const ZONE: &str = "zone";
    /// The version of the program.
    pub const MESH_VERSION: &str = "mesh_version";
    /// Wire versions, separated by commas: `gossip=1-2,leader=1`.
    pub const PROTOCOLS: &str = "protocols";
    /// Transports, best first, separated by commas: `h3,h2`.
    pub const TRANSPORTS: &str = "transports";
    /// A JSON list of [`Endpoint`](super::Endpoint)s.
    pub const ENDPOINTS: &str = "endpoints";
    /// `true`: takes no new work.
    pub const CORDONED: &str = "cordoned";
    /// `true`: gives its work away.
    pub const DRAINING: &str = "draining";
    /// What the key of a label starts with: `label.tier`.
    pub const LABEL_PREFIX: &str = "label.";
}

/// A member, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub node_id: NodeId,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: MemberState,
    /// When it entered that state, RFC 3339, on the answering node's clock.
    pub last_change: String,
    /// The last round trip from the answering node, in seconds; `null` if it does not probe it.
    pub rtt: Option<f64>,
    /// Its role; a fact if `verification` is `direct`.
    pub role: Role,
    /// `direct` or `relayed`.
    pub verification: Verification,
    /// `healthy`, or `degraded`: reached over HTTP/2 alone.
    pub health: Health,
    /// The run of its process, 16 hexadecimal digits.
    pub instance: String,
    /// Its own counter.
    pub incarnation: u64,
    /// Where it listens, best first.
    pub addresses: Vec<SocketAddr>,
    /// The cluster that it names.
    pub cluster: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The version of its program.
    pub mesh_version: Option<String>,
    /// Its wire versions: `gossip=1-2`.
    pub protocols: Vec<String>,
    /// Its transports, best first.
    pub transports: Vec<String>,
    /// The services that it offers.
    pub endpoints: Vec<Endpoint>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes no new work.
    pub cordoned: bool,
    /// Whether it gives its work away.
    pub draining: bool,
    /// How busy it says it is; `null` if it does not say, or the answering node has not heard yet.
    pub load: Option<PeerLoad>,
    /// What else it says about itself.
    pub metadata: BTreeMap<String, String>,
}

/// How busy a member says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLoad {
    /// Processor time, in thousandths of what the node may use; `null` if it does not say.
    pub cpu_permille: Option<u16>,
    /// Memory, in thousandths of what the node may use; `null` if it does not say.
    pub memory_permille: Option<u16>,
    /// Values of its own, by name.
    pub custom: BTreeMap<String, u64>,
    /// When it said so, RFC 3339, on the answering node's clock.
    pub said_at: String,
}

/// A service that a node offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The service.
    pub service: String,
    /// Where.
    pub url: String,
    /// Over what: `h3`.
    #[serde(default)]
    pub transport: Option<String>,
    /// In which encoding: `grpc`.
    #[serde(default)]
    pub encoding: Option<String>,
}

/// The reply of `GET /control/v1/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerList {
    /// The version of this form, [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node that answers: states and times are as it sees them.
    pub observer: NodeId,
    /// The members on this page, by node id.
    pub items: Vec<Peer>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// The reply of `GET /control/v1/peers/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReply {
    /// The version of this form, [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The member.
    pub peer: Peer,
}

/// Makes [`Peer`]s.
pub(super) struct Views {
    local: NodeId,
    clock: Arc<dyn Clock>,
    anchor: WallAnchor,
}

impl Views {
    pub(super) fn new(local: NodeId, clock: Arc<dyn Clock>) -> Self {
        Self { local, clock, anchor: WallAnchor::default() }
    }

    pub(super) fn observer(&self) -> NodeId {
        self.local.clone()
    }

    /// What an entity tag stands for.
    pub(super) fn fingerprint<'m>(&self, member: &'m Member) -> Fingerprint<'m> {
        Fingerprint {
            node_id: &member.node_id,
            state: member.state,
            last_change: self.anchor.wall(&*self.clock, member.since),
            role: &member.role,
            verification: member.verification,
            health: member.health,
            instance: member.instance,
            incarnation: member.incarnation,
            addresses: &member.addresses,
            metadata: &member.metadata,
            load: member.load.as_ref().map(|report| &report.load),
        }
    }

    pub(super) fn peer(&self, member: &Member) -> Peer {
        let own = |key: &str| member.metadata(key).map(str::to_owned);
        let list = |key: &str| parts(member, key).map(str::to_owned).collect();
        // Anybody can write metadata: what is not of the form shows up as it is, below.
        let endpoints: Option<Vec<Endpoint>> =
            member.metadata(keys::ENDPOINTS).and_then(|text| serde_json::from_str(text).ok());
        let mut peer = Peer {
            node_id: member.node_id.clone(),
            state: member.state,
            last_change: rfc3339(self.anchor.wall(&*self.clock, member.since)),
            rtt: member.rtt.map(|rtt| rtt.as_secs_f64()),
            role: member.role.clone(),
            verification: member.verification,
            health: member.health,
            instance: member.instance.to_string(),
            incarnation: member.incarnation.0,
            addresses: member.addresses.clone(),
            cluster: own(keys::CLUSTER),
            region: own(keys::REGION),
            zone: own(keys::ZONE),
            mesh_version: own(keys::MESH_VERSION),
            protocols: list(keys::PROTOCOLS),
            transports: list(keys::TRANSPORTS),
            labels: BTreeMap::new(),
            cordoned: flag(member, keys::CORDONED),
            draining: flag(member, keys::DRAINING),
            load: member.load.as_ref().map(|report| self.load(report)),
            metadata: BTreeMap::new(),
            endpoints: Vec::new(),
        };
        for (key, value) in &member.metadata {
            if let Some(label) = key.strip_prefix(keys::LABEL_PREFIX) {
                peer.labels.insert(label.to_owned(), value.clone());
            } else if !has_field(key) || (key == keys::ENDPOINTS && endpoints.is_none()) {
                peer.metadata.insert(key.clone(), value.clone());
            }
        }
        peer.endpoints = endpoints.unwrap_or_default();
        peer
    }

    fn load(&self, report: &LoadReport) -> PeerLoad {
        PeerLoad {
            cpu_permille: report.load.cpu_permille,
            memory_permille: report.load.memory_permille,
            custom: report.load.custom.clone(),
            said_at: rfc3339(self.anchor.wall(&*self.clock, report.said_at)),
        }
    }
}

/// All that shows of a member, except its round trip and when it said how busy it is.
#[derive(Hash)]
pub(super) struct Fingerprint<'m> {
    node_id: &'m NodeId,
    state: MemberState,
    last_change: WallTime,
    role: &'m Role,
    verification: Verification,
    health: Health,
    instance: InstanceId,
    incarnation: Incarnation,
    addresses: &'m [SocketAddr],
    metadata: &'m BTreeMap<String, String>,
    load: Option<&'m Load>,
}

fn has_field(key: &str) -> bool {
    matches!(
        key,
        keys::CLUSTER
            | keys::REGION
            | keys::ZONE
            | keys::MESH_VERSION
            | keys::PROTOCOLS
            | keys::TRANSPORTS
            | keys::ENDPOINTS
            | keys::CORDONED
            | keys::DRAINING
    )
}

/// The parts of a value that is a list.
pub(super) fn parts<'m>(member: &'m Member, key: &str) -> impl Iterator<Item = &'m str> {
    member.metadata(key).unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

pub(super) fn flag(member: &Member, key: &str) -> bool {
    member.metadata(key) == Some("true")
}
