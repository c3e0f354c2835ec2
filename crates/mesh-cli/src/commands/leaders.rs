//! `mesh leaders status`, `mesh leaders step-down` and `mesh leaders transfer`

use std::process::ExitCode;

use serde_json::{Value, json};

use super::listing;
use crate::{
    args::{ConnectionArgs, LeadersCommand, LeadersStatusArgs, SteerArgs},
    client::{Edge, encode},
    failure::Failure,
    output::{self, Column, Format, Listing, render_one, text_at},
};

const PATH: &str = "/control/v1/leaders";
const EVENTS: &str = "/control/v1/events/leadership";

/// Those that are not wide fit 80 columns with names of ordinary length.
const COLUMNS: &[Column] = &[
    Column { title: "SCOPE", wide: false, cell: |leader| text_at(leader, "scope") },
    Column { title: "LEADER", wide: false, cell: |leader| or_dash(text_at(leader, "leader")) },
    Column { title: "TOKEN", wide: false, cell: |leader| text_at(leader, "token") },
    Column { title: "TERM", wide: false, cell: |leader| text_at(leader, "term") },
    Column { title: "SINCE", wide: false, cell: |leader| text_at(leader, "since") },
    Column { title: "CANDIDATES", wide: true, cell: |leader| text_at(leader, "candidates") },
    Column { title: "KIND", wide: true, cell: |leader| text_at(leader, "scope_kind") },
    Column { title: "REVISION", wide: true, cell: |leader| text_at(leader, "revision") },
    Column { title: "CORRELATION", wide: true, cell: |leader| text_at(leader, "correlation_id") },
];

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

pub(super) async fn run(connection: &ConnectionArgs, command: LeadersCommand) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    match command {
        LeadersCommand::Status(args) if args.watch => watch(&edge, &args).await,
        LeadersCommand::Status(args) => status(&edge, &args).await,
        LeadersCommand::StepDown(args) => steer(&edge, &args, "step-down", None).await,
        LeadersCommand::Transfer(args) => steer(&edge, &args.steer, "transfer", Some(&args.to)).await,
    }
}

async fn status(edge: &Edge, args: &LeadersStatusArgs) -> Result<ExitCode, Failure> {
    if let Some(scope) = &args.scope {
        let mut reply = edge.get(&format!("{PATH}/{}", encode(scope)), &[]).await?;
        let leader = reply.get_mut("leader").map(Value::take).unwrap_or(reply);
        output::print(&render_one(&leader, args.output.format, "scope", || listing::describe(&leader)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let leaders = listing::all(edge, PATH, &[]).await?;
    let listing = Listing { kind: "leaders", name_key: "scope", columns: COLUMNS, items: &leaders };
    output::print(&listing.render(args.output.format))?;
    if leaders.is_empty() {
        output::message("nobody campaigns for anything");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints every transition until Ctrl-C.
async fn watch(edge: &Edge, args: &LeadersStatusArgs) -> Result<ExitCode, Failure> {
    let query: Vec<_> = args.scope.iter().map(|scope| ("scope".to_owned(), scope.clone())).collect();
    let mut titled = false;
    let format = args.output.format;
    listing::follow(edge, EVENTS, &query, |name, data| {
        // Renewals come every second or so and change nothing that people want to see go by.
        if name == "renewed" && matches!(format, Format::Table | Format::Wide | Format::Name) {
            return Ok(output::Written::Yes);
        }
        output::write(&render(name, data, format, &mut titled))
    })
    .await
}

fn render(name: &str, data: &Value, format: Format, titled: &mut bool) -> String {
    let changes: Vec<&Value> = match data.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().collect(),
        None => vec![data],
    };
    match format {
        Format::Json | Format::Jsonl => listing::document(name, data, Format::Jsonl),
        Format::Yaml => format!("---\n{}", listing::document(name, data, Format::Yaml)),
        Format::Name => changes.iter().map(|change| text_at(change, "scope") + "\n").collect(),
        Format::Table | Format::Wide => {
            let mut text = String::new();
            if !std::mem::replace(titled, true) {
                text.push_str(&line(
                    ["EVENT", "SCOPE", "LEADER", "TOKEN", "TERM", "REASON"].map(str::to_owned),
                ));
            }
            for change in changes {
                let cell = |key: &str| or_dash(text_at(change, key));
                let cells = [
                    cell("transition"),
                    cell("scope"),
                    cell("leader"),
                    cell("token"),
                    cell("term"),
                    cell("reason"),
                ];
                text.push_str(&line(cells));
            }
            text
        }
    }
}

/// A line of a table that grows, so that its widths are fixed.
fn line(cells: [String; 6]) -> String {
    let [event, scope, leader, token, term, reason] = cells;
    format!("{event:<13}  {scope:<24}  {leader:<16}  {token:<8}  {term:<5}  {reason}").trim_end().to_owned()
        + "\n"
}

async fn steer(edge: &Edge, args: &SteerArgs, verb: &str, to: Option<&str>) -> Result<ExitCode, Failure> {
    let mut body = json!({ "reason": args.reason });
    if let Some(to) = to {
        body["to"] = Value::from(to);
    }
    if let Some(token) = &args.token {
        body["token"] = Value::from(token.as_str());
    }
    let answer = edge.post(&format!("{PATH}/{}:{verb}", encode(&args.scope)), &body).await?;
    let leader = answer.get("leader").map_or(&answer, |leader| leader);
    let now = match text_at(leader, "leader") {
        name if name.is_empty() => "nobody leads it yet".to_owned(),
        name => format!("{name} leads it now, with token {}", text_at(leader, "token")),
    };
    output::message(format_args!("{}: the leader handed over; {now}", args.scope));
    Ok(ExitCode::SUCCESS)
}
