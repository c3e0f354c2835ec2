//! How busy members are: values that ride on probes and their answers.
//!
//! A load changes too fast for a flood. So a node puts its own on every probe and
//! every ack: each neighbour on the overlay hears it in its turn, which comes once
//! in as many probe intervals as there are rings. Behind it ride a few loads of
//! others, up to `gossip.load_relay_bytes` for each message; a node passes a word
//! on [`RELAYS`] times, in the order in which the words came, and a newer word
//! takes the place of the one that waits. So the cost depends neither on the size of
//! the cluster nor on how often loads change; how soon others know does. With the
//! default and all members changing all the time, half of the members know a load after 3 probe intervals in
//! a cluster of 20, 5 in one of 50, 10 in one of 100, and 95 % after 9, 22 and 47.
//!
//! A load that did not change is said anew from time to time, for those whom the
//! last word missed. What comes from the member itself overrides what was relayed,
//! which is a hint.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use mesh_core::{InstanceId, Instant, Load, LoadReport, Member, NodeId};
use prost::Message as _;

use super::Gossip;
use crate::wire::{self, CommandError, Packet, plain};

/// How often a node passes on one word about another.
const RELAYS: u8 = 3;
/// A load that did not change is said anew after this long.
const SAID_ANEW: Duration = Duration::from_secs(15);
/// The longest encoded load that is taken, unknown fields included: probes must stay single datagrams.
const BYTES_MAX: usize = 512;
/// Words looked at for one message, so that its cost is bounded.
const LOOKED_AT: usize = 32;
/// The age of a word that is older than anybody wants to know.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Our own load, as we say it.
#[derive(Clone, Debug)]
struct Own {
    load: wire::Load,
    said_at: Instant,
}

/// The newest word about one other member.
#[derive(Clone, Debug)]
struct Heard {
    sample: wire::LoadSample,
    said_at: Instant,
    /// From whom: not told again what it told us.
    from: NodeId,
    /// By the member itself.
    direct: bool,
    relays_left: u8,
}

impl Heard {
    fn sequence(&self) -> u64 {
        self.sample.load.as_ref().map_or(0, |l| l.sequence)
    }
}

/// What is known of loads.
#[derive(Debug, Default)]
pub(super) struct Loads {
    own: Option<Own>,
    /// At most one for each live member.
    heard: BTreeMap<NodeId, Heard>,
    /// Members whose word is to be passed on still: those with relays left, each once.
    waiting: VecDeque<NodeId>,
}

impl Loads {
    pub(super) fn forget(&mut self, node_id: &NodeId) {
        if self.heard.remove(node_id).is_some() {
            self.waiting.retain(|waiting| waiting != node_id);
        }
    }
}

/// The lower half of an instance.
fn run(instance: InstanceId) -> u32 {
    instance.0 as u32
}

fn to_wire(load: &Load, sequence: u64) -> wire::Load {
    let value = |(name, value): (&String, &u64)| plain::LoadValue { name: name.clone(), value: *value };
    plain::Load {
        sequence,
        cpu_permille: load.cpu_permille.map(u32::from),
        memory_permille: load.memory_permille.map(u32::from),
        custom: load.custom.iter().map(value).collect(),
    }
    .into()
}

/// `None` if it makes no sense.
fn from_wire(wire: &wire::Load) -> Option<Load> {
    if wire.encoded_len() > BYTES_MAX || wire.custom.len() > Load::CUSTOM_MAX {
        return None;
    }
    let share = |value: Option<u32>| match value {
        None => Some(None),
        Some(value) => u16::try_from(value).ok().map(Some),
    };
    let mut load = Load::default();
    load.cpu_permille = share(wire.cpu_permille)?;
    load.memory_permille = share(wire.memory_permille)?;
    load.custom = wire.custom.iter().map(|v| (v.name.clone(), v.value)).collect();
    load.validate().ok()?;
    Some(load)
}

fn report(load: Load, said_at: Instant) -> Option<LoadReport> {
    (!load.is_empty()).then(|| LoadReport::new(load, said_at))
}

impl Gossip {
    pub(super) fn set_load(&mut self, now: Instant, load: Load) -> Result<(), CommandError> {
        load.validate()?;
        let held = self.loads.own.as_ref().map(|own| &own.load);
        let sequence = held.map_or(0, |l| l.sequence) + 1;
        if held.is_none() && load.is_empty() {
            return Ok(());
        }
        self.loads.own = Some(Own { load: to_wire(&load, sequence), said_at: now });
        let node_id = self.local.node_id().clone();
        self.table.update(&node_id, |record| {
            Arc::make_mut(&mut record.member).load = report(load, now);
        });
        Ok(())
    }

    /// Adds our load, and some of others', to a probe or an ack for `to`.
    pub(super) fn with_loads(&mut self, now: Instant, to: &NodeId, packet: Packet) -> Packet {
        if let Some(own) = &mut self.loads.own
            && now.since(own.said_at) >= SAID_ANEW
        {
            own.load.sequence += 1;
            own.said_at = now;
            let node_id = self.local.node_id().clone();
            self.table.update(&node_id, |record| {
                if let Some(report) = &mut Arc::make_mut(&mut record.member).load {
                    report.said_at = now;
                }
            });
        }
        let load = self.loads.own.as_ref().map(|own| own.load.clone());
        Packet { load, loads: self.loads_for(now, to), ..packet }
    }

