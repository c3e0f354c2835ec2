//! The `mesh` command.

use std::process::ExitCode;

use clap::Parser;
use mesh_cli::{args::Cli, commands, output};

fn main() -> ExitCode {
    // Usage errors, help and version end here, with the exit codes 2 and 0.
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            output::message(&failure);
            failure.exit.into()
        }
    }
}
