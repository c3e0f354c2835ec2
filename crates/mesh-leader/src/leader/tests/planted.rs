//! Each planted bug breaks a story that holds without it.

use std::panic::catch_unwind;

use super::{model::PLANTED, *};
use crate::PlantedBug;

#[track_caller]
fn breaks(bug: PlantedBug, story: fn()) {
    let outcome = std::thread::spawn(move || {
        PLANTED.with(|planted| planted.set(Some(bug)));
        catch_unwind(story).is_err()
    });
    assert!(outcome.join().expect("caught"), "nothing breaks with {bug:?}");
}

/// The holder is cut off from the store and goes on running.
fn a_holder_is_cut_off() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).cut = true;
    world.advance(MS(6000));
}

/// A holder was paused for longer than its time to live, and its watch says nothing when it goes on.
fn a_paused_holder_goes_on_unseeing() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).paused = true;
    world.advance(MS(2500));
    world.node(&leader).blind = true;
    world.node(&leader).paused = false;
    world.advance(MS(6000));
    assert_ne!(world.leader(S), leader);
}

/// A node that was stepping down when it was paused goes on after another has been elected.
fn an_old_handover_goes_on_after_a_new_election() {
    let mut world = three();
    let leader = world.leader(S);
    let [second, third] = others(&world, &leader).try_into().expect("two");
    world.node(&leader).cut = true;
    world.hand_over(&leader, S, Some(&second));
    world.advance(MS(50));
    world.node(&third).paused = true;
    let key = lease_key(&scope(S));
    let token = world.store.records[&key].token.expect("granted");
    let session = world.node(&third).core.session().expect("open");
    let txn = mesh_core::store::Txn::new(node_id("stranger"))
        .when(Compare::Fence { key: key.clone(), token })
        .then(Operation::Grant { key: key.clone(), value: Default::default(), session });
    world.inject(&crate::Request::Transact(txn));
    let stolen = world.store.records[&key].token;
    world.node(&leader).blind = true;
    world.node(&leader).cut = false;
    world.advance(MS(1300));
    assert_eq!(world.store.records[&key].token, stolen, "only its holder may hand a lease over");
}

#[test]
fn every_planted_bug_breaks_a_story() {
    use PlantedBug as Bug;
    breaks(Bug::HandOverWithForeignToken, an_old_handover_goes_on_after_a_new_election);
    breaks(Bug::CountFromAnswer, validity_counts_from_before_the_request_was_sent);
    breaks(Bug::IgnoreDeadline, a_holder_is_cut_off);
    breaks(Bug::IgnoreSessionLoss, a_paused_holder_goes_on_unseeing);
    breaks(Bug::HintDecides, gossip_makes_candidates_ready_and_does_not_decide);
    breaks(Bug::RepeatTerm, a_dead_holder_is_followed_after_its_time_to_live);
    breaks(Bug::CheckIgnoresPause, a_paused_holder_learns_that_it_lost_before_it_acts);
    breaks(Bug::LeadWhileHandingOver, the_lease_is_not_acted_upon_while_its_handover_is_under_way);
    breaks(Bug::AdoptForeignSession, a_restarted_node_does_not_take_its_old_lease_for_its_own);
    breaks(Bug::GiveUpAtFirstBlip, renewals_are_tried_again_until_the_deadline_and_then_all_is_lost_at_once);
    breaks(Bug::IgnoreSpread, scopes_of_one_spread_group_go_to_different_nodes_and_zones);
}

#[test]
fn the_stories_hold_without_a_bug() {
    a_holder_is_cut_off();
    a_paused_holder_goes_on_unseeing();
    an_old_handover_goes_on_after_a_new_election();
}
