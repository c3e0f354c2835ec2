//! A disk without room: what is to be written waits, and whoever would write more is told.
//!
//! A store that runs into the end of its disk has to be opened again. So none does: while less is left than a store
//! needs beside what it writes ([`EntryStore::room`](crate::store::EntryStore::room)), nothing is written. Peers are
//! read and served meanwhile, what they send waits within its bounds, and all goes on when there is room.

use std::sync::Arc;

use crate::{
    engine::{SyncError, core::lock},
    replica::{Job, Work},
    store::{MetadataWrite, StoreError},
};

use super::{Actor, Ended, Tickets, Waiter};

/// A write that waits for room.
pub(super) enum Held {
    Job(Job),
    Books(Tickets, Vec<MetadataWrite>),
}

impl Actor {
    /// Writes, on a thread that may block, if there is room.
    pub(super) fn start_write(&mut self, write: Held) {
        let store = Arc::clone(&self.dataset.store);
        let clock = Arc::clone(&self.core.clock);
        self.jobs.spawn_blocking(move || {
            if let Err(full) = store.room() {
                return Ended::NoRoom(write, full);
            }
            match write {
                Held::Job(Job { id, work }) => {
                    let begun = clock.now();
                    let result = work.perform(&*store);
                    let took = matches!(work, Work::Insert { .. }).then(|| clock.now().since(begun));
                    Ended::Job(id, result, took)
                }
                Held::Books(tickets, writes) => Ended::Books(tickets, store.write_metadata(&writes)),
            }
        });
    }

    /// There was none.
    pub(super) fn on_no_room(&mut self, write: Held, full: &StoreError) {
        self.held.push(write);
        self.note_room(Some(full));
        // Those who wait are told now rather than kept waiting for as long as somebody needs to make room.
        let dataset = self.dataset.id.clone();
        for (_, submission) in std::mem::take(&mut self.submissions) {
            let problem = crate::engine::shake::describe(full);
            let error = SyncError::Full { dataset: dataset.clone(), problem };
            match submission.waiter {
                Waiter::Write(waiter) => drop(waiter.send(Err(error))),
                Waiter::Entries(waiter) => drop(waiter.send(Err(error))),
            }
        }
    }

    /// Looks whether there is room, now and then.
    pub(super) fn look_for_room(&mut self) {
        let store = Arc::clone(&self.dataset.store);
        self.jobs.spawn_blocking(move || Ended::Room(store.room()));
    }

    pub(super) fn on_room(&mut self, room: Result<(), StoreError>) {
        self.note_room(room.as_ref().err());
        if room.is_ok() {
            for write in std::mem::take(&mut self.held) {
                self.start_write(write);
            }
        }
    }

    fn note_room(&mut self, full: Option<&StoreError>) {
        let problem = full.map(|full| crate::engine::shake::describe(full));
        let dataset = &self.dataset.id;
        let before = std::mem::replace(&mut lock(&self.dataset.board).full, problem.clone());
        match (before, problem) {
            (None, Some(problem)) => {
                tracing::error!(%dataset, problem, "the disk is full: nothing is written until there is room");
            }
            (Some(_), None) => tracing::info!(%dataset, "there is room on the disk again"),
            _ => {}
        }
    }

    /// Why no write is taken now.
    pub(super) fn no_room(&self) -> Option<SyncError> {
        let problem = lock(&self.dataset.board).full.clone()?;
        Some(SyncError::Full { dataset: self.dataset.id.clone(), problem })
    }
}
