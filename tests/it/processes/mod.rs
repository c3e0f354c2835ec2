//! Stories of real processes: what users of a cluster see when machines, networks,
//! disks, certificates or strangers misbehave.

mod bad_input;
mod disk;
mod membership;
mod network;
mod registry;
mod sync;
mod trust;

use std::time::Duration;

use anyhow::Result;
use mesh_core::MemberState;
use mesh_sim::harness::Cluster;

/// Longest wait for what must come, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until these nodes see those in a state.
fn wait_until_seen(
    cluster: &Cluster,
    observers: &[&str],
    peers: &[&str],
    state: MemberState,
) -> Result<Duration> {
    let what = format!("{observers:?} see {peers:?} {state}");
    cluster.board().wait(PATIENCE, &what, |boards| boards.all_see(observers, peers, state))
}
