//! Opening a link, and checking one that is there.

use std::{sync::Arc, time::Duration};

use mesh_core::{ConnectError, DatagramEvent, Direction, LinkDownReason, LinkPath, LinkTarget, NodeId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Inner, connect_error, http2,
    link::{Carrier, Link, NewLink},
    quic, random_id,
    wire::{self, Hello, LinkId, Verdict},
};
use crate::{
    endpoint::{MeshStream, QuicConnection, close},
    error::TransportError,
    tls::alpn,
};

/// Time between two pings of a link that is checked.
const PING_INTERVAL: Duration = Duration::from_millis(25);

/// QUIC's head start grows by this many times what we were late at its end, at most by so much.
const LATE_PATIENCE: u32 = 10;
const LATE_PATIENCE_MAX: Duration = Duration::from_secs(2);

/// Starts an attempt, or joins the one under way.
pub(super) fn start(inner: &Arc<Inner>, target: LinkTarget) {
    let started = {
        let mut table = inner.table();
        if inner.events.is_closed() {
            return;
        }
        if let Some(waiting) = table.dials.get_mut(&target) {
            *waiting += 1;
            return;
        }
        let known = target.node_id.as_ref().is_some_and(|node_id| table.current(node_id).is_some());
        let limit = if table.dials.len() >= inner.config.dials_max {
            Some(inner.config.dials_max)
        } else if !known && table.links >= inner.config.links_max {
            Some(inner.config.links_max)
        } else {
            None
        };
        if let Some(limit) = limit {
            inner.metrics().link_connect("limit");
            inner.events.push(DatagramEvent::ConnectFailed { target, error: ConnectError::Limit(limit) });
            return;
        }
        table.dials.insert(target.clone(), 1);
        table.announcements
    };
    let inner = Arc::clone(inner);
    inner.runtime.clone().spawn(async move {
        let limit = inner.config.connect_timeout;
        let outcome = match timeout(limit, attempt(&inner, &target)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(TransportError::Timeout { address: target.address, after: limit }),
        };
        finish(&inner, target, started, outcome);
    });
}

/// Answers everybody who asked for this target.
fn finish(inner: &Inner, target: LinkTarget, started: u64, outcome: Result<Arc<Link>, TransportError>) {
    let mut table = inner.table();
    let waiting = table.dials.remove(&target).unwrap_or(1);
    if let Some(node_id) = &target.node_id {
        table.peer(node_id).changed.notify_waiters();
    }
    if inner.events.is_closed() {
        return;
    }
    let error = match outcome {
        Ok(link) => {
            let in_force = table.current(link.peer.node_id()).cloned();
            if let Some(link) = in_force {
                inner.metrics().link_connect(link.path().as_str());
                // An announcement since the start was the answer for one of them.
                let answered =
                    usize::from(link.announced.load(std::sync::atomic::Ordering::Acquire) > started);
                for _ in answered..waiting {
                    inner.announce(&mut table, &link);
                }
                return;
            }
            // It came up and went down again, both of which were told.
            if waiting == 1 {
                return;
            }
            ConnectError::Failed("the link went down at once".to_owned())
        }
        Err(error) => {
            debug!(?target, error = &error as &dyn std::error::Error, "no link");
            if error.is_identity()
                && let Some(suppressed) = inner.quiet.allow(target.address)
            {
                let error = &error as &dyn std::error::Error;
                warn!(address = %target.address, error, suppressed, "no link: a certificate is not accepted");
            }
            connect_error(error)
        }
    };
    let word = match error {
        ConnectError::Refused => "refused",
        ConnectError::Timeout => "timeout",
        ConnectError::Identity(_) => "identity",
        ConnectError::Limit(_) => "limit",
        _ => "failed",
    };
    for _ in 0..waiting {
        inner.metrics().link_connect(word);
        let target = target.clone();
        inner.events.push(DatagramEvent::ConnectFailed { target, error: error.clone() });
    }
}

