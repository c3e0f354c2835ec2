#![doc = include_str!("../README.md")]

mod clock;
mod datagrams;
mod hlc;
mod id;
mod identity;
mod load;
mod machine;
mod member;
mod membership;
mod revision;
mod settings;
mod version;

#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod store;

pub use clock::{Clock, Instant, ManualClock, SystemClock, WallTime};
pub use datagrams::{
    ConnectError, DatagramError, DatagramEvent, Datagrams, Direction, LinkDownReason, LinkPath, LinkTarget,
    PAYLOAD_BYTES_MAX,
};
pub use hlc::{Hlc, HlcClock, HlcError};
pub use id::{ClusterName, IdError, Incarnation, InstanceId, NodeId, Role, TrustDomain};
pub use identity::{CertificateInfo, PeerIdentity, SpiffeId, SpiffeIdError};
pub use load::{Load, LoadError, LoadReport};
pub use machine::{DiskCompletion, DiskFault, DiskId, DiskOperation, DiskRequest, FileName, Machine};
pub use member::{Health, Member, MemberState, Verification};
pub use membership::{MemberChange, MemberEvent, MemberEvents, MemberSnapshot, Membership, Reason};
pub use revision::{FencingToken, Revision};
pub use settings::{SettingError, Settings, Validated};
pub use version::{ProtocolVersion, VersionError, VersionRange};

/// An error of any type, for sources that cross a trait.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
