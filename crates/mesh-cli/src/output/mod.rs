//! What goes to standard output: data, in the form that was asked for.
//!
//! Messages go to standard error, so that a pipe sees data alone.

mod table;
mod yaml;

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value, json};

pub use table::{Column, table};

use crate::failure::{Exit, Failure};

/// The version of the JSON that commands print.
pub const API_VERSION: &str = "mesh/v1";

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// One JSON document on each line
    Jsonl,
    /// Names alone, one on each line
    Name,
}

/// A list of things to print.
#[derive(Debug)]
pub struct Listing<'l> {
    /// What they are, in the plural: `peers`.
    pub kind: &'static str,
    /// The key that names one.
    pub name_key: &'static str,
    /// The columns of the table.
    pub columns: &'l [Column],
    /// The things.
    pub items: &'l [Value],
}

impl Listing<'_> {
    /// The text in the form that was asked for, with a line break at its end.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => table(self.columns, self.items, false),
            Format::Wide => table(self.columns, self.items, true),
            Format::Json => pretty(&document(self.kind, Value::from(self.items.to_vec()))),
            Format::Yaml => yaml::render(&document(self.kind, Value::from(self.items.to_vec()))),
            Format::Jsonl => lines(self.items.iter().map(|item| versioned(item).to_string())),
            Format::Name => lines(self.items.iter().map(|item| text_at(item, self.name_key))),
        }
    }
}

/// One thing in the form that was asked for; `human` makes the text for people.
pub fn render_one(item: &Value, format: Format, name_key: &str, human: impl FnOnce() -> String) -> String {
    match format {
        Format::Table | Format::Wide => human(),
        Format::Json => pretty(&versioned(item)),
        Format::Yaml => yaml::render(&versioned(item)),
        Format::Jsonl => format!("{}\n", versioned(item)),
        Format::Name => format!("{}\n", text_at(item, name_key)),
    }
}

/// Whether somebody still reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Yes,
    /// The reader went away, as in `mesh peers list --watch | head -1`.
    NobodyReads,
}

/// Writes data to standard output. A reader that went away is no failure.
///
/// # Errors
///
/// Standard output can't be written for another reason.
pub fn print(text: &str) -> Result<(), Failure> {
    write(text).map(|_| ())
}

/// As [`print()`], for those who go on only while somebody reads.
///
/// # Errors
///
/// As [`print()`].
pub fn write(text: &str) -> Result<Written, Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Written::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::NobodyReads),
        Err(error) => {
            Err(Failure::from_error(Exit::Failed, &error).while_doing("cannot write to standard output"))
        }
    }
}

/// A line for people on standard error.
pub fn message(text: impl std::fmt::Display) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

fn document(kind: &str, items: Value) -> Value {
    json!({ "api_version": API_VERSION, kind: items })
}

fn versioned(item: &Value) -> Value {
    let mut object = Map::new();
    object.insert("api_version".to_owned(), Value::from(API_VERSION));
    match item {
        Value::Object(keys) => object.extend(keys.clone()),
        other => {
            object.insert("value".to_owned(), other.clone());
        }
    }
    Value::Object(object)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

/// A value at a dotted path as text; empty where there is none.
pub fn text_at(item: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(item, |here, key| here.get(key));
    found.map(plain).unwrap_or_default()
}

/// A value as a person writes it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(keys) => keys
            .iter()
            .map(|(key, value)| format!("{}={}", printable(key), plain(value)))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

/// A text from elsewhere can't steer the terminal it is shown on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
