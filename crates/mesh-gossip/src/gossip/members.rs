//! Words about members, what they change, and whom they are passed to.
//!
//! The order of words is SWIM's: a higher incarnation wins; at the same one
//! suspect beats alive, dead beats suspect, left beats dead. What arrives as
//! repair is trusted less than what arrives as news: it may be the table of a
//! node that slept through the last day.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mesh_core::{
    Health, Incarnation, InstanceId, Instant, Member, MemberChange, MemberEvent, MemberState, NodeId, Reason,
    Role, Verification,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Gossip;
use crate::{
    event::Event,
    planted::PlantedBug,
    table::{Record, UnknownOfWord},
    wire::{Descriptor, Entry, Kept, MetadataDelta, Packet, Update, Word, plain, shared, state_to_wire},
};

/// The largest step of an incarnation that is believed.
const INCARNATION_STEP_MAX: u64 = 1 << 20;
/// The largest incarnation of a member that is new to us.
const INCARNATION_FIRST_MAX: u64 = 1 << 48;
/// The metadata key under which a member says that its UDP is blocked.
const HEALTH_KEY: &str = "health";

/// How a word reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the member itself, over a link that its certificate vouches for.
    Own,
    /// As news that somebody passes on.
    Push,
    /// As repair: the sender's table, of unknown age.
    Page,
    /// The answer to our own request to join.
    JoinPage,
}

fn rank(state: MemberState) -> u8 {
    match state {
        MemberState::Alive => 0,
        MemberState::Suspect => 1,
        MemberState::Dead => 2,
        MemberState::Left => 3,
    }
}

impl Gossip {
    pub(super) fn take_word(&mut self, now: Instant, from: &NodeId, word: Word, source: Source) {
        let unknown = UnknownOfWord::of(&word);
        let node_id = unknown.is_some().then(|| word.node_id.clone());
        self.weigh_word(now, from, word, source);
        if let (Some(unknown), Some(node_id)) = (unknown, node_id) {
            self.table.keep_unknown(&node_id, unknown);
        }
    }

    fn weigh_word(&mut self, now: Instant, from: &NodeId, word: Word, source: Source) {
        if word.node_id == *self.local.node_id() {
            self.hear_of_self(now, &word);
            return;
        }
        if source == Source::Own && !matches!(word.state, MemberState::Alive | MemberState::Left) {
            return;
        }
        if self.table.get(&word.node_id).is_none() {
            self.take_word_of_unknown(now, from, word, source);
        } else {
            self.take_word_of_known(now, from, word, source);
        }
    }

    fn take_word_of_unknown(&mut self, now: Instant, from: &NodeId, word: Word, source: Source) {
        if word.incarnation.0 > INCARNATION_FIRST_MAX {
            self.counters.refused_incarnation += 1;
            return;
        }
        if self.table.len() >= self.config.members_max {
            self.counters.refused_members_max += 1;
            return;
        }
        let Some(descriptor) = &word.descriptor else {
            // Only its state changed and we never had the rest: fetch it.
            if word.state.is_live() {
                self.want(from, &word.node_id);
            }
            return;
        };
        if !word.state.is_live() {
            if let Some(member) = self.describe(now, &word, descriptor) {
                let mut record = Record::new(member, descriptor.certificate_not_before_s);
                record.unknown = shared(&descriptor.unknown);
                record.reclaim_at = Some(now + self.config.tombstone_ttl);
                self.table.insert(record);
                self.rejoin.drop_candidate(&word.node_id);
            }
            return;
        }
        let vouched = match source {
            Source::Own => true,
            Source::Push | Source::JoinPage => word.verified,
            Source::Page => false,
        };
        if !vouched {
            self.add_candidate(now, word);
            return;
        }
        let Some(mut member) = self.describe(now, &word, descriptor) else { return };
        member.state = MemberState::Alive;
        self.rejoin.drop_candidate(&word.node_id);
        let mut record = Record::new(member, descriptor.certificate_not_before_s);
        record.unknown = shared(&descriptor.unknown);
        self.table.insert(record);
        self.overlay_changed(now);
        self.announce(now, &word.node_id, MemberChange::Joined, None, Reason::Announced, Vec::new());
        if source != Source::JoinPage {
            self.push(now, &word.node_id, true, Some(from), word.age_us);
        }
        if word.state == MemberState::Suspect {
            self.hear_suspicion(now, from, &word, source);
        }
    }

