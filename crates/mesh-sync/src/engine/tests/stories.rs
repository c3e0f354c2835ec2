//! What users of an engine rely on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::bench::*;
use crate::{
    config::Access,
    engine::{EngineEvent, Notice, RoundOutcome, SyncHealth, WatchEvent},
    entry::AuthorSequence,
    memory::MemoryNetwork,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_engines_converge_whoever_writes() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2, 3]).await;
    let syncs: Vec<_> = engines.iter().map(|engine| engine.handle()).collect();
    for (at, sync) in syncs.iter().enumerate() {
        sync.put(&notes(), &list(), format!("from {at}"), "here").await.expect("written");
    }
    for sync in &syncs {
        for at in 0..3 {
            has(sync, &format!("from {at}"), "here").await;
        }
    }
    syncs[0].put(&notes(), &list(), "from 2", "overwritten").await.expect("written");
    syncs[1].delete(&notes(), &list(), "from 0").await.expect("written");
    has(&syncs[2], "from 2", "overwritten").await;
    until(|| async { value(&syncs[2], "from 0").await.is_none() }).await;
    let page = soon(syncs[2].list(&notes(), &list(), None, 1)).await.expect("lists");
    assert_eq!((page.documents.len(), page.next.as_deref()), (1, Some(&b"from 1"[..])));
    let rest = syncs[2].list(&notes(), &list(), page.next.as_deref(), 10).await.expect("lists");
    assert_eq!((rest.documents.len(), rest.next), (1, None));
    let rounds = soon(syncs[0].sync_now(None, None, GENEROUS)).await.expect("rounds");
    assert_eq!(rounds.len(), 2);
    assert!(rounds.iter().all(|round| round.outcome == RoundOutcome::Equal), "{rounds:?}");
    let flushed = soon(syncs[0].flush(GENEROUS)).await.expect("flushes");
    assert!(flushed.is_complete() && flushed.acknowledged.len() == 2, "{flushed:?}");
    let status = syncs[0].status().await;
    assert_eq!(status.datasets[0].entries, 5);
    assert_eq!(status.tracked_peers, 2);
    assert_eq!(status.health, SyncHealth::Ok, "{:?}", status.problems);
    for engine in engines {
        soon(engine.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_goes_on_behind_its_numbers() {
    let (network, disk) = (MemoryNetwork::default(), Disk::default());
    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    for at in 0..20 {
        sync.put(&notes(), &list(), format!("key {}", at % 5), format!("{at}")).await.expect("written");
    }
    let before = sync.put(&notes(), &list(), "last", "before").await.expect("written").entry;
    soon(engine.shutdown()).await;

    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    assert_eq!(value(&sync, "key 4").await.as_deref(), Some(&b"19"[..]));
    assert_eq!(value(&sync, "last").await.as_deref(), Some(&b"before"[..]));
    let after = sync.put(&notes(), &list(), "last", "after").await.expect("written").entry;
    assert_eq!(after.sequence(), before.sequence().next().expect("few"));
    assert!(after.hlc() > before.hlc());
    let now = u64::try_from(std::time::Duration::from_millis(250).as_millis()).expect("short");
    let wall = mesh_core::Clock::wall(&mesh_core::SystemClock).0;
    assert!(after.hlc().wall().0 <= wall + now, "a restart does not stamp ahead of what peers let in");
    assert_eq!(sync.status().await.datasets[0].authors[0].contiguous, AuthorSequence(22));
    soon(engine.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_while_a_peer_was_away_is_queued_and_reaches_it() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    a.put(&notes(), &list(), "first", "1").await.expect("written");
    has(&b, "first", "1").await;
    network.cut(&node(1), &node(2));
    until(|| async { a.status().await.connected.is_empty() }).await;
    until(|| async {
        let written = a.put(&notes(), &list(), "second", "2").await.expect("written");
        written.queued_for == 1
    })
    .await;
    let status = a.status().await;
    let peer = &status.datasets[0].peers[0];
    assert!(!peer.connected && peer.queued > 0, "{peer:?}");
    network.heal(&node(1), &node(2));
    has(&b, "second", "2").await;
    until(|| async { a.status().await.datasets[0].queue.entries == 0 }).await;
    assert!(a.dead_letters(&notes()).await.expect("lists").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_too_often_is_a_dead_letter_until_it_is_retried_or_the_peer_has_it() {
    let network = MemoryNetwork::default();
    let mut settings = config(Access::Cluster);
    settings.attempts_max = 1;
    let engine = start(&network, 1, settings, &Disk::default()).await;
    let a = engine.handle();
    a.set_peers(peers(&[1, 2]));
    until(|| async { a.status().await.datasets[0].peers.len() == 1 }).await;
    let written = a.put(&notes(), &list(), "key", "1").await.expect("written");
    assert_eq!(written.queued_for, 1);
    until(|| async { a.dead_letters(&notes()).await.expect("lists").len() == 1 }).await;
    let letter = a.dead_letters(&notes()).await.expect("lists").remove(0);
    assert_eq!((letter.entry, letter.peer.clone()), (written.id, node(2)));
    assert!(letter.detail.contains("does not answer"), "{}", letter.detail);
    a.retry_dead_letter(&notes(), &node(2), written.id).await.expect("there");
    until(|| async { a.dead_letters(&notes()).await.expect("lists").len() == 1 }).await;
    let unknown =
        a.retry_dead_letter(&notes(), &node(3), written.id).await.expect_err("not there").to_string();
    assert!(unknown.contains("no dead letter"), "{unknown}");
    let other = start(&network, 2, config(Access::Cluster), &Disk::default()).await;
    has(&other.handle(), "key", "1").await;
    until(|| async { a.dead_letters(&notes()).await.expect("lists").is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_changes_and_hears_that_it_was_too_slow() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    let mut watch = b.watch(&notes(), Some(&list()), "wanted").expect("watches");
    a.put(&notes(), &list(), "other", "1").await.expect("written");
    a.put(&notes(), &list(), "wanted 1", "2").await.expect("written");
    let Some(WatchEvent::Changed(change)) = soon(watch.next()).await else { panic!("a change") };
    assert_eq!((&change.document.key[..], &change.payload[..]), (&b"wanted 1"[..], &b"2"[..]));
    for at in 0..300 {
        b.put(&notes(), &list(), "wanted 1", format!("{at}")).await.expect("written");
    }
    let lagged = soon(async {
        loop {
            match watch.next().await {
                Some(WatchEvent::Lagged { missed }) => return missed,
                Some(_) => {}
                None => panic!("it runs"),
            }
        }
    });
    assert!(lagged.await > 0);
    assert!(matches!(soon(watch.next()).await, Some(WatchEvent::Changed(_))), "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_or_panics_is_reported_and_the_commit_stands() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1]).await;
    let a = engines[0].handle();
    let mut events = a.subscribe();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    a.on_committed(Arc::new(|_, _| Err("out of order".into())));
    a.on_committed(Arc::new(|_, _| panic!("a hook of a test")));
    a.on_committed(Arc::new(move |_, entries| {
        counted.fetch_add(entries.len(), Ordering::SeqCst);
        Ok(())
    }));
    a.put(&notes(), &list(), "key", "1").await.expect("the commit stands");
    let mut problems = Vec::new();
    while problems.len() < 2 {
        if let Some(Notice::Event(EngineEvent::HookFailed { problem, .. })) = soon(events.next()).await {
            problems.push(problem);
        }
    }
    assert_eq!(problems, ["out of order", "it panicked"]);
    until(|| async { seen.load(Ordering::SeqCst) == 1 }).await;
    assert_eq!(value(&a, "key").await.as_deref(), Some(&b"1"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_payload_goes_in_pieces_and_goes_on_after_a_cut() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    let mut payload = vec![0; 6 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut payload);
    let mut events = b.subscribe();
    a.put(&notes(), &list(), "large", payload.clone()).await.expect("written");
    // Cut off as soon as they are connected again, over and over.
    let mut cuts = 0;
    soon(async {
        loop {
            match events.next().await.expect("it runs") {
                Notice::Event(EngineEvent::BlobComplete { .. }) => return,
                Notice::Event(EngineEvent::Committed { .. } | EngineEvent::InSync { .. }) if cuts < 5 => {
                    network.cut(&node(1), &node(2));
                    network.heal(&node(1), &node(2));
                    cuts += 1;
                }
                _ => {}
            }
        }
    })
    .await;
    assert!(cuts > 0);
    let (read, bytes) = b
        .read_blob(&notes(), &list(), b"large", Vec::new())
        .await
        .expect("all of it is here")
        .expect("it exists");
    assert_eq!(bytes, payload.len() as u64);
    assert!(read == payload);
}

#[tokio::test]
async fn pieces_that_no_document_names_are_collected() {
    let disk = Disk::default();
    let network = MemoryNetwork::default();
    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    for (key, byte) in [("kept", 1), ("deleted", 2), ("written over", 3)] {
        let payload = vec![byte; 3 << 20];
        sync.put(&notes(), &list(), key, payload).await.expect("written");
    }
    sync.delete(&notes(), &list(), "deleted").await.expect("deleted");
    sync.put(&notes(), &list(), "written over", "short").await.expect("written");
    let before = sync.collect_chunks().await.expect("collects");
    assert!(before.named > 0 && before.removed > 0, "{before:?}");
    let after = sync.collect_chunks().await.expect("collects");
    assert_eq!((after.named, after.removed), (before.named, 0));
    let read = sync.read_blob(&notes(), &list(), b"kept", Vec::new()).await.expect("whole").expect("exists");
    assert!(read.0 == vec![1; 3 << 20]);
}
