//! What a seed stands for: the size of the cluster, its network, and what goes wrong when.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::HostId;

/// Everything that a run depends on, apart from the code.
///
/// [`Options::pick`] derives them from a seed. A regression keeps them in full, so that
/// it stays the same run when the way they are picked changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The source of all randomness in the run.
    pub seed: u64,
    /// Machines.
    pub nodes: u32,
    /// The settings that nodes run with.
    pub preset: Preset,
    /// Shortest one-way latency of a pair.
    pub latency_min_us: u64,
    /// Longest one-way latency of a pair.
    pub latency_max_us: u64,
    /// Largest drift of a machine's clock, either way.
    pub drift_ppm_max: i32,
    /// Time within which all nodes start, apart from those that join late.
    pub start_spread_ms: u64,
    /// Idle links stay up.
    pub keep_alive: bool,
    /// A link that a restarted peer replaced is reported as down first.
    pub announce_replaced: bool,
    /// How long faults go on.
    pub safety_ms: u64,
    /// Time to heal after that.
    pub heal_ms: u64,
    /// How long dead members are remembered.
    pub tombstone_ttl_ms: u64,
    /// Which versions the nodes are of.
    #[serde(default)]
    pub skew: Skew,
    /// What goes wrong, in no particular order.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// Named settings of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Nodes in one data centre.
    Lan,
    /// Processes on one machine.
    Local,
}

/// Versions in one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skew {
    /// All nodes are of this version.
    #[default]
    None,
    /// Some are of an older one and some of a newer one.
    Mixed,
    /// All begin with the older version and come back from a restart with the newer one.
    Rolling,
}

/// Which certificate another process with a node's id has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// An older one: that process gives way.
    Older,
    /// The same: chance decides.
    Same,
    /// A newer one: the node gives way.
    Newer,
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields are a host, a rate or a size with its unit")]
pub enum FaultKind {
    /// Packets are lost everywhere.
    Loss { rate: f64 },
    /// Packets are delayed at random, and so reordered.
    Jitter { ms: u64 },
    /// Datagrams arrive twice.
    Duplicates { rate: f64 },
    /// These machines can't reach the others.
    Partition { hosts: Vec<u32> },
    /// One direction between two machines is cut.
    OneWayCut { from: u32, to: u32 },
    /// Nothing that one machine sends gets through, though it hears all.
    Mute { host: u32 },
    /// One machine's line loses packets.
    LineLoss { host: u32, rate: f64 },
    /// One machine's line is slow.
    LineDelay { host: u32, ms: u64 },
    /// One machine's line is narrow.
    Narrow { host: u32, bytes_per_second: u64 },
    /// Nothing reaches one machine, and nothing leaves it.
    Unplug { host: u32 },
    /// A second process runs with a node's id, on a machine of its own.
    Twin { host: u32, certificate: Certificate },
    /// UDP does not reach one machine.
    UdpBlocked { host: u32 },
    /// A process is stopped and goes on later.
    Pause { host: u32 },
    /// Each input takes one machine this long.
    Slow { host: u32, step_us: u64 },
    /// A process is killed.
    Crash { host: u32, back: Back },
    /// A machine loses power.
    Vanish { host: u32, back: Back },
    /// A node leaves in good order.
    Leave { host: u32, back: Back },
    /// A node starts only now.
    JoinLate { host: u32 },
    /// No space is left on a disk.
    DiskFull { host: u32 },
    /// A disk's writes fail.
    DiskFailing { host: u32 },
    /// A node changes its metadata. Not a fault, but it must get through them.
    Metadata { host: u32, bytes: usize },
    /// A node sends a message to all.
    Broadcast { host: u32, bytes: usize },
}

/// How a process comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    /// It does not.
    Never,
    /// With its files.
    Same,
    /// With an empty disk.
    Wiped,
}

/// Machines that every node has as seeds; they always come back.
pub const SEED_HOSTS: u32 = 2;

