//! `cargo xtask test`: every test of the workspace, then the examples in the documentation.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::repo::{Repo, installed, run};

/// Debian packages that some tests need, with a program of each. Such a test
/// reports itself as skipped; this list tells people how to get it to run.
const PACKAGES: &[(&str, &str)] = &[
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("etcd-server", "etcd"),
    ("postgresql", "pg_ctlcluster"),
    ("sqlite3", "sqlite3"),
];

pub(crate) fn run_suite(repo: &Repo, filter: Option<&str>) -> Result<()> {
    for name in missing(PACKAGES, installed) {
        println!("skipped: install {name} (apt-get install {name}) for the tests that need it");
    }
    let target = repo.target_folder()?;
    // Tests append to this file, since test runners hide what a test that passed has printed.
    let skipped = target.join("test-artifacts/skipped");
    if skipped.exists() {
        fs::remove_file(&skipped).with_context(|| format!("cannot remove {}", skipped.display()))?;
    }
    // With the features of all, as the tests are built, so that nothing is compiled twice.
    run(&mut repo.cargo(["build", "--workspace", "--all-features", "--bin", "mesh"]))?;
    let mut tests = if installed("cargo-nextest") {
        repo.cargo(["nextest", "run", "--workspace", "--all-features"])
    } else {
        println!("cargo-nextest is not installed: using cargo test");
        repo.cargo(["test", "--workspace", "--all-features", "--all-targets"])
    };
    let tests = run(tests.args(filter).env("MESH_BIN", target.join("debug/mesh")));
    for line in fs::read_to_string(&skipped).unwrap_or_default().lines() {
        println!("{line}");
    }
    let examples =
        run(repo.cargo(["test", "--workspace", "--all-features", "--doc", "--quiet"]).args(filter));
    both(tests, examples)
}

/// Fails if one of them failed, and says so of each: one run should tell everything.
fn both(tests: Result<()>, examples: Result<()>) -> Result<()> {
    let failed: Vec<String> =
        [tests, examples].into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

fn missing<'p>(packages: &[(&'p str, &str)], installed: impl Fn(&str) -> bool) -> Vec<&'p str> {
    packages.iter().filter(|(_, program)| !installed(program)).map(|(package, _)| *package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_do_not_hide_failed_tests_nor_the_other_way_round() {
        let failed = |what: &str| Err(anyhow::anyhow!("{what} failed"));
        both(Ok(()), Ok(())).expect("nothing failed");
        let text = |tests, examples| both(tests, examples).expect_err("one failed").to_string();
        assert_eq!(text(failed("tests"), Ok(())), "tests failed");
        assert_eq!(text(Ok(()), failed("examples")), "examples failed");
        assert_eq!(text(failed("tests"), failed("examples")), "tests failed; examples failed");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        assert_eq!(missing(PACKAGES, |program| program != "nft"), ["nftables"]);
        assert_eq!(missing(PACKAGES, |_| true), [""; 0]);
    }
}
