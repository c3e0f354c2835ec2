//! One run of a membership cluster: faults for a while, then none, and it must heal.

use std::{collections::BTreeSet, io::Write, time::Duration};

use bytes::Bytes;
use mesh_core::{Instant, Load};
use mesh_gossip::{Command, Gossip, Input};

use crate::{
    CarrierHabits, Counts, DiskHealth, Gossips, HostId, Network, Options, Trace, Violation, World, cluster,
    invariants::{self, CutOff, Difference, MembershipWatch},
    options::{Back, Certificate, Fault, FaultKind, SEED_HOSTS, Skew},
};

/// How often the end of healing is looked for, and calm is checked.
const LOOK: Duration = Duration::from_millis(100);
/// After healing, the time for the overlay to settle.
const SETTLE: Duration = Duration::from_secs(5);
/// Time for a change to reach everybody in calm.
const SPREAD: Duration = Duration::from_secs(2);

/// A load that did not reach everybody at first is said anew.
const SAID_ANEW_TWICE: Duration = Duration::from_secs(30);

fn calm_load() -> Load {
    Load::default().with_cpu_permille(123).with_custom("calm", 1)
}

/// What a run that broke no rule was like.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The same for every run of the same options.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// From the end of faults to full and equal views.
    pub healed_after: Duration,
    /// The length of the run.
    pub virtual_time: Duration,
    /// What the simulator counted.
    pub counts: Counts,
    /// The most effects of one step.
    pub effects_max: usize,
    /// The longest queues of one core.
    pub queue_max: usize,
    /// Deaths that nodes saw, true or false.
    pub deaths: u64,
}

/// What is done to a core as it starts.
pub type AtStart = Box<dyn Fn(&mut Gossip)>;

/// How to look at a run.
#[derive(Default)]
pub struct Looking {
    /// Where lines go, one for each event.
    pub trace: Option<Box<dyn Write>>,
    /// Stop after this time of the run, healed or not.
    pub until: Option<Duration>,
    /// Done to every core as it starts: the place to plant a bug.
    pub at_start: Option<AtStart>,
}

/// Runs a cluster with these options.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run(options: &Options) -> Result<Outcome, Violation> {
    run_looking(options, Looking::default())
}

/// Runs a cluster with these options, looked at in some way.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run_looking(options: &Options, looking: Looking) -> Result<Outcome, Violation> {
    let mut run = Run::new(options, looking);
    let healed_after = run.go()?;
    let world = &run.world;
    Ok(Outcome {
        hash: world.trace().hash(),
        events: world.trace().events(),
        healed_after,
        virtual_time: world.now().since(Instant::ZERO),
        counts: world.counts().clone(),
        effects_max: world.watch.effects_max,
        queue_max: world.watch.queue_max,
        deaths: world.watch.deaths,
    })
}

struct Run<'a> {
    options: &'a Options,
    world: World<Gossips, MembershipWatch>,
    rng: fastrand::Rng,
    until: Instant,
    /// Faults of the network that are active, by their place in the options.
    weather: BTreeSet<usize>,
    /// Machines on which no process is to run.
    down: BTreeSet<HostId>,
    leaving: BTreeSet<HostId>,
    broadcasts: u64,
    cut_off: CutOff,
}

