use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    entry::DatasetId,
    store::{Creation, Datasets, MemoryStore, StoreIncarnation},
};

/// A queue on a store in memory, at a time that is moved by hand.
struct Bench {
    store: Arc<dyn EntryStore>,
    queue: Queue,
    at: Moment,
    limits: QueueLimits,
}

const ALL: (usize, u64) = (usize::MAX, u64::MAX);

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn id(n: u8) -> EntryId {
    EntryId([n; 32])
}

impl Bench {
    fn new(limits: QueueLimits) -> Self {
        let notes = DatasetId::new("notes").expect("valid");
        let creation = Creation::new(&notes, StoreIncarnation(1));
        let store = MemoryStore::in_memory().open(&notes, creation).expect("opens");
        let at = Moment { now: Instant::ZERO, wall: WallTime(1_000_000_000_000) };
        let queue = Queue::open(&*store, limits.clone(), fastrand::Rng::with_seed(5), at).expect("empty");
        Self { store, queue, at, limits }
    }

    fn write(&mut self) {
        if let Some(batch) = self.queue.poll_write() {
            self.store.write_metadata(&batch.writes).expect("memory takes it");
            self.queue.on_written(batch.ticket);
        }
    }

    /// A crash: what is not written is gone.
    fn reopen(&mut self) {
        let rng = fastrand::Rng::with_seed(6);
        self.queue = Queue::open(&*self.store, self.limits.clone(), rng, self.at).expect("reads");
    }

    fn pass(&mut self, by: Duration) {
        self.at.now += by;
        self.at.wall.0 += u64::try_from(by.as_millis()).expect("fits");
    }

    fn enqueue(&mut self, peer: &str, n: u8) -> Enqueued {
        self.queue.enqueue(&node(peer), id(n), 100, self.at).expect("room")
    }

    fn deliver(&mut self) -> Option<(String, Vec<u8>)> {
        let delivery = self.queue.poll_delivery(self.at, ALL.0, ALL.1)?;
        Some((delivery.peer.to_string(), delivery.entries.iter().map(|id| id.0[0]).collect()))
    }

    fn fail(&mut self, peer: &str, failure: SendFailure) {
        self.queue.on_failed(&node(peer), failure, self.at);
    }

    fn held(&mut self, peer: &str, n: &[u8]) {
        let outcomes = n.iter().map(|n| (id(*n), Delivered::Held)).collect();
        self.queue.on_sent(&node(peer), outcomes, self.at);
    }

    fn reasons(&self) -> Vec<(u8, DeadReason, u32)> {
        self.queue.dead_letters().map(|letter| (letter.entry.0[0], letter.reason, letter.attempts)).collect()
    }
}

fn unreachable() -> SendFailure {
    SendFailure::Unreachable("connection refused".into())
}

#[test]
fn what_is_queued_is_delivered_in_order_and_once() {
    let mut bench = Bench::new(QueueLimits::default());
    for n in [3, 1, 2] {
        assert!(matches!(bench.enqueue("b", n), Enqueued::New(_)));
    }
    assert_eq!(bench.enqueue("b", 1), Enqueued::Duplicate);
    let first = bench.queue.poll_delivery(bench.at, 2, ALL.1).expect("due");
    assert_eq!(first.entries, [id(3), id(1)]);
    assert_eq!(bench.deliver(), None, "one delivery per peer");
    assert_eq!(bench.enqueue("b", 3), Enqueued::Duplicate, "under way counts");
    bench.held("b", &[3, 1]);
    let second = bench.queue.poll_delivery(bench.at, ALL.0, 1).expect("at least one");
    assert_eq!(second.entries, [id(2)]);
    bench.held("b", &[2]);
    assert_eq!(bench.queue.stats(), QueueStats::default());
}

#[test]
fn a_stalled_peer_delays_nobody_and_peers_take_turns() {
    let mut bench = Bench::new(QueueLimits::default());
    for (peer, n) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.enqueue(peer, n);
    }
    assert_eq!(bench.deliver(), Some(("a".into(), vec![1])));
    assert_eq!(bench.deliver(), Some(("b".into(), vec![2])));
    bench.held("b", &[2]);
    bench.enqueue("b", 4);
    assert_eq!(bench.deliver(), Some(("c".into(), vec![3])), "c before b again, and a is stalled");
    assert_eq!(bench.deliver(), Some(("b".into(), vec![4])));
}

