//! The record of who changed what and why.

use std::time::Duration;

use mesh_core::{
    Revision, WallTime,
    store::{
        AuditNote, Change, IdempotencyKey, Key, Prefix, Record, StoreError, TxnError, WatchFrom, WatchOptions,
    },
};

use crate::{
    AUDIT_PREFIX,
    testing::trial::{Failure, Trial, Verdict, Watching, ensure, must_be},
};

pub(super) fn note(action: &str, correlation_id: u64) -> AuditNote {
    AuditNote { action: action.to_owned(), reason: "because \"it\" was time".to_owned(), correlation_id }
}

/// The audit records from here on.
async fn watch(t: &Trial) -> Verdict<Watching> {
    let from = WatchFrom::After(t.revision().await?);
    t.watch_with(&Prefix::new(AUDIT_PREFIX)?, from, WatchOptions::default()).await
}

async fn next(watch: &mut Watching) -> Verdict<(Revision, Record)> {
    let (revision, changes) = watch.changes().await?;
    let mut changes = changes;
    ensure!(changes.len() == 1, "one transaction has one audit record, not {}", changes.len());
    let record = must_be!(changes.pop(), Some(Change::Put(record)) => record, "an audit record is written");
    Ok((revision, record))
}

pub(super) async fn an_audit_record_has_the_revision_of_what_it_is_about(t: &Trial) -> Verdict {
    let mut watch = watch(t).await?;
    let txn = t.txn().then(t.put_of("a", "1")).then(t.delete_of("b"));
    let outcome = t.transact(txn.audited(note("leader.step-down", 0xFEED))).await?;
    let (revision, record) = next(&mut watch).await?;
    ensure!(revision == outcome.revision, "changed at {}, audited at {revision}", outcome.revision);
    ensure!(record.revision == revision, "the audit record of {revision} is of {}", record.revision);
    ensure!(record.last_writer == t.writer(), "{} wrote, the record says {}", t.writer(), record.last_writer);
    let value: serde_json::Value = match serde_json::from_slice(&record.value) {
        Ok(value) => value,
        Err(error) => {
            let text = String::from_utf8_lossy(&record.value).into_owned();
            must_be!(text, text if text.is_empty() => (), "an audit record is JSON ({error})");
            return Ok(());
        }
    };
    let wanted = [
        ("writer", t.writer().to_string()),
        ("action", "leader.step-down".to_owned()),
        ("reason", "because \"it\" was time".to_owned()),
        ("correlation_id", format!("{:016x}", 0xFEED)),
    ];
    for (field, text) in wanted {
        ensure!(value[field] == text.as_str(), "{field} should be {text:?} in {value}");
    }
    let keys = value["keys"].as_array().cloned().unwrap_or_default();
    let named = ["a", "b"].iter().all(|name| keys.iter().any(|key| *key == t.key(name).as_str()));
    ensure!(named, "the keys that were changed should be in {value}");
    let name = record.key.as_str().strip_prefix(AUDIT_PREFIX).unwrap_or_default();
    let well_formed = name.split_once('-').is_some_and(|(millis, nonce)| {
        let digits = millis.len() == 13 && millis.bytes().all(|b| b.is_ascii_digit());
        digits && nonce.len() == 16 && nonce.bytes().all(|b| b.is_ascii_hexdigit())
    });
    ensure!(
        well_formed,
        "an audit record's key is {AUDIT_PREFIX}<13 digits>-<16 hex digits>: {:?}",
        record.key
    );
    // A transaction without effects of its own is audited too: its record is a change.
    let outcome = t.transact(t.txn().audited(note("test.nothing", 2))).await?;
    let (revision, _) = next(&mut watch).await?;
    ensure!(revision == outcome.revision, "answered with {}, audited at {revision}", outcome.revision);
    Ok(())
}

