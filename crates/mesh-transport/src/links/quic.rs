//! Links over QUIC: greeting, datagrams, streams.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use mesh_core::{Direction, LinkDownReason, PAYLOAD_BYTES_MAX};
use quinn::{ConnectionError, RecvStream};

use super::{
    Inner,
    link::{Carrier, Link, NewLink},
    wire::{GREETING_BYTES_MAX, Hello, Verdict, Welcome, kind},
};
use crate::{
    endpoint::{QuicConnection, close, quic_error},
    error::TransportError,
};

/// Serves a dialer: answers its greetings until one is accepted, then carries payloads.
pub(super) async fn serve(inner: Arc<Inner>, connection: QuicConnection) {
    let patience = inner.endpoint.config().limits.handshake_timeout;
    let Ok(Some(link)) = tokio::time::timeout(patience, greet(&inner, connection)).await else { return };
    run(inner, link).await;
}

/// The link that a dialer got; `None` if it went away or broke the protocol.
async fn greet(inner: &Inner, connection: QuicConnection) -> Option<Arc<Link>> {
    let quic = connection.connection().clone();
    if connection.peer().node_id() == &inner.us {
        quic.close(close::PROTOCOL, b"this node calls itself, or another one has its name");
        return None;
    }
    loop {
        let (mut send, mut receive) = quic.accept_bi().await.ok()?;
        let body = receive.read_to_end(GREETING_BYTES_MAX).await.ok()?;
        let Some(hello) = Hello::decode(&body) else {
            quic.close(close::PROTOCOL, b"malformed greeting");
            return None;
        };
        let verdict = inner.judge(connection.peer(), &hello).await;
        if quic.close_reason().is_some() {
            return None;
        }
        let welcome = inner.welcome(verdict).encode();
        if verdict != Verdict::Accepted {
            // The dialer may ask again on the same connection, once it knows better.
            send.write_all(&welcome).await.ok()?;
            let _ = send.finish();
            continue;
        }
        let link = inner.make(NewLink {
            id: hello.link,
            peer: Arc::clone(connection.peer()),
            peer_instance: hello.instance,
            remote: quic.remote_address(),
            direction: Direction::Inbound,
            carrier: Carrier::Quic(connection),
        });
        // In force before the answer: the dialer may send as soon as it has that.
        if !inner.install(&link) {
            return None;
        }
        // If this fails the connection is lost, and carrying payloads reports it.
        let _ = send.write_all(&welcome).await;
        let _ = send.finish();
        return Some(link);
    }
}

/// Asks for a link.
pub(super) async fn ask(
    quic: &quinn::Connection,
    address: SocketAddr,
    hello: &Hello,
) -> Result<Welcome, TransportError> {
    let broken = |problem: &str| TransportError::Connection { address, problem: problem.to_owned() };
    let lost = |quic: &quinn::Connection| match quic.close_reason() {
        Some(error) => quic_error(address, &error),
        None => broken("the greeting was cut off"),
    };
    let (mut send, mut receive) = quic.open_bi().await.map_err(|error| quic_error(address, &error))?;
    send.write_all(&hello.encode()).await.map_err(|_| lost(quic))?;
    let _ = send.finish();
    let body = receive.read_to_end(GREETING_BYTES_MAX).await.map_err(|_| lost(quic))?;
    Welcome::decode(&body).ok_or_else(|| broken("the peer's greeting is malformed"))
}

/// Carries payloads until the connection ends, and reports why it did.
pub(super) async fn run(inner: Arc<Inner>, link: Arc<Link>) {
    let Carrier::Quic(connection) = &link.carrier else { return };
    let quic = connection.connection().clone();
    let error = {
        let mut streams = pin!(quic.accept_uni());
        let mut datagrams = pin!(quic.read_datagram());
        loop {
            tokio::select! {
                datagram = &mut datagrams => match datagram {
                    Ok(datagram) => {
                        datagrams.set(quic.read_datagram());
                        on_datagram(&inner, &link, datagram).await;
                    }
                    Err(error) => break error,
                },
                stream = &mut streams => match stream {
                    Ok(stream) => {
                        streams.set(quic.accept_uni());
                        // Bounded by the streams that a peer may open at once.
                        tokio::spawn(on_stream(Arc::clone(&inner), Arc::clone(&link), stream));
                    }
                    Err(error) => break error,
                },
            }
        }
    };
    let reason = reason(&link, &error);
    inner.ended(&link, reason);
}

async fn on_datagram(inner: &Inner, link: &Arc<Link>, mut datagram: Bytes) {
    if datagram.is_empty() {
        inner.counters.broken.inc();
        return;
    }
    let payload = datagram.split_off(1);
    match datagram[0] {
        kind::PAYLOAD => inner.deliver(link, payload).await,
        kind::PING => link.control(kind::PONG),
        kind::PONG => link.on_pong(),
        // Of a later version.
        _ => {}
    }
}

async fn on_stream(inner: Arc<Inner>, link: Arc<Link>, mut stream: RecvStream) {
    match read_payload(&mut stream).await {
        Some(payload) => inner.deliver(&link, payload).await,
        None => {
            let _ = stream.stop(close::PROTOCOL);
            inner.counters.broken.inc();
        }
    }
}

/// One whole payload, or `None` if it was cut, too long, or followed by something.
async fn read_payload(stream: &mut RecvStream) -> Option<Bytes> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.ok()?;
    let length = u32::from_be_bytes(length) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = stream.read_to_end(length).await.ok()?;
    (payload.len() == length).then(|| payload.into())
}

fn reason(link: &Link, error: &ConnectionError) -> LinkDownReason {
    match error {
        ConnectionError::Reset => LinkDownReason::Reset,
        ConnectionError::TimedOut => LinkDownReason::Idle,
        ConnectionError::LocallyClosed => link.local_reason(),
        ConnectionError::ApplicationClosed(_) => LinkDownReason::Closed,
        _ => LinkDownReason::Failed,
    }
}
