//! What was missed is found by digests and fetched in pages.
//!
//! Every packet carries a digest of the sender's live records. A mismatch that
//! lasts starts an exchange: digests by buckets, then short summaries of the
//! buckets that differ, then whole records in both directions. Its cost follows
//! the difference, not the size of the table.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{Instant, MemberState, NodeId};

use super::{Gossip, members::Source, push};
use crate::{
    planted::PlantedBug,
    table::{Record, bucket_of},
    wire::{Hello, Packet, Summary, SyncRecords, SyncRequest, SyncSummary, Update, Word, state_to_wire},
};

/// Mismatches in a row that start an exchange.
const MISMATCHES: u32 = 2;
/// How long they must have lasted: news under way makes short ones.
const MISMATCH_LASTS: Duration = Duration::from_millis(300);
/// Between two exchanges that we start.
const START_INTERVAL: Duration = Duration::from_millis(700);
/// Between two exchanges that we answer to one peer.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);
/// How long answers to our request are taken.
const REQUEST_VALID: Duration = Duration::from_secs(5);
/// Summaries in one message.
const SUMMARIES_PER_PACKET: usize = 1024;

#[derive(Debug)]
pub(super) struct Repair {
    mismatches: u32,
    mismatch_since: Option<Instant>,
    started_at: Option<Instant>,
    /// Whom we asked, and when.
    asked: BTreeMap<NodeId, Instant>,
    regular_due: Instant,
}

impl Repair {
    pub(super) fn new(regular_due: Instant) -> Self {
        Self { mismatches: 0, mismatch_since: None, started_at: None, asked: BTreeMap::new(), regular_due }
    }
}

/// How new a word is; the greater one wins.
fn newness(incarnation: u64, state: i32, metadata_version: u64) -> (u64, i32, u64) {
    (incarnation, state, metadata_version)
}

fn newness_of(record: &Record) -> (u64, i32, u64) {
    let m = &record.member;
    // Suspicion is settled among observers; for repair a suspect is alive.
    let state = if m.state.is_live() { MemberState::Alive } else { m.state };
    newness(m.incarnation.0, state_to_wire(state), m.metadata_version)
}

impl Gossip {
    pub(super) fn compare_digest(&mut self, now: Instant, from: &NodeId, digest: u64) {
        if digest == self.table.digest() {
            self.repair.mismatches = 0;
            self.repair.mismatch_since = None;
            return;
        }
        self.counters.digest_mismatches += 1;
        self.repair.mismatches += 1;
        let since = *self.repair.mismatch_since.get_or_insert(now);
        let lasting = self.repair.mismatches >= MISMATCHES && now.since(since) >= MISMATCH_LASTS;
        let rested = self.repair.started_at.is_none_or(|at| now.since(at) >= START_INTERVAL);
        if lasting && rested && self.rejoin.ready && !self.has_bug(PlantedBug::SkipRepair) {
            self.start_sync(now, from);
        }
    }

    pub(super) fn start_sync(&mut self, now: Instant, peer: &NodeId) {
        self.counters.syncs_started += 1;
        self.repair.started_at = Some(now);
        self.repair.mismatches = 0;
        self.repair.mismatch_since = None;
        self.repair.asked.retain(|_, at| now.since(*at) < REQUEST_VALID);
        self.repair.asked.insert(peer.clone(), now);
        let bits = (self.table.counts().live() / 8).next_power_of_two().trailing_zeros().clamp(4, 10);
        let request = SyncRequest { bucket_bits: bits, buckets: self.table.buckets(bits) };
        self.transmit(peer, Packet { sync_request: Some(request), ..Packet::default() });
    }

    /// Compares with a random neighbour from time to time, mismatch or not.
    pub(super) fn tend_repair(&mut self, now: Instant) {
        if self.repair.regular_due > now {
            return;
        }
        let interval = self.config.anti_entropy_interval;
        self.repair.regular_due = now + interval * 3 / 4 + super::rng_between(&mut self.rng, interval / 2);
        let count = self.links.len();
        if count > 0 && self.rejoin.ready && !self.has_bug(PlantedBug::SkipRepair) {
            let peer = self.links.peers().nth(self.rng.usize(..count)).cloned();
            if let Some(peer) = peer {
                self.start_sync(now, &peer);
            }
        }
    }

    pub(super) fn take_hello(&mut self, now: Instant, from: &NodeId, hello: Hello, digest: u64) {
        if hello.join {
            self.send_whole_list(from);
        } else if self.table.get(from).is_none_or(|r| !r.member.state.is_live())
            && digest != self.table.digest()
        {
            // A lost member answers: the other half of a healed partition, with news of its own.
            self.links.bridge(now, from);
            self.start_sync(now, from);
        }
        if hello.please_probe {
            self.probe_now(now, from);
        }
    }

    fn send_whole_list(&mut self, to: &NodeId) {
        let names: Vec<NodeId> =
            self.table.iter().map(|r| r.member.node_id.clone()).filter(|n| n != to).collect();
        let updates = names.iter().filter_map(|n| self.update_about(n, true)).collect();
        self.send_records(to, updates, Vec::new(), true);
    }

