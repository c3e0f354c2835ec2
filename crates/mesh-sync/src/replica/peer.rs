//! What a replica knows of one peer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_core::{Instant, NodeId};

use super::{PeerStatus, follow::Follow, give::Give, settle::Settle};
use crate::{
    entry::{AuthorId, AuthorSequence},
    reconcile::{Arrival as Cursor, Root},
};

/// Runs of arrivals that are remembered as brought by a peer.
const BROUGHT_MAX: usize = 4096;

pub(super) struct Peer {
    pub(super) connected: bool,
    /// Which connection it is, so that what was read for an earlier one is told apart.
    pub(super) connection: u64,
    /// Whether pruning waits for it.
    pub(super) active: bool,
    /// Whether there is to be a connection. If not, it counts as behind only if it was when there was to be one.
    pub(super) expected: bool,
    pub(super) retired: bool,
    pub(super) heard: Instant,
    /// As of its last heartbeat.
    pub(super) root: Option<Root>,
    pub(super) root_at: Option<Instant>,
    pub(super) followed: Option<Cursor>,
    pub(super) in_sync: bool,
    pub(super) behind_since: Option<Instant>,
    pub(super) lagging: bool,
    pub(super) follow: Follow,
    pub(super) give: Give,
    pub(super) settle: Settle,
    /// Bytes of its entries that are on their way in.
    pub(super) intake_bytes: usize,
    /// Bytes of its entries that wait for their parents.
    pub(super) orphan_bytes: usize,
    /// When it last sent entries.
    pub(super) entries_at: Instant,
    /// What it holds of each author.
    pub(super) confirmed: BTreeMap<AuthorId, AuthorSequence>,
    pub(super) has_confirmed: bool,
    /// Where its arrivals stood when it was connected to, as soon as it has said so.
    held_at_first: Option<Cursor>,
    /// Whether all that it held then is held here.
    gave_all: bool,
    /// Arrivals of ours that it brought on this connection, as first and last of each run; of too many runs the
    /// latest. What it brought is not listed to it.
    brought: VecDeque<(u64, u64)>,
    /// Whether it was sent the prunes that are in force here.
    pub(super) knows_orders: bool,
    /// Which of our confirmations it was sent.
    pub(super) confirm_sent: Option<u64>,
}

impl Peer {
    pub(super) fn new(now: Instant, cursor: Option<Cursor>, active: bool) -> Self {
        Self {
            connected: false,
            connection: 0,
            active,
            expected: true,
            retired: false,
            heard: now,
            root: None,
            root_at: None,
            followed: None,
            in_sync: false,
            behind_since: None,
            lagging: false,
            follow: Follow::new(cursor),
            give: Give::default(),
            settle: Settle::new(now),
            intake_bytes: 0,
            orphan_bytes: 0,
            entries_at: Instant::ZERO,
            confirmed: BTreeMap::new(),
            has_confirmed: false,
            held_at_first: None,
            gave_all: false,
            brought: VecDeque::new(),
            knows_orders: false,
            confirm_sent: None,
        }
    }

    /// Batches are numbered from a random number on, so that answers for those of an earlier connection don't fit.
    pub(super) fn connect(&mut self, now: Instant, batch: u64) {
        self.connected = true;
        self.connection = batch;
        self.give.batch = batch;
        // It may have come back with an older disk, and confirms anew.
        self.confirmed.clear();
        (self.held_at_first, self.gave_all) = (None, false);
        self.heard = now;
        self.entries_at = Instant::ZERO;
    }

    /// Whatever was under way is over; what is durable stays.
    pub(super) fn disconnect(&mut self, now: Instant) {
        self.connected = false;
        self.root = None;
        self.in_sync = false;
        self.confirm_sent = None;
        self.knows_orders = false;
        self.brought.clear();
        self.follow.interrupt();
        self.give = Give::default();
        self.settle = Settle::new(now);
    }

    /// It told what it holds; `same` if that is what is held here.
    pub(super) fn note_root(&mut self, root: &Root, same: bool) {
        self.held_at_first.get_or_insert(root.arrival);
        self.gave_all |= same;
        if let Some(cursor) = self.follow.durable {
            self.note_followed(cursor);
        }
    }

    /// It was followed up to here, durably.
    pub(super) fn note_followed(&mut self, cursor: Cursor) {
        self.gave_all |= self
            .held_at_first
            .is_some_and(|at| at.incarnation == cursor.incarnation && at.sequence <= cursor.sequence);
    }

    /// Up to which number it holds an author's entries, as far as that counts.
    pub(super) fn confirms(&self, author: &AuthorId) -> AuthorSequence {
        let confirmed = self.confirmed.get(author).filter(|_| self.gave_all);
        confirmed.copied().unwrap_or_default()
    }

    /// It brought what arrived here with this number. Numbers only grow.
    pub(super) fn note_brought(&mut self, arrival: u64) {
        match self.brought.back_mut() {
            Some((_, last)) if *last + 1 == arrival => *last = arrival,
            _ => self.brought.push_back((arrival, arrival)),
        }
        if self.brought.len() > BROUGHT_MAX {
            self.brought.pop_front();
        }
    }

    pub(super) fn has_brought(&self, arrival: u64) -> bool {
        let behind = self.brought.partition_point(|(first, _)| *first <= arrival);
        behind.checked_sub(1).is_some_and(|at| arrival <= self.brought[at].1)
    }

    /// Whether nothing is under way between us that would change a set.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.give.is_idle()
            && self.follow.is_idle()
            && self.intake_bytes == 0
            && now.since(self.entries_at) >= Duration::from_millis(300)
    }

    pub(super) fn status(&self, peer: &NodeId, now: Instant) -> PeerStatus {
        PeerStatus {
            peer: peer.clone(),
            connected: self.connected,
            in_sync: self.in_sync,
            behind: self.behind_since.map_or(Duration::ZERO, |since| now.since(since)),
            cursor: self.follow.durable,
            followed: self.followed,
            active: self.active,
            confirmed: self.has_confirmed,
            root_at: self.root_at,
            root: self.root,
        }
    }
}
