//! Single and batch agree, on honest entries and on the encodings with which libraries disagree.

use bytes::Bytes;
use curve25519_dalek::{
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
};
use mesh_core::Hlc;
use sha2::{Digest, Sha512};

use super::*;
use crate::entry::{
    Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, points::SMALL_ORDER_Y, signed_message,
};

fn honest(seed: u8, count: usize) -> Vec<Entry> {
    let dataset = DatasetId::new("d").expect("valid");
    let mut author = Author::new(AuthorKey::from_seed([seed; 32]), dataset, AuthorSequence::FIRST);
    let collection = Collection::new("c").expect("valid");
    let mut one = |n| author.sign(Draft::put(&collection, "k", vec![seed; n]), Hlc::from_bits(n as u64));
    (0..count).map(|n| one(n).expect("signed").into_entry()).collect()
}

/// An entry with another author's key and another signature.
fn forged(author: &[u8; 32], sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Entry {
    let mut bytes = honest(1, 1)[0].encoded().to_vec();
    bytes[4..36].copy_from_slice(author);
    let unsigned = Entry::decode(Bytes::from(bytes.clone())).expect("the form is right");
    let signature = sign(&signed_message(unsigned.id()));
    let at = bytes.len() - 64;
    bytes[at..].copy_from_slice(&signature);
    Entry::decode(Bytes::from(bytes)).expect("the form is right")
}

fn joined(r: &[u8; 32], s: &[u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(r);
    signature[32..].copy_from_slice(s);
    signature
}

/// The same as `verify` says, from a batch that has honest entries too.
fn in_batch(entry: &Entry) -> Result<(), SignatureError> {
    let mut entries = honest(2, 7);
    entries.insert(3, entry.clone());
    let mut outcomes = verify_batch(entries);
    let outcome = outcomes.remove(3).map(|_| ());
    assert!(outcomes.iter().all(Result::is_ok), "a bad entry has spoilt another's outcome");
    outcome
}

fn alone(entry: &Entry) -> Result<(), SignatureError> {
    verify(entry.clone()).map(|_| ())
}

/// Every encoding that ZIP 215 takes for a point of small order: y and, where it fits, y + p, with either sign.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let mut encodings = Vec::new();
    for y in SMALL_ORDER_Y {
        let mut ys = vec![y];
        if y[1..] == [0; 31] && y[0] < 19 {
            let mut above = [0xff; 32];
            above[0] = 0xed + y[0];
            above[31] = 0x7f;
            ys.push(above);
        }
        for y in ys {
            let mut negative = y;
            negative[31] |= 0x80;
            encodings.extend([y, negative]);
        }
    }
    encodings
}

#[test]
fn there_are_fourteen_encodings_of_small_order_and_all_are_found() {
    let encodings = small_order_encodings();
    assert_eq!(encodings.len(), 14);
    for encoding in &encodings {
        let point = CompressedEdwardsY(*encoding).decompress().expect("ZIP 215 takes it");
        assert!(point.is_small_order());
        assert!(points::check(encoding).is_err());
    }
    let canonical = EIGHT_TORSION.map(|point| point.compress().to_bytes());
    assert!(canonical.iter().all(|point| points::check(point) == Err(PointError::SmallOrder)));
    assert!(canonical.iter().all(|point| encodings.contains(point)));
}

#[test]
fn single_and_batch_agree_on_the_vectors_of_zip_215() {
    let zero = [0; 32];
    let mut batch_of_all = Vec::new();
    for key in small_order_encodings() {
        for r in small_order_encodings() {
            let entry = forged(&key, |message| {
                // Without our gate every one of them holds, for any message.
                let key = VerificationKey::try_from(key).expect("ZIP 215 takes it");
                key.verify(&Signature::from_bytes(&joined(&r, &zero)), message).expect("ZIP 215 takes it");
                joined(&r, &zero)
            });
            let outcome = alone(&entry);
            assert!(matches!(outcome, Err(SignatureError::Key(_))), "{outcome:?}");
            assert_eq!(in_batch(&entry), outcome);
            batch_of_all.push(entry);
        }
    }
    assert_eq!(batch_of_all.len(), 196);
    assert!(verify_batch(batch_of_all).iter().all(Result::is_err));
}

#[test]
fn a_commitment_of_small_order_is_refused_under_an_honest_key_in_both() {
    for seed in 1..=3 {
        let key = AuthorKey::from_seed([seed; 32]);
        for r in small_order_encodings() {
            let entry = forged(key.id().as_bytes(), |_| joined(&r, &[0; 32]));
            assert!(matches!(alone(&entry), Err(SignatureError::Commitment(_))));
            assert_eq!(in_batch(&entry), alone(&entry));
        }
    }
}

fn scalar(label: &[u8]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Sha512::digest(label).into())
}

