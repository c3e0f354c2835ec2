//! Two honest replicas and a peer that means harm, for each line of what it may try:
//!
//! | what it does | test |
//! |---|---|
//! | flips bits in any byte | [`a_bit_that_is_flipped_anywhere_changes_no_set`], [`messages_with_flipped_bits_change_no_set`] |
//! | signs wrongly | [`wrong_signatures_are_refused_and_the_good_ones_are_taken`] |
//! | names parents that there are not | [`forged_parents_take_a_share_of_the_room_for_a_time`] |
//! | says that parents were pruned | [`a_peer_alone_can_not_make_a_replica_do_without_parents`], [`what_is_called_pruned_and_is_not_is_taken_all_the_same`] |
//! | builds cycles | [`stamps_that_go_back_are_refused_by_all_so_there_are_no_cycles`] |
//! | writes in the future | [`a_flood_from_the_future_waits_in_bounds_and_comes_in_its_time`] |
//! | gives a number twice | [`a_number_given_twice_is_kept_by_all_and_many_times_costs_no_more`] |
//! | sends too much | [`oversize_entries_and_messages_are_not_read`] |
//! | never stops sending symbols | [`symbols_without_end_are_stopped_and_sessions_paused`] |
//! | builds sketches that can't be decoded | [`sketches_that_do_not_decode_cost_little_and_delay_nobody`] |
//! | acknowledges and forgets | [`a_peer_that_acknowledges_and_forgets_is_given_all_again_at_long_intervals`] |
//! | never has room | [`a_peer_that_never_has_room_is_given_little`] |
//! | lists what there is not | [`a_list_of_what_there_is_not_leaves_room_for_others`] |
//! | compares again and again | [`comparisons_without_a_pause_are_put_off`] |
//!
//! In each, work is bounded, and the two honest ones end with equal sets that fit together.

use super::*;
use crate::{
    entry::ENTRY_BYTES_MAX,
    reconcile::{
        Arrival as Cursor, Cell, Index, Limits, Message as Frame, Nonce, Plan, Root, Session, SessionOptions,
        Welcome,
    },
    store::PrunedEntry,
};

/// Its place among the names: behind the honest ones, so that they begin comparisons.
const LIAR: usize = 2;

/// Two honest ones that know each other, with a third that both let in.
fn siege() -> Loop {
    siege_with(ReplicaConfig::default())
}

fn siege_with(config: ReplicaConfig) -> Loop {
    let mut siege = Loop::with(2, config);
    siege.connect(0, 1);
    siege.submit(0, chain(&mut author(1), 20, EPOCH - 5000));
    siege.seconds(2);
    for at in 0..2 {
        siege.nodes[at].replica.handle_connected(siege.now, &name(LIAR));
    }
    siege.settle();
    siege
}

fn tell(siege: &mut Loop, at: usize, message: Message) {
    siege.nodes[at].replica.handle_message(siege.now, &name(LIAR), message);
    siege.settle();
}

fn entries_of(batch: u64, entries: &[Verified]) -> Message {
    let entries = entries.iter().map(|entry| (entry.id(), entry.encoded().clone())).collect();
    Message::Entries { batch, entries }
}

/// The honest ones agree, on this many entries, and nothing is left over.
fn check(siege: &mut Loop, count: u64) {
    siege.seconds(5);
    assert!(
        siege.are_equal(),
        "the honest ones differ: {:?}",
        siege.nodes.iter().map(|n| n.replica.root()).collect::<Vec<_>>()
    );
    assert_eq!(siege.nodes[0].replica.root().count, count);
    for node in &siege.nodes {
        node.store.verify().expect("everything fits together");
        assert_eq!(node.replica.intake_bytes(), 0);
    }
}

fn note(author: &mut Author, key: &str, at: u64, parents: &[EntryId]) -> Verified {
    let notes = Collection::new("notes").expect("valid");
    let draft = Draft::put(&notes, key.to_owned(), "text").after(parents.iter().copied());
    author.sign(draft, Hlc::from_wall(WallTime(at))).expect("signs")
}

