//! The values that a store keeps beside the entries.

use bytes::Bytes;
use mesh_core::Hlc;

use crate::{
    Item,
    entry::{AuthorId, Entry},
    store::{
        Arrival, Creation, Head, PrunedEntry, SetHash, SetKey, StoreIncarnation, Summary, keys::Fields,
        keys::Number,
    },
};

/// What a dataset's name stands for.
pub(super) struct DatasetRecord {
    pub(super) number: Number,
    pub(super) creation: Creation,
}

impl DatasetRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = self.number.0.to_be_bytes().to_vec();
        value.extend_from_slice(&self.creation.incarnation.0.to_be_bytes());
        value.extend_from_slice(&self.creation.set_key.0);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields(value);
        let number = Number(u32::from_be_bytes(fields.array()?));
        let incarnation = StoreIncarnation(fields.u64()?);
        let set_key = SetKey(fields.array()?);
        fields.end(Self { number, creation: Creation { incarnation, set_key } })
    }
}

/// What changes with every commit of a dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) summary: Summary,
    /// How many entries were removed since the dataset was made.
    pub(super) removed: u64,
    /// Entries at or below a watermark are still to be removed.
    pub(super) pruning: bool,
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let summary = &self.summary;
        let mut value = Vec::with_capacity(57);
        value.extend_from_slice(&summary.count.to_be_bytes());
        value.extend_from_slice(&summary.bytes.to_be_bytes());
        value.extend_from_slice(&summary.set_hash.0.to_be_bytes());
        value.extend_from_slice(&summary.last_arrival.0.to_be_bytes());
        value.extend_from_slice(&self.removed.to_be_bytes());
        value.push(u8::from(self.pruning));
        let sum = checksum(&value);
        value.extend_from_slice(&sum);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (content, sum) = value.split_last_chunk::<8>()?;
        let mut fields = Fields(content);
        let summary = Summary {
            count: fields.u64()?,
            bytes: fields.u64()?,
            set_hash: SetHash(u128::from_be_bytes(fields.array()?)),
            last_arrival: fields.arrival()?,
        };
        let removed = fields.u64()?;
        let [pruning] = fields.array::<1>()?;
        let whole = fields.end(Self { summary, removed, pruning: pruning != 0 })?;
        (*sum == checksum(content)).then_some(whole)
    }
}

/// Set hash and counts have nothing else that would tell a flipped bit.
fn checksum(content: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(content).as_bytes()[..8]);
    sum
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hlc: Hlc,
    pub(super) arrival: Arrival,
    pub(super) bytes: u32,
}

impl Place {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(20);
        value.extend_from_slice(&self.hlc.to_bits().to_be_bytes());
        value.extend_from_slice(&self.arrival.0.to_be_bytes());
        value.extend_from_slice(&self.bytes.to_be_bytes());
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields(value);
        let (hlc, arrival) = (fields.hlc()?, fields.arrival()?);
        let bytes = u32::from_be_bytes(fields.array()?);
        fields.end(Self { hlc, arrival, bytes })
    }
}

/// The entry's bytes, and a checksum of the one part that its id does not cover: an entry whose signature has
/// changed on disk would be handed to peers, who refuse it.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let sum = signature_checksum(entry);
    [entry.encoded().as_ref(), &sum].concat()
}

pub(super) fn decode_entry(mut value: Vec<u8>) -> Result<Entry, String> {
    let bytes = value.len().saturating_sub(8);
    let sum = value.split_off(bytes);
    let entry = Entry::decode(Bytes::from(value)).map_err(|error| error.to_string())?;
    if sum != signature_checksum(&entry) {
        return Err("its signature has changed".to_owned());
    }
    Ok(entry)
}

fn signature_checksum(entry: &Entry) -> [u8; 8] {
    let mut covered = [0; 96];
    covered[..32].copy_from_slice(entry.id().as_bytes());
    covered[32..].copy_from_slice(&entry.signature());
    checksum(&covered)
}

pub(super) fn encode_item(item: &Item) -> Vec<u8> {
    let mut value = Vec::with_capacity(40);
    value.extend_from_slice(&item.hlc.to_bits().to_be_bytes());
    value.extend_from_slice(item.id.as_bytes());
    value
}

/// `removed` tells when: how many entries of the dataset had been removed by then.
pub(super) fn encode_pruned(pruned: &PrunedEntry, removed: u64) -> Vec<u8> {
    let mut value = pruned.author.as_bytes().to_vec();
    value.extend_from_slice(&pruned.sequence.0.to_be_bytes());
    value.extend_from_slice(&removed.to_be_bytes());
    value
}

/// How many entries had been removed when a name was noted.
pub(super) fn decode_removed(value: &[u8]) -> Option<u64> {
    let mut fields = Fields(value.get(40..)?);
    let removed = fields.u64()?;
    fields.end(removed)
}

pub(super) fn decode_pruned(key: &[u8], value: &[u8]) -> Option<PrunedEntry> {
    let (mut key, mut value) = (Fields(key), Fields(value));
    let id = key.id()?;
    let pruned = PrunedEntry { id, author: AuthorId(value.array()?), sequence: value.sequence()? };
    key.end(())?;
    value.u64()?;
    value.end(pruned)
}

/// The last look at names of pruned entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// How many entries of the dataset had been removed when it began.
    pub(super) removed: u64,
    /// How many names were needed.
    pub(super) named: u64,
}

impl Looked {
    pub(super) fn encode(self) -> Vec<u8> {
        [self.removed.to_be_bytes(), self.named.to_be_bytes()].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields(value);
        let looked = Self { removed: fields.u64()?, named: fields.u64()? };
        fields.end(looked)
    }
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    for number in [head.contiguous.0, head.highest.0, head.pruned.0, head.held] {
        value.extend_from_slice(&number.to_be_bytes());
    }
    value
}

pub(super) fn decode_head(value: &[u8]) -> Option<Head> {
    let mut fields = Fields(value);
    let head = Head {
        contiguous: fields.sequence()?,
        highest: fields.sequence()?,
        pruned: fields.sequence()?,
        held: fields.u64()?,
    };
    fields.end(head)
}
