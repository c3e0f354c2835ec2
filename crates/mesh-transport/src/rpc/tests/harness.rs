//! A server and a client with identities of one CA, and a UDP path that can be blocked.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use mesh_core::{NodeId, Settings as _, SystemClock, Validated};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle, time::timeout};

use super::service::{Client, Echo, Seen};
use crate::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    rpc::{
        Channel, ChannelConfig, Channels, ConnectFailure, Connector, EndpointGuard, H2Connection,
        H3Connection, Lane, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer, ServerConfig, Target,
        Transport,
    },
};

/// Nothing on the loopback interface takes this long unless it hangs.
pub(super) const GENEROUS: Duration = Duration::from_secs(20);

pub(super) async fn soon<F: Future>(work: F) -> F::Output {
    timeout(GENEROUS, work).await.expect("did not happen within a generous time")
}

/// Polls until `condition` holds.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            // sleeps: polls the condition itself
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(super) fn guard(config: PolicyConfig) -> EndpointGuard {
    let config = config.validate().unwrap();
    Policy::new(&config, Arc::new(SystemClock)).endpoint(None, MESH).unwrap()
}

pub(super) fn node(id: &str) -> NodeId {
    id.parse().unwrap()
}

pub(super) fn endpoint(ca: &DevCa, id: &str, change: impl FnOnce(&mut TransportConfig)) -> Endpoint {
    let mut config = TransportConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..TransportConfig::default() };
    change(&mut config);
    let identity = ca.identity("c", "worker", id).unwrap();
    let secret = NodeSecret::from_bytes([id.len() as u8; 32]);
    Endpoint::bind(config.validate().unwrap(), identity, Some(secret)).unwrap()
}

/// What a story may set.
pub(super) struct Setup {
    pub(super) server: ServerConfig,
    pub(super) channel: ChannelConfig,
    pub(super) policy: PolicyConfig,
    pub(super) transport: TransportConfig,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            channel: ChannelConfig { retry_min: Duration::from_millis(100), ..ChannelConfig::default() },
            policy: PolicyConfig::default(),
            transport: TransportConfig::default(),
        }
    }
}

/// Two nodes, `server` and `client`.
pub(super) struct World {
    ca: DevCa,
    pub(super) server: Endpoint,
    pub(super) rpc: RpcServer<tonic::service::Routes>,
    pub(super) client: Endpoint,
    pub(super) path: Arc<UdpPath>,
    pub(super) channels: Channels,
    pub(super) seen: mpsc::UnboundedReceiver<Seen>,
    pub(super) echo: Echo,
    pub(super) metrics: RpcMetrics,
    _serving: Aborts,
}

struct Aborts(JoinHandle<()>);

impl Drop for Aborts {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    pub(super) async fn new(setup: Setup) -> Self {
        let ca = DevCa::new("example.org").unwrap();
        let bind = (Ipv4Addr::LOCALHOST, 0).into();
        let server = endpoint(&ca, "server", |config| *config = TransportConfig { bind, ..setup.transport });
        let client = endpoint(&ca, "client", |_| {});
        let (echo, seen) = Echo::new();
        let metrics = RpcMetrics::new(server.metrics().clone());
        let routes = tonic::service::Routes::new(echo.clone()).prepare();
        let policy = guard(setup.policy.clone());
        let rpc = RpcServer::new(routes, policy, setup.server.validate().unwrap(), metrics.clone());
        let incoming = server.rpc_incoming().unwrap();
        let serving = tokio::spawn({
            let rpc = rpc.clone();
            async move { rpc.serve(incoming).await }
        });
        let path = UdpPath::new(server.local_address()).await;
        let channels = channels(&client, &path, setup.channel.validate().unwrap());
        Self { ca, server, rpc, client, path, channels, seen, echo, metrics, _serving: Aborts(serving) }
    }

