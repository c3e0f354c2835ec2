//! Choosing a transport, replacing connections, and draining.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tonic::Code;

use super::{
    harness::{Setup, World, counter, soon, until},
    service::{Client, Seen, text},
};
use crate::{
    TransportConfig,
    rpc::{Lane, Reason, Target, Transport},
};

const BOTH: [Transport; 2] = [Transport::Http3, Transport::Http2];

fn without_quic() -> Setup {
    let mut transport = TransportConfig::default();
    transport.http3.enabled = false;
    Setup { transport, ..Setup::default() }
}

#[tokio::test]
async fn without_quic_at_the_server_http2_serves_after_the_head_start() {
    let mut setup = without_quic();
    setup.channel.connect_timeout = Duration::from_millis(700);
    setup.channel.retry_min = Duration::from_secs(60);
    let world = World::new(setup).await;
    let channel = world.channel(Lane::User);
    let mut client = Client::new(channel.clone());
    let begin = tokio::time::Instant::now();
    let answer = soon(client.say(text("", 1))).await.unwrap();
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(100), "the head start is kept: {took:?}");
    assert!(took < Duration::from_millis(600), "and is not exceeded by much: {took:?}");
    assert_eq!(answer.metadata().get("rpc-transport").unwrap(), "h2;reason=race-lost");
    assert_eq!(counter(&world.client, "mesh_transport_downgrades_total{reason=\"race-lost\"}"), 1);

    // The straggler fails in the end, and that is remembered: the next connection does
    // not wait for HTTP/3.
    until(|| channel.is_http3_broken()).await;
    channel.drop_connection();
    let begin = tokio::time::Instant::now();
    let answer = soon(client.say(text("", 1))).await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    assert_eq!(answer.metadata().get("rpc-transport").unwrap(), "h2;reason=remembered-broken");
    assert_eq!(counter(&world.client, "mesh_transport_downgrades_total{reason=\"remembered-broken\"}"), 1);
}

#[tokio::test]
async fn a_peer_known_to_lack_http3_is_called_over_http2_at_once() {
    let world = World::new(Setup::default()).await;
    let target = Target { http3: Some(false), ..world.target() };
    let mut client = Client::new(world.channels.open(target, Lane::Control));
    let answer = soon(client.say(text("", 1))).await.unwrap();
    assert_eq!(answer.metadata().get("rpc-transport").unwrap(), "h2;reason=peer-capability");
}

#[tokio::test]
async fn lanes_have_connections_of_their_own_and_channels_are_shared() {
    let world = World::new(Setup::default()).await;
    let channels = [Lane::Control, Lane::Heartbeat, Lane::User].map(|lane| world.channel(lane));
    for channel in &channels {
        assert_eq!(soon(channel.connect()).await.unwrap(), (Transport::Http3, Reason::Negotiated));
    }
    assert_eq!(world.client.connections(), 3);
    let same = world.channel(Lane::Control);
    assert_eq!(same.current(), Some((Transport::Http3, Reason::Negotiated)));
    soon(Client::new(same).say(text("", 1))).await.unwrap();
    assert_eq!(world.client.connections(), 3);
    drop(channels);
    until(|| world.client.connections() == 0).await;
}

#[tokio::test]
async fn connections_are_replaced_by_age_without_a_failed_call() {
    for lane in [Lane::User, Lane::Bulk] {
        let mut setup = Setup::default();
        setup.channel.connection_age_max = Duration::from_millis(100);
        let world = World::new(setup).await;
        let channel = world.channel(lane);
        let mut client = Client::new(channel.clone());
        let mut connections = 0;
        let mut calls = 0;
        soon(async {
            let mut last = 0;
            while connections < 4 {
                // Not marked idempotent: replacement alone must not fail a call.
                client.say(text("", calls)).await.unwrap();
                calls += 1;
                let serial = channel.serial();
                connections += u32::from(serial != last);
                last = serial;
            }
        })
        .await;
        assert!(calls >= 4, "{lane}");
    }
}

#[tokio::test]
async fn a_drain_completes_what_is_at_work() {
    for transport in BOTH {
        let mut world = World::new(Setup::default()).await;
        let mut client = world.over(transport);
        let mut waiting = client.clone();
        let call = tokio::spawn(async move { waiting.wait(text("done", 1)).await });
        assert_eq!(world.saw().await, Seen::Waiting);
        let rpc = world.rpc.clone();
        let drain = tokio::spawn(async move { rpc.shutdown().await });
        until(|| world.rpc.is_shutting_down()).await;
        // sleeps: the drain must not end while the request is at work
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!drain.is_finished(), "{transport}: a request is at work");
        world.echo.go.notify_one();
        let answer = soon(call).await.unwrap();
        assert_eq!(answer.unwrap().into_inner().text, "done", "{transport}");
        soon(drain).await.unwrap();
        let status = soon(client.say(text("", 0))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{transport}: {status:?}");
    }
}

#[tokio::test]
async fn calls_during_a_drain_succeed_or_were_certainly_not_acted_on() {
    for transport in BOTH {
        let world = World::new(Setup::default()).await;
        let stop = Arc::<AtomicBool>::default();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, stop) = (world.over(transport), stop.clone());
                tokio::spawn(async move {
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        match client.say(text("", 0)).await {
                            Ok(_) => answered += 1,
                            Err(status) => {
                                let error = std::error::Error::source(&status)
                                    .and_then(|source| source.downcast_ref::<crate::rpc::ChannelError>());
                                assert!(error.is_some_and(|error| error.is_unsent()), "{status:?}");
                                tokio::task::yield_now().await;
                            }
                        }
                    }
                    answered
                })
            })
            .collect();
        let mut warm = world.over(transport);
        for _ in 0..50 {
            soon(warm.say(text("", 0))).await.unwrap();
        }
        soon(world.rpc.shutdown()).await;
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            assert!(soon(caller).await.unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn a_restarted_peer_is_noticed_without_waiting_for_silence() {
    let mut world = World::new(Setup::default()).await;
    let channel = world.channel(Lane::User);
    let mut client = Client::new(channel.clone());
    soon(client.say(text("", 1))).await.unwrap();
    let before = channel.serial();

    // As after `kill -9`: nothing of its end reaches the client.
    world.path.block(true);
    world.restart_server().await;
    world.path.block(false);

    let begin = tokio::time::Instant::now();
    let answer = soon(client.say_idempotent(text("", 2))).await.unwrap();
    let took = begin.elapsed();
    assert_eq!(answer.metadata().get("rpc-transport").unwrap(), "h3;reason=negotiated");
    assert!(channel.serial() > before);
    // Silence would have taken 600 ms, and HTTP/3 would then count as broken.
    assert!(took < Duration::from_millis(400), "{took:?}");
}
