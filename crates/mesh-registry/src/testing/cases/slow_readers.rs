//! Watches whose reader is slower than the writers.
//!
//! A provider may hold more than the bound for a while, in its own queues or on its connections. So
//! these cases write much without reading, and accept that everything comes; what they do not
//! accept is that something is missing without a word.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::{
    Revision,
    store::{Change, Key, Overflow, Scan, WatchEvent, WatchFrom, WatchOptions},
};

use crate::testing::trial::{Trial, Verdict, ensure};

const WRITES: usize = 2000;
const VALUE_BYTES: usize = 1024;

fn small(overflow: Overflow) -> WatchOptions {
    WatchOptions { buffer_changes_max: 8, overflow }
}

/// Writes much to `keys` keys in turn, and returns the revisions.
async fn flood(t: &Trial, keys: usize) -> Verdict<Vec<Revision>> {
    let mut revisions = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        let mut value = n.to_string().into_bytes();
        value.resize(VALUE_BYTES, b' ');
        revisions.push(t.put(&format!("k{}", n % keys), value).await?);
    }
    Ok(revisions)
}

pub(super) async fn a_slow_reader_gets_everything_or_is_told_what_is_missing(t: &Trial) -> Verdict {
    let before = t.put("k0", "").await?;
    let mut watch = t.watch_with(&t.prefix(""), WatchFrom::After(before), small(Overflow::Gap)).await?;
    let written = flood(t, 3).await?;
    let last = *written.last().unwrap_or(&before);
    let mut due = written.into_iter().peekable();
    let mut at = before;
    for event in watch.upto(last).await? {
        match event {
            WatchEvent::Changes { revision, .. } => {
                let next = due.next();
                ensure!(
                    next == Some(revision),
                    "after {at} comes {next:?}, not {revision}, and no gap said so"
                );
                at = revision;
            }
            WatchEvent::Gap { from, to } => {
                ensure!(from > at && from <= to, "after {at} came a gap from {from} to {to}");
                let next = due.peek().copied();
                ensure!(
                    next.is_none_or(|next| from <= next),
                    "after {at} comes {next:?}, the gap begins at {from}"
                );
                while due.next_if(|revision| *revision <= to).is_some() {}
                at = to;
            }
            WatchEvent::Bookmark { revision } => {
                let next = due.peek().copied();
                let honest = next.is_none_or(|next| next > revision);
                ensure!(honest, "a bookmark at {revision} although {next:?} did not come");
            }
        }
    }
    Ok(())
}

/// What the events leave behind: the newest value of each key.
fn fold(state: &mut BTreeMap<Key, Bytes>, event: &WatchEvent) {
    let WatchEvent::Changes { changes, .. } = event else { return };
    for change in changes {
        match change {
            Change::Put(record) => state.insert(record.key.clone(), record.value.clone()),
            Change::Deleted { key, .. } => state.remove(key),
        };
    }
}

async fn present(t: &Trial) -> Verdict<(BTreeMap<Key, Bytes>, Revision)> {
    let scan = t.store().scan(&Scan::of(t.prefix(""))).await?;
    Ok((scan.value.records.into_iter().map(|record| (record.key, record.value)).collect(), scan.revision))
}

pub(super) async fn a_slow_reader_that_asks_for_the_latest_gets_the_present_state(t: &Trial) -> Verdict {
    let before = t.put("k0", "").await?;
    let mut watch = t.watch_with(&t.prefix(""), WatchFrom::After(before), small(Overflow::Latest)).await?;
    let written = flood(t, 5).await?;
    let last = *written.last().unwrap_or(&before);
    t.delete("k1").await?;
    let end = t.put("k2", "end").await?;
    let mut state = BTreeMap::new();
    let mut at = before;
    for event in watch.upto(end).await? {
        if let WatchEvent::Changes { revision, .. } = &event {
            ensure!(*revision > at, "after {at} came {revision}");
            at = *revision;
        }
        let gap = matches!(event, WatchEvent::Gap { .. });
        ensure!(!gap, "five keys fit into a bound of eight, and still there is a gap: {event:?}");
        fold(&mut state, &event);
    }
    ensure!(at == end && end > last, "the last change was {end}, the last that came was {at}");
    let (wanted, _) = present(t).await?;
    let keys: Vec<&Key> = wanted.keys().filter(|key| wanted.get(*key) != state.get(*key)).collect();
    ensure!(state == wanted, "the events leave other values than there are: {keys:?}");
    Ok(())
}

pub(super) async fn a_coalescing_watch_that_is_too_small_for_its_keys_has_a_gap(t: &Trial) -> Verdict {
    let before = t.put("k0", "").await?;
    let mut watch = t.watch_with(&t.prefix(""), WatchFrom::After(before), small(Overflow::Latest)).await?;
    let written = flood(t, 500).await?;
    let last = *written.last().unwrap_or(&before);
    let events = watch.upto(last).await?;
    let mut state = BTreeMap::new();
    let mut missing = before;
    for event in &events {
        if let WatchEvent::Gap { to, .. } = event {
            missing = missing.max(*to);
        }
        fold(&mut state, event);
    }
    for record in t.store().scan(&Scan::of(t.prefix(""))).await?.value.records {
        let came = state.get(&record.key) == Some(&record.value);
        ensure!(
            came || record.revision <= missing || record.revision > last,
            "{:?} of revision {} did not come, and no gap says so",
            record.key,
            record.revision
        );
    }
    Ok(())
}

pub(super) async fn a_reader_after_a_gap_reads_again_and_misses_nothing(t: &Trial) -> Verdict {
    let before = t.put("k0", "").await?;
    let mut watch = t.watch_with(&t.prefix(""), WatchFrom::After(before), small(Overflow::Gap)).await?;
    let written = flood(t, 7).await?;
    let last = *written.last().unwrap_or(&before);
    let mut state = BTreeMap::new();
    let mut read_at = before;
    for event in watch.upto(last).await? {
        match event {
            WatchEvent::Gap { .. } => (state, read_at) = present(t).await?,
            // What was read already is older than the read.
            WatchEvent::Changes { revision, .. } if revision <= read_at => {}
            event => fold(&mut state, &event),
        }
    }
    let end = t.put("k3", "end").await?;
    if end > read_at {
        for event in watch.upto(end).await? {
            let gap = matches!(event, WatchEvent::Gap { .. });
            ensure!(!gap, "a reader that is not slow any more has another gap: {event:?}");
            fold(&mut state, &event);
        }
    }
    let (wanted, _) = present(t).await?;
    let keys: Vec<&Key> = wanted.keys().filter(|key| wanted.get(*key) != state.get(*key)).collect();
    ensure!(state == wanted, "reading again and going on leaves other values than there are: {keys:?}");
    Ok(())
}
