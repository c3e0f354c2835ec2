//! The settings reference and its JSON Schema, from the comments of the settings structs.
//!
//! The structs are read as source, so that this needs no Mesh crate and no schema
//! derive on their types. `source` finds the types, `tree` follows the fields
//! from `MeshConfig` down, `reference` and `schema` write.

mod reference;
mod schema;
pub(crate) mod source;
mod tree;

use std::path::Path;

use anyhow::{Result, bail};

use crate::Generated;

/// The struct of all sections.
const ROOT: &str = "MeshConfig";

/// `docs/reference/settings.md` and `docs/reference/settings.schema.json`.
pub(crate) fn generate(root: &Path) -> Result<Vec<Generated>> {
    let types = source::Types::read(&root.join("crates"))?;
    let mut settings = tree::read(&types, ROOT)?;
    add_preset(&mut settings)?;
    let folder = root.join("docs/reference");
    Ok(vec![
        Generated { path: folder.join("settings.md"), text: reference::render(&settings) },
        Generated { path: folder.join("settings.schema.json"), text: schema::render(&settings)? },
    ])
}

/// `gossip.preset` is no field: the loader takes it and changes the defaults of the others.
fn add_preset(settings: &mut tree::Table) -> Result<()> {
    let gossip = settings.entries.iter_mut().find(|entry| entry.name == "gossip");
    let Some(tree::Kind::Table(gossip)) = gossip.map(|entry| &mut entry.kind) else {
        bail!("{ROOT} has no gossip section to add `preset` to");
    };
    let words = [
        ("lan", "Nodes in one data centre."),
        ("wan", "Nodes in several regions."),
        ("local", "Processes on one machine: faster, at a higher cost."),
    ];
    gossip.entries.insert(
        0,
        tree::Entry {
            name: "preset".to_owned(),
            doc: "Which defaults the other settings of this section have; those in this table are of `lan`."
                .to_owned(),
            default: Some("lan".to_owned()),
            kind: tree::Kind::OneOf(words.map(|(word, doc)| (word.to_owned(), doc.to_owned())).into()),
        },
    );
    Ok(())
}
