//! Peers that end, and those that come back.

use super::*;

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

#[tokio::test]
async fn a_closed_peer_is_reported_as_closed() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    b.close();
    assert_eq!(down(&a).await, LinkDownReason::Closed);
    assert!(matches!(timeout(PATIENCE, b.recv()).await, Ok(Err(DatagramError::Closed))));
}
