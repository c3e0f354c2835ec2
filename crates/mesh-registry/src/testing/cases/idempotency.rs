//! Retries.

use mesh_core::store::{IdempotencyKey, OUTCOMES_KEPT, SessionId, TxnError};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

fn once(session: SessionId, sequence: u64) -> IdempotencyKey {
    IdempotencyKey { session, sequence }
}

pub(super) async fn a_retry_is_answered_as_the_first_try_and_applies_once(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let txn = t.txn().then(t.put_of("a", "1")).then(t.grant_of("lease", session)).once(once(session, 1));
    let first = t.transact(txn.clone()).await?;
    ensure!(first.grants.len() == 1, "one grant was asked for: {first:?}");
    let changed = t.put("a", "2").await?;
    for handle in t.provider.handles() {
        let retry = handle.transact(txn.clone()).await?;
        ensure!(retry == first, "the first try was answered with {first:?}, a retry with {retry:?}");
    }
    let record = must_be!(t.get("a").await?, Some(record) => record, "a is there");
    ensure!(record.revision == changed, "a retry wrote a again, at {}", record.revision);
    let lease = must_be!(t.get("lease").await?, Some(record) => record, "the lease is there");
    ensure!(lease.token == Some(first.grants[0].token), "a retry granted again: {lease:?}");
    Ok(())
}

pub(super) async fn a_retry_succeeds_although_its_compares_no_longer_hold(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let txn = t.txn().when(t.absent("a")).then(t.put_of("a", "1")).once(once(session, 1));
    let first = t.transact(txn.clone()).await?;
    let retry = t.transact(txn.clone()).await?;
    ensure!(retry == first, "{first:?} became {retry:?}, although the first try took effect");
    t.delete("a").await?;
    ensure!(t.transact(txn).await? == first, "the outcome changed after the record was deleted");
    ensure!(t.get("a").await?.is_none(), "a retry wrote a deleted record again");
    Ok(())
}

pub(super) async fn a_refusal_is_final_so_a_delayed_first_try_does_nothing(t: &Trial) -> Verdict {
    let session = t.session().await?;
    t.put("a", "in the way").await?;
    let txn = t.txn().when(t.absent("a")).then(t.put_of("a", "late")).once(once(session, 1));
    must_be!(t.transact(txn.clone()).await, Err(TxnError::Conflict { index: 0, .. }) => (), "a is there");
    t.delete("a").await?;
    // As if the network had held the first try back until now.
    for handle in t.provider.handles() {
        must_be!(handle.transact(txn.clone()).await, Err(TxnError::Conflict { index: 0, .. }) => (),
            "its number was refused, and that is final");
    }
    ensure!(t.get("a").await?.is_none(), "a refused transaction took effect later");
    t.transact(t.txn().when(t.absent("a")).then(t.put_of("a", "new")).once(once(session, 2))).await?;
    Ok(())
}

pub(super) async fn each_kind_of_refusal_is_replayed_as_itself(t: &Trial) -> Verdict {
    let (session, gone) = (t.session().await?, t.session().await?);
    let token = t.grant("lease", session).await?;
    t.store().close_session(gone).await?;
    let unfenced = t.txn().then(t.delete_of("lease")).once(once(session, 1));
    let fenced = t.txn().when(t.fence("free", token)).then(t.put_of("a", "")).once(once(session, 2));
    let dead = t.txn().then(t.grant_of("free", gone)).once(once(session, 3));
    for round in ["first", "again"] {
        let current = must_be!(t.transact(unfenced.clone()).await,
            Err(TxnError::Unfenced { current, .. }) => current, "{round}: the lease is granted");
        ensure!(current == token, "{round}: {token} holds the lease, the error names {current}");
        must_be!(t.transact(fenced.clone()).await, Err(TxnError::Fenced { current: None, .. }) => (),
            "{round}: nobody holds the other lease");
        let named = must_be!(t.transact(dead.clone()).await, Err(TxnError::SessionGone { session }) => session,
            "{round}: the session is gone");
        ensure!(named == gone, "{round}: session {gone} is gone, the error names {named}");
        if round == "first" {
            // Now the first would be allowed, and the second have another answer.
            t.transact(t.txn().when(t.fence("lease", token)).then(t.delete_of("lease"))).await?;
            t.grant("free", session).await?;
        }
    }
    ensure!(t.get("a").await?.is_none(), "a refused transaction took effect");
    Ok(())
}

pub(super) async fn outcomes_of_the_last_128_are_kept_and_older_ones_are_forgotten(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let numbered = |n: u64| t.txn().then(t.put_of("a", n.to_string())).once(once(session, n));
    let mut outcomes = Vec::new();
    for n in 1..=OUTCOMES_KEPT {
        outcomes.push(t.transact(numbered(n)).await?);
    }
    let first = t.transact(numbered(1)).await?;
    ensure!(
        first == outcomes[0],
        "of {OUTCOMES_KEPT} outcomes the oldest is {first:?}, was {:?}",
        outcomes[0]
    );
    t.transact(numbered(OUTCOMES_KEPT + 1)).await?;
    let second = t.transact(numbered(2)).await?;
    ensure!(
        second == outcomes[1],
        "of {OUTCOMES_KEPT} outcomes the oldest is {second:?}, was {:?}",
        outcomes[1]
    );
    let (of, number) = must_be!(t.transact(numbered(1)).await,
        Err(TxnError::Forgotten { session, sequence }) => (session, sequence),
        "one more than {OUTCOMES_KEPT} is forgotten");
    ensure!((of, number) == (session, 1), "the error names number {number} of session {of}");
    let last = (OUTCOMES_KEPT + 1).to_string();
    ensure!(t.value("a").await?.is_some_and(|v| v == last), "a forgotten retry took effect");
    Ok(())
}

pub(super) async fn a_retry_after_its_session_is_gone_is_told_so(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let txn = t.txn().then(t.put_of("a", "1")).once(once(session, 1));
    t.transact(txn.clone()).await?;
    t.store().close_session(session).await?;
    t.delete("a").await?;
    let fresh = t.txn().then(t.put_of("a", "2")).once(once(session, 2));
    for txn in [txn, fresh] {
        let named = must_be!(t.transact(txn).await, Err(TxnError::SessionGone { session }) => session,
            "the session of the idempotency key is gone");
        ensure!(named == session, "session {session} is gone, the error names {named}");
    }
    ensure!(t.get("a").await?.is_none(), "a transaction of a session that is gone took effect");
    Ok(())
}

pub(super) async fn numbers_of_two_sessions_have_nothing_to_do_with_each_other(t: &Trial) -> Verdict {
    let sessions = [t.session().await?, t.session().await?];
    for (n, session) in sessions.into_iter().enumerate() {
        let name = n.to_string();
        // Numbers need not begin at one, nor follow each other.
        for sequence in [7, 900] {
            let txn = t.txn().when(t.absent(&name)).then(t.put_of(&name, "")).once(once(session, sequence));
            t.transact(txn).await?;
            let there = t.get(&name).await?.is_some();
            ensure!(there, "number {sequence} of session {session} was taken for another session's");
            t.delete(&name).await?;
        }
    }
    Ok(())
}
