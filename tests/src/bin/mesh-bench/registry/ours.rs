//! Three nodes of `mesh up` as processes, and a worker in this process as their client.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use mesh::{ControlConfig, MeshConfig, Node, NodeConfig};
use mesh_core::{
    NodeId,
    store::{
        Change, Compare, Key, OpenSession, Operation, Overflow, Prefix, Scan, SessionId, Txn, VersionedStore,
        WatchEvent, WatchFrom, WatchOptions,
    },
};
use mesh_gossip::GossipConfig;
use mesh_transport::{TransportConfig, ca::DevCa};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::target::{Client, Held, Seen, Target, now, rss_mib_of};

/// Longest wait for the cluster, and for a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Ours {
    client: Node,
    store: Arc<dyn VersionedStore>,
    pids: BTreeMap<NodeId, u32>,
    folder: PathBuf,
    killed: Option<NodeId>,
    /// Nodes that were started again.
    revived: Vec<Child>,
    _up: Child,
}

/// Runs `mesh` beside this program, as the same build made it.
fn mesh() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("mesh");
    ensure!(
        beside.is_file(),
        "there is no {}; build it with cargo build --release --package mesh-cli",
        beside.display()
    );
    Ok(beside)
}

impl Ours {
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let mut command = Command::new(mesh()?);
        command.args(["up", "--nodes", "3", "--output", "json", "--until-stdin-closes", "--dir"]).arg(folder);
        // Contexts of the user stay as they are.
        command.env("XDG_CONFIG_HOME", folder.join("config")).env("RUST_LOG", "warn");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut up = command.spawn().context("start mesh up")?;
        let mut lines = BufReader::new(up.stdout.take().context("no output")?).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("mesh up ended")?;
        let first: Value = serde_json::from_str(&first)?;
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (mut pids, mut seeds) = (BTreeMap::new(), Vec::new());
        for node in first["nodes"].as_array().context("no nodes")? {
            let name: NodeId = node["node_id"].as_str().context("no node id")?.parse()?;
            pids.insert(name, u32::try_from(node["pid"].as_u64().context("no pid")?)?);
            seeds.push(node["mesh"].as_str().context("no address")?.to_owned());
        }
        let identity = DevCa::load(&folder.join("ca"))?.identity("dev", "worker", "bench")?;
        let config = MeshConfig {
            node: NodeConfig { data_dir: folder.join("bench"), ..NodeConfig::default() },
            transport: TransportConfig { bind: "127.0.0.1:0".parse()?, ..TransportConfig::default() },
            gossip: GossipConfig { seeds, ..GossipConfig::local() },
            control: ControlConfig { enabled: false },
            ..MeshConfig::default()
        };
        let client = Node::builder().config(config).identity(identity).start().await?;
        client.ready().await?;
        let store = client.store().context("a node without a store")?;
        let ours = Self {
            client,
            store,
            pids,
            folder: folder.to_owned(),
            killed: None,
            revived: Vec::new(),
            _up: up,
        };
        ours.settled().await?;
        Ok(ours)
    }

    /// Waits until all three vote: the newest record is at each of them.
    async fn settled(&self) -> Result<()> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            let led = self.leader().await.is_ok();
            let gossip = self.client.gossip().context("no membership")?;
            let alive = gossip.members().alive().count();
            if led && alive > self.pids.len() {
                // Learners become voters one after the other.
                tokio::time::sleep(Duration::from_secs(2)).await;
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the cluster did not settle within {PATIENCE:?}")
    }

    async fn leader(&self) -> Result<NodeId> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            if let Ok(status) = self.store.status().await
                && let Some(leader) = status.leader
                && self.killed.as_ref() != Some(&leader)
            {
                return Ok(leader);
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("nobody led within {PATIENCE:?}")
    }

    fn pid(&self, node: &NodeId) -> Result<u32> {
        self.pids.get(node).copied().with_context(|| format!("{node} has no process"))
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id out of range")?;
    Ok(kill_process(pid, signal)?)
}

