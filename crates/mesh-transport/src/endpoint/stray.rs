//! Datagrams that belong to nobody: noticed as they come in, so that they can be counted.
//!
//! quinn drops them without a word. What can be told without keys is told here: packets that
//! are no QUIC, those of a version that we do not speak, and those for a connection that we
//! never gave an id to. Our connection ids are signed with a key of ours, which a random
//! packet does not hit.
//!
//! Not told: packets that have the form of a first packet of QUIC version 1, or bear an id
//! that we once gave, and can't be decrypted. A stateless reset is made to look like a stray,
//! and one or two are counted as such when a peer restarts.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime as _, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator as _, DEFAULT_SUPPORTED_VERSIONS, HashedConnectionIdGenerator,
};

use super::NodeSecret;

/// Shorter first packets are dropped by the protocol's own rule (RFC 9000, section 14.1);
/// of longer ones with another version the sender is told which versions there are.
const FIRST_PACKET_BYTES_MIN: usize = 1200;
/// The longest connection id in a packet of a known version.
const ID_BYTES_MAX: usize = 20;

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// It is no QUIC packet.
    Malformed,
    /// It is of another version, or looks like that.
    Version,
    /// It is for no connection of ours.
    Unknown,
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "a datagram is no QUIC packet",
            Self::Version => "a datagram is of another version of QUIC, or no QUIC packet",
            Self::Unknown => "a datagram is for no connection of ours, or no QUIC packet",
        })
    }
}

/// A socket for an endpoint with this secret, which tells `report` of each stray datagram.
/// That is called while packets are received: it must be quick.
pub(crate) fn watched_socket(
    socket: UdpSocket,
    secret: &NodeSecret,
    report: impl Fn(SocketAddr, Stray) + Send + Sync + 'static,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let inner = quinn::TokioRuntime.wrap_udp_socket(socket)?;
    Ok(Arc::new(Watched { inner, ids: secret.connection_ids(), report }))
}

struct Watched<F> {
    inner: Arc<dyn AsyncUdpSocket>,
    ids: HashedConnectionIdGenerator,
    report: F,
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<F: Fn(SocketAddr, Stray) + Send + Sync + 'static> AsyncUdpSocket for Watched<F> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter().zip(&*meta).take(received) {
            // The system may have joined datagrams of one sender.
            for datagram in buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1)) {
                if let Some(stray) = judge(datagram, &self.ids) {
                    (self.report)(meta.addr, stray);
                }
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Looks at the parts of a packet that are not encrypted (RFC 8999, RFC 9000 section 17).
fn judge(datagram: &[u8], ids: &HashedConnectionIdGenerator) -> Option<Stray> {
    let ours = |id: &[u8]| id.len() == ids.cid_len() && ids.validate(&ConnectionId::new(id)).is_ok();
    let (&first, rest) = datagram.split_first()?;
    if first & 0x80 == 0 {
        return match rest.get(..ids.cid_len()) {
            None => Some(Stray::Malformed),
            Some(id) => (!ours(id)).then_some(Stray::Unknown),
        };
    }
    let Some((version, rest)) = rest.split_first_chunk() else { return Some(Stray::Malformed) };
    let version = u32::from_be_bytes(*version);
    let id = rest.split_first().and_then(|(&length, rest)| rest.get(..usize::from(length)));
    match (version, id) {
        (_, None) => Some(Stray::Malformed),
        // The answer of a server that we called with a version it does not know.
        (0, Some(id)) => (!ours(id)).then_some(Stray::Unknown),
        (version, _) if !DEFAULT_SUPPORTED_VERSIONS.contains(&version) => {
            Some(if datagram.len() < FIRST_PACKET_BYTES_MIN { Stray::Malformed } else { Stray::Version })
        }
        (_, Some(id)) if id.len() > ID_BYTES_MAX => Some(Stray::Malformed),
        // The client chooses the id in its first packets, and in early data. Handshake and
        // Retry packets bear an id of ours.
        (_, Some(id)) => (first & 0x20 != 0 && !ours(id)).then_some(Stray::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(datagram: &[u8]) -> Option<Stray> {
        judge(datagram, &NodeSecret::from_bytes([7; 32]).connection_ids())
    }

    fn long(first: u8, version: u32, id: &[u8], bytes: usize) -> Vec<u8> {
        let mut packet = [&[first][..], &version.to_be_bytes(), &[id.len() as u8], id].concat();
        packet.resize(bytes.max(packet.len()), 0);
        packet
    }

    #[test]
    fn strays_are_told_from_packets_by_their_outside() {
        let own = NodeSecret::from_bytes([7; 32]).connection_ids().generate_cid();
        let short = |id: &[u8]| [&[0x40][..], id, &[9; 30]].concat();
        assert_eq!(judged(&short(&own)), None);
        assert_eq!(judged(&short(&[1; 8])), Some(Stray::Unknown));
        assert_eq!(judged(&short(&own)[..5]), Some(Stray::Malformed));

        let initial = |id: &[u8]| long(0xc0, 1, id, 1200);
        assert_eq!(judged(&initial(&[5; 12])), None);
        assert_eq!(judged(&initial(&[5; 21])), Some(Stray::Malformed));
        assert_eq!(judged(&long(0xd0, 1, &[5; 12], 50)), None, "early data");
        assert_eq!(judged(&long(0xe0, 1, &[5; 8], 50)), Some(Stray::Unknown), "handshake");
        assert_eq!(judged(&long(0xe0, 1, &own, 50)), None);
        assert_eq!(judged(&long(0x80, 0, &own, 50)), None, "version negotiation");
        assert_eq!(judged(&long(0x80, 0, b"", 50)), Some(Stray::Unknown));
        assert_eq!(judged(&long(0xc0, 0x0a1a_2a3a, &[5; 8], 1200)), Some(Stray::Version));
        assert_eq!(judged(&long(0xc0, 0x0a1a_2a3a, &[5; 8], 1199)), Some(Stray::Malformed));
        assert_eq!(judged(&[0xc0, 0, 0]), Some(Stray::Malformed));
        assert_eq!(judged(b""), None);
    }

    #[test]
    fn random_bytes_are_strays() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..10_000 {
            let mut bytes = vec![0; random.usize(1..1500)];
            random.fill(&mut bytes);
            assert!(judged(&bytes).is_some(), "round {round}");
        }
    }
}
