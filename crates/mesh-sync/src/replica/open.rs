//! What a replica reads of its store when it begins.

use std::{collections::BTreeMap, ops::Bound};

use mesh_core::NodeId;

use crate::{
    EntryId,
    entry::{AuthorId, AuthorSequence, DatasetId},
    reconcile::{
        Arrival as Cursor, EpochKey, Index, Root, SetHash, Sketch,
        wire::{Reader, WireError, put_varint},
    },
    store::{Arrival, EntryStore, Listed, MetadataWrite, StoreError},
};

/// Names read together.
const PAGE: usize = 4096;
/// Pages that were read and are not in the index yet.
const PAGES_AHEAD: usize = 4;
const CURSOR: &[u8] = b"replica/cursor/";
const RETIRED: &[u8] = b"replica/retired/";
const PRUNE: &[u8] = b"replica/prune";
const ORDER: &[u8] = b"replica/order/";

/// What was read: the index of a dataset, and what was remembered about peers and prunes.
pub struct Opened {
    pub(super) dataset: DatasetId,
    pub(super) index: Index,
    pub(super) cursors: BTreeMap<NodeId, Cursor>,
    pub(super) retired: Vec<NodeId>,
    /// What is pruned, by author.
    pub(super) pruned: BTreeMap<AuthorId, AuthorSequence>,
    /// What replicated prunes ask for.
    pub(super) ordered: BTreeMap<AuthorId, AuthorSequence>,
    /// The newest prune of each author.
    pub(super) orders: BTreeMap<AuthorId, EntryId>,
    /// Where the checkpoint stands.
    pub(super) checkpoint: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("root", &self.index.root()).finish_non_exhaustive()
    }
}

impl Opened {
    /// Reads it, blocking: every name, but no entry. `key` is that of the dataset's epoch, the same on all replicas.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn read(store: &dyn EntryStore, key: EpochKey) -> Result<Self, StoreError> {
        let (sketch, checkpoint) = match restore_sketch(store, key)? {
            Some((sketch, root, at)) => (Some((sketch, root)), at),
            None => (None, 0),
        };
        let mut index = build_index(store, key, sketch)?;
        index.set_arrival(Cursor {
            incarnation: store.incarnation().0,
            sequence: store.summary().last_arrival.0,
        });
        let mut opened = Self {
            dataset: store.dataset().clone(),
            index,
            cursors: BTreeMap::new(),
            retired: Vec::new(),
            pruned: read_pruned(store)?,
            ordered: BTreeMap::new(),
            orders: BTreeMap::new(),
            checkpoint,
        };
        opened.read_metadata(store)?;
        Ok(opened)
    }

    /// The highest timestamp in the store.
    ///
    /// Nobody hears of an entry before it is stored, so a node's clock continues after the highest of its datasets:
    /// see [`HlcClock::resume`](mesh_core::HlcClock::resume).
    pub fn highest(&self) -> Option<mesh_core::Hlc> {
        let last = self.index.len().checked_sub(1)?;
        self.index.select(last).map(|item| item.hlc)
    }

    fn read_metadata(&mut self, store: &dyn EntryStore) -> Result<(), StoreError> {
        let node = |key: &[u8]| NodeId::new(std::str::from_utf8(key).ok()?).ok();
        each(store, CURSOR, |key, value| {
            let cursor = read_cursor(value);
            self.cursors.extend(node(key).zip(cursor));
        })?;
        each(store, ORDER, |key, value| {
            let order = <[u8; 32]>::try_from(key).ok().zip(<[u8; 32]>::try_from(value).ok());
            self.orders.extend(order.map(|(author, id)| (AuthorId(author), EntryId(id))));
        })?;
        each(store, RETIRED, |key, _| self.retired.extend(node(key)))?;
        if let Some(watermarks) = store.metadata(PRUNE)? {
            // What can't be read was not written by us; the prune entry itself is still there.
            self.ordered = decode_watermarks(&watermarks).unwrap_or_default().into_iter().collect();
        }
        Ok(())
    }
}

fn each(
    store: &dyn EntryStore,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.metadata_scan(prefix, after.as_deref(), PAGE)?;
        page.iter().for_each(|record| visit(&record.key[prefix.len()..], &record.value));
        match page.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(()),
        }
    }
}

fn read_pruned(store: &dyn EntryStore) -> Result<BTreeMap<AuthorId, AuthorSequence>, StoreError> {
    let (mut pruned, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.vector(after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(pruned) };
        after = Some(*last);
        let some = page.iter().filter(|(_, head)| head.pruned >= AuthorSequence::FIRST);
        pruned.extend(some.map(|(author, head)| (*author, head.pruned)));
    }
}

