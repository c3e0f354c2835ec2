//! Asks a port whether anybody is there, without an identity.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Packets before we give up; one may be lost.
const ATTEMPTS: usize = 3;
/// A QUIC server answers no smaller first packet (RFC 9000, section 14.1).
const INITIAL_BYTES: usize = 1200;
/// A version that nobody speaks, of the form that is reserved for this (RFC 9000, section 15).
const GREASE_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// What a port said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Somebody is there.
    Answered,
    /// Nobody listens there.
    Refused,
    /// Nothing came back.
    Silent,
}

/// Whether a QUIC server answers: one that does not know a version says which it knows
/// (RFC 9000, section 6), before any certificate matters.
pub(super) async fn quic(address: SocketAddr) -> std::io::Result<Answer> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let packet = unknown_version();
    let mut reply = [0; 2048];
    for _ in 0..ATTEMPTS {
        if socket.send(&packet).await.is_err() {
            return Ok(Answer::Refused);
        }
        match timeout(ANSWER_TIMEOUT / 2, socket.recv(&mut reply)).await {
            Ok(Ok(length)) if is_version_negotiation(&reply[..length]) => return Ok(Answer::Answered),
            Ok(Ok(_)) | Err(_) => {}
            // An ICMP message says that the port is closed.
            Ok(Err(_)) => return Ok(Answer::Refused),
        }
    }
    Ok(Answer::Silent)
}

/// Whether somebody accepts TCP connections.
pub(super) async fn tcp(address: SocketAddr) -> Answer {
    match timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer::Answered,
        Ok(Err(_)) => Answer::Refused,
        Err(_) => Answer::Silent,
    }
}

fn unknown_version() -> Vec<u8> {
    let mut packet = Vec::with_capacity(INITIAL_BYTES);
    packet.push(0xc0);
    packet.extend_from_slice(&GREASE_VERSION);
    packet.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.extend_from_slice(&[8, 8, 7, 6, 5, 4, 3, 2, 1]);
    packet.resize(INITIAL_BYTES, 0);
    packet
}

fn is_version_negotiation(packet: &[u8]) -> bool {
    packet.len() >= 7 && packet[0] & 0x80 != 0 && packet[1..5] == [0; 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_free_port_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        assert_eq!(tcp(address).await, Answer::Answered);
        drop(listener);
        assert_eq!(tcp(address).await, Answer::Refused);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        drop(socket);
        assert_eq!(quic(address).await.expect("a socket"), Answer::Refused);
    }
}
