//! One holder after another.

use mesh_core::{
    FencingToken,
    store::{Change, Compare, TxnError, WatchFrom},
};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

/// Writes under a token that must be refused, and returns the one that holds.
async fn fenced(t: &Trial, name: &str, token: FencingToken) -> Verdict<Option<FencingToken>> {
    let txn = t.txn().when(t.fence(name, token)).then(t.put_of("effect", "late"));
    let (key, stated, current) = must_be!(t.transact(txn).await,
        Err(TxnError::Fenced { key, stated, current }) => (key, stated, current),
        "{token} does not hold {name} any more");
    ensure!(key == t.key(name) && stated == token, "the error names {stated} of {key:?}");
    ensure!(t.get("effect").await?.is_none(), "a fenced write took effect");
    Ok(current)
}

pub(super) async fn a_handover_is_one_transaction_and_leaves_no_moment_without_holder(t: &Trial) -> Verdict {
    let (first, second) = (t.session().await?, t.session().await?);
    let before = t.revision().await?;
    let mut watch = t.watch("l", WatchFrom::After(before)).await?;
    let old = t.grant("l", first).await?;
    let txn = t.txn().when(t.fence("l", old)).then(t.grant_of("l", second)).then(t.put_of("by", "old"));
    let new = t.granted(t.transact(txn).await?, "l")?;
    ensure!(new > old, "the token after {old} is {new}");
    for (token, session) in [(old, first), (new, second)] {
        let (_, changes) = watch.changes().await?;
        let record =
            must_be!(changes.as_slice(), [Change::Put(record)] => record, "one grant follows another");
        ensure!(
            record.token == Some(token) && record.session == Some(session),
            "{token} of session {session} should have come: {record:?}"
        );
    }
    let made = must_be!(t.get("l").await?, Some(record) => record, "the grant is there").created_revision;
    ensure!(made > before, "the record is of {made}");
    // A handover with the old token comes too late.
    let again = t.txn().when(t.fence("l", old)).then(t.grant_of("l", first));
    must_be!(t.transact(again).await, Err(TxnError::Fenced { current, .. }) if current == Some(new) => (),
        "{new} holds now");
    Ok(())
}

pub(super) async fn an_old_holder_is_fenced_after_handover_release_and_expiry(t: &Trial) -> Verdict {
    let (first, second) = (t.session().await?, t.session().await?);
    let old = t.grant("l", first).await?;
    t.transact(t.txn().when(t.fence("l", old)).then(t.put_of("ok", ""))).await?;
    let handover = t.txn().when(t.fence("l", old)).then(t.grant_of("l", second));
    let new = t.granted(t.transact(handover).await?, "l")?;
    let current = fenced(t, "l", old).await?;
    ensure!(current == Some(new), "after the handover {new} holds, the error says {current:?}");
    t.transact(t.txn().when(t.fence("l", new)).then(t.delete_of("l"))).await?;
    for token in [old, new] {
        let current = fenced(t, "l", token).await?;
        ensure!(current.is_none(), "after the release nobody holds, the error says {current:?}");
    }
    t.put("l", "plain").await?;
    let current = fenced(t, "l", new).await?;
    ensure!(current.is_none(), "a plain record is held by nobody, the error says {current:?}");
    t.delete("l").await?;

    let take = |session| t.txn().when(t.absent("l")).then(t.grant_of("l", session));
    let (short, outcome, _) = t.brief(take).await?;
    let token = t.granted(outcome, "l")?;
    t.until("the session ends", || async {
        t.provider.pass(short.ttl / 4).await;
        Ok(t.get("l").await?.is_none())
    })
    .await?;
    let current = fenced(t, "l", token).await?;
    ensure!(current.is_none(), "after the expiry nobody holds, the error says {current:?}");
    let next = t.grant("l", second).await?;
    let current = fenced(t, "l", token).await?;
    ensure!(current == Some(next), "{next} holds now, the error says {current:?}");
    t.store().close_session(second).await?;
    let current = fenced(t, "l", next).await?;
    ensure!(current.is_none(), "after the close nobody holds, the error says {current:?}");
    Ok(())
}

pub(super) async fn a_token_that_was_never_given_is_refused(t: &Trial) -> Verdict {
    let holder = t.session().await?;
    let token = t.grant("l", holder).await?;
    let others = [
        FencingToken { counter: token.counter + 1, ..token },
        FencingToken { counter: token.counter - 1, ..token },
        FencingToken { generation: token.generation + 1, ..token },
        FencingToken::default(),
    ];
    for other in others {
        let current = fenced(t, "l", other).await?;
        ensure!(current == Some(token), "{token} holds, the error says {current:?}");
        let current = fenced(t, "none", other).await?;
        ensure!(current.is_none(), "nobody holds a key that is not there, the error says {current:?}");
    }
    // Two fences: both must hold.
    let second = t.grant("m", holder).await?;
    let txn = t.txn().when(t.fence("l", token)).when(t.fence("m", token)).then(t.put_of("effect", ""));
    must_be!(t.transact(txn).await, Err(TxnError::Fenced { current, .. }) if current == Some(second) => (),
        "the second fence does not hold");
    let txn = t.txn().when(t.fence("l", token)).when(t.fence("m", second)).then(t.put_of("effect", ""));
    t.transact(txn).await?;
    Ok(())
}

pub(super) async fn a_handed_over_grant_goes_with_its_new_session(t: &Trial) -> Verdict {
    let (first, second) = (t.session().await?, t.session().await?);
    let old = t.grant("l", first).await?;
    let handover = t.txn().when(t.fence("l", old)).then(t.grant_of("l", second));
    let new = t.granted(t.transact(handover).await?, "l")?;
    t.store().close_session(first).await?;
    let record = must_be!(t.get("l").await?, Some(record) => record, "the grant of the new holder is there");
    ensure!(record.token == Some(new) && record.session == Some(second), "the grant is {record:?}");
    t.transact(t.txn().when(t.fence("l", new)).when(Compare::Present { key: t.key("l") })).await?;
    t.store().close_session(second).await?;
    ensure!(t.get("l").await?.is_none(), "the grant did not go with its new session");
    Ok(())
}
