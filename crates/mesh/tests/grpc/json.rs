//! A gRPC service called with JSON, because the settings say so.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use mesh::{MeshConfig, Node, NodeError};
use mesh_core::{Settings as _, SystemClock};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::Endpoint,
    rpc::{
        Channel, ChannelConfig, Channels, Encoding, EndpointPolicy, Lane, Policy, RpcMetrics, Target,
        Transport,
    },
    tls::server_name,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{body::Body, service::Routes};
use tower::ServiceExt as _;

use crate::{
    greeter::{Greeter, descriptor_set, greet},
    support::{config, soon},
};

/// Settings under which the greeter is served on the edge port, under the rules of an
/// endpoint of its own.
fn with_greeter(folder: &Path, change: impl FnOnce(&mut EndpointPolicy)) -> MeshConfig {
    let mut config = config(folder, "a", &[]);
    config.gossip.enabled = false;
    config.transport.edge.http3 = true;
    let mut rules = EndpointPolicy {
        transports: vec![Transport::Http1, Transport::Http2, Transport::Http3],
        encodings: vec![Encoding::Json],
        services: vec!["test.Greeter".to_owned()],
        ..EndpointPolicy::default()
    };
    change(&mut rules);
    config.transport.endpoints.insert("greetings".to_owned(), rules);
    config
}

async fn start(ca: &DevCa, config: MeshConfig) -> Result<Node, NodeError> {
    let identity = ca.identity("test", "worker", "a").expect("an identity");
    let node = Node::builder().config(config).identity(identity).grpc(Routes::new(Greeter));
    node.grpc_descriptors(descriptor_set()).start().await
}

/// What the edge port answers to a POST over HTTP/1.1: the head and the body, as text.
async fn post(ca: &DevCa, node: &Node, path: &str, content_type: &str, body: &str) -> (String, String) {
    // No operator: services decide themselves whom they serve.
    let caller = ca.identity("test", "worker", "w-1").expect("an identity");
    let tls = TlsConnector::from(caller.client_config(&[b"http/1.1"]));
    let tcp = TcpStream::connect(node.edge_address().expect("an edge")).await.expect("a connection");
    let mut stream = tls.connect(server_name(Some(node.id())), tcp).await.expect("a handshake");
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut response = String::new();
    soon("the response", stream.read_to_string(&mut response)).await.expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_ascii_lowercase(), body.to_owned())
}

