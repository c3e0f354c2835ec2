//! What a backend that fails, or that has lost something, does to a store.

use std::{
    ops::Bound,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use mesh_core::Hlc;

use super::*;
use crate::store::keys::Space;
use crate::{
    entry::{Author, AuthorKey, Collection, Draft, Outcome},
    store::{Datasets, MemoryBackend, Visit},
};

/// A backend whose commits fail from some number on, with what they wrote or without it.
#[derive(Clone, Default)]
struct Failing {
    memory: Arc<MemoryBackend>,
    commits_left: Arc<AtomicU64>,
    fails_after_writing: bool,
}

impl Failing {
    fn new(fails_after_writing: bool) -> Self {
        let all = Arc::new(AtomicU64::new(u64::MAX));
        Self { memory: Arc::default(), commits_left: all, fails_after_writing }
    }

    fn fail_after(&self, commits: u64) {
        self.commits_left.store(commits, Ordering::Relaxed);
    }

    fn open(&self) -> Result<Arc<dyn EntryStore>, StoreError> {
        self.open_as("d")
    }

    fn open_as(&self, dataset: &str) -> Result<Arc<dyn EntryStore>, StoreError> {
        let name = DatasetId::new(dataset).expect("valid");
        Store::new(self.clone())?.open(&name, Creation::new(&name, StoreIncarnation(1)))
    }
}

impl Backend for Failing {
    fn path(&self) -> &Path {
        self.memory.path()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(key)
    }
    fn scan(&self, from: &[u8], below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.memory.scan(from, below, visit)
    }
    fn last(&self, from: &[u8], below: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.last(from, below)
    }
    fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let left = self.commits_left.load(Ordering::Relaxed);
        self.commits_left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 0 {
            return self.memory.commit(writes);
        }
        if self.fails_after_writing {
            self.memory.commit(writes)?;
        }
        Err(StoreError::Stopped { path: self.path().to_owned() })
    }
}

fn author(seed: u8) -> Author {
    let dataset = DatasetId::new("d").expect("valid");
    Author::new(AuthorKey::from_seed([seed; 32]), dataset, AuthorSequence::FIRST)
}

fn entries(author: &mut Author, count: usize) -> Vec<Verified> {
    let collection = Collection::new("c").expect("valid");
    let mut one = |_| {
        let sequence = author.next_sequence().expect("there are more").0;
        author.sign(Draft::put(&collection, "k", "v"), Hlc::from_bits(sequence)).expect("signed")
    };
    (0..count).map(&mut one).collect()
}

#[test]
fn after_a_commit_that_failed_the_store_goes_on_from_what_is_there() {
    for fails_after_writing in [false, true] {
        let backend = Failing::new(fails_after_writing);
        let store = backend.open().expect("opens");
        let all = entries(&mut author(1), 6);
        store.insert_batch(&all[..2], &[]).expect("inserted");
        backend.fail_after(0);
        assert!(store.insert_batch(&all[2..4], &[]).is_err());
        assert_eq!(store.summary().count, 2, "nobody knows yet whether it happened");
        backend.fail_after(u64::MAX);
        let outcomes = store.insert_batch(&all[2..], &[]).expect("inserted").outcomes;
        let there = outcomes.iter().filter(|outcome| **outcome == Outcome::Duplicate).count();
        assert_eq!(there, if fails_after_writing { 2 } else { 0 });
        let summary = store.summary();
        assert_eq!((summary.count, summary.last_arrival), (6, Arrival(6)));
        store.verify().expect("everything fits together");
    }
}

#[test]
fn a_prune_that_was_cut_short_is_completed_when_the_store_is_opened() {
    for commits in 0..5 {
        let backend = Failing::new(false);
        let mut one = author(1);
        let all = entries(&mut one, 2100);
        let watermark = [(one.id(), AuthorSequence(2090))];
        {
            let store = backend.open().expect("opens");
            store.insert_batch(&all, &[]).expect("inserted");
            backend.fail_after(commits);
            // The watermark, three times removal, and the end of it.
            let pruned = store.prune(&watermark, &[], &mut |_| {});
            assert!(pruned.is_err(), "it takes more than {commits} commits");
            backend.fail_after(u64::MAX);
            if commits > 0 {
                let again = store.insert_batch(&all[..1], &[]).expect("inserted").outcomes;
                assert!(matches!(again[..], [Outcome::Rejected(_) | Outcome::Duplicate]), "{again:?}");
                store.verify().expect("everything fits together in between");
            }
        }
        let store = backend.open().expect("opens");
        assert_eq!(store.summary().count, if commits == 0 { 2100 } else { 10 });
        store.verify().expect("everything fits together");
    }
}

#[test]
fn every_record_that_is_missing_or_changed_is_found() {
    let backend = Failing::new(false);
    {
        let store = backend.open().expect("opens");
        let mut one = author(1);
        let mut all = entries(&mut one, 4);
        let collection = Collection::new("c").expect("valid");
        let child = Draft::put(&collection, "k", "v").after([all[3].id(), all[1].id()]);
        all.push(one.sign(child, Hlc::from_bits(9)).expect("signed"));
        store.insert_batch(&all, &[]).expect("inserted");
        store.prune(&[(one.id(), AuthorSequence(2))], &[], &mut |_| {}).expect("pruned");
        store.verify().expect("everything fits together");
    }
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    };
    backend.memory.scan(&[], &[0xff], &mut visit).expect("read");
    assert!(keys.len() > 15);
    for key in keys {
        let whole = backend.memory.get(&key).expect("read").expect("there");
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        let changed = changed.get_mut(middle).map(|byte| *byte ^= 1).map(|()| changed);
        for value in [None, changed] {
            let removes_dataset = key[0] <= Space::Dataset as u8;
            // An id that was pruned and is nobody's parent any more is not missed.
            let is_optional = key[0] == Space::Pruned as u8;
            if removes_dataset || (is_optional && value.is_none()) {
                continue;
            }
            backend.memory.commit(vec![Write { key: key.clone(), value: value.clone() }]).expect("written");
            let found = backend.open().and_then(|store| store.verify().map(|_| ()));
            assert!(matches!(found, Err(StoreError::Damaged { .. })), "{key:02x?} {value:02x?}: {found:?}");
            backend
                .memory
                .commit(vec![Write { key: key.clone(), value: Some(whole.clone()) }])
                .expect("written");
        }
    }
    backend.open().expect("opens").verify().expect("all was put back");
}

