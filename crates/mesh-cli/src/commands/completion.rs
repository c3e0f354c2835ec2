//! `mesh completion`

use std::process::ExitCode;

use clap::CommandFactory;

use crate::{
    args::{Cli, CompletionArgs},
    failure::Failure,
    output,
};

pub(super) fn run(args: &CompletionArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mesh", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
