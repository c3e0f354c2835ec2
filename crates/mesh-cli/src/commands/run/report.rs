//! How a node tells whoever started it where it listens and when it is ready.

use std::{fs, path::Path};

use mesh::Node;
use serde_json::{Value, json};

use crate::{
    args::RunArgs,
    failure::{Exit, Failure},
    output::{self, API_VERSION},
};

/// Prints one JSON line on standard output, if that was asked for.
pub(super) fn event(args: &RunArgs, node: &Node, event: &str) -> Result<(), Failure> {
    if !args.events {
        return Ok(());
    }
    let mut line = facts(node);
    line["event"] = Value::from(event);
    output::print(&format!("{line}\n"))
}

/// Writes the file that says the node is ready, whole or not at all.
pub(super) fn ready_file(args: &RunArgs, node: &Node) -> Result<(), Failure> {
    let Some(path) = &args.ready_file else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Exit::Failed, error).while_doing(format!("cannot write {}", path.display()))
    };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    fs::write(file.path(), format!("{:#}\n", facts(node))).map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    Ok(())
}

/// A node that stops is not ready.
pub(super) fn remove_ready_file(args: &RunArgs) {
    if let Some(path) = &args.ready_file {
        // It may never have been written, and the node stops either way.
        let _ = fs::remove_file(path);
    }
}

fn facts(node: &Node) -> Value {
    json!({
        "api_version": API_VERSION,
        "node_id": node.id(),
        "pid": std::process::id(),
        "mesh": node.address(),
        "edge": node.edge_address(),
    })
}
