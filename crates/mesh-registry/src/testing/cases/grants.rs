//! Grants and their tokens.

use mesh_core::{
    FencingToken,
    store::{IdempotencyKey, Operation, SessionId, StoreError, TxnError},
};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

pub(super) async fn a_grant_has_a_token_and_the_session_of_its_holder(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let grant = Operation::Grant { key: t.key("z"), value: "mine".into(), session };
    let txn = t.txn().then(grant).then(t.put_of("plain", "")).then(t.grant_of("a", session));
    let outcome = t.transact(txn).await?;
    let keys: Vec<_> = outcome.grants.iter().map(|grant| grant.key.clone()).collect();
    ensure!(keys == [t.key("z"), t.key("a")], "the grants are not in the order of the operations: {keys:?}");
    for grant in &outcome.grants {
        let record = must_be!(t.store().get(&grant.key).await?.value, Some(record) => record, "it is there");
        ensure!(record.token == Some(grant.token), "{} was given, the record has {record:?}", grant.token);
        ensure!(record.session == Some(session), "granted to {session}, the record has {record:?}");
        ensure!(record.revision == outcome.revision, "granted at {}: {record:?}", outcome.revision);
    }
    ensure!(t.value("z").await?.is_some_and(|value| value == "mine"), "the grant has another value");
    ensure!(t.get("plain").await?.is_some_and(|r| r.token.is_none()), "a plain record has a token");
    let generation = t.store().status().await?.generation;
    let wrong = outcome.grants.iter().find(|grant| grant.token.generation != generation);
    ensure!(wrong.is_none(), "the store is of generation {generation}, a token is {wrong:?}");
    Ok(())
}

pub(super) async fn tokens_grow_over_release_handover_close_and_expiry(t: &Trial) -> Verdict {
    let mut last = FencingToken::default();
    let mut grows = |how: &str, token: FencingToken| -> Verdict {
        ensure!(token > last, "the token after {how} is {token}, the one before was {last}");
        last = token;
        Ok(())
    };
    let holder = t.session().await?;
    let token = t.grant("l", holder).await?;
    grows("nothing", token)?;
    t.transact(t.txn().when(t.fence("l", token)).then(t.delete_of("l"))).await?;
    let token = t.grant("l", holder).await?;
    grows("a release", token)?;
    let handover = t.txn().when(t.fence("l", token)).then(t.grant_of("l", holder));
    grows("a handover", t.granted(t.transact(handover).await?, "l")?)?;
    t.store().close_session(holder).await?;
    let take = |session| t.txn().when(t.absent("l")).then(t.grant_of("l", session));
    let (short, outcome, _) = t.brief(take).await?;
    grows("a close", t.granted(outcome, "l")?)?;
    t.until("the session ends", || async {
        t.provider.pass(short.ttl / 4).await;
        Ok(t.get("l").await?.is_none())
    })
    .await?;
    let holder = t.session().await?;
    let token = t.grant("l", holder).await?;
    grows("an expiry", token)?;
    t.transact(t.txn().when(t.fence("l", token)).then(t.delete_of("l"))).await?;
    t.put("l", "a plain record").await?;
    t.delete("l").await?;
    grows("a plain record", t.grant("l", holder).await?)?;
    Ok(())
}

pub(super) async fn what_is_granted_changes_only_with_its_token(t: &Trial) -> Verdict {
    let (holder, other) = (t.session().await?, t.session().await?);
    let token = t.grant("l", holder).await?;
    let elsewhere = t.grant("m", holder).await?;
    let record = t.get("l").await?;
    let put_in = Operation::Put { key: t.key("l"), value: "x".into(), session: Some(holder) };
    let operations =
        [t.put_of("l", "x"), put_in, t.delete_of("l"), t.grant_of("l", other), t.grant_of("l", holder)];
    for operation in operations {
        // A fence on another grant does not help, nor does knowing the revision.
        let revision = record.as_ref().map(|record| record.revision).unwrap_or_default();
        let txn = t
            .txn()
            .when(t.fence("m", elsewhere))
            .when(mesh_core::store::Compare::Revision { key: t.key("l"), revision })
            .then(operation.clone())
            .then(t.put_of("effect", ""));
        let (key, current) = must_be!(t.transact(txn).await,
            Err(TxnError::Unfenced { key, current }) => (key, current), "{operation:?} states no token");
        ensure!((&key, current) == (&t.key("l"), token), "the error names {current} of {key:?}");
    }
    ensure!(t.get("l").await? == record, "a refused transaction changed the grant");
    ensure!(t.get("effect").await?.is_none(), "a refused transaction had an effect");
    t.transact(t.txn().when(t.fence("l", token)).then(t.put_of("l", "x"))).await?;
    t.transact(t.txn().when(t.fence("l", token)).then(t.delete_of("l"))).await?;
    ensure!(t.get("l").await?.is_none(), "a release with the token did not happen");
    Ok(())
}

