//! Transitions as server-sent events.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{FencingToken, NodeId, WallTime};
use mesh_transport::edge::{EventHub, Filter, NewEvent, rfc3339};
use serde::{Deserialize, Serialize};

use crate::{LeaderView, Leadership, LeadershipEvent, Notice, Reason, Scope, Subscription, Transition};

/// Scopes in one `snapshot` event.
const SNAPSHOT_ITEMS_MAX: usize = 200;

/// Who leads, as the events so far left it.
pub(super) type Table = BTreeMap<Scope, Change>;

/// The data of an event of leadership; in a snapshot, how a scope stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What happened: `observed`, `elected`, `renewed`, `lost`, `expired`, `stepped-down` or `fenced`. In a
    /// snapshot the first two say that somebody leads, and the last four that nobody does.
    pub transition: String,
    /// To which scope.
    pub scope: Scope,
    /// `global-control`, `shard` or `user`.
    pub scope_kind: String,
    /// Who leads from here on, or did until here.
    pub leader: Option<NodeId>,
    /// The fencing token of that reign: `1.42`.
    pub token: Option<FencingToken>,
    /// Its number.
    pub term: u64,
    /// Why.
    pub reason: String,
    /// As in the log lines of this reign, 16 hexadecimal digits.
    pub correlation_id: String,
    /// When the answering node saw it, RFC 3339.
    pub time: String,
}

/// The data of a `snapshot` event: a part of all scopes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeadersSnapshot {
    /// The version of this form, [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// Which part this is, from 1.
    pub part: usize,
    /// How many there are. What came before the first part is to be forgotten.
    pub parts: usize,
    /// How each scope stands, by name.
    pub items: Vec<Change>,
}

impl Change {
    fn of_event(event: &LeadershipEvent) -> Self {
        Self {
            transition: event.transition.as_str().to_owned(),
            scope: event.scope.clone(),
            scope_kind: event.scope.kind().as_str().to_owned(),
            leader: Some(event.leader.clone()),
            token: Some(event.token),
            term: event.term,
            reason: event.reason.as_str().to_owned(),
            correlation_id: format!("{:016x}", event.correlation_id),
            time: rfc3339(event.wall),
        }
    }

    /// How a scope stands, found without having seen how it came about.
    fn found(view: &LeaderView, local: &NodeId, at: WallTime) -> Self {
        let transition = match &view.leader {
            Some(leader) if leader == local => Transition::Elected,
            Some(_) => Transition::Observed,
            None => Transition::Expired,
        };
        Self {
            transition: transition.as_str().to_owned(),
            scope: view.scope.clone(),
            scope_kind: view.scope.kind().as_str().to_owned(),
            leader: view.leader.clone(),
            token: view.token,
            term: view.term,
            reason: Reason::Found.as_str().to_owned(),
            correlation_id: format!("{:016x}", view.correlation_id),
            time: rfc3339(at),
        }
    }

    fn passes(&self, filter: &Filter) -> bool {
        filter.is_empty()
            || filter.keeps(
                |field| match field {
                    "scope" => vec![self.scope.as_str()],
                    "scope_kind" => vec![self.scope_kind.as_str()],
                    "leader" => self.leader.iter().map(|leader| leader.as_str()).collect(),
                    "transition" => vec![self.transition.as_str()],
                    _ => Vec::new(),
                },
                || [self.scope.as_str(), self.reason.as_str()],
            )
    }
}

/// What filters of subscribers look at.
pub(super) struct Told(Change);

impl Told {
    pub(super) fn passes(&self, filter: &Filter) -> bool {
        self.0.passes(filter)
    }
}

/// How all scopes stand, and what comes after; without a subscription if no further one fits.
pub(super) fn begin(leadership: &Leadership) -> (Table, Option<Subscription>) {
    let mut table = Table::new();
    match leadership.subscribe(None) {
        Ok(mut subscription) => {
            if let Some(Notice::Snapshot { leaders, .. }) = subscription.ready() {
                resync(&mut table, &leaders, leadership.node_id());
            }
            (table, Some(subscription))
        }
        Err(error) => {
            tracing::error!(%error, "events of leadership can't be served");
            (table, None)
        }
    }
}

/// Publishes each transition until leadership ends, and ends the streams then.
pub(super) async fn follow(hub: EventHub<Table, Told>, subscription: Option<Subscription>, local: NodeId) {
    if let Some(mut subscription) = subscription {
        while let Some(notice) = subscription.next().await {
            match notice {
                Notice::Snapshot { leaders, .. } => hub.update(|table| resync(table, &leaders, &local)),
                Notice::Event { event, .. } => {
                    hub.update(|table| entered(table, &event).into_iter().collect());
                }
            }
        }
    }
    hub.close();
}

fn entered(table: &mut Table, event: &Arc<LeadershipEvent>) -> Option<NewEvent<Told>> {
    let change = Change::of_event(event);
    // The end of an earlier reign says nothing about the present one.
    let stale = table.get(&event.scope).is_some_and(|held| held.token > Some(event.token));
    if !stale {
        table.insert(event.scope.clone(), change.clone());
    }
    new_event(event.transition.as_str(), change)
}

fn new_event(name: &'static str, change: Change) -> Option<NewEvent<Told>> {
    NewEvent::json(name, &change, Told(change.clone()))
        .inspect_err(|error| tracing::error!(%error, "a change of leadership can't be written as JSON"))
        .ok()
}

/// The changes that lead from the table to a snapshot.
fn resync(table: &mut Table, leaders: &[LeaderView], local: &NodeId) -> Vec<NewEvent<Told>> {
    let mut events = Vec::new();
    for view in leaders {
        let found = Change::found(view, local, view.since);
        let same = table.get(&view.scope).is_some_and(|held| {
            let led = |change: &Change| matches!(&*change.transition, "observed" | "elected" | "renewed");
            held.token == found.token && led(held) == led(&found)
        });
        if same {
            continue;
        }
        table.insert(view.scope.clone(), found.clone());
        let name = match &view.leader {
            Some(leader) if leader == local => Transition::Elected,
            Some(_) => Transition::Observed,
            None => Transition::Expired,
        };
        events.extend(new_event(name.as_str(), found));
    }
    events
}

/// The part of the table that a subscriber's filter lets through.
pub(super) fn captured(table: &Table, filter: &Filter) -> Vec<Change> {
    table.values().filter(|change| change.passes(filter)).cloned().collect()
}

/// Scopes as the data of `snapshot` events; at least one, even if there are none.
pub(super) fn snapshot_pages(observer: &NodeId, leaders: &[Change]) -> Vec<String> {
    let pages: Vec<&[Change]> =
        if leaders.is_empty() { vec![leaders] } else { leaders.chunks(SNAPSHOT_ITEMS_MAX).collect() };
    let parts = pages.len();
    pages
        .iter()
        .enumerate()
        .map(|(at, items)| LeadersSnapshot {
            api_version: super::API_VERSION.to_owned(),
            observer: observer.clone(),
            part: at + 1,
            parts,
            items: items.to_vec(),
        })
        // Texts, numbers and lists of them always serialize.
        .map(|page| serde_json::to_string(&page).unwrap_or_default())
        .collect()
}
