//! The group of voters between its Rust type and its message.

use std::time::Duration;

use super::{WireError, bad, generated as wire, values};
use crate::members::{GroupMember, GroupMembers, MemberRole};

impl From<GroupMembers> for wire::MembersReply {
    fn from(group: GroupMembers) -> Self {
        Self {
            told_by: group.told_by.into(),
            leads: group.leads,
            group: group.group,
            term: group.term,
            last_index: group.last_index,
            members: group.members.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::MembersReply> for GroupMembers {
    type Error = WireError;
    fn try_from(reply: wire::MembersReply) -> Result<Self, WireError> {
        Ok(Self {
            told_by: values::node("the group", "told_by", &reply.told_by)?,
            leads: reply.leads,
            group: reply.group,
            term: reply.term,
            last_index: reply.last_index,
            members: reply.members.into_iter().map(TryFrom::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<GroupMember> for wire::GroupMember {
    fn from(member: GroupMember) -> Self {
        let role = match member.role {
            MemberRole::Leader => wire::group_member::Role::Leader,
            MemberRole::Voter => wire::group_member::Role::Voter,
            MemberRole::Learner => wire::group_member::Role::Learner,
        };
        Self {
            node: member.node_id.into(),
            raft_id: member.raft_id,
            role: role.into(),
            answers: member.answers,
            silent_ms: member.silent.map(values::millis),
            behind: member.behind,
        }
    }
}

impl TryFrom<wire::GroupMember> for GroupMember {
    type Error = WireError;
    fn try_from(member: wire::GroupMember) -> Result<Self, WireError> {
        let role = match member.role() {
            wire::group_member::Role::Leader => MemberRole::Leader,
            wire::group_member::Role::Voter => MemberRole::Voter,
            wire::group_member::Role::Learner => MemberRole::Learner,
            wire::group_member::Role::Unspecified => {
                return Err(bad("a member of the group", "role", format!("{} is none", member.role)));
            }
        };
        Ok(Self {
            node_id: values::node("a member of the group", "node", &member.node)?,
            raft_id: member.raft_id,
            role,
            answers: member.answers,
            silent: member.silent_ms.map(Duration::from_millis),
            behind: member.behind,
        })
    }
}