    fn take_word_of_known(&mut self, now: Instant, from: &NodeId, word: Word, source: Source) {
        let Some(record) = self.table.get(&word.node_id) else { return };
        let held = record.member.clone();
        let backwards = word.incarnation < held.incarnation && self.has_bug(PlantedBug::AcceptOldIncarnation);
        let newer = word.incarnation > held.incarnation || backwards;
        if word.incarnation.0 > held.incarnation.0.saturating_add(INCARNATION_STEP_MAX) {
            self.counters.refused_incarnation += 1;
            return;
        }
        let same_run = word.instance == held.instance;
        if (word.incarnation < held.incarnation && !backwards) || (!newer && !same_run) {
            self.counters.duplicates += 1;
            let tie = word.incarnation == held.incarnation && !same_run;
            if tie && held.state.is_live() && !word.state.is_live() {
                // An earlier run ended at the incarnation that the present one has: who knows of that end
                // believes in the present run only once it has gone further.
                self.challenge(now, &Word { instance: held.instance, ..word }, Some(from));
            }
            self.correct(from, source);
            return;
        }
        if !newer {
            match rank(word.state).cmp(&rank(held.state)) {
                std::cmp::Ordering::Less => {
                    self.correct(from, source);
                    return;
                }
                std::cmp::Ordering::Equal => {
                    self.counters.duplicates += 1;
                    // Who passes on the word without the claim has yet to hear of the claim.
                    if word.challenged || !self.claims.is_open(&word.node_id) {
                        self.outbox.heard(from, &word.node_id);
                    }
                    if word.challenged {
                        self.challenge(now, &word, Some(from));
                    }
                    if word.state == MemberState::Suspect {
                        self.hear_suspicion(now, from, &word, source);
                    }
                    self.take_descriptor(now, from, &word, source);
                    return;
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        if held.state == MemberState::Left && same_run && word.state.is_live() {
            // Who left stays gone; only a new run comes back.
            return;
        }
        if word.state.is_live() && !same_run && word.descriptor.is_none() {
            self.want(from, &word.node_id);
            return;
        }
        match word.state {
            MemberState::Alive => {
                self.becomes_alive(now, from, &word, source, &held);
                if word.challenged {
                    self.challenge(now, &word, Some(from));
                }
            }
            MemberState::Suspect => {
                self.hear_suspicion(now, from, &word, source);
                self.take_descriptor(now, from, &word, source);
            }
            MemberState::Dead if source == Source::Page => {
                // The sender may have been cut off from a member that lives: ask the member.
                self.challenge(now, &word, Some(from));
            }
            MemberState::Dead => self.becomes_dead(
                now,
                &word.node_id,
                (word.instance, word.incarnation),
                Reason::Reported,
                word.accusers.clone(),
                Some(from),
                word.age_us,
            ),
            MemberState::Left => self.becomes_left(now, &word, Some(from)),
        }
    }

    /// Tells a member that speaks for itself what we hold of it, so that it can refute.
    fn correct(&mut self, from: &NodeId, source: Source) {
        if source == Source::Own {
            self.tell_what_we_hold(from);
        }
    }

    fn tell_what_we_hold(&mut self, peer: &NodeId) {
        if let Some(update) = self.update_for_itself(peer) {
            self.transmit(peer, Packet { updates: vec![update], ..Packet::default() });
        }
    }

    /// What we hold of a member, for the member. It knows its own metadata; should the word be about
    /// another run of it, it needs the start of that one's certificate to see which of them yields.
    pub(super) fn update_for_itself(&self, peer: &NodeId) -> Option<Update> {
        let certificate_not_before_s = self.table.get(peer)?.not_before_s;
        let mut update = self.update_about(peer, false)?;
        let descriptor = plain::Descriptor { certificate_not_before_s, ..plain::Descriptor::default() };
        update.descriptor = Some(descriptor.into());
        Some(update)
    }

    fn becomes_alive(
        &mut self,
        now: Instant,
        from: &NodeId,
        word: &Word,
        source: Source,
        held: &Arc<Member>,
    ) {
        let restarted = word.instance != held.instance;
        self.claims.settle(&word.node_id);
        let suspected = self.suspicions.remove(&word.node_id).is_some();
        if suspected {
            self.counters.suspicions_refuted += 1;
        }
        self.table.update(&word.node_id, |record| {
            let member = Arc::make_mut(&mut record.member);
            member.incarnation = word.incarnation;
            if member.state != MemberState::Alive || restarted {
                member.since = now;
            }
            member.state = MemberState::Alive;
            record.reclaim_at = None;
            if restarted {
                member.instance = word.instance;
                member.metadata_version = 0;
                member.health = Health::Healthy;
                member.rtt = None;
                member.load = None;
            }
        });
        let described = self.apply_descriptor(word);
        let before = Some(held.state);
        let event = match (held.state, restarted) {
            (_, true) => Some((MemberChange::Joined, Reason::Restarted)),
            (MemberState::Dead | MemberState::Left, false) => {
                Some((MemberChange::Recovered, Reason::Refuted))
            }
            (MemberState::Suspect, false) => Some((MemberChange::Refuted, Reason::Refuted)),
            (MemberState::Alive, false) => described.then_some((MemberChange::Updated, Reason::Metadata)),
        };
        if let Some((change, reason)) = event {
            self.announce(now, &word.node_id, change, before, reason, Vec::new());
        }
        if !held.state.is_live() {
            self.overlay_changed(now);
        }
        self.probe_refuted(&word.node_id);
        if source != Source::JoinPage {
            let full = restarted || described;
            self.push(now, &word.node_id, full, Some(from), word.age_us);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one verdict")]
    pub(super) fn becomes_dead(
        &mut self,
        now: Instant,
        node_id: &NodeId,
        run: (InstanceId, Incarnation),
        reason: Reason,
        observers: Vec<NodeId>,
        from: Option<&NodeId>,
        age_us: u64,
    ) {
        if self.suspicions.remove(node_id).is_some() {
            self.counters.suspicions_confirmed += 1;
        }
        let before = self.leave_live(now, node_id, run, MemberState::Dead);
        self.announce(now, node_id, MemberChange::Died, before, reason, observers);
        self.push(now, node_id, false, from, age_us);
        // If it lives after all it learns of this over its link, and refutes.
        if self.links.is_up(node_id) {
            self.tell_what_we_hold(node_id);
        }
    }

    fn becomes_left(&mut self, now: Instant, word: &Word, from: Option<&NodeId>) {
        self.suspicions.remove(&word.node_id);
        let before =
            self.leave_live(now, &word.node_id, (word.instance, word.incarnation), MemberState::Left);
        self.announce(now, &word.node_id, MemberChange::Left, before, Reason::Goodbye, Vec::new());
        self.push(now, &word.node_id, false, from, word.age_us);
    }

    /// Ends the run that the word is about, which may be an earlier one than we knew of: the
    /// present run supersedes it, but could not if the goodbye of the earlier were taken for its own.
    fn leave_live(
        &mut self,
        now: Instant,
        node_id: &NodeId,
        (instance, incarnation): (InstanceId, Incarnation),
        state: MemberState,
    ) -> Option<MemberState> {
        let reclaim_at =
            if self.has_bug(PlantedBug::DropTombstones) { now } else { now + self.config.tombstone_ttl };
        let blame_present_run = self.has_bug(PlantedBug::BlamePresentRun);
        let mut before = None;
        self.table.update(node_id, |record| {
            before = Some(record.member.state);
            let member = Arc::make_mut(&mut record.member);
            if member.instance != instance && !blame_present_run {
                // What we know is another run's: this one's own word brings its metadata.
                member.instance = instance;
                member.metadata_version = 0;
                record.unknown = Bytes::new();
            }
            member.incarnation = incarnation;
            member.state = state;
            member.since = now;
            member.rtt = None;
            member.load = None;
            record.reclaim_at = Some(reclaim_at);
        });
        self.claims.settle(node_id);
        self.loads.forget(node_id);
        self.forget_probe(node_id);
        self.overlay_changed(now);
        before
    }

    /// A member says goodbye over its own link.
    pub(super) fn take_goodbye(&mut self, now: Instant, from: &NodeId, instance: u64) {
        let Some(record) = self.table.get(from) else { return };
        if record.member.instance.0 == instance && record.member.state != MemberState::Left {
            let word = Word {
                node_id: from.clone(),
                instance: record.member.instance,
                incarnation: record.member.incarnation,
                state: MemberState::Left,
                metadata_version: record.member.metadata_version,
                descriptor: None,
                verified: true,
                accusers: Vec::new(),
                refused_by: Vec::new(),
                age_us: 0,
                challenged: false,
                unknown: Bytes::new(),
            };
            self.becomes_left(now, &word, Some(from));
        }
        self.transmit(from, Packet { goodbye_ack: true, ..Default::default() });
        self.neighbour_leaves_too(now, from);
    }

    /// Takes what a member says of itself, if it is newer than what we hold.
    fn take_descriptor(&mut self, now: Instant, from: &NodeId, word: &Word, source: Source) {
        let Some(record) = self.table.get(&word.node_id) else { return };
        if word.instance != record.member.instance || word.metadata_version <= record.member.metadata_version
        {
            return;
        }
        if word.descriptor.is_none() {
            self.want(from, &word.node_id);
            return;
        }
        let state = record.member.state;
        if self.apply_descriptor(word) {
            self.announce(
                now,
                &word.node_id,
                MemberChange::Updated,
                Some(state),
                Reason::Metadata,
                Vec::new(),
            );
            if source != Source::JoinPage {
                self.push(now, &word.node_id, true, Some(from), word.age_us);
            }
        }
    }

    /// Whether anything changed.
    fn apply_descriptor(&mut self, word: &Word) -> bool {
        let Some(descriptor) = &word.descriptor else { return false };
        let certified = self.links.get(&word.node_id).map(|l| l.identity.role().clone());
        let mut changed = false;
        self.table.update(&word.node_id, |record| {
            if word.metadata_version <= record.member.metadata_version {
                return;
            }
            changed = true;
            record.not_before_s = descriptor.certificate_not_before_s;
            record.unknown = shared(&descriptor.unknown);
            let member = Arc::make_mut(&mut record.member);
            member.metadata_version = word.metadata_version;
            member.addresses = descriptor.addresses.iter().filter_map(|a| a.parse().ok()).collect();
            member.metadata = entries(descriptor);
            settle(member);
            if let Some(role) = certified.or_else(|| descriptor.role.parse().ok()) {
                member.role = role;
            }
        });
        changed
    }

    /// A member that is new to us, from a word about it.
    fn describe(&self, now: Instant, word: &Word, descriptor: &Descriptor) -> Option<Member> {
        let link = self.links.get(&word.node_id);
        let role: Role = match link {
            Some(link) => link.identity.role().clone(),
            None => descriptor.role.parse().ok()?,
        };
        let mut member = Member::new(word.node_id.clone(), word.instance, role, now);
        member.incarnation = word.incarnation;
        member.state = word.state;
        member.verification = if link.is_some() { Verification::Direct } else { Verification::Relayed };
        member.addresses = descriptor.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        member.metadata_version = word.metadata_version;
        member.metadata = entries(descriptor);
        settle(&mut member);
        Some(member)
    }

    /// Changes of one member's metadata.
    pub(super) fn take_delta(&mut self, now: Instant, from: &NodeId, delta: MetadataDelta) {
        let Ok(node_id) = delta.node_id.parse::<NodeId>() else {
            self.counters.refused_malformed += 1;
            return;
        };
        if node_id == *self.local.node_id() {
            return;
        }
        let Some(record) = self.table.get(&node_id) else { return };
        let held = record.member.clone();
        if held.instance.0 != delta.instance || delta.version <= held.metadata_version {
            self.counters.duplicates += 1;
            self.outbox.heard_delta(from, &node_id, delta.version);
            return;
        }
        // Changes that are not known here can't be applied to the record: it is fetched whole.
        if delta.base_version > held.metadata_version || !delta.unknown.is_empty() {
            self.want(from, &node_id);
            return;
        }
        let mut metadata = held.metadata.clone();
        for key in &delta.removed {
            metadata.remove(key);
        }
        metadata.extend(delta.set.iter().map(|e| (e.key.clone(), e.value.clone())));
        let bytes: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > self.metadata_bytes_max() {
            self.counters.refused_malformed += 1;
            return;
        }
        self.table.update(&node_id, |record| {
            let member = Arc::make_mut(&mut record.member);
            member.metadata = metadata;
            member.metadata_version = delta.version;
            settle(member);
        });
        self.announce(now, &node_id, MemberChange::Updated, Some(held.state), Reason::Metadata, Vec::new());
        self.push_delta(now, delta, Some(from));
    }

    /// Tells the owner.
    pub(super) fn announce(
        &mut self,
        now: Instant,
        node_id: &NodeId,
        change: MemberChange,
        before: Option<MemberState>,
        reason: Reason,
        observers: Vec<NodeId>,
    ) {
        let Some(record) = self.table.get(node_id) else { return };
        let member = record.member.clone();
        let correlation_id = correlation_id(&member, record.name_hash);
        self.emit(Event::Member(MemberEvent::Changed {
            change,
            before,
            member,
            reason,
            observers,
            correlation_id,
        }));
        self.rejoin.members_changed(now);
    }

    /// The newest word about a member, for the wire.
    pub(super) fn update_about(&self, node_id: &NodeId, full: bool) -> Option<Update> {
        let record = self.table.get(node_id)?;
        let member = &record.member;
        let descriptor = full.then(|| plain::Descriptor {
            role: member.role.to_string(),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
            certificate_not_before_s: record.not_before_s,
            entries: member
                .metadata
                .iter()
                .map(|(k, v)| Entry { key: k.clone(), value: v.clone() })
                .collect(),
        });
        let dropped = self.has_bug(PlantedBug::DropUnknownFields);
        let unknown: &[u8] = if dropped { &[] } else { &record.unknown };
        let descriptor = descriptor.map(|d| Kept::with_unknown(d, unknown));
        let suspicion = self.suspicions.get(node_id);
        let update = plain::Update {
            node_id: node_id.to_string(),
            instance: member.instance.0,
            incarnation: member.incarnation.0,
            state: state_to_wire(member.state),
            metadata_version: member.metadata_version,
            descriptor,
            verified: true,
            challenged: self.claims.is_open(node_id),
            accusers: suspicion.map_or_else(Vec::new, |s| s.accusers().map(ToString::to_string).collect()),
            refused_by: suspicion
                .map_or_else(Vec::new, |s| s.refused_by().map(ToString::to_string).collect()),
            age_us: 0,
        };
        Some(Kept::with_unknown(update, record.unknown_of_word()))
    }

    /// Forgets members whose tombstone's time is over.
    pub(super) fn reclaim(&mut self, now: Instant) {
        let counts = self.table.counts();
        if counts.dead + counts.left == 0 {
            return;
        }
        let over: Vec<NodeId> = self
            .table
            .iter()
            .filter(|r| r.reclaim_at.is_some_and(|at| at <= now))
            .map(|r| r.member.node_id.clone())
            .collect();
        for node_id in over {
            let before = self.table.get(&node_id).map(|r| r.member.state);
            self.announce(now, &node_id, MemberChange::Reclaimed, before, Reason::Announced, Vec::new());
            self.table.remove(&node_id);
            self.close_link(&node_id);
        }
    }
}

fn entries(descriptor: &Descriptor) -> BTreeMap<String, String> {
    descriptor.entries.iter().map(|e| (e.key.clone(), e.value.clone())).collect()
}

/// Brings the fields that follow from metadata in line with it.
pub(super) fn settle(member: &mut Member) {
    let degraded = member.metadata(HEALTH_KEY) == Some("degraded");
    member.health = if degraded { Health::Degraded } else { Health::Healthy };
}

/// The metadata entry that says how well we can be reached.
pub(super) fn health_entry(health: Health) -> (&'static str, Option<&'static str>) {
    (HEALTH_KEY, (health == Health::Degraded).then_some("degraded"))
}

/// The same on every node for the same transition, so that logs can be joined.
fn correlation_id(member: &Member, name_hash: u64) -> u64 {
    let mut bytes = [0u8; 33];
    bytes[..8].copy_from_slice(&name_hash.to_le_bytes());
    bytes[8..16].copy_from_slice(&member.instance.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&member.incarnation.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&member.metadata_version.to_le_bytes());
    bytes[32] = rank(member.state);
    xxh3_64_with_seed(&bytes, 2)
}