#[test]
fn a_bit_that_is_flipped_anywhere_changes_no_set() {
    let mut siege = siege();
    let entry = note(&mut author(7), "key", EPOCH, &[]);
    let whole = entry.encoded();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let entries = vec![(entry.id(), bytes.into())];
        siege.nodes[0].replica.handle_message(
            siege.now,
            &name(LIAR),
            Message::Entries { batch: bit as u64, entries },
        );
    }
    siege.settle();
    assert_eq!(siege.nodes[0].replica.root().count, 20);
    assert_eq!(siege.nodes[0].replica.intake_bytes(), 0);
    siege.submit(1, vec![entry]);
    check(&mut siege, 21);
}

#[test]
fn messages_with_flipped_bits_change_no_set() {
    let mut siege = siege();
    let entry = note(&mut author(7), "key", EPOCH, &[]);
    let cursor = Cursor { incarnation: 7000, sequence: 3 };
    let listing = Listing {
        incarnation: 9,
        after: 0,
        last: 2,
        bodies: false,
        items: vec![(1, entry.item()), (2, entry.item())],
    };
    let hello = Session::initiate(
        &Index::new(EpochKey::derive("notes", 0)),
        SessionOptions::default(),
        Nonce([3; 16]),
    )
    .poll_transmit()
    .expect("a hello");
    let pruned = PrunedEntry { id: entry.id(), author: entry.author(), sequence: entry.sequence() };
    let samples = [
        Message::Heartbeat { root: siege.nodes[1].replica.root(), followed: Some(cursor) },
        Message::Announce(listing.clone()),
        Message::Page { listing, more: true },
        Message::Pull { since: cursor, bodies: true },
        Message::Want(vec![entry.id()]),
        Message::Ack { batch: 1, verdicts: vec![Verdict::Stored; 3] },
        Message::Caught(cursor),
        Message::Confirm { first: true, heads: vec![(entry.author(), AuthorSequence(9))] },
        Message::Reconcile { session: 5, number: 0, frame: hello.into() },
        Message::PrunedBoundary(vec![pruned]),
        Message::Unknown(vec![entry.id()]),
        Message::Refuse(Refusal::Cursor),
    ];
    let mut read = 0;
    for sample in &samples {
        let whole = sample.encode();
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1 << (at % 8);
            if let Ok(message) = Message::decode(&bytes.into()) {
                read += 1;
                tell(&mut siege, 0, message);
            }
        }
    }
    assert!(read > 300, "only {read} could be read");
    siege.submit(1, vec![entry]);
    siege.seconds(60);
    check(&mut siege, 21);
}

#[test]
fn wrong_signatures_are_refused_and_the_good_ones_are_taken() {
    let mut siege = siege();
    let good = chain(&mut author(7), 1_000, EPOCH - 2000);
    let forged = good.iter().map(|entry| {
        let mut bytes = entry.encoded().to_vec();
        let last = bytes.len() - 1;
        bytes[last - 40] ^= 1;
        (entry.id(), bytes.into())
    });
    tell(&mut siege, 0, Message::Entries { batch: 1, entries: forged.collect() });
    let rejected =
        siege.nodes[0].events.iter().filter(|event| matches!(event, SyncEvent::Rejected { .. })).count();
    assert_eq!((rejected, siege.nodes[0].replica.root().count), (1_000, 20));
    siege.submit(1, good);
    check(&mut siege, 1_020);
}

#[test]
fn forged_parents_take_a_share_of_the_room_for_a_time() {
    let config = ReplicaConfig { orphan_bytes_max: ENTRY_BYTES_MAX, ..ReplicaConfig::default() };
    let mut siege = siege_with(config);
    let mut liar = author(66);
    let before = siege.messages;
    for batch in 0..20_u8 {
        let orphans: Vec<Verified> = (0..200_u64)
            .map(|n| note(&mut liar, "orphan", EPOCH + n, &[EntryId([batch; 32]), EntryId([n as u8; 32])]))
            .collect();
        tell(&mut siege, 0, entries_of(batch.into(), &orphans));
    }
    assert!(siege.nodes[0].replica.intake_bytes() <= ENTRY_BYTES_MAX / 4 + 4096);
    // Another one's children still find room until their parents come.
    let honest = chain(&mut author(7), 3, EPOCH);
    siege.nodes[0].replica.handle_message(siege.now, &name(1), entries_of(1, &honest[2..]));
    siege.settle();
    assert!(siege.nodes[0].replica.intake_bytes() > 0);
    siege.submit(1, honest);
    siege.seconds(60);
    assert!(siege.messages - before < 3_000, "{} messages", siege.messages - before);
    check(&mut siege, 23);
}

