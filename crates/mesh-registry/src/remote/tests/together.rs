//! Stories of transactions that share a request.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::StreamExt;
use mesh_core::{
    Settings as _,
    store::{Compare, IdempotencyKey, OpenSession, StoreError, TxnError, VersionedStore},
};
use tokio::task::JoinHandle;

use super::{super::*, harness::*};
use crate::{LeaderHint, Leadership, MemoryStore, ServiceConfig, StoreService, service::each::EACH_MAX};

/// A leader that counts how often it is asked, which is once for each request.
#[derive(Default)]
struct Counts(AtomicUsize);

impl LeaderHint for Counts {
    fn leadership(&self) -> Leadership {
        self.0.fetch_add(1, Ordering::Relaxed);
        Leadership::Here
    }
}

type Running = JoinHandle<Result<TxnOutcome, TxnError>>;

/// Begins a transaction and lets it get as far as it can.
async fn begin(store: &RemoteStore, txn: Txn) -> Running {
    let store = store.clone();
    let running = tokio::spawn(async move { store.transact(txn).await });
    tokio::task::yield_now().await;
    running
}

/// Four transactions that are held up at the voter, so that what comes after them waits.
async fn four_held(store: &RemoteStore, holdable: &Holdable) -> Vec<Running> {
    store.transact(put("first", "1")).await.expect("applied");
    holdable.hold(Stuck::BeforeApplied);
    let mut held = Vec::new();
    for at in 0..4 {
        held.push(begin(store, put(&format!("held/{at}"), "x")).await);
        holdable.held().await;
    }
    held
}

/// Waits until so many transactions wait for a request.
async fn waiting(store: &RemoteStore, count: usize) {
    soon(async {
        while store.shared.together.waiting() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_share_a_request_and_nothing_else() {
    let world = World::new();
    let holdable = Holdable::new(MemoryStore::new());
    let (counts, config) = (Arc::<Counts>::default(), ServiceConfig::default().validate().expect("valid"));
    let service = StoreService::with_leader(Arc::new(holdable.clone()), Arc::clone(&counts) as _, config);
    let voter = world.voter("v-1", &service);
    let store = world.remote("w-1", &[&voter]);
    let held = four_held(&store, &holdable).await;
    let before = counts.0.load(Ordering::Relaxed);

    let other = world.remote("w-2", &[&voter]);
    let theirs = OpenSession { owner: node("w-2"), ttl: Duration::from_secs(30) };
    let theirs = other.open_session(theirs).await.expect("opened");
    let asked_by_other = counts.0.load(Ordering::Relaxed) - before;

    let mut good = Vec::new();
    for at in 0..30 {
        good.push(begin(&store, put(&format!("good/{at}"), "x")).await);
    }
    let conflict = begin(&store, put("first", "2").when(Compare::Absent { key: key("first") })).await;
    let denied = begin(&store, put("operator/x", "2")).await;
    let name = IdempotencyKey { session: theirs.id, sequence: 1 };
    let foreign = begin(&store, put("foreign", "x").once(name)).await;
    let given_up = begin(&store, put("given-up", "x")).await;
    waiting(&store, 34).await;
    given_up.abort();
    assert!(soon(given_up).await.expect_err("given up").is_cancelled());

    holdable.hold(Stuck::Nowhere);
    for running in held.into_iter().chain(good) {
        soon(running).await.expect("ran").expect("applied");
    }
    let conflict = soon(conflict).await.expect("ran").expect_err("it is there");
    assert!(matches!(conflict, TxnError::Conflict { index: 0, .. }), "{conflict}");
    for refused in [denied, foreign] {
        let refused = soon(refused).await.expect("ran").expect_err("not theirs");
        assert!(matches!(refused, TxnError::Store(StoreError::Denied { .. })), "{refused}");
    }
    assert_eq!(store.get(&key("given-up")).await.expect("read").value, None, "nobody waited for it");
    let asked = counts.0.load(Ordering::Relaxed) - before - asked_by_other;
    assert!(asked <= 3, "33 transactions took {} requests", asked - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_dies_with_a_request_of_many_leaves_each_to_the_next() {
    let world = World::new();
    let memory = MemoryStore::new();
    let holdable = Holdable::new(memory.clone());
    let (first, second) =
        (world.voter("v-1", &service(holdable.clone())), world.voter("v-2", &service(memory)));
    let config = RemoteConfig { hedge_after: Duration::from_secs(60), ..RemoteConfig::default() };
    let store = world.remote_as("worker", "w-1", &[&first, &second], config);
    let mut running = four_held(&store, &holdable).await;
    for at in 0..20 {
        running.push(begin(&store, put(&format!("k/{at}"), "x")).await);
    }
    waiting(&store, 20).await;
    // One is applied and its answer is on its way with the voter's end; twenty are not even sent.
    first.kill();
    for running in running {
        soon(running).await.expect("ran").expect("applied by the other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_does_not_know_requests_of_many_gets_one_for_each() {
    let world = World::new();
    let holdable = Holdable::new(MemoryStore::new());
    let (counts, config) = (Arc::<Counts>::default(), ServiceConfig::default().validate().expect("valid"));
    let service = StoreService::with_leader(Arc::new(holdable.clone()), Arc::clone(&counts) as _, config);
    let voter = world.old_voter("v-1", &service);
    let store = world.remote("w-1", &[&voter]);
    let mut running = four_held(&store, &holdable).await;
    let before = counts.0.load(Ordering::Relaxed);
    for at in 0..10 {
        running.push(begin(&store, put(&format!("k/{at}"), "x")).await);
    }
    waiting(&store, 10).await;
    holdable.hold(Stuck::Nowhere);
    for running in running {
        soon(running).await.expect("ran").expect("applied");
    }
    assert_eq!(counts.0.load(Ordering::Relaxed) - before, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_in_one_request_are_refused_and_large_answers_come_one_by_one() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let mut client = world.client("worker", "w-1", &voter);
    let txns = vec![wire::Txn::default(); EACH_MAX + 1];
    let refused = client.transact_each(wire::TransactEachRequest { txns }).await.expect_err("too many");
    assert!(refused.message().contains("257 in one request are more than 256"), "{refused}");

    let store = world.remote("w-2", &[&voter]);
    let nothing = Prefix::new("nothing/").expect("a prefix");
    let mut watch = store.watch(&nothing, WatchFrom::Now, WatchOptions::default()).await.expect("begun");
    let watching = tokio::spawn(async move { watch.next().await });
    store.transact(put("large", vec![1; 500_000])).await.expect("applied");
    let exists = put("large", "x").when(Compare::Absent { key: key("large") });
    let txns = vec![wire::Txn { writer: String::new(), ..wire::Txn::from(&exists) }; 12];
    let reply =
        client.transact_each(wire::TransactEachRequest { txns }).await.expect("answered").into_inner();
    let fits = reply
        .answers
        .iter()
        .filter(|each| matches!(each.answer, Some(wire::transact_each_answer::Answer::Reply(_))));
    assert_eq!((reply.answers.len(), fits.count()), (12, 4), "two megabytes of what was found");
    let running: Vec<_> = (0..12)
        .map(|_| {
            tokio::spawn({
                let (store, exists) = (store.clone(), exists.clone());
                async move { store.transact(exists).await }
            })
        })
        .collect();
    for running in running {
        let conflict = soon(running).await.expect("ran").expect_err("it is there");
        assert!(matches!(conflict, TxnError::Conflict { found: Some(_), .. }), "{conflict}");
    }
    assert_eq!(store.counters().watches_resumed_total(), 0, "the voter that has no room leads as before");
    watching.abort();
}
