//! `cargo xtask fuzz`: libFuzzer on every decoder, with a stable compiler.
//!
//! The targets are functions of the crates, behind their feature `fuzzing`; each has a folder of
//! inputs in `fuzz/corpus`, and tests run the same functions over those. What a run finds stays
//! under `target/fuzz`: new inputs in `corpus`, inputs that fail in `artifacts`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    cli::FuzzOptions,
    repo::{Repo, output, run},
};

/// Counters and comparisons that libFuzzer steers by: LLVM's own pass, which needs no unstable flag
/// as long as no sanitizer is asked for. Rust needs none: a bad access is a panic.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // One unit, so that a crate's counters stay together.
    "-Ccodegen-units=1",
];

/// The longest that one input may take, and the most memory.
const LIMITS: &[&str] = &["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"];

pub(crate) fn run_targets(repo: &Repo, options: &FuzzOptions) -> Result<()> {
    let known = targets(repo)?;
    let chosen = choose(&known, &options.target)?;
    let kept = repo.target_folder()?.join("fuzz");
    let program = build(repo, &kept)?;
    let mut failed = Vec::new();
    for target in chosen {
        let own = kept.join("corpus").join(&target);
        let artifacts = kept.join("artifacts").join(&target);
        for folder in [&own, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        println!("\n=== {target}");
        let mut fuzzer = repo.command(&program);
        fuzzer.env("MESH_FUZZ_TARGET", &target).args(LIMITS);
        fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
        match &options.input {
            Some(input) => fuzzer.arg(input),
            // New inputs go to the first folder; those of the others are read.
            None => fuzzer
                .arg(format!("-max_total_time={}", options.seconds))
                .arg(&own)
                .arg(repo.path("fuzz/corpus").join(&target)),
        };
        if run(&mut fuzzer).is_err() {
            failed.push(target);
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} failed; replay with cargo xtask fuzz --target TARGET --input FILE, where FILE is in {}",
            failed.join(", "),
            kept.join("artifacts").display()
        );
    }
    Ok(())
}

/// Every target has a folder of inputs.
fn targets(repo: &Repo) -> Result<Vec<String>> {
    let folder = repo.path("fuzz/corpus");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn choose(known: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target {unknown:?}; there are {}", known.join(", "));
    }
    Ok(if wanted.is_empty() { known.to_vec() } else { wanted.to_vec() })
}

fn build(repo: &Repo, kept: &std::path::Path) -> Result<PathBuf> {
    let said = output(repo.command("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let folder = kept.join("build");
    // What is fuzzed are the versions that the workspace has; cargo adds libFuzzer's own package.
    fs::copy(repo.path("Cargo.lock"), repo.path("fuzz/Cargo.lock")).context("cannot copy the lockfile")?;
    let mut cargo = repo.cargo(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target named, build scripts and macros are spared the flags.
    cargo.args(["--target", host, "--target-dir"]).arg(&folder);
    run(cargo.env("RUSTFLAGS", FLAGS.join(" ")))?;
    Ok(folder.join(host).join("release/mesh-fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_are_chosen_unless_some_are_named() {
        let known = ["a".to_owned(), "b".to_owned()];
        assert_eq!(choose(&known, &[]).expect("all"), known);
        assert_eq!(choose(&known, &["b".to_owned()]).expect("one"), ["b"]);
        let error = choose(&known, &["c".to_owned()]).expect_err("unknown").to_string();
        assert_eq!(error, "there is no fuzz target \"c\"; there are a, b");
    }
}