    fn send_records(&mut self, to: &NodeId, updates: Vec<Update>, wants: Vec<String>, join: bool) {
        self.counters.sync_records_sent += updates.len() as u64;
        let mut pages = push::pages(updates, prost::Message::encoded_len);
        if pages.is_empty() {
            pages.push(Vec::new());
        }
        let count = pages.len();
        let pages_of_answer = if join { u32::try_from(count).unwrap_or(u32::MAX) } else { 0 };
        let mut wants = Some(wants);
        for (at, updates) in pages.into_iter().enumerate() {
            let wants = if at + 1 == count { wants.take().unwrap_or_default() } else { Vec::new() };
            let records = SyncRecords { updates, wants, join, pages: pages_of_answer };
            self.transmit(to, Packet { sync_records: Some(records), ..Packet::default() });
        }
    }

    pub(super) fn take_sync_request(&mut self, now: Instant, from: &NodeId, request: SyncRequest) {
        let bits = request.bucket_bits;
        if bits > 12 || request.buckets.len() != 1 << bits {
            self.counters.refused_malformed += 1;
            return;
        }
        let Some(link) = self.links.get_mut(from) else { return };
        if link.sync_answered_at.is_some_and(|at| now.since(at) < ANSWER_INTERVAL) {
            return;
        }
        link.sync_answered_at = Some(now);
        let ours = self.table.buckets(bits);
        let mut members: BTreeMap<u32, Vec<Summary>> = BTreeMap::new();
        for (at, (a, b)) in ours.iter().zip(&request.buckets).enumerate() {
            if a != b {
                members.insert(at as u32, Vec::new());
            }
        }
        for record in self.table.iter() {
            if let Some(bucket) = members.get_mut(&(bucket_of(record.name_hash, bits) as u32)) {
                let m = &record.member;
                bucket.push(Summary {
                    node_id: m.node_id.to_string(),
                    instance: m.instance.0,
                    incarnation: m.incarnation.0,
                    state: state_to_wire(m.state),
                    metadata_version: m.metadata_version,
                });
            }
        }
        let mut page = SyncSummary { bucket_bits: bits, ..SyncSummary::default() };
        for (bucket, members) in members {
            page.buckets.push(bucket);
            page.members.extend(members);
            if page.members.len() >= SUMMARIES_PER_PACKET {
                let full =
                    std::mem::replace(&mut page, SyncSummary { bucket_bits: bits, ..SyncSummary::default() });
                self.transmit(from, Packet { sync_summary: Some(full), ..Packet::default() });
            }
        }
        if !page.buckets.is_empty() {
            self.transmit(from, Packet { sync_summary: Some(page), ..Packet::default() });
        }
    }

    pub(super) fn take_sync_summary(&mut self, now: Instant, from: &NodeId, summary: SyncSummary) {
        let asked = self.repair.asked.get(from).is_some_and(|at| now.since(*at) < REQUEST_VALID);
        if !asked || summary.bucket_bits > 12 {
            return;
        }
        let theirs: BTreeMap<&str, &Summary> =
            summary.members.iter().map(|s| (s.node_id.as_str(), s)).collect();
        let covered: std::collections::BTreeSet<usize> =
            summary.buckets.iter().map(|b| *b as usize).collect();
        let mut give = Vec::new();
        let mut wants = Vec::new();
        for record in self.table.iter() {
            if !covered.contains(&bucket_of(record.name_hash, summary.bucket_bits)) {
                continue;
            }
            let ours = newness_of(record);
            let Some(their) = theirs.get(record.member.node_id.as_str()) else {
                give.push(record.member.node_id.clone());
                continue;
            };
            let live = their.state <= state_to_wire(MemberState::Suspect);
            let state = if live { state_to_wire(MemberState::Alive) } else { their.state };
            let theirs = newness(their.incarnation, state, their.metadata_version);
            if ours > theirs {
                give.push(record.member.node_id.clone());
            } else if theirs > ours {
                wants.push(their.node_id.clone());
            }
        }
        let unknown = summary
            .members
            .iter()
            .filter(|s| s.node_id.parse::<NodeId>().is_ok_and(|n| self.table.get(&n).is_none()));
        wants.extend(unknown.map(|s| s.node_id.clone()));
        let updates = give.iter().filter_map(|n| self.update_about(n, true)).collect::<Vec<_>>();
        if !updates.is_empty() || !wants.is_empty() {
            self.send_records(from, updates, wants, false);
        }
    }

    pub(super) fn take_sync_records(&mut self, now: Instant, from: &NodeId, records: SyncRecords) {
        let joining = records.join && self.rejoin.expects_list_from(from);
        let metadata_bytes_max = self.metadata_bytes_max();
        for update in records.updates {
            let Some(word) = Word::parse(update, metadata_bytes_max) else {
                self.counters.refused_malformed += 1;
                continue;
            };
            self.counters.sync_records_taken += 1;
            let source = if word.node_id == *from {
                Source::Own
            } else if joining {
                Source::JoinPage
            } else {
                Source::Page
            };
            self.take_word(now, from, word, source);
        }
        if !records.wants.is_empty() {
            let updates = records
                .wants
                .iter()
                .filter_map(|n| n.parse::<NodeId>().ok())
                .filter_map(|n| self.update_about(&n, true))
                .collect::<Vec<_>>();
            if !updates.is_empty() {
                self.send_records(from, updates, Vec::new(), false);
            }
        }
        if joining && self.rejoin.page_came(from) >= records.pages {
            self.list_complete(now);
        }
    }
}
