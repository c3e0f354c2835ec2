//! Three processes of etcd, as its documentation starts them, and a client with no more in it than it needs.

mod wire;

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::target::{Client, Held, Seen, Target, rss_mib_of};

/// Longest wait for a leader that all agree on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for an answer: without a leader etcd keeps some for ever.
const CALL: Duration = Duration::from_secs(10);

pub(super) struct Etcd {
    nodes: Vec<Node>,
    killed: Option<usize>,
}

struct Node {
    url: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("etcd");
        command.args(&self.arguments).env_clear().env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start etcd: install etcd-server")?);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that were free a moment ago. Each is asked for while the others are held, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

impl Etcd {
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let ports = free_ports(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let names = ["n0", "n1", "n2"];
        let peers: Vec<String> =
            names.iter().zip(&ports[3..]).map(|(name, port)| format!("{name}={}", url(*port))).collect();
        let mut nodes = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let (client, peer) = (url(ports[at]), url(ports[at + 3]));
            let data = folder.join(name).display().to_string();
            let arguments = [
                ["--name", name],
                ["--data-dir", &data],
                ["--listen-client-urls", &client],
                ["--advertise-client-urls", &client],
                ["--listen-peer-urls", &peer],
                ["--initial-advertise-peer-urls", &peer],
                ["--initial-cluster", &peers.join(",")],
                ["--initial-cluster-state", "new"],
                ["--log-level", "error"],
                ["--logger", "zap"],
            ];
            let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
            let log = folder.join(format!("{name}.log"));
            let mut node = Node { url: client, arguments, log, child: None };
            node.start()?;
            nodes.push(node);
        }
        let etcd = Self { nodes, killed: None };
        etcd.leader().await?;
        Ok(etcd)
    }

    /// The node that all living ones take for the leader.
    async fn leader(&self) -> Result<usize> {
        let deadline = super::target::now() + PATIENCE;
        while super::target::now() < deadline {
            let mut leaders = Vec::new();
            for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
                if let Ok((leader, own)) = status(&node.url).await {
                    leaders.push((leader, (leader == own && leader != 0).then_some(at)));
                }
            }
            let agreed = leaders.windows(2).all(|pair| pair[0].0 == pair[1].0);
            let living = self.nodes.iter().filter(|node| node.child.is_some()).count();
            if let (true, true, Some(at)) =
                (agreed, leaders.len() == living, leaders.iter().find_map(|(_, at)| *at))
            {
                return Ok(at);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("etcd agreed on no leader within {PATIENCE:?}")
    }
}

/// The leader's id, and the node's own.
async fn status(url: &str) -> Result<(u64, u64)> {
    let channel =
        Endpoint::from_shared(url.to_owned())?.connect_timeout(Duration::from_millis(300)).connect().await?;
    let status: wire::StatusResponse =
        unary(&channel, "/etcdserverpb.Maintenance/Status", wire::StatusRequest {}).await?;
    Ok((status.leader, status.header.unwrap_or_default().member_id))
}

async fn unary<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let call = async {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static(path);
        Ok(grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await?.into_inner())
    };
    tokio::time::timeout(CALL, call).await.context("no answer")?
}

#[async_trait]
impl Target for Etcd {
    fn prefix(&self) -> &'static str {
        "etcd_"
    }

    /// Connected to the leader, which serves it fastest, and to the others for when that dies.
    async fn client(&self) -> Result<Box<dyn Client>> {
        let leader = self.leader().await?;
        let order = (0..self.nodes.len()).map(|at| (leader + at) % self.nodes.len());
        let mut channels = Vec::new();
        for at in order {
            let endpoint = Endpoint::from_shared(self.nodes[at].url.clone())?;
            channels.push(endpoint.connect_timeout(Duration::from_millis(300)).connect_lazy());
        }
        Ok(Box::new(EtcdClient { channels, at: Arc::default() }))
    }

    async fn kill_leader(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        self.nodes[leader].kill();
        self.killed = Some(leader);
        Ok(())
    }

    async fn revive(&mut self) -> Result<()> {
        if let Some(at) = self.killed.take() {
            self.nodes[at].start()?;
        }
        self.leader().await?;
        // A follower that has just started catches up for a moment.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        self.leader().await.map(drop)
    }

    async fn freeze_follower(&mut self, time: Duration) -> Result<()> {
        let follower = (self.leader().await? + 1) % self.nodes.len();
        let child = self.nodes[follower].child.as_ref().context("a follower that is gone")?;
        super::ours::freeze(child.id(), time).await
    }

    fn rss_mib(&self) -> f64 {
        let pids = self.nodes.iter().filter_map(|node| Some(node.child.as_ref()?.id()));
        pids.map(rss_mib_of).fold(0.0, f64::max)
    }
}

