//! Stories of the provider and the service together, over mutual TLS on the loopback interface.

#[cfg(feature = "testing")]
mod conformance;
pub(crate) mod harness;
mod leadership;
mod together;
mod watches;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use mesh_core::{
    FencingToken, Revision,
    store::{
        Applied, Compare, IdempotencyKey, OpenSession, Operation, Prefix, Scan, SessionError, StoreError,
        Txn, TxnError, VersionedStore, WatchEvent,
    },
};

use super::*;
use crate::{Leadership, MemoryStore, ServiceConfig};
use harness::{Holdable, Says, Stuck, World, key, node, put, service, service_with, soon};

fn quick() -> RemoteConfig {
    RemoteConfig { request_timeout: Duration::from_millis(800), ..RemoteConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_a_store_does_it_does_from_afar() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);

    let first = store.transact(put("a/1", "one")).await.expect("applied").revision;
    let read = store.get(&key("a/1")).await.expect("read");
    let record = read.value.expect("is there");
    assert_eq!((record.revision, record.value.as_ref()), (first, b"one".as_slice()));
    assert_eq!(record.last_writer, node("w-1"), "the certificate says who wrote, not the message");
    assert_eq!(store.get_stale(&key("nothing")).await.expect("read").value, None);

    let opened = store
        .open_session(OpenSession { owner: node("impostor"), ttl: Duration::from_secs(5) })
        .await
        .expect("opened");
    assert_eq!(opened.owner, node("w-1"), "and whose a session is");
    let grant = Operation::Grant { key: key("a/lease"), value: "x".into(), session: opened.id };
    let granted = store.transact(Txn::new(node("w-1")).then(grant)).await.expect("granted");
    let token = granted.grants[0].token;
    assert_eq!(token, FencingToken { generation: 1, counter: granted.revision.0 });
    assert_eq!(store.keep_alive(opened.id).await.expect("renewed").renewals, 1);

    let stated = FencingToken { counter: 1, ..token };
    let fenced = store
        .transact(put("a/2", "two").when(Compare::Fence { key: key("a/lease"), token: stated }))
        .await
        .expect_err("an old token");
    assert!(
        matches!(fenced, TxnError::Fenced { current: Some(current), .. } if current == token),
        "{fenced}"
    );
    let conflict = store
        .transact(put("a/1", "x").when(Compare::Absent { key: key("a/1") }))
        .await
        .expect_err("it is there");
    let TxnError::Conflict { index: 0, compare: Compare::Absent { .. }, found: Some(found), .. } = conflict
    else {
        panic!("{conflict}")
    };
    assert_eq!(*found, record);
    let unfenced = store
        .transact(Txn::new(node("w-1")).then(Operation::Delete { key: key("a/lease") }))
        .await
        .expect_err("");
    assert!(matches!(unfenced, TxnError::Unfenced { current, .. } if current == token), "{unfenced}");

    let page = store
        .scan(&Scan { limit: 1, ..Scan::of(Prefix::new("a/").expect("a prefix")) })
        .await
        .expect("a page");
    assert_eq!((page.value.records.len(), page.value.more), (1, true));
    let after = Some(page.value.records[0].key.clone());
    let rest = Scan { after, ..Scan::of(Prefix::new("a/").expect("a prefix")) };
    assert_eq!(store.scan_stale(&rest).await.expect("a page").value.records.len(), 1);

    store.close_session(opened.id).await.expect("closed");
    assert!(
        matches!(store.keep_alive(opened.id).await, Err(SessionError::Gone { session }) if session == opened.id)
    );
    assert_eq!(store.session(opened.id).await.expect("looked up"), None);
    let short = OpenSession { owner: node("w-1"), ttl: Duration::from_millis(1) };
    assert!(matches!(store.open_session(short).await, Err(SessionError::Ttl { .. })));

    let status = store.status().await.expect("a status");
    assert_eq!((status.provider, status.records), ("remote", 1));
    assert_eq!(status.revision, memory.status().await.expect("a status").revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_out_and_comes_back() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote_as("operator", "op", &[&voter], RemoteConfig::default());
    for at in 0..8 {
        memory.transact(put(&format!("big/{at}"), vec![at; 300_000])).await.expect("applied");
    }
    let snapshot: Vec<_> = store.snapshot().await.expect("a snapshot").collect().await;
    let pieces: Vec<_> = snapshot.iter().map(|piece| piece.as_ref().expect("whole").clone()).collect();
    assert!(pieces.iter().map(bytes::Bytes::len).sum::<usize>() > 2_400_000);
    memory.transact(put("later", "x")).await.expect("applied");

    let broken = stream::iter(vec![
        Ok(pieces[0].clone()),
        Err(StoreError::ReadOnly { reason: "the disk it is on broke".to_owned() }),
    ]);
    let error = store.restore(broken.boxed()).await.expect_err("not all of it came");
    assert!(matches!(&error, StoreError::ReadOnly { .. }), "the source's own error: {error}");
    let cut = stream::iter(pieces[..pieces.len() - 1].iter().cloned().map(Ok).collect::<Vec<_>>());
    let error = store.restore(cut.boxed()).await.expect_err("the end is missing");
    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
    assert!(memory.get(&key("later")).await.expect("read").value.is_some(), "nothing was replaced");

    let restored = store.restore(stream::iter(pieces.into_iter().map(Ok)).boxed()).await.expect("restored");
    assert_eq!(restored.generation, 2);
    assert!(store.get(&key("later")).await.expect("read").value.is_none());
    let audit = memory.scan(&Scan::of(Prefix::new("~audit/").expect("a prefix"))).await.expect("a page");
    let text: Vec<_> =
        audit.value.records.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect();
    assert!(
        text.iter().any(|entry| entry.contains("registry.restore") && entry.contains("\"op\"")),
        "{text:?}"
    );
    // The session of names went with what was restored; the provider opens another.
    store.transact(put("after", "x")).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_is_applied_once() {
    let world = World::new();
    for stuck in [Stuck::BeforeApplied, Stuck::AfterApplied] {
        // Two voters of one store; the first one dies over the transaction.
        let memory = MemoryStore::new();
        let holdable = Holdable::new(memory.clone());
        let dying = world.voter("v-1", &service(holdable.clone()));
        let other = world.voter("v-2", &service(memory.clone()));
        let store = world.remote("w-1", &[&dying, &other]);
        let before = store.transact(put("first", "x")).await.expect("applied").revision;
        assert_eq!(store.leader(), Some(node("v-1")));

        holdable.hold(stuck);
        let sent = tokio::spawn({
            let store = store.clone();
            async move { store.transact(put("counted", "x").when(Compare::Absent { key: key("counted") })).await }
        });
        holdable.held().await;
        dying.kill();
        let outcome = soon(sent).await.expect("ran").expect("the retry is told of the first try's success");
        assert_eq!(outcome.revision.0, before.0 + 1);
        assert_eq!(
            memory.status().await.expect("a status").revision.0,
            before.0 + 1,
            "{stuck:?}: applied once"
        );
        assert_eq!(store.leader(), Some(node("v-2")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_nobody_can_tell_is_unknown_and_one_that_was_not_sent_is_not() {
    let world = World::new();
    let holdable = Holdable::new(MemoryStore::new());
    let voter = world.voter("v-1", &service(holdable.clone()));
    let store = world.remote_as("worker", "w-1", &[&voter], quick());
    store.transact(put("first", "x")).await.expect("applied");

    holdable.hold(Stuck::AfterApplied);
    let late = soon(store.transact(put("second", "x"))).await.expect_err("no answer comes");
    assert_eq!(late.applied(), Applied::Unknown, "{late}");
    assert!(matches!(late, TxnError::Store(StoreError::Timeout { .. })), "{late}");

    holdable.hold(Stuck::Nowhere);
    voter.kill();
    soon(async {
        loop {
            // The connection that is there may take a moment to break.
            let error = store.transact(put("third", "x")).await.expect_err("nobody is there");
            if error.applied() == Applied::No {
                break;
            }
        }
    })
    .await;
    let read = soon(store.get(&key("first"))).await.expect_err("nobody is there");
    assert_eq!(read.applied(), Applied::No, "a read changes nothing: {read}");
    let nobody = world.remote_as("worker", "w-2", &[], quick());
    let error = soon(nobody.get(&key("first"))).await.expect_err("no voters");
    assert!(error.to_string().contains("no voter is known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_found_by_hints_and_followed() {
    let world = World::new();
    let memory = MemoryStore::new();
    let (first, second) = (Says::new(Leadership::There(node("v-2"))), Says::new(Leadership::Here));
    let one = world.voter("v-1", &first.serve(memory.clone()));
    let two = world.voter("v-2", &second.serve(memory.clone()));
    let store = world.remote("w-1", &[&one, &two]);
    store.transact(put("a", "1")).await.expect("applied");
    assert_eq!(store.leader(), Some(node("v-2")));
    assert_eq!(store.counters().redirects_total(), 1);

    second.set(Leadership::There(node("v-1")));
    first.set(Leadership::Here);
    store.get(&key("a")).await.expect("read");
    assert_eq!(store.leader(), Some(node("v-1")));
    assert_eq!(store.counters().redirects_total(), 2);

    // While nobody leads, requests wait for somebody to.
    first.set(Leadership::Unknown);
    second.set(Leadership::Unknown);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.transact(put("a", "2")).await }
    });
    let before = store.counters().retries_total();
    soon(async {
        while store.counters().retries_total() < before + 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(store.get_stale(&key("a")).await.expect("any voter").value.is_some());
    second.set(Leadership::Here);
    soon(waiting).await.expect("ran").expect("applied");
    assert_eq!(store.leader(), Some(node("v-2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_busy_for_a_moment_is_asked_again_and_keeps_its_watches() {
    let world = World::new();
    let holdable = Holdable::new(MemoryStore::new());
    let config = ServiceConfig { requests_in_flight_max: 1, ..ServiceConfig::default() };
    let leads = Says::new(Leadership::Here);
    let service = leads.serve_with(holdable.clone(), config);
    let first = world.voter("v-1", &service);
    let follows = Says::new(Leadership::There(node("v-1")));
    let second = world.voter("v-2", &follows.serve(holdable.inner.clone()));
    let (store, other) = (world.remote("w-1", &[&first, &second]), world.remote("w-2", &[&first]));
    let prefix = Prefix::new("seen/").expect("a prefix");
    let mut watch = store.watch(&prefix, WatchFrom::Now, WatchOptions::default()).await.expect("begun");
    other.transact(put("first", "x")).await.expect("applied");

    holdable.hold(Stuck::BeforeApplied);
    let held = tokio::spawn({
        let other = other.clone();
        async move { other.transact(put("held", "x")).await }
    });
    holdable.held().await;
    let reading = tokio::spawn({
        let store = store.clone();
        async move { store.get(&key("first")).await }
    });
    soon(async {
        while store.counters().retries_total() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    holdable.hold(Stuck::Nowhere);
    soon(reading).await.expect("ran").expect("read");
    soon(held).await.expect("ran").expect("applied");
    for at in 1..=3 {
        let key = format!("seen/{at}");
        holdable.inner.transact(put(&key, "x")).await.expect("applied");
        loop {
            let event = soon(watch.next()).await.expect("goes on").expect("no error");
            if matches!(event, WatchEvent::Changes { .. }) {
                break;
            }
        }
    }
    assert_eq!(store.counters().watches_resumed_total(), 0, "its voter is as good as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_voter_does_not_keep_others_from_answering() {
    let world = World::new();
    let memory = MemoryStore::new();
    let holdable = Holdable::new(memory.clone());
    let slow = world.voter("v-1", &service(holdable.clone()));
    let other = world.voter("v-2", &service(memory.clone()));
    let store = world.remote("w-1", &[&slow, &other]);
    let before = store.transact(put("first", "x")).await.expect("applied").revision;
    for stuck in [Stuck::BeforeApplied, Stuck::AfterApplied] {
        holdable.hold(stuck);
        soon(store.transact(put("second", "x"))).await.expect("the other voter answers");
        holdable.hold(Stuck::Nowhere);
        store.shared.peers.set_leader(&node("v-1"));
    }
    // What was held up was named, so that it did nothing when it came through.
    soon(store.transact(put("third", "x"))).await.expect("applied");
    assert_eq!(memory.status().await.expect("a status").revision.0, before.0 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_listed_is_denied_everything() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let guest = world.remote_as("guest", "g-1", &[&voter], RemoteConfig::default());
    let denied = |error: StoreError| {
        assert!(
            matches!(&error, StoreError::Denied { reason } if reason.contains("control, worker and operator")),
            "{error}"
        );
    };
    denied(guest.get(&key("a")).await.expect_err("denied"));
    denied(guest.scan_stale(&Scan::of(Prefix::all())).await.expect_err("denied"));
    denied(guest.status().await.expect_err("denied"));
    let watch = guest.watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default()).await;
    denied(watch.err().expect("denied"));
    let error = guest.transact(put("a", "x")).await.expect_err("denied");
    assert_eq!(error.applied(), Applied::No);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_alone_do_what_concerns_all() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let worker = world.remote("w-1", &[&voter]);
    let operator = world.remote_as("operator", "op", &[&voter], RemoteConfig::default());
    let denied = |result: Result<(), StoreError>| {
        let error = result.expect_err("denied");
        assert!(matches!(&error, StoreError::Denied { reason } if reason.contains("operators")), "{error}");
    };
    denied(worker.compact(Revision(0)).await);
    denied(worker.snapshot().await.map(drop));
    denied(worker.restore(stream::empty().boxed()).await.map(drop));
    let TxnError::Store(error) = worker.transact(put("operator/x", "1")).await.expect_err("denied") else {
        panic!("another error")
    };
    denied(Err(error));
    operator.transact(put("operator/x", "1")).await.expect("an operator");
    operator.compact(Revision(1)).await.expect("an operator");
    let control = world.remote_as("control", "v-2", &[&voter], RemoteConfig::default());
    denied(control.compact(Revision(1)).await);
    drop(control.snapshot().await.expect("one that may vote has it all"));
    assert_eq!(memory.status().await.expect("a status").compacted, Revision(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_owners_alone() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let (owner, other) = (world.remote("w-1", &[&voter]), world.remote("w-2", &[&voter]));
    let ttl = Duration::from_secs(60);
    let open = OpenSession { owner: node("w-1"), ttl };
    let session = owner.open_session(open).await.expect("opened").id;
    // One that this service never saw before.
    let elsewhere = memory.open_session(OpenSession { owner: node("w-9"), ttl }).await.expect("opened").id;
    for (id, name) in [(session, "w-1"), (elsewhere, "w-9")] {
        let error = other.keep_alive(id).await.expect_err("not its own");
        assert!(error.to_string().contains(&format!("its owner {name} may")), "{error}");
        let error = other.close_session(id).await.expect_err("not its own");
        assert!(matches!(error, SessionError::Store(StoreError::Denied { .. })), "{error}");
        let named = put("a", "x").once(IdempotencyKey { session: id, sequence: 1 });
        let error = other.transact(named).await.expect_err("not its own");
        assert!(matches!(error, TxnError::Store(StoreError::Denied { .. })), "{error}");
        assert_eq!(memory.session(id).await.expect("looked up").expect("open").renewals, 0);
    }
    // A lease may be handed to the session of another.
    let grant = Operation::Grant { key: key("lease"), value: "w-1".into(), session };
    other.transact(Txn::new(node("w-2")).then(grant)).await.expect("granted");
    let named = put("a", "x").once(IdempotencyKey { session, sequence: 1 });
    let first = owner.transact(named.clone()).await.expect("applied");
    assert_eq!(owner.transact(named).await.expect("told again"), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_with_the_limit() {
    let world = World::new();
    let holdable = Holdable::new(MemoryStore::new());
    let config = ServiceConfig { requests_in_flight_max: 1, watches_max: 1, ..ServiceConfig::default() };
    let voter = world.voter("v-1", &service_with(holdable.clone(), config));
    let store = world.remote_as("worker", "w-1", &[&voter], quick());
    store.transact(put("first", "x")).await.expect("applied");

    let large = store.transact(put("a", vec![0; 600_000])).await.expect_err("too large");
    assert!(large.to_string().contains("600000 bytes"), "{large}");
    let limit = store.scan(&Scan { limit: 0, ..Scan::of(Prefix::all()) }).await.expect_err("no such limit");
    assert!(matches!(limit, StoreError::Invalid { what: "scan", .. }), "{limit}");

    // The server does not rely on that: here is a client that checks nothing.
    let mut client = world.client("worker", "w-2", &voter);
    let bad = |status: tonic::Status| {
        StoreError::from(wire::failures::from_status(status, "test", Duration::ZERO)).to_string()
    };
    let big = wire::Operation {
        key: "a".to_owned(),
        action: Some(wire::operation::Action::Put(wire::Put { value: vec![0; 600_000].into(), session: 0 })),
    };
    let txn = wire::Txn { operations: vec![big], ..Default::default() };
    let refused = client.transact(wire::TransactRequest { txn: Some(txn) }).await.expect_err("too large");
    assert!(bad(refused).contains("600000 bytes, the limit is 524288"));
    let many = wire::Txn { compares: vec![wire::Compare::default(); 3000], ..Default::default() };
    let refused = client.transact(wire::TransactRequest { txn: Some(many) }).await.expect_err("too many");
    assert!(bad(refused).contains("3000 compares are more than 2048"));
    let odd = wire::Txn { operations: vec![wire::Operation::default()], ..Default::default() };
    let refused = client.transact(wire::TransactRequest { txn: Some(odd) }).await.expect_err("no key");
    assert!(bad(refused).contains("bad key"));
    let refused = client.transact(wire::TransactRequest { txn: None }).await.expect_err("nothing to do");
    assert!(bad(refused).contains("missing"));
    let refused = client
        .get(wire::GetRequest { key: "x".repeat(600), stale: false, led: false })
        .await
        .expect_err("too long");
    assert!(bad(refused).contains("600 bytes"));
    let scan = wire::ScanRequest { limit: u32::MAX, ..Default::default() };
    assert!(bad(client.scan(scan).await.expect_err("too many")).contains("outside 1 to 10000"));

    let _watch = store
        .watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default())
        .await
        .expect("the first");
    let second = store.watch(&Prefix::all(), WatchFrom::After(Revision(0)), WatchOptions::default()).await;
    assert!(matches!(second.err(), Some(StoreError::Busy { limit: 1 })));

    holdable.hold(Stuck::BeforeApplied);
    let held = tokio::spawn({
        let store = store.clone();
        async move { store.transact(put("held", "x")).await }
    });
    holdable.held().await;
    let other = world.remote_as("worker", "w-3", &[&voter], quick());
    let busy = soon(other.get(&key("a"))).await.expect_err("one is at work already");
    assert!(matches!(busy, StoreError::Busy { limit: 1 }), "{busy}");
    held.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_its_message_grows_too_large() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);
    let all = 24;
    for at in 0..all {
        memory.transact(put(&format!("big/{at:02}"), vec![at; 500_000])).await.expect("applied");
    }
    let mut scan = Scan::of(Prefix::all());
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.scan(&scan).await.expect("a page").value;
        pages += 1;
        seen.extend(page.records.iter().map(|record| record.value[0]));
        scan.after = page.records.last().map(|record| record.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (0..all).collect::<Vec<_>>());
    assert_eq!(pages, 3, "12 MB in pages of 4 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_at_once_each_get_a_name_of_their_own() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let store = world.remote("w-1", &[&voter]);
    let writers = (0..300).map(|at| {
        let store = store.clone();
        tokio::spawn(async move { store.transact(put(&format!("k/{at}"), "x")).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        soon(writer).await.expect("ran").expect("applied");
    }
    assert_eq!(memory.status().await.expect("a status").revision, Revision(300));
    assert!(store.counters().sessions_total() <= 4);
}
