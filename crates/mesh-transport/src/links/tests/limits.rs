//! What is too much, too slow or no protocol at all.

use super::*;

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
    let metrics = b.endpoint().metrics();
    assert!(metrics.handshakes_total("tcp", "garbage") >= 2);
    // All but the empty one, as far as the system did not drop them itself.
    let strays = metrics.handshakes_total("quic", "garbage") + metrics.handshakes_total("quic", "protocol");
    assert!((1..600).contains(&strays), "{strays}");
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
