//! A node whose registry is kept in an etcd that is there already.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh::{Node, NodeError};
use mesh_core::{
    Revision,
    store::{AuditNote, Key, Operation, Prefix, Scan, Txn},
};
use mesh_transport::ca::DevCa;

use crate::{
    page,
    support::{config, soon},
};

/// Killed when dropped.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port").port()
}

/// An etcd and its address; `None` if none is installed.
fn etcd(folder: &Path) -> Option<(Etcd, String)> {
    let [client, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
    let started = Command::new("etcd")
        .args(["--name=m0", "--max-txn-ops=4200"])
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=m0={peer}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some((Etcd(child), client)),
        Err(_) => {
            println!("skipped: install etcd-server");
            None
        }
    }
}

/// Asks until the answer is yes.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            // sleeps: polls the condition itself
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_keeps_the_registry_and_what_is_too_old_goes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ca = DevCa::new("example.org").expect("an authority");
    let Some((_etcd, endpoint)) = etcd(folder.path()) else { return };
    let mut config = config(folder.path(), "a", &[]);
    config.registry.provider = mesh::registry::Provider::Etcd;
    config.registry.etcd.endpoints = vec![endpoint];
    config.registry.history_retention = Duration::from_secs(1);
    config.registry.audit_retention = Duration::from_secs(1);
    config.registry.reconcile.interval = Duration::from_millis(50);
    let mut node = None;
    until("etcd to be up", async || {
        let identity = ca.identity("test", "control", "a").expect("an identity");
        // Boxed, since the future of a start is a deep one.
        match Box::pin(Node::builder().config(config.clone()).identity(identity).start()).await {
            Ok(started) => node = Some(started),
            Err(NodeError::Store { provider: "etcd", .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        node.is_some()
    })
    .await;
    let node = node.expect("it started");
    let leadership = node.leadership().expect("there is a registry");
    soon("leadership", leadership.ready()).await.expect("a session in etcd");

    let store = node.store().expect("there is a registry");
    assert_eq!(store.status().await.expect("a status").provider, "etcd");
    let put = Operation::Put { key: Key::new("a").expect("a key"), value: "1".into(), session: None };
    let note = AuditNote { action: "test".to_owned(), reason: String::new(), correlation_id: 1 };
    let written = store.transact(Txn::new(node.id().clone()).then(put).audited(note)).await.expect("applied");
    let audit = Scan::of(Prefix::new(mesh::registry::AUDIT_PREFIX).expect("a prefix"));
    until("old audit records to be gone", async || {
        store.scan(&audit).await.is_ok_and(|page| page.value.records.is_empty())
    })
    .await;
    until("old history to be gone", async || {
        store.status().await.is_ok_and(|status| status.compacted >= Revision(written.revision.0))
    })
    .await;

    let (code, body) = page(&ca, &node, "/control/v1/registry/members").await;
    assert!(code == 501 && body.contains("no nodes of this cluster keep the store"), "{code} {body}");
    until("the store to be compared with", async || {
        page(&ca, &node, "/control/v1/state-diff").await.1.contains(r#""in_sync":true"#)
    })
    .await;
    let (_, metrics) = page(&ca, &node, "/metrics").await;
    for name in ["mesh_registry_revision ", "mesh_registry_quorum 1", "mesh_registry_reconciliations_total"] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }
    soon("the node to stop", node.stop()).await.expect("nobody is left to hear it");
}
