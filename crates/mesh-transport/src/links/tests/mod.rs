//! Links between real sockets of the loopback interface.

mod identity;
mod limits;
mod paths;
mod races;
mod restart;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use mesh_core::{Direction, Settings};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::*;
use crate::{
    TransportConfig,
    ca::{DevCa, LeafRequest},
    endpoint::NodeSecret,
    identity::{Identity, IdentityOptions},
    tls::Rule,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn ca() -> DevCa {
    DevCa::new("example.org").expect("a root")
}

fn id(name: &str) -> NodeId {
    name.parse().expect("valid")
}

fn start(identity: Identity, change: impl FnOnce(&mut TransportConfig)) -> Links {
    let mut config = TransportConfig::loopback();
    config.links.connect_timeout = Duration::from_secs(10);
    change(&mut config);
    let config = config.validate().expect("valid settings");
    Links::new(Endpoint::bind(config, identity, None).expect("bound")).expect("the first")
}

fn node(ca: &DevCa, name: &str) -> Links {
    start(ca.identity("demo", "worker", name).expect("an identity"), |_| {})
}

fn target(name: &str, address: SocketAddr) -> LinkTarget {
    LinkTarget { node_id: Some(id(name)), address }
}

fn dial(from: &Links, name: &str, to: &Links) {
    from.connect(target(name, to.local_address()));
}

async fn event(links: &Links) -> DatagramEvent {
    timeout(PATIENCE, links.recv()).await.expect("an event in time").expect("not closed")
}

async fn up(links: &Links) -> (NodeId, LinkPath, Direction) {
    match event(links).await {
        DatagramEvent::LinkUp { peer, path, direction, .. } => (peer.node_id().clone(), path, direction),
        other => panic!("expected a link, got {other:?}"),
    }
}

async fn down(links: &Links) -> LinkDownReason {
    match event(links).await {
        DatagramEvent::LinkDown { reason, .. } => reason,
        other => panic!("expected the link to go down, got {other:?}"),
    }
}

async fn refusal(links: &Links) -> ConnectError {
    match event(links).await {
        DatagramEvent::ConnectFailed { error, .. } => error,
        other => panic!("expected a failure, got {other:?}"),
    }
}

async fn payload(links: &Links) -> (NodeId, Bytes, LinkPath) {
    match event(links).await {
        DatagramEvent::Received { from, payload, path } => (from.node_id().clone(), payload, path),
        other => panic!("expected a payload, got {other:?}"),
    }
}

/// A link from `a` to `b`, with both events taken.
async fn linked(a: &Links, name_of_b: &str, b: &Links) {
    dial(a, name_of_b, b);
    up(a).await;
    up(b).await;
}

#[tokio::test]
async fn two_nodes_link_and_exchange_small_and_large_payloads() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    dial(&a, "b", &b);
    assert_eq!(up(&a).await, (id("b"), LinkPath::Quic, Direction::Outbound));
    assert_eq!(up(&b).await, (id("a"), LinkPath::Quic, Direction::Inbound));
    for length in [0, 1, 1100, 1101, 100_000, PAYLOAD_BYTES_MAX] {
        let sent = Bytes::from(vec![length as u8; length]);
        a.send(&id("b"), sent.clone()).expect("taken");
        assert_eq!(payload(&b).await, (id("a"), sent.clone(), LinkPath::Quic), "{length}");
        b.send(&id("a"), sent.clone()).expect("taken");
        assert_eq!(payload(&a).await.1, sent, "{length}");
    }
}

#[tokio::test]
async fn a_payload_is_refused_with_the_limit_or_for_want_of_a_link() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    let bytes = PAYLOAD_BYTES_MAX + 1;
    assert_eq!(
        a.send(&id("b"), vec![0; bytes].into()),
        Err(DatagramError::TooLarge { bytes, bytes_max: PAYLOAD_BYTES_MAX })
    );
    assert_eq!(a.send(&id("c"), Bytes::new()), Err(DatagramError::NotConnected { peer: id("c") }));
}

#[tokio::test]
async fn a_seed_is_called_without_its_name() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    a.connect(LinkTarget { node_id: None, address: b.local_address() });
    assert_eq!(up(&a).await.0, id("b"));
}

#[tokio::test]
async fn a_node_that_calls_itself_is_told() {
    let a = node(&ca(), "a");
    a.connect(LinkTarget { node_id: None, address: a.local_address() });
    let error = refusal(&a).await;
    assert!(error.to_string().contains("is this one"), "{error}");
}

#[tokio::test]
async fn asking_again_for_a_live_link_repeats_its_announcement() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    dial(&a, "b", &b);
    assert_eq!(up(&a).await, (id("b"), LinkPath::Quic, Direction::Outbound));
    // The other end, too, and it did not open the link.
    dial(&b, "a", &a);
    assert_eq!(up(&b).await, (id("a"), LinkPath::Quic, Direction::Inbound));
}

#[tokio::test]
async fn each_call_is_answered_even_if_they_share_an_attempt() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    for _ in 0..3 {
        dial(&a, "b", &b);
    }
    for _ in 0..3 {
        up(&a).await;
    }
}
