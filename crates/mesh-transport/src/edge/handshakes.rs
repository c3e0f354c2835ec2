//! The handshakes under way on the edge port, and which of them gives way when there are too many.
//!
//! A flood of silent connections pushes out itself: an honest handshake takes a few
//! milliseconds and is over before its turn comes. To refuse newcomers instead would
//! let one host that opens connections and says nothing keep operators out.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// All handshakes under way, oldest first for each source.
#[derive(Debug)]
pub(super) struct Handshakes {
    total_max: usize,
    per_source_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    total: usize,
    /// No source is here without a handshake.
    sources: BTreeMap<IpAddr, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// One handshake. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    handshakes: Arc<Handshakes>,
    source: IpAddr,
    number: u64,
    displaced: oneshot::Receiver<()>,
}

impl Handshakes {
    pub(super) fn new(total_max: usize, per_source_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, per_source_max, state: Mutex::default() })
    }

    /// Enters a handshake. Where that is one too many, the oldest gives way: of the same source if
    /// that has too many, of the source with the most otherwise. Call it in the order of arrival.
    pub(super) fn enter(self: &Arc<Self>, source: IpAddr) -> Slot {
        let mut state = self.lock();
        let own = state.sources.get(&source).map_or(0, VecDeque::len);
        if own >= self.per_source_max {
            state.displace(source);
        } else if state.total >= self.total_max
            && let Some(busiest) = state.busiest()
        {
            state.displace(busiest);
        }
        let number = state.next;
        state.next += 1;
        state.total += 1;
        let (keep, displaced) = oneshot::channel();
        state.sources.entry(source).or_default().push_back((number, keep));
        Slot { handshakes: self.clone(), source, number, displaced }
    }

    /// Whether a quarter of the room is taken.
    #[cfg(feature = "rpc")]
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().total >= self.total_max.div_ceil(4)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn busiest(&self) -> Option<IpAddr> {
        self.sources.iter().max_by_key(|(_, handshakes)| handshakes.len()).map(|(source, _)| *source)
    }

    fn displace(&mut self, source: IpAddr) {
        if let Some(number) = self.sources.get(&source).and_then(|own| own.front()).map(|(number, _)| *number)
        {
            self.remove(source, number);
        }
    }

    /// Removes a handshake, if it is still there. The end of the channel tells it.
    fn remove(&mut self, source: IpAddr, number: u64) {
        let Some(own) = self.sources.get_mut(&source) else { return };
        if let Ok(at) = own.binary_search_by_key(&number, |(number, _)| *number) {
            own.remove(at);
            self.total -= 1;
        }
        if own.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Slot {
    /// Ends when this handshake has to give way to a newer one.
    pub(super) async fn displaced(&mut self) {
        // Nothing is ever sent: the channel closes.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.handshakes.lock().remove(self.source, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_displaced(slot: &mut Slot) -> bool {
        slot.displaced().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_of_a_busy_source_gives_way_to_its_newest() {
        let handshakes = Handshakes::new(100, 2);
        let mut other = handshakes.enter(source(9));
        let mut first = handshakes.enter(source(1));
        let mut second = handshakes.enter(source(1));
        let mut third = handshakes.enter(source(1));
        assert!(is_displaced(&mut first));
        assert!(!is_displaced(&mut second) && !is_displaced(&mut third) && !is_displaced(&mut other));
        drop(second);
        let mut fourth = handshakes.enter(source(1));
        assert!(!is_displaced(&mut third) && !is_displaced(&mut fourth), "there was room");
    }

    #[test]
    fn the_busiest_source_gives_way_to_others() {
        let handshakes = Handshakes::new(4, 100);
        let mut honest = handshakes.enter(source(1));
        let mut flood: Vec<_> = (0..3).map(|_| handshakes.enter(source(2))).collect();
        let mut newcomer = handshakes.enter(source(3));
        assert!(is_displaced(&mut flood[0]));
        assert!(!is_displaced(&mut honest) && !is_displaced(&mut newcomer));
    }

    #[test]
    fn nothing_is_kept_of_what_is_over() {
        let handshakes = Handshakes::new(2, 1);
        let first = handshakes.enter(source(1));
        let second = handshakes.enter(source(1));
        drop((first, second));
        assert_eq!(handshakes.lock().total, 0);
        assert!(handshakes.lock().sources.is_empty());
    }
}
