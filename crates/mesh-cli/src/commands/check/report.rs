//! Outcomes of checks, and how they are shown.

use serde_json::{Value, json};

use crate::output::{Column, Format, Listing, text_at};

/// A check: its stable code and what it looks for.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) code: &'static str,
    pub(crate) what: &'static str,
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    status: Status,
    detail: String,
    hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    Warning,
    Failed,
    Skipped,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Outcome {
    /// All is well.
    pub(super) fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into(), hint: String::new() }
    }

    /// It works, and somebody should look at it.
    pub(super) fn warning(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Warning, detail: detail.into(), hint: hint.into() }
    }

    /// It does not work; `hint` is what to do.
    pub(super) fn failed(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Failed, detail: detail.into(), hint: hint.into() }
    }

    /// It could not be looked at.
    pub(super) fn skipped(why: impl Into<String>) -> Self {
        Self { status: Status::Skipped, detail: why.into(), hint: String::new() }
    }
}

/// All outcomes of a round.
#[derive(Debug, Default)]
pub(super) struct Report {
    items: Vec<Value>,
    failed: bool,
}

const COLUMNS: &[Column] = &[
    Column { title: "STATUS", wide: false, cell: |item| text_at(item, "status") },
    Column { title: "CODE", wide: false, cell: |item| text_at(item, "code") },
    Column { title: "CHECK", wide: false, cell: |item| text_at(item, "check") },
    Column { title: "DETAIL", wide: true, cell: |item| text_at(item, "detail") },
    Column { title: "HINT", wide: true, cell: |item| text_at(item, "hint") },
];

impl Report {
    pub(super) fn add(&mut self, check: &Check, outcome: Outcome) {
        self.failed |= outcome.status == Status::Failed;
        self.items.push(json!({
            "code": check.code,
            "check": check.what,
            "status": outcome.status.as_str(),
            "detail": outcome.detail,
            "hint": outcome.hint,
        }));
    }

    /// Adds a fact to the check that was added last, for programs.
    pub(super) fn annotate(&mut self, key: &str, fact: Value) {
        if let Some(item) = self.items.last_mut() {
            item[key] = fact;
        }
    }

    /// No check failed; warnings are no failure.
    pub(super) fn is_good(&self) -> bool {
        !self.failed
    }

    pub(super) fn render(&self, format: Format) -> String {
        let listing = Listing { kind: "checks", name_key: "code", columns: COLUMNS, items: &self.items };
        let mut text = listing.render(format);
        if format == Format::Table {
            text.push_str(&self.notes());
        }
        text
    }

    /// What a person should read of those that are not well.
    fn notes(&self) -> String {
        let mut text = String::new();
        for item in
            self.items.iter().filter(|item| matches!(item["status"].as_str(), Some("failed" | "warning")))
        {
            text.push_str(&format!(
                "\n{} ({}): {}\n",
                text_at(item, "code"),
                text_at(item, "status"),
                text_at(item, "detail")
            ));
            text.push_str(&format!(" next: {}\n", text_at(item, "hint")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add(&Check { code: "a.good", what: "it is good" }, Outcome::ok(""));
        report.add(
            &Check { code: "b.late", what: "it is early" },
            Outcome::warning("an hour is left", "renew it"),
        );
        report
    }

    #[test]
    fn warnings_come_with_a_hint_and_are_no_failure() {
        let report = report();
        assert!(report.is_good());
        insta::assert_snapshot!(report.render(Format::Table), @"
        STATUS   CODE    CHECK
        ok       a.good  it is good
        warning  b.late  it is early

        b.late (warning): an hour is left
         next: renew it
        ");
    }

    #[test]
    fn one_failure_is_a_failure() {
        let mut report = report();
        report.add(&Check { code: "c.bad", what: "it works" }, Outcome::failed("it does not", "mend it"));
        assert!(!report.is_good());
        assert_eq!(report.render(Format::Name), "a.good\nb.late\nc.bad\n");
        let json: Value = serde_json::from_str(&report.render(Format::Json)).expect("a document");
        assert_eq!(json["checks"][2]["status"], "failed");
    }
}