async fn attempt(inner: &Arc<Inner>, target: &LinkTarget) -> Result<Arc<Link>, TransportError> {
    let link = target.node_id.as_ref().and_then(|node_id| inner.table().current(node_id).cloned());
    match link {
        Some(link) => check(inner, target, link).await,
        None => race(inner, target, None).await,
    }
}

/// Proves that a link is alive, or replaces it.
async fn check(
    inner: &Arc<Inner>,
    target: &LinkTarget,
    link: Arc<Link>,
) -> Result<Arc<Link>, TransportError> {
    let silent_until = Instant::now() + inner.config.refusal_grace;
    let (hurry, id) = (Notify::new(), link.id);
    let fallback = async {
        tokio::select! {
            () = sleep_until(silent_until) => {}
            () = hurry.notified() => {}
        }
        race(inner, target, Some(id)).await
    };
    tokio::pin!(fallback);
    let alive = tokio::select! {
        biased;
        alive = answers(&link) => alive,
        outcome = &mut fallback => {
            if matches!(outcome, Err(TransportError::Refused { .. })) {
                inner.ended(&link, LinkDownReason::Failed);
                link.close(close::DONE);
            }
            return outcome;
        }
    };
    if alive {
        return Ok(link);
    }
    hurry.notify_one();
    fallback.await
}

/// Pings until the peer answers; false if the link ends instead.
async fn answers(link: &Link) -> bool {
    let before = link.pongs();
    loop {
        let answered = link.pong.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        if link.is_ended() {
            return false;
        }
        if link.pongs() != before {
            return true;
        }
        link.ping();
        let _ = timeout(PING_INTERVAL, answered).await;
    }
}

/// QUIC and TCP at once, with a head start for QUIC; the first link wins.
async fn race(
    inner: &Arc<Inner>,
    target: &LinkTarget,
    replacing: Option<LinkId>,
) -> Result<Arc<Link>, TransportError> {
    let hurry = Notify::new();
    let over_quic = async {
        let result = over_quic(inner, target, replacing).await;
        if result.is_err() {
            hurry.notify_one();
        }
        result
    };
    let over_tcp = over_tcp(inner, target, replacing, &hurry);
    tokio::pin!(over_quic, over_tcp);
    let mut quic_pending = inner.endpoint.config().http3.enabled;
    if !quic_pending {
        hurry.notify_one();
    }
    let mut tcp_error = None;
    loop {
        tokio::select! {
            result = &mut over_quic, if quic_pending => match result {
                Ok(link) => return Ok(link),
                // The peer was there and said no; it would say so over TCP as well.
                Err(error) if error.is_identity() => return Err(error),
                Err(error) => {
                    debug!(?target, error = &error as &dyn std::error::Error, "no link over QUIC");
                    quic_pending = false;
                    if let Some(error) = tcp_error {
                        return Err(error);
                    }
                }
            },
            result = &mut over_tcp, if tcp_error.is_none() => match result {
                Ok(link) => return Ok(link),
                // QUIC had its time to prove the refusal wrong.
                Err(error) if error.is_identity() || matches!(error, TransportError::Refused { .. }) || !quic_pending => {
                    return Err(error);
                }
                Err(error) => tcp_error = Some(error),
            },
        }
    }
}

async fn over_quic(
    inner: &Arc<Inner>,
    target: &LinkTarget,
    replacing: Option<LinkId>,
) -> Result<Arc<Link>, TransportError> {
    let transport = Arc::clone(&inner.transport);
    let connection =
        inner.endpoint.connect_quic(target.address, target.node_id.as_ref(), alpn::GOSSIP, transport).await?;
    negotiate(inner, target, Dialled::Quic(connection), replacing).await
}

