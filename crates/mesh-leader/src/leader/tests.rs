mod model;
#[cfg(feature = "planted-bugs")]
mod planted;

use std::time::Duration;

use mesh_core::store::{Compare, DeleteCause, Operation};

use self::model::{MS, World, config, node_id, scope};
use crate::{
    CampaignOptions, Command, LeaderConfig, LeaseError, LeaseSignal, Reason, Refusal, Transition,
    records::{ask_key, candidate_key, lease_key, scope_key},
};

const S: &str = "global-control";

fn three() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        world.campaign(name, S);
    }
    world.until("a leader", MS(1000), |w| w.acting(S).len() == 1);
    world
}

fn others(world: &World, leader: &str) -> Vec<String> {
    world.nodes.keys().map(ToString::to_string).filter(|name| name != leader).collect()
}

#[test]
fn one_of_three_candidates_leads_and_all_see_it() {
    let mut world = three();
    let leader = world.leader(S);
    world.advance(MS(10_000));
    assert_eq!(world.leader(S), leader, "it goes on leading");
    for node in world.nodes.values() {
        let view = node.core.leader(&scope(S)).expect("known");
        assert_eq!(view.leader, Some(node_id(&leader)));
        assert_eq!((view.term, view.candidates.len()), (1, 3));
    }
    let events = &world.node(&leader).events;
    assert_eq!(events[0].transition, Transition::Elected);
    assert!(
        events
            .iter()
            .any(|e| e.transition == Transition::Renewed && e.correlation_id == events[0].correlation_id)
    );
    let other = others(&world, &leader).remove(0);
    assert_eq!(world.transitions(&other), [Transition::Observed]);
}

#[test]
fn a_dead_holder_is_followed_after_its_time_to_live() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).paused = true;
    let took =
        world.until("another leader", MS(2500), |w| w.acting(S).first().is_some_and(|name| *name != leader));
    assert!(took > MS(1300), "not before the lease has expired: {took:?}");
    let next = world.leader(S);
    assert_eq!(world.transitions(&next), [Transition::Observed, Transition::Expired, Transition::Elected]);
    assert_eq!(world.node(&next).core.leader(&scope(S)).expect("known").term, 2);
}

#[test]
fn a_paused_holder_learns_that_it_lost_before_it_acts() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).paused = true;
    world.until("another leader", MS(2500), |w| w.acting(S).first().is_some_and(|name| *name != leader));
    let now = world.now;
    // It has not run yet: the check alone must know.
    assert!(matches!(
        world.node(&leader).core.check(&scope(S), now),
        Some(Err(LeaseError::Unconfirmed { .. }))
    ));
    world.node(&leader).paused = false;
    world.advance(MS(50));
    let events = world.transitions(&leader);
    assert!(events.contains(&Transition::Lost), "{events:?}");
    assert_ne!(world.leader(S), leader);
}

#[test]
fn a_short_pause_is_confirmed_with_the_store_and_the_lease_goes_on() {
    let mut world = three();
    let leader = world.leader(S);
    world.advance(MS(700));
    let until = world.now + MS(1100);
    world.node(&leader).paused = true;
    while world.now < until {
        world.advance(MS(10));
    }
    let now = world.now;
    let check = world.node(&leader).core.check(&scope(S), now);
    assert!(matches!(check, Some(Err(LeaseError::Unconfirmed { .. }))), "{check:?}");
    // It runs, but its store is slow: still nobody knows.
    world.node(&leader).slow = MS(20);
    world.node(&leader).paused = false;
    world.advance(MS(5));
    assert_eq!(world.acting(S), Vec::<String>::new());
    world.advance(MS(50));
    assert_eq!(world.leader(S), leader, "the same reign");
    assert_eq!(world.node(&leader).core.counters(now).pauses, 1);
    assert!(!world.transitions(&leader).contains(&Transition::Lost));
}

