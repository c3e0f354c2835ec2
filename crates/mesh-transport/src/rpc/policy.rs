//! Which transports and encodings an endpoint allows.
//!
//! The rules are checked when settings are loaded ([`PolicyConfig`] is
//! [`Settings`]), and each request is held against them again ([`Policy::check`]).
//! A namespace can have a profile of its own: `endpoints."billing/mesh"` applies
//! to the endpoint `mesh` in the namespace `billing`, `endpoints.mesh` to all others.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_core::{Clock, Instant, PeerIdentity, SettingError, Settings, Validated, WallTime};

use super::{Encoding, Transport};

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
}

impl Default for EndpointPolicy {
    fn default() -> Self {
        Self {
            transports: vec![Transport::Http3, Transport::Http2],
            encodings: vec![Encoding::GrpcProto],
            prefer: None,
            raw_access: Vec::new(),
            raw_requests_per_second: 10,
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

fn list<T: fmt::Display>(items: &[T]) -> String {
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
    let EndpointPolicy { transports, encodings, prefer, raw_access, raw_requests_per_second } = endpoint;
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
    if *raw_requests_per_second == 0 && encodings.contains(&Encoding::Raw) {
        report("raw_requests_per_second", "0".into(), "must be at least 1 where raw is allowed");
    }
}

impl PolicyConfig {
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
enum Access {
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
    fn matches(&self, peer: &PeerIdentity) -> bool {
        match self {
            Self::Role(role) => peer.role() == role,
            Self::Node(node) => peer.node_id() == node,
            Self::Id(id) => peer.id == *id,
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyViolation {
    /// No rules for it.
    #[error("endpoint {endpoint} has no policy; declare transport.endpoints.{endpoint}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// The transport is not allowed.
    #[error(
        "endpoint {endpoint} does not allow transport {transport}; allowed are {allowed}; see transport.endpoints.{endpoint}.transports"
    )]
    Transport {
        /// The endpoint.
        endpoint: String,
        /// What the request used.
        transport: Transport,
        /// What is allowed.
        allowed: String,
    },
    /// The encoding is not allowed.
    #[error(
        "endpoint {endpoint} does not allow encoding {encoding}; allowed are {allowed}; see transport.endpoints.{endpoint}.encodings"
    )]
    Encoding {
        /// The endpoint.
        endpoint: String,
        /// What the request used.
        encoding: String,
        /// What is allowed.
        allowed: String,
    },
    /// The peer is not on the access list for raw payloads.
    #[error(
        "{peer} may not use encoding raw on endpoint {endpoint}; see transport.endpoints.{endpoint}.raw_access"
    )]
    RawAccess {
        /// The endpoint.
        endpoint: String,
        /// The peer.
        peer: String,
    },
    /// Too many raw requests in this second.
    #[error(
        "endpoint {endpoint} takes {limit} requests/s with encoding raw; retry later or see transport.endpoints.{endpoint}.raw_requests_per_second"
    )]
    RawBudget {
        /// The endpoint.
        endpoint: String,
        /// Requests in a second.
        limit: u32,
    },
}

/// The rules of all endpoints, ready to hold requests against.
#[derive(Clone)]
pub struct Policy {
    endpoints: Arc<BTreeMap<String, Rules>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.endpoints.keys()).finish()
    }
}

struct Rules {
    policy: EndpointPolicy,
    raw_access: Vec<Access>,
    exceptions: Vec<PolicyException>,
    budget: Mutex<Budget>,
}

/// Raw requests of the running second.
#[derive(Default)]
struct Budget {
    since: Instant,
    used: u32,
}

impl Policy {
    /// Compiles settings. `clock` decides when exceptions end.
    pub fn new(config: &Validated<PolicyConfig>, clock: Arc<dyn Clock>) -> Self {
        let rules = |(name, policy): (&String, &EndpointPolicy)| {
            let exceptions = config.exceptions.iter().filter(|e| e.endpoint == *name).cloned().collect();
            let raw_access = policy.raw_access.iter().filter_map(|entry| entry.parse().ok()).collect();
            let rules = Rules { policy: policy.clone(), raw_access, exceptions, budget: Mutex::default() };
            (name.clone(), rules)
        };
        Self { endpoints: Arc::new(config.endpoints.iter().map(rules).collect()), clock }
    }

