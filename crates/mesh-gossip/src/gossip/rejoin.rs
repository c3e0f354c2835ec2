//! Seeds, saved members, lost members, isolation: how a node finds its way in, and back.
//!
//! Saved members and addresses are places to try, not facts. A member heard of
//! only through repair is a candidate until its own certificate answers. Lost
//! members and seeds are retried for ever at a rate that belongs to the whole
//! cluster, not to each node, so that a healed partition merges by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    DiskCompletion, DiskId, DiskOperation, DiskRequest, FileName, Instant, LinkTarget, MemberState, NodeId,
};

use super::Gossip;
use crate::{
    event::{Effect, Event},
    planted::PlantedBug,
    wire::Word,
};

/// The file of last known members, in the data directory's `gossip/`.
pub const MEMBERS_FILE: FileName = FileName("members");

const READ: DiskId = DiskId(1);
const WRITE: DiskId = DiskId(2);
/// Between two rounds of dialling while we look for a way in.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);
/// Addresses dialled in one such round.
const SEARCH_WIDTH: usize = 3;
/// A list that does not come is asked for again, elsewhere.
const LIST_TIMEOUT: Duration = Duration::from_millis(1000);
/// After this long without a way in, the node reports itself isolated.
const ISOLATED_AFTER: Duration = Duration::from_secs(3);
/// Dials of lost members and seeds in a second, by the whole side of a partition.
const LOST_DIALS_PER_S: f64 = 4.0;
/// Until a target whose certificate was refused, or that refused ours, is dialled by anybody of this side
/// again: it is there, so that no partition is what keeps it away. Doubles each time.
const SHUN_MIN: Duration = Duration::from_secs(10);
const SHUN_MAX: Duration = Duration::from_secs(600);
/// The members file is written this long after a change, so that changes share a write.
const SAVE_DELAY: Duration = Duration::from_secs(2);
/// Members in the file.
const SAVED_MAX: usize = 1024;
/// Targets that are remembered as shunned; further ones are dialled like any other.
const SHUNNED_MAX: usize = 4096;
const CANDIDATES_MAX: usize = 256;
const CANDIDATE_TRIES: u32 = 3;

#[derive(Debug)]
struct Candidate {
    word: Word,
    tries: u32,
    next_try: Instant,
}

/// A target that is there, and with which there can't be a link.
#[derive(Debug)]
struct Shunned {
    refusals: u32,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Rejoin {
    pub(super) ready: bool,
    pub(super) isolated: bool,
    seeds: BTreeSet<SocketAddr>,
    own_addresses: BTreeSet<SocketAddr>,
    saved: BTreeMap<NodeId, SocketAddr>,
    candidates: BTreeMap<NodeId, Candidate>,
    /// Lost members and seeds with a certificate that does not do.
    shunned: BTreeMap<LinkTarget, Shunned>,
    asked_at: Option<Instant>,
    /// Whom we asked for the list, and how many pages came since.
    asked: BTreeMap<NodeId, u32>,
    loaded: bool,
    started_at: Option<Instant>,
    search_due: Option<Instant>,
    alone_since: Option<Instant>,
    save_due: Option<Instant>,
    saving: bool,
    /// The disk failed: what reached it is unknown, so nothing more is written.
    disk_failed: bool,
}

impl Rejoin {
    pub(super) fn new(seeds: Vec<SocketAddr>) -> Self {
        Self {
            ready: false,
            isolated: false,
            seeds: seeds.into_iter().collect(),
            own_addresses: BTreeSet::new(),
            saved: BTreeMap::new(),
            candidates: BTreeMap::new(),
            shunned: BTreeMap::new(),
            asked_at: None,
            asked: BTreeMap::new(),
            loaded: false,
            started_at: None,
            search_due: None,
            alone_since: None,
            save_due: None,
            saving: false,
            disk_failed: false,
        }
    }

    pub(super) fn add_seeds(&mut self, seeds: Vec<SocketAddr>) {
        self.seeds.extend(seeds.into_iter().filter(|s| !self.own_addresses.contains(s)));
        self.search_due = None;
    }

