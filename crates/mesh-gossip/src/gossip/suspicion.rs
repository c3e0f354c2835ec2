//! How long a suspect has to refute.
//!
//! Lifeguard (Dadgar et al., 2017, section IV-B): the time shrinks from its
//! maximum to its minimum as independent observers confirm. Two additions: an
//! address that refuses connections for enough observers cuts the time to a
//! floor, and who is no observer waits longer, so that the verdict is the observers'.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::{Instant, MemberChange, MemberState, NodeId, Reason};

use super::{Gossip, members::Source};
use crate::{config::GossipConfig, overlay, planted::PlantedBug, wire::Word};

/// Accusers that make a suspicion as sure as it gets.
const ACCUSERS_WANTED: usize = 3;
/// Accusers that are remembered.
const ACCUSERS_KEPT: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    started: Instant,
    accusers: BTreeSet<NodeId>,
    refused_by: BTreeSet<NodeId>,
    /// Accusers, and refusals, that make it sure: three, or all observers if there are fewer.
    wanted: usize,
    /// Whether we observe the member ourselves.
    observer: bool,
    deadline: Instant,
}

impl Suspicion {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn accusers(&self) -> impl Iterator<Item = &NodeId> {
        self.accusers.iter()
    }

    pub(super) fn refused_by(&self) -> impl Iterator<Item = &NodeId> {
        self.refused_by.iter()
    }

    pub(super) fn forgive(&mut self, late_by: Duration) {
        self.started += late_by;
        self.deadline += late_by;
    }

    fn refused(&self) -> bool {
        self.refused_by.len() >= self.wanted
    }

    fn settle(&mut self, now: Instant, config: &GossipConfig, health_score: u32) {
        let time = if self.refused() {
            config.suspicion_refused
        } else {
            time_to_refute(config.suspicion_min, config.suspicion_max, self.accusers.len(), self.wanted)
        };
        // An ill node gives others more time; one that does not observe leaves the verdict to those who do.
        let time = time + time * health_score / 8;
        let time = if self.observer { time } else { time * 2 + Duration::from_millis(500) };
        // A deadline in the past would look as if our own timer had been late.
        self.deadline = (self.started + time).max(now);
    }
}

/// From `max` with one accuser to `min` with `wanted`, by the logarithm.
fn time_to_refute(min: Duration, max: Duration, accusers: usize, wanted: usize) -> Duration {
    if wanted <= 1 || accusers >= wanted {
        return min;
    }
    let share = (accusers.max(1) as f64).ln() / (wanted as f64).ln();
    max.saturating_sub((max - min).mul_f64(share.clamp(0.0, 1.0))).max(min)
}

impl Gossip {
    /// Our own probe of a subject failed.
    pub(super) fn suspect(&mut self, now: Instant, subject: &NodeId, refused: bool) {
        let accuser = BTreeSet::from([self.local.node_id().clone()]);
        let refused_by = if refused { accuser.clone() } else { BTreeSet::new() };
        let reason = if refused { Reason::Refused } else { Reason::ProbeTimeout };
        self.accuse(now, subject, accuser, refused_by, reason, None, 0);
    }

