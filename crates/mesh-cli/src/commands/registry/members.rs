//! `mesh registry members`

use std::process::ExitCode;

use serde_json::Value;

use super::PATH;
use crate::{
    args::OutputArgs,
    client::Edge,
    failure::{Exit, Failure},
    output::{self, Column, Listing, text_at},
};

/// Those that are not wide fit 80 columns with names of ordinary length.
const COLUMNS: &[Column] = &[
    Column { title: "NODE", wide: false, cell: |member| text_at(member, "node_id") },
    Column { title: "RAFT ID", wide: false, cell: |member| text_at(member, "raft_id") },
    Column { title: "ROLE", wide: false, cell: |member| text_at(member, "role") },
    Column { title: "ANSWERS", wide: false, cell: answers },
    Column { title: "BEHIND", wide: false, cell: |member| or_unknown(text_at(member, "behind")) },
    Column { title: "ADDRESS", wide: false, cell: |member| text_at(member, "addresses") },
    Column { title: "SILENT", wide: true, cell: silent },
];

pub(super) async fn run(edge: &Edge, args: OutputArgs) -> Result<ExitCode, Failure> {
    let reply = edge.get(&format!("{PATH}/members"), &[]).await?;
    let Some(members) = reply.get("items").and_then(Value::as_array) else {
        return Err(Failure::new(Exit::Failed, "the answer has no list `items`")
            .next("compare the versions of this command and of the node: mesh --version"));
    };
    let listing = Listing { kind: "members", name_key: "node_id", columns: COLUMNS, items: members };
    output::print(&listing.render(args.format))?;
    if reply.get("first_hand") == Some(&Value::Bool(false)) {
        output::message(format_args!(
            "this is what {} knows, which does not lead; the leader does not answer, so this may be old",
            text_at(&reply, "told_by")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn or_unknown(text: String) -> String {
    if text.is_empty() { "?".to_owned() } else { text }
}

fn answers(member: &Value) -> String {
    match member.get("answers").and_then(Value::as_bool) {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => "?".to_owned(),
    }
}

fn silent(member: &Value) -> String {
    let seconds = member.get("silent").and_then(Value::as_f64);
    seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1}s"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Format;

    #[test]
    fn what_is_not_known_is_a_question_mark() {
        let items = [
            json!({"node_id": "n1", "raft_id": 1, "role": "leader", "answers": true, "silent": 0.0, "behind": 0, "addresses": ["10.0.0.1:7480"]}),
            json!({"node_id": "n2", "raft_id": 17, "role": "learner", "answers": null, "silent": null, "behind": null, "addresses": []}),
        ];
        let listing = Listing { kind: "members", name_key: "node_id", columns: COLUMNS, items: &items };
        insta::assert_snapshot!(listing.render(Format::Wide), @"
        NODE  RAFT ID  ROLE     ANSWERS  BEHIND  ADDRESS        SILENT
        n1    1        leader   yes      0       10.0.0.1:7480  0.0s
        n2    17       learner  ?        ?       -              ?
        ");
    }
}
