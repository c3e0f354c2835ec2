//! Gossip links inside one process, with faults on demand, for tests.
//!
//! A [`MemoryNetwork`] connects any number of [`MemoryLinks`], which keep the
//! contract of [`Datagrams`] as real links do. Faults are set for a direction
//! between two nodes, or for all: loss, delay, duplication, reordering, and cuts
//! in one direction or both. Time is tokio's, so that a test with a paused clock
//! runs without waiting; every random choice comes from one seed.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! use std::time::Duration;
//! use mesh_core::{DatagramEvent, Datagrams, LinkTarget};
//! use mesh_transport::memory::{Faults, MemoryNetwork, identity};
//!
//! let network = MemoryNetwork::new(7);
//! let a = network.join(identity("a"), "10.0.0.1:1".parse().unwrap()).unwrap();
//! let b = network.join(identity("b"), "10.0.0.2:1".parse().unwrap()).unwrap();
//! a.connect(LinkTarget { node_id: Some("b".parse().unwrap()), address: b.local_address() });
//! assert!(matches!(a.recv().await, Ok(DatagramEvent::LinkUp { .. })));
//! network.set_all(Faults { delay: Duration::from_millis(40), ..Faults::default() });
//! a.send(&"b".parse().unwrap(), "slow".into()).unwrap();
//! # });
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    CertificateInfo, ConnectError, DatagramError, DatagramEvent, Datagrams, Direction, LinkDownReason,
    LinkPath, LinkTarget, NodeId, PAYLOAD_BYTES_MAX, PeerIdentity, SpiffeId,
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::sleep,
};

/// Payloads of one peer that wait to be received; further ones are lost, as on a real network.
const QUEUE_MAX: usize = 1024;

/// What goes wrong in one direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Part of the payloads that is lost, 0 to 1. Default: 0.
    pub loss: f64,
    /// Part of the payloads that comes twice, 0 to 1. Default: 0.
    pub duplication: f64,
    /// Part of the payloads that takes up to `reordering_delay` longer, so that later ones overtake. Default: 0.
    pub reordering: f64,
    /// Longest extra time of a reordered payload. Default: 20ms.
    pub reordering_delay: Duration,
    /// Time from sending to arrival. Default: 0.
    pub delay: Duration,
    /// Nothing gets through, and nobody is told. Default: false.
    pub cut: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            reordering_delay: Duration::from_millis(20),
            delay: Duration::ZERO,
            cut: false,
        }
    }
}

/// The address is taken by a node that is still there, or the node id is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{node_id} cannot join at {address}: the id or the address is in use")]
pub struct JoinError {
    /// Who wanted to join.
    pub node_id: NodeId,
    /// Where.
    pub address: SocketAddr,
}

/// Nodes of one process that reach each other through channels. Clones share it.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<Network>>);

struct Network {
    random: fastrand::Rng,
    nodes: BTreeMap<NodeId, Node>,
    default: Faults,
    faults: BTreeMap<(NodeId, NodeId), Faults>,
    links: BTreeSet<(NodeId, NodeId)>,
    connect_timeout: Duration,
    next_instance: u64,
}

struct Node {
    identity: Arc<PeerIdentity>,
    address: SocketAddr,
    /// Tells a node from its predecessor with the same id.
    instance: u64,
    events: mpsc::UnboundedSender<DatagramEvent>,
    /// Payloads that wait, by sender.
    waiting: BTreeMap<NodeId, usize>,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryNetwork({} nodes)", self.lock().nodes.len())
    }
}

/// The identity of a made-up worker `spiffe://memory.test/mesh/test/worker/<node-id>`.
///
/// # Panics
///
/// If `node_id` is not a valid node id.
pub fn identity(node_id: &str) -> PeerIdentity {
    let id: SpiffeId =
        format!("spiffe://memory.test/mesh/test/worker/{node_id}").parse().expect("a valid node id");
    PeerIdentity {
        id,
        certificate: CertificateInfo { serial: "00".to_owned(), not_before_s: 0, not_after_s: u64::MAX },
    }
}

