//! What everybody has goes, and does not come back.

use super::*;
use crate::{
    documents::Worth,
    entry::{Kind, Outcome, Rejection},
};

fn prune(group: &mut Loop, at: usize, pruner: &mut Author, of: &Author, up_to: u64) -> bool {
    let wanted = [(of.id(), AuthorSequence(up_to))];
    let Some(draft) = group.nodes[at].replica.plan_prune(&pruner.id(), &wanted).draft else { return false };
    let hlc = Hlc::from_wall(group.now.wall);
    let entry = pruner.sign(draft, hlc).expect("signs");
    group.submit(at, vec![entry]);
    true
}

#[test]
fn nothing_goes_before_all_active_peers_have_confirmed_it() {
    let mut trio = Loop::new(3);
    trio.connect(0, 1);
    trio.connect(0, 2);
    trio.disconnect(0, 2);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    trio.submit(0, chain(&mut one, 20, EPOCH));
    trio.seconds(40);
    assert!(!prune(&mut trio, 0, &mut pruner, &one, 10), "the third has confirmed nothing");
    let plan = trio.nodes[0].replica.plan_prune(&pruner.id(), &[(one.id(), AuthorSequence(10))]);
    assert_eq!(plan.held_up_by, [name(2)]);
    let lagging =
        |event: &SyncEvent| matches!(event, SyncEvent::PeerLagging { peer, .. } if *peer == name(2));
    assert!(trio.nodes[0].events.iter().any(lagging));
    trio.nodes[0].replica.retire(trio.now, &name(2));
    assert!(prune(&mut trio, 0, &mut pruner, &one, 10));
    trio.seconds(5);
    assert_eq!(trio.nodes[0].replica.root().count, 11);
    assert_eq!(trio.nodes[1].replica.root().count, 11);
}

/// What it has yet to give may be an old write to a document whose deletion is about to go.
#[test]
fn what_a_peer_confirms_counts_once_all_that_it_held_is_here() {
    let mut pair = Loop::new(2);
    let (mut one, pruner) = (author(1), author(PRUNER));
    pair.submit(0, chain(&mut one, 4, EPOCH));
    pair.seconds(15);
    let (now, own) = (pair.now, pair.nodes[0].replica.root());
    let replica = &mut pair.nodes[0].replica;
    let mut more = own;
    (more.count, more.arrival) = (own.count + 1, crate::reconcile::Arrival { incarnation: 7, sequence: 5 });
    more.hash.0 ^= 1;
    replica.add_peer(now, &name(1));
    replica.handle_connected(now, &name(1));
    let wanted = [(one.id(), AuthorSequence(4))];
    let heartbeat = |root| Message::Heartbeat { root, followed: None };
    replica.handle_message(now, &name(1), heartbeat(more));
    replica.handle_message(now, &name(1), Message::Confirm { first: true, heads: wanted.to_vec() });
    let plan = replica.plan_prune(&pruner.id(), &wanted);
    assert!(plan.draft.is_none() && plan.held_up_by == [name(1)], "{plan:?}");
    replica.handle_message(now, &name(1), heartbeat(own));
    let plan = replica.plan_prune(&pruner.id(), &wanted);
    assert!(plan.draft.is_some() && plan.held_up_by.is_empty(), "{plan:?}");
}

#[test]
fn a_retired_peer_that_comes_back_brings_nothing_back() {
    let mut trio = Loop::new(3);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    trio.connect(0, 1);
    trio.connect(0, 2);
    trio.connect(1, 2);
    let old = chain(&mut one, 20, EPOCH);
    trio.submit(0, old.clone());
    trio.seconds(15);
    trio.disconnect(0, 2);
    trio.disconnect(1, 2);
    trio.nodes[0].replica.retire(trio.now, &name(2));
    assert!(prune(&mut trio, 0, &mut pruner, &one, 10));
    // Its own news survive.
    trio.submit(2, chain(&mut author(3), 5, EPOCH));
    trio.seconds(5);
    trio.connect(1, 2);
    trio.connect(0, 2);
    trio.seconds(40);
    assert!(trio.are_equal());
    assert_eq!(trio.nodes[2].replica.root().count, 10 + 1 + 5);
    assert!(old[..10].iter().all(|entry| !trio.nodes[2].replica.holds(&entry.item())));
}

#[test]
fn a_node_that_begins_after_a_prune_learns_which_parents_need_not_be_there() {
    let mut trio = Loop::new(3);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    trio.connect(0, 1);
    trio.submit(0, chain(&mut one, 20, EPOCH));
    trio.seconds(15);
    assert!(prune(&mut trio, 0, &mut pruner, &one, 10));
    trio.connect(1, 2);
    trio.seconds(20);
    assert!(trio.are_equal());
    trio.nodes[2].store.verify().expect("all fits together");
}