impl Options {
    /// The options of a seed: a cluster of 3 to 40 nodes and a handful of the possible faults.
    pub fn pick(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x6f70_7469_6f6e_7300);
        let nodes = match rng.u8(..10) {
            0..6 => rng.u32(3..=8),
            6..9 => rng.u32(9..=20),
            _ => rng.u32(21..=40),
        };
        let safety_ms = rng.u64(10_000..=90_000);
        let mut options = Self {
            seed,
            nodes,
            preset: if rng.u8(..4) == 0 { Preset::Local } else { Preset::Lan },
            latency_min_us: rng.u64(50..=500),
            latency_max_us: rng.u64(500..=5_000),
            drift_ppm_max: if rng.bool() { rng.i32(1..=300) } else { 0 },
            start_spread_ms: rng.u64(0..=3_000),
            keep_alive: rng.bool(),
            announce_replaced: rng.bool(),
            safety_ms,
            heal_ms: 60_000,
            tombstone_ttl_ms: if rng.u8(..4) == 0 { 60_000 } else { 24 * 3_600_000 },
            skew: Skew::None,
            faults: Vec::new(),
        };
        for _ in 0..rng.u32(0..=5) {
            let one_of = rng.u8(..KINDS);
            for _ in 0..rng.u32(1..=4) {
                let at_ms = rng.u64(2_000..safety_ms);
                let for_ms = match rng.u8(..4) {
                    0 => rng.u64(50..1_500),
                    1 | 2 => rng.u64(1_500..15_000),
                    _ => rng.u64(15_000..60_000),
                };
                let kind = pick_kind(&mut rng, one_of, nodes);
                options.faults.push(Fault { at_ms, for_ms, kind });
            }
        }
        if rng.u8(..8) == 0 {
            options.restart_in_turn(&mut rng);
        }
        options.pick_more();
        options.faults.sort_by_key(|fault| fault.at_ms);
        options
    }

    /// What was added later comes from a source of its own, so that the rest of a seed stays the same.
    fn pick_more(&mut self) {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x6d6f_7265_0000_0000);
        let mut add = |rng: &mut fastrand::Rng, kind| {
            let at_ms = rng.u64(2_000..self.safety_ms);
            self.faults.push(Fault { at_ms, for_ms: rng.u64(1_000..40_000), kind });
        };
        if rng.u8(..6) == 0 {
            let host = rng.u32(..self.nodes);
            add(&mut rng, FaultKind::Unplug { host });
        }
        if rng.u8(..6) == 0 {
            let host = rng.u32(SEED_HOSTS..self.nodes);
            let certificate = match rng.u8(..3) {
                0 => Certificate::Older,
                1 => Certificate::Same,
                _ => Certificate::Newer,
            };
            add(&mut rng, FaultKind::Twin { host, certificate });
        }
        self.skew = match rng.u8(..6) {
            0 => Skew::Mixed,
            1 => Skew::Rolling,
            _ => Skew::None,
        };
        if self.skew == Skew::Rolling {
            self.restart_in_turn(&mut rng);
        }
    }

    /// The faults that are second processes, in order of their machines, which come after the others.
    pub fn twins(&self) -> impl Iterator<Item = (HostId, HostId, Certificate)> {
        let twins = self.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Twin { host, certificate } => Some((HostId(host), certificate)),
            _ => None,
        });
        (self.nodes..).zip(twins).map(|(twin, (host, certificate))| (HostId(twin), host, certificate))
    }

    /// A rolling restart: node after node leaves and comes back, quickly or with some overlap.
    fn restart_in_turn(&mut self, rng: &mut fastrand::Rng) {
        let (down_ms, every_ms) = (rng.u64(20..4_000), rng.u64(20..4_000));
        let mut at_ms = rng.u64(3_000..self.safety_ms);
        for host in 0..self.nodes {
            let back = if rng.u8(..4) == 0 { Back::Wiped } else { Back::Same };
            if at_ms < self.safety_ms {
                self.faults.push(Fault { at_ms, for_ms: down_ms, kind: FaultKind::Leave { host, back } });
            }
            at_ms += every_ms;
        }
    }

    /// The seed and all options as TOML, the format of a regression.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# can't be written: {error}"))
    }

    /// Options from TOML.
    ///
    /// # Errors
    ///
    /// What is wrong in the text.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// How long faults go on.
    pub fn safety(&self) -> Duration {
        Duration::from_millis(self.safety_ms)
    }

    /// Time to heal after that.
    pub fn heal(&self) -> Duration {
        Duration::from_millis(self.heal_ms)
    }

    /// The machines.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.nodes).map(HostId)
    }
}

