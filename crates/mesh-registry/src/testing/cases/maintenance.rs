//! Compaction and status.

use mesh_core::{
    Revision,
    store::{Scan, WatchFrom},
};

use crate::testing::trial::{Trial, Verdict, ensure};

pub(super) async fn compacting_forgets_history_and_keeps_records(t: &Trial) -> Verdict {
    for n in 0..10 {
        t.put(&n.to_string(), n.to_string()).await?;
    }
    let through = t.put("last", "").await?;
    let before = t.store().scan(&Scan::of(t.prefix(""))).await?.value;
    t.store().compact(through).await?;
    t.until("the status says how far the history is forgotten", || async {
        Ok(t.store().status().await?.compacted >= through)
    })
    .await?;
    let after = t.store().scan(&Scan::of(t.prefix(""))).await?.value;
    ensure!(before == after, "a compaction changed records");
    // Compacting again, or less far, is no error.
    t.store().compact(through).await?;
    t.store().compact(Revision(through.0 - 1)).await?;
    let compacted = t.store().status().await?.compacted;
    ensure!(compacted >= through, "after {through} a compaction went back to {compacted}");
    Ok(())
}

pub(super) async fn compacting_past_the_present_does_no_harm(t: &Trial) -> Verdict {
    let present = t.put("a", "1").await?;
    t.store().compact(Revision(present.0 + 1_000_000)).await?;
    let from = t.revision().await?;
    let status = t.store().status().await?;
    ensure!(status.compacted <= status.revision, "the future is compacted: {status:?}");
    let next = t.put("a", "2").await?;
    let mut watch = t.watch("a", WatchFrom::After(from)).await?;
    let (revision, _) = watch.changes().await?;
    ensure!(revision == next, "after a compaction past the present {next} came as {revision}");
    Ok(())
}

pub(super) async fn the_status_tells_provider_revision_and_counts(t: &Trial) -> Verdict {
    let before = t.store().status().await?;
    ensure!(!before.provider.is_empty(), "the provider has no name");
    ensure!(before.read_only.is_none(), "a healthy store is read-only: {:?}", before.read_only);
    ensure!(before.compacted <= before.revision, "more is compacted than there is: {before:?}");
    t.put("a", "1").await?;
    let session = t.session().await?;
    let written = t.put("b", "2").await?;
    t.until("the status counts what was written", || async {
        let status = t.store().status().await?;
        ensure!(status.generation == before.generation, "the generation rose without a restore: {status:?}");
        Ok(status.revision >= written
            && status.records == before.records + 2
            && status.sessions == before.sessions + 1)
    })
    .await?;
    t.store().close_session(session).await?;
    t.delete("a").await?;
    t.until("the status counts what went", || async {
        let status = t.store().status().await?;
        Ok(status.records == before.records + 1 && status.sessions == before.sessions)
    })
    .await
}
