//! The membership core: SWIM states on a stable overlay, as a plain value.
//!
//! | file | rules |
//! |---|---|
//! | `links` | links come up and go down; which to open, which to close |
//! | `intake` | packets in, by sender and rate |
//! | `members` | words about members, what they change, whom they are passed to |
//! | `local` | words about ourselves: refuting, superseding, conflicts; metadata; leaving |
//! | `loads` | how busy members are: what rides on probes |
//! | `probing` | who is probed when, and what a missing answer sets off |
//! | `suspicion` | how long a suspect has to refute |
//! | `claims` | what a healed partition's other half holds for dead: a chance to refute, without suspicion |
//! | `push` | changes flow along the overlay |
//! | `repair` | what was missed is found by digests and fetched in pages |
//! | `rejoin` | seeds, saved members, lost members, isolation |

mod claims;
mod intake;
mod links;
mod loads;
mod local;
mod members;
mod probing;
mod push;
mod rejoin;
mod repair;
mod suspicion;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use mesh_core::{Incarnation, InstanceId, Instant, Machine, Member, NodeId, Validated, Verification};

use crate::{
    config::GossipConfig,
    counters::Counters,
    event::{Effect, Event, GossipStatus, Input, LocalNode},
    overlay::{self, Overlay},
    table::{Record, Table},
    wire::{self, InputError, PROTOCOL, Packet},
};

pub use self::rejoin::MEMBERS_FILE;
#[cfg(feature = "fuzzing")]
pub(crate) use self::rejoin::parse_saved;
use self::{
    claims::Claims, links::Links, loads::Loads, local::Local, probing::Prober, push::Outbox, rejoin::Rejoin,
    repair::Repair, suspicion::Suspicion,
};

/// Housekeeping that has no deadline of its own.
const TICK: Duration = Duration::from_millis(1000);
/// The same while the node looks for a way in.
const TICK_SEARCHING: Duration = Duration::from_millis(250);

/// How late a timer may fire before the node takes it that it was itself paused or starved.
const LATE: Duration = Duration::from_millis(100);

/// The membership core of one node.
///
/// A [`Machine`]: give it inputs with the time they happened at, drain its
/// effects, and call [`Machine::handle_timeout`] at its deadline. The same seed
/// and inputs give the same effects.
///
/// ```
/// use std::{collections::BTreeMap, sync::Arc};
/// use mesh_core::{CertificateInfo, DiskCompletion, Instant, Machine, PeerIdentity, Settings};
/// use mesh_gossip::{Effect, Event, Gossip, GossipConfig, Input, LocalNode};
///
/// let identity = Arc::new(PeerIdentity {
///     id: "spiffe://example.org/mesh/demo/worker/w-1".parse()?,
///     certificate: CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: u64::MAX },
/// });
/// let local = LocalNode { identity, addresses: vec!["127.0.0.1:7000".parse()?], metadata: BTreeMap::new() };
/// let config = GossipConfig::lan().validate().map_err(|e| e[0].clone())?;
/// let mut gossip = Gossip::new(config, local, 42, Instant::ZERO);
/// while let Some(effect) = gossip.poll_effect() {
///     if let Effect::Disk(request) = effect {
///         // No file of saved members, and no seeds: nobody to look for.
///         gossip.handle(Instant::ZERO, Input::Disk(DiskCompletion { id: request.id, result: Ok(None) }))?;
///     }
/// }
/// assert!(gossip.status().ready, "alone and without seeds: the first of its cluster");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gossip {
    config: Validated<GossipConfig>,
    rng: fastrand::Rng,
    local: Local,
    table: Table,
    overlay: Overlay,
    /// When the overlay is computed anew after a change; changes in quick succession share it.
    overlay_due: Option<Instant>,
    /// The latest that the overlay may wait for changes to settle.
    overlay_latest: Option<Instant>,
    links: Links,
    prober: Prober,
    loads: Loads,
    suspicions: BTreeMap<NodeId, Suspicion>,
    claims: Claims,
    outbox: Outbox,
    repair: Repair,
    rejoin: Rejoin,
    tick_due: Instant,
    counters: Counters,
    effects: VecDeque<Effect>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<crate::planted::PlantedBug>,
}

