use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::store::{
    Applied, Compare, IdempotencyKey, Operation, Prefix, Scan, StoreError, TxnError, VersionedStore,
    WatchFrom,
};

use super::{EtcdConfig, EtcdStore};
use crate::servers::{
    etcd::{Etcd, valid},
    stories::{self, Store, changes, key, put, session, txn, value, watch},
};

/// Tells a story that holds for every provider.
macro_rules! story {
    ($name:ident) => {
        #[tokio::test]
        async fn $name() {
            let Some(etcd) = Etcd::start(concat!("etcd::", stringify!($name))).await else { return };
            let store: Store = Arc::new(etcd.store("mesh").await);
            stories::$name(&store).await;
        }
    };
}

story!(a_record_is_written_read_scanned_and_deleted);
story!(compares_are_all_checked_and_a_conflict_has_the_record);
story!(a_grant_is_changed_only_with_its_token);
story!(a_retry_gets_the_first_outcome_until_it_is_forgotten);
story!(writers_of_one_key_all_get_through);
story!(an_audit_record_is_of_the_same_revision);
story!(a_session_ends_with_all_its_records_and_says_why);
story!(a_watch_resumes_and_compaction_gives_a_bookmark_or_a_gap);
story!(large_values_come_in_pages_and_watches);

#[tokio::test]
async fn two_roots_in_one_etcd_are_two_stores() {
    let Some(etcd) = Etcd::start("two_roots_in_one_etcd_are_two_stores").await else { return };
    let one: Store = Arc::new(etcd.store("one").await);
    let two: Store = Arc::new(etcd.store("two").await);
    one.transact(txn().then(put("a", "1"))).await.expect("puts");
    assert_eq!(value(&two, "a").await, None);
    two.transact(txn().when(Compare::Absent { key: key("a") }).then(put("a", "2"))).await.expect("puts");
    assert_eq!(value(&one, "a").await, Some("1".into()));
    assert_eq!(one.status().await.expect("status").records, 1);
}

