//! Following a peer's arrivals: what it announces and lists is fetched, and the cursor moves behind what is held.

use std::collections::{BTreeSet, VecDeque};

use mesh_core::{Instant, NodeId};

use super::{Listing, Message, Purpose, Refusal, Replica, Work, open};
use crate::{
    EntryId, Item,
    planted::PlantedBug,
    reconcile::{Arrival as Cursor, Root},
    store,
};

/// Where we are in a peer's arrivals.
#[derive(Default)]
pub(super) struct Follow {
    /// All up to here is held, durably, or need not be.
    pub(super) cursor: Option<Cursor>,
    /// The cursor as it is on disk.
    pub(super) durable: Option<Cursor>,
    /// Listed behind the cursor.
    pending: VecDeque<(u64, Item)>,
    /// How far was listed.
    reach: u64,
    /// Until when an answer to a pull is waited for.
    pull: Option<Instant>,
}

impl Follow {
    pub(super) fn new(cursor: Option<Cursor>) -> Self {
        let mut follow = Self { durable: cursor, ..Self::default() };
        follow.reset(cursor);
        follow
    }

    pub(super) fn reset(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
        self.reach = cursor.map_or(0, |cursor| cursor.sequence);
        self.pending.clear();
        self.pull = None;
    }

    /// What was listed and did not come is listed again.
    pub(super) fn interrupt(&mut self) {
        self.reset(self.cursor);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.pull.is_none()
    }

    /// Takes what continues the list; `false` if there is a gap before it.
    fn extend(&mut self, listing: &Listing, max: usize) -> bool {
        let Some(cursor) = self.cursor.filter(|cursor| cursor.incarnation == listing.incarnation) else {
            return false;
        };
        if listing.after > self.reach {
            return false;
        }
        let from = self.reach.max(cursor.sequence);
        for (at, item) in listing.items.iter().filter(|(at, _)| *at > from) {
            if self.pending.len() >= max {
                return true;
            }
            self.pending.push_back((*at, *item));
            self.reach = *at;
        }
        self.reach = self.reach.max(listing.last);
        true
    }

    /// These need not be held for the cursor to pass them.
    pub(super) fn dismiss(&mut self, ids: &BTreeSet<EntryId>) {
        if !ids.is_empty() {
            self.pending.retain(|(_, item)| !ids.contains(&item.id));
        }
    }

    fn advance(&mut self, settled: impl Fn(&Item) -> bool) {
        let Some(cursor) = &mut self.cursor else { return };
        while let Some((at, item)) = self.pending.front() {
            if !settled(item) {
                return;
            }
            cursor.sequence = *at;
            self.pending.pop_front();
        }
        cursor.sequence = cursor.sequence.max(self.reach);
    }
}

impl Replica {
    pub(super) fn on_listing(&mut self, peer: &NodeId, listing: Listing, page: Option<bool>) {
        let max = self.config.pending_entries_max;
        let Some(sender) = self.peers.get_mut(peer) else { return };
        if page.is_some() {
            sender.follow.pull = None;
        }
        let continues = sender.follow.extend(&listing, max);
        if !continues && sender.follow.cursor.is_some() {
            // Something is missing in between. A list from there brings this too, and parents before children.
            self.pull(peer);
            return;
        }
        for (_, item) in &listing.items {
            if self.lacks(item) {
                self.want(item.id, peer, listing.bodies);
            }
        }
        self.advance(peer);
        let room = self.peers.get(peer).is_some_and(|peer| peer.follow.pending.len() < max / 2);
        if page == Some(true) && room {
            self.pull(peer);
        } else if page == Some(false) && self.body_source.as_ref() == Some(peer) {
            self.body_source = None;
        }
    }

    /// Whether an entry is to be fetched.
    fn lacks(&self, item: &Item) -> bool {
        !self.index.contains(item)
            && !self.intake.is_under_way(&item.id)
            && !self.intake.is_settled(&item.id)
            && !self.admission.is_deferred(item)
    }

