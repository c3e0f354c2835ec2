//! Planted bugs that take a rare moment, which the simulator meets seldom. Each story holds without the bug.

use super::*;
use crate::planted::PlantedBug;

/// The first entries are lost. Whether the taker's cursor is ever ahead of what it holds.
fn cursor_runs_ahead(bug: Option<PlantedBug>) -> bool {
    let mut pair = Loop::new(2);
    bug.into_iter().for_each(|bug| pair.nodes[0].replica.plant(bug));
    pair.submit(0, chain(&mut author(1), 10, EPOCH - 5000));
    let mut lost = false;
    pair.drops = Box::new(move |_, _, message| {
        matches!(message, Message::Entries { .. }) && !std::mem::replace(&mut lost, true)
    });
    pair.connect(0, 1);
    let mut ahead = false;
    for _ in 0..60 {
        pair.pass(Duration::from_millis(200));
        let cursor = pair.nodes[1].replica.peers()[0].cursor;
        let held = pair.nodes[1].replica.root().count;
        ahead |= cursor.is_some_and(|cursor| cursor.sequence > held);
    }
    assert!(pair.are_equal());
    ahead
}

#[test]
fn entries_that_are_never_sent_again_leave_a_cursor_ahead() {
    assert!(!cursor_runs_ahead(None));
    assert!(cursor_runs_ahead(Some(PlantedBug::NeverResend)));
}

/// A node stops between a prune's commit and its execution. How many entries are left in the end.
fn left_after_a_stop(bug: Option<PlantedBug>) -> u64 {
    let mut pair = Loop::new(2);
    let (mut one, mut pruner) = (author(1), author(PRUNER));
    pair.connect(0, 1);
    pair.submit(0, chain(&mut one, 20, EPOCH));
    pair.seconds(15);
    let plan = pair.nodes[0].replica.plan_prune(&pruner.id(), &[(one.id(), AuthorSequence(10))]);
    let entry = pruner.sign(plan.draft.expect("confirmed"), Hlc::from_wall(pair.now.wall)).expect("signs");
    let now = pair.now;
    pair.nodes[0].replica.submit(now, vec![entry]).expect("room");
    let job = pair.nodes[0].replica.poll_job().expect("a commit");
    job.work.perform(&*pair.nodes[0].store).expect("commits");
    pair.restart(0, ReplicaConfig::default());
    bug.into_iter().for_each(|bug| pair.nodes[0].replica.plant(bug));
    pair.seconds(2);
    pair.nodes[0].replica.root().count
}

#[test]
fn a_prune_that_is_forgotten_at_a_restart_leaves_what_it_removes() {
    assert_eq!(left_after_a_stop(None), 11);
    assert_eq!(left_after_a_stop(Some(PlantedBug::ForgetPruneAtRestart)), 21);
}
