//! Disks that run full.

use std::fs;

use anyhow::{Result, ensure};
use mesh_core::{Clock, MemberState, SystemClock};
use mesh_sim::harness::{Need, Plan, check, poll, skip};

use super::{PATIENCE, wait_until_seen};

#[test]
fn a_node_on_a_full_disk_serves_on_warns_and_recovers() -> Result<()> {
    let story = "full-disk";
    if let Err(missing) = check(&[Need::SmallDisk]) {
        skip(story, &missing);
        return Ok(());
    }
    let mut cluster = Plan::new(story, 3).with_small_disk("n-2", 256).start()?;
    let members = cluster.data("n-2").join("gossip/members");
    let saved =
        || fs::read(&members).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    poll(PATIENCE, "n-2 has saved whom it knows", || Ok(saved().contains("n-3").then_some(())))?;

    cluster.disk("n-2")?.fill()?;
    let full = SystemClock.now();
    let leaf = cluster.authority().issue("worker", "n-4")?;
    cluster.add("n-4", leaf, None)?;
    cluster.start("n-4")?;
    cluster.wait_until_whole()?;
    cluster.board().wait(PATIENCE, "n-2 warns of its disk", |boards| {
        boards.of("n-2").logged(&["members"], full).any(|line| line.level() == "WARN")
    })?;
    ensure!(cluster.page("n-2", "/readyz")?.status == 200, "it is ready with a full disk");
    ensure!(saved().contains("n-3"), "what was saved before is whole");
    let all = ["n-1", "n-2", "n-3", "n-4"];
    wait_until_seen(&cluster, &all, &all, MemberState::Alive)?;

    cluster.disk("n-2")?.free()?;
    poll(PATIENCE, "n-2 has saved the new one", || Ok(saved().contains("n-4").then_some(())))?;
    let died =
        all.iter().map(|name| cluster.board().look().of(name).changes("died", full).count()).sum::<usize>();
    ensure!(died == 0, "{died} times somebody was held for dead");
    cluster.finish()
}
