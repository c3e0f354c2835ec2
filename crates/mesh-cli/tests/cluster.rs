//! The real command against real clusters of child processes.

mod registry;
mod support;

use std::{fs, os::unix::fs::PermissionsExt};

use mesh::transport::ca::{DevCa, LEAF_LIFETIME};
use serde_json::Value;
use support::{Sandbox, alive, process_exists};

#[test]
fn up_starts_a_cluster_notices_a_killed_node_and_stops_without_leaving_anything() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up(3);
    assert_eq!(up.pids.len(), 3);

    let listed = sandbox.json(&["peers", "list", "-o", "json"]);
    assert_eq!(listed["api_version"], "mesh/v1");
    assert_eq!(alive(&listed), ["node-1", "node-2", "node-3"]);
    assert_eq!(sandbox.ok(&["peers", "list", "-o", "name", "--role", "control"]), "node-1\nnode-2\nnode-3\n");
    assert_eq!(sandbox.ok(&["peers", "list", "-o", "name", "--zone", "nowhere"]), "");
    let table = sandbox.ok(&["peers", "list"]);
    assert!(table.lines().next().is_some_and(|titles| titles.starts_with("NODE")), "{table}");
    let one = sandbox.json(&["peers", "show", "node-2", "-o", "json"]);
    assert_eq!((one["node_id"].as_str(), one["cluster"].as_str()), (Some("node-2"), Some("dev")));
    let checks = sandbox.json(&["check", "-o", "json"]);
    assert!(checks["checks"].as_array().is_some_and(|checks| checks.len() == 14), "{checks}");
    let rpc = sandbox.json(&["check", "--only", "rpc.http3", "-o", "json"]);
    let rpc = &rpc["checks"][0];
    assert_eq!(rpc["status"], "ok", "{rpc}");
    assert_eq!(rpc["detail"], "3 of 3 answer over HTTP/3 and over HTTP/2");
    assert_eq!(rpc["transports"], serde_json::json!(["h3", "h2"]));

    let mut watching = sandbox.spawn(&["peers", "list", "--watch", "-o", "jsonl", "--search", "node-3"]);
    let snapshot = watching.event("snapshot");
    assert_eq!(snapshot["items"][0]["node_id"], "node-3", "{snapshot}");

    let killed = up.pids["node-3"];
    support::kill(killed);
    let ended = up.event("ended");
    assert_eq!((ended["node_id"].as_str(), ended["pid"].as_u64()), (Some("node-3"), Some(killed)));
    support::wait_until("node-3 is dead in the list", || {
        let listed = sandbox.json(&["peers", "list", "-o", "json", "--state", "dead"]);
        listed["peers"].as_array().is_some_and(|dead| dead.len() == 1 && dead[0]["node_id"] == "node-3")
    });
    let dead = up.event_where("member", |event| event["state"] == "dead");
    assert_eq!(dead["node_id"], "node-3");
    watching.event_where("change", |event| event["change"] == "died" && event["peer"]["node_id"] == "node-3");
    watching.interrupt();
    assert_eq!(watching.wait(), Some(0), "{}", watching.errors());
    let checked = sandbox.mesh(&["check", "--only", "peers.alive"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("dead: node-3"), "{checked:?}");

    up.interrupt();
    assert_eq!(up.event("down")["clean"], true);
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
    for (name, pid) in &up.pids {
        assert!(!process_exists(*pid), "{name} (pid {pid}) still runs");
    }

    let output = sandbox.mesh(&["peers", "list"]);
    assert_eq!(output.status.code(), Some(6), "nobody answers any more: {output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("no node of context \"dev\" answers") && error.contains("next: "), "{error}");
}

