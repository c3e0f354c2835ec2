//! Who is probed when, and what a missing answer sets off.
//!
//! A subject is probed about once per interval however many observers it has,
//! because it hands out the turns itself: each ack tells the prober when to come
//! again, one interval after the turn that was given out before. If an observer
//! is gone its turn is empty once and then no more.
//!
//! A missed answer widens at once: the probe is repeated, the link is checked
//! by a fresh connection, and other observers of the subject are asked to look.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{Incarnation, Instant, MemberState, NodeId};

use super::{Gossip, members::Source, rng_between};
use crate::{
    overlay,
    planted::PlantedBug,
    wire::{Ack, Hello, Packet, Probe, ProbeReport, ProbeRequest, Word},
};

/// The worst own health.
const HEALTH_MAX: u32 = 8;
/// Missed answers in a row that the most starved node excuses. Starved nodes that accuse each other starve more.
const EXCUSES_MAX: u32 = 4;
/// Probes on behalf of others under way at one time.
const RELAYS_MAX: usize = 256;
/// The shortest second wait, so that somebody else has time to look.
const WIDENED_MIN: Duration = Duration::from_millis(100);
/// Between two looks at a suspect.
const SUSPECT_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the subject's own answer.
    Direct,
    /// Waits for anybody's.
    Widened,
}

/// One probe without an answer yet.
#[derive(Clone, Debug)]
struct Outstanding {
    first_sequence: u32,
    last_sequence: u32,
    sent_at: Instant,
    deadline: Instant,
    stage: Stage,
    /// Asked once more because we ourselves are late.
    repeated: bool,
    urgent: bool,
    refused: bool,
    /// A link that came up in the meantime bought it one more wait.
    extended: bool,
}

/// A probe made for somebody else.
#[derive(Clone, Debug)]
struct Relay {
    requester: NodeId,
    request_sequence: u32,
    target: NodeId,
    sequence: u32,
    deadline: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Prober {
    schedule: BTreeMap<NodeId, Instant>,
    outstanding: BTreeMap<NodeId, Outstanding>,
    relays: Vec<Relay>,
    sequence: u32,
    health: u32,
    /// How late our own timers were of late, 0 to 8; each second in time takes one off.
    lateness: u32,
    heard_at: Instant,
    /// The last turn that was given out to an observer of ours.
    turn_given: Instant,
    probed_at: Option<Instant>,
    /// Missed answers in a row that were put down to our own lateness.
    excused: BTreeMap<NodeId, u32>,
    nudge_due: Option<Instant>,
}

impl Prober {
    pub(super) fn health_score(&self) -> u32 {
        self.health
    }

    /// How starved the node is, 0 to 8. Unlike ill health it does not come of others' silence, so that a
    /// node which is cut off does not doubt itself for long.
    pub(super) fn lateness(&self) -> u32 {
        self.lateness
    }

    pub(super) fn second_in_time(&mut self) {
        self.lateness = self.lateness.saturating_sub(1);
    }

    pub(super) fn last_probed(&self) -> Option<Instant> {
        self.probed_at
    }

    pub(super) fn heard_from_somebody(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// When anybody was last heard.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let outstanding = self.outstanding.values().map(|o| o.deadline).min();
        let scheduled =
            self.schedule.iter().filter(|(n, _)| !self.outstanding.contains_key(*n)).map(|(_, at)| *at).min();
        outstanding.into_iter().chain(scheduled).chain(self.nudge_due).min()
    }

    pub(super) fn forgive(&mut self, now: Instant, late_by: Duration) {
        self.health = (self.health + 1).min(HEALTH_MAX);
        self.lateness = (self.lateness + 1).min(HEALTH_MAX);
        for outstanding in self.outstanding.values_mut() {
            outstanding.deadline += late_by;
        }
        for relay in &mut self.relays {
            relay.deadline += late_by;
        }
        // What had waited for us may have been read already.
        self.heard_at = (self.heard_at + late_by).min(now);
    }

    /// Ends a probe. A turn that came in the meantime is due now, not late: lateness is only our own.
    fn end(&mut self, now: Instant, subject: &NodeId) -> Option<Outstanding> {
        if let Some(at) = self.schedule.get_mut(subject) {
            *at = (*at).max(now);
        }
        self.outstanding.remove(subject)
    }

