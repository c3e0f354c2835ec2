//! Nodes of one authority, and waiting for what they do.

use std::{future::Future, net::SocketAddr, path::Path, time::Duration};

use futures_util::StreamExt;
use mesh::{MeshConfig, Node};
use mesh_core::{MemberEvent, MemberState, NodeId};
use mesh_transport::ca::{DevCa, LEAF_LIFETIME};

/// Far beyond what anything here takes, for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for {what}"),
    }
}

pub(crate) fn config(folder: &Path, name: &str, seeds: &[SocketAddr]) -> MeshConfig {
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
pub(crate) async fn start(ca: &DevCa, folder: &Path, name: &str, seeds: &[SocketAddr]) -> Node {
    let leaf = ca.issue("test", "worker", name, LEAF_LIFETIME).expect("a certificate");
    leaf.save(&folder.join(name).join("identity")).expect("save it");
    Node::builder().config(config(folder, name, seeds)).start().await.expect("the node starts")
}

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().expect("a node id")
}

/// Waits until the node sees the member in that state.
pub(crate) async fn sees(node: &Node, name: &str, state: MemberState) {
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
