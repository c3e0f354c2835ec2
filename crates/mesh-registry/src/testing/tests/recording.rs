use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::poll_immediate};
use mesh_core::{
    ManualClock,
    store::{
        Compare, IdempotencyKey, Key, OpenSession, Operation, Prefix, Scan, SessionId, Txn, TxnError,
        VersionedStore, WatchFrom, WatchOptions,
    },
};

use super::{
    super::{
        history::{Budget, LeaseReply, RegisterReply},
        *,
    },
    bent::{Bend, BentFactory},
};
use crate::MemoryStore;

struct Bench {
    provider: Box<dyn Provider>,
    recorder: Recorder,
}

impl Bench {
    async fn new(bend: Bend) -> Self {
        let provider = BentFactory::new(bend).start().await.expect("starts");
        let recorder = Recorder::new(provider.clock());
        Self { provider, recorder }
    }

    fn client(&self, number: u64) -> RecordedStore {
        self.recorder.record(self.provider.store(), number)
    }

    fn verdict(&self) -> Result<(), String> {
        self.recorder.recording().judge(&Budget::default())
    }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn txn() -> Txn {
    Txn::new("n1".parse().expect("a node id"))
}

fn put(k: &str, value: &'static str) -> Txn {
    txn().then(Operation::Put { key: key(k), value: value.into(), session: None })
}

fn acquire(k: &str, session: SessionId) -> Txn {
    let grant = Operation::Grant { key: key(k), value: "".into(), session };
    txn().when(Compare::Absent { key: key(k) }).then(grant)
}

async fn open(store: &RecordedStore) -> SessionId {
    let request = OpenSession { owner: "n1".parse().expect("a node id"), ttl: Duration::from_secs(2) };
    store.open_session(request).await.expect("opened").id
}

#[tokio::test]
async fn a_call_that_was_given_up_counts_as_of_unknown_outcome() {
    // Given up before the store saw it, and after.
    for (polls, applied) in [(1, false), (2, true)] {
        let bench = Bench::new(Bend::Straight).await;
        let store = bench.client(1);
        {
            let mut call = pin!(store.transact(put("a", "1")));
            for _ in 0..polls {
                assert!(poll_immediate(&mut call).await.is_none(), "it yields");
            }
        }
        assert_eq!(store.get(&key("a")).await.expect("read").value.is_some(), applied);
        let registers = bench.recorder.recording().registers();
        assert_eq!(registers.iter().filter(|call| call.answer.is_none()).count(), 1);
        assert_eq!(bench.verdict(), Ok(()));
    }
}

#[tokio::test]
async fn the_tries_of_one_number_are_one_call() {
    let bench = Bench::new(Bend::Straight).await;
    let store = bench.client(1);
    let session = open(&store).await;
    let once = put("a", "1").once(IdempotencyKey { session, sequence: 1 });
    drop(poll_immediate(pin!(store.transact(once.clone()))).await);
    store.transact(once.clone()).await.expect("applied");
    store.transact(once).await.expect("told again");
    let recording = bench.recorder.recording();
    assert_eq!(recording.len(), 4, "a session and three tries");
    let registers = recording.registers();
    assert_eq!(registers.len(), 1);
    assert!(matches!(registers[0].output(), Some(RegisterReply::Done { .. })), "{registers:?}");
    assert_eq!(recording.commits().len(), 1);
    assert_eq!(bench.verdict(), Ok(()));
}

#[tokio::test]
async fn a_retry_of_unknown_outcome_whose_session_is_gone_stays_unknown() {
    let bench = Bench::new(Bend::Straight).await;
    let store = bench.client(1);
    let session = open(&store).await;
    let once = put("a", "1").once(IdempotencyKey { session, sequence: 1 });
    {
        let mut call = pin!(store.transact(once.clone()));
        for _ in 0..2 {
            assert!(poll_immediate(&mut call).await.is_none());
        }
    }
    store.close_session(session).await.expect("closed");
    assert!(matches!(store.transact(once).await, Err(TxnError::SessionGone { .. })));
    assert!(store.get(&key("a")).await.expect("read").value.is_some(), "the first try was applied");
    assert_eq!(bench.verdict(), Ok(()));
}

#[tokio::test]
async fn a_lease_that_ends_too_early_is_found() {
    for (bend, fine) in [(Bend::Straight, true), (Bend::EndTooEarly, false)] {
        let bench = Bench::new(bend).await;
        let (first, second) = (bench.client(1), bench.client(2));
        let (one, two) = (open(&first).await, open(&second).await);
        first.transact(acquire("l", one)).await.expect("granted");
        bench.provider.pass(Duration::from_millis(1500)).await;
        // Renewed, but for the bend that is too late already.
        let _ = second.keep_alive(two).await;
        let three = open(&second).await;
        let taken = second.transact(acquire("l", three)).await;
        assert_eq!(taken.is_err(), fine);
        let verdict = bench.verdict();
        assert_eq!(verdict.is_ok(), fine, "{verdict:?}");
        if let Err(text) = verdict {
            assert!(
                text.contains("client 1") && text.contains("client 2") && text.contains("Granted"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_stale_read_is_found_with_the_calls_around_it() {
    let bench = Bench::new(Bend::StaleReads).await;
    let store = bench.client(1);
    store.get(&key("a")).await.expect("read");
    store.transact(put("a", "1")).await.expect("applied");
    store.get(&key("a")).await.expect("read");
    let text = bench.verdict().expect_err("stale");
    assert!(text.contains("no order explains") && text.contains("\"1\""), "{text}");
}

#[tokio::test]
async fn a_watch_that_loses_a_change_is_found() {
    for (bend, fine) in [(Bend::Straight, true), (Bend::WatchDrops, false), (Bend::WatchRepeats, false)] {
        let bench = Bench::new(bend).await;
        let store = bench.client(1);
        let options = WatchOptions::default();
        let mut watch = store.watch(&Prefix::all(), WatchFrom::Now, options).await.expect("watches");
        for value in ["1", "2", "3", "4", "5", "6"] {
            store.transact(put("a", value)).await.expect("applied");
        }
        // What there is to read, without waiting for more.
        while let Some(Some(event)) = poll_immediate(watch.next()).await {
            event.expect("an event");
        }
        let verdict = bench.verdict();
        assert_eq!(verdict.is_ok(), fine, "{bend:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn scans_and_transactions_over_several_keys_are_judged_together() {
    let bench = Bench::new(Bend::Straight).await;
    let store = bench.client(1);
    let both = put("a", "1").then(Operation::Put { key: key("b"), value: "1".into(), session: None });
    store.transact(both).await.expect("applied");
    store.transact(put("c", "1")).await.expect("applied");
    let page = Scan { limit: 2, ..Scan::of(Prefix::all()) };
    store.scan(&page).await.expect("scanned");
    let registers = bench.recorder.recording().registers();
    let RegisterReply::Read { found, .. } = registers[2].output().expect("answered") else {
        panic!("a read")
    };
    assert_eq!(found.len(), 2, "the page says nothing of the key after it: {registers:?}");
    assert_eq!(bench.verdict(), Ok(()));
}

#[tokio::test]
async fn a_key_that_was_granted_is_judged_as_a_lease_and_not_as_a_record() {
    let bench = Bench::new(Bend::Straight).await;
    let store = bench.client(1);
    let session = open(&store).await;
    let granted = store.transact(acquire("l", session)).await.expect("granted").grants[0].token;
    let fence = || Compare::Fence { key: key("l"), token: granted };
    store.transact(put("a", "1").when(fence())).await.expect("guarded");
    store.get(&key("l")).await.expect("read");
    store.close_session(session).await.expect("closed");
    assert!(matches!(store.transact(put("a", "2").when(fence())).await, Err(TxnError::Fenced { .. })));
    let recording = bench.recorder.recording();
    assert_eq!(recording.registers().len(), 1, "the guarded write");
    let leases = recording.leases();
    let fenced = leases.iter().filter(|call| matches!(call.output(), Some(LeaseReply::Fenced(None)))).count();
    assert_eq!((leases.len(), fenced), (5, 1), "{leases:?}");
    assert_eq!(bench.verdict(), Ok(()));
}

#[tokio::test]
async fn a_recording_that_is_not_whole_says_nothing() {
    let recorder = Recorder::with_limit(Arc::new(ManualClock::default()), 2);
    let store = recorder.record(Arc::new(MemoryStore::new()), 1);
    for value in ["1", "2", "3"] {
        store.transact(put("a", value)).await.expect("applied");
    }
    let text = recorder.recording().judge(&Budget::default()).expect_err("not whole");
    assert!(text.contains("1 calls were not written down"), "{text}");
}
