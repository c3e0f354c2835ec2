//! What one run of elections is like: a subset of the faults, picked by the seed.

use std::fmt;

/// Everything that a run depends on.
#[derive(Clone, Debug)]
pub struct ElectionOptions {
    /// The seed of all else.
    pub seed: u64,
    /// Nodes that campaign.
    pub nodes: usize,
    /// Scopes that they campaign for.
    pub scopes: usize,
    /// The time to live of their sessions.
    pub ttl_ms: u64,
    /// Messages take between this and four times this.
    pub delay_us: u64,
    /// How far clocks may run apart, in parts per million.
    pub drift_ppm: u32,
    /// One message in so many is lost, with the answer of a request that it was; 0: none.
    pub lost_one_in: u32,
    /// One request in so many arrives seconds late; 0: none.
    pub late_one_in: u32,
    /// How long faults go on.
    pub faulty_ms: u64,
    /// The faults.
    pub faults: Vec<ElectionFault>,
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub struct ElectionFault {
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What it is.
    pub kind: ElectionFaultKind,
}

/// What can go wrong, and what people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionFaultKind {
    /// A node's process is killed, and starts again at the end.
    CrashNode(usize),
    /// A node stands still; what comes in the meantime waits.
    PauseNode(usize),
    /// A node and the store do not hear each other.
    CutNode(usize),
    /// Membership calls a living node dead.
    FalseDeath(usize),
    /// A voter is killed, and starts again at the end.
    CrashVoter(usize),
    /// The voter that leads at that moment is killed.
    CrashStoreLeader,
    /// The voter that leads stands still; the others elect another.
    PauseStoreLeader,
    /// The voter that leads loses its followers, not its clients.
    CutStoreLeader,
    /// A node is told to step down from a scope.
    StepDown(usize, usize),
    /// A node is told to hand a scope over to another.
    Transfer(usize, usize),
    /// A node drains, and campaigns again at the end.
    Drain(usize),
    /// The store forgets its history.
    Compact,
    /// The store is replaced by a snapshot of its own from the beginning of this fault.
    Restore,
    /// The voter that leads is killed with the next renewal of a node that no other voter has yet, and the node loses
    /// the store in the same moment.
    LoseRenewal(usize),
    /// Renewals of a node are under way until just before its session is to expire, or until the end.
    LateRenewal(usize),
}

impl ElectionOptions {
    /// The options of a seed.
    pub fn pick(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x656c_6563_7469_6f6e);
        let nodes = rng.usize(2..=6);
        let scopes = rng.usize(1..=3);
        let faulty_ms = rng.u64(10_000..40_000);
        let mut options = Self {
            seed,
            nodes,
            scopes,
            ttl_ms: *rng.choice([1000, 2000, 2000, 5000].iter()).unwrap_or(&2000),
            delay_us: *rng.choice([100, 1000, 5000, 20_000].iter()).unwrap_or(&1000),
            drift_ppm: *rng.choice([0, 100, 900].iter()).unwrap_or(&0),
            lost_one_in: *rng.choice([0, 0, 200, 20].iter()).unwrap_or(&0),
            late_one_in: *rng.choice([0, 50, 10].iter()).unwrap_or(&0),
            faulty_ms,
            faults: Vec::new(),
        };
        // A shorter time to live than some round trips and a lost renewal leave room for is refused in life.
        options.ttl_ms = options.ttl_ms.max(options.delay_us / 10);
        // Each seed has its own subset, so that rare faults meet without the noise of all others.
        let kinds: Vec<usize> = (0..13).filter(|_| rng.u8(0..3) == 0).collect();
        for _ in 0..rng.usize(0..=12) {
            let Some(kind) = rng.choice(kinds.iter()) else { break };
            let (node, scope) = (rng.usize(0..nodes), rng.usize(0..scopes));
            let kind = match kind {
                0 => ElectionFaultKind::CrashNode(node),
                1 => ElectionFaultKind::PauseNode(node),
                2 => ElectionFaultKind::CutNode(node),
                3 => ElectionFaultKind::FalseDeath(node),
                4 => ElectionFaultKind::CrashVoter(rng.usize(0..super::store::VOTERS)),
                5 => ElectionFaultKind::CrashStoreLeader,
                6 => ElectionFaultKind::PauseStoreLeader,
                7 => ElectionFaultKind::CutStoreLeader,
                8 => ElectionFaultKind::StepDown(node, scope),
                9 => ElectionFaultKind::Transfer(node, scope),
                10 => ElectionFaultKind::Drain(node),
                11 => ElectionFaultKind::Compact,
                _ => ElectionFaultKind::Restore,
            };
            let for_ms = rng.u64(10..8000);
            options.faults.push(ElectionFault { at_ms: rng.u64(0..faulty_ms), for_ms, kind });
        }
        options.pick_renewal_faults();
        options
    }

    /// Faults that aim at a renewal: chance alone would hardly ever meet one. Their choice has a generator of its
    /// own, so that it leaves the others as they are.
    fn pick_renewal_faults(&mut self) {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0x0072_656e_6577_616c);
        if rng.u8(0..3) > 0 {
            return;
        }
        for _ in 0..rng.usize(1..=3) {
            let node = rng.usize(0..self.nodes);
            let kind = if rng.bool() {
                ElectionFaultKind::LoseRenewal(node)
            } else {
                ElectionFaultKind::LateRenewal(node)
            };
            // Long enough that a session can run out meanwhile.
            let for_ms = self.ttl_ms + rng.u64(500..4000);
            self.faults.push(ElectionFault { at_ms: rng.u64(0..self.faulty_ms), for_ms, kind });
        }
    }
}

impl fmt::Display for ElectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
