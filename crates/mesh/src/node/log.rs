//! One log line for each membership transition.

use futures_util::StreamExt;
use mesh_core::{Health, Member, MemberChange, MemberEvent, MemberEvents, Reason};

/// Writes a line for every change until the node stops.
pub(super) async fn log_transitions(mut events: MemberEvents, cluster: String) {
    while let Some(event) = events.next().await {
        match event {
            MemberEvent::Changed { change, before, member, reason, correlation_id, .. } => {
                let before = before.map_or("unknown", |state| state.as_str());
                line(&cluster, change, before, &member, reason, correlation_id);
            }
            MemberEvent::Resynced(snapshot) => {
                tracing::warn!(
                    members = snapshot.all().len(),
                    "membership changed faster than it was logged; some transitions have no line"
                );
            }
            _ => {}
        }
    }
}

/// `warn` for what an operator may have to look into, `info` for other transitions,
/// `debug` for changes that are none.
fn line(
    cluster: &str,
    change: MemberChange,
    before: &str,
    member: &Member,
    reason: Reason,
    correlation_id: u64,
) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "mesh::membership",
                peer_id = %member.node_id,
                role = %member.role,
                cluster_id = cluster,
                region = member.metadata("region").unwrap_or_default(),
                mesh_version = member.metadata("mesh_version").unwrap_or_default(),
                transport = match member.health { Health::Healthy => "quic", Health::Degraded => "http2" },
                correlation_id = format_args!("{correlation_id:016x}"),
                before,
                after = member.state.as_str(),
                incarnation = member.incarnation.0,
                reason = reason.as_str(),
                "member {}", change.as_str(),
            )
        };
    }
    match change {
        MemberChange::Suspected | MemberChange::Died => line!(warn),
        MemberChange::Updated => line!(debug),
        _ => line!(info),
    }
}
