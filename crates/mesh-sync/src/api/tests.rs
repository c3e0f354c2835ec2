use axum::{
    body::{Body, to_bytes},
    http::{Method, header},
};
use http_body_util::BodyExt;
use mesh_core::{CertificateInfo, Clock, Settings, SystemClock};
use mesh_transport::edge::{EdgeConfig, StackOptions, stack};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    blob::MemoryChunks,
    config::{DatasetConfig, SyncConfig},
    engine::{Engine, EngineOptions},
    entry::AuthorKey,
    memory::MemoryNetwork,
    replica::ReplicaConfig,
    store::MemoryStore,
    ticket::TicketPeer,
};

/// A node that keeps the dataset `notes` and knows nobody.
struct Node {
    engine: Engine,
    router: Router,
}

impl Node {
    async fn new() -> Self {
        Self::with_pruners(vec![AuthorKey::from_seed([7; 32]).id().to_string()]).await
    }

    async fn with_pruners(pruners: Vec<String>) -> Self {
        let local: NodeId = "n-1".parse().expect("a node id");
        let config = SyncConfig {
            datasets: vec![DatasetConfig { name: "notes".into(), ..DatasetConfig::default() }],
            pruners,
            ..SyncConfig::default()
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let engine = Engine::start(EngineOptions {
            local: local.clone(),
            cluster: "prod".parse().expect("a name"),
            config: config.validate().expect("valid"),
            author: AuthorKey::from_seed([7; 32]),
            stores: Arc::new(MemoryStore::in_memory()),
            chunks: Arc::new(MemoryChunks::default()),
            clock: Arc::clone(&clock),
            carrier: Arc::new(MemoryNetwork::default().carrier(&local)),
            addresses: vec![TicketPeer::new("grpc", "127.0.0.1:7").expect("valid")],
            seed: [1; 32],
            replica: ReplicaConfig::default(),
        });
        let engine = engine.await.expect("starts");
        let config = EdgeConfig { events_kept: 16, requests_burst: 100_000, ..EdgeConfig::default() };
        let config = config.validate().expect("valid");
        let metrics = EdgeMetrics::default();
        let routes = sync_routes(SyncOptions {
            sync: engine.handle(),
            lag_degraded: Duration::from_secs(30),
            instance: InstanceId(7),
            pages: config.page_limits(),
            hub: config.hub_limits(),
            metrics: metrics.clone(),
        });
        Self { engine, router: stack(routes, StackOptions::new(&config, metrics, clock)) }
    }

    async fn send(&self, method: Method, path: &str, role: Option<&str>, body: Body) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if path.contains("/sync") {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(role) = role {
            request = request.extension(identity(role));
        }
        self.router.clone().oneshot(request.body(body).expect("a request")).await.expect("infallible")
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(Method::GET, path, Some("operator"), Body::empty()).await).await
    }

    async fn put(&self, path: &str, value: &[u8]) -> (StatusCode, Value) {
        read(self.send(Method::PUT, path, Some("operator"), Body::from(value.to_vec())).await).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        read(self.send(Method::POST, path, Some("operator"), Body::from(body.to_string())).await).await
    }
}

fn identity(role: &str) -> Arc<PeerIdentity> {
    Arc::new(PeerIdentity {
        id: format!("spiffe://example.org/mesh/prod/{role}/someone").parse().expect("an id"),
        certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
    })
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), 4 << 20).await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_document_is_written_read_listed_and_deleted() {
    let node = Node::new().await;
    let (status, written) = node.put("/control/v1/data/notes/list/a%2Fmilk%20%C3%BC", b"1 l").await;
    assert_eq!(status, StatusCode::OK, "{written}");
    assert_eq!((&written["document"]["key"], &written["document"]["bytes"]), (&json!("a/milk ü"), &json!(3)));
    assert_eq!(written["document"]["author"], node.engine.handle().author().to_string());

    let (status, found) = node.get("/control/data/notes/list/a%2Fmilk%20%C3%BC").await;
    assert_eq!((status, &found["document"]["value"]), (StatusCode::OK, &json!("1 l")));
    assert_eq!(found["document"]["id"], written["document"]["id"]);
    node.put("/control/data/notes/list/raw", &[0xff, 0]).await;
    let (_, found) = node.get("/control/data/notes/list/raw").await;
    assert_eq!(
        (&found["document"]["value"], &found["document"]["value_hex"]),
        (&Value::Null, &json!("ff00"))
    );

    let delete = node.send(Method::DELETE, "/control/data/notes/list/raw", Some("operator"), Body::empty());
    let (status, deleted) = read(delete.await).await;
    assert_eq!((status, &deleted["document"]["kind"]), (StatusCode::OK, &json!("delete")));
    let (status, problem) = node.get("/control/data/notes/list/raw").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("sync.document.unknown")));
    let (_, list) = node.get("/control/data/notes").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
}

