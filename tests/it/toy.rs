//! A core that only dials and pings proves the simulator itself: it repeats from its seed, and its
//! carrier keeps the contract of `mesh_core::Datagrams`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    ConnectError, DatagramEvent, Direction, DiskCompletion, DiskId, DiskOperation, DiskRequest, FileName,
    Instant, LinkDownReason, LinkPath, LinkTarget, Machine, NodeId,
};
use mesh_sim::{
    Action, CarrierHabits, HostId, Launch, Network, Outside, Program, Step, Violation, Watch, World, cluster,
};

const TICK: Duration = Duration::from_millis(200);
const BOOTS: FileName = FileName("boots");

/// Keeps a link to each peer, pings over it, and counts its own starts on disk.
struct Pinger {
    targets: Vec<LinkTarget>,
    pending: BTreeSet<LinkTarget>,
    linked: BTreeSet<NodeId>,
    deadline: Instant,
    ticks: u64,
    effects: VecDeque<Effect>,
}

enum Effect {
    Send(NodeId, Bytes),
    Connect(LinkTarget),
    Disk(DiskRequest),
    Tell(Told),
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Up(NodeId, LinkPath, Direction),
    Down(NodeId, LinkDownReason),
    Failed(ConnectError),
    Got(NodeId, usize),
    Boots(u8),
    Broken(&'static str),
}

impl Machine for Pinger {
    type Input = Outside;
    type Effect = Effect;
    type Error = std::convert::Infallible;

    fn handle(&mut self, _: Instant, input: Outside) -> Result<(), Self::Error> {
        match input {
            Outside::Link(event) => self.link(event),
            Outside::Disk(DiskCompletion { id: DiskId(0), result: Ok(found) }) => {
                let boots = found.and_then(|f| f.first().copied()).unwrap_or(0) + 1;
                let operation = DiskOperation::Replace(Bytes::copy_from_slice(&[boots]));
                self.effects.push_back(Effect::Disk(DiskRequest { id: DiskId(1), file: BOOTS, operation }));
                self.tell(Told::Boots(boots));
            }
            Outside::Disk(_) => {}
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        self.deadline = now + TICK;
        self.ticks += 1;
        let size = if self.ticks.is_multiple_of(10) { 40_000 } else { 20 };
        for target in self.targets.clone() {
            let linked = target.node_id.as_ref().is_some_and(|peer| self.linked.contains(peer));
            if let Some(peer) = target.node_id.clone().filter(|_| linked) {
                self.effects.push_back(Effect::Send(peer, Bytes::from(vec![7; size])));
            } else if self.pending.insert(target.clone()) {
                self.effects.push_back(Effect::Connect(target));
            }
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.deadline)
    }
}

impl Pinger {
    fn tell(&mut self, told: Told) {
        self.effects.push_back(Effect::Tell(told));
    }

    fn link(&mut self, event: DatagramEvent) {
        match event {
            DatagramEvent::LinkUp { peer, path, direction, .. } => {
                self.linked.insert(peer.node_id().clone());
                if direction == Direction::Outbound {
                    self.pending.retain(|t| t.node_id.as_ref() != Some(peer.node_id()));
                }
                self.tell(Told::Up(peer.node_id().clone(), path, direction));
            }
            DatagramEvent::LinkDown { peer, reason } => {
                if !self.linked.remove(&peer) {
                    self.tell(Told::Broken("a link went down that was not up"));
                }
                self.tell(Told::Down(peer, reason));
            }
            DatagramEvent::ConnectFailed { target, error } => {
                if !self.pending.remove(&target) {
                    self.tell(Told::Broken("a connect was answered that was not asked for"));
                }
                self.tell(Told::Failed(error));
            }
            DatagramEvent::Received { from, payload, .. } => {
                if !self.linked.contains(from.node_id()) {
                    self.tell(Told::Broken("a payload came without a link"));
                }
                self.tell(Told::Got(from.node_id().clone(), payload.len()));
            }
            _ => {}
        }
    }
}

/// Every machine pings all that have a higher number, or all others.
struct Toy {
    machines: u32,
    both_dial: bool,
}

impl Program for Toy {
    type Core = Pinger;
    type Report = Told;

