//! How a core plugs into the simulator.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use mesh_core::{
    DatagramEvent, DiskCompletion, DiskRequest, Instant, LinkTarget, Machine, NodeId, PeerIdentity,
};

use crate::{Violation, network::HostId};

/// What a process is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The machine it runs on.
    pub host: HostId,
    /// Who it is.
    pub identity: Arc<PeerIdentity>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Different at each start.
    pub seed: u64,
    /// What the machine's clock reads.
    pub now: Instant,
    /// How many processes ran on this machine before.
    pub runs_before: u32,
}

/// What comes to a core from outside.
#[derive(Clone, Debug)]
pub enum Outside {
    /// From the carrier.
    Link(DatagramEvent),
    /// From the disk.
    Disk(DiskCompletion),
}

/// What a core wants done.
#[derive(Debug)]
pub enum Action<R> {
    /// Send a payload over the link to a peer.
    Transmit {
        /// The peer.
        to: NodeId,
        /// The payload.
        payload: Bytes,
    },
    /// Open a link.
    Connect(LinkTarget),
    /// Close a link.
    Disconnect(NodeId),
    /// Read or write a file.
    Disk(DiskRequest),
    /// Tell the user something.
    Report(R),
    /// Tell the user something, and end the process in good order.
    Exit(R),
}

/// The input type of a program's core.
pub type InputOf<P> = <<P as Program>::Core as Machine>::Input;

/// A core and the two translations between its words and the simulator's.
pub trait Program {
    /// The core.
    type Core: Machine;
    /// What it tells its user.
    type Report: fmt::Debug;

    /// Starts a process.
    fn start(&mut self, launch: &Launch) -> Self::Core;

    /// Wraps what comes from outside to the process on a machine.
    fn input(&self, host: HostId, outside: Outside) -> InputOf<Self>;

    /// Unwraps what the core on a machine wants.
    fn action(&self, host: HostId, effect: <Self::Core as Machine>::Effect) -> Action<Self::Report>;

    /// A payload in words, for the lines of a trace.
    fn describe(&self, payload: &[u8]) -> String {
        format!("{} bytes", payload.len())
    }
}

/// One step of one core, seen after its effects were taken.
pub struct Step<'a, P: Program> {
    /// The time of the run.
    pub now: Instant,
    /// Where it happened.
    pub host: HostId,
    /// The core.
    pub core: &'a P::Core,
    /// What it reported in this step.
    pub reports: &'a [P::Report],
    /// How many effects it had, reports included.
    pub effects: usize,
    /// The payloads it sent, with their receivers.
    pub sent: &'a [(NodeId, Bytes)],
}

/// Checks a run while it goes on.
pub trait Watch<P: Program> {
    /// A process started.
    fn started(&mut self, now: Instant, launch: &Launch) {
        let _ = (now, launch);
    }

    /// A process ended.
    fn ended(&mut self, now: Instant, host: HostId) {
        let _ = (now, host);
    }

    /// A core took an input or a timeout.
    ///
    /// # Errors
    ///
    /// The rule that was broken; the run ends.
    fn stepped(&mut self, step: &Step<'_, P>) -> Result<(), Violation>;
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl<P: Program> Watch<P> for Unwatched {
    fn stepped(&mut self, _: &Step<'_, P>) -> Result<(), Violation> {
        Ok(())
    }
}

/// Counts by name, for reports at the end of a run.
pub type Counts = BTreeMap<&'static str, u64>;
