//! What comes out, and in which order.

use std::{
    ops::Bound,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    Item,
    entry::{AuthorId, AuthorSequence, Verified},
    store::{Arrival, ScanLimit},
    testing::workbench::{Opened, Workbench, Writer},
};

/// Entries of several authors, that lie between each other.
fn filled(bench: &Workbench) -> (Opened, Vec<Verified>) {
    let opened = bench.open();
    let mut entries = Vec::new();
    for seed in [3, 1, 2] {
        entries.extend(Writer::new(seed).chain(6));
    }
    opened.store_all(&entries);
    entries.sort_by_key(|entry| entry.item());
    (opened, entries)
}

fn items(entries: &[Verified]) -> Vec<Item> {
    entries.iter().map(|entry| entry.item()).collect()
}

pub(super) fn items_are_listed_in_order_between_bounds(bench: &Workbench) {
    let (opened, entries) = filled(bench);
    let expected = items(&entries);
    let list = |from, to, limit| {
        let listed = opened.store.items((from, to), limit).expect("read");
        listed.iter().map(|one| one.item).collect::<Vec<_>>()
    };
    use Bound::{Excluded, Included, Unbounded};
    assert_eq!(list(Unbounded, Unbounded, 100), expected);
    assert_eq!(list(Unbounded, Unbounded, 4), expected[..4]);
    assert_eq!(list(Unbounded, Unbounded, 0), []);
    let (low, high) = (expected[3], expected[9]);
    assert_eq!(list(Included(low), Excluded(high), 100), expected[3..9]);
    assert_eq!(list(Excluded(low), Included(high), 100), expected[4..10]);
    assert_eq!(list(Included(high), Excluded(low), 100), []);
    assert_eq!(list(Excluded(low), Excluded(low), 100), []);
    let last = *expected.last().expect("there are some");
    assert_eq!(list(Excluded(last), Unbounded, 100), []);
}

pub(super) fn a_scan_in_pages_gives_everything_once_and_parents_first(bench: &Workbench) {
    let (opened, entries) = filled(bench);
    for (count, bytes) in [(1, usize::MAX), (4, usize::MAX), (100, usize::MAX), (100, 1), (5, 600)] {
        let limit = ScanLimit { entries: count, bytes };
        let (mut from, mut found) = (Bound::Unbounded, Vec::new());
        loop {
            let page = opened.store.scan(from, limit).expect("read");
            let Some(last) = page.last() else { break };
            from = Bound::Excluded(last.entry.item());
            assert!(page.len() <= count);
            let before_last = &page[..page.len() - 1];
            let total = before_last.iter().map(|stored| stored.entry.encoded().len()).sum::<usize>();
            assert!(total < bytes, "{total} bytes and one more entry, {bytes} were asked for");
            found.extend(page.into_iter().map(|stored| stored.entry));
        }
        assert_eq!(found, entries);
        for (at, entry) in found.iter().enumerate() {
            let before = |parent| found[..at].iter().any(|earlier| earlier.id() == parent);
            assert!(entry.parents().all(before), "a parent comes after its child");
        }
    }
}

pub(super) fn arrivals_are_listed_from_a_number(bench: &Workbench) {
    let (opened, entries) = filled(bench);
    let list = |from, limit| opened.store.arrivals(Arrival(from), limit).expect("read");
    assert_eq!(list(0, 100), list(1, 100));
    assert_eq!(list(1, 100).len(), entries.len());
    assert_eq!(list(17, 1).iter().map(|one| one.arrival.0).collect::<Vec<_>>(), [17]);
    assert_eq!(list(17, 100).iter().map(|one| one.arrival.0).collect::<Vec<_>>(), [17, 18]);
    assert_eq!(list(19, 100), []);
    assert_eq!(list(u64::MAX, 100), []);
    let mut found: Vec<Item> = list(1, 100).iter().map(|one| one.item).collect();
    found.sort();
    assert_eq!(found, items(&entries));
}

pub(super) fn an_authors_entries_are_listed_from_a_number(bench: &Workbench) {
    let (opened, entries) = filled(bench);
    let author = Writer::new(2).id();
    let of_author: Vec<_> = entries.iter().filter(|entry| entry.author() == author).collect();
    let list = |from, limit| opened.store.by_author(&author, AuthorSequence(from), limit).expect("read");
    let all = list(0, 100);
    assert_eq!(all.iter().map(|one| one.sequence.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(all.iter().zip(&of_author).all(|(one, entry)| one.item == entry.item()));
    assert_eq!(list(4, 2), all[3..5]);
    assert_eq!(list(7, 100), []);
    let nobody = AuthorId([0; 32]);
    assert_eq!(opened.store.by_author(&nobody, AuthorSequence(0), 100).expect("read"), []);
}

pub(super) fn the_vector_is_listed_in_pages(bench: &Workbench) {
    let (opened, _) = filled(bench);
    let mut authors = [1, 2, 3].map(|seed| Writer::new(seed).id());
    authors.sort();
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = opened.store.vector(after.as_ref(), 2).expect("read");
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found.iter().map(|(author, _)| *author).collect::<Vec<_>>(), authors);
    assert!(found.iter().all(|(_, head)| head.contiguous.0 == 6 && head.held == 6));
}

pub(super) fn a_reader_sees_whole_batches(bench: &Workbench) {
    const BATCH: usize = 100;
    let opened = bench.open();
    let entries = Writer::new(1).entries(15 * BATCH);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            entries.chunks(BATCH).for_each(|batch| drop(opened.store_all(batch)));
            done.store(true, Ordering::Release);
        });
        loop {
            let was_done = done.load(Ordering::Acquire);
            let summary = opened.store.summary();
            let listed = opened.store.arrivals(Arrival::FIRST, usize::MAX).expect("read");
            let items = opened.store.items((Bound::Unbounded, Bound::Unbounded), usize::MAX).expect("read");
            assert_eq!((listed.len() % BATCH, items.len() % BATCH), (0, 0));
            assert!(
                listed.len() as u64 >= summary.count && items.len() >= listed.len(),
                "an older state was seen after a newer one"
            );
            for one in listed.iter().rev().take(BATCH) {
                assert!(opened.store.get(&[one.item.id]).expect("read")[0].is_some());
            }
            if was_done {
                assert_eq!(listed.len(), entries.len());
                break;
            }
        }
    });
}

pub(super) fn writers_of_one_dataset_take_turns(bench: &Workbench) {
    let opened = bench.open();
    let of_writers: Vec<Vec<Verified>> = (1..=4).map(|seed| Writer::new(seed).chain(20)).collect();
    std::thread::scope(|scope| {
        for entries in &of_writers {
            let opened = &opened;
            scope.spawn(move || entries.chunks(5).for_each(|batch| drop(opened.store_all(batch))));
        }
    });
    let listed = opened.store.arrivals(Arrival::FIRST, 100).expect("read");
    assert_eq!(listed.len(), 80);
    assert!(listed.iter().zip(1..).all(|(one, number)| one.arrival == Arrival(number)));
    opened.verify();
}