    /// Whether a missed answer is put down to our own lateness: the later, the more often in a row.
    fn excuses(&mut self, subject: &NodeId) -> bool {
        let count = self.excused.entry(subject.clone()).or_default();
        *count += 1;
        if *count <= self.lateness.min(EXCUSES_MAX) {
            return true;
        }
        self.excused.remove(subject);
        false
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// When the observer that probes us now should come again.
    fn give_turn(&mut self, now: Instant, interval: Duration, observers: usize) -> Duration {
        let latest = now + interval * u32::try_from(observers.max(1) * 2).unwrap_or(u32::MAX);
        let turn = (self.turn_given + interval).max(now + interval).min(latest);
        self.turn_given = turn;
        turn.since(now)
    }
}

impl Gossip {
    /// Brings the schedule in line with the subjects.
    pub(super) fn reschedule_probes(&mut self, now: Instant) {
        let subjects = &self.overlay.subjects;
        self.prober.schedule.retain(|n, _| subjects.contains(n));
        let new: Vec<NodeId> =
            subjects.iter().filter(|s| !self.prober.schedule.contains_key(*s)).cloned().collect();
        for subject in new {
            let first = now + rng_between(&mut self.rng, self.config.probe_interval);
            self.prober.schedule.insert(subject, first);
        }
        if self.prober.nudge_due.is_none() && !self.overlay.observers.is_empty() {
            self.prober.nudge_due = Some(now + self.config.probe_interval * 2);
        }
    }

    /// How long to wait for this peer's answer: from the measured round trip, longer while we are starved.
    fn probe_timeout(&self, peer: &NodeId) -> Duration {
        let (min, max) = (self.config.probe_timeout_min, self.config.probe_timeout_max);
        let timeout = self.links.get(peer).map_or(max, |l| l.rtt.timeout(min, max));
        timeout + timeout * self.prober.lateness / 2
    }

    /// Looks at a member now, unless a look is under way.
    pub(super) fn probe_now(&mut self, now: Instant, subject: &NodeId) {
        self.start_probe(now, subject, true);
    }

    fn start_probe(&mut self, now: Instant, subject: &NodeId, urgent: bool) {
        let Some(record) = self.table.get(subject) else { return };
        let skipped = self.has_bug(PlantedBug::SkipProbes) && record.member.state == MemberState::Alive;
        let linked = self.links.is_up(subject);
        if self.prober.outstanding.contains_key(subject) || skipped {
            return;
        }
        if !linked && !self.may_dial_urgently(now) {
            // It has to wait its turn: that is no fault of the subject's.
            if let Some(target) = self.target_of(subject) {
                self.dial(now, target);
            }
            return;
        }
        let sequence = self.prober.next_sequence();
        let wait = self.probe_timeout(subject);
        let outstanding = Outstanding {
            first_sequence: sequence,
            last_sequence: sequence,
            sent_at: now,
            deadline: now + wait,
            stage: Stage::Direct,
            repeated: false,
            urgent,
            refused: false,
            extended: false,
        };
        self.prober.outstanding.insert(subject.clone(), outstanding);
        self.counters.probes += 1;
        if linked {
            self.send_probe(now, subject, sequence, urgent);
        } else if let Some(target) = self.target_of(subject) {
            self.dial_urgently(now, target);
        }
    }

    fn send_probe(&mut self, now: Instant, subject: &NodeId, sequence: u32, urgent: bool) {
        let suspected_at = self
            .table
            .get(subject)
            .filter(|r| r.member.state == MemberState::Suspect)
            .map_or(0, |r| r.member.incarnation.next().0);
        let probe = Some(Probe { sequence, suspected_at, urgent });
        let packet = self.with_loads(now, subject, Packet { probe, ..Packet::default() });
        self.transmit(subject, packet);
    }

    /// A new suspicion: tell the suspect over our link, and look ourselves if we observe it.
    pub(super) fn probe_suspect(&mut self, now: Instant, subject: &NodeId) {
        let ours = self.overlay.subjects.contains(subject) && self.links.met(subject);
        if self.links.is_up(subject) || ours {
            self.start_probe(now, subject, true);
        }
        if let Some(at) = self.prober.schedule.get_mut(subject) {
            *at = (*at).min(now + SUSPECT_INTERVAL);
        }
    }

    pub(super) fn probe_refuted(&mut self, subject: &NodeId) {
        if let Some(outstanding) = self.prober.outstanding.get_mut(subject) {
            outstanding.refused = false;
        }
    }

