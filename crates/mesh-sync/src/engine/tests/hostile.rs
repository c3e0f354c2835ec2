//! Peers that don't keep to the rules, and nodes that are not let in.

use std::time::Duration;

use bytes::Bytes;

use super::bench::*;
use crate::{
    bootstrap::AccessState,
    config::Access,
    engine::{Engine, Proof, ServeError, Wire},
    memory::{self, MemoryNetwork},
    ticket::Ticket,
};

async fn lone(number: u8, access: Access) -> (MemoryNetwork, Engine) {
    let network = MemoryNetwork::default();
    let engine = start(&network, number, config(access), &Disk::default()).await;
    (network, engine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_proves_nothing_is_told_nothing() {
    let (_network, engine) = lone(1, Access::Cluster).await;
    let sync = engine.handle();
    sync.put(&notes(), &list(), "secret", "1").await.expect("written");
    for garbage in [&b""[..], b"\x01garbage", &[7; 40_000], b"notes"] {
        let (mut ours, theirs) = memory::stream();
        let serving = tokio::spawn({
            let handler = sync.handler();
            async move { handler.serve(theirs).await }
        });
        ours.sender.send(Bytes::copy_from_slice(garbage)).await.expect("it listens");
        let served = soon(serving).await.expect("no panic");
        assert!(matches!(served, Err(ServeError::Handshake(_) | ServeError::Malformed(_))), "{served:?}");
        while let Some(answer) = ours.receiver.recv().await {
            assert_eq!(answer.len(), 2, "a refusal and nothing else");
        }
    }
    let status = sync.status().await;
    assert!(status.datasets[0].peers.is_empty(), "nobody was registered");
    assert!(status.connected.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_and_a_copied_key_are_turned_away() {
    let (network, engine) = lone(1, Access::Cluster).await;
    let mut other =
        options(2, std::sync::Arc::new(network.carrier(&node(2))), config(Access::Cluster), &Disk::default());
    other.cluster = mesh_core::ClusterName::new("other").expect("valid");
    let stranger = Engine::start(other).await.expect("starts");
    let refused = stranger.handle().connect(&node(1)).await.expect_err("another cluster");
    assert!(std::error::Error::source(&refused).is_some(), "{refused}");
    let mut copy =
        options(3, std::sync::Arc::new(network.carrier(&node(3))), config(Access::Cluster), &Disk::default());
    copy.author = key(1);
    let copy = Engine::start(copy).await.expect("starts");
    copy.handle().connect(&node(1)).await.expect_err("the same key");
    assert!(engine.handle().status().await.connected.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_garbage_after_its_proof_is_cut_off_and_delays_nobody() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    let (mut ours, theirs) = memory::stream();
    let serving = tokio::spawn({
        let handler = a.handler();
        async move { handler.serve(theirs).await }
    });
    prove(&mut ours, 9).await;
    ours.sender.send(Bytes::from_static(b"\x00\x01\x00\xff\xff\xff")).await.expect("it listens");
    let served = soon(serving).await.expect("no panic");
    assert!(matches!(served, Err(ServeError::Malformed(_))), "{served:?}");
    a.put(&notes(), &list(), "key", "1").await.expect("written");
    has(&b, "key", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_nothing_delays_nobody() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    let (mut ours, theirs) = memory::stream();
    let serving = tokio::spawn({
        let handler = a.handler();
        async move { handler.serve(theirs).await }
    });
    prove(&mut ours, 9).await;
    until(|| async { a.status().await.connected.len() == 2 }).await;
    // Far more than fits into the stream and its lanes.
    for at in 0..200 {
        a.put(&notes(), &list(), format!("key {at}"), vec![7; 50_000]).await.expect("written");
    }
    a.put(&notes(), &list(), "last", "here").await.expect("written");
    tokio::time::timeout(Duration::from_secs(20), has(&b, "last", "here")).await.expect("nobody waits");
    serving.abort();
}

/// Proves a key over a stream that proves nothing, as an initiator.
async fn prove(wire: &mut Wire, number: u8) {
    use crate::handshake::{Claimant, Features, HandshakeNonce, Initiator, Limits, Offer, Terms, Us};
    assert_eq!(wire.proof, Proof::Nothing);
    let terms = Terms {
        versions: Claimant::VERSIONS,
        cluster: mesh_core::ClusterName::new("test").expect("valid"),
        node: node(number),
        limits: Limits::default(),
        features: Features::default(),
    };
    let us = Us { key: key(number), terms };
    let offer = Offer { dataset: notes(), prune_digest: [0; 32] };
    let (initiator, hello) = Initiator::begin(us, None, vec![offer], HandshakeNonce([number; 32]));
    wire.sender.send(hello.into()).await.expect("it listens");
    let answer = soon(wire.receiver.recv()).await.expect("an answer");
    let (waiting, proof) = initiator.handle_answer(&answer).expect("proved");
    wire.sender.send(proof.into()).await.expect("it listens");
    let verdict = soon(wire.receiver.recv()).await.expect("a verdict");
    waiting.handle_verdict(&verdict).expect("let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_with_a_ticket_and_waits_for_an_operator() {
    let (network, host) = lone(1, Access::Ask).await;
    let host = host.handle();
    host.put(&notes(), &list(), "key", "1").await.expect("written");
    let ticket: Ticket =
        host.ticket(&notes()).expect("it has an address").to_string().parse().expect("valid");
    let empty = crate::config::SyncConfig { datasets: Vec::new(), ..config(Access::Ask) };
    let disk = Disk::default();
    let guest_engine = start(&network, 2, empty.clone(), &disk).await;
    let guest = guest_engine.handle();
    assert_eq!(guest.join(&ticket, "a laptop").await.expect("asked"), AccessState::Pending);
    let requests = host.requests(None).expect("lists");
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].1.request.node.clone(), requests[0].1.request.note.as_str()),
        (node(2), "a laptop")
    );
    assert_eq!(guest.status().await.datasets[0].entries, 0, "nothing before the answer");
    host.approve(&notes(), &guest.author()).await.expect("pending");
    has(&guest, "key", "1").await;
    // It is known over a restart.
    guest_engine.shutdown().await;
    host.put(&notes(), &list(), "key", "2").await.expect("written");
    let guest = start(&network, 2, empty, &disk).await;
    has(&guest.handle(), "key", "2").await;
    // And turned away again.
    host.reject(&notes(), &guest.handle().author(), "it was sold").await.expect("known");
    host.put(&notes(), &list(), "key", "3").await.expect("written");
    let answer = guest.handle().join(&ticket, "a laptop").await.expect("answered");
    assert_eq!(answer, AccessState::Rejected { reason: "it was sold".into() });
    assert_eq!(value(&guest.handle(), "key").await.as_deref(), Some(&b"2"[..]));
}

#[test]
fn callers_without_a_runtime_write_and_read() {
    let network = MemoryNetwork::default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
    let options =
        options(1, std::sync::Arc::new(network.carrier(&node(1))), config(Access::Cluster), &Disk::default());
    let sync = crate::engine::BlockingSync::start(std::sync::Arc::new(runtime), options).expect("starts");
    sync.wait(|sync| async move { sync.put(&notes(), &list(), "key", "1").await }).expect("written");
    let read = sync.wait(|sync| async move { value(&sync, "key").await });
    assert_eq!(read.as_deref(), Some(&b"1"[..]));
    let handle = sync.handle().clone();
    sync.shutdown();
    assert!(handle.datasets().is_empty());
}
