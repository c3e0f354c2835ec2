//! Links between real sockets of the loopback interface.

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

/// A port where TCP goes to `to` and UDP goes nowhere.
async fn tcp_only(to: SocketAddr) -> (SocketAddr, UdpSocket, tokio::task::JoinHandle<()>) {
    let (listener, udp) = loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        if let Ok(udp) = UdpSocket::bind(listener.local_addr().expect("bound")) {
            break (listener, udp);
        }
    };
    let address = listener.local_addr().expect("bound");
    let relay = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.expect("the real port");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, udp, relay)
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
async fn strangers_are_refused_by_both_ends_and_the_rule_is_named() {
    let (ca, other_ca) = (ca(), DevCa::new("example.org").expect("a root"));
    let b = node(&ca, "b");
    // A stranger that trusts us, so that it is our end that refuses.
    let stranger = |request: &LeafRequest, ca: &DevCa, trust: &DevCa| {
        let mut material = ca.issue_request(request).expect("a leaf").material;
        material.trust_bundle.push(trust.root().clone());
        Identity::new(material, IdentityOptions::default()).expect("an identity")
    };
    let leaf = |uri: &str, starts_in_s, ends_in_s| LeafRequest {
        uris: vec![uri.to_owned()],
        starts_in_s,
        ends_in_s,
    };
    let cases = [
        (Rule::Chain, leaf("spiffe://example.org/mesh/demo/worker/s", -60, 600), &other_ca),
        (Rule::Cluster, leaf("spiffe://example.org/mesh/other/worker/s", -60, 600), &ca),
        (Rule::TrustDomain, leaf("spiffe://elsewhere.org/mesh/demo/worker/s", -60, 600), &ca),
        (Rule::Expired, leaf("spiffe://example.org/mesh/demo/worker/s", -600, -60), &ca),
        (Rule::NotYetValid, leaf("spiffe://example.org/mesh/demo/worker/s", 600, 1200), &ca),
    ];
    for (rule, request, issuer) in cases {
        let before = b.endpoint().metrics().refused_total(rule);
        let s = start(stranger(&request, issuer, &ca), |_| {});
        // b calls the stranger: b's verifier refuses.
        dial(&b, "s", &s);
        let error = refusal(&b).await;
        assert!(matches!(error, ConnectError::Identity(_)), "{rule}: {error}");
        assert!(error.to_string().contains(rule.as_str()), "{rule}: {error}");
        // The stranger calls b: whichever end refuses first, no link comes up.
        dial(&s, "b", &b);
        let error = refusal(&s).await;
        assert!(matches!(error, ConnectError::Identity(_)), "{rule}: {error}");
        assert!(b.endpoint().metrics().refused_total(rule) > before, "{rule} is counted");
        assert!(b.is_empty());
    }
}

#[tokio::test]
async fn the_wrong_node_at_an_address_is_refused() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    dial(&a, "c", &b);
    let error = refusal(&a).await;
    assert!(matches!(&error, ConnectError::Identity(text) if text.contains("we called c")), "{error}");
    assert!(b.is_empty());
}

#[tokio::test]
async fn rotating_certificates_keeps_the_link() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    for (links, name) in [(&a, "a"), (&b, "b")] {
        let renewed = ca.issue("demo", "worker", name, Duration::from_secs(600)).expect("a leaf");
        links.endpoint().identity().replace(renewed.material).expect("the same node");
    }
    a.send(&id("b"), Bytes::from_static(b"still here")).expect("taken");
    assert_eq!(&payload(&b).await.1[..], b"still here");
}

#[tokio::test]
async fn revocation_closes_a_live_link_at_once_and_keeps_it_closed() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    let begin = Instant::now();
    b.endpoint().identity().deny(BTreeSet::from([id("a")]));
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
    let took = begin.elapsed();
    println!("revocation to LinkDown: {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(down(&a).await, LinkDownReason::Closed);
    dial(&a, "b", &b);
    assert!(matches!(refusal(&a).await, ConnectError::Identity(_)));
}

#[tokio::test]
async fn a_revocation_list_closes_a_live_link() {
    let ca = ca();
    let leaf = ca.issue("demo", "worker", "a", Duration::from_secs(600)).expect("a leaf");
    let own = ca.issue("demo", "worker", "b", Duration::from_secs(600)).expect("a leaf").material;
    let a = start(Identity::new(leaf.material, IdentityOptions::default()).expect("an identity"), |_| {});
    let b = start(Identity::new(own.clone(), IdentityOptions::default()).expect("an identity"), |_| {});
    linked(&a, "b", &b).await;
    let mut with_list = own;
    with_list.crls = vec![ca.revoke(&[leaf.serial]).expect("a list")];
    b.endpoint().identity().replace(with_list).expect("the same node");
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
}

