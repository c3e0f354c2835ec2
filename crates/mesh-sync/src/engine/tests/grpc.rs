//! The same over gRPC with mutual TLS, each engine on a port of its own.

use std::{net::Ipv4Addr, sync::Arc};

use mesh_core::{Settings as _, SystemClock};
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    rpc::{
        ChannelConfig, Channels, EndpointGuard, EndpointPolicy, MESH, Policy, PolicyConfig, RpcMetrics,
        RpcServer, ServerConfig, Transport,
    },
};

use super::bench::*;
use crate::{
    config::Access,
    engine::{Engine, EngineEvent, Notice, PeerAddress, RoundOutcome},
    rpc::{GrpcCarrier, SyncService},
};

fn guard(transport: Option<Transport>) -> EndpointGuard {
    let mut config = PolicyConfig::default();
    if let Some(prefer) = transport {
        let policy = EndpointPolicy { prefer: Some(prefer), ..EndpointPolicy::default() };
        config.endpoints.insert(MESH.to_owned(), policy);
    }
    let config = config.validate().expect("valid");
    Policy::new(&config, Arc::new(SystemClock)).endpoint(None, MESH).expect("it is there")
}

struct Node {
    engine: Engine,
    endpoint: Endpoint,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Node {
    async fn start(ca: &DevCa, number: u8, access: Access, over: Transport) -> Self {
        let mut config =
            TransportConfig { bind: (Ipv4Addr::LOCALHOST, 0).into(), ..TransportConfig::default() };
        config.http3.enabled = over == Transport::Http3;
        let identity = ca.identity("test", "worker", node(number).as_str()).expect("issued");
        let secret = NodeSecret::from_bytes([number; 32]);
        let endpoint =
            Endpoint::bind(config.validate().expect("valid"), identity, Some(secret)).expect("binds");
        let metrics = RpcMetrics::new(endpoint.metrics().clone());
        let channel = ChannelConfig::default().validate().expect("valid");
        let channels = Channels::new(Arc::new(endpoint.clone()), guard(Some(over)), channel, metrics.clone());
        let carrier = Arc::new(GrpcCarrier::new(channels));
        let mut options = options(number, carrier, config_of(access), &Disk::default());
        let address = endpoint.local_address().to_string();
        options.addresses = vec![crate::ticket::TicketPeer::new("grpc", &address).expect("valid")];
        let engine = Engine::start(options).await.expect("starts");
        let service = SyncService::new(engine.handle().handler()).into_server();
        let routes = tonic::service::Routes::new(service).prepare();
        let server = ServerConfig::default().validate().expect("valid");
        let rpc = RpcServer::new(routes, guard(None), server, metrics);
        let incoming = endpoint.rpc_incoming().expect("not taken");
        let serving = tokio::spawn(async move { rpc.serve(incoming).await });
        Self { engine, endpoint, serving }
    }

    fn address(&self) -> PeerAddress {
        let peer = self.engine.handle().local().clone();
        PeerAddress { peer, addresses: vec![self.endpoint.local_address().to_string()] }
    }
}

fn config_of(access: Access) -> crate::config::SyncConfig {
    config(access)
}

async fn converge(over: Transport) {
    let ca = DevCa::new("example.org").expect("made");
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Node::start(&ca, number, Access::Cluster, over).await);
    }
    let addresses: Vec<_> = nodes.iter().map(Node::address).collect();
    let syncs: Vec<_> = nodes.iter().map(|node| node.engine.handle()).collect();
    for sync in &syncs {
        sync.set_peers(addresses.clone());
    }
    for (at, sync) in syncs.iter().enumerate() {
        sync.put(&notes(), &list(), format!("from {at}"), vec![b'x'; 2000]).await.expect("written");
    }
    let text = "x".repeat(2000);
    for sync in &syncs {
        for at in 0..3 {
            has(sync, &format!("from {at}"), &text).await;
        }
    }
    let rounds = soon(syncs[0].sync_now(None, None, GENEROUS)).await.expect("rounds");
    assert!(rounds.iter().all(|round| round.outcome == RoundOutcome::Equal), "{rounds:?}");
    // A payload of many pieces.
    let mut events = syncs[2].subscribe();
    let payload = vec![7; 3 << 20];
    syncs[0].put(&notes(), &list(), "large", payload.clone()).await.expect("written");
    soon(async {
        while !matches!(events.next().await, Some(Notice::Event(EngineEvent::BlobComplete { .. }))) {}
    })
    .await;
    let read =
        syncs[2].read_blob(&notes(), &list(), b"large", Vec::new()).await.expect("whole").expect("exists");
    assert!(read.0 == payload);
    for sync in &syncs {
        let status = sync.status().await;
        assert!(status.datasets[0].peers.iter().all(|peer| peer.author.is_some()), "keys are known");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_converge_over_http3() {
    converge(Transport::Http3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_converge_over_http2() {
    converge(Transport::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_cluster_without_access_gets_nothing() {
    let ca = DevCa::new("example.org").expect("made");
    let host = Node::start(&ca, 1, Access::Ask, Transport::Http2).await;
    let guest = Node::start(&ca, 2, Access::Ask, Transport::Http2).await;
    host.engine.handle().put(&notes(), &list(), "key", "1").await.expect("written");
    guest.engine.handle().add_peer(host.address());
    let open = guest.engine.handle().connect(&node(1)).await.expect("it answers");
    assert!(open.is_empty());
    let ticket = host.engine.handle().ticket(&notes()).expect("it has an address");
    let state = guest.engine.handle().join(&ticket, "").await.expect("asked");
    assert_eq!(state, crate::bootstrap::AccessState::Pending);
    assert_eq!(guest.engine.handle().status().await.datasets[0].entries, 0);
    host.engine.handle().approve(&notes(), &guest.engine.handle().author()).await.expect("asked");
    has(&guest.engine.handle(), "key", "1").await;
}
