//! The settings of endpoints, and the rules that they have to keep.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::SystemTime};

use mesh_core::{PeerIdentity, SettingError, Settings};

use crate::rpc::{Encoding, Transport};

/// The endpoint between nodes. Must allow gRPC over HTTP/3 and HTTP/2.
pub const MESH: &str = "mesh";
/// The endpoint of operators.
pub const CONTROL: &str = "control";
/// The endpoint of browsers and other outside clients.
pub const EDGE: &str = "edge";

/// What one endpoint allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct EndpointPolicy {
    /// Transports that it is served on. Default: `["h3", "h2"]`.
    pub transports: Vec<Transport>,
    /// Encodings that it accepts. Default: `["grpc+proto"]`.
    pub encodings: Vec<Encoding>,
    /// The transport that a channel tries first. Default: the first of `transports`.
    pub prefer: Option<Transport>,
    /// Who may use the `raw` encoding: `role:<role>`, `node:<node id>` or a full
    /// SPIFFE id. Default: nobody.
    pub raw_access: Vec<String>,
    /// Requests with the `raw` encoding that are let through in a second. Default: 10.
    pub raw_requests_per_second: u32,
    /// gRPC services that the edge port serves under these rules, as `package.Service`; with the
    /// encoding `json` callers may speak JSON instead of gRPC. The mesh port serves them all
    /// the same. Default: none.
    pub services: Vec<String>,
    /// Files that describe services, as `protoc --include_imports --descriptor_set_out` writes
    /// them; those of the program's own services are known already. Default: none.
    pub descriptors: Vec<PathBuf>,
}

impl Default for EndpointPolicy {
    fn default() -> Self {
        Self {
            transports: vec![Transport::Http3, Transport::Http2],
            encodings: vec![Encoding::GrpcProto],
            prefer: None,
            raw_access: Vec::new(),
            raw_requests_per_second: 10,
            services: Vec::new(),
            descriptors: Vec::new(),
        }
    }
}

/// Something that an endpoint allows for a while, beyond its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct PolicyException {
    /// The endpoint, as `mesh` or `billing/mesh`.
    pub endpoint: String,
    /// The transport that it allows.
    #[cfg_attr(feature = "serde", serde(default))]
    pub transport: Option<Transport>,
    /// The encoding that it allows.
    #[cfg_attr(feature = "serde", serde(default))]
    pub encoding: Option<Encoding>,
    /// Why.
    pub reason: String,
    /// Who agreed.
    pub approver: String,
    /// When it ends, as `2027-01-31T00:00:00Z`. From then on it does not count.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub expires: SystemTime,
}

/// All endpoints and exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct PolicyConfig {
    /// Rules by endpoint, or by `<namespace>/<endpoint>`. Default: `mesh`, `control` and `edge`.
    pub endpoints: BTreeMap<String, EndpointPolicy>,
    /// Exceptions. Default: none.
    pub exceptions: Vec<PolicyException>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        let operators = EndpointPolicy {
            transports: vec![Transport::Http2, Transport::Http3, Transport::Http1],
            encodings: vec![Encoding::Json, Encoding::GrpcProto],
            ..EndpointPolicy::default()
        };
        let edge = EndpointPolicy { encodings: vec![Encoding::Json], ..operators.clone() };
        let endpoints = [(MESH, EndpointPolicy::default()), (CONTROL, operators), (EDGE, edge)];
        Self {
            endpoints: endpoints.map(|(name, policy)| (name.to_owned(), policy)).into(),
            exceptions: Vec::new(),
        }
    }
}

pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

/// Whether this profile is for traffic between nodes.
fn is_mesh(endpoint: &str) -> bool {
    endpoint.rsplit('/').next() == Some(MESH)
}

impl Settings for PolicyConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        for (name, endpoint) in &self.endpoints {
            endpoint_problems(name, endpoint, &mut problems);
        }
        self.twice_served(&mut problems);
        for (index, exception) in self.exceptions.iter().enumerate() {
            self.exception_problems(index, exception, &mut problems);
        }
        problems
    }
}

