//! Datasets: what was acknowledged is on all nodes in the end, whatever happens to processes, networks and disks.

mod client;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mesh_core::MemberState;
use mesh_sim::harness::{Cluster, Need, Plan, Port, check, mesh, mesh_ok, poll, skip};
use serde_json::Value;
use toml::Table;

use self::client::{Client, Load};
use super::{PATIENCE, wait_until_seen};

const DATASET: &str = "notes";
const COLLECTION: &str = "list";

/// The setting for a dataset that this access policy rules.
fn dataset(access: &str) -> toml::Value {
    let notes = [("name", DATASET), ("access", access)].map(|(key, value)| (key.to_owned(), value.into()));
    toml::Value::Array(vec![toml::Value::Table(Table::from_iter(notes))])
}

fn plan(story: &str, nodes: u8) -> Plan {
    Plan::new(story, nodes).set("sync.datasets", dataset("cluster"))
}

/// Waits until these nodes have at least these documents, and all the same ones.
fn wait_until_equal(cluster: &Cluster, names: &[&str], keys: &BTreeSet<String>) -> Result<()> {
    let clients = names.iter().map(|name| Client::new(cluster, name)).collect::<Result<Vec<_>>>()?;
    let mut last = Vec::new();
    let waited = poll(PATIENCE, &format!("{names:?} have the same {} documents", keys.len()), || {
        let held = clients.iter().map(Client::entries).collect::<Result<Vec<_>>>()?;
        let all = held.iter().all(|one| *one == held[0] && keys.iter().all(|key| one.contains_key(key)));
        last = held.iter().map(|held| held.len()).collect();
        Ok(all.then_some(()))
    });
    waited.with_context(|| format!("they have {last:?} documents, {} were acknowledged", keys.len()))
}

fn entries(cluster: &Cluster, name: &str) -> Result<u64> {
    let page: Value = serde_json::from_str(&cluster.page(name, "/control/v1/sync")?.body)?;
    page["sync"]["datasets"][0]["entries"].as_u64().context("a status without entries")
}

#[test]
fn what_is_written_at_one_node_is_read_at_the_others() -> Result<()> {
    let cluster = plan("sync", 3).start()?;
    mesh_ok(&cluster, "n-1", &["data", "put", DATASET, COLLECTION, "milk", "1 l"])?;
    for name in ["n-2", "n-3"] {
        poll(PATIENCE, &format!("{name} has it"), || {
            let got = mesh(&cluster, name, &["data", "get", DATASET, COLLECTION, "milk", "-o", "raw"])?;
            Ok((got.status.success() && got.stdout == b"1 l").then_some(()))
        })?;
    }
    mesh_ok(&cluster, "n-3", &["data", "delete", DATASET, COLLECTION, "milk"])?;
    poll(PATIENCE, "it is deleted at n-1", || {
        let got = mesh(&cluster, "n-1", &["data", "get", DATASET, COLLECTION, "milk"])?;
        Ok(String::from_utf8_lossy(&got.stderr).contains("sync.document.unknown").then_some(()))
    })?;
    mesh_ok(&cluster, "n-2", &["sync", "now"])?;
    let status: Value = serde_json::from_str(&mesh_ok(&cluster, "n-2", &["sync", "status", "-o", "json"])?)?;
    ensure!(status["tracked_peers"] == 2 && status["health"] == "ok", "{status}");
    let metrics = cluster.page("n-2", "/metrics")?.body;
    ensure!(metrics.contains("mesh_sync_entries_total"), "no metrics of sync");
    let missing = mesh(&cluster, "n-1", &["data", "list", "elsewhere"])?;
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(said.contains("sync.dataset.unknown") && said.contains("next: "), "{said}");
    cluster.finish()
}