#[tokio::test]
async fn a_restarted_peer_is_noticed_with_the_next_packet() {
    let ca = ca();
    let a = node(&ca, "a");
    let identity = ca.identity("demo", "worker", "b").expect("an identity");
    let secret = NodeSecret::from_bytes([7; 32]);
    let bind = |address: SocketAddr| {
        let config = TransportConfig { bind: address, ..TransportConfig::loopback() };
        let config = config.validate().expect("valid settings");
        Endpoint::bind(config, identity.clone(), Some(secret.clone()))
    };
    // The first process runs in a runtime of its own, so that it can die without a goodbye.
    let (address, first) = {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (identity, secret) = (identity.clone(), secret.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.spawn(async move {
            let config = TransportConfig::loopback().validate().expect("valid settings");
            let links = Links::new(Endpoint::bind(config, identity, Some(secret)).expect("bound"))
                .expect("the first");
            let _ = sender.send(links.local_address());
            loop {
                let _ = links.recv().await;
            }
        });
        (receiver.await.expect("started"), runtime)
    };
    a.connect(target("b", address));
    up(&a).await;
    first.shutdown_background();
    let again = loop {
        // The port is free once the runtime has let go of its sockets.
        match bind(address) {
            Ok(endpoint) => break Links::new(endpoint).expect("the first"),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    // Whatever the dying runtime still said, it was no orderly close.
    let begin = Instant::now();
    let _ = a.send(&id("b"), Bytes::from_static(b"are you the same?"));
    let reason = down(&a).await;
    println!("restart noticed after {:?}: {}", begin.elapsed(), reason.as_str());
    assert_eq!(reason, LinkDownReason::Reset);
    dial(&a, "b", &again);
    up(&a).await;
}

#[tokio::test]
async fn dialling_at_once_leaves_one_link_and_no_link_down() {
    let ca = ca();
    for round in 0..10 {
        let (a, b) = (node(&ca, "a"), node(&ca, "b"));
        dial(&a, "b", &b);
        dial(&b, "a", &a);
        assert_eq!(up(&a).await.2, Direction::Outbound, "round {round}: the lower id's attempt survives");
        assert_eq!(up(&b).await.2, Direction::Inbound, "round {round}");
        for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a")] {
            from.send(&id(name), Bytes::from_static(b"hello")).expect("taken");
            assert_eq!(&payload(to).await.1[..], b"hello", "round {round}");
        }
        assert_eq!((a.len(), b.len()), (1, 1), "round {round}");
    }
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

#[tokio::test]
async fn nobody_at_the_address_means_refused_and_soon() {
    let a = node(&ca(), "a");
    let free = {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.local_addr().expect("bound")
    };
    let begin = Instant::now();
    a.connect(target("b", free));
    assert_eq!(refusal(&a).await, ConnectError::Refused);
    println!("refused after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn silence_is_a_timeout_in_bounded_time() {
    let a = start(ca().identity("demo", "worker", "a").expect("an identity"), |config| {
        config.links.connect_timeout = Duration::from_millis(300);
        config.links.head_start = Duration::from_millis(50);
    });
    // TCP connects and says nothing; UDP likewise.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let _udp = UdpSocket::bind(address);
    a.connect(target("b", address));
    assert_eq!(refusal(&a).await, ConnectError::Timeout);
}

#[tokio::test]
async fn where_udp_is_dropped_the_link_runs_over_http2() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let (address, _udp, relay) = tcp_only(b.local_address()).await;
    a.connect(target("b", address));
    assert_eq!(up(&a).await, (id("b"), LinkPath::Http2, Direction::Outbound));
    assert_eq!(up(&b).await, (id("a"), LinkPath::Http2, Direction::Inbound));
    for length in [0, 100, 5000, PAYLOAD_BYTES_MAX] {
        let sent = Bytes::from(vec![3; length]);
        a.send(&id("b"), sent.clone()).expect("taken");
        assert_eq!(payload(&b).await, (id("a"), sent.clone(), LinkPath::Http2));
        b.send(&id("a"), sent.clone()).expect("taken");
        assert_eq!(payload(&a).await.1, sent);
    }
    // A check of such a link is answered over it.
    a.connect(target("b", address));
    assert_eq!(up(&a).await.1, LinkPath::Http2);
    a.disconnect(&id("b"));
    assert_eq!(down(&a).await, LinkDownReason::Local);
    assert_eq!(down(&b).await, LinkDownReason::Closed);
    relay.abort();
}

#[tokio::test]
async fn a_link_over_http2_moves_back_to_quic_when_udp_works_again() {
    let ca = ca();
    let quick = |config: &mut TransportConfig| config.links.quic_retry_min = Duration::from_millis(50);
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), quick);
    let b = node(&ca, "b");
    let (address, udp, relay) = tcp_only(b.local_address()).await;
    a.connect(target("b", address));
    assert_eq!(up(&a).await.1, LinkPath::Http2);
    assert_eq!(up(&b).await.1, LinkPath::Http2);
    let forwarder = forward_udp(udp, b.local_address());
    assert_eq!(up(&a).await.1, LinkPath::Quic, "no LinkDown in between");
    assert_eq!(up(&b).await.1, LinkPath::Quic);
    a.send(&id("b"), Bytes::from_static(b"fast again")).expect("taken");
    assert_eq!(payload(&b).await.2, LinkPath::Quic);
    relay.abort();
    forwarder.abort();
}

/// Makes the blocked UDP half of a port work, for one client.
fn forward_udp(outside: UdpSocket, to: SocketAddr) -> tokio::task::JoinHandle<()> {
    outside.set_nonblocking(true).expect("a socket");
    let outside = tokio::net::UdpSocket::from_std(outside).expect("a socket");
    tokio::spawn(async move {
        let inside = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, address)) = outside.recv_from(&mut from_client) => {
                    client = Some(address);
                    let _ = inside.send_to(&from_client[..length], to).await;
                }
                Ok((length, _)) = inside.recv_from(&mut from_server) => {
                    if let Some(client) = client {
                        let _ = outside.send_to(&from_server[..length], client).await;
                    }
                }
            }
        }
    })
}