fn endpoint_problems(name: &str, endpoint: &EndpointPolicy, problems: &mut Vec<SettingError>) {
    let setting = |field: &str| format!("transport.endpoints.{name}.{field}");
    let mut report = |field: &str, value: String, rule: &str| {
        problems.push(SettingError::new(setting(field), value, rule));
    };
    let EndpointPolicy {
        transports,
        encodings,
        prefer,
        raw_access,
        raw_requests_per_second,
        services,
        descriptors: _,
    } = endpoint;
    if is_mesh(name) {
        if transports.contains(&Transport::Http1) {
            let rule = "must not have http/1.1 on a mesh endpoint; allowed are h3 and h2";
            report("transports", list(transports), rule);
        }
        if ![Transport::Http3, Transport::Http2].iter().all(|needed| transports.contains(needed)) {
            report("transports", list(transports), "must have h3 and h2 on a mesh endpoint");
        }
        if !encodings.contains(&Encoding::GrpcProto) {
            report("encodings", list(encodings), "must have grpc+proto on a mesh endpoint");
        }
    }
    if transports.is_empty() {
        report("transports", list(transports), "must name at least one of h3, h2, http/1.1");
    }
    if encodings.is_empty() {
        report("encodings", list(encodings), "must name at least one of grpc+proto, json, raw");
    }
    if encodings.contains(&Encoding::GrpcProto)
        && !transports.is_empty()
        && transports.iter().all(|transport| *transport == Transport::Http1)
    {
        report("encodings", list(encodings), "must not have grpc+proto on http/1.1 alone; add h2 or h3");
    }
    if let Some(prefer) = prefer
        && !transports.contains(prefer)
    {
        let rule = format!("must be one of {}", setting("transports"));
        report("prefer", prefer.to_string(), &rule);
    }
    if encodings.contains(&Encoding::Raw) && raw_access.is_empty() {
        let rule = format!("must list who may use raw, which {} allows", setting("encodings"));
        report("raw_access", list(raw_access), &rule);
    }
    for entry in raw_access {
        if entry.parse::<Access>().is_err() {
            report("raw_access", entry.clone(), "must be role:<role>, node:<node id> or a SPIFFE id");
        }
    }
    if is_mesh(name) && !services.is_empty() {
        report("services", list(services), "must be empty on a mesh endpoint, which serves every service");
    }
    if encodings.contains(&Encoding::Raw) && !services.is_empty() {
        report(
            "encodings",
            list(encodings),
            "must not have raw where services are named; they are grpc+proto or json",
        );
    }
    for service in services {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !service.split('.').all(is_part) {
            report("services", service.clone(), "must be the full name of a service, such as shop.v1.Orders");
        }
    }
    if *raw_requests_per_second == 0 && encodings.contains(&Encoding::Raw) {
        report("raw_requests_per_second", "0".into(), "must be at least 1 where raw is allowed");
    }
}

impl PolicyConfig {
    /// A path can have one set of rules only.
    fn twice_served(&self, problems: &mut Vec<SettingError>) {
        let mut served: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, endpoint) in &self.endpoints {
            for service in &endpoint.services {
                if let Some(other) = served.insert(service, name) {
                    let setting = format!("transport.endpoints.{name}.services");
                    let rule = format!("must not be among transport.endpoints.{other}.services too");
                    problems.push(SettingError::new(setting, service, rule));
                }
            }
        }
    }

    fn exception_problems(
        &self,
        index: usize,
        exception: &PolicyException,
        problems: &mut Vec<SettingError>,
    ) {
        let mut report = |field: &str, value: &str, rule: &str| {
            problems.push(SettingError::new(format!("transport.exceptions[{index}].{field}"), value, rule));
        };
        let PolicyException { endpoint, transport, encoding, reason, approver, expires: _ } = exception;
        let Some(rules) = self.endpoints.get(endpoint) else {
            let known: Vec<&String> = self.endpoints.keys().collect();
            return report("endpoint", endpoint, &format!("must be one of {}", list(&known)));
        };
        if transport.is_none() && encoding.is_none() {
            report("transport", "", "must be set, or else encoding; an exception has to allow something");
        }
        if reason.trim().is_empty() {
            report("reason", reason, "must say why");
        }
        if approver.trim().is_empty() {
            report("approver", approver, "must say who agreed");
        }
        if *encoding == Some(Encoding::Raw) && rules.raw_access.is_empty() {
            let rule = format!("needs transport.endpoints.{endpoint}.raw_access to list who may use it");
            report("encoding", "raw", &rule);
        }
    }
}

/// One entry of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Role(mesh_core::Role),
    Node(mesh_core::NodeId),
    Id(mesh_core::SpiffeId),
}

impl std::str::FromStr for Access {
    type Err = mesh_core::BoxError;

    fn from_str(entry: &str) -> Result<Self, Self::Err> {
        Ok(match entry.split_once(':') {
            Some(("role", role)) => Self::Role(role.parse()?),
            Some(("node", node)) => Self::Node(node.parse()?),
            _ => Self::Id(entry.parse()?),
        })
    }
}

