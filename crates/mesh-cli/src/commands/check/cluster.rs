//! Checks through the control API.

use mesh::core::{Clock, SystemClock};
use serde_json::Value;

use super::{Outcome, Subject};
use crate::{client::Edge, commands::peers, failure::Failure, output::text_at};

/// Clocks that differ by more than this confuse people who read logs.
const SKEW_WARNING_S: u64 = 5;
/// Clocks that differ by more than this make certificates look early or late.
const SKEW_FAILED_S: u64 = 60;

fn edge(subject: &Subject) -> Result<&Edge, Outcome> {
    subject.edge.as_ref().map_err(|failure| Outcome::skipped(failure.message.clone()))
}

fn failed(failure: Failure) -> Outcome {
    let hint = failure.next.unwrap_or_else(|| "look at the node's log".to_owned());
    Outcome::failed(failure.message, hint)
}

pub(super) async fn edge_answers(subject: &Subject) -> Outcome {
    let edge = match edge(subject) {
        Ok(edge) => edge,
        Err(skipped) => return skipped,
    };
    let mut silent = Vec::new();
    for address in edge.addresses() {
        match edge.at(address).page("/healthz").await {
            Ok((status, _)) if status.is_success() => {}
            Ok((status, _)) => silent.push(format!("{address} answers {status}")),
            Err(failure) => silent.push(failure.message),
        }
    }
    let all = edge.addresses().len();
    match silent.len() {
        0 => Outcome::ok(format!("{all} of {all} addresses answer")),
        bad if bad == all => {
            Outcome::failed(silent.join("; "), "start the cluster, or choose another --context")
        }
        _ => Outcome::warning(
            silent.join("; "),
            "start those nodes, or take their addresses out of the context",
        ),
    }
}

pub(super) async fn clocks(subject: &Subject) -> Outcome {
    let edge = match edge(subject) {
        Ok(edge) => edge,
        Err(skipped) => return skipped,
    };
    let theirs = match edge.date().await {
        Ok(Some(date)) => date,
        Ok(None) => return Outcome::skipped("the node does not say what time it is"),
        Err(failure) => return Outcome::skipped(failure.message),
    };
    skew(SystemClock.wall().0 / 1000, theirs)
}

fn skew(ours_s: u64, theirs_s: u64) -> Outcome {
    let apart = ours_s.abs_diff(theirs_s);
    let direction = if ours_s < theirs_s { "behind" } else { "ahead of" };
    let text = format!("this machine is {apart} s {direction} the node");
    let hint = "set the clocks by NTP on both machines";
    match apart {
        0..=1 => Outcome::ok("they differ by a second at most"),
        2..=SKEW_WARNING_S => Outcome::ok(text),
        apart if apart <= SKEW_FAILED_S => Outcome::warning(text, hint),
        _ => Outcome::failed(text, hint),
    }
}

pub(super) async fn ready(subject: &Subject) -> Outcome {
    let edge = match edge(subject) {
        Ok(edge) => edge,
        Err(skipped) => return skipped,
    };
    match edge.page("/readyz").await {
        Err(failure) => failed(failure),
        Ok((status, _)) if status.is_success() => Outcome::ok(""),
        Ok((status, body)) => {
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            let reasons = body["reasons"].as_array().map(Vec::as_slice).unwrap_or_default();
            let lines =
                |key: &str| reasons.iter().map(|reason| text_at(reason, key)).collect::<Vec<_>>().join("; ");
            if reasons.is_empty() {
                return Outcome::failed(format!("the node answers {status}"), "look at the node's log");
            }
            Outcome::failed(lines("detail"), lines("action"))
        }
    }
}

pub(super) async fn alive(subject: &Subject) -> Outcome {
    let edge = match edge(subject) {
        Ok(edge) => edge,
        Err(skipped) => return skipped,
    };
    match peers::all(edge, &[]).await {
        Err(failure) => failed(failure),
        Ok(members) => liveness(&members),
    }
}

