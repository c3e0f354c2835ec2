//! `mesh run`

mod logging;
mod report;

use std::{pin::pin, process::ExitCode};

use mesh::{Node, NodeError};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::RunArgs,
    failure::{Exit, Failure},
};

pub(super) async fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    logging::init(args.log_format)?;
    let loaded = super::load(&args.source)?;
    // Listened to before anything starts, so that an early signal is not lost.
    let caught = |error: std::io::Error| {
        Failure::from_error(Exit::Failed, &error).while_doing("cannot listen for signals")
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(caught)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(caught)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(caught)?;

    let node =
        Node::builder().config(loaded.config).start().await.map_err(|error| start_failure(&args, &error))?;
    report::event(&args, &node, "listening")?;
    let mut stdin_closed = pin!(super::stdin_closed(args.until_stdin_closes));
    let mut ready = false;
    let why = loop {
        tokio::select! {
            _ = interrupt.recv() => break "SIGINT",
            _ = terminate.recv() => break "SIGTERM",
            () = &mut stdin_closed => break "the end of standard input",
            error = node.failed() => {
                report::remove_ready_file(&args);
                let failure = Failure::from_error(Exit::Failed, &error).while_doing("the node can't go on");
                return Err(match next_step(&args, &error) {
                    Some(next) => failure.next(next),
                    None => failure,
                });
            }
            () = node.leave_asked() => break "a request of an operator",
            result = node.ready(), if !ready => {
                result.map_err(|error| Failure::from_error(Exit::Failed, &error))?;
                ready = true;
                tracing::info!(node_id = %node.id(), mesh = %node.address(), "the node is ready");
                report::event(&args, &node, "ready")?;
                report::ready_file(&args, &node)?;
            }
            _ = hangup.recv() => match node.reload_identity().await {
                Ok(()) => tracing::info!(node_id = %node.id(), "identity reloaded"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the identity could not be reloaded; the one before stays in use"
                ),
            },
        }
    };
    tracing::info!(node_id = %node.id(), "leaving, because of {why}");
    report::remove_ready_file(&args);
    let id = node.id().clone();
    match node.stop().await {
        Ok(()) => tracing::info!(node_id = %id, "left the cluster and stopped"),
        Err(error) => tracing::warn!(
            node_id = %id,
            error = &error as &dyn std::error::Error,
            "stopped without a full goodbye; the others will find out by themselves"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn start_failure(args: &RunArgs, error: &NodeError) -> Failure {
    let exit = if matches!(error, NodeError::Settings(_)) { Exit::Usage } else { Exit::Failed };
    let failure = Failure::from_error(exit, error).while_doing("the node did not start");
    failure.next(next_step(args, error).unwrap_or_else(|| with_config(args, "mesh check")))
}

/// The command for what is wrong, if there is one for it alone.
fn next_step(args: &RunArgs, error: &NodeError) -> Option<String> {
    error.needs_registry_repair().then(|| with_config(args, "mesh registry repair"))
}

fn with_config(args: &RunArgs, command: &str) -> String {
    match &args.source.config {
        Some(file) => format!("{command} --config {}", file.display()),
        None => command.to_owned(),
    }
}
