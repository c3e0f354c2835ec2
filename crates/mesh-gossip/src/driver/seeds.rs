//! Seeds that are names: resolved at start and again for as long as the node looks for others.
//!
//! `host:port` is looked up as addresses. `_service._proto.domain` is looked up
//! as SRV records (RFC 2782) where the feature `srv` is on.

use std::{net::SocketAddr, time::Duration};

use super::GossipHandle;
use crate::GossipConfig;

/// Between two look-ups while the node is ready; sooner while it is not.
const READY_INTERVAL: Duration = Duration::from_secs(60);
const SEARCHING_INTERVAL: Duration = Duration::from_secs(2);

pub(super) fn names(config: &GossipConfig) -> Vec<String> {
    config.seeds.iter().filter(|s| s.parse::<SocketAddr>().is_err()).cloned().collect()
}

pub(super) async fn resolve(names: Vec<String>, handle: GossipHandle) {
    let mut warned = false;
    loop {
        let mut found = Vec::new();
        for name in &names {
            match lookup_seed(name).await {
                Ok(addresses) => found.extend(addresses),
                Err(source) if !warned => {
                    let error = crate::GossipError::Seed { seed: name.clone(), source };
                    tracing::warn!(cause = ?std::error::Error::source(&error), "{error}; trying again");
                    warned = true;
                }
                Err(_) => {}
            }
        }
        if !found.is_empty() {
            warned = false;
            if handle.add_seeds(found).await.is_err() {
                return;
            }
        }
        let ready = handle.status().ready;
        let wait = if ready { READY_INTERVAL } else { SEARCHING_INTERVAL };
        let mut stop = handle.shared.stop.subscribe();
        if tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
    }
}

/// The addresses of a seed, as the driver finds them: `host:port`, or the name of an SRV record
/// where the feature `srv` is on.
///
/// # Errors
///
/// What the resolver says. [`Unsupported`](std::io::ErrorKind::Unsupported) for the name of an SRV
/// record in a build without that feature.
///
/// # Cancel safety
///
/// Dropping the future changes nothing.
pub async fn lookup_seed(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    if name.starts_with('_') {
        return lookup_srv(name).await;
    }
    Ok(tokio::net::lookup_host(name).await?.collect())
}

#[cfg(not(feature = "srv"))]
async fn lookup_srv(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    let text = format!("{name} is an SRV name; this build has no support for it (feature srv)");
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, text))
}

#[cfg(feature = "srv")]
async fn lookup_srv(name: &str) -> std::io::Result<Vec<SocketAddr>> {
    crate::srv::lookup(name).await
}
