//! Forgetting what everybody has: confirmations, prunes, and who holds them up.
//!
//! A replica tells its peers up to which number it holds each author's entries. What all active peers have confirmed
//! may go. A prune is an entry like any other, in the collection [`PRUNE_COLLECTION`], signed by an author whose
//! prunes are obeyed. It lists a watermark for each author, those of earlier prunes included, so that the newest one
//! is enough. Each replica that commits it removes what is at or below the watermarks, and refuses it from then on,
//! whoever brings it. The order to do so is durable together with the prune itself.
//!
//! What a peer has confirmed counts once all is held here that it held when it was connected to. Otherwise it might
//! bring an old write that nobody has seen to a document whose deletion has just gone, and the document would be back.
//!
//! Confirmations are not durable, and end with a connection: a peer may come back with an older disk, and what it has
//! confirmed before would be worth nothing. So after a restart pruning waits until all active peers have confirmed
//! anew, a look or two after they are connected.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{Instant, NodeId, WallTime};

use super::{Message, Now, Purpose, Replica, SyncEvent, Work, open};
use crate::{
    EntryId, Item,
    documents::Worth,
    entry::{AuthorId, AuthorSequence, Collection, Draft, Entry, Kind},
    planted::PlantedBug,
    store::{Head, PrunedEntry},
};

/// The collection of prunes. Its documents are named after their authors.
pub const PRUNE_COLLECTION: &str = "mesh.prune";
/// Authors in one message or read.
const AUTHORS_AT_ONCE: usize = 1024;
/// Looks after which all is confirmed again, since messages may be lost.
const FULL_EVERY: u64 = 6;

pub(super) struct Retirement {
    /// What is pruned here.
    pruned: BTreeMap<AuthorId, AuthorSequence>,
    /// What prunes ask for.
    ordered: BTreeMap<AuthorId, AuthorSequence>,
    /// The newest prune of each author, by which others see what they may forget.
    orders: BTreeMap<AuthorId, EntryId>,
    /// Parents that need not be there, to be written.
    pub(super) boundary: Vec<PrunedEntry>,
    /// What is held of each author, and since which look.
    heads: BTreeMap<AuthorId, (AuthorSequence, u64)>,
    look: u64,
    next_look: Instant,
    pub(super) reading: bool,
}

impl Retirement {
    pub(super) fn new(
        now: Instant,
        pruned: BTreeMap<AuthorId, AuthorSequence>,
        ordered: BTreeMap<AuthorId, AuthorSequence>,
        orders: BTreeMap<AuthorId, EntryId>,
    ) -> Self {
        Self {
            pruned,
            ordered,
            orders,
            boundary: Vec::new(),
            heads: BTreeMap::new(),
            look: 0,
            next_look: now,
            reading: false,
        }
    }

    pub(super) fn watermark(&self, author: &AuthorId) -> Option<AuthorSequence> {
        self.pruned.get(author).copied()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        if self.pruned.is_empty() {
            return [0; 32];
        }
        blake3::derive_key("mesh-sync prune digest v1", &open::encode_watermarks(&self.pruned))
    }

    fn outstanding(&self) -> Vec<(AuthorId, AuthorSequence)> {
        let above = self.ordered.iter().filter(|(author, sequence)| self.pruned.get(author) < Some(sequence));
        above.map(|(author, sequence)| (*author, *sequence)).collect()
    }
}

/// How far what is wanted may be pruned.
#[derive(Clone, Debug)]
pub struct PrunePlan {
    /// The entry to sign, by the author that it was asked for, and to submit; `None` if it would change nothing.
    pub draft: Option<Draft>,
    /// What it asks for, beyond earlier prunes.
    pub watermarks: Vec<(AuthorId, AuthorSequence)>,
    /// Peers that hold more of it up.
    pub held_up_by: Vec<NodeId>,
}

/// Says how far an author's entries may go, by what they are worth.
///
/// What was overwritten is worth nothing; a tombstone is kept for a time, and for as long as older writes of others to
/// its document are held, which would come to light without it. What is to go ends before the first entry that is still
/// of use.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    now: WallTime,
    tombstones: Duration,
}

impl Retention {
    /// Looks at entries as of `now`; tombstones are kept for `tombstones`.
    pub const fn new(now: WallTime, tombstones: Duration) -> Self {
        Self { now, tombstones }
    }