/// One line: what a reader wants to know of a run before its details.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {} nodes, {} s of faults:", self.seed, self.nodes, self.safety_ms / 1000)?;
        for fault in &self.faults {
            let until = fault.at_ms + fault.for_ms;
            write!(f, " [{:.1}..{:.1} {:?}]", fault.at_ms as f64 / 1e3, until as f64 / 1e3, fault.kind)?;
        }
        if self.faults.is_empty() { f.write_str(" none") } else { Ok(()) }
    }
}

const KINDS: u8 = 20;

fn pick_kind(rng: &mut fastrand::Rng, one_of: u8, nodes: u32) -> FaultKind {
    let host = rng.u32(..nodes);
    let other = (host + rng.u32(1..nodes)) % nodes;
    let back = match rng.u8(..4) {
        0 if host >= SEED_HOSTS => Back::Never,
        1 => Back::Wiped,
        _ => Back::Same,
    };
    match one_of {
        0 => FaultKind::Loss { rate: rng.f64() * if rng.u8(..4) == 0 { 0.6 } else { 0.1 } },
        1 => FaultKind::Jitter { ms: rng.u64(1..200) },
        2 => FaultKind::Duplicates { rate: rng.f64() * 0.5 },
        3 | 4 => {
            let size = rng.u32(1..=nodes / 2) as usize;
            let mut hosts: Vec<u32> = (0..nodes).collect();
            rng.shuffle(&mut hosts);
            hosts.truncate(size);
            hosts.sort_unstable();
            FaultKind::Partition { hosts }
        }
        5 => FaultKind::OneWayCut { from: host, to: other },
        6 => FaultKind::Mute { host },
        7 => FaultKind::LineLoss { host, rate: 0.05 + rng.f64() * 0.6 },
        8 => FaultKind::LineDelay { host, ms: rng.u64(1..400) },
        9 => FaultKind::Narrow { host, bytes_per_second: rng.u64(2_000..100_000) },
        10 => FaultKind::UdpBlocked { host },
        11 => FaultKind::Pause { host },
        12 => FaultKind::Slow { host, step_us: rng.u64(100..20_000) },
        13 | 14 => FaultKind::Crash { host, back },
        15 => FaultKind::Vanish { host, back },
        16 => FaultKind::Leave { host, back },
        17 => match host {
            ..SEED_HOSTS => FaultKind::DiskFull { host },
            _ => FaultKind::JoinLate { host },
        },
        18 => match rng.bool() {
            true => FaultKind::DiskFull { host },
            false => FaultKind::DiskFailing { host },
        },
        _ => match rng.bool() {
            true => FaultKind::Metadata { host, bytes: rng.usize(1..2_000) },
            false => FaultKind::Broadcast { host, bytes: rng.usize(1..4_000) },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_toml_and_depend_on_the_seed_alone() {
        for seed in 0..200 {
            let options = Options::pick(seed);
            assert_eq!(Options::from_toml(&options.to_toml()).expect("our own text"), options);
            assert_eq!(Options::pick(seed), options);
            assert!((3..=40).contains(&options.nodes));
        }
    }

    #[test]
    fn every_kind_of_fault_is_picked_now_and_then() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            for fault in Options::pick(seed).faults {
                seen.insert(format!("{:?}", std::mem::discriminant(&fault.kind)));
            }
        }
        assert_eq!(seen.len(), 22);
    }
}