#[test]
fn all_addresses_are_tried_before_a_failure_counts() {
    let mut bench = Bench::new(QueueLimits { attempts_max: 2, ..QueueLimits::default() });
    let addresses = vec!["one:1".to_owned(), "two:2".to_owned(), "three:3".to_owned()];
    bench.queue.set_addresses(&node("b"), addresses.clone()).expect("room");
    bench.enqueue("b", 1);
    for address in &addresses {
        let delivery = bench.queue.poll_delivery(bench.at, ALL.0, ALL.1).expect("no pause between addresses");
        assert_eq!(delivery.address.as_ref(), Some(address));
        bench.fail("b", unreachable());
    }
    assert_eq!(bench.deliver(), None, "the peer is left alone now");
    let due = bench.queue.poll_timeout().expect("later");
    assert!(due <= Instant::ZERO + Duration::from_secs(1));
    bench.at.now = due;
    for _ in &addresses {
        assert!(bench.reasons().is_empty());
        bench.deliver().expect("due");
        bench.fail("b", unreachable());
    }
    assert_eq!(bench.reasons(), [(1, DeadReason::Attempts, 2)]);
}

#[test]
fn a_wrong_server_at_one_address_does_not_kill_what_another_may_take() {
    let mut bench = Bench::new(QueueLimits::default());
    bench.queue.set_addresses(&node("b"), vec!["wrong:1".into(), "right:2".into()]).expect("room");
    bench.enqueue("b", 1);
    bench.deliver().expect("due");
    bench.fail("b", SendFailure::Authentication("another key".into()));
    let delivery = bench.queue.poll_delivery(bench.at, ALL.0, ALL.1).expect("the other address");
    assert_eq!(delivery.address.as_deref(), Some("right:2"));
    bench.fail("b", unreachable());
    assert!(bench.reasons().is_empty(), "the right one may be back later");
}

#[test]
fn permanent_failures_go_to_the_dead_letters_at_once() {
    let failures = [
        (SendFailure::Authentication("bad proof".into()), DeadReason::Authentication),
        (SendFailure::Version("1..=1".into()), DeadReason::Version),
        (SendFailure::Refused("not let in".into()), DeadReason::Refused),
    ];
    for (failure, reason) in failures {
        let mut bench = Bench::new(QueueLimits::default());
        bench.enqueue("b", 1);
        bench.deliver().expect("due");
        bench.fail("b", failure);
        assert_eq!(bench.reasons(), [(1, reason, 0)]);
        bench.enqueue("b", 2);
        assert_eq!(bench.deliver(), None, "and the peer is not hammered");
    }
}

#[test]
fn outcomes_of_single_entries_are_told_apart() {
    let mut bench = Bench::new(QueueLimits::default());
    for n in 1..=4 {
        bench.enqueue("b", n);
    }
    bench.deliver().expect("due");
    let outcomes = vec![
        (id(1), Delivered::Held),
        (id(2), Delivered::NotYet("parents".into())),
        (id(3), Delivered::Refused("pruned".into())),
        (id(9), Delivered::Held),
    ];
    bench.queue.on_sent(&node("b"), outcomes, bench.at);
    assert_eq!(bench.reasons(), [(3, DeadReason::Refused, 0)]);
    assert_eq!(bench.queue.dead_letters().next().map(|letter| letter.detail.as_str()), Some("pruned"));
    bench.enqueue("b", 5);
    assert_eq!(bench.deliver(), Some(("b".into(), vec![5])), "others don't wait for those that failed");
    bench.held("b", &[5]);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.deliver(), Some(("b".into(), vec![2, 4])));
}

