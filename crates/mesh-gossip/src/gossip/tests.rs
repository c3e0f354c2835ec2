//! Stories about a few cores on a perfect network in hand-made time.
//! Faults of every kind are the simulator's business.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    CertificateInfo, ConnectError, DatagramEvent, Direction, DiskCompletion, DiskOperation, LinkDownReason,
    LinkPath, LinkTarget, MemberChange, MemberEvent, MemberState, PeerIdentity, Settings,
};

mod records;
mod rejoining;
mod starved;

use super::*;
use crate::{Command, Event};

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Node {
    core: Gossip,
    identity: Arc<PeerIdentity>,
    address: std::net::SocketAddr,
    up: bool,
    events: Vec<Event>,
}

/// Cores joined by links without delay or loss; a stopped one refuses connections.
struct Net {
    now: Instant,
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeSet<(NodeId, NodeId)>,
    queue: VecDeque<(NodeId, Input)>,
    seed: u64,
    blocked: BTreeSet<NodeId>,
    /// One side of a partition; empty without one.
    split: BTreeSet<NodeId>,
    /// Nodes with a certificate that nobody accepts.
    revoked: BTreeSet<NodeId>,
    /// Who dialled what.
    dials: Vec<(NodeId, LinkTarget)>,
}

fn name(i: usize) -> NodeId {
    format!("n{i}").parse().expect("valid id")
}

impl Net {
    fn new() -> Self {
        Self {
            now: Instant::ZERO,
            nodes: BTreeMap::new(),
            links: BTreeSet::new(),
            queue: VecDeque::new(),
            seed: 1,
            blocked: BTreeSet::new(),
            split: BTreeSet::new(),
            revoked: BTreeSet::new(),
            dials: Vec::new(),
        }
    }

    fn start(&mut self, i: usize, seeds: &[usize]) {
        self.start_certified(i, seeds, i as u64);
    }

    fn start_certified(&mut self, i: usize, seeds: &[usize], not_before_s: u64) {
        let id = name(i);
        let identity = Arc::new(PeerIdentity {
            id: format!("spiffe://t/mesh/c/worker/{id}").parse().expect("valid"),
            certificate: CertificateInfo { serial: "1".into(), not_before_s, not_after_s: u64::MAX },
        });
        let address = format!("127.0.0.1:{}", 1000 + i).parse().expect("valid");
        let config = GossipConfig {
            seeds: seeds.iter().map(|s| format!("127.0.0.1:{}", 1000 + s)).collect(),
            ..GossipConfig::lan()
        };
        let local =
            LocalNode { identity: identity.clone(), addresses: vec![address], metadata: BTreeMap::new() };
        self.seed += 1;
        let config = config.validate().expect("valid settings");
        let core = Gossip::new(config, local, self.seed, self.now);
        self.nodes.insert(id.clone(), Node { core, identity, address, up: true, events: Vec::new() });
        self.settle();
    }

    fn cluster(n: usize) -> Self {
        let mut net = Self::new();
        net.start(0, &[]);
        for i in 1..n {
            net.start(i, &[0]);
        }
        net.run(MS(3000));
        net
    }

    fn kill(&mut self, i: usize) {
        self.nodes.get_mut(&name(i)).expect("known").up = false;
    }

