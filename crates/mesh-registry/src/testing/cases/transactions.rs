//! Transactions: compares, effects, revisions.

use mesh_core::{
    FencingToken, Revision,
    store::{Compare, Operation, SessionId, TxnError},
};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

pub(super) async fn all_operations_happen_at_one_revision_or_none_does(t: &Trial) -> Verdict {
    t.put("gone", "x").await?;
    let txn = t.txn().then(t.put_of("a", "1")).then(t.put_of("b", "2")).then(t.delete_of("gone"));
    let revision = t.transact(txn).await?.revision;
    for name in ["a", "b"] {
        let record = must_be!(t.get(name).await?, Some(record) => record, "the record {name} is there");
        ensure!(record.revision == revision, "{name} is of {}, not of {revision}", record.revision);
    }
    ensure!(t.get("gone").await?.is_none(), "the delete of the same transaction did not happen");
    let refused = t
        .txn()
        .when(t.absent("new"))
        .when(t.absent("a"))
        .then(t.put_of("new", "3"))
        .then(t.put_of("b", "3"))
        .then(t.delete_of("a"));
    must_be!(t.transact(refused).await, Err(TxnError::Conflict { index: 1, .. }) => (), "compare 1 fails");
    ensure!(t.get("new").await?.is_none(), "a refused transaction wrote a record");
    ensure!(t.value("b").await?.is_some_and(|value| value == "2"), "a refused transaction changed b");
    ensure!(t.get("a").await?.is_some(), "a refused transaction deleted a");
    Ok(())
}

pub(super) async fn revisions_only_grow_and_all_keys_share_them(t: &Trial) -> Verdict {
    let mut last = t.revision().await?;
    for n in 0..20 {
        let name = ["a", "b", "c"][n % 3];
        let revision = if n % 7 == 6 { t.delete(name).await? } else { t.put(name, n.to_string()).await? };
        ensure!(revision > last, "a change after revision {last} got {revision}");
        let read = t.revision().await?;
        ensure!(read >= revision, "a read after a change at {revision} is at {read}");
        last = revision;
    }
    Ok(())
}

pub(super) async fn revisions_grow_by_one(t: &Trial) -> Verdict {
    let mut last = t.put("a", "").await?;
    for n in 0..10_u64 {
        let txn = t.txn().then(t.put_of("a", n.to_string())).then(t.put_of("b", n.to_string()));
        let revision = t.transact(txn).await?.revision;
        ensure!(revision.0 == last.0 + 1, "the revision after {last} is {revision}");
        // A refused one takes none.
        let refused = t.txn().when(t.absent("a")).then(t.put_of("c", ""));
        must_be!(t.transact(refused).await, Err(TxnError::Conflict { .. }) => (), "a is there");
        ensure!(t.revision().await? == revision, "reads and refusals take no revision");
        last = revision;
    }
    Ok(())
}

pub(super) async fn each_compare_holds_exactly_when_it_should(t: &Trial) -> Verdict {
    let old = t.put("a", "old").await?;
    let now = t.put("a", "now").await?;
    let (key, none) = (t.key("a"), t.key("none"));
    let revision = |revision| Compare::Revision { key: key.clone(), revision };
    let value = |value: &'static str| Compare::Value { key: key.clone(), value: value.into() };
    let table = [
        (revision(now), true),
        (revision(old), false),
        (revision(Revision(now.0 + 1)), false),
        (Compare::Revision { key: none.clone(), revision: now }, false),
        (Compare::Revision { key: none.clone(), revision: Revision(0) }, false),
        (Compare::Absent { key: key.clone() }, false),
        (Compare::Absent { key: none.clone() }, true),
        (Compare::Present { key: key.clone() }, true),
        (Compare::Present { key: none.clone() }, false),
        (value("now"), true),
        (value("old"), false),
        (value(""), false),
        (value("no"), false),
        (Compare::Value { key: none.clone(), value: "".into() }, false),
    ];
    for (compare, holds) in table {
        let outcome = t.transact(t.txn().when(compare.clone()).then(t.put_of("effect", ""))).await;
        match outcome {
            Ok(_) => ensure!(holds, "{compare:?} holds, and should not"),
            Err(TxnError::Conflict { .. }) => ensure!(!holds, "{compare:?} does not hold, and should"),
            Err(other) => return Err(other.into()),
        }
        ensure!(t.get("effect").await?.is_some() == holds, "{compare:?}: the effect does not fit the answer");
        t.delete("effect").await?;
    }
    // Several compares on one key, and compares on what is not changed.
    let both = t.txn().when(revision(now)).when(value("now")).when(Compare::Absent { key: none });
    t.transact(both.then(t.put_of("a", "next"))).await?;
    // Compares see what was there before the transaction.
    let swap = t.txn().when(value("next")).when(t.absent("b")).then(t.delete_of("a")).then(t.put_of("b", ""));
    t.transact(swap).await?;
    Ok(())
}

