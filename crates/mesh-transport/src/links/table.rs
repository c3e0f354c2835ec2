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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use mesh_core::{CertificateInfo, PeerIdentity};
    use tokio::sync::mpsc;

    use super::*;
    use crate::links::{
        link::{Carrier, NewLink},
        wire::VERSIONS,
    };

    const PEERS_RUN: u64 = 70;
    const LIMIT: usize = 10;

    fn id(name: &str) -> NodeId {
        name.parse().expect("valid")
    }

    fn link(id: LinkId, peer: &str, direction: Direction) -> Arc<Link> {
        let certificate = CertificateInfo { serial: String::new(), not_before_s: 0, not_after_s: 0 };
        let uri = format!("spiffe://example.org/mesh/demo/worker/{peer}");
        let new = NewLink {
            id,
            peer: Arc::new(PeerIdentity { id: uri.parse().expect("valid"), certificate }),
            peer_instance: PEERS_RUN,
            remote: ([127, 0, 0, 1], 1).into(),
            direction,
            carrier: Carrier::Http2 {
                frames: mpsc::channel(1).0,
                stop: Arc::default(),
                revoked: Arc::new(AtomicBool::new(false)),
            },
        };
        Link::new(new, 1, 1)
    }

    fn hello(holds: LinkId, ended: LinkId) -> Hello {
        Hello { versions: VERSIONS, instance: PEERS_RUN, link: 99, holds, ended }
    }

    /// A table of node `m` that holds link 5 to a peer.
    fn holding(peer: &str) -> Table {
        let mut table = Table::default();
        table.peer(&id(peer)).current = Some(link(5, peer, Direction::Outbound));
        table.links = 1;
        table
    }

    fn decide(table: &Table, peer: &str, hello: Hello) -> Decision {
        table.decide(&id("m"), &id(peer), &hello, LIMIT)
    }

    #[test]
    fn a_stranger_gets_a_link_until_the_limit() {
        let mut table = Table::default();
        assert_eq!(decide(&table, "z", hello(0, 0)), Decision::Accept);
        table.links = LIMIT;
        assert_eq!(decide(&table, "z", hello(0, 0)), Decision::Limit);
    }

    #[test]
    fn the_lower_id_lets_the_other_wait_and_the_higher_one_gives_way() {
        let mut table = Table::default();
        for peer in ["a", "z"] {
            table.peer(&id(peer)).asking = Some(1);
        }
        assert_eq!(decide(&table, "z", hello(0, 0)), Decision::Wait);
        assert_eq!(decide(&table, "a", hello(0, 0)), Decision::Accept);
    }

    #[test]
    fn an_attempt_that_has_reached_nobody_is_waited_for_only_briefly() {
        let mut table = Table::default();
        for peer in ["a", "z"] {
            let target = LinkTarget { node_id: Some(id(peer)), address: ([127, 0, 0, 1], 1).into() };
            table.dials.insert(target, 1);
        }
        assert_eq!(decide(&table, "z", hello(0, 0)), Decision::WaitBriefly);
        assert_eq!(decide(&table, "a", hello(0, 0)), Decision::Accept);
    }

    #[test]
    fn a_link_is_replaced_only_for_a_peer_that_knows_of_it_or_runs_anew() {
        let table = holding("z");
        assert_eq!(decide(&table, "z", hello(0, 0)), Decision::Duplicate(5));
        assert_eq!(decide(&table, "z", hello(0, 4)), Decision::Duplicate(5));
        assert_eq!(decide(&table, "z", hello(5, 0)), Decision::Accept, "it moves");
        assert_eq!(decide(&table, "z", hello(0, 5)), Decision::Accept, "it lost that one");
        let restarted = Hello { instance: PEERS_RUN + 1, ..hello(0, 0) };
        assert_eq!(decide(&table, "z", restarted), Decision::Accept);
    }

    #[test]
    fn the_limit_does_not_keep_a_link_from_moving() {
        let mut table = holding("z");
        table.links = LIMIT;
        assert_eq!(decide(&table, "z", hello(5, 0)), Decision::Accept);
    }

    #[test]
    fn of_two_crossed_links_the_lower_ids_stays() {
        let (inbound, asked) = (link(5, "a", Direction::Inbound), link(6, "a", Direction::Outbound));
        assert!(outranks(&inbound, &asked, &id("m"), None));
        assert!(!outranks(&inbound, &asked, &id("m"), Some(5)), "it was asked for in the other's place");
        let (inbound, asked) = (link(5, "z", Direction::Inbound), link(6, "z", Direction::Outbound));
        assert!(!outranks(&inbound, &asked, &id("m"), None));
    }
}