#[test]
fn renewals_are_tried_again_until_the_deadline_and_then_all_is_lost_at_once() {
    let mut world = World::new(&["a"]);
    for of in ["x", "y", "z"] {
        world.campaign("a", of);
    }
    world.advance(MS(1000));
    world.node("a").cut = true;
    world.advance(MS(1200));
    assert_eq!(world.leader("x"), "a", "blips do not end a lease");
    world.node("a").cut = false;
    world.advance(MS(700));
    assert_eq!(world.leader("x"), "a", "it recovered in time");
    assert!(!world.transitions("a").contains(&Transition::Lost));

    world.node("a").cut = true;
    world.until("loss", MS(2100), |w| w.acting("x").is_empty());
    for of in ["y", "z"] {
        assert!(world.acting(of).is_empty(), "{of} went with the session");
    }
    world.advance(MS(10));
    let events = std::mem::take(&mut world.node("a").events);
    let lost: Vec<_> = events.iter().filter(|e| e.transition == Transition::Lost).collect();
    assert_eq!(lost.len(), 3);
    assert!(lost.iter().all(|e| e.reason == Reason::RenewalsFailed));
}

#[test]
fn validity_counts_from_before_the_request_was_sent() {
    let mut world = World::new(&["a"]);
    world.node("a").slow = MS(300);
    world.campaign("a", S);
    world.until("a leader", MS(3000), |w| w.acting(S).len() == 1);
    world.advance(MS(2000));
    world.until("a renewal is under way", MS(2000), |w| w.nodes[&node_id("a")].waits());
    world.until("it is answered", MS(2000), |w| !w.nodes[&node_id("a")].waits());
    // From here on no renewal gets through. The store saw the last one at most a third of the time to
    // live ago; the answer took 300 ms, which must not be added.
    world.node("a").cut = true;
    let store_until = world.store.sessions.values().map(|(_, until)| *until).max().expect("a session");
    world.until("loss", MS(2500), |w| w.acting(S).is_empty());
    assert!(world.now < store_until, "{:?} is not before {store_until:?}", world.now);
}

#[test]
fn a_session_that_is_gone_takes_all_leases_at_once_and_a_new_one_follows() {
    let mut world = three();
    let leader = world.leader(S);
    let first = world.node(&leader).core.session().expect("open");
    world.store.end_session(first, DeleteCause::SessionExpired);
    world.step();
    let events = world.transitions(&leader);
    assert!(events.contains(&Transition::Lost), "{events:?}");
    world.advance(MS(1000));
    assert_eq!(world.acting(S).len(), 1);
    assert_ne!(world.node(&leader).core.session(), Some(first));
    assert_eq!(world.store.records.keys().filter(|key| key.as_str().contains("candidate")).count(), 3);
}

#[test]
fn stepping_down_hands_over_without_a_gap_in_one_transaction() {
    let mut world = three();
    let leader = world.leader(S);
    let term = world.node(&leader).core.leader(&scope(S)).expect("known").term;
    world.store.txns.clear();
    let at = world.now;
    let op = world.hand_over(&leader, S, None);
    assert_eq!(world.now, at, "no time passed");
    let next = world.leader(S);
    assert_ne!(next, leader);
    assert_eq!(world.node(&leader).done[&op], Ok(()));
    let txn = world.store.txns.iter().find(|txn| txn.audit.is_some()).expect("an audited handover").clone();
    assert!(matches!(&txn.compares[0], Compare::Fence { key, .. } if *key == lease_key(&scope(S))));
    assert!(txn.operations.iter().any(|o| matches!(o, Operation::Grant { .. })));
    let note = txn.audit.as_ref().expect("audited");
    assert_eq!(note.action, "leader.step-down");
    assert!(note.reason.contains("a test") && note.reason.contains("an operator"), "{}", note.reason);
    let view = world.node(&next).core.leader(&scope(S)).expect("known");
    assert_eq!((view.term, view.correlation_id), (term + 1, note.correlation_id));
    assert_eq!(world.transitions(&leader)[1..], [Transition::SteppedDown, Transition::Observed]);
}

#[test]
fn the_lease_is_not_acted_upon_while_its_handover_is_under_way() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).slow = MS(100);
    world.node(&leader).blind = true;
    world.hand_over(&leader, S, None);
    let now = world.now;
    let signals = &world.node(&leader).signals;
    assert!(matches!(signals.last(), Some(LeaseSignal::Suspended { .. })), "{signals:?}");
    let check = world.node(&leader).core.check(&scope(S), now);
    assert!(matches!(check, Some(Err(LeaseError::HandingOver { .. }))), "{check:?}");
    assert_ne!(world.leader(S), leader, "the store has done it already");
    world.advance(MS(110));
    assert!(matches!(world.node(&leader).signals.last(), Some(LeaseSignal::Ended { .. })));
}

