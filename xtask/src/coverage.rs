//! `cargo xtask coverage`: which lines of the sans-io cores their own tests reach.
//!
//! Only the unit tests of the crates that have cores run: they drive the cores by hand, are
//! done in seconds, and whatever they miss is worth a look. It is a figure to read, not a bar.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    repo::{Repo, installed, output},
    tidy::is_core,
};

const PROGRAM: &str = "cargo-llvm-cov";

/// One file of a core.
#[derive(Debug, PartialEq)]
struct Covered {
    path: String,
    lines: u64,
    reached: u64,
}

/// Prints the coverage of every core, or returns why it can't be measured here.
pub(crate) fn run(repo: &Repo) -> Result<Option<String>> {
    if !installed(PROGRAM) {
        return Ok(Some(format!("{PROGRAM} is not installed (cargo install {PROGRAM})")));
    }
    let mut files: Vec<String> = repo.text_files()?.into_iter().map(|file| file.path).collect();
    files.retain(|path| is_core(path) && path.ends_with(".rs") && !path.contains("/tests/"));
    let mut command = repo.cargo(["llvm-cov", "test", "--quiet", "--lib", "--all-features"]);
    command.args(["--json", "--summary-only"]);
    for package in packages(&files) {
        command.args(["--package", &package]);
    }
    // The report is all that goes to standard output; cargo-llvm-cov moves the rest to stderr.
    let report = output(&mut command)?;
    let report: Value = serde_json::from_str(&report).context("the report is not JSON")?;
    println!("{}", table(&covered(&report, &files)?));
    Ok(None)
}

/// The crates that have cores.
fn packages(cores: &[String]) -> Vec<String> {
    let mut names: Vec<String> = cores
        .iter()
        .filter_map(|path| path.strip_prefix("crates/")?.split('/').next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What a report in the format of `llvm-cov export` says of these files.
fn covered(report: &Value, files: &[String]) -> Result<Vec<Covered>> {
    let reported = report["data"][0]["files"].as_array().context("the report has no files")?;
    let of = |path: &String| {
        let entry = reported.iter().find(|file| {
            file["filename"]
                .as_str()
                .is_some_and(|name| name.replace('\\', "/").ends_with(&format!("/{path}")))
        })?;
        let lines = &entry["summary"]["lines"];
        Some(Covered {
            path: path.clone(),
            lines: lines["count"].as_u64()?,
            reached: lines["covered"].as_u64()?,
        })
    };
    // Files without code of their own, such as lists of modules, are not in the report.
    Ok(files.iter().filter_map(of).filter(|file| file.lines > 0).collect())
}

fn table(files: &[Covered]) -> String {
    let line = |name: &str, reached: u64, lines: u64| {
        let percent = if lines == 0 { 0.0 } else { reached as f64 * 100.0 / lines as f64 };
        format!("{percent:5.1} %  {reached:6} of {lines:6}  {name}\n")
    };
    let mut text: String = files.iter().map(|file| line(&file.path, file.reached, file.lines)).collect();
    let all = |of: fn(&Covered) -> u64| files.iter().map(of).sum();
    text.push_str(line("all cores", all(|file| file.reached), all(|file| file.lines)).trim_end());
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cores_are_listed_with_their_share_and_others_are_not() {
        let file = |name: &str, count: u64, covered: u64| json!({ "filename": name, "summary": { "lines": { "count": count, "covered": covered } } });
        let files = [
            file("/somewhere/crates/a/src/core.rs", 200, 150),
            file("/somewhere/crates/a/src/driver.rs", 100, 0),
            file("/somewhere/crates/b/src/core.rs", 50, 50),
        ];
        let report = json!({ "data": [{ "files": files }] });
        let cores =
            ["crates/a/src/core.rs", "crates/a/src/list.rs", "crates/b/src/core.rs"].map(str::to_owned);
        assert_eq!(packages(&cores), ["a", "b"]);
        let files = covered(&report, &cores).expect("a report");
        assert_eq!(
            table(&files).lines().collect::<Vec<_>>(),
            [
                " 75.0 %     150 of    200  crates/a/src/core.rs",
                "100.0 %      50 of     50  crates/b/src/core.rs",
                " 80.0 %     200 of    250  all cores",
            ]
        );
    }

    #[test]
    fn something_else_than_a_report_is_refused() {
        covered(&json!({}), &[]).expect_err("no report");
    }
}
