//! A carrier over plain UDP, **without encryption or authentication**, for lab use and tests.
//!
//! A peer is who it says it is: anybody who reaches the port can speak for any
//! node. Use `mesh-transport` for everything that matters.
//!
//! One packet is a kind byte, the sender's run (8 bytes) and the rest:
//!
//! ```text
//! 1 hello    SPIFFE id      "let us have a link"
//! 2 welcome  SPIFFE id      "we have one"
//! 3 data     message (4), part (2), parts (2), bytes
//! 4 bye
//! 5 unknown  the run that is not known here (8): answer to data without a link
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mesh_core::{
    CertificateInfo, ConnectError, DatagramError, DatagramEvent, Datagrams, Direction, LinkDownReason,
    LinkPath, LinkTarget, NodeId, PAYLOAD_BYTES_MAX, PeerIdentity, SpiffeId,
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc},
};

/// Bytes of a payload in one packet; larger payloads travel in parts, and are lost whole if one is.
const PART_BYTES: usize = 1200;
/// Payloads in parts that are put together at one time, for each peer.
const PARTIAL_MAX: usize = 8;
/// Links of one carrier.
const LINKS_MAX: usize = 4096;
/// Events that wait for the caller; more are dropped, as a full socket would.
const EVENTS_MAX: usize = 8192;
const HELLO_INTERVAL: Duration = Duration::from_millis(100);
const HELLO_TRIES: u32 = 5;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const DATA: u8 = 3;
    pub(super) const BYE: u8 = 4;
    pub(super) const UNKNOWN: u8 = 5;
}

#[derive(Debug)]
struct Link {
    peer: Arc<PeerIdentity>,
    address: SocketAddr,
    run: u64,
    partial: VecDeque<Partial>,
}

#[derive(Debug)]
struct Partial {
    message: u32,
    parts: Vec<Option<Bytes>>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<NodeId, Link>,
    by_address: BTreeMap<SocketAddr, NodeId>,
    dialing: BTreeMap<SocketAddr, Vec<LinkTarget>>,
    next_message: u32,
}

/// One node's end of plain UDP. See the [module](self): nothing here is protected.
#[derive(Debug)]
pub struct InsecureUdp {
    inner: Arc<Inner>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<DatagramEvent>>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    socket: UdpSocket,
    identity: Arc<PeerIdentity>,
    run: u64,
    state: Mutex<State>,
    events: mpsc::Sender<DatagramEvent>,
    answered: Notify,
}

impl InsecureUdp {
    /// Opens the port. `identity` is what others will believe.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub async fn bind(identity: Arc<PeerIdentity>, address: SocketAddr) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        #[expect(clippy::disallowed_methods, reason = "a carrier names its run by the system's randomness")]
        let run = fastrand::Rng::new().u64(1..);
        let state = Mutex::default();
        let inner = Arc::new(Inner { socket, identity, run, state, events, answered: Notify::new() });
        let reader = tokio::spawn(inner.clone().read());
        Ok(Self { inner, inbox: tokio::sync::Mutex::new(inbox), reader })
    }

    /// The address that others dial.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.inner.socket.local_addr()
    }
}

