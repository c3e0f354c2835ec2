//! The control API of a node: its routes, who may call them, and when the node is ready.

use std::sync::{Arc, OnceLock};

use axum::Router;
use mesh_core::{Clock, InstanceId, Membership, Validated};
use mesh_gossip::{
    GossipHandle, GossipStatus,
    api::{PeersOptions, peers_routes},
};
use mesh_leader::{
    Leadership,
    api::{LeadersOptions, leaders_routes},
};
use mesh_registry::{
    api::{
        MembersOptions, RegistryOptions, RestoreOptions, SnapshotOptions, StatusOptions, members_routes,
        registry_routes, restore_routes, snapshot_routes, status_routes,
    },
    metrics::MetricSources,
};
use mesh_transport::{
    Identity,
    edge::{
        EdgeConfig, EdgeMetrics, EdgeServer, EdgeTls, HealthRoutes, Readiness, ReadinessReason, StackOptions,
        health_routes, stack,
    },
    rpc::RpcMetrics,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::sync::watch;

use super::{
    NodeError,
    control::{self, LeaveSwitch},
};

/// What the control API is made of.
pub(super) struct EdgeParts<'p> {
    #[cfg(feature = "sync")]
    pub(super) sync: Option<&'p super::sync::Sync>,
    pub(super) config: Validated<EdgeConfig>,
    pub(super) identity: Identity,
    pub(super) membership: &'p Arc<dyn Membership>,
    pub(super) gossip: Option<GossipHandle>,
    pub(super) state: Arc<State>,
    pub(super) leave_switch: LeaveSwitch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rpc_metrics: RpcMetrics,
    pub(super) leadership: Option<Leadership>,
    pub(super) registry_metrics: Option<MetricSources>,
    pub(super) registry_status: Option<StatusOptions>,
    pub(super) registry_whole: Option<(SnapshotOptions, RestoreOptions)>,
    pub(super) registry_members: Option<MembersOptions>,
    pub(super) registry_routes: Option<RegistryOptions>,
    /// Whether the control API is served.
    pub(super) control: bool,
    /// gRPC services under the rules of their endpoints.
    pub(super) services: Option<Router>,
}

/// What liveness and readiness depend on.
#[derive(Default)]
pub(super) struct State {
    gossip: OnceLock<GossipHandle>,
    stopping: watch::Sender<bool>,
}

impl State {
    /// Ready from now on only if this membership is.
    pub(super) fn follow(&self, gossip: GossipHandle) {
        // Called once, by the builder.
        let _ = self.gossip.set(gossip);
    }

    /// Not ready any more.
    pub(super) fn stopping(&self) {
        self.stopping.send_replace(true);
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Fit to go on. Membership that ended although nobody stopped the node does not come back.
    fn is_live(&self) -> bool {
        self.is_stopping() || self.gossip.get().is_none_or(GossipHandle::is_running)
    }

    pub(super) fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut reason = |code: &'static str, detail: &str, action: &'static str| {
            reasons.push(ReadinessReason {
                code: code.into(),
                detail: detail.to_owned(),
                action: action.into(),
            });
        };
        if self.is_stopping() {
            reason("node.stopping", "the node says goodbye and stops", "use another node");
        }
        if let Some(gossip) = self.gossip.get() {
            let status = gossip.status();
            if !self.is_live() {
                reason(
                    "gossip.ended",
                    "membership ended by itself; others take this node for dead",
                    "restart the node, and look at its log",
                );
            }
            if status.stepped_aside {
                reason(
                    "gossip.conflict",
                    "another living process has this node's id",
                    "stop one of the two, or give it a certificate of its own",
                );
            }
            if status.isolated {
                reason(
                    "gossip.isolated",
                    "the node knows of others and reaches none of them",
                    "check the network and the other nodes: mesh check",
                );
            } else if !status.ready {
                reason(
                    "gossip.joining",
                    "the list of members is not complete yet",
                    "wait; it takes seconds at most",
                );
            }
        }
        Readiness::from_reasons(reasons)
    }
}

/// Tells when liveness or readiness may have changed.
pub(super) struct StateChanges {
    state: Arc<State>,
    stopping: watch::Receiver<bool>,
    status: Option<watch::Receiver<GossipStatus>>,
    over: bool,
}

impl StateChanges {
    /// Changes from here on.
    pub(super) fn new(state: Arc<State>) -> Self {
        let stopping = state.stopping.subscribe();
        let status = state.gossip.get().map(GossipHandle::status_changes);
        Self { state, stopping, status, over: false }
    }

