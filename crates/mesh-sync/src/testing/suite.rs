//! Runs the cases.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    cases::{Case, cases},
    workbench::{StoreFactory, Workbench},
};

/// What a case has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The promise is kept.
    Kept,
    /// The store says that it can't promise this.
    CannotPromise,
    /// The promise is broken, and how.
    Broken(String),
}

/// One case of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The case.
    pub name: &'static str,
    /// What was promised.
    pub promise: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// What [`conformance`] has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The store.
    pub store: &'static str,
    /// Every case.
    pub lines: Vec<Line>,
}

impl Report {
    /// Whether no promise is broken.
    pub fn is_kept(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line.verdict, Verdict::Broken(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.store)?;
        for Line { name, promise, verdict } in &self.lines {
            match verdict {
                Verdict::Kept => writeln!(f, "  kept            {name}")?,
                Verdict::CannotPromise => writeln!(f, "  cannot promise  {name}")?,
                Verdict::Broken(how) => writeln!(f, "  BROKEN          {name}: {promise}, but: {how}")?,
            }
        }
        Ok(())
    }
}

/// Runs every case, one after the other, each in a place of its own.
pub fn conformance(factory: &dyn StoreFactory) -> Report {
    let line = |case: &Case| Line { name: case.name, promise: case.promise, verdict: examine(case, factory) };
    Report { store: factory.store(), lines: cases().iter().map(line).collect() }
}

/// Runs one case, by its name, as a test.
///
/// # Panics
///
/// If the store breaks the promise, or there is no such case.
pub fn run_case(name: &str, factory: &dyn StoreFactory) {
    let case = cases().iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {name:?}; testing::cases() has them all"));
    match examine(case, factory) {
        Verdict::Kept => {}
        Verdict::CannotPromise => println!("{} cannot promise {name}", factory.store()),
        Verdict::Broken(how) => {
            panic!("the store {} breaks a promise\npromised: {}\nbut: {how}", factory.store(), case.promise)
        }
    }
}

fn examine(case: &Case, factory: &dyn StoreFactory) -> Verdict {
    let bench = Workbench::new(factory.place());
    if case.needs_closing && !bench.place().survives_closing() {
        return Verdict::CannotPromise;
    }
    match catch_unwind(AssertUnwindSafe(|| (case.run)(&bench))) {
        Ok(()) => Verdict::Kept,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Verdict::Broken(text.unwrap_or("it panicked without a message").to_owned())
        }
    }
}
