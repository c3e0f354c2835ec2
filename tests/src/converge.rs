//! A large cluster without faults: how fast it forms, and how fast changes reach everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{Instant, MemberChange, MemberEvent, NodeId};
use mesh_gossip::{Command, Event, GossipConfig, Input};
use serde::Serialize;

use crate::{CarrierHabits, Gossips, HostId, Network, Step, Violation, Watch, World, cluster, invariants};

/// The longest that any stage may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Figures of one run. Times are of the run, not of the machine it ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Nodes before the one that joins.
    pub nodes: u32,
    /// The seed of the run.
    pub seed: u64,
    /// All started until every view is full.
    pub bootstrap_full_views_s: f64,
    /// All started until every overlay link is up.
    pub bootstrap_overlay_s: Option<f64>,
    /// One more node started until 95 % of the others know it.
    pub join_p95_ms: f64,
    /// And all of them.
    pub join_p100_ms: f64,
    /// The newcomer has the full list.
    pub newcomer_full_ms: f64,
    /// A process killed until 95 % of the others hold it to be dead.
    pub killed_dead_p95_ms: f64,
    /// And all of them.
    pub killed_dead_p100_ms: f64,
    /// A machine vanished until 95 % of the others hold its node to be dead.
    pub vanished_dead_p95_ms: f64,
    /// A leave until all others know.
    pub left_p100_ms: f64,
    /// Payload bytes that a node sends in a second of calm.
    pub calm_bytes_per_node_s: f64,
    /// Messages that a node sends in a second of calm.
    pub calm_messages_per_node_s: f64,
    /// Links of a node in calm, on average.
    pub links_per_node: f64,
    /// Events of the run.
    pub events: u64,
}

/// Notes when each node hears of one change.
#[derive(Debug, Default)]
struct Ears {
    about: Option<(NodeId, MemberChange)>,
    heard: BTreeMap<HostId, Instant>,
}

impl Watch<Gossips> for Ears {
    fn stepped(&mut self, step: &Step<'_, Gossips>) -> Result<(), Violation> {
        let Some((about, wanted)) = &self.about else { return Ok(()) };
        for report in step.reports {
            if let Event::Member(MemberEvent::Changed { change, member, .. }) = report
                && change == wanted
                && member.node_id == *about
            {
                self.heard.entry(step.host).or_insert(step.now);
            }
        }
        Ok(())
    }
}

/// Nodes of one cluster on a network without faults.
pub(crate) struct Cluster<W> {
    pub(crate) world: World<Gossips, W>,
    pub(crate) live: BTreeSet<HostId>,
}

/// Starts `nodes` nodes that know one seed, lets them converge, and measures a join, a kill, a
/// vanished machine and a leave.
///
/// # Errors
///
/// A stage that did not end in two minutes of the run.
pub fn converge(nodes: u32, seed: u64, mut progress: impl FnMut(&str)) -> Result<Figures, Violation> {
    let mut cluster = Cluster::new(nodes, 1, seed, Ears::default());

    let start = cluster.world.now();
    cluster.start()?;
    let bootstrap_full_views_s = cluster.since(start).as_secs_f64();
    progress(&format!("every view is full after {bootstrap_full_views_s:.1} s"));
    let overlay = cluster.wait("the overlay", |c| c.overlay_is_up()).ok();
    let bootstrap_overlay_s = overlay.map(|()| cluster.since(start).as_secs_f64());
    cluster.pass(Duration::from_secs(20))?;

    let before = cluster.sent();
    cluster.pass(Duration::from_secs(20))?;
    let after = cluster.sent();
    let per_node_s = |sum: u64| sum as f64 / f64::from(nodes) / 20.0;
    let links: usize =
        cluster.live.iter().filter_map(|h| cluster.world.core(*h)).map(|c| c.status().links).sum();

    let newcomer = HostId(nodes);
    let join = cluster.measure(newcomer, MemberChange::Joined, |world| world.start(newcomer))?;
    cluster.live.insert(newcomer);
    cluster.wait("full views after a join", |c| c.full().is_none())?;
    progress(&format!("a join was seen by 95 % after {:.0} ms", join.p95_ms));
    cluster.pass(Duration::from_secs(15))?;

    let killed = HostId(nodes / 2);
    cluster.live.remove(&killed);
    let kill = cluster.measure(killed, MemberChange::Died, |world| world.kill(killed))?;
    cluster.pass(Duration::from_secs(15))?;

    let vanished = HostId(nodes / 3);
    cluster.live.remove(&vanished);
    let vanish = cluster.measure(vanished, MemberChange::Died, |world| world.vanish(vanished))?;
    cluster.pass(Duration::from_secs(15))?;

    let leaver = HostId(nodes / 4);
    cluster.live.remove(&leaver);
    let leave = cluster.measure(leaver, MemberChange::Left, |world| {
        world.command(leaver, Input::Command(Command::Leave));
    })?;
    progress("a kill, a vanished machine and a leave were seen by all");

    Ok(Figures {
        nodes,
        seed,
        bootstrap_full_views_s,
        bootstrap_overlay_s,
        join_p95_ms: join.p95_ms,
        join_p100_ms: join.p100_ms,
        newcomer_full_ms: join.subject_full_ms,
        killed_dead_p95_ms: kill.p95_ms,
        killed_dead_p100_ms: kill.p100_ms,
        vanished_dead_p95_ms: vanish.p95_ms,
        left_p100_ms: leave.p100_ms,
        calm_bytes_per_node_s: per_node_s(after.0 - before.0),
        calm_messages_per_node_s: per_node_s(after.1 - before.1),
        links_per_node: links as f64 / f64::from(nodes),
        events: cluster.world.trace().events(),
    })
}

