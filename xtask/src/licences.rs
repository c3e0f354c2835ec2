//! Which licences and sources dependencies may have.
//!
//! Works offline, from `cargo metadata`. Known vulnerabilities need a database: if
//! `cargo-deny` or `cargo-audit` is installed with one on disk, `ci` asks it too.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repo::{Repo, installed, run};

/// Licences that go with "MIT OR Apache-2.0" in a binary that people pass on.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// How the source of a package ends that comes from the public registry; `None` is this workspace.
const INDEX: &str = "/crates.io-index";

/// Checks every package of the lockfile.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let metadata = repo.metadata(true)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let problems: Vec<String> = packages.iter().filter_map(problem).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("{} packages, licences and sources allowed", packages.len());
    Ok(())
}

/// Asks an installed advisory checker for known vulnerabilities, from its database on
/// disk. Returns why, if there is none to ask.
pub(crate) fn advisories(repo: &Repo) -> Result<Option<String>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let database = |name: &str| home.as_ref().is_some_and(|home| home.join(name).is_dir());
    if installed("cargo-deny") && database("advisory-dbs") {
        run(&mut repo.cargo(["deny", "--offline", "check", "advisories"]))?;
    } else if installed("cargo-audit") && database("advisory-db") {
        run(&mut repo.cargo(["audit", "--no-fetch", "--deny", "warnings"]))?;
    } else {
        return Ok(Some("install cargo-deny or cargo-audit and fetch its database".to_owned()));
    }
    Ok(None)
}

fn problem(package: &Value) -> Option<String> {
    let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
    let source = package["source"].as_str();
    if source.is_some_and(|source| !source.starts_with("registry+") || !source.ends_with(INDEX)) {
        return Some(format!("{name} comes from {}; only crates.io is allowed", source.unwrap_or_default()));
    }
    match package["license"].as_str() {
        Some(licence) if allowed(licence) => None,
        Some(licence) => {
            Some(format!("{name} has licence {licence:?}, which is not in the list of allowed ones"))
        }
        None => Some(format!("{name} states no licence")),
    }
}

/// Whether an SPDX expression can be satisfied with allowed licences alone.
fn allowed(expression: &str) -> bool {
    // Before SPDX expressions, '/' meant OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let fine = either(&words, &mut at);
    fine && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut fine = both(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        fine |= both(words, at);
    }
    fine
}

fn both(words: &[&str], at: &mut usize) -> bool {
    let mut fine = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        fine &= one(words, at);
    }
    fine
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let fine = either(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += usize::from(closed);
        return fine && closed;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    ALLOWED.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_read_with_their_precedence() {
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "GPL-2.0 AND AGPL-3.0 OR ISC",
        ] {
            assert!(allowed(fine), "{fine}");
        }
        for bad in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT MIT", "GPL-2.0 WITH LLVM-exception"]
        {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_git_dependency_and_a_missing_licence_are_found() {
        let package = |source: Option<&str>, licence: Option<&str>| json!({"name": "a", "version": "1.0.0", "source": source, "license": licence});
        let registry = format!("registry+https://example.invalid{INDEX}");
        let registry = Some(registry.as_str());
        let text = |value| problem(&value).unwrap_or_default();
        assert!(text(package(Some("git+https://example.invalid/a"), Some("MIT"))).contains("only crates.io"));
        assert!(text(package(registry, None)).contains("states no licence"));
        assert!(text(package(registry, Some("AGPL-3.0"))).contains("AGPL-3.0"));
        assert_eq!(problem(&package(None, Some("MIT"))), None);
    }
}
