use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::store::{
    Applied, Compare, IdempotencyKey, Operation, Prefix, Scan, StoreError, TxnError, VersionedStore,
    WatchFrom,
};

use super::{EtcdConfig, EtcdStore, EtcdTlsConfig};
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
    etcd.kill(0);
    let quick = EtcdConfig { request_timeout: Duration::from_millis(300), ..etcd.config() };
    match EtcdStore::open(valid(quick)).await.map(|_| ()) {
        Err(error @ StoreError::Unavailable { applied: Applied::No, .. }) => {
            assert!(error.to_string().contains(&etcd.url(0)), "{error}");
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
    etcd.kill(0);
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
    opened.shared.txn("test", super::Kind::Repeatable, request).await.expect("writes");
    let after = store.transact(txn().then(grant("m"))).await.expect("grants").grants[0].token;
    assert!(after.generation > before.generation + 1_000_000, "{after} after {before}");
    assert_eq!(store.status().await.expect("status").generation, after.generation);
    let fence = Compare::Fence { key: key("l"), token: before };
    store.transact(txn().when(fence)).await.expect("an earlier grant goes on");
}

#[tokio::test]
async fn another_member_takes_over_from_a_killed_one() {
    const TEST: &str = "another_member_takes_over_from_a_killed_one";
    let Some(mut etcd) = Etcd::of_members(TEST, 3, "http", |_| Vec::new()).await else { return };
    let store: Store = Arc::new(etcd.store("mesh").await);
    let session = session(&store).await;
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    let mut sequence = 0;
    for killed in 0..3 {
        etcd.kill(killed);
        for _ in 0..3 {
            sequence += 1;
            let once = IdempotencyKey { session, sequence };
            let done =
                store.transact(txn().then(put("a", &sequence.to_string())).once(once)).await.expect("puts");
            assert_eq!(changes(&mut stream).await.0, done.revision);
            assert_eq!(value(&store, "a").await, Some(sequence.to_string().into()));
        }
        assert_eq!(store.keep_alive(session).await.expect("renews").id, session);
        etcd.restart().await;
    }
}

#[tokio::test]
async fn a_dead_endpoint_does_not_matter_while_another_lives() {
    let Some(etcd) = Etcd::start("a_dead_endpoint_does_not_matter_while_another_lives").await else { return };
    let endpoints = vec!["http://127.0.0.1:1".to_owned(), etcd.url(0)];
    let store: Store =
        Arc::new(EtcdStore::open(valid(EtcdConfig { endpoints, ..etcd.config() })).await.expect("opens"));
    store.transact(txn().then(put("a", "1"))).await.expect("puts");
    assert_eq!(value(&store, "a").await, Some("1".into()));
}

#[tokio::test]
async fn users_of_etcd_are_logged_in_and_others_are_told_what_to_set() {
    const TEST: &str = "users_of_etcd_are_logged_in_and_others_are_told_what_to_set";
    let Some(etcd) = Etcd::start(TEST).await else { return };
    etcd.post("/v3/auth/user/add", r#"{"name":"root","password":"word"}"#).await;
    etcd.post("/v3/auth/role/add", r#"{"name":"root"}"#).await;
    etcd.post("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#).await;
    etcd.post("/v3/auth/enable", "{}").await;
    match EtcdStore::open(valid(etcd.config())).await.map(|_| ()) {
        Err(error @ StoreError::Denied { .. }) => {
            assert!(error.to_string().contains("registry.etcd.user"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    let with = |password: &str| {
        std::fs::write(&file, password).expect("writes");
        EtcdConfig { user: Some("root".to_owned()), password_file: Some(file.clone()), ..etcd.config() }
    };
    let wrong = EtcdStore::open(valid(with("other"))).await.map(|_| ());
    assert!(matches!(wrong, Err(StoreError::Denied { .. })), "{wrong:?}");
    let store: Store = Arc::new(EtcdStore::open(valid(with("word\n"))).await.expect("opens"));
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    let done = store.transact(txn().then(put("a", "1"))).await.expect("puts");
    assert_eq!(changes(&mut stream).await.0, done.revision);
    let session = session(&store).await;
    store.keep_alive(session).await.expect("renews");
}

#[tokio::test]
async fn connections_are_encrypted_and_the_server_is_checked() {
    const TEST: &str = "etcd::connections_are_encrypted_and_the_server_is_checked";
    let (folder, made) = (tempfile::tempdir().expect("a folder"), rcgen::KeyPair::generate().expect("a key"));
    let params = rcgen::CertificateParams::new(["etcd.test".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&made).expect("a certificate").pem();
    let trust = folder.path().join("trust.pem");
    std::fs::write(&trust, &certificate).expect("writes");
    let flags = |server: &std::path::Path| {
        let (certificate_file, key_file) = (server.join("server.pem"), server.join("server.key"));
        std::fs::write(&certificate_file, &certificate).expect("writes");
        std::fs::write(&key_file, made.serialize_pem()).expect("writes");
        vec![
            format!("--cert-file={}", certificate_file.display()),
            format!("--key-file={}", key_file.display()),
        ]
    };
    let Some(etcd) = Etcd::of_members(TEST, 1, "https", flags).await else { return };
    let with = |name: Option<&str>| {
        let tls = EtcdTlsConfig {
            trust_bundle: Some(trust.clone()),
            server_name: name.map(str::to_owned),
            ..EtcdTlsConfig::default()
        };
        EtcdConfig { tls, ..etcd.config() }
    };
    let store: Store = Arc::new(EtcdStore::open(valid(with(Some("etcd.test")))).await.expect("opens"));
    store.transact(txn().then(put("a", "1"))).await.expect("puts");
    let quick = EtcdConfig { request_timeout: Duration::from_millis(500), ..with(None) };
    let refused = EtcdStore::open(valid(quick)).await.map(|_| ());
    let refused = refused.expect_err("the certificate is of another name").to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

/// The time that one try may take doubles with each; once it doubled past what a clock can hold.
#[tokio::test(start_paused = true)]
async fn an_etcd_that_refuses_for_minutes_is_unavailable_and_nothing_overflows() {
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let config = EtcdConfig {
        endpoints: vec![format!("http://{nobody}")],
        request_timeout: Duration::from_secs(300),
        ..EtcdConfig::default()
    };
    let opened = EtcdStore::open(valid(config)).await.map(|_| ());
    assert!(matches!(opened, Err(StoreError::Unavailable { applied: Applied::No, .. })), "{opened:?}");
}
