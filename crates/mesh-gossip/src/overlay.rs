//! Who observes whom: the members in order on K hash rings, each observing its successor.
//!
//! Two nodes with the same view compute the same edges; a change of one member
//! moves O(K) of them. K grows with the logarithm of the cluster's size. The
//! idea of ring-based observers is Rapid's (Suresh et al., ATC 2018, section 4.1).

use std::collections::BTreeSet;

use mesh_core::NodeId;

use crate::table::Table;

/// Rings whose edges also carry pushed changes. More would only repeat them.
pub(crate) const PUSH_RINGS: usize = 3;

/// One node's place in the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// Members this node probes.
    pub(crate) subjects: BTreeSet<NodeId>,
    /// Members that probe this node.
    pub(crate) observers: BTreeSet<NodeId>,
    /// Neighbours on the rings that carry pushed changes.
    pub(crate) push: BTreeSet<NodeId>,
}

/// Rings for a cluster of this size: ⌈log₂ n⌉, between 4 and 16.
pub(crate) fn rings(members: usize, configured: usize) -> usize {
    if configured > 0 {
        return configured;
    }
    let log = usize::BITS - members.saturating_sub(1).leading_zeros();
    (log as usize).clamp(4, 16)
}

/// Position of a name on a ring (the finaliser of SplitMix64 over hash and ring).
fn position(name_hash: u64, ring: usize) -> u64 {
    let mut z = name_hash ^ (ring as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The nearest live members before and after `node_id` on each ring, in ring order.
fn neighbours(table: &Table, node_id: &NodeId, rings: usize) -> Vec<(NodeId, NodeId)> {
    let Some(own) = table.get(node_id).map(|r| r.name_hash) else { return Vec::new() };
    let here: Vec<u64> = (0..rings).map(|ring| position(own, ring)).collect();
    let mut best: Vec<Option<(u64, &NodeId, u64, &NodeId)>> = vec![None; rings];
    for record in table.live().filter(|r| r.member.node_id != *node_id) {
        let name = &record.member.node_id;
        for (ring, best) in best.iter_mut().enumerate() {
            let ahead = position(record.name_hash, ring).wrapping_sub(here[ring]);
            let behind = ahead.wrapping_neg();
            match best {
                None => *best = Some((behind, name, ahead, name)),
                Some((b, before, a, after)) => {
                    if behind < *b {
                        (*b, *before) = (behind, name);
                    }
                    if ahead < *a {
                        (*a, *after) = (ahead, name);
                    }
                }
            }
        }
    }
    best.into_iter().flatten().map(|(_, before, _, after)| (before.clone(), after.clone())).collect()
}

impl Overlay {
    /// The place of `local` among the live members of `table`.
    pub(crate) fn compute(table: &Table, local: &NodeId, rings: usize) -> Self {
        let mut overlay = Self::default();
        for (ring, (before, after)) in neighbours(table, local, rings).into_iter().enumerate() {
            if ring < PUSH_RINGS {
                overlay.push.extend([before.clone(), after.clone()]);
            }
            overlay.observers.insert(before);
            overlay.subjects.insert(after);
        }
        overlay
    }

    /// Whether the overlay wants a link to `peer`.
    pub(crate) fn wants(&self, peer: &NodeId) -> bool {
        self.subjects.contains(peer) || self.observers.contains(peer)
    }

    /// Members that the overlay wants links to.
    pub(crate) fn wanted(&self) -> usize {
        self.subjects.union(&self.observers).count()
    }
}

/// The observers of any member, by the same rule.
pub(crate) fn observers_of(table: &Table, subject: &NodeId, rings: usize) -> BTreeSet<NodeId> {
    neighbours(table, subject, rings).into_iter().map(|(before, _)| before).collect()
}

/// Edges of the whole overlay, for tests of its shape.
#[cfg(test)]
fn all(table: &Table, rings: usize) -> std::collections::BTreeMap<NodeId, Overlay> {
    table
        .live()
        .map(|r| (r.member.node_id.clone(), Overlay::compute(table, &r.member.node_id, rings)))
        .collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::{InstanceId, Instant, Member, Role};

    use super::*;
    use crate::table::Record;

    fn table(names: impl Iterator<Item = usize>) -> Table {
        let role: Role = "worker".parse().expect("valid role");
        let mut table = Table::default();
        for i in names {
            let id = format!("node-{i}").parse().expect("valid id");
            table.insert(Record::new(Member::new(id, InstanceId(1), role.clone(), Instant::ZERO), 0));
        }
        table
    }

    #[test]
    fn observers_and_subjects_mirror_each_other() {
        let table = table(0..60);
        let overlays = all(&table, rings(60, 0));
        for (name, overlay) in &overlays {
            assert!(!overlay.subjects.contains(name));
            for subject in &overlay.subjects {
                assert!(overlays[subject].observers.contains(name));
            }
            assert_eq!(&observers_of(&table, name, 6), &overlay.observers);
        }
    }

    #[test]
    fn one_change_moves_few_edges() {
        let before = all(&table(0..200), 8);
        let after = all(&table(0..201), 8);
        let moved: usize =
            before.iter().map(|(n, o)| after[n].subjects.difference(&o.subjects).count()).sum();
        assert!(moved <= 8, "{moved} edges moved");
    }

    #[test]
    fn small_clusters_observe_everybody() {
        let overlays = all(&table(0..2), 4);
        assert!(overlays.values().all(|o| o.subjects.len() == 1 && o.observers.len() == 1));
        assert!(all(&table(0..1), 4).values().all(|o| o.wanted() == 0));
    }

    #[test]
    fn rings_grow_with_the_logarithm() {
        assert_eq!([1, 3, 16, 17, 200, 1000, 1 << 20].map(|n| rings(n, 0)), [4, 4, 4, 5, 8, 10, 16]);
        assert_eq!(rings(1000, 5), 5);
    }
}