fn liveness(members: &[Value]) -> Outcome {
    let in_state = |state: &str| -> Vec<String> {
        members
            .iter()
            .filter(|member| member["state"] == state)
            .map(|member| text_at(member, "node_id"))
            .collect()
    };
    let (alive, suspect, dead) = (in_state("alive"), in_state("suspect"), in_state("dead"));
    if !dead.is_empty() {
        return Outcome::failed(
            format!("{} alive; dead: {}", alive.len(), dead.join(", ")),
            format!(
                "mesh peers show {}; start it again, or let it be forgotten after gossip.tombstone_ttl",
                dead[0]
            ),
        );
    }
    if !suspect.is_empty() {
        return Outcome::warning(
            format!("{} alive; suspect: {}", alive.len(), suspect.join(", ")),
            "look again in a few seconds: mesh check --only peers.alive",
        );
    }
    Outcome::ok(format!("{} alive", alive.len()))
}

pub(super) async fn sync(subject: &Subject) -> Outcome {
    let edge = match edge(subject) {
        Ok(edge) => edge,
        Err(skipped) => return skipped,
    };
    match edge.page("/control/v1/sync").await {
        Err(failure) => failed(failure),
        Ok((status, body)) => {
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            match status.is_success() {
                true => in_sync(&body["sync"]),
                false if body["code"] == "sync.off" => Outcome::skipped("the node keeps no dataset"),
                false => Outcome::failed(format!("the node answers {status}"), "look at the node's log"),
            }
        }
    }
}

fn in_sync(state: &Value) -> Outcome {
    let list = |key: &str| state[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let datasets = list("datasets");
    let letters: u64 = datasets.iter().filter_map(|dataset| dataset["dead_letters"].as_u64()).sum();
    let problems = list("problems").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
    let hint = "see who is behind and why: mesh sync peers -o wide";
    match text_at(state, "health").as_str() {
        "ok" if letters == 0 => {
            Outcome::ok(format!("{} datasets, {} peers", datasets.len(), list("peers").len()))
        }
        "ok" => Outcome::warning(
            format!("{letters} dead letters"),
            "see the reasons: mesh sync dead-letters; then --retry or --drop",
        ),
        "degraded" => Outcome::warning(problems, hint),
        _ => Outcome::failed(problems, hint),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clocks_that_differ_are_told_by_how_much() {
        let texts: Vec<String> =
            [1000, 1004, 1030, 2000, 900].map(|theirs| format!("{:?}", skew(1000, theirs))).into();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        Outcome { status: Ok, detail: "they differ by a second at most", hint: "" }
        Outcome { status: Ok, detail: "this machine is 4 s behind the node", hint: "" }
        Outcome { status: Warning, detail: "this machine is 30 s behind the node", hint: "set the clocks by NTP on both machines" }
        Outcome { status: Failed, detail: "this machine is 1000 s behind the node", hint: "set the clocks by NTP on both machines" }
        Outcome { status: Failed, detail: "this machine is 100 s ahead of the node", hint: "set the clocks by NTP on both machines" }
        "#);
    }

    #[test]
    fn sync_is_as_well_as_its_worst_peer_and_dead_letters_are_told() {
        let state = |health: &str, letters: u64| {
            json!({ "health": health, "problems": ["n-2 is away"], "peers": [{}, {}],
                "datasets": [{ "dead_letters": letters }] })
        };
        let texts = [("ok", 0), ("ok", 3), ("degraded", 0), ("unhealthy", 0)]
            .map(|(health, letters)| format!("{:?}", in_sync(&state(health, letters))));
        insta::assert_snapshot!(texts.join("\n"), @r#"
        Outcome { status: Ok, detail: "1 datasets, 2 peers", hint: "" }
        Outcome { status: Warning, detail: "3 dead letters", hint: "see the reasons: mesh sync dead-letters; then --retry or --drop" }
        Outcome { status: Warning, detail: "n-2 is away", hint: "see who is behind and why: mesh sync peers -o wide" }
        Outcome { status: Failed, detail: "n-2 is away", hint: "see who is behind and why: mesh sync peers -o wide" }
        "#);
    }

    #[test]
    fn dead_members_are_named_and_those_that_left_are_no_problem() {
        let member = |name: &str, state: &str| json!({ "node_id": name, "state": state });
        let good = [member("a", "alive"), member("b", "left")];
        assert_eq!(liveness(&good), Outcome::ok("1 alive"));
        let bad = [member("a", "alive"), member("b", "dead"), member("c", "suspect")];
        insta::assert_snapshot!(format!("{:?}", liveness(&bad)), @r#"Outcome { status: Failed, detail: "1 alive; dead: b", hint: "mesh peers show b; start it again, or let it be forgotten after gossip.tombstone_ttl" }"#);
    }
}
