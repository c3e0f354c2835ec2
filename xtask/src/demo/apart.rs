//! The part of the story in which a node is cut off, all write, and the same is everywhere in the end.
//!
//! A node is cut off by stopping its process: nothing that others send reaches it, and it sends nothing. To write on
//! it meanwhile, it goes on for a moment while all others are stopped.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    PATIENCE,
    cluster::{Cluster, DATASET, Node},
    interrupt::Interrupt,
    others, process,
    story::Story,
    view::Views,
};
use crate::{repo::output, steps::Stopwatch};

/// Documents that each side writes.
const WRITES: usize = 3;
const COLLECTION: &str = "greetings";

/// Processes that are stopped. They go on when this value goes, however the demo ends: a stopped one could not say
/// goodbye.
struct Paused(Vec<u32>);

impl Paused {
    fn pause(pids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let mut paused = Self(Vec::new());
        for pid in pids {
            process::signal("STOP", pid)?;
            paused.0.push(pid);
        }
        Ok(paused)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in &self.0 {
            // It fails only if the process is gone, and then nobody waits for it.
            let _ = process::signal("CONT", *pid);
        }
    }
}

/// Cuts a node off, writes on both sides, and heals. Returns how long it took from there until every node had all
/// documents; zero if there is nobody to be cut off from.
pub(super) fn write(
    apart: &Node,
    cluster: &Cluster,
    views: &Views,
    story: &Story,
    interrupt: &Interrupt,
) -> Result<Duration> {
    let Some(witness) = others(apart, cluster).next().cloned() else { return Ok(Duration::ZERO) };
    let before = documents(cluster, apart)?.len();
    let alone = Paused::pause(others(apart, cluster).map(|node| node.pid))?;
    put(cluster, apart)?;
    story.tell(format_args!(
        "{} reaches nobody, and takes {WRITES} writes to the dataset {DATASET}",
        apart.name
    ));
    // In this order, so that there is no moment in which both run.
    let cut = Paused::pause([apart.pid])?;
    drop(alone);
    for observer in others(apart, cluster) {
        views.wait_until(PATIENCE, "the others declare it dead", |view| {
            view.is(&observer.name, &apart.name, "dead")
        })?;
    }
    put(cluster, &witness)?;
    story.tell(format_args!("{} is cut off; {} takes {WRITES} writes without it", apart.name, witness.name));
    drop(cut);
    let watch = Stopwatch::start();
    story.tell(format_args!("{} is back", apart.name));
    loop {
        interrupt.check()?;
        let held: Vec<_> =
            cluster.nodes().iter().map(|node| documents(cluster, node)).collect::<Result<_>>()?;
        if held.iter().all(|one| one.len() == before + 2 * WRITES && *one == held[0]) {
            let converged = watch.elapsed();
            story.tell(format_args!("every node has all {} documents", held[0].len()));
            return Ok(converged);
        }
        anyhow::ensure!(watch.elapsed() < PATIENCE, "after {PATIENCE:?} the nodes have {held:?}");
    }
}

/// Writes on one node; each write is durable there when it returns.
fn put(cluster: &Cluster, node: &Node) -> Result<()> {
    for number in 1..=WRITES {
        let (key, value) = (format!("{}-{number}", node.name), format!("hello from {}", node.name));
        output(cluster.operator(&node.edge).args(["data", "put", DATASET, COLLECTION, &key, &value]))?;
    }
    Ok(())
}

/// The documents that a node has, by the entries that wrote them.
fn documents(cluster: &Cluster, node: &Node) -> Result<BTreeSet<String>> {
    let list = output(cluster.operator(&node.edge).args(["data", "list", DATASET, "--output", "json"]))?;
    let list: Value = serde_json::from_str(&list).context("`mesh data list` printed no JSON")?;
    entries(&list)
}

fn entries(list: &Value) -> Result<BTreeSet<String>> {
    let documents = list["documents"].as_array().context("`mesh data list` printed no documents")?;
    let id =
        |document: &Value| document["id"].as_str().map(str::to_owned).context("a document without an entry");
    documents.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_told_apart_by_their_entries() {
        let list = json!({"documents": [{"key": "a", "id": "01"}, {"key": "b", "id": "02"}]});
        assert_eq!(entries(&list).expect("reads").len(), 2);
        entries(&json!({"documents": [{"key": "a"}]})).expect_err("no entry");
        entries(&json!({})).expect_err("no list");
    }
}
