//! What is there after the store was closed.

use std::ops::Bound;

use crate::{
    entry::AuthorSequence,
    store::{Arrival, Checkpoint, MetadataWrite, ScanLimit, StoreError, StoreIncarnation},
    testing::workbench::{Opened, Workbench, Writer},
};

/// Everything that can be read.
fn contents(opened: &Opened) -> String {
    let store = &opened.store;
    let everything = (
        store.summary(),
        store.arrivals(Arrival::FIRST, usize::MAX).expect("read"),
        store.scan(Bound::Unbounded, ScanLimit { entries: usize::MAX, bytes: usize::MAX }).expect("read"),
        store.vector(None, usize::MAX).expect("read"),
        store.pruned(None, usize::MAX).expect("read"),
        store.metadata_scan(b"", None, usize::MAX).expect("read"),
        store.checkpoint().expect("read"),
        (store.incarnation(), store.set_key(), opened.datasets.datasets().expect("read")),
    );
    format!("{everything:?}")
}

pub(super) fn everything_is_there_after_opening_again(bench: &Workbench) {
    let (mut one, mut two) = (Writer::new(1), Writer::new(2));
    let before = {
        let opened = bench.open_as("main", 11);
        opened.store_all(&one.chain(10));
        opened.store_all(&two.entries(400));
        let metadata = MetadataWrite { key: b"k".to_vec(), value: Some(b"v".to_vec()) };
        opened.store.insert_batch(&[], &[metadata]).expect("written");
        opened.store.prune(&[(one.id(), AuthorSequence(3))], &[], &mut |_| {}).expect("pruned");
        opened.store.prune(&[(two.id(), AuthorSequence(50))], &[], &mut |_| {}).expect("pruned");
        let checkpoint = Checkpoint { arrival: Arrival(5), blob: vec![1, 2, 3] };
        opened.store.write_checkpoint(&checkpoint).expect("written");
        let other = opened.dataset("other");
        other.insert_batch(&Writer::of("other", 1).entries(3), &[]).expect("inserted");
        contents(&opened)
    };
    for _ in 0..2 {
        let opened = bench.open_as("main", 99);
        assert_eq!(opened.store.incarnation(), StoreIncarnation(11));
        assert_eq!(contents(&opened), before);
        assert_eq!(opened.dataset("other").summary().count, 3);
        opened.verify();
    }
    let opened = bench.open();
    opened.store_all(&one.entries(1));
    assert_eq!(opened.store.summary().last_arrival, Arrival(411));
    opened.verify();
}

pub(super) fn a_store_is_opened_once(bench: &Workbench) {
    let opened = bench.open();
    match bench.place().open() {
        Err(StoreError::InUse { .. }) => {}
        Err(error) => panic!("it says {error}, and not that it is in use"),
        Ok(_) => panic!("it was opened a second time"),
    }
    drop(opened);
    bench.open();
}
