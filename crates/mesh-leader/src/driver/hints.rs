//! What membership says, as hints for the core.

use std::collections::BTreeSet;

use mesh_core::{Member, MemberChange, MemberEvent, MemberSnapshot, MemberState, NodeId};

use crate::MemberHint;

/// Metadata by which members tell of themselves; the same words that membership's own routes know.
const ZONE: &str = "zone";
const CORDONED: &str = "cordoned";
const DRAINING: &str = "draining";

/// Turns the words of membership into hints.
#[derive(Debug, Default)]
pub(super) struct Hints {
    known: BTreeSet<NodeId>,
}

impl Hints {
    pub(super) fn of_snapshot(&mut self, snapshot: &MemberSnapshot) -> Vec<MemberHint> {
        let now: BTreeSet<NodeId> = snapshot.all().map(|member| member.node_id.clone()).collect();
        let mut hints: Vec<MemberHint> =
            self.known.difference(&now).map(|node_id| unknown(node_id.clone())).collect();
        hints.extend(snapshot.all().map(|member| of(member)));
        self.known = now;
        hints
    }

    pub(super) fn of_event(&mut self, event: &MemberEvent) -> Vec<MemberHint> {
        match event {
            MemberEvent::Changed { change: MemberChange::Reclaimed, member, .. } => {
                self.known.remove(&member.node_id);
                vec![unknown(member.node_id.clone())]
            }
            MemberEvent::Changed { member, .. } => {
                self.known.insert(member.node_id.clone());
                vec![of(member)]
            }
            MemberEvent::Resynced(snapshot) => self.of_snapshot(snapshot),
            // A later kind of event: hints are not needed to be right.
            _ => Vec::new(),
        }
    }
}

/// Of a node that membership has forgotten, nothing is said: the lease alone counts.
fn unknown(node_id: NodeId) -> MemberHint {
    MemberHint { node_id, gone: false, shy: false, zone: None }
}

fn of(member: &Member) -> MemberHint {
    let flag = |key| member.metadata(key) == Some("true");
    MemberHint {
        node_id: member.node_id.clone(),
        gone: matches!(member.state, MemberState::Dead | MemberState::Left),
        shy: flag(CORDONED) || flag(DRAINING),
        zone: member.metadata(ZONE).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{InstanceId, Instant, Reason, Role};

    use super::*;

    fn member(name: &str, state: MemberState) -> Arc<Member> {
        let role = Role::new("worker").expect("a role");
        let mut member = Member::new(name.parse().expect("a node"), InstanceId(1), role, Instant::ZERO);
        member.state = state;
        member.metadata.insert(ZONE.into(), "z1".into());
        Arc::new(member)
    }

    #[test]
    fn only_the_confirmed_dead_and_those_who_left_are_gone() {
        let mut hints = Hints::default();
        for (state, gone) in [
            (MemberState::Alive, false),
            (MemberState::Suspect, false),
            (MemberState::Dead, true),
            (MemberState::Left, true),
        ] {
            let snapshot = MemberSnapshot::new(vec![member("n", state)]);
            let hint = hints.of_snapshot(&snapshot).remove(0);
            assert_eq!((hint.gone, hint.zone.as_deref()), (gone, Some("z1")), "{state}");
        }
    }

    #[test]
    fn who_is_forgotten_is_no_longer_called_dead() {
        let mut hints = Hints::default();
        hints.of_snapshot(&MemberSnapshot::new(vec![member("n", MemberState::Dead)]));
        let event = MemberEvent::Changed {
            change: MemberChange::Reclaimed,
            before: Some(MemberState::Dead),
            member: member("n", MemberState::Dead),
            reason: Reason::Reported,
            observers: Vec::new(),
            correlation_id: 0,
        };
        assert!(!hints.of_event(&event)[0].gone);
        hints.of_snapshot(&MemberSnapshot::new(vec![member("m", MemberState::Dead)]));
        let hints = hints.of_event(&MemberEvent::Resynced(MemberSnapshot::default()));
        assert_eq!(hints.len(), 1);
        assert!(!hints[0].gone);
    }
}
