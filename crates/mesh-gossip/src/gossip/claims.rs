//! Claims of death that come as repair: a chance to refute, without suspicion.
//!
//! After a partition each half holds the other for dead, and the tables that
//! are exchanged say so of members that live. Such a claim is no evidence. It is
//! passed on as a challenge until it reaches the member, which raises its
//! incarnation; nobody's state changes meanwhile and nobody probes. A claim that
//! stays unanswered is news that we missed, and is believed after a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_core::{Incarnation, InstanceId, Instant, NodeId, Reason};

use super::Gossip;
use crate::wire::Word;

/// How long a claim may stay unanswered, in times of the longest suspicion.
const PATIENCE: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Claim {
    run: (InstanceId, Incarnation),
    heard_at: Instant,
}

/// Claims that wait for an answer; at most one for each member of the table.
#[derive(Debug, Default)]
pub(super) struct Claims {
    open: BTreeMap<NodeId, Claim>,
}

impl Claims {
    pub(super) fn is_open(&self, node_id: &NodeId) -> bool {
        self.open.contains_key(node_id)
    }

    /// A newer word about the member came: the claim is answered or overtaken.
    pub(super) fn settle(&mut self, node_id: &NodeId) {
        self.open.remove(node_id);
    }

    pub(super) fn forgive(&mut self, late_by: Duration) {
        for claim in self.open.values_mut() {
            claim.heard_at += late_by;
        }
    }
}

impl Gossip {
    /// Somebody holds a live member for dead at the incarnation that we hold it alive at, or a later one.
    pub(super) fn challenge(&mut self, now: Instant, word: &Word, from: Option<&NodeId>) {
        let Some(record) = self.table.get(&word.node_id) else { return };
        let run = (word.instance, word.incarnation);
        let known = self.claims.open.get(&word.node_id).is_some_and(|c| c.run.1 >= run.1);
        if !record.member.state.is_live() || known {
            return;
        }
        if record.member.incarnation < run.1 {
            // It got that far while we did not hear from it.
            self.table.update(&word.node_id, |r| Arc::make_mut(&mut r.member).incarnation = run.1);
        }
        self.claims.open.insert(word.node_id.clone(), Claim { run, heard_at: now });
        self.push(now, &word.node_id, false, from, word.age_us);
    }

    pub(super) fn tend_claims(&mut self, now: Instant) {
        // A starved node believes less quickly, for as long as it is starved.
        let patience = self.config.suspicion_max * (PATIENCE + self.prober.lateness());
        let over: Vec<(NodeId, Claim)> = self
            .claims
            .open
            .iter()
            .filter(|(_, claim)| now.since(claim.heard_at) >= patience)
            .map(|(node_id, claim)| (node_id.clone(), *claim))
            .collect();
        for (node_id, claim) in over {
            self.claims.settle(&node_id);
            let held = self.table.get(&node_id).map(|r| &r.member);
            if held.is_some_and(|m| m.state.is_live() && m.incarnation <= claim.run.1) {
                self.becomes_dead(now, &node_id, claim.run, Reason::Reported, Vec::new(), None, 0);
            }
        }
    }
}