    /// The rules for `endpoint` in `namespace`, or those for `endpoint` everywhere.
    pub fn endpoint(
        &self,
        namespace: Option<&str>,
        endpoint: &str,
    ) -> Result<EndpointGuard, PolicyViolation> {
        let own = namespace.map(|namespace| format!("{namespace}/{endpoint}"));
        let name = own.filter(|own| self.endpoints.contains_key(own)).unwrap_or_else(|| endpoint.to_owned());
        if !self.endpoints.contains_key(&name) {
            return Err(PolicyViolation::Endpoint { endpoint: name });
        }
        Ok(EndpointGuard { policy: self.clone(), name: name.into() })
    }

    /// Exceptions that have ended, for a log line at start.
    pub fn expired(&self) -> Vec<PolicyException> {
        let now = self.clock.wall();
        let all = self.endpoints.values().flat_map(|rules| &rules.exceptions);
        all.filter(|exception| ended(exception, now)).cloned().collect()
    }
}

fn ended(exception: &PolicyException, now: WallTime) -> bool {
    let expires = exception.expires.duration_since(UNIX_EPOCH).unwrap_or_default();
    u128::from(now.0) >= expires.as_millis()
}

/// The rules of one endpoint.
#[derive(Clone)]
pub struct EndpointGuard {
    policy: Policy,
    name: Arc<str>,
}

impl fmt::Debug for EndpointGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy of endpoint {}", self.name)
    }
}