impl MemoryNetwork {
    /// A network without nodes and faults.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Network {
            random: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            default: Faults::default(),
            faults: BTreeMap::new(),
            links: BTreeSet::new(),
            connect_timeout: Duration::from_secs(1),
            next_instance: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().expect("no panic while held")
    }

    /// Adds a node. It leaves when the returned value is dropped, as a killed process would.
    ///
    /// # Errors
    ///
    /// [`JoinError`] if its id or address is in use.
    pub fn join(&self, identity: PeerIdentity, address: SocketAddr) -> Result<MemoryLinks, JoinError> {
        let node_id = identity.node_id().clone();
        let mut network = self.lock();
        if network.nodes.contains_key(&node_id) || network.nodes.values().any(|node| node.address == address)
        {
            return Err(JoinError { node_id, address });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        network.next_instance += 1;
        let instance = network.next_instance;
        let node = Node {
            identity: Arc::new(identity),
            address,
            instance,
            events: sender,
            waiting: BTreeMap::new(),
        };
        network.nodes.insert(node_id.clone(), node);
        Ok(MemoryLinks {
            network: self.clone(),
            node_id,
            address,
            instance,
            receiver: AsyncMutex::new(receiver),
        })
    }

    /// Sets the faults of every direction that has none of its own.
    pub fn set_all(&self, faults: Faults) {
        self.lock().default = faults;
    }

    /// Sets the faults from one node to another; the way back is not touched.
    pub fn set(&self, from: &NodeId, to: &NodeId, faults: Faults) {
        self.lock().faults.insert((from.clone(), to.clone()), faults);
    }

    /// Cuts every connection between two groups, both ways, in silence.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        let mut network = self.lock();
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
            for (from, to) in [(a, b), (b, a)] {
                let faults = Faults { cut: true, ..network.between(from, to) };
                network.faults.insert((from.clone(), to.clone()), faults);
            }
        }
    }

    /// Cuts one direction, in silence.
    pub fn cut(&self, from: &NodeId, to: &NodeId) {
        let mut network = self.lock();
        let faults = Faults { cut: true, ..network.between(from, to) };
        network.faults.insert((from.clone(), to.clone()), faults);
    }

    /// Ends every fault.
    pub fn heal(&self) {
        let mut network = self.lock();
        network.default = Faults::default();
        network.faults.clear();
    }

    /// Breaks the link between two nodes; both are told.
    pub fn break_link(&self, a: &NodeId, b: &NodeId) {
        self.lock().unlink(a, b, Some(LinkDownReason::Failed), Some(LinkDownReason::Failed));
    }
}

fn pair(a: &NodeId, b: &NodeId) -> (NodeId, NodeId) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl Network {
    fn between(&self, from: &NodeId, to: &NodeId) -> Faults {
        self.faults.get(&(from.clone(), to.clone())).copied().unwrap_or(self.default)
    }

    fn tell(&self, node_id: &NodeId, event: DatagramEvent) {
        if let Some(node) = self.nodes.get(node_id) {
            let _ = node.events.send(event);
        }
    }

    fn link_up(&self, at: &NodeId, peer: &NodeId, direction: Direction) {
        if let Some(node) = self.nodes.get(peer) {
            let (peer, remote) = (Arc::clone(&node.identity), node.address);
            self.tell(at, DatagramEvent::LinkUp { peer, remote, path: LinkPath::Memory, direction });
        }
    }

    /// Ends a link; each side is told its reason.
    fn unlink(&mut self, a: &NodeId, b: &NodeId, at_a: Option<LinkDownReason>, at_b: Option<LinkDownReason>) {
        if !self.links.remove(&pair(a, b)) {
            return;
        }
        for (at, peer, reason) in [(a, b, at_a), (b, a, at_b)] {
            if let Some(reason) = reason {
                self.tell(at, DatagramEvent::LinkDown { peer: peer.clone(), reason });
            }
        }
    }

    /// How long one message takes; `None` if it is lost.
    fn travel(&mut self, from: &NodeId, to: &NodeId) -> Option<Duration> {
        let faults = self.between(from, to);
        if faults.cut || self.random.f64() < faults.loss {
            return None;
        }
        let extra = if self.random.f64() < faults.reordering { self.random.f64() } else { 0.0 };
        Some(faults.delay + faults.reordering_delay.mul_f64(extra))
    }
}

