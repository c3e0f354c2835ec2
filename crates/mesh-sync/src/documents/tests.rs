use mesh_core::Hlc;
use proptest::prelude::*;

use super::*;
use crate::entry::{Author, AuthorKey, DatasetId, Draft, Verified};

fn collection(name: &str) -> Collection {
    Collection::new(name).expect("valid")
}

fn author(seed: u8) -> Author {
    let dataset = DatasetId::new("d").expect("valid");
    Author::new(AuthorKey::from_seed([seed; 32]), dataset, AuthorSequence::FIRST)
}

fn put(author: &mut Author, key: &'static str, hlc: u64, parents: &[EntryId]) -> Verified {
    let draft = Draft::put(&collection("c"), key, "v").after(parents.iter().copied());
    author.sign(draft, Hlc::from_bits(hlc)).expect("signed")
}

fn delete(author: &mut Author, key: &'static str, hlc: u64) -> Verified {
    author.sign(Draft::delete(&collection("c"), key), Hlc::from_bits(hlc)).expect("signed")
}

fn key(key: &'static str) -> DocumentKey {
    DocumentKey { collection: collection("c"), key: Bytes::from_static(key.as_bytes()) }
}

/// The deletion of one author's document by another: without it, the document would be back.
#[test]
fn what_hides_others_writes_is_needed_until_they_are_gone() {
    let (mut one, mut two) = (author(1), author(2));
    let first = put(&mut one, "k", 1, &[]);
    let (own, gone) = (put(&mut two, "k", 2, &[]), delete(&mut two, "k", 3));
    let mut documents = Documents::new();
    assert_eq!(documents.worth(&gone), Worth::Needed, "the view has not seen it");
    for entry in [&own, &gone, &first] {
        documents.apply(entry);
    }
    assert_eq!(
        [&first, &own, &gone].map(|entry| documents.worth(entry)),
        [Worth::Overwritten, Worth::Overwritten, Worth::Needed]
    );
    documents.forget_up_to(&first.author(), first.sequence());
    assert_eq!(documents.worth(&gone), Worth::Current, "what is left goes before it");
    let newer = put(&mut one, "k", 4, &[]);
    assert_eq!(
        documents.worth(&newer),
        Worth::Needed,
        "it is not in the view yet, and not worthless for that"
    );
}

#[test]
fn a_tombstone_outlasts_an_older_write_that_comes_late_and_a_newer_one_ends_it() {
    let mut one = author(1);
    let (old, gone, new) = (put(&mut one, "k", 1, &[]), delete(&mut one, "k", 2), put(&mut one, "k", 3, &[]));
    let mut documents = Documents::new();
    documents.apply(&gone);
    assert_eq!(documents.apply(&old), Applied::Superseded);
    assert_eq!(documents.get(&key("k")), None);
    assert!(documents.last_write(&key("k")).expect("the tombstone").is_tombstone());
    assert!(matches!(documents.apply(&new), Applied::Current { replaced: Some(_) }));
    assert_eq!(documents.get(&key("k")).expect("is back").item, new.item());
    assert_eq!(documents.apply(&new), Applied::Known);
}

#[test]
fn a_collection_is_listed_by_key_and_without_what_was_deleted() {
    let mut one = author(1);
    let mut documents = Documents::new();
    for entry in [put(&mut one, "b", 1, &[]), put(&mut one, "a", 2, &[]), put(&mut one, "c", 3, &[])] {
        documents.apply(&entry);
    }
    documents.apply(&delete(&mut one, "c", 4));
    let other = one.sign(Draft::put(&collection("d"), "a", "v"), Hlc::from_bits(5)).expect("signed");
    documents.apply(&other);
    let listed: Vec<_> = documents.list(&collection("c")).map(|(key, _)| key.key.clone()).collect();
    assert_eq!(listed, ["a", "b"]);
    assert_eq!(documents.len(), 4);
}

#[test]
fn concurrent_writes_are_logged_and_those_that_knew_each_other_are_not() {
    let (mut one, mut two) = (author(1), author(2));
    let mut documents = Documents::with_conflict_log(1);
    let first = put(&mut one, "k", 1, &[]);
    let knows = put(&mut two, "k", 2, &[first.id()]);
    let same_author = put(&mut two, "k", 3, &[]);
    for entry in [&first, &knows, &same_author] {
        documents.apply(entry);
    }
    assert_eq!(documents.conflicts().expect("a log").iter().len(), 0);
    let concurrent = put(&mut one, "k", 2, &[]);
    assert_eq!(documents.apply(&concurrent), Applied::Superseded);
    let conflict = documents.conflicts().expect("a log").iter().next().expect("a conflict").clone();
    assert_eq!((conflict.winner.item, conflict.loser.item), (same_author.item(), concurrent.item()));
    documents.apply(&put(&mut one, "k", 9, &[]));
    let log = documents.conflicts_mut().expect("a log");
    assert_eq!((log.iter().len(), log.dropped()), (1, 1));
    assert_eq!(log.pop().expect("the newer").loser.item, same_author.item());
}

#[test]
fn what_was_pruned_is_forgotten_only_while_it_is_the_last_write() {
    let mut one = author(1);
    let (old, new) = (put(&mut one, "k", 1, &[]), put(&mut one, "k", 2, &[]));
    let mut documents = Documents::new();
    documents.apply(&old);
    documents.apply(&new);
    assert!(!documents.forget(&key("k"), &old.id()));
    assert!(documents.forget(&key("k"), &new.id()));
    assert!(documents.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn the_order_of_arrival_makes_no_difference(
        writes in proptest::collection::vec((0..3_u8, 0..3_usize, 0..6_u64, any::<bool>()), 1..20),
        order in any::<u64>(),
    ) {
        let mut authors = [author(1), author(2), author(3)];
        let names = ["a", "b", "c"];
        let entries: Vec<Verified> = writes.iter().map(|(who, what, hlc, deletes)| {
            let author = &mut authors[usize::from(*who)];
            if *deletes { delete(author, names[*what], *hlc) } else { put(author, names[*what], *hlc, &[]) }
        }).collect();
        let mut shuffled = entries.clone();
        fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
        let view = |entries: &[Verified]| {
            let mut documents = Documents::new();
            entries.iter().for_each(|entry| { documents.apply(entry); });
            documents.versions
        };
        let found = view(&shuffled);
        prop_assert_eq!(&found, &view(&entries));
        for name in names {
            let last = entries.iter().filter(|entry| entry.key() == name.as_bytes()).map(|entry| entry.item()).max();
            prop_assert_eq!(found.get(&key(name)).map(|known| known.last.item), last);
        }
    }
}
