//! What becomes of entries that go in.

use mesh_core::Hlc;

use crate::{
    EntryId,
    entry::{AuthorSequence, Deferral, Equivocation, Outcome, Rejection},
    store::{Arrival, Head, SetHash},
    testing::workbench::{Workbench, Writer, ids, name},
};

pub(super) fn an_entry_comes_out_with_the_bytes_that_went_in(bench: &Workbench) {
    let opened = bench.open();
    let entries = Writer::new(1).chain(5);
    opened.store_all(&entries);
    let found = opened.store.get(&ids(&entries)).expect("read");
    for (found, entry) in found.into_iter().zip(&entries) {
        let found = found.expect("it is held");
        assert_eq!(found.entry.encoded(), entry.encoded());
    }
    let unknown = EntryId([0; 32]);
    let asked = [unknown, entries[2].id(), unknown];
    assert_eq!(opened.store.has(&asked).expect("read"), [false, true, false]);
    let found = opened.store.get(&asked).expect("read");
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
    opened.verify();
}

pub(super) fn each_entry_of_a_batch_gets_its_own_outcome(bench: &Workbench) {
    let opened = bench.open();
    let (mut writer, mut stranger) = (Writer::new(1), Writer::of("other", 1));
    let held = writer.entry(&[]);
    opened.store_all(std::slice::from_ref(&held));
    let (new, foreign) = (writer.entry(&[]), stranger.entry(&[]));
    let orphan = writer.entry(&[EntryId([7; 32])]);
    let last = writer.entry(&[new.id()]);
    let batch = [held, new.clone(), foreign, new, orphan, last];
    assert_eq!(
        opened.insert(&batch),
        [
            Outcome::Duplicate,
            Outcome::Stored { arrival: Arrival(2) },
            Outcome::Rejected(Rejection::OtherDataset { found: name("other") }),
            Outcome::Duplicate,
            Outcome::Deferred(Deferral::MissingParents(vec![EntryId([7; 32])])),
            Outcome::Stored { arrival: Arrival(3) },
        ]
    );
    assert_eq!(opened.store.summary().count, 3);
    opened.verify();
}

