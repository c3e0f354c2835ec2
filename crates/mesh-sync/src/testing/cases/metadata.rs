//! What is kept beside the entries.

use crate::{
    entry::AuthorSequence,
    store::{
        Arrival, Checkpoint, METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, MetadataRecord, MetadataWrite,
        StoreError,
    },
    testing::workbench::{Workbench, Writer},
};

fn put(key: &str, value: &str) -> MetadataWrite {
    MetadataWrite { key: key.into(), value: Some(value.into()) }
}

fn record(key: &str, value: &str) -> MetadataRecord {
    MetadataRecord { key: key.into(), value: value.into() }
}

pub(super) fn metadata_is_written_with_the_batch(bench: &Workbench) {
    let opened = bench.open();
    let store = &opened.store;
    let entries = Writer::new(1).entries(2);
    store.insert_batch(&entries, &[put("cursor/a", "1"), put("cursor/b", "2")]).expect("inserted");
    store.insert_batch(&entries, &[put("cursor/a", "3")]).expect("duplicates bring metadata too");
    store.insert_batch(&[], &[put("cursor/c", "4")]).expect("so does nothing");
    store.write_metadata(&[put("cursos", "x"), put("curso", "y")]).expect("written");
    assert_eq!(store.metadata(b"cursor/a").expect("read").as_deref(), Some(&b"3"[..]));
    assert_eq!(store.metadata(b"cursor/").expect("read"), None);
    let all = [record("cursor/a", "3"), record("cursor/b", "2"), record("cursor/c", "4")];
    assert_eq!(store.metadata_scan(b"cursor/", None, 10).expect("read"), all);
    assert_eq!(store.metadata_scan(b"cursor/", None, 2).expect("read"), all[..2]);
    assert_eq!(store.metadata_scan(b"cursor/", Some(b"cursor/b"), 10).expect("read"), all[2..]);
    assert_eq!(store.metadata_scan(b"", None, 10).expect("read").len(), 5);
    assert_eq!(opened.dataset("other").metadata_scan(b"", None, 10).expect("read"), []);
    let remove = MetadataWrite { key: b"cursor/a".to_vec(), value: None };
    store.write_metadata(&[remove]).expect("written");
    assert_eq!(store.metadata(b"cursor/a").expect("read"), None);
}

pub(super) fn what_is_too_large_is_refused_and_nothing_is_written(bench: &Workbench) {
    let opened = bench.open();
    let entries = Writer::new(1).entries(1);
    let key = MetadataWrite { key: vec![0; METADATA_KEY_BYTES_MAX + 1], value: None };
    let value = MetadataWrite { key: b"k".to_vec(), value: Some(vec![0; METADATA_VALUE_BYTES_MAX + 1]) };
    for write in [key, value] {
        let refused = opened.store.insert_batch(&entries, &[put("other", "1"), write]);
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    assert_eq!(opened.store.summary().count, 0);
    assert_eq!(opened.store.metadata(b"other").expect("read"), None);
    let longest = MetadataWrite { key: vec![0xff; METADATA_KEY_BYTES_MAX], value: Some(vec![1]) };
    opened.store.insert_batch(&entries, std::slice::from_ref(&longest)).expect("just fits");
    assert_eq!(opened.store.metadata(&longest.key).expect("read"), longest.value);
    let found = opened.store.metadata_scan(&[0xff], None, 10).expect("read");
    assert_eq!(found.len(), 1);
}

pub(super) fn a_checkpoint_is_kept_and_a_prune_drops_it(bench: &Workbench) {
    let opened = bench.open();
    let mut writer = Writer::new(1);
    opened.store_all(&writer.entries(3));
    assert_eq!(opened.store.checkpoint().expect("read"), None);
    let checkpoint = |arrival, size| Checkpoint { arrival: Arrival(arrival), blob: vec![7; size] };
    for next in [checkpoint(1, 400_000), checkpoint(3, 0)] {
        opened.store.write_checkpoint(&next).expect("written");
        assert_eq!(opened.store.checkpoint().expect("read"), Some(next));
    }
    opened.store.prune(&[(writer.id(), AuthorSequence(1))], &[], &mut |_| {}).expect("pruned");
    assert_eq!(opened.store.checkpoint().expect("read"), None);
}
