//! Whole nodes in one process, over real sockets of the loopback interface.

#[cfg(feature = "etcd")]
mod external;
mod support;

use std::time::Duration;

use mesh::{Node, NodeError};
use mesh_core::MemberState;
use mesh_transport::{
    ca::{DevCa, LEAF_LIFETIME, LeafRequest},
    tls::server_name,
};
use support::{config, id, sees, soon, start};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A page of the control API: its status code and its text.
async fn page(ca: &DevCa, node: &Node, path: &str) -> (u16, String) {
    let operator = ca.identity("test", "operator", "alice").expect("an identity");
    let tls = TlsConnector::from(operator.client_config(&[b"http/1.1"]));
    let tcp = TcpStream::connect(node.edge_address().expect("an edge")).await.expect("a connection");
    let mut stream = tls.connect(server_name(Some(node.id())), tcp).await.expect("a handshake");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", node.id());
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (code, body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_find_each_other_say_what_they_are_and_part_with_a_goodbye() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let a = start(&ca, folder.path(), "a", &[]).await;
    soon("a to be ready", a.ready()).await.expect("a is ready");
    let b = start(&ca, folder.path(), "b", &[a.address()]).await;
    soon("b to be ready", b.ready()).await.expect("b is ready");
    sees(&a, "b", MemberState::Alive).await;
    sees(&b, "a", MemberState::Alive).await;

    let member = a.membership().snapshot().find(&id("b")).cloned().expect("b is known");
    assert_eq!((member.metadata("zone"), member.metadata("label.tier")), (Some("z1"), Some("gold")));
    assert_eq!(member.addresses, [b.address()]);
    assert_eq!(member.role.as_str(), "worker");

    soon("b to stop", b.stop()).await.expect("a goodbye that was heard");
    sees(&a, "b", MemberState::Left).await;
    soon("a to stop", a.stop()).await.expect("nobody is left to hear it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_gives_its_data_directory_back_and_a_running_one_does_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let node = start(&ca, folder.path(), "a", &[]).await;
    let again = config(folder.path(), "a", &[]);
    let error = Node::builder().config(again.clone()).start().await.expect_err("in use");
    assert!(matches!(error, NodeError::Lock(_)), "{error}");
    soon("the node to stop", node.stop()).await.expect("a goodbye");
    let node = Node::builder().config(again).start().await.expect("free again");
    drop(node);
}

#[tokio::test]
async fn a_certificate_for_another_node_does_not_start() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let leaf = ca.issue("test", "worker", "b", LEAF_LIFETIME).expect("a certificate");
    leaf.save(&folder.path().join("a/identity")).expect("save it");
    let error = Node::builder().config(config(folder.path(), "a", &[])).start().await.expect_err("not a's");
    assert!(matches!(error, NodeError::IdentityMismatch { setting: "id", .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_that_has_ended_does_not_start_and_the_file_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let uris = vec!["spiffe://example.org/mesh/test/worker/a".to_owned()];
    let ended = ca.issue_request(&LeafRequest { uris, starts_in_s: -7200, ends_in_s: -3600 });
    let identity = folder.path().join("a/identity");
    ended.expect("a certificate").save(&identity).expect("save it");
    let error = Node::builder().config(config(folder.path(), "a", &[])).start().await.expect_err("too late");
    assert!(matches!(error, NodeError::Expired { .. }), "{error}");
    let text = error.to_string();
    let file = identity.join("node.pem").display().to_string();
    for part in ["spiffe://example.org/mesh/test/worker/a ended 1h", &file, "issue a new one"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // One that ends soon does.
    let short = ca.issue("test", "worker", "a", Duration::from_secs(30)).expect("a certificate");
    short.save(&identity).expect("save it");
    drop(Node::builder().config(config(folder.path(), "a", &[])).start().await.expect("the node starts"));
}

#[tokio::test]
async fn a_node_that_is_no_member_is_ready_at_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let mut config = config(folder.path(), "a", &[]);
    config.gossip.enabled = false;
    let identity = ca.identity("test", "worker", "a").expect("an identity");
    let node = Node::builder().config(config).identity(identity).start().await.expect("the node starts");
    soon("the node to be ready", node.ready()).await.expect("ready");
    assert_eq!(node.membership().snapshot().all().len(), 0);
    assert!(node.edge_address().is_some() && node.gossip().is_none());
    soon("the node to stop", node.stop()).await.expect("nothing to say goodbye to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_that_ends_by_itself_fails_the_node() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let a = start(&ca, folder.path(), "a", &[]).await;
    soon("a to be ready", a.ready()).await.expect("a is ready");
    let (code, body) = soon("the page", page(&ca, &a, "/healthz")).await;
    assert_eq!((code, body.as_str()), (200, r#"{"status":"up"}"#));

    a.gossip().expect("membership").stop();
    let error = soon("the failure", a.failed()).await;
    assert!(matches!(error, NodeError::Gossip(_)), "{error}");
    let (code, body) = soon("the page", page(&ca, &a, "/healthz")).await;
    assert_eq!((code, body.as_str()), (503, r#"{"status":"down"}"#));
    let (code, body) = soon("the page", page(&ca, &a, "/readyz")).await;
    assert!(code == 503 && body.contains("gossip.ended"), "{code} {body}");
}
