use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response, routing};
use mesh_core::{Clock, ManualClock, PeerIdentity, Settings};
use tower::ServiceExt;

use super::read;
use crate::edge::{
    EdgeConfig, EdgeMetrics, HealthRoutes, JsonBody, Readiness, ReadinessReason, RequestId, StackOptions,
    health_routes, stack,
};

struct Edge {
    router: Router,
    clock: ManualClock,
    metrics: EdgeMetrics,
}

impl Edge {
    fn new(config: EdgeConfig) -> Self {
        let clock = ManualClock::default();
        let metrics = EdgeMetrics::default();
        let routes = Router::new()
            .route(
                "/echo",
                routing::post(|JsonBody(body): JsonBody<Vec<u32>>| async move { axum::Json(body) }),
            )
            .route(
                "/id",
                routing::get(|request: Request| async move {
                    request.extensions().get::<RequestId>().expect("id").to_string()
                }),
            )
            .route("/panic", routing::get(panics))
            .route("/slow", routing::get(std::future::pending::<&'static str>));
        let config = config.validate().expect("valid");
        let options = StackOptions::new(&config, metrics.clone(), Arc::new(clock.clone()));
        Self { router: stack(routes, options), clock, metrics }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Response {
        let request = request.header("x-request-id", "test-1").body(body.into()).expect("request");
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Request::get(path), Body::empty()).await
    }
}

async fn panics() -> &'static str {
    panic!("a defect")
}

#[tokio::test]
async fn every_error_is_a_problem_with_the_request_id() {
    let edge = Edge::new(EdgeConfig { body_bytes_max: 1024, ..EdgeConfig::default() });
    let response = edge.get("/nowhere").await;
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-request-id"], "test-1");
    insta::assert_snapshot!(read(response).await.1, @r#"
    {
      "action": "look at /control/openapi.json for what is",
      "code": "request.path.unknown",
      "request_id": "test-1",
      "status": 404,
      "title": "nothing is served at this path",
      "type": "urn:mesh:problem:request.path.unknown"
    }
    "#);

    let response = edge.get("/echo").await;
    assert_eq!(response.headers()["allow"], "POST");
    insta::assert_snapshot!(read(response).await.1, @r#"
    {
      "action": "use a method of the allow header",
      "code": "request.method.unsupported",
      "request_id": "test-1",
      "status": 405,
      "title": "this path does not take this method",
      "type": "urn:mesh:problem:request.method.unsupported"
    }
    "#);

    let json = |body: &'static str| {
        edge.send(Request::post("/echo").header("content-type", "application/json"), body)
    };
    assert_eq!(read(json("[1, 2]").await).await, (200, "[\n  1,\n  2\n]".to_owned()));
    insta::assert_snapshot!(read(json("[1, \"two\"]").await).await.1, @r#"
    {
      "action": "compare it with the route's schema at /control/openapi.json",
      "code": "request.body.invalid",
      "detail": "[1]: invalid type: string \"two\", expected u32 at line 1 column 9",
      "request_id": "test-1",
      "status": 422,
      "title": "the body is not what this route takes",
      "type": "urn:mesh:problem:request.body.invalid"
    }
    "#);
    let codes = [
        (json("[1,").await, 400, "request.body.syntax"),
        (edge.send(Request::post("/echo"), "[1]").await, 415, "request.body.type"),
        (edge.get("/panic").await, 500, "internal.panic"),
    ];
    for (response, status, code) in codes {
        let (actual, body) = read(response).await;
        assert_eq!(actual, status);
        assert!(body.contains(&format!("\"code\": \"{code}\"")), "{body}");
        assert!(body.contains("\"request_id\": \"test-1\""), "{body}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_its_size_is_stated_or_not() {
    let edge = Edge::new(EdgeConfig { body_bytes_max: 1024, ..EdgeConfig::default() });
    let request = || Request::post("/echo").header("content-type", "application/json");
    let big = format!("[{}1]", "1,".repeat(600));
    let stated = edge.send(request().header("content-length", big.len()), big.clone()).await;
    let stream = futures_util::stream::iter(vec![Ok::<_, std::io::Error>(big)]);
    let unstated = edge.send(request(), Body::from_stream(stream)).await;
    for response in [stated, unstated] {
        let (status, body) = read(response).await;
        assert_eq!(status, 413);
        assert!(body.contains("request.body.too-large") && body.contains("1024"), "{body}");
    }
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let edge = Edge::new(EdgeConfig::default());
    assert_eq!(read(edge.get("/id").await).await.1, "test-1");
    let request = Request::get("/id").body(Body::empty()).expect("request");
    let response = edge.router.clone().oneshot(request).await.expect("infallible");
    let id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(read(response).await.1, id);
    assert!(id.len() > 10);
}

#[tokio::test]
async fn an_identity_over_its_rate_waits_and_others_do_not() {
    let edge = Edge::new(EdgeConfig { requests_per_second: 2.0, requests_burst: 3, ..EdgeConfig::default() });
    let get = |name: &'static str| {
        let id = format!("spiffe://example.org/mesh/prod/worker/{name}").parse().expect("id");
        let certificate =
            mesh_core::CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: u64::MAX };
        edge.send(Request::get("/id").extension(Arc::new(PeerIdentity { id, certificate })), Body::empty())
    };
    for _ in 0..3 {
        assert_eq!(get("w-1").await.status(), 200);
    }
    let refused = get("w-1").await;
    assert_eq!(refused.headers()["retry-after"], "1");
    insta::assert_snapshot!(read(refused).await.1, @r#"
    {
      "action": "wait for retry_after seconds; follow a list with ?watch instead of polling it",
      "code": "request.rate.limited",
      "detail": "the limit is 2 requests a second, 3 at once",
      "object": "spiffe://example.org/mesh/prod/worker/w-1",
      "request_id": "test-1",
      "retry_after": 0.5,
      "status": 429,
      "title": "too many requests from this identity",
      "type": "urn:mesh:problem:request.rate.limited"
    }
    "#);
    assert_eq!(get("w-2").await.status(), 200);
    edge.clock.advance(Duration::from_millis(500));
    assert_eq!(get("w-1").await.status(), 200);
    assert_eq!(get("w-1").await.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_in_time_ends_as_408() {
    let edge = Edge::new(EdgeConfig::default());
    let (status, body) = read(edge.get("/slow").await).await;
    assert_eq!(status, 408);
    assert!(body.contains("30s"), "{body}");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_configured_ones_named() {
    let console = "https://console.example.org";
    let edge = Edge::new(EdgeConfig { origins: vec![console.to_owned()], ..EdgeConfig::default() });
    let from = |origin: &'static str| Request::get("/id").header("host", "n1:17480").header("origin", origin);

    let own = edge.send(from("https://n1:17480"), Body::empty()).await;
    assert_eq!(own.status(), 200);
    assert!(!own.headers().contains_key("access-control-allow-origin"));

    let configured = edge.send(from(console), Body::empty()).await;
    assert_eq!(configured.headers()["access-control-allow-origin"], console);
    assert_eq!(configured.headers()["vary"], "origin");

    let evil = edge.send(from("https://evil.example"), Body::empty()).await;
    insta::assert_snapshot!(read(evil).await.1, @r#"
    {
      "action": "open the console at this address, or add the origin to transport.edge.origins",
      "code": "request.origin.refused",
      "detail": "only pages of this address itself, and those in transport.edge.origins, may",
      "object": "https://evil.example",
      "request_id": "test-1",
      "status": 403,
      "title": "web pages of this origin may not call",
      "type": "urn:mesh:problem:request.origin.refused"
    }
    "#);

    let preflight = from(console).method("OPTIONS").header("access-control-request-method", "PATCH");
    let response = edge.send(preflight, Body::empty()).await;
    assert_eq!(response.status(), 204);
    assert!(response.headers()["access-control-allow-methods"].to_str().expect("text").contains("PATCH"));
    assert_eq!(response.headers()["access-control-allow-origin"], console);
}

#[tokio::test]
async fn health_routes_say_what_is_missing() {
    let clock = ManualClock::default();
    let asked = clock.clone();
    let router = health_routes(HealthRoutes {
        live: Arc::new(|| true),
        ready: Arc::new(move || {
            let isolated = ReadinessReason {
                code: "gossip.isolated".into(),
                detail: "none of the 4 known members answers".to_owned(),
                action: "check the network, or add a seed".into(),
            };
            let starting = asked.now() < mesh_core::Instant::from_nanos(1);
            Readiness::from_reasons(if starting { vec![isolated] } else { vec![] })
        }),
        metrics: Arc::new(|| "# EOF\n".to_owned()),
    });
    let get = |path: &'static str| {
        let request = Request::get(path).body(Body::empty()).expect("request");
        let router = router.clone();
        async move { router.oneshot(request).await.expect("infallible") }
    };
    assert_eq!(read(get("/healthz").await).await, (200, "{\n  \"status\": \"up\"\n}".to_owned()));
    let (status, body) = read(get("/readyz").await).await;
    assert_eq!(status, 503);
    insta::assert_snapshot!(body, @r#"
    {
      "ready": false,
      "reasons": [
        {
          "action": "check the network, or add a seed",
          "code": "gossip.isolated",
          "detail": "none of the 4 known members answers"
        }
      ]
    }
    "#);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(read(get("/readyz").await).await.0, 200);
    let metrics = get("/metrics").await;
    assert!(metrics.headers()["content-type"].to_str().expect("text").starts_with("application/openmetrics"));
    assert_eq!(read(metrics).await.1, "# EOF\n");
}

#[tokio::test]
async fn requests_are_counted_under_their_documented_names() {
    let edge = Edge::new(EdgeConfig::default());
    edge.get("/id").await;
    edge.get("/nowhere").await;
    let mut registry = prometheus_client::registry::Registry::default();
    edge.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in [
        "mesh_edge_requests_total{method=\"GET\",status=\"200\"} 1",
        "mesh_edge_requests_total{method=\"GET\",status=\"404\"} 1",
        "mesh_edge_request_seconds_count 2",
        "mesh_edge_connections 0",
        "mesh_edge_subscribers 0",
        "mesh_edge_slow_subscribers_total 0",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}
