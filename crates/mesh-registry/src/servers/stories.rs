//! What holds for each provider, told against a real engine.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use mesh_core::{
    FencingToken, Revision,
    store::{
        AuditNote, Change, Compare, DeleteCause, IdempotencyKey, Key, OpenSession, Operation, Prefix, Scan,
        SessionError, SessionId, StoreError, Txn, TxnError, VersionedStore, WatchEvent, WatchFrom,
        WatchOptions, WatchStream,
    },
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Store = Arc<dyn VersionedStore>;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

pub(crate) fn txn() -> Txn {
    Txn::new("n1".parse().expect("a node"))
}

pub(crate) fn put(at: &str, value: &str) -> Operation {
    Operation::Put { key: key(at), value: Bytes::copy_from_slice(value.as_bytes()), session: None }
}

pub(crate) fn open(ttl_ms: u64) -> OpenSession {
    OpenSession { owner: "n1".parse().expect("a node"), ttl: Duration::from_millis(ttl_ms) }
}

pub(crate) async fn session(store: &Store) -> SessionId {
    store.open_session(open(60_000)).await.expect("opens").id
}

pub(crate) async fn value(store: &Store, at: &str) -> Option<Bytes> {
    store.get(&key(at)).await.expect("reads").value.map(|record| record.value)
}

pub(crate) async fn watch(store: &Store, prefix: &str, from: WatchFrom) -> WatchStream {
    let prefix = Prefix::new(prefix).expect("a prefix");
    store.watch(&prefix, from, WatchOptions::default()).await.expect("watches")
}

/// The next event that is no bookmark.
pub(crate) async fn next(stream: &mut WatchStream) -> WatchEvent {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("something comes");
        match event.expect("goes on").expect("an event") {
            WatchEvent::Bookmark { .. } => {}
            other => return other,
        }
    }
}