/// Reads pages of names on a thread of its own while the index is built of those before.
fn build_index(
    store: &dyn EntryStore,
    key: EpochKey,
    sketch: Option<(Sketch, Root)>,
) -> Result<Index, StoreError> {
    let (sender, pages) = std::sync::mpsc::sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut from = Bound::Unbounded;
            loop {
                let page = store.items((from, Bound::Unbounded), PAGE)?;
                let Some(last) = page.last() else { return Ok(()) };
                from = Bound::Excluded(last.item);
                if sender.send(page).is_err() {
                    return Ok(());
                }
            }
        });
        let items = pages.into_iter().flatten().map(|listed: Listed| listed.item);
        let index = Index::from_sorted(key, items, sketch);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map(|()| index)
    })
}

/// The sketch of the last checkpoint, with what arrived since.
fn restore_sketch(store: &dyn EntryStore, key: EpochKey) -> Result<Option<(Sketch, Root, u64)>, StoreError> {
    let Some(checkpoint) = store.checkpoint()? else { return Ok(None) };
    // One that can't be read is made anew; the next checkpoint replaces it.
    let Ok((mut sketch, mut root)) = Sketch::restore(key, &checkpoint.blob) else { return Ok(None) };
    let at = checkpoint.arrival.0;
    let mut from = checkpoint.arrival.next();
    loop {
        let page = store.arrivals(from, PAGE)?;
        let Some(last) = page.last() else { return Ok(Some((sketch, root, at))) };
        from = last.arrival.next();
        for listed in &page {
            sketch.insert(&listed.item.id);
            let mut hash = SetHash(root.hash.0);
            hash.insert(&key, &listed.item.id);
            root.hash = hash;
            root.count += 1;
        }
        root.arrival.sequence = last.arrival.0;
    }
}

pub(super) fn cursor_write(peer: &NodeId, cursor: Option<Cursor>) -> MetadataWrite {
    let value =
        cursor.map(|cursor| [cursor.incarnation.to_be_bytes(), cursor.sequence.to_be_bytes()].concat());
    MetadataWrite { key: [CURSOR, peer.as_str().as_bytes()].concat(), value }
}

fn read_cursor(value: &[u8]) -> Option<Cursor> {
    let (incarnation, sequence) = value.split_at_checked(8)?;
    Some(Cursor {
        incarnation: u64::from_be_bytes(incarnation.try_into().ok()?),
        sequence: u64::from_be_bytes(sequence.try_into().ok()?),
    })
}

pub(super) fn retired_write(peer: &NodeId, retired: bool) -> MetadataWrite {
    MetadataWrite { key: [RETIRED, peer.as_str().as_bytes()].concat(), value: retired.then(Vec::new) }
}

/// Forgets the prune of an author, since another one says the same.
pub(super) fn order_gone(author: &AuthorId) -> MetadataWrite {
    MetadataWrite { key: [ORDER, author.as_bytes()].concat(), value: None }
}

/// What prunes ask for, and where it is said.
pub(super) fn prune_writes(
    ordered: &BTreeMap<AuthorId, AuthorSequence>,
    orders: &BTreeMap<AuthorId, EntryId>,
) -> Vec<MetadataWrite> {
    let order = |(author, id): (&AuthorId, &EntryId)| MetadataWrite {
        key: [ORDER, author.as_bytes()].concat(),
        value: Some(id.as_bytes().to_vec()),
    };
    let mut writes: Vec<MetadataWrite> = orders.iter().map(order).collect();
    writes.push(MetadataWrite { key: PRUNE.to_vec(), value: Some(encode_watermarks(ordered)) });
    writes
}

/// Watermarks as bytes: what a prune entry carries.
pub(super) fn encode_watermarks(watermarks: &BTreeMap<AuthorId, AuthorSequence>) -> Vec<u8> {
    let mut out = vec![1];
    put_varint(&mut out, watermarks.len() as u64);
    for (author, sequence) in watermarks {
        out.extend_from_slice(author.as_bytes());
        put_varint(&mut out, sequence.0);
    }
    out
}

pub(super) fn decode_watermarks(bytes: &[u8]) -> Result<Vec<(AuthorId, AuthorSequence)>, WireError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        1 => {}
        version => return Err(WireError::Invalid { what: "the version of a prune", value: version.into() }),
    }
    let count = reader.count(33)?;
    let mut watermarks = Vec::with_capacity(count);
    for _ in 0..count {
        watermarks.push((AuthorId(reader.array()?), AuthorSequence(reader.varint()?)));
    }
    reader.end()?;
    Ok(watermarks)
}

/// The first arrival that a peer at this cursor has not seen.
pub(super) const fn arrival_after(cursor: Cursor) -> Arrival {
    Arrival(cursor.sequence).next()
}
