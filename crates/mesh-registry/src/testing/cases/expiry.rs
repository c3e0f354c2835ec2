//! Sessions that run out.
//!
//! No case asks for an end within some time: it waits for the end, and checks that it did not come
//! too early. A machine that stalls makes an end late, never early.

use std::time::Duration;

use mesh_core::{
    Instant,
    store::{Change, DeleteCause, Session, SessionError, TxnError, WatchFrom},
};

use crate::testing::trial::{Failure, Trial, Verdict, Watching, ensure};

/// Looks at the clock so many times in a session's life.
const STEPS: u32 = 5;

/// Lets time pass until the watch delivers the end of a session.
async fn end(t: &Trial, session: &Session, watch: &mut Watching) -> Verdict<(Vec<Change>, Instant)> {
    let wait = async {
        loop {
            t.provider.pass(session.ttl / STEPS).await;
        }
    };
    let changes = tokio::select! {
        changes = watch.changes() => changes?.1,
        () = wait => Vec::new(),
    };
    Ok((changes, t.now()))
}

pub(super) async fn a_session_that_is_not_renewed_ends_with_all_its_records(t: &Trial) -> Verdict {
    t.put("plain", "").await?;
    let attach = |session| {
        let txn = t.txn().then(t.put_in_of("b", session)).then(t.put_in_of("a", session));
        txn.then(t.grant_of("lease", session))
    };
    let (session, outcome, opened) = t.brief(attach).await?;
    let mut watch = t.watch("", WatchFrom::After(outcome.revision)).await?;
    let (changes, seen) = end(t, &session, &mut watch).await?;
    let gone: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
    ensure!(gone == [t.key("a"), t.key("b"), t.key("lease")], "at one revision went {gone:?}");
    let lived = seen.since(opened);
    ensure!(lived >= session.ttl, "a session of {:?} ended after {lived:?}", session.ttl);
    ensure!(t.get("plain").await?.is_some(), "a record of no session went as well");
    ensure!(t.store().session(session.id).await?.is_none(), "the session is open without its records");
    match t.store().keep_alive(session.id).await {
        Err(SessionError::Gone { .. }) => Ok(()),
        other => Err(Failure::new(format!("a session that ran out was renewed: {other:?}"))),
    }
}

pub(super) async fn a_deletion_says_that_an_expiry_did_it(t: &Trial) -> Verdict {
    let (session, outcome, _) = t.brief(|session| t.txn().then(t.put_in_of("a", session))).await?;
    let mut watch = t.watch("", WatchFrom::After(outcome.revision)).await?;
    let (changes, _) = end(t, &session, &mut watch).await?;
    let expired = Change::Deleted { key: t.key("a"), cause: DeleteCause::SessionExpired };
    ensure!(changes == [expired.clone()], "{expired:?} should have come, not {changes:?}");
    Ok(())
}

/// A session that its owner renewed for three times its time to live, or what went wrong. `None` if this
/// machine was too slow to renew it in time.
async fn renewed(t: &Trial, ttl: Duration) -> Verdict<Option<(Session, Instant)>> {
    let mut sent = t.now();
    let opened = sent;
    let mut session = t.open(ttl).await?;
    match t.transact(t.txn().then(t.put_in_of("a", session.id))).await {
        Ok(_) => {}
        Err(TxnError::SessionGone { .. }) if t.now().since(sent) >= session.ttl => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    while t.now().since(opened) < session.ttl * 3 {
        t.provider.pass(session.ttl / STEPS).await;
        let next = t.now();
        match t.store().keep_alive(session.id).await {
            Ok(renewed) => session = renewed,
            Err(SessionError::Gone { .. }) => {
                let lived = t.now().since(sent);
                ensure!(
                    lived >= session.ttl,
                    "a session of {:?} was gone {lived:?} after its last renewal was sent",
                    session.ttl
                );
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        sent = next;
    }
    Ok(Some((session, sent)))
}

pub(super) async fn a_renewed_session_lives_on(t: &Trial) -> Verdict {
    // Longer and longer lives, in case this machine stalls.
    for factor in [1, 4, 16] {
        let Some((session, sent)) = renewed(t, t.limits.ttl_min * factor).await? else { continue };
        let there = t.get("a").await?.is_some();
        let since = t.now().since(sent);
        ensure!(there || since >= session.ttl, "the record of a renewed session went after {since:?}");
        if !there {
            continue;
        }
        let before = t.revision().await?;
        let mut watch = t.watch("", WatchFrom::After(before)).await?;
        let (changes, seen) = end(t, &session, &mut watch).await?;
        ensure!(changes.len() == 1, "at the end went {changes:?}");
        let lived = seen.since(sent);
        ensure!(
            lived >= session.ttl,
            "a session of {:?} ended {lived:?} after its last renewal was sent",
            session.ttl
        );
        return Ok(());
    }
    Err(Failure::new("this machine was too slow to renew any session in time; nothing is known"))
}

pub(super) async fn one_session_ends_and_another_lives(t: &Trial) -> Verdict {
    let long = t.session().await?;
    let token = t.grant("kept", long).await?;
    let (short, outcome, _) = t.brief(|session| t.txn().then(t.put_in_of("a", session))).await?;
    let mut watch = t.watch("", WatchFrom::After(outcome.revision)).await?;
    let (changes, _) = end(t, &short, &mut watch).await?;
    let gone: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
    ensure!(gone == [t.key("a")], "with the short session went {gone:?}");
    t.transact(t.txn().when(t.fence("kept", token)).then(t.put_of("b", ""))).await?;
    t.store().keep_alive(long).await?;
    Ok(())
}