/// One node of a [`MemoryNetwork`].
pub struct MemoryLinks {
    network: MemoryNetwork,
    node_id: NodeId,
    address: SocketAddr,
    instance: u64,
    receiver: AsyncMutex<mpsc::UnboundedReceiver<DatagramEvent>>,
}

impl fmt::Debug for MemoryLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLinks({} at {})", self.node_id, self.address)
    }
}

impl MemoryLinks {
    /// The address it joined at.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Leaves the network in good order: peers see `closed`, and `recv` ends.
    pub fn close(&self) {
        self.leave(LinkDownReason::Closed);
    }

    fn leave(&self, reason: LinkDownReason) {
        let mut network = self.network.lock();
        if network.nodes.get(&self.node_id).is_none_or(|node| node.instance != self.instance) {
            return;
        }
        let peers: Vec<NodeId> = network.nodes.keys().cloned().collect();
        for peer in peers {
            network.unlink(&self.node_id, &peer, None, Some(reason));
        }
        network.nodes.remove(&self.node_id);
    }
}

impl Drop for MemoryLinks {
    fn drop(&mut self) {
        self.leave(LinkDownReason::Reset);
    }
}

impl Datagrams for MemoryLinks {
    fn connect(&self, target: LinkTarget) {
        let (network, us) = (self.network.clone(), self.node_id.clone());
        let instance = self.instance;
        tokio::spawn(async move {
            let timeout = network.lock().connect_timeout;
            let outcome = dial(&network, &us, &target, timeout).await;
            let network = network.lock();
            let alive = network.nodes.get(&us).is_some_and(|node| node.instance == instance);
            if let Err(error) = outcome
                && alive
            {
                network.tell(&us, DatagramEvent::ConnectFailed { target, error });
            }
        });
    }

    fn disconnect(&self, peer: &NodeId) {
        let mut network = self.network.lock();
        network.unlink(&self.node_id, peer, Some(LinkDownReason::Local), Some(LinkDownReason::Closed));
    }

    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError> {
        let bytes = payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(DatagramError::TooLarge { bytes, bytes_max: PAYLOAD_BYTES_MAX });
        }
        let mut network = self.network.lock();
        if network.nodes.get(&self.node_id).is_none_or(|node| node.instance != self.instance) {
            return Err(DatagramError::Closed);
        }
        if !network.links.contains(&pair(&self.node_id, to)) {
            return Err(DatagramError::NotConnected { peer: to.clone() });
        }
        let twice = network.between(&self.node_id, to).duplication;
        let copies = 1 + usize::from(network.random.f64() < twice);
        for _ in 0..copies {
            let Some(delay) = network.travel(&self.node_id, to) else { continue };
            if delay.is_zero() {
                network.deliver(&self.node_id, to, payload.clone());
                continue;
            }
            let (weak, from, to, payload) =
                (Arc::downgrade(&self.network.0), self.node_id.clone(), to.clone(), payload.clone());
            tokio::spawn(deliver_later(weak, from, to, payload, delay));
        }
        Ok(())
    }

    async fn recv(&self) -> Result<DatagramEvent, DatagramError> {
        let event = self.receiver.lock().await.recv().await.ok_or(DatagramError::Closed)?;
        if let DatagramEvent::Received { from, .. } = &event
            && let Some(node) = self.network.lock().nodes.get_mut(&self.node_id)
            && let Some(waiting) = node.waiting.get_mut(from.node_id())
        {
            *waiting = waiting.saturating_sub(1);
        }
        Ok(event)
    }
}

