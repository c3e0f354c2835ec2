//! The registry of real clusters: who keeps it, taking and bringing back a copy, damaged disks.

use serde_json::Value;

use crate::support::{self, Running, Sandbox, wait_until};

/// Who is in the group, as some node says.
fn members(sandbox: &Sandbox) -> Vec<Value> {
    let output = sandbox.mesh(&["registry", "members", "-o", "json"]);
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    reply["members"].as_array().cloned().unwrap_or_default()
}

/// Waits until so many vote, answer and have caught up.
fn until_voters(sandbox: &Sandbox, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(&format!("{count} vote"), || {
        found = members(sandbox);
        let votes = |member: &&Value| member["role"] != "learner" && member["answers"] == true;
        found.iter().filter(votes).count() == count && found.iter().any(|member| member["role"] == "leader")
    });
    found
}

/// The address of a node's edge.
fn edge_of(sandbox: &Sandbox, node: &str) -> String {
    let peer = sandbox.json(&["peers", "show", node, "-o", "json"]);
    let endpoints = peer["endpoints"].as_array().expect("endpoints");
    let control = endpoints.iter().find(|endpoint| endpoint["service"] == "control").expect("a control API");
    control["url"].as_str().and_then(|url| url.strip_prefix("https://")).expect("an address").to_owned()
}

fn stop(mut up: Running) {
    up.interrupt();
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
}

#[test]
fn every_node_tells_who_votes_what_differs_and_its_numbers() {
    let sandbox = Sandbox::new();
    let up = sandbox.up_with(4, &["--set", "registry.reconcile.interval=200ms"]);
    let members = until_voters(&sandbox, 3);
    let names: Vec<_> = members.iter().map(|member| member["node_id"].as_str().expect("a name")).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"], "by their numbers, the first began");
    for member in &members {
        assert!(member["behind"].is_u64() && member["addresses"][0].is_string(), "{member}");
    }
    assert_eq!(sandbox.ok(&["registry", "members", "-o", "name"]), "node-1\nnode-2\nnode-3\n");

    // A worker asks the leader; so does a voter that does not lead.
    for node in ["node-1", "node-2", "node-3", "node-4"] {
        let edge = edge_of(&sandbox, node);
        let table = sandbox.ok(&["registry", "members", "--edge", &edge]);
        assert!(table.starts_with("NODE") && table.contains(" leader "), "{table}");
        let reply: Value =
            serde_json::from_str(&sandbox.page_at(&edge, "/control/registry/members")).expect("JSON");
        assert_eq!((&reply["observer"], &reply["first_hand"]), (&Value::from(node), &Value::from(true)));

        wait_until("leadership was compared with the store", || {
            let diff: Value =
                serde_json::from_str(&sandbox.page_at(&edge, "/control/v1/state-diff")).expect("JSON");
            diff["caches"][0]["name"] == "leadership" && diff["in_sync"] == true
        });
        let metrics = sandbox.page_at(&edge, "/metrics");
        let always = [
            "mesh_registry_revision ",
            "mesh_registry_quorum 1",
            "mesh_registry_reconciliations_total{outcome=\"in-sync\"}",
        ];
        let of_voters = [
            "mesh_registry_apply_seconds_count",
            "mesh_registry_watchers ",
            "mesh_registry_raft_term ",
            "mesh_registry_raft_leader_changes_total ",
            "mesh_registry_raft_log_bytes ",
            "mesh_registry_raft_snapshot_seconds_count ",
        ];
        let due = always.iter().chain(of_voters.iter().filter(|_| node != "node-4"));
        for name in due {
            assert!(metrics.contains(name), "{name} is missing at {node} in:\n{metrics}");
        }
    }
    let audit: Value = serde_json::from_str(&sandbox.page("/control/v1/audit")).expect("JSON");
    assert!(audit["items"].is_array(), "{audit}");
    stop(up);
}

#[test]
fn without_the_leader_a_voter_tells_what_it_knows_and_says_so() {
    let sandbox = Sandbox::new();
    let up = sandbox.up(3);
    until_voters(&sandbox, 3);
    let edge = edge_of(&sandbox, "node-3");
    for killed in ["node-1", "node-2"] {
        support::kill(up.pids[killed]);
    }
    wait_until("node-3 knows of no leader", || {
        let reply = sandbox.page_at(&edge, "/control/v1/registry/members");
        let reply: Value = serde_json::from_str(&reply).expect("JSON");
        reply["first_hand"] == false && reply["items"].as_array().is_some_and(|items| items.len() == 3)
    });
    let output = sandbox.mesh(&["registry", "members", "--edge", &edge]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("this is what node-3 knows"), "{output:?}");
    drop(up);
}