#[tokio::test]
async fn a_quic_link_whose_udp_is_blocked_moves_to_http2_when_it_is_checked() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let (address, udp, relay) = tcp_only(b.local_address()).await;
    let forwarder = forward_udp(udp.try_clone().expect("a socket"), b.local_address());
    a.connect(target("b", address));
    assert_eq!(up(&a).await.1, LinkPath::Quic);
    assert_eq!(up(&b).await.1, LinkPath::Quic);
    forwarder.abort();
    a.connect(target("b", address));
    assert_eq!(down(&a).await, LinkDownReason::UdpBlocked);
    assert_eq!(up(&a).await.1, LinkPath::Http2);
    assert_eq!(down(&b).await, LinkDownReason::UdpBlocked);
    assert_eq!(up(&b).await.1, LinkPath::Http2);
    relay.abort();
}

#[tokio::test]
async fn a_checked_link_whose_address_refuses_is_given_up() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let (address, udp, relay) = tcp_only(b.local_address()).await;
    let forwarder = forward_udp(udp, b.local_address());
    a.connect(target("b", address));
    up(&a).await;
    forwarder.abort();
    relay.abort();
    let _ = (forwarder.await, relay.await);
    a.connect(target("b", address));
    assert_eq!(down(&a).await, LinkDownReason::Failed);
    assert_eq!(refusal(&a).await, ConnectError::Refused);
}

#[tokio::test]
async fn without_quic_there_is_http2() {
    let ca = ca();
    let off = |config: &mut TransportConfig| config.http3.enabled = false;
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), off);
    let b = node(&ca, "b");
    dial(&a, "b", &b);
    assert_eq!(up(&a).await.1, LinkPath::Http2);
}

#[tokio::test]
async fn revocation_reaches_links_over_http2() {
    let ca = ca();
    let off = |config: &mut TransportConfig| config.http3.enabled = false;
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), off);
    let b = node(&ca, "b");
    linked(&a, "b", &b).await;
    b.endpoint().identity().deny(BTreeSet::from([id("a")]));
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
    down(&a).await;
    dial(&a, "b", &b);
    assert!(matches!(refusal(&a).await, ConnectError::Identity(_)));
}

#[tokio::test]
async fn a_closed_peer_is_reported_as_closed() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    b.close();
    assert_eq!(down(&a).await, LinkDownReason::Closed);
    assert!(matches!(timeout(PATIENCE, b.recv()).await, Ok(Err(DatagramError::Closed))));
}

