//! Packets in: by sender and rate, then to the part that each piece is for.

use bytes::Bytes;
use mesh_core::{InstanceId, Instant, MemberState, NodeId};

use super::{Gossip, members::Source};
use crate::wire::{self, InputError, Packet, Word};

impl Gossip {
    pub(super) fn handle_payload(
        &mut self,
        now: Instant,
        from: &NodeId,
        payload: &Bytes,
    ) -> Result<(), InputError> {
        self.admit(now, from)?;
        let packet = wire::decode(from, payload).inspect_err(|error| match error {
            InputError::Version { .. } => self.counters.refused_version += 1,
            _ => self.counters.refused_malformed += 1,
        })?;
        self.counters.received_messages += 1;
        self.counters.received_bytes += payload.len() as u64;
        let instance = InstanceId(packet.instance);
        if let Some(link) = self.links.get_mut(from) {
            link.last_heard = now;
            link.instance = Some(instance);
        }
        self.prober.heard_from_somebody(now);
        self.take_packet(now, from, packet);
        Ok(())
    }

    /// A token bucket for each peer: a flood costs its sender its own messages.
    fn admit(&mut self, now: Instant, from: &NodeId) -> Result<(), InputError> {
        let limit = self.config.messages_per_second_max;
        let Some(link) = self.links.get_mut(from) else {
            return Err(InputError::NoLink { from: from.clone() });
        };
        let rate = f64::from(limit);
        link.allowance = (link.allowance + now.since(link.allowance_at).as_secs_f64() * rate).min(rate);
        link.allowance_at = now;
        if link.allowance < 1.0 {
            self.counters.refused_rate += 1;
            return Err(InputError::TooManyMessages { from: from.clone(), limit });
        }
        link.allowance -= 1.0;
        Ok(())
    }

    fn take_packet(&mut self, now: Instant, from: &NodeId, packet: Packet) {
        let digest = packet.digest;
        for update in packet.updates {
            self.take_update(now, from, update);
        }
        for delta in packet.deltas {
            self.take_delta(now, from, delta);
        }
        if packet.goodbye {
            self.take_goodbye(now, from, packet.instance);
        }
        if packet.goodbye_ack {
            self.take_goodbye_ack(from);
        }
        if let Some(hello) = packet.hello {
            self.take_hello(now, from, hello, digest);
        }
        if let Some(probe) = packet.probe {
            self.take_probe(now, from, probe);
        }
        if let Some(ack) = packet.ack {
            self.take_ack(now, from, ack);
        }
        if let Some(request) = packet.probe_request {
            self.take_probe_request(now, from, request);
        }
        if let Some(report) = packet.probe_report {
            self.take_probe_report(now, from, report);
        }
        if let Some(request) = packet.sync_request {
            self.take_sync_request(now, from, request);
        }
        if let Some(summary) = packet.sync_summary {
            self.take_sync_summary(now, from, summary);
        }
        if let Some(records) = packet.sync_records {
            self.take_sync_records(now, from, records);
        }
        for broadcast in packet.broadcasts {
            self.take_broadcast(now, from, broadcast);
        }
        if let Some(load) = packet.load {
            self.take_load(now, from, InstanceId(packet.instance), load);
        }
        for sample in packet.loads {
            self.take_load_sample(now, from, sample);
        }
        self.compare_digest(now, from, digest);
    }

    /// A pushed update. One about its own sender is a member's word about itself.
    fn take_update(&mut self, now: Instant, from: &NodeId, update: wire::Update) {
        if let Some(node_id) = self.repeats(from, &update) {
            self.counters.duplicates += 1;
            self.outbox.heard(from, &node_id);
            return;
        }
        let Some(word) = Word::parse(update, self.metadata_bytes_max()) else {
            self.counters.refused_malformed += 1;
            return;
        };
        let own = word.node_id == *from;
        let source = if own { Source::Own } else { Source::Push };
        self.take_word(now, from, word, source);
    }

    /// The member that an update tells nothing new about: most of a flood, so it is looked at first.
    fn repeats(&self, from: &NodeId, update: &wire::Update) -> Option<NodeId> {
        let record = self.table.get_by_name(&update.node_id)?;
        let member = &record.member;
        let same = member.instance.0 == update.instance
            && member.incarnation.0 == update.incarnation
            && wire::state_to_wire(member.state) == update.state
            && update.metadata_version <= member.metadata_version;
        let says_more = member.state == MemberState::Suspect
            || update.challenged && !self.claims.is_open(&member.node_id)
            || !update.challenged && self.claims.is_open(&member.node_id)
            || !update.unknown.is_empty();
        let about_ends = member.node_id == *from || member.node_id == *self.local.node_id();
        (same && !says_more && !about_ends).then(|| member.node_id.clone())
    }

    /// The limit in force: less for each in a large cluster.
    pub(super) fn metadata_bytes_max(&self) -> usize {
        const ALL_BYTES_MAX: usize = 16 * 1024 * 1024;
        let share = ALL_BYTES_MAX / self.table.counts().live().max(1);
        self.config.metadata_bytes_max.min(share)
    }
}