impl Gossip {
    /// A core for `local`, alone so far.
    ///
    /// `seed` decides every random choice. Take it from the operating system
    /// and never use it twice for the same node: the run's instance comes from it.
    pub fn new(config: Validated<GossipConfig>, local: LocalNode, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let instance = InstanceId(rng.u64(1..));
        let identity = local.identity.clone();
        let mut member = Member::new(identity.node_id().clone(), instance, identity.role().clone(), now);
        member.addresses = local.addresses.iter().copied().take(wire::ADDRESSES_MAX).collect();
        member.verification = Verification::Direct;
        member.incarnation = Incarnation(1);
        member.metadata = local.metadata.clone();
        member.metadata_version = 1;
        let mut table = Table::default();
        table.insert(Record::new(member, identity.certificate.not_before_s));
        let rejoin = Rejoin::new(config.seed_addresses());
        let first_repair = now + rng_between(&mut rng, config.anti_entropy_interval);
        let mut gossip = Self {
            local: Local::new(identity, instance),
            config,
            rng,
            table,
            overlay: Overlay::default(),
            overlay_due: None,
            overlay_latest: None,
            links: Links::default(),
            prober: Prober::default(),
            loads: Loads::default(),
            suspicions: BTreeMap::new(),
            claims: Claims::default(),
            outbox: Outbox::default(),
            repair: Repair::new(first_repair),
            rejoin,
            tick_due: now,
            counters: Counters::default(),
            effects: VecDeque::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        };
        gossip.read_saved_members();
        gossip
    }

    /// The members that are served to users, this node included, ordered by id.
    pub fn members(&self) -> impl Iterator<Item = Arc<Member>> {
        self.table.iter().map(|r| r.member.clone())
    }

    /// One member.
    pub fn member(&self, node_id: &NodeId) -> Option<Arc<Member>> {
        self.table.get(node_id).map(|r| r.member.clone())
    }

    /// This node as others see it.
    pub fn local(&self) -> Arc<Member> {
        self.record_of_self().member.clone()
    }

    /// How the node sees itself and its cluster.
    pub fn status(&self) -> GossipStatus {
        let counts = self.table.counts();
        GossipStatus {
            ready: self.rejoin.ready && !self.rejoin.isolated && self.local.is_member(),
            isolated: self.rejoin.isolated,
            left: self.local.has_left(),
            stepped_aside: self.local.stepped_aside(),
            links: self.links.len(),
            alive: counts.alive,
            suspect: counts.suspect,
            dead: counts.dead,
            left_members: counts.left,
            health_score: self.prober.health_score(),
            overlay_up: self.links.peers().filter(|p| self.overlay.wants(p)).count(),
            overlay_wanted: self.overlay.wanted(),
        }
    }

    /// Members that this node probes.
    pub fn subjects(&self) -> impl Iterator<Item = &NodeId> {
        self.overlay.subjects.iter()
    }

    /// Members that probe this node.
    pub fn observers(&self) -> impl Iterator<Item = &NodeId> {
        self.overlay.observers.iter()
    }

    /// When another member last probed this node in its regular turn.
    pub fn last_probed(&self) -> Option<Instant> {
        self.prober.last_probed()
    }

