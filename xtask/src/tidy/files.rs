//! What every file and every crate must have, and words that must not appear.

use std::collections::BTreeSet;

use super::Finding;
use crate::repo::TextFile;

/// Words that never belong into a file: paths of one machine, private registries.
///
/// Written in two halves, so that this table does not find itself.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("file:///ho", "me/", "a path of one machine"),
];

/// How the only source ends that the lockfile may name: the public registry's.
const INDEX: &str = "/crates.io-index";

pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = crates_have_their_papers(files);
    for file in files {
        findings.extend(ends_with_a_newline(file));
        findings.extend(has_no_forbidden_word(file));
        findings.extend(names_one_registry(file));
        findings.extend(begins_with_documentation(file));
    }
    findings
}

fn crates_have_their_papers(files: &[TextFile]) -> Vec<Finding> {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let crates = paths.iter().filter_map(|path| {
        let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
        (!name.contains('/')).then_some(name)
    });
    let mut findings = Vec::new();
    for name in crates {
        for paper in ["README.md", "CHANGELOG.md"] {
            let path = format!("crates/{name}/{paper}");
            match files.iter().find(|file| file.path == path) {
                None => findings.push(Finding::new(path, "is missing; every crate has one")),
                Some(file) if file.text.trim().is_empty() => findings.push(Finding::new(path, "is empty")),
                Some(_) => {}
            }
        }
    }
    findings
}

fn ends_with_a_newline(file: &TextFile) -> Option<Finding> {
    let well = file.text.is_empty() || file.text.ends_with('\n');
    (!well).then(|| Finding::new(&file.path, "does not end with a newline"))
}

fn has_no_forbidden_word(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (first, second, what) in FORBIDDEN {
            let word = format!("{first}{second}");
            if line.contains(&word) {
                findings.push(Finding::at_line(&file.path, index, format!("has {word:?}, {what}")));
            }
        }
    }
    findings
}

fn names_one_registry(file: &TextFile) -> Vec<Finding> {
    if file.path != "Cargo.lock" {
        return Vec::new();
    }
    let sources = file.text.lines().enumerate().filter_map(|(index, line)| {
        let source = line.strip_prefix("source = ")?.trim_matches('"');
        (!source.starts_with("registry+") || !source.ends_with(INDEX)).then_some((index, source))
    });
    sources
        .map(|(index, source)| {
            Finding::at_line(
                &file.path,
                index,
                format!("has a package from {source:?}; only crates.io is allowed"),
            )
        })
        .collect()
}

/// Every Rust file says at its top what it is for. Tests beside the code are told by
/// their module; generated files say who generated them.
fn begins_with_documentation(file: &TextFile) -> Option<Finding> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let beside_the_code = name == "tests.rs" || file.path.contains("/src/") && file.path.contains("/tests/");
    if !name.ends_with(".rs") || beside_the_code {
        return None;
    }
    let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let well = ["//!", "#![doc", "// Generated"].iter().any(|start| first.starts_with(start));
    (!well)
        .then(|| Finding::new(&file.path, "must begin with a `//!` comment that says what the file is for"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{expect, file},
        *,
    };

    #[test]
    fn a_crate_without_readme_or_changelog_is_found() {
        let manifest = file("crates/a/Cargo.toml", "\n");
        let readme = file("crates/a/README.md", "# a\n");
        let changelog = file("crates/a/CHANGELOG.md", "# Changes\n");
        expect(
            &check(std::slice::from_ref(&manifest)),
            &["README.md: is missing", "CHANGELOG.md: is missing"],
        );
        expect(
            &check(&[manifest.clone(), readme.clone(), file("crates/a/CHANGELOG.md", "\n")]),
            &["is empty"],
        );
        expect(&check(&[manifest, readme, changelog]), &[]);
    }

    #[test]
    fn a_missing_last_newline_is_found() {
        expect(&check(&[file("a.md", "text")]), &["newline"]);
        expect(&check(&[file("a.md", "text\n"), file("empty", "")]), &[]);
    }

    #[test]
    fn a_machine_path_is_found_with_its_line() {
        let text = format!("fine\nsee {}rk/main\n", "/wo");
        expect(&check(&[file("docs/a.md", &text)]), &["docs/a.md:2"]);
        expect(&check(&[file("docs/a.md", "network/routes and work/life\n")]), &[]);
    }

    #[test]
    fn a_package_from_elsewhere_is_found() {
        let lock = |source: &str| file("Cargo.lock", &format!("[[package]]\nsource = \"{source}\"\n"));
        expect(&check(&[lock("git+https://example.invalid/x")]), &["only crates.io"]);
        expect(&check(&[lock(&format!("registry+https://example.invalid{INDEX}"))]), &[]);
    }

    #[test]
    fn a_file_without_a_word_about_itself_is_found() {
        expect(&check(&[file("crates/a/src/lib.rs", "mod b;\n")]), &["must begin"]);
        expect(&check(&[file("crates/a/src/b/tests.rs", "use super::*;\n")]), &[]);
        expect(&check(&[file("crates/a/src/lib.rs", "#![doc = include_str!(\"../README.md\")]\n")]), &[]);
        expect(
            &check(&[file("crates/a/src/wire/x.rs", "// Generated from proto/x.proto. Do not edit.\n")]),
            &[],
        );
    }
}
