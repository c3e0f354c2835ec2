//! Sets become equal: by push, by cursor, by comparison, with losses and restarts.

use super::*;
use crate::reconcile::Method;

fn reconciled(node: &Node) -> Vec<Method> {
    let methods = node.events.iter().filter_map(|event| match event {
        SyncEvent::Reconciled { method, .. } => Some(*method),
        _ => None,
    });
    methods.collect()
}

#[test]
fn what_is_submitted_is_told_when_durable_and_reaches_the_peer_at_once() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let entries = chain(&mut author(1), 3, EPOCH);
    pair.submit(0, entries.clone());
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[1].replica.root().count, 3);
    let submitted = pair.nodes[0].events.iter().any(|event| {
        matches!(event, SyncEvent::Submitted { outcomes, .. } if outcomes.iter().all(|one| one.is_held()))
    });
    assert!(submitted);
    let committed = pair.nodes[1].events.iter().any(
        |event| matches!(event, SyncEvent::Committed(new) if new.iter().map(|e| e.id()).eq(entries.iter().map(|e| e.id()))),
    );
    assert!(committed, "parents first, in one commit");
}

#[test]
fn two_that_never_met_compare_and_give_each_other_what_is_missing() {
    let mut pair = Loop::new(2);
    pair.submit(0, chain(&mut author(1), 300, EPOCH - 5000));
    pair.submit(1, chain(&mut author(2), 200, EPOCH - 5000));
    pair.connect(0, 1);
    pair.seconds(5);
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[0].replica.root().count, 500);
    assert_eq!(reconciled(&pair.nodes[0]).len(), 1);
    let cursors = pair.nodes[0].replica.peers()[0].cursor;
    assert_eq!(cursors.map(|cursor| cursor.sequence), Some(500));
}

#[test]
fn an_empty_node_is_filled_in_bulk() {
    let mut pair = Loop::new(2);
    pair.submit(0, chain(&mut author(1), 5_000, EPOCH - 50_000));
    pair.connect(0, 1);
    pair.seconds(3);
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[1].replica.root().count, 5_000);
}

#[test]
fn after_a_cut_cursors_bring_what_is_new_without_a_comparison() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let (mut one, mut two) = (author(1), author(2));
    pair.submit(0, chain(&mut one, 10, EPOCH));
    pair.seconds(5);
    pair.disconnect(0, 1);
    pair.submit(0, chain(&mut one, 3_000, EPOCH));
    pair.submit(1, chain(&mut two, 3_000, EPOCH));
    pair.seconds(20);
    pair.connect(0, 1);
    pair.seconds(4);
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[0].replica.root().count, 6_010);
    assert_eq!(reconciled(&pair.nodes[0]).len() + reconciled(&pair.nodes[1]).len(), 0);
}

#[test]
fn ten_thousand_writes_on_each_side_of_a_ten_minute_cut_cost_less_than_twice_the_difference() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let (mut one, mut two) = (author(1), author(2));
    pair.submit(0, chain(&mut one, 100, EPOCH));
    pair.seconds(5);
    pair.disconnect(0, 1);
    let (a, b) = (chain(&mut one, 10_000, EPOCH), chain(&mut two, 10_000, EPOCH));
    let difference: usize = a.iter().chain(&b).map(|entry| entry.encoded().len()).sum();
    a.chunks(1000).for_each(|part| pair.submit(0, part.to_vec()));
    b.chunks(1000).for_each(|part| pair.submit(1, part.to_vec()));
    pair.seconds(600);
    let before = pair.bytes;
    pair.connect(0, 1);
    pair.seconds(10);
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[0].replica.root().count, 20_100);
    let sent = pair.bytes - before;
    assert!(sent < 2 * difference as u64, "{sent} bytes were sent for a difference of {difference}");
}

#[test]
fn losses_are_made_up_for() {
    let mut pair = Loop::new(2);
    let mut rng = fastrand::Rng::with_seed(5);
    pair.drops = Box::new(move |_, _, _| rng.u32(0..100) < 20);
    pair.submit(0, chain(&mut author(1), 400, EPOCH - 5000));
    pair.submit(1, chain(&mut author(2), 400, EPOCH - 5000));
    pair.connect(0, 1);
    let mut three = author(3);
    for round in 0..20 {
        pair.submit(round % 2, chain(&mut three, 20, EPOCH));
        pair.seconds(1);
    }
    pair.seconds(60);
    pair.drops = Box::new(|_, _, _| false);
    pair.seconds(60);
    assert!(pair.are_equal());
    assert_eq!(pair.nodes[0].replica.root().count, 1200);
}

#[test]
fn a_restart_goes_on_from_the_durable_cursor() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let mut one = author(1);
    pair.submit(0, chain(&mut one, 500, EPOCH));
    pair.seconds(5);
    pair.restart(1, ReplicaConfig::default());
    pair.submit(0, chain(&mut one, 50, EPOCH));
    pair.connect(0, 1);
    pair.seconds(4);
    assert!(pair.are_equal());
    assert_eq!(reconciled(&pair.nodes[0]), []);
    pair.nodes[1].store.verify().expect("all fits together");
}

#[test]
fn an_entry_from_the_future_is_stored_when_its_time_comes() {
    let mut pair = Loop::new(2);
    pair.connect(0, 1);
    let early = chain(&mut author(1), 1, EPOCH + 30_000);
    pair.submit(0, early.clone());
    pair.seconds(20);
    assert!(!pair.nodes[1].replica.holds(&early[0].item()));
    assert!(pair.messages < 2_000, "{} messages for one entry", pair.messages);
    pair.seconds(20);
    assert!(pair.are_equal());
}

#[test]
fn equal_roots_are_audited_now_and_then() {
    let config = ReplicaConfig { audit_interval: Duration::from_secs(10), ..ReplicaConfig::default() };
    let mut pair = Loop::with(2, config);
    pair.connect(0, 1);
    pair.submit(0, chain(&mut author(1), 100, EPOCH));
    pair.seconds(35);
    let audits = reconciled(&pair.nodes[0]);
    assert!((2..=4).contains(&audits.len()), "{audits:?}");
    assert!(audits.iter().all(|method| *method == Method::SaltedRanges));
}
