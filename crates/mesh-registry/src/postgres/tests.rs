use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    ManualClock, Revision,
    store::{
        Applied, AuditNote, Compare, DeleteCause, IdempotencyKey, OpenSession, Operation, Prefix, Scan,
        StoreError, VersionedStore, WatchEvent, WatchFrom,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{ConnectionUrl, PostgresConfig, PostgresStore, PostgresTlsConfig};
use crate::servers::{
    postgres::{Postgres, valid},
    stories::{self, Store, changes, key, next, put, session, txn, value, watch},
};

/// Tells a story that holds for every provider.
macro_rules! story {
    ($name:ident) => {
        #[tokio::test]
        async fn $name() {
            let Some(postgres) = Postgres::start(concat!("postgres::", stringify!($name))).await else {
                return;
            };
            let store: Store = Arc::new(postgres.store("mesh").await);
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
async fn revisions_of_many_writers_grow_by_one_and_watches_see_them_in_order() {
    const TEST: &str = "revisions_of_many_writers_grow_by_one_and_watches_see_them_in_order";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let (one, two) = (postgres.store("mesh").await, postgres.store("mesh").await);
    let seen: Store = Arc::new(postgres.store("mesh").await);
    let mut stream = watch(&seen, "", WatchFrom::Now).await;
    let write = async |store: &PostgresStore, name: &str| {
        let mut revisions = Vec::new();
        for n in 0..20 {
            let operation = put(&format!("{name}/{n}"), "v");
            revisions.push(store.transact(txn().then(operation)).await.expect("puts").revision);
        }
        revisions
    };
    let (mut written, more, even_more) = tokio::join!(write(&one, "a"), write(&one, "b"), write(&two, "c"));
    written.extend(more);
    written.extend(even_more);
    written.sort();
    assert_eq!(written, (1..=60).map(Revision).collect::<Vec<_>>());
    for revision in written {
        assert_eq!(changes(&mut stream).await.0, revision);
    }
}

#[tokio::test]
async fn two_schemas_are_two_stores_and_a_newer_one_is_refused() {
    let Some(postgres) = Postgres::start("two_schemas_are_two_stores").await else { return };
    let one: Store = Arc::new(postgres.store("one").await);
    let two: Store = Arc::new(postgres.store("two").await);
    one.transact(txn().then(put("a", "1"))).await.expect("puts");
    assert_eq!(value(&two, "a").await, None);
    postgres.run_sql("UPDATE two.meta SET format = 2").await;
    let config = PostgresConfig { schema: "two".to_owned(), ..postgres.config() };
    match PostgresStore::open(valid(config)).await.map(|_| ()) {
        Err(error @ StoreError::Invalid { .. }) => {
            assert!(error.to_string().contains("schema two has version 2"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_expires_by_the_observers_own_clock() {
    let Some(postgres) = Postgres::start("a_session_expires_by_the_observers_own_clock").await else {
        return;
    };
    let clock = ManualClock::default();
    let store =
        PostgresStore::with_clock(valid(postgres.config()), Arc::new(clock.clone())).await.expect("opens");
    let prefix = Prefix::all();
    let mut stream = store.watch(&prefix, WatchFrom::Now, Default::default()).await.expect("watches");
    let ttl = Duration::from_secs(10);
    let open = OpenSession { owner: "n1".parse().expect("a node"), ttl };
    let kept = store.open_session(open.clone()).await.expect("opens").id;
    let lost = store.open_session(open).await.expect("opens").id;
    let attach = |session, at| Operation::Put { key: key(at), value: "".into(), session: Some(session) };
    store.transact(txn().then(attach(kept, "kept")).then(attach(lost, "lost"))).await.expect("puts");
    changes(&mut stream).await;
    // The observer must have seen both before time passes: it counts from when it saw them.
    store.seen_by_observer().await;
    clock.advance(Duration::from_secs(9));
    store.keep_alive(kept).await.expect("renews");
    store.seen_by_observer().await;
    clock.advance(Duration::from_millis(1100));
    let (_, gone) = changes(&mut stream).await;
    let cause = DeleteCause::SessionExpired;
    assert_eq!(gone, [mesh_core::store::Change::Deleted { key: key("lost"), cause }]);
    assert_eq!(store.session(kept).await.expect("reads").map(|s| s.renewals), Some(1));
    // And the other one, when its own time has run out.
    store.seen_by_observer().await;
    clock.advance(Duration::from_secs(10));
    let (_, gone) = changes(&mut stream).await;
    assert_eq!(gone, [mesh_core::store::Change::Deleted { key: key("kept"), cause }]);
}

#[tokio::test]
async fn kill_and_restart_of_the_server_loses_nothing_and_watches_go_on() {
    const TEST: &str = "kill_and_restart_of_the_server_loses_nothing_and_watches_go_on";
    let Some(mut postgres) = Postgres::start(TEST).await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    let session = session(&store).await;
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    let mut expected = vec![store.transact(txn().then(put("a", "1"))).await.expect("puts").revision];
    postgres.kill();
    let quick = PostgresConfig { request_timeout: Duration::from_millis(300), ..postgres.config() };
    match PostgresStore::open(valid(quick)).await.map(|_| ()) {
        Err(error @ StoreError::Unavailable { applied: Applied::No, .. }) => {
            assert!(error.to_string().contains("connect"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // With an idempotency key the store tries again by itself, and applies once.
    let retried = txn().then(put("b", "2")).once(IdempotencyKey { session, sequence: 1 });
    let (outcome, ()) = tokio::join!(store.transact(retried.clone()), postgres.restart());
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
async fn cut_connections_are_made_anew() {
    let Some(postgres) = Postgres::start("cut_connections_are_made_anew").await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    for n in 0..3 {
        postgres
            .run_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE application_name LIKE 'mesh registry%'",
            )
            .await;
        let done = store.transact(txn().then(put("a", &n.to_string()))).await.expect("puts");
        assert_eq!(changes(&mut stream).await.0, done.revision);
    }
}

#[tokio::test]
async fn a_watch_that_can_not_go_on_ends_with_an_error() {
    let Some(mut postgres) = Postgres::start("postgres::a_watch_that_can_not_go_on").await else { return };
    let config = PostgresConfig { watch_resume_for: Duration::ZERO, ..postgres.config() };
    let store: Store = Arc::new(PostgresStore::open(valid(config)).await.expect("opens"));
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    postgres.kill();
    match stream.next().await {
        Some(Err(error)) => assert!(error.is_transient(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_snapshot_is_restored_at_once_and_ends_sessions_and_grants() {
    const TEST: &str = "a_snapshot_is_restored_at_once_and_ends_sessions_and_grants";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    let session = session(&store).await;
    let grant = Operation::Grant { key: key("l"), value: "".into(), session };
    let note = AuditNote { action: "test.put".into(), reason: "to see it".into(), correlation_id: 7 };
    let granted = store.transact(txn().then(grant.clone()).then(put("a", "1"))).await.expect("grants");
    let pieces: Vec<_> = store.snapshot().await.expect("a snapshot").collect().await;
    store.transact(txn().then(put("a", "2")).then(put("b", "3")).audited(note)).await.expect("puts");
    let before = store.status().await.expect("status");
    let mut stream = watch(&store, "", WatchFrom::Now).await;

    let restored = store.restore(Box::pin(futures_util::stream::iter(pieces))).await.expect("restores");
    assert_eq!((restored.generation, restored.revision), (2, Revision(before.revision.0 + 1)));
    match next(&mut stream).await {
        WatchEvent::Gap { to, .. } => assert_eq!(to, restored.revision),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&store, "a").await, Some("1".into()));
    assert_eq!(value(&store, "b").await, None);
    assert_eq!(value(&store, "l").await, None);
    assert_eq!(store.session(session).await.expect("reads"), None);
    let audits = Scan::of(Prefix::new("~audit/").expect("a prefix"));
    assert_eq!(store.scan(&audits).await.expect("scans").value.records.len(), 1, "audits are kept");
    let fresh = stories::session(&store).await;
    assert!(fresh > session);
    let grant = Operation::Grant { key: key("l"), value: "".into(), session: fresh };
    let again = store.transact(txn().then(grant)).await.expect("grants");
    assert!(again.grants[0].token > granted.grants[0].token);

    let cut: Vec<_> = store.snapshot().await.expect("a snapshot").collect::<Vec<_>>().await;
    let half = cut.into_iter().map(|piece| piece.map(|piece| piece.slice(..piece.len() / 2)));
    let refused = store.restore(Box::pin(futures_util::stream::iter(half))).await;
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    assert_eq!(value(&store, "a").await, Some("1".into()));
}

#[tokio::test]
async fn after_a_failover_revisions_and_tokens_go_on_from_higher_ones() {
    const TEST: &str = "after_a_failover_revisions_and_tokens_go_on_from_higher_ones";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    let session = session(&store).await;
    let grant = |at: &str| Operation::Grant { key: key(at), value: "".into(), session };
    let before = store.transact(txn().then(grant("l"))).await.expect("grants");
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    // As if what was written until now had been written before a standby took over.
    postgres.run_sql("UPDATE mesh.meta SET timeline = '000000FF'").await;
    postgres
        .run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name LIKE 'mesh registry%'",
        )
        .await;
    match next(&mut stream).await {
        WatchEvent::Gap { to, .. } => assert!(to.0 > before.revision.0 + 999_999, "{to}"),
        other => panic!("{other:?}"),
    }
    let after = store.transact(txn().then(grant("m"))).await.expect("grants");
    assert!(after.grants[0].token.generation > before.grants[0].token.generation);
    let fence = Compare::Fence { key: key("l"), token: before.grants[0].token };
    store.transact(txn().when(fence)).await.expect("an earlier grant goes on");
    let next = stories::session(&store).await;
    assert!(next.0 > session.0 + 999_999);
}

#[tokio::test]
async fn a_write_on_a_standby_that_took_over_repeats_nothing_before_the_watches_notice() {
    const TEST: &str = "a_write_on_a_standby_that_took_over_repeats_nothing_before_the_watches_notice";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    let lost = session(&store).await;
    let grant = |at: &str, session| Operation::Grant { key: key(at), value: "".into(), session };
    let before = store.transact(txn().then(grant("l", lost))).await.expect("grants");
    // A standby that had none of it takes over. No connection breaks: it is a pooled one that goes there.
    let take_over = "DELETE FROM mesh.record; DELETE FROM mesh.history; DELETE FROM mesh.session; \
         SELECT setval('mesh.session_id', 1, false); \
         UPDATE mesh.meta SET revision = 0, timeline = '000000FF'";
    postgres.run_sql(take_over).await;
    let fresh = session(&store).await;
    assert!(fresh.0 > lost.0 + 999_999, "{fresh:?} after {lost:?}");
    let after = store.transact(txn().then(grant("l", fresh))).await.expect("grants");
    assert!(after.grants[0].token > before.grants[0].token, "{after:?} after {before:?}");
    assert!(after.grants[0].token.generation > before.grants[0].token.generation);
    // The same when the grant is what comes first, and when a session's end does.
    postgres.run_sql("UPDATE mesh.meta SET revision = 0, timeline = '000000FE'").await;
    let again = store.transact(txn().then(grant("m", fresh))).await.expect("grants");
    assert!(again.grants[0].token > after.grants[0].token, "{again:?} after {after:?}");
    postgres.run_sql("UPDATE mesh.meta SET revision = 0, timeline = '000000FD'").await;
    let ended = store.close_session(fresh).await.expect("closes");
    assert!(ended.0 > 999_999, "{ended}");
}

#[tokio::test]
async fn a_snapshot_and_a_restore_may_take_longer_than_a_request() {
    const TEST: &str = "a_snapshot_and_a_restore_may_take_longer_than_a_request";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let limit = Duration::from_secs(1);
    let config = PostgresConfig { request_timeout: limit, ..postgres.config() };
    let store: Store = Arc::new(PostgresStore::open(valid(config)).await.expect("opens"));
    store.transact(txn().then(put("a", "1"))).await.expect("puts");
    // A database that takes its time over what is large.
    postgres
        .run_sql(
            "ALTER TABLE mesh.record RENAME TO fast; CREATE VIEW mesh.record AS \
             SELECT fast.* FROM mesh.fast, (SELECT pg_sleep(1.5)) AS slow",
        )
        .await;
    let begun = tokio::time::Instant::now();
    let pieces: Vec<_> = store.snapshot().await.expect("a snapshot").collect().await;
    assert!(begun.elapsed() > limit, "it was not slow");
    postgres
        .run_sql(
            "DROP VIEW mesh.record; ALTER TABLE mesh.fast RENAME TO record; \
             CREATE FUNCTION mesh.slow() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END'; \
             CREATE TRIGGER slow BEFORE DELETE ON mesh.record FOR EACH STATEMENT \
             EXECUTE FUNCTION mesh.slow()",
        )
        .await;
    let begun = tokio::time::Instant::now();
    store.restore(Box::pin(futures_util::stream::iter(pieces))).await.expect("restores");
    assert!(begun.elapsed() > limit, "it was not slow");
    assert_eq!(value(&store, "a").await, Some("1".into()));
}

#[tokio::test]
async fn a_watch_forgets_a_cut_once_it_had_an_answer_even_if_nothing_was_new() {
    const TEST: &str = "a_watch_forgets_a_cut_once_it_had_an_answer_even_if_nothing_was_new";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let resume_for = Duration::from_secs(2);
    let config = PostgresConfig { watch_resume_for: resume_for, ..postgres.config() };
    let opened = PostgresStore::open(valid(config)).await.expect("opens");
    let store: Store = Arc::new(opened.clone());
    let mut stream = watch(&store, "", WatchFrom::Now).await;
    let mut passed = opened.shared.feed.passed();
    let begun = tokio::time::Instant::now();
    // Cut again and again for longer than a watch tries to go on, each time after an answer.
    while begun.elapsed() < resume_for + Duration::from_millis(500) {
        postgres
            .run_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE application_name LIKE 'mesh registry%'",
            )
            .await;
        passed.mark_unchanged();
        passed.changed().await.expect("the store is open");
    }
    let done = store.transact(txn().then(put("a", "1"))).await.expect("puts");
    assert_eq!(changes(&mut stream).await.0, done.revision);
}

#[tokio::test]
async fn repeated_tries_of_a_transaction_end_together_in_time() {
    const TEST: &str = "repeated_tries_of_a_transaction_end_together_in_time";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let relay = Relay::to(postgres.port()).await;
    let limit = Duration::from_secs(2);
    let url = ConnectionUrl::new(format!("postgres://postgres@127.0.0.1:{}/postgres", relay.port));
    let config = PostgresConfig { url, request_timeout: limit, ..postgres.config() };
    let store: Store = Arc::new(PostgresStore::open(valid(config)).await.expect("opens"));
    let session = session(&store).await;
    let retried = txn().then(put("a", "1")).once(IdempotencyKey { session, sequence: 1 });
    relay.held.send_replace(true);
    let begun = tokio::time::Instant::now();
    let failed = store.transact(retried.clone()).await.expect_err("nothing comes through");
    assert!(begun.elapsed() < limit * 3 / 2, "{failed} after {:?}", begun.elapsed());
    assert_eq!(failed.applied(), Applied::Unknown, "the first try may come through yet");
    relay.held.send_replace(false);
    let (first, again) = (store.transact(retried.clone()).await, store.transact(retried).await);
    assert_eq!(first.expect("puts"), again.expect("replays"));
}

/// Passes bytes on to a server, or holds them back.
struct Relay {
    port: u16,
    held: tokio::sync::watch::Sender<bool>,
}

impl Relay {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let held = tokio::sync::watch::Sender::new(false);
        let hold = held.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("connects");
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, hold.clone()));
                tokio::spawn(pass(from_server, to_client, hold.clone()));
            }
        });
        Self { port, held }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: tokio::sync::watch::Receiver<bool>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if held.wait_for(|held| !held).await.is_err() || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn the_history_holds_its_newest_revisions_and_no_more() {
    const TEST: &str = "the_history_holds_its_newest_revisions_and_no_more";
    let Some(postgres) = Postgres::start(TEST).await else { return };
    let store: Store = Arc::new(postgres.store("mesh").await);
    for n in 0..3 {
        store.transact(txn().then(put("a", &n.to_string()))).await.expect("puts");
    }
    // As if so many transactions had been between.
    let most = crate::state::HISTORY_REVISIONS_MAX as u64;
    postgres.run_sql(&format!("UPDATE mesh.meta SET revision = {most}")).await;
    let done = store.transact(txn().then(put("a", "last"))).await.expect("puts").revision;
    assert_eq!(done, Revision(most + 1));
    assert_eq!(store.status().await.expect("status").compacted, Revision(1));
    let mut kept = watch(&store, "", WatchFrom::After(Revision(1))).await;
    for revision in [Revision(2), Revision(3), done] {
        assert_eq!(changes(&mut kept).await.0, revision);
    }
    let mut late = watch(&store, "", WatchFrom::After(Revision(0))).await;
    assert_eq!(next(&mut late).await, WatchEvent::Gap { from: Revision(1), to: Revision(1) });
}

#[tokio::test]
async fn connections_are_encrypted_and_the_server_is_checked() {
    const TEST: &str = "connections_are_encrypted_and_the_server_is_checked";
    let (folder, made) = (tempfile::tempdir().expect("a folder"), rcgen::KeyPair::generate().expect("a key"));
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&made).expect("a certificate").pem();
    let trust = folder.path().join("trust.pem");
    std::fs::write(&trust, &certificate).expect("writes");
    let settings = |server: &std::path::Path| {
        std::fs::write(server.join("server.crt"), &certificate).expect("writes");
        std::fs::write(server.join("server.key"), made.serialize_pem()).expect("writes");
        let (certificate, key) = (server.join("server.crt"), server.join("server.key"));
        vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ]
    };
    let Some(postgres) = Postgres::with_settings(TEST, settings).await else { return };
    let at = |host: &str| {
        let url = format!("postgres://postgres@{host}:{}/postgres", postgres.port());
        let tls = PostgresTlsConfig { trust_bundle: Some(trust.clone()), ..PostgresTlsConfig::default() };
        PostgresConfig { url: ConnectionUrl::new(url), tls, ..postgres.config() }
    };
    let store = PostgresStore::open(valid(at("localhost"))).await.expect("opens");
    store.transact(txn().then(put("a", "1"))).await.expect("puts");
    postgres
        .run_sql(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name LIKE 'mesh%' AND NOT ssl) THEN RAISE 'not encrypted'; END IF; \
             IF NOT EXISTS (SELECT FROM pg_stat_ssl WHERE ssl) THEN RAISE 'nobody there'; END IF; END $$",
        )
        .await;
    let quick = PostgresConfig { request_timeout: Duration::from_millis(500), ..at("127.0.0.1") };
    let refused = PostgresStore::open(valid(quick)).await.map(|_| ());
    let refused = refused.expect_err("the certificate is of another name").to_string();
    assert!(refused.contains("certificate"), "{refused}");
}