pub(super) async fn a_put_keeps_token_and_session(t: &Trial) -> Verdict {
    let (holder, other) = (t.session().await?, t.session().await?);
    let token = t.grant("l", holder).await?;
    let put = |session: Option<SessionId>, value: &'static str| {
        let put = Operation::Put { key: t.key("l"), value: value.into(), session };
        t.txn().when(t.fence("l", token)).then(put)
    };
    for (session, value) in [(None, "one"), (Some(holder), "two")] {
        let outcome = t.transact(put(session, value)).await?;
        ensure!(outcome.grants.is_empty(), "a put has grants: {outcome:?}");
        let record = must_be!(t.get("l").await?, Some(record) => record, "the grant is there");
        ensure!(record.value == value, "the put did not change the value: {record:?}");
        ensure!(record.token == Some(token), "{token} was kept, the record has {record:?}");
        ensure!(record.session == Some(holder), "it is granted to {holder}, the record has {record:?}");
    }
    let text = must_be!(t.transact(put(Some(other), "three")).await,
        Err(TxnError::Store(error @ StoreError::Invalid { .. })) => error.to_string(),
        "a put can't move a grant to another session");
    let names = text.contains(t.key("l").as_str()) && text.contains(&other.to_string());
    ensure!(names, "the error names neither the key nor the session: {text}");
    // That depends on what is there, so it is an outcome like any other, and final.
    let once = IdempotencyKey { session: other, sequence: 1 };
    let moved = put(Some(other), "four").once(once);
    for _ in 0..2 {
        must_be!(t.transact(moved.clone()).await, Err(TxnError::Store(StoreError::Invalid { .. })) => (),
            "a put can't move a grant to another session");
    }
    ensure!(t.value("l").await?.is_some_and(|value| value == "two"), "a refused put took effect");
    Ok(())
}

pub(super) async fn a_released_key_is_free_for_everybody(t: &Trial) -> Verdict {
    let (holder, other) = (t.session().await?, t.session().await?);
    let token = t.grant("l", holder).await?;
    t.transact(t.txn().when(t.fence("l", token)).then(t.delete_of("l"))).await?;
    t.put("l", "plain").await?;
    let record = must_be!(t.get("l").await?, Some(record) => record, "the record is there");
    ensure!(record.token.is_none() && record.session.is_none(), "a plain record has more: {record:?}");
    t.store().close_session(holder).await?;
    ensure!(t.get("l").await?.is_some(), "a plain record went with the session of an old holder");
    t.delete("l").await?;
    t.grant("l", other).await?;
    Ok(())
}

pub(super) async fn a_plain_record_becomes_a_grant_without_a_token(t: &Trial) -> Verdict {
    let (owner, holder) = (t.session().await?, t.session().await?);
    let made = t.put_in("l", owner).await?;
    let token = t.granted(t.transact(t.txn().then(t.grant_of("l", holder))).await?, "l")?;
    let record = must_be!(t.get("l").await?, Some(record) => record, "the grant is there");
    ensure!(record.token == Some(token) && record.session == Some(holder), "the grant is {record:?}");
    ensure!(record.created_revision == made, "made at {made}, the record says {}", record.created_revision);
    t.store().close_session(owner).await?;
    ensure!(t.get("l").await?.is_some(), "the grant went with the session of the plain record before it");
    Ok(())
}
