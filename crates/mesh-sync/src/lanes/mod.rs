//! Who may send next: weighted lanes, and limits on the bytes in a second.
//!
//! Each dataset has a lane. While several have something to send, each gets bytes in proportion to its weight
//! (start-time fair queueing: Goyal, Vin and Cheng, 1996); one that is alone gets all. What comes into an empty lane
//! waits for at most what is under way and one piece of each other lane, however much waits there. So bulk does not
//! delay small changes, as long as pieces are small: cut what is large into frames.
//!
//! Within a lane peers take turns, and a peer whose limit is used up delays no other peer.

mod bucket;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use mesh_core::{Instant, NodeId};

pub(crate) use self::bucket::Bucket;
pub use self::bucket::Rate;
use crate::entry::DatasetId;

/// Settings of [`Lanes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Bytes in a second to all peers together. Default: no limit.
    pub total: Option<Rate>,
    /// Bytes in a second to each peer. Default: no limit.
    pub per_peer: Option<Rate>,
    /// Most pieces in a lane; further ones are refused. Default: 1024.
    pub pieces_max: usize,
    /// Most bytes in a lane; further ones are refused. Default: 16 MiB.
    pub bytes_max: u64,
    /// Most lanes. Default: 256.
    pub lanes_max: usize,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self { total: None, per_peer: None, pieces_max: 1024, bytes_max: 16 << 20, lanes_max: 256 }
    }
}

/// A piece that was not taken, since its lane is full. Wait until something of it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFull<T>(pub T);

/// What may be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn<T> {
    /// Its lane.
    pub dataset: DatasetId,
    /// To whom.
    pub peer: NodeId,
    /// How many bytes were counted.
    pub bytes: u64,
    /// The piece.
    pub piece: T,
}

/// Bytes of a lane are counted in this many parts, so that weights divide them well.
const SCALE: u128 = 1 << 20;

#[derive(Clone, Debug)]
struct Lane<T> {
    weight: u32,
    /// Where the lane stands on the scale of all lanes: what it has sent, divided by its weight.
    tag: u128,
    pieces: usize,
    bytes: u64,
    last_served: Option<NodeId>,
    flows: BTreeMap<NodeId, VecDeque<(u64, T)>>,
}

/// Orders what is to be sent. A plain value: offer pieces, and send what [`Lanes::poll_next`] gives.
///
/// ```
/// use mesh_core::{Instant, NodeId};
/// use mesh_sync::{entry::DatasetId, lanes::{LaneLimits, Lanes}};
///
/// let (bulk, small, peer) = (DatasetId::new("bulk")?, DatasetId::new("small")?, NodeId::new("b")?);
/// let mut lanes = Lanes::new(LaneLimits::default(), Instant::ZERO);
/// for n in 0..100 {
///     lanes.offer(&bulk, &peer, 65_536, n).expect("room");
/// }
/// assert_eq!(lanes.poll_next(Instant::ZERO).expect("something").dataset, bulk);
/// lanes.offer(&small, &peer, 200, 100).expect("room");
/// assert_eq!(lanes.poll_next(Instant::ZERO).expect("something").dataset, small);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lanes<T> {
    limits: LaneLimits,
    lanes: BTreeMap<DatasetId, Lane<T>>,
    total: Option<Bucket>,
    peers: BTreeMap<NodeId, Bucket>,
    /// The tag of the lane that was served last: where one begins that comes anew.
    clock: u128,
}

impl<T> Lanes<T> {
    /// No lanes yet. A lane comes with its weight or its first piece.
    pub fn new(limits: LaneLimits, now: Instant) -> Self {
        let total = limits.total.map(|rate| Bucket::new(rate, now));
        Self { limits, lanes: BTreeMap::new(), total, peers: BTreeMap::new(), clock: 0 }
    }

    /// Sets the weight of a lane; 1 until then, and 0 counts as 1. Whether there was room for another lane.
    pub fn set_weight(&mut self, dataset: &DatasetId, weight: u32) -> bool {
        let lane = self.lane(dataset);
        lane.map(|lane| lane.weight = weight.max(1)).is_some()
    }

    fn lane(&mut self, dataset: &DatasetId) -> Option<&mut Lane<T>> {
        if !self.lanes.contains_key(dataset) {
            if self.lanes.len() >= self.limits.lanes_max {
                return None;
            }
            let new = Lane {
                weight: 1,
                tag: self.clock,
                pieces: 0,
                bytes: 0,
                last_served: None,
                flows: BTreeMap::new(),
            };
            self.lanes.insert(dataset.clone(), new);
        }
        self.lanes.get_mut(dataset)
    }

