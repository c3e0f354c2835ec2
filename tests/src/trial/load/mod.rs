//! What clients do in a round, every call written down.
//!
//! Each round has keys of its own, so that its history is judged alone and quickly. Tasks pace
//! themselves: a history is as long as a round, and no longer.

mod leases;
mod registers;
mod watches;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mesh_core::{
    NodeId, SystemClock,
    store::{Key, Operation, Prefix, Txn, VersionedStore},
};
use mesh_registry::testing::{RecordedStore, Recorder, Recording};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::client::Client;

/// Keys that are written, read, and compared.
const REGISTERS: usize = 4;
/// Scopes that are fought for.
const SCOPES: usize = 2;
/// Tasks of each client that write and read.
const WRITERS: usize = 2;
/// Pause between two calls of one task.
const PACE: Duration = Duration::from_millis(12);
/// A caller that waits no longer gives its call up; what became of it is unknown then.
const CALL_PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait for what must come once the cluster is whole.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a key held at the end of its round.
pub(super) type Word = (Key, Option<Bytes>);

/// One client's hands: a store that is written down, and what all tasks know of the round.
#[derive(Clone)]
pub(super) struct Hand {
    pub(super) store: RecordedStore,
    pub(super) writer: NodeId,
    round: Arc<Round>,
    rng: fastrand::Rng,
}

/// What all tasks of a round share.
struct Round {
    prefix: String,
    answered: AtomicU64,
    /// Makes every value one of its kind.
    values: AtomicU64,
    stop: watch::Receiver<bool>,
}

/// The work of one round.
pub(super) struct Load {
    recorder: Recorder,
    round: Arc<Round>,
    stop: watch::Sender<bool>,
    hands: Vec<Hand>,
    tasks: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

impl Hand {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}{name}", self.round.prefix)).expect("a short name of plain letters")
    }

    fn value(&self) -> Bytes {
        self.round.values.fetch_add(1, Ordering::Relaxed).to_string().into()
    }

    fn txn(&self) -> Txn {
        Txn::new(self.writer.clone())
    }

    fn stops(&self) -> bool {
        *self.round.stop.borrow()
    }

    /// Makes a call, and gives it up if the answer takes too long.
    async fn call<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Option<Result<T, E>> {
        let answer = timeout(CALL_PATIENCE, call).await.ok();
        if matches!(answer, Some(Ok(_))) {
            self.round.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// Waits for so long, or until the round ends.
    async fn pause(&self, time: Duration) {
        let mut stop = self.round.stop.clone();
        // The sender lives as long as the load.
        let _ = timeout(time, stop.wait_for(|stop| *stop)).await;
    }

    /// A write for a probe.
    pub(super) async fn beat(&self, client: usize) -> bool {
        self.put(self.key(&format!("beat-{client}")), self.value()).await
    }

    async fn put(&self, key: Key, value: Bytes) -> bool {
        let put = Operation::Put { key, value, session: None };
        matches!(self.call(self.store.transact(self.txn().then(put))).await, Some(Ok(_)))
    }
}

impl Load {
    /// Begins the work of a round.
    pub(super) fn begin(clients: &[Client], round: usize, seed: u64) -> Self {
        let recorder = Recorder::new(Arc::new(SystemClock));
        let (stop, stopped) = watch::channel(false);
        let prefix = format!("trial/{round}/");
        let shared = Round { prefix, answered: AtomicU64::new(0), values: AtomicU64::new(1), stop: stopped };
        let round = Arc::new(shared);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut load =
            Self { recorder, round, stop, hands: Vec::new(), tasks: Vec::new(), watchers: Vec::new() };
        for client in clients {
            for _ in 0..WRITERS {
                let hand = load.hand(client, &mut rng);
                load.tasks.push(client.handle().spawn(registers::work(hand)));
            }
            for scope in 0..SCOPES {
                let hand = load.hand(client, &mut rng);
                load.tasks.push(client.handle().spawn(leases::work(hand, scope)));
            }
            for restless in [false, true] {
                let hand = load.hand(client, &mut rng);
                load.watchers.push(client.handle().spawn(watches::work(hand, restless)));
            }
            let hand = load.hand(client, &mut rng);
            load.hands.push(hand);
        }
        load
    }

    fn hand(&self, client: &Client, rng: &mut fastrand::Rng) -> Hand {
        // Numbers are given in the order of the hands.
        let number = (self.tasks.len() + self.watchers.len() + self.hands.len()) as u64;
        let store = self.recorder.record(client.store(), number);
        Hand { store, writer: client.id().clone(), round: Arc::clone(&self.round), rng: rng.fork() }
    }

    /// Calls that succeeded up to now.
    pub(super) fn answered(&self) -> u64 {
        self.round.answered.load(Ordering::Relaxed)
    }

    /// One hand of each client, for calls beside the load.
    pub(super) fn hands(&self) -> &[Hand] {
        &self.hands
    }

    /// Ends the work of a cluster that is whole, reads everything once more, and hands out what was written down and the last word on each key.
    pub(super) fn end(self, clients: &[Client]) -> Result<(Recording, Vec<Word>)> {
        let Self { recorder, stop, mut hands, tasks, watchers, round } = self;
        stop.send_replace(true);
        let client = clients.first().context("there are no clients")?;
        let last = hands.clone().into_iter().next().context("there are no hands")?;
        let prefix = Prefix::new(&round.prefix)?;
        let words = client.run(async move {
            timeout(PATIENCE, async {
                for task in tasks {
                    task.await.context("a task of the load panicked")?;
                }
                // Watches are over when they have shown this.
                while !last.put(last.key(watches::END), last.value()).await {
                    sleep(PACE).await;
                }
                for watcher in watchers {
                    watcher.await.context("a watcher panicked")?;
                }
                let mut words = Vec::new();
                for hand in &mut hands {
                    words = hand.last_words(&prefix).await;
                }
                anyhow::Ok(words)
            })
            .await
            .unwrap_or_else(|_| {
                bail!("the load did not come to its end within {PATIENCE:?} of a whole cluster")
            })
        })??;
        Ok((recorder.recording(), words))
    }
}

impl Hand {
    /// What every key of the round holds: each register, and what was written under a lease.
    async fn last_words(&mut self, prefix: &Prefix) -> Vec<Word> {
        let names = (0..REGISTERS).map(registers::name).chain((0..SCOPES).map(leases::guarded));
        let keys: Vec<Key> = names.map(|name| self.key(&name)).collect();
        let mut words = Vec::new();
        for key in keys.into_iter().filter(|key| prefix.covers(key)) {
            let found = loop {
                match self.call(self.store.get(&key)).await {
                    Some(Ok(fresh)) => break fresh.value.map(|record| record.value),
                    _ => sleep(PACE).await,
                }
            };
            words.push((key, found));
        }
        words
    }
}
