//! Watches: complete, in order, once, resumable.

use mesh_core::{
    Revision,
    store::{Change, Key, Overflow, Prefix, WatchEvent, WatchFrom, WatchOptions},
};

use crate::testing::trial::{Trial, Verdict, Watching, ensure, must_be};

/// Reads the changes of these revisions, and checks that nothing else comes in between.
async fn exactly(watch: &mut Watching, wanted: &[Revision]) -> Verdict {
    for revision in wanted {
        let (came, changes) = watch.changes().await?;
        ensure!(came == *revision, "revision {revision} should have come, not {came} with {changes:?}");
    }
    Ok(())
}

pub(super) async fn a_watch_delivers_each_change_once_and_in_order(t: &Trial) -> Verdict {
    let before = t.put("in/before", "").await?;
    let mut watch = t.watch("in/", WatchFrom::After(before)).await?;
    let mut wanted = Vec::new();
    for n in 0..30 {
        t.put("out", n.to_string()).await?;
        let name = format!("in/{}", n % 4);
        wanted.push((t.put(&name, n.to_string()).await?, name.clone(), Some(n.to_string())));
        if n % 5 == 4 {
            wanted.push((t.delete(&name).await?, name, None));
        }
    }
    for (revision, name, value) in wanted {
        let (came, changes) = watch.changes().await?;
        ensure!(came == revision, "revision {revision} should have come, not {came}");
        match (&changes[..], value) {
            ([Change::Put(record)], Some(value)) => {
                let right =
                    record.key == t.key(&name) && record.value == value && record.revision == revision;
                ensure!(right, "{name} was written with {value} at {revision}, this came: {record:?}");
                ensure!(record.last_writer == t.writer(), "another writer came: {record:?}");
            }
            ([Change::Deleted { key, .. }], None) => {
                ensure!(*key == t.key(&name), "{name} was deleted, {key:?} came");
            }
            (changes, value) => {
                ensure!(false, "{name} became {value:?} at {revision}, this came: {changes:?}");
            }
        }
    }
    Ok(())
}

pub(super) async fn one_transaction_is_one_event_with_its_keys_in_order(t: &Trial) -> Verdict {
    let before = t.put("in/c", "").await?;
    let mut watch = t.watch("in/", WatchFrom::After(before)).await?;
    let mut all = t.watch("", WatchFrom::After(before)).await?;
    let txn = t.txn().then(t.put_of("in/z", "")).then(t.put_of("out", "")).then(t.delete_of("in/c"));
    let txn = txn.then(t.put_of("in/a", "")).then(t.delete_of("in/none"));
    let revision = t.transact(txn).await?.revision;
    for (watch, names) in
        [(&mut watch, &["in/a", "in/c", "in/z"][..]), (&mut all, &["in/a", "in/c", "in/z", "out"])]
    {
        let (came, changes) = watch.changes().await?;
        ensure!(came == revision, "revision {revision} should have come, not {came}");
        let keys: Vec<&Key> = changes.iter().map(Change::key).collect();
        let wanted: Vec<Key> = names.iter().map(|name| t.key(name)).collect();
        ensure!(
            keys.iter().copied().eq(&wanted),
            "the keys of the transaction are {wanted:?}, {keys:?} came"
        );
    }
    Ok(())
}

pub(super) async fn a_watch_resumes_after_any_revision(t: &Trial) -> Verdict {
    let mut revisions = vec![t.put("a", "0").await?];
    for n in 1..20 {
        t.put("a", n.to_string()).await?;
        revisions.push(t.put("b", n.to_string()).await?);
    }
    for index in 0..20 {
        let mut watch = t.watch("b", WatchFrom::After(revisions[index])).await?;
        exactly(&mut watch, &revisions[index + 1..]).await?;
        // And then what is new.
        let next = t.put("b", "next").await?;
        exactly(&mut watch, &[next]).await?;
        revisions.push(next);
        // From a revision that was another key's, too.
        let mut watch = t.watch("b", WatchFrom::After(Revision(next.0 - 1))).await?;
        exactly(&mut watch, &[next]).await?;
    }
    Ok(())
}

