//! Peers that lie, or never stop: bounded work, then an error or a sound result.

use proptest::prelude::*;

use super::*;

fn items(from: u64, to: u64) -> BTreeSet<Item> {
    (from..to).map(|n| item(n, 1_000 + n)).collect()
}

fn options() -> SessionOptions {
    SessionOptions::default()
}

fn begun(index: &Index) -> (Session, Box<Hello>) {
    let mut session = Session::initiate(index, options(), Nonce([1; 16]));
    let frame = session.poll_transmit().expect("a hello");
    match Message::decode(&frame) {
        Ok(Message::Hello(hello)) => (session, hello),
        other => panic!("not a hello: {other:?}"),
    }
}

fn welcome(plan: Plan) -> Message {
    Message::Welcome(Welcome {
        root: Some(Root { count: u64::MAX, hash: SetHash(7), arrival: Arrival::default() }),
        nonce: Nonce([9; 16]),
        limits: Limits::default(),
        estimate: u64::MAX,
        plan,
    })
}

/// Feeds what `liar` makes of each of our frames until the session ends; how many frames we took and sent.
fn feed(
    index: &Index,
    session: &mut Session,
    mut liar: impl FnMut(Option<Message>) -> Option<Message>,
) -> (usize, Option<SessionError>) {
    let mut frames = 0;
    for _ in 0..100_000 {
        let said = session.poll_transmit().map(|frame| Message::decode(&frame).expect("ours"));
        let Some(answer) = liar(said) else { return (frames, None) };
        frames += 1;
        if let Err(error) = session.handle_frame(index, &answer.encode()) {
            return (frames, Some(error));
        }
    }
    panic!("goes on for ever");
}

fn noise(seed: u64, count: usize) -> Vec<Cell> {
    (0..count as u64).map(|n| Cell { ids: mix(seed ^ n), check: mix(seed + n) as u32 }).collect()
}

#[test]
fn a_peer_that_never_stops_sending_symbols_is_stopped() {
    let index = index_of(&items(0, 500));
    for (size, last) in [(1, false), (1, true), (900, false), (0, false), (0, true)] {
        let (mut session, _) = begun(&index);
        session.handle_frame(&index, &welcome(Plan::Sketch).encode()).expect("a plan");
        let mut seed = 0;
        let (frames, error) = feed(&index, &mut session, |_| {
            seed += 1;
            Some(Message::Symbols { cells: noise(seed << 20, size), last })
        });
        assert!(matches!(error, Some(SessionError::Limit { what: "symbols", .. })), "{error:?}");
        assert!(frames <= 18_000 / size.max(1) + 2, "{frames} frames of {size}");
        assert!(session.cost().bytes_received < 18_000 * 16);
        assert!(session.cost().bytes_sent < 100_000);
    }
}

/// Runs two honest sides over a line on which `tamper` changes messages.
fn tampered(
    a: &BTreeSet<Item>,
    b: &BTreeSet<Item>,
    mut tamper: impl FnMut(&mut Message),
) -> Result<(Outcome, Outcome), SessionError> {
    let (ours, theirs) = (index_of(a), index_of(b));
    let mut us = Session::initiate(&ours, options(), Nonce([1; 16]));
    let mut them = Session::respond(options(), Nonce([2; 16]));
    for _ in 0..10_000 {
        let mut idle = true;
        while let Some(frame) = us.poll_transmit() {
            idle = false;
            let mut message = Message::decode(&frame).expect("ours");
            tamper(&mut message);
            them.handle_frame(&theirs, &message.encode())?;
        }
        while let Some(frame) = them.poll_transmit() {
            idle = false;
            let mut message = Message::decode(&frame).expect("ours");
            tamper(&mut message);
            us.handle_frame(&ours, &message.encode())?;
        }
        if idle {
            let (a, b) = (us.into_outcome(), them.into_outcome());
            return Ok((a.expect("an end"), b.expect("an end")));
        }
    }
    panic!("goes on for ever");
}