#[test]
fn a_full_queue_refuses_and_forgets_nothing() {
    let mut bench = Bench::new(QueueLimits {
        entries_max: 3,
        bytes_max: 250,
        dead_letters_max: 1,
        peers_max: 2,
        ..QueueLimits::default()
    });
    bench.enqueue("b", 1);
    bench.enqueue("c", 1);
    let full = bench.queue.enqueue(&node("b"), id(2), 51, bench.at);
    assert_eq!(full, Err(QueueError::Bytes { bytes: 200, more: 51, max: 250 }));
    let full = bench.queue.enqueue(&node("d"), id(2), 1, bench.at);
    assert_eq!(full, Err(QueueError::Peers { max: 2 }));
    bench.queue.enqueue(&node("b"), id(2), 50, bench.at).expect("room");
    let full = bench.queue.enqueue(&node("b"), id(3), 0, bench.at);
    assert_eq!(full, Err(QueueError::Entries { entries: 3, max: 3 }));
    bench.deliver().expect("due");
    bench.fail("b", SendFailure::Refused("no".into()));
    assert_eq!(bench.reasons().len(), 1);
    assert_eq!(bench.queue.stats().dead_letters_dropped, 1);
    assert_eq!(bench.queue.waiting_for(&node("c")), 1);
}

#[test]
fn dead_letters_can_be_requeued_or_dropped() {
    let mut bench = Bench::new(QueueLimits::default());
    bench.enqueue("b", 1);
    bench.enqueue("b", 2);
    bench.deliver().expect("due");
    bench.fail("b", SendFailure::Refused("no".into()));
    assert_eq!(bench.enqueue("b", 1), Enqueued::Dead);
    assert!(bench.queue.drop_dead_letter(&node("b"), &id(2)));
    assert!(!bench.queue.drop_dead_letter(&node("b"), &id(2)));
    assert_eq!(bench.queue.requeue_dead_letter(&node("b"), &id(1), bench.at), Ok(true));
    assert_eq!(bench.queue.requeue_dead_letter(&node("b"), &id(1), bench.at), Ok(false));
    assert!(bench.reasons().is_empty());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.deliver(), Some(("b".into(), vec![1])));
}

#[test]
fn what_waits_too_long_dies_but_not_while_it_is_under_way() {
    let mut bench = Bench::new(QueueLimits { age_max: Duration::from_secs(60), ..QueueLimits::default() });
    bench.enqueue("b", 1);
    bench.pass(Duration::from_secs(30));
    bench.enqueue("c", 2);
    assert_eq!(bench.deliver(), Some(("b".into(), vec![1])));
    bench.pass(Duration::from_secs(61));
    bench.queue.handle_timeout(bench.at);
    assert_eq!(bench.reasons(), [(2, DeadReason::Age, 0)]);
    bench.fail("b", unreachable());
    bench.queue.handle_timeout(bench.at);
    bench.queue.handle_timeout(bench.at);
    assert_eq!(bench.reasons(), [(2, DeadReason::Age, 0), (1, DeadReason::Age, 1)]);
}

#[test]
fn a_restart_after_each_step_resumes_it() {
    let mut bench = Bench::new(QueueLimits { attempts_max: 2, ..QueueLimits::default() });
    bench.enqueue("b", 1);
    bench.enqueue("b", 2);
    bench.reopen();
    assert_eq!(bench.queue.stats().entries, 0, "nothing was written, so nobody was told that it is safe");

    let mut newest = JournalTicket::default();
    for n in [1, 2, 3] {
        let Enqueued::New(ticket) = bench.enqueue("b", n) else { panic!("new") };
        newest = ticket;
    }
    assert!(bench.queue.durable() < newest);
    bench.write();
    assert!(bench.queue.durable() >= newest);
    bench.reopen();
    assert_eq!(bench.queue.stats().bytes, 300);
    assert_eq!(bench.enqueue("b", 1), Enqueued::Duplicate);

    assert_eq!(bench.deliver(), Some(("b".into(), vec![1, 2, 3])));
    bench.reopen();
    assert_eq!(bench.deliver(), Some(("b".into(), vec![1, 2, 3])), "under way is sent again");

    bench.held("b", &[1]);
    bench.write();
    bench.reopen();
    assert_eq!(bench.queue.stats().entries, 2);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.deliver(), Some(("b".into(), vec![2, 3])), "attempts are remembered, with a pause");

    bench.fail("b", SendFailure::Busy("full".into()));
    bench.write();
    bench.reopen();
    assert_eq!(bench.reasons(), [(2, DeadReason::Attempts, 2), (3, DeadReason::Attempts, 2)]);
    assert_eq!(bench.queue.stats().entries, 0);

    bench.queue.requeue_dead_letter(&node("b"), &id(3), bench.at).expect("room");
    bench.queue.drop_dead_letter(&node("b"), &id(2));
    bench.write();
    bench.reopen();
    assert!(bench.reasons().is_empty());
    assert_eq!(bench.deliver(), Some(("b".into(), vec![3])));
    bench.queue.remove_peer(&node("b"));
    bench.write();
    bench.reopen();
    assert_eq!(bench.queue.stats(), QueueStats::default());
    assert_eq!(bench.store.metadata_scan(b"", None, 10).expect("reads"), []);
}