impl Drop for InsecureUdp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: DatagramEvent) {
        // Full: the caller does not keep up, and payloads are lost as they may be.
        let _ = self.events.try_send(event);
    }

    fn packet(&self, kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(9 + rest.len());
        packet.put_u8(kind);
        packet.put_u64(self.run);
        packet.put_slice(rest);
        packet
    }

    fn put(&self, to: SocketAddr, kind: u8, rest: &[u8]) {
        // Lost if the socket's buffer is full; that is what datagrams do.
        let _ = self.socket.try_send_to(&self.packet(kind, rest), to);
    }

    fn greeting(&self) -> Vec<u8> {
        self.identity.id.to_string().into_bytes()
    }

    async fn read(self: Arc<Self>) {
        let mut buffer = vec![0; 2048];
        loop {
            // An error of one datagram (a refused one before it, say) is not the socket's end.
            if let Ok((size, from)) = self.socket.recv_from(&mut buffer).await {
                self.take(from, Bytes::copy_from_slice(&buffer[..size]));
            }
        }
    }

    fn take(&self, from: SocketAddr, mut packet: Bytes) {
        if packet.len() < 9 {
            return;
        }
        let kind = packet.get_u8();
        let run = packet.get_u64();
        match kind {
            kind::HELLO | kind::WELCOME => self.take_greeting(from, run, &packet, kind),
            kind::DATA => self.take_data(from, run, packet),
            kind::BYE => self.drop_link(from, LinkDownReason::Closed),
            kind::UNKNOWN if packet.len() == 8 && packet.get_u64() == self.run => {
                self.drop_link(from, LinkDownReason::Reset);
            }
            _ => {}
        }
    }

    fn take_greeting(&self, from: SocketAddr, run: u64, id: &[u8], kind: u8) {
        let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse::<SpiffeId>().ok()) else {
            return;
        };
        if id.cluster != self.identity.id.cluster || id.trust_domain != self.identity.id.trust_domain {
            return;
        }
        let certificate = CertificateInfo { serial: String::new(), not_before_s: 0, not_after_s: u64::MAX };
        let peer = Arc::new(PeerIdentity { id, certificate });
        if kind == kind::HELLO {
            self.put(from, kind::WELCOME, &self.greeting());
        }
        let mut state = self.lock();
        let dialed = state.dialing.remove(&from);
        let node_id = peer.node_id().clone();
        if state.links.len() >= LINKS_MAX && !state.links.contains_key(&node_id) {
            return;
        }
        let same = state.links.get(&node_id).is_some_and(|l| l.run == run && l.address == from);
        if !same {
            if let Some(old) = state.links.remove(&node_id) {
                state.by_address.remove(&old.address);
                self.tell(DatagramEvent::LinkDown { peer: node_id.clone(), reason: LinkDownReason::Reset });
            }
            let link = Link { peer: peer.clone(), address: from, run, partial: VecDeque::new() };
            state.links.insert(node_id.clone(), link);
            state.by_address.insert(from, node_id);
        }
        drop(state);
        let direction = if dialed.is_some() { Direction::Outbound } else { Direction::Inbound };
        if !same || dialed.is_some() {
            self.tell(DatagramEvent::LinkUp { peer, remote: from, path: LinkPath::Memory, direction });
        }
        self.answered.notify_waiters();
    }

    fn take_data(&self, from: SocketAddr, run: u64, mut packet: Bytes) {
        let mut state = self.lock();
        let node_id = state.by_address.get(&from).cloned();
        let link = node_id.and_then(|n| state.links.get_mut(&n)).filter(|l| l.run == run);
        let Some(link) = link else {
            drop(state);
            self.put(from, kind::UNKNOWN, &run.to_be_bytes());
            return;
        };
        if packet.len() < 8 {
            return;
        }
        let (message, part, parts) = (packet.get_u32(), packet.get_u16() as usize, packet.get_u16() as usize);
        if part >= parts || parts > PAYLOAD_BYTES_MAX.div_ceil(PART_BYTES) {
            return;
        }
        let Some(payload) = link.put_together(message, part, parts, packet) else { return };
        let from = link.peer.clone();
        drop(state);
        self.tell(DatagramEvent::Received { from, payload, path: LinkPath::Memory });
    }

    fn drop_link(&self, from: SocketAddr, reason: LinkDownReason) {
        let mut state = self.lock();
        let Some(node_id) = state.by_address.remove(&from) else { return };
        state.links.remove(&node_id);
        drop(state);
        self.tell(DatagramEvent::LinkDown { peer: node_id, reason });
    }

    async fn dial(self: Arc<Self>, address: SocketAddr) {
        for _ in 0..HELLO_TRIES {
            let answered = self.answered.notified();
            if !self.lock().dialing.contains_key(&address) {
                return;
            }
            self.put(address, kind::HELLO, &self.greeting());
            // Whoever answered; the loop looks whether it was this address.
            let _ = tokio::time::timeout(HELLO_INTERVAL, answered).await;
        }
        for target in self.lock().dialing.remove(&address).unwrap_or_default() {
            self.tell(DatagramEvent::ConnectFailed { target, error: ConnectError::Timeout });
        }
    }
}