#[test]
fn an_order_to_prune_survives_a_stop_in_between() {
    let mut pair = Loop::new(2);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    pair.connect(0, 1);
    pair.submit(0, chain(&mut one, 20, EPOCH));
    pair.seconds(15);
    let plan = pair.nodes[0].replica.plan_prune(&pruner.id(), &[(one.id(), AuthorSequence(10))]);
    let draft = plan.draft.expect("confirmed");
    let entry = pruner.sign(draft, Hlc::from_wall(pair.now.wall)).expect("signs");
    let now = pair.now;
    pair.nodes[0].replica.submit(now, vec![entry]).expect("room");
    // It stops right after the commit.
    let job = pair.nodes[0].replica.poll_job().expect("a commit");
    job.work.perform(&*pair.nodes[0].store).expect("commits");
    assert_eq!(pair.nodes[0].store.summary().count, 21);
    pair.restart(0, ReplicaConfig::default());
    pair.seconds(2);
    assert_eq!(pair.nodes[0].replica.root().count, 11);
}

#[test]
fn what_is_pruned_is_refused_with_the_watermark() {
    let mut pair = Loop::new(2);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    pair.connect(0, 1);
    let old = chain(&mut one, 4, EPOCH);
    pair.submit(0, old.clone());
    pair.seconds(15);
    assert!(prune(&mut pair, 0, &mut pruner, &one, 4));
    let message = Message::Entries { batch: 9, entries: vec![(old[1].id(), old[1].encoded().clone())] };
    pair.nodes[1].replica.handle_message(pair.now, &name(0), message);
    pair.settle();
    let refused = pair.nodes[1].events.iter().any(|event| {
        matches!(event, SyncEvent::Rejected { outcome: Outcome::Rejected(Rejection::Pruned { .. }), .. })
    });
    assert!(refused);
}

#[test]
fn retention_keeps_last_writes_and_young_tombstones() {
    let notes = Collection::new("notes").expect("valid");
    let mut one = author(1);
    let mut sign = |draft, at| one.sign(draft, Hlc::from_wall(WallTime(at))).expect("signs");
    let first = sign(Draft::put(&notes, "a", "1"), 1);
    let second = sign(Draft::put(&notes, "a", "2"), 2);
    let delete = sign(Draft::delete(&notes, "a"), 3);
    let entries = [&first, &second, &delete].map(|entry| &**entry);
    let last = |entry: &crate::entry::Entry| match entry.kind() {
        Kind::Delete => Worth::Current,
        _ => Worth::Overwritten,
    };
    let keep = Duration::from_millis(100);
    let young = Retention::new(WallTime(50), keep).watermark(entries, last);
    assert_eq!(young, Some(AuthorSequence(2)));
    let old = Retention::new(WallTime(103), keep).watermark(entries, last);
    assert_eq!(old, Some(AuthorSequence(3)));
}

#[test]
fn retention_keeps_a_twin_of_what_is_spent() {
    let notes = Collection::new("notes").expect("valid");
    let sign = |draft, at| author(1).sign(draft, Hlc::from_wall(WallTime(at))).expect("signs");
    let twins = [sign(Draft::put(&notes, "a", "1"), 1), sign(Draft::put(&notes, "b", "1"), 2)];
    let entries = [&twins[0], &twins[1]].map(|entry| &**entry);
    let retention = Retention::new(WallTime(50), Duration::ZERO);
    let last = |entry: &crate::entry::Entry| match entry.key() {
        b"b" => Worth::Current,
        _ => Worth::Overwritten,
    };
    assert_eq!(retention.watermark(entries, last), None);
    assert_eq!(retention.watermark(entries, |_| Worth::Overwritten), Some(AuthorSequence(1)));
}

#[test]
fn a_peer_that_is_not_expected_falls_behind_only_when_it_is() {
    let mut pair = Loop::new(2);
    let lags =
        |pair: &Loop| pair.nodes[0].events.iter().any(|event| matches!(event, SyncEvent::PeerLagging { .. }));
    let now = pair.now;
    pair.nodes[0].replica.add_peer(now, &name(1));
    pair.nodes[0].replica.expect(&std::collections::BTreeSet::new());
    pair.submit(0, chain(&mut author(1), 2, EPOCH));
    pair.seconds(60);
    assert!(!lags(&pair), "its turn has not come");
    pair.nodes[0].replica.expect(&[name(1)].into());
    pair.seconds(60);
    assert!(lags(&pair));
}

/// A peer that always lacks the newest entries is behind by their age, and not since it was equal last.
#[test]
fn a_peer_that_keeps_up_with_what_never_ends_is_not_lagging() {
    let mut pair = Loop::new(2);
    pair.nodes[0].replica.add_peer(pair.now, &name(1));
    let now = pair.now;
    pair.nodes[0].replica.handle_connected(now, &name(1));
    let mut one = author(1);
    for round in 0..60 {
        let entry = chain(&mut one, 1, EPOCH + round);
        pair.submit(0, entry);
        pair.seconds(1);
        // It has followed all but the last, and says so.
        let root = pair.nodes[0].replica.root();
        let followed = crate::reconcile::Arrival { sequence: root.arrival.sequence - 1, ..root.arrival };
        let mut theirs = root;
        (theirs.count, theirs.arrival) =
            (root.count - 1, crate::reconcile::Arrival { incarnation: 7, sequence: 1 });
        let heartbeat = Message::Heartbeat { root: theirs, followed: Some(followed) };
        let now = pair.now;
        pair.nodes[0].replica.handle_message(now, &name(1), heartbeat);
        let behind = pair.nodes[0].replica.peers()[0].behind;
        assert!(behind <= Duration::from_secs(3), "{behind:?} in round {round}");
    }
}
