//! A model of the carrier that keeps the contract of [`mesh_core::Datagrams`].
//!
//! A link is a connection that both ends know. Each end learns of its end on its
//! own: a restarted process answers packets of an old connection with a reset, a
//! closed one with a close, a vanished one not at all. Handshakes cost round
//! trips and lose packets like anything else. What is too large for a datagram is
//! sent again until it arrives or the link ends.
//!
//! Acknowledgements are not packets of their own here: an end counts as heard when
//! the way back was open as the packet was read.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    ConnectError, DatagramEvent, Direction, Instant, LinkDownReason, LinkPath, LinkTarget, NodeId,
};

use crate::{
    network::{Fate, HostId},
    program::{Program, Watch},
    world::{Event, Kind, World},
};

/// Payloads up to this size are one unreliable datagram.
pub const DATAGRAM_BYTES_MAX: usize = 1100;
/// A link that hears nothing for so long is down.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A dial that got no answer for so long has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// QUIC's lead over TCP in a dial.
const HEAD_START: Duration = Duration::from_millis(250);
/// First wait before a handshake packet is sent again; doubles each time.
const HANDSHAKE_RETRY: Duration = Duration::from_secs(1);
/// Most dials of one process at a time.
const DIALS_MAX: usize = 256;
/// Most payloads of one process that wait to be sent again.
const TRANSFERS_MAX: usize = 1024;
/// Connections that a process remembers to have closed.
const CLOSED_MAX: usize = 512;
/// Bytes of one packet, and of the first flight of a new stream.
const PACKET_BYTES: usize = 1200;
const FIRST_FLIGHT_BYTES: usize = 12 * PACKET_BYTES;

/// One connection, by the number of the dial that made it. Odd ones run over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    fn new(dial: u64, path: LinkPath) -> Self {
        Self(dial * 2 + u64::from(path == LinkPath::Http2))
    }

    fn dial(self) -> u64 {
        self.0 / 2
    }

    fn path(self) -> LinkPath {
        if self.0.is_multiple_of(2) { LinkPath::Quic } else { LinkPath::Http2 }
    }
}

/// Something on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) connection: ConnectionId,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Opens a connection.
    Hello,
    /// Accepts it.
    Welcome,
    /// Completes it.
    Confirm,
    /// No process listens at this TCP port.
    Refused,
    Payload(Bytes),
    Close,
    /// This connection is not known here.
    Reset,
}

impl Body {
    pub(crate) fn tag(&self) -> u64 {
        match self {
            Self::Hello => 0,
            Self::Welcome => 1,
            Self::Confirm => 2,
            Self::Refused => 3,
            Self::Payload(_) => 4,
            Self::Close => 5,
            Self::Reset => 6,
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Self::Payload(payload) => payload,
            _ => &[],
        }
    }
}

/// A carrier's own deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CarrierEvent {
    /// Time to send a hello, again.
    Dial(ConnectionId, u32),
    /// Time to see whether a connection still hears anything.
    Idle(ConnectionId),
    /// Time to send again what was lost.
    Resend(u64),
}

/// The carrier of one process.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connection that is the link to a peer.
    links: BTreeMap<HostId, ConnectionId>,
    dials: BTreeMap<u64, Dial>,
    transfers: BTreeMap<u64, Transfer>,
    closed: BTreeSet<ConnectionId>,
}

impl Carrier {
    fn forget_closed(&mut self, connection: ConnectionId) {
        if self.closed.len() >= CLOSED_MAX {
            self.closed.pop_first();
        }
        self.closed.insert(connection);
    }
}

#[derive(Debug)]
struct Connection {
    peer: HostId,
    direction: Direction,
    /// False until the handshake is complete at this end.
    up: bool,
    heard_at: Instant,
}

#[derive(Debug)]
struct Dial {
    target: LinkTarget,
    /// The machine at the address, if any.
    to: Option<HostId>,
    since: Instant,
}

/// A payload, or a confirmation, that is sent until it arrives.
#[derive(Debug)]
struct Transfer {
    connection: ConnectionId,
    to: HostId,
    body: Body,
    packets: usize,
    attempts: u32,
}

impl<P: Program, W: Watch<P>> World<P, W> {
    fn carrier(&mut self, host: HostId) -> Option<&mut Carrier> {
        self.hosts[host.index()].process.as_mut().map(|p| &mut p.carrier)
    }

