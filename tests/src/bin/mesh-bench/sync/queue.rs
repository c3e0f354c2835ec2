//! The queue to a peer that is away: how long it takes to enqueue, and until that is durable.

use std::{io::Write as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use mesh_core::{Clock as _, NodeId, SystemClock};
use mesh_sync::{
    EntryId,
    engine::{Engine, Queued},
    memory::MemoryNetwork,
    queue::{Moment, Queue, QueueLimits},
    reconcile::EpochKey,
    store::{FjallOptions, FjallStore},
};
use tokio::time::Instant;

use super::{
    node::{dataset, engine_options},
    percentile, store,
    writer::Writer,
};

/// Entries that are enqueued, and those that are written in one commit.
const ENQUEUED: u64 = 50_000;
const PER_COMMIT: u64 = 500;
/// Entries that are enqueued by an engine, one after the other, each durable.
const DURABLE: u64 = 1000;

pub(super) async fn measure(folder: &Path, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    enqueue(&folder.join("enqueue"), tell)?;
    let folder = folder.join("durable");
    let dataset = dataset()?;
    let entries = {
        let store = store::open(&folder, &dataset)?;
        let mut writer = Writer::new("a", &dataset, 64)?;
        writer.fill(&*store, EpochKey::derive("bench", 0), 1)?;
        let entries = writer.batch(DURABLE)?;
        store.insert_batch(&entries, &[])?;
        entries
    };
    let carrier = MemoryNetwork::default().carrier(&NodeId::new("a")?);
    let stores = FjallStore::in_folder(&folder, FjallOptions::default()).context("open the store")?;
    let engine = Engine::start(engine_options("a", Arc::new(carrier), Arc::new(stores))?).await?;
    let sync = engine.handle();
    let away = NodeId::new("z")?;
    sync.create_relationship(&away, &dataset).await?;
    let mut probe = std::fs::File::create(folder.with_extension("probe"))?;
    let (mut fsyncs, mut durables) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = Instant::now();
        ensure!(sync.queue(&dataset, &away, entry.id()).await? == Queued::New, "it was queued already");
        durables.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        probe.write_all(&[7; 512])?;
        probe.sync_data()?;
        fsyncs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    engine.shutdown().await;
    for (name, figures) in [("fsync", &mut fsyncs), ("queue_durable", &mut durables)] {
        tell(&format!("{name}_p50_ms"), percentile(figures, 0.5));
        tell(&format!("{name}_p99_ms"), percentile(figures, 0.99));
    }
    Ok(())
}

/// The queue itself, which takes an entry before anything is written.
fn enqueue(folder: &Path, tell: &mut dyn FnMut(&str, f64)) -> Result<()> {
    let store = store::open(folder, &dataset()?)?;
    let clock = SystemClock;
    let at = || Moment { now: clock.now(), wall: clock.wall() };
    let limits = QueueLimits { entries_max: ENQUEUED as usize, ..QueueLimits::default() };
    let mut queue = Queue::open(&*store, limits, fastrand::Rng::with_seed(1), at())?;
    let peers = (0..10).map(|n| NodeId::new(format!("node-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let mut rng = fastrand::Rng::with_seed(2);
    let mut taken = Vec::new();
    for n in 0..ENQUEUED {
        let mut id = [0; 32];
        rng.fill(&mut id);
        let moment = at();
        queue.enqueue(&peers[n as usize % peers.len()], EntryId(id), 1024, moment)?;
        taken.push(clock.now().since(moment.now).as_secs_f64() * 1e6);
        if (n + 1) % PER_COMMIT == 0
            && let Some(batch) = queue.poll_write()
        {
            store.write_metadata(&batch.writes)?;
            queue.on_written(batch.ticket);
        }
    }
    tell("queue_p50_us", percentile(&mut taken, 0.5));
    tell("queue_p99_us", percentile(&mut taken, 0.99));
    Ok(())
}
