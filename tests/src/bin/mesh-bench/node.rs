//! One member: in this process for the many, in a process of its own for those that are killed or frozen.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use clap::Args;
use mesh_core::{
    ConnectError, DatagramError, DatagramEvent, Datagrams, LinkTarget, NodeId, SettingError, Settings,
    Validated,
};
use mesh_gossip::{Driver, DriverOptions, GossipConfig, GossipHandle, LocalNode};
use mesh_transport::{TransportConfig, ca::DevCa, endpoint::Endpoint, links::Links};
use tokio::{sync::Notify, time::Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Folder of the development CA.
    #[arg(long)]
    ca: PathBuf,
    /// Node id.
    #[arg(long)]
    name: String,
    /// A node to join.
    #[arg(long)]
    seed: SocketAddr,
}

/// Runs until it is killed. Prints its address, then follows its fate in silence.
pub(crate) async fn run(options: Options) -> Result<()> {
    let ca = DevCa::load(&options.ca)?;
    let member = Member::start(&ca, &options.name, Some(options.seed), Arc::default()).await?;
    println!("{}", member.address);
    member.gossip.ready().await?;
    std::future::pending().await
}

pub(crate) fn valid<T: Settings>(settings: T) -> Result<Validated<T>> {
    settings.validate().map_err(|problems: Vec<SettingError>| {
        anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })
}

pub(crate) struct Member {
    pub(crate) name: NodeId,
    pub(crate) gossip: GossipHandle,
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: Endpoint,
}

impl Member {
    pub(crate) async fn start(
        ca: &DevCa,
        name: &str,
        seed: Option<SocketAddr>,
        faults: Arc<Faults>,
    ) -> Result<Self> {
        let identity = ca.identity("bench", "worker", name)?;
        let config = TransportConfig { bind: "127.0.0.1:0".parse()?, ..TransportConfig::default() };
        let endpoint = Endpoint::bind(valid(config)?, identity.clone(), None)?;
        let address = endpoint.local_address();
        let links = Links::new(endpoint.clone())?;
        let carrier = Arc::new(Faulty { links, own: name.parse()?, faults, hanging: Hanging::default() });
        let config =
            GossipConfig { seeds: seed.iter().map(ToString::to_string).collect(), ..GossipConfig::lan() };
        let local = LocalNode { identity: identity.local(), addresses: vec![address], metadata: metadata() };
        let gossip = Driver::spawn(valid(config)?, local, carrier, DriverOptions::default()).await?;
        let name = name.parse().context("node id")?;
        Ok(Self { name, gossip, address, endpoint })
    }
}

