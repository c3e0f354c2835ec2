//! `mesh leave`

use std::process::ExitCode;

use serde_json::{Value, json};

use super::confirm::confirm;
use crate::{
    args::{ConnectionArgs, LeaveArgs},
    client::Edge,
    failure::Failure,
    output,
};

const PATH: &str = "/control/v1/node:leave";

pub(super) async fn run(connection: &ConnectionArgs, args: LeaveArgs) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    let what = match &args.node {
        Some(node) => format!("node {node}"),
        None => format!("the node at {}", edge.addresses().join(" or ")),
    };
    if !args.yes {
        let plan = format!("{what} will say goodbye to its cluster, and its process will stop");
        confirm(&plan, &format!("{what} was not asked to leave")).await?;
    }
    let mut request = json!({});
    if let Some(node) = &args.node {
        request["node_id"] = Value::from(node.as_str());
    }
    if let Some(reason) = &args.reason {
        request["reason"] = Value::from(reason.as_str());
    }
    let edge = match &args.node {
        Some(node) => at_node(&edge, node).await?,
        None => edge,
    };
    let answer = edge.post(PATH, &request).await?;
    let node = answer.get("node_id").and_then(Value::as_str).unwrap_or("the node");
    output::message(format_args!("{} leaves the cluster", output::plain(&Value::from(node))));
    Ok(ExitCode::SUCCESS)
}

/// The edge of one node, by what it says about itself; the given edge if it says nothing.
async fn at_node(edge: &Edge, node: &str) -> Result<Edge, Failure> {
    let peer = super::peers::one(edge, node).await?;
    let endpoints = peer.get("endpoints").and_then(Value::as_array);
    let control = endpoints.into_iter().flatten().find(|endpoint| endpoint["service"] == "control");
    let address = control.and_then(|endpoint| endpoint["url"].as_str()?.strip_prefix("https://"));
    Ok(address.map_or_else(|| edge.clone(), |address| edge.at(address)))
}