/// Stops a process for a while.
pub(super) async fn freeze(pid: u32, time: Duration) -> Result<()> {
    signal(pid, Signal::STOP)?;
    tokio::time::sleep(time).await;
    signal(pid, Signal::CONT)
}

#[async_trait]
impl Target for Ours {
    fn prefix(&self) -> &'static str {
        ""
    }

    /// All share the connections of one node, as the parts of a program do.
    async fn client(&self) -> Result<Box<dyn Client>> {
        Ok(Box::new(OurClient { store: Arc::clone(&self.store), own: self.client.id().clone() }))
    }

    async fn kill_leader(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        signal(self.pid(&leader)?, Signal::KILL)?;
        self.killed = Some(leader);
        Ok(())
    }

    async fn revive(&mut self) -> Result<()> {
        let Some(node) = self.killed.take() else { return Ok(()) };
        let config = self.folder.join(node.as_str()).join("mesh.toml");
        let mut command = Command::new(mesh()?);
        command.args(["run", "--until-stdin-closes", "--config"]).arg(config).env("RUST_LOG", "warn");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("start mesh run")?;
        let pid = child.id().context("it has ended already")?;
        self.pids.insert(node, pid);
        self.revived.push(child);
        self.settled().await
    }

    async fn freeze_follower(&mut self, time: Duration) -> Result<()> {
        let leader = self.leader().await?;
        let follower = self.pids.iter().find(|(node, _)| **node != leader).context("no follower")?;
        freeze(*follower.1, time).await
    }

    fn rss_mib(&self) -> f64 {
        self.pids.values().map(|pid| rss_mib_of(*pid)).fold(0.0, f64::max)
    }
}

struct OurClient {
    store: Arc<dyn VersionedStore>,
    own: NodeId,
}

#[async_trait]
impl Client for OurClient {
    async fn put(&self, key: &str, value: Bytes) -> Result<()> {
        let put = Operation::Put { key: Key::new(key)?, value, session: None };
        self.store.transact(Txn::new(self.own.clone()).then(put)).await?;
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.store.get(&Key::new(key)?).await?.value.map(|record| record.value))
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        Ok(self.store.scan(&Scan::of(Prefix::new(prefix)?)).await?.value.records.len())
    }

    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, Seen>> {
        let options = WatchOptions { buffer_changes_max: 16_384, overflow: Overflow::Gap };
        let events = self.store.watch(&Prefix::new(prefix)?, WatchFrom::Now, options).await?;
        let seen = events.take_while(|event| std::future::ready(event.is_ok())).flat_map(|event| {
            let changes = match event {
                Ok(WatchEvent::Changes { changes, .. }) => changes,
                _ => Vec::new(),
            };
            futures_util::stream::iter(changes.into_iter().map(|change| match change {
                Change::Put(record) => Seen::Put(record.value),
                Change::Deleted { .. } => Seen::Deleted,
            }))
        });
        Ok(Box::pin(seen))
    }

    async fn hold(&self, ttl: Duration) -> Result<Held> {
        let session = self.store.open_session(OpenSession { owner: self.own.clone(), ttl }).await?;
        Ok(Held(session.id.0))
    }

    async fn renew(&self, held: Held) -> Result<()> {
        self.store.keep_alive(SessionId(held.0)).await?;
        Ok(())
    }

    async fn take(&self, held: Held, keys: &[String]) -> Result<bool> {
        let mut txn = Txn::new(self.own.clone());
        for key in keys {
            let key = Key::new(key)?;
            txn = txn.when(Compare::Absent { key: key.clone() });
            txn = txn.then(Operation::Grant { key, value: Bytes::new(), session: SessionId(held.0) });
        }
        match self.store.transact(txn).await {
            Ok(_) => Ok(true),
            Err(mesh_core::store::TxnError::Conflict { .. }) => Ok(false),
            Err(error) => Err(anyhow!(error)),
        }
    }
}