/// A child of an entry that the other honest one holds; the liar gives it without its parent, which it calls pruned.
fn child_without_parent(siege: &mut Loop) -> (Verified, Verified) {
    siege.disconnect(0, 1);
    let parent = note(&mut author(7), "parent", EPOCH, &[]);
    let child = note(&mut author(8), "child", EPOCH + 10, &[parent.id()]);
    siege.submit(1, vec![parent.clone()]);
    siege.outside.clear();
    tell(siege, 0, entries_of(1, std::slice::from_ref(&child)));
    let asked = |(at, message): &(usize, Message)| {
        *at == 0 && matches!(message, Message::Want(ids) if ids.contains(&parent.id()))
    };
    assert!(siege.outside.iter().any(asked), "the parent is asked of whoever brought the child");
    (parent, child)
}

#[test]
fn a_peer_alone_can_not_make_a_replica_do_without_parents() {
    let mut siege = siege();
    let (parent, child) = child_without_parent(&mut siege);
    let claim = PrunedEntry { id: parent.id(), author: parent.author(), sequence: parent.sequence() };
    tell(&mut siege, 0, Message::PrunedBoundary(vec![claim]));
    assert!(!siege.nodes[0].replica.holds(&child.item()));
    siege.connect(0, 1);
    siege.seconds(5);
    assert!(siege.nodes[0].replica.holds(&child.item()) && siege.nodes[0].replica.holds(&parent.item()));
    check(&mut siege, 22);
}

#[test]
fn what_is_called_pruned_and_is_not_is_taken_all_the_same() {
    let mut siege = siege();
    siege.seconds(15);
    // Something was pruned, so that what is said to be below that can't be told from the truth.
    let (one, mut pruner) = (author(1), author(PRUNER));
    // The liar is none of those that pruning waits for.
    let plan = siege.nodes[0].replica.plan_prune(&pruner.id(), &[(one.id(), AuthorSequence(10))]);
    let prune = pruner.sign(plan.draft.expect("confirmed"), Hlc::from_wall(siege.now.wall)).expect("signs");
    siege.submit(0, vec![prune]);
    let (parent, child) = child_without_parent(&mut siege);
    let claim = PrunedEntry { id: parent.id(), author: one.id(), sequence: AuthorSequence(3) };
    tell(&mut siege, 0, Message::PrunedBoundary(vec![claim]));
    siege.connect(0, 1);
    siege.seconds(5);
    assert!(siege.nodes[0].replica.holds(&parent.item()), "the parent is taken from who has it");
    assert!(siege.nodes[1].replica.holds(&child.item()));
    siege.seconds(5);
    assert!(siege.are_equal());
    assert_eq!(siege.nodes[0].replica.root().count, 10 + 1 + 2);
}

#[test]
fn stamps_that_go_back_are_refused_by_all_so_there_are_no_cycles() {
    let mut siege = siege();
    let mut liar = author(66);
    let parent = note(&mut liar, "later", EPOCH + 100, &[]);
    let child = note(&mut liar, "earlier", EPOCH, &[parent.id()]);
    let same = note(&mut liar, "same", EPOCH + 100, &[parent.id()]);
    // Whichever comes first, and to whom.
    tell(&mut siege, 0, entries_of(1, &[child.clone(), same.clone()]));
    tell(&mut siege, 0, entries_of(2, std::slice::from_ref(&parent)));
    tell(&mut siege, 1, entries_of(1, &[parent, child, same]));
    check(&mut siege, 21);
}