fn sound(a: &BTreeSet<Item>, b: &BTreeSet<Item>, outcome: &(Outcome, Outcome)) {
    assert!(outcome.0.give_all(&index_of(a)).iter().eq(a.difference(b)));
    assert!(outcome.1.give_all(&index_of(b)).iter().eq(b.difference(a)));
}

#[test]
fn sketches_that_are_built_not_to_decode_lead_to_ranges() {
    let (a, b) = (items(0, 1_000), items(30, 1_040));
    let mut seed = 0;
    let outcome = tampered(&a, &b, |message| {
        if let Message::Symbols { cells, .. } = message {
            seed += 1;
            *cells = noise(seed << 20, cells.len());
        }
    });
    let outcome = outcome.expect("ranges");
    assert_eq!(outcome.0.method, Method::Ranges);
    sound(&a, &b, &outcome);
}

#[test]
fn two_items_that_share_all_cells_lead_to_ranges_under_a_fresh_key() {
    // Their cells cancel out, as if the two items were one: what a collision of short ids looks like.
    let common = items(0, 1_000);
    let (x, y) = (item(5_000, 1_500), item(5_001, 1_501));
    let a: BTreeSet<Item> = common.iter().copied().chain([x]).collect();
    let b: BTreeSet<Item> = common.iter().copied().chain([y]).collect();
    let cells_of_a = index_of(&a).sketch().cells().to_vec();
    let mut at = 0;
    let outcome = tampered(&a, &b, |message| {
        if let Message::Symbols { cells, .. } = message {
            let end = at + cells.len();
            *cells = cells_of_a[at..end].to_vec();
            at = end;
        }
    });
    let outcome = outcome.expect("salted ranges");
    assert_eq!(outcome.0.method, Method::SaltedRanges);
    sound(&a, &b, &outcome);
}

#[test]
fn roots_and_proofs_that_lie_lead_to_ranges_under_a_fresh_key() {
    let (a, b) = (items(0, 1_000), items(0, 1_000));
    let outcome = tampered(&a, &b, |message| {
        if let Message::Hello(hello) = message {
            hello.root.hash.0 ^= 1;
            hello.tails.clear();
        }
    });
    sound(&a, &b, &outcome.expect("salted ranges"));

    let b = items(20, 1_030);
    let outcome = tampered(&a, &b, |message| {
        if let Message::Found { proof: Some((_, hash)), .. } = message {
            hash.0 ^= 1;
        }
    });
    let outcome = outcome.expect("salted ranges");
    assert_eq!((outcome.0.method, outcome.1.method), (Method::SaltedRanges, Method::SaltedRanges));
    sound(&a, &b, &outcome);

    let outcome = tampered(&a, &b, |message| {
        if let Message::Found { want, .. } = message {
            want.iter_mut().for_each(|short| short.0 ^= 1);
        }
    });
    sound(&a, &b, &outcome.expect("salted ranges"));
}

#[test]
fn forged_counts_cost_little() {
    let index = index_of(&items(0, 5_000));
    for count in [0, 1, 5_000, 1 << 40, u64::MAX] {
        for tail in [None, Some(0)] {
            let (mut session, _) = begun(&index);
            session
                .handle_frame(&index, &welcome(Plan::Ranges { salted: false, tail }).encode())
                .expect("a plan");
            let part = Part { upper: None, body: Body::Print { count, seal: 1 } };
            session.handle_frame(&index, &Message::Parts(vec![part]).encode()).expect("a range part");
            let mut bytes = 0;
            while let Some(frame) = session.poll_transmit() {
                bytes += frame.len();
            }
            assert!(bytes <= 5_000 * 9, "{bytes} bytes for {count}");
        }
    }
}

