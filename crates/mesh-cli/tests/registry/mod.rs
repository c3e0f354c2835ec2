//! The registry of real clusters: who keeps it, taking and bringing back a copy, damaged disks.

use std::{fs, path::Path};

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

#[test]
fn a_snapshot_comes_back_over_what_was_written_since_with_higher_tokens() {
    let sandbox = Sandbox::new();
    let up = sandbox.up(4);
    until_voters(&sandbox, 3);
    let worker = edge_of(&sandbox, "node-4");
    let token = |sandbox: &Sandbox| -> (u64, u64) {
        let status = sandbox.json(&["registry", "status", "-o", "json"]);
        (
            status["generation"].as_u64().expect("a generation"),
            status["revision"].as_u64().expect("a revision"),
        )
    };
    wait_until("somebody leads", || {
        sandbox.json(&["leaders", "status", "-o", "json"])["leaders"][0]["leader"].is_string()
    });
    let file = sandbox.path("store.snapshot");
    let file = file.to_str().expect("UTF-8");
    // A worker has no copy, and sends the operator to a node that has.
    let saved = sandbox.json(&["registry", "snapshot", "--to", file, "--edge", &worker, "-o", "json"]);
    assert!(saved["records"].as_u64().is_some_and(|records| records > 0), "{saved}");
    assert_eq!(saved["bytes"].as_u64(), fs::metadata(file).ok().map(|file| file.len()));
    let (generation, _) = token(&sandbox);

    // Leadership moves: the store has a later reign than the snapshot.
    let moved = sandbox.json(&["leaders", "status", "global-control", "-o", "json"]);
    sandbox.ok(&["leaders", "step-down", "global-control", "--reason", "test"]);
    let later = sandbox.json(&["leaders", "status", "global-control", "-o", "json"]);
    assert_ne!(moved["term"], later["term"]);

    let node = |name: &str| sandbox.path(&format!("cluster/node-1/data/identity/{name}"));
    let (certificate, key) = (node("node.pem"), node("node.key"));
    let as_node =
        ["--certificate", certificate.to_str().expect("UTF-8"), "--key", key.to_str().expect("UTF-8")];
    let refused = sandbox.mesh(&[&["registry", "restore", "--from", file, "--yes"][..], &as_node].concat());
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    let other = sandbox.path("other.snapshot");
    let other = other.to_str().expect("UTF-8");
    let refused = sandbox.mesh(&[&["registry", "snapshot", "--to", other][..], &as_node].concat());
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(!Path::new(other).exists());
    let refused = sandbox.mesh(&["registry", "restore", "--from", file]);
    assert_eq!(refused.status.code(), Some(4), "nobody is there to confirm: {refused:?}");
    let whole = fs::read(file).expect("the snapshot");
    fs::write(other, &whole[..whole.len() / 2]).expect("a cut one");
    let refused = sandbox.mesh(&["registry", "restore", "--from", other, "--yes"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains(other) && error.contains("cut short") && error.contains("nothing was changed"),
        "{error}"
    );
    assert_eq!(token(&sandbox).0, generation, "nothing was restored so far");

    let restored = sandbox.json(&[
        "registry", "restore", "--from", file, "--yes", "--reason", "drill", "--edge", &worker, "-o", "json",
    ]);
    assert_eq!(restored["contents"]["records"], saved["records"], "{restored}");
    assert!(restored["generation"].as_u64() > Some(generation), "{restored}");
    wait_until("somebody leads with a higher token", || {
        let leader = sandbox.mesh(&["leaders", "status", "global-control", "-o", "json"]);
        let leader: Value = serde_json::from_slice(&leader.stdout).unwrap_or_default();
        let generation_of = |token: &Value| token.as_str()?.split('.').next()?.parse::<u64>().ok();
        leader["leader"].is_string() && generation_of(&leader["token"]) > Some(generation)
    });
    let audit = sandbox.page("/control/v1/audit?limit=1000");
    assert!(audit.contains("registry.restore") && audit.contains("drill"), "{audit}");
    stop(up);
}

/// Runs a node by itself; its facts once it listens. It may know members of before whom it can't reach, and is
/// not ready then.
fn run(sandbox: &Sandbox, name: &str, seeds: Option<&str>) -> (Running, Value) {
    let config = sandbox.path(&format!("cluster/{name}/mesh.toml"));
    let mut arguments = vec!["run", "--config", config.to_str().expect("UTF-8"), "--events"];
    let seeds = seeds.map(|seeds| format!("gossip.seeds={seeds}"));
    if let Some(seeds) = &seeds {
        arguments.extend(["--set", seeds]);
    }
    let mut running = sandbox.spawn(&arguments);
    let facts = running.event("listening");
    (running, facts)
}

#[test]
fn a_damaged_voter_says_what_to_do_and_votes_again_under_a_new_number() {
    let sandbox = Sandbox::new();
    let up = sandbox.up(3);
    let number = |members: &[Value]| {
        members.iter().find(|m| m["node_id"] == "node-3").and_then(|m| m["raft_id"].as_u64()).expect("node-3")
    };
    let before = number(&until_voters(&sandbox, 3));
    let config = sandbox.path("cluster/node-3/mesh.toml");
    let config = config.to_str().expect("UTF-8");
    let repair =
        |more: &[&str]| sandbox.mesh(&[&["registry", "repair", "--config", config][..], more].concat());
    let running = repair(&["--yes"]);
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    assert!(String::from_utf8_lossy(&running.stderr).contains("stop the node first"), "{running:?}");

    support::kill(up.pids["node-3"]);
    wait_until("node-3 is gone", || !support::process_exists(up.pids["node-3"]));
    let registry = sandbox.path("cluster/node-3/data/registry");
    let segment = registry.join("log/0000000000000001.log");
    let mut bytes = fs::read(&segment).expect("a segment");
    bytes[100] ^= 1;
    fs::write(&segment, bytes).expect("damaged");
    let refused = sandbox.mesh(&["run", "--config", config]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    let next = format!("next: mesh registry repair --config {config}");
    assert!(error.contains(segment.to_str().expect("UTF-8")) && error.contains(&next), "{error}");

    let report = repair(&["-o", "json"]);
    assert_eq!(report.status.code(), Some(10), "{report:?}");
    let files: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    let damaged = |file: &&Value| file["state"] == "damaged";
    assert_eq!(files["files"].as_array().expect("a list").iter().filter(damaged).count(), 1, "{files}");
    assert!(registry.exists());
    let done = repair(&["--yes"]);
    assert!(done.status.success(), "{done:?}");
    let aside = sandbox.path("cluster/node-3/data/registry.aside-1");
    assert!(!registry.exists() && aside.join("log/0000000000000001.log").exists());

    let (mut node, _) = run(&sandbox, "node-3", None);
    let mut after = before;
    wait_until("node-3 votes under a new number", || {
        let members = members(&sandbox);
        let again = members
            .iter()
            .find(|m| m["node_id"] == "node-3" && m["role"] != "learner" && m["answers"] == true);
        after = again.and_then(|m| m["raft_id"].as_u64()).unwrap_or(before);
        after != before
    });
    assert_eq!(members(&sandbox).len(), 3, "the old number is gone");
    node.terminate();
    assert_eq!(node.wait(), Some(0), "{}", node.errors());
    drop(up);
}

#[test]
fn a_group_that_lost_its_quorum_begins_anew_from_a_snapshot() {
    let sandbox = Sandbox::new();
    let up = sandbox.up(3);
    until_voters(&sandbox, 3);
    let file = sandbox.path("store.snapshot");
    let file = file.to_str().expect("UTF-8");
    let saved = sandbox.json(&["registry", "snapshot", "--to", file, "-o", "json"]);
    stop(up);

    let repair = |name: &str, more: &[&str]| {
        let config = sandbox.path(&format!("cluster/{name}/mesh.toml"));
        sandbox
            .mesh(&[&["registry", "repair", "--config", config.to_str().expect("UTF-8")][..], more].concat())
    };
    assert_eq!(repair("node-2", &["--from", file]).status.code(), Some(2), "without --new-group");
    let plan = repair("node-2", &["--from", file, "--new-group"]);
    assert_eq!(plan.status.code(), Some(10), "{plan:?}");
    let done = repair("node-2", &["--from", file, "--new-group", "--yes"]);
    assert!(done.status.success(), "{done:?}");
    // The addresses of before are of no use: nobody listens there any more.
    let (first, facts) = run(&sandbox, "node-2", Some(""));
    let edge = facts["edge"].as_str().expect("an edge").to_owned();
    let status = |sandbox: &Sandbox| -> Value {
        let output = sandbox.mesh(&["registry", "status", "-o", "json", "--edge", &edge]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    wait_until("the new group has a leader", || status(&sandbox)["leader"] == "node-2");
    let now = status(&sandbox);
    assert!(now["generation"].as_u64() > saved["generation"].as_u64(), "{now}");

    let seed = facts["mesh"].as_str().expect("an address");
    let mut others = Vec::new();
    for name in ["node-1", "node-3"] {
        assert_eq!(repair(name, &[]).status.code(), Some(0), "it is sound");
        let done = repair(name, &["--even-if-sound", "--yes"]);
        assert!(done.status.success(), "{done:?}");
        others.push(run(&sandbox, name, Some(seed)).0);
    }
    wait_until("all three vote", || {
        let output = sandbox.mesh(&["registry", "members", "-o", "json", "--edge", &edge]);
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let votes = |member: &&Value| member["role"] != "learner" && member["answers"] == true;
        reply["members"].as_array().is_some_and(|members| members.iter().filter(votes).count() == 3)
    });
    drop((first, others));
}
