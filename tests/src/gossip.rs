//! The membership core as a program of the simulator.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use mesh_core::{DatagramEvent, Machine, NodeId, Settings, Validated};
use mesh_gossip::{Effect, Event, Gossip, GossipConfig, Input, LocalNode};

use crate::{
    Action, HostId, Launch, Options, Outside, Program,
    options::{Preset, Skew},
    skew::Generation,
};

/// Runs [`Gossip`] on every machine.
pub struct Gossips {
    config: Validated<GossipConfig>,
    at_start: Box<dyn Fn(&mut Gossip)>,
    skew: Skew,
    /// The version of each machine's process, and who it is.
    running: BTreeMap<HostId, (Generation, NodeId)>,
}

impl fmt::Debug for Gossips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gossips").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Gossips {
    /// Nodes with these settings and these seeds.
    ///
    /// # Panics
    ///
    /// If the settings are not valid: they are the simulator's own.
    pub fn new(config: GossipConfig, seeds: &[SocketAddr]) -> Self {
        let seeds = seeds.iter().map(ToString::to_string).collect();
        let config = GossipConfig { seeds, ..config };
        let config = config.validate().unwrap_or_else(|problems| panic!("settings of the run: {problems:?}"));
        Self { config, at_start: Box::new(|_| {}), skew: Skew::None, running: BTreeMap::new() }
    }

    /// Does this to every core as it starts.
    pub fn at_start(self, action: impl Fn(&mut Gossip) + 'static) -> Self {
        Self { at_start: Box::new(action), ..self }
    }

    /// Runs nodes of several versions.
    pub fn skewed(self, skew: Skew) -> Self {
        Self { skew, ..self }
    }

    /// The settings of the nodes.
    pub fn config(&self) -> &GossipConfig {
        &self.config
    }

    /// The settings that a run's options name.
    pub fn settings(options: &Options) -> GossipConfig {
        let preset = match options.preset {
            Preset::Lan => GossipConfig::lan(),
            Preset::Local => GossipConfig::local(),
        };
        GossipConfig { tombstone_ttl: Duration::from_millis(options.tombstone_ttl_ms), ..preset }
    }
}

impl Program for Gossips {
    type Core = Gossip;
    type Report = Event;

    fn start(&mut self, launch: &Launch) -> Gossip {
        let generation = Generation::of(self.skew, launch.host, launch.runs_before);
        self.running.insert(launch.host, (generation, launch.identity.node_id().clone()));
        let local = LocalNode {
            identity: launch.identity.clone(),
            addresses: vec![launch.address],
            metadata: BTreeMap::from([("run".to_string(), launch.runs_before.to_string())]),
        };
        let mut gossip = Gossip::new(self.config.clone(), local, launch.seed, launch.now);
        (self.at_start)(&mut gossip);
        gossip
    }

    fn input(&self, host: HostId, outside: Outside) -> Input {
        match outside {
            Outside::Link(DatagramEvent::Received { from, payload, path }) => {
                let payload = match self.running.get(&host) {
                    Some((generation, _)) => generation.heard(payload),
                    None => payload,
                };
                Input::Link(DatagramEvent::Received { from, payload, path })
            }
            Outside::Link(event) => Input::Link(event),
            Outside::Disk(completion) => Input::Disk(completion),
        }
    }

    fn action(&self, host: HostId, effect: <Gossip as Machine>::Effect) -> Action<Event> {
        match effect {
            Effect::Transmit { to, payload } => {
                let payload = match self.running.get(&host) {
                    Some((generation, own)) => generation.sent(own, payload),
                    None => payload,
                };
                Action::Transmit { to, payload }
            }
            Effect::Connect(target) => Action::Connect(target),
            Effect::Disconnect(peer) => Action::Disconnect(peer),
            Effect::Disk(request) => Action::Disk(request),
            Effect::Event(event @ Event::LeaveDone) => Action::Exit(event),
            Effect::Event(event) => Action::Report(event),
        }
    }
}
