//! `mesh peers list` and `mesh peers show`

use std::process::ExitCode;

use serde_json::Value;

use super::listing;
use crate::{
    args::{ConnectionArgs, PeersCommand, PeersListArgs, PeersShowArgs},
    client::{Edge, encode},
    failure::Failure,
    output::{self, Column, Format, Listing, render_one, text_at},
};

pub(super) const PATH: &str = "/control/v1/peers";

/// Those that are not wide fit 80 columns with names of ordinary length.
const COLUMNS: &[Column] = &[
    Column { title: "NODE", wide: false, cell: |peer| text_at(peer, "node_id") },
    Column { title: "STATE", wide: false, cell: |peer| text_at(peer, "state") },
    Column { title: "HEALTH", wide: false, cell: |peer| text_at(peer, "health") },
    Column { title: "ROLE", wide: false, cell: |peer| text_at(peer, "role") },
    Column { title: "REGION", wide: false, cell: |peer| text_at(peer, "region") },
    Column { title: "ZONE", wide: false, cell: |peer| text_at(peer, "zone") },
    Column { title: "RTT", wide: false, cell: |peer| seconds(peer, "rtt") },
    Column { title: "VERSION", wide: false, cell: |peer| text_at(peer, "mesh_version") },
    Column { title: "CPU", wide: true, cell: |peer| share(peer, "cpu_permille") },
    Column { title: "MEMORY", wide: true, cell: |peer| share(peer, "memory_permille") },
    Column { title: "CLUSTER", wide: true, cell: |peer| text_at(peer, "cluster") },
    Column { title: "INSTANCE", wide: true, cell: |peer| text_at(peer, "instance") },
    Column { title: "INCARNATION", wide: true, cell: |peer| text_at(peer, "incarnation") },
    Column { title: "ADDRESSES", wide: true, cell: |peer| text_at(peer, "addresses") },
    Column { title: "LABELS", wide: true, cell: |peer| text_at(peer, "labels") },
];

pub(super) async fn run(connection: &ConnectionArgs, command: PeersCommand) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    match command {
        PeersCommand::List(args) if args.watch => watch(&edge, &args).await,
        PeersCommand::List(args) => list(&edge, &args).await,
        PeersCommand::Show(args) => show(&edge, &args).await,
    }
}

/// All members that the edge knows, page by page.
pub(super) async fn all(edge: &Edge, filters: &[(String, String)]) -> Result<Vec<Value>, Failure> {
    listing::all(edge, PATH, filters).await
}

/// One member, as the edge sees it.
pub(super) async fn one(edge: &Edge, node: &str) -> Result<Value, Failure> {
    let mut reply = edge.get(&format!("{PATH}/{}", encode(node)), &[]).await?;
    Ok(reply.get_mut("peer").map(Value::take).unwrap_or(reply))
}

async fn list(edge: &Edge, args: &PeersListArgs) -> Result<ExitCode, Failure> {
    let peers = all(edge, &filters(args)).await?;
    let listing = Listing { kind: "peers", name_key: "node_id", columns: COLUMNS, items: &peers };
    output::print(&listing.render(args.output.format))?;
    if peers.is_empty() {
        output::message("no member matches");
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(edge: &Edge, args: &PeersShowArgs) -> Result<ExitCode, Failure> {
    let peer = one(edge, &args.node).await?;
    output::print(&render_one(&peer, args.output.format, "node_id", || listing::describe(&peer)))?;
    Ok(ExitCode::SUCCESS)
}

fn filters(args: &PeersListArgs) -> Vec<(String, String)> {
    let any_of =
        [("state", &args.state), ("role", &args.role), ("region", &args.region), ("zone", &args.zone)];
    let mut query: Vec<(String, String)> = any_of
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| (name.to_owned(), values.join(",")))
        .collect();
    query.extend(args.labels.iter().map(|(name, value)| (format!("label.{name}"), value.clone())));
    query.extend(args.search.iter().map(|text| ("search".to_owned(), text.clone())));
    query
}

/// Prints every change until Ctrl-C.
async fn watch(edge: &Edge, args: &PeersListArgs) -> Result<ExitCode, Failure> {
    let mut query = filters(args);
    query.push(("watch".to_owned(), String::new()));
    let mut printer = WatchPrinter { format: args.output.format, titled: false };
    listing::follow(edge, PATH, &query, |name, data| output::write(&printer.render(name, data))).await
}

/// The members that an event is about: a snapshot has the list of all, a change has one.
pub(super) fn members_of(data: &Value) -> Vec<Value> {
    match data.get("items").or_else(|| data.get("peers")).and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![data.get("peer").unwrap_or(data).clone()],
    }
}

struct WatchPrinter {
    format: Format,
    titled: bool,
}

impl WatchPrinter {
    fn render(&mut self, name: &str, data: &Value) -> String {
        let peers = members_of(data);
        match self.format {
            Format::Json | Format::Jsonl => listing::document(name, data, Format::Jsonl),
            Format::Yaml => format!("---\n{}", listing::document(name, data, Format::Yaml)),
            Format::Name => peers.iter().map(|peer| text_at(peer, "node_id") + "\n").collect(),
            Format::Table | Format::Wide => {
                let change =
                    Some(text_at(data, "change")).filter(|text| !text.is_empty()).unwrap_or(name.to_owned());
                let mut text = String::new();
                if !self.titled {
                    self.titled = true;
                    text.push_str(&line(["EVENT", "NODE", "STATE", "ROLE", "ZONE"].map(str::to_owned)));
                }
                for peer in &peers {
                    let cell = |key: &str| {
                        Some(text_at(peer, key)).filter(|t| !t.is_empty()).unwrap_or("-".to_owned())
                    };
                    text.push_str(&line([
                        change.clone(),
                        cell("node_id"),
                        cell("state"),
                        cell("role"),
                        cell("zone"),
                    ]));
                }
                text
            }
        }
    }
}

/// A line of a table that grows, so that its widths are fixed.
fn line(cells: [String; 5]) -> String {
    let [event, node, state, role, zone] = cells;
    format!("{event:<10}  {node:<24}  {state:<8}  {role:<12}  {zone}").trim_end().to_owned() + "\n"
}

/// A share that a member told with its load, in percent.
fn share(peer: &Value, key: &str) -> String {
    let permille = peer.get("load").and_then(|load| load.get(key)).and_then(Value::as_f64);
    permille.map(|permille| format!("{:.0}%", permille / 10.0)).unwrap_or_default()
}

fn seconds(item: &Value, key: &str) -> String {
    match item.get(key).and_then(Value::as_f64) {
        Some(seconds) if seconds < 0.001 => format!("{:.0}µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_load_is_shown_with_its_parts_and_its_age() {
        let peer = json!({
            "node_id": "w-1",
            "load": {
                "cpu_permille": 254,
                "custom": {"queue": 3, "shards": 12},
                "memory_permille": null,
                "said_at": "2026-01-01T00:00:00.000Z",
            },
        });
        let text = listing::describe(&peer);
        for part in ["cpu_permille=254", "queue=3,shards=12", "said_at=2026-01-01"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(
            (share(&peer, "cpu_permille"), share(&peer, "memory_permille")),
            ("25%".into(), "".into())
        );
        assert_eq!(share(&json!({"load": null}), "cpu_permille"), "");
    }
}