#[test]
fn a_cluster_without_http3_is_found_out_and_ends_with_the_input_of_up() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up_with(2, &["--until-stdin-closes", "--set", "transport.http3.enabled=false"]);

    let checks = sandbox.json(&["check", "--only", "rpc.http3", "-o", "json"]);
    let rpc = &checks["checks"][0];
    assert_eq!((rpc["status"].as_str(), &rpc["transports"]), (Some("ok"), &serde_json::json!(["h2"])));
    assert_eq!(rpc["detail"], "2 of 2 answer; HTTP/3 is off at node-1, node-2");

    // By its file, node-1 should serve HTTP/3.
    let node = sandbox.json(&["peers", "show", "node-1", "-o", "json"]);
    let bind = format!("transport.bind={}", node["addresses"][0].as_str().expect("an address"));
    let config = sandbox.path("cluster/node-1/mesh.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let check = ["check", "--config", config, "--set", &bind, "--only", "rpc.http3", "-o", "json"];
    let checks = sandbox.json(&check);
    let rpc = &checks["checks"][0];
    assert_eq!((rpc["status"].as_str(), &rpc["transports"]), (Some("warning"), &serde_json::json!(["h2"])));
    assert!(
        rpc["detail"].as_str().is_some_and(|text| text.starts_with("only HTTP/2 works with node-1")),
        "{rpc}"
    );

    up.close_input();
    assert_eq!(up.event("down")["clean"], true);
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
    for (name, pid) in &up.pids {
        assert!(!process_exists(*pid), "{name} (pid {pid}) still runs");
    }
}

#[test]
fn an_operator_makes_a_node_leave() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up(2);

    let metrics = sandbox.page("/metrics");
    for name in [
        "mesh_gossip_members{state=\"alive\"} 2",
        "mesh_transport_handshakes_total",
        "mesh_edge_requests_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }

    // A node may read, and may not send others away.
    let file = |name: &str| sandbox.path(&format!("cluster/node-1/data/identity/{name}"));
    let (certificate, key) = (file("node.pem"), file("node.key"));
    let as_node =
        ["--certificate", certificate.to_str().expect("UTF-8"), "--key", key.to_str().expect("UTF-8")];
    sandbox.ok(&[&["peers", "list"][..], &as_node].concat());
    let refused = sandbox.mesh(&[&["leave", "node-2", "--yes"][..], &as_node].concat());
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[access.role]"), "{refused:?}");

    let refused = sandbox.mesh(&["leave", "node-2"]);
    assert_eq!(refused.status.code(), Some(4), "nobody is there to confirm: {refused:?}");

    sandbox.ok(&["leave", "node-2", "--yes", "--reason", "test"]);
    let ended = up.event("ended");
    assert_eq!(
        (ended["node_id"].as_str(), ended["status"].as_str()),
        (Some("node-2"), Some("exit status: 0"))
    );
    support::wait_until("node-2 has left", || {
        let listed = sandbox.json(&["peers", "list", "-o", "json", "--state", "left"]);
        listed["peers"].as_array().is_some_and(|left| left.len() == 1)
    });
    let log = fs::read_to_string(sandbox.path("cluster/node-2/node.log")).expect("the node's log");
    assert!(log.contains("asked to leave") && log.contains("reason=\"test\""), "{log}");

    let unknown = sandbox.mesh(&["peers", "show", "node-9"]);
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("no such peer \"node-9\"") && error.contains("[peers.unknown]"), "{error}");

    up.terminate();
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
}

