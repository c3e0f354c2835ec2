//! Snapshots and restores.

use bytes::Bytes;
use futures_util::StreamExt;
use mesh_core::store::{ByteStream, SessionError, StoreError, TxnError, WatchEvent, WatchFrom, WatchOptions};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

/// The whole snapshot, in its pieces.
async fn snapshot(t: &Trial) -> Verdict<Vec<Bytes>> {
    let mut stream = t.store().snapshot().await?;
    let mut pieces = Vec::new();
    while let Some(piece) = stream.next().await {
        pieces.push(piece?);
    }
    ensure!(!pieces.is_empty(), "a snapshot has no bytes");
    Ok(pieces)
}

fn stream(pieces: Vec<Bytes>) -> ByteStream {
    Box::pin(futures_util::stream::iter(pieces.into_iter().map(Ok)))
}

pub(super) async fn a_restore_brings_back_the_records_of_the_snapshot(t: &Trial) -> Verdict {
    let session = t.session().await?;
    t.put("kept", "then").await?;
    t.put("large", vec![7; 300_000]).await?;
    t.put("deleted", "then").await?;
    t.put_in("attached", session).await?;
    t.grant("lease", session).await?;
    let kept = t.get("kept").await?;
    let pieces = snapshot(t).await?;
    t.put("kept", "now").await?;
    t.delete("deleted").await?;
    t.put("new", "now").await?;
    let before = t.revision().await?;
    let restored = t.store().restore(stream(pieces)).await?;
    ensure!(restored.revision > before, "restored at {}, the store was at {before}", restored.revision);
    let now = t.revision().await?;
    ensure!(now >= restored.revision, "restored at {}, a read is at {now}", restored.revision);
    ensure!(
        t.value("kept").await?.is_some_and(|v| v == "then"),
        "kept is {:?}, was {kept:?}",
        t.get("kept").await?
    );
    ensure!(t.value("large").await?.is_some_and(|v| v.len() == 300_000), "a large record did not come back");
    ensure!(t.value("deleted").await?.is_some_and(|v| v == "then"), "a deleted record did not come back");
    for name in ["new", "attached", "lease"] {
        ensure!(t.get(name).await?.is_none(), "{name} is there after the restore");
    }
    let next = t.put("kept", "later").await?;
    ensure!(
        next > restored.revision,
        "the first change after the restore at {} is {next}",
        restored.revision
    );
    Ok(())
}

pub(super) async fn a_restore_ends_sessions_and_outranks_every_token(t: &Trial) -> Verdict {
    let first = t.store().status().await?;
    let (before, mut clusters) = (first.generation, vec![first.cluster]);
    let session = t.session().await?;
    let pieces = snapshot(t).await?;
    let token = t.grant("l", session).await?;
    let mut generation = before;
    for round in 0..2 {
        let restored = t.store().restore(stream(pieces.clone())).await?;
        ensure!(
            restored.generation > generation,
            "restore {round} has generation {}, the one before had {generation}",
            restored.generation
        );
        generation = restored.generation;
        let status = t.store().status().await?;
        ensure!(status.generation == generation, "the restore says {generation}, the status {status:?}");
        ensure!(
            !clusters.contains(&status.cluster),
            "the cluster's id was {clusters:?}, the status is {status:?}"
        );
        clusters.push(status.cluster);
        must_be!(t.store().keep_alive(session).await, Err(SessionError::Gone { .. }) => (),
            "sessions end with a restore");
        let late = t.txn().when(t.fence("l", token)).then(t.put_of("effect", ""));
        must_be!(t.transact(late).await, Err(TxnError::Fenced { .. }) => (), "{token} is of an old generation");
        let new = t.session().await?;
        ensure!(new != session, "session {session} was given out again");
        let next = t.grant("l", new).await?;
        ensure!(next > token && next.generation == generation, "the token after {token} is {next}");
        let late = t.txn().when(t.fence("l", token)).then(t.put_of("effect", ""));
        must_be!(t.transact(late).await, Err(TxnError::Fenced { current, .. }) if current == Some(next) => (),
            "{next} holds now");
    }
    ensure!(t.get("effect").await?.is_none(), "a token of before the restore was accepted");
    Ok(())
}

pub(super) async fn watchers_are_told_of_a_restore(t: &Trial) -> Verdict {
    t.put("a", "then").await?;
    let pieces = snapshot(t).await?;
    let before = t.put("a", "now").await?;
    let mut watch = t.watch("a", WatchFrom::After(before)).await?;
    let restored = t.store().restore(stream(pieces)).await?;
    let (from, to) = must_be!(watch.event().await?, WatchEvent::Gap { from, to } => (from, to),
        "the whole store was replaced, a watch has a gap");
    let covers = from > before && from <= restored.revision && to >= restored.revision;
    ensure!(covers, "after {before}, restored at {}, the gap is {from} to {to}", restored.revision);
    let next = t.put("a", "later").await?;
    let (came, _) = watch.changes().await?;
    ensure!(came == next, "after the gap comes {next}, not {came}");
    let stream = t.store().watch(&t.prefix("a"), WatchFrom::After(before), WatchOptions::default()).await?;
    let mut late = t.watching(stream);
    let to = must_be!(late.event().await?, WatchEvent::Gap { to, .. } => to,
        "a watch from before the restore has a gap");
    ensure!(to >= restored.revision, "the restore is at {}, the gap ends at {to}", restored.revision);
    Ok(())
}

pub(super) async fn a_damaged_snapshot_is_refused_and_changes_nothing(t: &Trial) -> Verdict {
    for n in 0..50 {
        t.put(&n.to_string(), vec![n; 500]).await?;
    }
    let session = t.session().await?;
    let whole: Vec<u8> = snapshot(t).await?.concat();
    t.put("0", "later").await?;
    let before = t.store().status().await?;
    let bent = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let middle = whole.len() / 2;
    let damaged = [
        ("cut to nothing", Vec::new()),
        ("cut in the middle", whole[..middle].to_vec()),
        ("cut at its end", whole[..whole.len() - 1].to_vec()),
        ("altered at its beginning", bent(4)),
        ("altered in the middle", bent(middle)),
        ("altered at its end", bent(whole.len() - 1)),
        ("with more behind it", [&whole[..], b"more"].concat()),
        ("not one at all", b"hello, world".repeat(100)),
    ];
    for (what, bytes) in damaged {
        let pieces = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
        must_be!(t.store().restore(stream(pieces)).await, Err(StoreError::Damaged { .. }) => (),
            "a snapshot that is {what} is damaged");
    }
    let broken: Vec<Result<Bytes, StoreError>> =
        vec![Ok(Bytes::copy_from_slice(&whole[..middle])), Err(StoreError::Busy { limit: 0 })];
    let broken: ByteStream = Box::pin(futures_util::stream::iter(broken));
    ensure!(t.store().restore(broken).await.is_err(), "a snapshot whose reading failed was restored");
    let after = t.store().status().await?;
    ensure!(after == before, "a refused restore changed {before:?} to {after:?}");
    t.store().keep_alive(session).await?;
    ensure!(t.value("0").await?.is_some_and(|v| v == "later"), "a refused restore changed a record");
    Ok(())
}
