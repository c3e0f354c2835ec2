//! Links where UDP, TCP or both are blocked.

use super::*;

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