/// When the others heard of a change, counted from its cause.
struct Heard {
    p95_ms: f64,
    p100_ms: f64,
    /// When the subject itself had a full view, if it joined.
    subject_full_ms: f64,
}

impl<W: Watch<Gossips>> Cluster<W> {
    /// So many nodes that know one seed, and machines for `spare` more.
    pub(crate) fn new(nodes: u32, spare: u32, seed: u64, watch: W) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let machines = (nodes + spare) as usize;
        let network =
            Network::new(machines, rng.u64(..), Duration::from_micros(100), Duration::from_micros(1000));
        let machinery = cluster::machinery(machines, 50, &mut rng);
        let gossips = Gossips::new(GossipConfig::lan(), &[cluster::address(HostId(0))]);
        let habits = CarrierHabits { keep_alive: true, announce_replaced: false };
        let world = World::new(machinery, network, habits, rng.u64(..), gossips, watch);
        Self { world, live: (0..nodes).map(HostId).collect() }
    }

    /// Starts them all, and waits for full views.
    pub(crate) fn start(&mut self) -> Result<(), Violation> {
        for host in self.live.clone() {
            self.world.start(host);
        }
        self.wait("full views at the start", |c| c.full().is_none())
    }

    pub(crate) fn since(&self, start: Instant) -> Duration {
        self.world.now().since(start)
    }

    pub(crate) fn full(&self) -> Option<String> {
        let live: Vec<HostId> = self.live.iter().copied().collect();
        // Looking at the sizes first spares the comparison of a million records.
        let short = live.iter().find(|h| self.world.core(**h).is_none_or(|c| c.status().alive != live.len()));
        short.map_or_else(
            || invariants::difference(&self.world, &live).map(|d| d.text),
            |h| Some(format!("{h:?} has no full view")),
        )
    }

    pub(crate) fn overlay_is_up(&self) -> bool {
        self.live.iter().filter_map(|h| self.world.core(*h)).all(|core| {
            let status = core.status();
            status.overlay_up == status.overlay_wanted
        })
    }

    pub(crate) fn sent(&self) -> (u64, u64) {
        let counters = self.live.iter().filter_map(|h| self.world.core(*h)).map(|c| c.counters());
        counters.fold((0, 0), |sum, c| (sum.0 + c.sent_bytes, sum.1 + c.sent_messages))
    }

    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), Violation> {
        self.world.run_until(self.world.now() + time)
    }

    pub(crate) fn wait(
        &mut self,
        what: &'static str,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Violation> {
        let start = self.world.now();
        while !done(self) {
            if self.since(start) > PATIENCE {
                let detail = self.full().unwrap_or_else(|| "the views are full".into());
                return Err(Violation { at: self.world.now(), host: None, rule: what, detail });
            }
            self.pass(Duration::from_millis(10))?;
        }
        Ok(())
    }
}

impl Cluster<Ears> {
    fn measure(
        &mut self,
        subject: HostId,
        change: MemberChange,
        cause: impl FnOnce(&mut World<Gossips, Ears>),
    ) -> Result<Heard, Violation> {
        let about = self.world.node_id(subject).clone();
        self.world.watch = Ears { about: Some((about, change)), heard: BTreeMap::new() };
        let start = self.world.now();
        let others: BTreeSet<HostId> = self.live.iter().copied().filter(|h| *h != subject).collect();
        let members = others.len() + 1;
        cause(&mut self.world);
        let mut full_at = None;
        self.wait("everybody hears of one change", |c| {
            let full = c.world.core(subject).is_some_and(|core| core.status().alive == members);
            if full && full_at.is_none() {
                full_at = Some(c.world.now());
            }
            others.iter().all(|h| c.world.watch.heard.contains_key(h))
                && (change != MemberChange::Joined || full_at.is_some())
        })?;
        let heard = &self.world.watch.heard;
        let mut times: Vec<f64> = others
            .iter()
            .filter_map(|h| heard.get(h))
            .map(|at| at.since(start).as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let at =
            |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
        Ok(Heard {
            p95_ms: at(0.95).unwrap_or_default(),
            p100_ms: at(1.0).unwrap_or_default(),
            subject_full_ms: full_at.map_or(0.0, |at| at.since(start).as_secs_f64() * 1e3),
        })
    }
}
