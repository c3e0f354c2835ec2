//! The JSON of a member as JSON Schema, from the comments of the struct that is serialised.
//!
//! Readers must accept keys that are not in it: later versions add some.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use syn::{GenericArgument, PathArguments, Type};

use crate::{
    Generated,
    settings::source::{Definition, FieldSource, Place, Types},
};

/// The struct of a member.
const ROOT: &str = "Peer";
/// Deeper than this, a type would have to contain itself.
const DEPTH_MAX: usize = 8;

/// `docs/reference/member.schema.json`.
pub(crate) fn generate(root: &Path) -> Result<Vec<Generated>> {
    let types = Types::read(&root.join("crates"))?;
    let text = render(&types)?;
    Ok(vec![Generated { path: root.join("docs/reference/member.schema.json"), text }])
}

fn render(types: &Types) -> Result<String> {
    let Some((place, Definition::Table { doc, fields })) = types.find(&Place::default(), ROOT)? else {
        bail!("no struct {ROOT} that derives Deserialize was found");
    };
    let mut schema = object(types, place, doc, fields, 0)?;
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("A member of a Mesh cluster, as GET /control/v1/peers/{id} shows it");
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn object(types: &Types, place: &Place, doc: &str, fields: &[FieldSource], depth: usize) -> Result<Value> {
    if depth > DEPTH_MAX {
        bail!("a member is nested more than {DEPTH_MAX} deep");
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields {
        if field.doc.is_empty() {
            bail!("{} has no comment", field.name);
        }
        let mut value =
            kind(types, place, &field.of, depth).with_context(|| format!("field {}", field.name))?;
        value["description"] = json!(flat(&field.doc));
        properties.insert(field.name.clone(), value);
        required.push(field.name.clone());
    }
    Ok(json!({
        "type": "object",
        "description": flat(doc),
        "properties": properties,
        "required": required,
    }))
}

fn flat(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(types: &Types, place: &Place, of: &Type, depth: usize) -> Result<Value> {
    let Type::Path(path) = of else { bail!("a field must have a plain type") };
    let segment = path.path.segments.last().context("a type without a name")?;
    let inner: Vec<&Type> = match &segment.arguments {
        PathArguments::AngleBracketed(list) => {
            let types = list.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(of) => Some(of),
                _ => None,
            });
            types.collect()
        }
        _ => Vec::new(),
    };
    let nested = |of: &Type| kind(types, place, of, depth + 1);
    let name = segment.ident.to_string();
    Ok(match (name.as_str(), inner.as_slice()) {
        ("Option", [of]) => json!({"anyOf": [nested(of)?, {"type": "null"}]}),
        ("Vec", [of]) => json!({"type": "array", "items": nested(of)?}),
        ("BTreeMap", [_, of]) => json!({"type": "object", "additionalProperties": nested(of)?}),
        ("bool", _) => json!({"type": "boolean"}),
        ("u8" | "u16" | "u32" | "u64" | "usize", _) => json!({"type": "integer", "minimum": 0}),
        ("f64", _) => json!({"type": "number"}),
        ("String" | "SocketAddr", _) => json!({"type": "string"}),
        ("NodeId" | "Role", _) => json!({"type": "string", "minLength": 1, "maxLength": 63}),
        (name, _) => match types.find(place, name)? {
            Some((place, Definition::Table { doc, fields })) => object(types, place, doc, fields, depth + 1)?,
            Some((place, Definition::Wrapper { of })) => kind(types, place, of, depth + 1)?,
            Some((_, Definition::Words { words })) => {
                json!({"enum": words.iter().map(|(word, _)| word).collect::<Vec<_>>()})
            }
            None => bail!("the type {name} is not known to mesh-codegen; add it to member.rs"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(source: &str) -> Result<Value> {
        let mut types = Types::default();
        types.add(&Place::default(), source)?;
        Ok(serde_json::from_str(&render(&types)?)?)
    }

    #[test]
    fn fields_and_what_may_be_null_are_in_the_schema() {
        let source = r#"
            /// A member.
            #[derive(Deserialize)]
            pub struct Peer {
                /// Its
                /// name.
                pub node_id: NodeId,
                /// Its state.
                pub state: State,
                /// Its load.
                pub load: Option<Busy>,
            }
            #[derive(Deserialize)]
            #[serde(rename_all = "kebab-case")]
            pub enum State { Alive, WellGone }
            /// Busy.
            #[derive(Deserialize)]
            pub struct Busy { #[doc = "How much."] pub cpu: Option<u16> }
        "#;
        let schema = schema(source).expect("renders");
        assert_eq!(schema["required"], json!(["node_id", "state", "load"]));
        assert_eq!(schema["properties"]["node_id"]["description"], "Its name.");
        assert_eq!(schema["properties"]["state"]["enum"], json!(["alive", "well-gone"]));
        let load = &schema["properties"]["load"]["anyOf"];
        assert_eq!(load[1], json!({"type": "null"}));
        assert_eq!(load[0]["properties"]["cpu"]["anyOf"][0]["type"], "integer");
    }

    #[test]
    fn an_unknown_type_and_a_missing_comment_are_errors() {
        let unknown = "#[derive(Deserialize)] struct Peer { /// A.\n a: Novel }";
        let error = format!("{:#}", schema(unknown).expect_err("unknown"));
        assert!(error.contains("Novel") && error.contains("field a"), "{error}");
        let silent = "#[derive(Deserialize)] struct Peer { a: bool }";
        assert!(schema(silent).expect_err("no comment").to_string().contains("no comment"));
    }
}
