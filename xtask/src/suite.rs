//! `cargo xtask test`: every test of the workspace, then the examples in the documentation.

use anyhow::Result;

use crate::repo::{Repo, installed, run};

/// Debian packages that some tests need, with a program of each. Such a test
/// reports itself as skipped; this list tells people how to get it to run.
const PACKAGES: &[(&str, &str)] = &[("nftables", "nft"), ("iproute2", "ip")];

pub(crate) fn run_suite(repo: &Repo, filter: Option<&str>) -> Result<()> {
    for name in missing(PACKAGES, installed) {
        println!("skipped: install {name} (apt-get install {name}) for the tests that need it");
    }
    if installed("cargo-nextest") {
        run(repo.cargo(["nextest", "run", "--workspace", "--all-features"]).args(filter))?;
    } else {
        println!("cargo-nextest is not installed: using cargo test");
        run(repo.cargo(["test", "--workspace", "--all-features", "--all-targets"]).args(filter))?;
    }
    run(repo.cargo(["test", "--workspace", "--all-features", "--doc", "--quiet"]).args(filter))
}

fn missing<'p>(packages: &[(&'p str, &str)], installed: impl Fn(&str) -> bool) -> Vec<&'p str> {
    packages.iter().filter(|(_, program)| !installed(program)).map(|(package, _)| *package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        assert_eq!(missing(PACKAGES, |program| program != "nft"), ["nftables"]);
        assert_eq!(missing(PACKAGES, |_| true), [""; 0]);
    }
}