    pub(super) fn advance(&mut self, peer: &NodeId) {
        let (index, intake, admission) = (&self.index, &self.intake, &self.admission);
        let early = self.planted.has(PlantedBug::CursorEarly);
        let Some(peer) = self.peers.get_mut(peer) else { return };
        peer.follow.advance(|item| {
            early || index.contains(item) || intake.is_settled(&item.id) || admission.is_deferred(item)
        });
    }

    pub(super) fn advance_all(&mut self) {
        let waiting = self.peers.iter().filter(|(_, peer)| !peer.follow.pending.is_empty());
        let waiting: Vec<NodeId> = waiting.map(|(name, _)| name.clone()).collect();
        waiting.iter().for_each(|peer| self.advance(peer));
    }

    /// Asks for what arrived after what was listed so far.
    fn pull(&mut self, peer: &NodeId) {
        let bodies = self.body_source.as_ref().is_none_or(|source| source == peer);
        let until = self.now.at + self.config.want_timeout * 2;
        let Some(sender) = self.peers.get_mut(peer).filter(|peer| peer.connected) else { return };
        let Some(cursor) = sender.follow.cursor.filter(|_| sender.follow.pull.is_none()) else { return };
        sender.follow.pull = Some(until);
        let since = Cursor { sequence: sender.follow.reach, ..cursor };
        if bodies {
            self.body_source = Some(peer.clone());
        }
        self.send(peer, Message::Pull { since, bodies });
    }

    /// A peer's root: its cursor is at the end if roots are equal, and is followed if there is more.
    ///
    /// Says whether there is nothing to be followed.
    pub(super) fn follow_root(&mut self, peer: &NodeId, root: Root, same: bool) -> bool {
        let now = self.now.at;
        let Some(sender) = self.peers.get_mut(peer) else { return false };
        let follow = &mut sender.follow;
        if follow.pull.is_some_and(|until| now >= until) {
            follow.interrupt();
            if self.body_source.as_ref() == Some(peer) {
                self.body_source = None;
            }
        }
        if follow.cursor.is_some_and(|cursor| !root.arrival.serves(&cursor)) {
            follow.reset(None);
        }
        if same {
            let ahead = |cursor: Cursor| {
                cursor.incarnation != root.arrival.incarnation || cursor.sequence < root.arrival.sequence
            };
            if follow.cursor.is_none_or(ahead) {
                follow.reset(Some(root.arrival));
            }
            return true;
        }
        let more = follow.cursor.is_some() && follow.reach < root.arrival.sequence;
        let room = follow.pending.len() < self.config.pending_entries_max / 2;
        self.want_stuck(peer);
        if more && room {
            self.pull(peer);
        }
        !more
    }

    /// What was listed, is not held, and is not on its way either: it came and was refused, or nobody answered.
    fn want_stuck(&mut self, peer: &NodeId) {
        let Some(sender) = self.peers.get(peer) else { return };
        let listed = sender.follow.pending.iter().take(self.config.wants_per_peer_max);
        let stuck: Vec<Item> = listed.map(|(_, item)| *item).filter(|item| self.lacks(item)).collect();
        for item in stuck {
            if !self.wants.contains(&item.id) {
                self.want(item.id, peer, false);
            }
        }
        self.advance(peer);
    }

    /// Entries whose time has come are wanted of anybody; who lacks them says so.
    pub(super) fn want_due(&mut self) {
        let due = self.admission.due(self.now.wall);
        if due.is_empty() {
            return;
        }
        let holders = self.connected();
        for item in due {
            if !self.index.contains(&item) {
                holders.iter().for_each(|holder| self.want(item.id, holder, false));
            }
        }
    }

