//! What the routes really answer is what the published schema says.
//!
//! The checker knows the few words of JSON Schema that the generator writes and
//! fails on any other, so it can't pass over one. A schema library would bring
//! dozens of crates for that.

use serde_json::{Map, Value};

use super::*;

const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/member.schema.json"));

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the generated schema is JSON")
}

/// What in `value` breaks `schema`, by path. Keys that the schema does not name are
/// reported, too: it allows them for later versions, but ours must be complete.
fn problems(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let Value::Object(rules) = schema else { return vec![format!("{path}: the schema is no object")] };
    let mut found = Vec::new();
    for (word, rule) in rules {
        let broken = match word.as_str() {
            "$schema" | "title" | "description" => continue,
            "type" => (!has_type(value, rule)).then(|| format!("{value} is not of type {rule}")),
            "enum" => (!rule.as_array().is_some_and(|words| words.contains(value)))
                .then(|| format!("{value} is not one of {rule}")),
            "minimum" => (value.as_f64() < rule.as_f64()).then(|| format!("{value} is below {rule}")),
            "minLength" => (length(value) < rule.as_u64()).then(|| format!("{value} is shorter than {rule}")),
            "maxLength" => (length(value) > rule.as_u64()).then(|| format!("{value} is longer than {rule}")),
            "required" => {
                let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
                names.into_iter().find(|n| value.get(n).is_none()).map(|name| format!("lacks {name}"))
            }
            "anyOf" => {
                let ways = rule.as_array().map(Vec::as_slice).unwrap_or_default();
                let tried: Vec<_> = ways.iter().map(|way| problems(way, value, path)).collect();
                (!tried.iter().any(Vec::is_empty)).then(|| format!("fits none of {tried:?}"))
            }
            "items" => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                found.extend(
                    items
                        .iter()
                        .enumerate()
                        .flat_map(|(at, item)| problems(rule, item, &format!("{path}[{at}]"))),
                );
                continue;
            }
            "properties" | "additionalProperties" => continue,
            other => Some(format!("the checker does not know {other}")),
        };
        found.extend(broken.map(|text| format!("{path}: {text}")));
    }
    if let (Value::Object(keys), Some("object")) = (value, schema["type"].as_str()) {
        found.extend(problems_of_keys(rules, keys, path));
    }
    found
}

fn problems_of_keys(rules: &Map<String, Value>, keys: &Map<String, Value>, path: &str) -> Vec<String> {
    let of_key = |(key, value): (&String, &Value)| {
        let path = format!("{path}.{key}");
        let named = rules.get("properties").and_then(|all| all.get(key));
        match named.or_else(|| rules.get("additionalProperties")) {
            Some(rule) => problems(rule, value, &path),
            None => vec![format!("{path}: is not in the schema")],
        }
    };
    keys.iter().flat_map(of_key).collect()
}

fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

fn check(peer: &Value) {
    assert_eq!(problems(&schema(), peer, "peer"), [""; 0]);
}

#[tokio::test]
async fn every_reply_fits_the_published_schema() {
    let cluster = Cluster::small();
    for path in ["/control/v1/peers", "/control/peers"] {
        let list: Value = serde_json::from_str(&cluster.get(path).await).expect("JSON");
        let items = list["items"].as_array().expect("a list");
        assert_eq!(items.len(), 3);
        items.iter().for_each(check);
    }
    let one: Value = serde_json::from_str(&cluster.get("/control/v1/peers/w-1").await).expect("JSON");
    assert!(one["peer"]["load"].is_object() && one["peer"]["endpoints"][0].is_object());
    check(&one["peer"]);
}

/// The checker finds what it is there for.
#[tokio::test]
async fn a_member_that_breaks_the_schema_is_found() {
    let one: Value =
        serde_json::from_str(&Cluster::small().get("/control/v1/peers/w-1").await).expect("JSON");
    let broken = |change: fn(&mut Value), part: &str| {
        let mut peer = one["peer"].clone();
        change(&mut peer);
        let found = problems(&schema(), &peer, "peer");
        assert!(found.iter().any(|text| text.contains(part)), "{part} is not in {found:?}");
    };
    broken(|p| p["state"] = "asleep".into(), "\"asleep\" is not one of");
    broken(|p| p["incarnation"] = (-1).into(), "below 0");
    broken(|p| p["node_id"] = "".into(), "shorter than 1");
    broken(|p| p["cordoned"] = "true".into(), "not of type \"boolean\"");
    broken(|p| p["rtt"] = "fast".into(), "fits none of");
    broken(|p| p["load"]["cpu_permille"] = 0.5.into(), "fits none of");
    broken(|p| p["endpoints"][0]["url"] = Value::Null, "not of type \"string\"");
    broken(|p| p["labels"]["tier"] = 3.into(), "not of type \"string\"");
    broken(|p| p["novel"] = 3.into(), "peer.novel: is not in the schema");
    broken(|p| drop(p.as_object_mut().expect("object").remove("role")), "lacks role");
}