/// A channel to the edge port, which tries HTTP/3 first.
fn channel_to_edge(ca: &DevCa, node: &Node) -> Channel {
    let identity = ca.identity("test", "operator", "alice").expect("an identity");
    let mut config = TransportConfig::loopback();
    config.http3.head_start = std::time::Duration::from_secs(5);
    let config = config.validate().expect("valid settings");
    let policy =
        Policy::new(&config.policy_config().validate().expect("valid"), std::sync::Arc::new(SystemClock));
    let channel_config: ChannelConfig = config.channel_config();
    let endpoint = Endpoint::bind(config, identity, None).expect("bound");
    let metrics = RpcMetrics::new(endpoint.metrics().clone());
    let guard = policy.endpoint(None, "mesh").expect("an endpoint");
    let channel_config = channel_config.validate().expect("valid");
    let channels = Channels::new(std::sync::Arc::new(endpoint), guard, channel_config, metrics);
    channels.open(Target::new(node.id().clone(), node.edge_address().expect("an edge")), Lane::User)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_called_with_json_over_http_1_1_and_http_3_by_settings_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let node = start(&ca, with_greeter(folder.path(), |_| {})).await.expect("the node starts");

    let (head, body) =
        post(&ca, &node, "/test.Greeter/Greet", "application/json", r#"{"text":"good day"}"#).await;
    assert!(head.starts_with("http/1.1 200"), "{head} {body}");
    for line in
        ["content-type: application/json", "rpc-encoding: json", "rpc-transport: http/1.1;reason=negotiated"]
    {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert_eq!(body, r#"{"text":"good day to spiffe://example.org/mesh/test/worker/w-1 over http/1.1"}"#);

    let often = r#"{"text":"hello","count":3}"#;
    let (head, body) = post(&ca, &node, "/test.Greeter/GreetOften", "application/json", often).await;
    assert!(head.contains("content-type: application/x-ndjson"), "{head}");
    assert!(body.contains(r#"{"result":{"text":"hello to spiffe://example.org/mesh/test/worker/w-1 over http/1.1","count":2}}"#), "{body}");

    let (head, body) =
        post(&ca, &node, "/test.Greeter/Greet", "application/json", r#"{"txt":"good day"}"#).await;
    assert!(head.starts_with("http/1.1 400") && head.contains("application/problem+json"), "{head}");
    assert!(
        body.contains("rpc.request.invalid") && body.contains("txt") && body.contains("request_id"),
        "{body}"
    );
    // The endpoint takes JSON and nothing else.
    let (head, _) = post(&ca, &node, "/test.Greeter/Greet", "application/grpc", "").await;
    assert!(head.contains("grpc-status: 7") && head.contains("greetings.encodings"), "{head}");

    // The same over HTTP/3.
    let request = http::Request::post("/test.Greeter/Greet")
        .header("content-type", "application/json")
        .body(Body::new(Full::new(Bytes::from_static(br#"{"text":"good day"}"#))))
        .expect("a request");
    let channel = channel_to_edge(&ca, &node);
    let response = soon("an answer", channel.clone().oneshot(request)).await.expect("an answer");
    assert_eq!(response.headers()["rpc-transport"], "h3;reason=negotiated");
    assert_eq!(response.headers()["rpc-encoding"], "json");
    let body = soon("the body", response.into_body().collect()).await.expect("a whole body").to_bytes();
    assert_eq!(body, r#"{"text":"good day to spiffe://example.org/mesh/test/operator/alice over h3"}"#);
    soon("the node to stop", node.stop()).await.expect("nothing to say goodbye to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_works_on_the_edge_port_where_the_endpoint_allows_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let config = with_greeter(folder.path(), |rules| {
        rules.encodings.push(Encoding::GrpcProto);
        rules.transports.retain(|transport| *transport != Transport::Http1);
    });
    let node = start(&ca, config).await.expect("the node starts");
    let answer = soon("a greeting", greet(channel_to_edge(&ca, &node), "good day")).await.expect("an answer");
    assert_eq!(answer.get_ref().text, "good day to spiffe://example.org/mesh/test/operator/alice over h3");
    // HTTP/1.1 is not among the transports.
    let (head, body) = post(&ca, &node, "/test.Greeter/Greet", "application/json", "{}").await;
    assert!(head.starts_with("http/1.1 403") && body.contains("greetings.transports"), "{head} {body}");
    soon("the node to stop", node.stop()).await.expect("nothing to say goodbye to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_served_without_the_control_api_and_the_mesh_port_may_take_json() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let mut config = config(folder.path(), "a", &[]);
    config.gossip.enabled = false;
    config.control.enabled = false;
    // No code at all: every node has the health service, and knows what it looks like.
    let edge = config.transport.endpoints.get_mut("edge").expect("an endpoint");
    edge.services = vec!["grpc.health.v1.Health".to_owned()];
    config.transport.endpoints.get_mut("mesh").expect("an endpoint").encodings.push(Encoding::Json);
    let node = start(&ca, config).await.expect("the node starts");
    let (head, body) = post(&ca, &node, "/grpc.health.v1.Health/Check", "application/json", "{}").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("SERVING"), "{head} {body}");
    let unheard = r#"{"service":"test.Unheard"}"#;
    let (head, body) = post(&ca, &node, "/grpc.health.v1.Health/Check", "application/json", unheard).await;
    assert!(head.starts_with("http/1.1 404") && body.contains("rpc.not-found"), "{head} {body}");
    let (head, _) = post(&ca, &node, "/control/v1/node:leave", "application/json", "{}").await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    soon("the node to stop", node.stop()).await.expect("nothing to say goodbye to");
}

#[tokio::test]
async fn a_service_that_nobody_described_does_not_start() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let config = with_greeter(folder.path(), |rules| rules.services.push("shop.v1.Orders".to_owned()));
    let error = start(&ca, config).await.expect_err("unknown").to_string();
    assert_eq!(
        error,
        "transport.endpoints.greetings.services (shop.v1.Orders) must be described to be served as JSON; \
         described are [grpc.health.v1.Health, test.Greeter]; name a file with it in \
         transport.endpoints.greetings.descriptors, or leave json out of encodings"
    );
    let missing = folder.path().join("orders.binpb");
    let config = with_greeter(folder.path(), |rules| rules.descriptors.push(missing.clone()));
    let error = start(&ca, config).await.expect_err("no such file");
    assert!(matches!(error, NodeError::Descriptors(_)), "{error}");

    // The file alone is enough, too.
    std::fs::write(&missing, descriptor_set()).expect("written");
    let config = with_greeter(folder.path(), |rules| rules.descriptors.push(missing));
    let identity = ca.identity("test", "worker", "a").expect("an identity");
    let node = Node::builder().config(config).identity(identity).grpc(Routes::new(Greeter));
    drop(node.start().await.expect("the node starts"));
}