    /// Somebody else suspects a member, or holds it for dead without our believing it yet.
    pub(super) fn hear_suspicion(&mut self, now: Instant, from: &NodeId, word: &Word, source: Source) {
        let Some(record) = self.table.get(&word.node_id) else { return };
        if word.incarnation > record.member.incarnation {
            self.table.update(&word.node_id, |r| Arc::make_mut(&mut r.member).incarnation = word.incarnation);
        } else if record.member.state == MemberState::Dead || record.member.state == MemberState::Left {
            return;
        }
        let mut accusers: BTreeSet<NodeId> = word.accusers.iter().take(ACCUSERS_KEPT).cloned().collect();
        if accusers.is_empty() || source == Source::Page {
            accusers.insert(from.clone());
        }
        accusers.remove(&word.node_id);
        let refused_by = word.refused_by.iter().filter(|n| accusers.contains(*n)).cloned().collect();
        self.accuse(now, &word.node_id, accusers, refused_by, Reason::Reported, Some(from), word.age_us);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one accusation")]
    fn accuse(
        &mut self,
        now: Instant,
        subject: &NodeId,
        accusers: BTreeSet<NodeId>,
        refused_by: BTreeSet<NodeId>,
        reason: Reason,
        from: Option<&NodeId>,
        age_us: u64,
    ) {
        let Some(record) = self.table.get(subject) else { return };
        let before = record.member.state;
        if !before.is_live() {
            return;
        }
        let new = !self.suspicions.contains_key(subject);
        if new {
            let expected = overlay::observers_of(&self.table, subject, self.rings()).len();
            let suspicion = Suspicion {
                started: now,
                accusers: BTreeSet::new(),
                refused_by: BTreeSet::new(),
                wanted: expected.clamp(1, ACCUSERS_WANTED),
                observer: self.overlay.subjects.contains(subject),
                deadline: now,
            };
            self.suspicions.insert(subject.clone(), suspicion);
            self.counters.suspicions_started += 1;
            self.table.update(subject, |record| {
                let member = Arc::make_mut(&mut record.member);
                member.state = MemberState::Suspect;
                member.since = now;
            });
        }
        let health_score = self.prober.health_score();
        let Some(suspicion) = self.suspicions.get_mut(subject) else { return };
        let known = (suspicion.accusers.len(), suspicion.refused_by.len());
        suspicion.accusers.extend(accusers);
        suspicion.refused_by.extend(refused_by);
        while suspicion.accusers.len() > ACCUSERS_KEPT {
            suspicion.accusers.pop_last();
        }
        suspicion.settle(now, &self.config, health_score);
        let grew = known != (suspicion.accusers.len(), suspicion.refused_by.len());
        // Once it is sure for everybody, more names add nothing.
        let unsure = known.0 < suspicion.wanted
            || (known.1 < suspicion.wanted && suspicion.refused_by.len() > known.1);
        let observers: Vec<NodeId> = suspicion.accusers.iter().cloned().collect();
        if new {
            self.announce(now, subject, MemberChange::Suspected, Some(before), reason, observers);
        }
        if grew && unsure {
            self.push(now, subject, false, from, age_us);
        }
        // Tell the suspect where we can, and look for ourselves where it is ours to look.
        if new {
            self.probe_suspect(now, subject);
        }
    }

    pub(super) fn run_suspicions(&mut self, now: Instant) {
        let over: Vec<(NodeId, bool, Vec<NodeId>)> = self
            .suspicions
            .iter()
            .filter(|(_, s)| s.deadline <= now)
            .map(|(n, s)| (n.clone(), s.refused(), s.accusers.iter().cloned().collect()))
            .collect();
        for (node_id, refused, observers) in over {
            if self.has_bug(PlantedBug::SuspectForEver) {
                self.suspicions.entry(node_id).and_modify(|s| s.deadline = now + Duration::from_secs(3600));
                continue;
            }
            let Some(run) = self.table.get(&node_id).map(|r| (r.member.instance, r.member.incarnation))
            else {
                continue;
            };
            let reason = if refused { Reason::Refused } else { Reason::SuspicionExpired };
            self.becomes_dead(now, &node_id, run, reason, observers, None, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_shrinks_with_each_accuser_and_never_below_the_minimum() {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        let times: Vec<Duration> = (1..=5).map(|n| time_to_refute(MS(1600), MS(6000), n, 3)).collect();
        assert_eq!(times[0], MS(6000));
        assert!(times[1] < times[0] && times[1] > MS(1600));
        assert_eq!(&times[2..], [MS(1600); 3]);
        assert_eq!(
            time_to_refute(MS(1600), MS(6000), 1, 1),
            MS(1600),
            "the only observer is as sure as it gets"
        );
    }
}
