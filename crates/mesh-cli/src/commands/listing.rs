//! What lists have in common: pages of items, and streams of events.

use std::{process::ExitCode, time::Duration};

use serde_json::Value;

use crate::{
    client::Edge,
    failure::{Exit, Failure},
    output::{self, Format, Written, render_one},
};

/// Items asked for at once.
const PAGE: usize = 1000;
/// Wait before a broken stream is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// All items of a list, page by page.
pub(super) async fn all(
    edge: &Edge,
    path: &str,
    filters: &[(String, String)],
) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = filters.to_vec();
        query.push(("limit".to_owned(), PAGE.to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor".to_owned(), cursor)));
        let mut page = edge.get(path, &query).await?;
        let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
            return Err(Failure::new(Exit::Failed, format!("the answer to {path} has no list `items`"))
                .next("compare the versions of this command and of the node: mesh --version"));
        };
        let got = items.len();
        all.extend(items);
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() || got == 0 {
            return Ok(all);
        }
    }
}

/// Hands every event to `print`, and comes back when the stream breaks, until Ctrl-C or until nobody
/// reads any more.
pub(super) async fn follow(
    edge: &Edge,
    path: &str,
    query: &[(String, String)],
    print: impl FnMut(&str, &Value) -> Result<Written, Failure>,
) -> Result<ExitCode, Failure> {
    tokio::select! {
        followed = follow_for_ever(edge, path, query, print) => followed.map(|()| ExitCode::SUCCESS),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map(|()| ExitCode::SUCCESS).map_err(|error| Failure::from_error(Exit::Failed, &error))
        }
    }
}

async fn follow_for_ever(
    edge: &Edge,
    path: &str,
    query: &[(String, String)],
    mut print: impl FnMut(&str, &Value) -> Result<Written, Failure>,
) -> Result<(), Failure> {
    let mut last_event_id: Option<String> = None;
    loop {
        let mut stream = match edge.events(path, query, last_event_id.as_deref()).await {
            Ok(stream) => stream,
            // The first attempt must succeed; later ones may meet a node that restarts.
            Err(failure) if last_event_id.is_none() || failure.exit != Exit::Unreachable => {
                return Err(failure);
            }
            Err(failure) => {
                output::message(format_args!("{}; trying again", failure.message));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let broken = loop {
            match stream.next().await {
                Ok(Some(event)) if event.event != "end" => {
                    if print(&event.event, &parse(&event.event, &event.data)?)? == Written::NobodyReads {
                        return Ok(());
                    }
                }
                Ok(_) => break "the node ended the stream".to_owned(),
                Err(failure) => break failure.message,
            }
        };
        last_event_id = stream.last_event_id().map(str::to_owned).or(last_event_id);
        output::message(format_args!("{broken}; connecting again"));
        tokio::time::sleep(RETRY).await;
    }
}

fn parse(name: &str, data: &str) -> Result<Value, Failure> {
    serde_json::from_str(data).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .while_doing(format!("the data of event {name:?} is not JSON"))
    })
}

/// An event as a document of its own.
pub(super) fn document(name: &str, data: &Value, format: Format) -> String {
    let mut event = serde_json::json!({ "event": name });
    if let (Some(event), Value::Object(data)) = (event.as_object_mut(), data) {
        event.extend(data.clone());
    }
    render_one(&event, format, "event", String::new)
}

/// Every key with its value, one on each line.
pub(super) fn describe(item: &Value) -> String {
    let Value::Object(keys) = item else { return format!("{}\n", output::plain(item)) };
    let width = keys.keys().map(|key| key.chars().count()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (key, value) in keys {
        let lines = match value {
            Value::Object(nested) if !nested.is_empty() => {
                nested.iter().map(|(key, value)| format!("{key}={}", output::plain(value))).collect()
            }
            Value::Array(items) if !items.is_empty() => items.iter().map(output::plain).collect(),
            other => vec![output::plain(other)],
        };
        for (at, line) in lines.iter().enumerate() {
            let title = if at == 0 { format!("{key}:") } else { String::new() };
            let line = if line.is_empty() { "-" } else { line };
            text.push_str(&format!("{title:width$} {line}\n"));
        }
    }
    text
}