pub(super) async fn a_refused_transaction_leaves_no_audit_record(t: &Trial) -> Verdict {
    t.put("a", "1").await?;
    let mut watch = watch(t).await?;
    let refused = t.txn().when(t.absent("a")).then(t.put_of("a", "2")).audited(note("test.refused", 1));
    must_be!(t.transact(refused).await, Err(TxnError::Conflict { .. }) => (), "a is there");
    let applied = t.txn().then(t.put_of("a", "3")).audited(note("test.applied", 2));
    let outcome = t.transact(applied).await?;
    let (revision, record) = next(&mut watch).await?;
    ensure!(revision == outcome.revision, "audited first is {record:?}, of what was refused");
    Ok(())
}

pub(super) async fn audit_records_are_trimmed_by_age_and_watchers_see_them_go(t: &Trial) -> Verdict {
    let mut watch = watch(t).await?;
    t.transact(t.txn().then(t.put_of("a", "1")).audited(note("test.old", 1))).await?;
    let old = next(&mut watch).await?.1.key;
    let millis = |key: &Key| {
        let name = key.as_str().strip_prefix(AUDIT_PREFIX)?;
        name.split_once('-')?.0.parse::<u64>().ok()
    };
    let at =
        must_be!(millis(&old), Some(at) => at, "the key of an audit record has its time, {old:?} has not");
    match t.store().trim_audit(WallTime(at)).await {
        Err(error @ StoreError::Unsupported { .. }) => return Err(Failure::CannotPromise(error.to_string())),
        trimmed => drop(trimmed?),
    }
    ensure!(t.store().get(&old).await?.value.is_some(), "{old:?} was trimmed as one from before {at}");
    // Until the wall clock has moved on, so that the next record is a later one.
    let later = WallTime(at + 1);
    t.until("the next audit record is a later one", || async {
        t.provider.pass(Duration::from_millis(1)).await;
        let txn = t.txn().then(t.put_of("a", "2")).audited(note("test.new", 2));
        Ok(t.transact(txn).await.is_ok() && t.provider.clock().wall() > later)
    })
    .await?;
    let mut kept = Vec::new();
    let end = t.transact(t.txn().then(t.put_of("a", "3")).audited(note("test.end", 3))).await?.revision;
    loop {
        let (revision, record) = next(&mut watch).await?;
        if millis(&record.key).is_some_and(|millis| millis >= later.0) {
            kept.push(record.key);
        }
        if revision >= end {
            break;
        }
    }
    let trimmed = t.store().trim_audit(later).await?;
    ensure!(trimmed >= 1, "one audit record is from before {later:?}, {trimmed} were trimmed");
    ensure!(t.store().get(&old).await?.value.is_none(), "{old:?} is from before {later:?} and still there");
    for key in kept {
        ensure!(t.store().get(&key).await?.value.is_some(), "{key:?} is not from before {later:?} and gone");
    }
    let (_, changes) = watch.changes().await?;
    let gone = changes.iter().any(|change| matches!(change, Change::Deleted { key, .. } if *key == old));
    ensure!(gone, "a watch should have shown that {old:?} went, and shows {changes:?}");
    let again = t.store().trim_audit(later).await?;
    ensure!(again == 0, "everything from before {later:?} was trimmed, and then {again} more");
    Ok(())
}

pub(super) async fn a_retry_is_audited_once(t: &Trial) -> Verdict {
    let session = t.session().await?;
    let mut watch = watch(t).await?;
    let once = IdempotencyKey { session, sequence: 1 };
    let txn = t.txn().then(t.put_of("a", "1")).audited(note("test.retry", 1)).once(once);
    let first = t.transact(txn.clone()).await?;
    let retry = t.transact(txn).await?;
    ensure!(first == retry, "the first try was answered with {first:?}, a retry with {retry:?}");
    let last = t.transact(t.txn().then(t.put_of("a", "2")).audited(note("test.last", 2))).await?;
    let mut keys: Vec<Key> = Vec::new();
    for wanted in [first.revision, last.revision] {
        let (revision, record) = next(&mut watch).await?;
        ensure!(revision == wanted, "the audit record of {wanted} should have come: {record:?}");
        ensure!(!keys.contains(&record.key), "{:?} was written twice", record.key);
        keys.push(record.key);
    }
    Ok(())
}
