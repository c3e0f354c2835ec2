//! Who this node is, whom it trusts, and how both change without dropping a connection.
//!
//! An [`Identity`] is a cheap handle. Its TLS configurations stay valid for
//! ever: they look up the certificate and the trust in force at each handshake.

pub(crate) mod der;
mod material;
mod source;
#[cfg(all(test, feature = "ca"))]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
#[cfg(feature = "quic")]
use aws_lc_rs::hmac;
use mesh_core::{CertificateInfo, Clock, NodeId, PeerIdentity, SystemClock};
use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use tokio::sync::watch;
use tracing::{info, warn};
use webpki::EndEntityCert;

pub use material::Material;
pub use source::{FileSource, IdentitySource};

use crate::{
    error::IdentityError,
    metrics::TransportMetrics,
    tls::{
        ClientSessions, Expected, IssuerPin, MeshVerifier, PeerRole, Refusal, ServerSessions, Trust,
        spiffe_id,
    },
};

/// What an identity may be given besides its material.
#[derive(Clone)]
pub struct IdentityOptions {
    /// Authorities that may have issued a peer's certificate; empty accepts any below the trust bundle.
    pub pins: BTreeSet<IssuerPin>,
    /// Where the time comes from, for the validity of certificates.
    pub clock: Arc<dyn Clock>,
    /// Where refusals are counted.
    pub metrics: TransportMetrics,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self { pins: BTreeSet::new(), clock: Arc::new(SystemClock), metrics: TransportMetrics::default() }
    }
}

/// Counts the changes of trust. A subscriber that sees a new one rechecks what it holds open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustEpoch(pub u64);

/// A node's certificate, key and trust, kept up to date. Clones share it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    metrics: TransportMetrics,
    local: ArcSwap<PeerIdentity>,
    /// Derived from the first private key.
    #[cfg(feature = "quic")]
    secret: [u8; 32],
    own: Arc<OwnCertificate>,
    verifier: Arc<MeshVerifier>,
    client_sessions: Arc<ClientSessions>,
    server_sessions: Arc<ServerSessions>,
    epoch: watch::Sender<TrustEpoch>,
    /// Serialises replacements, so that two of them do not mix.
    changing: Mutex<()>,
    clients: Mutex<BTreeMap<Vec<Vec<u8>>, Arc<ClientConfig>>>,
    servers: Mutex<BTreeMap<Vec<Vec<u8>>, Arc<ServerConfig>>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.local.load().id)
    }
}

impl Identity {
    /// An identity with these parts.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] if a part is missing or malformed, the key is not the
    /// certificate's, or the certificate does not name exactly one node.
    pub fn new(material: Material, options: IdentityOptions) -> Result<Self, IdentityError> {
        let IdentityOptions { pins, clock, metrics } = options;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (local, key) = own_parts(&material, &provider)?;
        let trust = Trust::new(&local.id, &material, BTreeSet::new(), pins)?;
        let verifier = MeshVerifier::new(trust, provider.signature_verification_algorithms, metrics.clone());
        metrics.certificate_expires(local.certificate.not_after_s);
        Ok(Self(Arc::new(Inner {
            provider,
            clock,
            metrics,
            local: ArcSwap::from_pointee(local),
            #[cfg(feature = "quic")]
            secret: derive_secret(&material),
            own: Arc::new(OwnCertificate(ArcSwap::from_pointee(key))),
            verifier: Arc::new(verifier),
            client_sessions: Arc::new(ClientSessions::new()),
            server_sessions: Arc::new(ServerSessions::new()),
            epoch: watch::Sender::new(TrustEpoch::default()),
            changing: Mutex::new(()),
            clients: Mutex::default(),
            servers: Mutex::default(),
        })))
    }

    /// An identity from a source, and the task that follows the source's changes.
    ///
    /// # Errors
    ///
    /// As [`Identity::new`], or the source's own.
    pub async fn from_source(
        source: Arc<dyn IdentitySource>,
        options: IdentityOptions,
    ) -> Result<(Self, IdentityWatch), IdentityError> {
        let identity = Self::new(source.load().await?, options)?;
        let watch = identity.follow(source);
        Ok((identity, watch))
    }