/// Whether anything listens is asked early, since it is cheap; the costly rest waits for QUIC's head start.
async fn over_tcp(
    inner: &Arc<Inner>,
    target: &LinkTarget,
    replacing: Option<LinkId>,
    hurry: &Notify,
) -> Result<Arc<Link>, TransportError> {
    let LinkTarget { node_id, address } = target;
    let (head_start, grace) = (inner.config.head_start, inner.config.refusal_grace);
    let begin = Instant::now();
    let mut hurried = false;
    tokio::select! {
        () = sleep(grace / 4) => {}
        () = hurry.notified() => hurried = true,
    }
    let socket = match inner.endpoint.open_tcp(*address).await {
        Err(error @ TransportError::Refused { .. }) if !hurried => {
            tokio::select! {
                () = sleep(grace) => {}
                () = hurry.notified() => {}
            }
            return Err(error);
        }
        result => result?,
    };
    if !hurried {
        let starved = async {
            sleep_until(begin + head_start).await;
            // Who wakes late has not looked at QUIC either, and a second handshake makes all of them later.
            sleep((begin + head_start).elapsed().saturating_mul(LATE_PATIENCE).min(LATE_PATIENCE_MAX)).await;
        };
        tokio::select! {
            () = starved => {}
            () = hurry.notified() => {}
        }
    }
    let stream: MeshStream =
        inner.endpoint.secure_tcp(socket, *address, node_id.as_ref(), alpn::GOSSIP).await?;
    let dialled = http2::handshake(inner, stream).await?;
    negotiate(inner, target, Dialled::Http2(dialled), replacing).await
}

/// A secured connection that may become a link.
enum Dialled {
    Quic(QuicConnection),
    Http2(http2::Dialled),
}

/// Marks that we are asking a peer for a link, until dropped.
struct Asking<'a> {
    inner: &'a Inner,
    node_id: NodeId,
    link: LinkId,
    /// Whether the link came about.
    succeeded: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut table = self.inner.table();
        let peer = table.peer(&self.node_id);
        peer.asking = None;
        if !self.succeeded {
            // The peer may hold it already; the next greeting says that it is dead.
            peer.ended = self.link;
        }
        peer.changed.notify_waiters();
    }
}

/// Asks the peer for a link on this connection, unless one came up meanwhile.
async fn negotiate(
    inner: &Arc<Inner>,
    target: &LinkTarget,
    mut dialled: Dialled,
    replacing: Option<LinkId>,
) -> Result<Arc<Link>, TransportError> {
    let node_id = match &dialled {
        Dialled::Quic(connection) => connection.peer().node_id().clone(),
        Dialled::Http2(dialled) => dialled.peer.node_id().clone(),
    };
    let address = target.address;
    let failed = |problem: &str| TransportError::Connection { address, problem: problem.to_owned() };
    if node_id == inner.us {
        return Err(failed("the node at that address is this one, or has its name"));
    }
    // A second question follows only if the peer still holds a link that we have given up.
    for _ in 0..2 {
        let (mut asking, hello) = match begin(inner, &node_id, replacing).await {
            Begin::Existing(link) => return Ok(link),
            Begin::Ask(asking, hello) => (asking, hello),
        };
        let (welcome, opened) = match &mut dialled {
            Dialled::Quic(connection) => (quic::ask(connection.connection(), address, &hello).await?, None),
            Dialled::Http2(dialled) => {
                let (welcome, opened) = dialled.ask(&hello).await?;
                (welcome, Some(opened))
            }
        };
        match welcome.verdict {
            Verdict::Accepted => {
                let link = match (dialled, opened) {
                    (Dialled::Quic(connection), _) => {
                        quic_link(inner, connection, hello.link, welcome.instance)
                    }
                    (Dialled::Http2(dialled), Some(opened)) => {
                        dialled.link(inner, opened, hello.link, welcome.instance)
                    }
                    (Dialled::Http2(_), None) => unreachable!("asking over HTTP/2 opens a body"),
                };
                let (link, carry) = link;
                let in_force = inner.install_asked(&link, replacing).ok_or(TransportError::Closed)?;
                if Arc::ptr_eq(&in_force, &link) {
                    asking.succeeded = true;
                    tokio::spawn(carry);
                    if link.path() == LinkPath::Http2 {
                        return_to_quic(inner, &link, target);
                    }
                } else {
                    link.close(close::SUPERSEDED);
                }
                return Ok(in_force);
            }
            Verdict::Duplicate(theirs) => {
                asking.succeeded = true; // nothing came of this id, so there is nothing to report about it
                let ours = inner.table().current(&node_id).cloned();
                if let Some(link) = ours.filter(|link| link.id == theirs) {
                    return Ok(link);
                }
                drop(asking);
                inner.table().peer(&node_id).ended = theirs;
            }
            Verdict::Limit => return Err(failed("the peer's limit of links is reached")),
            Verdict::Version => {
                let error = welcome.versions.negotiate("links", wire::VERSIONS);
                return Err(failed(&error.err().map_or_else(String::new, |error| error.to_string())));
            }
        }
    }
    Err(failed("the peer insists on another link"))
}

