//! `mesh sync …`

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};

use super::{confirm::confirm, listing};
use crate::{
    args::{
        AnswerArgs, ConnectionArgs, DeadLettersArgs, DecideArgs, JoinArgs, PruneArgs, RetireArgs,
        SyncCommand, SyncListArgs, SyncNowArgs, SyncStatusArgs,
    },
    client::{Edge, encode},
    failure::{Exit, Failure},
    output::{self, Column, Format, Listing, Written, render_one, text_at},
};

const PATH: &str = "/control/v1/sync";
/// Longest wait for a prune of all datasets.
const PRUNE_MAX: Duration = Duration::from_secs(25);
/// Between two looks of `mesh sync status --watch`.
const LOOK: Duration = Duration::from_secs(1);

const DATASETS: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |dataset| text_at(dataset, "dataset") },
    Column { title: "ENTRIES", wide: false, cell: |dataset| text_at(dataset, "entries") },
    Column { title: "PEERS", wide: false, cell: |dataset| text_at(dataset, "tracked_peers") },
    Column { title: "LAGGING", wide: false, cell: |dataset| text_at(dataset, "lagging_peers") },
    Column { title: "LAG", wide: false, cell: |dataset| lag(dataset, "max_lag_ms") },
    Column {
        title: "UNCONFIRMED",
        wide: false,
        cell: |dataset| text_at(dataset, "peers_without_confirmation"),
    },
    Column { title: "DEAD", wide: false, cell: |dataset| text_at(dataset, "dead_letters") },
    Column { title: "BYTES", wide: true, cell: |dataset| text_at(dataset, "bytes") },
    Column { title: "SEQUENCE", wide: true, cell: |dataset| text_at(dataset, "sequence") },
];

const PEERS: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |peer| text_at(peer, "dataset") },
    Column { title: "NODE", wide: false, cell: |peer| text_at(peer, "node_id") },
    Column { title: "STATE", wide: false, cell: |peer| text_at(peer, "state") },
    Column { title: "LAG", wide: false, cell: |peer| lag(peer, "lag_ms") },
    Column { title: "QUEUED", wide: false, cell: |peer| text_at(peer, "queue_entries") },
    Column { title: "DEAD", wide: false, cell: |peer| text_at(peer, "dead_letters") },
    Column { title: "LAST SUCCESS", wide: false, cell: |peer| text_at(peer, "last_success") },
    Column { title: "CURSOR", wide: true, cell: |peer| text_at(peer, "cursor") },
    Column { title: "ADDRESSES", wide: true, cell: |peer| text_at(peer, "addresses") },
    Column { title: "LAST ERROR", wide: true, cell: |peer| text_at(peer, "last_error") },
];

const DEAD_LETTERS: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |letter| text_at(letter, "dataset") },
    Column { title: "NODE", wide: false, cell: |letter| text_at(letter, "node_id") },
    Column {
        title: "ENTRY",
        wide: false,
        cell: |letter| text_at(letter, "entry").chars().take(12).collect(),
    },
    Column { title: "ATTEMPTS", wide: false, cell: |letter| text_at(letter, "attempts") },
    Column { title: "GIVEN UP", wide: false, cell: |letter| text_at(letter, "time") },
    Column { title: "REASON", wide: false, cell: |letter| text_at(letter, "reason") },
];

const REQUESTS: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |request| text_at(request, "dataset") },
    Column { title: "NODE", wide: false, cell: |request| text_at(request, "node_id") },
    Column { title: "STATE", wide: false, cell: |request| text_at(request, "state") },
    Column { title: "ASKED", wide: false, cell: |request| text_at(request, "time") },
    Column {
        title: "AUTHOR",
        wide: false,
        cell: |request| text_at(request, "author").chars().take(12).collect(),
    },
    Column { title: "ADDRESSES", wide: true, cell: |request| text_at(request, "addresses") },
];

const ROUNDS: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |round| text_at(round, "dataset") },
    Column { title: "NODE", wide: false, cell: |round| text_at(round, "node_id") },
    Column { title: "OUTCOME", wide: false, cell: |round| text_at(round, "outcome") },
    Column { title: "DETAIL", wide: false, cell: |round| text_at(round, "detail") },
];