    /// The number up to which entries may go. `entries` are those of one author in the order of their numbers, from
    /// the first that is there; `worth` tells what one is to its document.
    pub fn watermark<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
        mut worth: impl FnMut(&Entry) -> Worth,
    ) -> Option<AuthorSequence> {
        let mut spent = Spent::new(*self);
        for entry in entries {
            if !spent.take(entry, worth(entry)) {
                break;
            }
        }
        spent.watermark()
    }

    fn is_spent(&self, entry: &Entry, worth: Worth) -> bool {
        let age = self.now.0.saturating_sub(entry.hlc().wall().0);
        let is_old = Duration::from_millis(age) >= self.tombstones;
        match worth {
            Worth::Overwritten => true,
            Worth::Current => entry.kind() == Kind::Delete && is_old,
            Worth::Needed => false,
        }
    }
}

/// Finds out how far an author's entries may go, one after the other. Nothing of them is kept.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    retention: Retention,
    /// An author may have given one number to several entries: they go together or not at all.
    below: Option<AuthorSequence>,
    current: Option<AuthorSequence>,
    is_over: bool,
}

impl Spent {
    /// Before the first entry.
    pub const fn new(retention: Retention) -> Self {
        Self { retention, below: None, current: None, is_over: false }
    }

    /// Looks at the next one, in the order of their numbers. `false` if it stays, and all after it.
    pub fn take(&mut self, entry: &Entry, worth: Worth) -> bool {
        if self.is_over {
            return false;
        }
        if self.current != Some(entry.sequence()) {
            (self.below, self.current) = (self.current, Some(entry.sequence()));
        }
        self.is_over = !self.retention.is_spent(entry, worth);
        !self.is_over
    }

    /// The number up to which entries may go, if all entries were given or one stays.
    pub fn watermark(&self) -> Option<AuthorSequence> {
        if self.is_over { self.below } else { self.current }
    }
}

impl Replica {
    /// Up to which number all active peers, and this one, hold an author's entries.
    pub fn confirmed(&self, author: &AuthorId) -> AuthorSequence {
        let own = self.retirement.heads.get(author).map_or(AuthorSequence(0), |(sequence, _)| *sequence);
        let active = self.peers.values().filter(|peer| peer.active);
        active.map(|peer| peer.confirms(author)).fold(own, AuthorSequence::min)
    }

    /// A prune up to `wanted`, as far as all active peers have confirmed it. Let `author` sign it, one of those whose
    /// prunes are obeyed, and submit it.
    ///
    /// Ask with nothing wanted now and then: where a prune that is in force here was itself pruned, as happens to
    /// one of an author whose disk was restored, others may never hear of it, and it has to be said again.
    pub fn plan_prune(&self, author: &AuthorId, wanted: &[(AuthorId, AuthorSequence)]) -> PrunePlan {
        let mut all = self.retirement.pruned.clone();
        for (author, sequence) in &self.retirement.ordered {
            let own = all.entry(*author).or_default();
            *own = (*own).max(*sequence);
        }
        let (mut watermarks, mut held_up_by) = (Vec::new(), std::collections::BTreeSet::new());
        for (of, sequence) in wanted {
            let confirmed = self.confirmed(of);
            let confirmed =
                if self.planted.has(PlantedBug::PruneUnconfirmed) { *sequence } else { confirmed };
            if confirmed < *sequence {
                let behind = |peer: &&super::peer::Peer| peer.active && peer.confirms(of) < *sequence;
                let names = self.peers.iter().filter(|(_, peer)| behind(peer)).map(|(name, _)| name.clone());
                held_up_by.extend(names);
            }
            let sequence = confirmed.min(*sequence);
            let own = all.entry(*of).or_default();
            if sequence > *own {
                *own = sequence;
                watermarks.push((*of, sequence));
            }
        }
        let draft = (!watermarks.is_empty() || self.is_unstated()).then(|| {
            all.retain(|_, sequence| *sequence >= AuthorSequence::FIRST);
            let collection = Collection::new(PRUNE_COLLECTION).expect("it is a valid name");
            Draft::put(&collection, author.as_bytes().to_vec(), open::encode_watermarks(&all))
        });
        PrunePlan { draft, watermarks, held_up_by: held_up_by.into_iter().collect() }
    }

    /// Obeys a prune that is held already, if it is by somebody whose prunes are obeyed and orders more than is known.
    ///
    /// One that was committed while its author was no pruner was stored as any other entry. Once the settings name the
    /// author, those that obeyed it at once would differ for ever from those that did not.
    pub fn obey_held(&mut self, now: Now, entry: &Entry) {
        self.now = now;
        let ordered = &self.retirement.ordered;
        let orders_more = stated_by(entry).iter().any(|(author, up_to)| ordered.get(author) < Some(up_to));
        if !orders_more || !self.holds(&entry.item()) {
            return;
        }
        self.note_prune(entry);
        self.metadata_at = now.at;
        self.pump();
    }

