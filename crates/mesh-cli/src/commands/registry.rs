//! `mesh registry …`

mod file;
mod members;
mod repair;
mod restore;
mod snapshot;

use std::process::ExitCode;

use serde_json::Value;

use super::listing;
use crate::{
    args::{ConnectionArgs, OutputArgs, RegistryCommand},
    client::Edge,
    failure::Failure,
    output::{self, render_one},
};

const PATH: &str = "/control/v1/registry";

pub(super) async fn run(connection: &ConnectionArgs, command: RegistryCommand) -> Result<ExitCode, Failure> {
    let edge = async || super::edge(connection).await;
    match command {
        RegistryCommand::Status(args) => status(&edge().await?, args).await,
        RegistryCommand::Members(args) => members::run(&edge().await?, args).await,
        RegistryCommand::Snapshot(args) => snapshot::run(&edge().await?, args).await,
        RegistryCommand::Restore(args) => restore::run(&edge().await?, args).await,
        RegistryCommand::Repair(args) => repair::run(args),
    }
}

async fn status(edge: &Edge, args: OutputArgs) -> Result<ExitCode, Failure> {
    let mut reply = edge.get(PATH, &[]).await?;
    let registry = reply.get_mut("registry").map(Value::take).unwrap_or(reply);
    output::print(&render_one(&registry, args.format, "leader", || listing::describe(&registry)))?;
    Ok(ExitCode::SUCCESS)
}