const PRUNES: &[Column] = &[
    Column { title: "DATASET", wide: false, cell: |prune| text_at(prune, "dataset") },
    Column { title: "ENTRIES", wide: false, cell: |prune| text_at(prune, "entries") },
    Column { title: "AUTHORS", wide: false, cell: |prune| text_at(prune, "authors") },
    Column { title: "HELD UP BY", wide: false, cell: |prune| text_at(prune, "held_up_by") },
    Column { title: "ORDER", wide: true, cell: |prune| text_at(prune, "ordered_by") },
];

/// Milliseconds as people read them.
fn lag(item: &Value, key: &str) -> String {
    let time = item.get(key).and_then(Value::as_u64).map(Duration::from_millis);
    time.map(|time| humantime::format_duration(time).to_string()).unwrap_or_default()
}

pub(super) async fn run(connection: &ConnectionArgs, command: SyncCommand) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    match command {
        SyncCommand::Status(args) if args.watch => watch(&edge, &args).await,
        SyncCommand::Status(args) => {
            output::print(&shown(&state(&edge).await?, args.output.format))?;
            Ok(ExitCode::SUCCESS)
        }
        SyncCommand::Now(args) => now(&edge, &args).await,
        SyncCommand::Peers(args) => list(&edge, "peers", "node_id", PEERS, &args, "no peer takes part").await,
        SyncCommand::DeadLetters(args) => dead_letters(&edge, &args).await,
        SyncCommand::Requests(args) => {
            list(&edge, "requests", "node_id", REQUESTS, &args, "nobody asks to be let in").await
        }
        SyncCommand::Ticket(args) => {
            let answer = edge.get(&format!("{PATH}/tickets/{}", encode(&args.dataset)), &[]).await?;
            output::print(&format!("{}\n", text_at(&answer, "ticket")))?;
            Ok(ExitCode::SUCCESS)
        }
        SyncCommand::Join(args) => join(&edge, &args).await,
        SyncCommand::Approve(args) => answer(&edge, &args, "approve").await,
        SyncCommand::Reject(args) => answer(&edge, &args, "reject").await,
        SyncCommand::Retire(args) => retire(&edge, &args).await,
        SyncCommand::Prune(args) => prune(&edge, &args).await,
    }
}

async fn state(edge: &Edge) -> Result<Value, Failure> {
    let mut reply = edge.get(PATH, &[]).await?;
    Ok(reply.get_mut("sync").map(Value::take).unwrap_or(reply))
}

/// The state; for people as a few lines, and a table of the datasets.
fn shown(state: &Value, format: Format) -> String {
    let wide = format == Format::Wide;
    render_one(state, format, "observer", || {
        let Value::Object(keys) = state else { return output::plain(state) };
        let lists = ["datasets", "peers"];
        let few = keys.iter().filter(|(key, _)| !lists.contains(&key.as_str()));
        let few: serde_json::Map<_, _> = few.map(|(key, value)| (key.clone(), value.clone())).collect();
        let datasets = state["datasets"].as_array().cloned().unwrap_or_default();
        let mut text = listing::describe(&Value::Object(few));
        if !datasets.is_empty() {
            text.push('\n');
            text.push_str(&output::table(DATASETS, &datasets, wide));
        }
        let peers = state["peers"].as_array().cloned().unwrap_or_default();
        if !peers.is_empty() {
            text.push('\n');
            text.push_str(&output::table(PEERS, &peers, wide));
        }
        text
    })
}