async fn deliver_later(
    network: Weak<Mutex<Network>>,
    from: NodeId,
    to: NodeId,
    payload: Bytes,
    delay: Duration,
) {
    sleep(delay).await;
    if let Some(network) = network.upgrade() {
        network.lock().expect("no panic while held").deliver(&from, &to, payload);
    }
}

impl Network {
    fn deliver(&mut self, from: &NodeId, to: &NodeId, payload: Bytes) {
        // A payload does not outlive its link.
        if !self.links.contains(&pair(from, to)) {
            return;
        }
        let Some(sender) = self.nodes.get(from).map(|node| Arc::clone(&node.identity)) else { return };
        let Some(node) = self.nodes.get_mut(to) else { return };
        let waiting = node.waiting.entry(from.clone()).or_default();
        if *waiting >= QUEUE_MAX {
            return;
        }
        *waiting += 1;
        let event = DatagramEvent::Received { from: sender, payload, path: LinkPath::Memory };
        let _ = node.events.send(event);
    }
}

/// A question to the address and an answer back, each of which may be slow, or lost and asked again.
async fn dial(
    network: &MemoryNetwork,
    us: &NodeId,
    target: &LinkTarget,
    timeout: Duration,
) -> Result<(), ConnectError> {
    const AGAIN: Duration = Duration::from_millis(100);
    let attempt = async {
        loop {
            let round_trip = {
                let mut network = network.lock();
                let listener = network.nodes.iter().find(|(_, node)| node.address == target.address);
                let Some(peer) = listener.map(|(node_id, _)| node_id.clone()) else {
                    return Err(ConnectError::Refused);
                };
                if &peer == us {
                    return Err(ConnectError::Failed("the node at that address is this one".to_owned()));
                }
                if target.node_id.as_ref().is_some_and(|expected| *expected != peer) {
                    let text = format!("refused by rule peer: certificate is of node {peer}");
                    return Err(ConnectError::Identity(text));
                }
                match (network.travel(us, &peer), network.travel(&peer, us)) {
                    (Some(there), Some(back)) => Some((peer, there + back)),
                    _ => None,
                }
            };
            let Some((peer, round_trip)) = round_trip else {
                sleep(AGAIN).await;
                continue;
            };
            sleep(round_trip).await;
            let mut network = network.lock();
            if !network.nodes.contains_key(&peer) || !network.nodes.contains_key(us) {
                return Err(ConnectError::Refused);
            }
            let new = network.links.insert(pair(us, &peer));
            network.link_up(us, &peer, Direction::Outbound);
            if new {
                network.link_up(&peer, us, Direction::Inbound);
            }
            return Ok(());
        }
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(ConnectError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().expect("valid")
    }

    fn pair_of_nodes(seed: u64) -> (MemoryNetwork, MemoryLinks, MemoryLinks) {
        let network = MemoryNetwork::new(seed);
        let join = |name: &str, port: u16| {
            network.join(identity(name), SocketAddr::from(([10, 0, 0, 1], port))).expect("free")
        };
        let (a, b) = (join("a", 1), join("b", 2));
        (network, a, b)
    }

    async fn link(a: &MemoryLinks, b: &MemoryLinks) {
        a.connect(LinkTarget { node_id: Some(b.node_id.clone()), address: b.local_address() });
        assert!(matches!(a.recv().await, Ok(DatagramEvent::LinkUp { .. })));
        assert!(matches!(b.recv().await, Ok(DatagramEvent::LinkUp { .. })));
    }

    /// What arrives at `b` of the numbers 0 to 199 sent by `a`.
    async fn arrivals(seed: u64, faults: Faults) -> Vec<u8> {
        let (network, a, b) = pair_of_nodes(seed);
        link(&a, &b).await;
        network.set_all(faults);
        for number in 0..200u8 {
            a.send(&id("b"), vec![number].into()).expect("taken");
        }
        // sleeps: virtual time, in which all is delivered
        sleep(Duration::from_secs(1)).await;
        a.close();
        let mut numbers = Vec::new();
        while let Ok(DatagramEvent::Received { payload, .. }) = b.recv().await {
            numbers.push(payload[0]);
        }
        numbers
    }

    #[tokio::test(start_paused = true)]
    async fn without_faults_everything_arrives_in_order() {
        assert_eq!(arrivals(1, Faults::default()).await, (0..200).collect::<Vec<u8>>());
    }

    #[tokio::test(start_paused = true)]
    async fn faults_lose_double_and_reorder_the_same_way_for_the_same_seed() {
        let faults = Faults { loss: 0.2, duplication: 0.2, reordering: 0.2, ..Faults::default() };
        let numbers = arrivals(1, faults).await;
        let distinct: BTreeSet<u8> = numbers.iter().copied().collect();
        assert!(distinct.len() < 190 && distinct.len() > 130, "{}", distinct.len());
        assert!(numbers.len() > distinct.len(), "some came twice");
        assert!(!numbers.is_sorted(), "some overtook");
        assert_eq!(numbers, arrivals(1, faults).await);
        assert_ne!(numbers, arrivals(2, faults).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_silent_and_heals() {
        let (network, a, b) = pair_of_nodes(1);
        link(&a, &b).await;
        network.partition(&[id("a")], &[id("b")]);
        a.send(&id("b"), Bytes::from_static(b"lost")).expect("taken");
        a.connect(LinkTarget { node_id: Some(id("b")), address: b.local_address() });
        let event = a.recv().await;
        assert!(
            matches!(event, Ok(DatagramEvent::ConnectFailed { error: ConnectError::Timeout, .. })),
            "{event:?}"
        );
        network.heal();
        a.send(&id("b"), Bytes::from_static(b"through")).expect("taken");
        let Ok(DatagramEvent::Received { payload, from, .. }) = b.recv().await else { panic!("no payload") };
        assert_eq!((&payload[..], from.node_id()), (&b"through"[..], &id("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_one_way() {
        let (network, a, b) = pair_of_nodes(1);
        link(&a, &b).await;
        network.cut(&id("a"), &id("b"));
        a.send(&id("b"), Bytes::from_static(b"lost")).expect("taken");
        b.send(&id("a"), Bytes::from_static(b"through")).expect("taken");
        assert!(matches!(a.recv().await, Ok(DatagramEvent::Received { .. })));
        assert!(tokio::time::timeout(Duration::from_secs(60), b.recv()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_wrong_node_and_restart_are_told_apart() {
        let (network, a, b) = pair_of_nodes(1);
        let nowhere = SocketAddr::from(([10, 0, 0, 9], 9));
        a.connect(LinkTarget { node_id: None, address: nowhere });
        assert!(matches!(
            a.recv().await,
            Ok(DatagramEvent::ConnectFailed { error: ConnectError::Refused, .. })
        ));
        a.connect(LinkTarget { node_id: Some(id("c")), address: b.local_address() });
        assert!(matches!(
            a.recv().await,
            Ok(DatagramEvent::ConnectFailed { error: ConnectError::Identity(_), .. })
        ));
        link(&a, &b).await;
        let address = b.local_address();
        assert!(network.join(identity("b"), address).is_err(), "the name and the address are taken");
        drop(b);
        let event = a.recv().await;
        assert!(
            matches!(event, Ok(DatagramEvent::LinkDown { reason: LinkDownReason::Reset, .. })),
            "{event:?}"
        );
        assert!(network.join(identity("b"), address).is_ok());
    }
}
