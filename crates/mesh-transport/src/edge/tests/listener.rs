use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use axum::{Router, extract::Request, routing};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::{InstanceId, NodeId, PeerIdentity, Settings, SystemClock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Identity,
    ca::DevCa,
    edge::{
        ConnectionInfo, EdgeConfig, EdgeMetrics, EdgeServer, EdgeTls, EventHub, HttpVersion, NewEvent,
        StackOptions, SubscribeOptions, metrics::Refused, stack,
    },
    tls::server_name,
};

/// Nothing here takes as long; a test that waits for it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Edge {
    pub(super) ca: DevCa,
    pub(super) identity: Identity,
    pub(super) server: EdgeServer,
    pub(super) metrics: EdgeMetrics,
    pub(super) hub: EventHub<(), ()>,
}

async fn who(request: Request) -> String {
    let peer = request.extensions().get::<Arc<PeerIdentity>>().expect("caller");
    let info = request.extensions().get::<ConnectionInfo>().expect("connection");
    format!("{} {:?}", peer.id, info.version)
}

pub(super) async fn edge(change: impl FnOnce(&mut EdgeConfig)) -> Edge {
    let ca = DevCa::new("example.org").expect("ca");
    let identity = ca.identity("prod", "control", "n-1").expect("identity");
    let mut config = EdgeConfig { bind: ([127, 0, 0, 1], 0).into(), ..EdgeConfig::default() };
    change(&mut config);
    let config = config.validate().expect("valid");
    let metrics = EdgeMetrics::default();
    let hub = EventHub::new(InstanceId(1), config.hub_limits(), metrics.clone(), ());
    let events = hub.clone();
    let routes = Router::new()
        .route("/who", routing::get(who))
        .route("/upload", routing::post(|body: Bytes| async move { body.len().to_string() }))
        .route("/big", routing::get(|| async { vec![0_u8; 64 << 20] }))
        .route(
            "/events",
            routing::get(move |request: Request| async move {
                let draining = request.extensions().get::<ConnectionInfo>().map(|info| info.draining.clone());
                let options = SubscribeOptions { draining, ..SubscribeOptions::default() };
                events.subscribe(options, |()| true, |()| (), |()| vec!["{}".to_owned()])
            }),
        );
    let options = StackOptions::new(&config, metrics.clone(), Arc::new(SystemClock));
    let router = stack(routes, options);
    let server = EdgeServer::bind(&config, EdgeTls::of_identity(&identity), router, metrics.clone())
        .await
        .expect("bind");
    Edge { ca, identity, server, metrics, hub }
}

impl Edge {
    pub(super) fn client(&self, role: &str, name: &str) -> Identity {
        self.ca.identity("prod", role, name).expect("identity")
    }

    async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.server.local_addr()).await.expect("connect")
    }

    async fn tls(&self, client: &Identity, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(client.client_config(&[alpn]));
        connector.connect(server_name(Some(&"n-1".parse::<NodeId>().expect("id"))), self.plain().await).await
    }

    /// A TLS connection that is known to be accepted, with HTTP/1.1 to speak by hand.
    pub(super) async fn raw(&self) -> TlsStream<TcpStream> {
        self.tls(&self.client("operator", "alice"), b"http/1.1").await.expect("tls")
    }

    pub(super) async fn h2(&self, client: &Identity) -> http2::SendRequest<Empty<Bytes>> {
        let stream = self.tls(client, b"h2").await.expect("tls");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
        tokio::spawn(connection);
        sender
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                // sleeps: polls the condition itself
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }
}

pub(super) fn get(path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(format!("https://n-1{path}")).body(Empty::new()).expect("request")
}

async fn text(response: http::Response<hyper::body::Incoming>) -> String {
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Reads until the other side is done; how it ends does not matter.
pub(super) async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    bytes
}