    /// A link to this target was refused for a certificate's sake. A side of `live` members shares the dials.
    pub(super) fn shun(&mut self, now: Instant, target: &LinkTarget, live: usize, jitter: f64) {
        if self.shunned.len() >= SHUNNED_MAX && !self.shunned.contains_key(target) {
            return;
        }
        let shunned = self.shunned.entry(target.clone()).or_insert(Shunned { refusals: 0, until: now });
        let pause = SHUN_MIN.saturating_mul(1 << shunned.refusals.min(8)).min(SHUN_MAX);
        shunned.refusals += 1;
        shunned.until =
            now + pause.mul_f64(live.max(1) as f64 / LOST_DIALS_PER_S * (0.5 + jitter)).max(pause);
    }

    fn is_shunned(&self, now: Instant, target: &LinkTarget) -> bool {
        self.shunned.get(target).is_some_and(|s| s.until > now)
    }

    /// There is a link after all: whatever was refused is forgotten.
    pub(super) fn forgive(&mut self, node_id: &NodeId, remote: SocketAddr) {
        self.shunned.retain(|t, _| t.node_id.as_ref() != Some(node_id) && t.address != remote);
    }

    pub(super) fn seed_answered(&mut self, _address: SocketAddr) {
        self.search_due = None;
    }

    pub(super) fn seed_is_self(&mut self, address: SocketAddr) {
        self.own_addresses.insert(address);
        self.seeds.remove(&address);
    }

    pub(super) fn expects_list_from(&self, peer: &NodeId) -> bool {
        self.asked.contains_key(peer)
    }

    /// Counts a page of the list; returns how many have come.
    pub(super) fn page_came(&mut self, peer: &NodeId) -> u32 {
        let pages = self.asked.entry(peer.clone()).or_default();
        *pages += 1;
        *pages
    }

    pub(super) fn candidates(&self) -> usize {
        self.candidates.len()
    }

    pub(super) fn drop_candidate(&mut self, node_id: &NodeId) {
        self.candidates.remove(node_id);
    }

    pub(super) fn members_changed(&mut self, now: Instant) {
        self.save_due.get_or_insert(now + SAVE_DELAY);
    }
}

impl Gossip {
    pub(super) fn read_saved_members(&mut self) {
        let addresses = self.record_of_self().member.addresses.clone();
        for address in addresses {
            self.rejoin.seed_is_self(address);
        }
        let request = DiskRequest { id: READ, file: MEMBERS_FILE, operation: DiskOperation::Read };
        self.effects.push_back(Effect::Disk(request));
    }

    pub(super) fn handle_disk(&mut self, now: Instant, completion: DiskCompletion) {
        match (completion.id, completion.result) {
            (READ, Ok(contents)) => {
                self.rejoin.loaded = true;
                self.rejoin.saved = contents.map(|c| parse_saved(&c)).unwrap_or_default();
                let own = self.local.node_id().clone();
                self.rejoin.saved.remove(&own);
                self.tend_rejoin(now);
            }
            // Addresses to try are a convenience: seeds do without them.
            (READ, Err(_)) => self.rejoin.loaded = true,
            (WRITE, Ok(_)) => self.rejoin.saving = false,
            (WRITE, Err(mesh_core::DiskFault::Full)) => {
                self.rejoin.saving = false;
                self.rejoin.save_due = Some(now + SAVE_DELAY * 5);
            }
            (WRITE, Err(_)) => self.rejoin.disk_failed = true,
            _ => {}
        }
    }

    pub(super) fn tend_rejoin(&mut self, now: Instant) {
        let started = *self.rejoin.started_at.get_or_insert(now);
        let others = self.table.counts().live() - usize::from(self.record_of_self().member.state.is_live());
        if !self.rejoin.ready {
            let nobody_known =
                self.rejoin.seeds.is_empty() && self.rejoin.saved.is_empty() && self.links.len() == 0;
            if nobody_known && others == 0 && (self.rejoin.loaded || now.since(started) > ISOLATED_AFTER) {
                self.become_ready(now);
            } else {
                self.search(now);
            }
        }
        self.watch_isolation(now, started, others);
        self.retry_candidates(now);
        self.retry_lost(now);
        self.save_members(now);
    }

    fn become_ready(&mut self, now: Instant) {
        if !self.rejoin.ready {
            self.rejoin.ready = true;
            self.emit(Event::Ready);
            self.overlay_changed(now);
        }
    }

