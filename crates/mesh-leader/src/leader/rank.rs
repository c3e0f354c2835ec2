//! Who should lead a scope, among those who would: an order that all nodes compute alike.
//!
//! The order only spares the others a try. What decides is the grant in the store, so that nodes which
//! see different candidates for a moment still elect one.

use std::{cmp::Reverse, collections::BTreeMap};

use mesh_core::NodeId;
use xxhash_rust::xxh3::xxh3_64;

use super::view::{Candidate, ScopeView, View};
use crate::{MemberHint, Scope};

/// What makes one candidate better than another, the most important first: the smaller one is better.
///
/// Equal ones are told apart by a hash of scope and node, so that many scopes spread over many nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merit {
    /// It takes no new work.
    shy: bool,
    /// It leads another scope of the spread group.
    crowded: bool,
    /// Another one is preferred.
    passed_over: bool,
    /// Scopes of the spread group that are led from its zone.
    zone: u32,
    priority: Reverse<i32>,
}

impl Merit {
    /// Whether a candidate that is as healthy could be better without having a higher priority.
    pub(super) fn is_second_choice(&self) -> bool {
        self.shy || self.crowded || self.zone > 0 || self.passed_over
    }
}

/// What a ranking looks at.
pub(super) struct Electorate<'v> {
    pub(super) view: &'v View,
    pub(super) members: &'v BTreeMap<NodeId, MemberHint>,
    /// The preferred holder, as this node's settings have it; else the scope's record is asked.
    pub(super) preferred: Option<&'v NodeId>,
    /// Leases that this node is about to get, by spread group.
    pub(super) coming: &'v BTreeMap<String, u32>,
    pub(super) local: &'v NodeId,
    pub(super) ignore_spread: bool,
}

impl Electorate<'_> {
    /// The candidates that are not known to be gone, best first.
    pub(super) fn ranked(&self, scope: &Scope) -> Vec<(Merit, NodeId)> {
        let Some(view) = self.view.scope(scope) else { return Vec::new() };
        let mut ranked: Vec<_> = view
            .candidates
            .iter()
            .filter(|(node_id, _)| !self.members.get(*node_id).is_some_and(|hint| hint.gone))
            .map(|(node_id, candidate)| {
                let merit = self.merit(view, node_id, candidate);
                (merit, xxh3_64(format!("{scope}\n{node_id}").as_bytes()), node_id.clone())
            })
            .collect();
        ranked.sort();
        ranked.into_iter().map(|(merit, _, node_id)| (merit, node_id)).collect()
    }

    /// The merit of one candidate, its present lease of this scope not counted.
    pub(super) fn merit(&self, view: &ScopeView, node_id: &NodeId, candidate: &Candidate) -> Merit {
        let own = view.reign.as_ref();
        let mut node = 0;
        let mut zone = 0;
        if let Some(group) = candidate.value.spread.as_deref().filter(|_| !self.ignore_spread) {
            let counted = own.is_some_and(|reign| reign.spread.as_deref() == Some(group));
            node = self.view.spread.of_node(group, node_id);
            if counted && own.is_some_and(|reign| reign.holder == *node_id) {
                node -= 1;
            }
            if node_id == self.local {
                node += self.coming.get(group).copied().unwrap_or(0);
            }
            if let Some(of) = candidate.value.zone.as_deref() {
                zone = self.view.spread.of_zone(group, of);
                if counted && own.is_some_and(|reign| reign.zone.as_deref() == Some(of)) {
                    zone -= 1;
                }
            }
        }
        let recorded = view.record.as_ref().and_then(|(_, record)| record.preferred.as_ref());
        let preferred = self.preferred.or(recorded);
        Merit {
            shy: self.members.get(node_id).is_some_and(|hint| hint.shy),
            crowded: node > 0,
            passed_over: preferred.is_some_and(|preferred| preferred != node_id),
            zone,
            priority: Reverse(candidate.value.priority),
        }
    }
}