    pub(super) fn forget_probe(&mut self, subject: &NodeId) {
        self.prober.outstanding.remove(subject);
        self.prober.schedule.remove(subject);
        self.prober.excused.remove(subject);
        self.links.forget(subject);
    }

    pub(super) fn run_probes(&mut self, now: Instant) {
        let over: Vec<NodeId> = self
            .prober
            .outstanding
            .iter()
            .filter(|(_, o)| o.deadline <= now)
            .map(|(n, _)| n.clone())
            .collect();
        for subject in over {
            match self.prober.outstanding.get(&subject).map(|o| o.stage) {
                Some(Stage::Direct) if self.repeat_probe(now, &subject) => {}
                Some(Stage::Direct) => self.widen(now, &subject),
                Some(Stage::Widened) => self.probe_failed(now, &subject),
                None => {}
            }
        }
        let interval = self.config.probe_interval;
        let due: Vec<NodeId> = self
            .prober
            .schedule
            .iter()
            .filter(|(n, at)| **at <= now && !self.prober.outstanding.contains_key(*n))
            .map(|(n, _)| n.clone())
            .collect();
        for subject in due {
            let suspect = self.table.get(&subject).is_some_and(|r| r.member.state == MemberState::Suspect);
            let linked = self.links.is_up(&subject);
            let again = match (suspect, linked) {
                (true, _) => SUSPECT_INTERVAL,
                (false, true) => interval * self.rings_as_u32(),
                // Its first turn comes with its link.
                (false, false) => interval,
            };
            self.prober.schedule.insert(subject.clone(), now + again);
            if linked || self.links.met(&subject) {
                self.start_probe(now, &subject, suspect);
            }
        }
        self.prober.relays.retain(|r| r.deadline > now);
        self.nudge_observers(now);
    }

    fn rings_as_u32(&self) -> u32 {
        u32::try_from(self.rings()).unwrap_or(1)
    }

    /// While this node is late itself, it first asks once more: that costs nobody a handshake.
    fn repeat_probe(&mut self, now: Instant, subject: &NodeId) -> bool {
        if self.prober.lateness() == 0 || !self.links.is_up(subject) {
            return false;
        }
        let wait = self.probe_timeout(subject);
        let sequence = self.prober.next_sequence();
        let Some(outstanding) = self.prober.outstanding.get_mut(subject) else { return false };
        if std::mem::replace(&mut outstanding.repeated, true) {
            return false;
        }
        outstanding.deadline = now + wait;
        outstanding.last_sequence = sequence;
        let urgent = outstanding.urgent;
        self.send_probe(now, subject, sequence, urgent);
        true
    }

    /// No answer in time: ask again, check the link, and have others look.
    fn widen(&mut self, now: Instant, subject: &NodeId) {
        self.counters.probe_timeouts += 1;
        let longest = self.config.probe_timeout_max.max(self.probe_timeout(subject));
        let wait = (self.probe_timeout(subject) * 3).clamp(WIDENED_MIN, longest);
        let sequence = self.prober.next_sequence();
        let Some(outstanding) = self.prober.outstanding.get_mut(subject) else { return };
        outstanding.stage = Stage::Widened;
        outstanding.deadline = now + wait;
        outstanding.last_sequence = sequence;
        let first = outstanding.first_sequence;
        let urgent = outstanding.urgent;
        if self.links.is_up(subject) {
            self.send_probe(now, subject, sequence, urgent);
        }
        if self.may_dial_urgently(now)
            && let Some(target) = self.target_of(subject)
        {
            self.dial_urgently(now, target);
        }
        let mut helpers: Vec<NodeId> = overlay::observers_of(&self.table, subject, self.rings())
            .into_iter()
            .filter(|n| n != self.local.node_id() && self.links.is_up(n))
            .collect();
        self.rng.shuffle(&mut helpers);
        if helpers.len() < self.config.indirect_probes {
            // Not enough of its observers are neighbours of ours: anybody may look.
            let mut others: Vec<NodeId> =
                self.links.peers().filter(|n| *n != subject && !helpers.contains(n)).cloned().collect();
            self.rng.shuffle(&mut others);
            helpers.extend(others);
        }
        for helper in helpers.into_iter().take(self.config.indirect_probes) {
            let request = Some(ProbeRequest { sequence: first, target: subject.to_string() });
            self.transmit(&helper, Packet { probe_request: request, ..Packet::default() });
        }
    }