#[test]
fn a_peer_that_answers_every_range_with_fingerprints_gets_a_list_and_no_more() {
    let index = index_of(&items(0, 3_000));
    for salted in [false, true] {
        let (mut session, _) = begun(&index);
        session.handle_frame(&index, &welcome(Plan::Ranges { salted, tail: None }).encode()).expect("a plan");
        let print = |seal| Part { upper: None, body: Body::Print { count: 3_000, seal } };
        let mut seal = 0;
        let (frames, error) = feed(&index, &mut session, |said| {
            seal += 1;
            let open = match said {
                Some(Message::Parts(parts)) => parts.len(),
                _ => 1,
            };
            Some(Message::Parts((0..open as u64).map(|n| print(seal << 32 | n)).collect()))
        });
        assert!(
            matches!(error, Some(SessionError::Unexpected { .. } | SessionError::Limit { .. })),
            "{error:?}"
        );
        assert!(frames < 200, "{frames}");
        assert!(session.cost().bytes_sent < 4_000_000);
    }
}

#[test]
fn answers_outside_of_a_range_or_out_of_order_are_refused() {
    let index = index_of(&items(0, 3_000));
    let plan = welcome(Plan::Ranges { salted: false, tail: None });
    let at = |hlc| Some(item(1, hlc));
    let same = |upper| Part { upper, body: Body::Same };
    let refused = |first: Vec<Part>, second: Vec<Part>| {
        let (mut session, _) = begun(&index);
        session.handle_frame(&index, &plan.encode()).expect("a plan");
        let mut error = session.handle_frame(&index, &Message::Parts(first).encode()).err();
        if error.is_none() {
            error = session.handle_frame(&index, &Message::Parts(second).encode()).err();
        }
        let last = std::iter::from_fn(|| session.poll_transmit()).last();
        let told = matches!(last.map(|frame| Message::decode(&frame)), Some(Ok(Message::Refused(_))));
        (error, told)
    };
    // Bounds that go back or stand still.
    let back = refused(vec![same(at(2_000)), same(at(1_500))], vec![]);
    assert_eq!(back, (Some(SessionError::OutsideRange), true));
    let still = refused(vec![same(at(2_000)), same(at(2_000))], vec![]);
    assert_eq!(still, (Some(SessionError::OutsideRange), true));
    // More answers than questions, and answers of the wrong kind.
    assert!(matches!(refused(vec![same(None), same(None)], vec![]).0, Some(SessionError::Unexpected { .. })));
    let want = Part { upper: None, body: Body::Want(vec![(0, 1)]) };
    assert!(matches!(refused(vec![want.clone()], vec![]).0, Some(SessionError::Unexpected { .. })));
    // A list was asked for; wanting more than was listed.
    let ask = Part { upper: None, body: Body::Ask };
    let (error, _) = refused(vec![ask.clone()], vec![same(None)]);
    assert!(matches!(error, Some(SessionError::Unexpected { .. })));
    let greedy = Part { upper: None, body: Body::Want(vec![(0, u32::MAX)]) };
    assert_eq!(refused(vec![ask], vec![greedy]).0, Some(SessionError::OutsideRange));
    // Messages that have no place here.
    let (mut session, _) = begun(&index);
    let error = session.handle_frame(&index, &Message::Settled.encode());
    assert!(matches!(error, Err(SessionError::Unexpected { .. })));
    assert_eq!(session.handle_frame(&index, &Message::Settled.encode()), Err(SessionError::Over));
}

#[test]
fn plans_that_contradict_what_was_said_are_refused() {
    let index = index_of(&items(0, 300));
    for plan in [Plan::Equal, Plan::Since, Plan::Ranges { salted: false, tail: Some(0) }] {
        let (mut session, _) = begun(&index);
        assert!(session.handle_frame(&index, &welcome(plan).encode()).is_err(), "{plan:?}");
    }
    let mut session = Session::initiate(&index, SessionOptions { salted: true, ..options() }, Nonce([1; 16]));
    assert!(session.handle_frame(&index, &welcome(Plan::Sketch).encode()).is_err());
}

