//! How fast histories are judged: 10,000 calls of 16 clients over a handful of keys.

use mesh_core::{Clock, SystemClock};
use mesh_registry::testing::history::{
    Budget, Found, Invocation, Moment, RegisterCall, RegisterReply, Registers, Shape, check, registers,
};

const RUNS: u64 = 5;

fn main() {
    let shape = Shape { clients: 16, keys: 5, calls: 10_000, ..Shape::default() };
    let shapes = [
        ("single keys", shape),
        ("single keys, revisions", Shape { revisions: true, ..shape }),
        ("one call in ten on two keys", Shape { pairs_one_in: 10, ..shape }),
        ("one call in ten on two keys, revisions", Shape { pairs_one_in: 10, revisions: true, ..shape }),
        ("one outcome in 500 unknown", Shape { open_one_in: 500, ..shape }),
        ("one outcome in 100 unknown, revisions", Shape { open_one_in: 100, revisions: true, ..shape }),
    ];
    println!("{} calls, {} clients, {} keys; {RUNS} histories each", shape.calls, shape.clients, shape.keys);
    for (name, shape) in shapes {
        let mut times = Vec::new();
        let mut verdicts = Vec::new();
        for seed in 0..RUNS {
            let mut rng = fastrand::Rng::with_seed(seed);
            let history = registers(shape, &mut |below| rng.u64(..below));
            judge(&history, &mut times, &mut verdicts);
        }
        report(name, times, &verdicts);
    }
    let mut times = Vec::new();
    let mut verdicts = Vec::new();
    for seed in 0..RUNS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut history = registers(shape, &mut |below| rng.u64(..below));
        history.push(invented(&history));
        judge(&history, &mut times, &mut verdicts);
    }
    report("a read at the end that nothing explains", times, &verdicts);
}

type Call = Invocation<RegisterCall, RegisterReply>;

fn invented(history: &[Call]) -> Call {
    let last = history.last().map_or(0, |call| call.call.tick) + 1_000_000;
    let found = Found { value: "invented".into(), revision: None };
    let reply = RegisterReply::Read { found: vec![Some(found)], revision: None };
    let key = mesh_core::store::Key::new("k0").expect("a key");
    Invocation::answered(99, Moment::at(last), RegisterCall::get(key), Moment::at(last + 1), reply)
}

fn judge(history: &[Call], times: &mut Vec<u128>, verdicts: &mut Vec<&'static str>) {
    let start = SystemClock.now();
    let verdict = check(&Registers, history, &Budget::default());
    times.push(SystemClock.now().since(start).as_micros());
    verdicts.push(match verdict {
        mesh_registry::testing::history::Verdict::Linearizable => "linearizable",
        mesh_registry::testing::history::Verdict::Violation(_) => "violation",
        mesh_registry::testing::history::Verdict::Unknown { .. } => "unknown",
    });
}

fn report(name: &str, mut times: Vec<u128>, verdicts: &[&str]) {
    times.sort_unstable();
    let ms = |micros: u128| micros as f64 / 1000.0;
    println!(
        "{name:<42} median {:>8.1} ms, worst {:>8.1} ms  {verdicts:?}",
        ms(times[times.len() / 2]),
        ms(times[times.len() - 1])
    );
}