    /// The machine at the other end of the link to a node.
    fn linked(&self, host: HostId, name: &NodeId) -> Option<HostId> {
        let links = &self.hosts[host.index()].process.as_ref()?.carrier.links;
        self.by_name.get(name)?.iter().find(|other| links.contains_key(other)).copied()
    }

    /// Another machine with the name of this one that a host has a link to.
    fn rival(&self, host: HostId, peer: HostId) -> Option<HostId> {
        self.linked(host, self.node_id(peer)).filter(|linked| *linked != peer)
    }

    fn connection(&mut self, host: HostId, id: ConnectionId) -> Option<&mut Connection> {
        self.carrier(host)?.connections.get_mut(&id)
    }

    fn later(&mut self, host: HostId, after: Duration, event: CarrierEvent) {
        let run = self.hosts[host.index()].runs;
        self.queue.push(self.now + after, Event { host, run, kind: Kind::Carrier(event) });
    }

    /// Puts a packet on the wire, unreliably.
    fn put(&mut self, from: HostId, to: HostId, connection: ConnectionId, body: Body) {
        let bytes = 60 + body.payload().len();
        let packet = Packet { from, to, connection, body };
        match self.network.fate(self.now, from, to, connection.path(), bytes) {
            Fate::Lost => {
                self.count("packets lost");
                self.line(|| format!("{from:?} > {to:?} lost: {:?}", packet.body));
            }
            Fate::Arrives(after) => self.arrives(after, packet),
            Fate::ArrivesTwice(after, again) => {
                self.arrives(after, packet.clone());
                self.arrives(again, packet);
            }
        }
    }

    fn arrives(&mut self, after: Duration, packet: Packet) {
        let host = packet.to;
        self.queue.push(self.now + after, Event { host, run: 0, kind: Kind::Packet(packet) });
    }

    /// Opens a link. The answer is an event, or is returned if it is known at once.
    pub(crate) fn connect(&mut self, host: HostId, target: LinkTarget) -> Option<DatagramEvent> {
        let failed = |target, error| Some(DatagramEvent::ConnectFailed { target, error });
        let to = self.by_address.get(&target.address).copied();
        if to == Some(host) {
            return failed(target, ConnectError::Failed("the address is our own".into()));
        }
        let wanted = target.node_id.as_ref().and_then(|id| self.linked(host, id));
        let now = self.now;
        let carrier = self.carrier(host)?;
        if carrier.dials.len() >= DIALS_MAX {
            return failed(target, ConnectError::Limit(DIALS_MAX));
        }
        if let Some(peer) = wanted
            && let Some(id) = carrier.links.get(&peer).copied()
            && id.path() == LinkPath::Quic
            // A node that moved is not at the other end any more, unless a rival of it is.
            && (to == Some(peer) || self.connection(peer, id).is_some())
            && self.quic_works(host, peer, id)
        {
            return Some(self.link_up(host, peer, id));
        }
        self.dials += 1;
        let number = self.dials;
        let carrier = self.carrier(host)?;
        carrier.dials.insert(number, Dial { target, to, since: now });
        self.later(host, Duration::ZERO, CarrierEvent::Dial(ConnectionId::new(number, LinkPath::Quic), 0));
        self.later(host, HEAD_START, CarrierEvent::Dial(ConnectionId::new(number, LinkPath::Http2), 0));
        None
    }

    /// A link that heard nothing for a second is dialled anew, to move to TCP if UDP is blocked.
    fn quic_works(&mut self, host: HostId, peer: HostId, id: ConnectionId) -> bool {
        let now = self.now;
        let open = self.network.is_open(host, peer, LinkPath::Quic)
            && self.network.is_open(peer, host, LinkPath::Quic);
        self.connection(host, id).is_some_and(|c| open || now.since(c.heard_at) < Duration::from_secs(1))
    }

    fn link_up(&self, host: HostId, peer: HostId, id: ConnectionId) -> DatagramEvent {
        let remote = &self.hosts[peer.index()];
        let process = self.hosts[host.index()].process.as_ref();
        let direction = process.and_then(|p| p.carrier.connections.get(&id)).map(|c| c.direction);
        DatagramEvent::LinkUp {
            peer: Arc::clone(&remote.identity),
            remote: remote.address,
            path: id.path(),
            direction: direction.unwrap_or(Direction::Outbound),
        }
    }

