//! A gRPC service as callers meet it that speak JSON.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use mesh_core::{CertificateInfo, PeerIdentity, Settings as _, SystemClock};
use prost_reflect::{
    prost::{self, Message as _},
    prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
        ServiceDescriptorProto, field_descriptor_proto::Type,
    },
};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

use super::{Descriptors, Transcoder};
use crate::{
    TransportMetrics,
    rpc::{
        EDGE, ENCODING_HEADER, Encoding, PeerInfo, Policy, PolicyConfig, RpcMetrics, RpcServer, ServerConfig,
        TRANSPORT_HEADER, Transport,
    },
};

/// What a `.proto` file would say.
pub(super) fn descriptor_set() -> Vec<u8> {
    let field = |number, name: &str, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(kind.into()),
        label: Some(1),
        ..FieldDescriptorProto::default()
    };
    let method = |name: &str, asks_often, answers_often| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.Line".to_owned()),
        output_type: Some(".test.Line".to_owned()),
        client_streaming: Some(asks_often),
        server_streaming: Some(answers_often),
        ..MethodDescriptorProto::default()
    };
    let line = DescriptorProto {
        name: Some("Line".to_owned()),
        field: vec![
            field(1, "item_name", Type::String),
            field(2, "count", Type::Uint32),
            field(3, "paid_cents", Type::Int64),
            field(4, "mark", Type::Bytes),
        ],
        ..DescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Shop".to_owned()),
        method: vec![
            method("Order", false, false),
            method("Follow", false, true),
            method("Fill", true, false),
            method("Forgotten", false, false),
        ],
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("shop.proto".to_owned()),
        package: Some("test".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![line],
        service: vec![service],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    item_name: String,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(int64, tag = "3")]
    paid_cents: i64,
    #[prost(bytes = "bytes", tag = "4")]
    mark: Bytes,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;
type Lines = Pin<Box<dyn Stream<Item = Result<Line, Status>> + Send>>;

/// Takes an order, with the failures that its item asks for.
struct Order;
impl UnaryService<Line> for Order {
    type Response = Line;
    type Future = Answer<Line>;
    fn call(&mut self, request: tonic::Request<Line>) -> Self::Future {
        let caller = request.extensions().get::<PeerInfo>().map(|peer| peer.identity.id.to_string());
        let note = request.metadata().get("x-note").cloned();
        Box::pin(async move {
            let line = request.into_inner();
            match line.item_name.as_str() {
                "unicorn" => Err(Status::not_found("no unicorns left")),
                "never" => std::future::pending().await,
                "huge" => Ok(tonic::Response::new(Line { mark: vec![0; 4096].into(), ..line })),
                _ => {
                    let mark = caller.unwrap_or_default().into();
                    let mut response = tonic::Response::new(Line { paid_cents: 1 << 60, mark, ..line });
                    if let Some(note) = note {
                        response.metadata_mut().insert("x-note", note);
                    }
                    Ok(response)
                }
            }
        })
    }
}

/// As many lines as asked for, then what the item asks for.
struct Follow;
impl ServerStreamingService<Line> for Follow {
    type Response = Line;
    type ResponseStream = Lines;
    type Future = Answer<Lines>;
    fn call(&mut self, request: tonic::Request<Line>) -> Self::Future {
        let line = request.into_inner();
        Box::pin(async move {
            if line.item_name == "unicorn" {
                return Err(Status::not_found("no unicorns left"));
            }
            let lines = stream::iter(0..line.count).map(|count| Ok(Line { count, ..Line::default() }));
            let end: Lines = match line.item_name.as_str() {
                "broken" => Box::pin(stream::iter([Err(Status::data_loss("it fell"))])),
                "never" => Box::pin(stream::pending()),
                _ => Box::pin(stream::empty()),
            };
            Ok(tonic::Response::new(Box::pin(lines.chain(end)) as Lines))
        })
    }
}

#[derive(Clone)]
struct Shop;

impl tower::Service<Request<Body>> for Shop {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Line, Line>::default());
            Ok(match request.uri().path() {
                "/test.Shop/Order" => grpc.unary(Order, request).await,
                "/test.Shop/Follow" => grpc.server_streaming(Follow, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn shop(config: ServerConfig, change: impl FnOnce(&mut PolicyConfig)) -> RpcServer<Transcoder<Shop>> {
    let mut descriptors = Descriptors::default();
    descriptors.add(&descriptor_set()).expect("a set");
    let mut policy = PolicyConfig::default();
    change(&mut policy);
    let policy = Policy::new(&policy.validate().expect("valid"), Arc::new(SystemClock));
    let config = config.validate().expect("valid");
    let service = Transcoder::new(Shop, descriptors, config.message_bytes_max);
    let metrics = RpcMetrics::new(TransportMetrics::default());
    RpcServer::new(service, policy.endpoint(None, EDGE).expect("it exists"), config, metrics)
}

fn peer(transport: Transport) -> PeerInfo {
    let id = "spiffe://example.org/mesh/c/operator/alice".parse().expect("an id");
    let certificate = CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: 1 };
    PeerInfo {
        identity: Arc::new(PeerIdentity { id, certificate }),
        transport,
        alpn: "http/1.1",
        exporter: None,
    }
}

fn post(path: &str, json: &str) -> Request<Full<Bytes>> {
    Request::post(format!("https://n-1{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json.to_owned()))
        .expect("a request")
}

async fn ask(
    server: &RpcServer<Transcoder<Shop>>,
    request: Request<Full<Bytes>>,
) -> (StatusCode, String, String) {
    let response = server.call(request, &peer(Transport::Http1)).await;
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, content_type, String::from_utf8(body.to_vec()).expect("text"))
}

/// A problem's status, code and cause.
async fn problem(
    server: &RpcServer<Transcoder<Shop>>,
    request: Request<Full<Bytes>>,
) -> (u16, String, String) {
    let (status, content_type, body) = ask(server, request).await;
    assert_eq!(content_type, "application/problem+json", "{status} {body}");
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(problem["status"], status.as_u16());
    (status.as_u16(), text("code"), text("detail"))
}

#[tokio::test]
async fn a_unary_call_takes_and_gives_json_by_the_rules_of_protocol_buffers() {
    let shop = shop(ServerConfig::default(), |_| {});
    let mut request = post("/test.Shop/Order", r#"{"itemName": "tea", "count": 2}"#);
    request.headers_mut().insert("x-note", "hello".parse().expect("a value"));
    let response = shop.call(request, &peer(Transport::Http1)).await;
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-note", "hello"),
        (ENCODING_HEADER, "json"),
        (TRANSPORT_HEADER, "http/1.1;reason=negotiated"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
    assert!(!response.headers().contains_key("grpc-status"));
    let body = response.into_body().collect().await.expect("a whole body");
    assert!(body.trailers().is_none());
    let json: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    // 64-bit numbers are texts, bytes are base64, and handlers know the caller.
    assert_eq!(json["itemName"], "tea");
    assert_eq!(json["count"], 2);
    assert_eq!(json["paidCents"], (1_u64 << 60).to_string());
    assert_eq!(json["mark"], "c3BpZmZlOi8vZXhhbXBsZS5vcmcvbWVzaC9jL29wZXJhdG9yL2FsaWNl");

    // The names of the .proto file are understood, too.
    let (status, _, body) = ask(&shop, post("/test.Shop/Order", r#"{"item_name": "tea"}"#)).await;
    assert!(status == 200 && body.contains(r#""itemName":"tea""#), "{status} {body}");
}

#[tokio::test]
async fn what_can_not_be_understood_is_refused_with_the_place() {
    let shop = shop(ServerConfig { message_bytes_max: 1024, ..ServerConfig::default() }, |_| {});
    let order = |json: &str| problem(&shop, post("/test.Shop/Order", json));
    for (json, hint) in [
        (r#"{"itemNam": "tea"}"#, "itemNam"),
        (r#"{"count": -1}"#, "line 1"),
        (r#"{"itemName": "tea""#, "line 1"),
        (r#"{} {}"#, "trailing"),
        ("", "line 1"),
        (r#"[]"#, "test.Line"),
    ] {
        let (status, code, detail) = order(json).await;
        assert_eq!((status, &*code), (400, "rpc.request.invalid"), "{json}");
        assert!(detail.contains(hint), "{json}: {detail}");
    }
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    assert_eq!(order(&deep).await.1, "rpc.request.invalid");
    let (status, code, detail) = order(&format!(r#"{{"itemName": "{}"}}"#, "x".repeat(2000))).await;
    assert_eq!((status, &*code), (413, "rpc.request.too-large"));
    assert!(detail.contains("1024"), "{detail}");
    // What the handler says is too long for the limit.
    let (status, code, detail) = order(r#"{"itemName": "huge"}"#).await;
    assert_eq!((status, &*code), (429, "rpc.resource-exhausted"));
    assert!(detail.contains("limit of 1024"), "{detail}");
}

#[tokio::test]
async fn failures_of_the_handler_are_problems_with_their_code() {
    let shop = shop(ServerConfig::default(), |_| {});
    let of = |path: &'static str, json: &'static str| problem(&shop, post(path, json));
    let not_found = (404, "rpc.not-found".to_owned(), "no unicorns left".to_owned());
    assert_eq!(of("/test.Shop/Order", r#"{"itemName": "unicorn"}"#).await, not_found);
    assert_eq!(of("/test.Shop/Follow", r#"{"itemName": "unicorn"}"#).await, not_found);
    for path in ["/test.Shop/Forgotten", "/test.Shop/Nothing", "/test.Other/Order"] {
        let (status, code, _) = of(path, "{}").await;
        assert_eq!((status, &*code), (501, "rpc.unimplemented"), "{path}");
    }
    let (status, code, _) = of("/test.Shop/Fill", "{}").await;
    assert_eq!((status, &*code), (501, "rpc.method.client-streaming"));
    let get = Request::get("https://n-1/test.Shop/Order")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::default())
        .expect("a request");
    assert_eq!(problem(&shop, get).await.0, 405);
}

#[tokio::test]
async fn a_stream_of_answers_is_lines_or_events_and_says_how_it_ended() {
    let shop = shop(ServerConfig::default(), |_| {});
    let follow = |json: &str, accept: &str| {
        let mut request = post("/test.Shop/Follow", json);
        request.headers_mut().insert(header::ACCEPT, accept.parse().expect("a value"));
        ask(&shop, request)
    };
    let (_, content_type, body) = follow(r#"{"count": 3}"#, "*/*").await;
    assert_eq!(content_type, "application/x-ndjson");
    assert_eq!(body, "{\"result\":{}}\n{\"result\":{\"count\":1}}\n{\"result\":{\"count\":2}}\n");

    let (_, _, body) = follow(r#"{"count": 1, "itemName": "broken"}"#, "*/*").await;
    let last: serde_json::Value = serde_json::from_str(body.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["error"]["code"], &last["error"]["detail"]),
        (&"rpc.data-loss".into(), &"it fell".into())
    );
    assert_eq!(body.lines().count(), 2);

    let (_, content_type, body) = follow(r#"{"count": 1}"#, "text/event-stream").await;
    assert_eq!(content_type, "text/event-stream");
    assert_eq!(body, "event: message\ndata: {}\n\nevent: end\ndata: {}\n\n");
    let (_, _, body) = follow(r#"{"itemName": "broken"}"#, "text/event-stream").await;
    assert!(body.starts_with("event: error\ndata: {") && body.contains("rpc.data-loss"), "{body}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_never_makes_half_an_answer_look_whole() {
    let shop = shop(ServerConfig::default(), |_| {});
    let soon = |path: &str| {
        let mut request = post(path, r#"{"itemName": "never", "count": 1}"#);
        request.headers_mut().insert("grpc-timeout", "30m".parse().expect("a value"));
        request
    };
    let (status, code, _) = problem(&shop, soon("/test.Shop/Order")).await;
    assert_eq!((status, &*code), (504, "rpc.deadline-exceeded"));

    let response = shop.call(soon("/test.Shop/Follow"), &peer(Transport::Http2)).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let first = body.frame().await.expect("a line").expect("data").into_data().expect("data");
    assert_eq!(first, "{\"result\":{}}\n");
    let next = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.expect("in time");
    assert!(next.expect("something").is_err(), "the stream breaks");
}

#[tokio::test]
async fn the_policy_of_the_endpoint_holds() {
    // JSON is all that this endpoint takes, and not over HTTP/3.
    let shop = shop(ServerConfig::default(), |policy| {
        let edge = policy.endpoints.get_mut(EDGE).expect("it exists");
        edge.encodings = vec![Encoding::Json];
        edge.transports = vec![Transport::Http1, Transport::Http2];
    });
    let response = shop.call(post("/test.Shop/Order", "{}"), &peer(Transport::Http3)).await;
    assert_eq!(response.status(), 403);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(problem["code"], "rpc.policy");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("endpoints.edge.transports")), "{problem}");

    let mut grpc = post("/test.Shop/Order", "");
    grpc.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a value"));
    let refused = shop.call(grpc, &peer(Transport::Http2)).await;
    assert_eq!(refused.headers()["grpc-status"], "7");
    let mut plain = post("/test.Shop/Order", "{}");
    plain.headers_mut().remove(header::CONTENT_TYPE);
    assert_eq!(shop.call(plain, &peer(Transport::Http2)).await.status(), 415);
}

#[tokio::test]
async fn those_who_speak_grpc_are_served_as_before() {
    let shop = shop(ServerConfig::default(), |policy| {
        policy.endpoints.get_mut(EDGE).expect("it exists").encodings.push(Encoding::GrpcProto);
    });
    let line = Line { item_name: "tea".into(), ..Line::default() };
    let bytes = line.encode_to_vec();
    let frame = [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
    let mut request = post("/test.Shop/Order", "").map(|_| Full::from(frame));
    request.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a value"));
    let response = shop.call(request, &peer(Transport::Http2)).await;
    assert_eq!(response.headers()[ENCODING_HEADER], "grpc+proto");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(Line::decode(&body.to_bytes()[5..]).expect("a message").item_name, "tea");
}