#[test]
fn an_operator_at_any_node_can_transfer_to_a_candidate() {
    let mut world = three();
    let leader = world.leader(S);
    let [second, third] = others(&world, &leader).try_into().expect("two");
    let op = world.hand_over(&second, S, Some(&third));
    assert_eq!(world.leader(S), third);
    assert_eq!(world.node(&second).done[&op], Ok(()));
    assert!(!world.store.records.contains_key(&ask_key(&scope(S))), "the ask went with the grant");
    let audited: Vec<_> = world.store.txns.iter().filter_map(|txn| txn.audit.as_ref()).collect();
    assert_eq!(audited.len(), 2, "the ask and the handover");
    assert_eq!(audited[0].correlation_id, audited[1].correlation_id);
}

#[test]
fn what_can_not_lead_is_refused_by_name() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    let order = |world: &mut World, at: &str, of: &str, to: Option<&str>| {
        let op = world.op();
        let to = to.map(node_id);
        world.command(at, Command::HandOver { op, scope: scope(of), to, order: Default::default() })
    };
    let refused = order(&mut world, &leader, S, Some("zz")).expect_err("unknown");
    assert!(refused.to_string().contains("zz can't lead global-control"), "{refused}");
    let refused = order(&mut world, &leader, S, Some(&leader)).expect_err("itself");
    assert!(matches!(refused, Refusal::AlreadyLeads { .. }), "{refused}");
    let refused = order(&mut world, &other, S, Some(&leader)).expect_err("the holder");
    assert!(matches!(refused, Refusal::AlreadyLeads { .. }), "{refused}");
    assert!(matches!(order(&mut world, &leader, "nothing", None), Err(Refusal::NoLeader { .. })));
    world.hint(&other, true);
    let refused = order(&mut world, &leader, S, Some(&other)).expect_err("dead");
    assert!(refused.to_string().contains("gone"), "{refused}");
    assert_eq!(world.leader(S), leader);
    let again = world.command(&leader, Command::Campaign { scope: scope(S), options: Default::default() });
    assert!(matches!(again, Err(Refusal::Campaigning { .. })));
}

#[test]
fn a_transfer_to_a_candidate_that_just_left_leaves_the_leader_in_place() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    world.node(&leader).blind = true;
    let session = world.node(&other).core.session().expect("open");
    world.store.end_session(session, DeleteCause::SessionClosed);
    let op = world.hand_over(&leader, S, Some(&other));
    assert!(matches!(world.node(&leader).done[&op], Err(Refusal::NoCandidate { .. })));
    assert_eq!(world.leader(S), leader);
    assert!(matches!(world.node(&leader).signals.last(), Some(LeaseSignal::Resumed { .. })));
}

#[test]
fn an_ask_that_the_holder_can_not_fulfil_is_answered_with_the_reason() {
    let mut world = three();
    let leader = world.leader(S);
    let [second, third] = others(&world, &leader).try_into().expect("two");
    // The holder alone knows that the third is dead.
    let now = world.now;
    let hint = crate::MemberHint { node_id: node_id(&third), gone: true, shy: false, zone: None };
    let input = crate::Input::Member(hint);
    mesh_core::Machine::handle(&mut world.node(&leader).core, now, input).expect("taken");
    let op = world.hand_over(&second, S, Some(&third));
    let outcome = world.node(&second).done[&op].clone();
    assert!(
        matches!(&outcome, Err(Refusal::HolderRefused { problem, .. }) if problem.contains("gone")),
        "{outcome:?}"
    );
    assert_eq!(world.leader(S), leader);
    assert!(!world.store.records.contains_key(&ask_key(&scope(S))), "tidied up");
}