#[tokio::test]
async fn the_bytes_of_a_value_come_alone_if_they_are_asked_for() {
    let node = Node::new().await;
    let value = vec![0xfe; 1 << 20];
    let (status, written) = node.put("/control/data/notes/list/k", &value).await;
    assert_eq!(status, StatusCode::OK, "{written}");
    let request = Request::get("/control/data/notes/list/k")
        .header(header::ACCEPT, "application/octet-stream")
        .extension(identity("operator"));
    let request = request.body(Body::empty()).expect("a request");
    let response = node.router.clone().oneshot(request).await.expect("infallible");
    let tag = format!("\"{}\"", written["document"]["id"].as_str().expect("an id"));
    assert_eq!(response.headers()[header::ETAG], tag.as_str());
    assert_eq!(to_bytes(response.into_body(), 2 << 20).await.expect("a body"), value);
}

#[tokio::test]
async fn lists_come_in_pages_over_all_collections_and_by_prefix() {
    let node = Node::new().await;
    for collection in ["b", "a", "c"] {
        for key in ["x1", "x2", "y", "z%01"] {
            node.put(&format!("/control/data/notes/{collection}/{key}"), b"v").await;
        }
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("a list");
        let name = |item: &Value| format!("{}/{}", item["collection"], item["key"]).replace('"', "");
        items.iter().map(name).collect()
    };
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, list) = node.get(&format!("/control/data/notes?limit=2{cursor}")).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        all.extend(names(&list));
        match list["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(all.len(), 12);
    assert!(all.is_sorted(), "{all:?}");
    let (_, list) = node.get("/control/data/notes?prefix=x").await;
    assert_eq!(names(&list), ["a/x1", "a/x2", "b/x1", "b/x2", "c/x1", "c/x2"]);
    let (_, list) = node.get("/control/data/notes?collection=b&prefix=y").await;
    assert_eq!(names(&list), ["b/y"]);
    let (status, problem) = node.get("/control/data/notes?colour=red").await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("sync.query.invalid")));
}

#[tokio::test]
async fn who_is_no_operator_sees_how_sync_stands_and_no_document() {
    let node = Node::new().await;
    node.put("/control/data/notes/list/milk", b"1 l").await;
    let ask = async |method: Method, path: &str, role: Option<&str>| {
        let (status, problem) = read(node.send(method, path, role, Body::from("{}")).await).await;
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(Method::GET, "/control/sync", Some("worker")).await.0, StatusCode::OK);
    for (method, path) in [
        (Method::GET, "/control/data/notes/list/milk"),
        (Method::GET, "/control/data/notes"),
        (Method::GET, "/control/events/data/notes"),
        (Method::PUT, "/control/data/notes/list/milk"),
        (Method::DELETE, "/control/data/notes/list/milk"),
        (Method::POST, "/control/sync:now"),
        (Method::POST, "/control/sync/dead-letters:drop"),
        (Method::POST, "/control/sync/requests/notes/n-2:approve"),
        (Method::POST, "/control/sync/peers/notes/n-2:retire"),
    ] {
        let refused = (StatusCode::FORBIDDEN, "access.role".to_owned());
        assert_eq!(ask(method.clone(), path, Some("worker")).await, refused, "{method} {path}");
        let refused = (StatusCode::UNAUTHORIZED, "access.unidentified".to_owned());
        assert_eq!(ask(method.clone(), path, None).await, refused, "{method} {path}");
    }
    let (_, found) = node.get("/control/data/notes/list/milk").await;
    assert_eq!(found["document"]["value"], "1 l");
}

#[tokio::test]
async fn the_state_names_every_figure_that_operators_look_at() {
    let node = Node::new().await;
    node.put("/control/data/notes/list/milk", b"1 l").await;
    let (status, reply) = node.get("/control/v1/sync").await;
    assert_eq!(status, StatusCode::OK);
    let sync = &reply["sync"];
    assert_eq!((&sync["observer"], &sync["health"]), (&json!("n-1"), &json!("ok")));
    for figure in ["tracked_peers", "lagging_peers", "max_lag_ms", "peers_without_confirmation"] {
        assert_eq!(sync[figure], 0, "{figure}");
        assert_eq!(sync["datasets"][0][figure], 0, "{figure}");
    }
    let notes = &sync["datasets"][0];
    assert_eq!((&notes["dataset"], &notes["entries"]), (&json!("notes"), &json!(1)));
    assert_eq!(notes["authors"][0]["contiguous"], 1);
}

