//! JSON values as YAML 1.2 in block style.
//!
//! JSON is YAML, so that a text which needs quotes is written as JSON writes it.

use serde_json::Value;

/// The value as one YAML document.
pub(super) fn render(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(keys) if !keys.is_empty() => {
            for (key, value) in keys {
                out.push_str(&indent);
                out.push_str(&scalar(key));
                out.push(':');
                child(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut nested = String::new();
                if is_block(item) {
                    block(item, depth + 1, &mut nested);
                    // The first key goes on the line of the dash.
                    let rest = nested.get(indent.len() + 2..).unwrap_or_default();
                    out.push_str(&format!("{indent}- {rest}"));
                } else {
                    out.push_str(&format!("{indent}- {}\n", inline(item)));
                }
            }
        }
        other => out.push_str(&format!("{indent}{}\n", inline(other))),
    }
}

fn child(value: &Value, depth: usize, out: &mut String) {
    if is_block(value) {
        out.push('\n');
        block(value, depth, out);
    } else {
        out.push_str(&format!(" {}\n", inline(value)));
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(keys) => !keys.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text, bare where no reader of any YAML version takes it for something else.
fn scalar(text: &str) -> String {
    let starts_as_a_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let bare = starts_as_a_word
        && text.chars().all(ordinary)
        && !reserved.contains(&text.to_ascii_lowercase().as_str());
    if bare { text.to_owned() } else { Value::from(text).to_string() }
}
