//! The routes, asked as a browser would.

use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use mesh_core::{
    BoxError, ManualClock, MemberEvents, MemberSnapshot, Membership, Settings as _,
    store::{AuditNote, Operation, Prefix, Txn},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    MemoryStore,
    members::{GroupMember, GroupMembers, MemberRole, Members},
    reconcile::{Cached, ReconcileConfig, ReconcilerOptions},
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
