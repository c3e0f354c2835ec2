//! What an engine takes care of while something else goes wrong beside it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{Clock as _, SystemClock};

use super::bench::*;
use crate::{
    blob::{self, CHUNK_BYTES, MemoryChunks},
    config::{Access, SyncConfig},
    engine::SyncError,
    entry::{Author, AuthorSequence, Draft, Entry, Outcome, Rejection},
    memory::MemoryNetwork,
    store::{Backend, MemoryBackend, Store, StoreError, Visit, Write},
};

fn stamp(ahead: Duration) -> mesh_core::Hlc {
    let wall = SystemClock.wall().0;
    let ahead = u64::try_from(ahead.as_millis()).expect("short");
    mesh_core::Hlc::from_wall(mesh_core::WallTime(wall + ahead))
}

fn signed(by: u8, draft: Draft, ahead: Duration) -> Entry {
    let mut author = Author::new(key(by), notes(), AuthorSequence::FIRST);
    author.sign(draft, stamp(ahead)).expect("signs").into_entry()
}

/// Its entries come back from its peers, under the key that it still has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_store_goes_on_behind_the_numbers_that_it_used() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let [first, other] = [engines[0].handle(), engines[1].handle()];
    for at in 0..10 {
        first.put(&notes(), &list(), format!("{at}"), "before").await.expect("written");
    }
    has(&other, "9", "before").await;
    let mut engines = engines.into_iter();
    network.remove(&node(1));
    drop(first);
    soon(engines.next().expect("the first").shutdown()).await;

    let again = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    again.handle().set_peers(peers(&[1, 2]));
    has(&again.handle(), "9", "before").await;
    let written = again.handle().put(&notes(), &list(), "after", "1").await.expect("written");
    assert_eq!(written.entry.sequence(), AuthorSequence(11));
    has(&other, "after", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_signed_ahead_of_time_does_not_take_the_clock_along() {
    let network = MemoryNetwork::default();
    let engine = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    let sync = engine.handle();
    let draft = || Draft::put(&list(), "key", "1");
    let (days, seconds) = (Duration::from_secs(2 * 24 * 3600), Duration::from_secs(60));
    let entries =
        vec![signed(8, draft(), days), signed(9, draft(), seconds), signed(7, draft(), Duration::ZERO)];
    let outcomes = sync.submit(&notes(), entries).await.expect("looked at");
    assert!(matches!(outcomes[0], Outcome::Rejected(Rejection::FarAhead { .. })), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Deferred(_)), "{outcomes:?}");
    assert!(outcomes[2].is_held(), "{outcomes:?}");
    let written = sync.put(&notes(), &list(), "own", "1").await.expect("written");
    assert!(written.entry.hlc() < stamp(Duration::from_secs(1)), "{}", written.entry.hlc());
}

/// Two of them would keep all others waiting for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_nobody_has_hold_up_no_other() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    for by in [8, 9] {
        let mut content: &[u8] = &vec![by; 3 << 20];
        let invented = blob::split(&mut content, CHUNK_BYTES, &MemoryChunks::default()).expect("splits");
        let draft = Draft::blob(&list(), format!("gone {by}"), invented.encode());
        let outcomes = a.submit(&notes(), vec![signed(by, draft, Duration::ZERO)]).await.expect("taken");
        assert!(outcomes[0].is_held(), "{outcomes:?}");
    }
    until(|| async { b.status().await.datasets[0].blobs_missing == 2 }).await;
    a.put(&notes(), &list(), "large", vec![7; 3 << 20]).await.expect("written");
    until(|| async {
        let read = b.read_blob(&notes(), &list(), b"large", std::io::sink()).await;
        matches!(read, Ok(Some((_, bytes))) if bytes == 3 << 20)
    })
    .await;
    // With the documents goes the search.
    for by in [8, 9] {
        a.delete(&notes(), &list(), format!("gone {by}")).await.expect("deleted");
    }
    until(|| async { b.status().await.datasets[0].blobs_missing == 0 }).await;
}