/// The key comes with a node's first start, so that an operator names it afterwards, on all nodes.
#[test]
fn what_was_overwritten_is_pruned_on_all_nodes_and_a_node_that_was_away_brings_nothing_back() -> Result<()> {
    let mut cluster = plan("sync-prune", 3).start()?;
    let status = |cluster: &Cluster, name: &str| -> Result<Value> {
        Ok(serde_json::from_str(&mesh_ok(cluster, name, &["sync", "status", "-o", "json"])?)?)
    };
    let author = status(&cluster, "n-1")?["author"].as_str().context("an author")?.to_owned();
    let refused = mesh(&cluster, "n-1", &["sync", "prune", "--yes"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("sync.pruners") && said.contains(&author), "{said}");
    cluster.set("sync.pruners", toml::Value::Array(vec![author.as_str().into()]));
    for name in ["n-1", "n-2", "n-3"] {
        cluster.kill(name)?;
        cluster.start(name)?;
    }
    cluster.wait_until_whole()?;
    for value in 0..20 {
        mesh_ok(&cluster, "n-1", &["data", "put", DATASET, COLLECTION, "milk", &value.to_string()])?;
    }
    wait_until_equal(&cluster, &["n-1", "n-2", "n-3"], &BTreeSet::from(["milk".to_owned()]))?;

    // n-3 has all of it, and is away while the others forget.
    cluster.kill("n-3")?;
    wait_until_seen(&cluster, &["n-1", "n-2"], &["n-3"], MemberState::Dead)?;
    let planned = || -> Result<Value> {
        let printed = mesh_ok(&cluster, "n-1", &["sync", "prune", DATASET, "--dry-run", "-o", "json"])?;
        let printed: Value = serde_json::from_str(&printed)?;
        Ok(printed["prunes"][0].clone())
    };
    poll(PATIENCE, "n-3 holds it up", || {
        Ok((planned()?["held_up_by"] == serde_json::json!(["n-3"])).then_some(()))
    })?;
    ensure!(entries(&cluster, "n-1")? == 20, "something was pruned");
    mesh_ok(&cluster, "n-1", &["sync", "retire", DATASET, "n-3", "--yes"])?;
    poll(PATIENCE, "nothing holds it up", || Ok((planned()?["entries"] == 19).then_some(())))?;
    mesh_ok(&cluster, "n-1", &["sync", "prune", "--yes"])?;
    for name in ["n-1", "n-2"] {
        poll(PATIENCE, &format!("{name} has forgotten"), || {
            Ok((entries(&cluster, name)? == 2).then_some(()))
        })?;
    }
    cluster.start("n-3")?;
    for name in ["n-3", "n-1", "n-2"] {
        poll(
            PATIENCE,
            &format!("{name} has the same"),
            || Ok((entries(&cluster, name)? == 2).then_some(())),
        )?;
        let value = mesh_ok(&cluster, name, &["data", "get", DATASET, COLLECTION, "milk", "-o", "raw"])?;
        ensure!(value == "19", "{name} has {value}");
    }
    mesh_ok(&cluster, "n-3", &["sync", "now"])?;
    cluster.finish()
}

#[test]
fn a_node_killed_while_it_is_written_to_keeps_what_it_has_acknowledged() -> Result<()> {
    let mut cluster = plan("sync-kill-writes", 3).start()?;
    let mut keys = BTreeSet::new();
    for round in 0..3 {
        let loads = ["n-1", "n-2"].map(|name| Load::start(&cluster, name, &format!("{name}-{round}")));
        let [other, load] = loads;
        let (other, load) = (other?, load?);
        poll(PATIENCE, "writes are acknowledged", || Ok((load.acknowledged() >= 40).then_some(())))?;
        cluster.kill("n-2")?;
        keys.extend(load.stop()?);
        keys.extend(other.stop()?);
        cluster.start("n-2")?;
    }
    cluster.wait_until_whole()?;
    wait_until_equal(&cluster, &["n-1", "n-2", "n-3"], &keys)?;
    println!("{} writes were acknowledged", keys.len());
    cluster.finish()
}

#[test]
fn a_node_killed_while_it_starts_and_while_it_catches_up_has_all_in_the_end() -> Result<()> {
    let mut cluster = plan("sync-kill-catch-up", 3).start()?;
    cluster.kill("n-3")?;
    let load = Load::start(&cluster, "n-1", "early")?;
    poll(PATIENCE, "there is much to catch up with", || Ok((load.acknowledged() >= 600).then_some(())))?;
    let mut keys = load.stop()?;
    // In its first moments, wherever it is then.
    for _ in 0..3 {
        cluster.launch("n-3")?;
        cluster.kill("n-3")?;
    }
    // At different points of catching up.
    for part in [1, 150, 400] {
        cluster.start("n-3")?;
        poll(PATIENCE, &format!("n-3 has {part} entries"), || {
            Ok((entries(&cluster, "n-3")? >= part).then_some(()))
        })?;
        cluster.kill("n-3")?;
    }
    // And who gives dies while it gives.
    cluster.start("n-3")?;
    cluster.kill("n-1")?;
    cluster.start("n-1")?;
    let load = Load::start(&cluster, "n-1", "late")?;
    poll(PATIENCE, "writes go on", || Ok((load.acknowledged() >= 20).then_some(())))?;
    keys.extend(load.stop()?);
    cluster.wait_until_whole()?;
    wait_until_equal(&cluster, &["n-1", "n-2", "n-3"], &keys)?;
    cluster.finish()
}

#[test]
fn halves_that_were_written_to_while_apart_have_the_same_when_they_meet_again() -> Result<()> {
    let story = "sync-halves";
    if let Err(missing) = check(&[Need::Namespaces, Need::Nftables]) {
        skip(story, &missing);
        return Ok(());
    }
    let cluster = plan(story, 3).in_lab().start()?;
    cluster.namespace("n-3")?.cut(Port::All)?;
    wait_until_seen(&cluster, &["n-1", "n-2"], &["n-3"], MemberState::Dead)?;
    for name in ["n-1", "n-3"] {
        for number in 0..5 {
            let key = format!("{name}-{number}");
            mesh_ok(&cluster, name, &["data", "put", DATASET, COLLECTION, &key, "apart"])?;
            mesh_ok(&cluster, name, &["data", "put", DATASET, COLLECTION, "both", &key])?;
        }
    }
    let count = |name: &str| -> Result<BTreeSet<String>> {
        let list = mesh_ok(&cluster, name, &["data", "list", DATASET, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let documents = list["documents"].as_array().context("no documents")?;
        Ok(documents.iter().map(|document| document["id"].to_string()).collect())
    };
    ensure!(count("n-3")?.len() == 6, "n-3 was not cut off");
    cluster.namespace("n-3")?.heal()?;
    poll(PATIENCE, "all have the same eleven documents", || {
        let held = ["n-1", "n-2", "n-3"].map(count);
        let held = held.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(held.iter().all(|one| one.len() == 11 && *one == held[0]).then_some(()))
    })?;
    cluster.finish()
}

#[test]
fn strangers_and_revoked_nodes_get_nothing() -> Result<()> {
    let mut cluster = plan("sync-strangers", 3).with_revocations().start()?;
    let before = BTreeSet::from(["before".to_owned()]);
    mesh_ok(&cluster, "n-1", &["data", "put", DATASET, COLLECTION, "before", "x"])?;
    wait_until_equal(&cluster, &["n-1", "n-2", "n-3"], &before)?;
    let stranger = cluster.authority().issue_for("another", "worker", "stranger")?;
    cluster.add("stranger", stranger, None)?;
    cluster.launch("stranger")?;
    cluster.revoke(&["n-3"])?;
    for name in ["n-1", "n-2"] {
        cluster.reload(name)?;
    }
    wait_until_seen(&cluster, &["n-1", "n-2"], &["n-3"], MemberState::Dead)?;
    mesh_ok(&cluster, "n-1", &["data", "put", DATASET, COLLECTION, "after", "x"])?;
    let both = BTreeSet::from(["before".to_owned(), "after".to_owned()]);
    wait_until_equal(&cluster, &["n-1", "n-2"], &both)?;
    let revoked = Client::new(&cluster, "n-3")?;
    cluster.board().never(Duration::from_secs(5), "the revoked node gets what came later", |_| {
        revoked.entries().is_ok_and(|held| held.contains_key("after"))
    })?;
    let peers = mesh_ok(&cluster, "n-1", &["sync", "peers", "-o", "name"])?;
    ensure!(!peers.contains("stranger"), "{peers}");
    cluster.kill("stranger")?;
    cluster.finish()
}

#[test]
fn an_operator_lets_a_node_in() -> Result<()> {
    let cluster = Plan::new("sync-approve", 2).set("sync.datasets", dataset("ask")).start()?;
    mesh_ok(&cluster, "n-1", &["data", "put", DATASET, COLLECTION, "milk", "1 l"])?;
    let ticket = mesh_ok(&cluster, "n-1", &["sync", "ticket", DATASET])?;
    mesh_ok(&cluster, "n-2", &["sync", "join", ticket.trim(), "--note", "please"])?;
    let requests = |state: &str| -> Result<Option<()>> {
        let list = mesh_ok(&cluster, "n-1", &["sync", "requests", DATASET, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let mut requests = list["requests"].as_array().into_iter().flatten();
        Ok(requests
            .any(|one| one["node_id"] == "n-2" && one["state"] == state && one["note"] == "please")
            .then_some(()))
    };
    poll(PATIENCE, "n-1 knows of the request", || requests("pending"))?;
    let none = mesh(&cluster, "n-1", &["sync", "approve", DATASET, "n-9"])?;
    ensure!(none.status.code() == Some(1), "{none:?}");
    ensure!(entries(&cluster, "n-2")? == 0, "nothing comes before it is approved");
    mesh_ok(&cluster, "n-1", &["sync", "approve", DATASET, "n-2"])?;
    requests("granted")?.context("it is granted")?;
    wait_until_equal(&cluster, &["n-1", "n-2"], &BTreeSet::from(["milk".to_owned()]))?;
    cluster.finish()
}

/// Paused, it answers nobody and keeps its streams: others neither wait for it nor forget what it lacks.
#[test]
fn a_node_that_stands_still_while_it_syncs_has_all_once_it_goes_on() -> Result<()> {
    let mut cluster = plan("sync-pause", 3).start()?;
    let load = Load::start(&cluster, "n-1", "while")?;
    let other = Load::start(&cluster, "n-2", "paused")?;
    poll(PATIENCE, "both are written to", || {
        Ok((load.acknowledged() >= 40 && other.acknowledged() >= 40).then_some(()))
    })?;
    cluster.pause("n-2")?;
    // A node takes so many requests a second, so nobody writes while there is nothing to see.
    let mut keys = load.stop()?;
    wait_until_seen(&cluster, &["n-1", "n-3"], &["n-2"], MemberState::Dead)?;
    let load = Load::start(&cluster, "n-3", "after")?;
    poll(PATIENCE, "writes go on", || Ok((load.acknowledged() >= 40).then_some(())))?;
    keys.extend(load.stop()?);
    wait_until_equal(&cluster, &["n-1", "n-3"], &keys)?;
    cluster.resume("n-2")?;
    keys.extend(other.stop()?);
    cluster.wait_until_whole()?;
    wait_until_equal(&cluster, &["n-1", "n-2", "n-3"], &keys)?;
    cluster.finish()
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_by_itself() -> Result<()> {
    let story = "sync-full-disk";
    if let Err(missing) = check(&[Need::SmallDisk]) {
        skip(story, &missing);
        return Ok(());
    }
    let cluster = plan(story, 2).with_small_disk("n-2", 192 << 10).start()?;
    let put = |cluster: &Cluster, node: &str, key: &str| {
        mesh(cluster, node, &["data", "put", DATASET, COLLECTION, key, &"v".repeat(4096)])
    };
    ensure!(put(&cluster, "n-2", "before")?.status.success(), "there is space");
    cluster.disk("n-2")?.fill()?;
    let mut keys = BTreeSet::from(["before".to_owned()]);
    let mut number = 0;
    // Until somebody has looked at the disk.
    let refused = poll(PATIENCE, "a write is refused", || {
        number += 1;
        let key = format!("full-{number}");
        let done = put(&cluster, "n-2", &key)?;
        if done.status.success() {
            keys.insert(key);
            return Ok(None);
        }
        // Refused, and yet stored later if it was under way: only what is acknowledged is certain.
        Ok(Some(String::from_utf8_lossy(&done.stderr).into_owned()))
    })?;
    ensure!(refused.contains("sync.store.full") && refused.contains("next: make room"), "{refused}");
    ensure!(cluster.page("n-2", "/healthz")?.status == 200, "it lives on");
    let unhealthy = mesh(&cluster, "n-2", &["sync", "status"])?;
    let told = String::from_utf8_lossy(&unhealthy.stdout).into_owned();
    ensure!(told.contains("disk is full"), "the status says so: {told}");
    // What comes from others waits as well, and nobody fails over it.
    ensure!(put(&cluster, "n-1", "meanwhile")?.status.success(), "the other node has space");
    keys.insert("meanwhile".to_owned());
    cluster.disk("n-2")?.free()?;
    poll(PATIENCE, "writes are taken again", || {
        Ok(put(&cluster, "n-2", "after")?.status.success().then_some(()))
    })?;
    keys.insert("after".to_owned());
    wait_until_equal(&cluster, &["n-1", "n-2"], &keys)?;
    cluster.finish()
}