#[test]
fn a_flood_from_the_future_waits_in_bounds_and_comes_in_its_time() {
    let config = ReplicaConfig { deferred_per_author_max: 64, deferred_max: 128, ..ReplicaConfig::default() };
    let mut siege = siege_with(config);
    let soon = chain(&mut author(66), 400, EPOCH + 60_000);
    let never = chain(&mut author(67), 400, EPOCH + 30 * 3_600_000);
    let before = siege.messages;
    tell(&mut siege, 0, entries_of(1, &soon));
    tell(&mut siege, 0, entries_of(2, &never));
    siege.seconds(30);
    assert!(siege.are_equal());
    assert_eq!(siege.nodes[0].replica.root().count, 20);
    assert!(siege.messages - before < 2_000, "{} messages", siege.messages - before);
    // An honest author that is ahead a little is let in meanwhile.
    siege.submit(1, vec![note(&mut author(7), "skewed", siege.now.wall.0 + 200, &[])]);
    assert!(siege.are_equal());
    siege.seconds(60);
    assert_eq!(siege.nodes[0].replica.root().count, 21, "the liar does not answer any more");
    tell(&mut siege, 1, entries_of(3, &soon));
    check(&mut siege, 421);
}

#[test]
fn a_number_given_twice_is_kept_by_all_and_many_times_costs_no_more() {
    let mut siege = siege();
    let twin = |n: u64| note(&mut author(66), &format!("twin {n}"), EPOCH + n % 100, &[]);
    tell(&mut siege, 0, entries_of(1, &[twin(1)]));
    tell(&mut siege, 1, entries_of(1, &[twin(2)]));
    siege.seconds(3);
    for node in &siege.nodes {
        let told = node.events.iter().any(|event| matches!(event, SyncEvent::Equivocation(_)));
        assert!(told, "each honest one reports it");
    }
    check(&mut siege, 22);
    let many: Vec<Verified> = (3..3_000).map(twin).collect();
    for (batch, part) in many.chunks(500).enumerate() {
        tell(&mut siege, batch % 2, entries_of(2 + batch as u64, part));
    }
    check(&mut siege, 20 + 2_999);
    let held_max = siege.nodes.iter().flat_map(|node| &node.events).filter_map(|event| match event {
        SyncEvent::Equivocation(twins) => Some(twins.held.len()),
        _ => None,
    });
    assert!(held_max.max().is_some_and(|max| max <= 16));
}

#[test]
fn oversize_entries_and_messages_are_not_read() {
    let mut siege = siege();
    let huge = Bytes::from(vec![1; ENTRY_BYTES_MAX + 1]);
    tell(&mut siege, 0, Message::Entries { batch: 1, entries: vec![(EntryId([1; 32]), huge.clone())] });
    assert_eq!(siege.nodes[0].replica.intake_bytes(), 0);
    let message = Message::Entries {
        batch: 2,
        entries: vec![(EntryId([1; 32]), huge.clone()), (EntryId([2; 32]), huge)],
    };
    assert!(Message::decode(&message.encode()).is_err(), "more than one message may have");
    // A header that promises more than there is.
    let entry = note(&mut author(7), "key", EPOCH, &[]);
    for length in 0..entry.encoded().len() {
        let cut = entry.encoded().slice(..length);
        tell(&mut siege, 0, Message::Entries { batch: 3, entries: vec![(entry.id(), cut)] });
    }
    siege.submit(1, vec![entry]);
    check(&mut siege, 21);
}

fn strange_root(n: u64) -> Root {
    let mut index = Index::new(EpochKey::derive("notes", 0));
    index.insert(note(&mut author(66), "nothing", EPOCH + n, &[]).item());
    index.set_arrival(Cursor { incarnation: 66, sequence: 1 });
    index.root()
}