    /// Whether a prune that is in force here is not there to tell others.
    fn is_unstated(&self) -> bool {
        self.retirement.orders.values().any(|id| self.held(id).is_none())
    }

    /// Retention as the settings say.
    pub fn retention(&self, now: WallTime) -> Retention {
        let keep = self.config.tombstone_retention;
        let too_soon = self.planted.has(PlantedBug::TombstoneTooSoon);
        Retention::new(now, if too_soon { Duration::ZERO } else { keep })
    }

    /// An entry that is about to be committed may be a prune; its order becomes durable with it.
    pub(super) fn note_prune(&mut self, entry: &Entry) {
        if entry.collection().as_str() != PRUNE_COLLECTION
            || entry.kind() != Kind::Put
            || !self.pruners.contains(&entry.author())
            || self.planted.has(PlantedBug::IgnorePrune)
        {
            return;
        }
        let stated = stated_by(entry);
        for (author, sequence) in &stated {
            let ordered = self.retirement.ordered.entry(*author).or_default();
            *ordered = (*ordered).max(*sequence);
        }
        if self.retirement.ordered.iter().all(|(author, up_to)| stated.get(author) >= Some(up_to)) {
            // It says all that earlier ones do.
            let gone = self.retirement.orders.keys().map(open::order_gone);
            self.metadata.extend(gone);
            self.retirement.orders.clear();
        }
        self.retirement.orders.insert(entry.author(), entry.id());
        let (ordered, orders) = (&self.retirement.ordered, &self.retirement.orders);
        self.metadata.extend(open::prune_writes(ordered, orders));
        self.peers.values_mut().for_each(|peer| peer.knows_orders = false);
    }

