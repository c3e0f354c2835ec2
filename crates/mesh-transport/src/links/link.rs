//! One link: what it runs over, and sending on it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use mesh_core::{Direction, LinkDownReason, LinkPath, PeerIdentity};
use quinn::SendDatagramError;
use tokio::sync::{Notify, mpsc, mpsc::error::TrySendError};

use super::{
    events::Quota,
    wire::{self, DATAGRAM_BYTES_MAX, LinkId, kind},
};
use crate::endpoint::{QuicConnection, close};

/// What a link runs over.
pub(crate) enum Carrier {
    Quic(QuicConnection),
    /// Frames for the body that we send; closing the channel ends it.
    Http2 {
        frames: mpsc::Sender<Bytes>,
        stop: Arc<Notify>,
        revoked: Arc<AtomicBool>,
    },
}

/// One link to one peer.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: Arc<PeerIdentity>,
    /// The run of the peer's process.
    pub(crate) peer_instance: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) carrier: Carrier,
    pub(crate) quota: Arc<Quota>,
    /// Large payloads on their way.
    large: AtomicUsize,
    large_max: usize,
    pongs: AtomicU64,
    /// Wakes whoever waits for a pong; also when the link ends.
    pub(crate) pong: Notify,
    ended: AtomicBool,
    /// Which event announced it, for telling whether a caller has had its answer.
    pub(crate) announced: AtomicU64,
}

/// Why a payload was not sent.
pub(crate) enum NotSent {
    Busy,
    Down,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {:x} to {} over {}", self.id, self.peer.node_id(), self.path().as_str())
    }
}

/// What every link is made from.
pub(crate) struct NewLink {
    pub(crate) id: LinkId,
    pub(crate) peer: Arc<PeerIdentity>,
    pub(crate) peer_instance: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) carrier: Carrier,
}

impl Link {
    pub(crate) fn new(new: NewLink, queue_max: usize, large_max: usize) -> Arc<Self> {
        let NewLink { id, peer, peer_instance, remote, direction, carrier } = new;
        Arc::new(Self {
            id,
            peer,
            peer_instance,
            remote,
            direction,
            carrier,
            quota: Quota::new(queue_max),
            large: AtomicUsize::new(0),
            large_max,
            pongs: AtomicU64::new(0),
            pong: Notify::new(),
            ended: AtomicBool::new(false),
            announced: AtomicU64::new(0),
        })
    }

    pub(crate) fn path(&self) -> LinkPath {
        match self.carrier {
            Carrier::Quic(_) => LinkPath::Quic,
            Carrier::Http2 { .. } => LinkPath::Http2,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Marks it as over and wakes whoever waits for a pong.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.pong.notify_waiters();
    }

    /// Tells the peer that it is over.
    pub(crate) fn close(&self, code: quinn::VarInt) {
        match &self.carrier {
            Carrier::Quic(connection) => connection.connection().close(code, b""),
            Carrier::Http2 { stop, .. } => stop.notify_one(),
        }
    }

    /// Why it ended when our own side ended it.
    pub(crate) fn local_reason(&self) -> LinkDownReason {
        let revoked = match &self.carrier {
            Carrier::Quic(connection) => connection.is_revoked(),
            Carrier::Http2 { revoked, .. } => revoked.load(Ordering::Acquire),
        };
        if revoked { LinkDownReason::Revoked } else { LinkDownReason::Local }
    }

    pub(crate) fn pongs(&self) -> u64 {
        self.pongs.load(Ordering::Acquire)
    }

    pub(crate) fn on_pong(&self) {
        self.pongs.fetch_add(1, Ordering::AcqRel);
        self.pong.notify_waiters();
    }

    pub(crate) fn ping(&self) {
        self.control(kind::PING);
    }

    pub(crate) fn control(&self, kind: u8) {
        let padding = [0; wire::PING_BYTES];
        match &self.carrier {
            // Lost or refused ones are sent again by whoever waits for the answer.
            Carrier::Quic(connection) => {
                let _ = connection.connection().send_datagram(wire::datagram(kind, &padding));
            }
            Carrier::Http2 { frames, .. } => {
                let _ = frames.try_send(wire::frame(kind, &[]));
            }
        }
    }

    /// Hands one payload to the carrier. Its size was checked before.
    pub(crate) fn send(
        self: &Arc<Self>,
        payload: Bytes,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), NotSent> {
        match &self.carrier {
            Carrier::Quic(connection) => self.send_quic(connection.connection(), payload, runtime),
            Carrier::Http2 { frames, .. } => {
                frames.try_send(wire::frame(kind::PAYLOAD, &payload)).map_err(|error| match error {
                    TrySendError::Full(_) => NotSent::Busy,
                    TrySendError::Closed(_) => NotSent::Down,
                })
            }
        }
    }

    fn send_quic(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        payload: Bytes,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), NotSent> {
        if payload.len() <= DATAGRAM_BYTES_MAX {
            // Without this check the connection would take it and drop an older one.
            if connection.datagram_send_buffer_space() < payload.len() + 1 {
                return Err(NotSent::Busy);
            }
            match connection.send_datagram(wire::datagram(kind::PAYLOAD, &payload)) {
                Ok(()) => return Ok(()),
                Err(SendDatagramError::ConnectionLost(_)) => return Err(NotSent::Down),
                // A path with a small MTU: a stream takes any size.
                Err(_) => {}
            }
        }
        if self.large.fetch_add(1, Ordering::AcqRel) >= self.large_max {
            self.large.fetch_sub(1, Ordering::AcqRel);
            return Err(NotSent::Busy);
        }
        let (link, connection) = (Arc::clone(self), connection.clone());
        runtime.spawn(async move {
            // A failure means that the connection is lost, which the link's own task reports.
            let _ = send_on_stream(&connection, &payload).await;
            link.large.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close(close::DONE);
    }
}

/// The length goes first: an aborted stream must not look like a shorter payload.
async fn send_on_stream(connection: &quinn::Connection, payload: &Bytes) -> Result<(), quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    let length = u32::try_from(payload.len()).expect("checked against the limit before");
    let mut chunks = [Bytes::copy_from_slice(&length.to_be_bytes()), payload.clone()];
    stream.write_all_chunks(&mut chunks).await?;
    let _ = stream.finish();
    Ok(())
}
