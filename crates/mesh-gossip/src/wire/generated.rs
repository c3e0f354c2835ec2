// Generated from proto/gossip.proto by `cargo xtask codegen`. Do not edit.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "generated")]

#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Packet {
    /// Version of this protocol; a receiver drops versions it does not speak.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The sender's run.
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    /// Digest of the sender's live records.
    #[prost(fixed64, tag = "3")]
    pub digest: u64,
    #[prost(message, repeated, tag = "4")]
    pub updates: ::prost::alloc::vec::Vec<super::Kept<Update>>,
    #[prost(message, repeated, tag = "5")]
    pub deltas: ::prost::alloc::vec::Vec<super::Kept<MetadataDelta>>,
    #[prost(message, optional, tag = "6")]
    pub hello: ::core::option::Option<Hello>,
    #[prost(message, optional, tag = "7")]
    pub probe: ::core::option::Option<Probe>,
    #[prost(message, optional, tag = "8")]
    pub ack: ::core::option::Option<Ack>,
    #[prost(message, optional, tag = "9")]
    pub probe_request: ::core::option::Option<ProbeRequest>,
    #[prost(message, optional, tag = "10")]
    pub probe_report: ::core::option::Option<ProbeReport>,
    #[prost(message, optional, tag = "11")]
    pub sync_request: ::core::option::Option<SyncRequest>,
    #[prost(message, optional, tag = "12")]
    pub sync_summary: ::core::option::Option<SyncSummary>,
    #[prost(message, optional, tag = "13")]
    pub sync_records: ::core::option::Option<SyncRecords>,
    #[prost(message, repeated, tag = "14")]
    pub broadcasts: ::prost::alloc::vec::Vec<super::Kept<Broadcast>>,
    /// The sender leaves; the receiver answers with goodbye_ack.
    #[prost(bool, tag = "15")]
    pub goodbye: bool,
    #[prost(bool, tag = "16")]
    pub goodbye_ack: bool,
    /// Rides on probes and acks: the sender's own load.
    #[prost(message, optional, tag = "17")]
    pub load: ::core::option::Option<super::Kept<Load>>,
    /// And what it heard of others' not long ago.
    #[prost(message, repeated, tag = "18")]
    pub loads: ::prost::alloc::vec::Vec<super::Kept<LoadSample>>,
}
/// The newest word about one member. A field that is not known goes with the word
/// it came with, until a newer word.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Update {
    #[prost(string, tag = "1")]
    pub node_id: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    #[prost(enumeration = "State", tag = "4")]
    pub state: i32,
    /// The member's metadata version, so that a gap is seen without the descriptor.
    #[prost(uint64, tag = "5")]
    pub metadata_version: u64,
    /// Everything the member says about itself; absent where only the state changed.
    #[prost(message, optional, tag = "6")]
    pub descriptor: ::core::option::Option<super::Kept<Descriptor>>,
    /// The sender holds that the member's own certificate answered.
    #[prost(bool, tag = "7")]
    pub verified: bool,
    /// Who suspects it, for STATE_SUSPECT.
    #[prost(string, repeated, tag = "8")]
    pub accusers: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Those of them whose connection attempts were refused.
    #[prost(string, repeated, tag = "9")]
    pub refused_by: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Microseconds since the change was made, summed over the hops.
    #[prost(uint64, tag = "10")]
    pub age_us: u64,
    /// Somebody holds this member for dead at this incarnation: may it refute.
    #[prost(bool, tag = "11")]
    pub challenged: bool,
}
/// What a member says about itself.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Descriptor {
    #[prost(string, tag = "1")]
    pub role: ::prost::alloc::string::String,
    /// Where it listens, best first.
    #[prost(string, repeated, tag = "2")]
    pub addresses: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Start of its certificate's validity: the older certificate yields in a conflict.
    #[prost(uint64, tag = "3")]
    pub certificate_not_before_s: u64,
    #[prost(message, repeated, tag = "4")]
    pub entries: ::prost::alloc::vec::Vec<Entry>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    #[prost(string, tag = "2")]
    pub value: ::prost::alloc::string::String,
}
/// Changes of one member's metadata after base_version.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct MetadataDelta {
    #[prost(string, tag = "1")]
    pub node_id: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    #[prost(uint64, tag = "3")]
    pub base_version: u64,
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(message, repeated, tag = "5")]
    pub set: ::prost::alloc::vec::Vec<Entry>,
    #[prost(string, repeated, tag = "6")]
    pub removed: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
}
/// First message of a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Hello {
    /// The sender wants the whole list.
    #[prost(bool, tag = "1")]
    pub join: bool,
    /// The sender went unprobed for too long: please probe it.
    #[prost(bool, tag = "2")]
    pub please_probe: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Probe {
    #[prost(uint32, tag = "1")]
    pub sequence: u32,
    /// The prober suspects the receiver at this incarnation plus one; 0 if it does not.
    #[prost(uint64, tag = "2")]
    pub suspected_at: u64,
    /// Not part of the regular schedule: give no slot.
    #[prost(bool, tag = "3")]
    pub urgent: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Ack {
    #[prost(uint32, tag = "1")]
    pub sequence: u32,
    /// Milliseconds until this prober's next turn; 0 for urgent probes.
    #[prost(uint32, tag = "2")]
    pub next_ms: u32,
    /// The answering member's incarnation: a higher one refutes.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
}
/// Probe the target on the sender's behalf.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct ProbeRequest {
    #[prost(uint32, tag = "1")]
    pub sequence: u32,
    #[prost(string, tag = "2")]
    pub target: ::prost::alloc::string::String,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct ProbeReport {
    #[prost(uint32, tag = "1")]
    pub sequence: u32,
    #[prost(string, tag = "2")]
    pub target: ::prost::alloc::string::String,
    #[prost(bool, tag = "3")]
    pub answered: bool,
}
/// Digests of the sender's table by buckets: bucket i holds the members whose
/// hash starts with the bits of i.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SyncRequest {
    #[prost(uint32, tag = "1")]
    pub bucket_bits: u32,
    #[prost(fixed64, repeated, tag = "2")]
    pub buckets: ::prost::alloc::vec::Vec<u64>,
}
/// All records of the buckets that differ, tombstones included.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SyncSummary {
    #[prost(uint32, tag = "1")]
    pub bucket_bits: u32,
    #[prost(uint32, repeated, tag = "2")]
    pub buckets: ::prost::alloc::vec::Vec<u32>,
    #[prost(message, repeated, tag = "3")]
    pub members: ::prost::alloc::vec::Vec<Summary>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Summary {
    #[prost(string, tag = "1")]
    pub node_id: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    #[prost(enumeration = "State", tag = "4")]
    pub state: i32,
    #[prost(uint64, tag = "5")]
    pub metadata_version: u64,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SyncRecords {
    #[prost(message, repeated, tag = "1")]
    pub updates: ::prost::alloc::vec::Vec<super::Kept<Update>>,
    /// Members whose records the sender wants.
    #[prost(string, repeated, tag = "2")]
    pub wants: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Answer to a joining node.
    #[prost(bool, tag = "3")]
    pub join: bool,
    /// Pages of that answer; they may arrive in any order.
    #[prost(uint32, tag = "4")]
    pub pages: u32,
}
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Broadcast {
    #[prost(string, tag = "1")]
    pub origin: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: ::prost::bytes::Bytes,
}
/// How busy a member is, in its own words.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Load {
    /// Grows with every new word of the same run.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Thousandths of what the node may use, 0 to 1000; absent if it does not say.
    #[prost(uint32, optional, tag = "2")]
    pub cpu_permille: ::core::option::Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub memory_permille: ::core::option::Option<u32>,
    #[prost(message, repeated, tag = "4")]
    pub custom: ::prost::alloc::vec::Vec<LoadValue>,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct LoadValue {
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
    #[prost(uint64, tag = "2")]
    pub value: u64,
}
/// What the sender heard of another member's load.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LoadSample {
    #[prost(string, tag = "1")]
    pub node_id: ::prost::alloc::string::String,
    /// The lower half of the member's instance: tells its runs apart.
    #[prost(fixed32, tag = "2")]
    pub run: u32,
    /// Milliseconds since the member said so, summed over the hops.
    #[prost(uint32, tag = "3")]
    pub age_ms: u32,
    #[prost(message, optional, tag = "4")]
    pub load: ::core::option::Option<super::Kept<Load>>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum State {
    Alive = 0,
    Suspect = 1,
    Dead = 2,
    Left = 3,
}
impl State {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Alive => "STATE_ALIVE",
            Self::Suspect => "STATE_SUSPECT",
            Self::Dead => "STATE_DEAD",
            Self::Left => "STATE_LEFT",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "STATE_ALIVE" => Some(Self::Alive),
            "STATE_SUSPECT" => Some(Self::Suspect),
            "STATE_DEAD" => Some(Self::Dead),
            "STATE_LEFT" => Some(Self::Left),
            _ => None,
        }
    }
}
impl super::Relayed for Update {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
}
impl super::Relayed for Descriptor {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4];
}
impl super::Relayed for MetadataDelta {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4, 5, 6];
}
impl super::Relayed for Broadcast {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4];
}
impl super::Relayed for Load {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4];
}
impl super::Relayed for LoadSample {
    const FIELDS: &'static [u32] = &[1, 2, 3, 4];
}