#[test]
fn an_ask_that_the_store_does_not_take_from_this_node_says_who_may() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    world.store.denies_asks = true;
    let op = world.hand_over(&other, S, None);
    let outcome = world.node(&other).done[&op].clone();
    assert!(
        matches!(&outcome, Err(Refusal::NotAllowed { problem, .. }) if problem.contains("control may")),
        "{outcome:?}"
    );
    assert_eq!(world.leader(S), leader);
    let op = world.hand_over(&leader, S, None);
    assert_eq!(world.node(&leader).done[&op], Ok(()), "the leader itself needs no ask");
}

#[test]
fn an_ask_to_a_dead_holder_times_out() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    // It lives, but does not see what it is asked.
    world.node(&leader).blind = true;
    let op = world.hand_over(&other, S, None);
    world.advance(MS(5100));
    assert!(matches!(world.node(&other).done[&op], Err(Refusal::Timeout { .. })));
    assert_eq!(world.leader(S), leader);
}

#[test]
fn a_lost_answer_to_a_grant_is_learned_and_not_asked_twice() {
    let mut world = World::new(&["a", "b"]);
    world.advance(MS(10));
    world.campaign("b", S);
    world.advance(MS(10));
    world.hand_over("b", S, None);
    world.campaign("a", S);
    world.node("a").blind = true;
    world.node("a").deaf = true;
    world.advance(MS(1500));
    world.node("a").deaf = false;
    world.advance(MS(1000));
    assert_eq!(world.acting(S).len(), 1);
    let terms: Vec<u64> = world
        .node("b")
        .events
        .iter()
        .filter(|e| e.transition != Transition::Renewed)
        .map(|e| e.term)
        .collect();
    assert!(terms.windows(2).all(|pair| pair[0] <= pair[1]), "{terms:?}");
}

#[test]
fn a_lost_answer_to_a_handover_is_learned_from_the_watch() {
    let mut world = three();
    let leader = world.leader(S);
    world.node(&leader).deaf = true;
    let op = world.hand_over(&leader, S, None);
    assert_ne!(world.leader(S), leader);
    assert_eq!(world.node(&leader).done[&op], Ok(()));
}

#[test]
fn a_drained_node_leads_nothing_and_is_no_candidate() {
    let mut world = World::new(&["a", "b"]);
    for of in ["x", "y", "z"] {
        world.campaign("a", of);
    }
    world.advance(MS(100));
    for of in ["x", "y"] {
        world.campaign("b", of);
    }
    world.advance(MS(100));
    let op = world.op();
    world.command("a", Command::Drain { op }).expect("accepted");
    assert_eq!(world.node("a").done[&op], Ok(()));
    assert_eq!((world.leader("x"), world.leader("y")), ("b".into(), "b".into()));
    assert!(world.acting("z").is_empty(), "nobody else wants it");
    assert!(!world.store.records.contains_key(&candidate_key(&scope("x"), &node_id("a"))));
    world.advance(MS(10_000));
    assert!(world.acting("z").is_empty());
    world.command("a", Command::Undrain).expect("accepted");
    world.until("z is led again", MS(1000), |w| w.acting("z") == ["a"]);
    assert_eq!(world.leader("x"), "b");
}

#[test]
fn a_withdrawn_campaign_gives_the_lease_away() {
    let mut world = three();
    let leader = world.leader(S);
    world.command(&leader, Command::Withdraw { scope: scope(S) }).expect("accepted");
    assert_ne!(world.leader(S), leader);
    assert!(matches!(
        world.command(&leader, Command::Withdraw { scope: scope(S) }),
        Err(Refusal::NotCampaigning { .. })
    ));
}

#[test]
fn closing_gives_everything_back_at_once() {
    let mut world = three();
    let leader = world.leader(S);
    let op = world.op();
    world.command(&leader, Command::Close { op }).expect("accepted");
    assert_eq!(world.node(&leader).done[&op], Ok(()));
    world.advance(MS(10));
    assert_ne!(world.leader(S), leader);
    let refused = world.command(&leader, Command::Undrain);
    assert!(matches!(refused, Err(Refusal::Stopped)));
}

