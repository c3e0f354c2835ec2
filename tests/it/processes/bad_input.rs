//! Strangers who send what they should not, and many who send nothing.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh_core::{Clock, SystemClock};
use mesh_sim::harness::{Knock, Plan, knock};

use super::PATIENCE;

/// Connections that never say anything: more than a port takes on at once.
const SILENT: usize = 600;
/// Datagrams of nonsense.
const DATAGRAMS: u64 = 5_000;

#[test]
fn nonsense_on_every_port_is_refused_and_nobody_else_notices() -> Result<()> {
    let cluster = Plan::new("nonsense", 3).start()?;
    let started = SystemClock.now();
    let target = cluster.addresses("n-1")?;
    for address in [target.mesh, target.edge] {
        refused(address, b"GET /control/v1/peers HTTP/1.1\r\nhost: mesh\r\n\r\n")?;
        refused(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        refused(address, &noise(1, 64 * 1024))?;
        // A handshake record that announces the greatest length there is.
        refused(address, &[&[0x16, 3, 1, 0xff, 0xff][..], &noise(2, 64 * 1024)].concat())?;
    }
    let good = cluster.authority().issue("worker", "good")?;
    for protocol in [&b"http/1.1"[..], b"mesh-gossip/99"] {
        let answer = knock(target.mesh, Some(&good), protocol)?;
        ensure!(answer != Knock::Welcome, "the mesh port speaks {}", String::from_utf8_lossy(protocol));
    }
    let udp = UdpSocket::bind("127.0.0.1:0").context("cannot open a UDP socket")?;
    for seed in 0..DATAGRAMS {
        let size = 1 + (seed as usize * 37) % 1400;
        let mut datagram = noise(seed, size);
        // Every other one looks like the start of a QUIC connection (RFC 9000, section 17.2.2).
        if seed % 2 == 0 && size > 5 {
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        // A full socket buffer loses some, as networks do.
        let _ = udp.send_to(&datagram, target.mesh);
    }
    ensure!(cluster.page("n-1", "/readyz")?.status == 200, "the node is ready all the time");
    cluster.board().never(Duration::from_secs(3), "somebody is suspected", |boards| {
        cluster.running().any(|name| {
            ["suspected", "died"].iter().any(|c| boards.of(name).changes(c, started).next().is_some())
        })
    })?;
    let lines = cluster.board().look().of("n-1").logged(&["refused"], started).count();
    ensure!(lines > 0, "the node says nothing of strangers");
    let seconds = SystemClock.now().since(started).as_secs() as usize + 1;
    // One a second for each source and port, and two ports.
    ensure!(lines <= 2 * seconds + 2, "strangers made {lines} log lines in {seconds} seconds");
    cluster.finish()
}

#[test]
fn hundreds_of_silent_connections_keep_nobody_out() -> Result<()> {
    let mut cluster = Plan::new("silence", 3).start()?;
    let started = SystemClock.now();
    let target = cluster.addresses("n-1")?;
    let mut silent = Vec::new();
    for address in [target.mesh, target.edge] {
        for number in 0..SILENT {
            let mut stream =
                TcpStream::connect(address).with_context(|| format!("connection {number} to {address}"))?;
            if number % 2 == 0 {
                // The first bytes of a handshake that never goes on. It may have been closed already.
                let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]);
            }
            silent.push(stream);
        }
    }
    ensure!(cluster.page("n-1", "/readyz")?.status == 200, "the node answers in the crowd");
    // Its only seed could be any of them; n-1 is one.
    let leaf = cluster.authority().issue("worker", "n-4")?;
    cluster.add("n-4", leaf, None)?;
    cluster.start("n-4")?;
    cluster.wait_until_whole()?;
    cluster.board().never(Duration::from_secs(5), "somebody dies", |boards| {
        cluster.running().any(|name| boards.of(name).changes("died", started).next().is_some())
    })?;
    // The node gets rid of them by itself.
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE))?;
        closed(stream)?;
    }
    cluster.finish()
}

/// Sends something and sees that the node closes the connection without serving it.
fn refused(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may close before everything is sent.
    let _ = stream.write_all(bytes);
    let answer = closed(&mut stream)?;
    ensure!(!answer.starts_with(b"HTTP/1"), "{address} served a plaintext request");
    Ok(())
}

/// Waits until the other side closes; what it said before, which a TLS alert may be.
fn closed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("a connection is still open after {PATIENCE:?}")
        }
        // Closed with bytes of ours unread.
        Err(_) => Ok(answer),
    }
}

/// Bytes that mean nothing, the same for the same seed (an xorshift).
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(step).take(size).collect()
}
