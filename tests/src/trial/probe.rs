//! Small writes one after the other: they tell for how long nobody could write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{Clock, Instant, SystemClock};
use tokio::{task::JoinHandle, time::sleep};

use super::{client::Client, load::Hand};

/// Pause between two writes.
const PACE: Duration = Duration::from_millis(5);

/// A write that was answered.
#[derive(Clone, Copy)]
struct Beat {
    client: usize,
    call: Instant,
    answer: Instant,
}

/// Writes of each client, until this value goes.
pub(super) struct Probe {
    beats: Arc<Mutex<Vec<Beat>>>,
    tasks: Vec<JoinHandle<()>>,
    clients: usize,
}

impl Probe {
    pub(super) fn begin(clients: &[Client], hands: &[Hand]) -> Self {
        let beats = Arc::<Mutex<Vec<Beat>>>::default();
        let tasks = clients.iter().zip(hands).enumerate();
        let tasks = tasks.map(|(number, (client, hand))| {
            client.handle().spawn(beat(number, hand.clone(), Arc::clone(&beats)))
        });
        Self { tasks: tasks.collect(), beats, clients: clients.len() }
    }

    /// When the first write was answered that was sent after this.
    pub(super) fn first_after(&self, at: Instant) -> Option<Instant> {
        self.beats().iter().filter(|beat| beat.call >= at).map(|beat| beat.answer).min()
    }

    /// Whether every client could write after this.
    pub(super) fn all_after(&self, at: Instant) -> bool {
        let beats = self.beats();
        (0..self.clients).all(|client| beats.iter().any(|beat| beat.client == client && beat.call >= at))
    }

    fn beats(&self) -> MutexGuard<'_, Vec<Beat>> {
        // Each change is one push.
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn beat(client: usize, hand: Hand, beats: Arc<Mutex<Vec<Beat>>>) {
    loop {
        let call = SystemClock.now();
        if hand.beat(client).await {
            let answer = SystemClock.now();
            beats.lock().unwrap_or_else(PoisonError::into_inner).push(Beat { client, call, answer });
        }
        sleep(PACE).await;
    }
}