/// Prints the state whenever it is another, until Ctrl-C or until nobody reads any more.
async fn watch(edge: &Edge, args: &SyncStatusArgs) -> Result<ExitCode, Failure> {
    let format = if args.output.format == Format::Json { Format::Jsonl } else { args.output.format };
    let looks = async {
        let mut last = None;
        loop {
            let state = match state(edge).await {
                Ok(state) => state,
                // The first look must succeed; later ones may meet a node that restarts.
                Err(failure) if last.is_none() || failure.exit != Exit::Unreachable => return Err(failure),
                Err(failure) => {
                    output::message(format_args!("{}; trying again", failure.message));
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            if last.as_ref() != Some(&state) {
                let mut text = shown(&state, format);
                match format {
                    Format::Yaml => text.insert_str(0, "---\n"),
                    Format::Table | Format::Wide if last.is_some() => text.insert(0, '\n'),
                    _ => {}
                }
                if output::write(&text)? == Written::NobodyReads {
                    return Ok(());
                }
                last = Some(state);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        looked = looks => looked.map(|()| ExitCode::SUCCESS),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map(|()| ExitCode::SUCCESS).map_err(|error| Failure::from_error(Exit::Failed, &error))
        }
    }
}

/// Compares, and says for each peer what came of it. Not all equal is a partial success.
async fn now(edge: &Edge, args: &SyncNowArgs) -> Result<ExitCode, Failure> {
    let wait_ms = u64::try_from(args.wait.as_millis()).unwrap_or(u64::MAX);
    let mut body = json!({ "wait_ms": wait_ms });
    for (name, value) in [("dataset", &args.dataset), ("peer", &args.peer)] {
        if let Some(value) = value {
            body[name] = Value::from(value.as_str());
        }
    }
    let mut answer = edge.lasting(args.wait).post(&format!("{PATH}:now"), &body).await?;
    let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) else {
        return Err(Failure::new(Exit::Failed, "the answer has no list `items`")
            .next("compare the versions of this command and of the node: mesh --version"));
    };
    let listing = Listing { kind: "rounds", name_key: "node_id", columns: ROUNDS, items: &items };
    output::print(&listing.render(args.output.format))?;
    if items.is_empty() {
        output::message("no peer takes part");
    }
    let unequal = items.iter().filter(|item| text_at(item, "outcome") != "equal").count();
    if unequal == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let text = format!("{unequal} of {} are not equal within {:?}; sync goes on", items.len(), args.wait);
    Err(Failure::new(Exit::TimeoutOrPartial, text).next("see who is behind and why: mesh sync peers -o wide"))
}

async fn join(edge: &Edge, args: &JoinArgs) -> Result<ExitCode, Failure> {
    let body = json!({ "ticket": args.ticket, "note": args.note });
    let answer = edge.post(&format!("{PATH}:join"), &body).await?;
    let dataset = text_at(&answer, "dataset");
    match text_at(&answer, "state").as_str() {
        "granted" => output::message(format_args!("{dataset}: this node is let in, and fills up")),
        "pending" => output::message(format_args!(
            "{dataset}: an operator has to decide, at a node of the ticket: mesh sync approve {dataset} {}",
            text_at(&answer, "observer")
        )),
        _ => {
            let text = format!("{dataset}: this node was refused: {}", text_at(&answer, "reason"));
            return Err(
                Failure::new(Exit::Refused, text).next("ask an operator of the dataset to approve it")
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn dead_letters(edge: &Edge, args: &DeadLettersArgs) -> Result<ExitCode, Failure> {
    let verb = match (args.retry, args.drop) {
        (true, _) => "retry",
        (_, true) => "drop",
        _ => {
            let none = "nothing was given up";
            return list(edge, "dead-letters", "entry", DEAD_LETTERS, &args.list, none).await;
        }
    };
    let body = args.list.dataset.as_ref().map_or_else(|| json!({}), |dataset| json!({ "dataset": dataset }));
    let answer = edge.post(&format!("{PATH}/dead-letters:{verb}"), &body).await?;
    let done = if args.retry { "queued again" } else { "dropped" };
    output::message(format_args!("{} {done}", text_at(&answer, "entries")));
    Ok(ExitCode::SUCCESS)
}

async fn list(
    edge: &Edge,
    kind: &'static str,
    name_key: &'static str,
    columns: &[Column],
    args: &SyncListArgs,
    none: &str,
) -> Result<ExitCode, Failure> {
    let filters: Vec<_> =
        args.dataset.iter().map(|dataset| ("dataset".to_owned(), dataset.clone())).collect();
    let items = listing::all(edge, &format!("{PATH}/{kind}"), &filters).await?;
    let kind = if kind == "dead-letters" { "dead_letters" } else { kind };
    output::print(&Listing { kind, name_key, columns, items: &items }.render(args.output.format))?;
    if items.is_empty() {
        output::message(none);
    }
    Ok(ExitCode::SUCCESS)
}

fn named(DecideArgs { dataset, node, .. }: &DecideArgs) -> String {
    format!("{}/{}", encode(dataset), encode(node))
}

async fn answer(edge: &Edge, args: &AnswerArgs, verb: &str) -> Result<ExitCode, Failure> {
    let DecideArgs { dataset, node, reason } = &args.target;
    let mut body = json!({ "reason": reason.as_deref().unwrap_or_default() });
    if let Some(author) = &args.author {
        body["author"] = Value::from(author.as_str());
    }
    edge.post(&format!("{PATH}/requests/{}:{verb}", named(&args.target)), &body).await?;
    let done = if verb == "approve" { "is let in" } else { "is refused" };
    output::message(format_args!("{dataset}: {node} {done}"));
    Ok(ExitCode::SUCCESS)
}

async fn retire(edge: &Edge, args: &RetireArgs) -> Result<ExitCode, Failure> {
    let DecideArgs { dataset, node, .. } = &args.target;
    if !args.yes {
        let plan = format!(
            "{dataset}: nobody will wait for {node} any more; what it has not confirmed may be pruned, and if it comes \
             back it must take everything anew"
        );
        confirm(&plan, &format!("{node} was not retired")).await?;
    }
    let body = json!({ "reason": args.target.reason.as_deref().unwrap_or_default() });
    edge.post(&format!("{PATH}/peers/{}:retire", named(&args.target)), &body).await?;
    output::message(format_args!("{dataset}: {node} is retired, nobody waits for it any more"));
    Ok(ExitCode::SUCCESS)
}

async fn prune(edge: &Edge, args: &PruneArgs) -> Result<ExitCode, Failure> {
    let ask = async |dry_run: bool| {
        let mut body = json!({ "dry_run": dry_run });
        if let Some(dataset) = &args.dataset {
            body["dataset"] = Value::from(dataset.as_str());
        }
        let mut answer = edge.lasting(PRUNE_MAX).post(&format!("{PATH}:prune"), &body).await?;
        match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(Failure::new(Exit::Failed, "the answer has no list `items`")
                .next("compare the versions of this command and of the node: mesh --version")),
        }
    };
    if !args.dry_run && !args.yes {
        let items = ask(true).await?;
        let entries: u64 = items.iter().filter_map(|item| item["entries"].as_u64()).sum();
        let plan =
            format!("about {entries} entries that are worth nothing any more go, on all nodes and for good");
        confirm(&plan, "nothing was pruned").await?;
    }
    let items = ask(args.dry_run).await?;
    let listing = Listing { kind: "prunes", name_key: "dataset", columns: PRUNES, items: &items };
    output::print(&listing.render(args.output.format))?;
    let waits = |item: &&Value| item["held_up_by"].as_array().is_some_and(|peers| !peers.is_empty());
    if items.iter().any(|item| waits(&item)) {
        output::message(
            "some peers have not confirmed all of it; retire those that are gone for good: mesh sync retire",
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_a_few_lines_and_a_table_of_datasets_and_of_peers() {
        let state = json!({
            "observer": "n-1", "health": "ok", "tracked_peers": 1, "lagging_peers": 1, "max_lag_ms": 1500,
            "peers_without_confirmation": 0,
            "datasets": [{"dataset": "notes", "entries": 7, "tracked_peers": 1, "lagging_peers": 1,
                "max_lag_ms": 1500, "peers_without_confirmation": 0, "dead_letters": 0}],
            "peers": [{"dataset": "notes", "node_id": "n-2", "state": "behind", "lag_ms": 1500,
                "queue_entries": 3, "dead_letters": 0, "last_success": null}],
        });
        insta::assert_snapshot!(shown(&state, Format::Table), @"
        health:                     ok
        lagging_peers:              1
        max_lag_ms:                 1500
        observer:                   n-1
        peers_without_confirmation: 0
        tracked_peers:              1

        DATASET  ENTRIES  PEERS  LAGGING  LAG       UNCONFIRMED  DEAD
        notes    7        1      1        1s 500ms  0            0

        DATASET  NODE  STATE   LAG       QUEUED  DEAD  LAST SUCCESS
        notes    n-2   behind  1s 500ms  3       0     -
        ");
        assert_eq!(shown(&state, Format::Name), "n-1\n");
        assert_eq!(shown(&state, Format::Jsonl).lines().count(), 1);
    }
}
