//! When entries that concern sessions were appended here, by this voter's own clock.
//!
//! A session's time counts from then, not from when the entry is applied: the appending of a renewal is
//! what its owner waits for, and a voter that takes over has to have counted from then as well.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use mesh_core::Instant;
use openraft::EntryPayload;

use crate::{raft::types::Entry, state::Command};

/// Times of entries that are not applied yet.
#[derive(Default)]
pub(in crate::raft) struct Stamps {
    by_index: Mutex<BTreeMap<u64, Instant>>,
}

fn concerns_sessions(command: &Command) -> bool {
    match command {
        Command::Open { .. } | Command::Renew(_) => true,
        Command::Batch(commands) => commands.iter().any(concerns_sessions),
        _ => false,
    }
}

impl Stamps {
    pub(super) fn appended(&self, entry: &Entry, now: Instant) {
        let EntryPayload::Normal(proposal) = &entry.payload else { return };
        if concerns_sessions(&proposal.command) {
            self.lock().insert(entry.log_id.index, now);
        }
    }

    /// Entries after this one are void; `None` voids all.
    pub(super) fn void_after(&self, index: Option<u64>) {
        let mut by_index = self.lock();
        match index {
            Some(index) => drop(by_index.split_off(&(index + 1))),
            None => by_index.clear(),
        }
    }

    /// When the entry was appended, if that was in this run. What is not later is forgotten.
    pub(in crate::raft) fn take(&self, index: u64) -> Option<Instant> {
        let mut by_index = self.lock();
        let later = by_index.split_off(&(index + 1));
        std::mem::replace(&mut *by_index, later).remove(&index)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        // A map is whole between its own calls.
        self.by_index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
