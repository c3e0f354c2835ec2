//! Watches that outlive their voters.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    Revision,
    store::{
        Change, Operation, Overflow, Prefix, StoreError, Txn, VersionedStore, WatchEvent, WatchFrom,
        WatchOptions, WatchStream,
    },
};
use mesh_transport::rpc::Target;
use tokio::sync::watch;

use super::harness::{Says, World, key, node, put, service, service_with, soon};
use crate::{Leadership, MemoryStore, RemoteConfig, RemoteStore, ServiceConfig};

async fn next(watch: &mut WatchStream) -> WatchEvent {
    soon(watch.next()).await.expect("goes on").expect("no error")
}

/// The next revision that changed something.
async fn next_changes(watch: &mut WatchStream) -> (Revision, Vec<Change>) {
    loop {
        match next(watch).await {
            WatchEvent::Changes { revision, changes } => return (revision, changes),
            WatchEvent::Bookmark { .. } => {}
            gap @ WatchEvent::Gap { .. } => panic!("{gap:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_nothing_and_repeats_nothing_while_its_voters_die() {
    const CHANGES: u64 = 600;
    let world = World::new();
    let memory = MemoryStore::new();
    let store_service = service(memory.clone());
    let first = world.voter("v-0", &store_service);
    let (list, voters) = watch::channel::<Arc<[Target]>>(Arc::new([first.target()]));
    let config = mesh_core::Settings::validate(RemoteConfig::default()).expect("valid");
    let store = RemoteStore::new(world.channels("worker", "w-1"), Arc::new(voters), config);
    let mut watch =
        store.watch(&Prefix::all(), WatchFrom::Now, WatchOptions::default()).await.expect("begun");

    let writer = tokio::spawn({
        let memory = memory.clone();
        async move {
            for at in 0..CHANGES {
                memory.transact(put(&format!("k/{}", at % 7), at.to_string())).await.expect("applied");
                tokio::task::yield_now().await;
            }
        }
    });
    let mut voter = first;
    for expected in 1..=CHANGES {
        let (revision, changes) = next_changes(&mut watch).await;
        assert_eq!((revision.0, changes.len()), (expected, 1));
        if expected % 100 == 0 {
            // The successor is there before its predecessor dies.
            let successor = world.voter(&format!("v-{expected}"), &store_service);
            list.send_replace(Arc::new([successor.target()]));
            voter.kill();
            voter = successor;
        }
    }
    soon(writer).await.expect("ran");
    assert!(store.counters().watches_resumed_total() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_now_on_loses_nothing_even_if_its_voter_dies_before_the_first_change() {
    let world = World::new();
    let memory = MemoryStore::new();
    memory.transact(put("before", "x")).await.expect("applied");
    let store_service = service(memory.clone());
    let (one, two) = (world.voter("v-1", &store_service), world.voter("v-2", &store_service));
    let store = world.remote("w-1", &[&one, &two]);
    let mut watch =
        store.watch(&Prefix::all(), WatchFrom::Now, WatchOptions::default()).await.expect("begun");
    one.kill();
    memory.transact(put("after", "x")).await.expect("applied");
    let (revision, changes) = next_changes(&mut watch).await;
    assert_eq!((revision, changes[0].key()), (Revision(2), &key("after")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_watch_is_taken_up_elsewhere() {
    let world = World::new();
    let memory = MemoryStore::new();
    let silent = ServiceConfig { watch_heartbeat: Duration::from_secs(60), ..ServiceConfig::default() };
    let talking = ServiceConfig { watch_heartbeat: Duration::from_millis(20), ..ServiceConfig::default() };
    let one = world.voter("v-1", &service_with(memory.clone(), silent));
    let two = world.voter("v-2", &service_with(memory.clone(), talking));
    let config = RemoteConfig { watch_silence_max: Duration::from_millis(400), ..RemoteConfig::default() };
    let store = world.remote_as("worker", "w-1", &[&one, &two], config);
    let mut watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default())
        .await
        .expect("begun");
    let resumed = async {
        while store.counters().watches_resumed_total() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        event = next(&mut watch) => panic!("nothing was written: {event:?}"),
        () = soon(resumed) => {}
    }
    memory.transact(put("a", "x")).await.expect("applied");
    assert_eq!(next_changes(&mut watch).await.0, Revision(1));
    assert_eq!(store.counters().watches_resumed_total(), 1, "signs of life keep it where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_leader_that_fell_silent_goes_on_when_another_leads() {
    let world = World::new();
    let memory = MemoryStore::new();
    let (one, two) = (Says::new(Leadership::Here), Says::new(Leadership::There(node("v-1"))));
    // The first is as good as dead: nothing is said on its watches for longer than this test lasts.
    let silent = ServiceConfig { watch_heartbeat: Duration::from_secs(60), ..ServiceConfig::default() };
    let first = world.voter("v-1", &one.serve_with(MemoryStore::new(), silent));
    let second = world.voter("v-2", &two.serve(memory.clone()));
    let config = RemoteConfig { watch_silence_max: Duration::from_secs(60), ..RemoteConfig::default() };
    let store = world.remote_as("worker", "w-1", &[&first, &second], config);
    let mut watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default())
        .await
        .expect("begun");
    memory.transact(put("a", "x")).await.expect("applied");

    two.set(Leadership::Here);
    one.set(Leadership::There(node("v-2")));
    store.transact(put("b", "x")).await.expect("the new leader takes it");
    assert_eq!(next_changes(&mut watch).await.0, Revision(1));
    assert_eq!(next_changes(&mut watch).await.0, Revision(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_voter_that_is_said_to_be_gone_goes_on_elsewhere() {
    let world = World::new();
    let memory = MemoryStore::new();
    let silent = ServiceConfig { watch_heartbeat: Duration::from_secs(60), ..ServiceConfig::default() };
    let first = world.voter("v-1", &service_with(MemoryStore::new(), silent));
    let second = world.voter("v-2", &service(memory.clone()));
    let config = RemoteConfig { watch_silence_max: Duration::from_secs(60), ..RemoteConfig::default() };
    let store = world.remote_as("worker", "w-1", &[&first, &second], config);
    let mut watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default())
        .await
        .expect("begun");
    memory.transact(put("a", "x")).await.expect("applied");
    // Nobody calls; only the membership knows.
    store.lost(&node("v-1"));
    assert_eq!(next_changes(&mut watch).await.0, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_told_of_what_it_missed_or_gets_the_latest() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);
    let watch = |overflow| {
        let options = WatchOptions { buffer_changes_max: 4, overflow };
        let store = store.clone();
        async move { store.watch(&Prefix::all(), WatchFrom::Now, options).await.expect("begun") }
    };
    let (mut gap, mut latest) = (watch(Overflow::Gap).await, watch(Overflow::Latest).await);
    // More than all buffers on the way hold, so that the store's own bound is reached.
    let all = 400_u64;
    for at in 1..=all {
        memory.transact(put(&format!("k/{}", at % 2), vec![at as u8; 100_000])).await.expect("applied");
        tokio::task::yield_now().await;
    }
    let mut expected = 1;
    let mut gaps = 0;
    while expected <= all {
        match next(&mut gap).await {
            WatchEvent::Changes { revision, .. } => {
                assert_eq!(revision.0, expected, "what is missing is in a gap");
                expected += 1;
            }
            WatchEvent::Gap { from, to } => {
                assert_eq!(from.0, expected);
                expected = to.0 + 1;
                gaps += 1;
            }
            WatchEvent::Bookmark { .. } => {}
        }
    }
    assert!(gaps >= 1, "the reader was slow");
    let (mut last, mut seen) = (0, 0);
    while last < all {
        let (revision, _) = next_changes(&mut latest).await;
        assert!(revision.0 > last, "in order, each once");
        last = revision.0;
        seen += 1;
    }
    assert!(seen < all, "some were dropped for later ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_revision_arrives_whole() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);
    let session = memory
        .open_session(mesh_core::store::OpenSession { owner: node("w-2"), ttl: Duration::from_secs(60) })
        .await
        .expect("opened")
        .id;
    // The deletion of all of them at once takes several messages.
    let all = 12_000;
    for chunk in 0..all / 1000 {
        let mut txn = Txn::new(node("w-2"));
        for at in 0..1000 {
            let key = key(&format!("{}/{chunk:03}/{at:03}", "x".repeat(200)));
            txn = txn.then(Operation::Put { key, value: "v".into(), session: Some(session) });
        }
        memory.transact(txn).await.expect("applied");
    }
    let mut watch = store
        .watch(
            &Prefix::all(),
            WatchFrom::Now,
            WatchOptions { buffer_changes_max: 20_000, ..WatchOptions::default() },
        )
        .await
        .expect("begun");
    let closed = memory.close_session(session).await.expect("closed");
    let (revision, changes) = next_changes(&mut watch).await;
    assert_eq!((revision, changes.len()), (closed, all));
    assert!(changes.is_sorted_by_key(|change| change.key().clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_finds_nobody_ends_with_an_error() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let config = RemoteConfig {
        request_timeout: Duration::from_millis(200),
        watch_resume_for: Duration::from_millis(300),
        watch_silence_max: Duration::from_secs(3),
        ..RemoteConfig::default()
    };
    let store = world.remote_as("worker", "w-1", &[&voter], config);
    let mut watch =
        store.watch(&Prefix::all(), WatchFrom::Now, WatchOptions::default()).await.expect("begun");
    voter.kill();
    let end = soon(async {
        loop {
            match watch.next().await.expect("an end is told") {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(end, StoreError::Unavailable { .. } | StoreError::Timeout { .. }), "{end}");
    assert!(soon(watch.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_gone_is_a_gap() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);
    for at in 0..5 {
        memory.transact(put("a", at.to_string())).await.expect("applied");
    }
    memory.compact(Revision(4)).await.expect("compacted");
    let mut watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(2)), WatchOptions::default())
        .await
        .expect("begun");
    assert_eq!(next(&mut watch).await, WatchEvent::Gap { from: Revision(3), to: Revision(5) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_as_far_as_the_one_before_is_a_gap_and_goes_on_from_there() {
    let world = World::new();
    let (before, after) = (MemoryStore::new(), MemoryStore::new());
    for at in 0..5 {
        before.transact(put("a", at.to_string())).await.expect("applied");
    }
    after.transact(put("b", "another history")).await.expect("applied");
    let first = world.voter("v-1", &service(before));
    let second = world.voter("v-2", &service(after.clone()));
    let store = world.remote("w-1", &[&first, &second]);
    let mut watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(4)), WatchOptions::default())
        .await
        .expect("begun");
    assert_eq!(next_changes(&mut watch).await.0, Revision(5));
    first.kill();
    loop {
        match next(&mut watch).await {
            WatchEvent::Bookmark { .. } => {}
            event => {
                assert_eq!(event, WatchEvent::Gap { from: Revision(1), to: Revision(1) });
                break;
            }
        }
    }
    after.transact(put("b", "later")).await.expect("applied");
    assert_eq!(next_changes(&mut watch).await.0, Revision(2));
}
