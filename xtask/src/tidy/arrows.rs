//! Which crate may depend on which.
//!
//! ```text
//! mesh-cli, tests ──> mesh ──> gossip, leader, shard, sync, registry ──> mesh-transport ──> mesh-core
//! ```
//!
//! A crate may use those of lower layers and none of its own layer, so that the
//! concern crates stay strangers to each other. Development dependencies count.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// The layer of every workspace member, lowest first.
const LAYERS: &[&[&str]] = &[
    &["mesh-core"],
    &["mesh-transport"],
    &["mesh-gossip", "mesh-leader", "mesh-shard", "mesh-sync", "mesh-registry"],
    &["mesh"],
    &["mesh-cli"],
    &["mesh-tests"],
];

/// Members outside the layers: chores, on which nothing may depend and which compile no Mesh crate.
const APART: &[&str] = &["xtask", "mesh-codegen"];

/// Crates that a member must not depend on, not even as an option.
const ABSENT: &[(&str, &[&str])] = &[
    (
        "mesh-core",
        &["tokio", "serde_json", "prost", "tonic", "hyper", "quinn", "rustls", "tracing", "fastrand"],
    ),
    ("mesh-gossip", &["quinn", "rustls", "h3"]),
];

/// Crates that must be optional, so that a member's core builds without them.
const OPTIONAL: &[(&str, &[&str])] = &[
    ("mesh-core", &["serde", "xxhash-rust"]),
    ("mesh-gossip", &["tokio", "tracing", "prometheus-client", "serde"]),
    ("mesh-leader", &["tokio", "tracing", "prometheus-client", "serde", "tonic", "redb"]),
];

/// Crates that `xtask` may use: it must compile in seconds.
///
/// `signal-hook` is there because a program without unsafe code can't otherwise outlive a signal,
/// which the demo must, to stop its cluster; it brings `signal-hook-registry`, `errno` and `libc`.
const XTASK: &[&str] = &["anyhow", "clap", "serde_json", "signal-hook", "toml"];

struct Edge<'m> {
    to: &'m str,
    dev: bool,
    optional: bool,
}

pub(super) fn check(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let edges: Vec<Edge<'_>> =
            package["dependencies"].as_array().into_iter().flatten().map(edge).collect();
        findings.extend(of_package(name, &edges).into_iter().map(|problem| Finding::new(name, problem)));
    }
    Ok(findings)
}

fn edge(dependency: &Value) -> Edge<'_> {
    Edge {
        to: dependency["name"].as_str().unwrap_or_default(),
        dev: dependency["kind"] == "dev",
        optional: dependency["optional"] == true,
    }
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

fn listed<'t>(table: &[(&str, &'t [&'t str])], name: &str) -> &'t [&'t str] {
    table.iter().find(|(of, _)| *of == name).map_or(&[], |(_, names)| names)
}

fn of_package(name: &str, edges: &[Edge<'_>]) -> Vec<String> {
    let mut problems = Vec::new();
    let own = layer(name);
    let apart = APART.contains(&name);
    if own.is_none() && !apart {
        problems.push("is not in the table of layers; add it to xtask/src/tidy/arrows.rs".to_owned());
    }
    for edge in edges {
        let to = edge.to;
        if apart && layer(to).is_some() {
            problems.push(format!("must not depend on {to}: chores compile no Mesh crate"));
            continue;
        } else if APART.contains(&to) {
            problems.push(format!("must not depend on {to}: it is for chores"));
        } else if let (Some(own), Some(other)) = (own, layer(to))
            && other >= own
            && to != name
        {
            let why = if other == own {
                "they are siblings; name a trait in mesh-core"
            } else {
                "it is in a higher layer"
            };
            problems.push(format!("must not depend on {to}: {why}"));
        }
        if !edge.dev && listed(ABSENT, name).contains(&to) {
            problems.push(format!("must not depend on {to}, not even as an option"));
        }
        if !edge.dev && !edge.optional && listed(OPTIONAL, name).contains(&to) {
            problems.push(format!("may depend on {to} only as an option: its core builds without"));
        }
        if name == "xtask" && !edge.dev && !XTASK.contains(&to) {
            problems.push(format!(
                "must not depend on {to}: it stays light; heavy work belongs to mesh-codegen or mesh-tests"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::expect, *};

    fn metadata(name: &str, to: &str, kind: Option<&str>, optional: bool) -> Value {
        json!({"packages": [{"name": name, "dependencies": [{"name": to, "kind": kind, "optional": optional}]}]})
    }

    #[track_caller]
    fn refused(name: &str, to: &str, text: &str) {
        expect(&check(&metadata(name, to, None, false)).expect("reads"), &[text]);
    }

    #[track_caller]
    fn allowed(name: &str, to: &str) {
        expect(&check(&metadata(name, to, None, false)).expect("reads"), &[]);
    }

    #[test]
    fn arrows_point_down_only() {
        allowed("mesh-gossip", "mesh-core");
        allowed("mesh-shard", "mesh-transport");
        allowed("mesh-cli", "mesh-transport");
        refused("mesh-core", "mesh-transport", "higher layer");
        refused("mesh-transport", "mesh-gossip", "higher layer");
        refused("mesh", "mesh-cli", "higher layer");
        refused("mesh-tests", "xtask", "for chores");
        refused("xtask", "mesh-core", "compile no Mesh crate");
    }

    #[test]
    fn siblings_stay_strangers_in_their_tests_too() {
        refused("mesh-shard", "mesh-gossip", "siblings");
        expect(
            &check(&metadata("mesh-shard", "mesh-gossip", Some("dev"), false)).expect("reads"),
            &["siblings"],
        );
    }

    #[test]
    fn heavy_crates_stay_out() {
        refused("mesh-core", "tokio", "not even as an option");
        refused("mesh-gossip", "tokio", "only as an option");
        refused("xtask", "tokio", "stays light");
        expect(&check(&metadata("mesh-gossip", "tokio", None, true)).expect("reads"), &[]);
        expect(&check(&metadata("mesh-core", "serde_json", Some("dev"), false)).expect("reads"), &[]);
    }

    #[test]
    fn a_new_crate_must_be_put_into_the_table() {
        refused("mesh-novel", "serde", "not in the table");
    }
}