    /// Closes the link to a peer in good order.
    pub(crate) fn disconnect(&mut self, host: HostId, peer: &NodeId) -> Option<DatagramEvent> {
        let to = self.linked(host, peer)?;
        let carrier = self.carrier(host)?;
        carrier.links.remove(&to)?;
        let ids: Vec<_> =
            carrier.connections.iter().filter(|(_, c)| c.peer == to).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(carrier) = self.carrier(host) {
                carrier.connections.remove(&id);
                carrier.transfers.retain(|_, t| t.connection != id);
                carrier.forget_closed(id);
            }
            self.put(host, to, id, Body::Close);
        }
        Some(DatagramEvent::LinkDown { peer: peer.clone(), reason: LinkDownReason::Local })
    }

    /// Sends one payload over the link to a peer; without a link it is dropped.
    pub(crate) fn transmit(&mut self, host: HostId, to: &NodeId, payload: Bytes) {
        let peer = self.linked(host, to);
        let link = peer.and_then(|peer| Some((peer, *self.carrier(host)?.links.get(&peer)?)));
        let Some((peer, id)) = link else {
            self.count("payloads without a link");
            self.line(|| format!("{host:?} has no link to {to}"));
            return;
        };
        if id.path() == LinkPath::Quic && payload.len() <= DATAGRAM_BYTES_MAX {
            self.put(host, peer, id, Body::Payload(payload));
        } else {
            let packets = payload.len().div_ceil(PACKET_BYTES).max(1);
            self.send_surely(host, peer, id, Body::Payload(payload), packets);
        }
    }

    fn send_surely(
        &mut self,
        host: HostId,
        to: HostId,
        connection: ConnectionId,
        body: Body,
        packets: usize,
    ) {
        let Some(carrier) = self.carrier(host) else { return };
        if carrier.transfers.len() >= TRANSFERS_MAX {
            self.count("payloads refused as busy");
            return;
        }
        self.transfers += 1;
        let number = self.transfers;
        self.try_transfer(host, number, Transfer { connection, to, body, packets, attempts: 0 });
    }

    fn try_transfer(&mut self, host: HostId, number: u64, mut transfer: Transfer) {
        let Transfer { connection, to, ref body, packets, attempts } = transfer;
        let lost = self.network.lost(host, to, connection.path(), packets);
        let travel =
            if lost == 0 { self.network.travel(self.now, host, to, 60 + body.payload().len()) } else { None };
        if let Some(travel) = travel {
            // A stream starts slowly: each round trip doubles what may be under way.
            let flights = (body.payload().len() / FIRST_FLIGHT_BYTES + 1).ilog2();
            let after = travel + self.network.latency(host, to) * 2 * flights;
            self.arrives(after, Packet { from: host, to, connection, body: transfer.body });
            return;
        }
        self.count("transfers delayed");
        self.line(|| format!("{host:?} > {to:?} to be sent again, {lost} of {packets} packets lost"));
        let wait = (self.network.latency(host, to) * 3 + Duration::from_millis(25)) * (1 << attempts.min(6));
        transfer.packets = lost.max(1);
        transfer.attempts += 1;
        if let Some(carrier) = self.carrier(host) {
            carrier.transfers.insert(number, transfer);
        }
        self.later(host, wait.min(Duration::from_secs(3)), CarrierEvent::Resend(number));
    }

    pub(crate) fn carrier_event(&mut self, host: HostId, event: CarrierEvent) {
        match event {
            CarrierEvent::Dial(id, attempt) => self.dial(host, id, attempt),
            CarrierEvent::Idle(id) => self.idle(host, id),
            CarrierEvent::Resend(number) => {
                let transfer = self.carrier(host).and_then(|c| c.transfers.remove(&number));
                if let Some(transfer) = transfer {
                    self.try_transfer(host, number, transfer);
                }
            }
        }
    }

    fn dial(&mut self, host: HostId, id: ConnectionId, attempt: u32) {
        let now = self.now;
        let Some(dial) = self.carrier(host).and_then(|c| c.dials.get(&id.dial())) else { return };
        let (to, waited) = (dial.to, now.since(dial.since));
        if waited >= DIAL_TIMEOUT {
            self.dial_failed(host, id, ConnectError::Timeout);
            return;
        }
        if let Some(to) = to {
            self.put(host, to, id, Body::Hello);
        }
        let wait = HANDSHAKE_RETRY * (1 << attempt.min(4));
        self.later(host, wait.min(DIAL_TIMEOUT.saturating_sub(waited)), CarrierEvent::Dial(id, attempt + 1));
    }

    fn dial_failed(&mut self, host: HostId, id: ConnectionId, error: ConnectError) {
        if let Some(dial) = self.carrier(host).and_then(|c| c.dials.remove(&id.dial())) {
            self.emit(host, DatagramEvent::ConnectFailed { target: dial.target, error });
        }
    }

    fn idle(&mut self, host: HostId, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connection(host, id) else { return };
        let (peer, heard_at) = (connection.peer, connection.heard_at);
        let silent = now.since(heard_at);
        if silent < IDLE_TIMEOUT {
            self.later(host, IDLE_TIMEOUT.saturating_sub(silent), CarrierEvent::Idle(id));
            return;
        }
        let both_ways = |world: &Self, path| {
            world.network.is_open(host, peer, path) && world.network.is_open(peer, host, path)
        };
        let answers = !self.is_stalled(peer) && self.connection(peer, id).is_some();
        if self.habits.keep_alive && answers && both_ways(self, id.path()) {
            if let Some(connection) = self.connection(host, id) {
                connection.heard_at = now;
            }
            self.later(host, IDLE_TIMEOUT, CarrierEvent::Idle(id));
            return;
        }
        let blocked = id.path() == LinkPath::Quic
            && !both_ways(self, LinkPath::Quic)
            && both_ways(self, LinkPath::Http2);
        let reason = if blocked { LinkDownReason::UdpBlocked } else { LinkDownReason::Idle };
        self.connection_ended(host, id, reason);
    }

    /// Forgets a connection; the core hears of it if that was the link.
    fn connection_ended(&mut self, host: HostId, id: ConnectionId, reason: LinkDownReason) {
        let Some(carrier) = self.carrier(host) else { return };
        let Some(connection) = carrier.connections.remove(&id) else { return };
        carrier.transfers.retain(|_, t| t.connection != id);
        let peer = connection.peer;
        if carrier.links.get(&peer) != Some(&id) {
            return;
        }
        // Both ends may have kept a second connection from dialling at once.
        let spare = carrier.connections.iter().find(|(_, c)| c.peer == peer && c.up).map(|(id, _)| *id);
        match spare {
            Some(spare) => {
                carrier.links.insert(peer, spare);
                if spare.path() != id.path() {
                    let event = self.link_up(host, peer, spare);
                    self.emit(host, event);
                }
            }
            None => {
                carrier.links.remove(&peer);
                let peer = self.node_id(peer).clone();
                self.emit(host, DatagramEvent::LinkDown { peer, reason });
            }
        }
    }

    /// A packet reached a machine on which no process listens.
    pub(crate) fn packet_at_dead_process(&mut self, packet: Packet) {
        let Packet { from, to, connection, body } = packet;
        if connection.path() != LinkPath::Http2 || self.network.lines[to.index()].gone {
            return;
        }
        match body {
            Body::Hello => self.put(to, from, connection, Body::Refused),
            Body::Welcome | Body::Confirm | Body::Payload(_) => self.put(to, from, connection, Body::Reset),
            Body::Refused | Body::Close | Body::Reset => {}
        }
    }

    /// A packet is read by the process it is for.
    pub(crate) fn packet_arrived(&mut self, packet: Packet) {
        let Packet { from, to: host, connection: id, body } = packet;
        match body {
            Body::Hello => self.hello(host, from, id),
            Body::Welcome => self.welcome(host, from, id),
            Body::Refused => self.dial_failed(host, id, ConnectError::Refused),
            Body::Close => self.connection_ended(host, id, LinkDownReason::Closed),
            Body::Reset => self.connection_ended(host, id, LinkDownReason::Reset),
            Body::Confirm => {
                self.heard(host, from, id);
            }
            Body::Payload(payload) => {
                if self.heard(host, from, id) {
                    let from = Arc::clone(&self.hosts[from.index()].identity);
                    self.emit(host, DatagramEvent::Received { from, payload, path: id.path() });
                }
            }
        }
    }

    fn hello(&mut self, host: HostId, from: HostId, id: ConnectionId) {
        let now = self.now;
        let Some(carrier) = self.carrier(host) else { return };
        if carrier.closed.contains(&id) {
            return;
        }
        if let Entry::Vacant(place) = carrier.connections.entry(id) {
            place.insert(Connection { peer: from, direction: Direction::Inbound, up: false, heard_at: now });
            self.later(host, IDLE_TIMEOUT, CarrierEvent::Idle(id));
        }
        self.put(host, from, id, Body::Welcome);
    }

    fn welcome(&mut self, host: HostId, from: HostId, id: ConnectionId) {
        let now = self.now;
        let answered = self.node_id(from).clone();
        let Some(carrier) = self.carrier(host) else { return };
        if carrier.connections.contains_key(&id) {
            return;
        }
        let Some(dial) = carrier.dials.remove(&id.dial()) else {
            self.put(host, from, id, Body::Reset);
            return;
        };
        if let Some(wanted) = &dial.target.node_id
            && *wanted != answered
        {
            let error = ConnectError::Identity(format!("{answered} answered"));
            self.put(host, from, id, Body::Close);
            self.emit(host, DatagramEvent::ConnectFailed { target: dial.target, error });
            return;
        }
        let connection = Connection { peer: from, direction: Direction::Outbound, up: false, heard_at: now };
        carrier.connections.insert(id, connection);
        self.later(host, IDLE_TIMEOUT, CarrierEvent::Idle(id));
        self.send_surely(host, from, id, Body::Confirm, 1);
        self.complete(host, from, id);
    }

    /// Takes note that a connection was heard; false if it is not known here.
    fn heard(&mut self, host: HostId, from: HostId, id: ConnectionId) -> bool {
        let now = self.now;
        let Some(carrier) = self.carrier(host) else { return false };
        let Some(connection) = carrier.connections.get_mut(&id) else {
            let answer = if carrier.closed.contains(&id) { Body::Close } else { Body::Reset };
            self.put(host, from, id, answer);
            return false;
        };
        connection.heard_at = connection.heard_at.max(now);
        let up = connection.up;
        if self.network.is_open(host, from, id.path()) {
            let back = now + self.network.latency(host, from);
            if let Some(other) = self.connection(from, id) {
                other.heard_at = other.heard_at.max(back);
            }
        }
        if !up {
            self.complete(host, from, id);
        }
        self.connection(host, id).is_some()
    }

    /// The handshake is complete at this end.
    fn complete(&mut self, host: HostId, peer: HostId, id: ConnectionId) {
        if let Some(connection) = self.connection(host, id) {
            connection.up = true;
        }
        if let Some(rival) = self.rival(host, peer) {
            // There is one link to a node, and the run that came last has it.
            let gone = self.node_id(rival).clone();
            self.disconnect(host, &gone);
            if self.habits.announce_replaced {
                self.emit(host, DatagramEvent::LinkDown { peer: gone, reason: LinkDownReason::Reset });
            }
        }
        let old = self.carrier(host).and_then(|c| c.links.get(&peer).copied());
        let stale = old.is_some_and(|old| self.connection(peer, old).is_none());
        let link = match old {
            // Both dialled at once: the same one of two is kept at both ends.
            Some(old) if !stale && old.path() == id.path() => old.min(id),
            _ => id,
        };
        if let Some(carrier) = self.carrier(host) {
            if let Some(old) = old.filter(|_| stale) {
                carrier.connections.remove(&old);
                carrier.transfers.retain(|_, t| t.connection != old);
            }
            carrier.links.insert(peer, link);
        }
        if stale && self.habits.announce_replaced {
            let peer = self.node_id(peer).clone();
            self.emit(host, DatagramEvent::LinkDown { peer, reason: LinkDownReason::Reset });
        }
        let event = self.link_up(host, peer, link);
        self.emit(host, event);
    }

    /// The process was killed: its kernel resets its TCP connections.
    pub(crate) fn carrier_died(&mut self, host: HostId) {
        self.end_connections(host, |id| (id.path() == LinkPath::Http2).then_some(Body::Reset));
    }

    /// The process ends in good order: it closes its connections.
    pub(crate) fn carrier_closed(&mut self, host: HostId) {
        self.end_connections(host, |_| Some(Body::Close));
    }

    fn end_connections(&mut self, host: HostId, goodbye: impl Fn(ConnectionId) -> Option<Body>) {
        let Some(carrier) = self.carrier(host) else { return };
        let connections: Vec<_> = carrier.connections.iter().map(|(id, c)| (*id, c.peer)).collect();
        for (id, peer) in connections {
            if let Some(body) = goodbye(id) {
                self.put(host, peer, id, body);
            }
        }
    }
}