    fn start(&mut self, launch: &Launch) -> Pinger {
        let others = (0..self.machines).map(HostId);
        let wanted =
            others.filter(|other| if self.both_dial { *other != launch.host } else { *other > launch.host });
        let target = |host| LinkTarget {
            node_id: Some(cluster::identity(host).node_id().clone()),
            address: cluster::address(host),
        };
        let read = DiskRequest { id: DiskId(0), file: BOOTS, operation: DiskOperation::Read };
        Pinger {
            targets: wanted.map(target).collect(),
            pending: BTreeSet::new(),
            linked: BTreeSet::new(),
            deadline: launch.now,
            ticks: 0,
            effects: VecDeque::from([Effect::Disk(read)]),
        }
    }

    fn input(&self, _: HostId, outside: Outside) -> Outside {
        outside
    }

    fn action(&self, _: HostId, effect: Effect) -> Action<Told> {
        match effect {
            Effect::Send(to, payload) => Action::Transmit { to, payload },
            Effect::Connect(target) => Action::Connect(target),
            Effect::Disk(request) => Action::Disk(request),
            Effect::Tell(told) => Action::Report(told),
        }
    }
}

/// Keeps what each machine told, and fails on what breaks the contract.
#[derive(Default)]
struct Diary {
    told: BTreeMap<HostId, Vec<Told>>,
}

impl Watch<Toy> for Diary {
    fn stepped(&mut self, step: &Step<'_, Toy>) -> Result<(), Violation> {
        for told in step.reports {
            if let Told::Broken(what) = told {
                let detail = (*what).to_string();
                return Err(Violation { at: step.now, host: Some(step.host), rule: "contract", detail });
            }
            self.told.entry(step.host).or_default().push(told.clone());
        }
        Ok(())
    }
}

type ToyWorld = World<Toy, Diary>;

fn world(machines: u32, both_dial: bool, seed: u64) -> ToyWorld {
    let mut rng = fastrand::Rng::with_seed(seed);
    let machinery = cluster::machinery(machines as usize, 200, &mut rng);
    let network =
        Network::new(machines as usize, rng.u64(..), Duration::from_millis(1), Duration::from_millis(40));
    let habits = CarrierHabits { keep_alive: rng.bool(), announce_replaced: rng.bool() };
    let toy = Toy { machines, both_dial };
    let mut world = World::new(machinery, network, habits, rng.u64(..), toy, Diary::default());
    (0..machines).map(HostId).for_each(|host| world.start(host));
    world
}

fn run(world: &mut ToyWorld, seconds: u64) {
    let until = world.now() + Duration::from_secs(seconds);
    world.run_until(until).unwrap_or_else(|violation| panic!("{violation}"));
}

fn take(world: &mut ToyWorld, host: u32) -> Vec<Told> {
    world.watch.told.remove(&HostId(host)).unwrap_or_default()
}

fn downs(told: &[Told]) -> Vec<LinkDownReason> {
    told.iter().filter_map(|t| if let Told::Down(_, reason) = t { Some(*reason) } else { None }).collect()
}

fn ups(told: &[Told]) -> Vec<LinkPath> {
    told.iter().filter_map(|t| if let Told::Up(_, path, _) = t { Some(*path) } else { None }).collect()
}

fn rough_run(seed: u64) -> (u64, u64) {
    let mut world = world(6, true, seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let host = HostId(rng.u32(..6));
        match rng.u8(..8) {
            0 => world.kill(host),
            1 => world.vanish(host),
            2 => world.exit(host),
            3 => world.pause(host, Duration::from_millis(rng.u64(1..40_000))),
            4 => world.slow_down(host, Duration::from_millis(rng.u64(..20))),
            5 => world.network.lines[host.0 as usize].udp_blocked = rng.bool(),
            6 => {
                world.network.weather.loss = rng.f64() * 0.4;
                world.network.weather.jitter = Duration::from_millis(rng.u64(..100));
            }
            _ => world.network.clear(),
        }
        if round % 3 == 0 {
            (0..6).map(HostId).for_each(|host| world.start(host));
        }
        run(&mut world, rng.u64(1..8));
    }
    (world.trace().hash(), world.trace().events())
}

#[test]
fn the_contract_holds_through_every_fault_and_a_seed_repeats_exactly() {
    for seed in 0..8 {
        let first = rough_run(seed);
        assert!(first.1 > 1_000, "too little happened: {first:?}");
        assert_eq!(first, rough_run(seed), "seed {seed}");
    }
    assert_ne!(rough_run(0).0, rough_run(1).0);
}

#[test]
fn when_both_dial_at_once_one_link_is_up_and_none_goes_down() {
    let mut world = world(2, true, 3);
    run(&mut world, 90);
    for host in 0..2 {
        let told = take(&mut world, host);
        assert!(matches!(ups(&told)[..], [LinkPath::Quic] | [LinkPath::Quic, LinkPath::Quic]), "{told:?}");
        assert_eq!(downs(&told), []);
        assert!(told.iter().any(|t| matches!(t, Told::Got(_, 40_000))), "large payloads arrive too");
    }
}

#[test]
fn a_killed_process_refuses_and_its_next_run_resets_the_old_link() {
    let mut world = world(2, false, 4);
    run(&mut world, 3);
    world.kill(HostId(1));
    run(&mut world, 1);
    assert_eq!(downs(&take(&mut world, 0)), [], "nothing tells of a killed process by itself");
    world.start(HostId(1));
    run(&mut world, 3);
    let told = take(&mut world, 0);
    assert_eq!(downs(&told), [LinkDownReason::Reset]);
    assert_eq!(ups(&told), [LinkPath::Quic]);

    world.kill(HostId(1));
    run(&mut world, 40);
    let told = take(&mut world, 0);
    assert_eq!(downs(&told), [LinkDownReason::Idle]);
    assert!(told.contains(&Told::Failed(ConnectError::Refused)), "{told:?}");

    world.vanish(HostId(1));
    run(&mut world, 20);
    let told = take(&mut world, 0);
    assert!(told.contains(&Told::Failed(ConnectError::Timeout)), "{told:?}");
}

#[test]
fn without_udp_a_link_comes_up_over_http2() {
    let mut world = world(2, false, 5);
    world.network.lines[1].udp_blocked = true;
    run(&mut world, 5);
    let told = take(&mut world, 0);
    assert_eq!(ups(&told), [LinkPath::Http2]);
    assert!(take(&mut world, 1).iter().any(|t| matches!(t, Told::Got(..))));
    world.exit(HostId(1));
    run(&mut world, 1);
    assert!(downs(&take(&mut world, 0)).starts_with(&[LinkDownReason::Closed]));
}

#[test]
fn large_payloads_get_through_loss_and_small_ones_may_not() {
    let mut world = world(2, false, 6);
    run(&mut world, 2);
    take(&mut world, 1);
    world.network.weather.loss = 0.3;
    run(&mut world, 40);
    let told = take(&mut world, 1);
    let large = told.iter().filter(|t| matches!(t, Told::Got(_, 40_000))).count();
    let small = told.iter().filter(|t| matches!(t, Told::Got(_, 20))).count();
    assert!((19..=21).contains(&large), "{large}");
    assert!((90..160).contains(&small), "{small} of 180");
}

#[test]
fn a_paused_process_reads_what_waited_and_only_then_looks_at_its_timers() {
    let mut world = world(2, false, 7);
    run(&mut world, 3);
    world.pause(HostId(1), Duration::from_secs(10));
    run(&mut world, 9);
    take(&mut world, 1);
    run(&mut world, 2);
    let got = take(&mut world, 1).iter().filter(|t| matches!(t, Told::Got(..))).count();
    assert!(got >= 50, "{got}");
}

#[test]
fn what_was_synced_survives_a_restart_and_not_a_wipe() {
    let mut world = world(1, false, 8);
    for boots in 1..=3 {
        run(&mut world, 1);
        assert!(take(&mut world, 0).contains(&Told::Boots(boots)));
        world.kill(HostId(0));
        if boots == 3 {
            world.disk_mut(HostId(0)).wipe();
        }
        world.start(HostId(0));
    }
    run(&mut world, 1);
    assert!(take(&mut world, 0).contains(&Told::Boots(1)));
}
