use std::io::Cursor;

use proptest::prelude::*;

use super::{manifest::fanout, *};
use crate::entry::PAYLOAD_BYTES_MAX;

const SMALL: u32 = CHUNK_BYTES_MIN;

fn payload(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(b"payload").finalize_xof().fill(&mut out);
    out
}

fn fetch(from: &dyn ChunkStore, to: &dyn ChunkStore, wanted: &Wanted) {
    let content = from.get(wanted.id).expect("memory").expect("it was split");
    wanted.check(&content).expect("right");
    to.put(wanted.id, &content).expect("memory");
}

#[test]
fn any_length_is_split_and_put_together() {
    for bytes in [0, 1, SMALL as usize - 1, SMALL as usize, SMALL as usize + 1, 3 * SMALL as usize + 7] {
        let (payload, store) = (payload(bytes), MemoryChunks::default());
        let manifest = split(&mut &payload[..], SMALL, &store).expect("split");
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        assert_eq!((manifest.bytes(), manifest.levels()), (bytes as u64, 0));
        let mut written = Vec::new();
        assemble(&manifest, &store, &mut written).expect("whole");
        assert!(written == payload);
    }
}

/// A reader that gives little at once and counts.
struct Slow(Cursor<Vec<u8>>);

impl std::io::Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let limit = buffer.len().min(777);
        self.0.read(&mut buffer[..limit])
    }
}

#[test]
fn short_reads_make_the_same_chunks() {
    let payload = payload(100_000);
    let store = MemoryChunks::default();
    let one = split(&mut &payload[..], SMALL, &store).expect("split");
    let other = split(&mut Slow(Cursor::new(payload)), SMALL, &store).expect("split");
    assert_eq!(one, other);
}

#[test]
fn a_long_payload_gets_levels_of_lists_and_is_fetched_through_them() {
    // 513 chunks are one more than a manifest of chunks of 16 KiB names.
    let bytes = (fanout(SMALL) as usize + 1) * SMALL as usize - 5;
    let (payload, ours, theirs) = (payload(bytes), MemoryChunks::default(), MemoryChunks::default());
    let manifest = split(&mut &payload[..], SMALL, &ours).expect("split");
    assert_eq!((manifest.levels(), manifest.chunks()), (1, 513));
    assert!(manifest.encode().len() < 100);

    let lists = missing(&manifest, &theirs, MissingFrom::START, 1000).expect("memory");
    assert_eq!(
        lists.wanted.iter().map(|wanted| (wanted.kind, wanted.bytes)).collect::<Vec<_>>(),
        [(ChunkKind::List, 512 * 32), (ChunkKind::List, 32)]
    );
    lists.wanted.iter().for_each(|wanted| fetch(&ours, &theirs, wanted));
    let (mut from, mut fetched) = (MissingFrom::START, 0);
    loop {
        let found = missing(&manifest, &theirs, from, 100).expect("memory");
        fetched += found.wanted.len();
        found.wanted.iter().for_each(|wanted| fetch(&ours, &theirs, wanted));
        let Some(next) = found.next else { break };
        from = next;
    }
    assert_eq!(fetched, 513);
    let mut written = Vec::new();
    assemble(&manifest, &theirs, &mut written).expect("whole");
    assert!(written == payload);

    // A list that decays without changing its length must not shorten the payload.
    theirs.map().get_mut(&lists.wanted[1].id).expect("there")[0] ^= 1;
    let error = assemble(&manifest, &theirs, &mut std::io::sink()).expect_err("decayed");
    assert!(matches!(error, BlobError::Missing(missing) if missing == lists.wanted[1]));
    let found = missing(&manifest, &theirs, MissingFrom::START, 9).expect("memory");
    assert_eq!(found.wanted, lists.wanted[1..]);
}

#[test]
fn hostile_manifests_are_refused() {
    let refused = |bytes: u64, chunk_bytes: u32, ids: usize| {
        Manifest::new(bytes, chunk_bytes, vec![ChunkId([1; 32]); ids]).expect_err("hostile")
    };
    for chunk_bytes in [0, 1, SMALL - 1, SMALL + 1, SMALL / 2, CHUNK_BYTES_MAX * 2, u32::MAX] {
        assert_eq!(refused(1, chunk_bytes, 1), ManifestError::ChunkBytes { found: chunk_bytes });
    }
    // More chunks than the length takes would overlap, fewer would leave a gap.
    let count = |bytes, found, expected| ManifestError::Count { bytes, found, expected };
    assert_eq!(refused(100_000, SMALL, 8), count(100_000, 8, 7));
    assert_eq!(refused(100_000, SMALL, 6), count(100_000, 6, 7));
    assert_eq!(refused(0, SMALL, 1), count(0, 1, 0));
    assert_eq!(refused(u64::MAX, SMALL, 1), ManifestError::Levels { bytes: u64::MAX, levels: 5 });
    let largest = Manifest::new(u64::MAX, CHUNK_BYTES_MAX, Vec::new()).expect_err("too few");
    assert_eq!(largest, ManifestError::Levels { bytes: u64::MAX, levels: 3 });
    assert!(Manifest::decode(&[1, 0, 0x80]).is_err());
    let full = Manifest::new(
        u64::from(CHUNK_BYTES_MAX) * fanout(CHUNK_BYTES_MAX),
        CHUNK_BYTES_MAX,
        vec![ChunkId([1; 32]); 16_384],
    );
    assert!(full.expect("full").encode().len() <= PAYLOAD_BYTES_MAX);
}