#[tokio::test]
async fn kill_and_restart_of_etcd_loses_nothing_and_watches_go_on() {
    let Some(mut etcd) = Etcd::start("kill_and_restart_of_etcd_loses_nothing_and_watches_go_on").await else {
        return;
    };
    let store: Store = Arc::new(etcd.store("mesh").await);
    let session = session(&store).await;
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    let mut expected = vec![store.transact(txn().then(put("a", "1"))).await.expect("puts").revision];
    etcd.kill();
    let quick = EtcdConfig { request_timeout: Duration::from_millis(300), ..etcd.config() };
    match EtcdStore::open(valid(quick)).await.map(|_| ()) {
        Err(error @ StoreError::Unavailable { applied: Applied::No, .. }) => {
            assert!(error.to_string().contains(&etcd.url()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // With an idempotency key the store tries again by itself, and applies once.
    let retried = txn().then(put("b", "2")).once(IdempotencyKey { session, sequence: 1 });
    let (outcome, ()) = tokio::join!(store.transact(retried.clone()), etcd.restart());
    let outcome = outcome.expect("puts");
    expected.push(outcome.revision);
    assert_eq!(store.transact(retried).await.expect("replays"), outcome);
    expected.push(store.transact(txn().then(put("c", "3"))).await.expect("puts").revision);
    for revision in expected {
        assert_eq!(changes(&mut stream).await.0, revision);
    }
    assert_eq!(value(&store, "a").await, Some("1".into()));
    store.keep_alive(session).await.expect("renews");
}

#[tokio::test]
async fn a_watch_that_can_not_go_on_ends_with_an_error() {
    let Some(mut etcd) = Etcd::start("a_watch_that_can_not_go_on_ends_with_an_error").await else { return };
    let config = EtcdConfig { watch_resume_for: Duration::ZERO, ..etcd.config() };
    let store: Store = Arc::new(EtcdStore::open(valid(config)).await.expect("opens"));
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    etcd.kill();
    match stream.next().await {
        Some(Err(error)) => assert!(error.is_transient(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn large_transactions_need_a_flag_of_etcd_and_the_error_names_it() {
    const TEST: &str = "large_transactions_need_a_flag_of_etcd_and_the_error_names_it";
    let Some(etcd) = Etcd::with_flags(TEST, &[]).await else { return };
    let many = |count: usize| (0..count).fold(txn(), |txn, n| txn.then(put(&format!("k{n}"), "v")));
    let store: Store = Arc::new(etcd.store("mesh").await);
    store.transact(many(100)).await.expect("puts");
    match store.transact(many(2048)).await {
        Err(TxnError::Store(error @ StoreError::Invalid { .. })) => {
            assert!(error.to_string().contains("--max-txn-ops"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop(etcd);
    let Some(etcd) = Etcd::start(TEST).await else { return };
    let store: Store = Arc::new(etcd.store("mesh").await);
    let outcome = store.transact(many(2048)).await.expect("puts");
    let refused = (0..2048).fold(txn(), |txn, n| txn.when(Compare::Absent { key: key(&format!("k{n}")) }));
    assert!(matches!(store.transact(refused).await, Err(TxnError::Conflict { index: 0, .. })));
    let page = store.scan(&Scan { limit: 1500, ..Scan::of(Prefix::all()) }).await.expect("scans");
    assert_eq!((page.value.records.len(), page.value.more, page.revision), (1500, true, outcome.revision));
}

#[tokio::test]
async fn a_snapshot_goes_into_another_provider() {
    let Some(etcd) = Etcd::start("a_snapshot_goes_into_another_provider").await else { return };
    let store: Store = Arc::new(etcd.store("mesh").await);
    let session = session(&store).await;
    let attached = Operation::Put { key: key("b"), value: "2".into(), session: Some(session) };
    store.transact(txn().then(put("a", "1")).then(attached)).await.expect("puts");
    let memory = crate::MemoryStore::new();
    memory.restore(store.snapshot().await.expect("a snapshot")).await.expect("restores");
    let value = |record: Option<mesh_core::store::Record>| record.map(|record| record.value);
    assert_eq!(value(memory.get(&key("a")).await.expect("reads").value), Some("1".into()));
    assert_eq!(value(memory.get(&key("b")).await.expect("reads").value), None, "its session ended");
    let refused = store.restore(Box::pin(futures_util::stream::empty())).await;
    assert!(matches!(refused, Err(StoreError::Unsupported { provider: "etcd", .. })), "{refused:?}");
}

#[tokio::test]
async fn a_restored_etcd_raises_the_generation() {
    let Some(etcd) = Etcd::start("a_restored_etcd_raises_the_generation").await else { return };
    let opened = etcd.store("mesh").await;
    let store: Store = Arc::new(opened.clone());
    let session = session(&store).await;
    let grant = |at: &str| Operation::Grant { key: key(at), value: "".into(), session };
    let before = store.transact(txn().then(grant("l"))).await.expect("grants").grants[0].token;
    // As if what we read had been written by the etcd that the backup was made of.
    let stored = super::StoredMeta { format: super::FORMAT, cluster: 1, generation: before.generation };
    let put = super::pb::PutRequest {
        key: opened.shared.layout.meta(),
        value: prost::Message::encode_to_vec(&stored).into(),
        ..Default::default()
    };
    let request = super::pb::TxnRequest { success: vec![put.op()], ..Default::default() };
    opened.shared.txn("test", request).await.expect("writes");
    let after = store.transact(txn().then(grant("m"))).await.expect("grants").grants[0].token;
    assert!(after.generation > before.generation + 1_000_000, "{after} after {before}");
    assert_eq!(store.status().await.expect("status").generation, after.generation);
    let fence = Compare::Fence { key: key("l"), token: before };
    store.transact(txn().when(fence)).await.expect("an earlier grant goes on");
}
