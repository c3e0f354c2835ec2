// Generated from proto/raft.proto, proto/registry.proto, proto/store.proto by `cargo xtask codegen`. Do not edit.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "generated")]

/// A fencing token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Token {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    #[prost(uint64, tag = "2")]
    pub counter: u64,
}
/// A record.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Record {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: ::prost::bytes::Bytes,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
    #[prost(uint64, tag = "4")]
    pub created_revision: u64,
    #[prost(string, tag = "5")]
    pub last_writer: ::prost::alloc::string::String,
    /// 0: none.
    #[prost(uint64, tag = "6")]
    pub session: u64,
    #[prost(message, optional, tag = "7")]
    pub token: ::core::option::Option<Token>,
}
/// Something that must hold.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Compare {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(oneof = "compare::Condition", tags = "2, 3, 4, 5, 6")]
    pub condition: ::core::option::Option<compare::Condition>,
}
/// Nested message and enum types in `Compare`.
pub mod compare {
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Condition {
        /// Last written at this revision.
        #[prost(uint64, tag = "2")]
        Revision(u64),
        /// There is no record.
        #[prost(message, tag = "3")]
        Absent(super::Empty),
        /// There is one.
        #[prost(message, tag = "4")]
        Present(super::Empty),
        /// It has this value.
        #[prost(bytes, tag = "5")]
        Value(::prost::bytes::Bytes),
        /// It is held with this token.
        #[prost(message, tag = "6")]
        Fence(super::Token),
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Empty {}
/// Something to do.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Operation {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(oneof = "operation::Action", tags = "2, 3, 4")]
    pub action: ::core::option::Option<operation::Action>,
}
/// Nested message and enum types in `Operation`.
pub mod operation {
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Action {
        #[prost(message, tag = "2")]
        Put(super::Put),
        #[prost(message, tag = "3")]
        Delete(super::Empty),
        #[prost(message, tag = "4")]
        Grant(super::Put),
    }
}
/// A value to write.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub value: ::prost::bytes::Bytes,
    /// 0: none.
    #[prost(uint64, tag = "2")]
    pub session: u64,
}
/// Names a transaction for retries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Idempotency {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}
/// Who did it and why.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct AuditNote {
    #[prost(string, tag = "1")]
    pub action: ::prost::alloc::string::String,
    #[prost(string, tag = "2")]
    pub reason: ::prost::alloc::string::String,
    #[prost(uint64, tag = "3")]
    pub correlation_id: u64,
}
/// A transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub compares: ::prost::alloc::vec::Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub operations: ::prost::alloc::vec::Vec<Operation>,
    /// Clients leave it empty: their certificate says who writes.
    #[prost(string, tag = "3")]
    pub writer: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "4")]
    pub idempotency: ::core::option::Option<Idempotency>,
    #[prost(message, optional, tag = "5")]
    pub audit: ::core::option::Option<AuditNote>,
}
/// A token that was given out.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Grant {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "2")]
    pub token: ::core::option::Option<Token>,
}
/// What came of a transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TxnOutcome {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(message, repeated, tag = "2")]
    pub grants: ::prost::alloc::vec::Vec<Grant>,
}
/// Why a transaction had no effect.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Refusal {
    #[prost(oneof = "refusal::Reason", tags = "1, 2, 3, 4, 5, 6")]
    pub reason: ::core::option::Option<refusal::Reason>,
}
/// Nested message and enum types in `Refusal`.
pub mod refusal {
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Reason {
        #[prost(message, tag = "1")]
        Conflict(super::Conflict),
        #[prost(message, tag = "2")]
        Fenced(super::Fenced),
        #[prost(message, tag = "3")]
        Unfenced(super::Unfenced),
        #[prost(uint64, tag = "4")]
        SessionGone(u64),
        #[prost(message, tag = "5")]
        Forgotten(super::Idempotency),
        /// A rule of the request itself is broken; the text says which.
        #[prost(string, tag = "6")]
        Invalid(::prost::alloc::string::String),
    }
}
/// A compare that does not hold.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Conflict {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(message, optional, tag = "2")]
    pub found: ::core::option::Option<Record>,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}
/// A token that does not hold the grant.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Fenced {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "2")]
    pub stated: ::core::option::Option<Token>,
    /// Not set: nobody holds it.
    #[prost(message, optional, tag = "3")]
    pub current: ::core::option::Option<Token>,
}
/// A grant that was to be changed without its token.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Unfenced {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "2")]
    pub current: ::core::option::Option<Token>,
}
/// An open session.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Session {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub owner: ::prost::alloc::string::String,
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    #[prost(uint64, tag = "4")]
    pub renewals: u64,
}
/// What happened to one record.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Change {
    #[prost(oneof = "change::Change", tags = "1, 2")]
    pub change: ::core::option::Option<change::Change>,
}
/// Nested message and enum types in `Change`.
pub mod change {
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Change {
        #[prost(message, tag = "1")]
        Put(super::Record),
        #[prost(message, tag = "2")]
        Deleted(super::Deleted),
    }
}
/// A deletion.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Deleted {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(enumeration = "DeleteCause", tag = "2")]
    pub cause: i32,
}
/// One entry of the replicated log. The version is that of the rules by which it is applied.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Command {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "command::Command", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub command: ::core::option::Option<command::Command>,
}
/// Nested message and enum types in `Command`.
pub mod command {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Command {
        #[prost(message, tag = "2")]
        Txn(super::TxnCommand),
        #[prost(message, tag = "3")]
        Open(super::OpenSession),
        /// Sessions to renew.
        #[prost(message, tag = "4")]
        Renew(super::SessionList),
        #[prost(message, tag = "5")]
        Close(super::CloseSession),
        /// Sessions whose time ran out.
        #[prost(message, tag = "6")]
        Expire(super::ExpireSessions),
        /// Forget the history up to and including this revision.
        #[prost(uint64, tag = "7")]
        Compact(u64),
        #[prost(message, tag = "8")]
        Batch(super::CommandList),
        #[prost(message, tag = "9")]
        RestoreChunk(super::RestoreChunk),
        #[prost(message, tag = "10")]
        RestoreEnd(super::RestoreEnd),
        /// Delete audit records from before this moment, in milliseconds since 1970.
        #[prost(uint64, tag = "11")]
        TrimAudit(u64),
        #[prost(message, tag = "12")]
        RestoreDrop(super::RestoreDrop),
    }
}
/// Several commands, applied one after the other.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct CommandList {
    #[prost(message, repeated, tag = "1")]
    pub commands: ::prost::alloc::vec::Vec<Command>,
}
/// A transaction, with what the store adds to it before it enters the log.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TxnCommand {
    #[prost(message, optional, tag = "1")]
    pub txn: ::core::option::Option<Txn>,
    /// The audit record's key and value, if the transaction has a note.
    #[prost(string, tag = "2")]
    pub audit_key: ::prost::alloc::string::String,
    #[prost(bytes = "bytes", tag = "3")]
    pub audit_value: ::prost::bytes::Bytes,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct OpenSession {
    #[prost(string, tag = "1")]
    pub owner: ::prost::alloc::string::String,
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SessionList {
    #[prost(uint64, repeated, tag = "1")]
    pub sessions: ::prost::alloc::vec::Vec<u64>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CloseSession {
    #[prost(uint64, tag = "1")]
    pub session: u64,
}
/// Each expires only if it was not renewed since.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ExpireSessions {
    #[prost(message, repeated, tag = "1")]
    pub sessions: ::prost::alloc::vec::Vec<Expiry>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Expiry {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// The count of renewals that the observer saw.
    #[prost(uint64, tag = "2")]
    pub renewals: u64,
}
/// A piece of a snapshot that is to replace the store.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RestoreChunk {
    /// The same for all pieces of one restore; a new one drops what came before.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: ::prost::bytes::Bytes,
}
/// The snapshot is complete: put it in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RestoreEnd {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    #[prost(uint64, tag = "3")]
    pub xxh3: u64,
}
/// Nobody goes on with a restore: drop its pieces, unless more than so many bytes came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RestoreDrop {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}
/// A snapshot is a stream of these, each with its length before it. The head comes
/// first, the end last.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SnapshotItem {
    #[prost(oneof = "snapshot_item::Item", tags = "1, 2, 3, 4, 5, 6")]
    pub item: ::core::option::Option<snapshot_item::Item>,
}
/// Nested message and enum types in `SnapshotItem`.
pub mod snapshot_item {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Item {
        #[prost(message, tag = "1")]
        Head(super::SnapshotHead),
        #[prost(message, tag = "2")]
        Record(super::Record),
        #[prost(message, tag = "3")]
        Session(super::SnapshotSession),
        /// The changes of one revision.
        #[prost(message, tag = "4")]
        Revised(super::Revised),
        #[prost(message, tag = "5")]
        Staged(super::RestoreChunk),
        #[prost(message, tag = "6")]
        End(super::SnapshotEnd),
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SnapshotHead {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
    #[prost(uint64, tag = "4")]
    pub compacted: u64,
    #[prost(uint64, tag = "5")]
    pub next_session: u64,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SnapshotSession {
    #[prost(message, optional, tag = "1")]
    pub session: ::core::option::Option<Session>,
    #[prost(message, repeated, tag = "2")]
    pub outcomes: ::prost::alloc::vec::Vec<SessionOutcome>,
    /// The highest sequence number whose outcome was dropped.
    #[prost(uint64, optional, tag = "3")]
    pub forgotten: ::core::option::Option<u64>,
}
/// The outcome of one sequence number of a session.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SessionOutcome {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(oneof = "session_outcome::Outcome", tags = "2, 3")]
    pub outcome: ::core::option::Option<session_outcome::Outcome>,
}
/// Nested message and enum types in `SessionOutcome`.
pub mod session_outcome {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Outcome {
        #[prost(message, tag = "2")]
        Applied(super::TxnOutcome),
        #[prost(message, tag = "3")]
        Refused(super::Refusal),
    }
}
/// What one transaction changed.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Revised {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(message, repeated, tag = "2")]
    pub changes: ::prost::alloc::vec::Vec<Change>,
}
/// Proof that nothing is missing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SnapshotEnd {
    #[prost(uint64, tag = "1")]
    pub records: u64,
    #[prost(uint64, tag = "2")]
    pub sessions: u64,
    /// Of all bytes before this item.
    #[prost(uint64, tag = "3")]
    pub xxh3: u64,
}
/// Why a record is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum DeleteCause {
    Unknown = 0,
    Written = 1,
    SessionClosed = 2,
    SessionExpired = 3,
    Restored = 4,
}
impl DeleteCause {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unknown => "DELETE_CAUSE_UNKNOWN",
            Self::Written => "DELETE_CAUSE_WRITTEN",
            Self::SessionClosed => "DELETE_CAUSE_SESSION_CLOSED",
            Self::SessionExpired => "DELETE_CAUSE_SESSION_EXPIRED",
            Self::Restored => "DELETE_CAUSE_RESTORED",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "DELETE_CAUSE_UNKNOWN" => Some(Self::Unknown),
            "DELETE_CAUSE_WRITTEN" => Some(Self::Written),
            "DELETE_CAUSE_SESSION_CLOSED" => Some(Self::SessionClosed),
            "DELETE_CAUSE_SESSION_EXPIRED" => Some(Self::SessionExpired),
            "DELETE_CAUSE_RESTORED" => Some(Self::Restored),
            _ => None,
        }
    }
}
/// Who speaks to whom.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftHead {
    /// 16 random bytes, made when the group began.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    #[prost(uint64, tag = "2")]
    pub from: u64,
    #[prost(uint64, tag = "3")]
    pub to: u64,
}
/// A leader, or somebody who wants to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftBallot {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub voter: u64,
    /// A quorum agreed.
    #[prost(bool, tag = "3")]
    pub committed: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftLogId {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub voter: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}
