// Generated from proto/registry.proto by `cargo xtask codegen`. Do not edit.
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
    #[prost(oneof = "command::Command", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
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