#[test]
fn what_is_missing_among_the_newest_is_found_on_open() {
    for space in [Space::ById, Space::Order, Space::Arrivals, Space::Entries, Space::ByAuthor, Space::State] {
        let backend = Failing::new(false);
        backend.open().expect("opens").insert_batch(&entries(&mut author(1), 100), &[]).expect("inserted");
        let (from, below) = keys::whole(space, Number(0));
        let newest = backend.memory.last(&from, &below).expect("read").expect("there");
        if space as u8 == Space::ById as u8 {
            // By id, the last one may be an old one: take all.
            let mut all = Vec::new();
            let mut visit = |key: &[u8], _: &[u8]| {
                all.push(Write::remove(key.to_vec()));
                Ok(ControlFlow::Continue(()))
            };
            backend.memory.scan(&from, &below, &mut visit).expect("read");
            backend.memory.commit(all).expect("written");
        }
        backend.memory.commit(vec![Write::remove(newest)]).expect("written");
        assert!(matches!(backend.open(), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn a_store_of_another_version_is_not_touched() {
    let backend = Failing::new(false);
    backend.open().expect("opens");
    let newer = Write::put(keys::FORMAT.to_vec(), 9_u64.to_be_bytes());
    backend.memory.commit(vec![newer]).expect("written");
    let error = backend.open().err().expect("it can't read that").to_string();
    assert_eq!(error, "(memory) has format version 9, this program reads 2; use the program that wrote it");
}

#[test]
fn a_stored_entry_that_was_changed_is_not_given_out() {
    let backend = Failing::new(false);
    let store = backend.open().expect("opens");
    let all = entries(&mut author(1), 1);
    store.insert_batch(&all, &[]).expect("inserted");
    let key = keys::entry(Number(0), Arrival(1));
    let stored = backend.memory.get(&key).expect("read").expect("there");
    // Of the payload, of the signature, and of its checksum.
    for from_the_end in [73, 72, 9, 8, 1] {
        let mut changed = stored.clone();
        changed[stored.len() - from_the_end] ^= 1;
        backend.memory.commit(vec![Write::put(key.clone(), changed)]).expect("written");
        assert!(matches!(store.get(&[all[0].id()]), Err(StoreError::Damaged { .. })));
        let limit = ScanLimit { entries: 10, bytes: 1000 };
        assert!(matches!(store.scan(Bound::Unbounded, limit), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn names_are_forgotten_in_shares_and_a_stop_in_between_loses_none_that_is_needed() {
    for commits in [0, 1, 2, u64::MAX] {
        for fails_after_writing in [false, true] {
            forgets_in_shares(commits, fails_after_writing);
        }
    }
}

/// With a stop after so many commits of the look.
fn forgets_in_shares(commits: u64, fails_after_writing: bool) {
    let backend = Failing::new(fails_after_writing);
    let mut store = backend.open().expect("opens");
    let (mut one, mut two) = (author(1), author(2));
    let gone = entries(&mut one, 2400);
    store.insert_batch(&gone, &[]).expect("inserted");
    store.insert_batch(&entries(&mut two, 2000), &[]).expect("inserted");
    for up_to in [1200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2400] {
        // The first look ends in between.
        store.prune(&[(one.id(), AuthorSequence(up_to))], &[], &mut |_| {}).expect("pruned");
    }
    let names = |store: &dyn EntryStore| -> Vec<EntryId> {
        store.pruned(None, usize::MAX).expect("reads").iter().map(|pruned| pruned.id).collect()
    };
    assert_eq!(names(&*store).len(), 2400);
    let collection = Collection::new("c").expect("valid");
    let mut named = Vec::new();
    backend.fail_after(commits);
    for round in 0..40_u64 {
        if store.prune(&[], &[], &mut |_| {}).is_err() {
            backend.fail_after(u64::MAX);
            store = backend.open().expect("opens");
        }
        // A child of a name that may go.
        let parent = gone[round as usize].id();
        let was_there = names(&*store).contains(&parent);
        let draft = Draft::put(&collection, "k", "v").after([parent]);
        let child = two.sign(draft, Hlc::from_bits(10_000 + round)).expect("signed");
        let left =
            if commits < u64::MAX { backend.commits_left.swap(u64::MAX, Ordering::Relaxed) } else { commits };
        let outcome = store.insert_batch(&[child], &[]).expect("inserted").outcomes.remove(0);
        backend.fail_after(left);
        assert_eq!(was_there, matches!(outcome, Outcome::Stored { .. }), "{outcome:?}");
        named.extend(was_there.then_some(parent));
        if round % 5 == 0 {
            store.verify().expect("everything fits together");
        }
    }
    store.verify().expect("everything fits together");
    assert!(!named.is_empty(), "the look takes several shares");
    let left = names(&*store);
    assert!(named.iter().all(|name| left.contains(name)));
    assert_eq!(left.len(), 1200 + named.len(), "of the older half, those that are needed");
}
