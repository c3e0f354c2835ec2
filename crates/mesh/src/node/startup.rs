//! The steps before a node listens: folders, identity, addresses.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::stream;
use mesh_core::{
    Clock, MemberEvents, MemberSnapshot, Membership, PeerIdentity, SettingError, fs::DirectoryLock,
};
use mesh_transport::{
    Identity, TransportConfig, TransportMetrics,
    endpoint::Endpoint,
    identity::{FileSource, IdentityOptions, IdentitySource, IdentityWatch},
};

use super::{NodeError, builder::IdentityFrom};
use crate::config::{NodeConfig, identity_files};

/// An identity, and what keeps it up to date.
pub(super) struct FoundIdentity {
    pub(super) identity: Identity,
    pub(super) source: Option<Arc<dyn IdentitySource>>,
    pub(super) watch: Option<IdentityWatch>,
}

/// Makes the data directory, for its owner alone, and keeps other processes out of it.
pub(super) fn lock(data_dir: &Path) -> Result<DirectoryLock, NodeError> {
    private_folder(data_dir)?;
    Ok(DirectoryLock::acquire(data_dir)?)
}

/// The folder of keys and certificates in a data directory.
pub(super) fn identity_folder(data_dir: &Path) -> Result<PathBuf, NodeError> {
    let folder = data_dir.join("identity");
    private_folder(&folder)?;
    Ok(folder)
}

fn private_folder(path: &Path) -> Result<(), NodeError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| NodeError::DataDirectory { path: path.to_owned(), source })
}

pub(super) async fn identity(
    from: IdentityFrom,
    node: &NodeConfig,
    transport: &TransportConfig,
    metrics: TransportMetrics,
    clock: &Arc<dyn Clock>,
) -> Result<FoundIdentity, NodeError> {
    let source: Arc<dyn IdentitySource> = match from {
        IdentityFrom::Given(identity) => return Ok(FoundIdentity { identity, source: None, watch: None }),
        IdentityFrom::Source(source) => source,
        IdentityFrom::Settings => Arc::new(file_source(node, transport)),
    };
    let tls = &transport.tls;
    let pins = tls.pinned_issuers.iter().map(|pin| {
        pin.parse().map_err(|rule: String| {
            NodeError::Settings(vec![SettingError::new("transport.tls.pinned_issuers", pin, rule)])
        })
    });
    let options = IdentityOptions {
        pins: pins.collect::<Result<BTreeSet<_>, _>>()?,
        clock: Arc::clone(clock),
        metrics,
    };
    let (identity, watch) = Identity::from_source(Arc::clone(&source), options).await?;
    Ok(FoundIdentity { identity, source: Some(source), watch: Some(watch) })
}

/// The files that the settings name, or `node.pem`, `node.key` and `roots.pem` in the data directory.
fn file_source(node: &NodeConfig, transport: &TransportConfig) -> FileSource {
    let [certificate, key, trust_bundle] = identity_files(node, transport);
    let tls = &transport.tls;
    FileSource::new(certificate, key, trust_bundle, tls.crl.clone(), tls.reload.0)
}

/// Refuses a certificate that says something else than the settings.
pub(super) fn check_identity(node: &NodeConfig, identity: &PeerIdentity) -> Result<(), NodeError> {
    let id = &identity.id;
    let pairs = [
        ("id", node.id.as_ref().map(AsRef::as_ref), id.node_id.as_str()),
        ("cluster", node.cluster.as_ref().map(AsRef::as_ref), id.cluster.as_str()),
        ("trust_domain", node.trust_domain.as_ref().map(AsRef::as_ref), id.trust_domain.as_str()),
        ("role", node.role.as_ref().map(AsRef::as_ref), id.role.as_str()),
    ];
    for (setting, configured, certificate) in pairs {
        let configured: Option<&str> = configured;
        if let Some(configured) = configured.filter(|configured| *configured != certificate) {
            let (configured, certificate) = (configured.to_owned(), certificate.to_owned());
            return Err(NodeError::IdentityMismatch { setting, configured, certificate });
        }
    }
    Ok(())
}

/// The address that others are told: the one from the settings, else the one that we listen on.
pub(super) fn advertised(endpoint: &Endpoint) -> Result<SocketAddr, NodeError> {
    let bind = endpoint.local_address();
    if let Some(advertise) = endpoint.config().advertise {
        return Ok(advertise);
    }
    if !bind.ip().is_unspecified() {
        return Ok(bind);
    }
    outward(bind)
        .map(|ip| SocketAddr::new(ip, bind.port()))
        .map_err(|source| NodeError::Advertise { bind, source })
}

/// The local address that packets to elsewhere leave from. Connecting a UDP socket asks the
/// routing table and sends nothing; the targets are reserved for documentation.
fn outward(bind: SocketAddr) -> io::Result<std::net::IpAddr> {
    let via = |local: SocketAddr, target: SocketAddr| {
        let socket = UdpSocket::bind(local)?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    let four = || via((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let six =
        || via((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
    if bind.is_ipv6() { six().or_else(|_: io::Error| four()) } else { four() }
}

/// The membership of a node that is no member: it knows nobody, and never will.
pub(super) struct Nobody;

impl Membership for Nobody {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::default()
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (MemberSnapshot::default(), Box::pin(stream::pending()))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::CertificateInfo;

    use super::*;

    #[test]
    fn a_certificate_that_contradicts_the_settings_is_refused() {
        let identity = PeerIdentity {
            id: "spiffe://example.org/mesh/prod/worker/w-1".parse().expect("an id"),
            certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
        };
        let mut config = NodeConfig::default();
        check_identity(&config, &identity).expect("nothing is set");
        config.id = Some("w-1".parse().expect("a node id"));
        check_identity(&config, &identity).expect("the same");
        config.cluster = Some("test".parse().expect("a cluster"));
        let error = check_identity(&config, &identity).expect_err("another cluster");
        insta::assert_snapshot!(error, @"node.cluster is test, but the certificate says prod; change the setting or leave it out, or use the right certificate");
    }
}