pub(crate) async fn changes(stream: &mut WatchStream) -> (Revision, Vec<Change>) {
    match next(stream).await {
        WatchEvent::Changes { revision, changes } => (revision, changes),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_record_is_written_read_scanned_and_deleted(store: &Store) {
    let first = store.transact(txn().then(put("a/1", "x")).then(put("b", "y"))).await.expect("puts");
    let read = store.get(&key("a/1")).await.expect("reads");
    let record = read.value.expect("a record");
    assert_eq!((record.revision, record.created_revision), (first.revision, first.revision));
    assert_eq!((record.last_writer.as_str(), record.session, record.token), ("n1", None, None));
    assert_eq!(read.revision, first.revision);
    assert_eq!(store.get_stale(&key("b")).await.expect("reads").value.map(|r| r.value), Some("y".into()));

    let second = store.transact(txn().then(put("a/1", "z"))).await.expect("puts");
    assert!(second.revision > first.revision);
    let page = store.scan(&Scan { limit: 1, ..Scan::of(Prefix::all()) }).await.expect("scans").value;
    assert_eq!((page.records.len(), page.more), (1, true));
    assert_eq!(page.records[0].created_revision, first.revision);
    let rest = Scan { after: Some(key("a/1")), ..Scan::of(Prefix::all()) };
    let page = store.scan(&rest).await.expect("scans").value;
    assert_eq!((page.records.len(), page.more), (1, false));

    let gone = store.transact(txn().then(Operation::Delete { key: key("a/1") })).await.expect("deletes");
    assert!(gone.revision > second.revision);
    let again =
        store.transact(txn().then(Operation::Delete { key: key("a/1") })).await.expect("deletes none");
    assert_eq!(again.revision, gone.revision, "nothing changed");
    let status = store.status().await.expect("status");
    assert_eq!((status.records, status.revision, status.generation), (1, gone.revision, 1));
}

pub(crate) async fn compares_are_all_checked_and_a_conflict_has_the_record(store: &Store) {
    let made = store.transact(txn().then(put("a", "1"))).await.expect("puts");
    let holds = [
        Compare::Revision { key: key("a"), revision: made.revision },
        Compare::Value { key: key("a"), value: "1".into() },
        Compare::Present { key: key("a") },
        Compare::Absent { key: key("b") },
    ];
    for compare in holds {
        store.transact(txn().when(compare).then(put("c", "1"))).await.expect("holds");
    }
    let fails = [
        Compare::Revision { key: key("a"), revision: Revision(0) },
        Compare::Revision { key: key("a"), revision: Revision(u64::MAX) },
        Compare::Value { key: key("a"), value: "2".into() },
        Compare::Value { key: key("b"), value: "".into() },
        Compare::Present { key: key("b") },
        Compare::Absent { key: key("a") },
    ];
    for compare in fails {
        let fine = Compare::Present { key: key("c") };
        let refused = txn().when(fine).when(compare.clone()).then(put("d", "1"));
        match store.transact(refused).await {
            Err(TxnError::Conflict { index: 1, compare: found, found: record, .. }) => {
                assert_eq!(found, compare);
                assert_eq!(record.is_some(), compare.key() == &key("a"));
            }
            other => panic!("{compare:?}: {other:?}"),
        }
    }
    assert_eq!(value(store, "d").await, None);
}

pub(crate) async fn a_grant_is_changed_only_with_its_token(store: &Store) {
    let (one, two) = (session(store).await, session(store).await);
    let grant = |session| Operation::Grant { key: key("l"), value: "n1".into(), session };
    let granted = store.transact(txn().then(grant(one))).await.expect("grants");
    let token = granted.grants[0].token;
    assert_eq!(token, FencingToken { generation: 1, counter: granted.revision.0 });

    for operation in [put("l", "x"), Operation::Delete { key: key("l") }, grant(two)] {
        match store.transact(txn().then(operation)).await {
            Err(TxnError::Unfenced { current, .. }) => assert_eq!(current, token),
            other => panic!("{other:?}"),
        }
    }
    let fence = Compare::Fence { key: key("l"), token };
    store.transact(txn().when(fence.clone()).then(put("l", "x"))).await.expect("puts");
    let record = store.get(&key("l")).await.expect("reads").value.expect("a record");
    assert_eq!((record.token, record.session, &*record.value), (Some(token), Some(one), &b"x"[..]));
    let moved = Operation::Put { key: key("l"), value: "x".into(), session: Some(two) };
    match store.transact(txn().when(fence.clone()).then(moved)).await {
        Err(TxnError::Store(StoreError::Invalid { problem, .. })) => {
            assert!(problem.contains("grant"), "{problem}")
        }
        other => panic!("{other:?}"),
    }
    let kept = Operation::Put { key: key("l"), value: "y".into(), session: Some(one) };
    store.transact(txn().when(fence.clone()).then(kept)).await.expect("puts");

    let next = store.transact(txn().when(fence.clone()).then(grant(two))).await.expect("hands over");
    assert!(next.grants[0].token > token);
    match store.transact(txn().when(fence.clone()).then(put("other", "late"))).await {
        Err(TxnError::Fenced { stated, current, .. }) => {
            assert_eq!((stated, current), (token, Some(next.grants[0].token)));
        }
        other => panic!("{other:?}"),
    }
    let fence = Compare::Fence { key: key("l"), token: next.grants[0].token };
    store
        .transact(txn().when(fence.clone()).then(Operation::Delete { key: key("l") }))
        .await
        .expect("releases");
    let again = store.transact(txn().then(grant(one))).await.expect("grants");
    assert!(again.grants[0].token > next.grants[0].token);
    assert!(matches!(
        store.transact(txn().when(fence)).await,
        Err(TxnError::Fenced { current: Some(_), .. })
    ));
}

pub(crate) async fn a_retry_gets_the_first_outcome_until_it_is_forgotten(store: &Store) {
    let session = session(store).await;
    let once = |sequence| IdempotencyKey { session, sequence };
    let grant = Operation::Grant { key: key("l"), value: "1".into(), session };
    let first = store.transact(txn().then(grant.clone()).once(once(1))).await.expect("grants");
    let replayed = store.transact(txn().then(grant).once(once(1))).await.expect("replays");
    assert_eq!(replayed, first);

    let refused = txn().when(Compare::Absent { key: key("l") }).then(put("x", "1")).once(once(2));
    assert!(matches!(store.transact(refused.clone()).await, Err(TxnError::Conflict { .. })));
    let release = Compare::Fence { key: key("l"), token: first.grants[0].token };
    store.transact(txn().when(release).then(Operation::Delete { key: key("l") })).await.expect("releases");
    assert!(
        matches!(store.transact(refused.clone()).await, Err(TxnError::Conflict { found: None, .. })),
        "a refusal is final"
    );

    for sequence in 3..=129 {
        store.transact(txn().then(put("n", "1")).once(once(sequence))).await.expect("puts");
    }
    assert!(matches!(
        store.transact(txn().then(put("n", "2")).once(once(1))).await,
        Err(TxnError::Forgotten { sequence: 1, .. })
    ));
    assert!(matches!(store.transact(refused).await, Err(TxnError::Conflict { .. })), "still kept");
    store.close_session(session).await.expect("closes");
    assert!(matches!(
        store.transact(txn().then(put("n", "2")).once(once(200))).await,
        Err(TxnError::SessionGone { .. })
    ));
    assert_eq!(value(store, "n").await, Some("1".into()));
}

pub(crate) async fn writers_of_one_key_all_get_through(store: &Store) {
    store.transact(txn().then(put("n", "0"))).await.expect("puts");
    let add = async |store: Store| {
        loop {
            let record = store.get(&key("n")).await.expect("reads").value.expect("a record");
            let count: u64 = std::str::from_utf8(&record.value).expect("text").parse().expect("a number");
            let unchanged = Compare::Value { key: key("n"), value: record.value };
            match store.transact(txn().when(unchanged).then(put("n", &(count + 1).to_string()))).await {
                Ok(_) => return,
                Err(TxnError::Conflict { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    let writers = (0..16).map(|_| add(Arc::clone(store)));
    futures_util::future::join_all(writers).await;
    assert_eq!(value(store, "n").await, Some("16".into()));
}

pub(crate) async fn an_audit_record_is_of_the_same_revision(store: &Store) {
    let note = AuditNote { action: "test.put".into(), reason: "to see it".into(), correlation_id: 7 };
    let done = store.transact(txn().then(put("a", "1")).audited(note)).await.expect("puts");
    let audits = store.scan(&Scan::of(Prefix::new("~audit/").expect("a prefix"))).await.expect("scans").value;
    assert_eq!(audits.records.len(), 1);
    assert_eq!(audits.records[0].revision, done.revision);
    assert!(std::str::from_utf8(&audits.records[0].value).expect("text").contains("test.put"));
    assert_eq!(store.scan(&Scan::of(Prefix::all())).await.expect("scans").value.records.len(), 1);
}

pub(crate) async fn a_session_ends_with_all_its_records_and_says_why(store: &Store) {
    let mut stream = watch(store, "s/", WatchFrom::Now).await;
    let attach = |session| {
        ["s/b", "s/a"]
            .iter()
            .fold(txn(), |txn, at| txn.then(Operation::Grant { key: key(at), value: "".into(), session }))
    };
    let closed = session(store).await;
    store.transact(attach(closed)).await.expect("grants");
    changes(&mut stream).await;
    let renewed = store.keep_alive(closed).await.expect("renews");
    assert_eq!((renewed.renewals, renewed.ttl), (1, Duration::from_secs(60)));
    assert_eq!(store.keep_alive(closed).await.expect("renews").renewals, 2);
    assert_eq!(store.session(closed).await.expect("reads").map(|s| s.renewals), Some(2));
    let revision = store.close_session(closed).await.expect("closes");
    let ended = |cause| ["s/a", "s/b"].map(|at| Change::Deleted { key: key(at), cause }).to_vec();
    assert_eq!(changes(&mut stream).await, (revision, ended(DeleteCause::SessionClosed)));
    for gone in [store.keep_alive(closed).await.err(), store.close_session(closed).await.err()] {
        assert!(matches!(gone, Some(SessionError::Gone { .. })), "{gone:?}");
    }
    assert!(matches!(store.transact(attach(closed)).await, Err(TxnError::SessionGone { .. })));

    let short = store.open_session(open(900)).await.expect("opens");
    assert!(short.ttl >= Duration::from_millis(900), "at least what was asked for");
    store.transact(attach(short.id)).await.expect("grants");
    changes(&mut stream).await;
    assert_eq!(changes(&mut stream).await.1, ended(DeleteCause::SessionExpired));
    assert_eq!(store.session(short.id).await.expect("reads"), None);

    let last = session(store).await;
    let put = Operation::Put { key: key("s/c"), value: "".into(), session: Some(last) };
    store.transact(txn().then(put)).await.expect("puts");
    changes(&mut stream).await;
    store.transact(txn().then(Operation::Delete { key: key("s/c") })).await.expect("deletes");
    let written = Change::Deleted { key: key("s/c"), cause: DeleteCause::Written };
    assert_eq!(changes(&mut stream).await.1, [written]);
}

pub(crate) async fn a_watch_resumes_and_compaction_gives_a_bookmark_or_a_gap(store: &Store) {
    let mut revisions = Vec::new();
    for n in 0..5 {
        let both = txn().then(put("w/b", &n.to_string())).then(put("w/a", "x")).then(put("elsewhere", "y"));
        revisions.push(store.transact(both).await.expect("puts").revision);
    }
    let mut resumed = watch(store, "w/", WatchFrom::After(revisions[2])).await;
    for revision in &revisions[3..] {
        let (at, changes) = changes(&mut resumed).await;
        let keys: Vec<&str> = changes.iter().map(|change| change.key().as_str()).collect();
        assert_eq!((at, keys), (*revision, vec!["w/a", "w/b"]));
    }
    let (compact, bookmark) = tokio::join!(store.compact(revisions[3]), resumed.next());
    compact.expect("compacts");
    match bookmark {
        Some(Ok(WatchEvent::Bookmark { revision })) => assert!(revision >= revisions[4]),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.status().await.expect("status").compacted, revisions[3]);
    assert_eq!(store.scan(&Scan::of(Prefix::all())).await.expect("scans").value.records.len(), 3);

    let mut late = watch(store, "w/", WatchFrom::After(revisions[0])).await;
    let gap = WatchEvent::Gap { from: Revision(revisions[0].0 + 1), to: revisions[3] };
    assert_eq!(next(&mut late).await, gap);
    assert_eq!(changes(&mut late).await.0, revisions[4]);
    let mut exact = watch(store, "w/", WatchFrom::After(revisions[3])).await;
    assert_eq!(changes(&mut exact).await.0, revisions[4]);
}

pub(crate) async fn large_values_come_in_pages_and_watches(store: &Store) {
    let value = Bytes::from(vec![7; 512 * 1024]);
    let start = store.status().await.expect("status").revision;
    for n in 0..150 {
        let operation = Operation::Put { key: key(&format!("{n:03}")), value: value.clone(), session: None };
        store.transact(txn().then(operation)).await.expect("puts");
    }
    let mut scan = Scan::of(Prefix::all());
    let mut seen = 0;
    loop {
        let page = store.scan(&scan).await.expect("scans").value;
        seen += page.records.len();
        assert!(page.records.iter().all(|record| record.value == value));
        scan.after = page.records.last().map(|record| record.key.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, 150);
    let mut stream = watch(store, "", WatchFrom::After(start)).await;
    for n in 0..150 {
        assert_eq!(changes(&mut stream).await.1[0].key(), &key(&format!("{n:03}")));
    }
}