    /// Words about others that are next to be passed on, as many as there is room for but at least one.
    fn loads_for(&mut self, now: Instant, to: &NodeId) -> Vec<wire::LoadSample> {
        let room = self.config.load_relay_bytes;
        let (mut picked, mut bytes) = (Vec::new(), 0);
        if room == 0 {
            return picked;
        }
        for _ in 0..self.loads.waiting.len().min(LOOKED_AT) {
            let Some(node_id) = self.loads.waiting.pop_front() else { break };
            let current = self.table.get(&node_id).map(|r| &r.member);
            let Some(heard) = self.loads.heard.get_mut(&node_id) else { continue };
            if !current.is_some_and(|m| m.state.is_live() && run(m.instance) == heard.sample.run) {
                self.loads.forget(&node_id);
                continue;
            }
            // Chance decides whom a word goes to: turns repeat, and would leave out the same members each time.
            if node_id == *to || heard.from == *to || self.rng.bool() {
                self.loads.waiting.push_back(node_id);
                continue;
            }
            let mut sample = heard.sample.clone();
            let age = now.since(heard.said_at).min(AGE_MAX);
            sample.age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
            // A key and a length go before it.
            bytes += sample.encoded_len() + 3;
            if bytes > room && !picked.is_empty() {
                self.loads.waiting.push_front(node_id);
                break;
            }
            heard.relays_left = heard.relays_left.saturating_sub(1);
            if heard.relays_left > 0 {
                self.loads.waiting.push_back(node_id);
            }
            picked.push(sample);
        }
        picked
    }

    /// A member says how busy it is.
    pub(super) fn take_load(&mut self, now: Instant, from: &NodeId, instance: InstanceId, load: wire::Load) {
        let sample =
            plain::LoadSample { node_id: from.to_string(), run: run(instance), age_ms: 0, load: Some(load) };
        self.hear_load(now, from, from.clone(), sample.into(), true);
    }

    /// Somebody passes on how busy another member is.
    pub(super) fn take_load_sample(&mut self, now: Instant, from: &NodeId, sample: wire::LoadSample) {
        let Ok(node_id) = sample.node_id.parse::<NodeId>() else {
            self.counters.refused_malformed += 1;
            return;
        };
        if node_id != *from && node_id != *self.local.node_id() {
            self.hear_load(now, from, node_id, sample, false);
        }
    }

    fn hear_load(
        &mut self,
        now: Instant,
        from: &NodeId,
        node_id: NodeId,
        sample: wire::LoadSample,
        direct: bool,
    ) {
        let Some(load) =
            sample.load.as_ref().and_then(from_wire).filter(|_| sample.encoded_len() <= BYTES_MAX)
        else {
            self.counters.refused_malformed += 1;
            return;
        };
        let is_present = |m: &Member| m.state.is_live() && run(m.instance) == sample.run;
        if !self.table.get(&node_id).is_some_and(|r| is_present(&r.member)) {
            return;
        }
        let said_at = now - Duration::from_millis(u64::from(sample.age_ms)).min(AGE_MAX);
        let new = Heard { sample, said_at, from: from.clone(), direct, relays_left: RELAYS };
        match self.loads.heard.entry(node_id.clone()) {
            Entry::Vacant(place) => {
                place.insert(new);
                self.loads.waiting.push_back(node_id.clone());
            }
            Entry::Occupied(mut held) => {
                let same_run = held.get().sample.run == new.sample.run;
                let newer = new.sequence() > held.get().sequence();
                // The member's own word ends a rumour about it, whatever number that has.
                let corrects = direct && !held.get().direct && new.sequence() != held.get().sequence();
                if same_run && !newer && !corrects {
                    return;
                }
                if held.get().relays_left == 0 {
                    self.loads.waiting.push_back(node_id.clone());
                }
                held.insert(new);
            }
        }
        self.table.update(&node_id, |record| {
            Arc::make_mut(&mut record.member).load = report(load, said_at);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_survives_the_wire_and_a_senseless_one_is_refused() {
        let load = Load::default().with_cpu_permille(1000).with_custom("shards", u64::MAX);
        assert_eq!(from_wire(&to_wire(&load, 3)), Some(load.clone()));
        let mut odd = to_wire(&load, 3);
        odd.cpu_permille = Some(1001);
        assert_eq!(from_wire(&odd), None);
        odd.cpu_permille = Some(70_000);
        assert_eq!(from_wire(&odd), None);
        let mut many = to_wire(&load, 3);
        many.custom = vec![plain::LoadValue { name: "a".into(), value: 1 }; 9];
        assert_eq!(from_wire(&many), None);
        let mut long = to_wire(&load, 3);
        long.unknown = vec![0; BYTES_MAX];
        assert_eq!(from_wire(&long), None);
    }

    #[test]
    fn the_largest_load_fits() {
        let full = (0..8).fold(Load::default(), |load, i| {
            load.with_custom(format!("{}{i}", "x".repeat(Load::NAME_BYTES_MAX - 1)), u64::MAX)
        });
        full.validate().expect("at its bounds");
        assert!(from_wire(&to_wire(&full, u64::MAX)).is_some());
    }
}
