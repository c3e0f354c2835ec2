//! Who does what in a cluster, and when it is whole.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::elections::SCOPE;
use crate::harness::{Cluster, poll};

/// The voters of every trial.
pub(super) const VOTERS: [&str; 3] = ["n-1", "n-2", "n-3"];
/// Those that campaign.
pub(super) const CANDIDATES: [&str; 2] = ["h-1", "h-2"];
/// Longest wait for a cluster to be whole, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who does what.
#[derive(Clone, Debug)]
pub(super) struct Roles {
    /// Leads the store.
    pub(super) leader: String,
    /// Holds the lease.
    pub(super) holder: String,
}

/// A cluster that does not become whole after its faults are over: what is missing, and what its nodes say.
#[derive(Debug, thiserror::Error)]
#[error("what is missing: {0}")]
pub struct NotWhole(String);

/// Waits until three vote, all of them hold what is committed, and all candidates campaign.
pub(super) fn settled(cluster: &Cluster) -> Result<Roles> {
    let mut goal = 0;
    let mut last = String::new();
    let whole = poll(PATIENCE, "the cluster is whole", || {
        let roles = look(cluster, &mut goal);
        Ok(match roles {
            Ok(roles) => Some(roles),
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        })
    });
    whole.with_context(|| NotWhole(format!("{last}; the board shows\n{}", *cluster.board().look())))
}

/// One look. `goal` is the newest revision at the first look that found all voters in agreement.
fn look(cluster: &Cluster, goal: &mut u64) -> Result<Roles> {
    let mut leader = None;
    let mut revisions = Vec::new();
    for voter in VOTERS {
        let state = &page(cluster, voter, "/control/v1/registry")?["registry"];
        let agreed = state["leader"].as_str().with_context(|| format!("{voter} knows no leader"))?;
        anyhow::ensure!(state["read_only"].is_null(), "{voter} takes no writes: {}", state["read_only"]);
        let voters = state["voters"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(voters == VOTERS.len(), "{voter} knows {voters} voters");
        let before = leader.get_or_insert_with(|| agreed.to_owned());
        anyhow::ensure!(before == agreed, "{voter} holds {agreed} for the leader, not {before}");
        revisions.push(state["revision"].as_u64().context("a revision is a number")?);
    }
    if *goal == 0 {
        *goal = revisions.iter().copied().max().unwrap_or_default();
    }
    anyhow::ensure!(revisions.iter().all(|at| at >= goal), "not all are at revision {goal}: {revisions:?}");
    let leader = leader.context("nobody leads")?;
    Ok(Roles { leader, holder: holder(cluster)? })
}

/// The holder, as both candidates see it.
fn holder(cluster: &Cluster) -> Result<String> {
    let mut holders = Vec::new();
    for candidate in CANDIDATES {
        let view = &page(cluster, candidate, &format!("/control/v1/leaders/{SCOPE}"))?["leader"];
        let holder = view["leader"].as_str().with_context(|| format!("{candidate} sees no holder"))?;
        let campaigns: Vec<&str> =
            view["candidates"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let all = CANDIDATES.iter().all(|candidate| campaigns.contains(candidate));
        anyhow::ensure!(all, "{candidate} sees {campaigns:?} campaign");
        holders.push(holder.to_owned());
    }
    holders.dedup();
    anyhow::ensure!(holders.len() == 1, "{holders:?} both hold the lease, as others see it");
    holders.pop().context("nobody holds the lease")
}

fn page(cluster: &Cluster, node: &str, path: &str) -> Result<Value> {
    let page = cluster.page(node, path)?;
    anyhow::ensure!(page.status == 200, "{path} of {node} answers {}: {}", page.status, page.body);
    Ok(serde_json::from_str(&page.body)?)
}

/// Why a voter takes no writes, if it says so.
pub(super) fn read_only(cluster: &Cluster, voter: &str) -> Result<Option<String>> {
    let state = page(cluster, voter, "/control/v1/registry")?;
    Ok(state["registry"]["read_only"].as_str().map(str::to_owned))
}