    /// A peer has given all that it held at this place of its arrivals.
    pub(super) fn on_caught(&mut self, peer: &NodeId, cursor: Cursor) {
        let Some(sender) = self.peers.get_mut(peer) else { return };
        let follow = &mut sender.follow;
        if follow.cursor.is_none_or(|own| own.incarnation != cursor.incarnation) {
            follow.reset(Some(cursor));
        } else if let Some(own) = follow.cursor.as_mut().filter(|own| own.sequence < cursor.sequence) {
            own.sequence = cursor.sequence;
            follow.reach = follow.reach.max(cursor.sequence);
            while follow.pending.front().is_some_and(|(at, _)| *at <= cursor.sequence) {
                follow.pending.pop_front();
            }
        }
    }

    pub(super) fn on_pull(&mut self, peer: &NodeId, since: Cursor, bodies: bool) {
        let root = self.index.root();
        if !root.arrival.serves(&since) {
            self.send(peer, Message::Refuse(Refusal::Cursor));
            return;
        }
        let Some(sender) = self.peers.get_mut(peer) else { return };
        if std::mem::replace(&mut sender.give.paging, true) {
            return;
        }
        sender.give.paged_until = root.arrival.sequence;
        let bodies = bodies && sender.give.room(self.config.give_entries_max) >= self.config.list_entries_max;
        let work = Work::Arrivals { from: open::arrival_after(since), limit: self.config.list_entries_max };
        self.start(work, Purpose::Page { peer: peer.clone(), since, bodies });
    }

    pub(super) fn on_arrivals(
        &mut self,
        peer: &NodeId,
        since: Cursor,
        bodies: bool,
        listed: Vec<store::Listed>,
    ) {
        let Some(sender) = self.peers.get_mut(peer) else { return };
        sender.give.paging = false;
        let more = listed.len() >= self.config.list_entries_max;
        let mut last = listed.last().map_or(since.sequence, |listed| listed.arrival.0);
        if !more {
            // What was pruned leaves numbers that nothing has.
            last = last.max(sender.give.paged_until);
        }
        let new = listed.iter().filter(|listed| !sender.has_brought(listed.arrival.0));
        let items: Vec<(u64, Item)> = new.map(|listed| (listed.arrival.0, listed.item)).collect();
        if bodies {
            sender.give.asked.extend(items.iter().map(|(_, item)| item.id));
        }
        let listing = Listing { incarnation: since.incarnation, after: since.sequence, last, bodies, items };
        self.send(peer, Message::Page { listing, more });
    }

    /// Tells peers what was committed; a few get the bodies of what was submitted here.
    pub(super) fn announce(&mut self, arrived: &[(u64, Item, Option<NodeId>)]) {
        let Some((first, ..)) = arrived.first() else { return };
        let incarnation = self.index.root().arrival.incarnation;
        let silent = self.config.heartbeat_interval * 3;
        let heard = self.peers.iter().filter(|(_, peer)| {
            peer.connected && !peer.give.stalled && self.now.at.since(peer.heard) <= silent
        });
        let heard: Vec<NodeId> = heard.map(|(name, _)| name.clone()).collect();
        let local = arrived.iter().any(|(_, _, from)| from.is_none());
        let eager = if local { self.dice.choose(heard.clone(), self.config.eager_peers) } else { Vec::new() };
        let mut after = first - 1;
        for arrived in arrived.chunks(self.config.list_entries_max) {
            let last = arrived.last().map_or(after, |(at, ..)| *at);
            for peer in &heard {
                let new = arrived.iter().filter(|(_, _, from)| from.as_ref() != Some(peer));
                let items: Vec<(u64, Item)> = new.map(|(at, item, _)| (*at, *item)).collect();
                let mut bodies = false;
                if eager.contains(peer)
                    && let Some(peer) = self.peers.get_mut(peer)
                    && peer.give.room(self.config.give_entries_max) >= items.len()
                {
                    bodies = true;
                    peer.give.asked.extend(items.iter().map(|(_, item)| item.id));
                }
                self.send(peer, Message::Announce(Listing { incarnation, after, last, bodies, items }));
            }
            after = last;
        }
    }
}