/// What a node of a real fleet would say about itself.
fn metadata() -> BTreeMap<String, String> {
    [
        ("cluster", "bench"),
        ("role", "worker"),
        ("region", "eu-1"),
        ("zone", "eu-1a"),
        ("mesh_version", "0.1.0"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

/// Faults of the network between the members of one process.
#[derive(Default)]
pub(crate) struct Faults {
    loss_ppm: AtomicU32,
    /// One member and the share of what it sends and gets that is lost, in parts per million.
    lossy: RwLock<Option<(NodeId, u32)>>,
    /// Members on the other side of a partition; empty without one.
    far_side: RwLock<std::collections::BTreeSet<NodeId>>,
}

impl Faults {
    /// Loses a share of what anybody sends.
    pub(crate) fn set_loss(&self, share: f64) {
        self.loss_ppm.store((share * 1e6) as u32, Ordering::Relaxed);
    }

    /// Loses a share of what one member sends and gets; none with `None`.
    pub(crate) fn set_loss_at(&self, member: Option<(NodeId, f64)>) {
        *self.lossy.write().expect("no panic under this lock") =
            member.map(|(name, share)| (name, (share * 1e6) as u32));
    }

    pub(crate) fn split(&self, far_side: impl IntoIterator<Item = NodeId>) {
        *self.far_side.write().expect("no panic under this lock") = far_side.into_iter().collect();
    }

    pub(crate) fn heal(&self) {
        self.split([]);
    }

    fn apart(&self, one: &NodeId, other: &NodeId) -> bool {
        let far = self.far_side.read().expect("no panic under this lock");
        !far.is_empty() && far.contains(one) != far.contains(other)
    }

    fn lost(&self, one: &NodeId, other: &NodeId) -> bool {
        let everywhere = self.loss_ppm.load(Ordering::Relaxed);
        let lossy = self.lossy.read().expect("no panic under this lock");
        let here = lossy.as_ref().filter(|(name, _)| name == one || name == other).map(|(_, ppm)| *ppm);
        let ppm = here.unwrap_or(everywhere);
        ppm > 0 && {
            #[expect(clippy::disallowed_methods, reason = "loss need not be repeatable here")]
            let drawn = fastrand::Rng::new().u32(..1_000_000);
            drawn < ppm
        }
    }
}

/// Dials across a partition: they cost nobody a handshake, and get through if it ends in time.
#[derive(Default)]
struct Hanging {
    dials: Mutex<Vec<(Instant, LinkTarget)>>,
    more: Notify,
}

impl Hanging {
    fn add(&self, target: LinkTarget) {
        let until = Instant::now() + TransportConfig::default().links.connect_timeout;
        self.dials.lock().expect("no panic under this lock").push((until, target));
        self.more.notify_one();
    }

    /// One that is over, for better or worse, and whether it is for better.
    fn pop(&self, open: impl Fn(&LinkTarget) -> bool) -> Option<(bool, LinkTarget)> {
        let mut dials = self.dials.lock().expect("no panic under this lock");
        let now = Instant::now();
        let at = dials.iter().position(|(until, target)| *until <= now || open(target))?;
        let (_, target) = dials.swap_remove(at);
        Some((open(&target), target))
    }

    /// Waits until it makes sense to look again.
    async fn pause(&self) {
        // As often as a handshake without answer sends its first packet again, more or less.
        const LOOK: Duration = Duration::from_millis(200);
        if self.dials.lock().expect("no panic under this lock").is_empty() {
            self.more.notified().await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Real links with faults in front: datagrams are lost, a partition swallows everything.
struct Faulty {
    links: Links,
    own: NodeId,
    faults: Arc<Faults>,
    hanging: Hanging,
}

impl Faulty {
    fn is_open(&self, target: &LinkTarget) -> bool {
        target.node_id.as_ref().is_none_or(|peer| !self.faults.apart(&self.own, peer))
    }
}

impl Datagrams for Faulty {
    fn connect(&self, target: LinkTarget) {
        if self.is_open(&target) {
            self.links.connect(target);
        } else {
            self.hanging.add(target);
        }
    }

    fn disconnect(&self, peer: &NodeId) {
        self.links.disconnect(peer);
    }

    fn send(&self, to: &NodeId, payload: Bytes) -> Result<(), DatagramError> {
        // What is larger goes over a stream, which repeats what was lost.
        let unreliable = payload.len() <= 1100;
        if self.faults.apart(&self.own, to) || (unreliable && self.faults.lost(&self.own, to)) {
            return Ok(());
        }
        self.links.send(to, payload)
    }

    async fn recv(&self) -> Result<DatagramEvent, DatagramError> {
        loop {
            while let Some((open, target)) = self.hanging.pop(|target| self.is_open(target)) {
                if !open {
                    return Ok(DatagramEvent::ConnectFailed { target, error: ConnectError::Timeout });
                }
                self.links.connect(target);
            }
            let event = tokio::select! {
                event = self.links.recv() => event?,
                () = self.hanging.pause() => continue,
            };
            match event {
                DatagramEvent::Received { from, .. } if self.faults.apart(&self.own, from.node_id()) => {}
                // Inside a partition a connection would never come about, of a seed whose name is not known either.
                DatagramEvent::LinkUp { peer, remote, .. }
                    if self.faults.apart(&self.own, peer.node_id()) =>
                {
                    self.links.disconnect(peer.node_id());
                    let target = LinkTarget { node_id: Some(peer.node_id().clone()), address: remote };
                    return Ok(DatagramEvent::ConnectFailed { target, error: ConnectError::Timeout });
                }
                event => return Ok(event),
            }
        }
    }
}

/// A member in a process of its own. Killed when dropped.
pub(crate) struct Child {
    pub(crate) name: NodeId,
    process: tokio::process::Child,
}

impl Child {
    pub(crate) fn start(ca: &std::path::Path, name: &str, seed: SocketAddr) -> Result<Self> {
        let process = tokio::process::Command::new(std::env::current_exe()?)
            .args(["node", "--name", name, "--seed", &seed.to_string(), "--ca"])
            .arg(ca)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start a member process")?;
        Ok(Self { name: name.parse()?, process })
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let id = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        rustix::process::kill_process(id.context("the process has ended")?, signal)?;
        Ok(())
    }

    pub(crate) async fn wait_dead(mut self) -> Result<()> {
        tokio::time::timeout(Duration::from_secs(10), self.process.wait()).await??;
        Ok(())
    }
}
