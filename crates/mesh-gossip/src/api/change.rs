//! Changes of the membership as events.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::StreamExt;
use mesh_core::{Member, MemberChange, MemberEvent, MemberEvents, MemberSnapshot, MemberState, NodeId};
use mesh_transport::edge::{EventHub, Filter, NewEvent};
use serde::{Deserialize, Serialize};

use super::{
    SNAPSHOT_ITEMS_MAX, filter,
    view::{Peer, Views},
};

/// The members as the events so far left them.
pub(super) type Table = BTreeMap<NodeId, Arc<Member>>;

/// The data of a `change` event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerChange {
    /// `joined`, `suspected`, `refuted`, `recovered`, `died`, `left`, `updated` or `reclaimed`.
    pub change: String,
    /// The state before; `null` if it was unknown.
    pub before: Option<MemberState>,
    /// Why: `probe-timeout`. `resynced`: it happened while the stream could not keep
    /// up with the membership, and nothing more is known.
    pub reason: String,
    /// Who saw it, as far as known.
    pub observers: Vec<NodeId>,
    /// As in the log line of this transition, 16 hexadecimal digits; `null` if there is none.
    pub correlation_id: Option<String>,
    /// The member after the change.
    pub peer: Peer,
}

/// The data of a `snapshot` event: a part of all members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersSnapshot {
    /// The version of this form.
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// Which part this is, from 1.
    pub part: usize,
    /// How many there are. What came before the first part is to be forgotten.
    pub parts: usize,
    /// The members, by node id.
    pub items: Vec<Peer>,
}

/// A member before and after a change.
pub(super) struct Step {
    before: Option<Arc<Member>>,
    after: Arc<Member>,
}

impl Step {
    /// Whether a subscriber with this filter must hear of it. One who had the member
    /// in view must learn that it went out of it.
    pub(super) fn concerns(&self, filter: &Filter) -> bool {
        filter::keeps(filter, &self.after)
            || self.before.as_ref().is_some_and(|before| filter::keeps(filter, before))
    }
}

/// Publishes each change until the membership ends, and ends the streams then.
pub(super) async fn follow(hub: EventHub<Table, Step>, mut events: MemberEvents, views: Arc<Views>) {
    while let Some(event) = events.next().await {
        match event {
            MemberEvent::Changed { change, before, member, reason, observers, correlation_id } => {
                let told = Told {
                    change,
                    before,
                    reason: reason.as_str(),
                    observers,
                    correlation_id: Some(correlation_id),
                };
                hub.update(|table| apply(table, &views, member, told).into_iter().collect());
            }
            MemberEvent::Resynced(snapshot) => hub.update(|table| resync(table, &views, &snapshot)),
            // A later kind of event: the list still tells what it is about.
            _ => {}
        }
    }
    hub.close();
}

/// What came with a change.
struct Told {
    change: MemberChange,
    before: Option<MemberState>,
    reason: &'static str,
    observers: Vec<NodeId>,
    correlation_id: Option<u64>,
}

fn apply(table: &mut Table, views: &Views, member: Arc<Member>, told: Told) -> Option<NewEvent<Step>> {
    let before = if told.change == MemberChange::Reclaimed {
        table.remove(&member.node_id)
    } else {
        table.insert(member.node_id.clone(), member.clone())
    };
    let data = PeerChange {
        change: told.change.as_str().to_owned(),
        before: told.before,
        reason: told.reason.to_owned(),
        observers: told.observers,
        correlation_id: told.correlation_id.map(|id| format!("{id:016x}")),
        peer: views.peer(&member),
    };
    NewEvent::json("change", &data, Step { before, after: member })
        .inspect_err(|error| tracing::error!(%error, "a change of a peer can't be written as JSON"))
        .ok()
}

/// The changes that lead from the table to a snapshot.
fn resync(table: &mut Table, views: &Views, snapshot: &MemberSnapshot) -> Vec<NewEvent<Step>> {
    let told = |change, before: Option<MemberState>| Told {
        change,
        before,
        reason: "resynced",
        observers: Vec::new(),
        correlation_id: None,
    };
    let gone: Vec<Arc<Member>> =
        table.values().filter(|member| snapshot.find(&member.node_id).is_none()).cloned().collect();
    let mut events = Vec::new();
    for member in gone {
        let state = member.state;
        events.extend(apply(table, views, member, told(MemberChange::Reclaimed, Some(state))));
    }
    for member in snapshot.all() {
        let before = table.get(&member.node_id).cloned();
        if let Some(change) = difference(before.as_deref(), member) {
            let told = told(change, before.map(|before| before.state));
            events.extend(apply(table, views, member.clone(), told));
        }
    }
    events
}

fn difference(before: Option<&Member>, after: &Member) -> Option<MemberChange> {
    let Some(before) = before else { return Some(MemberChange::Joined) };
    if before.state == after.state {
        let mut expected = before.clone();
        expected.rtt = after.rtt;
        expected.load = after.load.clone();
        return (expected != *after).then_some(MemberChange::Updated);
    }
    Some(match after.state {
        MemberState::Suspect => MemberChange::Suspected,
        MemberState::Dead => MemberChange::Died,
        MemberState::Left => MemberChange::Left,
        MemberState::Alive if before.state == MemberState::Suspect => MemberChange::Refuted,
        MemberState::Alive if before.instance == after.instance => MemberChange::Recovered,
        MemberState::Alive => MemberChange::Joined,
    })
}

/// The members as the data of `snapshot` events; at least one, even if there are none.
pub(super) fn snapshot_pages(views: &Views, members: &[Arc<Member>]) -> Vec<String> {
    let pages: Vec<&[Arc<Member>]> =
        if members.is_empty() { vec![members] } else { members.chunks(SNAPSHOT_ITEMS_MAX).collect() };
    let parts = pages.len();
    pages
        .iter()
        .enumerate()
        .map(|(at, members)| PeersSnapshot {
            api_version: super::API_VERSION.to_owned(),
            observer: views.observer(),
            part: at + 1,
            parts,
            items: members.iter().map(|member| views.peer(member)).collect(),
        })
        // Texts, numbers and lists of them always serialize.
        .map(|page| serde_json::to_string(&page).unwrap_or_default())
        .collect()
}
