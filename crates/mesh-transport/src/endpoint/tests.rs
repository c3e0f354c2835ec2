//! Handshakes on real sockets: who gets in, who serves them, and what a flood does.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{Clock as _, Direction, ManualClock, NodeId, Settings, SystemClock};
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    ca::DevCa,
    identity::IdentityOptions,
    tls::{Rule, server_name},
};

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

fn ca() -> DevCa {
    DevCa::new("example.org").expect("a root")
}

fn id(name: &str) -> NodeId {
    name.parse().expect("valid")
}

fn endpoint(identity: Identity, change: impl FnOnce(&mut TransportConfig)) -> Endpoint {
    let mut config = TransportConfig::loopback();
    change(&mut config);
    Endpoint::bind(config.validate().expect("valid settings"), identity, None).expect("bound")
}

fn node(ca: &DevCa, name: &str) -> Endpoint {
    endpoint(ca.identity("demo", "worker", name).expect("an identity"), |_| {})
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until a counter of handshakes has reached a number.
async fn counted(endpoint: &Endpoint, transport: &'static str, outcome: &'static str, at_least: u64) {
    within(async {
        while endpoint.metrics().handshakes_total(transport, outcome) < at_least {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn transport() -> Arc<quinn::TransportConfig> {
    Arc::new(quinn::TransportConfig::default())
}

#[tokio::test]
async fn rpc_connections_arrive_with_their_peer_on_both_transports() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let mut incoming = b.rpc_incoming().expect("the first");
    assert!(b.rpc_incoming().is_none(), "there is one taker");
    let peer = id("b");

    let ours = within(a.connect_quic(b.local_address(), Some(&peer), alpn::H3, transport())).await;
    let ours = ours.expect("connected");
    assert_eq!((ours.peer().node_id(), ours.direction()), (&peer, Direction::Outbound));
    let Some(Incoming::Quic(theirs)) = within(incoming.recv()).await else { panic!("no QUIC connection") };
    assert_eq!((theirs.peer().node_id(), theirs.direction()), (&id("a"), Direction::Inbound));

    let mut ours = within(a.connect_tcp(b.local_address(), Some(&peer), alpn::H2)).await.expect("connected");
    let Some(Incoming::Tcp(mut theirs)) = within(incoming.recv()).await else { panic!("no TCP connection") };
    assert_eq!(theirs.peer().node_id(), &id("a"));
    ours.write_all(b"hi").await.expect("written");
    let mut text = [0; 2];
    within(theirs.read_exact(&mut text)).await.expect("read");
    assert_eq!((&text, b.connections()), (b"hi", 2));
}

#[tokio::test]
async fn revocation_fails_the_reads_of_a_stream_that_waits() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let mut incoming = b.rpc_incoming().expect("the first");
    let _ours = within(a.connect_tcp(b.local_address(), None, alpn::H2)).await.expect("connected");
    let Some(Incoming::Tcp(mut theirs)) = within(incoming.recv()).await else { panic!("no TCP connection") };
    let reading = tokio::spawn(async move { theirs.read(&mut [0; 16]).await });
    tokio::task::yield_now().await;
    b.identity().deny(BTreeSet::from([id("a")]));
    let error = within(reading).await.expect("no panic").expect_err("revoked");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn protocols_without_a_taker_are_refused_in_the_handshake() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let tcp = within(a.connect_tcp(b.local_address(), None, alpn::H2)).await.expect_err("nobody serves h2");
    assert!(!tcp.is_identity(), "{tcp}");
    let quic = within(a.connect_quic(b.local_address(), None, alpn::H3, transport())).await;
    assert!(matches!(quic, Err(TransportError::Handshake { identity: false, .. })), "{quic:?}");
    counted(&b, "tcp", "protocol", 1).await;
    counted(&b, "quic", "protocol", 1).await;
}

#[tokio::test]
async fn http_1_and_unknown_protocols_are_refused_and_counted() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let _incoming = b.rpc_incoming().expect("the first");
    for protocols in [&[&b"http/1.1"[..]][..], &[&b"mesh-unknown/9"[..]], &[]] {
        let config = a.identity().client_config(protocols);
        let socket = TcpStream::connect(b.local_address()).await.expect("connected");
        let stream = within(TlsConnector::from(config).connect(server_name(None), socket)).await;
        // Without any protocol the client learns of it only by the end of its connection.
        if let Ok(mut stream) = stream {
            let mut answer = Vec::new();
            let _ = within(stream.read_to_end(&mut answer)).await;
            assert!(answer.is_empty());
        }
    }
    counted(&b, "tcp", "protocol", 3).await;
    assert_eq!(b.connections(), 0);
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let ca = ca();
    let b = node(&ca, "b");
    let _incoming = b.rpc_incoming().expect("the first");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anybody::Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn::H2.to_vec()];
    let socket = TcpStream::connect(b.local_address()).await.expect("connected");
    let stream = within(TlsConnector::from(Arc::new(config)).connect(server_name(None), socket)).await;
    if let Ok(mut stream) = stream {
        assert!(within(stream.read(&mut [0; 16])).await.is_err(), "refused with an alert");
    }
    counted(&b, "tcp", "identity", 1).await;
    assert_eq!(b.connections(), 0);
}

/// A client that does not care who answers.
mod anybody {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("no TLS 1.2".to_owned()))
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}

