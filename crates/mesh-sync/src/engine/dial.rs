//! Connects to peers, and again when a stream ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh_core::{Instant, NodeId};
use tokio::sync::oneshot;

use super::{
    Dial, EngineEvent, ServeError, SyncError,
    core::{Core, lock, stopped},
    link::{self, Link},
    shake::describe,
};
use crate::{entry::DatasetId, queue::SendFailure};

/// Peers that a dataset is synced with directly; with up to so many, all of them.
pub(super) const NEIGHBOURS: usize = 8;
/// How long opening a stream may take.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// The shortest and longest pause after a failure. Short, so that a network that heals is used within two seconds.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1500);
/// The node whose name comes later lets the other one call first, so that there are seldom two streams.
const COURTESY: Duration = Duration::from_millis(400);
/// How long a peer that is no neighbour is synced with directly when it is its turn.
const TURN: Duration = Duration::from_secs(30);
/// How often who is wanted is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whom to sync with directly, of all peers of a dataset: everybody where there are few; otherwise those at distances 1,
/// 2, 4 and 8 on a ring of all nodes in the order of their hashes. That is mutual, and connects all of them.
pub(super) fn neighbours(local: &NodeId, peers: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    if peers.len() <= NEIGHBOURS {
        return peers.clone();
    }
    let hash = |node: &NodeId| *blake3::hash(node.as_str().as_bytes()).as_bytes();
    let mut ring: Vec<_> = peers.iter().chain([local]).map(|node| (hash(node), node)).collect();
    ring.sort();
    ring.dedup();
    let Some(at) = ring.iter().position(|(_, node)| *node == local) else { return peers.clone() };
    let count = ring.len();
    let mut chosen = BTreeSet::new();
    for distance in [1, 2, 4, 8] {
        chosen.insert(ring[(at + distance) % count].1.clone());
        chosen.insert(ring[(at + count - distance % count) % count].1.clone());
    }
    chosen.remove(local);
    chosen
}

