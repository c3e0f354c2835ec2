//! Ends of the connections that are measured: our nodes, stock tonic, and bare quinn.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, BytesMut};
use hyper_util::rt::TokioIo;
use mesh_core::SystemClock;
use mesh_transport::{
    TransportConfig,
    ca::DevCa,
    endpoint::{Endpoint, NodeSecret},
    identity::Identity,
    rpc::{
        Channel, ChannelConfig, Channels, ConnectFailure, Connector, EndpointGuard, H2Connection,
        H3Connection, Lane, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer, ServerConfig, Target,
        Transport,
    },
    tls::server_name,
};
use prost::Message as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::service::Routes;

use super::service::{Caller, Payload, Service};
use crate::node::valid;

pub(super) const SERVER: &str = "server";

/// Both windows of the bare quinn connection, as our channels have them.
const WINDOW_BYTES: u32 = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

pub(super) fn identity(ca: &DevCa, name: &str) -> Result<Identity> {
    Ok(ca.identity("bench", "worker", name)?)
}

pub(super) fn endpoint(ca: &DevCa, name: &str, bind: Option<SocketAddr>) -> Result<Endpoint> {
    let mut config = TransportConfig::loopback();
    if let Some(bind) = bind {
        config.bind = bind;
    }
    // The same for every process of that name, as a node that keeps its secret has it.
    let secret = NodeSecret::from_bytes([name.len() as u8; 32]);
    Ok(Endpoint::bind(valid(config)?, identity(ca, name)?, Some(secret))?)
}

fn guard(prefer: Option<Transport>) -> Result<EndpointGuard> {
    let mut config = PolicyConfig::default();
    config.endpoints.entry(MESH.to_owned()).or_default().prefer = prefer;
    Ok(Policy::new(&valid(config)?, Arc::new(SystemClock)).endpoint(None, MESH)?)
}

/// Our server. Serves until its endpoint is closed.
pub(super) fn serve(ca: &DevCa, bind: Option<SocketAddr>) -> Result<Endpoint> {
    let endpoint = endpoint(ca, SERVER, bind)?;
    let metrics = RpcMetrics::new(endpoint.metrics().clone());
    let routes = Routes::new(Service).prepare();
    let server = RpcServer::new(routes, guard(None)?, valid(ServerConfig::default())?, metrics);
    let incoming = endpoint.rpc_incoming().context("taken before")?;
    tokio::spawn(async move { server.serve(incoming).await });
    Ok(endpoint)
}

pub(super) fn target(address: SocketAddr) -> Result<Target> {
    Ok(Target::new(SERVER.parse()?, address))
}

/// A channel of its own, with its own connection.
pub(super) fn channel(
    client: &Endpoint,
    connector: Arc<dyn Connector>,
    server: SocketAddr,
    prefer: Transport,
) -> Result<Channel> {
    let metrics = RpcMetrics::new(client.metrics().clone());
    // A machine under load must not decide which transport is measured.
    let config = ChannelConfig { head_start: std::time::Duration::from_secs(5), ..ChannelConfig::default() };
    let channels = Channels::new(connector, guard(Some(prefer))?, valid(config)?, metrics);
    Ok(channels.open(target(server)?, Lane::User))
}

/// A channel straight from the endpoint.
pub(super) fn direct(client: &Endpoint, server: SocketAddr, prefer: Transport) -> Result<Channel> {
    channel(client, Arc::new(client.clone()), server, prefer)
}

/// Sends QUIC to another address than TCP.
pub(super) struct Detour {
    pub(super) endpoint: Endpoint,
    pub(super) udp: SocketAddr,
}

#[async_trait]
impl Connector for Detour {
    async fn connect_h3(&self, target: &Target) -> Result<H3Connection, ConnectFailure> {
        self.endpoint.connect_h3(&Target { addresses: vec![self.udp], ..target.clone() }).await
    }

    async fn connect_h2(&self, target: &Target) -> Result<H2Connection, ConnectFailure> {
        self.endpoint.connect_h2(target).await
    }
}

/// tonic's own server, behind the same TLS.
pub(super) async fn serve_tonic(ca: &DevCa) -> Result<SocketAddr> {
    let tls = TlsAcceptor::from(identity(ca, SERVER)?.server_config(&[b"h2"]));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let incoming = futures_util::stream::unfold((listener, tls), |(listener, tls)| async move {
        let accepted = async {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tls.accept(socket).await
        };
        let accepted = accepted.await;
        Some((accepted, (listener, tls)))
    });
    let server = tonic::transport::Server::builder().add_routes(Routes::new(Service));
    tokio::spawn(async move { server.serve_with_incoming(incoming).await });
    Ok(address)
}

