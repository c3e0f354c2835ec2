//! What is wrong with a configuration, all of it at once.

use std::{fmt, io, path::PathBuf};

use super::source::Source;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where to mend it; `None` where a required setting is nowhere.
    pub source: Option<Source>,
    /// The setting by its path, as `gossip.probe_interval`; `None` for a file that is no TOML.
    pub setting: Option<String>,
    /// What is wrong, with the value and what is allowed.
    pub text: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        if let Some(setting) = &self.setting {
            write!(f, "{setting} ")?;
        }
        f.write_str(&self.text)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}; check that it exists and may be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} has {bytes} bytes; a configuration file has at most {bytes_max}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Settings are wrong; all that were found, in the order of their sources.
    #[error("{}", list(.0))]
    Problems(Vec<ConfigProblem>),
}

impl ConfigError {
    /// What is wrong with single settings; empty if the file could not be read at all.
    pub fn problems(&self) -> &[ConfigProblem] {
        match self {
            Self::Problems(problems) => problems,
            Self::Read { .. } | Self::TooLarge { .. } => &[],
        }
    }
}

fn list(problems: &[ConfigProblem]) -> String {
    if let [only] = problems {
        return only.to_string();
    }
    let mut text = format!("the configuration has {} problems", problems.len());
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}

/// The candidate that a person most likely meant, if one is near enough.
pub(super) fn nearest<'c>(wrong: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = (wrong.chars().count() / 3).max(2);
    candidates.map(|c| (distance(wrong, c), c)).filter(|(d, _)| *d <= allowed).min().map(|(_, c)| c)
}

/// Edits that turn one word into the other, where a swap of neighbours counts as one
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    // Nobody mistypes a kilobyte; the cost is the product of the lengths.
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().take(128).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_word_and_nonsense_finds_none() {
        let known = ["probe_interval", "push_flush", "rings"];
        for (wrong, meant) in [
            ("probe_intervall", Some("probe_interval")),
            ("prboe_interval", Some("probe_interval")),
            ("ring", Some("rings")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, known.into_iter()), meant, "{wrong}");
        }
    }
}
