//! A list of checks that all run, whichever fails, and a summary at the end.

use std::time::Duration;

use anyhow::{Result, bail};

/// How one step ended.
#[derive(Debug)]
struct Outcome {
    name: String,
    seconds: f64,
    error: Option<String>,
}

/// Runs steps one by one and remembers how each ended.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    outcomes: Vec<Outcome>,
}

impl Steps {
    /// Runs a step. A failure is printed and counted, and does not hide later ones.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let watch = Stopwatch::start();
        let error = work().err().map(|error| format!("{error:#}"));
        let seconds = watch.elapsed().as_secs_f64();
        match &error {
            None => println!("=== {name}: ok, {seconds:.1} s"),
            Some(error) => println!("=== {name}: FAILED after {seconds:.1} s\n{error}"),
        }
        self.outcomes.push(Outcome { name: name.to_owned(), seconds, error });
    }

    /// Prints the summary.
    ///
    /// # Errors
    ///
    /// Names the steps that failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n{}", self.summary());
        let failed: Vec<&str> =
            self.outcomes.iter().filter(|o| o.error.is_some()).map(|o| o.name.as_str()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} of {} steps failed: {}", failed.len(), self.outcomes.len(), failed.join(", "))
    }

    fn summary(&self) -> String {
        let width = self.outcomes.iter().map(|o| o.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Outcome { name, seconds, error } in &self.outcomes {
            let word = if error.is_some() { "FAILED" } else { "ok" };
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
    fn all_well_is_no_error() {
        let mut steps = Steps::default();
        steps.step("only", || Ok(()));
        steps.finish().expect("nothing failed");
    }
}
