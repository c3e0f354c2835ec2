//! The stop of all processes, and their start on the same disks.

use mesh_core::store::{IdempotencyKey, Scan, TxnError, WatchFrom};

use crate::testing::trial::{Failure, Trial, Verdict, ensure, must_be};

/// Restarts, and waits until the store answers.
async fn restart(t: &Trial) -> Verdict {
    t.provider.restart().await?;
    t.until("the store answers after a restart", || async {
        match t.store().get(&t.key("none")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_transient() => Ok(false),
            Err(error) => Err(Failure::from(error)),
        }
    })
    .await
}

pub(super) async fn everything_acknowledged_is_there_after_a_restart(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let once = |sequence| IdempotencyKey { session, sequence };
    for n in 0..20 {
        t.put(&n.to_string(), n.to_string()).await?;
    }
    t.put_in("attached", session).await?;
    let token = t.grant("l", session).await?;
    t.store().keep_alive(session).await?;
    let applied = t.txn().when(t.absent("once")).then(t.put_of("once", "")).once(once(1));
    let outcome = t.transact(applied.clone()).await?;
    let refused = t.txn().when(t.absent("once")).then(t.put_of("0", "late")).once(once(2));
    must_be!(t.transact(refused.clone()).await, Err(TxnError::Conflict { .. }) => (), "it is there");
    t.delete("once").await?;
    t.put("last", "").await?;
    let records = t.store().scan(&Scan::of(t.prefix(""))).await?;

    for round in 0..2 {
        restart(t).await?;
        let found = t.store().scan(&Scan::of(t.prefix(""))).await?;
        ensure!(found.value == records.value, "restart {round} changed the records");
        ensure!(found.revision >= records.revision, "{} became {}", records.revision, found.revision);
        let renewals = t.store().keep_alive(session).await?.renewals;
        ensure!(
            renewals == round + 2,
            "the session was renewed {} times, its count is {renewals}",
            round + 2
        );
        let retry = t.transact(applied.clone()).await?;
        ensure!(retry == outcome, "restart {round}: {outcome:?} became {retry:?}");
        must_be!(t.transact(refused.clone()).await, Err(TxnError::Conflict { .. }) => (),
            "restart {round}: a refusal is final");
        t.transact(t.txn().when(t.fence("l", token))).await?;
    }
    t.store().close_session(session).await?;
    for name in ["attached", "l"] {
        ensure!(t.get(name).await?.is_none(), "{name} did not go with its session after a restart");
    }
    Ok(())
}

pub(super) async fn tokens_grow_over_a_restart(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let mut last = t.grant("l", session).await?;
    for _ in 0..2 {
        t.transact(t.txn().when(t.fence("l", last)).then(t.delete_of("l"))).await?;
        restart(t).await?;
        let next = t.grant("l", session).await?;
        ensure!(next > last, "the token after {last} and a restart is {next}");
        let late = t.txn().when(t.fence("l", last)).then(t.put_of("effect", ""));
        must_be!(t.transact(late).await, Err(TxnError::Fenced { .. }) => (), "{last} is an old token");
        last = next;
    }
    Ok(())
}

pub(super) async fn a_watch_resumes_over_a_restart(t: &Trial) -> Verdict {
    let before = t.put("a", "0").await?;
    let mut watch = t.watch("a", WatchFrom::After(before)).await?;
    let seen = t.put("a", "1").await?;
    ensure!(watch.changes().await?.0 == seen, "the change before the restart did not come");
    let missed = t.put("a", "2").await?;
    restart(t).await?;
    drop(watch);
    let next = t.put("a", "3").await?;
    let mut resumed = t.watch("a", WatchFrom::After(seen)).await?;
    for wanted in [missed, next] {
        let (came, _) = resumed.changes().await?;
        ensure!(came == wanted, "after the restart {wanted} comes, not {came}");
    }
    Ok(())
}
