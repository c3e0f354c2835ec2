use mesh_core::{
    FencingToken, Revision,
    store::{Change, DeleteCause, Key, Prefix, Record, WatchEvent},
};

use super::*;

mod brute;
mod leases;
mod watching;

type Call = Invocation<RegisterCall, RegisterReply>;

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// A register that begins with nothing in it.
struct Client(u64);

impl Client {
    fn put(&self, from: u64, to: u64, value: &'static str) -> Call {
        let input = RegisterCall::put(key("x"), value);
        Invocation::answered(self.0, Moment::at(from), input, Moment::at(to), RegisterReply::done(None))
    }

    fn get(&self, from: u64, to: u64, value: Option<&'static str>) -> Call {
        let input = RegisterCall::get(key("x"));
        Invocation::answered(self.0, Moment::at(from), input, Moment::at(to), RegisterReply::got(value))
    }

    fn cas(&self, from: u64, to: u64, (old, new): (&'static str, &'static str), holds: bool) -> Call {
        let output = if holds { RegisterReply::done(None) } else { RegisterReply::refused() };
        let input = RegisterCall::cas(key("x"), old, new);
        Invocation::answered(self.0, Moment::at(from), input, Moment::at(to), output)
    }

    fn open_put(&self, from: u64, value: &'static str) -> Call {
        Invocation::open(self.0, Moment::at(from), RegisterCall::put(key("x"), value))
    }
}

const A: Client = Client(1);
const B: Client = Client(2);
const C: Client = Client(3);

fn verdict(history: &[Call]) -> Verdict {
    check(&Registers, history, &Budget::default())
}

#[track_caller]
fn accepted(history: &[Call]) {
    let verdict = verdict(history);
    assert!(verdict.is_linearizable(), "{verdict:?}");
}