impl EndpointGuard {
    /// The endpoint, as `mesh` or `billing/mesh`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn rules(&self) -> &Rules {
        match self.policy.endpoints.get(&*self.name) {
            Some(rules) => rules,
            None => unreachable!("a guard is only made for an endpoint that exists"),
        }
    }

    /// The transports that are allowed now, the preferred one first.
    pub fn transports(&self) -> Vec<Transport> {
        let rules = self.rules();
        let mut transports = rules.policy.transports.clone();
        transports.extend(self.granted(|exception| exception.transport));
        if let Some(prefer) = rules.policy.prefer {
            transports.retain(|transport| *transport != prefer);
            transports.insert(0, prefer);
        }
        transports
    }

    fn granted<T>(&self, what: impl Fn(&PolicyException) -> Option<T>) -> Vec<T> {
        let rules = self.rules();
        if rules.exceptions.is_empty() {
            return Vec::new();
        }
        let now = self.policy.clock.wall();
        rules.exceptions.iter().filter(|exception| !ended(exception, now)).filter_map(what).collect()
    }

    /// Holds a request against the rules. `encoding` is `None` for a content type
    /// that no endpoint serves.
    ///
    /// # Errors
    ///
    /// [`PolicyViolation`] names the endpoint, the offending value, what is allowed
    /// and the setting to change.
    pub fn check(
        &self,
        transport: Transport,
        encoding: Option<Encoding>,
        peer: &PeerIdentity,
    ) -> Result<Encoding, PolicyViolation> {
        let rules = self.rules();
        let endpoint = || self.name.to_string();
        if !rules.policy.transports.contains(&transport)
            && !self.granted(|exception| exception.transport).contains(&transport)
        {
            let allowed = list(&rules.policy.transports);
            return Err(PolicyViolation::Transport { endpoint: endpoint(), transport, allowed });
        }
        let allowed = encoding.filter(|encoding| {
            rules.policy.encodings.contains(encoding)
                || self.granted(|exception| exception.encoding).contains(encoding)
        });
        let Some(encoding) = allowed else {
            let encoding = encoding.map_or("of this content type", Encoding::as_str).to_owned();
            let allowed = list(&rules.policy.encodings);
            return Err(PolicyViolation::Encoding { endpoint: endpoint(), encoding, allowed });
        };
        if encoding == Encoding::Raw {
            self.check_raw(rules, peer)?;
        }
        Ok(encoding)
    }

    fn check_raw(&self, rules: &Rules, peer: &PeerIdentity) -> Result<(), PolicyViolation> {
        if !rules.raw_access.iter().any(|access| access.matches(peer)) {
            let (endpoint, peer) = (self.name.to_string(), peer.id.to_string());
            return Err(PolicyViolation::RawAccess { endpoint, peer });
        }
        let now = self.policy.clock.now();
        let limit = rules.policy.raw_requests_per_second;
        let mut budget = rules.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(budget.since) >= Duration::from_secs(1) {
            *budget = Budget { since: now, used: 0 };
        }
        if budget.used >= limit {
            return Err(PolicyViolation::RawBudget { endpoint: self.name.to_string(), limit });
        }
        budget.used += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{CertificateInfo, ManualClock};

    use super::*;

    fn peer(role: &str) -> PeerIdentity {
        let id = format!("spiffe://example.org/mesh/c/{role}/n-1").parse().unwrap();
        let certificate = CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: 1 };
        PeerIdentity { id, certificate }
    }

    fn with(name: &str, change: impl FnOnce(&mut EndpointPolicy)) -> PolicyConfig {
        let mut config = PolicyConfig::default();
        change(config.endpoints.entry(name.into()).or_default());
        config
    }

    fn problem(config: PolicyConfig) -> String {
        let problems = config.validate().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    fn guard(config: PolicyConfig, clock: &ManualClock, endpoint: &str) -> EndpointGuard {
        let config = config.validate().unwrap();
        Policy::new(&config, Arc::new(clock.clone())).endpoint(None, endpoint).unwrap()
    }

    fn exception(expires_s: u64) -> PolicyException {
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

    #[test]
    fn an_exception_counts_until_it_expires() {
        let clock = ManualClock::default();
        clock.set_wall(WallTime(9_000));
        let mut config = PolicyConfig::default();
        config.exceptions.push(exception(10));
        let guard = guard(config, &clock, MESH);
        let grpc = Some(Encoding::GrpcProto);
        assert_eq!(guard.check(Transport::Http1, grpc, &peer("worker")), Ok(Encoding::GrpcProto));
        clock.advance(Duration::from_secs(1));
        let refused = guard.check(Transport::Http1, grpc, &peer("worker")).unwrap_err().to_string();
        assert_eq!(
            refused,
            "endpoint mesh does not allow transport http/1.1; allowed are [h3, h2]; see transport.endpoints.mesh.transports"
        );
        assert_eq!(guard.policy.expired().len(), 1);
    }

    #[test]
    fn raw_is_for_those_on_the_list_and_within_the_budget() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(5));
        let config = with("blobs", |e| {
            e.encodings.push(Encoding::Raw);
            e.raw_access = vec!["role:control".into()];
            e.raw_requests_per_second = 2;
        });
        let guard = guard(config, &clock, "blobs");
        let raw = |role| guard.check(Transport::Http2, Some(Encoding::Raw), &peer(role));
        assert!(matches!(raw("worker"), Err(PolicyViolation::RawAccess { .. })));
        assert_eq!((raw("control"), raw("control")), (Ok(Encoding::Raw), Ok(Encoding::Raw)));
        assert!(matches!(raw("control"), Err(PolicyViolation::RawBudget { limit: 2, .. })));
        clock.advance(Duration::from_secs(1));
        assert_eq!(raw("control"), Ok(Encoding::Raw));
    }

    #[test]
    fn a_namespace_can_have_its_own_profile() {
        let config = with("billing/control", |e| e.encodings = vec![Encoding::GrpcProto]);
        let policy = Policy::new(&config.validate().unwrap(), Arc::new(ManualClock::default()));
        let json = |namespace| {
            let guard = policy.endpoint(Some(namespace), CONTROL).unwrap();
            guard.check(Transport::Http2, Some(Encoding::Json), &peer("worker"))
        };
        assert_eq!(json("shop"), Ok(Encoding::Json));
        assert!(matches!(json("billing"), Err(PolicyViolation::Encoding { .. })));
        assert!(matches!(policy.endpoint(None, "nope"), Err(PolicyViolation::Endpoint { .. })));
    }
}