pub(super) async fn a_resume_over_more_than_the_bound_has_no_gap(t: &Trial) -> Verdict {
    let before = t.put("a", "").await?;
    let mut wanted = Vec::new();
    for n in 0..200 {
        wanted.push(t.put(["a", "b"][n % 2], n.to_string()).await?);
    }
    for overflow in [Overflow::Gap, Overflow::Latest] {
        let options = WatchOptions { buffer_changes_max: 8, overflow };
        let mut watch = t.watch_with(&t.prefix(""), WatchFrom::After(before), options).await?;
        exactly(&mut watch, &wanted).await?;
        // And then what is new.
        wanted.push(t.put("a", "next").await?);
        exactly(&mut watch, &wanted[wanted.len() - 1..]).await?;
    }
    Ok(())
}

pub(super) async fn a_transaction_larger_than_the_bound_comes_whole(t: &Trial) -> Verdict {
    const OPERATIONS: usize = 40;
    let before = t.put("a", "").await?;
    for overflow in [Overflow::Gap, Overflow::Latest] {
        let options = WatchOptions { buffer_changes_max: 8, overflow };
        let mut watch = t.watch_with(&t.prefix("many/"), WatchFrom::After(before), options).await?;
        let mut txn = t.txn();
        for n in 0..OPERATIONS {
            txn = txn.then(t.put_of(&format!("many/{n}"), format!("{overflow:?}")));
        }
        let revision = t.transact(txn).await?.revision;
        loop {
            let (came, changes) = watch.changes().await?;
            if came < revision {
                continue;
            }
            let whole = came == revision && changes.len() == OPERATIONS;
            ensure!(whole, "{OPERATIONS} changes at {revision} should come, not {} at {came}", changes.len());
            break;
        }
    }
    Ok(())
}

pub(super) async fn a_watch_from_now_begins_with_the_next_change(t: &Trial) -> Verdict {
    t.put("a", "before").await?;
    for n in 0..20 {
        let mut watch = t.watch("a", WatchFrom::Now).await?;
        let next = t.put("a", n.to_string()).await?;
        exactly(&mut watch, &[next]).await?;
    }
    Ok(())
}

pub(super) async fn a_resume_from_before_a_compaction_is_a_gap_and_then_goes_on(t: &Trial) -> Verdict {
    let first = t.put("a", "1").await?;
    let second = t.put("a", "2").await?;
    let third = t.put("a", "3").await?;
    let fourth = t.put("a", "4").await?;
    t.store().compact(third).await?;
    let mut rest = vec![fourth];
    for (after, missing) in [(first, second), (second, third)] {
        let mut watch = t.watch("a", WatchFrom::After(after)).await?;
        let (from, to) = must_be!(watch.event().await?, WatchEvent::Gap { from, to } => (from, to),
            "revisions up to {third} are forgotten, a watch after {after} has a gap");
        let covers = from <= missing && to >= third && from > after;
        ensure!(covers, "after {after}, {missing} to {third} are missing, the gap is {from} to {to}");
        let next = t.put("a", "next").await?;
        while rest.first().is_some_and(|revision| *revision <= to) {
            rest.remove(0);
        }
        rest.push(next);
        exactly(&mut watch, &rest).await?;
        rest = vec![fourth, next];
    }
    // Nothing is missing for one who had everything up to the compaction.
    let mut watch = t.watch("a", WatchFrom::After(third)).await?;
    let (came, _) = watch.changes().await?;
    ensure!(came == fourth, "after {third}, the last that is forgotten, comes {fourth}, not {came}");
    Ok(())
}

