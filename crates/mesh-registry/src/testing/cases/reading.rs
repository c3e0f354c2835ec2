//! Reads and scans.

use mesh_core::store::{Compare, Key, Operation, Page, Prefix, SCAN_LIMIT_MAX, Scan, StoreError, WatchFrom};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

pub(super) async fn a_read_returns_the_last_write_and_its_history(t: &Trial) -> Verdict {
    ensure!(t.get("a").await?.is_none(), "a key that nobody wrote has a record");
    let first = t.put("a", "1").await?;
    t.put("b", "other").await?;
    let second = t.put("a", "2").await?;
    let record = must_be!(t.get("a").await?, Some(record) => record, "the record that was written");
    ensure!(record.key == t.key("a"), "the record of {:?} has the key {:?}", t.key("a"), record.key);
    ensure!(record.value == "2", "the value is {:?}, the last that was written is \"2\"", record.value);
    ensure!(record.revision == second, "the record is of {}, written at {second}", record.revision);
    ensure!(
        record.created_revision == first,
        "the record was made at {first} and says {}",
        record.created_revision
    );
    ensure!(record.last_writer == t.writer(), "{} wrote, the record says {}", t.writer(), record.last_writer);
    ensure!(record.session.is_none() && record.token.is_none(), "a plain record has more: {record:?}");
    t.delete("a").await?;
    ensure!(t.get("a").await?.is_none(), "a deleted key has a record");
    let again = t.put("a", "3").await?;
    let record = must_be!(t.get("a").await?, Some(record) => record, "the record that was written");
    ensure!(
        record.created_revision == again,
        "a delete begins a record anew: it was made at {again} and says {}",
        record.created_revision
    );
    Ok(())
}

pub(super) async fn a_read_names_a_revision_from_which_a_watch_misses_nothing(t: &Trial) -> Verdict {
    for scanned in [false, true] {
        let written = t.put("a", "1").await?;
        let revision = if scanned {
            t.store().scan(&Scan::of(t.prefix(""))).await?.revision
        } else {
            t.store().get(&t.key("a")).await?.revision
        };
        ensure!(revision >= written, "a read after a write at {written} is at {revision}");
        t.put("a", "2").await?;
        let next = t.put("b", "3").await?;
        let mut watch = t.watch("b", WatchFrom::After(revision)).await?;
        let (at, _) = watch.changes().await?;
        ensure!(at == next, "a watch after {revision} begins with {at}, the next change is {next}");
    }
    Ok(())
}

pub(super) async fn a_stale_read_is_true_for_its_revision_and_catches_up(t: &Trial) -> Verdict {
    for n in 0..5 {
        let written = t.put("a", format!("{n}")).await?;
        let key = t.key("a");
        for handle in t.provider.handles() {
            let stale = handle.get_stale(&key).await?;
            let fresh = t.store().get(&key).await?;
            ensure!(
                stale.revision <= fresh.revision,
                "a stale read is at {}, the store is at {}",
                stale.revision,
                fresh.revision
            );
            if stale.revision >= written {
                ensure!(
                    stale.value == fresh.value,
                    "a stale read at {} is {:?}, there is {:?}",
                    stale.revision,
                    stale.value,
                    fresh.value
                );
            }
            let scan = Scan::of(t.prefix("a"));
            t.until("stale reads see the last write", || async {
                let got = handle.get_stale(&key).await?;
                let scanned = handle.scan_stale(&scan).await?;
                ensure!(
                    got.value.is_none() || got.value.as_ref().is_some_and(|r| r.revision <= got.revision),
                    "a stale read at {} has {:?}",
                    got.revision,
                    got.value
                );
                Ok(got.value == fresh.value && scanned.value.records.first() == fresh.value.as_ref())
            })
            .await?;
        }
    }
    Ok(())
}

pub(super) async fn a_scan_returns_what_its_prefix_covers_in_byte_order(t: &Trial) -> Verdict {
    let names = ["p/b", "p/a", "p/", "p", "p0", "p/a/x", "p/a0", "p/é", "p/Z", "p/~", "q", "o/z"];
    for name in names {
        t.put(name, name).await?;
    }
    let mut wanted: Vec<Key> = names.iter().filter(|n| n.starts_with("p/")).map(|n| t.key(n)).collect();
    wanted.sort_by(|a, b| a.as_str().as_bytes().cmp(b.as_str().as_bytes()));
    let found = t.store().scan(&Scan::of(t.prefix("p/"))).await?.value;
    let keys: Vec<Key> = found.records.iter().map(|record| record.key.clone()).collect();
    ensure!(keys == wanted, "a scan of {:?} returns {keys:?}", t.prefix("p/"));
    ensure!(!found.more, "a scan of everything says that more follows");
    let wrong = found.records.iter().find(|r| !r.key.as_str().as_bytes().ends_with(&r.value));
    ensure!(wrong.is_none(), "a scan returns a record with another's value: {wrong:?}");
    let none = t.store().scan(&Scan::of(t.prefix("nothing/"))).await?.value;
    ensure!(none == Page::default(), "a scan of an empty prefix returns {none:?}");
    Ok(())
}

