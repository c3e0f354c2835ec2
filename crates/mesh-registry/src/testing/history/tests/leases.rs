use std::time::Duration;

use super::*;

type Call = Invocation<(Key, LeaseCall), LeaseReply>;

const TTL: Duration = Duration::from_nanos(100);

fn token(counter: u64) -> FencingToken {
    FencingToken { generation: 1, counter }
}

fn call(from: u64, to: u64, call: LeaseCall, reply: LeaseReply) -> Call {
    Invocation::answered(1, Moment::at(from), (key("l"), call), Moment::at(to), reply)
}

/// `holder` asks, and its time to live counts from before the call.
fn acquire(from: u64, to: u64, holder: u64, reply: LeaseReply) -> Call {
    let tenure = Tenure::since(holder, mesh_core::Instant::from_nanos(from), TTL);
    call(from, to, LeaseCall::Acquire(tenure), reply)
}

fn granted(counter: u64) -> LeaseReply {
    LeaseReply::Granted(token(counter))
}

fn guarded(from: u64, to: u64, counter: u64, reply: LeaseReply) -> Call {
    call(from, to, LeaseCall::Guarded(token(counter)), reply)
}

fn ok(history: &[Call]) -> bool {
    check(&Leases, history, &Budget::default()).is_linearizable()
}

#[test]
fn a_double_grant_is_found_and_a_grant_after_expiry_is_fine() {
    let first = acquire(0, 10, 1, granted(1));
    assert!(!ok(&[first.clone(), acquire(20, 30, 2, granted(2))]), "before its time to live");
    assert!(ok(&[first.clone(), acquire(20, 30, 2, LeaseReply::Taken(Some(token(1))))]));
    assert!(ok(&[first.clone(), acquire(20, 101, 2, granted(2))]), "it may have waited for the end");
    assert!(!ok(&[first.clone(), acquire(200, 210, 2, granted(1))]), "a token comes once");
    assert!(!ok(&[acquire(0, 10, 1, granted(5)), acquire(200, 210, 2, granted(4))]), "tokens grow");
    let release = call(20, 30, LeaseCall::Release(token(1)), LeaseReply::Done);
    assert!(ok(&[first, release, acquire(40, 50, 2, granted(2))]));
}

#[test]
fn a_renewal_that_was_answered_pushes_the_end() {
    let renewal = |reply| {
        let tenure = Tenure::since(1, mesh_core::Instant::from_nanos(90), TTL);
        call(90, 95, LeaseCall::Renew(tenure), reply)
    };
    let history = |renewal, at| [acquire(0, 10, 1, granted(1)), renewal, acquire(at, at + 5, 2, granted(2))];
    assert!(!ok(&history(renewal(LeaseReply::Done), 150)));
    assert!(ok(&history(renewal(LeaseReply::Done), 190)));
    let open = Invocation { answer: None, ..renewal(LeaseReply::Done) };
    assert!(ok(&history(open, 150)), "nobody was told that it was renewed");
    assert!(!ok(&[acquire(0, 10, 1, granted(1)), renewal(LeaseReply::Gone)]), "gone too early");
}

#[test]
fn no_write_with_an_older_token_is_accepted() {
    let grants = [acquire(0, 10, 1, granted(1)), acquire(150, 160, 2, granted(2))];
    let with = |call: Call| ok(&[grants[0].clone(), grants[1].clone(), call]);
    assert!(with(guarded(170, 180, 2, LeaseReply::Done)));
    assert!(!with(guarded(170, 180, 1, LeaseReply::Done)));
    assert!(with(guarded(170, 180, 1, LeaseReply::Fenced(Some(token(2))))));
    assert!(!with(guarded(170, 180, 1, LeaseReply::Fenced(None))), "somebody holds it");
    assert!(with(guarded(120, 155, 1, LeaseReply::Done)), "before the second grant");
    assert!(!with(guarded(170, 180, 2, LeaseReply::Fenced(None))), "fenced before its end");
}

#[test]
fn a_handover_is_one_step_and_an_unknown_grant_may_be_seen_later() {
    let to = Tenure::since(2, mesh_core::Instant::from_nanos(20), TTL);
    let hand = |reply| call(20, 30, LeaseCall::Transfer(token(1), to), reply);
    let first = acquire(0, 10, 1, granted(1));
    assert!(ok(&[first.clone(), hand(granted(2)), guarded(40, 50, 2, LeaseReply::Done)]));
    assert!(!ok(&[first.clone(), hand(granted(2)), guarded(40, 50, 1, LeaseReply::Done)]));
    assert!(!ok(&[first, hand(granted(1))]));

    let open = Invocation { answer: None, ..acquire(0, 10, 1, granted(1)) };
    let look = |from, counter| call(from, from + 5, LeaseCall::Look, LeaseReply::Seen(Some(token(counter))));
    assert!(ok(&[open.clone(), look(20, 7), guarded(30, 40, 7, LeaseReply::Done)]));
    assert!(!ok(&[open, look(20, 7), look(30, 8)]), "there was one grant");
}
