use super::*;

/// Tries every order, without any cleverness: open calls may be anywhere after their call, or nowhere.
fn explained<M: Model>(model: &M, state: &M::State, rest: &[Invocation<M::Input, M::Output>]) -> bool {
    if rest.iter().all(|call| call.answer.is_none()) {
        return true;
    }
    let first_return =
        rest.iter().filter_map(|call| Some(call.answer.as_ref()?.at.tick)).min().unwrap_or(u64::MAX);
    (0..rest.len()).filter(|n| rest[*n].call.tick <= first_return).any(|n| {
        let Some(after) = model.step(state, &rest[n]) else { return false };
        let mut others = rest.to_vec();
        others.remove(n);
        explained(model, &after, &others)
    })
}

/// A few calls with random answers, about half of which can be explained.
fn guessed(rng: &mut fastrand::Rng) -> Vec<Call> {
    let keys = [key("x"), key("y")];
    let value = |rng: &mut fastrand::Rng| bytes::Bytes::from(rng.u8(0..3).to_string());
    (0..rng.usize(2..8))
        .map(|client| {
            let key = keys[usize::from(rng.u8(0..4) == 0)].clone();
            let from = rng.u64(0..40);
            let to = from + rng.u64(1..30);
            let found = rng.bool().then(|| Found { value: value(rng), revision: None });
            let (input, output) = match rng.u8(0..6) {
                0..3 => (RegisterCall::get(key), RegisterReply::Read { found: vec![found], revision: None }),
                3 => (RegisterCall::put(key, value(rng)), RegisterReply::done(None)),
                4 => {
                    let output =
                        if rng.bool() { RegisterReply::done(None) } else { RegisterReply::refused() };
                    (RegisterCall::cas(key, value(rng), value(rng)), output)
                }
                _ => {
                    let writes = keys.iter().map(|key| (key.clone(), Some(value(rng)))).collect();
                    (RegisterCall::Write { expects: vec![], writes }, RegisterReply::done(None))
                }
            };
            if rng.u8(0..6) == 0 {
                return Invocation::open(client as u64, Moment::at(from), input);
            }
            Invocation::answered(client as u64, Moment::at(from), input, Moment::at(to), output)
        })
        .collect()
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut counts = [0, 0];
    for _ in 0..20_000 {
        let history = guessed(&mut rng);
        let expected = explained(&Registers, &Registers.initial(), &history);
        let verdict = check(&Registers, &history, &Budget::default());
        assert_eq!(verdict.is_linearizable(), expected, "{history:#?}");
        assert!(!matches!(verdict, Verdict::Unknown { .. }));
        counts[usize::from(expected)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?}");
}

#[test]
fn a_counterexample_is_one_itself() {
    let mut rng = fastrand::Rng::with_seed(2);
    for _ in 0..3000 {
        let history = guessed(&mut rng);
        if let Verdict::Violation(example) = check(&Registers, &history, &Budget::default()) {
            // Calls are told apart by their client and their text.
            let kept: Vec<Call> = history
                .iter()
                .filter(|call| {
                    let text = format!("{:?}", call.input);
                    let client = format!("client {:<3} ", call.client);
                    example.calls.iter().any(|line| line.starts_with(&client) && line.contains(&text))
                })
                .cloned()
                .collect();
            assert_eq!(kept.len(), example.calls.len());
            assert!(!explained(&Registers, &Registers.initial(), &kept), "{example}\nof {history:#?}");
        }
    }
}
