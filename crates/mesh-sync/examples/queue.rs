//! Measures the queue: how long it takes to enqueue, and until that is durable in a store on disk.
//!
//! `cargo run --release -p mesh-sync --example queue -- [entries] [per-commit]`

use std::time::Duration;

use mesh_core::{Clock, NodeId, SystemClock};
use mesh_sync::{
    EntryId,
    entry::DatasetId,
    queue::{Moment, Queue, QueueLimits},
    store::{Creation, Datasets, FjallOptions, FjallStore, StoreIncarnation},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let entries = numbers.next().transpose()?.unwrap_or(50_000);
    let per_commit = numbers.next().transpose()?.unwrap_or(500);
    let folder = tempfile::tempdir()?;
    let dataset = DatasetId::new("measured")?;
    let datasets = FjallStore::in_folder(folder.path(), FjallOptions::default())?;
    let store = datasets.open(&dataset, Creation::new(&dataset, StoreIncarnation(1)))?;
    let clock = SystemClock;
    let at = || Moment { now: clock.now(), wall: clock.wall() };
    let limits = QueueLimits { entries_max: entries, ..QueueLimits::default() };
    let mut queue = Queue::open(&*store, limits, fastrand::Rng::with_seed(1), at())?;
    let peers = (0..10).map(|n| NodeId::new(format!("node-{n}"))).collect::<Result<Vec<_>, _>>()?;

    let (mut enqueue, mut durable) = (Vec::with_capacity(entries), Vec::new());
    for n in 0..entries {
        let id = EntryId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let moment = at();
        queue.enqueue(&peers[n % peers.len()], id, 1024, moment)?;
        enqueue.push(clock.now().since(moment.now));
        if (n + 1) % per_commit == 0
            && let Some(batch) = queue.poll_write()
        {
            let begun = clock.now();
            store.write_metadata(&batch.writes)?;
            queue.on_written(batch.ticket);
            durable.push(clock.now().since(begun));
        }
    }
    print("enqueue", &mut enqueue);
    print("commit", &mut durable);
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part) as usize).copied().unwrap_or_default();
    println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
}