/// The only one that has it is asked last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_one_of_many_peers_has_is_found() {
    let network = MemoryNetwork::default();
    let (numbers, holder) = ([1, 2, 3, 4, 5, 6, 7, 8], Disk::default());
    let mut engines = Vec::new();
    for number in numbers {
        let disk = if number == 8 { holder.clone() } else { Disk::default() };
        engines.push(start(&network, number, config(Access::Cluster), &disk).await);
    }
    for engine in &engines {
        engine.handle().set_peers(peers(&numbers));
    }
    let all = async || engines[0].handle().status().await.connected.len() == 7;
    until(all).await;
    let (mut content, sync) = (&b"a little"[..], engines[7].handle());
    let little = blob::split(&mut content, CHUNK_BYTES, &*holder.chunks).expect("splits");
    let draft = Draft::blob(&list(), "little", little.encode());
    sync.submit(&notes(), vec![signed(9, draft, Duration::ZERO)]).await.expect("taken");
    until(|| async {
        let read = engines[0].handle().read_blob(&notes(), &list(), b"little", Vec::new()).await;
        matches!(read, Ok(Some((read, _))) if read == b"a little")
    })
    .await;
}

/// With so many nodes not all are connected at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_whose_turn_it_is_not_are_not_behind() {
    let network = MemoryNetwork::default();
    let numbers: Vec<u8> = (1..=12).collect();
    let settings = || SyncConfig {
        lag_degraded: Duration::from_secs(1),
        lag_unhealthy: Duration::from_secs(2),
        ..config(Access::Cluster)
    };
    let mut engines = Vec::new();
    for number in &numbers {
        engines.push(start(&network, *number, settings(), &Disk::default()).await);
    }
    for engine in &engines {
        engine.handle().set_peers(peers(&numbers));
    }
    engines[0].handle().put(&notes(), &list(), "key", "1").await.expect("written");
    for engine in &engines {
        has(&engine.handle(), "key", "1").await;
    }
    let sync = engines[0].handle();
    let connected = sync.status().await.connected.len();
    assert!(connected < 11, "all {connected} are connected");
    let begun = SystemClock.now();
    until(|| async {
        let status = sync.status().await;
        assert!(status.max_lag_ms < 2000, "{:?}", status.problems);
        SystemClock.now().since(begun) > Duration::from_secs(4)
    })
    .await;
}

/// An entry may be so large that its limit allows nothing for minutes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_leaves_the_signs_of_life_of_streams_alone() {
    let network = MemoryNetwork::default();
    let slow = SyncConfig { bytes_per_second: 1024, compress_from_bytes: 0, ..config(Access::Cluster) };
    let a = start(&network, 1, slow, &Disk::default()).await;
    let b = start(&network, 2, config(Access::Cluster), &Disk::default()).await;
    for engine in [&a, &b] {
        engine.handle().set_peers(peers(&[1, 2]));
    }
    until(|| async { !a.handle().status().await.connected.is_empty() }).await;
    a.handle().put(&notes(), &list(), "large", vec![7; 200_000]).await.expect("written");
    until(|| async { value(&b.handle(), "large").await.is_some() }).await;
    let received = || b.core.counters.lock().bytes_in;
    let before = received();
    until(|| async { received() > before }).await;
}

/// A disk that can be told to fail.
#[derive(Default)]
struct Failing {
    inner: MemoryBackend,
    fails: Arc<AtomicBool>,
}

impl Backend for Failing {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.inner.scan(from, below, visit)
    }

    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.last(from, below)
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        match self.fails.load(Ordering::Relaxed) {
            true => {
                Err(StoreError::Damaged { path: self.path().to_owned(), problem: "a test says so".into() })
            }
            false => self.inner.commit(writes),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_store_failed_whoever_asks_is_told_so_and_nobody_waits() {
    let (network, fails) = (MemoryNetwork::default(), Arc::<AtomicBool>::default());
    let backend = Failing { fails: Arc::clone(&fails), ..Failing::default() };
    let disk = Disk { stores: Arc::new(Store::new(backend).expect("opens")), ..Disk::default() };
    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    sync.set_peers(peers(&[2]));
    until(|| async { sync.status().await.datasets[0].peers.len() == 1 }).await;
    let written = sync.put(&notes(), &list(), "key", "1").await.expect("written");
    fails.store(true, Ordering::Relaxed);
    let failed = |error: SyncError| assert!(matches!(error, SyncError::Failed { .. }), "{error}");
    for _ in 0..2 {
        failed(soon(sync.put(&notes(), &list(), "key", "2")).await.expect_err("the disk is broken"));
    }
    failed(soon(sync.queue(&notes(), &node(2), written.id)).await.expect_err("not durable"));
    failed(soon(sync.retire(&notes(), &node(2))).await.expect_err("not durable"));
    assert_eq!(value(&sync, "key").await.as_deref(), Some(&b"1"[..]));
}