#[test]
fn a_node_runs_alone_from_its_files_and_leaves_on_sigterm() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up(1);
    up.interrupt();
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
    let config = sandbox.path("cluster/node-1/mesh.toml");
    let config = config.to_str().expect("a path in UTF-8");

    sandbox.ok(&["config", "validate", "--config", config]);
    let shown = sandbox.json(&["config", "show", "--config", config, "--changed", "-o", "json"]);
    let preset = |setting: &Value| {
        setting["setting"] == "gossip.probe_interval" && setting["source"] == "preset local"
    };
    assert!(shown["settings"].as_array().is_some_and(|all| all.iter().any(preset)), "{shown}");

    let ready_file = sandbox.path("ready.json");
    let mut node =
        sandbox.spawn(&["run", "--config", config, "--ready-file", ready_file.to_str().expect("UTF-8")]);
    support::wait_until("the ready file is there", || ready_file.exists());
    let facts: Value = serde_json::from_slice(&fs::read(&ready_file).expect("the ready file")).expect("JSON");
    assert_eq!(facts["node_id"], "node-1");
    let edge = facts["edge"].as_str().expect("an edge address");
    let checks = sandbox.json(&["check", "--config", config, "--edge", edge, "-o", "json"]);
    let bad: Vec<&Value> =
        checks["checks"].as_array().expect("a list").iter().filter(|c| c["status"] == "failed").collect();
    assert!(bad.is_empty(), "{bad:?}");

    node.hang_up();
    support::wait_until("the identity is reloaded", || node.errors().contains("identity reloaded"));

    let second = sandbox.mesh(&["run", "--config", config]);
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(error.contains("is in use by another process"), "{error}");

    node.terminate();
    assert_eq!(node.wait(), Some(0), "{}", node.errors());
    assert!(!ready_file.exists(), "a node that stopped is not ready");
    assert!(node.errors().contains("left the cluster and stopped"), "{}", node.errors());
}

#[test]
fn check_names_what_keeps_a_node_from_starting() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up(1);
    up.interrupt();
    assert_eq!(up.wait(), Some(0), "{}", up.errors());
    let config = sandbox.path("cluster/node-1/mesh.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let key = sandbox.path("cluster/node-1/data/identity/node.key");

    // Readable by others: the node refuses to start, and the check says what to run.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("change the mode");
    let refused = sandbox.mesh(&["run", "--config", config]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("has mode 0644") && error.contains("next: mesh check --config"), "{error}");
    let codes = |arguments: &[&str]| -> Vec<String> {
        let output = sandbox.mesh(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
        let failed =
            report["checks"].as_array().into_iter().flatten().filter(|check| check["status"] == "failed");
        failed.filter_map(|check| check["code"].as_str().map(str::to_owned)).collect()
    };
    let local = "key.private,certificate.valid,trust.matches,seeds.reachable";
    let check = ["check", "--config", config, "-o", "json", "--only", local];
    assert_eq!(
        codes(&check),
        ["key.private", "certificate.valid", "trust.matches"],
        "the key can't be loaded"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("change it back");

    // Another authority: nobody would accept the certificate.
    let other = DevCa::new("other.example").expect("an authority");
    let leaf = other.issue("dev", "worker", "node-1", LEAF_LIFETIME).expect("a certificate");
    leaf.save(&sandbox.path("other")).expect("save it");
    let roots = sandbox.path("cluster/node-1/data/identity/roots.pem");
    fs::copy(sandbox.path("other/roots.pem"), roots).expect("replace the roots");
    assert_eq!(codes(&check), ["trust.matches"]);

    // Nobody listens where the seed should be.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let seed = format!("gossip.seeds={free}");
    let with_seed = [&check[..], &["--set", &seed]].concat();
    assert_eq!(codes(&with_seed), ["trust.matches", "seeds.reachable"]);
}

#[test]
fn mistakes_are_told_with_the_exit_code_for_usage() {
    let sandbox = Sandbox::new();
    for (arguments, text) in [
        (&["peers", "list"][..], "no edge address is known"),
        (&["peers", "list", "--context", "x"], "there is no context \"x\""),
        (&["check", "--only", "no.such"], "there is no check \"no.such\""),
        (
            &["config", "validate", "--config", "/nowhere.toml"],
            "cannot read the configuration file /nowhere.toml",
        ),
        (&["config", "validate", "--set", "gossip.ringz=1"], "did you mean gossip.rings?"),
        (&["up", "--cluster", "Not Valid"], "cluster name \"Not Valid\" is not valid"),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        let output = sandbox.mesh(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(text), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "messages go to standard error");
    }
    assert!(sandbox.ok(&["completion", "bash"]).contains("_mesh()"));
}
