//! What comes of runs.

use std::fmt;

use mesh_core::Instant;

/// A rule that a run broke.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) at: Instant,
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, rule, detail } = self;
        write!(f, "broken rule: {rule}, at {:.3} s: {detail}", at.as_nanos() as f64 / 1e9)
    }
}

/// What came of runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) messages: u64,
    pub(crate) entries: u64,
    pub(crate) prunes: u64,
    pub(crate) retired: u64,
    pub(crate) crashes: u64,
    pub(crate) restores: u64,
    pub(crate) cuts: u64,
    pub(crate) comparisons: u64,
    /// Comparisons that ended early.
    pub(crate) failed: u64,
    pub(crate) deferred: u64,
    pub(crate) flips: u64,
    pub(crate) equivocations: u64,
    /// From the end of the last fault to equal sets, for each run.
    pub(crate) heals_ms: Vec<u64>,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.entries += other.entries;
        self.prunes += other.prunes;
        self.retired += other.retired;
        self.crashes += other.crashes;
        self.restores += other.restores;
        self.cuts += other.cuts;
        self.comparisons += other.comparisons;
        self.failed += other.failed;
        self.deferred += other.deferred;
        self.flips += other.flips;
        self.equivocations += other.equivocations;
        self.heals_ms.extend(&other.heals_ms);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heals = self.heals_ms.clone();
        heals.sort_unstable();
        let part = |of: usize| heals.get(heals.len() * of / 100).or(heals.last()).copied().unwrap_or(0);
        let shown = Self { heals_ms: Vec::new(), ..self.clone() };
        let (p50, p99, max) = (part(50), part(99), part(100));
        write!(f, "{shown:?}; healed in {p50} ms (p50), {p99} ms (p99), {max} ms at most")
    }
}