    /// The whole list of our contact has come.
    pub(super) fn list_complete(&mut self, now: Instant) {
        self.rejoin.asked.clear();
        self.become_ready(now);
    }

    /// Looks for a way in: dials a few of the known addresses, and asks who answers for the list.
    fn search(&mut self, now: Instant) {
        let stale = self.rejoin.asked_at.is_none_or(|at| now.since(at) > LIST_TIMEOUT);
        if stale && self.links.len() > 0 {
            let at = self.rng.usize(..self.links.len());
            let peer = self.links.peers().nth(at).cloned();
            if let Some(peer) = peer {
                self.ask_for_list(now, &peer);
            }
        }
        if self.rejoin.search_due.is_some_and(|due| due > now) {
            return;
        }
        self.rejoin.search_due = Some(now + SEARCH_INTERVAL);
        let mut targets: Vec<LinkTarget> =
            self.rejoin.seeds.iter().map(|a| LinkTarget { node_id: None, address: *a }).collect();
        targets.extend(
            self.rejoin
                .saved
                .iter()
                .filter(|(n, _)| !self.links.is_up(n))
                .map(|(n, a)| LinkTarget { node_id: Some(n.clone()), address: *a }),
        );
        self.rng.shuffle(&mut targets);
        for target in targets.into_iter().take(SEARCH_WIDTH) {
            self.dial(now, target);
        }
    }

    pub(super) fn ask_for_list(&mut self, now: Instant, peer: &NodeId) {
        self.rejoin.asked_at = Some(now);
        self.rejoin.asked.insert(peer.clone(), 0);
        let hello = Some(crate::wire::Hello { join: true, please_probe: false });
        let updates = vec![self.update_about_self(true)];
        self.transmit(peer, crate::wire::Packet { updates, hello, ..Default::default() });
    }

    /// Whether the first message of a new link should ask for the list; notes that it does.
    pub(super) fn asks_for_list(&mut self, now: Instant, peer: &NodeId) -> bool {
        let fresh = self.rejoin.asked_at.is_some_and(|at| now.since(at) <= LIST_TIMEOUT);
        if self.rejoin.ready || fresh {
            return false;
        }
        self.rejoin.asked_at = Some(now);
        self.rejoin.asked.insert(peer.clone(), 0);
        true
    }

    fn watch_isolation(&mut self, now: Instant, started: Instant, others: usize) {
        let lost = self.table.counts().dead > 0;
        let searching = !self.rejoin.ready && now.since(started) >= ISOLATED_AFTER;
        if self.has_bug(PlantedBug::HideIsolation) {
            return;
        }
        // Giving up the members one by one takes as long as there are many; silence says the same sooner.
        let patience = self.config.suspicion_max.max(self.config.probe_interval * 4);
        let silence = now.since(self.prober.heard_at().max(started));
        let deaf = others > 0 && silence > patience;
        if deaf || others == 0 && (lost || searching) {
            self.rejoin.alone_since.get_or_insert(now);
            if !self.rejoin.isolated {
                self.rejoin.isolated = true;
                self.emit(Event::Isolated);
            }
        } else if others > 0 && self.rejoin.isolated {
            self.rejoin.isolated = false;
            self.rejoin.alone_since = None;
            self.emit(Event::Healed);
        } else if others == 0 && !lost && self.rejoin.ready {
            // The others said goodbye, or were forgotten after their time: nothing is missing.
            self.rejoin.isolated = false;
        }
    }

    pub(super) fn add_candidate(&mut self, now: Instant, word: Word) {
        if self.rejoin.candidates.len() >= CANDIDATES_MAX
            && !self.rejoin.candidates.contains_key(&word.node_id)
        {
            return;
        }
        let node_id = word.node_id.clone();
        let candidate = Candidate { word, tries: 0, next_try: now };
        self.rejoin.candidates.entry(node_id).or_insert(candidate);
    }

    /// A link to a candidate is up: its first message tells the rest, on its own word.
    pub(super) fn verify_candidate(&mut self, _now: Instant, peer: &NodeId) {
        self.rejoin.drop_candidate(peer);
    }

