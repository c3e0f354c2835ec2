//! A node of a pair: an engine over HTTP/3 with mutual TLS, its entries on disk. The other one is a process of its own,
//! which is told what to do line by line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mesh_core::{ClusterName, NodeId, SystemClock};
use mesh_sync::{
    blob::MemoryChunks,
    config::{Access, DatasetConfig, SyncConfig},
    engine::{Carrier, DatasetStatus, Engine, EngineOptions, PeerAddress, SyncHandle, WatchEvent},
    entry::{AuthorKey, Collection, DatasetId},
    replica::ReplicaConfig,
    rpc::{GrpcCarrier, SyncService},
    store::{Datasets, FjallOptions, FjallStore},
};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    rpc::{
        ChannelConfig, Channels, EndpointGuard, EndpointPolicy, MESH, Policy, PolicyConfig, RpcMetrics,
        RpcServer, ServerConfig, Transport,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{percentile, writer::key_of};
use crate::{load::cpu_seconds, node::valid};

pub(super) const CLUSTER: &str = "bench";
/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is held.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Args)]
pub(crate) struct Options {
    /// Folder of the development CA.
    #[arg(long)]
    ca: PathBuf,
    /// Node id.
    #[arg(long)]
    name: String,
    /// Folder for entries.
    #[arg(long)]
    dir: PathBuf,
}

/// Nanoseconds of a clock that all processes share.
pub(super) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

pub(super) fn dataset() -> Result<DatasetId> {
    Ok(DatasetId::new("bench")?)
}

pub(super) fn collection() -> Result<Collection> {
    Ok(Collection::new("bench")?)
}

/// An engine's parts, with the defaults of the product wherever there are some.
pub(super) fn engine_options(
    name: &str,
    carrier: Arc<dyn Carrier>,
    stores: Arc<dyn Datasets>,
) -> Result<EngineOptions> {
    let dataset = DatasetConfig { name: "bench".into(), access: Access::Cluster, ..DatasetConfig::default() };
    let key = key_of(name);
    Ok(EngineOptions {
        local: NodeId::new(name)?,
        cluster: ClusterName::new(CLUSTER)?,
        config: valid(SyncConfig { datasets: vec![dataset], ..SyncConfig::default() })?,
        author: AuthorKey::from_seed(key),
        stores,
        chunks: Arc::new(MemoryChunks::default()),
        clock: Arc::new(SystemClock),
        carrier,
        addresses: Vec::new(),
        seed: {
            #[expect(clippy::disallowed_methods, reason = "each start needs another seed")]
            let mut rng = fastrand::Rng::new();
            std::array::from_fn(|_| rng.u8(..))
        },
        replica: ReplicaConfig::default(),
    })
}

fn guard(prefer: Option<Transport>) -> Result<EndpointGuard> {
    let mut config = PolicyConfig::default();
    if prefer.is_some() {
        config.endpoints.insert(MESH.to_owned(), EndpointPolicy { prefer, ..EndpointPolicy::default() });
    }
    Policy::new(&valid(config)?, Arc::new(SystemClock)).endpoint(None, MESH).context("there is no policy")
}

pub(super) struct End {
    pub(super) address: SocketAddr,
    pub(super) sync: SyncHandle,
    engine: Engine,
    serving: tokio::task::JoinHandle<()>,
    _endpoint: Endpoint,
}

impl End {
    pub(super) async fn start(ca: &DevCa, name: &str, folder: &Path) -> Result<Self> {
        let identity = ca.identity(CLUSTER, "worker", name)?;
        let config = TransportConfig { bind: "127.0.0.1:0".parse()?, ..TransportConfig::default() };
        let secret = NodeSecret::from_bytes(key_of(name));
        let endpoint = Endpoint::bind(valid(config)?, identity, Some(secret))?;
        let metrics = RpcMetrics::new(endpoint.metrics().clone());
        let http3 = guard(Some(Transport::Http3))?;
        let config = valid(ChannelConfig::default())?;
        let channels = Channels::new(Arc::new(endpoint.clone()), http3, config, metrics.clone());
        let stores = FjallStore::in_folder(folder, FjallOptions::default()).context("open the store")?;
        let carrier = Arc::new(GrpcCarrier::new(channels));
        let engine = Engine::start(engine_options(name, carrier, Arc::new(stores))?).await?;
        let sync = engine.handle();
        let service = SyncService::new(sync.handler()).into_server();
        let routes = tonic::service::Routes::new(service).prepare();
        let rpc = RpcServer::new(routes, guard(None)?, valid(ServerConfig::default())?, metrics);
        let incoming = endpoint.rpc_incoming().context("calls are taken already")?;
        let serving = tokio::spawn(async move { rpc.serve(incoming).await });
        Ok(Self { address: endpoint.local_address(), sync, engine, serving, _endpoint: endpoint })
    }