/// Lets the liar claim a root and answer comparisons for some time; how many were begun, and bytes that it was sent.
fn answers(siege: &mut Loop, seconds: u64, mut answer: impl FnMut(Frame) -> Vec<Frame>) -> (usize, u64) {
    let (mut begun, mut sent) = (0, 0);
    let mut numbers = std::collections::BTreeMap::new();
    for second in 0..seconds {
        for at in 0..2 {
            tell(siege, at, Message::Heartbeat { root: strange_root(second), followed: None });
        }
        siege.seconds(1);
        for _ in 0..2_000 {
            let said = std::mem::take(&mut siege.outside);
            if said.is_empty() {
                break;
            }
            for (at, message) in said {
                sent += message.encode().len() as u64;
                let Message::Reconcile { session, number, frame } = message else { continue };
                begun += usize::from(number == 0);
                for frame in answer(Frame::decode(&frame).expect("honest")) {
                    let number = numbers.entry(session).or_insert(0);
                    let frame = Message::Reconcile { session, number: *number, frame: frame.encode().into() };
                    *number += 1;
                    tell(siege, at, frame);
                }
            }
        }
    }
    (begun, sent)
}

fn noise(seed: u64, count: usize) -> Vec<Cell> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| Cell { ids: rng.u64(..), check: rng.u32(..) }).collect()
}

fn sketch_plan() -> Frame {
    Frame::Welcome(Welcome {
        root: Some(strange_root(0)),
        nonce: Nonce([9; 16]),
        limits: Limits::default(),
        estimate: 10,
        plan: Plan::Sketch,
    })
}

#[test]
fn symbols_without_end_are_stopped_and_sessions_paused() {
    let mut siege = siege();
    let mut seed = 0;
    let (begun, sent) = answers(&mut siege, 60, |frame| {
        let symbols = |seed| Frame::Symbols { cells: noise(seed, 1000), last: true };
        seed += 1;
        match frame {
            Frame::Hello(_) => vec![sketch_plan(), symbols(seed)],
            Frame::Refused(_) => Vec::new(),
            _ => vec![symbols(seed)],
        }
    });
    assert!((1..=80).contains(&begun), "{begun} comparisons");
    assert!(sent < 500_000, "{sent} bytes");
    siege.submit(1, vec![note(&mut author(7), "key", siege.now.wall.0, &[])]);
    check(&mut siege, 21);
}

#[test]
fn sketches_that_do_not_decode_cost_little_and_delay_nobody() {
    let mut siege = siege();
    let mut seed = 0;
    // It sends what doesn't decode up to the cap, and falls silent when ranges would follow.
    let (begun, sent) = answers(&mut siege, 60, |frame| {
        seed += 1;
        match frame {
            Frame::Hello(_) => vec![sketch_plan(), Frame::Symbols { cells: noise(seed, 4_000), last: true }],
            Frame::More(_) => vec![Frame::Symbols { cells: noise(seed, 4_000), last: true }],
            _ => Vec::new(),
        }
    });
    assert!((1..=40).contains(&begun), "{begun} comparisons");
    assert!(sent < 200_000, "{sent} bytes");
    siege.submit(1, vec![note(&mut author(7), "key", siege.now.wall.0, &[])]);
    check(&mut siege, 21);
}

/// A peer that answers comparisons as if it had nothing, and each batch with this verdict; what it was sent in ten
/// minutes, and how many comparisons there were.
fn forgets(siege: &mut Loop, verdict: Verdict) -> (u64, usize) {
    let empty = Index::new(EpochKey::derive("notes", 0));
    let mut sessions: std::collections::BTreeMap<u64, (Session, u64)> = std::collections::BTreeMap::new();
    let (mut sent, mut begun) = (0, 0);
    for _ in 0..600 {
        tell(siege, 0, Message::Heartbeat { root: empty.root(), followed: None });
        siege.seconds(1);
        for _ in 0..1_000 {
            let said = std::mem::take(&mut siege.outside);
            if said.is_empty() {
                break;
            }
            for (at, message) in said.into_iter().filter(|(at, _)| *at == 0) {
                sent += message.encode().len() as u64;
                match message {
                    Message::Entries { batch, entries } => {
                        let verdicts = vec![verdict; entries.len()];
                        tell(siege, at, Message::Ack { batch, verdicts });
                    }
                    Message::Reconcile { session, number, frame } => {
                        begun += usize::from(number == 0);
                        let (running, number) = sessions.entry(session).or_insert_with(|| {
                            (Session::respond(SessionOptions::default(), Nonce([5; 16])), 0)
                        });
                        let _ = running.handle_frame(&empty, &frame);
                        let mut frames = Vec::new();
                        while let Some(frame) = running.poll_transmit() {
                            frames.push(Message::Reconcile { session, number: *number, frame: frame.into() });
                            *number += 1;
                        }
                        frames.into_iter().for_each(|frame| tell(siege, at, frame));
                    }
                    _ => {}
                }
            }
        }
    }
    (sent, begun)
}

