//! The simulator: many protocol cores, one seed, virtual time.
//!
//! A [`World`] runs a [`Program`] (a [`mesh_core::Machine`] and two translations)
//! on many machines at once. The network, the disks, the clocks and the faults are
//! models; the cores and their codecs are the real ones. Everything that happens
//! comes from one seed and goes through one event heap, so that a run can be
//! repeated, and a [`Trace`] proves that it was.

mod carrier;
pub mod cluster;
mod converge;
mod disk;
pub mod election;
mod gossip;
#[cfg(feature = "harness")]
pub mod harness;
mod heal;
mod host_clock;
pub mod invariants;
mod network;
pub mod options;
mod program;
mod queue;
mod run;
pub mod skew;
mod trace;
#[cfg(feature = "harness")]
pub mod trial;
mod world;

use std::fmt;

pub use carrier::{DATAGRAM_BYTES_MAX, IDLE_TIMEOUT};
pub use converge::{Figures, converge};
pub use disk::{Disk, DiskHealth};
pub use gossip::Gossips;
pub use heal::{Healing, heal};
pub use host_clock::HostClock;
use mesh_core::Instant;
pub use mesh_registry::testing::history;
pub use network::{HostId, Line, Network, Weather};
pub use options::Options;
pub use program::{Action, Counts, InputOf, Launch, Outside, Program, Step, Unwatched, Watch};
pub use queue::EventQueue;
pub use run::{AtStart, Looking, Outcome, run, run_looking};
pub use trace::Trace;
pub use world::{CarrierHabits, Limits, Machinery, World};

/// A rule that a run broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// When it was noticed.
    pub at: Instant,
    /// On which machine, if on one.
    pub host: Option<HostId>,
    /// The rule, in words.
    pub rule: &'static str,
    /// What was found instead.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, rule, detail, .. } = self;
        write!(f, "broken rule: {rule}, at {at:?}")?;
        if let Some(host) = self.host {
            write!(f, " on {host:?}")?;
        }
        write!(f, ": {detail}")
    }
}