impl Access {
    pub(super) fn matches(&self, peer: &PeerIdentity) -> bool {
        match self {
            Self::Role(role) => peer.role() == role,
            Self::Node(node) => peer.node_id() == node,
            Self::Id(id) => peer.id == *id,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    pub(in crate::rpc::policy) fn with(name: &str, change: impl FnOnce(&mut EndpointPolicy)) -> PolicyConfig {
        let mut config = PolicyConfig::default();
        change(config.endpoints.entry(name.into()).or_default());
        config
    }

    fn problem(config: PolicyConfig) -> String {
        let problems = config.validate().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    pub(in crate::rpc::policy) fn exception(expires_s: u64) -> PolicyException {
        PolicyException {
            endpoint: MESH.into(),
            transport: Some(Transport::Http1),
            encoding: None,
            reason: "the old agent".into(),
            approver: "ada".into(),
            expires: UNIX_EPOCH + Duration::from_secs(expires_s),
        }
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(PolicyConfig::default().problems(), []);
    }

    #[test]
    fn mesh_endpoints_keep_grpc_over_h3_and_h2_and_refuse_http_1() {
        assert_eq!(
            problem(with("mesh", |e| e.transports.push(Transport::Http1))),
            "transport.endpoints.mesh.transports ([h3, h2, http/1.1]) must not have http/1.1 on a mesh endpoint; allowed are h3 and h2"
        );
        assert_eq!(
            problem(with("billing/mesh", |e| e.transports = vec![Transport::Http2])),
            "transport.endpoints.billing/mesh.transports ([h2]) must have h3 and h2 on a mesh endpoint"
        );
        assert_eq!(
            problem(with("mesh", |e| e.encodings = vec![Encoding::Json])),
            "transport.endpoints.mesh.encodings ([json]) must have grpc+proto on a mesh endpoint"
        );
    }

    #[test]
    fn raw_needs_an_access_list() {
        assert_eq!(
            problem(with("blobs", |e| e.encodings.push(Encoding::Raw))),
            "transport.endpoints.blobs.raw_access ([]) must list who may use raw, which transport.endpoints.blobs.encodings allows"
        );
        assert!(
            problem(with("blobs", |e| e.raw_access = vec!["everybody".into()])).contains("must be role:")
        );
    }

    #[test]
    fn services_are_named_in_full_once_and_not_for_the_mesh() {
        let served = |name: &str, service: &str| with(name, |e| e.services.push(service.into()));
        assert_eq!(served("edge", "shop.v1.Orders").problems(), []);
        assert_eq!(
            problem(served("mesh", "shop.v1.Orders")),
            "transport.endpoints.mesh.services ([shop.v1.Orders]) must be empty on a mesh endpoint, which serves every service"
        );
        for wrong in ["", "/shop.v1.Orders", "shop..Orders", "shop.{v}"] {
            assert!(problem(served("edge", wrong)).contains("must be the full name"), "{wrong}");
        }
        let mut twice = served("edge", "shop.v1.Orders");
        twice.endpoints.entry("shop".into()).or_default().services.push("shop.v1.Orders".into());
        assert_eq!(
            problem(twice),
            "transport.endpoints.shop.services (shop.v1.Orders) must not be among transport.endpoints.edge.services too"
        );
        let raw = with("blobs", |e| {
            e.encodings.push(Encoding::Raw);
            e.raw_access = vec!["role:control".into()];
            e.services = vec!["shop.v1.Orders".into()];
        });
        assert!(problem(raw).contains("must not have raw where services are named"));
    }

    #[test]
    fn preference_must_be_allowed() {
        assert_eq!(
            problem(with("control", |e| {
                e.transports = vec![Transport::Http2];
                e.prefer = Some(Transport::Http3);
            })),
            "transport.endpoints.control.prefer (h3) must be one of transport.endpoints.control.transports"
        );
    }

    #[test]
    fn an_exception_says_who_and_why() {
        let mut config = PolicyConfig::default();
        config.exceptions.push(PolicyException { approver: " ".into(), ..exception(1) });
        assert_eq!(problem(config), "transport.exceptions[0].approver ( ) must say who agreed");
        let mut config = PolicyConfig::default();
        config.exceptions.push(PolicyException { endpoint: "mash".into(), ..exception(1) });
        assert_eq!(
            problem(config),
            "transport.exceptions[0].endpoint (mash) must be one of [control, edge, mesh]"
        );
    }
}
