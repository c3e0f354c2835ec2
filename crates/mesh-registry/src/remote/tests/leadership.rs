//! What a node may change of leadership over the network.

use std::time::Duration;

use mesh_core::{
    FencingToken,
    store::{Compare, OpenSession, Operation, SessionId, StoreError, Txn, TxnError, VersionedStore},
};

use super::harness::{World, key, node, service};
use crate::{MemoryStore, RemoteConfig, RemoteStore};

const LEASE: &str = "leader/lease/shard/7";
const SCOPE: &str = "leader/scope/shard/7";
const ASK: &str = "leader/ask/shard/7";

fn grant(session: SessionId) -> Operation {
    Operation::Grant { key: key(LEASE), value: "who".into(), session }
}

fn put(name: &str) -> Operation {
    Operation::Put { key: key(name), value: "x".into(), session: None }
}

fn delete(name: &str) -> Operation {
    Operation::Delete { key: key(name) }
}

fn fence(token: FencingToken) -> Compare {
    Compare::Fence { key: key(LEASE), token }
}

fn txn() -> Txn {
    // Who writes is in the certificate.
    Txn::new(node("anybody"))
}

async fn session(store: &RemoteStore, name: &str) -> SessionId {
    let open = OpenSession { owner: node(name), ttl: Duration::from_secs(60) };
    store.open_session(open).await.expect("opened").id
}

async fn denied(store: &RemoteStore, txn: Txn) {
    let what = format!("{:?}", txn.operations);
    let error = store.transact(txn).await.err().unwrap_or_else(|| panic!("it was allowed: {what}"));
    assert!(matches!(error, TxnError::Store(StoreError::Denied { .. })), "{what}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_changes_by_the_hand_of_its_holder_alone() {
    let world = World::new();
    let memory = MemoryStore::new();
    let voter = world.voter("v-1", &service(memory.clone()));
    let (holder, thief) = (world.remote("w-1", &[&voter]), world.remote("w-2", &[&voter]));
    let (own, other) = (session(&holder, "w-1").await, session(&thief, "w-2").await);

    denied(&thief, txn().then(grant(own))).await;
    denied(&thief, txn().then(Operation::Put { key: key(LEASE), value: "x".into(), session: Some(other) }))
        .await;
    let absent = Compare::Absent { key: key(LEASE) };
    let granted = txn().when(absent).then(grant(own)).then(put(SCOPE)).then(delete(ASK));
    let token = holder.transact(granted).await.expect("its own session").grants[0].token;

    // The token is there for all to read.
    denied(&thief, txn().when(fence(token)).then(grant(other))).await;
    denied(&thief, txn().when(fence(token)).then(delete(LEASE))).await;
    denied(&thief, txn().when(fence(token)).then(put(LEASE))).await;
    let guess = FencingToken { counter: token.counter + 1, ..token };
    denied(&thief, txn().when(fence(guess)).then(grant(other))).await;
    for unfenced in [grant(other), delete(LEASE)] {
        let error = thief.transact(txn().then(unfenced)).await.expect_err("it states no token");
        assert!(matches!(error, TxnError::Unfenced { .. }), "{error}");
    }
    let record = memory.get(&key(LEASE)).await.expect("read").value.expect("is there");
    assert_eq!((record.token, record.session), (Some(token), Some(own)));

    // A handover, and what the one who handed over hears afterwards.
    let handover = txn().when(fence(token)).then(grant(other)).then(put(SCOPE)).then(delete(ASK));
    let next = holder.transact(handover).await.expect("the holder's").grants[0].token;
    let error =
        holder.transact(txn().when(fence(token)).then(delete(LEASE))).await.expect_err("it holds no more");
    assert!(matches!(error, TxnError::Fenced { current: Some(current), .. } if current == next), "{error}");
    denied(&holder, txn().when(fence(next)).then(grant(own))).await;
    thief
        .transact(txn().when(fence(next)).then(delete(LEASE)).then(delete(ASK)))
        .await
        .expect("the holder's");
    thief.close_session(other).await.expect("closed");
    let error = thief.transact(txn().then(grant(other))).await.expect_err("no session");
    assert!(matches!(error, TxnError::SessionGone { session } if session == other), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_asks_a_leader_to_hand_over() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let (holder, worker) = (world.remote("w-1", &[&voter]), world.remote("w-2", &[&voter]));
    let control = world.remote_as("control", "c-1", &[&voter], RemoteConfig::default());
    let operator = world.remote_as("operator", "op", &[&voter], RemoteConfig::default());
    let own = session(&holder, "w-1").await;
    let token = holder.transact(txn().then(grant(own))).await.expect("its own session").grants[0].token;

    denied(&worker, txn().when(fence(token)).then(put(ASK))).await;
    denied(&worker, txn().then(put(ASK))).await;
    for asker in [&control, &operator] {
        asker.transact(txn().when(fence(token)).then(put(ASK))).await.expect("for an operator");
        denied(&worker, txn().then(delete(ASK))).await;
    }
    holder
        .transact(txn().when(fence(token)).then(put(ASK)))
        .await
        .expect("it says why it does not hand over");
    control.transact(txn().then(delete(ASK))).await.expect("who asked tidies up");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_is_a_candidate_for_itself() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let (one, two) = (world.remote("w-1", &[&voter]), world.remote("w-2", &[&voter]));
    let (own, other) = (session(&one, "w-1").await, session(&two, "w-2").await);
    let candidate = |name: &str, session| {
        let key = key(&format!("leader/candidate/shard/7/{name}"));
        txn().then(Operation::Put { key, value: "x".into(), session: Some(session) })
    };
    one.transact(candidate("w-1", own)).await.expect("its own");
    denied(&two, candidate("w-1", other)).await;
    denied(&two, candidate("w-2", own)).await;
    denied(&two, txn().then(delete("leader/candidate/shard/7/w-1"))).await;
    // Terms go up with grants, and nothing else is kept there.
    denied(&two, txn().then(put(SCOPE))).await;
    denied(&two, txn().then(delete(SCOPE))).await;
    denied(&two, txn().then(put("leader/later/x"))).await;
    one.transact(txn().then(delete("leader/candidate/shard/7/w-1"))).await.expect("its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_scope_goes_by_anybodys_hand_once_nobody_leads() {
    let world = World::new();
    let voter = world.voter("v-1", &service(MemoryStore::new()));
    let (holder, worker) = (world.remote("w-1", &[&voter]), world.remote("w-2", &[&voter]));
    let own = session(&holder, "w-1").await;
    holder.transact(txn().then(grant(own)).then(put(SCOPE))).await.expect("its own session");
    let absent = || txn().when(Compare::Absent { key: key(LEASE) });
    let tidy = absent().then(delete(SCOPE)).then(delete(ASK));
    let error = worker.transact(tidy.clone()).await.expect_err("somebody leads");
    assert!(matches!(error, TxnError::Conflict { .. }), "{error}");
    denied(&worker, absent().then(put(SCOPE))).await;
    holder.close_session(own).await.expect("closed");
    worker.transact(tidy).await.expect("nobody leads");
}
