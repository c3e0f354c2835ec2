//! Filters of lists, as query parameters.
//!
//! | parameter | keeps items |
//! |---|---|
//! | `zone=eu-1a` | whose zone is that |
//! | `zone=eu-1a,eu-1b` or `zone=in(eu-1a,eu-1b)` | whose zone is one of them |
//! | `zone!=eu-1a,eu-1b` | whose zone is none of them; also items without a zone |
//! | `label.tier=gold` | with that label; all forms above work |
//! | `label.tier` | that have the label, whatever its value |
//! | `search=text` | with the text in one of their searched values, without regard to case |
//!
//! All conditions must hold. A field with several values (transports) is equal to
//! each of them.

use std::collections::BTreeSet;

use http::StatusCode;

use super::Problem;

/// Most conditions in one filter.
const CONDITIONS_MAX: usize = 32;
/// Most values in one condition.
const VALUES_MAX: usize = 64;
/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 256;

/// A field that a list can be filtered by.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, as in the JSON of an item.
    pub name: &'static str,
    /// All values it can have; empty if they are open.
    pub values: &'static [&'static str],
}

impl Field {
    /// A field with any text as its value.
    pub const fn text(name: &'static str) -> Self {
        Self { name, values: &[] }
    }

    /// A field with a closed set of values; others are refused.
    pub const fn one_of(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values }
    }
}

/// What a list can be filtered by.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// The list's name, the first part of error codes: `peers`.
    pub list: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// Whether its items have labels.
    pub labels: bool,
    /// Parameters that others read; they are passed over.
    pub reserved: &'static [&'static str],
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// A field's name, or `label.` and a label's.
    field: String,
    /// Empty: any value will do, but there must be one.
    values: BTreeSet<String>,
    negated: bool,
}

impl Condition {
    fn holds(&self, mut actual: impl Iterator<Item: AsRef<str>>) -> bool {
        if self.values.is_empty() {
            return actual.next().is_some() != self.negated;
        }
        actual.any(|value| self.values.contains(value.as_ref())) != self.negated
    }
}

/// A parsed filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    conditions: Vec<Condition>,
    /// Lower case.
    searches: Vec<String>,
}

impl Filter {
    /// Parses the pairs of a query string, as [`query_pairs`](super::query_pairs) gives them.
    ///
    /// # Errors
    ///
    /// A problem with the code `<list>.filter.unknown` (no such field), `.value` (a
    /// value outside the field's set) or `.limit` (too many or too long).
    pub fn parse(fields: &Fields, pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut filter = Self::default();
        for (name, value) in pairs {
            if fields.reserved.contains(&name.as_str()) {
                continue;
            }
            if value.len() > VALUES_MAX * VALUE_BYTES_MAX || filter.len() == CONDITIONS_MAX {
                return Err(limit_problem(fields, name));
            }
            if name == "search" {
                filter.searches.push(value.trim().to_lowercase());
            } else {
                filter.conditions.push(condition(fields, name, value)?);
            }
        }
        Ok(filter)
    }

    /// Whether it keeps everything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.conditions.len() + self.searches.len()
    }

    /// Whether it keeps an item.
    ///
    /// `values` lists an item's values of a field or `label.<name>`; `searched` its
    /// values that `search` looks into.
    pub fn keeps<V, S>(&self, values: impl Fn(&str) -> V, searched: impl Fn() -> S) -> bool
    where
        V: IntoIterator<Item: AsRef<str>>,
        S: IntoIterator<Item: AsRef<str>>,
    {
        self.conditions.iter().all(|condition| condition.holds(values(&condition.field).into_iter()))
            && self.searches.iter().all(|text| {
                searched().into_iter().any(|value| value.as_ref().to_lowercase().contains(text.as_str()))
            })
    }
}

fn condition(fields: &Fields, parameter: &str, value: &str) -> Result<Condition, Problem> {
    // `zone!=a` reaches us as the name `zone!` and the value `a`.
    let (name, negated) = match parameter.strip_suffix('!') {
        Some(name) => (name, true),
        None => (parameter, false),
    };
    let label = name.strip_prefix("label.").filter(|label| fields.labels && !label.is_empty());
    let field = fields.fields.iter().find(|field| field.name == name);
    if field.is_none() && label.is_none() {
        return Err(unknown_problem(fields, name));
    }
    let list = value.strip_prefix("in(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(value);
    let values: BTreeSet<String> =
        list.split(',').map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect();
    if values.len() > VALUES_MAX || values.iter().any(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(limit_problem(fields, parameter));
    }
    if let Some(field) = field {
        check_values(fields, field, &values)?;
    }
    Ok(Condition { field: name.to_owned(), values, negated })
}

fn check_values(fields: &Fields, field: &Field, values: &BTreeSet<String>) -> Result<(), Problem> {
    let Some(wrong) = values
        .iter()
        .find(|value| !field.values.is_empty() && !field.values.contains(&value.as_str()))
        .map(String::as_str)
        .or(values.is_empty().then_some(""))
    else {
        return Ok(());
    };
    let allowed = if field.values.is_empty() { "any text".to_owned() } else { field.values.join(", ") };
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        format!("{}.filter.value", fields.list),
        "a filter has a value that its field can't have",
    )
    .object(format!("{}={wrong}", field.name))
    .cause(format!("{} of {} has one of these values: {allowed}", field.name, fields.list))
    .action("use one of them, or several separated by commas"))
}