    fn command(&mut self, i: usize, command: Command) -> Result<(), InputError> {
        let now = self.now;
        let done = self.nodes.get_mut(&name(i)).expect("known").core.handle(now, Input::Command(command));
        self.settle();
        done
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.nodes.values().filter(|n| n.up).filter_map(|n| n.core.poll_timeout()).min();
            let Some(due) = due.filter(|d| *d <= end) else { break };
            self.now = self.now.max(due);
            let now = self.now;
            for node in self.nodes.values_mut().filter(|n| n.up) {
                if node.core.poll_timeout().is_some_and(|d| d <= now) {
                    node.core.handle_timeout(now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        loop {
            let names: Vec<NodeId> = self.nodes.keys().cloned().collect();
            for id in &names {
                while let Some(effect) =
                    self.nodes.get_mut(id).filter(|n| n.up).and_then(|n| n.core.poll_effect())
                {
                    self.act(id, effect);
                }
            }
            let Some((to, input)) = self.queue.pop_front() else { return };
            let now = self.now;
            if let Some(node) = self.nodes.get_mut(&to).filter(|n| n.up) {
                let _ = node.core.handle(now, input);
            }
        }
    }

    fn act(&mut self, id: &NodeId, effect: Effect) {
        match effect {
            Effect::Transmit { to, payload } => {
                let linked = self.links.contains(&(id.clone(), to.clone()));
                if linked && !self.apart(id, &to) {
                    let from = self.nodes[id].identity.clone();
                    let event = DatagramEvent::Received { from, payload, path: LinkPath::Memory };
                    self.queue.push_back((to, Input::Link(event)));
                }
            }
            Effect::Connect(target) => self.connect(id, target),
            Effect::Disconnect(peer) => {
                if self.links.remove(&(id.clone(), peer.clone())) {
                    self.links.remove(&(peer.clone(), id.clone()));
                    let event = DatagramEvent::LinkDown { peer: id.clone(), reason: LinkDownReason::Closed };
                    self.queue.push_back((peer, Input::Link(event)));
                }
            }
            Effect::Disk(request) => {
                let _ = matches!(request.operation, DiskOperation::Read);
                let done = DiskCompletion { id: request.id, result: Ok(None) };
                self.queue.push_back((id.clone(), Input::Disk(done)));
            }
            Effect::Event(event) => self.nodes.get_mut(id).expect("known").events.push(event),
        }
    }

    fn apart(&self, a: &NodeId, b: &NodeId) -> bool {
        self.blocked.contains(a)
            || self.blocked.contains(b)
            || self.split.contains(a) != self.split.contains(b)
    }

    fn connect(&mut self, id: &NodeId, target: LinkTarget) {
        self.dials.push((id.clone(), target.clone()));
        let there =
            self.nodes.values().find(|n| n.address == target.address && n.up).map(|n| n.identity.clone());
        let there = there.filter(|i| !self.apart(i.node_id(), id));
        let Some(peer) = there else {
            let failed = DatagramEvent::ConnectFailed { target, error: ConnectError::Refused };
            self.queue.push_back((id.clone(), Input::Link(failed)));
            return;
        };
        if self.revoked.contains(id) != self.revoked.contains(peer.node_id()) {
            let error = ConnectError::Identity("the certificate is revoked".into());
            self.queue.push_back((id.clone(), Input::Link(DatagramEvent::ConnectFailed { target, error })));
            return;
        }
        let (mine, theirs) = (self.nodes[id].identity.clone(), peer.node_id().clone());
        self.links.insert((id.clone(), theirs.clone()));
        self.links.insert((theirs.clone(), id.clone()));
        let remote = target.address;
        let path = LinkPath::Memory;
        let up = |peer, direction| Input::Link(DatagramEvent::LinkUp { peer, remote, path, direction });
        self.queue.push_back((theirs, up(mine, Direction::Inbound)));
        self.queue.push_back((id.clone(), up(peer, Direction::Outbound)));
    }

    fn state(&self, observer: usize, subject: usize) -> Option<MemberState> {
        self.nodes[&name(observer)].core.member(&name(subject)).map(|m| m.state)
    }

    fn live(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|n| n.up)
    }

    fn changes(&self, observer: usize, subject: usize) -> Vec<MemberChange> {
        let subject = name(subject);
        self.nodes[&name(observer)]
            .events
            .iter()
            .filter_map(|e| match e {
                Event::Member(MemberEvent::Changed { change, member, .. }) if member.node_id == subject => {
                    Some(*change)
                }
                _ => None,
            })
            .collect()
    }
}

#[test]
fn newcomers_learn_the_whole_list_and_everybody_learns_of_them() {
    let net = Net::cluster(12);
    for node in net.live() {
        let status = node.core.status();
        assert_eq!((status.alive, status.ready), (12, true), "{}", node.core.local().node_id);
        assert_eq!(status.overlay_up, status.overlay_wanted);
    }
    let digests: BTreeSet<u64> = net.live().map(|n| n.core.digest()).collect();
    assert_eq!(digests.len(), 1);
}

#[test]
fn each_member_is_probed_once_per_interval_by_all_its_observers_together() {
    let mut net = Net::cluster(12);
    net.run(MS(10_000));
    let before: u64 = net.live().map(|n| n.core.counters().probes).sum();
    net.run(MS(60_000));
    let probes = net.live().map(|n| n.core.counters().probes).sum::<u64>() - before;
    assert!((12 * 50..12 * 75).contains(&probes), "{probes} probes of 12 members in 60 intervals");
    for node in net.live() {
        let ago = net.now.since(node.core.last_probed().expect("probed"));
        assert!(ago < MS(2500), "{} was probed {ago:?} ago", node.core.local().node_id);
    }
}

#[test]
fn a_killed_member_is_dead_for_all_within_the_bar() {
    let mut net = Net::cluster(12);
    net.kill(5);
    net.run(MS(1800));
    for i in (0..12).filter(|i| *i != 5) {
        assert_eq!(net.state(i, 5), Some(MemberState::Dead), "as seen by n{i}");
    }
}

#[test]
fn a_member_that_answers_refutes_a_false_accusation() {
    let mut net = Net::cluster(6);
    let accused = name(3);
    let now = net.now;
    let accuser = net.nodes.get_mut(&name(1)).expect("known");
    accuser.core.suspect(now, &accused, false);
    net.settle();
    net.run(MS(8000));
    for i in 0..6 {
        assert_eq!(net.state(i, 3), Some(MemberState::Alive), "as seen by n{i}");
    }
    assert!(net.changes(1, 3).contains(&MemberChange::Refuted));
    assert!(!net.changes(0, 3).contains(&MemberChange::Died));
}

#[test]
fn a_restarted_member_supersedes_its_earlier_run() {
    let mut net = Net::cluster(5);
    let before = net.nodes[&name(2)].core.local();
    net.kill(2);
    net.run(MS(4000));
    net.links.retain(|(a, b)| *a != name(2) && *b != name(2));
    net.start(2, &[0]);
    net.run(MS(2000));
    for i in 0..5 {
        let member = net.nodes[&name(i)].core.member(&name(2)).expect("known");
        assert_eq!(member.state, MemberState::Alive);
        assert_ne!(member.instance, before.instance);
        assert!(member.incarnation > before.incarnation);
    }
}

#[test]
fn who_leaves_is_gone_at_once_and_stays_gone() {
    let mut net = Net::cluster(6);
    net.command(4, Command::Leave).expect("member");
    assert!(net.nodes[&name(4)].events.iter().any(|e| matches!(e, Event::LeaveDone)));
    net.kill(4);
    net.run(MS(100));
    for i in (0..6).filter(|i| *i != 4) {
        assert_eq!(net.state(i, 4), Some(MemberState::Left), "as seen by n{i}");
    }
    net.run(MS(20_000));
    assert!((0..6).filter(|i| *i != 4).all(|i| net.state(i, 4) == Some(MemberState::Left)));
}

#[test]
fn when_all_leave_at_once_nobody_waits_for_somebody_who_is_gone() {
    let mut net = Net::cluster(5);
    for i in 0..5 {
        net.command(i, Command::Leave).expect("member");
    }
    net.run(MS(100));
    for i in 0..5 {
        assert!(net.nodes[&name(i)].events.iter().any(|e| matches!(e, Event::LeaveDone)), "n{i}");
    }
}

#[test]
fn metadata_changes_reach_everybody_and_too_large_ones_are_refused() {
    let mut net = Net::cluster(6);
    let set = |value: String| Command::SetMetadata { key: "zone".into(), value: Some(value) };
    net.command(2, set("eu-1a".into())).expect("small");
    net.run(MS(50));
    for node in net.live() {
        assert_eq!(node.core.member(&name(2)).expect("known").metadata("zone"), Some("eu-1a"));
    }
    let error = net.command(2, set("x".repeat(70_000))).expect_err("too large").to_string();
    assert!(error.contains("65536"), "{error}");
}

#[test]
fn a_broadcast_reaches_everybody_once() {
    let mut net = Net::cluster(10);
    net.command(3, Command::Broadcast(bytes::Bytes::from_static(b"hello"))).expect("small");
    net.run(MS(500));
    for i in (0..10).filter(|i| *i != 3) {
        let heard =
            net.nodes[&name(i)].events.iter().filter(|e| matches!(e, Event::Broadcast { .. })).count();
        assert_eq!(heard, 1, "n{i}");
    }
}

#[test]
fn the_older_certificate_steps_aside_when_two_processes_have_one_id() {
    let mut net = Net::cluster(5);
    // The second process takes the address over in this network; the first keeps its links.
    let first = net.nodes.remove(&name(2)).expect("known");
    let mut rival = Net::new();
    rival.now = net.now;
    drop(rival);
    net.start_certified(2, &[0], 999);
    let mut first = first;
    let now = net.now;
    // The first process goes on answering for itself.
    for round in 0..20 {
        let word = net.nodes[&name(0)].core.update_about(&name(2), true).expect("known");
        let word = crate::wire::Word::parse(word, 65536).expect("valid");
        first.core.hear_of_self(now, &word);
        let mine = crate::wire::Word::parse(first.core.update_about_self(true), 65536).expect("valid");
        net.nodes.get_mut(&name(2)).expect("known").core.hear_of_self(now, &mine);
        // Not every word says whose certificate is older; one that did suffices.
        let theirs = net.nodes[&name(2)].core.update_about_self(round == 0);
        let theirs = crate::wire::Word::parse(theirs, 65536).expect("valid");
        first.core.hear_of_self(now, &theirs);
    }
    assert!(first.core.status().stepped_aside, "its certificate is the older one");
    assert!(!net.nodes[&name(2)].core.status().stepped_aside);
    let mut reported = false;
    while let Some(effect) = first.core.poll_effect() {
        reported |= matches!(effect, Effect::Event(Event::Conflict { we_step_aside: true, .. }));
    }
    assert!(reported);
}

#[test]
fn a_node_that_loses_everybody_is_isolated_and_heals() {
    let mut net = Net::cluster(4);
    net.blocked.insert(name(1));
    net.run(MS(30_000));
    let status = net.nodes[&name(1)].core.status();
    assert!(status.isolated && !status.ready, "{status:?}");
    assert_eq!(net.state(0, 1), Some(MemberState::Dead));
    net.blocked.clear();
    net.run(MS(4_000));
    for i in 0..4 {
        let status = net.nodes[&name(i)].core.status();
        assert_eq!((status.alive, status.ready, status.isolated), (4, true, false), "n{i}: {status:?}");
    }
}

#[test]
fn a_node_with_seeds_that_are_silent_never_becomes_a_healthy_cluster_of_one() {
    let mut net = Net::new();
    net.start(1, &[0]);
    net.run(MS(60_000));
    let status = net.nodes[&name(1)].core.status();
    assert!(status.isolated && !status.ready);
    net.start(0, &[]);
    net.run(MS(3_000));
    assert_eq!(net.nodes[&name(1)].core.status().alive, 2);
    assert!(net.nodes[&name(1)].core.status().ready);
}

#[test]
fn a_paused_node_blames_itself_for_what_it_missed() {
    let mut net = Net::cluster(6);
    net.run(MS(5_000));
    let now = net.now + MS(1_400);
    let paused = net.nodes.get_mut(&name(2)).expect("known");
    paused.core.handle_timeout(now);
    assert!(paused.core.status().suspect == 0 && paused.core.status().dead == 0);
    assert!(paused.core.status().health_score > 0);
}

#[test]
fn absurd_incarnations_of_rivals_are_refused() {
    let mut net = Net::cluster(4);
    let mut update = net.nodes[&name(1)].core.update_about(&name(2), false).expect("known");
    update.incarnation = u64::MAX;
    update.state = 2;
    let word = crate::wire::Word::parse(update, 65536).expect("parses");
    let now = net.now;
    let core = &mut net.nodes.get_mut(&name(0)).expect("known").core;
    core.take_word(now, &name(1), word, members::Source::Push);
    assert_eq!(net.state(0, 2), Some(MemberState::Alive));
    assert_eq!(net.nodes[&name(0)].core.counters().refused_incarnation, 1);
}

#[test]
fn a_flooding_peer_is_limited_and_costs_one_error_each() {
    let mut net = Net::cluster(2);
    let from = net.nodes[&name(1)].identity.clone();
    let now = net.now;
    let core = &mut net.nodes.get_mut(&name(0)).expect("known").core;
    let payload = crate::wire::encode(&core.addressed(Packet::default()));
    let mut refused = 0;
    for _ in 0..5_000 {
        let event =
            DatagramEvent::Received { from: from.clone(), payload: payload.clone(), path: LinkPath::Memory };
        refused += u32::from(matches!(
            core.handle(now, Input::Link(event)),
            Err(InputError::TooManyMessages { .. })
        ));
    }
    assert!((2_900..=3_100).contains(&refused), "{refused}");
}

#[test]
fn tombstones_are_forgotten_after_their_time() {
    let mut net = Net::cluster(3);
    net.kill(2);
    net.run(MS(10_000));
    assert_eq!(net.state(0, 2), Some(MemberState::Dead));
    net.run(Duration::from_secs(24 * 3600 + 60));
    assert_eq!(net.state(0, 2), None);
    assert!(net.changes(0, 2).contains(&MemberChange::Reclaimed));
}

#[test]
fn who_was_forgotten_is_not_revived_by_the_table_of_a_sleeper() {
    let mut net = Net::cluster(3);
    let sleeper_word = net.nodes[&name(0)].core.update_about(&name(2), true).expect("known");
    net.kill(2);
    net.run(Duration::from_secs(24 * 3600 + 60));
    let word = crate::wire::Word::parse(sleeper_word, 65536).expect("valid");
    let now = net.now;
    net.nodes.get_mut(&name(0)).expect("known").core.take_word(now, &name(1), word, members::Source::Page);
    net.settle();
    net.run(MS(10_000));
    assert_eq!(net.state(0, 2), None, "its certificate answered nobody");
}

#[test]
fn a_healed_partition_suspects_nobody_on_the_way() {
    let mut net = Net::cluster(12);
    let far: BTreeSet<NodeId> = (6..12).map(name).collect();
    net.split = far.clone();
    net.run(MS(30_000));
    assert_eq!(net.nodes[&name(0)].core.status().alive, 6);
    for node in net.nodes.values_mut() {
        node.events.clear();
    }
    net.split.clear();
    net.run(MS(5_000));
    for (id, node) in &net.nodes {
        assert_eq!(node.core.status().alive, 12, "{id}");
        let blamed = node.events.iter().any(|e| {
            let Event::Member(MemberEvent::Changed { change, .. }) = e else { return false };
            matches!(change, MemberChange::Suspected | MemberChange::Died)
        });
        assert!(!blamed, "{id} blamed somebody who lives: {:?}", node.events);
    }
}