#[track_caller]
fn rejected(history: &[Call]) -> String {
    match verdict(history) {
        Verdict::Violation(example) => example.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_during_a_write_may_see_the_old_or_the_new_value() {
    // A write that spans two reads; the second read to end began first.
    accepted(&[A.put(0, 100, "1"), B.get(25, 75, Some("1")), C.get(30, 60, None)]);
    // Once the new value was seen and that read ended, nobody may see the old one (new-old inversion).
    rejected(&[A.put(0, 100, "2"), B.get(10, 30, Some("2")), C.get(40, 90, None)]);
    accepted(&[A.put(0, 100, "2"), B.get(10, 30, None), C.get(40, 90, Some("2"))]);
}

#[test]
fn sequential_consistency_is_not_enough() {
    // Each client alone sees its own order kept, but the read began after the write ended.
    rejected(&[A.put(0, 10, "1"), B.get(20, 30, None)]);
    // Herlihy and Wing's registers: writes of 0 and 1 overlap, reads after both must agree.
    accepted(&[A.put(0, 50, "0"), B.put(10, 60, "1"), A.get(70, 80, Some("0")), B.get(70, 80, Some("0"))]);
    rejected(&[A.put(0, 50, "0"), B.put(10, 60, "1"), A.get(70, 80, Some("0")), B.get(70, 80, Some("1"))]);
}

#[test]
fn two_keys_that_are_fine_apart_can_be_wrong_together() {
    let pair = |from, to, found: [Option<&'static str>; 2]| {
        let found =
            found.map(|value| value.map(|value| Found { value: value.into(), revision: None })).to_vec();
        let input = RegisterCall::Read(vec![key("x"), key("y")]);
        let output = RegisterReply::Read { found, revision: None };
        Invocation::answered(9, Moment::at(from), input, Moment::at(to), output)
    };
    let both = RegisterCall::Write {
        expects: vec![],
        writes: vec![(key("x"), Some("1".into())), (key("y"), Some("1".into()))],
    };
    let both = Invocation::answered(1, Moment::at(0), both, Moment::at(100), RegisterReply::done(None));
    accepted(&[both.clone(), pair(10, 20, [None, None]), pair(30, 40, [Some("1"), Some("1")])]);
    let torn = rejected(&[both, pair(10, 20, [Some("1"), None])]);
    assert!(torn.contains("client 9"), "{torn}");
}

#[test]
fn of_two_compare_and_sets_of_one_value_one_wins() {
    let start = A.put(0, 1, "0");
    accepted(&[start.clone(), A.cas(10, 50, ("0", "1"), true), B.cas(10, 50, ("0", "2"), false)]);
    rejected(&[start.clone(), A.cas(10, 50, ("0", "1"), true), B.cas(10, 50, ("0", "2"), true)]);
    rejected(&[start, A.cas(10, 20, ("0", "1"), false)]);
}

#[test]
fn an_unknown_outcome_may_take_effect_late_or_never_but_not_twice() {
    accepted(&[A.open_put(0, "1"), B.get(10, 20, None), B.get(1000, 1010, Some("1"))]);
    accepted(&[A.open_put(0, "1"), B.get(1000, 1010, None)]);
    rejected(&[A.open_put(500, "1"), B.get(10, 20, Some("1"))]);
    rejected(&[
        A.open_put(0, "1"),
        B.get(10, 20, Some("1")),
        C.put(30, 40, "2"),
        B.get(50, 60, Some("2")),
        B.get(70, 80, Some("1")),
    ]);
}

fn random(seed: u64, shape: Shape) -> Vec<Call> {
    let mut rng = fastrand::Rng::with_seed(seed);
    registers(shape, &mut |below| rng.u64(..below))
}

#[test]
fn every_history_of_a_correct_object_is_accepted() {
    for seed in 0..300 {
        let shape = Shape {
            clients: 1 + (seed as usize % 8),
            keys: 1 + (seed as usize % 4),
            calls: 150,
            pairs_one_in: seed % 5,
            open_one_in: [0, 40, 15][seed as usize % 3],
            revisions: seed % 2 == 0,
        };
        match check(&Registers, &random(seed, shape), &Budget::default()) {
            Verdict::Linearizable => {}
            other => panic!("seed {seed}, {shape:?}: {other:?}"),
        }
    }
}

/// Replaces the answer of one read that is certain to be wrong then: the value of a write that was
/// overwritten before the read began, with nothing concurrent to either.
#[test]
fn a_stale_read_in_a_random_history_is_found() {
    let mut found = 0;
    for seed in 0..100 {
        let mut history = random(seed, Shape { clients: 3, keys: 1, calls: 80, ..Shape::default() });
        let end = history.iter().filter_map(|c| Some(c.answer.as_ref()?.at.tick)).max().unwrap_or(0);
        let first = history.iter().find_map(|call| match (&call.input, call.output()?) {
            (RegisterCall::Write { writes, .. }, RegisterReply::Done { .. }) => writes[0].1.clone(),
            _ => None,
        });
        let Some(first) = first else { continue };
        // After everything: one more write, then a read that still sees the first one.
        let last = Client(7).put(end + 10, end + 20, "last");
        let stale =
            RegisterReply::Read { found: vec![Some(Found { value: first, revision: None })], revision: None };
        let mut read = Client(8).get(end + 30, end + 40, None);
        read.input = RegisterCall::get(key("k0"));
        read.answer = Some(Answer { at: Moment::at(end + 40), output: stale });
        let mut last = last;
        last.input = RegisterCall::put(key("k0"), "last");
        history.extend([last, read]);
        let text = rejected(&history);
        assert!(text.contains("client 8"), "seed {seed}: {text}");
        found += 1;
    }
    assert!(found > 90, "{found}");
}

#[test]
fn a_lost_update_in_a_random_history_is_found() {
    for seed in 0..100 {
        let mut history = random(seed, Shape { clients: 4, keys: 2, calls: 60, ..Shape::default() });
        let end = history.iter().filter_map(|c| Some(c.answer.as_ref()?.at.tick)).max().unwrap_or(0);
        let on_k0 = |mut call: Call, input: RegisterCall| {
            call.input = input;
            call
        };
        // Two increments that both read "0", both succeed.
        history.push(on_k0(A.put(end + 1, end + 2, "0"), RegisterCall::put(key("k0"), "zero")));
        let cas = |value| RegisterCall::cas(key("k0"), "zero", value);
        history.push(on_k0(A.cas(end + 10, end + 50, ("", ""), true), cas("one")));
        history.push(on_k0(B.cas(end + 20, end + 40, ("", ""), true), cas("uno")));
        let text = rejected(&history);
        assert!(text.contains("zero") && text.lines().count() <= 28, "seed {seed}: {text}");
    }
}

#[test]
fn a_revision_that_contradicts_the_order_is_found() {
    let done = |from, to, revision: u64| {
        let input = RegisterCall::put(key("x"), revision.to_string());
        let output = RegisterReply::done(Some(revision));
        Invocation::answered(1, Moment::at(from), input, Moment::at(to), output)
    };
    accepted(&[done(0, 10, 2), done(5, 15, 1)]);
    rejected(&[done(0, 10, 2), done(15, 25, 1)]);
}

#[test]
fn the_window_of_a_counterexample_is_short_and_has_the_culprits() {
    let mut history = random(7, Shape { clients: 6, keys: 1, calls: 600, ..Shape::default() });
    let end = history.iter().filter_map(|c| Some(c.answer.as_ref()?.at.tick)).max().unwrap_or(0);
    let mut write = A.put(end + 1, end + 2, "culprit");
    write.input = RegisterCall::put(key("k0"), "culprit");
    let mut read = B.get(end + 3, end + 4, None);
    read.input = RegisterCall::get(key("k0"));
    // Much that is in order follows.
    let mut rest = random(8, Shape { clients: 6, keys: 1, calls: 600, ..Shape::default() });
    for call in &mut rest {
        call.call = Moment::at(call.call.tick + end + 10);
        if let Some(answer) = &mut call.answer {
            answer.at = Moment::at(answer.at.tick + end + 10);
        }
    }
    history.extend([write, read]);
    history.extend(rest);
    let Verdict::Violation(example) = verdict(&history) else { panic!("accepted") };
    assert!(example.calls.len() <= 24, "{example}");
    let last = &example.calls[example.calls.len() - 2..];
    assert!(last[0].contains("culprit") && last[1].starts_with("client 2"), "{example}");
}

#[test]
fn when_the_budget_ends_the_verdict_is_unknown_and_says_why() {
    // Many open writes of the same register, and a read that none of them explains.
    let mut history: Vec<Call> = (0..40)
        .map(|n| {
            let input = RegisterCall::put(key("x"), format!("v{n}"));
            Invocation::open(n, Moment::at(n), input)
        })
        .collect();
    history.push(B.get(100, 110, Some("never written")));
    let small = Budget { steps_max: 10_000, ..Budget::default() };
    let Verdict::Unknown { reason } = check(&Registers, &history, &small) else { panic!("known") };
    assert!(reason.contains("10000 steps") && reason.contains("41 calls"), "{reason}");
    let small = Budget { states_max: 50, ..Budget::default() };
    assert!(matches!(check(&Registers, &history, &small), Verdict::Unknown { .. }));
    let clock = mesh_core::ManualClock::default();
    clock.advance(std::time::Duration::from_secs(5));
    let late = Budget { deadline: Some((&clock, mesh_core::Instant::from_nanos(1))), ..Budget::default() };
    assert!(matches!(check(&Registers, &history, &late), Verdict::Unknown { .. }));
}
