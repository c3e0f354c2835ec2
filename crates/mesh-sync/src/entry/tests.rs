//! The encoding: what comes out is what went in, and nothing else is taken.

use bytes::Bytes;
use mesh_core::Hlc;
use proptest::prelude::*;

use super::*;

fn collection() -> Collection {
    Collection::new("things").expect("valid")
}

fn author() -> Author {
    Author::new(AuthorKey::from_seed([3; 32]), DatasetId::new("d").expect("valid"), AuthorSequence(9))
}

fn sample() -> Verified {
    let draft = Draft::put(&collection(), "key", "payload").after([EntryId([9; 32]), EntryId([1; 32])]);
    author().sign(draft, Hlc::from_bits(77)).expect("signed")
}

fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
    Entry::decode(Bytes::copy_from_slice(bytes))
}

#[test]
fn an_entry_says_what_its_author_said() {
    let entry = sample();
    assert_eq!(entry.dataset().as_str(), "d");
    assert_eq!(entry.author(), author().id());
    assert_eq!(entry.sequence(), AuthorSequence(9));
    assert_eq!(entry.hlc(), Hlc::from_bits(77));
    assert_eq!(entry.parents().collect::<Vec<_>>(), [EntryId([1; 32]), EntryId([9; 32])]);
    assert_eq!((entry.kind(), entry.collection()), (Kind::Put, &collection()));
    assert_eq!((entry.key(), &entry.payload()[..]), (&b"key"[..], &b"payload"[..]));
}

#[test]
fn the_id_is_the_hash_of_everything_before_the_signature() {
    let entry = sample();
    let bytes = entry.encoded();
    assert_eq!(entry.id().as_bytes(), blake3::hash(&bytes[..bytes.len() - 64]).as_bytes());
}

#[test]
fn the_encoding_stays_as_it_is() {
    let author = author().id();
    let by_hand = [
        &[1, 1, 1][..],
        b"d",
        author.as_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 77, 2],
        &[1; 32],
        &[9; 32],
        &[6],
        b"things",
        &[0, 3],
        b"key",
        &[0, 0, 0, 7],
        b"payload",
    ];
    let (by_hand, entry) = (by_hand.concat(), sample());
    assert_eq!(entry.encoded()[..entry.encoded().len() - 64], by_hand);
    // A change of this name makes every entry that exists unreadable to others.
    let pinned = "7e656ee6555fcaca12ed4f5941c580bd321f2bae90b69a3a419cabe7795c6871";
    assert_eq!(entry.id().to_string(), pinned);
}

#[test]
fn any_flipped_bit_is_refused() {
    let bytes = sample().encoded().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = match decode(&flipped) {
            Err(_) => true,
            Ok(entry) => verify(entry).is_err(),
        };
        assert!(refused, "bit {bit} can be flipped");
    }
}

#[test]
fn an_entry_that_is_cut_or_has_more_is_refused() {
    let bytes = sample().encoded().to_vec();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length} bytes are enough");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(decode(&longer), Err(DecodeError::Trailing { bytes: 1 }));
}

#[test]
fn forms_that_no_author_makes_are_refused() {
    let bytes = sample().encoded().to_vec();
    let parents = 2 + 2 + 32 + 16 + 1;
    let mut swapped = bytes.clone();
    swapped[parents] = 0xff;
    assert_eq!(decode(&swapped), Err(DecodeError::Parents));
    let mut twice = bytes.clone();
    twice.copy_within(parents..parents + 32, parents + 32);
    assert_eq!(decode(&twice), Err(DecodeError::Parents));
    let mut zero = bytes.clone();
    zero[4 + 32..4 + 32 + 8].fill(0);
    assert_eq!(decode(&zero), Err(DecodeError::SequenceZero));
    let mut delete = bytes.clone();
    delete[1] = Kind::Delete.code();
    assert_eq!(decode(&delete), Err(DecodeError::DeleteWithPayload { bytes: 7 }));
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(decode(&newer), Err(DecodeError::Version { found: 2 }));
}