impl Core {
    /// The number of the turn that peers which are no neighbours have now.
    pub(super) fn turn(&self) -> u64 {
        self.clock.now().as_nanos() / u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Nodes that some dataset wants a stream to.
    fn wanted(&self) -> BTreeSet<NodeId> {
        let turn = self.turn();
        let mut wanted = BTreeSet::new();
        for dataset in self.all() {
            wanted.extend(dataset.wanted(&self.local, turn));
        }
        wanted
    }

    /// Where a node is: what its relationships say, and what was said of the members.
    pub(super) fn addresses_of(&self, peer: &NodeId) -> Vec<String> {
        let mut addresses =
            lock(&self.members).get(peer).map(|member| member.addresses.clone()).unwrap_or_default();
        for dataset in self.all() {
            for address in dataset.addresses_of(peer) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Opens a stream and proves who is there. The stream then runs in a task of its own.
    pub(super) async fn dial(
        self: &Arc<Self>,
        peer: &NodeId,
    ) -> Result<Vec<DatasetId>, (String, SendFailure)> {
        let failed = |error: &ServeError| {
            let text = describe(error);
            let failure = match error {
                ServeError::Handshake(error) => error.send_failure(),
                _ => SendFailure::Unreachable(text.clone()),
            };
            (text, failure)
        };
        let dial = Dial { peer: peer.clone(), addresses: self.addresses_of(peer) };
        let opened = tokio::time::timeout(OPEN_PATIENCE, self.carrier.open(&dial)).await;
        let mut wire = match opened {
            Ok(Ok(wire)) => wire,
            Ok(Err(error)) => return Err((describe(&error), error.send_failure())),
            Err(_) => {
                let text = format!("no stream within {OPEN_PATIENCE:?}");
                return Err((text.clone(), SendFailure::Unreachable(text)));
            }
        };
        let shaken = self.shake_dialled(&mut wire, peer).await.map_err(|error| failed(&error))?;
        let open = shaken.open.clone();
        let link = Arc::new(Link::new(self, shaken.established, shaken.open, true));
        let (core, (begun, standing)) = (Arc::clone(self), oneshot::channel());
        self.spawn(async move {
            // Ends early only if another stream to the peer is better.
            drop(link::run(&core, link, wire, Some(begun)).await);
        });
        // An error means that it ended before it counted.
        let _ = standing.await;
        Ok(open)
    }

    fn note_failure(&self, peer: &NodeId, text: String, failure: SendFailure) {
        let now = self.clock.now();
        {
            let mut members = lock(&self.members);
            let member = members.entry(peer.clone()).or_default();
            member.dialling = false;
            member.failures = member.failures.saturating_add(1);
            let most = PAUSE_MIN.saturating_mul(1 << member.failures.min(10)).min(PAUSE_MAX);
            let unit = (self.draw_number() >> 11) as f64 / (1_u64 << 53) as f64;
            member.next_attempt = now + most.mul_f64(0.25 + 0.75 * unit);
            let first = member.problem.replace(text.clone()).is_none();
            if first {
                tracing::info!(peer_id = %peer, problem = text, "no sync stream to a peer");
            }
        }
        self.counters.lock().dials_failed += 1;
        self.tell(EngineEvent::DialFailed { peer: peer.clone(), reason: text });
        for dataset in self.all() {
            dataset.tell_failure(peer, failure.clone());
        }
    }

    pub(super) async fn connect(self: &Arc<Self>, peer: &NodeId) -> Result<Vec<DatasetId>, SyncError> {
        if let Some(link) = self.link(peer) {
            return Ok(link.datasets.clone());
        }
        if self.is_stopping() {
            return Err(SyncError::Stopped);
        }
        match self.dial(peer).await {
            Ok(open) => Ok(open),
            // The peer may have called meanwhile.
            Err((text, failure)) => match self.link(peer) {
                Some(link) => Ok(link.datasets.clone()),
                None => {
                    self.note_failure(peer, text.clone(), failure);
                    let source = Arc::new(text.into());
                    let source = super::CarrierError::Unreachable { peer: peer.clone(), source };
                    Err(SyncError::Unreachable { peer: peer.clone(), source })
                }
            },
        }
    }
}

/// Ends streams that this node has opened and wants no more. The other side opens one if it does.
fn end_unwanted(core: &Core, wanted: &BTreeSet<NodeId>, since: &mut BTreeMap<NodeId, Instant>) {
    let now = core.clock.now();
    let links = core.links();
    let is_idle =
        |peer: &NodeId| links.iter().any(|link| link.dialled && link.peer == *peer) && !wanted.contains(peer);
    since.retain(|peer, _| is_idle(peer));
    for link in links.iter().filter(|link| is_idle(&link.peer)) {
        if now.since(*since.entry(link.peer.clone()).or_insert(now)) >= TURN {
            link.close("it is another peer's turn");
        }
    }
}

/// Sees to it that there are streams to those who are wanted.
pub(super) async fn run(core: Arc<Core>) {
    let mut stop = core.stop.subscribe();
    // Since when a peer that is to call first has not.
    let mut missing: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut unwanted: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let now = core.clock.now();
        let wanted = core.wanted();
        missing.retain(|peer, _| wanted.contains(peer));
        end_unwanted(&core, &wanted, &mut unwanted);
        for peer in wanted {
            if core.link(&peer).is_some() {
                missing.remove(&peer);
                continue;
            }
            let since = *missing.entry(peer.clone()).or_insert(now);
            let polite = core.local > peer && core.serving.load(Ordering::Relaxed);
            if polite && now.since(since) < COURTESY {
                continue;
            }
            {
                let mut members = lock(&core.members);
                let member = members.entry(peer.clone()).or_default();
                if member.dialling || member.next_attempt > now {
                    continue;
                }
                member.dialling = true;
            }
            let (dialling, peer) = (Arc::clone(&core), peer.clone());
            core.spawn(async move {
                let mut stop = dialling.stop.subscribe();
                let dialled = tokio::select! {
                    dialled = dialling.dial(&peer) => dialled,
                    () = stopped(&mut stop) => return,
                };
                match dialled {
                    Err((text, failure)) if dialling.link(&peer).is_none() => {
                        dialling.note_failure(&peer, text, failure);
                    }
                    _ => {
                        if let Some(member) = lock(&dialling.members).get_mut(&peer) {
                            member.dialling = false;
                            // One that ends at once is not opened in a circle.
                            member.next_attempt = dialling.clock.now() + PAUSE_MIN;
                        }
                    }
                }
                dialling.dial.notify_one();
            });
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = core.dial.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for link in core.links() {
        link.close("this node shuts down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_mutual_and_few_and_connect_all() {
        let all: BTreeSet<NodeId> = (0..100).map(|n| NodeId::new(format!("n{n}")).expect("valid")).collect();
        let of = |local: &NodeId| {
            let peers = all.iter().filter(|node| *node != local).cloned().collect();
            neighbours(local, &peers)
        };
        let mut reached = BTreeSet::new();
        let mut next = vec![all.first().expect("some").clone()];
        while let Some(node) = next.pop() {
            if reached.insert(node.clone()) {
                let near = of(&node);
                assert!(near.len() <= NEIGHBOURS && near.len() >= 4);
                assert!(
                    near.iter().all(|other| of(other).contains(&node)),
                    "{node} is a neighbour of its own"
                );
                next.extend(near);
            }
        }
        assert_eq!(reached.len(), all.len());
    }
}
