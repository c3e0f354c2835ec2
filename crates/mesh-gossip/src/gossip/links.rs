//! Links come up and go down; which to open, which to close.
//!
//! An observer dials its subjects. A link that the overlay no longer wants is
//! kept for a while, so that an old edge stays until its replacement is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    ConnectError, DatagramEvent, Direction, Health, InstanceId, Instant, LinkDownReason, LinkPath,
    LinkTarget, NodeId, PeerIdentity, Verification,
};

use super::Gossip;
use crate::{
    event::Effect,
    rtt::Rtt,
    wire::{Hello, InputError, Packet},
};

/// How long a link that nobody wants stays open.
const LINGER: Duration = Duration::from_secs(12);
/// Links that this node is opening at one time. Few: when a whole cluster starts at once, handshakes
/// compete for processors, and more at a time only makes each of them late.
const DIALS_MAX: usize = 2;
/// After a dial without answer while this node is starved, the first pause before it opens another link; it
/// doubles each time. Handshakes that come too late are the most costly way to do nothing.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Dials of lost members under way at one time, besides: each may take its whole timeout, and even the only
/// node on its side of a partition has to begin two in a second.
const LOST_DIALS_MAX: usize = 12;
/// After a dial that got no answer, the first wait before the next; it doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Silent dials in a row that are evidence even against a peer whom we never met.
const SILENCES_MAX: u32 = 4;
/// A dial that got no outcome for this long is forgotten: the carrier broke its contract.
const DIAL_FORGOTTEN: Duration = Duration::from_secs(10);

/// One link that is up.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) path: LinkPath,
    /// The run that speaks over it, once it said so.
    pub(super) instance: Option<InstanceId>,
    pub(super) last_heard: Instant,
    pub(super) rtt: Rtt,
    /// Until when changes are pushed over it although the overlay does not want it: it joins two halves.
    bridge_until: Option<Instant>,
    /// Until when it stays although the overlay does not want it.
    keep_until: Instant,
    /// Messages that may still come in now, and when that was reckoned.
    pub(super) allowance: f64,
    pub(super) allowance_at: Instant,
    /// When the last comparison that this peer asked for was answered.
    pub(super) sync_answered_at: Option<Instant>,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
struct Dial {
    since: Instant,
    /// Nobody waits for its outcome: it must not keep others from being dialled.
    lost: bool,
}

/// All links and dials.
#[derive(Debug, Default)]
pub(super) struct Links {
    up: BTreeMap<NodeId, Link>,
    dials: BTreeMap<LinkTarget, Dial>,
    /// Dials that wait for a place.
    waiting: BTreeSet<LinkTarget>,
    /// Dials in a row that nobody answered while we were starved, and until when we open no link therefore.
    late_silences: u32,
    paused_until: Option<Instant>,
    /// Peers with whom there was a link in their present run, as far as known.
    met: BTreeSet<NodeId>,
    /// Dials without answer in a row, and when the next makes sense.
    silent: BTreeMap<NodeId, (u32, Instant)>,
}

impl Links {
    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    pub(super) fn get(&self, peer: &NodeId) -> Option<&Link> {
        self.up.get(peer)
    }

    pub(super) fn get_mut(&mut self, peer: &NodeId) -> Option<&mut Link> {
        self.up.get_mut(peer)
    }

