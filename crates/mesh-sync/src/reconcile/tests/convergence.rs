//! Both sides end with exactly the symmetric difference.

use proptest::prelude::*;

use super::*;

/// Where the items are that only one side holds.
#[derive(Clone, Copy, Debug)]
enum Placement {
    Spread,
    Newest,
    Oldest,
    OneMoment,
    OneSided,
    Disjoint,
}

fn placements() -> impl Strategy<Value = Placement> {
    prop_oneof![
        Just(Placement::Spread),
        Just(Placement::Newest),
        Just(Placement::Oldest),
        Just(Placement::OneMoment),
        Just(Placement::OneSided),
        Just(Placement::Disjoint),
    ]
}

fn sets(n: u64, d: u64, placement: Placement, seed: u64) -> (BTreeSet<Item>, BTreeSet<Item>) {
    let (mut a, mut b) = (BTreeSet::new(), BTreeSet::new());
    let common = if matches!(placement, Placement::Disjoint) { 0 } else { n };
    for i in 0..common {
        let item = item(i ^ seed << 32, 1_000_000 + mix(i ^ seed) % (n + 1));
        a.insert(item);
        b.insert(item);
    }
    for i in 0..d {
        let hlc = match placement {
            Placement::Spread | Placement::OneSided | Placement::Disjoint => 1_000_000 + mix(i) % (n + 1),
            Placement::Newest => 2_000_000_000 + i,
            Placement::Oldest => i,
            Placement::OneMoment => 1_000_000 + n / 2,
        };
        let item = item((1 << 24 | i) ^ seed << 32, hlc);
        let to_a = i % 2 == 0 && !matches!(placement, Placement::OneSided);
        if to_a {
            a.insert(item)
        } else {
            b.insert(item)
        };
    }
    (a, b)
}

