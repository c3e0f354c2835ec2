//! The wire between the machines: how long a packet takes, and whether it arrives.

use std::{collections::BTreeSet, fmt, time::Duration};

use mesh_core::{Instant, LinkPath};

/// One machine of the run, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

impl HostId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Longest time that packets wait for a narrow line before more are dropped.
const LINE_QUEUE: Duration = Duration::from_millis(500);

/// What can be wrong with the whole network. All zero: nothing.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Share of packets lost everywhere.
    pub loss: f64,
    /// Share of unreliable packets that arrive twice.
    pub duplicates: f64,
    /// Largest random delay added to each packet; packets overtake one another.
    pub jitter: Duration,
    /// The side of the partition that each machine is on; empty if there is none.
    pub sides: Vec<u8>,
    /// Directions in which nothing gets through.
    pub cuts: BTreeSet<(HostId, HostId)>,
}

/// What can be wrong with one machine's line. The default: nothing.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Share of packets lost, each way.
    pub loss: f64,
    /// Added to each packet, each way.
    pub delay: Duration,
    /// UDP does not get through; TCP does.
    pub udp_blocked: bool,
    /// The machine is off.
    pub gone: bool,
    /// The machine is on, but its cable is out.
    pub unplugged: bool,
    /// Bytes a second that it can send.
    pub bytes_per_second: Option<u64>,
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Arrives(Duration),
    ArrivesTwice(Duration, Duration),
}

/// The network of a run.
#[derive(Debug)]
pub struct Network {
    rng: fastrand::Rng,
    latency_seed: u64,
    latency_min: Duration,
    latency_spread: Duration,
    /// Faults of the whole network.
    pub weather: Weather,
    /// Faults of each machine's line.
    pub lines: Vec<Line>,
    line_free_at: Vec<Instant>,
}

