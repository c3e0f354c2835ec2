//! Many machines under one clock and one seed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    DatagramEvent, DiskCompletion, DiskRequest, Instant, Machine, NodeId, PAYLOAD_BYTES_MAX, PeerIdentity,
};

use crate::{
    Violation,
    carrier::{Carrier, CarrierEvent, Packet},
    disk::{Disk, Ticket},
    host_clock::HostClock,
    network::{HostId, Network},
    program::{Action, Counts, InputOf, Launch, Outside, Program, Step, Watch},
    queue::EventQueue,
    trace::Trace,
};

/// One machine as the run begins.
#[derive(Clone, Debug)]
pub struct Machinery {
    /// Who the node on it is.
    pub identity: Arc<PeerIdentity>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its clock.
    pub clock: HostClock,
}

/// What may differ between carriers that all keep the contract.
#[derive(Clone, Copy, Debug)]
pub struct CarrierHabits {
    /// Idle links stay up while both ends can hear each other.
    pub keep_alive: bool,
    /// A link that a restarted peer replaced is reported as down before the new one is up.
    pub announce_replaced: bool,
}

/// Bounds on the work of a core. Beyond them a run fails.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Effects of one input.
    pub effects_per_step: usize,
    /// Timeouts handled without time moving on.
    pub timeouts_per_moment: u32,
    /// Packets buffered for a process that does not read.
    pub packets_buffered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { effects_per_step: 4096, timeouts_per_moment: 64, packets_buffered: 2048 }
    }
}

/// A run: machines, the network between them, and everything that is about to happen.
pub struct World<P: Program, W> {
    pub(crate) now: Instant,
    pub(crate) queue: EventQueue<Event<InputOf<P>>>,
    pub(crate) hosts: Vec<Host<P::Core>>,
    /// Two machines have one name where two processes run as one node.
    pub(crate) by_name: BTreeMap<NodeId, Vec<HostId>>,
    pub(crate) by_address: BTreeMap<SocketAddr, HostId>,
    pub(crate) habits: CarrierHabits,
    pub(crate) dials: u64,
    pub(crate) transfers: u64,
    pub(crate) counts: Counts,
    /// The network, to be given faults.
    pub network: Network,
    /// The program that every machine runs.
    pub program: P,
    /// Who checks the run.
    pub watch: W,
    trace: Trace,
    rng: fastrand::Rng,
    limits: Limits,
    violation: Option<Violation>,
}

pub(crate) struct Host<C> {
    pub(crate) identity: Arc<PeerIdentity>,
    pub(crate) address: SocketAddr,
    pub(crate) process: Option<Process<C>>,
    pub(crate) runs: u32,
    clock: HostClock,
    disk: Disk,
    /// The process does nothing before this.
    stalled_until: Instant,
    /// Time that each input takes on this machine.
    step_cost: Duration,
    timer_at: Option<Instant>,
    timeouts_now: (Instant, u32),
}

pub(crate) struct Process<C> {
    pub(crate) core: C,
    pub(crate) carrier: Carrier,
    /// What came while the process was stalled: packets, which the kernel keeps, and then the rest.
    packets: VecDeque<Packet>,
    others: VecDeque<Kind<()>>,
}

/// Something that is about to happen on one machine.
#[derive(Debug)]
pub(crate) struct Event<I> {
    pub(crate) host: HostId,
    /// Which run of the host's process it is for.
    pub(crate) run: u32,
    pub(crate) kind: Kind<I>,
}

#[derive(Debug)]
pub(crate) enum Kind<I> {
    Packet(Packet),
    Carrier(CarrierEvent),
    Disk(Ticket, DiskRequest),
    Timer,
    Resume,
    Command(I),
}

/// What a core is fed with.
enum Feed<I> {
    Input(I),
    Link(DatagramEvent),
    Disk(DiskCompletion),
    Timeout,
}

impl<P: Program, W> fmt::Debug for World<P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "world of {} machines at {:?}", self.hosts.len(), self.now)
    }
}