    fn probe_failed(&mut self, now: Instant, subject: &NodeId) {
        let Some(outstanding) = self.prober.end(now, subject) else { return };
        // Nobody at all was heard: more likely it is us.
        if now.since(self.prober.heard_at) > self.config.probe_interval * 2 && self.links.len() > 1 {
            self.prober.health = (self.prober.health + 1).min(HEALTH_MAX);
        }
        if let Some(at) = self.prober.schedule.get_mut(subject) {
            *at = (*at).min(now + SUSPECT_INTERVAL);
        }
        if outstanding.refused {
            self.counters.probe_refusals += 1;
        } else if self.prober.excuses(subject) {
            return;
        }
        self.suspect(now, subject, outstanding.refused);
    }

    fn probe_answered(&mut self, now: Instant, subject: &NodeId) {
        self.prober.excused.remove(subject);
        self.prober.end(now, subject);
        self.prober.health = self.prober.health.saturating_sub(1);
        self.counters.probes_answered += 1;
    }

    /// A link to a probed member came up, or was confirmed: let it carry the probe.
    pub(super) fn probe_link_up(&mut self, now: Instant, peer: &NodeId) {
        let wait = self.config.probe_timeout_max.min(self.probe_timeout(peer) * 2);
        let sequence = self.prober.next_sequence();
        let Some(outstanding) = self.prober.outstanding.get_mut(peer) else { return };
        if !outstanding.extended {
            outstanding.extended = true;
            outstanding.deadline = outstanding.deadline.max(now + wait);
        }
        outstanding.last_sequence = sequence;
        let urgent = outstanding.urgent;
        self.send_probe(now, peer, sequence, urgent);
    }

    /// A connection attempt to a member ended badly.
    pub(super) fn probe_connect_failed(&mut self, now: Instant, peer: &NodeId, refused: bool) {
        let live = self.table.get(peer).is_some_and(|r| r.member.state.is_live());
        if !live {
            return;
        }
        let timeout = self.probe_timeout(peer).max(self.config.probe_timeout_min);
        let linked = self.links.is_up(peer);
        match self.prober.outstanding.get_mut(peer) {
            Some(outstanding) => {
                outstanding.refused |= refused;
                if refused {
                    // A live link has the length of one round trip left to say otherwise.
                    let wait = if linked { timeout } else { Duration::ZERO };
                    outstanding.deadline = outstanding.deadline.min(now + wait);
                }
            }
            // The overlay wants a link that can't be had: that is worth a look.
            None if self.overlay.subjects.contains(peer) => self.probe_now(now, peer),
            None => {}
        }
    }

    pub(super) fn take_probe(&mut self, now: Instant, from: &NodeId, probe: Probe) {
        let held = self.record_of_self().member.incarnation;
        if !self.has_bug(PlantedBug::NeverRefute)
            && probe.suspected_at > held.0
            && probe.suspected_at <= held.0.saturating_add(1 << 20)
            && self.local.is_member()
        {
            self.counters.refutations += 1;
            self.raise_incarnation(now, Incarnation(probe.suspected_at - 1), false);
        }
        let next = if probe.urgent {
            Duration::ZERO
        } else {
            self.prober.give_turn(now, self.config.probe_interval, self.overlay.observers.len())
        };
        self.prober.probed_at = Some(now);
        self.prober.nudge_due = Some(now + self.config.probe_interval * 2);
        let ack = Ack {
            sequence: probe.sequence,
            next_ms: u32::try_from(next.as_millis()).unwrap_or(u32::MAX),
            incarnation: self.record_of_self().member.incarnation.0,
        };
        let packet = self.with_loads(now, from, Packet { ack: Some(ack), ..Packet::default() });
        self.transmit(from, packet);
    }

