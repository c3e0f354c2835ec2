//! Which transports and encodings an endpoint allows.
//!
//! The rules are checked when settings are loaded ([`PolicyConfig`] is
//! [`Settings`](mesh_core::Settings)), and each request is held against them again ([`Policy::check`]).
//! A namespace can have a profile of its own: `endpoints."billing/mesh"` applies
//! to the endpoint `mesh` in the namespace `billing`, `endpoints.mesh` to all others.

mod config;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use mesh_core::{Clock, Instant, PeerIdentity, Validated, WallTime};

pub use config::{CONTROL, EDGE, EndpointPolicy, MESH, PolicyConfig, PolicyException};

use self::config::{Access, list};
use super::{Encoding, Transport};

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
    use mesh_core::{CertificateInfo, ManualClock, Settings as _};

    use super::{
        config::tests::{exception, with},
        *,
    };

    fn peer(role: &str) -> PeerIdentity {
        let id = format!("spiffe://example.org/mesh/c/{role}/n-1").parse().unwrap();
        let certificate = CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: 1 };
        PeerIdentity { id, certificate }
    }

    fn guard(config: PolicyConfig, clock: &ManualClock, endpoint: &str) -> EndpointGuard {
        let config = config.validate().unwrap();
        Policy::new(&config, Arc::new(clock.clone())).endpoint(None, endpoint).unwrap()
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