/// Something that the timeline of a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Start(HostId),
    Begin(usize),
    End(usize),
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, looking: Looking) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let twins: Vec<_> = options.twins().collect();
        let nodes = options.nodes as usize;
        let machines = nodes + twins.len();
        let (latency_min, latency_max) =
            (Duration::from_micros(options.latency_min_us), Duration::from_micros(options.latency_max_us));
        let network = Network::new(machines, rng.u64(..), latency_min, latency_max);
        let mut machinery = cluster::machinery(nodes, options.drift_ppm_max, &mut rng);
        let mut watch = MembershipWatch::default();
        watch.expect_skew(options.skew);
        for (machine, host, certificate) in twins {
            let not_before_s = match certificate {
                Certificate::Older => cluster::NOT_BEFORE_S - 1,
                Certificate::Same => cluster::NOT_BEFORE_S,
                Certificate::Newer => cluster::NOT_BEFORE_S + 1,
            };
            machinery.push(cluster::twin(machine, host, not_before_s, &mut rng));
            watch.expect_twins((host, cluster::NOT_BEFORE_S), (machine, not_before_s));
        }
        let seeds: Vec<_> = (0..SEED_HOSTS.min(options.nodes)).map(|h| cluster::address(HostId(h))).collect();
        let mut gossips = Gossips::new(Gossips::settings(options), &seeds).skewed(options.skew);
        if let Some(action) = looking.at_start {
            gossips = gossips.at_start(action);
        }
        let habits =
            CarrierHabits { keep_alive: options.keep_alive, announce_replaced: options.announce_replaced };
        let mut world = World::new(machinery, network, habits, rng.u64(..), gossips, watch);
        if let Some(lines) = looking.trace {
            world.set_trace(Trace::with_lines(lines));
        }
        let until = looking.until.map_or(Instant::from_nanos(u64::MAX), |time| Instant::ZERO + time);
        let (weather, down, leaving) = Default::default();
        let cut_off = CutOff::default();
        Self { options, world, rng, until, weather, down, leaving, broadcasts: 0, cut_off }
    }

    fn go(&mut self) -> Result<Duration, Violation> {
        self.safety_phase()?;
        self.end_faults();
        let healed_after = self.heal()?;
        self.calm()?;
        Ok(healed_after)
    }

    fn is_over(&self) -> bool {
        self.world.now() >= self.until
    }

    fn run_to(&mut self, at: Instant) -> Result<(), Violation> {
        let at = at.min(self.until);
        let config = self.world.program.config();
        // What was under way arrives still, and the node looks once a second.
        let patience = config.suspicion_max.max(config.probe_interval * 4) + Duration::from_secs(3);
        loop {
            self.world.run_until(at.min(self.world.now() + LOOK))?;
            self.cut_off.check(&self.world, patience)?;
            if self.world.now() >= at {
                return Ok(());
            }
        }
    }

    fn timeline(&mut self) -> Vec<(Duration, Mark)> {
        let ms = Duration::from_millis;
        let late = |host: HostId| {
            self.options
                .faults
                .iter()
                .find(|f| f.kind == FaultKind::JoinLate { host: host.0 })
                .map(|f| ms(f.at_ms))
        };
        let mut marks = Vec::new();
        for host in self.options.hosts() {
            let spread = self.rng.u64(0..=self.options.start_spread_ms);
            marks.push((late(host).unwrap_or(ms(spread)), Mark::Start(host)));
        }
        for (index, fault) in self.options.faults.iter().enumerate() {
            marks.push((ms(fault.at_ms), Mark::Begin(index)));
            marks.push((ms(fault.at_ms + fault.for_ms), Mark::End(index)));
        }
        marks.retain(|(at, _)| *at < self.options.safety());
        marks.sort();
        marks
    }

    fn safety_phase(&mut self) -> Result<(), Violation> {
        for (at, mark) in self.timeline() {
            self.run_to(Instant::ZERO + at)?;
            if self.is_over() {
                return Ok(());
            }
            self.world.note(|| format!("{mark:?}"));
            match mark {
                Mark::Start(host) => {
                    if !self.down.contains(&host) {
                        self.world.start(host);
                    }
                }
                Mark::Begin(index) => self.begin(index),
                Mark::End(index) => self.end(index),
            }
        }
        self.run_to(Instant::ZERO + self.options.safety())
    }

    fn begin(&mut self, index: usize) {
        let Fault { for_ms, kind, .. } = &self.options.faults[index];
        let time = Duration::from_millis(*for_ms);
        match *kind {
            FaultKind::Pause { host } => self.world.pause(HostId(host), time),
            FaultKind::Slow { host, step_us } => {
                self.world.slow_down(HostId(host), Duration::from_micros(step_us));
            }
            FaultKind::Crash { host, back } => self.take_down(HostId(host), back, false),
            FaultKind::Vanish { host, back } => self.take_down(HostId(host), back, true),
            FaultKind::Twin { .. } => {
                if let Some(machine) = self.twin_of(index) {
                    self.world.start(machine);
                }
            }
            FaultKind::Leave { host, back } => {
                let host = HostId(host);
                if self.world.core(host).is_some_and(|core| core.status().stepped_aside) {
                    // It is no member any more, and can't leave.
                    self.take_down(host, back, false);
                } else if self.world.core(host).is_some() {
                    self.leaving.insert(host);
                    self.world.command(host, Input::Command(Command::Leave));
                }
                self.down.insert(host);
            }
            FaultKind::JoinLate { .. } => {}
            FaultKind::DiskFull { host } => self.world.disk_mut(HostId(host)).health = DiskHealth::Full,
            FaultKind::DiskFailing { host } => self.world.disk_mut(HostId(host)).health = DiskHealth::Failing,
            FaultKind::Metadata { host, bytes } => {
                let value = Some(self.filler(bytes));
                let key = format!("key-{}", index % 3);
                self.world.command(HostId(host), Input::Command(Command::SetMetadata { key, value }));
            }
            FaultKind::Broadcast { host, bytes } => {
                let payload = self.payload(bytes);
                self.world.command(HostId(host), Input::Command(Command::Broadcast(payload)));
            }
            _ => {
                self.weather.insert(index);
                self.set_weather();
            }
        }
    }

    fn end(&mut self, index: usize) {
        match self.options.faults[index].kind {
            FaultKind::Slow { host, .. } => self.world.slow_down(HostId(host), Duration::ZERO),
            FaultKind::Crash { host, back }
            | FaultKind::Vanish { host, back }
            | FaultKind::Leave { host, back } => {
                self.bring_back(HostId(host), back);
            }
            FaultKind::DiskFull { host } | FaultKind::DiskFailing { host } => {
                self.world.disk_mut(HostId(host)).health = DiskHealth::Good;
            }
            FaultKind::Twin { host, .. } => {
                // The operator stops the one that should not be, and the other if it had given way.
                if let Some(machine) = self.twin_of(index) {
                    self.world.kill(machine);
                }
                if self.world.core(HostId(host)).is_some_and(|core| core.status().stepped_aside) {
                    self.world.kill(HostId(host));
                    self.world.start(HostId(host));
                }
            }
            _ => {
                if self.weather.remove(&index) {
                    self.set_weather();
                }
            }
        }
    }

    /// The machine of the second process that a fault is about.
    fn twin_of(&self, index: usize) -> Option<HostId> {
        let before = self.options.faults[..index].iter();
        let before = before.filter(|fault| matches!(fault.kind, FaultKind::Twin { .. })).count();
        self.options.twins().nth(before).map(|(machine, ..)| machine)
    }

    fn take_down(&mut self, host: HostId, back: Back, power: bool) {
        if power {
            self.world.vanish(host)
        } else {
            self.world.kill(host)
        }
        self.leaving.remove(&host);
        self.down.insert(host);
        if back == Back::Wiped {
            self.world.disk_mut(host).wipe();
        }
    }

    fn bring_back(&mut self, host: HostId, back: Back) {
        // A process that has not left yet by now is stopped by its supervisor.
        if self.leaving.remove(&host) {
            self.world.kill(host);
            if back == Back::Wiped {
                self.world.disk_mut(host).wipe();
            }
        }
        if back != Back::Never {
            self.down.remove(&host);
            self.world.start(host);
        }
    }

    fn filler(&mut self, bytes: usize) -> String {
        (0..bytes).map(|_| self.rng.alphanumeric()).collect()
    }

    /// A payload unlike any other of the run.
    fn payload(&mut self, bytes: usize) -> Bytes {
        self.broadcasts += 1;
        let filler = self.filler(bytes);
        Bytes::from(format!("{} {filler}", self.broadcasts))
    }

    /// Applies all active faults of the network, and no others.
    fn set_weather(&mut self) {
        let gone: Vec<bool> = self.world.network.lines.iter().map(|line| line.gone).collect();
        let network = &mut self.world.network;
        network.clear();
        for (line, gone) in network.lines.iter_mut().zip(gone) {
            line.gone = gone;
        }
        for index in &self.weather {
            match &self.options.faults[*index].kind {
                FaultKind::Loss { rate } => network.weather.loss = network.weather.loss.max(*rate),
                FaultKind::Duplicates { rate } => network.weather.duplicates = *rate,
                FaultKind::Jitter { ms } => network.weather.jitter = Duration::from_millis(*ms),
                FaultKind::Partition { hosts } => {
                    // Partitions at the same time cut the cluster into more than two parts.
                    network.weather.sides.resize(network.lines.len(), 0);
                    for side in &mut network.weather.sides {
                        *side = side.wrapping_mul(2);
                    }
                    for host in hosts {
                        network.weather.sides[*host as usize] |= 1;
                    }
                }
                FaultKind::OneWayCut { from, to } => {
                    network.weather.cuts.insert((HostId(*from), HostId(*to)));
                }
                FaultKind::Mute { host } => {
                    let machines = u32::try_from(network.lines.len()).unwrap_or(u32::MAX);
                    let others = (0..machines).filter(|other| other != host);
                    network.weather.cuts.extend(others.map(|other| (HostId(*host), HostId(other))));
                }
                FaultKind::LineLoss { host, rate } => network.lines[*host as usize].loss = *rate,
                FaultKind::LineDelay { host, ms } => {
                    network.lines[*host as usize].delay = Duration::from_millis(*ms);
                }
                FaultKind::Narrow { host, bytes_per_second } => {
                    network.lines[*host as usize].bytes_per_second = Some(*bytes_per_second);
                }
                FaultKind::Unplug { host } => network.lines[*host as usize].unplugged = true,
                FaultKind::UdpBlocked { host } => network.lines[*host as usize].udp_blocked = true,
                _ => {}
            }
        }
    }

    fn end_faults(&mut self) {
        if self.is_over() {
            return;
        }
        self.world.note(|| "faults end".into());
        self.weather.clear();
        self.set_weather();
        for host in self.world.hosts() {
            self.world.slow_down(host, Duration::ZERO);
            self.world.resume(host);
            self.world.disk_mut(host).health = DiskHealth::Good;
        }
        // Whoever was to come back later comes back now.
        for index in 0..self.options.faults.len() {
            let fault = &self.options.faults[index];
            let pending =
                fault.at_ms < self.options.safety_ms && fault.at_ms + fault.for_ms >= self.options.safety_ms;
            if let FaultKind::Crash { host, back }
            | FaultKind::Vanish { host, back }
            | FaultKind::Leave { host, back } = fault.kind
                && pending
                && back != Back::Never
            {
                self.bring_back(HostId(host), back);
            }
        }
    }

    /// The machines whose nodes must be members in every view.
    fn live(&self) -> Vec<HostId> {
        let active = |host: &HostId| self.world.core(*host).is_some_and(|core| !core.status().stepped_aside);
        self.world.hosts().filter(|host| active(host) && !self.leaving.contains(host)).collect()
    }

    fn heal(&mut self) -> Result<Duration, Violation> {
        let start = self.world.now();
        loop {
            self.run_to(self.world.now() + LOOK)?;
            let waited = self.world.now().since(start);
            if self.is_over() {
                return Ok(waited);
            }
            self.leaving.retain(|host| self.world.core(*host).is_some());
            let Some(difference) = self.difference() else { return Ok(waited) };
            if waited >= self.options.heal() {
                let rule = "the cluster heals in time";
                return Err(Violation { at: self.world.now(), host: None, rule, detail: difference.text });
            }
        }
    }

    fn difference(&self) -> Option<Difference> {
        if let Some(host) = self.leaving.first() {
            return Some(Difference { text: format!("{host:?} has not left yet"), is_news: false });
        }
        self.twins_in_conflict().or_else(|| invariants::difference(&self.world, &self.live()))
    }

    /// Of two processes with one id, one steps aside, and both say so.
    fn twins_in_conflict(&self) -> Option<Difference> {
        for (machine, host, _) in self.options.twins() {
            let (Some(a), Some(b)) = (self.world.core(host), self.world.core(machine)) else { continue };
            let gone = |core: &Gossip| core.status().stepped_aside;
            let text = match (gone(a), gone(b)) {
                (false, false) => format!("{host:?} and {machine:?} both run as one node"),
                (true, true) => format!("{host:?} and {machine:?} both stepped aside"),
                (first_yields, _) => {
                    let (loser, winner) = if first_yields { (host, machine) } else { (machine, host) };
                    let core = self.world.core(winner)?;
                    let met = self.world.watch.yielded_to(loser) == Some(core.local().instance);
                    if !met || self.world.watch.knows_of_twin(winner) {
                        continue;
                    }
                    format!("{winner:?} did not hear of {loser:?}, which stepped aside for it")
                }
            };
            return Some(Difference { text, is_news: false });
        }
        None
    }

    /// Nothing is wrong any more: views stay full, everybody is probed, changes reach all.
    fn calm(&mut self) -> Result<(), Violation> {
        let interval = self.world.program.config().probe_interval;
        let live = self.live();
        self.run_to(self.world.now() + SETTLE)?;
        self.world.watch.expect_calm();
        let late_timers = self.late_timers();
        let (mut news, mut news_since): (Option<(HostId, Bytes)>, Option<Instant>) = (None, None);
        for look in 0..(interval * 6).as_millis() / LOOK.as_millis() {
            self.run_to(self.world.now() + LOOK)?;
            if self.is_over() {
                return Ok(());
            }
            invariants::everybody_is_probed(&self.world, &live, interval)?;
            invariants::events_match_views(&self.world, &live)?;
            let difference = self.difference();
            news_since =
                difference.as_ref().filter(|d| d.is_news).map(|_| news_since.unwrap_or(self.world.now()));
            let spreading = news_since.is_some_and(|since| self.world.now().since(since) < SPREAD);
            if let Some(Difference { text: detail, .. }) = difference.filter(|_| !spreading) {
                return Err(Violation {
                    at: self.world.now(),
                    host: None,
                    rule: "views stay full in calm",
                    detail,
                });
            }
            if self.late_timers() != late_timers {
                // The simulator fires every timer on time, so somebody set one in the past.
                let rule = "no timer is set in the past";
                let detail = "a node took itself to have been paused".into();
                return Err(Violation { at: self.world.now(), host: None, rule, detail });
            }
            if look == 3 {
                news = self.spread_news(&live);
            }
        }
        let Some((from, payload)) = news else { return Ok(()) };
        let deaf = live
            .iter()
            .find(|h| **h != from && !self.world.watch.heard(**h, self.world.node_id(from), &payload));
        match deaf {
            None => self.load_spreads(from, &live),
            Some(host) => Err(Violation {
                at: self.world.now(),
                host: Some(*host),
                rule: "a broadcast in calm reaches everybody",
                detail: format!("the one of {from:?} did not"),
            }),
        }
    }

    fn late_timers(&self) -> u64 {
        self.world.hosts().filter_map(|h| self.world.core(h)).map(|c| c.counters().late_timers).sum()
    }

    fn spread_news(&mut self, live: &[HostId]) -> Option<(HostId, Bytes)> {
        let from = self.rng.choice(live).copied()?;
        let payload = self.payload(100);
        self.world.command(from, Input::Command(Command::Broadcast(payload.clone())));
        let set = Command::SetMetadata { key: "calm".into(), value: Some(self.filler(40)) };
        self.world.command(from, Input::Command(set));
        self.world.command(from, Input::Command(Command::SetLoad(calm_load())));
        Some((from, payload))
    }

    /// A load that was set in calm is known to everybody in the end.
    fn load_spreads(&mut self, from: HostId, live: &[HostId]) -> Result<(), Violation> {
        if self.options.skew != Skew::None {
            // Older versions don't pass it on.
            return Ok(());
        }
        let about = self.world.node_id(from).clone();
        let interval = self.world.program.config().probe_interval;
        let patience = SAID_ANEW_TWICE + interval * 4 * u32::try_from(live.len()).unwrap_or(u32::MAX);
        let start = self.world.now();
        loop {
            let knows = |host: &&HostId| {
                let held = self.world.core(**host).and_then(|core| core.member(&about));
                held.is_some_and(|m| m.load.as_ref().is_some_and(|report| report.load == calm_load()))
            };
            let Some(ignorant) = live.iter().find(|host| !knows(host)).copied() else { return Ok(()) };
            if self.world.now().since(start) > patience {
                let rule = "a load reaches everybody";
                let detail = format!("that of {from:?} did not");
                return Err(Violation { at: self.world.now(), host: Some(ignorant), rule, detail });
            }
            self.run_to(self.world.now() + LOOK)?;
            if self.is_over() {
                return Ok(());
            }
        }
    }
}
