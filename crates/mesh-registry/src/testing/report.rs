//! What came of an examination.

use std::{fmt, time::Duration};

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider keeps the promise.
    Kept,
    /// The provider says that it can't promise this, and why. It is not kept.
    CannotPromise(String),
    /// It was not examined, since something is missing on this machine.
    Skipped(String),
    /// The provider breaks the promise.
    Broken(String),
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The case.
    pub name: &'static str,
    /// What it examines.
    pub promise: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// How long the store took no writes after its leader was killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// From each kill to the first acknowledgement of a write that was sent after it, shortest first.
    pub times: Vec<Duration>,
}

impl Failover {
    pub(super) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { times }
    }

    /// The middle one.
    pub fn median(&self) -> Option<Duration> {
        self.times.get(self.times.len() / 2).copied()
    }

    /// The longest one.
    pub fn worst(&self) -> Option<Duration> {
        self.times.last().copied()
    }
}

/// What came of all cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The provider.
    pub provider: &'static str,
    /// Each case.
    pub lines: Vec<Line>,
    /// How long its failover took, if it was measured.
    pub failover: Option<Failover>,
    /// More that it does not promise.
    pub remarks: Vec<&'static str>,
}

impl Report {
    /// The promises that it breaks.
    pub fn broken(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| matches!(line.outcome, Outcome::Broken(_)))
    }

    /// Whether it breaks none.
    pub fn is_kept(&self) -> bool {
        self.broken().next().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted: fn(&Outcome) -> bool| self.lines.iter().filter(|l| wanted(&l.outcome)).count();
        writeln!(
            f,
            "provider {}: {} promises kept, {} broken, {} that it can't make, {} not examined",
            self.provider,
            count(|outcome| *outcome == Outcome::Kept),
            count(|outcome| matches!(outcome, Outcome::Broken(_))),
            count(|outcome| matches!(outcome, Outcome::CannotPromise(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )?;
        for Line { name, promise, outcome } in &self.lines {
            match outcome {
                Outcome::Kept => writeln!(f, "  kept            {name}")?,
                Outcome::CannotPromise(why) => writeln!(f, "  cannot promise  {name}: {why}")?,
                Outcome::Skipped(why) => writeln!(f, "  skipped         {name}: {why}")?,
                Outcome::Broken(how) => {
                    writeln!(f, "  BROKEN          {name}\n    promised: {promise}")?;
                    writeln!(f, "    but: {}", how.replace('\n', "\n    "))?;
                }
            }
        }
        for remark in &self.remarks {
            writeln!(f, "  cannot promise  {remark}")?;
        }
        match self
            .failover
            .as_ref()
            .and_then(|failover| Some((failover, failover.median()?, failover.worst()?)))
        {
            Some((failover, median, worst)) => {
                write!(f, "  failover: median {median:?}, worst {worst:?} of {} kills", failover.times.len())
            }
            None => write!(f, "  failover: not measured"),
        }
    }
}