#[test]
fn gossip_makes_candidates_ready_and_does_not_decide() {
    let mut world = three();
    let leader = world.leader(S);
    world.hint(&leader, true);
    world.advance(MS(5000));
    assert_eq!(world.leader(S), leader, "a word of gossip takes no lease away");
    // This time it is true, and nobody loses a moment once the lease is gone.
    world.node(&leader).paused = true;
    world.until("expiry", MS(2500), |w| {
        !w.store.records.contains_key(&lease_key(&scope(S))) || w.acting(S).len() == 1
    });
    world.until("the next one", MS(5), |w| w.acting(S).len() == 1);
}

#[test]
fn the_dead_are_not_waited_for() {
    let mut world = three();
    let leader = world.leader(S);
    let rest = others(&world, &leader);
    // One of the two others is the better one, and dies with the leader.
    for name in [&leader, &rest[0]] {
        world.node(name).paused = true;
        world.hint(name, true);
    }
    world.until("the last one leads", MS(2100), |w| w.acting(S) == [rest[1].clone()]);
}

#[test]
fn priority_and_preference_choose_who_follows() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    let with = |priority, preferred: Option<&str>| CampaignOptions {
        priority,
        preferred: preferred.map(node_id),
        spread: None,
    };
    world.campaign("a", S);
    world.advance(MS(100));
    world.campaign_with("b", S, with(1, None));
    world.campaign_with("c", S, with(9, None));
    world.campaign_with("d", S, with(5, None));
    world.hand_over("a", S, None);
    assert_eq!(world.leader(S), "c", "the highest priority");
    world.command("c", Command::Withdraw { scope: scope(S) }).expect("accepted");
    world.campaign_with("c", S, with(9, Some("b")));
    assert_eq!(world.leader(S), "d");
    world.command("d", Command::Withdraw { scope: scope(S) }).expect("accepted");
    world.campaign_with("d", S, with(5, Some("b")));
    assert_eq!(world.leader(S), "c");
    world.hand_over("c", S, None);
    assert_eq!(world.leader(S), "b", "the preferred one");
}

#[test]
fn a_leader_hands_back_to_the_preferred_node_once_that_was_there_for_a_while() {
    let config = LeaderConfig { handback_after: MS(3000), ..config() };
    let mut world = World::with(&["a", "b"], &config);
    let options = CampaignOptions { preferred: Some(node_id("b")), ..CampaignOptions::default() };
    world.campaign_with("a", S, options.clone());
    world.advance(MS(100));
    world.campaign_with("b", S, options);
    world.advance(MS(2000));
    assert_eq!(world.leader(S), "a");
    world.until("handed back", MS(3000), |w| w.acting(S) == ["b"]);
    world.advance(MS(20_000));
    assert_eq!(world.leader(S), "b", "and there it stays");
}

#[test]
fn scopes_of_one_spread_group_go_to_different_nodes_and_zones() {
    let mut world = World::new(&["a", "b", "c"]);
    world.zone("a", "z1");
    world.zone("b", "z1");
    world.zone("c", "z2");
    let options = CampaignOptions { spread: Some("group".into()), ..CampaignOptions::default() };
    world.campaign_with("a", "one", options.clone());
    world.advance(MS(100));
    for name in ["b", "c"] {
        world.campaign_with(name, "one", options.clone());
    }
    assert_eq!(world.leader("one"), "a");
    for of in ["two", "three"] {
        for name in ["a", "b", "c"] {
            let now = world.now;
            let command = Command::Campaign { scope: scope(of), options: options.clone() };
            let core = &mut world.node(name).core;
            mesh_core::Machine::handle(core, now, crate::Input::Command(command)).expect("taken");
        }
        world.until("led", MS(1000), |w| w.acting(of).len() == 1);
    }
    assert_eq!(world.leader("two"), "c", "another zone first");
    assert_eq!(world.leader("three"), "b", "then another node");
}

#[test]
fn an_observer_follows_and_never_leads() {
    let mut world = World::new(&["a", "b"]);
    world.campaign("a", S);
    world.advance(MS(100));
    assert_eq!(world.transitions("b"), [Transition::Observed]);
    world.node("a").paused = true;
    world.advance(MS(4000));
    assert_eq!(world.transitions("b"), [Transition::Expired]);
    assert!(world.acting(S).is_empty());
    let now = world.now;
    assert!(world.node("b").core.counters(now).without_leader > MS(1000));
}

