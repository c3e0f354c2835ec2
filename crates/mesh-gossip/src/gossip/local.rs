//! Words about ourselves: refuting, superseding an earlier run, conflicts; our metadata; leaving.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::{Health, Incarnation, InstanceId, Instant, MemberState, NodeId, PeerIdentity};

use super::{Gossip, members};
use crate::{
    event::{Command, Effect, Event},
    planted::PlantedBug,
    wire::{CommandError, Entry, KEY_BYTES_MAX, Packet, Update, Word, plain},
};

/// The largest step of our own incarnation that a word about us can cause.
const OWN_STEP_MAX: u64 = 1 << 20;
/// A dead run can't answer back. One that does so this often, within
/// [`CONFLICT_WINDOW`], is alive: another process has our id.
const CONFLICT_ANSWERS: u32 = 3;
/// Who yields answers a little longer than it takes to be sure, so that the other is sure, too, and
/// reports the conflict before it is alone again.
const YIELD_ANSWERS: u32 = CONFLICT_ANSWERS + 2;
const CONFLICT_WINDOW: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Member,
    /// Said goodbye to these; waits for that many of them.
    Leaving {
        told: BTreeSet<NodeId>,
        needed: usize,
    },
    Left,
    SteppedAside,
}

/// What the core knows of its own node besides its record in the table.
#[derive(Debug)]
pub(super) struct Local {
    identity: Arc<PeerIdentity>,
    instance: InstanceId,
    phase: Phase,
    rival: Option<Rival>,
    pub(super) broadcast_sequence: u64,
}

/// Another run of our node id that was heard of.
#[derive(Debug)]
struct Rival {
    instance: InstanceId,
    answers: u32,
    since: Instant,
    reported: bool,
    /// The start of its certificate, once a word about it brought that along.
    not_before_s: Option<u64>,
}

impl Local {
    pub(super) fn new(identity: Arc<PeerIdentity>, instance: InstanceId) -> Self {
        Self { identity, instance, phase: Phase::Member, rival: None, broadcast_sequence: 0 }
    }

    pub(super) fn node_id(&self) -> &NodeId {
        self.identity.node_id()
    }

    pub(super) fn instance(&self) -> InstanceId {
        self.instance
    }

    pub(super) fn is_member(&self) -> bool {
        self.phase == Phase::Member
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. } | Phase::Left)
    }

    pub(super) fn stepped_aside(&self) -> bool {
        self.phase == Phase::SteppedAside
    }

    /// Takes no part any more: no probe, no word.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.phase, Phase::Left | Phase::SteppedAside)
    }
}

impl Gossip {
    /// Somebody passes on a word about us.
    pub(super) fn hear_of_self(&mut self, now: Instant, word: &Word) {
        let held = self.record_of_self().member.incarnation;
        if word.incarnation < held || !self.local.is_member() {
            return;
        }
        if word.incarnation.0 > held.0.saturating_add(OWN_STEP_MAX) {
            self.counters.refused_incarnation += 1;
            return;
        }
        let ours = word.instance == self.local.instance();
        let silent = if ours { PlantedBug::NeverRefute } else { PlantedBug::NeverSupersede };
        if self.has_bug(silent) {
            return;
        }
        if ours && word.state == MemberState::Alive && word.incarnation == held && !word.challenged {
            return;
        }
        if !ours && word.state == MemberState::Alive && self.rival_answers(now, word) {
            return;
        }
        if ours {
            self.counters.refutations += 1;
        }
        // Who refutes is known; who supersedes has to introduce itself.
        self.raise_incarnation(now, word.incarnation, !ours);
    }

    /// Refutes: the next incarnation after `seen`, told to everybody.
    pub(super) fn raise_incarnation(&mut self, now: Instant, seen: Incarnation, full: bool) {
        let node_id = self.local.node_id().clone();
        self.table.update(&node_id, |record| {
            Arc::make_mut(&mut record.member).incarnation = seen.next();
        });
        self.push(now, &node_id, full, None, 0);
    }

    /// Whether we step aside for another living process with our id.
    fn rival_answers(&mut self, now: Instant, word: &Word) -> bool {
        let fresh = self
            .local
            .rival
            .as_ref()
            .is_some_and(|r| r.instance == word.instance && now.since(r.since) <= CONFLICT_WINDOW);
        if !fresh {
            let instance = word.instance;
            self.local.rival =
                Some(Rival { instance, answers: 0, since: now, reported: false, not_before_s: None });
        }
        let ours = (self.identity_not_before(), self.local.instance().0);
        let stubborn = self.has_bug(PlantedBug::NeverStepAside);
        let Some(rival) = &mut self.local.rival else { return false };
        rival.answers += 1;
        if let Some(descriptor) = &word.descriptor {
            rival.not_before_s = Some(descriptor.certificate_not_before_s);
        }
        if rival.answers < CONFLICT_ANSWERS {
            return false;
        }
        // The older certificate yields; between equal ones, the lower instance.
        let sure = rival.answers >= YIELD_ANSWERS;
        let we_yield =
            sure && !stubborn && rival.not_before_s.is_some_and(|theirs| ours < (theirs, word.instance.0));
        let report = !std::mem::replace(&mut rival.reported, true);
        if report || we_yield {
            self.emit(Event::Conflict { other: word.instance, we_step_aside: we_yield });
        }
        if we_yield {
            // One more answer, so that the other process learns that it has a rival, before it is alone.
            self.raise_incarnation(now, word.incarnation, true);
            self.flush_now(now);
            self.local.phase = Phase::SteppedAside;
            self.close_all_links();
        }
        we_yield
    }