    /// The server's process ends and a new one takes its port.
    pub(super) async fn restart_server(&mut self) {
        let bind = self.server.local_address();
        self.server.close();
        self._serving.0.abort();
        soon(self.server.wait_idle()).await;
        // The only other handle of the endpoint.
        let placeholder = endpoint(&self.ca, "placeholder", |_| {});
        drop(std::mem::replace(&mut self.server, placeholder));
        let again = || {
            let identity = self.ca.identity("c", "worker", "server").unwrap();
            let config = TransportConfig { bind, ..TransportConfig::default() };
            let secret = NodeSecret::from_bytes(["server".len() as u8; 32]);
            Endpoint::bind(config.validate().unwrap(), identity, Some(secret)).ok()
        };
        // The old sockets are closed by tasks.
        self.server = soon(async {
            loop {
                if let Some(endpoint) = again() {
                    return endpoint;
                }
                // sleeps: polls until the port is free
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        let incoming = self.server.rpc_incoming().unwrap();
        let rpc = self.rpc.clone();
        self._serving = Aborts(tokio::spawn(async move { rpc.serve(incoming).await }));
    }

    pub(super) fn target(&self) -> Target {
        Target::new(node("server"), self.server.local_address())
    }

    pub(super) fn channel(&self, lane: Lane) -> Channel {
        self.channels.open(self.target(), lane)
    }

    /// A channel over `transport`: bulk traffic prefers HTTP/2.
    pub(super) fn over(&self, transport: Transport) -> Client {
        let lane = if transport == Transport::Http3 { Lane::User } else { Lane::Bulk };
        Client::new(self.channel(lane))
    }

    pub(super) async fn saw(&mut self) -> Seen {
        soon(self.seen.recv()).await.expect("the service lives")
    }
}

pub(super) fn channels(client: &Endpoint, path: &Arc<UdpPath>, config: Validated<ChannelConfig>) -> Channels {
    let connector = ThroughPath { endpoint: client.clone(), path: path.clone() };
    let metrics = RpcMetrics::new(client.metrics().clone());
    Channels::new(Arc::new(connector), guard(PolicyConfig::default()), config, metrics)
}

/// Sends QUIC through the path, and TCP directly.
struct ThroughPath {
    endpoint: Endpoint,
    path: Arc<UdpPath>,
}

#[async_trait]
impl Connector for ThroughPath {
    async fn connect_h3(&self, target: &Target) -> Result<H3Connection, ConnectFailure> {
        let target = Target { addresses: vec![self.path.address], ..target.clone() };
        self.endpoint.connect_h3(&target).await
    }

    async fn connect_h2(&self, target: &Target) -> Result<H2Connection, ConnectFailure> {
        self.endpoint.connect_h2(target).await
    }
}

/// Forwards datagrams between one client and the server, unless it is blocked.
pub(super) struct UdpPath {
    address: SocketAddr,
    blocked: Arc<AtomicBool>,
    _forwarding: Aborts,
}

impl UdpPath {
    async fn new(server: SocketAddr) -> Arc<Self> {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        far.connect(server).await.unwrap();
        let address = near.local_addr().unwrap();
        let blocked = Arc::<AtomicBool>::default();
        let forwarding = tokio::spawn({
            let blocked = blocked.clone();
            async move {
                let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
                let mut client = None;
                loop {
                    let (count, to_server) = tokio::select! {
                        Ok((bytes, from)) = near.recv_from(&mut out) => {
                            client = Some(from);
                            (bytes, true)
                        }
                        // The server's port may be closed, which shows as an error here.
                        received = far.recv(&mut back) => match received {
                            Ok(bytes) => (bytes, false),
                            Err(_) => continue,
                        },
                    };
                    if blocked.load(Ordering::Relaxed) {
                        continue;
                    }
                    let _ = match (to_server, client) {
                        (true, _) => far.send(&out[..count]).await,
                        (false, Some(client)) => near.send_to(&back[..count], client).await,
                        (false, None) => continue,
                    };
                }
            }
        });
        Arc::new(Self { address, blocked, _forwarding: Aborts(forwarding) })
    }

    pub(super) fn block(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}

/// The value of a counter in the text that Prometheus would read.
pub(super) fn counter(endpoint: &Endpoint, line_start: &str) -> u64 {
    let mut registry = prometheus_client::registry::Registry::default();
    endpoint.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text.lines().find(|line| line.starts_with(line_start));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}