#[test]
fn a_stranger_who_takes_the_lease_fences_the_leader_and_is_counted() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    world.node(&other).paused = true;
    let session = world.node(&other).core.session().expect("open");
    let key = lease_key(&scope(S));
    let token = world.store.records[&key].token.expect("granted");
    let txn = mesh_core::store::Txn::new(node_id("stranger"))
        .when(Compare::Fence { key: key.clone(), token })
        .then(Operation::Grant { key, value: Default::default(), session });
    let request = crate::Request::Transact(txn);
    world.inject(&request);
    world.step();
    let events = world.transitions(&leader);
    assert!(events.contains(&Transition::Fenced), "{events:?}");
    let now = world.now;
    assert_eq!(world.node(&leader).core.counters(now).split_brain, 1);
}

#[test]
fn a_gap_in_the_watch_is_mended_by_reading_again() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    world.node(&other).blind = true;
    world.hand_over(&leader, S, None);
    world.advance(MS(100));
    world.gap(&other);
    world.advance(MS(500));
    let seen = world.node(&other).core.leader(&scope(S)).expect("known").leader;
    assert_eq!(seen.map(|id| id.to_string()), Some(world.leader(S)));
}

#[test]
fn a_time_to_live_that_the_store_is_too_slow_for_is_refused_with_the_figures() {
    let config = LeaderConfig { ttl: MS(600), ttl_probes: 4, ..LeaderConfig::default() };
    let mut world = World::with(&["a", "b"], &config);
    world.node("a").slow = MS(300);
    world.advance(MS(1500));
    let refused = world.command("a", Command::Campaign { scope: scope(S), options: Default::default() });
    let Err(Refusal::Ttl(refusal)) = refused else { panic!("not refused: {refused:?}") };
    assert!(refusal.needed > MS(800) && refusal.rtt_p99 >= MS(300), "{refusal:?}");
    assert!(refusal.to_string().contains("leader.ttl (600ms)"), "{refusal}");
    world.campaign("b", S);
    world.advance(MS(100));
    assert_eq!(world.leader(S), "b", "where it can be kept it is taken");
    // Once the store is fast again, so is the node.
    world.node("a").slow = Duration::ZERO;
    world.advance(MS(11_000));
    world.campaign("a", S);
}

#[test]
fn a_restarted_node_does_not_take_its_old_lease_for_its_own() {
    let mut world = World::new(&["a"]);
    world.campaign("a", S);
    world.advance(MS(100));
    world.start("a", &config());
    world.campaign("a", S);
    assert!(world.acting(S).is_empty(), "the lease is of the run before");
    world.until("a new reign", MS(2500), |w| w.acting(S).len() == 1);
    assert_eq!(world.node("a").core.leader(&scope(S)).expect("known").term, 2);
}

#[test]
fn a_thousand_scopes_of_a_dead_node_are_taken_over() {
    let mut world = World::new(&["a", "b", "c"]);
    for at in 0..300 {
        world.campaign("a", &format!("s/{at}"));
    }
    world.advance(MS(100));
    for at in 0..300 {
        world.campaign("b", &format!("s/{at}"));
        world.campaign("c", &format!("s/{at}"));
    }
    world.advance(MS(100));
    world.node("a").paused = true;
    world.hint("a", true);
    world.advance(MS(2300));
    let led = |world: &mut World, name: &str| {
        let now = world.now;
        world.node(name).core.status(now).leads
    };
    let (b, c) = (led(&mut world, "b"), led(&mut world, "c"));
    assert_eq!(b + c, 300);
    assert!(b > 90 && c > 90, "{b} and {c}: the hash spreads them");
}

#[test]
fn a_store_that_was_restored_to_an_earlier_revision_is_believed() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    world.hand_over(&leader, S, None);
    // A snapshot from long ago: nothing is there, and revisions begin anew.
    world.restore_to_nothing();
    world.advance(MS(6000));
    assert_eq!(world.acting(S).len(), 1, "they elect again");
    let view = world.node(&other).core.leader(&scope(S)).expect("known");
    assert_eq!(view.leader.map(|id| id.to_string()), Some(world.leader(S)));
}