/// One exchange over TCP, so that the client gets its session ticket. Returns how the handshake went.
async fn exchange(
    a: &Endpoint,
    b: &Endpoint,
    incoming: &mut mpsc::Receiver<Incoming>,
) -> Option<HandshakeKind> {
    let mut ours =
        within(a.connect_tcp(b.local_address(), Some(&id("b")), alpn::H2)).await.expect("connected");
    let Some(Incoming::Tcp(mut theirs)) = within(incoming.recv()).await else { panic!("no TCP connection") };
    theirs.write_all(b"x").await.expect("written");
    within(ours.read_exact(&mut [0])).await.expect("read");
    ours.stream.get_ref().1.handshake_kind()
}

#[tokio::test]
async fn a_resumed_session_is_checked_again() {
    let ca = ca();
    let clock = ManualClock::default();
    clock.set_wall(SystemClock.wall());
    let options = IdentityOptions { clock: Arc::new(clock.clone()), ..IdentityOptions::default() };
    let own = ca.issue("demo", "worker", "b", 24 * HOUR).expect("a leaf").material;
    let b = endpoint(Identity::new(own, options).expect("an identity"), |_| {});
    let short = ca.issue("demo", "worker", "a", HOUR).expect("a leaf").material;
    let a = endpoint(Identity::new(short, IdentityOptions::default()).expect("an identity"), |_| {});
    let mut incoming = b.rpc_incoming().expect("the first");

    assert_eq!(exchange(&a, &b, &mut incoming).await, Some(HandshakeKind::Full));
    assert_eq!(exchange(&a, &b, &mut incoming).await, Some(HandshakeKind::Resumed));
    // TLS would go on resuming: it does not look at the certificate again.
    clock.advance(2 * HOUR);
    let ours = within(a.connect_tcp(b.local_address(), Some(&id("b")), alpn::H2)).await;
    if let Ok(mut ours) = ours {
        assert!(!matches!(within(ours.read(&mut [0; 16])).await, Ok(1..)), "nothing is served");
    }
    counted(&b, "tcp", "identity", 1).await;
    assert!(b.metrics().refused_total(Rule::Expired) > 0);
}

#[tokio::test]
async fn a_change_of_trust_forgets_every_session() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    let mut incoming = b.rpc_incoming().expect("the first");
    exchange(&a, &b, &mut incoming).await;
    assert_eq!(exchange(&a, &b, &mut incoming).await, Some(HandshakeKind::Resumed));
    b.identity().deny(BTreeSet::from([id("x")]));
    assert_eq!(exchange(&a, &b, &mut incoming).await, Some(HandshakeKind::Full));
}

#[tokio::test]
async fn a_certificate_that_runs_out_ends_its_connections() {
    let ca = ca();
    let clock = ManualClock::default();
    clock.set_wall(SystemClock.wall());
    let options = IdentityOptions { clock: Arc::new(clock.clone()), ..IdentityOptions::default() };
    let own = ca.issue("demo", "worker", "b", 24 * HOUR).expect("a leaf").material;
    let b = endpoint(Identity::new(own, options).expect("an identity"), |_| {});
    let short = ca.issue("demo", "worker", "a", HOUR).expect("a leaf").material;
    let a = endpoint(Identity::new(short, IdentityOptions::default()).expect("an identity"), |_| {});
    let mut incoming = b.rpc_incoming().expect("the first");
    let ours =
        within(a.connect_quic(b.local_address(), None, alpn::H3, transport())).await.expect("connected");
    let _theirs = within(incoming.recv()).await.expect("a connection");
    clock.advance(2 * HOUR);
    let closed = within(ours.connection().closed()).await;
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == close::REVOKED),
        "{closed}"
    );
}

#[tokio::test]
async fn a_flood_of_idle_connections_does_not_keep_others_out() {
    let ca = ca();
    let a = node(&ca, "a");
    let b = endpoint(ca.identity("demo", "worker", "b").expect("an identity"), |config| {
        config.limits.handshakes_max = 16;
        config.limits.handshake_timeout = Duration::from_secs(60);
    });
    let mut incoming = b.rpc_incoming().expect("the first");
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(b.local_address()).await.expect("connected"));
    }
    counted(&b, "tcp", "limit", 200).await;
    exchange(&a, &b, &mut incoming).await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let ca = ca();
    let b = endpoint(ca.identity("demo", "worker", "b").expect("an identity"), |config| {
        config.limits.handshake_timeout = Duration::from_millis(50);
    });
    let mut idle = TcpStream::connect(b.local_address()).await.expect("connected");
    assert_eq!(within(idle.read(&mut [0; 16])).await.expect("closed in order"), 0);
    counted(&b, "tcp", "timeout", 1).await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let ca = ca();
    let b = node(&ca, "b");
    let config = TransportConfig { bind: b.local_address(), ..TransportConfig::loopback() };
    let identity = ca.identity("demo", "worker", "c").expect("an identity");
    let error =
        Endpoint::bind(config.validate().expect("valid"), identity, None).expect_err("taken").to_string();
    assert!(error.contains(&b.local_address().to_string()), "{error}");
}

#[test]
fn the_secret_outlives_the_process_and_damage_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = NodeSecret::load_or_create(folder.path()).expect("made");
    let again = NodeSecret::load_or_create(folder.path()).expect("read");
    assert!(first.same_as(&again));
    let path = folder.path().join("transport.secret");
    std::fs::write(&path, b"MESHFILE but not really, and long enough for a header").expect("written");
    let error = NodeSecret::load_or_create(folder.path()).expect_err("damaged").to_string();
    assert!(error.contains("transport.secret") && error.contains("remove the file"), "{error}");
}