#[tokio::test]
async fn a_flooding_peer_fills_its_own_share_alone() {
    let ca = ca();
    let small = |config: &mut TransportConfig| config.links.queue_max = 8;
    let b = start(ca.identity("demo", "worker", "b").expect("an identity"), small);
    let (a, c) = (node(&ca, "a"), node(&ca, "c"));
    linked(&a, "b", &b).await;
    linked(&c, "b", &b).await;
    for _ in 0..500 {
        let _ = a.send(&id("b"), Bytes::from_static(b"flood"));
        tokio::task::yield_now().await;
    }
    c.send(&id("b"), Bytes::from_static(b"quiet")).expect("taken");
    let mut before = 0;
    while payload(&b).await.0 != id("c") {
        before += 1;
    }
    assert!(before <= 500, "{before}");
    assert!(b.len() == 2);
}

#[tokio::test]
async fn garbage_on_both_ports_harms_nobody() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mut seed = 1u32;
    for length in 0..600 {
        let bytes: Vec<u8> = (0..length * 2)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        udp.send_to(&bytes, b.local_address()).expect("sent");
    }
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n"[..], &[0xff; 300], b"\x16\x03\x01\x00\x05hello", b""]
    {
        let mut tcp = TcpStream::connect(b.local_address()).await.expect("connected");
        tcp.write_all(garbage).await.expect("sent");
        if !garbage.is_empty() {
            // It is closed on us, after an alert at most.
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("closed");
            assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        }
    }
    a.send(&id("b"), Bytes::from_static(b"unharmed")).expect("taken");
    assert_eq!(&payload(&b).await.1[..], b"unharmed");
    assert!(b.endpoint().metrics().handshakes_total("tcp", "garbage") >= 2);
}

#[tokio::test]
async fn limits_of_links_and_attempts_are_told() {
    let ca = ca();
    let one = |config: &mut TransportConfig| config.links.links_max = 1;
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), one);
    let (b, c) = (node(&ca, "b"), node(&ca, "c"));
    linked(&a, "b", &b).await;
    dial(&a, "c", &c);
    assert_eq!(refusal(&a).await, ConnectError::Limit(1));
    dial(&c, "a", &a);
    let error = refusal(&c).await;
    assert!(error.to_string().contains("limit of links"), "{error}");
}

#[tokio::test]
async fn a_stalled_peer_keeps_its_link() {
    let ca = ca();
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), |config| {
        config.links.connect_timeout = Duration::from_millis(500);
        config.links.head_start = Duration::from_millis(100);
    });
    let b = node(&ca, "b");
    let (address, udp, relay) = tcp_only(b.local_address()).await;
    let forwarder = forward_udp(udp.try_clone().expect("a socket"), b.local_address());
    a.connect(target("b", address));
    assert_eq!(up(&a).await.1, LinkPath::Quic);
    // Now nothing comes back, while the system still completes TCP connections.
    forwarder.abort();
    relay.abort();
    let _ = (forwarder.await, relay.await);
    let _silent = TcpListener::bind(address).await.expect("the same port");
    a.connect(target("b", address));
    assert_eq!(refusal(&a).await, ConnectError::Timeout);
    assert_eq!(a.len(), 1);
    // When it wakes up, it is there as before.
    let forwarder = forward_udp(udp, b.local_address());
    a.connect(target("b", address));
    assert_eq!(up(&a).await.1, LinkPath::Quic);
    forwarder.abort();
}

