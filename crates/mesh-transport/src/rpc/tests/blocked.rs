//! UDP stops coming through in the middle of traffic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    harness::{Setup, World, soon, until},
    service::{Client, Seen, text},
};
use crate::rpc::{Lane, Transport};

#[tokio::test]
async fn blocked_udp_fails_no_idempotent_call_and_http3_comes_back() {
    let world = World::new(Setup::default()).await;
    let channel = world.channel(Lane::User);
    let stop = Arc::<AtomicBool>::default();
    let calls = Arc::<AtomicU64>::default();
    let slowest_ms = Arc::<AtomicU64>::default();
    soon(channel.connect()).await.unwrap();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client::new(channel.clone());
            let (stop, calls, slowest_ms) = (stop.clone(), calls.clone(), slowest_ms.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let begin = tokio::time::Instant::now();
                    client.say_idempotent(text("", 0)).await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    let took = u64::try_from(begin.elapsed().as_millis()).unwrap();
                    slowest_ms.fetch_max(took, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let on = |transport| channel.current().is_some_and(|(current, _)| current == transport);
    until(|| on(Transport::Http3) && calls.load(Ordering::Relaxed) > 100).await;

    world.path.block(true);
    until(|| on(Transport::Http2)).await;
    let before = calls.load(Ordering::Relaxed);
    until(|| calls.load(Ordering::Relaxed) > before + 100).await;
    let moved_within = Duration::from_millis(slowest_ms.load(Ordering::Relaxed));
    assert!(moved_within <= Duration::from_secs(2), "{moved_within:?}");

    world.path.block(false);
    until(|| on(Transport::Http3)).await;
    let before = calls.load(Ordering::Relaxed);
    until(|| calls.load(Ordering::Relaxed) > before + 100).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon(caller).await.expect("no call failed");
    }
}

#[tokio::test]
async fn a_handler_that_takes_its_time_is_not_taken_for_a_blocked_path() {
    let mut setup = Setup::default();
    setup.channel.silence_max = Duration::from_millis(120);
    let mut world = World::new(setup).await;
    let channel = world.channel(Lane::User);
    let mut client = Client::new(channel.clone());
    let call = tokio::spawn(async move { client.wait(text("slow", 1)).await });
    assert_eq!(world.saw().await, Seen::Waiting);
    let serial = channel.serial();
    // Many times as long as the silence that would count.
    // sleeps: a call that stays silent for long is what this tests
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.echo.go.notify_one();
    assert_eq!(soon(call).await.unwrap().unwrap().into_inner().text, "slow");
    assert_eq!(channel.serial(), serial, "the connection was kept");
}

#[tokio::test]
async fn a_call_that_may_have_been_acted_on_is_not_repeated() {
    let mut world = World::new(Setup::default()).await;
    let mut plain = Client::new(world.channel(Lane::User));
    let call = tokio::spawn(async move { plain.wait(text("", 1)).await });
    assert_eq!(world.saw().await, Seen::Waiting);
    world.path.block(true);
    let status = soon(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");

    // The same call, marked, is sent again over HTTP/2.
    world.path.block(false);
    let channel = world.channel(Lane::Control);
    let mut marked = Client::new(channel.clone());
    let call = tokio::spawn(async move { marked.wait_idempotent(2).await });
    while world.saw().await != Seen::Waiting {}
    assert_eq!(channel.current().map(|(transport, _)| transport), Some(Transport::Http3));
    world.path.block(true);
    while world.saw().await != Seen::Waiting {}
    world.echo.go.notify_waiters();
    world.echo.go.notify_one();
    assert_eq!(soon(call).await.unwrap().unwrap().into_inner().number, 2);
}