#[test]
fn a_peer_that_acknowledges_and_forgets_is_given_all_again_at_long_intervals() {
    let mut siege = siege();
    siege.submit(0, chain(&mut author(7), 200, EPOCH));
    let all: u64 = siege.nodes[0].store.summary().bytes;
    let (sent, begun) = forgets(&mut siege, Verdict::Stored);
    assert!((2..=60).contains(&begun), "{begun} comparisons in ten minutes");
    assert!(sent < 60 * (all + 20_000), "{sent} bytes for a set of {all}");
    siege.submit(1, vec![note(&mut author(8), "key", siege.now.wall.0, &[])]);
    check(&mut siege, 221);
}

#[test]
fn a_peer_that_never_has_room_is_given_little() {
    let mut siege = siege();
    let text = vec![7; 1000];
    let (notes, mut one) = (Collection::new("notes").expect("valid"), author(7));
    let many: Vec<Verified> = (0..4_000_u64)
        .map(|n| {
            one.sign(
                Draft::put(&notes, format!("{n}"), text.clone()),
                Hlc::from_wall(WallTime(EPOCH + n / 100)),
            )
            .expect("signs")
        })
        .collect();
    many.chunks(1000).for_each(|part| siege.submit(0, part.to_vec()));
    let window = ReplicaConfig::default().window_bytes as u64;
    let (sent, _) = forgets(&mut siege, Verdict::Busy);
    assert!(sent < 600 * window / 8, "{sent} bytes, a window has {window}");
    check(&mut siege, 4_020);
}

#[test]
fn a_list_of_what_there_is_not_leaves_room_for_others() {
    let mut siege = siege();
    let mut rng = fastrand::Rng::with_seed(1);
    for page in 0..40_u64 {
        let after = page * 1000;
        let mut item = |_| {
            let id = EntryId(std::array::from_fn(|_| rng.u8(..)));
            Item { hlc: Hlc::from_wall(WallTime(EPOCH)), id }
        };
        let items: Vec<(u64, Item)> = (after + 1..=after + 1000).map(|at| (at, item(at))).collect();
        let listing = Listing { incarnation: 66, after, last: after + 1000, bodies: false, items };
        siege.nodes[0].replica.handle_message(siege.now, &name(LIAR), Message::Announce(listing));
    }
    siege.outside.clear();
    siege.submit(1, chain(&mut author(7), 3_000, EPOCH));
    siege.seconds(1);
    assert!(siege.are_equal(), "the honest ones do not wait for the liar");
    siege.seconds(60);
    let asked: usize = siege
        .outside
        .iter()
        .map(|(_, message)| match message {
            Message::Want(ids) => ids.len(),
            _ => 0,
        })
        .sum();
    assert!(asked <= 6 * 16_384, "{asked} were asked for");
    check(&mut siege, 3_020);
}

#[test]
fn comparisons_without_a_pause_are_put_off() {
    let mut siege = siege();
    let index = Index::new(EpochKey::derive("notes", 0));
    for session in 0..500_u64 {
        let hello = Session::initiate(
            &index,
            SessionOptions { salted: true, ..SessionOptions::default() },
            Nonce([session as u8; 16]),
        )
        .poll_transmit()
        .expect("a hello");
        tell(&mut siege, 0, Message::Reconcile { session, number: 0, frame: hello.into() });
        siege.pass(Duration::from_millis(10));
    }
    let refused =
        siege.outside.iter().filter(|(_, message)| matches!(message, Message::Refuse(Refusal::Busy))).count();
    assert!(refused > 450, "{refused} of 500 were refused");
    check(&mut siege, 20);
}
