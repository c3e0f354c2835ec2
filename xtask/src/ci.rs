//! `cargo xtask ci`: every check but the tests, each timed, with a summary.
//!
//! `.ci/run` runs `cargo xtask test` before. Steps that fail don't hide later ones.

use anyhow::Result;

use crate::{
    coverage, features, forward, licences, readme,
    repo::{Repo, run},
    steps::Steps,
    tidy,
};

/// Simulator runs in a check; `cargo xtask sim --nightly` does many more.
const SEEDS: &str = "500";
/// Elections in virtual time in a check.
const ELECTIONS: &str = "2000";

pub(crate) fn run_checks(repo: &Repo, only: Vec<String>) -> Result<()> {
    let mut steps = Steps::only(only);
    steps.step("format", || run(&mut repo.cargo(["fmt", "--all", "--check"])));
    steps.step("tidy", || tidy::run(repo));
    steps.step("lints", || {
        let what = ["clippy", "--quiet", "--locked", "--workspace", "--all-features", "--all-targets"];
        run(repo.cargo(what).args(["--", "-D", "warnings"]))
    });
    steps.step("generated files", || forward::codegen(repo, true));
    steps.step("documentation", || {
        let what = ["doc", "--quiet", "--locked", "--workspace", "--all-features", "--no-deps"];
        run(repo.cargo(what).env("RUSTDOCFLAGS", "-D warnings"))
    });
    steps.step("features alone", || features::check(repo));
    steps.step("licences and sources", || licences::check(repo));
    steps.step_or_skip("advisories", || licences::advisories(repo));
    steps.step("simulator", || forward::sim(repo, &["--seeds".to_owned(), SEEDS.to_owned()]));
    steps.step("elections", || {
        forward::sim(repo, &["--elections".to_owned(), "--seeds".to_owned(), ELECTIONS.to_owned()])
    });
    steps.step_or_skip("coverage", || coverage::run(repo));
    steps.step("readme", || readme::check(repo));
    steps.finish()
}
