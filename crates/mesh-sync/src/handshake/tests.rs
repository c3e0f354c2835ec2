use mesh_core::{ClusterName, VersionRange};
use proptest::prelude::*;

use super::{message::Claim, *};
use crate::{entry::DatasetId, queue::SendFailure};

fn us(name: &str, seed: u8) -> Us {
    Us {
        key: AuthorKey::from_seed([seed; 32]),
        terms: Terms {
            versions: VersionRange::new(1, 3),
            cluster: ClusterName::new("prod").expect("valid"),
            node: NodeId::new(name).expect("valid"),
            limits: Limits { bytes_per_second_max: 1_000_000 + u64::from(seed), ..Limits::default() },
            features: Features(1 | u64::from(seed) << 8),
        },
    }
}

fn offer(name: &str, digest: u8) -> Offer {
    Offer { dataset: DatasetId::new(name).expect("valid"), prune_digest: [digest; 32] }
}

fn nonce(n: u8) -> HandshakeNonce {
    HandshakeNonce([n; 32])
}

/// All messages of one handshake from `a` to `b`, and what both have at the end.
struct Run {
    messages: [Vec<u8>; 4],
    at_a: Established,
    at_b: Established,
}

fn run(a: Us, b: Us, expected: Option<AuthorId>, nonces: (u8, u8)) -> Result<Run, HandshakeError> {
    let wanted = vec![offer("notes", 1), offer("hidden", 2)];
    let (initiator, hello) = Initiator::begin(a, expected, wanted, nonce(nonces.0));
    let (responder, answer) = Responder::new(b).handle_hello(&hello, nonce(nonces.1))?;
    let (initiator, proof) = initiator.handle_answer(&answer)?;
    let proved = responder.handle_proof(&proof)?;
    let (at_b, verdict) = proved.grant(vec![offer("notes", 7), offer("secret", 8)]);
    let at_a = initiator.handle_verdict(&verdict)?;
    Ok(Run { messages: [hello, answer, proof, verdict], at_a, at_b })
}

fn is_proof(error: &HandshakeError) -> bool {
    matches!(error, HandshakeError::Proof { .. })
}

#[test]
fn both_know_each_other_at_the_end() {
    let (mut a, b) = (us("a", 1), us("b", 2));
    a.terms.versions = VersionRange::new(2, 9);
    let expected = Some(b.key.id());
    let Run { messages, at_a, at_b } = run(a.clone(), b.clone(), expected, (1, 2)).expect("holds");
    assert_eq!((at_a.author, at_b.author), (b.key.id(), a.key.id()));
    assert_eq!((at_a.node.as_str(), at_b.node.as_str()), ("b", "a"));
    assert_eq!((at_a.version.0, at_b.version.0), (3, 3));
    assert_eq!((at_a.limits, at_b.limits), (b.terms.limits, a.terms.limits));
    assert!(at_a.features.has(Features::ZSTD) && at_a.features == at_b.features);
    assert_eq!(at_a.datasets, [offer("notes", 7)], "with its digest, and nothing that was not asked for");
    assert_eq!(at_b.datasets, [offer("notes", 1)]);
    assert!(messages.iter().all(|message| message.len() < 400));
}

#[test]
fn nothing_is_listed_before_the_proof() {
    let names = ["notes", "hidden", "secret"];
    let run = run(us("a", 1), us("b", 2), None, (1, 2)).expect("holds");
    let has = |message: &[u8], name: &str| message.windows(name.len()).any(|part| part == name.as_bytes());
    for message in &run.messages[..2] {
        assert!(!names.iter().any(|name| has(message, name)));
    }
    assert!(has(&run.messages[2], "hidden") && !has(&run.messages[3], "secret"));
}

#[test]
fn replayed_messages_are_refused() {
    let (a, b) = (us("a", 1), us("b", 2));
    let old = run(a.clone(), b.clone(), None, (1, 2)).expect("holds").messages;
    // To the responder: the old hello is answered under a fresh nonce, which the old proof does not fit.
    let (responder, _) = Responder::new(b.clone()).handle_hello(&old[0], nonce(3)).expect("answers");
    assert!(is_proof(&responder.handle_proof(&old[2]).expect_err("replayed")));
    // To the initiator: the old answer does not fit the fresh hello.
    let (initiator, hello) = Initiator::begin(a, None, vec![], nonce(4));
    assert!(is_proof(&initiator.clone().handle_answer(&old[1]).expect_err("replayed")));
    // The old verdict neither.
    let (_, answer) = Responder::new(b).handle_hello(&hello, nonce(3)).expect("answers");
    let (initiator, _) = initiator.handle_answer(&answer).expect("holds");
    assert!(is_proof(&initiator.handle_verdict(&old[3]).expect_err("replayed")));
}

