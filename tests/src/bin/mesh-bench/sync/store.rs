//! The default store by itself, on one thread: entries of 1 KiB, signed, checked and durable; and how soon a store, and
//! an engine with it, is ready to be compared after a restart.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use mesh_core::NodeId;
use mesh_sync::{
    engine::Engine,
    entry::{DatasetId, Entry, verify_batch},
    memory::MemoryNetwork,
    reconcile::EpochKey,
    replica::Opened,
    store::{Creation, Datasets as _, EntryStore, FjallOptions, FjallStore, StoreIncarnation},
};
use tokio::time::Instant;

use super::{
    node::{dataset, engine_options},
    writer::{BATCH, Writer},
};

/// Entries of which the rate is told.
const APPLIED: u64 = 40 * BATCH;

pub(super) async fn measure(folder: &Path, entries: u64, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    let dataset = dataset()?;
    {
        let store = open(&folder.join("apply"), &dataset)?;
        tell("store_apply_entries_per_s", applied(&*store, &dataset)?);
    }
    let folder = folder.join("reopen");
    Writer::new("a", &dataset, 64)?.fill(&*open(&folder, &dataset)?, key(), entries)?;
    // By its million entries it has this name; of another number, it is told by a name of its own.
    let name = if entries == 1_000_000 { "reopen_1m_s" } else { "reopen_s" };
    {
        let start = Instant::now();
        let store = open(&folder, &dataset)?;
        let opened = Opened::read(&*store, key())?;
        let took = start.elapsed().as_secs_f64();
        ensure!(opened.highest().is_some() && store.summary().count == entries, "entries are missing");
        tell(&format!("store_{name}"), took);
    }
    let carrier = MemoryNetwork::default().carrier(&NodeId::new("a")?);
    let start = Instant::now();
    let stores = FjallStore::in_folder(&folder, FjallOptions::default()).context("open the store")?;
    let engine = Engine::start(engine_options("a", Arc::new(carrier), Arc::new(stores))?).await?;
    let took = start.elapsed().as_secs_f64();
    let status = engine.handle().status().await;
    ensure!(status.datasets.iter().any(|dataset| dataset.entries == entries), "entries are missing");
    tell(name, took);
    engine.shutdown().await;
    Ok(())
}

fn key() -> EpochKey {
    EpochKey::derive("bench", 0)
}

pub(super) fn open(folder: &Path, dataset: &DatasetId) -> Result<Arc<dyn EntryStore>> {
    let store = FjallStore::in_folder(folder, FjallOptions::default()).context("open the store")?;
    Ok(store.open(dataset, Creation::new(dataset, StoreIncarnation(7)))?)
}

/// How many received entries are checked and made durable in a second.
fn applied(store: &dyn EntryStore, dataset: &DatasetId) -> Result<f64> {
    let mut writer = Writer::new("a", dataset, 1024)?;
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
