//! The member table: one record for each member, live or remembered, and a digest of the live ones.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use bytes::Bytes;
use mesh_core::{Incarnation, InstanceId, Instant, Member, MemberState, NodeId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::wire::Word;

/// One member and what only the core needs to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) member: Arc<Member>,
    /// Start of its certificate's validity.
    pub(crate) not_before_s: u64,
    /// When a dead or left record may be forgotten.
    pub(crate) reclaim_at: Option<Instant>,
    /// Fields of its descriptor that this version does not know, to be passed on.
    pub(crate) unknown: Bytes,
    /// Those of the word that brought its state.
    unknown_of_word: Option<Arc<UnknownOfWord>>,
    /// Hash of its node id: its bucket, and the seed of its ring positions.
    pub(crate) name_hash: u64,
    /// What it adds to the digest; zero while it is not live.
    contribution: u64,
}

impl Record {
    pub(crate) fn new(member: Member, not_before_s: u64) -> Self {
        let name_hash = xxh3_64(member.node_id.as_str().as_bytes());
        let (unknown, unknown_of_word) = (Bytes::new(), None);
        let member = Arc::new(member);
        Self { member, not_before_s, reclaim_at: None, unknown, unknown_of_word, name_hash, contribution: 0 }
    }

    /// The unknown fields that go with the newest word, if that is the one they came with.
    pub(crate) fn unknown_of_word(&self) -> &[u8] {
        match &self.unknown_of_word {
            Some(kept) if kept.is_about(&self.member) => &kept.bytes,
            _ => &[],
        }
    }

    fn contribution_now(&self) -> u64 {
        let m = &self.member;
        if !m.state.is_live() {
            return 0;
        }
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&m.instance.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&m.incarnation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&m.metadata_version.to_le_bytes());
        bytes[24..].copy_from_slice(&self.name_hash.to_le_bytes());
        xxh3_64_with_seed(&bytes, 1)
    }
}

/// Fields of an update that are not known here, and the word that they belong to.
#[derive(Clone, Debug)]
pub(crate) struct UnknownOfWord {
    instance: InstanceId,
    incarnation: Incarnation,
    state: MemberState,
    bytes: Bytes,
}

impl UnknownOfWord {
    /// `None` if there are none, as with nearly every word.
    pub(crate) fn of(word: &Word) -> Option<Self> {
        let Word { instance, incarnation, state, unknown, .. } = word;
        let (instance, incarnation, state) = (*instance, *incarnation, *state);
        (!unknown.is_empty()).then(|| Self { instance, incarnation, state, bytes: unknown.clone() })
    }

    fn is_about(&self, member: &Member) -> bool {
        (self.instance, self.incarnation, self.state) == (member.instance, member.incarnation, member.state)
    }
}

/// Counts by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) alive: usize,
    pub(crate) suspect: usize,
    pub(crate) dead: usize,
    pub(crate) left: usize,
}

impl Counts {
    fn slot(&mut self, state: MemberState) -> &mut usize {
        match state {
            MemberState::Alive => &mut self.alive,
            MemberState::Suspect => &mut self.suspect,
            MemberState::Dead => &mut self.dead,
            MemberState::Left => &mut self.left,
        }
    }

    pub(crate) fn live(self) -> usize {
        self.alive + self.suspect
    }
}

/// All records, ordered by node id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    records: BTreeMap<NodeId, Record>,
    digest: u64,
    counts: Counts,
}

impl Table {
    pub(crate) fn get(&self, node_id: &NodeId) -> Option<&Record> {
        self.records.get(node_id)
    }

    pub(crate) fn get_by_name(&self, name: &str) -> Option<&Record> {
        self.records.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn iter(&self) -> btree_map::Values<'_, NodeId, Record> {
        self.records.values()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Record> {
        self.records.values().filter(|r| r.member.state.is_live())
    }

    /// Sum over the live records: equal tables have equal digests, in any order of arrival.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn insert(&mut self, record: Record) {
        let node_id = record.member.node_id.clone();
        *self.counts.slot(record.member.state) += 1;
        let old = self.records.insert(node_id.clone(), record);
        if let Some(old) = old {
            self.forget_sums(&old);
        }
        self.settle(&node_id);
    }

