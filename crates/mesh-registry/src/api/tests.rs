//! The routes, asked as a browser would.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use mesh_core::{
    BoxError, CertificateInfo, ManualClock, MemberEvents, MemberSnapshot, Membership, PeerIdentity,
    Settings as _,
    store::{AuditNote, Operation, Prefix, Txn},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    MemoryStore,
    members::{GroupMember, GroupMembers, MemberRole, Members},
    reconcile::{Cached, ReconcileConfig, ReconcilerOptions},
    state::SnapshotHash,
};

/// A cache that is wrong and stays so.
struct Stubborn;

#[async_trait]
impl Cached for Stubborn {
    fn name(&self) -> &'static str {
        "hints"
    }
    fn prefix(&self) -> Prefix {
        Prefix::new("tables/").expect("a prefix")
    }
    async fn snapshot(&self) -> BTreeMap<Key, Bytes> {
        BTreeMap::from([(Key::new("tables/old").expect("a key"), Bytes::from_static(&[0xff, 1]))])
    }
    async fn repair(&self, _: &Difference) -> Result<(), BoxError> {
        Err("no".into())
    }
}

async fn ask(routes: &Router, path: &str) -> (StatusCode, Option<String>, Value) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = routes.clone().oneshot(request).await.expect("an answer");
    let status = response.status();
    let tag = response.headers().get("etag").map(|tag| tag.to_str().expect("text").to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, tag, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn routes() -> Router {
    let clock = ManualClock::default();
    clock.set_wall(WallTime(1_700_000_000_000));
    let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    for at in 1..=3 {
        let key = Key::new(format!("tables/{at}")).expect("a key");
        let put = Operation::Put { key, value: "owner=n1".into(), session: None };
        let note = AuditNote { action: format!("do-{at}"), reason: "so".to_owned(), correlation_id: at };
        store
            .transact(Txn::new("n1".parse().expect("an id")).then(put).audited(note))
            .await
            .expect("applied");
    }
    let config = ReconcileConfig {
        interval: Duration::from_millis(10),
        differences_max: 3,
        ..ReconcileConfig::default()
    };
    let reconciler = Arc::new(Reconciler::start(ReconcilerOptions {
        store: Arc::new(store.clone()),
        caches: vec![Arc::new(Stubborn)],
        local: "n1".parse().expect("an id"),
        config: config.validate().expect("valid"),
        retention: None,
        clock: Arc::new(clock),
    }));
    let looked = async {
        while reconciler.state_diff().looked_at.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looked).await.expect("a look");
    registry_routes(RegistryOptions { reconciler, store: Arc::new(store), pages: PageLimits::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_difference_between_caches_and_store_is_shown() {
    let routes = routes().await;
    let (status, tag, body) = ask(&routes, "/control/state-diff").await;
    assert_eq!(status, StatusCode::OK);
    let missing = |at| {
        json!({
            "cache": "hints", "key": format!("tables/{at}"), "cached": null,
            "stored": { "value": "owner=n1", "hex": false, "bytes": 8 }, "since": "2023-11-14T22:13:20.000Z",
        })
    };
    assert_eq!(
        body,
        json!({
            "api_version": "control/v1", "observer": "n1", "looked_at": "2023-11-14T22:13:20.000Z", "revision": 3,
            "in_sync": false, "caches": [{ "name": "hints", "differences": 3, "failure": null }],
            "items": [missing(1), missing(2), missing(3)], "more": 1,
        })
    );
    assert_eq!(ask(&routes, "/control/v1/state-diff").await.1, tag, "the same view has the same tag");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_entries_are_listed_page_by_page() {
    let routes = routes().await;
    let (status, _, first) = ask(&routes, "/control/audit?limit=2").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        first["items"][0],
        json!({
            "at": "2023-11-14T22:13:20.000Z", "writer": "n1", "action": "do-1", "reason": "so",
            "correlation_id": "0000000000000001", "revision": 1, "keys": ["tables/1"], "keys_total": 1,
        })
    );
    let cursor = first["next_cursor"].as_str().expect("more follow");
    let (_, _, second) = ask(&routes, &format!("/control/audit?limit=2&cursor={cursor}")).await;
    assert_eq!((&second["items"][0]["action"], &second["next_cursor"]), (&json!("do-3"), &Value::Null));
    for path in [
        "/control/audit?limit=0",
        "/control/audit?cursor=zz",
        "/control/audit?odd=1",
        "/control/audit?from_ms=x",
    ] {
        assert_eq!(ask(&routes, path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

/// A group of two, known to its leader or to the other one.
struct Two {
    leads: bool,
}

#[async_trait]
impl Members for Two {
    async fn members(&self) -> Result<GroupMembers, StoreError> {
        let member = |name: &str, raft_id, role, behind| GroupMember {
            node_id: name.parse().expect("an id"),
            raft_id,
            role,
            answers: self.leads.then_some(true),
            silent: self.leads.then_some(Duration::from_millis(250)),
            behind: self.leads.then_some(behind),
        };
        Ok(GroupMembers {
            told_by: "n1".parse().expect("an id"),
            leads: self.leads,
            group: "0a".to_owned(),
            term: 3,
            last_index: 40,
            members: vec![member("n1", 1, MemberRole::Leader, 0), member("n2", 17, MemberRole::Learner, 5)],
        })
    }
}

/// A cluster whose members nobody knows.
struct Nobody;

impl Membership for Nobody {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::default()
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (MemberSnapshot::default(), Box::pin(futures_util::stream::pending()))
    }
}

#[tokio::test]
async fn members_are_told_with_what_is_not_known_of_them() {
    let routes = |leads| {
        members_routes(MembersOptions {
            observer: "n2".parse().expect("an id"),
            members: Arc::new(Two { leads }),
            membership: Arc::new(Nobody),
        })
    };
    let (status, _, body) = ask(&routes(true), "/control/v1/registry/members").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        body,
        json!({
            "api_version": "control/v1", "observer": "n2", "told_by": "n1", "first_hand": true, "group": "0a",
            "term": 3, "last_index": 40,
            "items": [
                { "node_id": "n1", "raft_id": 1, "role": "leader", "answers": true, "silent": 0.25, "behind": 0, "addresses": [] },
                { "node_id": "n2", "raft_id": 17, "role": "learner", "answers": true, "silent": 0.25, "behind": 5, "addresses": [] },
            ],
        })
    );
    let (_, _, body) = ask(&routes(false), "/control/registry/members").await;
    assert_eq!((&body["first_hand"], &body["items"][1]["answers"]), (&json!(false), &Value::Null));
}

fn caller(role: &str) -> Arc<PeerIdentity> {
    Arc::new(PeerIdentity {
        id: format!("spiffe://example.org/mesh/prod/{role}/alice").parse().expect("an id"),
        certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
    })
}

/// A store with the routes for all of it, and a folder for uploads.
struct Whole {
    store: MemoryStore,
    routes: Router,
    _folder: tempfile::TempDir,
}

impl Whole {
    fn new(elsewhere: Elsewhere) -> Self {
        let store = MemoryStore::new();
        let folder = tempfile::tempdir().expect("a folder");
        let shared: Arc<dyn VersionedStore> = Arc::new(store.clone());
        let snapshot = SnapshotOptions { store: Arc::clone(&shared), elsewhere: Arc::clone(&elsewhere) };
        let restore = RestoreOptions {
            store: shared,
            elsewhere,
            folder: folder.path().join("uploads"),
            clock: Arc::new(ManualClock::default()),
        };
        let routes = snapshot_routes(snapshot).merge(restore_routes(restore));
        Self { store, routes, _folder: folder }
    }

    async fn put(&self, name: &str) {
        let key = Key::new(name).expect("a key");
        let put = Operation::Put { key, value: "v".into(), session: None };
        self.store.transact(Txn::new("n1".parse().expect("an id")).then(put)).await.expect("applied");
    }

    async fn has(&self, name: &str) -> bool {
        self.store.get(&Key::new(name).expect("a key")).await.expect("an answer").value.is_some()
    }

    async fn send(&self, role: &str, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.extension(caller(role)).body(body.into()).expect("a request");
        let response = self.routes.clone().oneshot(request).await.expect("an answer");
        let status = response.status();
        (status, to_bytes(response.into_body(), 1 << 20).await.expect("a body"))
    }

    async fn json(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let (status, body) = self.send("operator", method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Sends all of a snapshot; the path of the upload.
    async fn upload(&self, snapshot: &[u8]) -> String {
        let mut hash = SnapshotHash::default();
        hash.update(snapshot);
        let begin = json!({ "bytes": snapshot.len(), "xxh3": hash.hex(), "reason": "test" }).to_string();
        let (_, begun) = self.json("POST", "/control/registry/restores", begin).await;
        let path = format!("/control/registry/restores/{}", begun["id"].as_str().expect("a name"));
        let from = begun["offset"].as_u64().expect("an offset");
        let rest = snapshot[from as usize..].to_vec();
        let (status, sent) = self.json("PUT", &format!("{path}?offset={from}"), rest).await;
        assert_eq!((status, &sent["offset"]), (StatusCode::OK, &json!(snapshot.len())));
        path
    }

    /// Applies an upload, and waits until something came of it.
    async fn apply(&self, path: &str) -> Value {
        let (status, _) = self.json("POST", &format!("{path}:apply"), "").await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let ended = async {
            loop {
                let (_, state) = self.json("GET", path, "").await;
                if state["phase"] == "done" || state["phase"] == "failed" {
                    return state;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended).await.expect("an end")
    }
}

fn here() -> Elsewhere {
    Arc::new(|| None)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_holds_comes_back_with_higher_tokens_and_is_audited() {
    let whole = Whole::new(here());
    whole.put("old").await;
    let (status, snapshot) = whole.send("operator", "GET", "/control/v1/registry/snapshot", "").await;
    assert_eq!(status, StatusCode::OK);
    whole.put("new").await;
    let before = whole.store.status().await.expect("a status");

    let path = whole.upload(&snapshot).await;
    assert!(whole.has("new").await, "an upload alone changes nothing");
    let done = whole.apply(&path).await;
    assert_eq!((&done["phase"], &done["contents"]["records"]), (&json!("done"), &json!(1)), "{done}");
    assert!(whole.has("old").await && !whole.has("new").await);
    let after = whole.store.status().await.expect("a status");
    assert!(after.generation > before.generation && after.revision > before.revision);
    assert_eq!(done["generation"], json!(after.generation));

    let page = audit_log::page(&whole.store, &AuditQuery::default()).await.expect("a page");
    let actions: Vec<_> = page.entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["registry.snapshot", "registry.restore"]);
    let reason = &page.entries[1].reason;
    assert!(reason.starts_with("alice: restored 1 records") && reason.ends_with("; test"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_it_stopped_and_one_that_is_not_whole_changes_nothing() {
    let whole = Whole::new(here());
    whole.put("old").await;
    let (_, snapshot) = whole.send("operator", "GET", "/control/registry/snapshot", "").await;
    whole.put("new").await;
    let mut hash = SnapshotHash::default();
    hash.update(&snapshot);
    let begin = json!({ "bytes": snapshot.len(), "xxh3": hash.hex() }).to_string();
    let (status, begun) = whole.json("POST", "/control/registry/restores", begin.clone()).await;
    assert_eq!((status, &begun["offset"]), (StatusCode::CREATED, &json!(0)));
    let path = format!("/control/registry/restores/{}", begun["id"].as_str().expect("a name"));
    let some = snapshot.slice(..10);
    assert_eq!(whole.json("PUT", &format!("{path}?offset=0"), some.clone()).await.0, StatusCode::OK);
    let (status, problem) = whole.json("PUT", &format!("{path}?offset=0"), some).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("registry.restore.offset")));
    let (status, problem) = whole.json("POST", &format!("{path}:apply"), "").await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("registry.restore.incomplete")));
    // The same upload again: the node still has its beginning.
    let (status, again) = whole.json("POST", "/control/registry/restores", begin).await;
    assert_eq!((status, &again["id"], &again["offset"]), (StatusCode::OK, &begun["id"], &json!(10)));
    let path = whole.upload(&snapshot).await;
    assert_eq!(whole.apply(&path).await["phase"], "done");

    whole.put("new").await;
    let generation = whole.store.status().await.expect("a status").generation;
    let mut altered = snapshot.to_vec();
    altered[20] ^= 1;
    for bad in [b"this is no snapshot of anything".to_vec(), snapshot[..snapshot.len() - 3].to_vec(), altered]
    {
        let path = whole.upload(&bad).await;
        let failed = whole.apply(&path).await;
        assert_eq!(failed["failure"]["code"], "registry.restore.damaged", "{failed}");
        assert!(
            failed["failure"]["detail"].as_str().is_some_and(|d| d.ends_with("nothing was changed")),
            "{failed}"
        );
    }
    assert!(whole.has("new").await);
    assert_eq!(whole.store.status().await.expect("a status").generation, generation);
}

#[tokio::test]
async fn the_whole_store_is_for_operators_within_bounds_and_at_who_has_it() {
    let whole = Whole::new(here());
    let begin = |bytes: u64| json!({ "bytes": bytes, "xxh3": "00000000000000ff" }).to_string();
    for role in ["control", "worker"] {
        for (method, path) in
            [("GET", "/control/v1/registry/snapshot"), ("POST", "/control/v1/registry/restores")]
        {
            let (status, body) = whole.send(role, method, path, begin(1)).await;
            let problem: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("access.role")));
        }
    }
    let (status, problem) = whole.json("POST", "/control/v1/registry/restores", begin((1 << 30) + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(
        problem["detail"].as_str().is_some_and(|d| d.contains("RESTORE_BYTES_MAX is 1073741824")),
        "{problem}"
    );
    let (status, problem) = whole.json("GET", "/control/v1/registry/restores/1234", "").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("registry.restore.unknown")));

    let keeper = |name: &str, edge: Option<&str>| Keeper {
        node_id: name.parse().expect("an id"),
        edge: edge.map(str::to_owned),
    };
    let keepers = vec![keeper("v-1", None), keeper("v-2", Some("10.0.0.2:17480"))];
    let there = Whole::new(Arc::new(move || Some(keepers.clone())));
    let request = Request::get("/control/v1/registry/snapshot").extension(caller("operator"));
    let request = request.body(Body::empty()).expect("a request");
    let response = there.routes.clone().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], "https://10.0.0.2:17480/control/v1/registry/snapshot");
    let nowhere = Whole::new(Arc::new(|| Some(Vec::new())));
    let (status, problem) = nowhere.json("GET", "/control/v1/registry/snapshot", "").await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("registry.elsewhere")));
}
