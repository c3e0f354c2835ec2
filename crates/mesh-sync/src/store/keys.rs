//! How a store lays out its keys.
//!
//! ```text
//! 00                               format version
//! 01 dataset's name                its number, incarnation, set key
//! 02 number                        counts and set hash
//! 03 number, id                    timestamp, arrival, length      is it held?
//! 04 number, timestamp, id         arrival                         parents first
//! 05 number, arrival               timestamp, id                   newest last
//! 06 number, arrival               the entry, checksum
//! 07 number, author, sequence, id  timestamp
//! 08 number, author                what is held of the author
//! 09 number, id                    author, sequence, when          what was pruned
//! 0a number, key                   metadata
//! 0b number                        checkpoint
//! 0c number                        the last look at what was pruned
//! ```
//!
//! Numbers are big endian, so that keys sort as they do. The names of entries are apart from the entries, so that
//! listing them reads no payloads.

use mesh_core::Hlc;

use super::Arrival;
use crate::{
    EntryId, Item,
    entry::{AuthorId, AuthorSequence, DatasetId},
};

pub(super) const FORMAT: [u8; 1] = [0];

/// The number that stands for a dataset in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub(super) u32);

#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Space {
    Dataset = 1,
    State = 2,
    ById = 3,
    Order = 4,
    Arrivals = 5,
    Entries = 6,
    ByAuthor = 7,
    Heads = 8,
    Pruned = 9,
    Metadata = 10,
    Checkpoint = 11,
    Looked = 12,
}

fn key(space: Space, number: Number, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = Vec::with_capacity(5 + length);
    key.push(space as u8);
    key.extend_from_slice(&number.0.to_be_bytes());
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The first key of a dataset's space and the first behind it.
pub(super) fn whole(space: Space, number: Number) -> (Vec<u8>, Vec<u8>) {
    let mut below = key(space, number, &[]);
    increment(&mut below);
    (key(space, number, &[]), below)
}

/// The first key that is behind all keys with this prefix.
pub(super) fn increment(prefix: &mut Vec<u8>) {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return;
        }
    }
}

pub(super) fn dataset(name: &DatasetId) -> Vec<u8> {
    let mut key = vec![Space::Dataset as u8];
    key.extend_from_slice(name.as_str().as_bytes());
    key
}

pub(super) fn all_datasets() -> (Vec<u8>, Vec<u8>) {
    (vec![Space::Dataset as u8], vec![Space::Dataset as u8 + 1])
}

pub(super) fn state(number: Number) -> Vec<u8> {
    key(Space::State, number, &[])
}

pub(super) fn by_id(number: Number, id: &EntryId) -> Vec<u8> {
    key(Space::ById, number, &[id.as_bytes()])
}

pub(super) fn order(number: Number, item: &Item) -> Vec<u8> {
    key(Space::Order, number, &[&item.hlc.to_bits().to_be_bytes(), item.id.as_bytes()])
}

pub(super) fn arrival(number: Number, arrival: Arrival) -> Vec<u8> {
    key(Space::Arrivals, number, &[&arrival.0.to_be_bytes()])
}

pub(super) fn entry(number: Number, arrival: Arrival) -> Vec<u8> {
    key(Space::Entries, number, &[&arrival.0.to_be_bytes()])
}

pub(super) fn of_author(number: Number, author: &AuthorId) -> Vec<u8> {
    key(Space::ByAuthor, number, &[author.as_bytes()])
}

pub(super) fn numbered(number: Number, author: &AuthorId, sequence: AuthorSequence) -> Vec<u8> {
    key(Space::ByAuthor, number, &[author.as_bytes(), &sequence.0.to_be_bytes()])
}

pub(super) fn authored(number: Number, author: &AuthorId, sequence: AuthorSequence, id: &EntryId) -> Vec<u8> {
    key(Space::ByAuthor, number, &[author.as_bytes(), &sequence.0.to_be_bytes(), id.as_bytes()])
}

pub(super) fn head(number: Number, author: &AuthorId) -> Vec<u8> {
    key(Space::Heads, number, &[author.as_bytes()])
}

pub(super) fn pruned(number: Number, id: &EntryId) -> Vec<u8> {
    key(Space::Pruned, number, &[id.as_bytes()])
}

pub(super) fn metadata(number: Number, user: &[u8]) -> Vec<u8> {
    key(Space::Metadata, number, &[user])
}

pub(super) fn checkpoint(number: Number) -> Vec<u8> {
    key(Space::Checkpoint, number, &[])
}

pub(super) fn looked(number: Number) -> Vec<u8> {
    key(Space::Looked, number, &[])
}

/// What follows the dataset's number in a key.
pub(super) fn rest(key: &[u8]) -> &[u8] {
    key.get(5..).unwrap_or_default()
}

/// Reads fields off a key or a value.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn arrival(&mut self) -> Option<Arrival> {
        self.u64().map(Arrival)
    }

    pub(super) fn sequence(&mut self) -> Option<AuthorSequence> {
        self.u64().map(AuthorSequence)
    }

    pub(super) fn hlc(&mut self) -> Option<Hlc> {
        self.u64().map(Hlc::from_bits)
    }

    pub(super) fn id(&mut self) -> Option<EntryId> {
        self.array().map(EntryId)
    }

    pub(super) fn item(&mut self) -> Option<Item> {
        Some(Item { hlc: self.hlc()?, id: self.id()? })
    }

    pub(super) fn end<T>(&self, whole: T) -> Option<T> {
        self.0.is_empty().then_some(whole)
    }
}
