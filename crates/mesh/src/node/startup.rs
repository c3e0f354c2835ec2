//! The steps before a node listens: folders, identity, addresses.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use mesh_core::{
    CertificateInfo, Clock, MemberEvents, MemberSnapshot, Membership, PeerIdentity, SettingError,
    fs::DirectoryLock,
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
    /// Where the certificate came from, in words.
    pub(super) place: String,
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
    let (source, place): (Arc<dyn IdentitySource>, String) = match from {
        IdentityFrom::Given(identity) => {
            let place = "given by the program".to_owned();
            return Ok(FoundIdentity { identity, source: None, watch: None, place });
        }
        IdentityFrom::Source(source) => (source, "from the program's own source".to_owned()),
        IdentityFrom::Settings => {
            let [certificate, ..] = identity_files(node, transport);
            (Arc::new(file_source(node, transport)), certificate.display().to_string())
        }
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
    Ok(FoundIdentity { identity, source: Some(source), watch: Some(watch), place })
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

/// How a certificate stands at a time.
#[derive(Debug, PartialEq, Eq)]
enum Validity {
    Fine,
    /// It starts later.
    Early(Duration),
    /// So much is left, and it is time to renew it.
    EndsSoon(Duration),
    /// So long ago it ended.
    Ended(Duration),
}

/// A certificate should be renewed before less than a tenth of its life, or a day, is left. Of
/// those that live for days or less, a third counts instead of the day.
fn validity(certificate: &CertificateInfo, now_s: u64) -> Validity {
    const DAY_S: u64 = 86_400;
    let CertificateInfo { not_before_s, not_after_s, .. } = *certificate;
    if now_s > not_after_s {
        return Validity::Ended(Duration::from_secs(now_s - not_after_s));
    }
    if now_s < not_before_s {
        return Validity::Early(Duration::from_secs(not_before_s - now_s));
    }
    let life_s = not_after_s.saturating_sub(not_before_s);
    let left_s = not_after_s - now_s;
    let renew_at_s = (life_s / 10).max(DAY_S.min(life_s / 3));
    if left_s < renew_at_s { Validity::EndsSoon(Duration::from_secs(left_s)) } else { Validity::Fine }
}

/// Refuses our own certificate if it has ended, and warns if it soon will. `place` is where it
/// came from.
pub(super) fn check_validity(
    identity: &PeerIdentity,
    place: &str,
    clock: &dyn Clock,
) -> Result<(), NodeError> {
    let id = &identity.id;
    match validity(&identity.certificate, clock.wall().0 / 1000) {
        Validity::Fine => {}
        Validity::Ended(ago) => {
            return Err(NodeError::Expired { id: id.to_string(), ago, source_of: place.to_owned() });
        }
        Validity::EndsSoon(left) => tracing::warn!(
            node_id = %id.node_id,
            certificate = place,
            ends_in = %humantime::format_duration(left),
            "the node's certificate ends soon, and other nodes will refuse this one then; issue a new one and put \
             it in its place, the node takes it without a restart"
        ),
        Validity::Early(until) => tracing::warn!(
            node_id = %id.node_id,
            certificate = place,
            starts_in = %humantime::format_duration(until),
            "the node's certificate is not valid yet, and other nodes refuse this one until it is; check the clock"
        ),
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
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_time_by_the_length_of_its_life() {
        const DAY: u64 = 86_400;
        let at = |life_s: u64, left_s: i64| {
            let certificate =
                CertificateInfo { serial: "0a".into(), not_before_s: DAY, not_after_s: DAY + life_s };
            validity(&certificate, (DAY + life_s).saturating_add_signed(-left_s))
        };
        let soon = |seconds| Validity::EndsSoon(Duration::from_secs(seconds));
        // A month: a tenth of it.
        assert_eq!(at(30 * DAY, 3 * DAY as i64), Validity::Fine);
        assert_eq!(at(30 * DAY, 3 * DAY as i64 - 1), soon(3 * DAY - 1));
        // Five days: a day.
        assert_eq!(at(5 * DAY, DAY as i64), Validity::Fine);
        assert_eq!(at(5 * DAY, DAY as i64 - 1), soon(DAY - 1));
        // An hour: a third of it.
        assert_eq!(at(3600, 1200), Validity::Fine);
        assert_eq!(at(3600, 1199), soon(1199));
        assert_eq!(at(3600, 0), soon(0));
        assert_eq!(at(3600, -5), Validity::Ended(Duration::from_secs(5)));
        assert_eq!(at(3600, 3610), Validity::Early(Duration::from_secs(10)));
    }

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
