//! What goes, and stays away.

use crate::{
    Item,
    entry::{AuthorSequence, Deferral, Outcome, Rejection, Verified},
    store::{Arrival, PrunedEntry, SetHash},
    testing::workbench::{Workbench, Writer, ids},
};

fn pruned_of(entry: &Verified) -> PrunedEntry {
    PrunedEntry { id: entry.id(), author: entry.author(), sequence: entry.sequence() }
}

pub(super) fn what_is_pruned_is_gone_and_refused(bench: &Workbench) {
    let opened = bench.open();
    let (mut one, mut two) = (Writer::new(1), Writer::new(2));
    let chain = one.chain(6);
    let others = two.entries(3);
    let child = two.entry_at(100_000, &[chain[1].id()]);
    opened.store_all(&chain);
    opened.store_all(&others);
    let mut removed: Vec<Item> = Vec::new();
    let watermark = AuthorSequence(4);
    let count = opened.store.prune(&[(one.id(), watermark)], &[], &mut |items| removed.extend(items));
    assert_eq!(count.expect("pruned"), 4);
    assert_eq!(removed, chain[..4].iter().map(|entry| entry.item()).collect::<Vec<_>>());
    assert_eq!(opened.store.has(&ids(&chain)).expect("read"), [false, false, false, false, true, true]);
    let summary = opened.store.summary();
    let (key, mut set_hash) = (opened.store.set_key(), SetHash::default());
    chain[4..].iter().chain(&others).for_each(|entry| set_hash.add(&key, &entry.id()));
    assert_eq!((summary.count, summary.set_hash, summary.last_arrival), (5, set_hash, Arrival(9)));
    let head = opened.store.head(&one.id()).expect("read").expect("known");
    assert_eq!((head.contiguous.0, head.highest.0, head.pruned.0, head.held), (6, 6, 4, 2));

    let refused = Outcome::Rejected(Rejection::Pruned { watermark });
    assert_eq!(opened.insert(&chain[..4]), [refused.clone(), refused.clone(), refused.clone(), refused]);
    assert_eq!(opened.insert(&chain[4..]), [Outcome::Duplicate, Outcome::Duplicate]);
    assert_eq!(opened.insert(&[child]), [Outcome::Stored { arrival: Arrival(10) }]);
    let mut expected = chain[..4].iter().map(pruned_of).collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(opened.store.pruned(None, 10).expect("read"), expected);
    assert_eq!(opened.store.pruned(Some(&expected[1].id), 1).expect("read"), expected[2..3]);
    opened.verify();
}

pub(super) fn watermarks_only_rise(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    let entries = writer.entries(8);
    opened.store_all(&entries[..5]);
    let prune = |to| {
        let pruned = opened.store.prune(&[(writer.id(), AuthorSequence(to))], &[], &mut |_| {});
        pruned.expect("pruned")
    };
    assert_eq!((prune(3), prune(2), prune(3), prune(0)), (3, 0, 0, 0));
    // A watermark may be above what is held: the numbers up to it are taken for used up.
    assert_eq!(prune(7), 2);
    let head = opened.store.head(&writer.id()).expect("read").expect("known");
    assert_eq!((head.contiguous.0, head.highest.0, head.pruned.0, head.held), (7, 7, 7, 0));
    assert!(matches!(opened.insert(&entries[6..])[..], [Outcome::Rejected(_), Outcome::Stored { .. }]));
    assert_eq!(opened.store.summary().count, 1);
    opened.verify();
}

pub(super) fn a_new_store_takes_children_of_what_was_pruned_elsewhere(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    let chain = writer.chain(4);
    let waiting = opened.insert(&chain[2..3]);
    assert!(matches!(waiting[..], [Outcome::Deferred(_)]));
    let boundary: Vec<PrunedEntry> = chain[..2].iter().map(pruned_of).collect();
    let watermark = AuthorSequence(2);
    let pruned = opened.store.prune(&[(writer.id(), watermark)], &boundary, &mut |_| {}).expect("pruned");
    assert_eq!(pruned, 0);
    opened.store_all(&chain[2..]);
    let refused = Outcome::Rejected(Rejection::Pruned { watermark });
    assert_eq!(opened.insert(&chain[1..2]), [refused]);
    let head = opened.store.head(&writer.id()).expect("read").expect("known");
    assert_eq!((head.contiguous.0, head.held), (4, 2));
    opened.verify();
}

pub(super) fn a_prune_of_thousands_leaves_the_rest(bench: &Workbench) {
    let opened = bench.open();
    let (mut one, mut two) = (Writer::new(1), Writer::new(2));
    let (many, few) = (one.entries(2500), two.entries(10));
    opened.store_all(&many);
    opened.store_all(&few);
    let mut calls = Vec::new();
    let watermarks = [(one.id(), AuthorSequence(2400)), (two.id(), AuthorSequence(1))];
    let count = opened.store.prune(&watermarks, &[], &mut |items| calls.push(items.len()));
    assert_eq!(count.expect("pruned"), 2401);
    assert_eq!(calls.iter().sum::<usize>(), 2401);
    assert_eq!(opened.store.summary().count, 109);
    let arrivals = opened.store.arrivals(Arrival::FIRST, 1000).expect("read");
    let expected = (2401..=2500).chain(2502..=2510).collect::<Vec<u64>>();
    assert_eq!(arrivals.iter().map(|one| one.arrival.0).collect::<Vec<_>>(), expected);
    opened.verify();
}

pub(super) fn names_that_nothing_builds_on_are_forgotten(bench: &Workbench) {
    let opened = bench.open();
    let (mut one, mut two) = (Writer::new(1), Writer::new(2));
    let entries = one.entries(2400);
    let (first, second) = entries.split_at(1200);
    let child = two.entry_at(500_000, &[first[10].id()]);
    opened.store_all(&entries);
    opened.store_all(&[child]);
    let prune = |up_to, boundary: &[PrunedEntry]| {
        opened.store.prune(&[(one.id(), AuthorSequence(up_to))], boundary, &mut |_| {}).expect("pruned");
    };
    let names = || opened.store.pruned(None, 5000).expect("read");
    prune(1200, &[]);
    assert_eq!(names().len(), 1200);
    // A child may be on its way, so they are needed until there was another look.
    prune(2400, &[]);
    assert_eq!(names().len(), 2400);
    prune(2400, &[]);
    let mut expected: Vec<_> = second.iter().chain([&first[10]]).map(pruned_of).collect();
    expected.sort_unstable();
    assert_eq!(names(), expected);
    opened.verify();

    let refused = Outcome::Rejected(Rejection::Pruned { watermark: AuthorSequence(2400) });
    assert_eq!(opened.insert(&first[20..21]), [refused], "the watermark has no need of names");
    let of_kept = two.entry_at(600_000, &[first[10].id(), second[10].id()]);
    opened.store_all(&[of_kept]);
    let late = two.entry_at(700_000, &[first[20].id()]);
    let missing = Deferral::MissingParents(vec![first[20].id()]);
    assert_eq!(opened.insert(std::slice::from_ref(&late)), [Outcome::Deferred(missing)]);
    prune(0, &[pruned_of(&first[20])]);
    opened.store_all(&[late]);
    opened.verify();
}