#[test]
fn limits_are_kept_and_a_refused_draft_uses_no_number() {
    let mut author = author();
    let large = vec![0; PAYLOAD_BYTES_MAX];
    let largest_key = vec![0; KEY_BYTES_MAX];
    let parents = |count: usize| (0..count).map(|n| EntryId([u8::try_from(n).expect("small"); 32]));
    let draft = Draft::put(&collection(), largest_key.clone(), large.clone()).after(parents(PARENTS_MAX));
    let entry = author.sign(draft, Hlc::from_bits(1)).expect("just fits");
    assert!(entry.encoded().len() <= ENTRY_BYTES_MAX);
    assert!(decode(entry.encoded()).is_ok());
    for draft in [
        Draft::put(&collection(), "k", vec![0; PAYLOAD_BYTES_MAX + 1]),
        Draft::put(&collection(), vec![0; KEY_BYTES_MAX + 1], "v"),
        Draft::put(&collection(), "k", "v").after(parents(PARENTS_MAX + 1)),
    ] {
        assert!(matches!(author.sign(draft, Hlc::from_bits(2)), Err(DraftError::TooLong { .. })));
    }
    assert_eq!(author.next_sequence(), Some(AuthorSequence(10)));
}

#[test]
fn a_name_that_is_longer_than_its_limit_is_refused_when_it_is_read() {
    let mut bytes = vec![FORMAT_VERSION, 1, 64];
    bytes.extend([b'a'; 64]);
    assert!(matches!(decode(&bytes), Err(DecodeError::Name(_))));
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Put), Just(Kind::Delete), Just(Kind::Blob)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn what_comes_out_is_what_went_in(
        kind in kinds(),
        key in proptest::collection::vec(any::<u8>(), 0..=KEY_BYTES_MAX),
        payload in proptest::collection::vec(any::<u8>(), 0..2000),
        parents in proptest::collection::btree_set(any::<[u8; 32]>(), 0..=PARENTS_MAX),
        seed in any::<[u8; 32]>(),
        sequence in 1..=u64::MAX,
        hlc in any::<u64>(),
    ) {
        let dataset = DatasetId::new("data.set-1").expect("valid");
        let mut author = Author::new(AuthorKey::from_seed(seed), dataset.clone(), AuthorSequence(sequence));
        let (draft, payload) = match kind {
            Kind::Put => (Draft::put(&collection(), key.clone(), payload.clone()), payload),
            Kind::Blob => (Draft::blob(&collection(), key.clone(), payload.clone()), payload),
            Kind::Delete => (Draft::delete(&collection(), key.clone()), Vec::new()),
        };
        let parents: Vec<EntryId> = parents.into_iter().map(EntryId).collect();
        let draft = draft.after(parents.iter().rev().copied());
        let made = author.sign(draft, Hlc::from_bits(hlc)).expect("within limits");
        let read = verify(Entry::decode(made.encoded().clone()).expect("decodes")).expect("verifies");
        prop_assert_eq!(read.encoded(), made.encoded());
        prop_assert_eq!(read.item(), made.item());
        prop_assert_eq!((read.kind(), read.dataset()), (kind, &dataset));
        prop_assert_eq!(read.parents().collect::<Vec<_>>(), parents);
        prop_assert_eq!((read.key(), &read.payload()[..]), (&key[..], &payload[..]));
        prop_assert_eq!((read.sequence().0, read.hlc().to_bits()), (sequence, hlc));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes);
        let begins = [&[FORMAT_VERSION, 1, 1, b'd'][..], &bytes].concat();
        if let Ok(entry) = decode(&begins) {
            prop_assert!(verify(entry).is_err());
        }
    }

    #[test]
    fn an_entry_with_some_bytes_changed_is_refused(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let original = sample().encoded().to_vec();
        let mut bytes = original.clone();
        changes.iter().for_each(|(at, with)| bytes[at.index(original.len())] ^= with);
        if bytes != original && let Ok(entry) = decode(&bytes) {
            prop_assert!(verify(entry).is_err());
        }
    }
}
