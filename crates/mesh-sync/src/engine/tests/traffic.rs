//! What streams carry, and how fast: limits, packing and lanes on a stream that lives.

use mesh_core::{Clock as _, SystemClock};

use super::bench::*;
use crate::{
    config::{Access, DatasetConfig, SyncConfig},
    engine::{Engine, EngineEvent, Notice},
    entry::DatasetId,
    memory::MemoryNetwork,
};

const KIB: usize = 1024;

/// Text that can't be packed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| rng.u8(..)).collect()
}

async fn pair(network: &MemoryNetwork, sender: SyncConfig) -> [Engine; 2] {
    let a = start(network, 1, sender.clone(), &Disk::default()).await;
    let b = start(network, 2, SyncConfig { bytes_per_second: 0, ..sender }, &Disk::default()).await;
    for engine in [&a, &b] {
        engine.handle().set_peers(peers(&[1, 2]));
    }
    until(|| async { !a.handle().status().await.connected.is_empty() }).await;
    [a, b]
}

async fn count(engine: &Engine, dataset: &DatasetId) -> u64 {
    let status = engine.handle().status().await;
    status.datasets.iter().find(|one| one.dataset == *dataset).map_or(0, |one| one.entries)
}

/// Writes so much noise at the first, and tells how long it takes until the second has it.
async fn carry(config: SyncConfig) -> std::time::Duration {
    let network = MemoryNetwork::default();
    let [a, b] = pair(&network, config).await;
    let began = SystemClock.now();
    for at in 0..8 {
        a.handle().put(&notes(), &list(), format!("{at}"), noise(at, 64 * KIB)).await.expect("written");
    }
    until(|| async { count(&b, &notes()).await == 8 }).await;
    SystemClock.now().since(began)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_no_faster_than_the_limit_of_all_or_of_each() {
    let limit = 256 * KIB as u64;
    // 512 KiB at 256 KiB a second: two seconds, less the tenth of a second that may come at once.
    let all = SyncConfig { bytes_per_second: limit, ..config(Access::Cluster) };
    let each = SyncConfig { peer_bytes_per_second: limit, ..config(Access::Cluster) };
    let (all, each) = tokio::join!(carry(all), carry(each));
    for took in [all, each] {
        assert!(took.as_secs_f64() >= 1.5, "{took:?}");
    }
}

/// More is written than the stream carries: the peer falls behind, is told how far it is, and catches up afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_falls_behind_under_load_and_catches_up_after_it() {
    let network = MemoryNetwork::default();
    let limit = SyncConfig { bytes_per_second: 256 * KIB as u64, ..config(Access::Cluster) };
    let [a, b] = pair(&network, limit).await;
    let mut events = a.handle().subscribe();
    for at in 0..16 {
        a.handle().put(&notes(), &list(), format!("{at}"), noise(at, 64 * KIB)).await.expect("written");
    }
    let peer = async || a.handle().status().await.datasets[0].peers[0].clone();
    until(|| async { peer().await.left > 0 && !peer().await.lag.is_zero() }).await;
    let progress = soon(async {
        loop {
            if let Some(Notice::Event(EngineEvent::Progress { progress, .. })) = events.next().await {
                break progress;
            }
        }
    });
    let progress = progress.await;
    assert!(progress.left > 0 && progress.left < 16 && progress.entries > 0, "{progress:?}");
    assert!(
        progress.bytes >= progress.entries * 64 * KIB as u64 && progress.bytes_per_second > 0,
        "{progress:?}"
    );
    until(|| async { count(&b, &notes()).await == 16 }).await;
    until(|| async { peer().await.in_sync && peer().await.lag.is_zero() && peer().await.left == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_packed_from_the_length_that_the_settings_say() {
    let mut sent = Vec::new();
    for compress_from_bytes in [1024, 0] {
        let network = MemoryNetwork::default();
        let [a, b] = pair(&network, SyncConfig { compress_from_bytes, ..config(Access::Cluster) }).await;
        for at in 0..8 {
            let value = vec![b'a'; 64 * KIB];
            a.handle().put(&notes(), &list(), format!("{at}"), value).await.expect("written");
        }
        until(|| async { count(&b, &notes()).await == 8 }).await;
        sent.push(a.core.counters.lock().bytes_out);
    }
    assert!(sent[0] < 64 * KIB as u64 && sent[1] > 512 * KIB as u64, "{sent:?}");
}

/// What is small and urgent overtakes what is large, on the one stream that both share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_dataset_does_not_hold_up_another() {
    let bulk = DatasetId::new("bulk").expect("valid");
    let large = DatasetConfig { name: "bulk".into(), priority: 1, ..dataset(Access::Cluster) };
    let settings = SyncConfig {
        datasets: vec![large, dataset(Access::Cluster)],
        peer_bytes_per_second: 256 * KIB as u64,
        ..config(Access::Cluster)
    };
    let network = MemoryNetwork::default();
    let [a, b] = pair(&network, settings).await;
    // Eight seconds of it.
    for at in 0..32 {
        a.handle().put(&bulk, &list(), format!("{at}"), noise(at, 64 * KIB)).await.expect("written");
    }
    until(|| async { count(&b, &bulk).await >= 1 }).await;
    a.handle().put(&notes(), &list(), "key", "1").await.expect("written");
    has(&b.handle(), "key", "1").await;
    assert!(count(&b, &bulk).await < 32, "all of the bulk came first");
    until(|| async { count(&b, &bulk).await == 32 }).await;
}
