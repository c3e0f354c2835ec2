use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::header,
};
use futures_util::StreamExt;
use mesh_core::{CertificateInfo, Settings, SystemClock};
use mesh_transport::edge::{EdgeConfig, StackOptions, stack};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{
    Transition,
    testing::{event, leadership, view},
};

struct Node {
    leadership: Leadership,
    router: Router,
}

impl Node {
    /// A node that knows of three scopes: one led, one vacant, one with a slash in its name.
    fn new() -> Self {
        let leadership = leadership("n-1");
        let leaders = vec![
            view("global-control", Some("n-2"), 4),
            view("shard/orders/7", Some("n-1"), 2),
            view("vacant", None, 9),
        ];
        leadership.shared().board.publish(leaders, Vec::new());
        let config = EdgeConfig { events_kept: 16, requests_burst: 100_000, ..EdgeConfig::default() };
        let config = config.validate().expect("valid");
        let metrics = EdgeMetrics::default();
        let routes = leaders_routes(LeadersOptions {
            leadership: leadership.clone(),
            pages: config.page_limits(),
            hub: config.hub_limits(),
            metrics: metrics.clone(),
        });
        let router = stack(routes, StackOptions::new(&config, metrics, Arc::new(SystemClock)));
        Self { leadership, router }
    }

    async fn send(&self, request: Request) -> Response {
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.send(Request::get(path).body(Body::empty()).expect("a request")).await;
        read(response).await
    }

    async fn post(&self, path: &str, role: Option<&str>, body: Value) -> (StatusCode, Value) {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(role) = role {
            request = request.extension(identity(role));
        }
        read(self.send(request.body(Body::from(body.to_string())).expect("a request")).await).await
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
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn the_list_says_who_leads_what_with_which_token() {
    let node = Node::new();
    let (status, list) = node.get("/control/v1/leaders").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(list["observer"], "n-1");
    let first = &list["items"][0];
    assert_eq!((&first["scope"], &first["leader"]), (&json!("global-control"), &json!("n-2")));
    assert_eq!((&first["token"], &first["term"]), (&json!("1.4"), &json!(4)));
    assert_eq!(first["since"], "2023-11-14T22:13:20.000Z");
    assert_eq!(first["correlation_id"], "0000000000000abc");
    assert_eq!(list["items"][2]["leader"], Value::Null);

    let (_, list) = node.get("/control/leaders?scope_kind=shard").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let (_, list) = node.get("/control/leaders?limit=1").await;
    let cursor = list["next_cursor"].as_str().expect("there is more").to_owned();
    let (_, list) = node.get(&format!("/control/leaders?limit=1&cursor={cursor}")).await;
    assert_eq!(list["items"][0]["scope"], "shard/orders/7");
    let (status, problem) = node.get("/control/leaders?colour=red").await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("leaders.filter.unknown")));
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_twice() {
    let node = Node::new();
    let ask = |tag: Option<String>| {
        let mut request = Request::get("/control/leaders/shard/orders/7");
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        node.send(request.body(Body::empty()).expect("a request"))
    };
    let first = ask(None).await;
    assert_eq!(first.status(), StatusCode::OK);
    let tag = first.headers()[header::ETAG].to_str().expect("text").to_owned();
    assert_eq!(ask(Some(tag.clone())).await.status(), StatusCode::NOT_MODIFIED);
    node.leadership.shared().board.publish(vec![view("shard/orders/7", Some("n-3"), 3)], Vec::new());
    assert_eq!(ask(Some(tag)).await.status(), StatusCode::OK);
    let (status, problem) = node.get("/control/leaders/nothing").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("leaders.unknown")));
}

#[tokio::test]
async fn only_operators_may_change_who_leads() {
    let node = Node::new();
    let path = "/control/v1/leaders/global-control:step-down";
    let body = json!({"reason": "a test"});
    let (status, problem) = node.post(path, None, body.clone()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &json!("access.unidentified")));
    for role in ["worker", "control", "observer"] {
        let (status, problem) = node.post(path, Some(role), body.clone()).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("access.role")), "{role}");
    }
    // An operator gets past that: this node's store is nowhere, so its core knows of no leader.
    let (status, problem) = node.post(path, Some("operator"), body).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("leaders.vacant")));
}

#[tokio::test]
async fn a_change_needs_a_reason_a_verb_and_the_right_reign() {
    let node = Node::new();
    let refused = |path: &'static str, body: Value| {
        let node = &node;
        async move {
            let (status, problem) = node.post(path, Some("operator"), body).await;
            (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned())
        }
    };
    let step_down = "/control/leaders/global-control:step-down";
    let transfer = "/control/leaders/global-control:transfer";
    for (path, body, expected) in [
        (step_down, json!({}), (400, "leaders.reason.missing")),
        (step_down, json!({"reason": "r", "to": "n-2"}), (400, "leaders.step-down.to")),
        (step_down, json!({"reason": "r", "token": "1.3"}), (412, "leaders.token.stale")),
        (step_down, json!({"reason": "r", "force": true}), (422, "request.body.invalid")),
        (transfer, json!({"reason": "r"}), (400, "leaders.transfer.to")),
        ("/control/leaders/nothing:step-down", json!({"reason": "r"}), (404, "leaders.unknown")),
        ("/control/leaders/global-control:crown", json!({"reason": "r"}), (404, "leaders.verb.unknown")),
    ] {
        let (status, code) = refused(path, body.clone()).await;
        assert_eq!((status, code.as_str()), expected, "{path} {body}");
    }
}

/// The `id` and the `event` of each event of a stream, until it has `count` of them.
async fn events(node: &Node, last: Option<&str>, query: &str, count: usize) -> Vec<(String, String)> {
    let mut request = Request::get(format!("/control/v1/events/leadership{query}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = node.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    let mut events = Vec::new();
    while events.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(20), body.next()).await.expect("in time");
        text.push_str(&String::from_utf8_lossy(&chunk.expect("open").expect("a chunk")));
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                let found = frame.lines().find_map(|line| line.strip_prefix(name));
                found.unwrap_or_default().trim().to_owned()
            };
            if !field("event:").is_empty() {
                events.push((field("id:"), field("event:")));
            }
            text = rest.to_owned();
        }
    }
    events
}

#[tokio::test]
async fn events_are_named_by_their_transition_and_can_be_resumed() {
    let node = Node::new();
    let first = events(&node, None, "", 1).await;
    assert_eq!(first[0].1, "snapshot");
    let board = &node.leadership.shared().board;
    board.publish(
        Vec::new(),
        vec![
            event(Transition::SteppedDown, "global-control", "n-2", 4),
            event(Transition::Observed, "global-control", "n-3", 5),
            event(Transition::Elected, "vacant", "n-1", 10),
        ],
    );
    let all = events(&node, Some(&first[0].0), "", 3).await;
    let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["stepped-down", "observed", "elected"]);
    let rest = events(&node, Some(&all[1].0), "", 1).await;
    assert_eq!(rest[0].1, "elected");
    let filtered = events(&node, Some(&first[0].0), "?transition=observed&scope=global-control", 1).await;
    assert_eq!(filtered[0].1, "observed");
    let unknown = events(&node, Some("0000000000000000-1"), "", 1).await;
    assert_eq!(unknown[0].1, "snapshot");
}
