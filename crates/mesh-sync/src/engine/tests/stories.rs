//! What users of an engine rely on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::bench::*;
use crate::{
    config::Access,
    engine::{EngineEvent, Notice, RoundOutcome, SyncHealth, WatchEvent},
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