    /// Digest of the live records: nodes with the same view have the same.
    pub fn digest(&self) -> u64 {
        self.table.digest()
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A driver says that the carrier did not take a message.
    pub fn note_unsent(&mut self) {
        self.counters.unsent_messages += 1;
    }

    /// Items that wait in all queues of the core, for bounds and metrics.
    pub fn queue_length(&self) -> usize {
        self.outbox.len() + self.rejoin.candidates() + self.effects.len()
    }

    fn record_of_self(&self) -> &Record {
        self.table.get(self.local.node_id()).expect("the local record is never removed")
    }

    fn tick(&self) -> Duration {
        let busy = !self.rejoin.ready || self.rejoin.isolated || !self.local.is_member();
        if busy { TICK_SEARCHING } else { TICK }
    }

    fn rings(&self) -> usize {
        overlay::rings(self.table.counts().live(), self.config.rings)
    }

    /// Has the overlay computed anew once changes settle: after a quiet moment, but not much later.
    fn overlay_changed(&mut self, now: Instant) {
        const QUIET: Duration = Duration::from_millis(400);
        const LATEST: Duration = Duration::from_millis(2000);
        // Who is starved leaves the processors to those who still look for their way in.
        let patience = 1 + self.prober.lateness();
        let latest = *self.overlay_latest.get_or_insert(now + LATEST * patience);
        self.overlay_due = Some((now + QUIET * patience).min(latest));
    }

    fn recompute_overlay(&mut self, now: Instant) {
        self.overlay_due = None;
        self.overlay_latest = None;
        let rings = self.rings();
        self.overlay = Overlay::compute(&self.table, self.local.node_id(), rings);
        self.reschedule_probes(now);
        self.open_wanted_links(now);
    }

    /// Sends a packet over the link to `to`, with what every packet carries.
    fn transmit(&mut self, to: &NodeId, packet: Packet) {
        let payload = wire::encode(&self.addressed(packet));
        self.transmit_encoded(to, payload);
    }

    fn addressed(&self, packet: Packet) -> Packet {
        Packet {
            version: PROTOCOL.max.0,
            instance: self.local.instance().0,
            digest: self.table.digest(),
            ..packet
        }
    }

    fn transmit_encoded(&mut self, to: &NodeId, payload: bytes::Bytes) {
        self.counters.sent_messages += 1;
        self.counters.sent_bytes += payload.len() as u64;
        self.effects.push_back(Effect::Transmit { to: to.clone(), payload });
    }

    fn emit(&mut self, event: Event) {
        self.effects.push_back(Effect::Event(event));
    }

    /// The node was paused or starved: nobody else is to blame for what it missed.
    fn forgive(&mut self, now: Instant, late_by: Duration) {
        self.prober.forgive(now, late_by);
        for suspicion in self.suspicions.values_mut() {
            suspicion.forgive(late_by);
        }
        self.claims.forgive(late_by);
        self.counters.late_timers += 1;
    }
}

fn rng_between(rng: &mut fastrand::Rng, up_to: Duration) -> Duration {
    Duration::from_nanos(rng.u64(0..=u64::try_from(up_to.as_nanos()).unwrap_or(u64::MAX)))
}

impl Machine for Gossip {
    type Input = Input;
    type Effect = Effect;
    type Error = InputError;

    fn handle(&mut self, now: Instant, input: Input) -> Result<(), InputError> {
        match input {
            Input::Link(event) => self.handle_link(now, event),
            Input::Disk(completion) => {
                self.handle_disk(now, completion);
                Ok(())
            }
            Input::Command(command) => Ok(self.handle_command(now, command)?),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.local.is_silent() {
            return;
        }
        let late_by = self.poll_timeout().map_or(Duration::ZERO, |due| now.since(due));
        if late_by > LATE {
            self.forgive(now, late_by);
        }
        if self.overlay_due.is_some_and(|due| due <= now) {
            if self.rejoin.ready {
                self.recompute_overlay(now);
            } else {
                // Half a list gives edges that nobody keeps; the whole one asks again.
                self.overlay_due = None;
                self.overlay_latest = None;
            }
        }
        self.run_probes(now);
        self.run_suspicions(now);
        if self.tick_due <= now {
            self.tick_due = now + self.tick();
            self.prober.second_in_time();
            self.tend_links(now);
            self.tend_rejoin(now);
            self.repeat_goodbye();
            self.tend_repair(now);
            self.tend_claims(now);
            self.reclaim(now);
        }
        self.flush(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.local.is_silent() {
            return None;
        }
        [
            Some(self.tick_due),
            self.overlay_due,
            self.outbox.due(),
            self.prober.due(),
            self.suspicions.values().map(Suspicion::deadline).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
