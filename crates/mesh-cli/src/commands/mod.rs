//! The commands, one file each.

mod check;
mod completion;
mod config;
mod confirm;
mod data;
mod init;
mod leaders;
mod leave;
mod listing;
mod peers;
mod registry;
mod run;
mod sync;
mod up;

use std::process::ExitCode;

use tokio::io::AsyncReadExt;

use crate::{
    args::{Cli, Command, ConfigSource, ConnectionArgs},
    client::Edge,
    context::{self, Target},
    failure::{Exit, Failure},
};

/// Does what the command line says.
///
/// # Errors
///
/// [`Failure`] has the exit code, the cause, the object and the next step.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { connection, command } = cli;
    match command {
        Command::Completion(args) => completion::run(&args),
        Command::Config(command) => config::run(command),
        Command::Peers(command) => block_on(peers::run(&connection, command)),
        Command::Leaders(command) => block_on(leaders::run(&connection, command)),
        Command::Registry(command) => block_on(registry::run(&connection, command)),
        Command::Sync(command) => block_on(sync::run(&connection, command)),
        Command::Data(command) => block_on(data::run(&connection, command)),
        Command::Init(source) => init::run(&source),
        Command::Leave(args) => block_on(leave::run(&connection, args)),
        Command::Check(args) => block_on(check::run(&connection, args)),
        Command::Run(args) => block_on(run::run(args)),
        Command::Up(args) => block_on(up::run(args)),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::from_error(Exit::Failed, &error).while_doing("cannot start the worker threads")
    })?;
    let result = runtime.block_on(command);
    // A read of standard input can't be cancelled; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// Ends when standard input does; never, if nobody wants to know.
async fn stdin_closed(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while matches!(stdin.read(&mut ignored).await, Ok(1..)) {}
}

/// The edge of the context that the options name.
async fn edge(connection: &ConnectionArgs) -> Result<Edge, Failure> {
    Edge::new(Target::resolve(connection, &context::home()?)?).await
}

/// A loader for the settings that the options name.
fn loader(source: &ConfigSource) -> mesh::ConfigLoader {
    let mut loader = mesh::MeshConfig::loader().environment();
    if let Some(file) = &source.config {
        loader = loader.file(file);
    }
    for (name, value) in &source.set {
        loader = loader.set_from(name, value, mesh::Source::Flag("--set".to_owned()));
    }
    loader
}

/// Reads the settings that the options name.
fn load(source: &ConfigSource) -> Result<mesh::LoadedConfig, Failure> {
    loader(source).load().map_err(|error| {
        let next = match &source.config {
            Some(file) => {
                format!("mend the settings, then: mesh config validate --config {}", file.display())
            }
            None => "mend the settings, then: mesh config validate".to_owned(),
        };
        Failure::from_error(Exit::Usage, &error).next(next)
    })
}