#[test]
fn what_the_store_has_against_a_node_is_in_its_status() {
    let mut world = World::new(&["a"]);
    world.node("a").cut = true;
    world.campaign("a", S);
    world.advance(MS(5000));
    let now = world.now;
    let status = world.node("a").core.status(now);
    assert!(status.trouble.as_ref().is_some_and(|t| t.contains("cannot open a session")), "{status:?}");
    world.node("a").cut = false;
    world.until("a leader", MS(5000), |w| w.acting(S).len() == 1);
    let now = world.now;
    assert_eq!(world.node("a").core.status(now).trouble, None);
}

#[test]
fn a_scope_without_candidates_is_forgotten_after_a_while_and_comes_back_with_higher_tokens() {
    let config = LeaderConfig { forget_after: MS(60_000), ..config() };
    let mut world = World::with(&["a", "b", "c"], &config);
    world.campaign("a", "user/1");
    world.campaign("b", "kept");
    world.until("leaders", MS(1000), |w| w.acting("user/1").len() + w.acting("kept").len() == 2);
    let first = world.node("a").core.leader(&scope("user/1")).expect("known");
    world.command("a", Command::Withdraw { scope: scope("user/1") }).expect("taken");
    world.until("no leader", MS(1000), |w| w.acting("user/1").is_empty());
    let known = |world: &World, of: &str| world.nodes.values().any(|n| n.core.leader(&scope(of)).is_some());
    world.advance(MS(50_000));
    assert!(world.store.records.contains_key(&scope_key(&scope("user/1"))), "it may come back yet");
    world.until("its record is gone", MS(40_000), |w| {
        !w.store.records.contains_key(&scope_key(&scope("user/1")))
    });
    world.advance(MS(100));
    assert!(!known(&world, "user/1"));
    for node in world.nodes.values() {
        assert!(!node.board.contains(&scope("user/1")), "{:?}", node.board);
        assert!(node.board.contains(&scope("kept")));
    }
    world.advance(MS(200_000));
    assert_eq!(world.leader("kept"), "b", "what somebody leads is kept");
    assert!(world.store.records.contains_key(&scope_key(&scope("kept"))));

    world.campaign("c", "user/1");
    world.until("a leader", MS(1000), |w| w.acting("user/1") == ["c"]);
    let again = world.node("c").core.leader(&scope("user/1")).expect("known");
    assert_eq!((first.term, again.term), (1, 1));
    assert!(again.token > first.token, "{again:?} after {first:?}");
}

#[test]
fn a_scope_that_is_wanted_again_is_not_forgotten() {
    let config = LeaderConfig { forget_after: MS(60_000), ..config() };
    let mut world = World::with(&["a", "b"], &config);
    world.campaign("a", S);
    world.until("a leader", MS(1000), |w| w.acting(S).len() == 1);
    world.command("a", Command::Withdraw { scope: scope(S) }).expect("taken");
    world.advance(MS(55_000));
    world.campaign("b", S);
    world.until("a leader", MS(1000), |w| w.acting(S) == ["b"]);
    world.advance(MS(200_000));
    assert_eq!(world.node("b").core.leader(&scope(S)).expect("known").term, 2);
    assert!(world.store.records.contains_key(&scope_key(&scope(S))));
}

#[test]
fn a_watch_that_fell_silent_is_begun_anew() {
    let mut world = three();
    let leader = world.leader(S);
    let other = others(&world, &leader).remove(0);
    // Its watch died without a word, as behind a dead link.
    world.break_watch(&other);
    world.hand_over(&leader, S, None);
    world.advance(MS(4500));
    let seen = world.node(&other).core.leader(&scope(S)).expect("known").leader;
    assert_eq!(seen.map(|id| id.to_string()), Some(world.leader(S)));
    let now = world.now;
    assert_eq!(world.node(&other).core.counters(now).scans, 1, "resumed, not read again");

    world.command(&other, Command::Reread).expect("accepted");
    world.advance(MS(100));
    let now = world.now;
    assert_eq!(world.node(&other).core.counters(now).scans, 2, "somebody found it to differ from the store");
}