impl Network {
    /// A network whose pairs have one-way latencies between the two bounds.
    pub fn new(hosts: usize, seed: u64, latency_min: Duration, latency_max: Duration) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            latency_seed: seed,
            latency_min,
            latency_spread: latency_max.saturating_sub(latency_min),
            weather: Weather::default(),
            lines: vec![Line::default(); hosts],
            line_free_at: vec![Instant::ZERO; hosts],
        }
    }

    /// Ends all faults.
    pub fn clear(&mut self) {
        self.weather = Weather::default();
        self.lines.iter_mut().for_each(|line| *line = Line::default());
        self.line_free_at.iter_mut().for_each(|at| *at = Instant::ZERO);
    }

    /// Whether everybody can reach everybody.
    pub fn is_whole(&self) -> bool {
        self.weather.sides.is_empty()
            && self.weather.cuts.is_empty()
            && !self.lines.iter().any(|line| line.gone || line.unplugged)
    }

    /// Whether nothing reaches a machine and nothing leaves it.
    pub fn is_cut_off(&self, host: HostId) -> bool {
        let others = (0..self.lines.len()).filter_map(|i| u32::try_from(i).ok()).map(HostId);
        let paths = [LinkPath::Quic, LinkPath::Http2];
        others.filter(|other| *other != host).all(|other| {
            paths.iter().all(|path| !self.is_open(host, other, *path) && !self.is_open(other, host, *path))
        })
    }

    /// Whether packets can get from one machine to another at all.
    pub fn is_open(&self, from: HostId, to: HostId, path: LinkPath) -> bool {
        let (sender, receiver) = (&self.lines[from.index()], &self.lines[to.index()]);
        let udp = path == LinkPath::Quic;
        let side = |host: HostId| self.weather.sides.get(host.index());
        !(sender.gone || sender.unplugged || receiver.gone || receiver.unplugged)
            && !(udp && (sender.udp_blocked || receiver.udp_blocked))
            && side(from) == side(to)
            && (self.weather.cuts.is_empty() || !self.weather.cuts.contains(&(from, to)))
    }

    /// The time a packet of no size takes from one machine to another, without jitter.
    pub fn latency(&self, from: HostId, to: HostId) -> Duration {
        let pair = (u64::from(from.0.min(to.0)) << 32) | u64::from(from.0.max(to.0));
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&pair.to_le_bytes(), self.latency_seed);
        let spread = self.latency_spread.mul_f64((hash >> 11) as f64 / (1u64 << 53) as f64);
        self.latency_min + spread + self.lines[from.index()].delay + self.lines[to.index()].delay
    }

    /// How many of so many packets are lost.
    pub(crate) fn lost(&mut self, from: HostId, to: HostId, path: LinkPath, packets: usize) -> usize {
        if !self.is_open(from, to, path) {
            return packets;
        }
        let pass = [self.weather.loss, self.lines[from.index()].loss, self.lines[to.index()].loss]
            .map(|loss| 1.0 - loss);
        let loss = 1.0 - pass.iter().product::<f64>();
        if loss <= 0.0 { 0 } else { (0..packets).filter(|_| self.rng.f64() < loss).count() }
    }

    /// How long these bytes take from one machine to another; `None` if the sender's line is too busy.
    pub(crate) fn travel(
        &mut self,
        now: Instant,
        from: HostId,
        to: HostId,
        bytes: usize,
    ) -> Option<Duration> {
        let mut delay = self.latency(from, to);
        if let Some(rate) = self.lines[from.index()].bytes_per_second {
            let free_at = &mut self.line_free_at[from.index()];
            let start = (*free_at).max(now);
            if start.since(now) > LINE_QUEUE {
                return None;
            }
            *free_at = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            delay += free_at.since(now);
        }
        if !self.weather.jitter.is_zero() {
            delay += self.weather.jitter.mul_f64(self.rng.f64());
        }
        Some(delay)
    }

    /// What becomes of one unreliable packet.
    pub(crate) fn fate(
        &mut self,
        now: Instant,
        from: HostId,
        to: HostId,
        path: LinkPath,
        bytes: usize,
    ) -> Fate {
        if self.lost(from, to, path, 1) > 0 {
            return Fate::Lost;
        }
        let Some(delay) = self.travel(now, from, to, bytes) else { return Fate::Lost };
        if self.weather.duplicates > 0.0 && self.rng.f64() < self.weather.duplicates {
            let again = delay + Duration::from_micros(self.rng.u64(10..20_000));
            return Fate::ArrivesTwice(delay, again);
        }
        Fate::Arrives(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    fn network() -> Network {
        Network::new(2, 7, Duration::from_millis(1), Duration::from_millis(3))
    }

    #[test]
    fn a_one_way_cut_is_one_way() {
        let mut network = network();
        network.weather.cuts.insert((A, B));
        assert_eq!(network.fate(Instant::ZERO, A, B, LinkPath::Quic, 10), Fate::Lost);
        assert!(matches!(network.fate(Instant::ZERO, B, A, LinkPath::Quic, 10), Fate::Arrives(_)));
    }

    #[test]
    fn blocked_udp_leaves_tcp() {
        let mut network = network();
        network.lines[1].udp_blocked = true;
        assert!(!network.is_open(A, B, LinkPath::Quic));
        assert!(network.is_open(A, B, LinkPath::Http2));
    }

    #[test]
    fn a_narrow_line_delays_and_then_drops() {
        let mut network = network();
        network.lines[0].bytes_per_second = Some(10_000);
        let first = network.travel(Instant::ZERO, A, B, 1000).expect("the line is free");
        let second = network.travel(Instant::ZERO, A, B, 1000).expect("it waits");
        assert_eq!(second - first, Duration::from_millis(100));
        let taken = (0..50).filter(|_| network.travel(Instant::ZERO, A, B, 1000).is_some()).count();
        assert!(taken < 10, "{taken}");
    }

    #[test]
    fn loss_is_about_what_was_asked_for() {
        let mut network = network();
        network.weather.loss = 0.3;
        let lost = network.lost(A, B, LinkPath::Quic, 10_000);
        assert!((2_800..3_200).contains(&lost), "{lost}");
    }
}