    pub(super) fn meet(&self, peer: &str, address: SocketAddr) -> Result<()> {
        let addresses = vec![address.to_string()];
        self.sync.set_peers(vec![PeerAddress { peer: NodeId::new(peer)?, addresses }]);
        Ok(())
    }

    pub(super) async fn status(&self) -> Result<DatasetStatus> {
        self.sync.status().await.datasets.into_iter().next().context("there is no dataset")
    }

    /// Waits until so many entries are held: when that was, and what the set is then.
    pub(super) async fn holds(&self, entries: u64) -> Result<(u64, String)> {
        let looked = tokio::time::timeout(PATIENCE, async {
            loop {
                let status = self.status().await?;
                // That of the store is known a little earlier than what peers are told.
                if status.root.count == entries {
                    return Ok((monotonic_ns(), format!("{:?}", status.root.hash)));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        match looked.await {
            Ok(found) => found,
            Err(_) => {
                let held = self.status().await?.root.count;
                bail!("after {PATIENCE:?} there are {held} of {entries} entries")
            }
        }
    }

    pub(super) async fn put(&self, key: String, payload: Vec<u8>) -> Result<()> {
        self.sync.put(&dataset()?, &collection()?, key, payload).await?;
        Ok(())
    }

    pub(super) async fn stop(self) {
        self.serving.abort();
        self.engine.shutdown().await;
    }
}

/// The node of a child process. Prints its address, then an answer to each line that it reads.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let ca = DevCa::load(&options.ca)?;
    let end = End::start(&ca, &options.name, &options.dir).await?;
    println!("{}", json!({ "address": end.address }));
    let (lines, mut commands) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lines().map_while(Result::ok);
        input.all(|line| lines.blocking_send(line).is_ok())
    });
    let mut watch = None;
    while let Some(line) = commands.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["meet", peer, address] => {
                end.meet(peer, address.parse()?)?;
                json!({})
            }
            ["hold", entries] => {
                let (at, root) = end.holds(entries.parse()?).await?;
                json!({ "at": at, "root": root, "cpu_s": cpu_seconds()? })
            }
            ["put", number] => {
                end.put(format!("{} {number}", options.name), vec![7; 1024]).await?;
                json!({})
            }
            ["watch"] => {
                watch = Some(end.sync.watch(&dataset()?, Some(&collection()?), Vec::new())?);
                json!({})
            }
            // How long after they were stamped so many payloads came by.
            ["seen", count] => {
                let watch = watch.as_mut().context("nothing is watched")?;
                let mut ages = Vec::new();
                while ages.len() < count.parse::<usize>()? {
                    let event = tokio::time::timeout(PATIENCE, watch.next()).await?;
                    let now = monotonic_ns();
                    match event.context("the watch ended")? {
                        WatchEvent::Changed(change) => {
                            let stamp = change.payload.first_chunk().context("a payload without a stamp")?;
                            ages.push(now.saturating_sub(u64::from_le_bytes(*stamp)) as f64 / 1e6);
                        }
                        other => bail!("the watch was too slow: {other:?}"),
                    }
                }
                json!({ "p50_ms": percentile(&mut ages, 0.5), "p99_ms": percentile(&mut ages, 0.99) })
            }
            _ => bail!("{line:?} is no command"),
        };
        println!("{answer}");
    }
    end.stop().await;
    Ok(())
}

/// A node in a process of its own. Killed when dropped.
pub(super) struct Other {
    pub(super) address: SocketAddr,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Other {
    pub(super) async fn start(ca: &Path, name: &str, folder: &Path) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["sync-node", "--name", name, "--ca"])
            .arg(ca)
            .arg("--dir")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the other node")?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?).lines();
        let mut other = Self { address: "0.0.0.0:0".parse()?, input, output, _process: process };
        let first = other.answer().await?;
        other.address = first["address"].as_str().context("no address")?.parse()?;
        Ok(other)
    }

    async fn answer(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(2 * PATIENCE, self.output.next_line()).await;
        let line = line.context("the other node does not answer")??;
        Ok(serde_json::from_str(&line.context("the other node has ended")?)?)
    }

    pub(super) async fn ask(&mut self, line: &str) -> Result<Value> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        self.answer().await
    }

    /// As [`End::holds`].
    pub(super) async fn holds(&mut self, entries: u64) -> Result<(u64, String)> {
        let answer = self.ask(&format!("hold {entries}")).await?;
        let root = answer["root"].as_str().context("no root")?.to_owned();
        Ok((answer["at"].as_u64().context("no time")?, root))
    }

    /// Processor time that it has used, in seconds.
    pub(super) async fn cpu_seconds(&mut self, entries: u64) -> Result<f64> {
        self.ask(&format!("hold {entries}")).await?["cpu_s"].as_f64().context("no processor time")
    }
}
