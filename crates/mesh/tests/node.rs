//! Whole nodes in one process, over real sockets of the loopback interface.

use std::{future::Future, net::SocketAddr, path::Path, time::Duration};

use futures_util::StreamExt;
use mesh::{MeshConfig, Node, NodeError};
use mesh_core::{MemberEvent, MemberState, NodeId};
use mesh_transport::ca::{DevCa, LEAF_LIFETIME};

/// Far beyond what anything here takes, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for {what}"),
    }
}

fn config(folder: &Path, name: &str, seeds: &[SocketAddr]) -> MeshConfig {
    let data_dir = folder.join(name);
    let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    let loaded = MeshConfig::loader()
        .set("node.id", name)
        .set("node.zone", "z1")
        .set("node.labels.tier", "gold")
        .set("node.data_dir", data_dir.to_str().expect("a path in UTF-8"))
        .set("transport.bind", "127.0.0.1:0")
        .set("transport.edge.bind", "127.0.0.1:0")
        .set("gossip.preset", "local")
        .set("gossip.seeds", &seeds.join(","))
        .load();
    loaded.expect("a good configuration").config
}

/// Issues the node's certificate into its data directory and starts it.
async fn start(ca: &DevCa, folder: &Path, name: &str, seeds: &[SocketAddr]) -> Node {
    let leaf = ca.issue("test", "worker", name, LEAF_LIFETIME).expect("a certificate");
    leaf.save(&folder.join(name).join("identity")).expect("save it");
    Node::builder().config(config(folder, name, seeds)).start().await.expect("the node starts")
}

fn id(name: &str) -> NodeId {
    name.parse().expect("a node id")
}

/// Waits until the node sees the member in that state.
async fn sees(node: &Node, name: &str, state: MemberState) {
    let (snapshot, mut events) = node.membership().subscribe();
    if snapshot.find(&id(name)).is_some_and(|member| member.state == state) {
        return;
    }
    soon(&format!("{name} being {state}"), async {
        while let Some(event) = events.next().await {
            if let MemberEvent::Changed { member, .. } = event
                && member.node_id == id(name)
                && member.state == state
            {
                return;
            }
        }
        panic!("the events ended");
    })
    .await;
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