#[tokio::test]
async fn a_restarted_peer_that_dials_is_told_apart_from_its_old_self() {
    let ca = ca();
    let a = node(&ca, "a");
    let b = node(&ca, "b");
    linked(&b, "a", &a).await;
    // Another process of b, with other keys, so that no reset can tell us.
    let again = node(&ca, "b");
    dial(&again, "a", &a);
    assert_eq!(up(&again).await.0, id("a"));
    assert_eq!(down(&a).await, LinkDownReason::Reset);
    assert_eq!(up(&a).await, (id("b"), LinkPath::Quic, Direction::Inbound));
    again.send(&id("a"), Bytes::from_static(b"new")).expect("taken");
    assert_eq!(&payload(&a).await.1[..], b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_of_dials_and_closes_every_pair_has_one_link_that_works() {
    let ca = ca();
    let names = ["a", "b", "c", "d"];
    let nodes: Vec<Arc<Links>> = names.iter().map(|name| Arc::new(node(&ca, name))).collect();
    let mut storm = Vec::new();
    for (at, from) in nodes.iter().enumerate() {
        let (from, nodes) = (Arc::clone(from), nodes.clone());
        storm.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(at as u64);
            for _ in 0..300 {
                let to = random.usize(..names.len());
                if to == at {
                    continue;
                }
                match random.u8(..4) {
                    0 => from.disconnect(&id(names[to])),
                    _ => dial(&from, names[to], &nodes[to]),
                }
                for _ in 0..random.u8(..40) {
                    tokio::task::yield_now().await;
                }
                while timeout(Duration::ZERO, from.recv()).await.is_ok() {}
            }
        }));
    }
    for part in storm {
        part.await.expect("no panic");
    }
    // Each asks once more for all others, and goes on asking while it is told that a link went down.
    for (at, from) in nodes.iter().enumerate() {
        for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != at) {
            dial(from, names[to], node);
        }
    }
    timeout(PATIENCE, async {
        loop {
            for (at, from) in nodes.iter().enumerate() {
                while let Ok(Ok(event)) = timeout(Duration::from_millis(1), from.recv()).await {
                    let peer = match event {
                        DatagramEvent::LinkDown { peer, .. } => peer,
                        DatagramEvent::ConnectFailed { target, .. } => target.node_id.expect("named"),
                        _ => continue,
                    };
                    let to = names.iter().position(|name| *name == peer.as_str()).expect("one of them");
                    assert_ne!(at, to);
                    dial(from, names[to], &nodes[to]);
                }
            }
            if nodes.iter().all(|node| node.len() == names.len() - 1) && echo_all(&nodes, &names).await {
                return;
            }
        }
    })
    .await
    .expect("they settle");
}

/// Whether each pair can talk in both directions, right now.
async fn echo_all(nodes: &[Arc<Links>], names: &[&str]) -> bool {
    for (at, from) in nodes.iter().enumerate() {
        for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != at) {
            if from.send(&id(names[to]), Bytes::copy_from_slice(names[at].as_bytes())).is_err() {
                return false;
            }
            let received = timeout(Duration::from_secs(1), async {
                loop {
                    match node.recv().await {
                        Ok(DatagramEvent::Received { from, payload, .. }) => {
                            assert_eq!(from.node_id().as_str().as_bytes(), &payload[..]);
                            if from.node_id().as_str() == names[at] {
                                return true;
                            }
                        }
                        Ok(DatagramEvent::LinkDown { .. }) | Err(_) => return false,
                        Ok(_) => {}
                    }
                }
            });
            if !received.await.unwrap_or(false) {
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_dials_never_show_a_link_going_down() {
    let ca = ca();
    let identities: Vec<_> =
        ["a", "b"].iter().map(|name| ca.identity("demo", "worker", name).expect("an identity")).collect();
    for round in 0..60u64 {
        let (a, b) = (start(identities[0].clone(), |_| {}), start(identities[1].clone(), |_| {}));
        let (target_a, target_b) = (target("a", a.local_address()), target("b", b.local_address()));
        let (a, b) = (Arc::new(a), Arc::new(b));
        let late = |links: &Arc<Links>, target: LinkTarget, micros: u64| {
            let links = Arc::clone(links);
            tokio::spawn(async move {
                // sleeps: one side dials a little later
                tokio::time::sleep(Duration::from_micros(micros)).await;
                links.connect(target);
            })
        };
        // One of them up to a few milliseconds later, so that the dials cross at every stage.
        let tasks =
            [late(&a, target_b, round % 2 * round * 100), late(&b, target_a, (round + 1) % 2 * round * 100)];
        for task in tasks {
            task.await.expect("no panic");
        }
        up(&a).await;
        up(&b).await;
        for number in 0..20u8 {
            for (from, to) in [(&a, "b"), (&b, "a")] {
                from.send(&id(to), vec![number].into()).expect("the link stays");
            }
            // sleeps: payloads spread over the time in which links settle
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        for links in [&a, &b] {
            for _ in 0..20 {
                match event(links).await {
                    DatagramEvent::Received { .. } | DatagramEvent::LinkUp { .. } => {}
                    other => panic!("round {round}: {other:?}"),
                }
            }
            assert_eq!(links.len(), 1, "round {round}");
        }
    }
}
