//! Sessions that are opened, renewed and closed.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::store::{Change, DeleteCause, OpenSession, Operation, SessionError, TxnError, WatchFrom};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

pub(super) async fn a_session_is_new_has_its_owner_and_counts_its_renewals(t: &Trial) -> Verdict {
    let ttl = t.long();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let session = t.open(ttl).await?;
        ensure!(seen.insert(session.id), "session {} was given out twice", session.id);
        ensure!(session.owner == t.writer(), "{} opened it, the owner is {}", t.writer(), session.owner);
        ensure!(session.ttl >= ttl, "{ttl:?} was asked for and {:?} given", session.ttl);
        ensure!(session.renewals == 0, "a new session was renewed {} times", session.renewals);
        for n in 1..=3 {
            let renewed = t.other_handle().keep_alive(session.id).await?;
            ensure!(renewed.renewals == n, "after {n} renewals the count is {}", renewed.renewals);
            ensure!((renewed.id, renewed.ttl) == (session.id, session.ttl), "{session:?} became {renewed:?}");
        }
        let read = must_be!(t.store().session(session.id).await?, Some(read) => read, "the session is open");
        ensure!(read.renewals == 3 && read.owner == session.owner, "the open session reads as {read:?}");
    }
    for id in &seen {
        t.store().close_session(*id).await?;
    }
    let next = t.session().await?;
    ensure!(seen.insert(next), "session {next} was given out again");
    Ok(())
}

pub(super) async fn a_time_to_live_out_of_range_is_refused(t: &Trial) -> Verdict {
    let short = OpenSession::TTL_MIN - Duration::from_millis(1);
    let long = OpenSession::TTL_MAX + Duration::from_millis(1);
    for ttl in [Duration::ZERO, short, long] {
        let asked = must_be!(t.open(ttl).await, Err(SessionError::Ttl { asked, .. }) => asked,
            "a time to live of {ttl:?} can't be kept");
        ensure!(asked == ttl, "{ttl:?} was asked for, the error names {asked:?}");
    }
    t.open(OpenSession::TTL_MAX).await?;
    t.open(t.limits.ttl_min).await?;
    Ok(())
}

pub(super) async fn closing_a_session_takes_its_records_at_one_revision(t: &Trial) -> Verdict {
    let (session, other) = (t.session().await?, t.session().await?);
    t.put("plain", "").await?;
    t.put_in("b", session).await?;
    t.put_in("a", session).await?;
    t.put_in("theirs", other).await?;
    t.grant("lease", session).await?;
    let before = t.revision().await?;
    let mut watch = t.watch("", WatchFrom::After(before)).await?;
    let closed = t.store().close_session(session).await?;
    let (revision, changes) = watch.changes().await?;
    ensure!(revision == closed && closed > before, "closed at {closed}, the records went at {revision}");
    let gone: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
    ensure!(gone == [t.key("a"), t.key("b"), t.key("lease")], "at one revision went {gone:?}");
    let kept = changes.iter().find(|change| matches!(change, Change::Put(_)));
    ensure!(kept.is_none(), "the end of a session wrote {kept:?}");
    for (name, there) in [("a", false), ("b", false), ("lease", false), ("plain", true), ("theirs", true)] {
        ensure!(t.get(name).await?.is_some() == there, "after the close {name} should be there: {there}");
    }
    Ok(())
}

pub(super) async fn a_deletion_says_that_a_close_did_it(t: &Trial) -> Verdict {
    let session = t.session().await?;
    t.put_in("closed", session).await?;
    let before = t.put("written", "").await?;
    let mut watch = t.watch("", WatchFrom::After(before)).await?;
    t.delete("written").await?;
    t.store().close_session(session).await?;
    for (name, wanted) in [("written", DeleteCause::Written), ("closed", DeleteCause::SessionClosed)] {
        let (_, changes) = watch.changes().await?;
        let deleted = Change::Deleted { key: t.key(name), cause: wanted };
        ensure!(changes == [deleted.clone()], "{deleted:?} should have come, not {changes:?}");
    }
    Ok(())
}

pub(super) async fn a_session_that_is_gone_stays_gone(t: &Trial) -> Verdict {
    let session = t.session().await?;
    t.store().close_session(session).await?;
    ensure!(t.store().session(session).await?.is_none(), "a closed session is still open");
    must_be!(t.store().keep_alive(session).await, Err(SessionError::Gone { session: named }) if named == session => (),
        "session {session} is gone");
    must_be!(t.store().close_session(session).await, Err(SessionError::Gone { session: named }) if named == session => (),
        "session {session} is gone");
    for operation in [
        Operation::Put { key: t.key("a"), value: "".into(), session: Some(session) },
        t.grant_of("a", session),
    ] {
        must_be!(t.transact(t.txn().then(operation)).await, Err(TxnError::SessionGone { session: named }) if named == session => (),
            "session {session} is gone");
    }
    ensure!(t.get("a").await?.is_none(), "a record was written into a closed session");
    Ok(())
}

pub(super) async fn a_record_goes_with_the_session_that_wrote_it_last(t: &Trial) -> Verdict {
    let (first, second) = (t.session().await?, t.session().await?);
    for name in ["left", "moved", "stays"] {
        t.put_in(name, first).await?;
    }
    t.put("joins", "").await?;
    t.put("left", "").await?;
    t.put_in("moved", second).await?;
    t.put_in("joins", first).await?;
    let record = must_be!(t.get("moved").await?, Some(record) => record, "moved is there");
    ensure!(record.session == Some(second), "moved is in {:?}, put into {second}", record.session);
    t.store().close_session(first).await?;
    for (name, there) in [("left", true), ("moved", true), ("stays", false), ("joins", false)] {
        ensure!(t.get(name).await?.is_some() == there, "after the close {name} should be there: {there}");
    }
    // One that was deleted and written anew has nothing to do with the session any more.
    t.delete("moved").await?;
    t.put("moved", "anew").await?;
    t.store().close_session(second).await?;
    ensure!(t.get("moved").await?.is_some(), "a record that was written anew went with an old session");
    Ok(())
}