fn check(a: &BTreeSet<Item>, b: &BTreeSet<Item>, options: SessionOptions, salt: u8) -> Run {
    let (ours, theirs) = (index_of(a), index_of(b));
    let run = run(&ours, &theirs, (options.clone(), SessionOptions { salted: false, ..options }), salt);
    let run = run.expect("honest peers");
    assert!(!run.a.partial && !run.b.partial);
    assert!(run.a.give_all(&ours).iter().eq(a.difference(b)), "what A gives");
    assert!(run.b.give_all(&theirs).iter().eq(b.difference(a)), "what B gives");
    run
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn both_end_with_the_symmetric_difference(
        n in prop_oneof![0..40_u64, 0..3_000_u64],
        d in prop_oneof![0..5_u64, 0..300_u64, 0..2_000_u64],
        placement in placements(),
        salted in any::<bool>(),
        small in any::<bool>(),
        seed in 0..1_000_u64,
    ) {
        let (a, b) = sets(n, d, placement, seed);
        let limits = match small {
            true => Limits { frame_bytes_max: Limits::FRAME_BYTES_MIN, symbols_max: 64, ..Limits::default() },
            false => Limits::default(),
        };
        check(&a, &b, SessionOptions { limits, salted, ..SessionOptions::default() }, seed as u8);
    }

    #[test]
    fn entries_that_come_and_go_during_a_session_do_no_harm(
        n in 0..2_000_u64,
        d in 0..600_u64,
        placement in placements(),
        salted in any::<bool>(),
        seed in 0..1_000_u64,
    ) {
        let (a, b) = sets(n, d, placement, seed);
        let (mut ours, mut theirs) = (index_of(&a), index_of(&b));
        for round in 0..2_u8 {
            let options = SessionOptions { salted, ..SessionOptions::default() };
            let mut us = Session::initiate(&ours, options, Nonce([round; 16]));
            let mut them = Session::respond(SessionOptions::default(), Nonce([round + 100; 16]));
            let mut moved = 0;
            // In the first session something changes with every frame; the second one has peace.
            let mut change = |index: &mut Index| {
                if round == 0 && moved < 300 {
                    moved += 1;
                    index.insert(item(1 << 40 | moved << 12 | seed, 1_000_000 + mix(moved) % (n + 1)));
                    let victim = index.select(mix(moved) % index.len()).copied();
                    if moved % 3 == 0 { victim.map(|victim| index.remove(&victim)); }
                }
            };
            loop {
                let mut idle = true;
                while let Some(frame) = us.poll_transmit() {
                    idle = false;
                    them.handle_frame(&theirs, &frame).expect("honest");
                    change(&mut theirs);
                }
                while let Some(frame) = them.poll_transmit() {
                    idle = false;
                    us.handle_frame(&ours, &frame).expect("honest");
                    change(&mut ours);
                }
                if idle { break; }
            }
            let from_a = us.into_outcome().expect("an end").give_all(&ours);
            let from_b = them.into_outcome().expect("an end").give_all(&theirs);
            from_a.into_iter().for_each(|item| { theirs.insert(item); });
            from_b.into_iter().for_each(|item| { ours.insert(item); });
        }
        prop_assert!(ours.root().same_set(&theirs.root()));
    }

    #[test]
    fn lost_frames_end_a_session_and_later_ones_converge(
        n in 0..1_500_u64,
        d in 1..400_u64,
        placement in placements(),
        drops in prop::collection::vec(0..12_usize, 0..6),
        seed in 0..1_000_u64,
    ) {
        let (mut a, mut b) = sets(n, d, placement, seed);
        let union: BTreeSet<Item> = a.union(&b).copied().collect();
        for (round, drop) in drops.iter().map(Some).chain([None, None]).enumerate() {
            let (ours, theirs) = (index_of(&a), index_of(&b));
            let mut us = Session::initiate(&ours, SessionOptions::default(), Nonce([round as u8; 16]));
            let mut them = Session::respond(SessionOptions::default(), Nonce([round as u8 + 100; 16]));
            let mut sent = 0;
            'session: loop {
                let before = sent;
                while let Some(frame) = us.poll_transmit() {
                    if Some(&sent) == drop { break 'session; }
                    sent += 1;
                    them.handle_frame(&theirs, &frame).expect("honest");
                }
                while let Some(frame) = them.poll_transmit() {
                    if Some(&sent) == drop { break 'session; }
                    sent += 1;
                    us.handle_frame(&ours, &frame).expect("honest");
                }
                if sent == before { break; }
            }
            let gifts = |session: Session, index: &Index| {
                session.into_outcome().map(|outcome| outcome.give_all(index)).unwrap_or_default()
            };
            let (from_a, from_b) = (gifts(us, &ours), gifts(them, &theirs));
            prop_assert!(from_a.iter().all(|item| union.contains(item)));
            a.extend(from_b);
            b.extend(from_a);
        }
        prop_assert!(a == union && b == union);
    }
}

#[test]
fn few_spread_differences_take_one_round_trip_and_few_bytes() {
    let (a, b) = sets(20_000, 100, Placement::Spread, 7);
    let run = check(&a, &b, SessionOptions::default(), 7);
    assert_eq!((run.a.method, run.cost.round_trips), (Method::Sketch, 1));
    assert!(run.cost.bytes_sent + run.cost.bytes_received < 4_000, "{:?}", run.cost);
}

#[test]
fn the_newest_items_are_listed() {
    let (a, b) = sets(30_000, 4_000, Placement::Newest, 3);
    let run = check(&a, &b, SessionOptions::default(), 3);
    assert_eq!(run.a.method, Method::Ranges);
    assert!(run.cost.round_trips <= 3);
    assert!(run.cost.bytes_sent + run.cost.bytes_received < 4_000 * 12, "{:?}", run.cost);
}

#[test]
fn disjoint_sets_and_an_empty_peer_cost_a_list_of_the_smaller() {
    let (a, b) = sets(0, 20_000, Placement::Disjoint, 3);
    let run = check(&a, &b, SessionOptions::default(), 3);
    assert!(run.cost.bytes_sent + run.cost.bytes_received < 10_000 * 9 + 2_000, "{:?}", run.cost);
    let (few, many) = sets(3, 12_000, Placement::OneSided, 3);
    for (a, b) in [(&few, &many), (&many, &few), (&BTreeSet::new(), &many), (&many, &BTreeSet::new())] {
        let run = check(a, b, SessionOptions::default(), 3);
        assert!(run.cost.bytes_sent + run.cost.bytes_received < 1_500, "{:?}", run.cost);
        assert!(run.a.bulk.len() + run.b.bulk.len() > 0, "a long stretch is streamed");
    }
}

#[test]
fn a_cursor_serves_until_it_is_used_up_or_ahead() {
    let (a, b) = sets(500, 20, Placement::Spread, 1);
    let (ours, mut theirs) = (index_of(&a), index_of(&b));
    theirs.set_arrival(Arrival { incarnation: 5, sequence: 100 });
    let method = |incarnation, sequence| {
        let cursor = Some(Arrival { incarnation, sequence });
        let options = SessionOptions { cursor, ..SessionOptions::default() };
        let run = run(&ours, &theirs, (options, SessionOptions::default()), 1).expect("honest");
        assert_eq!(run.b.since, cursor.filter(|_| run.b.method == Method::Cursor));
        run.a.method
    };
    assert_eq!(method(5, 90), Method::Cursor);
    assert_eq!(method(5, 100), Method::Sketch);
    assert_eq!(method(5, 101), Method::Sketch);
    assert_eq!(method(4, 90), Method::Sketch);
}

#[test]
fn another_epoch_or_equal_roots_with_an_order_to_look_lead_to_salted_ranges() {
    let (a, b) = sets(3_000, 40, Placement::Spread, 1);
    let ours = index_of(&a);
    let theirs = Index::from_sorted(EpochKey::derive("tests", 2), b.iter().copied(), None);
    let run = run(&ours, &theirs, Default::default(), 1).expect("honest");
    assert_eq!(run.a.method, Method::SaltedRanges);
    assert!(run.a.give_all(&ours).iter().eq(a.difference(&b)));
    assert!(run.b.give_all(&theirs).iter().eq(b.difference(&a)));
}

#[test]
fn entries_that_are_unwanted_are_not_asked_for() {
    for (n, d, placement) in [(2_000, 30, Placement::Spread), (3_000, 600, Placement::Newest)] {
        let (a, b) = sets(n, d, placement, 1);
        let (ours, theirs) = (index_of(&a), index_of(&b));
        let unwanted: Vec<EntryId> = b.difference(&a).take(7).map(|item| item.id).collect();
        let options = SessionOptions { unwanted: unwanted.clone(), ..SessionOptions::default() };
        let run = run(&ours, &theirs, (options, SessionOptions::default()), 1).expect("honest");
        let given = run.b.give_all(&theirs);
        // A responder that compared a list itself doesn't know what is unwanted, so only sketches and lists of its
        // own are held to it.
        assert!(given.len() as u64 >= d / 2 - 7 && run.b.method != Method::SaltedRanges);
        if run.b.method == Method::Sketch {
            assert!(given.iter().all(|item| !unwanted.contains(&item.id)));
        }
    }
}

#[test]
fn what_passes_the_limit_of_entries_is_left_to_the_next_session() {
    for (n, d, placement) in [(0, 16_000, Placement::Disjoint), (12_000, 9_000, Placement::Spread)] {
        let (a, b) = sets(n, d, placement, 3);
        converge_within(
            Limits { entries_max: Limits::ENTRIES_MIN, symbols_max: 64, ..Limits::default() },
            a,
            b,
        );
    }
}

fn converge_within(limits: Limits, mut a: BTreeSet<Item>, mut b: BTreeSet<Item>) {
    let union: BTreeSet<Item> = a.union(&b).copied().collect();
    let options = SessionOptions { limits, ..SessionOptions::default() };
    let mut partial = 0;
    for round in 0..40 {
        let (ours, theirs) = (index_of(&a), index_of(&b));
        let run = run(&ours, &theirs, (options.clone(), options.clone()), round).expect("honest");
        partial += u32::from(run.a.partial || run.b.partial);
        a.extend(run.b.give_all(&theirs));
        b.extend(run.a.give_all(&ours));
        if a == b {
            break;
        }
    }
    assert!(partial > 0);
    assert!(a == union && b == union, "every session gets further");
}