    /// Reloads from `source` whenever it changes, until the returned guard is dropped.
    ///
    /// A reload that fails is logged and leaves the identity as it is.
    pub fn follow(&self, source: Arc<dyn IdentitySource>) -> IdentityWatch {
        let identity = self.clone();
        let task = tokio::spawn(async move {
            loop {
                source.changed().await;
                if let Err(error) = identity.reload(&*source).await {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the identity changed and cannot be used; the one before stays"
                    );
                    // A source that says "changed" until it can be loaded must not make this spin.
                    tokio::time::sleep(RELOAD_PAUSE).await;
                }
            }
        });
        IdentityWatch(task)
    }

    /// Loads from `source` now.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; the identity is unchanged then.
    pub async fn reload(&self, source: &dyn IdentitySource) -> Result<(), IdentityError> {
        self.replace(source.load().await?)
    }

    /// Swaps certificate, key and trust. Live connections stay, unless the new trust refuses their peer.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; the identity is unchanged then. A certificate for
    /// another node id, cluster or trust domain is refused.
    pub fn replace(&self, material: Material) -> Result<(), IdentityError> {
        let inner = &*self.0;
        let _one_at_a_time = inner.changing.lock().expect("no panic while held");
        let (local, key) = own_parts(&material, &inner.provider)?;
        let current = inner.local.load();
        let same_node = |a: &mesh_core::SpiffeId, b: &mesh_core::SpiffeId| {
            a.node_id == b.node_id && a.cluster == b.cluster && a.trust_domain == b.trust_domain
        };
        if !same_node(&current.id, &local.id) {
            return Err(IdentityError::Changed {
                current: Box::new(current.id.clone()),
                new: Box::new(local.id),
            });
        }
        let before = inner.verifier.trust.load_full();
        let trust = Trust::new(&local.id, &material, before.denied.clone(), before.pins.clone())?;
        if current.certificate != local.certificate {
            let serial = &local.certificate.serial;
            info!(node_id = %local.id.node_id, serial, not_after_s = local.certificate.not_after_s, "new certificate");
        }
        inner.metrics.certificate_expires(local.certificate.not_after_s);
        inner.own.0.store(Arc::new(key));
        inner.local.store(Arc::new(local));
        if !before.same(&trust) {
            self.trust_changed(trust);
        }
        Ok(())
    }

    /// Refuses these nodes from now on, whatever their certificates say, and nobody else.
    ///
    /// Takes effect on handshakes at once; endpoints close live connections within milliseconds.
    pub fn deny(&self, nodes: BTreeSet<NodeId>) {
        let _one_at_a_time = self.0.changing.lock().expect("no panic while held");
        let before = self.0.verifier.trust.load_full();
        if before.denied != nodes {
            self.trust_changed(before.with_denied(nodes));
        }
    }

    /// The nodes that [`deny`](Self::deny) refuses.
    pub fn denied(&self) -> BTreeSet<NodeId> {
        self.0.verifier.trust.load().denied.clone()
    }

    fn trust_changed(&self, trust: Trust) {
        let inner = &*self.0;
        inner.verifier.trust.store(Arc::new(trust));
        // After the trust, so that no session of the old one is remembered again in between for long;
        // accepting sides recheck resumed sessions anyway.
        inner.client_sessions.forget();
        inner.server_sessions.forget();
        inner.epoch.send_modify(|epoch| epoch.0 += 1);
        info!(node_id = %inner.local.load().id.node_id, epoch = inner.epoch.borrow().0, "trust changed");
    }

    /// Who we are, as our certificate says.
    pub fn local(&self) -> Arc<PeerIdentity> {
        self.0.local.load_full()
    }

    /// Our node id. It never changes.
    pub fn node_id(&self) -> NodeId {
        self.0.local.load().id.node_id.clone()
    }

    /// The metrics that this identity counts in; endpoints use the same.
    pub fn metrics(&self) -> &TransportMetrics {
        &self.0.metrics
    }

    /// The changes of trust. Recheck what you hold open when it changes.
    pub fn subscribe(&self) -> watch::Receiver<TrustEpoch> {
        self.0.epoch.subscribe()
    }

    /// A configuration to call nodes with, offering these application protocols, best first.
    ///
    /// Whom we expect comes from the server name: give [`tls::server_name`](crate::tls::server_name)
    /// to the connector. Any other name is refused. Shared between calls with the same protocols.
    ///
    /// After the handshake call [`recheck`](Self::recheck) with the peer's certificates: a resumed
    /// session was not verified.
    pub fn client_config(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let key: Vec<Vec<u8>> = protocols.iter().map(|p| p.to_vec()).collect();
        let mut cache = self.0.clients.lock().expect("no panic while held");
        Arc::clone(cache.entry(key.clone()).or_insert_with(|| {
            let mut config = ClientConfig::builder_with_details(Arc::clone(&self.0.provider), self.time())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has TLS 1.3 suites")
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&self.0.verifier) as _)
                .with_client_cert_resolver(Arc::clone(&self.0.own) as _);
            config.alpn_protocols = key;
            config.resumption = Resumption::store(Arc::clone(&self.0.client_sessions) as _);
            Arc::new(config)
        }))
    }

    /// A configuration to be called with; a client without an accepted certificate is refused.
    ///
    /// After the handshake call [`recheck`](Self::recheck) with the peer's certificates: a resumed
    /// session was not verified.
    pub fn server_config(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let key: Vec<Vec<u8>> = protocols.iter().map(|p| p.to_vec()).collect();
        let mut cache = self.0.servers.lock().expect("no panic while held");
        Arc::clone(cache.entry(key.clone()).or_insert_with(|| {
            let mut config = ServerConfig::builder_with_details(Arc::clone(&self.0.provider), self.time())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has TLS 1.3 suites")
                .with_client_cert_verifier(Arc::clone(&self.0.verifier) as _)
                .with_cert_resolver(Arc::clone(&self.0.own) as _);
            config.alpn_protocols = key;
            config.session_storage = Arc::clone(&self.0.server_sessions) as _;
            config.send_tls13_tickets = 1;
            // 0-RTT stays off: it can be replayed, and its sender is not verified yet.
            config.max_early_data_size = 0;
            Arc::new(config)
        }))
    }

    /// Checks a peer's certificates, its own first, against the trust of this moment.
    ///
    /// # Errors
    ///
    /// [`Refusal`] names the rule and the certificate's subject.
    pub fn recheck(
        &self,
        certificates: &[CertificateDer<'_>],
        peer_is: PeerRole,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        self.0.verifier.check(certificates, peer_is, &Expected::Any, self.now())
    }

    /// As [`recheck`](Self::recheck), and the certificate must be that of `peer`.
    ///
    /// # Errors
    ///
    /// [`Refusal`] names the rule and the certificate's subject.
    pub fn recheck_peer(
        &self,
        certificates: &[CertificateDer<'_>],
        peer_is: PeerRole,
        peer: &NodeId,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        self.0.verifier.check(certificates, peer_is, &Expected::Node(peer.clone()), self.now())
    }

    /// A secret that is the same after a restart, as long as the private key is.
    #[cfg(feature = "quic")]
    pub(crate) fn derived_secret(&self) -> [u8; 32] {
        self.0.secret
    }

    /// Seconds since the Unix epoch on this identity's clock.
    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(self.0.clock.wall().0))
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(WallClock(Arc::clone(&self.0.clock)))
    }
}