#[test]
fn a_part_that_does_not_cover_leaves_the_session_without_an_outcome() {
    let index = index_of(&items(0, 3_000));
    let (mut session, _) = begun(&index);
    session
        .handle_frame(&index, &welcome(Plan::Ranges { salted: false, tail: None }).encode())
        .expect("a plan");
    let part = Part { upper: Some(item(1, 2_000)), body: Body::Same };
    session.handle_frame(&index, &Message::Parts(vec![part]).encode()).expect("a first part");
    assert!(session.outcome().is_none());
}

#[test]
fn an_error_is_told_to_the_peer_once_and_frames_over_the_limit_are_not_read() {
    let index = index_of(&items(0, 10));
    let mut session = Session::respond(options(), Nonce([3; 16]));
    let error = session.handle_frame(&index, &vec![0; 70_000]);
    assert!(matches!(error, Err(SessionError::Limit { what: "bytes in a frame", .. })));
    let frame = session.poll_transmit().expect("a refusal");
    assert_eq!(Message::decode(&frame), Ok(Message::Refused(Refusal::Limit)));
    assert_eq!(session.poll_transmit(), None);
    let (mut peer, _) = begun(&index);
    assert_eq!(peer.handle_frame(&index, &frame), Err(SessionError::Refused(Refusal::Limit)));
    assert_eq!(peer.poll_transmit(), None, "a refusal is not answered");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn random_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), tag in 0..12_u8) {
        let index = index_of(&items(0, 40));
        let mut frame = vec![tag];
        frame.extend(&bytes);
        if let Ok(message) = Message::decode(&frame) {
            prop_assert!(Message::decode(&message.encode()).is_ok());
        }
        let mut fresh = Session::respond(options(), Nonce([1; 16]));
        let _ = fresh.handle_frame(&index, &frame);
        for plan in [Plan::Sketch, Plan::Ranges { salted: true, tail: None }] {
            let (mut session, _) = begun(&index);
            session.handle_frame(&index, &welcome(plan).encode()).expect("a plan");
            let _ = session.handle_frame(&index, &frame);
            while session.poll_transmit().is_some() {}
        }
        let _ = Sketch::restore(key(), &frame);
        let _ = Index::restore(key(), &frame);
    }

    #[test]
    fn flipped_bits_end_in_an_error_or_an_outcome(
        shape in 0..4_u64, at in 0..6_usize, byte in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let (a, b) = match shape {
            0 => (items(0, 300), items(10, 310)),
            1 => (items(0, 200), items(200, 400)),
            2 => (items(0, 2_000), items(0, 1_500).into_iter().chain(items(3_000, 3_400)).collect()),
            _ => (items(0, 3), items(0, 5_000)),
        };
        let (ours, theirs) = (index_of(&a), index_of(&b));
        let mut us = Session::initiate(&ours, options(), Nonce([1; 16]));
        let mut them = Session::respond(options(), Nonce([2; 16]));
        let mut sent = 0;
        let mut flip = |mut frame: Vec<u8>| {
            if sent == at {
                let byte = byte.index(frame.len());
                frame[byte] ^= 1 << bit;
            }
            sent += 1;
            frame
        };
        for round in 0.. {
            prop_assert!(round < 1_000);
            let mut idle = true;
            while let Some(frame) = us.poll_transmit() {
                idle = false;
                let _ = them.handle_frame(&theirs, &flip(frame));
            }
            while let Some(frame) = them.poll_transmit() {
                idle = false;
                let _ = us.handle_frame(&ours, &flip(frame));
            }
            if idle {
                break;
            }
        }
        // Whatever was found out, nobody gives what is not theirs.
        for (session, index) in [(us, &ours), (them, &theirs)] {
            let given = session.into_outcome().map(|outcome| outcome.give_all(index)).unwrap_or_default();
            prop_assert!(given.iter().all(|item| index.contains(item)));
        }
    }
}