#[test]
fn reflected_messages_are_refused() {
    let a = us("a", 1);
    let (initiator, hello) = Initiator::begin(a.clone(), None, vec![], nonce(1));
    let error = Responder::new(a.clone()).handle_hello(&hello, nonce(2)).expect_err("our own");
    assert_eq!(error, HandshakeError::OurOwnKey(a.key.id()));
    let error = initiator.clone().handle_answer(&hello).expect_err("our own");
    assert!(matches!(error, HandshakeError::Unexpected { found: "a hello", .. }));
    // Our answer as a responder, to a hello of someone in between, comes back to us as initiator.
    let (_, answer) = Responder::new(a)
        .handle_hello(&Initiator::begin(us("m", 9), None, vec![], nonce(1)).1, nonce(2))
        .expect("answers");
    assert!(matches!(initiator.handle_answer(&answer).expect_err("our own"), HandshakeError::OurOwnKey(_)));
    // The signature of a proof, as that of a verdict over the same bytes, has another context.
    let messages = run(us("a", 1), us("b", 2), None, (1, 2)).expect("holds").messages;
    for (at, message) in messages.iter().enumerate() {
        let (initiator, hello) =
            Initiator::begin(us("a", 1), None, vec![offer("notes", 1), offer("hidden", 2)], nonce(1));
        let (responder, answer) = Responder::new(us("b", 2)).handle_hello(&hello, nonce(2)).expect("answers");
        assert_eq!(responder.handle_proof(message).is_ok(), at == 2);
        let (initiator, _) = initiator.handle_answer(&answer).expect("holds");
        assert_eq!(initiator.handle_verdict(message).is_ok(), at == 3);
    }
}

#[test]
fn a_server_in_between_can_use_nobodys_signature() {
    let (a, b, m) = (us("a", 1), us("b", 2), us("m", 9));
    // a looks for b and reaches m, who answers for itself.
    let (initiator, hello) = Initiator::begin(a.clone(), Some(b.key.id()), vec![], nonce(1));
    let error = Responder::new(m.clone()).handle_hello(&hello, nonce(2)).expect_err("m is honest here");
    assert_eq!(error, HandshakeError::WrongPeer { expected: b.key.id(), found: m.key.id() });
    let (_, for_m) = Initiator::begin(a.clone(), Some(m.key.id()), vec![], nonce(1));
    let (_, from_m) = Responder::new(m.clone()).handle_hello(&for_m, nonce(2)).expect("answers");
    let error = initiator.clone().handle_answer(&from_m).expect_err("wrong server");
    assert_eq!(error, HandshakeError::WrongPeer { expected: b.key.id(), found: m.key.id() });
    // a talks to m, who hands all of it on to b: b sees that a looks for m.
    let error = Responder::new(b.clone()).handle_hello(&for_m, nonce(2)).expect_err("not for b");
    assert_eq!(error, HandshakeError::WrongPeer { expected: m.key.id(), found: b.key.id() });
    // Without an expectation, m's own hello to b gets an answer that a refuses, since it is not over a's hello.
    let (initiator, _) = Initiator::begin(a, None, vec![], nonce(1));
    let (_, from_b) = Responder::new(b)
        .handle_hello(&Initiator::begin(m, None, vec![], nonce(1)).1, nonce(2))
        .expect("answers");
    assert!(is_proof(&initiator.handle_answer(&from_b).expect_err("not over our hello")));
}

#[test]
fn another_cluster_is_refused_by_both() {
    let (a, mut b) = (us("a", 1), us("b", 2));
    b.terms.cluster = ClusterName::new("staging").expect("valid");
    let error = run(a.clone(), b.clone(), None, (1, 2)).err().expect("another cluster");
    assert_eq!(error.refusal(), Some(Refusal::Cluster));
    // A responder that does not look: the initiator does.
    let (initiator, hello) = Initiator::begin(a, None, vec![], nonce(1));
    let mut careless = b.clone();
    careless.terms.cluster = ClusterName::new("prod").expect("valid");
    let (_, answer) = Responder::new(careless).handle_hello(&hello, nonce(2)).expect("answers");
    let Ok(Message::Answer(mut answer)) = Message::decode(&answer) else { panic!("an answer") };
    answer.terms.cluster = b.terms.cluster;
    let error = initiator.handle_answer(&answer.encode()).expect_err("another cluster");
    assert!(matches!(error, HandshakeError::Cluster { .. }));
}

#[test]
fn versions_without_overlap_name_both_ranges_and_are_permanent() {
    let (mut a, b) = (us("a", 1), us("b", 2));
    a.terms.versions = VersionRange::new(4, 5);
    let error = run(a, b, None, (1, 2)).err().expect("no common version");
    assert!(error.to_string().contains("1..=3") && error.to_string().contains("4..=5"), "{error}");
    assert_eq!(error.refusal(), Some(Refusal::Version));
    assert!(matches!(error.send_failure(), SendFailure::Version(_)));
}