    /// Puts a piece in a dataset's lane.
    ///
    /// # Errors
    ///
    /// [`LaneFull`] gives it back.
    pub fn offer(
        &mut self,
        dataset: &DatasetId,
        peer: &NodeId,
        bytes: u64,
        piece: T,
    ) -> Result<(), LaneFull<T>> {
        let LaneLimits { pieces_max, bytes_max, .. } = self.limits;
        let Some(lane) = self.lane(dataset) else { return Err(LaneFull(piece)) };
        // One piece always fits, however large.
        let fits =
            lane.pieces == 0 || (lane.pieces < pieces_max && lane.bytes.saturating_add(bytes) <= bytes_max);
        if !fits {
            return Err(LaneFull(piece));
        }
        lane.pieces += 1;
        lane.bytes = lane.bytes.saturating_add(bytes);
        lane.flows.entry(peer.clone()).or_default().push_back((bytes, piece));
        Ok(())
    }

    /// The next piece that may be sent at `now`; count on sending it. `None` if there is none: ask again at
    /// [`Lanes::poll_timeout`] and after each offer.
    pub fn poll_next(&mut self, now: Instant) -> Option<Turn<T>> {
        if self.total.as_ref().is_some_and(|bucket| !bucket.allows(now)) {
            return None;
        }
        let start = |lane: &Lane<T>| (lane.tag.max(self.clock), lane.tag);
        let chosen = self.lanes.iter().filter_map(|(dataset, lane)| {
            let peer = lane.next_peer(|peer| self.peers.get(peer).is_none_or(|bucket| bucket.allows(now)))?;
            Some((start(lane), dataset, peer))
        });
        let (dataset, peer) = chosen
            .min_by(|one, next| one.0.cmp(&next.0))
            .map(|(_, dataset, peer)| (dataset.clone(), peer.clone()))?;
        let clock = self.clock;
        let lane = self.lanes.get_mut(&dataset)?;
        let flow = lane.flows.get_mut(&peer)?;
        let (bytes, piece) = flow.pop_front()?;
        if flow.is_empty() {
            lane.flows.remove(&peer);
        }
        lane.pieces -= 1;
        lane.bytes = lane.bytes.saturating_sub(bytes);
        lane.last_served = Some(peer.clone());
        // A lane that had nothing to send, or was not allowed to, has saved nothing up.
        let started = lane.tag.max(clock);
        lane.tag = started + u128::from(bytes.max(1)) * SCALE / u128::from(lane.weight);
        self.clock = started;
        self.charge(&peer, bytes, now);
        Some(Turn { dataset, peer, bytes, piece })
    }

    fn charge(&mut self, peer: &NodeId, bytes: u64, now: Instant) {
        if let Some(total) = &mut self.total {
            total.take(bytes, now);
        }
        if let Some(rate) = self.limits.per_peer {
            // Peers that have not sent for a while are as good as unknown.
            if !self.peers.contains_key(peer) {
                self.peers.retain(|_, bucket| !bucket.is_full(now));
            }
            self.peers.entry(peer.clone()).or_insert_with(|| Bucket::new(rate, now)).take(bytes, now);
        }
    }

    /// When a piece may be sent that may not be now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at = |bucket: Option<&Bucket>| bucket.map_or(Instant::ZERO, Bucket::ready_at);
        let peers = self.lanes.values().flat_map(|lane| lane.flows.keys());
        let first = peers.map(|peer| at(self.peers.get(peer))).min()?;
        Some(first.max(at(self.total.as_ref())))
    }

    /// Drops what waits for a peer that is gone, and gives it back.
    pub fn remove_peer(&mut self, peer: &NodeId) -> Vec<T> {
        let mut removed = Vec::new();
        for lane in self.lanes.values_mut() {
            for (bytes, piece) in lane.flows.remove(peer).unwrap_or_default() {
                lane.pieces -= 1;
                lane.bytes = lane.bytes.saturating_sub(bytes);
                removed.push(piece);
            }
        }
        removed
    }

    /// Drops the lane of a dataset that is gone, and gives back what waits in it.
    pub fn remove_lane(&mut self, dataset: &DatasetId) -> Vec<T> {
        let flows = self.lanes.remove(dataset).map(|lane| lane.flows).unwrap_or_default();
        flows.into_values().flatten().map(|(_, piece)| piece).collect()
    }

    /// Pieces and bytes that wait in a lane.
    pub fn waiting(&self, dataset: &DatasetId) -> (usize, u64) {
        self.lanes.get(dataset).map_or((0, 0), |lane| (lane.pieces, lane.bytes))
    }
}

impl<T> Lane<T> {
    /// The next peer in turn that is let through.
    fn next_peer(&self, allows: impl Fn(&NodeId) -> bool) -> Option<&NodeId> {
        let after_last = self.last_served.as_ref().and_then(|last| {
            let after = (std::ops::Bound::Excluded(last.clone()), std::ops::Bound::Unbounded);
            self.flows.range::<NodeId, _>(after).map(|(peer, _)| peer).find(|peer| allows(peer))
        });
        after_last.or_else(|| self.flows.keys().find(|peer| allows(peer)))
    }
}