impl<P: Program, W: Watch<P>> World<P, W> {
    /// Machines that are switched on, with no process running yet.
    ///
    /// Every address must be there once. A node id that is there twice is that of two processes in conflict.
    pub fn new(
        machinery: Vec<Machinery>,
        network: Network,
        habits: CarrierHabits,
        seed: u64,
        program: P,
        watch: W,
    ) -> Self {
        let id = |index: usize| HostId(u32::try_from(index).unwrap_or(u32::MAX));
        let mut by_name: BTreeMap<NodeId, Vec<HostId>> = BTreeMap::new();
        for (index, m) in machinery.iter().enumerate() {
            by_name.entry(m.identity.node_id().clone()).or_default().push(id(index));
        }
        let by_address = machinery.iter().enumerate().map(|(i, m)| (m.address, id(i))).collect();
        let host = |m: Machinery| Host {
            identity: m.identity,
            address: m.address,
            process: None,
            runs: 0,
            clock: m.clock,
            disk: Disk::default(),
            stalled_until: Instant::ZERO,
            step_cost: Duration::ZERO,
            timer_at: None,
            timeouts_now: (Instant::ZERO, 0),
        };
        Self {
            now: Instant::ZERO,
            queue: EventQueue::default(),
            hosts: machinery.into_iter().map(host).collect(),
            by_name,
            by_address,
            habits,
            dials: 0,
            transfers: 0,
            counts: Counts::new(),
            network,
            program,
            watch,
            trace: Trace::default(),
            rng: fastrand::Rng::with_seed(seed),
            limits: Limits::default(),
            violation: None,
        }
    }

    /// Uses this trace from here on.
    pub fn set_trace(&mut self, trace: Trace) {
        self.trace = trace;
    }