    /// Sends a peer the prunes that are in force here, which it may not have got to yet: what is told of pruned
    /// entries is worth nothing to it without them.
    pub(super) fn show_orders(&mut self, peer: &NodeId) {
        let orders: Vec<EntryId> = self.retirement.orders.values().copied().collect();
        let held: Vec<EntryId> = orders.into_iter().filter(|id| self.held(id).is_some()).collect();
        let Some(taker) = self.peers.get_mut(peer) else { return };
        if !std::mem::replace(&mut taker.knows_orders, true) {
            taker.give.asked.extend(held);
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn forget_orders(&mut self) {
        self.retirement.ordered.clear();
    }

    /// A parent that need not be there, if somebody waits for it.
    pub(super) fn note_boundary(&mut self, parent: PrunedEntry) {
        if self.has_children(&parent.id) {
            self.retirement.boundary.push(parent);
        }
    }

    pub(super) fn start_prune(&mut self) -> bool {
        let watermarks = self.retirement.outstanding();
        if watermarks.is_empty() && self.retirement.boundary.is_empty() {
            return false;
        }
        let boundary = std::mem::take(&mut self.retirement.boundary);
        let work = Work::Prune { watermarks: watermarks.clone(), boundary: boundary.clone() };
        self.start(work, Purpose::Prune { boundary, watermarks });
        true
    }

    pub(super) fn on_removed(
        &mut self,
        boundary: &[PrunedEntry],
        watermarks: Vec<(AuthorId, AuthorSequence)>,
        removed: &[Item],
    ) {
        for item in removed {
            self.index.remove(item);
            self.intake.note_settled(item.id);
        }
        self.retirement.pruned.extend(watermarks.iter().copied());
        let watermarks_raised = !watermarks.is_empty();
        if !watermarks.is_empty() {
            // The store has dropped it.
            self.checkpoint = 0;
            let removed = removed.len() as u64;
            self.out.events.push_back(SyncEvent::Pruned { removed, watermarks });
        }
        let gone: Vec<EntryId> =
            removed.iter().map(|item| item.id).chain(boundary.iter().map(|one| one.id)).collect();
        self.release_children(&gone);
        if !watermarks_raised {
            self.advance_all();
            return;
        }
        // What peers say was pruned may be covered by now.
        self.want_parents();
        self.advance_all();
    }

    /// With each heartbeat: tells peers how we stand, and looks who is behind.
    pub(super) fn beat(&mut self) {
        if self.now.at >= self.retirement.next_look && !self.retirement.reading {
            self.retirement.next_look = self.now.at + self.config.confirm_interval;
            self.retirement.reading = true;
            self.retirement.look += 1;
            let work = Work::Vector { after: None, limit: AUTHORS_AT_ONCE };
            self.start(work, Purpose::Vector);
        }
        self.pace.note(self.now.at, self.index.root().arrival.sequence);
        let peers: Vec<NodeId> = self.peers.keys().cloned().collect();
        for peer in peers {
            self.send_heartbeat(&peer);
            self.give_later(&peer);
            self.look_at_lag(&peer);
        }
    }

    pub(super) fn send_heartbeat(&mut self, peer: &NodeId) {
        let root = self.index.root();
        let Some(followed) = self.peers.get(peer).map(|peer| peer.follow.durable) else { return };
        self.send(peer, Message::Heartbeat { root, followed });
    }

    pub(super) fn look_at_lag(&mut self, name: &NodeId) {
        let (now, arrival) = (self.now.at, self.index.root().arrival);
        let Some(peer) = self.peers.get_mut(name) else { return };
        let caught_up = peer.connected && (peer.in_sync || peer.followed == Some(arrival));
        if caught_up || !peer.active {
            peer.behind_since = None;
            if std::mem::take(&mut peer.lagging) {
                self.out.events.push_back(SyncEvent::PeerCaughtUp { peer: name.clone() });
            }
            return;
        }
        if !peer.connected && !peer.expected && peer.behind_since.is_none() {
            return;
        }
        // While more comes all the time, it is behind by the age of the oldest that it lacks.
        let followed = peer.followed.filter(|at| peer.connected && at.incarnation == arrival.incarnation);
        if let Some(since) = followed.and_then(|at| self.pace.passed(at.sequence)) {
            peer.behind_since = Some(since);
        }
        let behind = now.since(*peer.behind_since.get_or_insert(now));
        if behind >= self.config.lag_limit && !std::mem::replace(&mut peer.lagging, true) {
            self.out.events.push_back(SyncEvent::PeerLagging { peer: name.clone(), behind });
        }
    }

    pub(super) fn on_vector(&mut self, page: Vec<(AuthorId, Head)>) {
        let look = self.retirement.look;
        for (author, head) in &page {
            let held = self.retirement.heads.entry(*author).or_insert((AuthorSequence(0), 0));
            if held.0 != head.contiguous {
                *held = (head.contiguous, look);
            }
        }
        if let Some((last, _)) = page.last().filter(|_| page.len() >= AUTHORS_AT_ONCE) {
            let work = Work::Vector { after: Some(*last), limit: AUTHORS_AT_ONCE };
            self.start(work, Purpose::Vector);
            return;
        }
        self.retirement.reading = false;
        for peer in self.connected() {
            self.send_confirm(&peer);
        }
    }

    /// Confirms what has changed since the last time; everything on a new connection and every few looks.
    pub(super) fn send_confirm(&mut self, peer: &NodeId) {
        let look = self.retirement.look;
        let Some(sent) = self.peers.get(peer).map(|peer| peer.confirm_sent) else { return };
        if look == 0 || self.retirement.reading {
            return;
        }
        let mut first = sent.is_none();
        let since = match sent {
            Some(sent) if !look.is_multiple_of(FULL_EVERY) => sent,
            _ => 0,
        };
        let news = self.retirement.heads.iter().filter(|(_, (_, at))| *at > since);
        let news: Vec<(AuthorId, AuthorSequence)> =
            news.map(|(author, (sequence, _))| (*author, *sequence)).collect();
        for heads in news.chunks(AUTHORS_AT_ONCE) {
            self.send(peer, Message::Confirm { first, heads: heads.to_vec() });
            first = false;
        }
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.confirm_sent = Some(look);
        }
    }

    pub(super) fn on_confirm(&mut self, peer: &NodeId, first: bool, heads: Vec<(AuthorId, AuthorSequence)>) {
        let max = self.config.confirmed_authors_max;
        let Some(sender) = self.peers.get_mut(peer) else { return };
        if first {
            sender.confirmed.clear();
        }
        sender.has_confirmed = true;
        for (author, sequence) in heads {
            if sender.confirmed.len() < max || sender.confirmed.contains_key(&author) {
                sender.confirmed.insert(author, sequence);
            }
        }
    }
}

/// The watermarks of a prune. One that can't be read orders nothing.
fn stated_by(prune: &Entry) -> BTreeMap<AuthorId, AuthorSequence> {
    let stated = open::decode_watermarks(&prune.payload()).unwrap_or_default().into_iter();
    let bounded = |(author, sequence): (AuthorId, AuthorSequence)| match author == prune.author() {
        // A prune never removes itself.
        true => (author, sequence.min(AuthorSequence(prune.sequence().0.saturating_sub(1)))),
        false => (author, sequence),
    };
    stated.map(bounded).collect()
}