impl Link {
    fn put_together(&mut self, message: u32, part: usize, parts: usize, bytes: Bytes) -> Option<Bytes> {
        if parts == 1 {
            return Some(bytes);
        }
        let at = match self.partial.iter().position(|p| p.message == message && p.parts.len() == parts) {
            Some(at) => at,
            None => {
                if self.partial.len() >= PARTIAL_MAX {
                    self.partial.pop_front();
                }
                self.partial.push_back(Partial { message, parts: vec![None; parts] });
                self.partial.len() - 1
            }
        };
        let partial = self.partial.get_mut(at)?;
        partial.parts[part] = Some(bytes);
        if partial.parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.partial.remove(at)?;
        let mut payload = BytesMut::new();
        whole.parts.into_iter().flatten().for_each(|p| payload.extend_from_slice(&p));
        Some(payload.freeze())
    }
}

/// What a fuzzer calls: packets from two addresses, as they come off the socket. The bytes are pieces of
/// a length, one byte, and a packet each.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(mut data: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let _entered = runtime.enter();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    });
    let Ok(socket) = socket else { return };
    let id: SpiffeId = "spiffe://t/mesh/c/worker/me".parse().expect("valid");
    let certificate = CertificateInfo { serial: String::new(), not_before_s: 0, not_after_s: u64::MAX };
    let identity = Arc::new(PeerIdentity { id, certificate });
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let inner = Inner { socket, identity, run: 5, state: Mutex::default(), events, answered: Notify::new() };
    // Answers go to ourselves, where nobody reads them.
    let Ok(own) = inner.socket.local_addr() else { return };
    for at in 0..64u16 {
        let Some((length, rest)) = data.split_first() else { break };
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let from = if at % 2 == 0 { own } else { SocketAddr::new(own.ip(), own.port() ^ 1) };
        inner.take(from, Bytes::copy_from_slice(packet));
        while let Ok(event) = inbox.try_recv() {
            if let DatagramEvent::Received { payload, .. } = event {
                assert!(payload.len() <= PAYLOAD_BYTES_MAX, "payloads are bounded");
            }
        }
    }
    assert!(inner.lock().links.values().all(|link| link.partial.len() <= PARTIAL_MAX));
}

impl Datagrams for InsecureUdp {
    fn connect(&self, target: LinkTarget) {
        let address = target.address;
        let mut state = self.inner.lock();
        let waiting = state.dialing.entry(address).or_default();
        waiting.push(target);
        let first = waiting.len() == 1;
        drop(state);
        if first {
            tokio::spawn(self.inner.clone().dial(address));
        }
    }