#[test]
fn an_initiator_is_kept_to_the_datasets_that_it_began_with() {
    let (initiator, hello) = Initiator::begin(us("a", 1), None, vec![offer("notes", 1)], nonce(1));
    let (responder, answer) = Responder::new(us("b", 2)).handle_hello(&hello, nonce(2)).expect("answers");
    let mut changed = initiator;
    changed.offers = vec![offer("other", 1)];
    let (_, proof) = changed.handle_answer(&answer).expect("holds");
    let error = responder.clone().handle_proof(&proof).expect_err("changed");
    assert_eq!(error, HandshakeError::Datasets { author: us("a", 1).key.id() });
    assert!(
        responder
            .handle_proof(&Refusal::Busy.encode())
            .is_err_and(|error| error == HandshakeError::Refused(Refusal::Busy))
    );
}

#[test]
fn refusals_say_whether_to_try_again() {
    for refusal in [
        Refusal::Malformed,
        Refusal::Version,
        Refusal::Cluster,
        Refusal::WrongPeer,
        Refusal::Proof,
        Refusal::Access,
        Refusal::Busy,
    ] {
        assert_eq!(Message::decode(&refusal.encode()), Ok(Message::Refusal(refusal)));
    }
    let failure = |refusal| HandshakeError::Refused(refusal).send_failure();
    assert!(matches!(failure(Refusal::Busy), SendFailure::Busy(_)));
    assert!(matches!(failure(Refusal::Access), SendFailure::Refused(_)));
    assert!(matches!(failure(Refusal::Proof), SendFailure::Authentication(_)));
}

#[test]
fn a_claim_is_worth_nothing_elsewhere() {
    let node = |name: &str| NodeId::new(name).expect("valid");
    let mut a = Claimant::dialled(us("a", 1), [9; 32], node("b"));
    let mut b = Claimant::accepted(us("b", 2), [9; 32], node("a"));
    let claim = a.claim(vec![offer("notes", 1)]);
    assert_eq!(b.check(&claim).expect("holds").datasets, [offer("notes", 1)]);

    let elsewhere = Claimant::accepted(us("b", 2), [8; 32], node("a"));
    assert!(is_proof(&elsewhere.check(&claim).expect_err("another channel")));
    let dialled = Claimant::dialled(us("c", 3), [9; 32], node("a"));
    assert!(is_proof(&dialled.check(&claim).expect_err("sent by the wrong side")));
    assert!(matches!(a.check(&claim).expect_err("reflected"), HandshakeError::OurOwnKey(_)));
    let certified = Claimant::accepted(us("b", 2), [9; 32], node("m"));
    let error = certified.check(&claim).expect_err("another certificate");
    assert_eq!(error.refusal(), Some(Refusal::WrongPeer));
    let mut staging = us("b", 2);
    staging.terms.cluster = ClusterName::new("staging").expect("valid");
    let error = Claimant::accepted(staging, [9; 32], node("a")).check(&claim).expect_err("cluster");
    assert!(matches!(error, HandshakeError::Cluster { .. }));
    let more = b.claim(vec![offer("notes", 1), offer("unasked", 1)]);
    assert!(matches!(a.check(&more).expect_err("not asked for"), HandshakeError::Datasets { .. }));
    for at in 0..claim.len() {
        let mut flipped = claim.clone();
        flipped[at] ^= 1;
        assert!(b.check(&flipped).is_err() && b.check(&claim[..at]).is_err(), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_anywhere_ends_the_handshake() {
    let wanted = vec![offer("notes", 1)];
    let (initiator, hello) = Initiator::begin(us("a", 1), None, wanted, nonce(1));
    let (responder, answer) = Responder::new(us("b", 2)).handle_hello(&hello, nonce(2)).expect("answers");
    let (waiting, proof) = initiator.clone().handle_answer(&answer).expect("holds");
    let (_, verdict) = responder.clone().handle_proof(&proof).expect("holds").grant(vec![offer("notes", 7)]);
    let flip = |bytes: &[u8], at: usize| {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        flipped
    };
    for at in 0..hello.len() {
        // The responder may answer, but what it signs is not what the initiator said.
        if let Ok((_, answer)) = Responder::new(us("b", 2)).handle_hello(&flip(&hello, at), nonce(2)) {
            assert!(initiator.clone().handle_answer(&answer).is_err(), "hello byte {at}");
        }
    }
    for at in 0..answer.len() {
        assert!(initiator.clone().handle_answer(&flip(&answer, at)).is_err(), "answer byte {at}");
    }
    for at in 0..proof.len() {
        assert!(responder.clone().handle_proof(&flip(&proof, at)).is_err(), "proof byte {at}");
    }
    for at in 0..verdict.len() {
        assert!(waiting.clone().handle_verdict(&flip(&verdict, at)).is_err(), "verdict byte {at}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), tag in 0_u8..7) {
        let _ = Message::decode(&bytes);
        let _ = Message::decode(&[&[tag][..], &bytes].concat());
    }

    #[test]
    fn what_is_written_is_read(names in prop::collection::btree_set("[a-z]{1,20}", 0..20), n in any::<u8>()) {
        let offers: Vec<_> = names.iter().map(|name| offer(name, n)).collect();
        let claim = Claim { terms: us("a", n).terms, author: AuthorId([n; 32]), offers, signature: [n; 64] };
        prop_assert_eq!(Message::decode(&claim.encode()), Ok(Message::Claim(claim)));
    }
}