#[test]
fn a_write_that_failed_comes_out_again() {
    let mut bench = Bench::new(QueueLimits::default());
    bench.enqueue("b", 1);
    let batch = bench.queue.poll_write().expect("a change");
    bench.queue.on_write_failed(batch.ticket);
    bench.write();
    bench.reopen();
    assert_eq!(bench.queue.stats().entries, 1);
}

#[test]
fn a_long_queue_comes_back_whole() {
    let mut bench = Bench::new(QueueLimits::default());
    for n in 0..20_000_u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk::<4>().expect("four"));
        id[4..8].copy_from_slice(&n.to_le_bytes());
        let peer = if n & 1 == 0 { "a" } else { "b" };
        bench.queue.enqueue(&node(peer), EntryId(id), 100, bench.at).expect("room");
    }
    bench.write();
    bench.reopen();
    assert_eq!(bench.queue.stats().entries, 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: counts fit what is there, no entry is in two places, and what was
    /// acknowledged as durable is delivered or a dead letter or still there, over any restarts.
    #[test]
    fn nothing_durable_is_lost(steps in prop::collection::vec((0_u8..9, 0_u8..3, 0_u8..6), 1..120)) {
        let mut bench = Bench::new(QueueLimits { attempts_max: 3, entries_max: 9, ..QueueLimits::default() });
        let mut safe = BTreeSet::<(u8, u8)>::new();
        let mut pending = Vec::new();
        let mut done = BTreeSet::new();
        let names = ["a", "b", "c"];
        for (action, p, n) in steps {
            let peer = names[usize::from(p)];
            match action {
                0 | 1 => if !done.contains(&(p, n))
                    && let Ok(Enqueued::New(ticket)) = bench.queue.enqueue(&node(peer), id(n), 10, bench.at) {
                    pending.push((ticket, p, n));
                },
                2 => bench.write(),
                3 => {
                    bench.reopen();
                    pending.clear();
                }
                4 => drop(bench.queue.poll_delivery(bench.at, 2, ALL.1)),
                5 => {
                    let out = bench.queue.peers.get(&node(peer)).map(|known| known.under_way().to_vec());
                    let out = out.unwrap_or_default();
                    done.extend(out.iter().map(|id| (p, id.0[0])));
                    bench.queue.on_sent(&node(peer), out.into_iter().map(|id| (id, Delivered::Held)).collect(), bench.at);
                }
                6 => bench.fail(peer, unreachable()),
                7 => bench.fail(peer, SendFailure::Refused("no".into())),
                _ => bench.pass(Duration::from_secs(u64::from(n))),
            }
            let durable = bench.queue.durable();
            safe.extend(pending.iter().filter(|(ticket, ..)| *ticket <= durable).map(|(_, p, n)| (*p, *n)));
            let stats = bench.queue.stats();
            let there: usize = names.iter().map(|peer| bench.queue.waiting_for(&node(peer))).sum();
            prop_assert_eq!(stats.entries, there);
            prop_assert_eq!(stats.entries, bench.queue.by_age.len());
            prop_assert_eq!(stats.bytes, 10 * there as u64);
            for (p, n) in &safe {
                let peer = node(names[usize::from(*p)]);
                let waits = bench.queue.peers.get(&peer).is_some_and(|known| known.waiting(&id(*n)).is_some());
                let dead = bench.queue.dead.contains_key(&(peer, id(*n)));
                prop_assert!(!(waits && dead));
                prop_assert!(waits || dead || done.contains(&(*p, *n)), "{p} {n} is lost");
            }
        }
    }

    /// No record that anybody could have put there makes reading panic.
    #[test]
    fn records_are_read_with_bounds(value in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Waiting::decode(&value);
        let _ = records::decode_dead(node("a"), id(1), &value);
    }
}