/// A signature by a key and with a commitment that have a part of small order each. The rule of ZIP 215 takes it;
/// one without the cofactor does not.
fn of_mixed_order(torsion_of_key: EdwardsPoint, torsion_of_r: EdwardsPoint) -> Entry {
    let (a, r) = (scalar(b"a"), scalar(b"r"));
    let key = (ED25519_BASEPOINT_POINT * a + torsion_of_key).compress().to_bytes();
    let commitment = (ED25519_BASEPOINT_POINT * r + torsion_of_r).compress().to_bytes();
    forged(&key, |message| {
        let k = Sha512::new().chain_update(commitment).chain_update(key).chain_update(message).finalize();
        let s = r + Scalar::from_bytes_mod_order_wide(&k.into()) * a;
        joined(&commitment, &s.to_bytes())
    })
}

#[test]
fn single_and_batch_agree_on_points_of_mixed_order() {
    for key in EIGHT_TORSION {
        for r in EIGHT_TORSION {
            let entry = of_mixed_order(key, r);
            assert_eq!(alone(&entry), Ok(()));
            assert_eq!(in_batch(&entry), Ok(()));
        }
    }
}

#[test]
fn a_scalar_that_is_not_reduced_is_refused_in_both() {
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let entry = honest(1, 1).remove(0);
    let mut bytes = entry.encoded().to_vec();
    let at = bytes.len() - 32;
    let mut carry = 0_u16;
    for (byte, add) in bytes[at..].iter_mut().zip(order) {
        carry += u16::from(*byte) + add;
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    let entry = Entry::decode(Bytes::from(bytes)).expect("the form is right");
    assert_eq!(alone(&entry), Err(SignatureError::Invalid));
    assert_eq!(in_batch(&entry), Err(SignatureError::Invalid));
}

#[test]
fn a_key_that_is_no_point_is_refused_in_both() {
    let is_point = |y: u8| {
        let mut key = [0; 32];
        key[0] = y;
        (key, CompressedEdwardsY(key).decompress().is_some())
    };
    let (key, _) = (2..100).map(is_point).find(|(_, is_point)| !is_point).expect("half of them are none");
    let entry = forged(&key, |_| joined(&[9; 32], &[0; 32]));
    assert_eq!(alone(&entry), Err(SignatureError::Invalid));
    assert_eq!(in_batch(&entry), Err(SignatureError::Invalid));
}

#[test]
fn each_entry_of_a_batch_gets_its_own_outcome() {
    let bad = |entry: &Entry| {
        let mut bytes = entry.encoded().to_vec();
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        Entry::decode(Bytes::from(bytes)).expect("the form is right")
    };
    for count in [0, 1, 3, 4, 33, 100] {
        for every in [1, 2, 7, 50, 1000] {
            let entries: Vec<Entry> =
                (0..count).map(|n| honest(u8::try_from(n % 5).expect("small"), 1)[0].clone()).collect();
            let mixed: Vec<Entry> = entries
                .iter()
                .enumerate()
                .map(|(n, e)| if n % every == every - 1 { bad(e) } else { e.clone() })
                .collect();
            let expected: Vec<_> = mixed.iter().map(alone).collect();
            let found: Vec<_> = verify_batch(mixed).into_iter().map(|outcome| outcome.map(|_| ())).collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_signature_under_another_context_is_none_for_an_entry() {
    let key = ed25519_zebra::SigningKey::from([5; 32]);
    let public: [u8; 32] = key.verification_key().into();
    let entry = forged(&public, |message| key.sign(&message[message.len() - 32..]).to_bytes());
    assert_eq!(alone(&entry), Err(SignatureError::Invalid));
    let entry = forged(&public, |message| key.sign(message).to_bytes());
    assert_eq!(alone(&entry), Ok(()));
}

#[test]
fn a_message_is_signed_for_one_context_and_is_no_entry() {
    let key = AuthorKey::from_seed([5; 32]);
    let signature = key.sign_message("handshake", b"nonce");
    let check = |context, message: &[u8]| verify_message(&key.id(), context, message, &signature);
    assert_eq!(check("handshake", b"nonce"), Ok(()));
    assert_eq!(check("handshak", b"enonce"), Err(SignatureError::Invalid));
    assert_eq!(check("handshake", b"other"), Err(SignatureError::Invalid));
    let entry = forged(key.id().as_bytes(), |message| key.sign_message("", message));
    assert_eq!(alone(&entry), Err(SignatureError::Invalid));
    let small = AuthorId(SMALL_ORDER_Y[0]);
    let refused = verify_message(&small, "handshake", b"nonce", &signature);
    assert_eq!(refused, Err(SignatureError::Key(PointError::SmallOrder)));
}
