//! The death of the process that takes writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use mesh_core::store::{
    Applied, Compare, IdempotencyKey, Key, OpenSession, Operation, SessionError, Txn, TxnError,
    VersionedStore, WatchEvent, WatchFrom, WatchOptions,
};
use mesh_core::{Clock, SystemClock};

use super::concurrency::judge;
use crate::testing::{
    Recorder,
    trial::{Failure, Trial, Verdict, ensure, must_be},
};

/// How often the leader is killed.
const KILLS: usize = 3;
/// Steps that all writers together make between two kills.
const STEPS_BETWEEN: u64 = 40;
/// Between two tries while the store does not answer.
const PAUSE: Duration = Duration::from_millis(10);
/// Most tries that are under way at a time.
const TRIES_MAX: usize = 64;
/// Clients that write meanwhile.
const WRITERS: u64 = 4;

/// A write with the same idempotency key, until it is answered.
async fn insist(store: &dyn VersionedStore, txn: &Txn) -> Verdict<mesh_core::store::TxnOutcome> {
    loop {
        match store.transact(txn.clone()).await {
            Ok(outcome) => return Ok(outcome),
            Err(TxnError::Store(error)) if error.is_transient() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Counts up on its own key, each step by comparing the one before, until it is told to stop. A step that was
/// applied twice or not at all would break the chain.
async fn count(
    store: Arc<dyn VersionedStore>,
    (key, writer): (Key, mesh_core::NodeId),
    (stop, total): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Verdict {
    let mut steps = 0;
    let session = loop {
        let request = OpenSession { owner: writer.clone(), ttl: Duration::from_secs(600) };
        match store.open_session(request).await {
            Ok(session) => break session.id,
            Err(SessionError::Store(error)) if error.is_transient() => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let compare = match steps {
            0 => Compare::Absent { key: key.clone() },
            n => Compare::Value { key: key.clone(), value: Bytes::from(n.to_string()) },
        };
        steps += 1;
        let value = Bytes::from(steps.to_string());
        let txn = Txn::new(writer.clone())
            .when(compare)
            .then(Operation::Put { key: key.clone(), value, session: None })
            .once(IdempotencyKey { session, sequence: steps });
        insist(&*store, &txn).await?;
        total.fetch_add(1, Ordering::Relaxed);
        match store.get(&key).await {
            Ok(read) => {
                let value = read.value.map(|record| record.value);
                let right = value.as_ref().is_some_and(|value| *value == steps.to_string());
                ensure!(right, "{steps} was acknowledged, a read finds {value:?}");
            }
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Kills the leader and measures how long it takes until a write that was sent after it is acknowledged.
async fn kill(t: &Trial, name: &str) -> Verdict {
    // By the machine's clock, whatever times the store's sessions.
    let start = SystemClock.now();
    t.provider.kill_leader().await?;
    let put = t.txn().then(t.put_of(name, start.as_nanos().to_string()));
    let handles = t.provider.handles();
    let mut tries = FuturesUnordered::new();
    let mut again = tokio::time::interval(PAUSE);
    // A try may hang at a process that is dead, so others are begun meanwhile.
    let acknowledged = async {
        loop {
            tokio::select! {
                Some(answer) = tries.next() => match answer {
                    Ok(_) => return Ok(()),
                    Err(TxnError::Store(error)) if error.is_transient() => {}
                    Err(error) => return Err(Failure::from(error)),
                },
                _ = again.tick(), if tries.len() < TRIES_MAX => {
                    tries.extend(handles.iter().map(|handle| handle.transact(put.clone())));
                }
            }
        }
    };
    match tokio::time::timeout(t.limits.patience, acknowledged).await {
        Ok(verdict) => verdict?,
        Err(_) => {
            let patience = t.limits.patience;
            return Err(Failure::new(format!(
                "no write was acknowledged for {patience:?} after the leader died"
            )));
        }
    }
    t.note_failover(SystemClock.now().since(start));
    t.provider.revive().await?;
    Ok(())
}

pub(super) async fn writes_go_on_after_the_leader_is_killed(t: &Trial) -> Verdict {
    let recorder = Recorder::new(t.clock());
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..WRITERS {
        let handles = t.provider.handles();
        let inner = Arc::clone(&handles[client as usize % handles.len()]);
        let store = Arc::new(recorder.record(inner, client));
        let key = (t.key(&format!("count{client}")), t.writer());
        tasks.spawn(count(store, key, (Arc::clone(&stop), Arc::clone(&total))));
    }
    let killing = async {
        for n in 0..KILLS {
            let so_far = total.load(Ordering::Relaxed);
            let moved = || async { Ok(total.load(Ordering::Relaxed) >= so_far + STEPS_BETWEEN) };
            t.until("the clients write", moved).await?;
            kill(t, &format!("kill{n}")).await?;
        }
        stop.store(true, Ordering::Relaxed);
        Ok::<(), Failure>(())
    };
    let writing = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::new(format!("a client panicked: {error}")))??;
        }
        Ok(())
    };
    tokio::try_join!(writing, killing)?;
    for n in 0..KILLS {
        ensure!(t.get(&format!("kill{n}")).await?.is_some(), "an acknowledged write is lost: kill{n}");
    }
    judge(&recorder)
}

pub(super) async fn a_watch_resumes_over_a_failover(t: &Trial) -> Verdict {
    let recorder = Recorder::new(t.clock());
    let before = t.revision().await?;
    let session = t.session().await?;
    let store: Arc<dyn VersionedStore> = Arc::new(recorder.record(t.other_handle(), 1));
    let watcher = recorder.record(t.store(), 2);
    let (prefix, key, writer) = (t.prefix("a"), t.key("a"), t.writer());
    let last = 50 * KILLS as u64;
    let writing = async {
        for n in 1..=last {
            if n % 50 == 25 {
                kill(t, "kill").await?;
            }
            let put = Operation::Put { key: key.clone(), value: n.to_string().into(), session: None };
            let txn = Txn::new(writer.clone()).then(put).once(IdempotencyKey { session, sequence: n });
            insist(&*store, &txn).await?;
        }
        Ok::<(), Failure>(())
    };
    let watching = async {
        let mut after = before;
        let mut seen = 0;
        while seen < last {
            let options = WatchOptions { buffer_changes_max: 10_000, ..WatchOptions::default() };
            let mut stream = match watcher.watch(&prefix, WatchFrom::After(after), options).await {
                Ok(stream) => stream,
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            while let Some(Ok(event)) = stream.next().await {
                match event {
                    WatchEvent::Changes { revision, changes } => {
                        ensure!(changes.len() == 1, "one key changes at a time: {changes:?}");
                        (after, seen) = (revision, seen + 1);
                    }
                    WatchEvent::Bookmark { revision } => after = revision,
                    gap @ WatchEvent::Gap { .. } => {
                        return Err(Failure::new(format!("nothing is compacted, and there is {gap:?}")));
                    }
                }
                if seen == last {
                    break;
                }
            }
        }
        Ok::<(), Failure>(())
    };
    tokio::try_join!(writing, watching)?;
    judge(&recorder)
}

pub(super) async fn a_renewed_session_survives_a_failover(t: &Trial) -> Verdict {
    let ttl = (t.limits.ttl_min * 4).max(Duration::from_secs(2));
    let mut sent = t.now();
    let session = t.open(ttl).await?;
    let token = t.grant("l", session.id).await?;
    let killed = AtomicBool::new(false);
    let killing = async {
        kill(t, "kill").await?;
        killed.store(true, Ordering::Relaxed);
        Ok::<(), Failure>(())
    };
    // Renewals that fail are tried again, as an owner would; what counts is when the last answered one was sent. The
    // member that is asked may be the one that was killed: it comes back while the renewal waits.
    let renewing = async {
        let mut answered = 0;
        while !killed.load(Ordering::Relaxed) || answered < 10 {
            tokio::time::sleep(PAUSE * 5).await;
            let (now, after_kill) = (t.now(), killed.load(Ordering::Relaxed));
            match t.other_handle().keep_alive(session.id).await {
                Ok(_) => {
                    sent = now;
                    answered += usize::from(after_kill);
                }
                Err(SessionError::Gone { .. }) => {
                    let since = t.now().since(sent);
                    ensure!(
                        since >= session.ttl,
                        "the session was gone {since:?} after its last renewal was sent"
                    );
                    // The store was away for longer than the session lives: nothing was promised.
                    return Ok(false);
                }
                Err(SessionError::Store(error)) => {
                    let known = matches!(error.applied(), Applied::No | Applied::Unknown);
                    ensure!(known && error.is_transient(), "a renewal failed for good: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    };
    let ((), lives) = tokio::try_join!(killing, renewing)?;
    if !lives {
        return Ok(());
    }
    let record =
        must_be!(t.get("l").await?, Some(record) => record, "the lease of a renewed session is there");
    ensure!(record.token == Some(token), "the lease changed hands: {record:?}");
    Ok(())
}
