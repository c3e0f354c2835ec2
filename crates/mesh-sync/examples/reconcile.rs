//! Measures sessions between two sets in one process, and prints a line of JSON for each shape.
//!
//! ```text
//! cargo run --release -p mesh-sync --no-default-features --example reconcile
//! ```
//!
//! All that one side has to say arrives before the other answers, so nothing is saved by stopping a stream early.
//! Bytes are those of all frames, but not of the entries. Half of the differences are on each side. Times are the
//! medians over several keys, in CPU time of the thread. `bytes_known` is what was said until the initiator knew the
//! difference; the rest is the list of what it wants, which travels with the entries.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mesh_core::Hlc;
use mesh_sync::{
    EntryId, Item,
    reconcile::{Cost, EpochKey, Index, Nonce, Outcome, Session, SessionOptions, Sketch},
};

fn main() {
    for (n, d, newest) in [
        (1_000_000, 1, false),
        (1_000_000, 100, false),
        (1_000_000, 1_000, false),
        (1_000_000, 10_000, false),
        (1_000_000, 100, true),
        (1_000_000, 10_000, true),
        (1_000_000, 100_000, false),
        (100_000, 100_000, false),
    ] {
        shape(n, d, newest);
    }
    upkeep();
}

/// Frames and lists that are alive at once, as a stand-in for the memory of a session.
static ALIVE_MAX: AtomicUsize = AtomicUsize::new(0);

struct Draw(u64);

impl Draw {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn item(&mut self, hlc: u64) -> Item {
        let mut id = [0; 32];
        id.chunks_exact_mut(8).for_each(|out| out.copy_from_slice(&self.word().to_le_bytes()));
        Item { hlc: Hlc::from_bits(hlc << 16), id: EntryId(id) }
    }
}

fn sets(n: u64, d: u64, newest: bool) -> (BTreeSet<Item>, BTreeSet<Item>) {
    let mut draw = Draw(n ^ d << 32);
    let common: Vec<Item> = (0..n - d)
        .map(|_| {
            let at = draw.word() % n;
            draw.item(1_700_000_000_000 + at)
        })
        .collect();
    let mut a: BTreeSet<Item> = common.iter().copied().collect();
    let mut b = a.clone();
    for i in 0..d {
        let at = if newest { n + i } else { draw.word() % n };
        let item = draw.item(1_700_000_000_000 + at);
        if i % 2 == 0 {
            b.insert(item)
        } else {
            a.insert(item)
        };
    }
    (a, b)
}