/// One of the group.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftVoter {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub node: ::prost::alloc::string::String,
    /// The number of its data directory: a wiped one has another.
    #[prost(uint64, tag = "3")]
    pub directory: u64,
}
/// Who votes. Two sets while one takes over from the other.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RaftMembership {
    #[prost(message, repeated, tag = "1")]
    pub sets: ::prost::alloc::vec::Vec<RaftVoterSet>,
    /// Voters and those that catch up.
    #[prost(message, repeated, tag = "2")]
    pub nodes: ::prost::alloc::vec::Vec<RaftVoter>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftVoterSet {
    #[prost(uint64, repeated, tag = "1")]
    pub ids: ::prost::alloc::vec::Vec<u64>,
}
/// An entry of the log.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RaftEntry {
    #[prost(message, optional, tag = "1")]
    pub id: ::core::option::Option<RaftLogId>,
    #[prost(oneof = "raft_entry::Payload", tags = "2, 3, 4")]
    pub payload: ::core::option::Option<raft_entry::Payload>,
}
/// Nested message and enum types in `RaftEntry`.
pub mod raft_entry {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Payload {
        /// Nothing: a new leader's first.
        #[prost(message, tag = "2")]
        Blank(super::Empty),
        /// A Command, as bytes.
        #[prost(bytes, tag = "3")]
        Command(::prost::bytes::Bytes),
        #[prost(message, tag = "4")]
        Membership(super::RaftMembership),
    }
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RaftAppend {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
    #[prost(message, optional, tag = "2")]
    pub ballot: ::core::option::Option<RaftBallot>,
    /// Not set: the log begins with these.
    #[prost(message, optional, tag = "3")]
    pub before: ::core::option::Option<RaftLogId>,
    #[prost(message, repeated, tag = "4")]
    pub entries: ::prost::alloc::vec::Vec<RaftEntry>,
    /// Not set: nothing is committed yet.
    #[prost(message, optional, tag = "5")]
    pub committed: ::core::option::Option<RaftLogId>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftAppendReply {
    #[prost(oneof = "raft_append_reply::Result", tags = "1, 2, 3, 4")]
    pub result: ::core::option::Option<raft_append_reply::Result>,
}
/// Nested message and enum types in `RaftAppendReply`.
pub mod raft_append_reply {
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Result {
        #[prost(message, tag = "1")]
        Done(super::Empty),
        /// Up to here; not set: nothing.
        #[prost(message, tag = "2")]
        Partial(super::RaftPartial),
        #[prost(message, tag = "3")]
        Conflict(super::Empty),
        #[prost(message, tag = "4")]
        Higher(super::RaftBallot),
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftPartial {
    #[prost(message, optional, tag = "1")]
    pub through: ::core::option::Option<RaftLogId>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftVoteRequest {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
    #[prost(message, optional, tag = "2")]
    pub ballot: ::core::option::Option<RaftBallot>,
    #[prost(message, optional, tag = "3")]
    pub last: ::core::option::Option<RaftLogId>,
    /// Only a question: nothing changes.
    #[prost(bool, tag = "4")]
    pub pre: bool,
    /// The leader itself asked for it.
    #[prost(bool, tag = "5")]
    pub transfer: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftVoteReply {
    #[prost(message, optional, tag = "1")]
    pub ballot: ::core::option::Option<RaftBallot>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: ::core::option::Option<RaftLogId>,
}
/// What a snapshot covers.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RaftSnapshotMeta {
    #[prost(message, optional, tag = "1")]
    pub last: ::core::option::Option<RaftLogId>,
    /// The entry of this membership.
    #[prost(message, optional, tag = "2")]
    pub membership_at: ::core::option::Option<RaftLogId>,
    #[prost(message, optional, tag = "3")]
    pub membership: ::core::option::Option<RaftMembership>,
    /// Of everything that follows.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    #[prost(uint64, tag = "5")]
    pub xxh3: u64,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RaftSnapshotPiece {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
    #[prost(message, optional, tag = "2")]
    pub ballot: ::core::option::Option<RaftBallot>,
    #[prost(message, optional, tag = "3")]
    pub meta: ::core::option::Option<RaftSnapshotMeta>,
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Empty: asks where to go on.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: ::prost::bytes::Bytes,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftSnapshotReply {
    /// Bytes that are there.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// It was complete and is in place.
    #[prost(bool, tag = "2")]
    pub installed: bool,
    #[prost(message, optional, tag = "3")]
    pub ballot: ::core::option::Option<RaftBallot>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftTransfer {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
    #[prost(message, optional, tag = "2")]
    pub ballot: ::core::option::Option<RaftBallot>,
    /// Who is to lead.
    #[prost(uint64, tag = "3")]
    pub successor: u64,
    #[prost(message, optional, tag = "4")]
    pub last: ::core::option::Option<RaftLogId>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftTransferReply {
    #[prost(oneof = "raft_transfer_reply::Result", tags = "1, 2, 3")]
    pub result: ::core::option::Option<raft_transfer_reply::Result>,
}
/// Nested message and enum types in `RaftTransferReply`.
pub mod raft_transfer_reply {
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Result {
        #[prost(message, tag = "1")]
        Done(super::Empty),
        /// It has seen another ballot than the leader's.
        #[prost(message, tag = "2")]
        Other(super::RaftBallot),
        /// Its log on disk ends before the leader's.
        #[prost(message, tag = "3")]
        Behind(super::RaftPartial),
    }
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftConfirm {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftConfirmReply {
    /// The newest ballot that it keeps to. Not set: none.
    #[prost(message, optional, tag = "1")]
    pub promised: ::core::option::Option<RaftBallot>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftReadIndex {
    #[prost(message, optional, tag = "1")]
    pub head: ::core::option::Option<RaftHead>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftReadIndexReply {
    /// The index of the first entry that need not be applied.
    #[prost(uint64, tag = "1")]
    pub next: u64,
}
/// What the caller has in its data directory.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftHello {
    /// Empty: belongs to no group.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    /// 0: has no number.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    #[prost(uint64, tag = "3")]
    pub directory: u64,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftHelloReply {
    /// Empty: belongs to no group.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    /// The node that leads; empty if it is not known.
    #[prost(string, tag = "2")]
    pub leader: ::prost::alloc::string::String,
    /// Whether the answer is the leader's own.
    #[prost(bool, tag = "3")]
    pub leads: bool,
    /// Whether the caller is one of the group, by its number. The leader alone can tell.
    #[prost(bool, tag = "4")]
    pub member: bool,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftAdopt {
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    #[prost(uint64, tag = "2")]
    pub id: u64,
    #[prost(uint64, tag = "3")]
    pub directory: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftAdoptReply {}
/// What a data directory belongs to.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RaftIdentity {
    #[prost(string, tag = "1")]
    pub node: ::prost::alloc::string::String,
    #[prost(uint64, tag = "2")]
    pub directory: u64,
    /// Empty: to no group yet.
    #[prost(bytes = "bytes", tag = "3")]
    pub group: ::prost::bytes::Bytes,
    #[prost(uint64, tag = "4")]
    pub id: u64,
}
/// Generated client implementations.
#[cfg(feature = "rpc")]
pub mod raft_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    /// The group of voters, and those that catch up to become voters. The caller's certificate
    /// says which node it is; that node must be the one that the group knows by the number in the
    /// request's head.
    #[derive(Debug, Clone)]
    pub struct RaftClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> RaftClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> RaftClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            RaftClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        /// New entries, or a sign of life.
        pub async fn append(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftAppend>,
        ) -> std::result::Result<
            tonic::Response<super::RaftAppendReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Append",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Append"));
            self.inner.unary(req, path, codec).await
        }
        /// The same in a row, answered in order.
        pub async fn append_many(
            &mut self,
            request: impl tonic::IntoStreamingRequest<Message = super::RaftAppend>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::RaftAppendReply>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/AppendMany",
            );
            let mut req = request.into_streaming_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "AppendMany"));
            self.inner.streaming(req, path, codec).await
        }
        /// Asks for a vote, or whether there would be one.
        pub async fn vote(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftVoteRequest>,
        ) -> std::result::Result<tonic::Response<super::RaftVoteReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Vote",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Vote"));
            self.inner.unary(req, path, codec).await
        }
        /// A piece of a snapshot.
        pub async fn snapshot(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftSnapshotPiece>,
        ) -> std::result::Result<
            tonic::Response<super::RaftSnapshotReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Snapshot",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Snapshot"));
            self.inner.unary(req, path, codec).await
        }
        /// Hands leadership over.
        pub async fn transfer(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftTransfer>,
        ) -> std::result::Result<
            tonic::Response<super::RaftTransferReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Transfer",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Transfer"));
            self.inner.unary(req, path, codec).await
        }
        /// What the voter has promised.
        pub async fn confirm(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftConfirm>,
        ) -> std::result::Result<
            tonic::Response<super::RaftConfirmReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Confirm",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Confirm"));
            self.inner.unary(req, path, codec).await
        }
        /// How far a copy must be to be read as if it were the leader's.
        pub async fn read_index(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftReadIndex>,
        ) -> std::result::Result<
            tonic::Response<super::RaftReadIndexReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/ReadIndex",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "ReadIndex"));
            self.inner.unary(req, path, codec).await
        }
        /// Tells the leader of a node that would be one of the group.
        pub async fn hello(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftHello>,
        ) -> std::result::Result<tonic::Response<super::RaftHelloReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Hello",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Hello"));
            self.inner.unary(req, path, codec).await
        }
        /// Gives a node its number in the group.
        pub async fn adopt(
            &mut self,
            request: impl tonic::IntoRequest<super::RaftAdopt>,
        ) -> std::result::Result<tonic::Response<super::RaftAdoptReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Raft/Adopt",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Raft", "Adopt"));
            self.inner.unary(req, path, codec).await
        }
    }
}
/// Generated server implementations.
#[cfg(feature = "rpc")]
pub mod raft_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    /// Generated trait containing gRPC methods that should be implemented for use with RaftServer.
    #[async_trait]
    pub trait Raft: std::marker::Send + std::marker::Sync + 'static {
        /// New entries, or a sign of life.
        async fn append(
            &self,
            request: tonic::Request<super::RaftAppend>,
        ) -> std::result::Result<tonic::Response<super::RaftAppendReply>, tonic::Status>;
        /// Server streaming response type for the AppendMany method.
        type AppendManyStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::RaftAppendReply, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// The same in a row, answered in order.
        async fn append_many(
            &self,
            request: tonic::Request<tonic::Streaming<super::RaftAppend>>,
        ) -> std::result::Result<tonic::Response<Self::AppendManyStream>, tonic::Status>;
        /// Asks for a vote, or whether there would be one.
        async fn vote(
            &self,
            request: tonic::Request<super::RaftVoteRequest>,
        ) -> std::result::Result<tonic::Response<super::RaftVoteReply>, tonic::Status>;
        /// A piece of a snapshot.
        async fn snapshot(
            &self,
            request: tonic::Request<super::RaftSnapshotPiece>,
        ) -> std::result::Result<
            tonic::Response<super::RaftSnapshotReply>,
            tonic::Status,
        >;
        /// Hands leadership over.
        async fn transfer(
            &self,
            request: tonic::Request<super::RaftTransfer>,
        ) -> std::result::Result<
            tonic::Response<super::RaftTransferReply>,
            tonic::Status,
        >;
        /// What the voter has promised.
        async fn confirm(
            &self,
            request: tonic::Request<super::RaftConfirm>,
        ) -> std::result::Result<
            tonic::Response<super::RaftConfirmReply>,
            tonic::Status,
        >;
        /// How far a copy must be to be read as if it were the leader's.
        async fn read_index(
            &self,
            request: tonic::Request<super::RaftReadIndex>,
        ) -> std::result::Result<
            tonic::Response<super::RaftReadIndexReply>,
            tonic::Status,
        >;
        /// Tells the leader of a node that would be one of the group.
        async fn hello(
            &self,
            request: tonic::Request<super::RaftHello>,
        ) -> std::result::Result<tonic::Response<super::RaftHelloReply>, tonic::Status>;
        /// Gives a node its number in the group.
        async fn adopt(
            &self,
            request: tonic::Request<super::RaftAdopt>,
        ) -> std::result::Result<tonic::Response<super::RaftAdoptReply>, tonic::Status>;
    }
    /// The group of voters, and those that catch up to become voters. The caller's certificate
    /// says which node it is; that node must be the one that the group knows by the number in the
    /// request's head.
    #[derive(Debug)]
    pub struct RaftServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> RaftServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>> for RaftServer<T>
    where
        T: Raft,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/mesh.registry.v1.Raft/Append" => {
                    #[allow(non_camel_case_types)]
                    struct AppendSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftAppend>
                    for AppendSvc<T> {
                        type Response = super::RaftAppendReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftAppend>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::append(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = AppendSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/AppendMany" => {
                    #[allow(non_camel_case_types)]
                    struct AppendManySvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::StreamingService<super::RaftAppend>
                    for AppendManySvc<T> {
                        type Response = super::RaftAppendReply;
                        type ResponseStream = T::AppendManyStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<tonic::Streaming<super::RaftAppend>>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::append_many(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = AppendManySvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Vote" => {
                    #[allow(non_camel_case_types)]
                    struct VoteSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftVoteRequest>
                    for VoteSvc<T> {
                        type Response = super::RaftVoteReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftVoteRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::vote(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = VoteSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Snapshot" => {
                    #[allow(non_camel_case_types)]
                    struct SnapshotSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftSnapshotPiece>
                    for SnapshotSvc<T> {
                        type Response = super::RaftSnapshotReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftSnapshotPiece>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::snapshot(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SnapshotSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Transfer" => {
                    #[allow(non_camel_case_types)]
                    struct TransferSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftTransfer>
                    for TransferSvc<T> {
                        type Response = super::RaftTransferReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftTransfer>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::transfer(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = TransferSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Confirm" => {
                    #[allow(non_camel_case_types)]
                    struct ConfirmSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftConfirm>
                    for ConfirmSvc<T> {
                        type Response = super::RaftConfirmReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftConfirm>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::confirm(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ConfirmSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/ReadIndex" => {
                    #[allow(non_camel_case_types)]
                    struct ReadIndexSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftReadIndex>
                    for ReadIndexSvc<T> {
                        type Response = super::RaftReadIndexReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftReadIndex>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::read_index(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ReadIndexSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Hello" => {
                    #[allow(non_camel_case_types)]
                    struct HelloSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftHello>
                    for HelloSvc<T> {
                        type Response = super::RaftHelloReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftHello>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::hello(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = HelloSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Raft/Adopt" => {
                    #[allow(non_camel_case_types)]
                    struct AdoptSvc<T: Raft>(pub Arc<T>);
                    impl<T: Raft> tonic::server::UnaryService<super::RaftAdopt>
                    for AdoptSvc<T> {
                        type Response = super::RaftAdoptReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::RaftAdopt>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Raft>::adopt(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = AdoptSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for RaftServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "mesh.registry.v1.Raft";
    impl<T> tonic::server::NamedService for RaftServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    /// From the copy of whoever answers, possibly old.
    #[prost(bool, tag = "2")]
    pub stale: bool,
    /// Not stale, and the leader need not find out whether it leads still: the caller asks other voters at the same time.
    #[prost(bool, tag = "3")]
    pub led: bool,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetReply {
    /// Not set: there is none.
    #[prost(message, optional, tag = "1")]
    pub record: ::core::option::Option<Record>,
    /// Of the store at the moment of the read.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Set: fresh only if most voters vouch for this lead after the read began. Not set: as asked.
    #[prost(message, optional, tag = "3")]
    pub lead: ::core::option::Option<Lead>,
}
/// By what a voter leads.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Lead {
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(uint64, tag = "3")]
    pub voter: u64,
    /// Most of each are a majority.
    #[prost(message, repeated, tag = "4")]
    pub sets: ::prost::alloc::vec::Vec<VoterSet>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct VoterSet {
    #[prost(uint64, repeated, tag = "1")]
    pub voters: ::prost::alloc::vec::Vec<u64>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct WitnessRequest {}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct WitnessReply {
    #[prost(bytes = "bytes", tag = "1")]
    pub group: ::prost::bytes::Bytes,
    /// Its number in the group.
    #[prost(uint64, tag = "2")]
    pub voter: u64,
    /// The newest vote that it has promised to keep to: its term, and who asked for it. 0: none.
    #[prost(uint64, tag = "3")]
    pub promised_term: u64,
    #[prost(uint64, tag = "4")]
    pub promised_voter: u64,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct ScanRequest {
    #[prost(string, tag = "1")]
    pub prefix: ::prost::alloc::string::String,
    /// Only keys after this one. Empty: from the beginning.
    #[prost(string, tag = "2")]
    pub after: ::prost::alloc::string::String,
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// From the copy of whoever answers, possibly old.
    #[prost(bool, tag = "4")]
    pub stale: bool,
}
/// A page ends before its limit where more would make too large a message.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ScanReply {
    #[prost(message, repeated, tag = "1")]
    pub records: ::prost::alloc::vec::Vec<Record>,
    /// Whether more follow the last one.
    #[prost(bool, tag = "2")]
    pub more: bool,
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TransactRequest {
    #[prost(message, optional, tag = "1")]
    pub txn: ::core::option::Option<Txn>,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TransactReply {
    #[prost(oneof = "transact_reply::Outcome", tags = "1, 2")]
    pub outcome: ::core::option::Option<transact_reply::Outcome>,
}
/// Nested message and enum types in `TransactReply`.
pub mod transact_reply {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Outcome {
        #[prost(message, tag = "1")]
        Applied(super::TxnOutcome),
        #[prost(message, tag = "2")]
        Refused(super::Refusal),
    }
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TransactEachRequest {
    #[prost(message, repeated, tag = "1")]
    pub txns: ::prost::alloc::vec::Vec<Txn>,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TransactEachReply {
    /// In the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub answers: ::prost::alloc::vec::Vec<TransactEachAnswer>,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TransactEachAnswer {
    #[prost(oneof = "transact_each_answer::Answer", tags = "1, 2")]
    pub answer: ::core::option::Option<transact_each_answer::Answer>,
}
/// Nested message and enum types in `TransactEachAnswer`.
pub mod transact_each_answer {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Answer {
        #[prost(message, tag = "1")]
        Reply(super::TransactReply),
        /// What would be the status of a call of its own.
        #[prost(message, tag = "2")]
        Failure(super::FailureStatus),
    }
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct WatchRequest {
    #[prost(string, tag = "1")]
    pub prefix: ::prost::alloc::string::String,
    /// Not set: with the first change that commits from now on.
    #[prost(uint64, optional, tag = "2")]
    pub after: ::core::option::Option<u64>,
    /// Changes that wait on the server for a slow reader. 0: the server's default.
    #[prost(uint32, tag = "3")]
    pub buffer_changes_max: u32,
    /// Keep the newest change of each key rather than tell of a gap.
    #[prost(bool, tag = "4")]
    pub latest: bool,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchReply {
    #[prost(oneof = "watch_reply::Event", tags = "1, 2, 3, 4")]
    pub event: ::core::option::Option<watch_reply::Event>,
}
/// Nested message and enum types in `WatchReply`.
pub mod watch_reply {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Event {
        #[prost(message, tag = "1")]
        Changes(super::WatchChanges),
        /// Everything up to here was delivered.
        #[prost(uint64, tag = "2")]
        Bookmark(u64),
        #[prost(message, tag = "3")]
        Gap(super::WatchGap),
        /// Nothing happened; the watch lives.
        #[prost(message, tag = "4")]
        Heartbeat(super::Empty),
    }
}
/// Changes of one revision, or a part of them.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchChanges {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(message, repeated, tag = "2")]
    pub changes: ::prost::alloc::vec::Vec<Change>,
    /// The rest of the same revision follows.
    #[prost(bool, tag = "3")]
    pub more: bool,
}
/// Changes of these revisions, ends included, may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct WatchGap {
    #[prost(uint64, tag = "1")]
    pub from: u64,
    #[prost(uint64, tag = "2")]
    pub to: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct OpenRequest {
    #[prost(uint64, tag = "1")]
    pub ttl_ms: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SessionRequest {
    #[prost(uint64, tag = "1")]
    pub session: u64,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SessionReply {
    /// Not set: it is not open.
    #[prost(message, optional, tag = "1")]
    pub session: ::core::option::Option<Session>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CloseReply {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CompactRequest {
    #[prost(uint64, tag = "1")]
    pub through: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CompactReply {}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SnapshotRequest {}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SnapshotPart {
    #[prost(oneof = "snapshot_part::Part", tags = "1, 2")]
    pub part: ::core::option::Option<snapshot_part::Part>,
}
/// Nested message and enum types in `SnapshotPart`.
pub mod snapshot_part {
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Part {
        #[prost(bytes, tag = "1")]
        Data(::prost::bytes::Bytes),
        /// The last part: how many bytes came before it.
        #[prost(uint64, tag = "2")]
        End(u64),
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct RestoreReply {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct StatusRequest {}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct StatusReply {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub compacted: u64,
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// Empty: not known.
    #[prost(string, tag = "4")]
    pub leader: ::prost::alloc::string::String,
    /// Empty: writes are taken.
    #[prost(string, tag = "5")]
    pub read_only: ::prost::alloc::string::String,
    #[prost(uint64, tag = "6")]
    pub records: u64,
    #[prost(uint64, tag = "7")]
    pub sessions: u64,
    /// Another one after each restore.
    #[prost(string, tag = "8")]
    pub cluster: ::prost::alloc::string::String,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct MembersRequest {}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MembersReply {
    #[prost(string, tag = "1")]
    pub told_by: ::prost::alloc::string::String,
    /// Whether that node leads: it alone knows who answers.
    #[prost(bool, tag = "2")]
    pub leads: bool,
    #[prost(string, tag = "3")]
    pub group: ::prost::alloc::string::String,
    #[prost(uint64, tag = "4")]
    pub term: u64,
    #[prost(uint64, tag = "5")]
    pub last_index: u64,
    #[prost(message, repeated, tag = "6")]
    pub members: ::prost::alloc::vec::Vec<GroupMember>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GroupMember {
    #[prost(string, tag = "1")]
    pub node: ::prost::alloc::string::String,
    #[prost(uint64, tag = "2")]
    pub raft_id: u64,
    #[prost(enumeration = "group_member::Role", tag = "3")]
    pub role: i32,
    /// These are not set where they are not known.
    #[prost(bool, optional, tag = "4")]
    pub answers: ::core::option::Option<bool>,
    #[prost(uint64, optional, tag = "5")]
    pub silent_ms: ::core::option::Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub behind: ::core::option::Option<u64>,
}
/// Nested message and enum types in `GroupMember`.
pub mod group_member {
    #[derive(
        Clone,
        Copy,
        Debug,
        PartialEq,
        Eq,
        Hash,
        PartialOrd,
        Ord,
        ::prost::Enumeration
    )]
    #[repr(i32)]
    pub enum Role {
        Unspecified = 0,
        Leader = 1,
        Voter = 2,
        Learner = 3,
    }
    impl Role {
        /// String value of the enum field names used in the ProtoBuf definition.
        ///
        /// The values are not transformed in any way and thus are considered stable
        /// (if the ProtoBuf definition does not change) and safe for programmatic use.
        pub fn as_str_name(&self) -> &'static str {
            match self {
                Self::Unspecified => "ROLE_UNSPECIFIED",
                Self::Leader => "ROLE_LEADER",
                Self::Voter => "ROLE_VOTER",
                Self::Learner => "ROLE_LEARNER",
            }
        }
        /// Creates an enum from field names used in the ProtoBuf definition.
        pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
            match value {
                "ROLE_UNSPECIFIED" => Some(Self::Unspecified),
                "ROLE_LEADER" => Some(Self::Leader),
                "ROLE_VOTER" => Some(Self::Voter),
                "ROLE_LEARNER" => Some(Self::Learner),
                _ => None,
            }
        }
    }
}
/// Why a store did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct StoreFailure {
    #[prost(oneof = "store_failure::Failure", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub failure: ::core::option::Option<store_failure::Failure>,
}
/// Nested message and enum types in `StoreFailure`.
pub mod store_failure {
    /// The store has no leader, or the caller should ask another node.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Unavailable {
        #[prost(string, tag = "1")]
        pub reason: ::prost::alloc::string::String,
        /// Whether the request may have been applied.
        #[prost(bool, tag = "2")]
        pub applied_unknown: bool,
        /// Who leads. Empty: not known.
        #[prost(string, tag = "3")]
        pub leader: ::prost::alloc::string::String,
        /// Whether the same node answers if it is asked again.
        #[prost(bool, tag = "4")]
        pub again: bool,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Timeout {
        #[prost(uint64, tag = "1")]
        pub after_ms: u64,
        /// Whether the request may have been applied.
        #[prost(bool, tag = "2")]
        pub applied_unknown: bool,
    }
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Damaged {
        #[prost(string, tag = "1")]
        pub what: ::prost::alloc::string::String,
        #[prost(string, tag = "2")]
        pub problem: ::prost::alloc::string::String,
    }
    /// A time to live that the store can't keep.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct TimeToLive {
        #[prost(uint64, tag = "1")]
        pub asked_ms: u64,
        #[prost(uint64, tag = "2")]
        pub min_ms: u64,
        #[prost(uint64, tag = "3")]
        pub max_ms: u64,
    }
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Failure {
        /// The request breaks a limit; the text says which.
        #[prost(string, tag = "1")]
        Invalid(::prost::alloc::string::String),
        #[prost(message, tag = "2")]
        Unavailable(Unavailable),
        /// No answer in time.
        #[prost(message, tag = "3")]
        Timeout(Timeout),
        /// So many requests are under way already.
        #[prost(uint64, tag = "4")]
        Busy(u64),
        /// Why writes are refused.
        #[prost(string, tag = "5")]
        ReadOnly(::prost::alloc::string::String),
        /// Who may.
        #[prost(string, tag = "6")]
        Denied(::prost::alloc::string::String),
        /// The provider can't do it; the text says why.
        #[prost(string, tag = "7")]
        Unsupported(::prost::alloc::string::String),
        #[prost(message, tag = "8")]
        Damaged(Damaged),
        /// This session is closed or has expired.
        #[prost(uint64, tag = "9")]
        SessionGone(u64),
        #[prost(message, tag = "10")]
        TimeToLive(TimeToLive),
    }
}
/// Has the form of google.rpc.Status.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct FailureStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: ::prost::alloc::string::String,
    #[prost(message, repeated, tag = "3")]
    pub details: ::prost::alloc::vec::Vec<FailureDetail>,
}
/// Has the form of google.protobuf.Any.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct FailureDetail {
    #[prost(string, tag = "1")]
    pub type_url: ::prost::alloc::string::String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: ::prost::bytes::Bytes,
}
/// Generated client implementations.
#[cfg(feature = "rpc")]
pub mod store_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    /// A replicated, versioned store.
    #[derive(Debug, Clone)]
    pub struct StoreClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> StoreClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> StoreClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            StoreClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        /// The record at a key.
        pub async fn get(
            &mut self,
            request: impl tonic::IntoRequest<super::GetRequest>,
        ) -> std::result::Result<tonic::Response<super::GetReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Get",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Get"));
            self.inner.unary(req, path, codec).await
        }
        /// Records in key order.
        pub async fn scan(
            &mut self,
            request: impl tonic::IntoRequest<super::ScanRequest>,
        ) -> std::result::Result<tonic::Response<super::ScanReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Scan",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Scan"));
            self.inner.unary(req, path, codec).await
        }
        /// All operations at one revision, or none.
        pub async fn transact(
            &mut self,
            request: impl tonic::IntoRequest<super::TransactRequest>,
        ) -> std::result::Result<tonic::Response<super::TransactReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Transact",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Transact"));
            self.inner.unary(req, path, codec).await
        }
        /// Transactions of one caller that came at once: each by itself, in any order, with an answer of its own.
        pub async fn transact_each(
            &mut self,
            request: impl tonic::IntoRequest<super::TransactEachRequest>,
        ) -> std::result::Result<
            tonic::Response<super::TransactEachReply>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/TransactEach",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "TransactEach"));
            self.inner.unary(req, path, codec).await
        }
        /// Every change under a prefix, in order, each once.
        pub async fn watch(
            &mut self,
            request: impl tonic::IntoRequest<super::WatchRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::WatchReply>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Watch",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Watch"));
            self.inner.server_streaming(req, path, codec).await
        }
        /// Opens a session for the caller.
        pub async fn open(
            &mut self,
            request: impl tonic::IntoRequest<super::OpenRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Open",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Open"));
            self.inner.unary(req, path, codec).await
        }
        /// Renews a session of the caller.
        pub async fn keep_alive(
            &mut self,
            request: impl tonic::IntoRequest<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/KeepAlive",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "KeepAlive"));
            self.inner.unary(req, path, codec).await
        }
        /// Ends a session of the caller.
        pub async fn close(
            &mut self,
            request: impl tonic::IntoRequest<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::CloseReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Close",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Close"));
            self.inner.unary(req, path, codec).await
        }
        /// A session, if it is open.
        pub async fn session(
            &mut self,
            request: impl tonic::IntoRequest<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Session",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Session"));
            self.inner.unary(req, path, codec).await
        }
        /// Forgets history. For operators.
        pub async fn compact(
            &mut self,
            request: impl tonic::IntoRequest<super::CompactRequest>,
        ) -> std::result::Result<tonic::Response<super::CompactReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Compact",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Compact"));
            self.inner.unary(req, path, codec).await
        }
        /// The whole store at one revision. For operators and nodes that may vote.
        pub async fn snapshot(
            &mut self,
            request: impl tonic::IntoRequest<super::SnapshotRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::SnapshotPart>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Snapshot",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Snapshot"));
            self.inner.server_streaming(req, path, codec).await
        }
        /// Replaces the whole store. For operators and nodes that may vote.
        pub async fn restore(
            &mut self,
            request: impl tonic::IntoStreamingRequest<Message = super::SnapshotPart>,
        ) -> std::result::Result<tonic::Response<super::RestoreReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Restore",
            );
            let mut req = request.into_streaming_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Restore"));
            self.inner.client_streaming(req, path, codec).await
        }
        /// What the answering node says of the store.
        pub async fn status(
            &mut self,
            request: impl tonic::IntoRequest<super::StatusRequest>,
        ) -> std::result::Result<tonic::Response<super::StatusReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Status",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Status"));
            self.inner.unary(req, path, codec).await
        }
        /// Who is in the group of voters, as the answering node knows it.
        pub async fn members(
            &mut self,
            request: impl tonic::IntoRequest<super::MembersRequest>,
        ) -> std::result::Result<tonic::Response<super::MembersReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Members",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Members"));
            self.inner.unary(req, path, codec).await
        }
        /// What the answering voter has promised, for a caller that confirms its reads itself.
        pub async fn witness(
            &mut self,
            request: impl tonic::IntoRequest<super::WitnessRequest>,
        ) -> std::result::Result<tonic::Response<super::WitnessReply>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.registry.v1.Store/Witness",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.registry.v1.Store", "Witness"));
            self.inner.unary(req, path, codec).await
        }
    }
}
/// Generated server implementations.
#[cfg(feature = "rpc")]
pub mod store_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    /// Generated trait containing gRPC methods that should be implemented for use with StoreServer.
    #[async_trait]
    pub trait Store: std::marker::Send + std::marker::Sync + 'static {
        /// The record at a key.
        async fn get(
            &self,
            request: tonic::Request<super::GetRequest>,
        ) -> std::result::Result<tonic::Response<super::GetReply>, tonic::Status>;
        /// Records in key order.
        async fn scan(
            &self,
            request: tonic::Request<super::ScanRequest>,
        ) -> std::result::Result<tonic::Response<super::ScanReply>, tonic::Status>;
        /// All operations at one revision, or none.
        async fn transact(
            &self,
            request: tonic::Request<super::TransactRequest>,
        ) -> std::result::Result<tonic::Response<super::TransactReply>, tonic::Status>;
        /// Transactions of one caller that came at once: each by itself, in any order, with an answer of its own.
        async fn transact_each(
            &self,
            request: tonic::Request<super::TransactEachRequest>,
        ) -> std::result::Result<
            tonic::Response<super::TransactEachReply>,
            tonic::Status,
        >;
        /// Server streaming response type for the Watch method.
        type WatchStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::WatchReply, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// Every change under a prefix, in order, each once.
        async fn watch(
            &self,
            request: tonic::Request<super::WatchRequest>,
        ) -> std::result::Result<tonic::Response<Self::WatchStream>, tonic::Status>;
        /// Opens a session for the caller.
        async fn open(
            &self,
            request: tonic::Request<super::OpenRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status>;
        /// Renews a session of the caller.
        async fn keep_alive(
            &self,
            request: tonic::Request<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status>;
        /// Ends a session of the caller.
        async fn close(
            &self,
            request: tonic::Request<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::CloseReply>, tonic::Status>;
        /// A session, if it is open.
        async fn session(
            &self,
            request: tonic::Request<super::SessionRequest>,
        ) -> std::result::Result<tonic::Response<super::SessionReply>, tonic::Status>;
        /// Forgets history. For operators.
        async fn compact(
            &self,
            request: tonic::Request<super::CompactRequest>,
        ) -> std::result::Result<tonic::Response<super::CompactReply>, tonic::Status>;
        /// Server streaming response type for the Snapshot method.
        type SnapshotStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::SnapshotPart, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// The whole store at one revision. For operators and nodes that may vote.
        async fn snapshot(
            &self,
            request: tonic::Request<super::SnapshotRequest>,
        ) -> std::result::Result<tonic::Response<Self::SnapshotStream>, tonic::Status>;
        /// Replaces the whole store. For operators and nodes that may vote.
        async fn restore(
            &self,
            request: tonic::Request<tonic::Streaming<super::SnapshotPart>>,
        ) -> std::result::Result<tonic::Response<super::RestoreReply>, tonic::Status>;
        /// What the answering node says of the store.
        async fn status(
            &self,
            request: tonic::Request<super::StatusRequest>,
        ) -> std::result::Result<tonic::Response<super::StatusReply>, tonic::Status>;
        /// Who is in the group of voters, as the answering node knows it.
        async fn members(
            &self,
            request: tonic::Request<super::MembersRequest>,
        ) -> std::result::Result<tonic::Response<super::MembersReply>, tonic::Status>;
        /// What the answering voter has promised, for a caller that confirms its reads itself.
        async fn witness(
            &self,
            request: tonic::Request<super::WitnessRequest>,
        ) -> std::result::Result<tonic::Response<super::WitnessReply>, tonic::Status>;
    }
    /// A replicated, versioned store.
    #[derive(Debug)]
    pub struct StoreServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> StoreServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>> for StoreServer<T>
    where
        T: Store,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/mesh.registry.v1.Store/Get" => {
                    #[allow(non_camel_case_types)]
                    struct GetSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::GetRequest>
                    for GetSvc<T> {
                        type Response = super::GetReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::get(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Scan" => {
                    #[allow(non_camel_case_types)]
                    struct ScanSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::ScanRequest>
                    for ScanSvc<T> {
                        type Response = super::ScanReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::ScanRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::scan(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ScanSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Transact" => {
                    #[allow(non_camel_case_types)]
                    struct TransactSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::TransactRequest>
                    for TransactSvc<T> {
                        type Response = super::TransactReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::TransactRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::transact(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = TransactSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/TransactEach" => {
                    #[allow(non_camel_case_types)]
                    struct TransactEachSvc<T: Store>(pub Arc<T>);
                    impl<
                        T: Store,
                    > tonic::server::UnaryService<super::TransactEachRequest>
                    for TransactEachSvc<T> {
                        type Response = super::TransactEachReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::TransactEachRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::transact_each(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = TransactEachSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Watch" => {
                    #[allow(non_camel_case_types)]
                    struct WatchSvc<T: Store>(pub Arc<T>);
                    impl<
                        T: Store,
                    > tonic::server::ServerStreamingService<super::WatchRequest>
                    for WatchSvc<T> {
                        type Response = super::WatchReply;
                        type ResponseStream = T::WatchStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::WatchRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::watch(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = WatchSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Open" => {
                    #[allow(non_camel_case_types)]
                    struct OpenSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::OpenRequest>
                    for OpenSvc<T> {
                        type Response = super::SessionReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::OpenRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::open(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = OpenSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/KeepAlive" => {
                    #[allow(non_camel_case_types)]
                    struct KeepAliveSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::SessionRequest>
                    for KeepAliveSvc<T> {
                        type Response = super::SessionReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::SessionRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::keep_alive(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = KeepAliveSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Close" => {
                    #[allow(non_camel_case_types)]
                    struct CloseSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::SessionRequest>
                    for CloseSvc<T> {
                        type Response = super::CloseReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::SessionRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::close(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = CloseSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Session" => {
                    #[allow(non_camel_case_types)]
                    struct SessionSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::SessionRequest>
                    for SessionSvc<T> {
                        type Response = super::SessionReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::SessionRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::session(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SessionSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Compact" => {
                    #[allow(non_camel_case_types)]
                    struct CompactSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::CompactRequest>
                    for CompactSvc<T> {
                        type Response = super::CompactReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::CompactRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::compact(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = CompactSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Snapshot" => {
                    #[allow(non_camel_case_types)]
                    struct SnapshotSvc<T: Store>(pub Arc<T>);
                    impl<
                        T: Store,
                    > tonic::server::ServerStreamingService<super::SnapshotRequest>
                    for SnapshotSvc<T> {
                        type Response = super::SnapshotPart;
                        type ResponseStream = T::SnapshotStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::SnapshotRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::snapshot(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SnapshotSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Restore" => {
                    #[allow(non_camel_case_types)]
                    struct RestoreSvc<T: Store>(pub Arc<T>);
                    impl<
                        T: Store,
                    > tonic::server::ClientStreamingService<super::SnapshotPart>
                    for RestoreSvc<T> {
                        type Response = super::RestoreReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                tonic::Streaming<super::SnapshotPart>,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::restore(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = RestoreSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.client_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Status" => {
                    #[allow(non_camel_case_types)]
                    struct StatusSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::StatusRequest>
                    for StatusSvc<T> {
                        type Response = super::StatusReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::StatusRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::status(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = StatusSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Members" => {
                    #[allow(non_camel_case_types)]
                    struct MembersSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::MembersRequest>
                    for MembersSvc<T> {
                        type Response = super::MembersReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::MembersRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::members(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = MembersSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/mesh.registry.v1.Store/Witness" => {
                    #[allow(non_camel_case_types)]
                    struct WitnessSvc<T: Store>(pub Arc<T>);
                    impl<T: Store> tonic::server::UnaryService<super::WitnessRequest>
                    for WitnessSvc<T> {
                        type Response = super::WitnessReply;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::WitnessRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Store>::witness(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = WitnessSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for StoreServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "mesh.registry.v1.Store";
    impl<T> tonic::server::NamedService for StoreServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
/// The descriptors of this package, an encoded `google.protobuf.FileDescriptorSet`.
#[cfg(feature = "rpc")]
pub const DESCRIPTOR_SET: &[u8] = b"\
    \n\xab&\n\x0eregistry.proto\x12\x10mesh.registry.v1\"A\n\x05Token\x12\x1e\n\ngeneration\x18\x01\x20\x01\
    (\x04R\ngeneration\x12\x18\n\x07counter\x18\x02\x20\x01(\x04R\x07counter\"\xe1\x01\n\x06Record\x12\x10\
    \n\x03key\x18\x01\x20\x01(\tR\x03key\x12\x14\n\x05value\x18\x02\x20\x01(\x0cR\x05value\x12\x1a\n\x08\
    revision\x18\x03\x20\x01(\x04R\x08revision\x12)\n\x10created_revision\x18\x04\x20\x01(\x04R\x0fcreat\
    edRevision\x12\x1f\n\x0blast_writer\x18\x05\x20\x01(\tR\nlastWriter\x12\x18\n\x07session\x18\x06\x20\
    \x01(\x04R\x07session\x12-\n\x05token\x18\x07\x20\x01(\x0b2\x17.mesh.registry.v1.TokenR\x05token\"\xf7\
    \x01\n\x07Compare\x12\x10\n\x03key\x18\x01\x20\x01(\tR\x03key\x12\x1c\n\x08revision\x18\x02\x20\x01(\
    \x04H\x00R\x08revision\x121\n\x06absent\x18\x03\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x06ab\
    sent\x123\n\x07present\x18\x04\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x07present\x12\x16\n\x05\
    value\x18\x05\x20\x01(\x0cH\x00R\x05value\x12/\n\x05fence\x18\x06\x20\x01(\x0b2\x17.mesh.registry.v1\
    .TokenH\x00R\x05fenceB\x0b\n\tcondition\"\x07\n\x05Empty\"\xb4\x01\n\tOperation\x12\x10\n\x03key\x18\
    \x01\x20\x01(\tR\x03key\x12)\n\x03put\x18\x02\x20\x01(\x0b2\x15.mesh.registry.v1.PutH\x00R\x03put\x12\
    1\n\x06delete\x18\x03\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x06delete\x12-\n\x05grant\x18\x04\
    \x20\x01(\x0b2\x15.mesh.registry.v1.PutH\x00R\x05grantB\x08\n\x06action\"5\n\x03Put\x12\x14\n\x05val\
    ue\x18\x01\x20\x01(\x0cR\x05value\x12\x18\n\x07session\x18\x02\x20\x01(\x04R\x07session\"C\n\x0bIdem\
    potency\x12\x18\n\x07session\x18\x01\x20\x01(\x04R\x07session\x12\x1a\n\x08sequence\x18\x02\x20\x01(\
    \x04R\x08sequence\"b\n\tAuditNote\x12\x16\n\x06action\x18\x01\x20\x01(\tR\x06action\x12\x16\n\x06rea\
    son\x18\x02\x20\x01(\tR\x06reason\x12%\n\x0ecorrelation_id\x18\x03\x20\x01(\x04R\rcorrelationId\"\x85\
    \x02\n\x03Txn\x125\n\x08compares\x18\x01\x20\x03(\x0b2\x19.mesh.registry.v1.CompareR\x08compares\x12\
    ;\n\noperations\x18\x02\x20\x03(\x0b2\x1b.mesh.registry.v1.OperationR\noperations\x12\x16\n\x06write\
    r\x18\x03\x20\x01(\tR\x06writer\x12?\n\x0bidempotency\x18\x04\x20\x01(\x0b2\x1d.mesh.registry.v1.Ide\
    mpotencyR\x0bidempotency\x121\n\x05audit\x18\x05\x20\x01(\x0b2\x1b.mesh.registry.v1.AuditNoteR\x05au\
    dit\"H\n\x05Grant\x12\x10\n\x03key\x18\x01\x20\x01(\tR\x03key\x12-\n\x05token\x18\x02\x20\x01(\x0b2\x17\
    .mesh.registry.v1.TokenR\x05token\"Y\n\nTxnOutcome\x12\x1a\n\x08revision\x18\x01\x20\x01(\x04R\x08re\
    vision\x12/\n\x06grants\x18\x02\x20\x03(\x0b2\x17.mesh.registry.v1.GrantR\x06grants\"\xbb\x02\n\x07R\
    efusal\x128\n\x08conflict\x18\x01\x20\x01(\x0b2\x1a.mesh.registry.v1.ConflictH\x00R\x08conflict\x122\
    \n\x06fenced\x18\x02\x20\x01(\x0b2\x18.mesh.registry.v1.FencedH\x00R\x06fenced\x128\n\x08unfenced\x18\
    \x03\x20\x01(\x0b2\x1a.mesh.registry.v1.UnfencedH\x00R\x08unfenced\x12#\n\x0csession_gone\x18\x04\x20\
    \x01(\x04H\x00R\x0bsessionGone\x12=\n\tforgotten\x18\x05\x20\x01(\x0b2\x1d.mesh.registry.v1.Idempote\
    ncyH\x00R\tforgotten\x12\x1a\n\x07invalid\x18\x06\x20\x01(\tH\x00R\x07invalidB\x08\n\x06reason\"l\n\x08\
    Conflict\x12\x14\n\x05index\x18\x01\x20\x01(\rR\x05index\x12.\n\x05found\x18\x02\x20\x01(\x0b2\x18.m\
    esh.registry.v1.RecordR\x05found\x12\x1a\n\x08revision\x18\x03\x20\x01(\x04R\x08revision\"~\n\x06Fen\
    ced\x12\x10\n\x03key\x18\x01\x20\x01(\tR\x03key\x12/\n\x06stated\x18\x02\x20\x01(\x0b2\x17.mesh.regi\
    stry.v1.TokenR\x06stated\x121\n\x07current\x18\x03\x20\x01(\x0b2\x17.mesh.registry.v1.TokenR\x07curr\
    ent\"O\n\x08Unfenced\x12\x10\n\x03key\x18\x01\x20\x01(\tR\x03key\x121\n\x07current\x18\x02\x20\x01(\x0b\
    2\x17.mesh.registry.v1.TokenR\x07current\"b\n\x07Session\x12\x0e\n\x02id\x18\x01\x20\x01(\x04R\x02id\
    \x12\x14\n\x05owner\x18\x02\x20\x01(\tR\x05owner\x12\x15\n\x06ttl_ms\x18\x03\x20\x01(\x04R\x05ttlMs\x12\
    \x1a\n\x08renewals\x18\x04\x20\x01(\x04R\x08renewals\"w\n\x06Change\x12,\n\x03put\x18\x01\x20\x01(\x0b\
    2\x18.mesh.registry.v1.RecordH\x00R\x03put\x125\n\x07deleted\x18\x02\x20\x01(\x0b2\x19.mesh.registry\
    .v1.DeletedH\x00R\x07deletedB\x08\n\x06change\"P\n\x07Deleted\x12\x10\n\x03key\x18\x01\x20\x01(\tR\x03\
    key\x123\n\x05cause\x18\x02\x20\x01(\x0e2\x1d.mesh.registry.v1.DeleteCauseR\x05cause\"\x80\x05\n\x07\
    Command\x12\x18\n\x07version\x18\x01\x20\x01(\rR\x07version\x120\n\x03txn\x18\x02\x20\x01(\x0b2\x1c.\
    mesh.registry.v1.TxnCommandH\x00R\x03txn\x123\n\x04open\x18\x03\x20\x01(\x0b2\x1d.mesh.registry.v1.O\
    penSessionH\x00R\x04open\x125\n\x05renew\x18\x04\x20\x01(\x0b2\x1d.mesh.registry.v1.SessionListH\x00\
    R\x05renew\x126\n\x05close\x18\x05\x20\x01(\x0b2\x1e.mesh.registry.v1.CloseSessionH\x00R\x05close\x12\
    :\n\x06expire\x18\x06\x20\x01(\x0b2\x20.mesh.registry.v1.ExpireSessionsH\x00R\x06expire\x12\x1a\n\x07\
    compact\x18\x07\x20\x01(\x04H\x00R\x07compact\x125\n\x05batch\x18\x08\x20\x01(\x0b2\x1d.mesh.registr\
    y.v1.CommandListH\x00R\x05batch\x12E\n\rrestore_chunk\x18\t\x20\x01(\x0b2\x1e.mesh.registry.v1.Resto\
    reChunkH\x00R\x0crestoreChunk\x12?\n\x0brestore_end\x18\n\x20\x01(\x0b2\x1c.mesh.registry.v1.Restore\
    EndH\x00R\nrestoreEnd\x12\x1f\n\ntrim_audit\x18\x0b\x20\x01(\x04H\x00R\ttrimAudit\x12B\n\x0crestore_\
    drop\x18\x0c\x20\x01(\x0b2\x1d.mesh.registry.v1.RestoreDropH\x00R\x0brestoreDropB\t\n\x07command\"D\n\
    \x0bCommandList\x125\n\x08commands\x18\x01\x20\x03(\x0b2\x19.mesh.registry.v1.CommandR\x08commands\"\
    s\n\nTxnCommand\x12\'\n\x03txn\x18\x01\x20\x01(\x0b2\x15.mesh.registry.v1.TxnR\x03txn\x12\x1b\n\taud\
    it_key\x18\x02\x20\x01(\tR\x08auditKey\x12\x1f\n\x0baudit_value\x18\x03\x20\x01(\x0cR\nauditValue\":\
    \n\x0bOpenSession\x12\x14\n\x05owner\x18\x01\x20\x01(\tR\x05owner\x12\x15\n\x06ttl_ms\x18\x02\x20\x01\
    (\x04R\x05ttlMs\")\n\x0bSessionList\x12\x1a\n\x08sessions\x18\x01\x20\x03(\x04R\x08sessions\"(\n\x0c\
    CloseSession\x12\x18\n\x07session\x18\x01\x20\x01(\x04R\x07session\"F\n\x0eExpireSessions\x124\n\x08\
    sessions\x18\x01\x20\x03(\x0b2\x18.mesh.registry.v1.ExpiryR\x08sessions\">\n\x06Expiry\x12\x18\n\x07\
    session\x18\x01\x20\x01(\x04R\x07session\x12\x1a\n\x08renewals\x18\x02\x20\x01(\x04R\x08renewals\"J\n\
    \x0cRestoreChunk\x12\x0e\n\x02id\x18\x01\x20\x01(\x04R\x02id\x12\x16\n\x06offset\x18\x02\x20\x01(\x04\
    R\x06offset\x12\x12\n\x04data\x18\x03\x20\x01(\x0cR\x04data\"F\n\nRestoreEnd\x12\x0e\n\x02id\x18\x01\
    \x20\x01(\x04R\x02id\x12\x14\n\x05bytes\x18\x02\x20\x01(\x04R\x05bytes\x12\x12\n\x04xxh3\x18\x03\x20\
    \x01(\x04R\x04xxh3\"3\n\x0bRestoreDrop\x12\x0e\n\x02id\x18\x01\x20\x01(\x04R\x02id\x12\x14\n\x05byte\
    s\x18\x02\x20\x01(\x04R\x05bytes\"\xe3\x02\n\x0cSnapshotItem\x124\n\x04head\x18\x01\x20\x01(\x0b2\x1e\
    .mesh.registry.v1.SnapshotHeadH\x00R\x04head\x122\n\x06record\x18\x02\x20\x01(\x0b2\x18.mesh.registr\
    y.v1.RecordH\x00R\x06record\x12=\n\x07session\x18\x03\x20\x01(\x0b2!.mesh.registry.v1.SnapshotSessio\
    nH\x00R\x07session\x125\n\x07revised\x18\x04\x20\x01(\x0b2\x19.mesh.registry.v1.RevisedH\x00R\x07rev\
    ised\x128\n\x06staged\x18\x05\x20\x01(\x0b2\x1e.mesh.registry.v1.RestoreChunkH\x00R\x06staged\x121\n\
    \x03end\x18\x06\x20\x01(\x0b2\x1d.mesh.registry.v1.SnapshotEndH\x00R\x03endB\x06\n\x04item\"\xa5\x01\
    \n\x0cSnapshotHead\x12\x18\n\x07version\x18\x01\x20\x01(\rR\x07version\x12\x1e\n\ngeneration\x18\x02\
    \x20\x01(\x04R\ngeneration\x12\x1a\n\x08revision\x18\x03\x20\x01(\x04R\x08revision\x12\x1c\n\tcompac\
    ted\x18\x04\x20\x01(\x04R\tcompacted\x12!\n\x0cnext_session\x18\x05\x20\x01(\x04R\x0bnextSession\"\xb5\
    \x01\n\x0fSnapshotSession\x123\n\x07session\x18\x01\x20\x01(\x0b2\x19.mesh.registry.v1.SessionR\x07s\
    ession\x12<\n\x08outcomes\x18\x02\x20\x03(\x0b2\x20.mesh.registry.v1.SessionOutcomeR\x08outcomes\x12\
    !\n\tforgotten\x18\x03\x20\x01(\x04H\x00R\tforgotten\x88\x01\x01B\x0c\n\n_forgotten\"\xa8\x01\n\x0eS\
    essionOutcome\x12\x1a\n\x08sequence\x18\x01\x20\x01(\x04R\x08sequence\x128\n\x07applied\x18\x02\x20\x01\
    (\x0b2\x1c.mesh.registry.v1.TxnOutcomeH\x00R\x07applied\x125\n\x07refused\x18\x03\x20\x01(\x0b2\x19.\
    mesh.registry.v1.RefusalH\x00R\x07refusedB\t\n\x07outcome\"Y\n\x07Revised\x12\x1a\n\x08revision\x18\x01\
    \x20\x01(\x04R\x08revision\x122\n\x07changes\x18\x02\x20\x03(\x0b2\x18.mesh.registry.v1.ChangeR\x07c\
    hanges\"W\n\x0bSnapshotEnd\x12\x18\n\x07records\x18\x01\x20\x01(\x04R\x07records\x12\x1a\n\x08sessio\
    ns\x18\x02\x20\x01(\x04R\x08sessions\x12\x12\n\x04xxh3\x18\x03\x20\x01(\x04R\x04xxh3*\x9f\x01\n\x0bD\
    eleteCause\x12\x18\n\x14DELETE_CAUSE_UNKNOWN\x10\x00\x12\x18\n\x14DELETE_CAUSE_WRITTEN\x10\x01\x12\x1f\
    \n\x1bDELETE_CAUSE_SESSION_CLOSED\x10\x02\x12\x20\n\x1cDELETE_CAUSE_SESSION_EXPIRED\x10\x03\x12\x19\n\
    \x15DELETE_CAUSE_RESTORED\x10\x04b\x06proto3\n\xcc\x1f\n\nraft.proto\x12\x10mesh.registry.v1\x1a\x0e\
    registry.proto\"D\n\x08RaftHead\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05group\x12\x12\n\x04from\x18\
    \x02\x20\x01(\x04R\x04from\x12\x0e\n\x02to\x18\x03\x20\x01(\x04R\x02to\"T\n\nRaftBallot\x12\x12\n\x04\
    term\x18\x01\x20\x01(\x04R\x04term\x12\x14\n\x05voter\x18\x02\x20\x01(\x04R\x05voter\x12\x1c\n\tcomm\
    itted\x18\x03\x20\x01(\x08R\tcommitted\"K\n\tRaftLogId\x12\x12\n\x04term\x18\x01\x20\x01(\x04R\x04te\
    rm\x12\x14\n\x05voter\x18\x02\x20\x01(\x04R\x05voter\x12\x14\n\x05index\x18\x03\x20\x01(\x04R\x05ind\
    ex\"M\n\tRaftVoter\x12\x0e\n\x02id\x18\x01\x20\x01(\x04R\x02id\x12\x12\n\x04node\x18\x02\x20\x01(\tR\
    \x04node\x12\x1c\n\tdirectory\x18\x03\x20\x01(\x04R\tdirectory\"w\n\x0eRaftMembership\x122\n\x04sets\
    \x18\x01\x20\x03(\x0b2\x1e.mesh.registry.v1.RaftVoterSetR\x04sets\x121\n\x05nodes\x18\x02\x20\x03(\x0b\
    2\x1b.mesh.registry.v1.RaftVoterR\x05nodes\"\x20\n\x0cRaftVoterSet\x12\x10\n\x03ids\x18\x01\x20\x03(\
    \x04R\x03ids\"\xd4\x01\n\tRaftEntry\x12+\n\x02id\x18\x01\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogI\
    dR\x02id\x12/\n\x05blank\x18\x02\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x05blank\x12\x1a\n\x07\
    command\x18\x03\x20\x01(\x0cH\x00R\x07command\x12B\n\nmembership\x18\x04\x20\x01(\x0b2\x20.mesh.regi\
    stry.v1.RaftMembershipH\x00R\nmembershipB\t\n\x07payload\"\x99\x02\n\nRaftAppend\x12.\n\x04head\x18\x01\
    \x20\x01(\x0b2\x1a.mesh.registry.v1.RaftHeadR\x04head\x124\n\x06ballot\x18\x02\x20\x01(\x0b2\x1c.mes\
    h.registry.v1.RaftBallotR\x06ballot\x123\n\x06before\x18\x03\x20\x01(\x0b2\x1b.mesh.registry.v1.Raft\
    LogIdR\x06before\x125\n\x07entries\x18\x04\x20\x03(\x0b2\x1b.mesh.registry.v1.RaftEntryR\x07entries\x12\
    9\n\tcommitted\x18\x05\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\tcommitted\"\xf4\x01\n\x0fRaftA\
    ppendReply\x12-\n\x04done\x18\x01\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x04done\x129\n\x07p\
    artial\x18\x02\x20\x01(\x0b2\x1d.mesh.registry.v1.RaftPartialH\x00R\x07partial\x125\n\x08conflict\x18\
    \x03\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x08conflict\x126\n\x06higher\x18\x04\x20\x01(\x0b\
    2\x1c.mesh.registry.v1.RaftBallotH\x00R\x06higherB\x08\n\x06result\"D\n\x0bRaftPartial\x125\n\x07thr\
    ough\x18\x01\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\x07through\"\xd6\x01\n\x0fRaftVoteRequest\
    \x12.\n\x04head\x18\x01\x20\x01(\x0b2\x1a.mesh.registry.v1.RaftHeadR\x04head\x124\n\x06ballot\x18\x02\
    \x20\x01(\x0b2\x1c.mesh.registry.v1.RaftBallotR\x06ballot\x12/\n\x04last\x18\x03\x20\x01(\x0b2\x1b.m\
    esh.registry.v1.RaftLogIdR\x04last\x12\x10\n\x03pre\x18\x04\x20\x01(\x08R\x03pre\x12\x1a\n\x08transf\
    er\x18\x05\x20\x01(\x08R\x08transfer\"\x90\x01\n\rRaftVoteReply\x124\n\x06ballot\x18\x01\x20\x01(\x0b\
    2\x1c.mesh.registry.v1.RaftBallotR\x06ballot\x12\x18\n\x07granted\x18\x02\x20\x01(\x08R\x07granted\x12\
    /\n\x04last\x18\x03\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\x04last\"\xf1\x01\n\x10RaftSnapsho\
    tMeta\x12/\n\x04last\x18\x01\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\x04last\x12@\n\rmembershi\
    p_at\x18\x02\x20\x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\x0cmembershipAt\x12@\n\nmembership\x18\x03\
    \x20\x01(\x0b2\x20.mesh.registry.v1.RaftMembershipR\nmembership\x12\x14\n\x05bytes\x18\x04\x20\x01(\x04\
    R\x05bytes\x12\x12\n\x04xxh3\x18\x05\x20\x01(\x04R\x04xxh3\"\xdd\x01\n\x11RaftSnapshotPiece\x12.\n\x04\
    head\x18\x01\x20\x01(\x0b2\x1a.mesh.registry.v1.RaftHeadR\x04head\x124\n\x06ballot\x18\x02\x20\x01(\x0b\
    2\x1c.mesh.registry.v1.RaftBallotR\x06ballot\x126\n\x04meta\x18\x03\x20\x01(\x0b2\".mesh.registry.v1\
    .RaftSnapshotMetaR\x04meta\x12\x16\n\x06offset\x18\x04\x20\x01(\x04R\x06offset\x12\x12\n\x04data\x18\
    \x05\x20\x01(\x0cR\x04data\"\x7f\n\x11RaftSnapshotReply\x12\x16\n\x06offset\x18\x01\x20\x01(\x04R\x06\
    offset\x12\x1c\n\tinstalled\x18\x02\x20\x01(\x08R\tinstalled\x124\n\x06ballot\x18\x03\x20\x01(\x0b2\x1c\
    .mesh.registry.v1.RaftBallotR\x06ballot\"\xc3\x01\n\x0cRaftTransfer\x12.\n\x04head\x18\x01\x20\x01(\x0b\
    2\x1a.mesh.registry.v1.RaftHeadR\x04head\x124\n\x06ballot\x18\x02\x20\x01(\x0b2\x1c.mesh.registry.v1\
    .RaftBallotR\x06ballot\x12\x1c\n\tsuccessor\x18\x03\x20\x01(\x04R\tsuccessor\x12/\n\x04last\x18\x04\x20\
    \x01(\x0b2\x1b.mesh.registry.v1.RaftLogIdR\x04last\"\xbb\x01\n\x11RaftTransferReply\x12-\n\x04done\x18\
    \x01\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\x04done\x124\n\x05other\x18\x02\x20\x01(\x0b2\x1c\
    .mesh.registry.v1.RaftBallotH\x00R\x05other\x127\n\x06behind\x18\x03\x20\x01(\x0b2\x1d.mesh.registry\
    .v1.RaftPartialH\x00R\x06behindB\x08\n\x06result\"=\n\x0bRaftConfirm\x12.\n\x04head\x18\x01\x20\x01(\
    \x0b2\x1a.mesh.registry.v1.RaftHeadR\x04head\"L\n\x10RaftConfirmReply\x128\n\x08promised\x18\x01\x20\
    \x01(\x0b2\x1c.mesh.registry.v1.RaftBallotR\x08promised\"?\n\rRaftReadIndex\x12.\n\x04head\x18\x01\x20\
    \x01(\x0b2\x1a.mesh.registry.v1.RaftHeadR\x04head\"(\n\x12RaftReadIndexReply\x12\x12\n\x04next\x18\x01\
    \x20\x01(\x04R\x04next\"O\n\tRaftHello\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05group\x12\x0e\n\x02\
    id\x18\x02\x20\x01(\x04R\x02id\x12\x1c\n\tdirectory\x18\x03\x20\x01(\x04R\tdirectory\"l\n\x0eRaftHel\
    loReply\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05group\x12\x16\n\x06leader\x18\x02\x20\x01(\tR\x06\
    leader\x12\x14\n\x05leads\x18\x03\x20\x01(\x08R\x05leads\x12\x16\n\x06member\x18\x04\x20\x01(\x08R\x06\
    member\"O\n\tRaftAdopt\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05group\x12\x0e\n\x02id\x18\x02\x20\
    \x01(\x04R\x02id\x12\x1c\n\tdirectory\x18\x03\x20\x01(\x04R\tdirectory\"\x10\n\x0eRaftAdoptReply\"f\n\
    \x0cRaftIdentity\x12\x12\n\x04node\x18\x01\x20\x01(\tR\x04node\x12\x1c\n\tdirectory\x18\x02\x20\x01(\
    \x04R\tdirectory\x12\x14\n\x05group\x18\x03\x20\x01(\x0cR\x05group\x12\x0e\n\x02id\x18\x04\x20\x01(\x04\
    R\x02id2\xc9\x05\n\x04Raft\x12I\n\x06Append\x12\x1c.mesh.registry.v1.RaftAppend\x1a!.mesh.registry.v\
    1.RaftAppendReply\x12Q\n\nAppendMany\x12\x1c.mesh.registry.v1.RaftAppend\x1a!.mesh.registry.v1.RaftA\
    ppendReply(\x010\x01\x12J\n\x04Vote\x12!.mesh.registry.v1.RaftVoteRequest\x1a\x1f.mesh.registry.v1.R\
    aftVoteReply\x12T\n\x08Snapshot\x12#.mesh.registry.v1.RaftSnapshotPiece\x1a#.mesh.registry.v1.RaftSn\
    apshotReply\x12O\n\x08Transfer\x12\x1e.mesh.registry.v1.RaftTransfer\x1a#.mesh.registry.v1.RaftTrans\
    ferReply\x12L\n\x07Confirm\x12\x1d.mesh.registry.v1.RaftConfirm\x1a\".mesh.registry.v1.RaftConfirmRe\
    ply\x12R\n\tReadIndex\x12\x1f.mesh.registry.v1.RaftReadIndex\x1a$.mesh.registry.v1.RaftReadIndexRepl\
    y\x12F\n\x05Hello\x12\x1b.mesh.registry.v1.RaftHello\x1a\x20.mesh.registry.v1.RaftHelloReply\x12F\n\x05\
    Adopt\x12\x1b.mesh.registry.v1.RaftAdopt\x1a\x20.mesh.registry.v1.RaftAdoptReplyb\x06proto3\n\xec(\n\
    \x0bstore.proto\x12\x10mesh.registry.v1\x1a\x0eregistry.proto\"F\n\nGetRequest\x12\x10\n\x03key\x18\x01\
    \x20\x01(\tR\x03key\x12\x14\n\x05stale\x18\x02\x20\x01(\x08R\x05stale\x12\x10\n\x03led\x18\x03\x20\x01\
    (\x08R\x03led\"\x84\x01\n\x08GetReply\x120\n\x06record\x18\x01\x20\x01(\x0b2\x18.mesh.registry.v1.Re\
    cordR\x06record\x12\x1a\n\x08revision\x18\x02\x20\x01(\x04R\x08revision\x12*\n\x04lead\x18\x03\x20\x01\
    (\x0b2\x16.mesh.registry.v1.LeadR\x04lead\"v\n\x04Lead\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05g\
    roup\x12\x12\n\x04term\x18\x02\x20\x01(\x04R\x04term\x12\x14\n\x05voter\x18\x03\x20\x01(\x04R\x05vot\
    er\x12.\n\x04sets\x18\x04\x20\x03(\x0b2\x1a.mesh.registry.v1.VoterSetR\x04sets\"\"\n\x08VoterSet\x12\
    \x16\n\x06voters\x18\x01\x20\x03(\x04R\x06voters\"\x10\n\x0eWitnessRequest\"\x86\x01\n\x0cWitnessRep\
    ly\x12\x14\n\x05group\x18\x01\x20\x01(\x0cR\x05group\x12\x14\n\x05voter\x18\x02\x20\x01(\x04R\x05vot\
    er\x12#\n\rpromised_term\x18\x03\x20\x01(\x04R\x0cpromisedTerm\x12%\n\x0epromised_voter\x18\x04\x20\x01\
    (\x04R\rpromisedVoter\"g\n\x0bScanRequest\x12\x16\n\x06prefix\x18\x01\x20\x01(\tR\x06prefix\x12\x14\n\
    \x05after\x18\x02\x20\x01(\tR\x05after\x12\x14\n\x05limit\x18\x03\x20\x01(\rR\x05limit\x12\x14\n\x05\
    stale\x18\x04\x20\x01(\x08R\x05stale\"o\n\tScanReply\x122\n\x07records\x18\x01\x20\x03(\x0b2\x18.mes\
    h.registry.v1.RecordR\x07records\x12\x12\n\x04more\x18\x02\x20\x01(\x08R\x04more\x12\x1a\n\x08revisi\
    on\x18\x03\x20\x01(\x04R\x08revision\":\n\x0fTransactRequest\x12\'\n\x03txn\x18\x01\x20\x01(\x0b2\x15\
    .mesh.registry.v1.TxnR\x03txn\"\x8b\x01\n\rTransactReply\x128\n\x07applied\x18\x01\x20\x01(\x0b2\x1c\
    .mesh.registry.v1.TxnOutcomeH\x00R\x07applied\x125\n\x07refused\x18\x02\x20\x01(\x0b2\x19.mesh.regis\
    try.v1.RefusalH\x00R\x07refusedB\t\n\x07outcome\"@\n\x13TransactEachRequest\x12)\n\x04txns\x18\x01\x20\
    \x03(\x0b2\x15.mesh.registry.v1.TxnR\x04txns\"S\n\x11TransactEachReply\x12>\n\x07answers\x18\x01\x20\
    \x03(\x0b2$.mesh.registry.v1.TransactEachAnswerR\x07answers\"\x94\x01\n\x12TransactEachAnswer\x127\n\
    \x05reply\x18\x01\x20\x01(\x0b2\x1f.mesh.registry.v1.TransactReplyH\x00R\x05reply\x12;\n\x07failure\x18\
    \x02\x20\x01(\x0b2\x1f.mesh.registry.v1.FailureStatusH\x00R\x07failureB\x08\n\x06answer\"\x91\x01\n\x0c\
    WatchRequest\x12\x16\n\x06prefix\x18\x01\x20\x01(\tR\x06prefix\x12\x19\n\x05after\x18\x02\x20\x01(\x04\
    H\x00R\x05after\x88\x01\x01\x12,\n\x12buffer_changes_max\x18\x03\x20\x01(\rR\x10bufferChangesMax\x12\
    \x16\n\x06latest\x18\x04\x20\x01(\x08R\x06latestB\x08\n\x06_after\"\xd8\x01\n\nWatchReply\x12:\n\x07\
    changes\x18\x01\x20\x01(\x0b2\x1e.mesh.registry.v1.WatchChangesH\x00R\x07changes\x12\x1c\n\x08bookma\
    rk\x18\x02\x20\x01(\x04H\x00R\x08bookmark\x12.\n\x03gap\x18\x03\x20\x01(\x0b2\x1a.mesh.registry.v1.W\
    atchGapH\x00R\x03gap\x127\n\theartbeat\x18\x04\x20\x01(\x0b2\x17.mesh.registry.v1.EmptyH\x00R\theart\
    beatB\x07\n\x05event\"r\n\x0cWatchChanges\x12\x1a\n\x08revision\x18\x01\x20\x01(\x04R\x08revision\x12\
    2\n\x07changes\x18\x02\x20\x03(\x0b2\x18.mesh.registry.v1.ChangeR\x07changes\x12\x12\n\x04more\x18\x03\
    \x20\x01(\x08R\x04more\".\n\x08WatchGap\x12\x12\n\x04from\x18\x01\x20\x01(\x04R\x04from\x12\x0e\n\x02\
    to\x18\x02\x20\x01(\x04R\x02to\"$\n\x0bOpenRequest\x12\x15\n\x06ttl_ms\x18\x01\x20\x01(\x04R\x05ttlM\
    s\"*\n\x0eSessionRequest\x12\x18\n\x07session\x18\x01\x20\x01(\x04R\x07session\"C\n\x0cSessionReply\x12\
    3\n\x07session\x18\x01\x20\x01(\x0b2\x19.mesh.registry.v1.SessionR\x07session\"(\n\nCloseReply\x12\x1a\
    \n\x08revision\x18\x01\x20\x01(\x04R\x08revision\"*\n\x0eCompactRequest\x12\x18\n\x07through\x18\x01\
    \x20\x01(\x04R\x07through\"\x0e\n\x0cCompactReply\"\x11\n\x0fSnapshotRequest\"@\n\x0cSnapshotPart\x12\
    \x14\n\x04data\x18\x01\x20\x01(\x0cH\x00R\x04data\x12\x12\n\x03end\x18\x02\x20\x01(\x04H\x00R\x03end\
    B\x06\n\x04part\"J\n\x0cRestoreReply\x12\x1a\n\x08revision\x18\x01\x20\x01(\x04R\x08revision\x12\x1e\
    \n\ngeneration\x18\x02\x20\x01(\x04R\ngeneration\"\x0f\n\rStatusRequest\"\xec\x01\n\x0bStatusReply\x12\
    \x1a\n\x08revision\x18\x01\x20\x01(\x04R\x08revision\x12\x1c\n\tcompacted\x18\x02\x20\x01(\x04R\tcom\
    pacted\x12\x1e\n\ngeneration\x18\x03\x20\x01(\x04R\ngeneration\x12\x16\n\x06leader\x18\x04\x20\x01(\t\
    R\x06leader\x12\x1b\n\tread_only\x18\x05\x20\x01(\tR\x08readOnly\x12\x18\n\x07records\x18\x06\x20\x01\
    (\x04R\x07records\x12\x1a\n\x08sessions\x18\x07\x20\x01(\x04R\x08sessions\x12\x18\n\x07cluster\x18\x08\
    \x20\x01(\tR\x07cluster\"\x10\n\x0eMembersRequest\"\xbf\x01\n\x0cMembersReply\x12\x17\n\x07told_by\x18\
    \x01\x20\x01(\tR\x06toldBy\x12\x14\n\x05leads\x18\x02\x20\x01(\x08R\x05leads\x12\x14\n\x05group\x18\x03\
    \x20\x01(\tR\x05group\x12\x12\n\x04term\x18\x04\x20\x01(\x04R\x04term\x12\x1d\n\nlast_index\x18\x05\x20\
    \x01(\x04R\tlastIndex\x127\n\x07members\x18\x06\x20\x03(\x0b2\x1d.mesh.registry.v1.GroupMemberR\x07m\
    embers\"\xc6\x02\n\x0bGroupMember\x12\x12\n\x04node\x18\x01\x20\x01(\tR\x04node\x12\x17\n\x07raft_id\
    \x18\x02\x20\x01(\x04R\x06raftId\x126\n\x04role\x18\x03\x20\x01(\x0e2\".mesh.registry.v1.GroupMember\
    .RoleR\x04role\x12\x1d\n\x07answers\x18\x04\x20\x01(\x08H\x00R\x07answers\x88\x01\x01\x12\x20\n\tsil\
    ent_ms\x18\x05\x20\x01(\x04H\x01R\x08silentMs\x88\x01\x01\x12\x1b\n\x06behind\x18\x06\x20\x01(\x04H\x02\
    R\x06behind\x88\x01\x01\"O\n\x04Role\x12\x14\n\x10ROLE_UNSPECIFIED\x10\x00\x12\x0f\n\x0bROLE_LEADER\x10\
    \x01\x12\x0e\n\nROLE_VOTER\x10\x02\x12\x10\n\x0cROLE_LEARNER\x10\x03B\n\n\x08_answersB\x0c\n\n_silen\
    t_msB\t\n\x07_behind\"\xd1\x06\n\x0cStoreFailure\x12\x1a\n\x07invalid\x18\x01\x20\x01(\tH\x00R\x07in\
    valid\x12N\n\x0bunavailable\x18\x02\x20\x01(\x0b2*.mesh.registry.v1.StoreFailure.UnavailableH\x00R\x0b\
    unavailable\x12B\n\x07timeout\x18\x03\x20\x01(\x0b2&.mesh.registry.v1.StoreFailure.TimeoutH\x00R\x07\
    timeout\x12\x14\n\x04busy\x18\x04\x20\x01(\x04H\x00R\x04busy\x12\x1d\n\tread_only\x18\x05\x20\x01(\t\
    H\x00R\x08readOnly\x12\x18\n\x06denied\x18\x06\x20\x01(\tH\x00R\x06denied\x12\"\n\x0bunsupported\x18\
    \x07\x20\x01(\tH\x00R\x0bunsupported\x12B\n\x07damaged\x18\x08\x20\x01(\x0b2&.mesh.registry.v1.Store\
    Failure.DamagedH\x00R\x07damaged\x12#\n\x0csession_gone\x18\t\x20\x01(\x04H\x00R\x0bsessionGone\x12M\
    \n\x0ctime_to_live\x18\n\x20\x01(\x0b2).mesh.registry.v1.StoreFailure.TimeToLiveH\x00R\ntimeToLive\x1a\
    |\n\x0bUnavailable\x12\x16\n\x06reason\x18\x01\x20\x01(\tR\x06reason\x12\'\n\x0fapplied_unknown\x18\x02\
    \x20\x01(\x08R\x0eappliedUnknown\x12\x16\n\x06leader\x18\x03\x20\x01(\tR\x06leader\x12\x14\n\x05agai\
    n\x18\x04\x20\x01(\x08R\x05again\x1aM\n\x07Timeout\x12\x19\n\x08after_ms\x18\x01\x20\x01(\x04R\x07af\
    terMs\x12\'\n\x0fapplied_unknown\x18\x02\x20\x01(\x08R\x0eappliedUnknown\x1a7\n\x07Damaged\x12\x12\n\
    \x04what\x18\x01\x20\x01(\tR\x04what\x12\x18\n\x07problem\x18\x02\x20\x01(\tR\x07problem\x1aU\n\nTim\
    eToLive\x12\x19\n\x08asked_ms\x18\x01\x20\x01(\x04R\x07askedMs\x12\x15\n\x06min_ms\x18\x02\x20\x01(\x04\
    R\x05minMs\x12\x15\n\x06max_ms\x18\x03\x20\x01(\x04R\x05maxMsB\t\n\x07failure\"x\n\rFailureStatus\x12\
    \x12\n\x04code\x18\x01\x20\x01(\x05R\x04code\x12\x18\n\x07message\x18\x02\x20\x01(\tR\x07message\x12\
    9\n\x07details\x18\x03\x20\x03(\x0b2\x1f.mesh.registry.v1.FailureDetailR\x07details\"@\n\rFailureDet\
    ail\x12\x19\n\x08type_url\x18\x01\x20\x01(\tR\x07typeUrl\x12\x14\n\x05value\x18\x02\x20\x01(\x0cR\x05\
    value2\xfc\x08\n\x05Store\x12?\n\x03Get\x12\x1c.mesh.registry.v1.GetRequest\x1a\x1a.mesh.registry.v1\
    .GetReply\x12B\n\x04Scan\x12\x1d.mesh.registry.v1.ScanRequest\x1a\x1b.mesh.registry.v1.ScanReply\x12\
    N\n\x08Transact\x12!.mesh.registry.v1.TransactRequest\x1a\x1f.mesh.registry.v1.TransactReply\x12Z\n\x0c\
    TransactEach\x12%.mesh.registry.v1.TransactEachRequest\x1a#.mesh.registry.v1.TransactEachReply\x12G\n\
    \x05Watch\x12\x1e.mesh.registry.v1.WatchRequest\x1a\x1c.mesh.registry.v1.WatchReply0\x01\x12E\n\x04O\
    pen\x12\x1d.mesh.registry.v1.OpenRequest\x1a\x1e.mesh.registry.v1.SessionReply\x12M\n\tKeepAlive\x12\
    \x20.mesh.registry.v1.SessionRequest\x1a\x1e.mesh.registry.v1.SessionReply\x12G\n\x05Close\x12\x20.m\
    esh.registry.v1.SessionRequest\x1a\x1c.mesh.registry.v1.CloseReply\x12K\n\x07Session\x12\x20.mesh.re\
    gistry.v1.SessionRequest\x1a\x1e.mesh.registry.v1.SessionReply\x12K\n\x07Compact\x12\x20.mesh.regist\
    ry.v1.CompactRequest\x1a\x1e.mesh.registry.v1.CompactReply\x12O\n\x08Snapshot\x12!.mesh.registry.v1.\
    SnapshotRequest\x1a\x1e.mesh.registry.v1.SnapshotPart0\x01\x12K\n\x07Restore\x12\x1e.mesh.registry.v\
    1.SnapshotPart\x1a\x1e.mesh.registry.v1.RestoreReply(\x01\x12H\n\x06Status\x12\x1f.mesh.registry.v1.\
    StatusRequest\x1a\x1d.mesh.registry.v1.StatusReply\x12K\n\x07Members\x12\x20.mesh.registry.v1.Member\
    sRequest\x1a\x1e.mesh.registry.v1.MembersReply\x12K\n\x07Witness\x12\x20.mesh.registry.v1.WitnessReq\
    uest\x1a\x1e.mesh.registry.v1.WitnessReplyb\x06proto3";
