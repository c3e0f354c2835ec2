//! A list of checks that all run, whichever fails, and a summary at the end.

use std::time::Duration;

use anyhow::{Result, bail};

/// How one step ended.
#[derive(Debug)]
struct Outcome {
    name: String,
    seconds: f64,
    verdict: Verdict,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Passed,
    /// It could not be checked here; the reason.
    Skipped(String),
    Failed(String),
}

/// Runs steps one by one and remembers how each ended.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    only: Vec<String>,
    outcomes: Vec<Outcome>,
}

impl Steps {
    /// Runs the steps whose name contains one of these; all if there are none.
    pub(crate) fn only(only: Vec<String>) -> Self {
        Self { only, outcomes: Vec::new() }
    }

    /// Runs a step. A failure is printed and counted, and does not hide later ones.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.step_or_skip(name, || work().map(|()| None));
    }

    /// Runs a step that may find that this machine can't do it, and then returns the reason.
    pub(crate) fn step_or_skip(&mut self, name: &str, work: impl FnOnce() -> Result<Option<String>>) {
        if !self.only.is_empty() && !self.only.iter().any(|part| name.contains(part.as_str())) {
            return;
        }
        println!("\n=== {name}");
        let watch = Stopwatch::start();
        let verdict = match work() {
            Ok(None) => Verdict::Passed,
            Ok(Some(reason)) => Verdict::Skipped(reason),
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        let seconds = watch.elapsed().as_secs_f64();
        match &verdict {
            Verdict::Passed => println!("=== {name}: ok, {seconds:.1} s"),
            Verdict::Skipped(reason) => println!("=== {name}: skipped: {reason}"),
            Verdict::Failed(error) => println!("=== {name}: FAILED after {seconds:.1} s\n{error}"),
        }
        self.outcomes.push(Outcome { name: name.to_owned(), seconds, verdict });
    }

    /// Prints the summary.
    ///
    /// # Errors
    ///
    /// Names the steps that failed, or says that none was run.
    pub(crate) fn finish(self) -> Result<()> {
        if self.outcomes.is_empty() {
            bail!("no step has a name with {}", self.only.join(" or "));
        }
        println!("\n{}", self.summary());
        let failed: Vec<&str> = self
            .outcomes
            .iter()
            .filter(|o| matches!(o.verdict, Verdict::Failed(_)))
            .map(|o| o.name.as_str())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} of {} steps failed: {}", failed.len(), self.outcomes.len(), failed.join(", "))
    }

    fn summary(&self) -> String {
        let width = self.outcomes.iter().map(|o| o.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Outcome { name, seconds, verdict } in &self.outcomes {
            let word = match verdict {
                Verdict::Passed => "ok",
                Verdict::Skipped(_) => "skipped",
                Verdict::Failed(_) => "FAILED",
            };
            text.push_str(&format!("{name:width$}  {seconds:7.1} s  {word}\n"));
        }
        let total: f64 = self.outcomes.iter().map(|o| o.seconds).sum();
        text.push_str(&format!("{:width$}  {total:7.1} s", "total"));
        text
    }
}

/// Time since a start, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a chore measures itself; no protocol depends on it")]
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_and_later_ones_still_run() {
        let mut steps = Steps::default();
        let mut ran = false;
        steps.step("first", || bail!("broken"));
        steps.step("second", || {
            ran = true;
            Ok(())
        });
        assert!(ran);
        assert!(steps.summary().contains("FAILED"));
        let error = steps.finish().expect_err("one failed").to_string();
        assert_eq!(error, "1 of 2 steps failed: first");
    }

    #[test]
    fn steps_are_chosen_by_a_part_of_their_name() {
        let mut steps = Steps::only(vec!["sim".to_owned()]);
        steps.step("simulator", || Ok(()));
        steps.step("format", || bail!("not chosen"));
        steps.finish().expect("the chosen one is fine");
        let error = Steps::only(vec!["nothing".to_owned()]).finish().expect_err("none ran").to_string();
        assert!(error.contains("nothing"), "{error}");
    }

    #[test]
    fn what_was_skipped_is_not_called_passed() {
        let mut steps = Steps::default();
        steps.step_or_skip("database", || Ok(Some("there is none".to_owned())));
        let summary = steps.summary();
        assert!(summary.contains("skipped") && !summary.contains("ok"), "{summary}");
        steps.finish().expect("a skipped step is no failure");
    }

    #[test]
    fn all_well_is_no_error() {
        let mut steps = Steps::default();
        steps.step("only", || Ok(()));
        steps.finish().expect("nothing failed");
    }
}
