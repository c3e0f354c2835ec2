//! Stories of the state, by hand.

use std::time::Duration;

use mesh_core::{
    FencingToken, NodeId,
    store::{Change, Compare, DeleteCause, IdempotencyKey, Operation, Txn, TxnOutcome},
};

use super::*;

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn node(text: &str) -> NodeId {
    text.parse().expect("a node id")
}

fn txn() -> Txn {
    Txn::new(node("n1"))
}

fn put(k: &str, value: &'static str) -> Operation {
    Operation::Put { key: key(k), value: value.into(), session: None }
}

fn transact(state: &mut State, txn: Txn) -> Result<TxnOutcome, Refusal> {
    match state.apply(&Command::txn(txn)) {
        Reply::Txn(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn open(state: &mut State) -> SessionId {
    match state.apply(&Command::Open { owner: node("n1"), ttl: Duration::from_secs(2) }) {
        Reply::Opened(session) => session.id,
        other => panic!("{other:?}"),
    }
}

fn grant(state: &mut State, k: &str, session: SessionId) -> FencingToken {
    let grant = Operation::Grant { key: key(k), value: "".into(), session };
    let txn = txn().when(Compare::Absent { key: key(k) }).then(grant);
    transact(state, txn).expect("granted").grants[0].token
}

fn through_a_snapshot(state: &State) -> State {
    let mut reader = SnapshotReader::default();
    for piece in SnapshotWriter::new(state.clone()) {
        reader.push(&piece).expect("whole");
    }
    reader.finish().expect("complete")
}

#[test]
fn all_operations_happen_at_one_revision_or_none_does() {
    let mut state = State::default();
    let outcome = transact(&mut state, txn().then(put("a", "1")).then(put("b", "2"))).expect("applied");
    assert_eq!(state.get(&key("a")).map(|r| r.revision), Some(outcome.revision));
    assert_eq!(state.get(&key("b")).map(|r| r.revision), Some(outcome.revision));
    let refused = transact(&mut state, txn().when(Compare::Absent { key: key("b") }).then(put("c", "3")));
    assert!(matches!(refused, Err(Refusal::Conflict { index: 0, .. })), "{refused:?}");
    assert_eq!((state.revision(), state.get(&key("c"))), (outcome.revision, None));
}

#[test]
fn a_token_grows_over_release_expiry_and_handover_and_an_old_one_is_refused() {
    let mut state = State::default();
    let (first, second) = (open(&mut state), open(&mut state));
    let one = grant(&mut state, "l", first);
    let fence = |token| Compare::Fence { key: key("l"), token };

    let hand_over = Operation::Grant { key: key("l"), value: "".into(), session: second };
    let unfenced = transact(&mut state, txn().then(hand_over.clone()));
    assert_eq!(unfenced, Err(Refusal::Unfenced { key: key("l"), current: one }));
    let two =
        transact(&mut state, txn().when(fence(one)).then(hand_over)).expect("handed over").grants[0].token;
    assert!(two > one);
    let late = transact(&mut state, txn().when(fence(one)).then(put("x", "late")));
    assert_eq!(late, Err(Refusal::Fenced { key: key("l"), stated: one, current: Some(two) }));

    state.apply(&Command::Expire(vec![Expiry { session: second, renewals: 0 }]));
    let nobody = transact(&mut state, txn().when(fence(two)).then(put("x", "late")));
    assert_eq!(nobody, Err(Refusal::Fenced { key: key("l"), stated: two, current: None }));
    assert!(grant(&mut state, "l", first) > two);
}

#[test]
fn a_granted_record_keeps_token_and_session_under_a_new_value() {
    let mut state = State::default();
    let (holder, other) = (open(&mut state), open(&mut state));
    let token = grant(&mut state, "l", holder);
    let fence = Compare::Fence { key: key("l"), token };
    transact(&mut state, txn().when(fence.clone()).then(put("l", "new"))).expect("applied");
    let record = state.get(&key("l")).expect("there");
    assert_eq!((record.token, record.session), (Some(token), Some(holder)));
    let steal = Operation::Put { key: key("l"), value: "".into(), session: Some(other) };
    assert!(matches!(transact(&mut state, txn().when(fence).then(steal)), Err(Refusal::Invalid(_))));
}

#[test]
fn the_records_of_a_session_go_with_it_at_one_revision() {
    let mut state = State::default();
    let session = open(&mut state);
    for k in ["a", "b"] {
        let put = Operation::Put { key: key(k), value: "".into(), session: Some(session) };
        transact(&mut state, txn().then(put)).expect("applied");
    }
    transact(&mut state, txn().then(put("a", "kept"))).expect("taken out of the session");
    let token = grant(&mut state, "l", session);
    state.take_changes();
    state.apply(&Command::Renew(vec![session]));
    assert_eq!(
        state.apply(&Command::Expire(vec![Expiry { session, renewals: 0 }])),
        Reply::Expired(vec![]),
        "it was renewed since"
    );
    state.apply(&Command::Expire(vec![Expiry { session, renewals: 1 }]));
    let gone = |k| Change::Deleted { key: key(k), cause: DeleteCause::SessionExpired };
    let changes = state.take_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(*changes[0].changes, [gone("b"), gone("l")]);
    assert!(state.get(&key("a")).is_some());
    let fenced = transact(&mut state, txn().when(Compare::Fence { key: key("l"), token }).then(put("x", "")));
    assert!(matches!(fenced, Err(Refusal::Fenced { current: None, .. })));
}

#[test]
fn a_retry_applies_once_and_a_refusal_is_final() {
    let mut state = State::default();
    let session = open(&mut state);
    let once = |sequence| IdempotencyKey { session, sequence };
    let absent = Compare::Absent { key: key("a") };
    let create = txn().when(absent.clone()).then(put("a", "1")).once(once(1));
    let first = transact(&mut state, create.clone());
    assert_eq!(transact(&mut state, create), first);
    let refused = txn().when(absent).then(put("a", "2")).once(once(2));
    assert!(matches!(transact(&mut state, refused.clone()), Err(Refusal::Conflict { .. })));
    transact(&mut state, txn().then(Operation::Delete { key: key("a") })).expect("deleted");
    assert!(matches!(transact(&mut state, refused), Err(Refusal::Conflict { found: None, .. })));
    assert_eq!(state.get(&key("a")), None);
    for sequence in 3..=131 {
        transact(&mut state, txn().then(put("b", "")).once(once(sequence))).expect("applied");
    }
    let late = transact(&mut state, txn().then(put("a", "1")).once(once(1)));
    assert_eq!(late, Err(Refusal::Forgotten(once(1))));
    state.apply(&Command::Close(session));
    let gone = transact(&mut state, txn().then(put("a", "1")).once(once(200)));
    assert_eq!(gone, Err(Refusal::SessionGone(session)));
}

#[test]
fn a_snapshot_carries_everything_and_a_damaged_one_is_refused() {
    let mut state = State::default();
    let session = open(&mut state);
    grant(&mut state, "l", session);
    transact(&mut state, txn().then(put("a", "1")).once(IdempotencyKey { session, sequence: 1 }))
        .expect("applied");
    state.apply(&Command::Compact(Revision(1)));
    state.apply(&Command::RestoreChunk { id: 9, offset: 0, data: "piece".into() });
    let copy = through_a_snapshot(&state);
    let bytes = |state: &State| SnapshotWriter::new(state.clone()).flatten().collect::<Vec<u8>>();
    assert_eq!(bytes(&copy), bytes(&state));
    let whole = bytes(&state);
    for cut in [0, 5, whole.len() - 1] {
        let mut reader = SnapshotReader::default();
        reader.push(&whole[..cut]).expect("not yet");
        assert!(reader.finish().is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut bent = whole.clone();
        bent[at] ^= 0x40;
        let mut reader = SnapshotReader::default();
        let refused = reader.push(&bent).and_then(|()| reader.finish().map(|_| ()));
        assert!(refused.is_err(), "byte {at}");
    }
}

#[test]
fn a_restore_outranks_every_token_and_ends_every_session() {
    let mut state = State::default();
    let session = open(&mut state);
    let token = grant(&mut state, "l", session);
    transact(&mut state, txn().then(put("a", "1"))).expect("applied");
    let snapshot: Vec<u8> = SnapshotWriter::new(state.clone()).flatten().collect();
    transact(&mut state, txn().then(put("b", "later"))).expect("applied");
    let before = state.revision();

    let (left, right) = snapshot.split_at(10);
    for (offset, data) in [(0, left), (10, right)] {
        let data = bytes::Bytes::copy_from_slice(data);
        assert!(matches!(state.apply(&Command::RestoreChunk { id: 1, offset, data }), Reply::Staged(Ok(_))));
    }
    let xxh3 = xxhash_rust::xxh3::xxh3_64(&snapshot);
    let end = Command::RestoreEnd { id: 1, bytes: snapshot.len() as u64, xxh3 };
    let Reply::Restored(Ok(restored)) = state.apply(&end) else { panic!("refused") };
    assert!(restored.revision > before);
    assert!(
        state.get(&key("a")).is_some() && state.get(&key("b")).is_none() && state.get(&key("l")).is_none()
    );
    assert_eq!(state.sessions().len(), 0);
    assert_eq!(state.changes_after(before, &Prefix::all()), None);
    let after = open(&mut state);
    assert!(after > session && grant(&mut state, "l", after) > token);
}
