//! Every chore of the workspace: `cargo xtask <verb>`.
//!
//! This program stays light, so that the first command of a newcomer compiles in
//! seconds. Work that needs heavy crates lives in other members, which it runs
//! through cargo: `mesh-codegen`, and the simulator and benchmarks in `mesh-tests`.

mod ci;
mod cli;
mod code;
mod coverage;
mod demo;
mod features;
mod forward;
mod fuzz;
mod licences;
mod readme;
mod repo;
mod steps;
mod suite;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: cli::Verb) -> anyhow::Result<()> {
    let repo = repo::Repo::here()?;
    match verb {
        cli::Verb::Demo(options) => demo::run(&repo, &options),
        cli::Verb::Test { filter } => suite::run_suite(&repo, filter.as_deref()),
        cli::Verb::Ci { steps } => ci::run_checks(&repo, steps),
        cli::Verb::Tidy => tidy::run(&repo),
        cli::Verb::Coverage => {
            if let Some(reason) = coverage::run(&repo)? {
                println!("skipped: {reason}");
            }
            Ok(())
        }
        cli::Verb::Sim { arguments } => forward::sim(&repo, &arguments),
        cli::Verb::Fuzz(options) => fuzz::run_targets(&repo, &options),
        cli::Verb::Bench { arguments } => forward::bench(&repo, &arguments),
        cli::Verb::Chaos { arguments } => forward::chaos(&repo, &arguments),
        cli::Verb::Codegen { check } => forward::codegen(&repo, check),
    }
}
