//! How a node that is not one of the group asks to be.

use std::{sync::Arc, time::Duration};

use mesh_core::{NodeId, Role};
use mesh_transport::rpc::Lane;

use super::core::Core;
use crate::{
    Leadership,
    wire::{self, raft_client::RaftClient},
};

/// Between two rounds of asking.
const TICK: Duration = Duration::from_millis(500);
/// Nodes that are asked in one round.
const ASKED_MAX: usize = 3;
/// Longest wait for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for as long as the node hears of no leader: to be taken in, or whether it still is one of the group.
pub(super) fn start(core: &Arc<Core>) {
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        let mut turn = 0_usize;
        let mut told = None;
        loop {
            tokio::time::sleep(TICK).await;
            let Some(core) = core.upgrade() else { return };
            let hears = core.seated().is_some_and(|group| group.leadership() != Leadership::Unknown);
            if hears && !core.is_outside() {
                told = None;
                continue;
            }
            let asked = whom(&core, told.take(), turn);
            turn = turn.wrapping_add(1);
            for node in asked {
                let Some(reply) = ask(&core, &node).await else { continue };
                if reply.leads {
                    core.learn(&reply);
                    told = Some(node);
                    break;
                }
                told = reply.leader.parse().ok().or(told);
            }
        }
    });
}

/// The nodes to ask: who was said to lead, then some of those that may carry the registry.
fn whom(core: &Core, leader: Option<NodeId>, turn: usize) -> Vec<NodeId> {
    let members = core.options.membership.snapshot();
    let own = &core.options.node_id;
    let mut nodes: Vec<NodeId> = members
        .all()
        .filter(|member| member.state.is_live() && member.role.as_str() == Role::CONTROL)
        .map(|member| member.node_id.clone())
        .filter(|node| node != own && Some(node) != leader.as_ref())
        .collect();
    if !nodes.is_empty() {
        let by = turn * ASKED_MAX % nodes.len();
        nodes.rotate_left(by);
    }
    leader.into_iter().chain(nodes).take(ASKED_MAX).collect()
}

async fn ask(core: &Core, node: &NodeId) -> Option<wire::RaftHelloReply> {
    let channel = core.options.peers.channel(node, Lane::Control).ok()?;
    let mut client = RaftClient::new(channel);
    let asked = tokio::time::timeout(ASK_TIMEOUT, client.hello(core.hello())).await;
    Some(asked.ok()?.ok()?.into_inner())
}