pub(super) async fn the_first_compare_that_fails_is_named_with_what_is_there(t: &Trial) -> Verdict {
    let written = t.put("a", "1").await?;
    let holds = Compare::Present { key: t.key("a") };
    let txn = t.txn().when(holds.clone()).when(t.absent("a")).when(t.absent("a")).then(t.put_of("b", ""));
    let (index, compare, found, revision) = must_be!(t.transact(txn).await,
        Err(TxnError::Conflict { index, compare, found, revision }) => (index, compare, found, revision),
        "the second compare does not hold");
    ensure!(index == 1, "compare 1 is the first that fails, not {index}");
    ensure!(compare == t.absent("a"), "the error has the compare {compare:?}");
    let record = t.get("a").await?;
    ensure!(found.as_deref() == record.as_ref(), "there is {record:?}, the error has {found:?}");
    ensure!(revision >= written, "it was looked at at {revision}, before the write at {written}");
    let txn = t.txn().when(Compare::Present { key: t.key("none") }).then(t.put_of("b", ""));
    must_be!(t.transact(txn).await, Err(TxnError::Conflict { index: 0, found: None, .. }) => (),
        "there is no record");
    Ok(())
}

pub(super) async fn an_old_holder_learns_that_it_is_fenced_before_anything_else(t: &Trial) -> Verdict {
    t.put("a", "1").await?;
    let token = FencingToken { generation: 1, counter: 1 };
    let gone = SessionId(u64::MAX >> 1);
    let put = Operation::Put { key: t.key("b"), value: "".into(), session: Some(gone) };
    let txn = t.txn().when(t.absent("a")).when(t.fence("lease", token)).then(put);
    let (key, stated, current) = must_be!(t.transact(txn).await,
        Err(TxnError::Fenced { key, stated, current }) => (key, stated, current),
        "a fence fails before a compare that stands before it");
    ensure!(key == t.key("lease") && stated == token, "the error names {key:?} and {stated}");
    ensure!(current.is_none(), "nobody holds the lease, the error says {current:?}");
    Ok(())
}

pub(super) async fn a_gone_session_is_judged_after_the_compares_and_before_grants(t: &Trial) -> Verdict {
    let (holder, gone) = (t.session().await?, t.session().await?);
    t.store().close_session(gone).await?;
    t.put("a", "1").await?;
    let token = t.grant("lease", holder).await?;
    let put = Operation::Put { key: t.key("b"), value: "".into(), session: Some(gone) };
    let txn = t.txn().when(t.absent("a")).then(put.clone());
    must_be!(t.transact(txn).await, Err(TxnError::Conflict { index: 0, .. }) => (), "the compare fails first");
    let txn = t.txn().then(put.clone()).then(t.put_of("lease", ""));
    let named = must_be!(t.transact(txn).await, Err(TxnError::SessionGone { session }) => session,
        "the session is gone, and that is judged before the grant");
    ensure!(named == gone, "session {gone} is gone, the error names {named}");
    let txn = t.txn().when(t.absent("b")).then(t.put_of("lease", ""));
    let current = must_be!(t.transact(txn).await, Err(TxnError::Unfenced { current, .. }) => current,
        "the grant is judged after compares that hold");
    ensure!(current == token, "{token} holds the lease, the error names {current}");
    ensure!(t.get("b").await?.is_none(), "a refused transaction wrote b");
    Ok(())
}

pub(super) async fn what_changes_nothing_takes_no_revision(t: &Trial) -> Verdict {
    let before = t.put("a", "1").await?;
    let look = t.txn().when(Compare::Present { key: t.key("a") });
    for (what, txn) in [("no operation", look), ("a delete of nothing", t.txn().then(t.delete_of("none")))] {
        let outcome = t.transact(txn).await?;
        ensure!(outcome.revision == before, "{what} answered with {}, not with {before}", outcome.revision);
        ensure!(outcome.grants.is_empty(), "{what} has grants: {outcome:?}");
    }
    let after = t.put("a", "2").await?;
    ensure!(after.0 == before.0 + 1, "after {before} and two that changed nothing comes {after}");
    // The same value again is a change.
    let same = t.put("a", "2").await?;
    ensure!(same > after, "writing the same value again took no revision");
    Ok(())
}

pub(super) async fn deleting_nothing_is_no_error(t: &Trial) -> Verdict {
    t.put("a", "1").await?;
    let txn = t.txn().then(t.delete_of("none")).then(t.delete_of("a"));
    let revision = t.transact(txn).await?.revision;
    ensure!(t.get("a").await?.is_none(), "the other delete of the transaction did not happen");
    let again = t.delete("a").await?;
    ensure!(again >= revision, "a delete of nothing answered with {again}, after {revision}");
    Ok(())
}

pub(super) async fn every_handle_sees_what_any_handle_wrote(t: &Trial) -> Verdict {
    let handles = t.provider.handles();
    for round in 0..3 {
        for (n, writer) in handles.iter().enumerate() {
            let wanted = format!("{round}-{n}");
            let put = t.txn().then(t.put_of("a", wanted.clone()));
            let revision = writer.transact(put).await?.revision;
            for reader in &handles {
                let read = reader.get(&t.key("a")).await?;
                ensure!(read.revision >= revision, "a read after {revision} is at {}", read.revision);
                let value = read.value.map(|record| record.value);
                let right = value.as_ref().is_some_and(|value| *value == wanted);
                ensure!(right, "after the write of {wanted} a is {value:?}");
            }
        }
    }
    Ok(())
}
