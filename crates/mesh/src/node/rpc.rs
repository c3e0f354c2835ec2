//! gRPC on the node's port: what the node serves, and its channels to other nodes.

use std::sync::Arc;

use axum::Router;
use mesh_core::{Clock, Member, MemberSnapshot, NodeId, SettingError, Settings, Validated};
use mesh_transport::{
    endpoint::Endpoint,
    rpc::{
        Channel, Channels, Encoding, EndpointGuard, Lane, MESH, Policy, PolicyConfig, RpcMetrics, RpcServer,
        Target,
    },
    transcode::{Descriptors, Transcoder, service_routes},
};
use tokio::task::AbortHandle;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    NodeError, ResolveError,
    edge::{State, StateChanges},
    metadata,
};

/// The name of the whole node in the gRPC health protocol.
const WHOLE_NODE: &str = "";

/// The server and the channels of one node.
pub(super) struct Rpc {
    server: RpcServer<Transcoder<Routes>>,
    /// The services that endpoints of the edge port name.
    on_edge: Option<Router>,
    channels: Channels,
    metrics: RpcMetrics,
    health: HealthReporter,
}

/// What channels need, before there is anything to serve: services of the node call other nodes.
pub(super) struct Outgoing {
    endpoint: Endpoint,
    policy_config: Validated<PolicyConfig>,
    policy: Policy,
    guard: EndpointGuard,
    channels: Channels,
    metrics: RpcMetrics,
}

impl Outgoing {
    /// Channels that begin at `endpoint`.
    pub(super) fn new(endpoint: &Endpoint, clock: Arc<dyn Clock>) -> Result<Self, NodeError> {
        let config = endpoint.config();
        let policy_config = config.policy_config().validate().map_err(NodeError::Settings)?;
        let policy = Policy::new(&policy_config, clock);
        let guard = policy.endpoint(None, MESH)?;
        let channel_config = config.channel_config().validate().map_err(NodeError::Settings)?;
        let metrics = RpcMetrics::new(endpoint.metrics().clone());
        let channels =
            Channels::new(Arc::new(endpoint.clone()), guard.clone(), channel_config, metrics.clone());
        Ok(Self { endpoint: endpoint.clone(), policy_config, policy, guard, channels, metrics })
    }

    /// The channels. Clones share connections.
    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Serves `routes` and the health protocol on the endpoint, from now on and until it closes.
    ///
    /// The task is returned so that it ends with the node.
    pub(super) async fn serve(
        self,
        routes: Routes,
        descriptors: Descriptors,
    ) -> Result<(Rpc, Option<AbortHandle>), NodeError> {
        let Self { endpoint, policy_config, policy, guard, channels, metrics } = self;
        let descriptors = described(&policy_config, descriptors)?;
        let server_config = endpoint.config().server.clone().validate().map_err(NodeError::Settings)?;

        let (health, health_service) = tonic_health::server::health_reporter();
        // True only once membership says so.
        health.set_service_status(WHOLE_NODE, ServingStatus::NotServing).await;
        let routes = routes.add_service(health_service).prepare();
        let routes = Transcoder::new(routes, descriptors, server_config.message_bytes_max);
        let mut on_edge: Option<Router> = None;
        for (name, rules) in policy_config.endpoints.iter().filter(|(_, rules)| !rules.services.is_empty()) {
            let guard = policy.endpoint(None, name)?;
            let server = RpcServer::new(routes.clone(), guard, server_config.clone(), metrics.clone());
            let services = service_routes(&server, rules.services.iter().map(String::as_str));
            on_edge = Some(on_edge.unwrap_or_default().merge(services));
        }
        let server = RpcServer::new(routes, guard, server_config, metrics.clone());
        // The endpoint is new, so that nobody else has taken its connections.
        let serving = endpoint.rpc_incoming().map(|incoming| {
            let server = server.clone();
            tokio::spawn(async move { server.serve(incoming).await }).abort_handle()
        });
        Ok((Rpc { server, on_edge, channels, metrics, health }, serving))
    }
}

/// A channel to a member, by what membership knows of it.
pub(super) fn channel(
    channels: &Channels,
    members: &MemberSnapshot,
    node_id: &NodeId,
    lane: Lane,
) -> Result<Channel, ResolveError> {
    let Some(member) = members.find(node_id) else {
        return Err(ResolveError::Unknown { node_id: node_id.clone() });
    };
    Ok(channels.open(target(member)?, lane))
}

