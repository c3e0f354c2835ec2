//! HTTP/3 on the edge port.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h3::client::SendRequest;
use http::{Request, Response};
use mesh_core::NodeId;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::listener::{Edge, PATIENCE, edge, get, rest};
use crate::{
    Identity,
    edge::{EdgeConfig, NewEvent, metrics::Refused},
    endpoint::Load,
    rpc::h3_quinn::{Connection, Opener},
    tls::{alpn, server_name},
};

type Body = h3::client::RequestStream<crate::rpc::h3_quinn::BidiStream, Bytes>;

/// One HTTP/3 connection to the edge.
struct Client {
    requests: SendRequest<Opener, Bytes>,
    connection: quinn::Connection,
}

async fn connect(edge: &Edge, client: &Identity, protocol: &[u8]) -> Result<quinn::Connection, String> {
    let tls = client.client_config(&[protocol]);
    let crypto = QuicClientConfig::try_from(tls).expect("the right suites");
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let name = server_name(Some(&"n-1".parse::<NodeId>().expect("id"))).to_str().into_owned();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, edge.server.local_addr(), &name).expect("started");
    connecting.await.map_err(|error| error.to_string())
}

/// Ends when the server refuses this caller.
async fn refused(edge: &Edge, client: &Identity, protocol: &[u8]) {
    // A client learns of the refusal of its certificate when its own handshake is over already.
    if let Ok(connection) = connect(edge, client, protocol).await {
        timeout(PATIENCE, connection.closed()).await.expect("refused in time");
    }
}

impl Client {
    async fn new(edge: &Edge, name: &str) -> Self {
        let identity = edge.client("operator", name);
        let connection = connect(edge, &identity, alpn::H3).await.expect("accepted");
        let h3 = h3::client::builder()
            .send_grease(false)
            .build(Connection::new(connection.clone(), Load::default()))
            .await;
        let (mut driver, requests) = h3.expect("HTTP/3");
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Self { requests, connection }
    }

    async fn ask(&mut self, path: &str) -> Result<(Response<()>, Body), String> {
        let request = Request::get(format!("https://n-1{path}")).body(()).expect("a request");
        let work = async {
            let mut stream = self.requests.send_request(request).await.map_err(|error| error.to_string())?;
            stream.finish().await.map_err(|error| error.to_string())?;
            let response = stream.recv_response().await.map_err(|error| error.to_string())?;
            Ok((response, stream))
        };
        timeout(PATIENCE, work).await.expect("an answer in time")
    }

    async fn text(&mut self, path: &str) -> String {
        let (response, mut body) = self.ask(path).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let mut text = String::new();
        while let Some(mut data) = body.recv_data().await.expect("a whole body") {
            text.push_str(std::str::from_utf8(&data.copy_to_bytes(data.remaining())).expect("text"));
        }
        text
    }
}

fn on(config: &mut EdgeConfig) {
    config.http3 = true;
}

#[tokio::test]
async fn http3_serves_the_same_routes_and_tcp_says_where() {
    let edge = edge(on).await;
    let mut client = Client::new(&edge, "alice").await;
    assert_eq!(client.text("/who").await, "spiffe://example.org/mesh/prod/operator/alice Http3");
    let (response, _) = client.ask("/nothing").await.expect("an answer");
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(edge.metrics.connections.get(), 1);

    let alt_svc = format!("h3=\":{}\"; ma=3600", edge.server.local_addr().port());
    let mut h2 = edge.h2(&edge.client("operator", "bob")).await;
    let response = h2.send_request(get("/who")).await.expect("answer");
    assert_eq!(response.headers()["alt-svc"], alt_svc);
    let mut h1 = edge.raw().await;
    h1.write_all(b"GET /who HTTP/1.1\r\nhost: n-1\r\nconnection: close\r\n\r\n").await.expect("write");
    let answer = String::from_utf8(rest(&mut h1).await).expect("text");
    assert!(answer.contains(&format!("alt-svc: {alt_svc}\r\n")), "{answer}");
}