    /// Uses these limits from here on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The time of the run.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What happened so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Things counted so far, by name.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The machines.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<P, W> {
        (0..self.hosts.len()).map(|i| HostId(u32::try_from(i).unwrap_or(u32::MAX)))
    }

    /// The core of the process on a machine, if one runs.
    pub fn core(&self, host: HostId) -> Option<&P::Core> {
        self.hosts[host.index()].process.as_ref().map(|p| &p.core)
    }

    /// What the clock of a machine reads.
    pub fn local_time(&self, host: HostId) -> Instant {
        self.hosts[host.index()].clock.local(self.now)
    }

    /// The name of the node on a machine.
    pub fn node_id(&self, host: HostId) -> &NodeId {
        self.hosts[host.index()].identity.node_id()
    }

    /// The disk of a machine.
    pub fn disk_mut(&mut self, host: HostId) -> &mut Disk {
        &mut self.hosts[host.index()].disk
    }

    /// Adds a line to the trace, if lines are kept.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.line(|| format!("---- {}", text()));
    }

    pub(crate) fn line(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, text);
    }

    /// Starts the process on a machine; does nothing if one runs.
    pub fn start(&mut self, host: HostId) {
        if self.hosts[host.index()].process.is_some() {
            return;
        }
        self.network.lines[host.index()].gone = false;
        let seed = self.rng.u64(..);
        let machine = &mut self.hosts[host.index()];
        let launch = Launch {
            host,
            identity: Arc::clone(&machine.identity),
            address: machine.address,
            seed,
            now: machine.clock.local(self.now),
            runs_before: machine.runs,
        };
        machine.runs += 1;
        machine.stalled_until = self.now;
        machine.timer_at = None;
        let core = self.program.start(&launch);
        let (packets, others) = Default::default();
        machine.process = Some(Process { core, carrier: Carrier::default(), packets, others });
        self.trace.record(self.now, b's', [u64::from(host.0), seed, 0], &[]);
        self.trace.line(self.now, || format!("{host:?} starts, run {}", launch.runs_before + 1));
        self.watch.started(self.now, &launch);
        self.after_feeding(host, VecDeque::new());
    }

    /// Kills the process on a machine: unsynced writes are lost, and its kernel closes TCP connections.
    pub fn kill(&mut self, host: HostId) {
        self.end(host, "is killed", |world| world.carrier_died(host));
    }

    /// Switches a machine off: nothing answers any more.
    pub fn vanish(&mut self, host: HostId) {
        self.network.lines[host.index()].gone = true;
        self.end(host, "vanishes", |_| {});
    }

    /// Ends the process on a machine in good order: its links are closed.
    pub fn exit(&mut self, host: HostId) {
        self.end(host, "exits", |world| world.carrier_closed(host));
    }

    fn end(&mut self, host: HostId, how: &str, goodbye: impl FnOnce(&mut Self)) {
        if self.hosts[host.index()].process.is_none() {
            return;
        }
        self.trace.record(self.now, b'e', [u64::from(host.0), 0, 0], how.as_bytes());
        self.trace.line(self.now, || format!("{host:?} {how}"));
        goodbye(self);
        let machine = &mut self.hosts[host.index()];
        machine.process = None;
        machine.disk.crash(&mut self.rng);
        machine.timer_at = None;
        self.watch.ended(self.now, host);
    }

    /// Stops the process on a machine for a while, as SIGSTOP does. The clock goes on and the kernel
    /// buffers what comes in.
    pub fn pause(&mut self, host: HostId, time: Duration) {
        self.trace.record(self.now, b'p', [u64::from(host.0), 0, 0], &[]);
        self.trace.line(self.now, || format!("{host:?} is paused for {time:?}"));
        self.stall(host, self.now + time);
    }

    /// Ends a pause early.
    pub fn resume(&mut self, host: HostId) {
        let machine = &mut self.hosts[host.index()];
        machine.stalled_until = machine.stalled_until.min(self.now);
        let run = machine.runs;
        self.queue.push(self.now, Event { host, run, kind: Kind::Resume });
    }

    /// Makes every input of a machine take this long.
    pub fn slow_down(&mut self, host: HostId, step_cost: Duration) {
        self.hosts[host.index()].step_cost = step_cost;
    }

    /// Gives a core an input of its user.
    pub fn command(&mut self, host: HostId, input: InputOf<P>) {
        let run = self.hosts[host.index()].runs;
        self.queue.push(self.now, Event { host, run, kind: Kind::Command(input) });
    }

    /// Lets the run go on until `until`, or until a rule is broken.
    ///
    /// # Errors
    ///
    /// The first broken rule. The run must not go on after it.
    pub fn run_until(&mut self, until: Instant) -> Result<(), Violation> {
        while self.violation.is_none()
            && let Some((at, event)) = self.queue.pop_until(until)
        {
            self.now = at;
            self.happen(event);
        }
        self.now = self.now.max(until);
        self.violation.take().map_or(Ok(()), Err)
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// Whether a process runs on a machine and gets on with its work.
    pub fn is_awake(&self, host: HostId) -> bool {
        let machine = &self.hosts[host.index()];
        machine.process.is_some() && machine.stalled_until <= self.now && machine.step_cost.is_zero()
    }

    pub(crate) fn is_stalled(&self, host: HostId) -> bool {
        self.hosts[host.index()].stalled_until > self.now
    }

    fn fail(&mut self, host: HostId, rule: &'static str, detail: String) {
        let violation = Violation { at: self.now, host: Some(host), rule, detail };
        self.violation.get_or_insert(violation);
    }

    fn happen(&mut self, event: Event<InputOf<P>>) {
        let Event { host, run, kind } = event;
        if let Kind::Packet(packet) = &kind {
            self.record_packet(packet);
        } else {
            let tag = match &kind {
                Kind::Packet(_) => 0,
                Kind::Carrier(_) => b'c',
                Kind::Disk(..) => b'd',
                Kind::Timer => b't',
                Kind::Resume => b'r',
                Kind::Command(_) => b'i',
            };
            self.trace.record(self.now, tag, [u64::from(host.0), u64::from(run), 0], &[]);
        }
        let now = self.now;
        let machine = &mut self.hosts[host.index()];
        let current = machine.runs;
        let Some(process) = &mut machine.process else {
            if let Kind::Packet(packet) = kind {
                self.packet_at_dead_process(packet);
            }
            return;
        };
        // Packets are for whatever process listens; all else is for the run that asked for it.
        if run != current && !matches!(kind, Kind::Packet(_)) {
            return;
        }
        if machine.stalled_until > now {
            match kind {
                Kind::Packet(packet) if process.packets.len() < self.limits.packets_buffered => {
                    process.packets.push_back(packet);
                }
                Kind::Packet(_) => self.count("packets dropped at a stalled process"),
                Kind::Carrier(event) => process.others.push_back(Kind::Carrier(event)),
                Kind::Disk(ticket, request) => process.others.push_back(Kind::Disk(ticket, request)),
                // Whoever waits for a stalled process has no other way than to wait.
                Kind::Command(input) => {
                    let at = machine.stalled_until;
                    self.queue.push(at, Event { host, run, kind: Kind::Command(input) });
                }
                // The end of the stall looks at the deadline.
                Kind::Timer => machine.timer_at = None,
                Kind::Resume => {}
            }
            return;
        }
        match kind {
            Kind::Timer => {
                if machine.timer_at == Some(now) {
                    machine.timer_at = None;
                    self.fire_timer(host);
                }
            }
            Kind::Resume => self.catch_up(host),
            Kind::Command(input) => self.feed(host, Feed::Input(input)),
            Kind::Packet(packet) => self.packet_arrived(packet),
            Kind::Carrier(event) => self.carrier_event(host, event),
            Kind::Disk(ticket, request) => self.disk_finished(host, ticket, &request),
        }
    }

    fn disk_finished(&mut self, host: HostId, ticket: Ticket, request: &DiskRequest) {
        let result = self.hosts[host.index()].disk.finish(&mut self.rng, ticket, request);
        self.feed(host, Feed::Disk(DiskCompletion { id: request.id, result }));
    }

    /// The process may work again: first what the kernel kept, then timers.
    fn catch_up(&mut self, host: HostId) {
        loop {
            let machine = &mut self.hosts[host.index()];
            let Some(process) = &mut machine.process else { return };
            if machine.stalled_until > self.now {
                return;
            }
            if let Some(packet) = process.packets.pop_front() {
                self.packet_arrived(packet);
            } else if let Some(event) = process.others.pop_front() {
                match event {
                    Kind::Carrier(event) => self.carrier_event(host, event),
                    Kind::Disk(ticket, request) => self.disk_finished(host, ticket, &request),
                    Kind::Packet(_) | Kind::Timer | Kind::Resume | Kind::Command(()) => {}
                }
            } else {
                break;
            }
        }
        self.fire_timer(host);
    }

    fn stall(&mut self, host: HostId, until: Instant) {
        let machine = &mut self.hosts[host.index()];
        if until > machine.stalled_until {
            machine.stalled_until = until;
            let run = machine.runs;
            self.queue.push(until, Event { host, run, kind: Kind::Resume });
        }
    }

    /// Handles the deadline if it is due, or arms the timer for it.
    fn fire_timer(&mut self, host: HostId) {
        let machine = &self.hosts[host.index()];
        let Some(process) = &machine.process else { return };
        let Some(deadline) = process.core.poll_timeout() else { return };
        if machine.clock.local(self.now) >= deadline && machine.stalled_until <= self.now {
            self.feed(host, Feed::Timeout);
        } else {
            self.arm(host);
        }
    }

    fn arm(&mut self, host: HostId) {
        let machine = &mut self.hosts[host.index()];
        let Some(process) = &machine.process else { return };
        let Some(deadline) = process.core.poll_timeout() else { return };
        let at = machine.clock.run(deadline).max(self.now).max(machine.stalled_until);
        if machine.timer_at.is_none_or(|armed| at < armed) {
            machine.timer_at = Some(at);
            let run = machine.runs;
            self.queue.push(at, Event { host, run, kind: Kind::Timer });
        }
    }

    /// Hands the core a carrier event.
    pub(crate) fn emit(&mut self, host: HostId, event: DatagramEvent) {
        self.feed(host, Feed::Link(event));
    }

    fn feed(&mut self, host: HostId, first: Feed<InputOf<P>>) {
        if matches!(first, Feed::Timeout) && self.spins(host) {
            return;
        }
        self.after_feeding(host, VecDeque::from([first]));
        let cost = self.hosts[host.index()].step_cost;
        if !cost.is_zero() {
            self.stall(host, self.now + cost);
        }
    }

    fn spins(&mut self, host: HostId) -> bool {
        let (now, limit) = (self.now, self.limits.timeouts_per_moment);
        let (at, count) = &mut self.hosts[host.index()].timeouts_now;
        (*at, *count) = if *at == now { (now, *count + 1) } else { (now, 1) };
        let spins = *count > limit;
        if spins {
            self.fail(host, "deadlines move on", format!("{limit} timeouts were handled at one moment"));
        }
        spins
    }

    /// Feeds the core, takes its effects, and feeds it what they lead to at once.
    fn after_feeding(&mut self, host: HostId, mut feeds: VecDeque<Feed<InputOf<P>>>) {
        let mut first = feeds.pop_front();
        for round in 0.. {
            let limit = self.limits.effects_per_step;
            if round > limit {
                self.fail(
                    host,
                    "work is bounded",
                    format!("{limit} rounds of effects and answers at one moment"),
                );
                return;
            }
            if !self.feed_once(host, first.take(), &mut feeds) {
                break;
            }
            match feeds.pop_front() {
                Some(next) => first = Some(next),
                None => break,
            }
        }
        self.arm(host);
    }

    /// Returns whether the process still runs.
    fn feed_once(
        &mut self,
        host: HostId,
        feed: Option<Feed<InputOf<P>>>,
        answers: &mut VecDeque<Feed<InputOf<P>>>,
    ) -> bool {
        let machine = &mut self.hosts[host.index()];
        let Some(process) = &mut machine.process else { return false };
        let local = machine.clock.local(self.now);
        let input = match feed {
            None => None,
            Some(Feed::Input(input)) => Some(input),
            Some(Feed::Link(event)) => {
                if self.trace.has_lines() && !matches!(event, DatagramEvent::Received { .. }) {
                    self.trace.line(self.now, || format!("{host:?} hears {event:?}"));
                }
                Some(self.program.input(host, Outside::Link(event)))
            }
            Some(Feed::Disk(completion)) => Some(self.program.input(host, Outside::Disk(completion))),
            Some(Feed::Timeout) => {
                process.core.handle_timeout(local);
                None
            }
        };
        let refused = input.is_some_and(|input| process.core.handle(local, input).is_err());
        if refused {
            *self.counts.entry("inputs refused").or_default() += 1;
        }

        let (mut sent, mut reports, mut links, mut effects, mut exits) = (vec![], vec![], vec![], 0, false);
        while let Some(effect) = process.core.poll_effect() {
            effects += 1;
            if effects > self.limits.effects_per_step {
                let limit = self.limits.effects_per_step;
                self.fail(host, "work is bounded", format!("one input had more than {limit} effects"));
                return false;
            }
            match self.program.action(host, effect) {
                Action::Transmit { to, payload } => sent.push((to, payload)),
                Action::Report(report) => reports.push(report),
                Action::Exit(report) => {
                    exits = true;
                    reports.push(report);
                }
                Action::Disk(request) => {
                    let (time, ticket) = machine.disk.begin(&mut self.rng, &request);
                    let kind = Kind::Disk(ticket, request);
                    self.queue.push(self.now + time, Event { host, run: machine.runs, kind });
                }
                link @ (Action::Connect(_) | Action::Disconnect(_)) => {
                    // What was to be sent before a link changes must go out before.
                    links.push((sent.len(), link));
                }
            }
        }
        if self.trace.has_lines() {
            for report in &reports {
                self.trace.line(self.now, || format!("{host:?} reports {report:?}"));
            }
        }
        let step = Step { now: self.now, host, core: &process.core, reports: &reports, effects, sent: &sent };
        if let Err(violation) = self.watch.stepped(&step) {
            self.violation.get_or_insert(violation);
            return false;
        }
        self.perform(host, sent, links, answers);
        if exits {
            self.exit(host);
        }
        !exits
    }

    fn perform(
        &mut self,
        host: HostId,
        sent: Vec<(NodeId, bytes::Bytes)>,
        links: Vec<(usize, Action<P::Report>)>,
        answers: &mut VecDeque<Feed<InputOf<P>>>,
    ) {
        let mut links = links.into_iter().peekable();
        for (index, (to, payload)) in sent.into_iter().enumerate() {
            while let Some((_, link)) = links.next_if(|(before, _)| *before <= index) {
                answers.extend(self.change_link(host, link).map(Feed::Link));
            }
            if payload.len() > PAYLOAD_BYTES_MAX {
                let text = format!("{} bytes to {to}, more than {PAYLOAD_BYTES_MAX}", payload.len());
                self.fail(host, "messages are bounded", text);
            } else if to == *self.node_id(host) {
                self.fail(host, "nobody talks to itself", format!("{} bytes", payload.len()));
            } else {
                self.transmit(host, &to, payload);
            }
        }
        for (_, link) in links {
            answers.extend(self.change_link(host, link).map(Feed::Link));
        }
    }

    fn change_link(&mut self, host: HostId, change: Action<P::Report>) -> Option<DatagramEvent> {
        match change {
            Action::Connect(target) => self.connect(host, target),
            Action::Disconnect(peer) => self.disconnect(host, &peer),
            _ => None,
        }
    }

    fn record_packet(&mut self, packet: &Packet) {
        let ends = (u64::from(packet.from.0) << 32) | u64::from(packet.to.0);
        self.trace.record(
            self.now,
            b'k',
            [ends, packet.connection.0, packet.body.tag()],
            packet.body.payload(),
        );
        if self.trace.has_lines() {
            let text = match packet.body.payload() {
                [] => format!("{:?}", packet.body),
                payload => self.program.describe(payload),
            };
            self.trace.line(self.now, || format!("{:?} > {:?} {text}", packet.from, packet.to));
        }
    }
}