enum Begin<'a> {
    /// No need to ask.
    Existing(Arc<Link>),
    Ask(Asking<'a>, Hello),
}

/// Waits for its turn to ask a peer.
async fn begin<'a>(inner: &'a Inner, node_id: &NodeId, replacing: Option<LinkId>) -> Begin<'a> {
    loop {
        let changed = {
            let mut table = inner.table();
            let peer = table.peer(node_id);
            if let Some(current) = &peer.current
                && Some(current.id) != replacing
            {
                return Begin::Existing(Arc::clone(current));
            }
            if peer.asking.is_none() {
                let link = random_id();
                peer.asking = Some(link);
                let hello = Hello {
                    versions: wire::VERSIONS,
                    instance: inner.instance,
                    link,
                    holds: peer.current.as_ref().map_or(0, |current| current.id),
                    ended: peer.ended,
                };
                return Begin::Ask(Asking { inner, node_id: node_id.clone(), link, succeeded: false }, hello);
            }
            let mut changed = Box::pin(Arc::clone(&peer.changed).notified_owned());
            changed.as_mut().enable();
            changed
        };
        changed.await;
    }
}

/// What carries a link's payloads, to be spawned once the link is in force.
pub(super) type Carry = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn quic_link(
    inner: &Arc<Inner>,
    connection: QuicConnection,
    id: LinkId,
    peer_instance: u64,
) -> (Arc<Link>, Carry) {
    let link = inner.make(NewLink {
        id,
        peer: Arc::clone(connection.peer()),
        peer_instance,
        remote: connection.connection().remote_address(),
        direction: Direction::Outbound,
        carrier: Carrier::Quic(connection),
    });
    let carry = Box::pin(quic::run(Arc::clone(inner), Arc::clone(&link)));
    (link, carry)
}

/// Tries QUIC again from time to time while a link that we dialled runs over HTTP/2.
fn return_to_quic(inner: &Arc<Inner>, link: &Arc<Link>, target: &LinkTarget) {
    if !inner.endpoint.config().http3.enabled {
        return;
    }
    let weak = Arc::downgrade(inner);
    let (id, node_id) = (link.id, link.peer.node_id().clone());
    let target = LinkTarget { node_id: Some(node_id.clone()), address: target.address };
    let (mut pause, longest) = (inner.config.quic_retry_min, inner.config.quic_retry_max);
    tokio::spawn(async move {
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(longest);
            let Some(inner) = weak.upgrade() else { return };
            let in_force = inner
                .table()
                .current(&node_id)
                .is_some_and(|link| link.id == id && link.path() == LinkPath::Http2);
            if !in_force {
                return;
            }
            let limit = inner.config.connect_timeout;
            if let Ok(Err(error)) = timeout(limit, over_quic(&inner, &target, Some(id))).await {
                debug!(?target, error = &error as &dyn std::error::Error, "QUIC is still not possible");
            }
        }
    });
}
