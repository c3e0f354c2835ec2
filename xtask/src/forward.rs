//! Verbs whose work needs heavy crates: they run as programs of other members.

use anyhow::Result;

use crate::repo::{Repo, run};

/// `cargo xtask sim`: the simulator, optimised, because it runs many seeds.
pub(crate) fn sim(repo: &Repo, arguments: &[String]) -> Result<()> {
    program(repo, &["--release", "--package", "mesh-tests", "--bin", "mesh-sim"], arguments)
}

/// `cargo xtask bench`: the benchmark runner, optimised, because it measures.
pub(crate) fn bench(repo: &Repo, arguments: &[String]) -> Result<()> {
    if arguments.first().is_some_and(|area| area == "registry") {
        // Its nodes are processes of their own.
        run(&mut repo.cargo(["build", "--quiet", "--release", "--package", "mesh-cli"]))?;
    }
    let which = ["--release", "--package", "mesh-tests", "--features", "bench", "--bin", "mesh-bench"];
    program(repo, &which, arguments)
}

/// `cargo xtask chaos`: real processes under faults, optimised, because it tells times.
pub(crate) fn chaos(repo: &Repo, arguments: &[String]) -> Result<()> {
    // The nodes are processes of the command that users run, without a feature of ours.
    run(&mut repo.cargo(["build", "--quiet", "--release", "--package", "mesh-cli"]))?;
    let which = ["--release", "--package", "mesh-tests", "--features", "harness", "--bin", "mesh-chaos"];
    program(repo, &which, arguments)
}

/// `cargo xtask codegen`: protobuf code and the settings reference.
pub(crate) fn codegen(repo: &Repo, check: bool) -> Result<()> {
    let flags: Vec<String> = check.then(|| "--check".to_owned()).into_iter().collect();
    program(repo, &["--package", "mesh-codegen"], &flags)
}

fn program(repo: &Repo, which: &[&str], arguments: &[String]) -> Result<()> {
    run(repo.cargo(["run", "--quiet"]).args(which).arg("--").args(arguments))
}
