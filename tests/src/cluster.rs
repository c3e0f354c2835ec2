//! Machines with names, addresses and clocks, for runs that need nothing special.

use std::{net::SocketAddr, sync::Arc};

use mesh_core::{CertificateInfo, PeerIdentity, SpiffeId};

use crate::{HostClock, HostId, Machinery};

/// The address of a machine of a run.
pub fn address(host: HostId) -> SocketAddr {
    let [_, a, b, c] = host.0.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 7400))
}

/// When the certificates of all nodes became valid.
pub const NOT_BEFORE_S: u64 = 1_700_000_000;

/// The identity of the node on a machine of a run.
pub fn identity(host: HostId) -> Arc<PeerIdentity> {
    let role = if host.0 < 3 { "control" } else { "worker" };
    let uri = format!("spiffe://sim.example/mesh/sim/{role}/n{:04}", host.0);
    let id: SpiffeId = uri.parse().expect("every part is made of valid characters");
    let certificate = CertificateInfo {
        serial: format!("{:04x}", host.0),
        not_before_s: NOT_BEFORE_S,
        not_after_s: 2_000_000_000,
    };
    Arc::new(PeerIdentity { id, certificate })
}

/// The machine of a second process with the id of the node on `host`, at an address of its own.
pub fn twin(machine: HostId, host: HostId, not_before_s: u64, rng: &mut fastrand::Rng) -> Machinery {
    let mut identity = PeerIdentity::clone(&identity(host));
    identity.certificate.not_before_s = not_before_s;
    let clock = HostClock::new(rng.u64(..1 << 50), 0);
    Machinery { identity: Arc::new(identity), address: address(machine), clock }
}

/// So many machines, each with a clock that starts anywhere within a year and drifts
/// by at most `drift_ppm_max` either way.
pub fn machinery(hosts: usize, drift_ppm_max: i32, rng: &mut fastrand::Rng) -> Vec<Machinery> {
    const YEAR_NANOS: u64 = 365 * 24 * 3600 * 1_000_000_000;
    let one = |index: usize| {
        let host = HostId(u32::try_from(index).unwrap_or(u32::MAX));
        let drift = if drift_ppm_max > 0 { rng.i32(-drift_ppm_max..=drift_ppm_max) } else { 0 };
        let clock = HostClock::new(rng.u64(..YEAR_NANOS), drift);
        Machinery { identity: identity(host), address: address(host), clock }
    };
    (0..hosts).map(one).collect()
}