pub(super) async fn a_scan_goes_on_page_by_page_without_loss_or_repetition(t: &Trial) -> Verdict {
    const RECORDS: usize = 42;
    let mut txn = t.txn();
    for n in 0..RECORDS {
        txn = txn.then(t.put_of(&format!("{n:03}"), ""));
    }
    t.transact(txn).await?;
    let wanted: Vec<Key> = (0..RECORDS).map(|n| t.key(&format!("{n:03}"))).collect();
    for limit in [1, 5, 7, RECORDS - 1, RECORDS, RECORDS + 1] {
        let mut scan = Scan { limit, ..Scan::of(t.prefix("")) };
        let mut keys: Vec<Key> = Vec::new();
        loop {
            let page = t.store().scan(&scan).await?.value;
            ensure!(page.records.len() <= limit, "a page of {limit} has {} records", page.records.len());
            keys.extend(page.records.into_iter().map(|record| record.key));
            ensure!(
                page.more == (keys.len() < RECORDS),
                "after {} of {RECORDS} records, {limit} a page, `more` is {}",
                keys.len(),
                page.more
            );
            if !page.more {
                break;
            }
            scan.after = keys.last().cloned();
        }
        ensure!(keys == wanted, "in pages of {limit} the keys are {keys:?}");
    }
    let between = Scan { after: Some(t.key("0005")), ..Scan::of(t.prefix("")) };
    let page = t.store().scan(&between).await?.value;
    ensure!(
        page.records.first().is_some_and(|record| record.key == t.key("001")),
        "a page may begin after a key that is not there: {:?}",
        page.records.first()
    );
    Ok(())
}

pub(super) async fn a_scan_of_no_or_too_many_records_is_refused(t: &Trial) -> Verdict {
    for limit in [0, SCAN_LIMIT_MAX + 1] {
        let scan = Scan { limit, ..Scan::of(t.prefix("")) };
        for result in [
            t.store().scan(&scan).await.map(|fresh| fresh.value),
            t.store().scan_stale(&scan).await.map(|stale| stale.value),
        ] {
            let problem = must_be!(result, Err(error @ StoreError::Invalid { .. }) => error.to_string(),
                "a limit of {limit} is invalid");
            ensure!(
                problem.contains(&limit.to_string()) && problem.contains(&SCAN_LIMIT_MAX.to_string()),
                "the error names neither the limit {limit} nor the range: {problem}"
            );
        }
    }
    t.store().scan(&Scan { limit: SCAN_LIMIT_MAX, ..Scan::of(t.prefix("")) }).await?;
    Ok(())
}

pub(super) async fn the_stores_own_keys_are_seen_only_by_who_asks_for_them(t: &Trial) -> Verdict {
    let note = super::audit::note("test.look", 7);
    t.transact(t.txn().then(t.put_of("a", "1")).audited(note)).await?;
    let mut after = None;
    loop {
        let scan = Scan { after, ..Scan::of(Prefix::all()) };
        let page = t.store().scan(&scan).await?.value;
        let reserved = page.records.iter().find(|record| record.key.is_reserved());
        ensure!(reserved.is_none(), "a scan of everything returns {reserved:?}");
        after = page.records.last().map(|record| record.key.clone());
        if !page.more {
            break;
        }
    }
    let own = Prefix::new(Key::RESERVED.to_string())?;
    let page = t.store().scan(&Scan::of(own)).await?.value;
    ensure!(!page.records.is_empty(), "a scan of the store's own keys returns nothing");
    let other = page.records.iter().find(|record| !record.key.is_reserved());
    ensure!(other.is_none(), "a scan of the store's own keys returns {other:?}");
    let key = page.records[0].key.clone();
    let read = t.store().get(&key).await?.value;
    ensure!(read.as_ref() == page.records.first(), "{key:?} is scanned but reads as {read:?}");
    let compared = t.txn().when(Compare::Present { key }).then(Operation::Delete { key: t.key("a") });
    t.transact(compared).await?;
    Ok(())
}