#[tokio::test]
async fn without_the_setting_there_is_no_http3_and_nobody_says_so() {
    let edge = edge(|_| {}).await;
    let address = edge.server.local_addr();
    UdpSocket::bind(address).expect("nobody listens on UDP");
    let mut h2 = edge.h2(&edge.client("operator", "bob")).await;
    let response = h2.send_request(get("/who")).await.expect("answer");
    assert!(!response.headers().contains_key("alt-svc"));
}

#[tokio::test]
async fn callers_of_other_clusters_or_protocols_and_garbage_are_refused_and_counted() {
    let edge = edge(on).await;
    let mut alice = Client::new(&edge, "alice").await;
    let stranger = edge.ca.identity("staging", "operator", "bob").expect("identity");
    refused(&edge, &stranger, alpn::H3).await;
    refused(&edge, &edge.client("operator", "carol"), b"mesh-gossip/1").await;
    edge.until("two refusals", |edge| edge.metrics.refused(Refused::Tls) >= 2).await;

    let before = edge.metrics.refused(Refused::Tls);
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    udp.send_to(&[0x55; 300], edge.server.local_addr()).expect("sent");
    edge.until("the garbage", |edge| edge.metrics.refused(Refused::Tls) > before).await;
    assert_eq!(alice.text("/who").await, "spiffe://example.org/mesh/prod/operator/alice Http3");
}

#[tokio::test]
async fn a_revoked_caller_is_cut_and_one_that_idles_is_told_to_go() {
    let edge = edge(|config| {
        config.http3 = true;
        config.idle_timeout = Duration::from_millis(300);
        config.heartbeat = Duration::from_millis(100);
    })
    .await;
    let mut mallory = Client::new(&edge, "mallory").await;
    let (_, mut events) = mallory.ask("/events").await.expect("an answer");
    let idle = Client::new(&edge, "alice").await;
    timeout(PATIENCE, idle.connection.closed()).await.expect("the idle one is closed");
    // The one that follows events is not idle.
    assert!(events.recv_data().await.expect("open").is_some());
    edge.identity.deny(BTreeSet::from(["mallory".parse().expect("id")]));
    let cut = async { while let Ok(Some(_)) = events.recv_data().await {} };
    timeout(PATIENCE, cut).await.expect("the stream is cut");
    assert_eq!(edge.metrics.refused(Refused::Revoked), 1);
    edge.until("nobody is left", |edge| edge.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn a_caller_that_takes_no_bytes_loses_its_stream_and_keeps_its_connection() {
    let edge = edge(|config| {
        config.http3 = true;
        config.write_timeout = Duration::from_millis(300);
    })
    .await;
    let mut deaf = Client::new(&edge, "alice").await;
    let (response, mut body) = deaf.ask("/big").await.expect("an answer");
    assert_eq!(response.status(), 200);
    // More than all windows hold waits now, and nobody takes it.
    let reset = deaf.connection.clone();
    edge.until("silence", |_| reset.stats().frame_rx.reset_stream > 0).await;
    let end = async { while let Ok(Some(_)) = body.recv_data().await {} };
    timeout(PATIENCE, end).await.expect("the body ends");
    // The connection is as good as before.
    assert_eq!(deaf.text("/who").await, "spiffe://example.org/mesh/prod/operator/alice Http3");
}

#[tokio::test]
async fn shutdown_ends_streams_with_a_word_over_http3_too() {
    let edge = edge(on).await;
    let mut client = Client::new(&edge, "alice").await;
    let (_, mut events) = client.ask("/events").await.expect("an answer");
    edge.hub.update(|()| vec![NewEvent { name: "change", data: "{}".to_owned(), payload: () }]);
    let reading = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(mut data) = events.recv_data().await.expect("a good end") {
            text.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        String::from_utf8(text).expect("text")
    });
    let address = edge.server.local_addr();
    timeout(PATIENCE, edge.server.shutdown()).await.expect("in time");
    let text = reading.await.expect("task");
    assert!(text.contains("event: change") && text.contains("events.stream.closing"), "{text}");
    timeout(PATIENCE, client.connection.closed()).await.expect("closed");
    UdpSocket::bind(address).expect("the port is free");
}
