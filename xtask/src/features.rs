//! Each feature of each library alone, so that none leans on another by accident.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repo::{Repo, run};

/// One build of one crate: without features (`None`), or with a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Build {
    package: String,
    feature: Option<String>,
}

/// Lints every library with each of its features alone, and with none.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let mut failed = Vec::new();
    for build in builds(&repo.metadata(false)?)? {
        let mut command = repo.cargo(["clippy", "--quiet", "--locked", "--lib", "--no-default-features"]);
        command.args(["--package", &build.package]);
        command.args(build.feature.iter().flat_map(|feature| ["--features", feature]));
        command.args(["--", "-D", "warnings"]);
        let name = format!("{} with {}", build.package, build.feature.as_deref().unwrap_or("no feature"));
        println!("{name}");
        if run(&mut command).is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("does not build alone: {}", failed.join(", "));
    }
    Ok(())
}

fn builds(metadata: &Value) -> Result<Vec<Build>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut builds = Vec::new();
    for package in packages.iter().filter(|package| is_library_crate(package)) {
        let name = package["name"].as_str().context("a package has no name")?;
        let features = package["features"].as_object().context("a package has no features")?;
        // `default` is what everything else builds with.
        let named = features.keys().filter(|feature| *feature != "default").cloned().map(Some);
        builds.extend(
            std::iter::once(None).chain(named).map(|feature| Build { package: name.to_owned(), feature }),
        );
    }
    Ok(builds)
}

fn is_library_crate(package: &Value) -> bool {
    let in_crates =
        package["manifest_path"].as_str().is_some_and(|path| path.replace('\\', "/").contains("/crates/"));
    let is_library = |target: &Value| {
        target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib"))
    };
    in_crates && package["targets"].as_array().is_some_and(|targets| targets.iter().any(is_library))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_feature_is_built_alone_and_once_without_any() {
        let metadata = json!({"packages": [
            {"name": "a", "manifest_path": "/x/crates/a/Cargo.toml", "features": {"default": ["b"], "b": [], "c": []}, "targets": [{"kind": ["lib"]}]},
            {"name": "tool", "manifest_path": "/x/tool/Cargo.toml", "features": {"d": []}, "targets": [{"kind": ["bin"]}]},
        ]});
        let found: Vec<Option<String>> =
            builds(&metadata).expect("reads").into_iter().map(|b| b.feature).collect();
        assert_eq!(found, [None, Some("b".to_owned()), Some("c".to_owned())]);
    }
}