fn timed<T>(spent: &mut Duration, run: impl FnOnce() -> T) -> T {
    let start = cpu();
    let out = run();
    *spent += cpu() - start;
    out
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

struct Run {
    cost: Cost,
    a: Outcome,
    b: Outcome,
    initiator: Duration,
    responder: Duration,
}

fn run(a: &Index, b: &Index, salt: u8) -> Run {
    let (mut initiator, mut responder) = (Duration::ZERO, Duration::ZERO);
    let options = SessionOptions::default;
    let mut us = timed(&mut initiator, || Session::initiate(a, options(), Nonce([salt; 16])));
    let mut them = Session::respond(options(), Nonce([salt ^ 0xff; 16]));
    loop {
        let up: Vec<_> = timed(&mut initiator, || std::iter::from_fn(|| us.poll_transmit()).collect());
        let idle = up.is_empty();
        timed(&mut responder, || up.iter().for_each(|frame| them.handle_frame(b, frame).expect("honest")));
        let down: Vec<_> = timed(&mut responder, || std::iter::from_fn(|| them.poll_transmit()).collect());
        timed(&mut initiator, || down.iter().for_each(|frame| us.handle_frame(a, frame).expect("honest")));
        let alive =
            up.iter().chain(&down).map(Vec::len).sum::<usize>() + us.memory_bytes() + them.memory_bytes();
        ALIVE_MAX.fetch_max(alive, Ordering::Relaxed);
        if idle && down.is_empty() {
            break;
        }
    }
    let cost = us.cost();
    let (a, b) = (us.into_outcome().expect("an end"), them.into_outcome().expect("an end"));
    Run { cost, a, b, initiator, responder }
}

/// The middle of some numbers.
fn median<T: PartialOrd + Copy>(numbers: impl Iterator<Item = T>) -> T {
    let mut numbers: Vec<T> = numbers.collect();
    numbers.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    numbers[numbers.len() / 2]
}

fn shape(n: u64, d: u64, newest: bool) {
    let (a, b) = sets(n, d, newest);
    let (mut built, mut saved, mut restored) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let keys = if d <= 10_000 { 9 } else { 3 };
    let mut index_bytes = 0;
    let mut runs = Vec::new();
    ALIVE_MAX.store(0, Ordering::Relaxed);
    for epoch in 0..keys {
        let key = EpochKey::derive("bench", epoch);
        let ours = timed(&mut built, || Index::from_sorted(key, a.iter().copied(), None));
        let theirs = Index::from_sorted(key, b.iter().copied(), None);
        let bytes = timed(&mut saved, || ours.save());
        let again = timed(&mut restored, || Index::restore(key, &bytes).expect("what was saved"));
        assert_eq!(again.root(), ours.root());
        index_bytes = ours.memory_bytes() / ours.len().max(1) as usize;
        // The first session finds cold caches, so the second one counts.
        run(&ours, &theirs, 0);
        let run = run(&ours, &theirs, 1 + epoch as u8);
        assert!(run.a.give_all(&ours).iter().eq(a.difference(&b)), "what A gives");
        assert!(run.b.give_all(&theirs).iter().eq(b.difference(&a)), "what B gives");
        runs.push(run);
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let total = |run: &Run| run.cost.bytes_sent + run.cost.bytes_received;
    println!(
        r#"{{"n":{n},"d":{d},"newest":{newest},"method":"{}","estimate":{},"bytes_known":{},"bytes":{},"bytes_max":{},"up":{},"down":{},"round_trips":{},"round_trips_mean":{:.2},"cpu_initiator_ms":{:.3},"cpu_responder_ms":{:.3},"session_mib":{:.2},"index_bytes_per_item":{index_bytes},"build_ms":{:.0},"save_ms":{:.0},"restore_ms":{:.0}}}"#,
        runs[0].a.method.name(),
        median(runs.iter().map(|run| run.cost.estimate)),
        median(runs.iter().map(|run| run.cost.bytes_known)),
        median(runs.iter().map(total)),
        runs.iter().map(total).max().unwrap_or(0),
        median(runs.iter().map(|run| run.cost.bytes_sent)),
        median(runs.iter().map(|run| run.cost.bytes_received)),
        median(runs.iter().map(|run| run.cost.round_trips)),
        runs.iter().map(|run| f64::from(run.cost.round_trips)).sum::<f64>() / runs.len() as f64,
        ms(median(runs.iter().map(|run| run.initiator))),
        ms(median(runs.iter().map(|run| run.responder))),
        ALIVE_MAX.load(Ordering::Relaxed) as f64 / f64::from(1 << 20),
        ms(built) / keys as f64,
        ms(saved) / keys as f64,
        ms(restored) / keys as f64,
    );
}

fn upkeep() {
    const COUNT: u64 = 1_000_000;
    let mut draw = Draw(1);
    let in_order: Vec<Item> = (0..COUNT).map(|n| draw.item(n)).collect();
    let mut shuffled = in_order.clone();
    shuffled.sort_by_key(|item| item.id);
    let key = EpochKey::derive("bench", 1);
    let each = |time: Duration| time.as_nanos() as u64 / COUNT;
    let (mut sketch, mut ordered, mut random, mut removed, mut audit) = Default::default();
    let mut cells = Sketch::new(key, Sketch::CELLS);
    timed(&mut sketch, || in_order.iter().for_each(|item| cells.insert(&item.id)));
    let mut index = Index::new(key);
    timed(&mut ordered, || in_order.iter().for_each(|item| assert!(index.insert(*item))));
    let bytes = index.memory_bytes() as u64 / COUNT;
    timed(&mut audit, || index.audit(Nonce([1; 16]), Nonce([2; 16])));
    timed(&mut removed, || shuffled.iter().for_each(|item| assert!(index.remove(item))));
    timed(&mut random, || shuffled.iter().for_each(|item| assert!(index.insert(*item))));
    println!(
        r#"{{"sketch_insert_ns":{},"index_append_ns":{},"index_random_insert_ns":{},"index_random_remove_ns":{},"index_bytes_per_item_in_order":{bytes},"audit_ms":{}}}"#,
        each(sketch),
        each(ordered),
        each(random),
        each(removed),
        audit.as_millis(),
    );
}
