//! The control API of a node: its routes, who may call them, and when the node is ready.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use axum::Router;
use mesh_core::{Clock, InstanceId, Membership, Validated};
use mesh_gossip::{
    GossipHandle,
    api::{PeersOptions, peers_routes},
};
use mesh_transport::{
    Identity,
    edge::{
        EdgeConfig, EdgeMetrics, EdgeServer, EdgeTls, HealthRoutes, Readiness, ReadinessReason, StackOptions,
        health_routes, stack,
    },
};
use prometheus_client::{encoding::text, registry::Registry};

use super::{
    NodeError,
    control::{self, LeaveSwitch},
};

/// What the control API is made of.
pub(super) struct EdgeParts {
    pub(super) config: Validated<EdgeConfig>,
    pub(super) identity: Identity,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) gossip: Option<GossipHandle>,
    pub(super) state: Arc<State>,
    pub(super) leave_switch: LeaveSwitch,
    pub(super) clock: Arc<dyn Clock>,
}

/// What readiness depends on.
#[derive(Default)]
pub(super) struct State {
    gossip: OnceLock<GossipHandle>,
    stopping: AtomicBool,
}

impl State {
    /// Ready from now on only if this membership is.
    pub(super) fn follow(&self, gossip: GossipHandle) {
        // Called once, by the builder.
        let _ = self.gossip.set(gossip);
    }

    /// Not ready any more.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut reason = |code: &'static str, detail: &str, action: &'static str| {
            reasons.push(ReadinessReason {
                code: code.into(),
                detail: detail.to_owned(),
                action: action.into(),
            });
        };
        if self.stopping.load(Ordering::Relaxed) {
            reason("node.stopping", "the node says goodbye and stops", "use another node");
        }
        if let Some(gossip) = self.gossip.get() {
            let status = gossip.status();
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

/// Opens the edge port.
pub(super) async fn serve(parts: EdgeParts) -> Result<EdgeServer, NodeError> {
    let metrics = EdgeMetrics::default();
    let router = router(&parts, &metrics);
    let options = StackOptions::new(&parts.config, metrics.clone(), Arc::clone(&parts.clock));
    // Callers are known by the same rules as nodes are.
    let tls = EdgeTls::of_identity(&parts.identity);
    Ok(EdgeServer::bind(&parts.config, tls, stack(router, options), metrics).await?)
}

fn router(parts: &EdgeParts, metrics: &EdgeMetrics) -> Router {
    let node_id = parts.identity.node_id();
    let local = parts.gossip.as_ref().map(GossipHandle::local);
    let peers = peers_routes(PeersOptions {
        membership: Arc::clone(&parts.membership),
        local: node_id,
        // Without membership there is no run to tell apart: nothing ever changes.
        instance: local.map_or(InstanceId(0), |local| local.instance),
        clock: Arc::clone(&parts.clock),
        pages: parts.config.page_limits(),
        hub: parts.config.hub_limits(),
        metrics: metrics.clone(),
    });
    let state = Arc::clone(&parts.state);
    let registry = registry(parts, metrics);
    let health = health_routes(HealthRoutes {
        live: Arc::new(|| true),
        ready: Arc::new(move || state.readiness()),
        metrics: Arc::new(move || {
            let mut page = String::new();
            // Writing to a string can't fail.
            let _ = text::encode(&mut page, &registry);
            page
        }),
    });
    control::guarded(peers.merge(health).merge(control::routes(parts.leave_switch.clone())))
}

/// Every metric of the node.
fn registry(parts: &EdgeParts, metrics: &EdgeMetrics) -> Registry {
    let mut registry = Registry::default();
    parts.identity.metrics().register(&mut registry);
    metrics.register(&mut registry);
    if let Some(gossip) = &parts.gossip {
        mesh_gossip::metrics::register(&mut registry, gossip.clone());
    }
    registry
}
