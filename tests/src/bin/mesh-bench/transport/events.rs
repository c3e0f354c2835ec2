//! Things that happen to connections: made, blocked, revoked, restarted.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_core::NodeId;
use mesh_transport::{
    ca::DevCa,
    endpoint::Endpoint,
    rpc::{Channel, Connector as _, Transport},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UdpSocket,
};

use super::{
    figures::{Figures, ms, now},
    nodes::{Detour, SERVER, channel, direct, endpoint, target},
    service::{Caller as _, Client},
};

/// Handshakes of each kind in a run.
const CONNECTS: usize = 20;
const GENEROUS: Duration = Duration::from_secs(30);

async fn until(mut condition: impl FnMut() -> bool) -> Result<()> {
    let polls = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(GENEROUS, polls).await.context("a condition did not come true in time")
}

/// From nothing to the answer of the first call, with a full and with a resumed handshake.
pub(super) async fn connect(figures: &mut Figures, ca: &DevCa, server: SocketAddr) -> Result<()> {
    for (name, transport) in [("h3", Transport::Http3), ("h2", Transport::Http2)] {
        let (mut full, mut resumed) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTS {
            // An identity of its own, which remembers no session.
            let client = endpoint(ca, "client", None)?;
            full.push(first_call(&client, server, transport).await?);
            resumed.push(first_call(&client, server, transport).await?);
            client.close();
        }
        for (kind, mut times) in [("full", full), ("resumed", resumed)] {
            times.sort();
            figures.note(format!("{name}_connect_{kind}_ms"), ms(times[times.len() / 2]));
        }
    }
    Ok(())
}

async fn first_call(client: &Endpoint, server: SocketAddr, transport: Transport) -> Result<Duration> {
    let begin = now();
    let channel = direct(client, server, transport)?;
    Client(channel.clone()).echo().await?;
    let took = begin.elapsed();
    ensure!(carries(&channel, transport), "the first call went over another transport");
    Ok(took)
}

fn carries(channel: &Channel, transport: Transport) -> bool {
    channel.current().is_some_and(|(current, _)| current == transport)
}

/// UDP is dropped in the middle of traffic: the slowest of the calls that lived through it.
pub(super) async fn blocked(figures: &mut Figures, ca: &DevCa, server: SocketAddr) -> Result<()> {
    let (path, blocked) = forward(server).await?;
    let client = endpoint(ca, "client", None)?;
    let connector = Arc::new(Detour { endpoint: client.clone(), udp: path });
    let channel = channel(&client, connector, server, Transport::Http3)?;
    let stop = Arc::<AtomicBool>::default();
    let (calls, slowest_us) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    channel.connect().await?;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let mut caller = Client(channel.clone());
            let (stop, calls, slowest_us) = (stop.clone(), calls.clone(), slowest_us.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let begin = now();
                    caller.echo().await?;
                    calls.fetch_add(1, Ordering::Relaxed);
                    let us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                    slowest_us.fetch_max(us, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let enough = calls.load(Ordering::Relaxed) + 200;
    until(|| calls.load(Ordering::Relaxed) > enough && carries(&channel, Transport::Http3)).await?;
    slowest_us.store(0, Ordering::Relaxed);
    let begin = now();
    blocked.store(true, Ordering::Relaxed);
    until(|| carries(&channel, Transport::Http2)).await?;
    let moved = begin.elapsed();
    let enough = calls.load(Ordering::Relaxed) + 200;
    until(|| calls.load(Ordering::Relaxed) > enough).await?;
    figures.note("blocked_move_ms", ms(moved));
    figures.note("blocked_slowest_call_ms", slowest_us.load(Ordering::Relaxed) as f64 / 1e3);
    let begin = now();
    blocked.store(false, Ordering::Relaxed);
    until(|| carries(&channel, Transport::Http3)).await?;
    figures.note("unblocked_return_ms", ms(begin.elapsed()));
    stop.store(true, Ordering::Relaxed);
    let mut failed = 0;
    for caller in callers {
        failed += u64::from(caller.await?.is_err());
    }
    figures.note("blocked_failed_calls", failed as f64);
    client.close();
    Ok(())
}

/// Forwards datagrams between one client and `server`, unless it is told to drop them.
async fn forward(server: SocketAddr) -> Result<(SocketAddr, Arc<AtomicBool>)> {
    let near = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let far = UdpSocket::bind(("127.0.0.1", 0)).await?;
    far.connect(server).await?;
    let address = near.local_addr()?;
    let blocked = Arc::<AtomicBool>::default();
    let drops = blocked.clone();
    tokio::spawn(async move {
        let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            let (bytes, to_server) = tokio::select! {
                Ok((bytes, from)) = near.recv_from(&mut out) => {
                    client = Some(from);
                    (bytes, true)
                }
                Ok(bytes) = far.recv(&mut back) => (bytes, false),
                else => continue,
            };
            if drops.load(Ordering::Relaxed) {
                continue;
            }
            let _ = match (to_server, client) {
                (true, _) => far.send(&out[..bytes]).await,
                (false, Some(client)) => near.send_to(&back[..bytes], client).await,
                (false, None) => continue,
            };
        }
    });
    Ok((address, blocked))
}

/// From the server's change of trust until the revoked client's live connection is closed.
pub(super) async fn revoke(figures: &mut Figures, ca: &DevCa, server: &Endpoint) -> Result<()> {
    let client = endpoint(ca, "revoked", None)?;
    let connected = client.connect_h3(&target(server.local_address())?).await?;
    // The server has it as well once the client's certificate arrived there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    ensure!(connected.connection.close_reason().is_none(), "the connection is closed already");
    let name: NodeId = "revoked".parse()?;
    let begin = now();
    server.identity().deny(BTreeSet::from([name]));
    tokio::time::timeout(GENEROUS, connected.connection.closed()).await.context("was not closed")?;
    figures.note("revoke_ms", ms(begin.elapsed()));
    server.identity().deny(BTreeSet::new());
    client.close();
    Ok(())
}

/// The server's process is killed and started again: from the next packet that is sent on
/// the old connection until that is known to be dead.
pub(super) async fn restart(figures: &mut Figures, ca: &DevCa, ca_folder: &Path) -> Result<()> {
    let client = endpoint(ca, "client", None)?;
    let (mut process, address) = start_server(ca_folder, None).await?;
    let connected = client.connect_h3(&target(address)?).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    process.kill().await?;
    let (_process, _) = start_server(ca_folder, Some(address)).await?;
    let connection = connected.connection;
    ensure!(connection.close_reason().is_none(), "the connection was found dead before a packet was sent");
    let begin = now();
    let mut stream = connection.open_uni().await?;
    stream.write_all(b"!").await?;
    let ended = tokio::time::timeout(GENEROUS, connection.closed()).await.context("was not closed")?;
    figures.note("reset_ms", ms(begin.elapsed()));
    ensure!(matches!(ended, quinn::ConnectionError::Reset), "ended by {ended} rather than a reset");
    client.close();
    Ok(())
}

async fn start_server(
    ca_folder: &Path,
    bind: Option<SocketAddr>,
) -> Result<(tokio::process::Child, SocketAddr)> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("transport-server").arg("--ca").arg(ca_folder).stdout(Stdio::piped()).kill_on_drop(true);
    if let Some(bind) = bind {
        command.args(["--bind", &bind.to_string()]);
    }
    let mut process = command.spawn().with_context(|| format!("start a process of {SERVER}"))?;
    let output = process.stdout.take().context("its output is captured")?;
    let line = BufReader::new(output).lines().next_line().await?.context("the server did not start")?;
    Ok((process, line.parse()?))
}
