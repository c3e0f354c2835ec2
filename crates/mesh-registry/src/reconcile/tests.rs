//! Stories of a cache that went wrong.

use std::time::Duration;

use mesh_core::{ManualClock, Settings as _, store::Operation};

use super::*;
use crate::{AUDIT_PREFIX, MemoryStore, audit_log};

/// A cache that nothing keeps up to date.
#[derive(Default)]
struct Routes {
    entries: Mutex<BTreeMap<Key, Bytes>>,
    broken: Mutex<bool>,
}

#[async_trait]
impl Cached for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn prefix(&self) -> Prefix {
        Prefix::new("tables/").expect("a prefix")
    }

    async fn snapshot(&self) -> BTreeMap<Key, Bytes> {
        self.entries.lock().expect("whole").clone()
    }

    async fn repair(&self, difference: &Difference) -> Result<(), BoxError> {
        if *self.broken.lock().expect("whole") {
            return Err("the router is busy".into());
        }
        let mut entries = self.entries.lock().expect("whole");
        match &difference.stored {
            Some(value) => entries.insert(difference.key.clone(), value.clone()),
            None => entries.remove(&difference.key),
        };
        Ok(())
    }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn local() -> NodeId {
    "n-1".parse().expect("an id")
}

async fn put(store: &MemoryStore, name: &str, value: &str) -> Revision {
    let put = Operation::Put { key: key(name), value: value.to_owned().into(), session: None };
    store.transact(Txn::new(local()).then(put)).await.expect("applied").revision
}

fn reconciler(store: &MemoryStore, routes: &Arc<Routes>, clock: &ManualClock) -> Reconciler {
    let config = ReconcileConfig {
        interval: Duration::from_millis(10),
        settle: Duration::from_secs(2),
        ..ReconcileConfig::default()
    };
    Reconciler::start(ReconcilerOptions {
        store: Arc::new(store.clone()),
        caches: vec![Arc::clone(routes) as Arc<dyn Cached>],
        local: local(),
        config: config.validate().expect("valid"),
        retention: Some(Retention { history: Duration::from_secs(60), audit: Duration::from_secs(600) }),
        clock: Arc::new(clock.clone()),
    })
}

/// Waits until the reconciler has counted so many of an outcome.
async fn until(reconciler: &Reconciler, outcome: &str, count: u64) {
    let reached = async {
        loop {
            let counted = reconciler.counters().by_outcome();
            if counted.iter().any(|(name, is)| *name == outcome && *is >= count) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("comes about");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lasting_difference_is_mended_from_the_store_and_audited() {
    let clock = ManualClock::default();
    clock.set_wall(WallTime(5_000_000));
    let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    let routes = Arc::<Routes>::default();
    put(&store, "tables/orders", "owner=n2").await;
    put(&store, "other", "x").await;
    routes.entries.lock().expect("whole").extend([
        (key("tables/orders"), Bytes::from("owner=n1")),
        (key("tables/gone"), Bytes::from_static(&[0xff, 0])),
    ]);
    let reconciler = reconciler(&store, &routes, &clock);
    let seen = async {
        loop {
            let diff = reconciler.state_diff();
            if diff.looked_at.is_some() {
                return diff;
            }
            tokio::task::yield_now().await;
        }
    };
    let diff = tokio::time::timeout(Duration::from_secs(30), seen).await.expect("a look");
    let keys: Vec<_> = diff.differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(
        (diff.caches.as_slice(), keys.as_slice()),
        (["routes"].as_slice(), ["tables/gone", "tables/orders"].as_slice())
    );
    assert_eq!(reconciler.counters().by_outcome()[1].1, 0, "it may be on its way still");

    *routes.broken.lock().expect("whole") = true;
    clock.advance(Duration::from_secs(3));
    // One that failed is tried again.
    until(&reconciler, "repair-failed", 4).await;
    *routes.broken.lock().expect("whole") = false;
    until(&reconciler, "repaired", 2).await;
    until(&reconciler, "in-sync", 1).await;
    let expected = BTreeMap::from([(key("tables/orders"), Bytes::from("owner=n2"))]);
    assert_eq!(routes.snapshot().await, expected);

    let page = audit_log::page(&store, &audit_log::AuditQuery::default()).await.expect("a page");
    let mut reasons: Vec<_> = page.entries.iter().map(|entry| entry.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            "cache routes, key tables/gone: before 2 bytes 0xff00, after nothing",
            "cache routes, key tables/orders: before \"owner=n1\", after \"owner=n2\"",
        ]
    );
    assert_eq!(
        (page.entries[0].writer.as_str(), page.entries[0].action.as_str()),
        ("n-1", "registry.reconcile")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_history_and_old_audit_records_go() {
    let clock = ManualClock::default();
    clock.set_wall(WallTime(5_000_000));
    let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    let note = AuditNote { action: "test".to_owned(), reason: String::new(), correlation_id: 1 };
    store.transact(Txn::new(local()).audited(note)).await.expect("applied");
    let old = put(&store, "tables/a", "1").await;
    let routes = Arc::<Routes>::default();
    routes.entries.lock().expect("whole").insert(key("tables/a"), Bytes::from("1"));
    let reconciler = reconciler(&store, &routes, &clock);
    until(&reconciler, "in-sync", 1).await;
    let compacted = async |at_least: Revision| {
        // After two more looks the store's present revision has been noted with its time.
        clock.advance(Duration::from_secs(1));
        let looks = reconciler.counters().by_outcome()[0].1;
        until(&reconciler, "in-sync", looks + 2).await;
        clock.advance(Duration::from_secs(60));
        let reached = async {
            while store.status().await.expect("a status").compacted < at_least {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("is let go");
    };
    compacted(old).await;
    let new = put(&store, "tables/a", "1").await;
    let looks = reconciler.counters().by_outcome()[0].1;
    until(&reconciler, "in-sync", looks + 2).await;
    assert!(store.status().await.expect("a status").compacted < new, "what is new is kept");
    compacted(new).await;

    let audits = Scan::of(Prefix::new(AUDIT_PREFIX).expect("a prefix"));
    assert_eq!(store.scan(&audits).await.expect("a page").value.records.len(), 1);
    clock.set_wall(WallTime(5_000_000 + 600_001));
    let gone = async {
        while !store.scan(&audits).await.expect("a page").value.records.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("is let go");
}