/// tonic's own channel, with the same TLS.
pub(super) async fn tonic_channel(ca: &DevCa, server: SocketAddr) -> Result<tonic::transport::Channel> {
    let identity = identity(ca, "client")?;
    let connector = tower::service_fn(move |_| {
        let tls = TlsConnector::from(identity.client_config(&[b"h2"]));
        async move {
            let socket = TcpStream::connect(server).await?;
            socket.set_nodelay(true)?;
            let name = server_name(SERVER.parse().ok().as_ref());
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, socket).await?))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://server");
    Ok(endpoint.connect_with_connector(connector).await?)
}

fn quinn_settings() -> Arc<quinn::TransportConfig> {
    let mut settings = quinn::TransportConfig::default();
    settings
        .max_concurrent_bidi_streams(1024_u32.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into());
    Arc::new(settings)
}

fn quinn_endpoint(server: Option<quinn::ServerConfig>) -> Result<quinn::Endpoint> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let buffer_bytes = TransportConfig::default().http3.socket_buffer_bytes;
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
    Ok(quinn::Endpoint::new(config, server, socket.into(), runtime)?)
}

/// A quinn server: one stream for each call, messages as gRPC frames them and nothing else.
pub(super) fn serve_quinn(ca: &DevCa) -> Result<SocketAddr> {
    let crypto = QuicServerConfig::try_from(identity(ca, SERVER)?.server_config(&[b"raw"]))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(quinn_settings());
    let endpoint = quinn_endpoint(Some(config))?;
    let address = endpoint.local_addr()?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                loop {
                    let (send, recv) = connection.accept_bi().await?;
                    tokio::spawn(answer(send, recv));
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                anyhow::Ok(())
            });
        }
    });
    Ok(address)
}

async fn answer(mut send: quinn::SendStream, mut recv: quinn::RecvStream) -> Result<()> {
    let request = receive(&mut recv, &mut BytesMut::new()).await?.context("no request")?;
    if request.number == 0 {
        transmit(&mut send, &request).await?;
    }
    for _ in 0..request.number {
        transmit(&mut send, &Payload::large()).await?;
    }
    Ok(send.finish()?)
}

async fn transmit(stream: &mut quinn::SendStream, message: &Payload) -> Result<()> {
    let bytes = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(5 + bytes);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(bytes)?);
    message.encode(&mut buffer)?;
    Ok(stream.write_chunk(buffer.freeze()).await?)
}

async fn receive(stream: &mut quinn::RecvStream, buffer: &mut BytesMut) -> Result<Option<Payload>> {
    loop {
        if let Some((prefix, rest)) = buffer.split_first_chunk::<5>() {
            let [_compressed, length @ ..] = *prefix;
            let bytes = u32::from_be_bytes(length) as usize;
            if rest.len() >= bytes {
                buffer.advance(5);
                return Ok(Some(Payload::decode(buffer.split_to(bytes).freeze())?));
            }
            buffer.reserve(5 + bytes - buffer.len());
        }
        match stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
            None => return Ok(None),
        }
    }
}

/// A client of [`serve_quinn`].
#[derive(Clone)]
pub(super) struct Quinn {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Quinn {
    pub(super) async fn connect(ca: &DevCa, server: SocketAddr) -> Result<Self> {
        let crypto = QuicClientConfig::try_from(identity(ca, "client")?.client_config(&[b"raw"]))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(quinn_settings());
        let endpoint = quinn_endpoint(None)?;
        let name = server_name(Some(&SERVER.parse()?));
        let connection = endpoint.connect_with(config, server, &name.to_str())?.await?;
        Ok(Self { connection, _endpoint: endpoint })
    }
}

impl Caller for Quinn {
    async fn echo(&mut self) -> Result<()> {
        let (mut send, mut recv) = self.connection.open_bi().await?;
        transmit(&mut send, &Payload::small()).await?;
        send.finish()?;
        let answer = receive(&mut recv, &mut BytesMut::new()).await?.context("no answer")?;
        anyhow::ensure!(answer == Payload::small(), "the answer is not the question");
        Ok(())
    }

    async fn download(&mut self, messages: u64) -> Result<()> {
        let (mut send, mut recv) = self.connection.open_bi().await?;
        transmit(&mut send, &Payload::ask(messages)).await?;
        send.finish()?;
        let (mut received, mut buffer) = (0, BytesMut::new());
        while receive(&mut recv, &mut buffer).await?.is_some() {
            received += 1;
        }
        anyhow::ensure!(received == messages, "{received} of {messages} messages arrived");
        Ok(())
    }
}

/// Servers have threads of their own, as they would in another process.
pub(super) fn server_runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