fn unknown_problem(fields: &Fields, name: &str) -> Problem {
    let nearest = fields
        .fields
        .iter()
        .map(|field| (distance(name, field.name), field.name))
        .min()
        .filter(|(distance, field)| *distance <= field.len().div_ceil(3))
        .map(|(_, field)| format!("; did you mean {field}?"))
        .unwrap_or_default();
    let mut known: Vec<&str> = fields.fields.iter().map(|field| field.name).collect();
    if fields.labels {
        known.push("label.<name>");
    }
    known.push("search");
    known.extend(fields.reserved);
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!("{}.filter.unknown", fields.list),
        "the query has an unknown parameter",
    )
    .object(name)
    .cause(format!("{} can't be filtered by it{nearest}", fields.list))
    .action(format!("use {}", known.join(", ")))
}

fn limit_problem(fields: &Fields, name: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("{}.filter.limit", fields.list), "the filter is too large")
        .object(name)
        .cause(format!(
            "a filter has at most {CONDITIONS_MAX} conditions, each with at most {VALUES_MAX} values of at most {VALUE_BYTES_MAX} bytes"
        ))
        .action("split the question into several requests")
}

/// Edits that lead from one name to another (Levenshtein), over what could be a name at all.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.chars().take(64).enumerate() {
        let mut diagonal = at;
        row[0] = at + 1;
        for (to, wanted) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *wanted);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(diagonal + 1).min(row[to] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = Fields {
        list: "peers",
        fields: &[
            Field::one_of("state", &["alive", "suspect", "dead", "left"]),
            Field::text("zone"),
            Field::text("transports"),
        ],
        labels: true,
        reserved: &["watch"],
    };

    /// Whether a query keeps an item that is alive, in zone eu-1a, with h3 and h2, label tier=gold.
    fn keeps(query: &str) -> bool {
        let uri = format!("/?{query}").parse().expect("uri");
        let pairs = super::super::query_pairs(&uri).expect("pairs");
        let filter = Filter::parse(&FIELDS, &pairs).expect("filter");
        filter.keeps(
            |field| match field {
                "state" => vec!["alive"],
                "zone" => vec!["eu-1a"],
                "transports" => vec!["h3", "h2"],
                "label.tier" => vec!["gold"],
                _ => vec![],
            },
            || ["W-7.example", "gold"],
        )
    }

    #[test]
    fn every_form_of_condition() {
        for query in [
            "",
            "watch",
            "state=alive",
            "state=alive,suspect",
            "state=in(dead,alive)",
            "state!=dead,left",
            "zone%21=eu-1b",
            "transports=h2",
            "label.tier=gold",
            "label.tier",
            "label.tier!=silver",
            "label.rack!=r1",
            "label.rack!",
            "search=w-7",
            "search=GOLD",
            "state=alive&zone=eu-1a&search=w-&label.tier=gold,silver",
        ] {
            assert!(keeps(query), "{query} keeps it");
        }
        for query in [
            "state=dead",
            "state!=alive",
            "zone=eu-1b",
            "transports!=h2",
            "label.tier=silver",
            "label.rack",
            "label.rack=r1",
            "label.tier!",
            "search=silver",
            "state=alive&zone=eu-1b",
            "state=alive&state=dead",
        ] {
            assert!(!keeps(query), "{query} drops it");
        }
    }

    #[test]
    fn a_wrong_filter_is_explained() {
        let problem = |name: &str, value: &str| {
            Filter::parse(&FIELDS, &[(name.to_owned(), value.to_owned())]).expect_err("refused")
        };
        let unknown = problem("stat", "alive");
        assert_eq!(&*unknown.code, "peers.filter.unknown");
        assert_eq!(unknown.detail.as_deref(), Some("peers can't be filtered by it; did you mean state?"));
        assert_eq!(
            unknown.action.as_deref(),
            Some("use state, zone, transports, label.<name>, search, watch")
        );
        assert_eq!(&*problem("label.", "x").code, "peers.filter.unknown");
        assert!(!problem("colour", "red").detail.as_deref().expect("cause").contains("did you mean"));

        let value = problem("state", "alive,aliv");
        assert_eq!(&*value.code, "peers.filter.value");
        assert_eq!(value.object.as_deref(), Some("state=aliv"));
        assert_eq!(&*problem("zone", "").code, "peers.filter.value");
        assert_eq!(&*problem("zone", &"z".repeat(257)).code, "peers.filter.limit");
        assert_eq!(&*problem("zone", &"z,".repeat(100_000)).code, "peers.filter.limit");

        let many: Vec<_> = (0..33).map(|n| ("zone".to_owned(), n.to_string())).collect();
        assert_eq!(&*Filter::parse(&FIELDS, &many).expect_err("too many").code, "peers.filter.limit");
    }
}
