//! A carrier over plain channels inside one process, for users' tests.
//!
//! ```
//! # use std::{collections::BTreeMap, sync::Arc};
//! # use mesh_core::{CertificateInfo, PeerIdentity};
//! use mesh_gossip::channels::ChannelNetwork;
//! let network = ChannelNetwork::new();
//! let identity = ChannelNetwork::identity("w-1")?;
//! let (datagrams, address) = network.join(identity);
//! # let _ = (datagrams, address);
//! # Ok::<(), mesh_core::SpiffeIdError>(())
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use mesh_core::{
    CertificateInfo, ConnectError, DatagramError, DatagramEvent, Datagrams, Direction, LinkDownReason,
    LinkPath, LinkTarget, NodeId, PAYLOAD_BYTES_MAX, PeerIdentity, SpiffeIdError,
};
use tokio::sync::mpsc;

/// Events that wait for one node; payloads beyond that are lost, as on a network.
const QUEUE_MAX: usize = 4096;

#[derive(Debug)]
struct Port {
    identity: Arc<PeerIdentity>,
    events: mpsc::Sender<DatagramEvent>,
}

#[derive(Debug, Default)]
struct State {
    ports: BTreeMap<SocketAddr, Port>,
    /// Both directions of each link.
    links: BTreeSet<(NodeId, NodeId)>,
    cut: BTreeSet<NodeId>,
    next_port: u16,
}

/// Nodes of one process that reach each other without sockets.
#[derive(Clone, Debug, Default)]
pub struct ChannelNetwork {
    state: Arc<Mutex<State>>,
}

impl ChannelNetwork {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// An identity for tests: `spiffe://test/mesh/test/worker/<node_id>`.
    ///
    /// # Errors
    ///
    /// If `node_id` is not a valid one.
    pub fn identity(node_id: &str) -> Result<Arc<PeerIdentity>, SpiffeIdError> {
        let id = format!("spiffe://test/mesh/test/worker/{node_id}").parse()?;
        let certificate = CertificateInfo { serial: "00".to_owned(), not_before_s: 0, not_after_s: u64::MAX };
        Ok(Arc::new(PeerIdentity { id, certificate }))
    }

    /// Adds a node; the address is what others dial.
    pub fn join(&self, identity: Arc<PeerIdentity>) -> (Arc<ChannelDatagrams>, SocketAddr) {
        let (events, inbox) = mpsc::channel(QUEUE_MAX);
        let mut state = self.lock();
        state.next_port += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, state.next_port));
        state.ports.insert(address, Port { identity: identity.clone(), events });
        drop(state);
        let carrier = ChannelDatagrams {
            network: self.clone(),
            identity,
            address,
            inbox: tokio::sync::Mutex::new(inbox),
        };
        (Arc::new(carrier), address)
    }

    /// Cuts a node off: payloads vanish and connections time out, in both directions.
    pub fn cut(&self, node_id: &NodeId) {
        self.lock().cut.insert(node_id.clone());
    }

    /// Ends a cut.
    pub fn heal(&self, node_id: &NodeId) {
        self.lock().cut.remove(node_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn port_of(&self, node_id: &NodeId) -> Option<(&SocketAddr, &Port)> {
        self.ports.iter().find(|(_, p)| p.identity.node_id() == node_id)
    }

    fn tell(&self, node_id: &NodeId, event: DatagramEvent) -> bool {
        self.port_of(node_id).is_some_and(|(_, p)| p.events.try_send(event).is_ok())
    }

    fn unlink(&mut self, from: &NodeId, to: &NodeId, theirs: LinkDownReason) {
        if self.links.remove(&(from.clone(), to.clone())) {
            self.links.remove(&(to.clone(), from.clone()));
            self.tell(to, DatagramEvent::LinkDown { peer: from.clone(), reason: theirs });
        }
    }
}

/// One node's end of a [`ChannelNetwork`]. Dropping it is like ending the process.
#[derive(Debug)]
pub struct ChannelDatagrams {
    network: ChannelNetwork,
    identity: Arc<PeerIdentity>,
    address: SocketAddr,
    inbox: tokio::sync::Mutex<mpsc::Receiver<DatagramEvent>>,
}

impl Datagrams for ChannelDatagrams {
    fn connect(&self, target: LinkTarget) {
        let own = self.identity.node_id();
        let mut state = self.network.lock();
        let found = state.ports.get(&target.address).map(|p| p.identity.clone());
        let error = match &found {
            None => Some(ConnectError::Refused),
            Some(peer) if state.cut.contains(peer.node_id()) || state.cut.contains(own) => {
                Some(ConnectError::Timeout)
            }
            Some(peer) if target.node_id.as_ref().is_some_and(|n| n != peer.node_id()) => {
                Some(ConnectError::Identity(format!("{} answers there", peer.node_id())))
            }
            Some(_) => None,
        };
        let (Some(peer), None) = (found, &error) else {
            let error = error.unwrap_or(ConnectError::Refused);
            state.tell(own, DatagramEvent::ConnectFailed { target, error });
            return;
        };
        let new = state.links.insert((own.clone(), peer.node_id().clone()));
        state.links.insert((peer.node_id().clone(), own.clone()));
        let path = LinkPath::Memory;
        let remote = target.address;
        if new && peer.node_id() != own {
            let inbound = DatagramEvent::LinkUp {
                peer: self.identity.clone(),
                remote: self.address,
                path,
                direction: Direction::Inbound,
            };
            state.tell(peer.node_id(), inbound);
        }
        state.tell(own, DatagramEvent::LinkUp { peer, remote, path, direction: Direction::Outbound });
    }

    fn disconnect(&self, peer: &NodeId) {
        let own = self.identity.node_id();
        let mut state = self.network.lock();
        if state.links.contains(&(own.clone(), peer.clone())) {
            state.unlink(own, peer, LinkDownReason::Closed);
            state.tell(own, DatagramEvent::LinkDown { peer: peer.clone(), reason: LinkDownReason::Local });
        }
    }

    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(DatagramError::TooLarge { bytes: payload.len(), bytes_max: PAYLOAD_BYTES_MAX });
        }
        let own = self.identity.node_id();
        let state = self.network.lock();
        if !state.links.contains(&(own.clone(), to.clone())) {
            return Err(DatagramError::NotConnected { peer: to.clone() });
        }
        if state.cut.contains(own) || state.cut.contains(to) {
            return Ok(());
        }
        let event = DatagramEvent::Received { from: self.identity.clone(), payload, path: LinkPath::Memory };
        // A receiver that does not keep up loses payloads, as on a network.
        state.tell(to, event);
        Ok(())
    }

    async fn recv(&self) -> Result<DatagramEvent, DatagramError> {
        self.inbox.lock().await.recv().await.ok_or(DatagramError::Closed)
    }
}

impl Drop for ChannelDatagrams {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let own = self.identity.node_id().clone();
        let peers: Vec<NodeId> =
            state.links.iter().filter(|(from, _)| *from == own).map(|(_, to)| to.clone()).collect();
        for peer in peers {
            state.unlink(&own, &peer, LinkDownReason::Reset);
        }
        state.ports.remove(&self.address);
    }
}