impl Rpc {
    pub(super) fn metrics(&self) -> &RpcMetrics {
        &self.metrics
    }

    /// The services that the edge port serves; `None` if no endpoint names any.
    pub(super) fn on_edge(&self) -> Option<Router> {
        self.on_edge.clone()
    }

    /// Keeps what the health protocol answers equal to what `/readyz` does.
    pub(super) fn follow(&self, state: Arc<State>) -> AbortHandle {
        let health = self.health.clone();
        let follow = async move {
            let mut changes = StateChanges::new(Arc::clone(&state));
            let mut told = None;
            loop {
                let ready = state.readiness().ready;
                if told != Some(ready) {
                    told = Some(ready);
                    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
                    health.set_service_status(WHOLE_NODE, status).await;
                }
                if !changes.next().await {
                    return;
                }
            }
        };
        tokio::spawn(follow).abort_handle()
    }

    /// Finishes the calls at work and takes no more. Calls that watch the node's health
    /// would go on for ever; they are told of the end and end.
    pub(super) async fn drain(&self) {
        let mut health = self.health.clone();
        health.set_service_status(WHOLE_NODE, ServingStatus::NotServing).await;
        health.clear_service_status(WHOLE_NODE).await;
        self.server.shutdown().await;
    }

    /// A channel to a member.
    pub(super) fn channel(
        &self,
        members: &MemberSnapshot,
        node_id: &NodeId,
        lane: Lane,
    ) -> Result<Channel, ResolveError> {
        channel(&self.channels, members, node_id, lane)
    }
}

/// Adds the descriptors that the settings name, and sees to it that each service that is to be
/// served as JSON has one.
fn described(policy: &PolicyConfig, mut descriptors: Descriptors) -> Result<Descriptors, NodeError> {
    descriptors.add(tonic_health::pb::FILE_DESCRIPTOR_SET)?;
    for path in policy.endpoints.values().flat_map(|rules| &rules.descriptors) {
        descriptors.add_file(path)?;
    }
    let mut problems = Vec::new();
    for (name, rules) in
        policy.endpoints.iter().filter(|(_, rules)| rules.encodings.contains(&Encoding::Json))
    {
        for service in rules.services.iter().filter(|service| !descriptors.has_service(service)) {
            let rule = format!(
                "must be described to be served as JSON; described are [{}]; name a file with it in \
                 transport.endpoints.{name}.descriptors, or leave json out of encodings",
                descriptors.services().join(", ")
            );
            problems.push(SettingError::new(format!("transport.endpoints.{name}.services"), service, rule));
        }
    }
    if problems.is_empty() { Ok(descriptors) } else { Err(NodeError::Settings(problems)) }
}

pub(super) fn target(member: &Member) -> Result<Target, ResolveError> {
    let node_id = member.node_id.clone();
    if !member.state.is_live() {
        return Err(ResolveError::Gone { node_id, state: member.state });
    }
    if member.addresses.is_empty() {
        return Err(ResolveError::NoAddress { node_id });
    }
    let http3 = metadata::serves_http3(member);
    Ok(Target { node_id, addresses: member.addresses.clone(), http3 })
}

#[cfg(test)]
mod tests {
    use mesh_core::{InstanceId, Instant, MemberState, Role};

    use super::*;

    fn member(state: MemberState, transports: Option<&str>) -> Member {
        let role = Role::new("worker").expect("a role");
        let mut member =
            Member::new("w-1".parse().expect("a node id"), InstanceId(1), role, Instant::default());
        member.state = state;
        member.addresses = vec!["127.0.0.1:1".parse().expect("an address")];
        member.metadata.extend(transports.map(|t| ("transports".to_owned(), t.to_owned())));
        member
    }

    #[test]
    fn a_member_says_itself_whether_it_serves_http3() {
        let http3 = |transports| target(&member(MemberState::Suspect, transports)).expect("a target").http3;
        assert_eq!(http3(Some("h3,h2")), Some(true));
        assert_eq!(http3(Some("h2")), Some(false));
        assert_eq!(http3(None), None);
    }

    #[test]
    fn there_is_no_channel_to_a_member_that_is_gone() {
        for state in [MemberState::Dead, MemberState::Left] {
            let error = target(&member(state, None)).expect_err("it is gone");
            assert_eq!(error.to_string(), format!("w-1 is {state}; a channel needs a live member"));
        }
        let mut unheard = member(MemberState::Alive, None);
        unheard.addresses.clear();
        assert!(matches!(target(&unheard), Err(ResolveError::NoAddress { .. })));
    }
}
