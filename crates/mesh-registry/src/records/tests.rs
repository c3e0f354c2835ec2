//! Stories of typed records.

use super::*;
use crate::{MemoryStore, audit_log};

fn counters(store: &MemoryStore, version: u32) -> Records<u64, Protobuf> {
    let writer = "n1".parse().expect("an id");
    Records::new(Arc::new(store.clone()), "counters/", writer, Protobuf { version }).expect("a prefix")
}

fn add(present: Option<u64>) -> Step<u64> {
    Step::Write(present.unwrap_or(0) + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_many_writers_are_all_counted() {
    let store = MemoryStore::new();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let counters = counters(&store, 1);
        writers.spawn(async move {
            for _ in 0..25 {
                // Being told of contention is no failure of the count.
                while let Err(error) = counters.update("a", add, With::default()).await {
                    assert!(matches!(error, RecordError::Contended { .. }), "{error}");
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("ran");
    }
    assert_eq!(counters(&store, 1).get("a").await.expect("read").map(|typed| typed.value), Some(100));
}

#[tokio::test]
async fn an_update_that_never_wins_ends() {
    let store = MemoryStore::new();
    let (mine, other) = (counters(&store, 1), counters(&store, 1));
    let mut tries = 0;
    // Another writer comes between each read and its write.
    let step = |present: Option<u64>| {
        tries += 1;
        let other = &other;
        futures_util::FutureExt::now_or_never(other.set("a", &1000, With::default()))
            .expect("the memory store does not wait")
            .expect("written");
        add(present)
    };
    let error = mine.update("a", step, With::default()).await.expect_err("never wins");
    assert_eq!(
        error.to_string(),
        "record counters/a was changed by others 10 times while it was updated; retry later"
    );
    assert_eq!(tries, UPDATE_TRIES_MAX);
}

#[tokio::test]
async fn a_value_of_a_newer_version_is_neither_read_nor_overwritten() {
    let store = MemoryStore::new();
    let (old, new) = (counters(&store, 1), counters(&store, 2));
    old.set("a", &7, With::default()).await.expect("written");
    assert_eq!(new.get("a").await.expect("read").map(|typed| typed.value), Some(7));
    new.set("a", &8, With::default()).await.expect("written");
    let error = old.update("a", add, With::default()).await.expect_err("newer");
    let text = "record counters/a: it is of version 2, this program knows up to 1; upgrade this node";
    assert_eq!(error.to_string(), text);
    assert_eq!(new.get("a").await.expect("read").map(|typed| typed.value), Some(8));
}

#[tokio::test]
async fn what_another_wrote_is_not_overwritten_unseen() {
    let store = MemoryStore::new();
    let counters = counters(&store, 1);
    let first = counters.create("a", &1, With::default()).await.expect("created");
    let conflict = |result: Result<Revision, RecordError>| {
        assert!(matches!(result, Err(RecordError::Txn(TxnError::Conflict { .. }))), "{result:?}");
    };
    conflict(counters.create("a", &2, With::default()).await);
    let second = counters.replace("a", first, &2, With::default()).await.expect("replaced");
    conflict(counters.replace("a", first, &3, With::default()).await);
    conflict(counters.delete("a", Some(first), With::default()).await);
    for name in ["b", "c"] {
        counters.set(name, &9, With::default()).await.expect("written");
    }
    let page = counters.list(None, 2).await.expect("a page");
    assert_eq!((page.items[0].0.as_str(), page.items[0].1.revision), ("a", second));
    assert_eq!(page.next.as_deref(), Some("b"));
    let rest = counters.list(page.next.as_deref(), 2).await.expect("a page");
    assert_eq!((rest.items.len(), rest.next), (1, None));
    counters.delete("a", Some(second), With::default()).await.expect("deleted");
    assert_eq!(counters.update("a", |_| Step::Delete, With::default()).await.expect("nothing to do"), None);
}

#[tokio::test]
async fn a_change_can_be_audited_named_and_fenced() {
    let store = MemoryStore::new();
    let counters = counters(&store, 1);
    let open =
        mesh_core::store::OpenSession { owner: "n1".parse().expect("an id"), ttl: Duration::from_secs(60) };
    let session = store.open_session(open).await.expect("opened").id;
    let note = AuditNote { action: "counter.set".to_owned(), reason: "test".to_owned(), correlation_id: 3 };
    let with = With { once: Some(IdempotencyKey { session, sequence: 1 }), ..With::audit(note) };
    let first = counters.set("a", &1, with.clone()).await.expect("written");
    assert_eq!(counters.set("a", &1, with.clone()).await.expect("told again"), first);
    let page = audit_log::page(&store, &audit_log::AuditQuery::default()).await.expect("a page");
    assert_eq!((page.entries.len(), page.entries[0].action.as_str()), (1, "counter.set"));
    assert!(counters.update("a", add, with).await.is_err(), "an update has no single name");

    let lease = Key::new("lease").expect("a key");
    let fences = vec![(lease, FencingToken { generation: 1, counter: 1 })];
    let fenced =
        counters.update("a", add, With { fences, ..With::default() }).await.expect_err("nobody holds it");
    assert!(matches!(fenced, RecordError::Txn(TxnError::Fenced { .. })), "{fenced}");
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn json_says_its_version_and_what_is_wrong_with_it() {
    let store = MemoryStore::new();
    let writer: NodeId = "n1".parse().expect("an id");
    let names: Records<Vec<String>, Json> =
        Records::new(Arc::new(store.clone()), "names/", writer.clone(), Json { version: 3 })
            .expect("a prefix");
    names.set("a", &vec!["x".to_owned()], With::default()).await.expect("written");
    let raw = store.get(&names.key("a").expect("a key")).await.expect("read").value.expect("is there");
    assert_eq!(raw.value, r#"{"version":3,"value":["x"]}"#);
    for (text, problem) in [("{}", "missing field `version`"), (r#"{"version":4,"value":1}"#, "of version 4")]
    {
        let key = names.key("b").expect("a key");
        let put = Operation::Put { key, value: text.into(), session: None };
        store.transact(Txn::new(writer.clone()).then(put)).await.expect("written");
        let error = names.get("b").await.expect_err("can't be read").to_string();
        assert!(error.contains("names/b") && error.contains(problem), "{error}");
    }
}
