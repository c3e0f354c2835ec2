//! The real command against real clusters of child processes.

mod support;

use std::fs;

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
    assert!(checks["checks"].as_array().is_some_and(|checks| checks.len() == 12), "{checks}");

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
fn an_operator_makes_a_node_leave() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up(2);

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