    pub(super) fn is_up(&self, peer: &NodeId) -> bool {
        self.up.contains_key(peer)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &NodeId> {
        self.up.keys()
    }

    /// Changes on either side of a healed partition have to cross by the few links that there are.
    pub(super) fn bridge(&mut self, now: Instant, peer: &NodeId) {
        if let Some(link) = self.up.get_mut(peer) {
            link.bridge_until = Some(now + LINGER);
        }
    }

    /// Peers over bridges.
    pub(super) fn bridges(&self, now: Instant) -> impl Iterator<Item = &NodeId> {
        self.up.iter().filter(move |(_, l)| l.bridge_until.is_some_and(|until| until > now)).map(|(n, _)| n)
    }

    /// Whether there was a link to this peer: only then is its silence evidence.
    pub(super) fn met(&self, peer: &NodeId) -> bool {
        self.met.contains(peer)
    }

    /// Forgets what was learned by dialling a peer that is gone or new.
    pub(super) fn forget(&mut self, peer: &NodeId) {
        self.met.remove(peer);
        self.silent.remove(peer);
    }

    /// Notes a dial without answer; returns how many there were in a row.
    fn note_silence(&mut self, now: Instant, peer: &NodeId, jitter: f64) -> u32 {
        let (count, next) = self.silent.entry(peer.clone()).or_insert((0, now));
        *count += 1;
        let wait = BACKOFF_MIN.saturating_mul(1 << (*count - 1).min(8)).min(BACKOFF_MAX);
        *next = now + wait.mul_f64(0.5 + jitter);
        *count
    }

    /// A dial without answer while we are starved: the fewer handshakes, the sooner one succeeds.
    fn note_late_silence(&mut self, now: Instant, jitter: f64) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.late_silences.min(8)).min(PAUSE_MAX);
        self.late_silences += 1;
        self.paused_until = Some(now + pause.mul_f64(0.5 + jitter));
    }

    fn dials_of(&self, lost: bool) -> usize {
        self.dials.values().filter(|dial| dial.lost == lost).count()
    }

    fn is_dialing(&self, target: &LinkTarget) -> bool {
        self.dials.contains_key(target) || self.waiting.contains(target)
    }
}

