//! What a run is like, drawn from its seed.

use std::time::Duration;

use mesh_sync::replica::ReplicaConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Full,
    Ring,
    Star,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) datasets: usize,
    pub(crate) topology: Topology,
    /// Faults happen, and people write, for so long.
    pub(crate) faulty: Duration,
    pub(crate) loss_percent: u32,
    pub(crate) latency_ms_max: u64,
    pub(crate) disk_ms_max: u64,
    /// Mean time between two writes of a node.
    pub(crate) write_every_ms: u64,
    /// Mean time between two faults; none if 0.
    pub(crate) fault_every_ms: u64,
    pub(crate) restores: bool,
    pub(crate) prunes: bool,
    /// Some nodes begin up to so much later.
    pub(crate) late_ms: u64,
    /// So many messages of a thousand have a bit flipped in an entry.
    pub(crate) flips_permille: u32,
    /// Clocks may be set back while a node is down.
    pub(crate) clocks_jump: bool,
    /// The clock does not continue after what is stored: a bug, planted.
    pub(crate) forget_stamps: bool,
    /// One node's clock is so far ahead.
    pub(crate) ahead_ms: u64,
    /// A node is retired while others go on.
    pub(crate) retires: bool,
    /// Only connections are cut; nobody crashes.
    pub(crate) only_cuts: bool,
    pub(crate) config: ReplicaConfig,
}

impl Options {
    pub(crate) fn pick(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let retention = Duration::from_secs(rng.u64(5..30));
        let mut config = ReplicaConfig {
            tombstone_retention: retention,
            confirm_interval: Duration::from_secs(rng.u64(1..6)),
            audit_interval: Duration::from_secs(rng.u64(10..60)),
            lag_limit: Duration::from_secs(10),
            reconcile_backoff_max: Duration::from_secs(10),
            orphan_timeout: Duration::from_secs(10),
            ..ReplicaConfig::default()
        };
        if rng.bool() {
            // Everything happens at its limit.
            config.list_entries_max = rng.usize(1..20);
            config.batch_entries_max = rng.usize(1..20);
            config.pending_entries_max = rng.usize(16..64);
            config.wants_per_peer_max = rng.usize(16..32);
            config.wants_max = rng.usize(64..128);
            config.give_entries_max = rng.usize(16..64);
            config.window_bytes = rng.usize(4096..16_384);
            config.checkpoint_arrivals = rng.u64(16..64);
            config.sessions_max = 1;
            config.deferred_per_author_max = rng.usize(1..8);
        }
        Self {
            seed,
            nodes: rng.usize(2..6),
            datasets: rng.usize(1..4),
            topology: [Topology::Full, Topology::Ring, Topology::Star][rng.usize(0..3)],
            faulty: Duration::from_secs(rng.u64(20..70)),
            loss_percent: if rng.bool() { rng.u32(0..15) } else { 0 },
            latency_ms_max: [5, 50, 500][rng.usize(0..3)],
            disk_ms_max: [2, 20, 300][rng.usize(0..3)],
            write_every_ms: [300, 1000, 3000][rng.usize(0..3)],
            fault_every_ms: [0, 3000, 8000][rng.usize(0..3)],
            restores: rng.u32(0..4) == 0,
            prunes: rng.u32(0..3) > 0,
            ahead_ms: if rng.u32(0..4) == 0 { rng.u64(300..20_000) } else { 0 },
            late_ms: if rng.bool() { rng.u64(1000..40_000) } else { 0 },
            flips_permille: if rng.bool() { 20 } else { 0 },
            clocks_jump: rng.bool(),
            forget_stamps: false,
            retires: seed % 7 == 5,
            only_cuts: false,
            config,
        }
    }

    /// Good disks, clocks and lines, and the settings that people have; but lines are cut, and nodes may crash.
    pub(crate) fn cut_lines(seed: u64, only_cuts: bool) -> Self {
        let picked = Self::pick(seed);
        Self {
            loss_percent: 0,
            latency_ms_max: picked.latency_ms_max.min(50),
            disk_ms_max: picked.disk_ms_max.min(20),
            fault_every_ms: 3000,
            restores: false,
            prunes: false,
            ahead_ms: 0,
            late_ms: 0,
            flips_permille: 0,
            clocks_jump: false,
            retires: false,
            only_cuts,
            config: ReplicaConfig::default(),
            ..picked
        }
    }

    /// Nothing is lost, cut or wrong; lines and disks may be slow, clocks differ a little, and some nodes come late.
    pub(crate) fn faultless(seed: u64) -> Self {
        let picked = Self::pick(seed);
        Self {
            loss_percent: 0,
            fault_every_ms: 0,
            restores: false,
            retires: false,
            ahead_ms: 0,
            flips_permille: 0,
            clocks_jump: false,
            config: ReplicaConfig::default(),
            ..picked
        }
    }

    pub(crate) fn linked(&self, a: usize, b: usize) -> bool {
        let (a, b) = (a.min(b), a.max(b));
        match self.topology {
            Topology::Full => a != b,
            Topology::Ring => b == a + 1 || (a == 0 && b == self.nodes - 1 && b > 0),
            Topology::Star => a == 0 && b > 0,
        }
    }
}
