//! One layer of settings: a file, the environment, or what a program sets.
//!
//! A layer is flat: every setting that it touches, by path, with where it was
//! set. The known settings come from the serialised defaults, so that no second
//! list of them has to be kept: an object is a section, an empty object takes
//! any key, everything else is one value.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{ConfigProblem, nearest},
    source::Source,
};

/// A setting by its parts: `["gossip", "probe_interval"]`.
pub(super) type SettingPath = Vec<String>;

/// A value somebody set.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) given: Given,
    pub(super) source: Source,
}

/// A value as it was given.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// With a type.
    Typed(Value),
    /// As text from the environment or the command line, whose type the setting decides.
    Text(String),
}

/// The settings of one layer and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) entries: BTreeMap<SettingPath, Entry>,
    pub(super) problems: Vec<ConfigProblem>,
}

impl Layer {
    /// What a TOML file says.
    pub(super) fn from_toml(path: &Path, text: &str, known: &Value) -> Self {
        let mut layer = Self::default();
        let mut reader =
            TomlReader { path: path.into(), line_starts: line_starts(text), known, layer: &mut layer };
        let (table, errors) = DeTable::parse_recoverable(text);
        reader.section(&mut Vec::new(), table.get_ref());
        for error in errors {
            let source = reader.source(error.span().map_or(0, |span| span.start));
            // What the parser made of a broken line is not what its writer meant.
            reader.layer.entries.retain(|_, entry| entry.source != source);
            reader.layer.problems.retain(|problem| problem.source.as_ref() != Some(&source));
            let text = format!("this is not TOML: {}", error.message().replace('\n', ", "));
            reader.layer.problems.push(ConfigProblem { source: Some(source), setting: None, text });
        }
        layer
    }

    /// What environment variables say; only `MESH_<SECTION>__<KEY>` are settings.
    pub(super) fn from_environment(variables: impl Iterator<Item = (String, String)>, known: &Value) -> Self {
        let mut layer = Self::default();
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix("MESH_").filter(|rest| rest.contains("__")) else { continue };
            let path: SettingPath = rest.split("__").map(str::to_ascii_lowercase).collect();
            layer.set_text(path, text, Source::Environment(name), known);
        }
        layer
    }

    /// Notes one setting that was given as text.
    pub(super) fn set_text(&mut self, path: SettingPath, text: String, source: Source, known: &Value) {
        match place(&path, known) {
            Place::Value => {
                self.entries.insert(path, Entry { given: Given::Text(text), source });
            }
            Place::Section => {
                self.problem(&path, source, "is a section; name one of its settings".to_owned())
            }
            Place::Unknown => self.unknown(&path, source, known),
        }
    }

    fn problem(&mut self, path: &[String], source: Source, text: String) {
        self.problems.push(ConfigProblem { source: Some(source), setting: Some(path.join(".")), text });
    }

    fn unknown(&mut self, path: &[String], source: Source, known: &Value) {
        if let Some(feature) = missing_feature(path) {
            return self.problem(
                path,
                source,
                format!("is not in this build; build with --features {feature}"),
            );
        }
        let text = match suggestion(path, known) {
            // In the environment the setting has another spelling than in a file.
            Some(near) if matches!(source, Source::Environment(_)) => {
                let name = near.replace('.', "__").to_ascii_uppercase();
                format!("is not a setting; did you mean MESH_{name}?")
            }
            Some(near) => format!("is not a setting; did you mean {near}?"),
            None => "is not a setting; `mesh config show` lists them all".to_owned(),
        };
        self.problem(path, source, text);
    }
}

/// The feature without which a section is not known.
fn missing_feature(path: &[String]) -> Option<&'static str> {
    if !cfg!(feature = "sync") && path.first().is_some_and(|section| section == "sync") {
        return Some("sync");
    }
    let [registry, section, ..] = path else { return None };
    match (registry.as_str(), section.as_str()) {
        ("registry", "etcd") if !cfg!(feature = "etcd") => Some("etcd"),
        ("registry", "postgres") if !cfg!(feature = "postgres") => Some("postgres"),
        _ => None,
    }
}

struct TomlReader<'r> {
    path: Arc<Path>,
    line_starts: Vec<usize>,
    known: &'r Value,
    layer: &'r mut Layer,
}

