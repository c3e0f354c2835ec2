//! The default store by itself, on one thread: entries of 1 KiB, signed, checked and durable; and how soon a store is
//! ready to be compared after a restart.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_core::{Hlc, WallTime};
use mesh_sync::{
    entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Entry, Verified, verify_batch},
    reconcile::EpochKey,
    replica::Opened,
    store::{
        Arrival, Checkpoint, Creation, Datasets as _, EntryStore, FjallOptions, FjallStore, StoreIncarnation,
    },
};

/// Entries in one commit.
const BATCH: u64 = 1024;
/// Entries of which the rate is told.
const APPLIED: u64 = 40 * BATCH;

pub(super) fn measure(folder: &Path, entries: u64, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    let dataset = DatasetId::new("bench")?;
    {
        let store = open(&folder.join("apply"), &dataset)?;
        tell("store_apply_entries_per_s", applied(&*store, &dataset)?);
    }
    let folder = folder.join("reopen");
    fill(&*open(&folder, &dataset)?, &dataset, entries)?;
    let start = Instant::now();
    let store = open(&folder, &dataset)?;
    let opened = Opened::read(&*store, key())?;
    let took = start.elapsed().as_secs_f64();
    ensure!(opened.highest().is_some() && store.summary().count == entries, "entries are missing");
    // By its million entries it has this name; of another number, it is told by a name of its own.
    tell(if entries == 1_000_000 { "reopen_1m_s" } else { "reopen_s" }, took);
    Ok(())
}

fn key() -> EpochKey {
    EpochKey::derive("bench", 0)
}

fn open(folder: &Path, dataset: &DatasetId) -> Result<Arc<dyn EntryStore>> {
    let store = FjallStore::in_folder(folder, FjallOptions::default()).context("open the store")?;
    Ok(store.open(dataset, Creation::new(dataset, StoreIncarnation(7)))?)
}

struct Writer {
    author: Author,
    collection: Collection,
    payload: Vec<u8>,
    written: u64,
}

impl Writer {
    fn new(dataset: &DatasetId, payload_bytes: usize) -> Result<Self> {
        Ok(Self {
            author: Author::new(AuthorKey::from_seed([7; 32]), dataset.clone(), AuthorSequence::FIRST),
            collection: Collection::new("bench")?,
            payload: vec![7; payload_bytes],
            written: 0,
        })
    }

    fn batch(&mut self, count: u64) -> Result<Vec<Verified>> {
        let one = |n: u64| -> Result<Verified> {
            let draft = Draft::put(&self.collection, format!("key {n}"), self.payload.clone());
            Ok(self.author.sign(draft, Hlc::from_wall(WallTime(1_700_000_000_000 + n)))?)
        };
        let batch = (self.written..self.written + count).map(one).collect();
        self.written += count;
        batch
    }
}

/// How many received entries are checked and made durable in a second.
fn applied(store: &dyn EntryStore, dataset: &DatasetId) -> Result<f64> {
    let mut writer = Writer::new(dataset, 1024)?;
    let mut received = Vec::new();
    for _ in 0..APPLIED / BATCH {
        received.push(writer.batch(BATCH)?.iter().map(|entry| entry.encoded().clone()).collect::<Vec<_>>());
    }
    let start = Instant::now();
    for batch in received {
        let entries = batch.into_iter().map(Entry::decode).collect::<Result<Vec<_>, _>>()?;
        let verified = verify_batch(entries).into_iter().collect::<Result<Vec<_>, _>>()?;
        let report = store.insert_batch(&verified, &[])?;
        ensure!(report.outcomes.iter().all(mesh_sync::entry::Outcome::is_held), "an entry was refused");
    }
    Ok(APPLIED as f64 / start.elapsed().as_secs_f64())
}

/// Small entries, and the checkpoints that a replica writes beside them.
fn fill(store: &dyn EntryStore, dataset: &DatasetId, entries: u64) -> Result<()> {
    let mut writer = Writer::new(dataset, 64)?;
    let mut index = mesh_sync::reconcile::Index::new(key());
    let every = mesh_sync::replica::ReplicaConfig::default().checkpoint_arrivals;
    let mut checkpoint = 0;
    while writer.written < entries {
        let batch = writer.batch(BATCH.min(entries - writer.written))?;
        store.insert_batch(&batch, &[])?;
        batch.iter().for_each(|entry| drop(index.insert(entry.item())));
        let sequence = writer.written;
        index.set_arrival(mesh_sync::reconcile::Arrival { incarnation: store.incarnation().0, sequence });
        if sequence >= checkpoint + every {
            checkpoint = sequence;
            let blob = index.sketch().checkpoint(&index.root());
            store.write_checkpoint(&Checkpoint { arrival: Arrival(sequence), blob })?;
        }
    }
    Ok(())
}
