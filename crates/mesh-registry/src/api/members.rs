//! `GET /control/v1/registry/members`: who votes, who will, and how each of them does.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_core::{Membership, NodeId};
use mesh_transport::edge::Problem;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, unanswered};
use crate::members::{GroupMember, GroupMembers, Members};

/// The reply of `GET /control/v1/registry/members`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MembersReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The node whose knowledge this is.
    pub told_by: NodeId,
    /// Whether that one leads. If not, this may be old, and nobody knows who answers.
    pub first_hand: bool,
    /// The group's name.
    pub group: String,
    /// The term of its log.
    pub term: u64,
    /// The index of the last entry of the log, where this was told.
    pub last_index: u64,
    /// Voters and learners, by their numbers.
    pub items: Vec<MemberItem>,
}

/// One of the group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberItem {
    /// The node.
    pub node_id: NodeId,
    /// Its number in the group; a new data directory gets a new one.
    pub raft_id: u64,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Whether it answers the leader; `null` if that is not known.
    pub answers: Option<bool>,
    /// Seconds since it last answered the leader; `null` if that is not known.
    pub silent: Option<f64>,
    /// Entries of the log that it lacks; `null` if that is not known.
    pub behind: Option<u64>,
    /// Where it is, by what the answering node knows of the members.
    pub addresses: Vec<String>,
}

/// What the route needs.
#[derive(Clone)]
pub struct MembersOptions {
    /// The node that answers.
    pub observer: NodeId,
    /// Who knows the group.
    pub members: Arc<dyn Members>,
    /// Who knows where nodes are.
    pub membership: Arc<dyn Membership>,
}

/// The route, for providers that are kept by nodes of the cluster.
pub fn members_routes(options: MembersOptions) -> Router {
    Router::new()
        .route("/control/v1/registry/members", get(members))
        .route("/control/registry/members", get(members))
        .with_state(options)
}

async fn members(State(api): State<MembersOptions>) -> Result<Response, Problem> {
    let group = api.members.members().await.map_err(|error| {
        let problem = unanswered(&error);
        if problem.status_code() == StatusCode::SERVICE_UNAVAILABLE {
            return problem.action(
                "look whether the nodes with the role control are alive: mesh peers list --role control",
            );
        }
        problem
    })?;
    let GroupMembers { told_by, leads, group, term, last_index, members } = group;
    let known = api.membership.snapshot();
    let item = |member: GroupMember| {
        let addresses =
            known.find(&member.node_id).map(|known| known.addresses.as_slice()).unwrap_or_default();
        MemberItem {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            node_id: member.node_id,
            raft_id: member.raft_id,
            role: member.role.as_str().to_owned(),
            answers: member.answers,
            silent: member.silent.map(|silent| silent.as_secs_f64()),
            behind: member.behind,
        }
    };
    let reply = MembersReply {
        api_version: API_VERSION.to_owned(),
        observer: api.observer.clone(),
        told_by,
        first_hand: leads,
        group,
        term,
        last_index,
        items: members.into_iter().map(item).collect(),
    };
    Ok(Json(reply).into_response())
}