#[tokio::test]
async fn both_versions_of_http_work_and_handlers_know_the_caller() {
    let edge = edge(|_| {}).await;
    let alice = edge.client("operator", "alice");

    let mut h2 = edge.h2(&alice).await;
    let response = h2.send_request(get("/who")).await.expect("answer");
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(text(response).await, "spiffe://example.org/mesh/prod/operator/alice Http2");

    let stream = edge.tls(&alice, b"http/1.1").await.expect("tls");
    let (mut h1, connection) = http1::handshake(TokioIo::new(stream)).await.expect("h1");
    tokio::spawn(connection);
    for _ in 0..3 {
        let response = h1.send_request(get("/who")).await.expect("answer");
        assert_eq!(response.version(), http::Version::HTTP_11);
        assert_eq!(text(response).await, "spiffe://example.org/mesh/prod/operator/alice Http1");
    }
    assert_eq!(edge.metrics.connections.get(), 2);
    assert_eq!(format!("{:?}", HttpVersion::Http1), "Http1");
}

#[tokio::test]
async fn callers_without_a_certificate_of_this_cluster_are_refused_by_tls() {
    let edge = edge(|_| {}).await;
    let name = || server_name(Some(&"n-1".parse::<NodeId>().expect("id")));

    // No certificate at all: a client that trusts the authority but shows nothing.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(edge.ca.root().clone()).expect("root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(AnyServer::new())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let refused = match connector.connect(name(), edge.plain().await).await {
        // TLS 1.3 clients finish first and learn of the refusal with their first read.
        Ok(mut stream) => {
            let _ = stream.write_all(b"GET /who HTTP/1.1\r\nhost: n-1\r\n\r\n").await;
            rest(&mut stream).await.is_empty()
        }
        Err(_) => true,
    };
    assert!(refused, "nothing is said to somebody without a certificate");

    // A certificate of another authority, and one of another cluster.
    let strangers =
        DevCa::new("example.org").expect("ca").identity("prod", "operator", "eve").expect("identity");
    let neighbours = edge.ca.identity("staging", "operator", "bob").expect("identity");
    for other in [strangers, neighbours] {
        // The stranger would not accept our server either, so it is made to.
        if let Ok(mut stream) = edge.tls(&other, b"http/1.1").await {
            let _ = stream.write_all(b"GET /who HTTP/1.1\r\nhost: n-1\r\n\r\n").await;
            assert_eq!(rest(&mut stream).await, b"");
        }
    }
    edge.until("three refusals", |edge| edge.metrics.refused(Refused::Tls) >= 3).await;
    let mut h2 = edge.h2(&edge.client("operator", "alice")).await;
    assert_eq!(h2.send_request(get("/who")).await.expect("answer").status(), 200);
}

#[tokio::test]
async fn plaintext_and_garbage_are_refused_and_others_are_not_affected() {
    let edge = edge(|_| {}).await;
    let alice = edge.client("operator", "alice");
    let mut h2 = edge.h2(&alice).await;
    let mut noise = vec![0_u8; 4096];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let inputs: [&[u8]; 4] = [
        b"GET /who HTTP/1.1\r\nhost: n-1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &noise,
        &[0x16, 3, 1, 0xff, 0xff],
    ];
    for (at, input) in inputs.into_iter().enumerate() {
        let mut stream = edge.plain().await;
        stream.write_all(input).await.expect("write");
        stream.shutdown().await.expect("shutdown");
        let answer = rest(&mut stream).await;
        assert!(!answer.starts_with(b"HTTP"), "input {at} got an answer in plaintext");
        assert_eq!(h2.send_request(get("/who")).await.expect("answer").status(), 200);
    }
    edge.until("four refusals", |edge| edge.metrics.refused(Refused::Tls) == 4).await;

    // Garbage inside TLS, too.
    let mut stream = edge.raw().await;
    stream.write_all(&noise).await.expect("write");
    let answer = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn oversize_headers_are_refused() {
    let edge = edge(|config| config.header_bytes_max = 8192).await;
    let mut stream = edge.raw().await;
    let request = format!("GET /who HTTP/1.1\r\nhost: n-1\r\nx-big: {}\r\n\r\n", "x".repeat(20_000));
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut h2 = edge.h2(&edge.client("operator", "alice")).await;
    let mut request = get("/who");
    request.headers_mut().insert("x-big", "x".repeat(20_000).parse().expect("value"));
    match h2.send_request(request).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(!error.is_timeout(), "{error}"),
    }
}