    fn identity_not_before(&self) -> u64 {
        self.local.identity.certificate.not_before_s
    }

    fn close_all_links(&mut self) {
        let peers: Vec<NodeId> = self.links.peers().cloned().collect();
        for peer in peers {
            self.close_link(&peer);
        }
    }

    pub(super) fn update_about_self(&self, full: bool) -> Update {
        let node_id = self.local.node_id().clone();
        self.update_about(&node_id, full).expect("the local record is never removed")
    }

    pub(super) fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        if !self.local.is_member() {
            return Err(CommandError::NotMember);
        }
        match command {
            Command::SetMetadata { key, value } => self.set_metadata(now, key, value),
            Command::SetLoad(load) => self.set_load(now, load),
            Command::Broadcast(payload) => self.broadcast(now, payload),
            Command::Leave => {
                self.leave(now);
                Ok(())
            }
            Command::AddSeeds(seeds) => {
                self.rejoin.add_seeds(seeds);
                Ok(())
            }
        }
    }

    fn set_metadata(&mut self, now: Instant, key: String, value: Option<String>) -> Result<(), CommandError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(CommandError::Key { key: key.chars().take(60).collect() });
        }
        let member = self.record_of_self().member.clone();
        if member.metadata.get(&key) == value.as_ref() {
            return Ok(());
        }
        let mut metadata = member.metadata.clone();
        let mut delta = plain::MetadataDelta {
            node_id: member.node_id.to_string(),
            instance: member.instance.0,
            base_version: member.metadata_version,
            version: member.metadata_version + 1,
            ..plain::MetadataDelta::default()
        };
        match value {
            Some(value) => {
                delta.set.push(Entry { key: key.clone(), value: value.clone() });
                metadata.insert(key, value);
            }
            None => {
                metadata.remove(&key);
                delta.removed.push(key);
            }
        }
        let bytes = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        let bytes_max = self.metadata_bytes_max();
        if bytes > bytes_max {
            return Err(CommandError::MetadataTooLarge { bytes, bytes_max });
        }
        self.table.update(&member.node_id, |record| {
            let member = Arc::make_mut(&mut record.member);
            member.metadata = metadata;
            member.metadata_version = delta.version;
            members::settle(member);
        });
        self.push_delta(now, delta.into(), None);
        Ok(())
    }

    pub(super) fn set_own_health(&mut self, now: Instant, health: Health) {
        let (key, value) = members::health_entry(health);
        // One more short key can only be refused at the metadata's limit; then it stays unsaid.
        let _ = self.set_metadata(now, key.to_owned(), value.map(str::to_owned));
    }

    fn leave(&mut self, now: Instant) {
        let live = |peer: &&NodeId| self.table.get(peer).is_some_and(|r| r.member.state.is_live());
        let told: BTreeSet<NodeId> = self.links.peers().filter(live).cloned().collect();
        let node_id = self.local.node_id().clone();
        self.flush(now);
        for peer in &told {
            self.transmit(peer, Packet { goodbye: true, ..Packet::default() });
        }
        self.table.update(&node_id, |record| {
            let member = Arc::make_mut(&mut record.member);
            member.state = MemberState::Left;
            member.since = now;
        });
        let needed = told.len().min(2);
        self.local.phase = Phase::Leaving { told, needed };
        self.tick_due = self.tick_due.min(now + self.tick());
        self.finish_leaving();
    }

    /// A goodbye or its answer may be lost: says it again to those who have not answered. Who has no
    /// link to us any more is not waited for.
    pub(super) fn repeat_goodbye(&mut self) {
        let Phase::Leaving { told, needed } = &mut self.local.phase else { return };
        told.retain(|peer| self.links.is_up(peer));
        *needed = (*needed).min(told.len());
        let silent: Vec<NodeId> = told.iter().cloned().collect();
        for peer in silent {
            self.transmit(&peer, Packet { goodbye: true, ..Packet::default() });
        }
        self.finish_leaving();
    }

    /// Who leaves at the same time is not waited for: it may be gone before it can answer.
    pub(super) fn neighbour_leaves_too(&mut self, now: Instant, from: &NodeId) {
        if let Phase::Leaving { told, needed } = &mut self.local.phase {
            told.remove(from);
            *needed = (*needed).min(told.len());
            // Its goodbye is passed on before we fall silent ourselves.
            self.flush_now(now);
            self.finish_leaving();
        }
    }

    pub(super) fn take_goodbye_ack(&mut self, from: &NodeId) {
        if let Phase::Leaving { told, needed } = &mut self.local.phase
            && told.remove(from)
        {
            *needed = needed.saturating_sub(1);
            self.finish_leaving();
        }
    }

    fn finish_leaving(&mut self) {
        if matches!(self.local.phase, Phase::Leaving { needed: 0, .. }) {
            self.local.phase = Phase::Left;
            self.effects.push_back(Effect::Event(Event::LeaveDone));
        }
    }
}