pub(super) fn arrivals_are_numbered_without_a_gap_over_batches(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    let (first, second) = (writer.entries(3), writer.entries(2));
    opened.store_all(&first);
    opened.insert(&first);
    opened.insert(&[]);
    opened.store_all(&second);
    let listed = opened.store.arrivals(Arrival::FIRST, 100).expect("read");
    assert_eq!(listed.iter().map(|one| one.arrival.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let expected = [ids(&first), ids(&second)].concat();
    assert_eq!(listed.iter().map(|one| one.item.id).collect::<Vec<_>>(), expected);
    assert_eq!(opened.store.summary().last_arrival, Arrival(5));
}

pub(super) fn an_entry_waits_for_its_parents(bench: &Workbench) {
    let opened = bench.open();
    let chain = Writer::new(1).chain(4);
    let backwards: Vec<_> = chain[1..].iter().rev().cloned().collect();
    for (outcome, entry) in opened.insert(&backwards).into_iter().zip(&backwards) {
        let parents = entry.parents().collect();
        assert_eq!(outcome, Outcome::Deferred(Deferral::MissingParents(parents)));
    }
    assert_eq!(opened.store.summary().count, 0);
    opened.store_all(&chain);
    let mut two = Writer::new(2);
    let unknown = [EntryId([1; 32]), EntryId([2; 32])];
    let orphan = two.entry_at(10_000, &[unknown[0], chain[0].id(), unknown[1]]);
    let expected = Outcome::Deferred(Deferral::MissingParents(unknown.to_vec()));
    assert_eq!(opened.insert(&[orphan]), [expected]);
    opened.verify();
}

pub(super) fn a_stamp_that_is_not_above_a_parents_is_rejected(bench: &Workbench) {
    let opened = bench.open();
    let (mut one, mut two) = (Writer::new(1), Writer::new(2));
    let parent = one.entry_at(500, &[]);
    let (parent_hlc, id) = (Hlc::from_bits(500), parent.id());
    let rejected = |hlc| {
        let hlc = Hlc::from_bits(hlc);
        Outcome::Rejected(Rejection::NotAfterParent { hlc, parent: id, parent_hlc })
    };
    let (equal, below, above) =
        (two.entry_at(500, &[id]), two.entry_at(499, &[id]), two.entry_at(501, &[id]));
    let outcomes = opened.insert(&[parent, equal.clone(), above]);
    assert_eq!(outcomes[1], rejected(500));
    assert!(matches!(outcomes[2], Outcome::Stored { .. }));
    assert_eq!(opened.insert(&[equal, below]), [rejected(500), rejected(499)]);
    opened.verify();
}

pub(super) fn a_number_given_twice_is_kept_and_reported(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    let honest = writer.entries(3);
    opened.store_all(&honest);
    writer.back_to(2);
    let (twin, mut third) = (writer.entry(&[]), Writer::new(1));
    third.back_to(2);
    let triplet = third.entry_at(77, &[]);
    let report = opened.store_all(&[twin.clone(), triplet.clone()]);
    let mut held = vec![honest[1].id()];
    let (author, sequence) = (writer.id(), AuthorSequence(2));
    let first = Equivocation { author, sequence, held: held.clone(), incoming: twin.id() };
    held.push(twin.id());
    let second = Equivocation { author, sequence, held, incoming: triplet.id() };
    assert_eq!(report.equivocations, [first, second]);
    let listed = opened.store.by_author(&author, sequence, 3).expect("read");
    let mut expected = ids(&[honest[1].clone(), twin, triplet]);
    expected.sort_unstable();
    assert_eq!(listed.iter().map(|one| one.item.id).collect::<Vec<_>>(), expected);
    let head = opened.store.head(&author).expect("read").expect("known");
    assert_eq!((head.contiguous.0, head.highest.0, head.held), (3, 3, 5));
    opened.verify();
}

pub(super) fn a_head_tells_up_to_where_nothing_is_missing(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    let entries = writer.entries(7);
    let author = writer.id();
    assert_eq!(opened.store.head(&author).expect("read"), None);
    let head = |contiguous, highest, held| {
        let expected = Head {
            contiguous: AuthorSequence(contiguous),
            highest: AuthorSequence(highest),
            pruned: AuthorSequence(0),
            held,
        };
        assert_eq!(opened.store.head(&author).expect("read"), Some(expected));
    };
    opened.store_all(&[entries[1].clone(), entries[2].clone()]);
    head(0, 3, 2);
    opened.store_all(&[entries[5].clone(), entries[0].clone()]);
    head(3, 6, 4);
    opened.store_all(&[entries[4].clone(), entries[3].clone()]);
    head(6, 6, 6);
    opened.store_all(&[entries[6].clone()]);
    head(7, 7, 7);
    opened.verify();
}

pub(super) fn counts_and_set_hash_depend_on_the_set_alone(bench: &Workbench) {
    let opened = bench.open();
    let empty = opened.store.summary();
    assert_eq!((empty.count, empty.bytes, empty.set_hash), (0, 0, SetHash::default()));
    let entries = [Writer::new(1).entries(5), Writer::new(2).entries(4)].concat();
    opened.store_all(&entries[..2]);
    opened.store_all(&entries[2..]);
    let key = opened.store.set_key();
    let mut expected = SetHash::default();
    entries.iter().rev().for_each(|entry| expected.add(&key, &entry.id()));
    let summary = opened.store.summary();
    let bytes = entries.iter().map(|entry| entry.encoded().len() as u64).sum::<u64>();
    assert_eq!((summary.count, summary.bytes, summary.set_hash), (9, bytes, expected));
    opened.insert(&entries);
    assert_eq!(opened.store.summary(), summary);
    opened.verify();
}

pub(super) fn datasets_are_apart(bench: &Workbench) {
    let opened = bench.open();
    let other = opened.dataset("other");
    assert_ne!(other.incarnation(), opened.store.incarnation());
    assert_ne!(other.set_key(), opened.store.set_key());
    let (mut here, mut there) = (Writer::new(1), Writer::of("other", 1));
    let (mine, theirs) = (here.entries(3), there.entries(2));
    opened.store_all(&mine);
    other.insert_batch(&theirs, &[]).expect("inserted");
    assert_eq!((opened.store.summary().count, other.summary().count), (3, 2));
    assert_eq!(other.summary().last_arrival, Arrival(2));
    assert_eq!(opened.store.has(&ids(&theirs)).expect("read"), [false, false]);
    let head = other.head(&there.id()).expect("read").expect("known");
    assert_eq!(head.highest, AuthorSequence(2));
    let mut datasets = opened.datasets.datasets().expect("read");
    datasets.sort();
    assert_eq!(datasets, [name("main"), name("other")]);
    assert!(std::sync::Arc::ptr_eq(&other, &opened.dataset("other")), "there are two of one dataset");
    opened.verify();
    other.verify().expect("everything fits together");
}