    /// Changes a record and keeps the sums right. Returns the member after the change.
    pub(crate) fn update(
        &mut self,
        node_id: &NodeId,
        change: impl FnOnce(&mut Record),
    ) -> Option<Arc<Member>> {
        let record = self.records.get_mut(node_id)?;
        let before = record.member.state;
        change(record);
        let after = record.member.state;
        let member = record.member.clone();
        *self.counts.slot(before) -= 1;
        *self.counts.slot(after) += 1;
        self.settle(node_id);
        Some(member)
    }

    /// Keeps what came with a word, if it is the newest now.
    pub(crate) fn keep_unknown(&mut self, node_id: &NodeId, unknown: UnknownOfWord) {
        let record = self.records.get_mut(node_id).filter(|r| unknown.is_about(&r.member));
        if let Some(record) = record {
            record.unknown_of_word = Some(Arc::new(unknown));
        }
    }

    pub(crate) fn remove(&mut self, node_id: &NodeId) -> Option<Record> {
        let record = self.records.remove(node_id)?;
        self.forget_sums(&record);
        Some(record)
    }

    fn forget_sums(&mut self, record: &Record) {
        *self.counts.slot(record.member.state) -= 1;
        self.digest = self.digest.wrapping_sub(record.contribution);
    }

    fn settle(&mut self, node_id: &NodeId) {
        if let Some(record) = self.records.get_mut(node_id) {
            let now = record.contribution_now();
            self.digest = self.digest.wrapping_sub(record.contribution).wrapping_add(now);
            record.contribution = now;
        }
    }

    /// Digests of the live records by the top `bits` of their name's hash.
    pub(crate) fn buckets(&self, bits: u32) -> Vec<u64> {
        let mut buckets = vec![0u64; 1 << bits];
        for record in self.records.values() {
            let bucket = &mut buckets[bucket_of(record.name_hash, bits)];
            *bucket = bucket.wrapping_add(record.contribution);
        }
        buckets
    }
}

/// The bucket of a name among `1 << bits`.
pub(crate) fn bucket_of(name_hash: u64, bits: u32) -> usize {
    if bits == 0 { 0 } else { (name_hash >> (64 - bits)) as usize }
}

#[cfg(test)]
mod tests {
    use mesh_core::{InstanceId, Role};

    use super::*;

    fn record(name: &str) -> Record {
        let role: Role = "worker".parse().expect("valid role");
        Record::new(Member::new(name.parse().expect("valid id"), InstanceId(1), role, Instant::ZERO), 0)
    }

    #[test]
    fn the_digest_depends_on_contents_not_on_history() {
        let (mut one, mut other) = (Table::default(), Table::default());
        for name in ["a", "b", "c"] {
            one.insert(record(name));
        }
        for name in ["c", "a", "b", "a"] {
            other.insert(record(name));
        }
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.counts(), other.counts());
        let a = "a".parse().expect("valid id");
        other.update(&a, |r| Arc::make_mut(&mut r.member).metadata_version = 4);
        assert_ne!(one.digest(), other.digest());
        other.update(&a, |r| Arc::make_mut(&mut r.member).state = MemberState::Dead);
        one.remove(&a);
        assert_eq!(one.digest(), other.digest(), "dead records are outside the digest");
    }

    #[test]
    fn buckets_add_up_to_the_digest() {
        let mut table = Table::default();
        for i in 0..100 {
            table.insert(record(&format!("node-{i}")));
        }
        for bits in [0, 3, 7] {
            let sum = table.buckets(bits).iter().fold(0u64, |a, b| a.wrapping_add(*b));
            assert_eq!(sum, table.digest());
        }
    }
}