pub(super) async fn a_watch_from_a_revision_that_is_not_reached_is_a_gap_and_goes_on(t: &Trial) -> Verdict {
    let now = t.put("a", "1").await?;
    let beyond = Revision(now.0 + 1_000_000_000);
    let mut watch = t.watch("a", WatchFrom::After(beyond)).await?;
    let to = must_be!(watch.event().await?, WatchEvent::Gap { to, .. } => to,
        "nobody can have seen revision {beyond} of this store, a watch after it has a gap");
    ensure!(to >= now && to < beyond, "the store was at {now} or later, the gap ends with {to}");
    let next = t.put("a", "next").await?;
    exactly(&mut watch, &[next]).await
}

pub(super) async fn an_idle_watch_is_told_where_it_stands_before_a_compaction(t: &Trial) -> Verdict {
    let before = t.put("idle", "").await?;
    let mut watch = t.watch("idle", WatchFrom::After(before)).await?;
    for n in 0..10 {
        t.put("busy", n.to_string()).await?;
    }
    let through = t.revision().await?;
    t.store().compact(through).await?;
    let mut at = before;
    while at < through {
        at = must_be!(watch.event().await?, WatchEvent::Bookmark { revision } => revision,
            "nothing changed under the prefix, a bookmark comes");
    }
    drop(watch);
    let next = t.put("idle", "next").await?;
    let mut resumed = t.watch("idle", WatchFrom::After(at)).await?;
    exactly(&mut resumed, &[next]).await
}

pub(super) async fn audit_records_are_seen_only_by_who_watches_them(t: &Trial) -> Verdict {
    let from = WatchFrom::After(t.revision().await?);
    let mut all = t.watch_with(&Prefix::all(), from, WatchOptions::default()).await?;
    let own = Prefix::new(crate::AUDIT_PREFIX)?;
    let mut audits = t.watch_with(&own, from, WatchOptions::default()).await?;
    let note = super::audit::note("test.watch", 1);
    let revision = t.transact(t.txn().then(t.put_of("a", "")).audited(note)).await?.revision;
    let (came, changes) = all.changes().await?;
    let keys: Vec<&Key> = changes.iter().map(Change::key).collect();
    ensure!(came == revision && keys == [&t.key("a")], "a watch of everything gets {keys:?} at {came}");
    let (came, changes) = audits.changes().await?;
    let keys: Vec<&Key> = changes.iter().map(Change::key).collect();
    let right = came == revision && keys.len() == 1 && own.covers(keys[0]);
    ensure!(right, "a watch of audit records gets {keys:?} at {came}, not one at {revision}");
    Ok(())
}

pub(super) async fn many_watchers_all_get_everything(t: &Trial) -> Verdict {
    const WATCHERS: usize = 200;
    let before = t.put("a", "").await?;
    let mut watchers = Vec::with_capacity(WATCHERS);
    let handles = t.provider.handles();
    for n in 0..WATCHERS {
        let prefix = t.prefix(["", "a"][n % 2]);
        let handle = &handles[n % handles.len()];
        let stream = handle.watch(&prefix, WatchFrom::After(before), WatchOptions::default()).await?;
        watchers.push(t.watching(stream));
    }
    let mut wanted = Vec::new();
    for n in 0..10 {
        wanted.push(t.put("a", n.to_string()).await?);
    }
    for watch in &mut watchers {
        exactly(watch, &wanted).await?;
    }
    Ok(())
}

pub(super) async fn a_dropped_watch_does_not_disturb_others(t: &Trial) -> Verdict {
    let before = t.put("a", "").await?;
    let mut kept = t.watch("a", WatchFrom::After(before)).await?;
    let mut wanted = Vec::new();
    for n in 0..10 {
        let dropped = t.watch("a", WatchFrom::After(before)).await?;
        wanted.push(t.put("a", n.to_string()).await?);
        drop(dropped);
        wanted.push(t.put("a", n.to_string()).await?);
    }
    exactly(&mut kept, &wanted).await
}
