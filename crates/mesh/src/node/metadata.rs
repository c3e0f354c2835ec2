//! What a node says about itself: the well-known metadata keys.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_core::{Member, PeerIdentity};
use mesh_transport::rpc::Transport;
use serde_json::json;

use crate::config::NodeConfig;

/// The version of this program, as other members see it.
pub(super) const MESH_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The key that says where which service is.
pub(super) const ENDPOINTS: &str = "endpoints";

/// The key that says what gRPC is served over.
const TRANSPORTS: &str = "transports";

/// The metadata that comes from settings, certificate and sockets.
pub(super) fn well_known(
    config: &NodeConfig,
    identity: &PeerIdentity,
    addresses: &[SocketAddr],
    edge: Option<SocketAddr>,
    http3: bool,
) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        metadata.insert(key.to_owned(), value);
    };
    set("cluster", identity.id.cluster.to_string());
    set("role", identity.id.role.to_string());
    if let Some(region) = &config.region {
        set("region", region.clone());
    }
    if let Some(zone) = &config.zone {
        set("zone", zone.clone());
    }
    set("mesh_version", MESH_VERSION.to_owned());
    set("protocols", format!("gossip={}-{}", mesh_gossip::PROTOCOL.min, mesh_gossip::PROTOCOL.max));
    set(TRANSPORTS, transports(http3).to_owned());
    set(ENDPOINTS, endpoints(addresses, edge, http3));
    set("security", security(identity));
    for (label, value) in &config.labels {
        set(&format!("label.{label}"), value.clone());
    }
    metadata
}

/// What gRPC is served over, the preferred one first.
fn transports(http3: bool) -> &'static str {
    if http3 { "h3,h2" } else { "h2" }
}

/// Whether a member serves gRPC over HTTP/3; `None` if it does not say.
pub(super) fn serves_http3(member: &Member) -> Option<bool> {
    let transports = member.metadata(TRANSPORTS)?;
    Some(transports.split(',').any(|transport| transport.trim() == Transport::Http3.as_str()))
}

/// Where a member's control API is, `host:port`; `None` if it does not say.
pub(super) fn edge(member: &Member) -> Option<String> {
    let endpoints: serde_json::Value = serde_json::from_str(member.metadata(ENDPOINTS)?).ok()?;
    let control = endpoints.as_array()?.iter().find(|endpoint| endpoint["service"] == "control")?;
    Some(control["url"].as_str()?.strip_prefix("https://")?.to_owned())
}

fn endpoints(addresses: &[SocketAddr], edge: Option<SocketAddr>, http3: bool) -> String {
    let transport = if http3 { Transport::Http3 } else { Transport::Http2 }.as_str();
    let mesh = addresses.iter().map(|address| {
        json!({ "service": "mesh", "url": format!("https://{address}"), "transport": transport, "encoding": "protobuf" })
    });
    let control = edge.iter().map(|address| {
        json!({ "service": "control", "url": format!("https://{address}"), "transport": "h2", "encoding": "json" })
    });
    serde_json::Value::from(mesh.chain(control).collect::<Vec<_>>()).to_string()
}

fn security(identity: &PeerIdentity) -> String {
    let certificate = &identity.certificate;
    json!({ "serial": certificate.serial, "not_after": certificate.not_after_s }).to_string()
}

#[cfg(test)]
mod tests {
    use mesh_core::CertificateInfo;

    use super::*;

    #[test]
    fn settings_certificate_and_sockets_become_metadata() {
        let config = NodeConfig {
            region: Some("eu".into()),
            labels: BTreeMap::from([("tier".into(), "gold".into())]),
            ..NodeConfig::default()
        };
        let identity = PeerIdentity {
            id: "spiffe://example.org/mesh/prod/worker/w-1".parse().expect("an id"),
            certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let metadata = well_known(&config, &identity, &[address(1)], Some(address(2)), true);
        let lines: Vec<String> = metadata
            .iter()
            .filter(|(key, _)| *key != "mesh_version")
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        cluster: prod
        endpoints: [{"encoding":"protobuf","service":"mesh","transport":"h3","url":"https://127.0.0.1:1"},{"encoding":"json","service":"control","transport":"h2","url":"https://127.0.0.1:2"}]
        label.tier: gold
        protocols: gossip=1-1
        region: eu
        role: worker
        security: {"not_after":2,"serial":"0a"}
        transports: h3,h2
        "#);
        assert!(!metadata.contains_key("zone"), "what is not set is not said");

        let without = well_known(&config, &identity, &[address(1)], None, false);
        assert_eq!(without[TRANSPORTS], "h2");
        assert!(without[ENDPOINTS].contains(r#""transport":"h2""#), "{}", without[ENDPOINTS]);
    }
}