    pub(super) fn take_ack(&mut self, now: Instant, from: &NodeId, ack: Ack) {
        self.relay_answer(now, from, ack.sequence);
        let Some(outstanding) = self.prober.outstanding.get(from) else { return };
        let span = outstanding.last_sequence.wrapping_sub(outstanding.first_sequence);
        if ack.sequence.wrapping_sub(outstanding.first_sequence) > span {
            return;
        }
        // Only an unrepeated probe tells the round trip (Karn's rule).
        if span == 0 {
            let rtt = now.since(outstanding.sent_at);
            self.counters.rtt.observe(rtt);
            if let Some(link) = self.links.get_mut(from) {
                link.rtt.sample(rtt);
                let smoothed = link.rtt.smoothed();
                self.table.update(from, |r| {
                    if !r.member.state.is_live() {
                        return;
                    }
                    std::sync::Arc::make_mut(&mut r.member).rtt = smoothed;
                });
            }
        }
        self.probe_answered(now, from);
        if ack.next_ms > 0
            && let Some(at) = self.prober.schedule.get_mut(from)
        {
            let interval = self.config.probe_interval;
            let longest = interval
                * u32::try_from(overlay::rings(self.table.counts().live(), self.config.rings) * 2)
                    .unwrap_or(32);
            *at = now + Duration::from_millis(u64::from(ack.next_ms)).clamp(interval / 2, longest);
        }
        self.take_ack_incarnation(now, from, ack.incarnation);
    }

    /// A suspect that answers with a higher incarnation has refuted; pass that on at once.
    fn take_ack_incarnation(&mut self, now: Instant, from: &NodeId, incarnation: u64) {
        let Some(record) = self.table.get(from) else { return };
        let member = &record.member;
        let same_run = self.links.get(from).and_then(|l| l.instance) == Some(member.instance);
        if !same_run || incarnation <= member.incarnation.0 {
            return;
        }
        let word = Word {
            node_id: from.clone(),
            instance: member.instance,
            incarnation: Incarnation(incarnation),
            state: MemberState::Alive,
            metadata_version: member.metadata_version,
            descriptor: None,
            verified: true,
            accusers: Vec::new(),
            refused_by: Vec::new(),
            age_us: 0,
            challenged: false,
            unknown: bytes::Bytes::new(),
        };
        self.take_word(now, from, word, Source::Own);
    }

    pub(super) fn take_probe_request(&mut self, now: Instant, from: &NodeId, request: ProbeRequest) {
        let Ok(target) = request.target.parse::<NodeId>() else { return };
        if !self.links.is_up(&target) || self.prober.relays.len() >= RELAYS_MAX {
            return;
        }
        let sequence = self.prober.next_sequence();
        let deadline = now + self.config.probe_timeout_max;
        let relay = Relay {
            requester: from.clone(),
            request_sequence: request.sequence,
            target: target.clone(),
            sequence,
            deadline,
        };
        self.prober.relays.push(relay);
        self.send_probe(now, &target, sequence, true);
    }

    fn relay_answer(&mut self, now: Instant, from: &NodeId, sequence: u32) {
        let at = self
            .prober
            .relays
            .iter()
            .position(|r| r.target == *from && r.sequence == sequence && r.deadline > now);
        if let Some(at) = at {
            let relay = self.prober.relays.swap_remove(at);
            let report = ProbeReport {
                sequence: relay.request_sequence,
                target: relay.target.to_string(),
                answered: true,
            };
            self.transmit(&relay.requester, Packet { probe_report: Some(report), ..Packet::default() });
        }
    }

    pub(super) fn take_probe_report(&mut self, now: Instant, _from: &NodeId, report: ProbeReport) {
        let Ok(target) = report.target.parse::<NodeId>() else { return };
        let asked = self.prober.outstanding.get(&target).is_some_and(|o| o.first_sequence == report.sequence);
        if asked && report.answered {
            self.counters.probes_answered_indirectly += 1;
            self.probe_answered(now, &target);
            // It lives, but not for us: look again soon.
            let soon = now + self.config.probe_interval;
            if let Some(at) = self.prober.schedule.get_mut(&target) {
                *at = (*at).min(soon);
            }
        }
    }

    /// Nobody probed us for two intervals: ask two of our observers to.
    fn nudge_observers(&mut self, now: Instant) {
        if self.prober.nudge_due.is_none_or(|due| due > now) {
            return;
        }
        self.prober.nudge_due = Some(now + self.config.probe_interval / 2);
        let mut observers: Vec<NodeId> = self.overlay.observers.iter().cloned().collect();
        self.rng.shuffle(&mut observers);
        for observer in observers.into_iter().take(2) {
            if self.links.is_up(&observer) {
                let hello = Some(Hello { join: false, please_probe: true });
                self.transmit(&observer, Packet { hello, ..Packet::default() });
            } else if let Some(target) = self.target_of(&observer) {
                self.dial(now, target);
            }
        }
    }
}