#[test]
fn data_is_never_taken_for_a_list_nor_a_wrong_length() {
    let content = payload(64);
    assert_ne!(ChunkId::of(ChunkKind::Data, &content), ChunkId::of(ChunkKind::List, &content));
    let wanted = Wanted { id: ChunkId::of(ChunkKind::Data, &content), kind: ChunkKind::Data, bytes: 63 };
    assert!(wanted.check(&content).expect_err("length").to_string().contains("should have 63"));
    let wanted = Wanted { kind: ChunkKind::List, bytes: 64, ..wanted };
    assert!(wanted.check(&content).is_err());
}

#[test]
fn what_decayed_counts_as_missing_when_it_is_read() {
    let (payload, store) = (payload(50_000), MemoryChunks::default());
    let manifest = split(&mut &payload[..], SMALL, &store).expect("split");
    let wanted = *store.map().keys().next().expect("chunks");
    store.map().get_mut(&wanted).expect("there")[3] ^= 1;
    let error = assemble(&manifest, &store, &mut Vec::new()).expect_err("decayed");
    assert!(matches!(error, BlobError::Missing(missing) if missing.id == wanted));
}

#[test]
fn chunks_that_no_manifest_names_go() {
    let store = MemoryChunks::default();
    let kept = split(&mut &payload(9_000_000)[..], SMALL, &store).expect("split");
    assert_eq!(kept.levels(), 1);
    let dropped = split(&mut &payload(40_000)[5..], SMALL, &store).expect("split");
    let collected = collect_garbage([&kept], &store, WallTime(1)).expect("memory");
    assert_eq!(collected, Collected { named: 550 + 2, new: 0, removed: dropped.chunks() });
    assemble(&kept, &store, &mut std::io::sink()).expect("whole");
}

#[cfg(feature = "chunks")]
mod folder {
    use super::*;

    #[test]
    fn chunks_in_a_folder_survive_reopening_and_torn_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let payload = payload(100_000);
        let store = FolderChunks::open(folder.path()).expect("opens");
        let manifest = split(&mut &payload[..], SMALL, &store).expect("split");
        assert!(FolderChunks::open(folder.path()).is_err(), "one process at a time");
        drop(store);
        // A write that a crash cut short, a file that a broken disk cut short, and something strange.
        std::fs::write(folder.path().join("00/.abc.tmp"), b"torn").expect("written");
        std::fs::write(folder.path().join("00/strange"), b"?").expect("written");
        let store = FolderChunks::open(folder.path()).expect("opens");
        assert!(!folder.path().join("00/.abc.tmp").exists());
        let mut written = Vec::new();
        assemble(&manifest, &store, &mut written).expect("whole");
        assert!(written == payload);

        let first =
            missing(&manifest, &MemoryChunks::default(), MissingFrom::START, 1).expect("memory").wanted[0];
        let name = first.id.to_string();
        std::fs::write(folder.path().join(&name[..2]).join(&name[2..]), &payload[..9]).expect("cut short");
        let found = missing(&manifest, &store, MissingFrom::START, 9).expect("reads");
        assert_eq!(found, Missing { wanted: vec![first], next: None });
        store.put(first.id, &payload[..SMALL as usize]).expect("again");
        assert!(missing(&manifest, &store, MissingFrom::START, 9).expect("reads").wanted.is_empty());
    }

    #[test]
    fn a_collection_leaves_what_is_new() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = FolderChunks::open(folder.path()).expect("opens");
        let manifest = split(&mut &payload(100_000)[..], SMALL, &store).expect("split");
        let new = collect_garbage([], &store, WallTime(1)).expect("reads");
        assert_eq!(new, Collected { named: 0, new: 7, removed: 0 });
        let named = collect_garbage([&manifest], &store, WallTime(u64::MAX)).expect("reads");
        assert_eq!(named, Collected { named: 7, new: 0, removed: 0 });
        let old = collect_garbage([], &store, WallTime(u64::MAX)).expect("reads");
        assert_eq!(old, Collected { named: 0, new: 0, removed: 7 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever chunks are there already, the others are fetched, each once, in steps of any size.
    #[test]
    fn a_payload_is_resumed_from_any_set_of_chunks(there in any::<u32>(), limit in 1_usize..9) {
        let (payload, ours, theirs) = (payload(20 * SMALL as usize + 3), MemoryChunks::default(), MemoryChunks::default());
        let manifest = split(&mut &payload[..], SMALL, &ours).expect("split");
        let all = missing(&manifest, &theirs, MissingFrom::START, 100).expect("memory").wanted;
        prop_assert_eq!(all.len(), 21);
        for (n, wanted) in all.iter().enumerate().filter(|(n, _)| there & (1 << n) != 0) {
            prop_assert!(n < 32);
            fetch(&ours, &theirs, wanted);
        }
        let (mut from, mut fetched) = (Some(MissingFrom::START), 0);
        while let Some(next) = from {
            let found = missing(&manifest, &theirs, next, limit).expect("memory");
            prop_assert!(found.wanted.len() <= limit);
            fetched += found.wanted.len();
            found.wanted.iter().for_each(|wanted| fetch(&ours, &theirs, wanted));
            from = found.next;
        }
        prop_assert_eq!(fetched, 21 - (there & ((1 << 21) - 1)).count_ones() as usize);
        let mut written = Vec::new();
        assemble(&manifest, &theirs, &mut written).expect("whole");
        prop_assert!(written == payload);
    }

    #[test]
    fn no_bytes_make_reading_a_manifest_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::decode(&bytes);
        let _ = Manifest::decode(&[&[1][..], &bytes].concat());
    }
}