struct EtcdClient {
    channels: Vec<Channel>,
    /// Which of them is in use.
    at: Arc<AtomicUsize>,
}

impl EtcdClient {
    fn channel(&self) -> &Channel {
        &self.channels[self.at.load(Ordering::Relaxed) % self.channels.len()]
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        self.turned_on_error(unary(self.channel(), path, request).await)
    }

    /// After a failure the next server is asked, whatever the request was.
    fn turned_on_error<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.is_err() {
            self.at.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn begin_watch(&self, prefix: &str) -> Result<BoxStream<'static, Seen>> {
        let create = wire::WatchCreate { key: prefix.into(), range_end: range_end(prefix) };
        let first = wire::WatchRequest { create: Some(create) };
        // The request stream stays open for as long as the watch.
        let requests = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let mut grpc = Grpc::new(self.channel().clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<wire::WatchRequest, wire::WatchResponse>::default();
        let mut answers = grpc.streaming(Request::new(requests), path, codec).await?.into_inner();
        let created = answers.message().await?.context("no answer to a watch")?;
        ensure!(created.created, "the watch was refused");
        let events = futures_util::stream::unfold(answers, |mut answers| async {
            let message = answers.message().await.ok()??;
            let seen = message.events.into_iter().map(|event| match event.kind {
                0 => Seen::Put(event.kv.unwrap_or_default().value.into()),
                _ => Seen::Deleted,
            });
            Some((futures_util::stream::iter(seen.collect::<Vec<_>>()), answers))
        });
        Ok(Box::pin(events.flatten()))
    }

    async fn keep_alive(&self, held: Held) -> Result<()> {
        let request = futures_util::stream::iter([wire::LeaseKeepAlive { id: held.0 as i64 }]);
        let mut grpc = Grpc::new(self.channel().clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let codec = ProstCodec::<wire::LeaseKeepAlive, wire::LeaseAnswer>::default();
        let mut answers = grpc.streaming(Request::new(request), path, codec).await?.into_inner();
        let answer = answers.message().await?.context("no answer to a renewal")?;
        ensure!(answer.ttl > 0, "the lease is gone");
        Ok(())
    }
}

/// The end of the range of keys that begin with `prefix`.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[async_trait]
impl Client for EtcdClient {
    async fn put(&self, key: &str, value: Bytes) -> Result<()> {
        let put = wire::PutRequest { key: key.into(), value: value.to_vec(), lease: 0 };
        self.call::<_, wire::Ignored>("/etcdserverpb.KV/Put", put).await.map(drop)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let range = wire::RangeRequest { key: key.into(), range_end: Vec::new() };
        let mut found: wire::RangeResponse = self.call("/etcdserverpb.KV/Range", range).await?;
        Ok(found.kvs.pop().map(|kv| kv.value.into()))
    }

    async fn list(&self, prefix: &str) -> Result<usize> {
        let range = wire::RangeRequest { key: prefix.into(), range_end: range_end(prefix) };
        let found: wire::RangeResponse = self.call("/etcdserverpb.KV/Range", range).await?;
        Ok(found.kvs.len())
    }

    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, Seen>> {
        self.turned_on_error(self.begin_watch(prefix).await)
    }

    async fn hold(&self, ttl: Duration) -> Result<Held> {
        let grant = wire::LeaseGrant { id: 0, ttl: ttl.as_secs() as i64 };
        let granted: wire::LeaseAnswer = self.call("/etcdserverpb.Lease/LeaseGrant", grant).await?;
        Ok(Held(granted.id as u64))
    }

    async fn renew(&self, held: Held) -> Result<()> {
        self.turned_on_error(self.keep_alive(held).await)
    }

    async fn take(&self, held: Held, keys: &[String]) -> Result<bool> {
        let absent = |key: &String| wire::Compare { key: key.clone().into(), ..wire::Compare::absent() };
        let put = |key: &String| wire::RequestOp {
            put: Some(wire::PutRequest { key: key.clone().into(), value: Vec::new(), lease: held.0 as i64 }),
        };
        let txn = wire::TxnRequest {
            compare: keys.iter().map(absent).collect(),
            success: keys.iter().map(put).collect(),
        };
        let answer: wire::TxnResponse = self.call("/etcdserverpb.KV/Txn", txn).await?;
        Ok(answer.succeeded)
    }
}
