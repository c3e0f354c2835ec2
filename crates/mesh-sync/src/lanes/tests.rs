use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn dataset(name: &str) -> DatasetId {
    DatasetId::new(name).expect("valid")
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn rate(bytes_per_second: u64, burst_bytes: u64) -> Option<Rate> {
    Some(Rate { bytes_per_second, burst_bytes })
}

#[test]
fn lanes_share_by_weight_whatever_the_size_of_their_pieces() {
    let mut lanes = Lanes::new(
        LaneLimits { bytes_max: 1 << 40, pieces_max: 100_000, ..LaneLimits::default() },
        Instant::ZERO,
    );
    let (heavy, light) = (dataset("heavy"), dataset("light"));
    assert!(lanes.set_weight(&heavy, 3) && lanes.set_weight(&light, 1));
    for _ in 0..4000 {
        lanes.offer(&heavy, &node("b"), 1000, ()).expect("room");
        lanes.offer(&light, &node("b"), 7000, ()).expect("room");
    }
    let mut sent = BTreeMap::new();
    for _ in 0..2000 {
        let turn = lanes.poll_next(Instant::ZERO).expect("plenty");
        *sent.entry(turn.dataset).or_insert(0) += turn.bytes;
    }
    let ratio = sent[&heavy] as f64 / sent[&light] as f64;
    assert!((2.9..3.1).contains(&ratio), "{ratio}");
}

#[test]
fn small_data_waits_for_one_piece_of_bulk_however_much_there_is() {
    let second = Duration::from_secs(1);
    let limits = LaneLimits { total: rate(1_000_000, 64_000), ..LaneLimits::default() };
    let mut lanes = Lanes::new(limits, Instant::ZERO);
    let (bulk, small) = (dataset("bulk"), dataset("small"));
    let (mut now, mut worst, mut bulk_bytes) = (Instant::ZERO, Duration::ZERO, 0);
    let mut next_small = Instant::ZERO;
    while now < Instant::ZERO + 20 * second {
        while lanes.offer(&bulk, &node("b"), 64_000, now).is_ok() {}
        if next_small <= now {
            lanes.offer(&small, &node("c"), 500, next_small).expect("room");
            next_small += Duration::from_millis(73);
        }
        match lanes.poll_next(now) {
            None => now = lanes.poll_timeout().expect("plenty").min(next_small),
            Some(turn) if turn.dataset == bulk => bulk_bytes += turn.bytes,
            Some(turn) => worst = worst.max(now.since(turn.piece)),
        }
    }
    // One piece of bulk takes 64 ms at this rate.
    assert!(worst <= Duration::from_millis(66), "{worst:?}");
    assert!(bulk_bytes > 19_000_000, "the rest goes to bulk: {bulk_bytes}");
}

#[test]
fn a_lane_that_was_silent_has_saved_nothing_up() {
    let mut lanes = Lanes::new(LaneLimits::default(), Instant::ZERO);
    let (one, other) = (dataset("one"), dataset("other"));
    lanes.set_weight(&other, 1);
    for _ in 0..500 {
        lanes.offer(&one, &node("b"), 100, ()).expect("room");
    }
    (0..400).for_each(|_| drop(lanes.poll_next(Instant::ZERO)));
    for _ in 0..100 {
        lanes.offer(&other, &node("b"), 100, ()).expect("room");
    }
    let turns: Vec<_> = (0..20).filter_map(|_| lanes.poll_next(Instant::ZERO)).collect();
    assert_eq!(turns.iter().filter(|turn| turn.dataset == other).count(), 10);
}

#[test]
fn a_peer_at_its_limit_delays_no_other_of_its_lane() {
    let mut lanes =
        Lanes::new(LaneLimits { per_peer: rate(100, 1000), ..LaneLimits::default() }, Instant::ZERO);
    let notes = dataset("notes");
    for n in 0..3 {
        lanes.offer(&notes, &node("slow"), 1000, n).expect("room");
    }
    lanes.offer(&notes, &node("quick"), 1000, 9).expect("room");
    let pieces: Vec<_> =
        std::iter::from_fn(|| lanes.poll_next(Instant::ZERO)).map(|turn| turn.piece).collect();
    assert_eq!(pieces.len(), 2, "the burst of each");
    assert!(pieces.contains(&9));
    let due = lanes.poll_timeout().expect("more waits");
    assert_eq!(due, Instant::ZERO + Duration::from_millis(10), "a byte at 100 in a second");
    assert_eq!(lanes.poll_next(due - Duration::from_nanos(1)), None);
    assert_eq!(lanes.poll_next(due).map(|turn| turn.piece), Some(1));
    assert_eq!(lanes.remove_peer(&node("slow")), [2]);
    assert_eq!((lanes.waiting(&notes), lanes.poll_timeout()), ((0, 0), None));
}

#[test]
fn what_does_not_fit_is_given_back_but_one_piece_always_fits() {
    let limits = LaneLimits { pieces_max: 2, bytes_max: 100, lanes_max: 1, ..LaneLimits::default() };
    let mut lanes = Lanes::new(limits, Instant::ZERO);
    lanes.offer(&dataset("a"), &node("b"), 1 << 40, 1).expect("the first");
    assert_eq!(lanes.offer(&dataset("a"), &node("b"), 1, 2), Err(LaneFull(2)));
    assert_eq!(lanes.offer(&dataset("c"), &node("b"), 1, 3), Err(LaneFull(3)));
    assert!(!lanes.set_weight(&dataset("c"), 2));
    lanes.poll_next(Instant::ZERO).expect("goes");
    for n in 0..2 {
        lanes.offer(&dataset("a"), &node("b"), 50, n).expect("room");
    }
    assert_eq!(lanes.offer(&dataset("a"), &node("b"), 0, 4), Err(LaneFull(4)));
    assert_eq!(lanes.remove_lane(&dataset("a")), [0, 1]);
    assert!(lanes.set_weight(&dataset("c"), 2), "there is room for another lane");
}

proptest! {
    /// Every piece comes out once, in order for its lane and peer, and driving by the timeouts alone gets all out.
    #[test]
    fn everything_comes_out_once_and_in_order(
        pieces in prop::collection::vec((0_u8..3, 0_u8..3, 0_u64..5000), 0..100),
        total in 100_u64..10_000,
        each in 100_u64..10_000,
    ) {
        let limits = LaneLimits { total: rate(total, 1000), per_peer: rate(each, 500), ..LaneLimits::default() };
        let mut lanes = Lanes::new(limits, Instant::ZERO);
        let names = ["a", "b", "c"];
        for (n, (lane, peer, bytes)) in pieces.iter().enumerate() {
            lanes.offer(&dataset(names[usize::from(*lane)]), &node(names[usize::from(*peer)]), *bytes, n).expect("room");
        }
        let mut now = Instant::ZERO;
        let mut last = BTreeMap::new();
        let mut count = 0;
        while let Some(due) = lanes.poll_timeout() {
            now = now.max(due);
            let turn = lanes.poll_next(now);
            prop_assert!(turn.is_some(), "the timeout was right");
            let Some(turn) = turn else { break };
            count += 1;
            let earlier = last.insert((turn.dataset, turn.peer), turn.piece);
            prop_assert!(earlier < Some(turn.piece));
        }
        prop_assert_eq!(count, pieces.len());
    }
}