#[tokio::test]
async fn mistakes_are_answered_with_the_next_step() {
    let node = Node::new().await;
    for (path, status, code) in [
        ("/control/data/elsewhere", StatusCode::NOT_FOUND, "sync.dataset.unknown"),
        ("/control/data/NOTES", StatusCode::BAD_REQUEST, "sync.name.invalid"),
        ("/control/sync/peers?dataset=elsewhere", StatusCode::NOT_FOUND, "sync.dataset.unknown"),
        ("/control/sync/tickets/elsewhere", StatusCode::NOT_FOUND, "sync.dataset.unknown"),
    ] {
        let (answered, problem) = node.get(path).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{path}: {problem}");
        assert!(problem["action"].as_str().is_some_and(|action| !action.is_empty()), "{problem}");
    }
    let (status, problem) = node.put(&format!("/control/data/notes/list/{}", "k".repeat(600)), b"v").await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("sync.key.invalid")));
    let (status, problem) = node.post("/control/sync/requests/notes/n-9:approve", json!({})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("sync.request.unknown")));
    let (status, problem) = node.post("/control/sync/requests/notes/n-9:praise", json!({})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("sync.verb.unknown")));
    let (status, problem) = node.post("/control/sync/peers/notes/n-9:retire", json!({})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("sync.peer.unknown")));
    let (status, problem) = node.post("/control/sync:join", json!({ "ticket": "x" })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("sync.ticket.invalid")));
    let (status, lists) = node.get("/control/sync/dead-letters").await;
    assert_eq!((status, &lists["items"]), (StatusCode::OK, &json!([])));
    let (status, ticket) = node.get("/control/sync/tickets/notes").await;
    assert_eq!(
        (status, &ticket["ticket"]),
        (StatusCode::OK, &json!("mesh:?ds=notes&pr=grpc:n-1@127.0.0.1:7"))
    );
}

#[tokio::test]
async fn changes_come_as_events_that_pass_the_filter() {
    let node = Node::new().await;
    let path = "/control/events/data/notes?collection=list&prefix=m";
    let response = node.send(Method::GET, path, Some("operator"), Body::empty()).await;
    assert_eq!(response.status(), StatusCode::OK);
    for (key, value) in [("other/milk", "no"), ("list/bread", "no"), ("list/milk", "1 l")] {
        node.put(&format!("/control/data/notes/{key}"), value.as_bytes()).await;
    }
    node.send(Method::DELETE, "/control/data/notes/list/milk", Some("operator"), Body::empty()).await;
    let mut body = response.into_body();
    let mut text = String::new();
    while !text.contains("event: delete") {
        let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await;
        let frame = frame.expect("in time").expect("more").expect("a frame");
        text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
    }
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["snapshot", "put", "delete"], "{text}");
    assert!(text.contains(r#""value":"1 l""#) && !text.contains("bread"), "{text}");
}

#[tokio::test]
async fn a_prune_tells_what_goes_and_a_dry_run_changes_nothing() {
    let node = Node::new().await;
    for value in [b"1", b"2", b"3"] {
        node.put("/control/v1/data/notes/list/milk", value).await;
    }
    let path = "/control/v1/sync:prune";
    // What is held was looked at by then: the first confirmation is this node's own.
    let dry = async || node.post(path, json!({ "dataset": "notes", "dry_run": true })).await;
    let mut answer = dry().await;
    while answer.1["items"][0]["entries"] != 2 {
        assert_eq!(answer.0, StatusCode::OK, "{answer:?}");
        tokio::task::yield_now().await;
        answer = dry().await;
    }
    assert_eq!(answer.1["items"][0]["ordered_by"], Value::Null);
    let (status, done) = node.post(path, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let item = &done["items"][0];
    assert_eq!((&item["entries"], &item["authors"], &item["held_up_by"]), (&json!(2), &json!(1), &json!([])));
    assert_eq!(item["ordered_by"].as_str().map(str::len), Some(64), "{item}");
    let (status, refused) = node.post(path, json!({ "dataset": "elsewhere" })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::NOT_FOUND, &json!("sync.dataset.unknown")));
    let (status, refused) = node.put("/control/v1/data/notes/mesh.prune/x", b"1").await;
    assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &json!("sync.collection.reserved")));
}

#[tokio::test]
async fn only_operators_prune_and_only_where_the_settings_say_so() {
    let node = Node::with_pruners(Vec::new()).await;
    let body = || Body::from(json!({ "dry_run": true }).to_string());
    let refused = node.send(Method::POST, "/control/v1/sync:prune", Some("agent"), body()).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let (status, refused) = node.post("/control/v1/sync:prune", json!({})).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("sync.prune.refused")));
    let own = node.engine.handle().author().to_string();
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(&own)), "{refused}");
}