#[tokio::test]
async fn callers_that_stall_are_cut_at_every_stage() {
    let quick = Duration::from_millis(200);
    let edge = edge(|config| {
        config.handshake_timeout = quick;
        config.header_timeout = quick;
        config.request_timeout = quick;
        config.write_timeout = quick;
        config.drain_timeout = quick;
    })
    .await;

    // Before TLS.
    let mut silent = edge.plain().await;
    assert_eq!(rest(&mut silent).await, b"");
    assert_eq!(edge.metrics.refused(Refused::Timeout), 1);

    // In the middle of the headers, though a byte comes now and then.
    let mut slow = edge.raw().await;
    slow.write_all(b"GET /who HTTP/1.1\r\nhost: n-1\r\n").await.expect("write");
    let started = StdInstant::from(tokio::time::Instant::now());
    let (mut reading, mut writing) = tokio::io::split(slow);
    let dribble = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() && writing.flush().await.is_ok() {
            // sleeps: a slow client is what this tests
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let answer = String::from_utf8_lossy(&rest(&mut reading).await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(started.elapsed() < PATIENCE / 2);
    dribble.abort();

    // In the middle of the body.
    let mut slow = edge.raw().await;
    slow.write_all(b"POST /upload HTTP/1.1\r\nhost: n-1\r\ncontent-length: 100\r\n\r\nabc")
        .await
        .expect("write");
    let answer = String::from_utf8_lossy(&rest(&mut slow).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request.timeout"), "{answer}");

    // While it should read the answer: more than the buffers of both sides hold.
    let mut deaf = edge.raw().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: n-1\r\n\r\n").await.expect("write");
    let mut start = [0; 15];
    deaf.read_exact(&mut start).await.expect("the answer begins");
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    assert_eq!(edge.metrics.connections.get(), 1);
    edge.until("the deaf one is cut", |edge| edge.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn http2_callers_that_never_finish_a_request_head_are_cut() {
    let edge = edge(|config| {
        config.idle_timeout = Duration::from_millis(150);
        config.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // HEADERS of stream 1 with one indexed field (:method GET) and no END_HEADERS; the rest never comes.
    let headers: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let alice = edge.client("operator", "alice");
    for input in [vec![], vec![preface], vec![preface, settings], vec![preface, settings, headers]] {
        let mut stream = edge.tls(&alice, b"h2").await.expect("tls");
        stream.write_all(&input.concat()).await.expect("write");
        rest(&mut stream).await;
    }
    edge.until("all are gone", |edge| edge.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_protocol_that_the_port_does_not_speak_is_refused_by_tls() {
    let edge = edge(|_| {}).await;
    let error = edge.tls(&edge.client("operator", "alice"), b"mesh-gossip/1").await.expect_err("refused");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_stream_of_events_is_not_idle() {
    let edge = edge(|config| {
        config.idle_timeout = Duration::from_millis(150);
        config.heartbeat = Duration::from_millis(100);
    })
    .await;
    let alice = edge.client("operator", "alice");
    let mut following = edge.h2(&alice).await;
    let mut events = following.send_request(get("/events")).await.expect("answer").into_body();
    let mut idle = edge.h2(&alice).await;
    assert_eq!(idle.send_request(get("/who")).await.expect("answer").status(), 200);
    edge.until("the idle one is closed", |edge| edge.metrics.connections.get() == 1).await;
    let mut heartbeats = 0;
    while heartbeats < 3 {
        let frame = timeout(PATIENCE, events.frame()).await.expect("in time").expect("open").expect("frame");
        let data = frame.into_data().expect("data");
        heartbeats += usize::from(data.ends_with(b": heartbeat\n\n"));
    }
    assert_eq!(edge.metrics.subscribers.get(), 1);
    drop((events, following));
    edge.until("the subscriber is gone", |edge| edge.metrics.subscribers.get() == 0).await;
}

#[tokio::test]
async fn a_revoked_identity_loses_its_connection_at_once_and_others_keep_theirs() {
    let edge = edge(|_| {}).await;
    let mut alice = edge.h2(&edge.client("operator", "alice")).await;
    let mut denied = BTreeSet::new();
    let mut took = Vec::new();
    // Three times: on a busy machine one of them may wait for its turn.
    for name in ["mallory", "trudy", "oscar"] {
        let mut caller = edge.h2(&edge.client("operator", name)).await;
        assert_eq!(caller.send_request(get("/who")).await.expect("answer").status(), 200);
        let mut events = caller.send_request(get("/events")).await.expect("answer").into_body();
        let denied_at = StdInstant::from(tokio::time::Instant::now());
        denied.insert(name.parse().expect("id"));
        edge.identity.deny(denied.clone());
        let cut = async { while let Some(Ok(_)) = events.frame().await {} };
        timeout(PATIENCE, cut).await.expect("the stream is cut");
        took.push(denied_at.elapsed());
        assert!(caller.send_request(get("/who")).await.is_err());
    }
    assert!(took.iter().min() < Some(&Duration::from_millis(100)), "{took:?}");
    assert_eq!(edge.metrics.refused(Refused::Revoked), 3);

    // Nor does a new connection get in.
    if let Ok(mut stream) = edge.tls(&edge.client("operator", "mallory"), b"http/1.1").await {
        let _ = stream.write_all(b"GET /who HTTP/1.1\r\nhost: n-1\r\n\r\n").await;
        assert_eq!(rest(&mut stream).await, b"");
    }
    assert_eq!(alice.send_request(get("/who")).await.expect("answer").status(), 200);
}

#[tokio::test]
async fn shutdown_ends_streams_with_a_word_and_closes_the_port() {
    let edge = edge(|_| {}).await;
    let alice = edge.client("operator", "alice");
    let mut h2 = edge.h2(&alice).await;
    let events = h2.send_request(get("/events")).await.expect("answer");
    edge.hub.update(|()| vec![NewEvent { name: "change", data: "{}".to_owned(), payload: () }]);
    let reading = tokio::spawn(text(events));
    let address = edge.server.local_addr();
    let started = StdInstant::from(tokio::time::Instant::now());
    timeout(PATIENCE, edge.server.shutdown()).await.expect("in time");
    assert!(started.elapsed() < Duration::from_secs(5), "nothing had to be cut");
    let text = reading.await.expect("task");
    assert!(text.contains("event: change"), "{text}");
    assert!(text.trim_end().ends_with('}') && text.contains("events.stream.closing"), "{text}");
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_and_room_comes_back() {
    let edge = edge(|config| config.connections_max = 2).await;
    let alice = edge.client("operator", "alice");
    let first = edge.h2(&alice).await;
    let _second = edge.h2(&alice).await;
    assert!(edge.tls(&alice, b"h2").await.is_err());
    assert_eq!(edge.metrics.refused(Refused::Connections), 1);
    drop(first);
    edge.until("room", |edge| edge.metrics.connections.get() == 1).await;
    let mut third = edge.h2(&alice).await;
    assert_eq!(third.send_request(get("/who")).await.expect("answer").status(), 200);
}

#[tokio::test]
async fn half_open_handshakes_are_bounded() {
    let edge = edge(|config| config.handshakes_per_address_max = 4).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(edge.plain().await);
    }
    edge.until("sixteen refusals", |edge| edge.metrics.refused(Refused::Handshakes) == 16).await;
    // The crowd is still there, and keeps nobody out.
    let mut h2 = edge.h2(&edge.client("operator", "alice")).await;
    assert_eq!(h2.send_request(get("/who")).await.expect("answer").status(), 200);
    assert_eq!(edge.metrics.refused(Refused::Handshakes), 17);
    drop((open, h2));
    edge.until("three failures", |edge| edge.metrics.refused(Refused::Tls) == 3).await;
    let mut h2 = edge.h2(&edge.client("operator", "alice")).await;
    assert_eq!(h2.send_request(get("/who")).await.expect("answer").status(), 200);
}

/// Accepts any server, for clients that are to be refused by ours.
#[derive(Debug)]
struct AnyServer(rustls::crypto::WebPkiSupportedAlgorithms);

impl AnyServer {
    fn new() -> Arc<Self> {
        Arc::new(Self(rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms))
    }
}

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}
