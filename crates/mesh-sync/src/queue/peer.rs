//! One peer's part of the queue: what waits for it, where it is, and how long it is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::Instant;

use super::records::Waiting;
use crate::EntryId;

/// The longest pause after a failure.
const BACKOFF_MAX_S: u64 = 64;

/// A pause after the `failures`th failure: anything up to 1 s, 2 s, 4 s, … 64 s. Jitter over all of it keeps those
/// that failed together from trying together.
pub(super) fn backoff(failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let doubled = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(BACKOFF_MAX_S);
    Duration::from_nanos(rng.u64(0..=doubled.clamp(1, BACKOFF_MAX_S) * 1_000_000_000))
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ready,
    Delayed(Instant),
    UnderWay,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) addresses: Vec<String>,
    /// Which address is next.
    address: usize,
    /// Addresses that failed since the last answer or counted failure, and whether one of them was just unreachable.
    tried: usize,
    unreachable: bool,
    failures: u32,
    not_before: Instant,
    entries: BTreeMap<EntryId, (Waiting, Phase)>,
    ready: BTreeMap<u64, EntryId>,
    delayed: BTreeSet<(Instant, u64, EntryId)>,
    under_way: Vec<EntryId>,
}

impl Peer {
    pub(super) fn waiting(&self, id: &EntryId) -> Option<Waiting> {
        self.entries.get(id).map(|(waiting, _)| *waiting)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (EntryId, Waiting)> {
        self.entries.iter().map(|(id, (waiting, _))| (*id, *waiting))
    }

    pub(super) fn under_way(&self) -> &[EntryId] {
        &self.under_way
    }

    pub(super) fn is_under_way(&self, id: &EntryId) -> bool {
        matches!(self.entries.get(id), Some((_, Phase::UnderWay)))
    }

    /// Whether it can be forgotten: nothing waits, nobody said where it is, and its pause is over.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.entries.is_empty() && self.addresses.is_empty() && self.not_before <= now
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<String>) {
        if self.addresses != addresses {
            self.addresses = addresses;
            (self.address, self.tried, self.unreachable) = (0, 0, false);
            // Something has changed, so the peer may be there now.
            self.not_before = Instant::ZERO;
        }
    }

    pub(super) fn insert(&mut self, id: EntryId, waiting: Waiting, until: Option<Instant>) {
        self.remove(&id);
        let phase = match until {
            None => {
                self.ready.insert(waiting.sequence, id);
                Phase::Ready
            }
            Some(until) => {
                self.delayed.insert((until, waiting.sequence, id));
                Phase::Delayed(until)
            }
        };
        self.entries.insert(id, (waiting, phase));
    }

    pub(super) fn remove(&mut self, id: &EntryId) -> Option<Waiting> {
        let (waiting, phase) = self.entries.remove(id)?;
        match phase {
            Phase::Ready => drop(self.ready.remove(&waiting.sequence)),
            Phase::Delayed(until) => drop(self.delayed.remove(&(until, waiting.sequence, *id))),
            Phase::UnderWay => self.under_way.retain(|out| out != id),
        }
        Some(waiting)
    }

    /// When something can be sent, if nothing is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.under_way.is_empty() {
            return None;
        }
        let entry = match (self.ready.is_empty(), self.delayed.first()) {
            (false, _) => Instant::ZERO,
            (true, Some((until, ..))) => *until,
            (true, None) => return None,
        };
        Some(entry.max(self.not_before))
    }

    /// Takes what is due, oldest first: at most `entries`, and until `bytes` are passed.
    pub(super) fn take(&mut self, now: Instant, entries: usize, bytes: u64) -> Vec<EntryId> {
        while let Some((until, sequence, id)) = self.delayed.first().copied().filter(|first| first.0 <= now) {
            self.delayed.remove(&(until, sequence, id));
            self.ready.insert(sequence, id);
            self.entries.get_mut(&id).expect("what is delayed is there").1 = Phase::Ready;
        }
        let mut taken = 0_u64;
        while self.under_way.len() < entries.max(1) && (self.under_way.is_empty() || taken < bytes) {
            let Some((_, id)) = self.ready.pop_first() else { break };
            let (waiting, phase) = self.entries.get_mut(&id).expect("what is ready is there");
            *phase = Phase::UnderWay;
            taken = waiting.bytes.saturating_add(taken);
            self.under_way.push(id);
        }
        self.under_way.clone()
    }

    pub(super) fn address(&self) -> Option<&String> {
        self.addresses.get(self.address)
    }

    /// What was under way, to be put back or given up by the caller.
    pub(super) fn end_delivery(&mut self) -> Vec<(EntryId, Waiting)> {
        let ids = std::mem::take(&mut self.under_way);
        let mut ended = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some((waiting, _)) = self.entries.remove(&id) {
                ended.push((id, waiting));
            }
        }
        ended
    }

    pub(super) fn on_answer(&mut self) {
        (self.tried, self.unreachable, self.failures) = (0, false, 0);
        self.not_before = Instant::ZERO;
    }

    /// An address failed. Whether that was the last one to try, and if so, whether one of them was just unreachable.
    pub(super) fn on_address_failed(&mut self, unreachable: bool) -> Option<bool> {
        self.unreachable |= unreachable;
        self.tried += 1;
        if !self.addresses.is_empty() {
            self.address = (self.address + 1) % self.addresses.len();
        }
        (self.tried >= self.addresses.len()).then_some(self.unreachable)
    }

    /// A failure that counts: the peer is left alone for a while.
    pub(super) fn on_failure(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        (self.tried, self.unreachable) = (0, false);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + backoff(self.failures, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_their_cap_and_fill_their_range() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (failures, max) in [(0, 1), (1, 1), (2, 2), (3, 4), (7, 64), (8, 64), (200, 64), (u32::MAX, 64)] {
            let pauses: Vec<_> = (0..500).map(|_| backoff(failures, &mut rng)).collect();
            let max = Duration::from_secs(max);
            assert!(pauses.iter().all(|pause| *pause <= max), "{failures}");
            assert!(pauses.iter().any(|pause| *pause > max * 9 / 10), "{failures}");
            assert!(pauses.iter().any(|pause| *pause < max / 10), "{failures}");
        }
    }
}
