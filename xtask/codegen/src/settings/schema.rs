//! The settings as JSON Schema, for editors that check TOML against one.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::tree::{Kind, Table};

/// A schema (draft 2020-12) of the whole file.
pub(crate) fn render(settings: &Table) -> Result<String> {
    let mut schema = table(settings);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Settings of a Mesh node");
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn table(table: &Table) -> Value {
    let mut properties = Map::new();
    for entry in &table.entries {
        let mut value = kind(&entry.kind);
        let default =
            entry.default.as_ref().map(|default| format!(" Default: {default}.")).unwrap_or_default();
        value["description"] = json!(format!("{}{default}", entry.doc));
        if let Some(default) =
            entry.default.as_deref().and_then(|default| default_value(&entry.kind, default))
        {
            value["default"] = default;
        }
        properties.insert(entry.name.clone(), value);
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Integer { min } if *min == i64::MIN => json!({"type": "integer"}),
        Kind::Integer { min } => json!({"type": "integer", "minimum": min}),
        Kind::Number => json!({"type": "number"}),
        Kind::Text | Kind::Special(_) | Kind::Time => json!({"type": "string"}),
        Kind::Duration => json!({"type": "string", "pattern": "^\\s*(\\d+\\s*[a-zµ]+\\s*)+$"}),
        Kind::OneOf(words) => json!({"enum": words.iter().map(|(word, _)| word).collect::<Vec<_>>()}),
        Kind::List(inner) => json!({"type": "array", "items": self::kind(inner)}),
        Kind::Map(inner) => json!({"type": "object", "additionalProperties": self::kind(inner)}),
        Kind::Table(inner) => table(inner),
    }
}

/// The default as a value, where its text is one: `1s`, `3`, `true`, `` `mesh-data` ``.
fn default_value(kind: &Kind, text: &str) -> Option<Value> {
    let text = text.trim_matches('`');
    match kind {
        Kind::Switch => text.parse().ok().map(Value::Bool),
        Kind::Integer { .. } => text.parse::<i64>().ok().map(Value::from),
        Kind::Number => text.parse::<f64>().ok().map(Value::from),
        Kind::Duration => text.starts_with(|c: char| c.is_ascii_digit()).then(|| json!(text)),
        Kind::OneOf(words) => words.iter().any(|(word, _)| word == text).then(|| json!(text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tree::Entry, *};

    #[test]
    fn kinds_defaults_and_unknown_names_are_in_the_schema() {
        let entry = |name: &str, default: &str, kind| Entry {
            name: name.to_owned(),
            doc: "It.".to_owned(),
            default: Some(default.to_owned()),
            kind,
        };
        let settings = Table {
            doc: String::new(),
            entries: vec![
                entry("wait", "1s", Kind::Duration),
                entry("rings", "0", Kind::Integer { min: 0 }),
                entry("seeds", "none", Kind::List(Box::new(Kind::Text))),
            ],
        };
        let schema: Value = serde_json::from_str(&render(&settings).expect("renders")).expect("is JSON");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["wait"]["default"], "1s");
        assert_eq!(
            schema["properties"]["rings"],
            json!({"type": "integer", "minimum": 0, "default": 0, "description": "It. Default: 0."})
        );
        assert_eq!(schema["properties"]["seeds"].get("default"), None);
    }
}
