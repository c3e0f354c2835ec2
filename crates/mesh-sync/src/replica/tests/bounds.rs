//! Peers that send too much, too little, or nonsense.

use super::*;

#[test]
fn a_peer_that_never_answers_delays_nobody() {
    let mut trio = Loop::new(3);
    trio.submit(0, chain(&mut author(1), 2_000, EPOCH - 5000));
    trio.drops = Box::new(|from, to, message| {
        (from == 2 || to == 2) && !matches!(message, Message::Heartbeat { .. } | Message::Reconcile { .. })
    });
    trio.connect(0, 2);
    trio.connect(0, 1);
    trio.seconds(4);
    let (a, b) = (trio.nodes[0].replica.root(), trio.nodes[1].replica.root());
    assert!(a.same_set(&b));
    trio.seconds(60);
    let stalled = trio.nodes[0].events.iter().any(|event| matches!(event, SyncEvent::PeerStalled { .. }));
    assert!(stalled || trio.nodes[2].replica.root().count == 0);
}

#[test]
fn a_flood_of_entries_is_turned_away_with_a_verdict() {
    let config = ReplicaConfig {
        intake_bytes_per_peer_max: 2 << 20,
        window_bytes: 1 << 20,
        ..ReplicaConfig::default()
    };
    let mut pair = Loop::with(2, config);
    pair.connect(0, 1);
    let now = pair.now;
    let entries = chain(&mut author(1), 16, EPOCH);
    // Unverified jobs are not done in between, so that the intake fills.
    let mut one = author(2);
    let notes = Collection::new("notes").expect("valid");
    let large: Vec<Verified> = (0..4)
        .map(|n| {
            let draft = Draft::put(&notes, format!("large {n}"), vec![0; 1 << 20]);
            one.sign(draft, Hlc::from_wall(WallTime(EPOCH + n))).expect("signs")
        })
        .collect();
    for (batch, entry) in large.iter().chain(&entries).enumerate() {
        let entries = vec![(entry.id(), entry.encoded().clone())];
        let message = Message::Entries { batch: batch as u64, entries };
        pair.nodes[1].replica.handle_message(now, &name(0), message);
    }
    assert!(pair.nodes[1].replica.intake_bytes() <= 2 << 20);
    let busy = std::iter::from_fn(|| pair.nodes[1].replica.poll_transmit()).any(
        |sent| matches!(sent.message, Message::Ack { verdicts, .. } if verdicts.contains(&Verdict::Busy)),
    );
    assert!(busy);
}

/// A disk that stands still holds up writers, and what peers send has a room of its own.
#[test]
fn submissions_are_bounded_by_bytes_and_take_no_room_of_peers() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let (now, notes, mut one) = (pair.now, Collection::new("notes").expect("valid"), author(1));
    let replica = &mut pair.nodes[0].replica;
    let mut large = |n: u64| {
        let draft = Draft::put(&notes, format!("large {n}"), vec![0; 1 << 20]);
        one.sign(draft, Hlc::from_wall(WallTime(EPOCH + n))).expect("signs")
    };
    // Jobs are not done in between.
    let taken = (0..100).take_while(|n| replica.submit(now, vec![large(*n)]).is_ok()).count();
    assert!((60..=64).contains(&taken), "{taken} MiB were taken");
    let refused = replica.submit(now, vec![large(100)]).expect_err("full").to_string();
    assert!(refused.contains("bytes wait for the disk, at most 67108864 bytes may"), "{refused}");
    assert_eq!(replica.intake_bytes(), 0, "peers have all of theirs");
    pair.settle();
    pair.nodes[0].replica.submit(now, vec![large(101)]).expect("there is room again");
}

#[test]
fn a_bad_signature_is_refused_and_the_good_one_is_taken_later() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let entry = &chain(&mut author(1), 1, EPOCH)[0];
    let mut bytes = entry.encoded().to_vec();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    let bad = Message::Entries { batch: 1, entries: vec![(entry.id(), bytes.into())] };
    pair.nodes[1].replica.handle_message(pair.now, &name(0), bad);
    pair.settle();
    assert_eq!(pair.nodes[1].replica.root().count, 0);
    let rejected = |event: &SyncEvent| matches!(event, SyncEvent::Rejected { peer: Some(_), .. });
    assert!(pair.nodes[1].events.iter().any(rejected));
    pair.submit(0, vec![entry.clone()]);
    assert!(pair.are_equal());
}

#[test]
fn children_that_come_first_wait_for_their_parents() {
    let mut pair = Loop::new(2);
    let entries = chain(&mut author(1), 40, EPOCH - 5000);
    pair.submit(0, entries.clone());
    pair.connect(0, 1);
    pair.nodes[1].replica.handle_disconnected(pair.now, &name(0));
    pair.restart(1, ReplicaConfig::default());
    let mut fresh = Loop::new(2);
    fresh.nodes.swap(0, 1);
    pair.nodes[1] = fresh.nodes.swap_remove(0);
    pair.nodes[1].replica.handle_connected(pair.now, &name(0));
    pair.nodes[0].replica.handle_connected(pair.now, &name(1));
    let last = entries.last().expect("there are some");
    let message = Message::Entries { batch: 1, entries: vec![(last.id(), last.encoded().clone())] };
    pair.nodes[1].replica.handle_message(pair.now, &name(0), message);
    pair.settle();
    pair.seconds(5);
    assert!(pair.are_equal());
    pair.nodes[1].store.verify().expect("closed under parents");
}