/// Pause after a changed identity that could not be used.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// Follows an identity source until dropped.
#[derive(Debug)]
#[must_use = "the source is followed until this is dropped"]
pub struct IdentityWatch(tokio::task::JoinHandle<()>);

impl Drop for IdentityWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A secret that only who holds the private key can know, of which it reveals nothing.
#[cfg(feature = "quic")]
fn derive_secret(material: &Material) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, material.key.secret_der());
    let tag = hmac::sign(&key, b"mesh transport secret 1");
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// Our own name and signing key, checked to belong together.
fn own_parts(
    material: &Material,
    provider: &CryptoProvider,
) -> Result<(PeerIdentity, CertifiedKey), IdentityError> {
    let unusable = |problem: String| IdentityError::Material { what: "certificate", problem };
    let leaf = material.certificates.first().ok_or_else(|| unusable("there is none".to_owned()))?;
    let parsed = EndEntityCert::try_from(leaf).map_err(|error| unusable(error.to_string()))?;
    let fields = der::fields(leaf).ok_or_else(|| unusable("it is not a certificate".to_owned()))?;
    let id = match parsed.valid_uri_names().count() {
        1 => spiffe_id(&parsed, &fields.subject).map_err(|refusal| unusable(refusal.problem))?,
        found => return Err(IdentityError::UriNames { found }),
    };
    if material.trust_bundle.is_empty() {
        return Err(IdentityError::Material { what: "trust bundle", problem: "it is empty".to_owned() });
    }
    let key = CertifiedKey::from_der(material.certificates.clone(), material.key.clone_key(), provider)
        .map_err(IdentityError::Tls)?;
    let certificate = CertificateInfo {
        serial: fields.serial,
        not_before_s: fields.not_before_s,
        not_after_s: fields.not_after_s,
    };
    Ok((PeerIdentity { id, certificate }, key))
}

/// The certificate that we show, whichever side we are on.
struct OwnCertificate(ArcSwap<CertifiedKey>);

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

struct WallClock(Arc<dyn Clock>);

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}