    fn disconnect(&self, peer: &NodeId) {
        let address = self.inner.lock().links.get(peer).map(|l| l.address);
        if let Some(address) = address {
            self.inner.put(address, kind::BYE, &[]);
            self.inner.drop_link(address, LinkDownReason::Local);
        }
    }

    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(DatagramError::TooLarge { bytes: payload.len(), bytes_max: PAYLOAD_BYTES_MAX });
        }
        let mut state = self.inner.lock();
        let address = state.links.get(to).map(|l| l.address);
        let Some(address) = address else { return Err(DatagramError::NotConnected { peer: to.clone() }) };
        state.next_message = state.next_message.wrapping_add(1);
        let message = state.next_message;
        drop(state);
        let parts = payload.len().div_ceil(PART_BYTES).max(1);
        for part in 0..parts {
            let bytes = &payload[part * PART_BYTES..payload.len().min((part + 1) * PART_BYTES)];
            let mut rest = Vec::with_capacity(8 + bytes.len());
            rest.put_u32(message);
            // Both fit: a payload has at most a few hundred parts.
            rest.put_u16(u16::try_from(part).unwrap_or(u16::MAX));
            rest.put_u16(u16::try_from(parts).unwrap_or(u16::MAX));
            rest.put_slice(bytes);
            self.inner.put(address, kind::DATA, &rest);
        }
        Ok(())
    }

    async fn recv(&self) -> Result<DatagramEvent, DatagramError> {
        self.inbox.lock().await.recv().await.ok_or(DatagramError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Settings;

    use super::*;
    use crate::{Driver, DriverOptions, GossipConfig, GossipHandle, LocalNode, channels::ChannelNetwork};

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn port(name: &str) -> (Arc<InsecureUdp>, SocketAddr, Arc<PeerIdentity>) {
        let identity = ChannelNetwork::identity(name).expect("valid");
        let any = "127.0.0.1:0".parse().expect("valid");
        let carrier = InsecureUdp::bind(identity.clone(), any).await.expect("a port");
        let address = carrier.local_address().expect("bound");
        (Arc::new(carrier), address, identity)
    }

    async fn next(carrier: &InsecureUdp) -> DatagramEvent {
        tokio::time::timeout(PATIENCE, carrier.recv()).await.expect("in time").expect("open")
    }

    #[tokio::test]
    async fn payloads_of_every_size_arrive_whole() {
        let (a, _, _) = port("a").await;
        let (b, address, _) = port("b").await;
        a.connect(LinkTarget { node_id: None, address });
        assert!(matches!(next(&a).await, DatagramEvent::LinkUp { direction: Direction::Outbound, .. }));
        assert!(matches!(next(&b).await, DatagramEvent::LinkUp { direction: Direction::Inbound, .. }));
        let to = "b".parse().expect("valid");
        for size in [0, 1, 1200, 1201, 20_000] {
            let payload = Bytes::from(vec![7u8; size]);
            a.send(&to, payload.clone()).expect("linked");
            let DatagramEvent::Received { payload: got, .. } = next(&b).await else { panic!("a payload") };
            assert_eq!(got, payload);
        }
        assert!(matches!(
            a.send(&to, Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1])),
            Err(DatagramError::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn nobody_there_times_out_and_garbage_is_passed_over() {
        let (a, address, _) = port("a").await;
        let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let target = LinkTarget { node_id: None, address: silent.local_addr().expect("bound") };
        for size in [0usize, 1, 8, 9, 50, 1500] {
            silent.send_to(&vec![3u8; size], address).await.expect("sent");
        }
        a.connect(target.clone());
        let DatagramEvent::ConnectFailed { target: failed, error } = next(&a).await else {
            panic!("no link")
        };
        assert_eq!((failed, error), (target, ConnectError::Timeout));
    }

    #[tokio::test]
    async fn a_cluster_forms_over_plain_udp() {
        let mut seeds = Vec::new();
        let mut nodes: Vec<GossipHandle> = Vec::new();
        for name in ["a", "b", "c"] {
            let (carrier, address, identity) = port(name).await;
            let config =
                GossipConfig { seeds: seeds.clone(), ..GossipConfig::local() }.validate().expect("valid");
            let local = LocalNode { identity, addresses: vec![address], metadata: BTreeMap::new() };
            nodes
                .push(Driver::spawn(config, local, carrier, DriverOptions::default()).await.expect("starts"));
            seeds = vec![address.to_string()];
        }
        for node in &nodes {
            let mut status = node.status_changes();
            tokio::time::timeout(PATIENCE, status.wait_for(|s| s.alive == 3))
                .await
                .expect("in time")
                .expect("runs");
        }
    }
}