    pub(super) fn candidate_failed(&mut self, node_id: &NodeId) {
        if let Some(candidate) = self.rejoin.candidates.get_mut(node_id) {
            candidate.tries += 1;
            if candidate.tries >= CANDIDATE_TRIES {
                self.rejoin.drop_candidate(node_id);
            }
        }
    }

    fn retry_candidates(&mut self, now: Instant) {
        const RETRY: Duration = Duration::from_secs(2);
        let mut targets = Vec::new();
        for (node_id, candidate) in &mut self.rejoin.candidates {
            if candidate.next_try > now {
                continue;
            }
            candidate.next_try = now + RETRY;
            let address = candidate.word.descriptor.as_ref().and_then(|d| d.addresses.first()?.parse().ok());
            if let Some(address) = address {
                targets.push(LinkTarget { node_id: Some(node_id.clone()), address });
            }
        }
        for target in targets {
            self.dial(now, target);
        }
    }

    /// Dials a lost member or seed from time to time; more often the fewer we are.
    fn retry_lost(&mut self, now: Instant) {
        let live = self.table.counts().live().max(1) as f64;
        let chance = LOST_DIALS_PER_S / live * self.tick().as_secs_f64();
        let spared = !self.rejoin.isolated && self.rng.f64() >= chance;
        if spared || self.has_bug(PlantedBug::ForgetTheLost) {
            return;
        }
        let mut lost: Vec<LinkTarget> = self
            .table
            .iter()
            .filter(|r| r.member.state == MemberState::Dead)
            .filter_map(|r| self.target_of(&r.member.node_id))
            .collect();
        if self.rejoin.ready && !self.rejoin.seeds.is_empty() {
            let answering: BTreeSet<SocketAddr> =
                self.table.live().flat_map(|r| r.member.addresses.iter().copied()).collect();
            let silent = self.rejoin.seeds.iter().filter(|s| !answering.contains(s));
            lost.extend(silent.map(|a| LinkTarget { node_id: None, address: *a }));
        }
        if !self.rejoin.shunned.is_empty() {
            // Who is not lost any more, or was forgotten, starts anew.
            let known: BTreeSet<&LinkTarget> = lost.iter().collect();
            self.rejoin.shunned.retain(|target, _| known.contains(target));
            lost.retain(|target| !self.rejoin.is_shunned(now, target));
        }
        if !lost.is_empty() {
            let at = self.rng.usize(..lost.len());
            self.dial_lost(now, lost.swap_remove(at));
        }
    }

    fn save_members(&mut self, now: Instant) {
        let due = self.rejoin.save_due.is_some_and(|due| due <= now);
        if !due || self.rejoin.saving || self.rejoin.disk_failed || !self.rejoin.ready {
            return;
        }
        self.rejoin.save_due = None;
        let text = self.saved_text();
        if text.is_empty() {
            // Never forget the way back because everybody else is gone.
            return;
        }
        self.rejoin.saving = true;
        let operation = DiskOperation::Replace(Bytes::from(text));
        self.effects.push_back(Effect::Disk(DiskRequest { id: WRITE, file: MEMBERS_FILE, operation }));
    }

    fn saved_text(&self) -> String {
        let mut text = String::new();
        let known = self.table.iter().filter(|r| r.member.state != MemberState::Left);
        for record in known.filter(|r| r.member.node_id != *self.local.node_id()).take(SAVED_MAX) {
            if let Some(address) = record.member.addresses.first() {
                text.push_str(&format!("{} {address}\n", record.member.node_id));
            }
        }
        text
    }
}

/// One member a line: node id and address. Lines that make no sense are passed over.
pub(crate) fn parse_saved(contents: &[u8]) -> BTreeMap<NodeId, SocketAddr> {
    let text = String::from_utf8_lossy(contents);
    text.lines()
        .take(SAVED_MAX)
        .filter_map(|line| {
            let (node_id, address) = line.split_once(' ')?;
            Some((node_id.parse().ok()?, address.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_members_survive_lines_that_make_no_sense() {
        let saved = parse_saved(b"a 127.0.0.1:1\nnonsense\nB 127.0.0.1:2\nc nowhere\nd [::1]:4\n");
        assert_eq!(saved.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["a", "d"]);
    }
}
