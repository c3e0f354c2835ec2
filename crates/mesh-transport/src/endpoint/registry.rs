//! Every live connection by who is at the other end, so that revocation reaches it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mesh_core::{NodeId, PeerIdentity};
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

use super::close;
use crate::{identity::Identity, metrics::TransportMetrics, tls::PeerRole};

/// How a connection is shut from outside.
pub(crate) enum Closer {
    Quic(quinn::Connection),
    /// The stream's next read fails. Certificates are kept here, since the stream is out of reach.
    Stream(Option<oneshot::Sender<()>>, Arc<[CertificateDer<'static>]>),
}

impl Closer {
    fn certificates(&self) -> Arc<[CertificateDer<'static>]> {
        match self {
            Self::Quic(connection) => quic_certificates(connection).into(),
            Self::Stream(_, certificates) => Arc::clone(certificates),
        }
    }

    fn close(&mut self, code: VarInt, reason: &[u8]) {
        match self {
            Self::Quic(connection) => connection.close(code, reason),
            Self::Stream(sender, _) => {
                if let Some(sender) = sender.take() {
                    let _ = sender.send(());
                }
            }
        }
    }
}

/// The certificates that the other end of a QUIC connection showed, its own first.
pub(crate) fn quic_certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map(|certificates| *certificates)
        .unwrap_or_default()
}

struct Entry {
    peer: Arc<PeerIdentity>,
    peer_is: PeerRole,
    closer: Closer,
    revoked: Arc<AtomicBool>,
}

#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.len())
    }
}

impl Registry {
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().expect("no panic while held").len()
    }

    /// Enters a connection. It is forgotten when the returned value is dropped.
    pub(crate) fn register(
        self: &Arc<Self>,
        peer: Arc<PeerIdentity>,
        peer_is: PeerRole,
        closer: Closer,
        metrics: &TransportMetrics,
    ) -> Registration {
        let transport = match closer {
            Closer::Quic(_) => "quic",
            Closer::Stream(..) => "tcp",
        };
        let direction = match peer_is {
            PeerRole::Client => "inbound",
            PeerRole::Server => "outbound",
        };
        metrics.connection_opened(transport, direction);
        let revoked = Arc::new(AtomicBool::new(false));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { peer, peer_is, closer, revoked: Arc::clone(&revoked) };
        self.entries.lock().expect("no panic while held").insert(id, entry);
        Registration {
            registry: Arc::clone(self),
            id,
            revoked,
            metrics: metrics.clone(),
            labels: (transport, direction),
        }
    }

    /// Closes every connection whose peer the present trust refuses; returns those peers.
    ///
    /// The deny list comes first, since it needs no signature checks: a revoked node should not
    /// live on while hundreds of good ones are looked at.
    pub(crate) fn sweep(&self, identity: &Identity) -> BTreeSet<NodeId> {
        let denied = identity.denied();
        let mut closed = BTreeSet::new();
        let mut remaining = Vec::new();
        {
            let mut entries = self.entries.lock().expect("no panic while held");
            for (id, entry) in entries.iter_mut() {
                if denied.contains(entry.peer.node_id()) {
                    entry.revoke();
                    closed.insert(entry.peer.node_id().clone());
                } else {
                    remaining.push((*id, entry.closer.certificates(), entry.peer_is));
                }
            }
        }
        for (id, certificates, peer_is) in remaining {
            if identity.recheck(&certificates, peer_is).is_ok() {
                continue;
            }
            if let Some(entry) = self.entries.lock().expect("no panic while held").get_mut(&id) {
                entry.revoke();
                closed.insert(entry.peer.node_id().clone());
            }
        }
        closed
    }

    /// Closes every connection whose peer's certificate has run out; returns those peers.
    pub(crate) fn sweep_expired(&self, now_s: u64) -> BTreeSet<NodeId> {
        let mut closed = BTreeSet::new();
        for entry in self.entries.lock().expect("no panic while held").values_mut() {
            if entry.peer.certificate.not_after_s < now_s && !entry.revoked.load(Ordering::Relaxed) {
                entry.revoke();
                closed.insert(entry.peer.node_id().clone());
            }
        }
        closed
    }
}

impl Entry {
    fn revoke(&mut self) {
        // Before the close, so that whoever wakes up from it finds the reason.
        self.revoked.store(true, Ordering::Release);
        self.closer.close(close::REVOKED, b"certificate no longer accepted");
    }
}

/// Keeps a connection in the registry while it lives.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    id: u64,
    revoked: Arc<AtomicBool>,
    metrics: TransportMetrics,
    labels: (&'static str, &'static str),
}

impl Registration {
    /// Whether the connection was closed because its peer is no longer accepted.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(crate) fn revoked_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.revoked)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The entry is dropped outside of the lock: a connection's last handle may be inside.
        let entry = self.registry.entries.lock().expect("no panic while held").remove(&self.id);
        drop(entry);
        self.metrics.connection_closed(self.labels.0, self.labels.1);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({})", self.id)
    }
}
