//! Which link to a peer stands. No I/O: the rules alone, so that they can be read in one place.
//!
//! When both ends dial at once, the link that the lower node id dialled survives.
//! The lower one therefore lets the other wait until its own attempt is decided;
//! the higher one accepts and forgets its own. A dialer names the link it holds
//! and the one it last gave up, so that an acceptor can tell "you have a link
//! that I don't know yet" from "your link is dead".

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{Direction, LinkDownReason, LinkPath, LinkTarget, NodeId};
use tokio::sync::Notify;

use super::{
    link::Link,
    wire::{Hello, LinkId},
};

/// What we know of one peer.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) current: Option<Arc<Link>>,
    /// The link that we are asking the peer for at this moment.
    pub(crate) asking: Option<LinkId>,
    /// The last link that we gave up or lost; zero for none.
    pub(crate) ended: LinkId,
    /// Wakes whoever waits for a decision.
    pub(crate) changed: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// Attempts under way, and how many callers wait for each.
    pub(crate) dials: BTreeMap<LinkTarget, usize>,
    /// Links that are up.
    pub(crate) links: usize,
    /// Counts the announcements of links.
    pub(crate) announcements: u64,
}

/// What to do with a dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It gets its link.
    Accept,
    /// We have this one, and it should too.
    Duplicate(LinkId),
    /// Our own attempt decides; ask again when the peer's state changed.
    Wait,
    /// Our own attempt has not reached the peer yet; ask again soon, and do not wait for long.
    WaitBriefly,
    /// There are too many links.
    Limit,
}

impl Table {
    pub(crate) fn peer(&mut self, node_id: &NodeId) -> &mut Peer {
        self.peers.entry(node_id.clone()).or_default()
    }

    pub(crate) fn current(&self, node_id: &NodeId) -> Option<&Arc<Link>> {
        self.peers.get(node_id)?.current.as_ref()
    }

    fn dials_to(&self, node_id: &NodeId) -> bool {
        self.dials.keys().any(|target| target.node_id.as_ref() == Some(node_id))
    }

    /// Decides about a dialer that says `hello`.
    pub(crate) fn decide(&self, us: &NodeId, from: &NodeId, hello: &Hello, links_max: usize) -> Decision {
        let peer = self.peers.get(from);
        let current = peer.and_then(|peer| peer.current.as_ref());
        let asking = peer.is_some_and(|peer| peer.asking.is_some());
        if asking && us < from && current.is_none_or(|link| link.peer_instance == hello.instance) {
            return Decision::Wait;
        }
        let Some(current) = current else {
            return if self.links >= links_max {
                Decision::Limit
            } else if us < from && self.dials_to(from) {
                Decision::WaitBriefly
            } else {
                Decision::Accept
            };
        };
        let restarted = current.peer_instance != hello.instance;
        if restarted || hello.holds == current.id || hello.ended == current.id {
            Decision::Accept
        } else {
            Decision::Duplicate(current.id)
        }
    }
}

/// Whether `current` stays although the peer agreed to `asked`, which we dialled.
///
/// That happens when both dials crossed: the lower id's survives, on both sides.
pub(crate) fn outranks(current: &Link, asked: &Link, us: &NodeId, replacing: Option<LinkId>) -> bool {
    Some(current.id) != replacing
        && current.direction == Direction::Inbound
        && current.peer_instance == asked.peer_instance
        && us > current.peer.node_id()
}

/// What the user of the links is told when `new` takes the place of `old`.
pub(crate) fn replaced(old: &Link, new: &Link) -> Option<LinkDownReason> {
    if old.peer_instance != new.peer_instance {
        Some(LinkDownReason::Reset)
    } else if old.path() == LinkPath::Quic && new.path() == LinkPath::Http2 {
        Some(LinkDownReason::UdpBlocked)
    } else {
        None
    }
}