impl Gossip {
    pub(super) fn handle_link(&mut self, now: Instant, event: DatagramEvent) -> Result<(), InputError> {
        if self.local.is_silent() {
            if let DatagramEvent::LinkUp { peer, .. } = event {
                // It calls a member, and that is another process now, or none.
                self.effects.push_back(Effect::Disconnect(peer.node_id().clone()));
            }
            return Ok(());
        }
        match event {
            DatagramEvent::Received { from, payload, .. } => {
                self.handle_payload(now, from.node_id(), &payload)
            }
            DatagramEvent::LinkUp { peer, remote, path, direction } => {
                self.link_up(now, peer, remote, path, direction);
                Ok(())
            }
            DatagramEvent::LinkDown { peer, reason } => {
                self.link_down(now, &peer, reason);
                Ok(())
            }
            DatagramEvent::ConnectFailed { target, error } => {
                self.connect_failed(now, &target, &error);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks the carrier for a link, now or when a dial in progress ends.
    pub(super) fn dial(&mut self, now: Instant, target: LinkTarget) {
        if target.node_id.as_ref() == Some(self.local.node_id()) || self.links.is_dialing(&target) {
            return;
        }
        if self.may_dial(now) {
            self.begin_dial(now, target, false);
        } else {
            self.links.waiting.insert(target);
        }
    }

    fn may_dial(&self, now: Instant) -> bool {
        let late = self.prober.lateness() > 0;
        let paused = late && self.links.paused_until.is_some_and(|until| until > now);
        !paused && self.links.dials_of(false) < self.dials_max()
    }

    /// Whether a probe may open or check a link: always, unless this node is late with everything.
    pub(super) fn may_dial_urgently(&self, now: Instant) -> bool {
        self.prober.lateness() == 0 || self.may_dial(now)
    }

    /// Tries a member that is held to be dead, or a silent seed, unless enough such dials are under way.
    pub(super) fn dial_lost(&mut self, now: Instant, target: LinkTarget) {
        if !self.links.is_dialing(&target) && self.links.dials_of(true) < LOST_DIALS_MAX {
            self.begin_dial(now, target, true);
        }
    }

    /// Asks the carrier, unless it has been asked.
    fn begin_dial(&mut self, now: Instant, target: LinkTarget, lost: bool) {
        if self.links.dials.insert(target.clone(), Dial { since: now, lost }).is_none() {
            self.effects.push_back(Effect::Connect(target));
        }
    }

    /// One at a time while this node is late with everything else.
    fn dials_max(&self) -> usize {
        if self.prober.lateness() > 0 { 1 } else { DIALS_MAX }
    }

    /// Asks at once, whatever else is under way: a probe waits for the outcome.
    pub(super) fn dial_urgently(&mut self, now: Instant, target: LinkTarget) {
        self.links.waiting.remove(&target);
        self.begin_dial(now, target, false);
    }

    /// Where a member can be dialled: its best address.
    pub(super) fn target_of(&self, node_id: &NodeId) -> Option<LinkTarget> {
        let address = *self.table.get(node_id)?.member.addresses.first()?;
        Some(LinkTarget { node_id: Some(node_id.clone()), address })
    }

    /// Dials the subjects that have no link yet. Observers dial us.
    pub(super) fn open_wanted_links(&mut self, now: Instant) {
        let rested = |s: &NodeId| self.links.silent.get(s).is_none_or(|(_, next)| *next <= now);
        let missing: Vec<NodeId> =
            self.overlay.subjects.iter().filter(|s| !self.links.is_up(s) && rested(s)).cloned().collect();
        for subject in missing {
            if let Some(target) = self.target_of(&subject) {
                self.dial(now, target);
            }
        }
    }

    fn dial_ended(&mut self, now: Instant, ended: impl Fn(&LinkTarget) -> bool) {
        self.links.dials.retain(|target, _| !ended(target));
        self.dial_waiting(now);
    }

    fn dial_waiting(&mut self, now: Instant) {
        while self.may_dial(now) {
            let Some(next) = self.links.waiting.pop_first() else { break };
            let up = next.node_id.as_ref().is_some_and(|n| self.links.is_up(n));
            if !up {
                self.begin_dial(now, next, false);
            }
        }
    }

    fn link_up(
        &mut self,
        now: Instant,
        identity: Arc<PeerIdentity>,
        remote: SocketAddr,
        path: LinkPath,
        direction: Direction,
    ) {
        let peer = identity.node_id().clone();
        let outbound = direction == Direction::Outbound;
        // A dial is over once there is a link, whoever opened it.
        self.dial_ended(now, |t| match &t.node_id {
            Some(node_id) => *node_id == peer,
            None => outbound && t.address == remote,
        });
        if outbound {
            self.rejoin.seed_answered(remote);
        }
        if peer == *self.local.node_id() {
            // One of the seeds is ourselves.
            self.rejoin.seed_is_self(remote);
            self.effects.push_back(Effect::Disconnect(peer));
            return;
        }
        self.rejoin.forgive(&peer, remote);
        (self.links.late_silences, self.links.paused_until) = (0, None);
        self.links.silent.remove(&peer);
        self.links.met.insert(peer.clone());
        let known = self.links.up.get(&peer).map(|l| l.path);
        let messages = f64::from(self.config.messages_per_second_max);
        let link = self.links.up.entry(peer.clone()).or_insert_with(|| Link {
            identity: identity.clone(),
            path,
            instance: None,
            last_heard: now,
            rtt: Rtt::default(),
            bridge_until: None,
            keep_until: now + LINGER,
            allowance: messages,
            allowance_at: now,
            sync_answered_at: None,
        });
        link.identity = identity;
        link.path = path;
        link.last_heard = now;
        if known.is_none() {
            self.say_hello(now, &peer);
            self.outbox.link_up(&peer);
        }
        if known != Some(path) {
            self.note_path(now, &peer);
        }
        self.probe_link_up(now, &peer);
        self.verify_candidate(now, &peer);
    }

    fn say_hello(&mut self, now: Instant, peer: &NodeId) {
        let mut updates = vec![self.update_about_self(true)];
        // If we hold it to be dead, it learns that first and can refute at once.
        updates.extend(self.update_for_itself(peer));
        let join = self.asks_for_list(now, peer);
        let hello = Some(Hello { join, please_probe: false });
        self.transmit(peer, Packet { updates, hello, ..Packet::default() });
    }

    fn link_down(&mut self, now: Instant, peer: &NodeId, reason: LinkDownReason) {
        let Some(link) = self.links.up.remove(peer) else { return };
        self.outbox.link_down(peer);
        let evidence = match reason {
            // The process behind it is gone or new: look at once.
            LinkDownReason::Reset | LinkDownReason::Idle | LinkDownReason::Failed => true,
            // Good order, our own doing, or a link over the other path follows.
            _ => false,
        };
        let live = self.table.get(peer).is_some_and(|r| r.member.state.is_live());
        if live && evidence {
            self.probe_now(now, peer);
        } else if live
            && self.overlay.subjects.contains(peer)
            && reason != LinkDownReason::Local
            && let Some(target) = self.target_of(peer)
        {
            if link.instance.is_some() {
                self.dial(now, target);
            } else {
                // It hung up without a word, and may do so each time.
                let jitter = self.rng.f64();
                self.links.note_silence(now, peer, jitter);
            }
        }
        self.note_own_health(now);
    }

    fn connect_failed(&mut self, now: Instant, target: &LinkTarget, error: &ConnectError) {
        if matches!(error, ConnectError::Timeout) && self.prober.lateness() > 0 {
            let jitter = self.rng.f64();
            self.links.note_late_silence(now, jitter);
        }
        self.dial_ended(now, |t| t == target);
        if matches!(error, ConnectError::Identity(_)) {
            let (live, jitter) = (self.table.counts().live(), self.rng.f64());
            self.rejoin.shun(now, target, live, jitter);
        }
        let Some(peer) = &target.node_id else { return };
        let refused = matches!(error, ConnectError::Refused);
        let jitter = self.rng.f64();
        let silences = self.links.note_silence(now, peer, jitter);
        // A first connection that takes too long says more about a busy start than about the peer.
        if refused || self.links.met(peer) || silences >= SILENCES_MAX {
            self.probe_connect_failed(now, peer, refused);
        }
        self.candidate_failed(peer);
    }

    /// Keeps the set of links close to what the overlay wants.
    pub(super) fn tend_links(&mut self, now: Instant) {
        let forgotten: Vec<LinkTarget> = self
            .links
            .dials
            .iter()
            .filter(|(_, dial)| now.since(dial.since) > DIAL_FORGOTTEN)
            .map(|(target, _)| target.clone())
            .collect();
        for target in forgotten {
            self.dial_ended(now, |t| *t == target);
        }
        self.dial_waiting(now);
        self.open_wanted_links(now);

        let complete = self.overlay.subjects.iter().all(|s| self.links.is_up(s));
        let mut close = Vec::new();
        for (peer, link) in &mut self.links.up {
            let live = self.table.get(peer).is_some_and(|r| r.member.state.is_live());
            if self.overlay.wants(peer) && live || !complete || !self.rejoin.ready {
                link.keep_until = now + LINGER;
            } else if link.keep_until <= now {
                close.push(peer.clone());
            }
        }
        for peer in close {
            self.close_link(&peer);
        }
    }

    pub(super) fn close_link(&mut self, peer: &NodeId) {
        if self.links.up.remove(peer).is_some() {
            self.outbox.link_down(peer);
            self.effects.push_back(Effect::Disconnect(peer.clone()));
        }
    }

    /// A path says how well the peer, or we ourselves, can be reached.
    fn note_path(&mut self, now: Instant, peer: &NodeId) {
        self.note_own_health(now);
        let Some(link) = self.links.get(peer) else { return };
        let role = link.identity.role().clone();
        self.table.update(peer, |record| {
            let member = Arc::make_mut(&mut record.member);
            member.verification = Verification::Direct;
            member.role = role;
        });
    }

    /// We are degraded when more than half of our links run over HTTP/2: something drops our UDP.
    fn note_own_health(&mut self, now: Instant) {
        let fallback = self.links.up.values().filter(|l| l.path == LinkPath::Http2).count();
        let degraded = fallback * 2 > self.links.up.len();
        let health = if degraded { Health::Degraded } else { Health::Healthy };
        if self.record_of_self().member.health != health && !self.links.up.is_empty() {
            self.set_own_health(now, health);
        }
    }
}
