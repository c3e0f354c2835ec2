//! `mesh registry status`

use std::process::ExitCode;

use serde_json::Value;

use super::listing;
use crate::{
    args::{ConnectionArgs, RegistryCommand},
    failure::Failure,
    output::{self, render_one},
};

const PATH: &str = "/control/v1/registry";

pub(super) async fn run(connection: &ConnectionArgs, command: RegistryCommand) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    let RegistryCommand::Status(args) = command;
    let mut reply = edge.get(PATH, &[]).await?;
    let registry = reply.get_mut("registry").map(Value::take).unwrap_or(reply);
    output::print(&render_one(&registry, args.format, "leader", || listing::describe(&registry)))?;
    Ok(ExitCode::SUCCESS)
}