    /// Waits for the next one; false if there will be none, because the node stops or its
    /// membership has ended.
    pub(super) async fn next(&mut self) -> bool {
        if self.over {
            return false;
        }
        match (&mut self.status, self.state.gossip.get()) {
            (Some(status), Some(gossip)) => tokio::select! {
                // The handle in `state` keeps the channel open.
                _ = status.changed() => {}
                () = gossip.ended() => {}
                // The sender is in `state`.
                _ = self.stopping.wait_for(|stopping| *stopping) => {}
            },
            _ => drop(self.stopping.wait_for(|stopping| *stopping).await),
        }
        self.over = self.state.is_stopping() || !self.state.is_live();
        true
    }
}

/// Opens the edge port: for the control API, services, or both.
pub(super) async fn serve(parts: EdgeParts<'_>) -> Result<EdgeServer, NodeError> {
    let metrics = EdgeMetrics::default();
    // Services decide themselves whom they serve, as they do on the mesh port.
    let control = if parts.control { control_routes(&parts, &metrics) } else { Router::new() };
    let router = control.merge(parts.services.clone().unwrap_or_default());
    let options = StackOptions::new(&parts.config, metrics.clone(), Arc::clone(&parts.clock));
    // Callers are known by the same rules as nodes are.
    let tls = EdgeTls::of_identity(&parts.identity);
    Ok(EdgeServer::bind(&parts.config, tls, stack(router, options), metrics).await?)
}

fn control_routes(parts: &EdgeParts<'_>, metrics: &EdgeMetrics) -> Router {
    let node_id = parts.identity.node_id();
    let local = parts.gossip.as_ref().map(GossipHandle::local);
    let peers = peers_routes(PeersOptions {
        membership: Arc::clone(parts.membership),
        local: node_id,
        // Without membership there is no run to tell apart: nothing ever changes.
        instance: local.map_or(InstanceId(0), |local| local.instance),
        clock: Arc::clone(&parts.clock),
        pages: parts.config.page_limits(),
        hub: parts.config.hub_limits(),
        metrics: metrics.clone(),
    });
    let (live, ready) = (Arc::clone(&parts.state), Arc::clone(&parts.state));
    let registry = registry(parts, metrics);
    let health = health_routes(HealthRoutes {
        live: Arc::new(move || live.is_live()),
        #[cfg(feature = "sync")]
        ready: match parts.sync {
            Some(sync) => sync.warning(move || ready.readiness()),
            None => Arc::new(move || ready.readiness()),
        },
        #[cfg(not(feature = "sync"))]
        ready: Arc::new(move || ready.readiness()),
        metrics: Arc::new(move || {
            let mut page = String::new();
            // Writing to a string can't fail.
            let _ = text::encode(&mut page, &registry);
            page
        }),
    });
    let mut routes = peers.merge(health).merge(control::routes(parts.leave_switch.clone()));
    if let Some(leadership) = &parts.leadership {
        routes = routes.merge(leaders_routes(LeadersOptions {
            leadership: leadership.clone(),
            pages: parts.config.page_limits(),
            hub: parts.config.hub_limits(),
            metrics: metrics.clone(),
        }));
    }
    #[cfg(feature = "sync")]
    {
        routes = routes.merge(match parts.sync {
            Some(sync) => mesh_sync::api::sync_routes(sync.routes(&parts.config, metrics)),
            None => mesh_sync::api::off_routes(),
        });
    }
    if let Some(status) = &parts.registry_status {
        routes = routes.merge(status_routes(status.clone()));
    }
    if let Some((snapshot, restore)) = &parts.registry_whole {
        routes = routes.merge(snapshot_routes(snapshot.clone())).merge(restore_routes(restore.clone()));
    }
    if let Some(members) = &parts.registry_members {
        routes = routes.merge(members_routes(members.clone()));
    }
    if let Some(options) = &parts.registry_routes {
        routes = routes.merge(registry_routes(options.clone()));
    }
    control::guarded(routes)
}

/// Every metric of the node.
fn registry(parts: &EdgeParts<'_>, metrics: &EdgeMetrics) -> Registry {
    let mut registry = Registry::default();
    parts.identity.metrics().register(&mut registry);
    parts.rpc_metrics.register(&mut registry);
    metrics.register(&mut registry);
    if let Some(gossip) = &parts.gossip {
        mesh_gossip::metrics::register(&mut registry, gossip.clone());
    }
    if let Some(leadership) = &parts.leadership {
        mesh_leader::metrics::register(&mut registry, leadership.clone());
    }
    #[cfg(feature = "sync")]
    if let Some(sync) = parts.sync {
        mesh_sync::metrics::register(&mut registry, sync.handle().clone());
    }
    if let Some(sources) = &parts.registry_metrics {
        sources.clone().register(&mut registry);
    }
    registry
}
