//! `cargo xtask tidy`: the rules of this workspace that no compiler knows.
//!
//! Each rule is a function from text or metadata to findings, with tests that
//! show it can fail. It never edits a file.

mod arrows;
mod calls;
mod files;

use std::fmt;

use anyhow::{Result, bail};

use crate::repo::Repo;

pub(crate) use calls::is_core;

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    problem: String,
}

impl Finding {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }

    fn at_line(path: &str, line_index: usize, problem: impl Into<String>) -> Self {
        Self::new(format!("{path}:{}", line_index + 1), problem)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

pub(crate) fn run(repo: &Repo) -> Result<()> {
    let files = repo.text_files()?;
    let mut findings = arrows::check(&repo.metadata(false)?)?;
    findings.extend(files::check(&files));
    findings.extend(calls::check(&files));
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to say", files.len());
        return Ok(());
    }
    bail!("tidy found {} problems", findings.len())
}

#[cfg(test)]
mod testing {
    //! Shorthand for the tests of rules.

    use super::Finding;
    use crate::repo::TextFile;

    pub(super) fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    /// The findings, each as its line of output, must contain these texts in order.
    #[track_caller]
    pub(super) fn expect(findings: &[Finding], texts: &[&str]) {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), texts.len(), "{lines:#?}");
        for (line, text) in lines.iter().zip(texts) {
            assert!(line.contains(text), "{text:?} is not in {line:?}");
        }
    }
}