impl TomlReader<'_> {
    fn source(&self, offset: usize) -> Source {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        Source::File { path: Arc::clone(&self.path), line: line.max(1) }
    }

    fn section(&mut self, path: &mut SettingPath, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            self.entry(path, key.span().start, value);
            path.pop();
        }
    }

    fn entry(&mut self, path: &mut SettingPath, key_at: usize, value: &Spanned<DeValue<'_>>) {
        let source = self.source(key_at);
        let takes_any_key = at(self.known, path).and_then(Value::as_object).is_some_and(Map::is_empty);
        match (place(path, self.known), value.get_ref()) {
            (Place::Unknown, _) => self.layer.unknown(path, source, self.known),
            (Place::Section, DeValue::Table(table)) => self.section(path, table),
            (Place::Value, DeValue::Table(table)) if takes_any_key => self.section(path, table),
            (Place::Section, other) => {
                let text = format!(
                    "is a section, not a value of type {}; write [{}]",
                    other.type_str(),
                    path.join(".")
                );
                self.layer.problem(path, source, text);
            }
            (Place::Value, other) => match json(other) {
                Ok(typed) => {
                    self.layer.entries.insert(path.clone(), Entry { given: Given::Typed(typed), source });
                }
                Err(text) => self.layer.problem(path, source, text),
            },
        }
    }
}

/// What the known settings have at a path.
enum Place {
    Section,
    Value,
    Unknown,
}

fn place(path: &[String], known: &Value) -> Place {
    let mut here = known;
    for part in path {
        match here {
            Value::Object(keys) if keys.is_empty() => return Place::Value,
            Value::Object(keys) => match keys.get(part) {
                Some(next) => here = next,
                None => return Place::Unknown,
            },
            _ => return Place::Unknown,
        }
    }
    match here {
        Value::Object(keys) if !keys.is_empty() => Place::Section,
        _ => Place::Value,
    }
}

/// The part of a tree at a path.
pub(super) fn at<'v>(tree: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(tree, |here, part| here.get(part))
}

/// All known settings and sections, by path.
pub(super) fn walk(tree: &Value) -> Vec<SettingPath> {
    fn down(tree: &Value, path: &mut SettingPath, found: &mut Vec<SettingPath>) {
        if let Value::Object(keys) = tree {
            for (key, below) in keys {
                path.push(key.clone());
                found.push(path.clone());
                down(below, path, found);
                path.pop();
            }
        }
    }
    let mut found = Vec::new();
    down(tree, &mut Vec::new(), &mut found);
    found
}

/// The known setting that a wrong path most likely meant: a neighbour in the
/// same section, else a whole path that is near, else the same key in another section.
fn suggestion(path: &[String], known: &Value) -> Option<String> {
    let all: Vec<SettingPath> = walk(known);
    let (wrong, parents) = path.split_last()?;
    let neighbours = all.iter().filter(|p| p.split_last().is_some_and(|(_, above)| above == parents));
    if let Some(near) = nearest(wrong, neighbours.filter_map(|p| p.last()).map(String::as_str)) {
        let mut meant = parents.to_vec();
        meant.push(near.to_owned());
        return Some(meant.join("."));
    }
    let joined: Vec<String> = all.iter().map(|p| p.join(".")).collect();
    if let Some(near) = nearest(&path.join("."), joined.iter().map(String::as_str)) {
        return Some(near.to_owned());
    }
    all.iter().find(|p| p.last() == Some(wrong)).map(|p| p.join("."))
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// The same value as JSON; dates become their text.
pub(super) fn json(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|_| format!("({}) is outside the range of 64-bit numbers", number.as_str()))?,
        DeValue::Float(number) => {
            let text = number.as_str();
            let float = text.parse::<f64>().ok().filter(|f| f.is_finite());
            Value::from(float.ok_or_else(|| format!("({text}) is not a finite number"))?)
        }
        DeValue::Array(items) => {
            Value::from(items.iter().map(|item| json(item.get_ref())).collect::<Result<Vec<_>, _>>()?)
        }
        DeValue::Table(table) => {
            let mut object = Map::new();
            for (key, value) in table {
                object.insert(key.get_ref().to_string(), json(value.get_ref())?);
            }
            Value::Object(object)
        }
    })
}
