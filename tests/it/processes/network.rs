//! Networks that break, wholly, in one direction, or for UDP alone.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use mesh_core::{Clock, Health, MemberState, SystemClock};
use mesh_sim::harness::{Cluster, Need, Plan, Port, check, poll, skip};

use super::{PATIENCE, wait_until_seen};

/// How long a fault lasts that nobody may die of: longer than any suspicion.
const HARMLESS: Duration = Duration::from_secs(15);

/// A cluster in namespaces; says so and yields nothing where that is not possible.
fn lab(story: &str, nodes: u8) -> Result<Option<Cluster>> {
    match check(&[Need::Namespaces, Need::Nftables]) {
        Ok(()) => Plan::new(story, nodes).in_lab().start().map(Some),
        Err(missing) => {
            skip(story, &missing);
            Ok(None)
        }
    }
}

#[test]
fn a_node_cut_off_from_all_is_dead_for_them_and_isolated_itself() -> Result<()> {
    let Some(cluster) = lab("cut-off", 5)? else { return Ok(()) };
    let others = ["n-1", "n-2", "n-3", "n-4"];
    cluster.namespace("n-5")?.cut(Port::All)?;
    let noticed = wait_until_seen(&cluster, &others, &["n-5"], MemberState::Dead)?;
    println!("cut off: all others knew after {noticed:?}");
    let page = cluster
        .wait_for_page("n-5", "/readyz", "n-5 is isolated", |page| page.body.contains("gossip.isolated"))?;
    ensure!(page.status == 503, "an isolated node answers {} to /readyz", page.status);
    ensure!(cluster.page("n-1", "/readyz")?.status == 200, "the majority is ready all the time");

    cluster.namespace("n-5")?.heal()?;
    println!("cut off: whole again {:?} after healing", cluster.wait_until_whole()?);
    cluster.wait_for_page("n-5", "/readyz", "n-5 is ready", |page| page.status == 200)?;
    cluster.finish()
}

#[test]
fn a_cable_that_is_deaf_in_one_direction_kills_nobody() -> Result<()> {
    let Some(cluster) = lab("deaf-cable", 5)? else { return Ok(()) };
    let cut = SystemClock.now();
    // What n-1 sends to n-2 is lost; all other paths are fine.
    cluster.namespace("n-2")?.stop_hearing(&[cluster.namespace("n-1")?])?;
    cluster.board().never(HARMLESS, "a reachable member is dead", |boards| {
        cluster.running().any(|observer| boards.of(observer).changes("died", cut).next().is_some())
    })?;
    let suspicions = |name: &str| cluster.board().look().of(name).changes("suspected", cut).count();
    println!("deaf cable: suspicions told {:?}", cluster.running().map(suspicions).collect::<Vec<_>>());
    cluster.namespace("n-2")?.heal()?;
    cluster.wait_until_whole()?;
    cluster.finish()
}

#[test]
fn a_node_that_hears_nobody_does_not_take_the_others_down() -> Result<()> {
    let Some(cluster) = lab("deaf-node", 5)? else { return Ok(()) };
    let others = ["n-1", "n-2", "n-3", "n-4"];
    let cut = SystemClock.now();
    let names: Vec<_> = others.iter().map(|name| cluster.namespace(name)).collect::<Result<_>>()?;
    // It can still send: its suspicions of everybody else reach them.
    cluster.namespace("n-5")?.stop_hearing(&names)?;
    wait_until_seen(&cluster, &others, &["n-5"], MemberState::Dead)?;
    cluster.board().never(Duration::from_secs(5), "one of the others dies too", |boards| {
        others.iter().any(|observer| {
            boards.of(observer).changes("died", cut).any(|event| event.peer.node_id.as_str() != "n-5")
        })
    })?;
    cluster.namespace("n-5")?.heal()?;
    cluster.wait_until_whole()?;
    cluster.finish()
}

#[test]
fn a_node_without_udp_lives_on_over_http2_and_shows_as_degraded() -> Result<()> {
    let Some(cluster) = lab("no-udp", 4)? else { return Ok(()) };
    let others = ["n-1", "n-2", "n-3"];
    let blocked = SystemClock.now();
    cluster.namespace("n-4")?.cut(Port::Udp)?;
    let degraded = cluster.board().wait(PATIENCE, "the others see n-4 degraded", |boards| {
        others.iter().all(|o| boards.peer(o, "n-4").is_some_and(|peer| peer.health == Health::Degraded))
    })?;
    println!("no UDP: all others knew after {degraded:?}");
    cluster.board().never(HARMLESS, "somebody is dead", |boards| {
        cluster.running().any(|observer| boards.of(observer).changes("died", blocked).next().is_some())
    })?;
    cluster.namespace("n-4")?.heal()?;
    let healthy = cluster.board().wait(PATIENCE, "all see all healthy again", |boards| {
        let healthy = |name: &str| boards.of(name).peers.values().all(|peer| peer.health == Health::Healthy);
        cluster.running().all(healthy)
    })?;
    println!("no UDP: healthy again {healthy:?} after unblocking");
    cluster.wait_until_whole()?;
    cluster.finish()
}

#[test]
fn two_halves_that_meet_again_become_one_without_a_restart() -> Result<()> {
    let Some(cluster) = lab("halves", 5)? else { return Ok(()) };
    let (left, right) = (["n-1", "n-2", "n-3"], ["n-4", "n-5"]);
    let instances = |cluster: &Cluster| -> Vec<String> {
        let boards = cluster.board().look();
        let own = |name: &str| boards.peer(name, name).map(|peer| peer.instance.clone());
        cluster.running().filter_map(own).collect()
    };
    let before = instances(&cluster);
    for name in right {
        let far: Vec<_> = left.iter().map(|name| cluster.namespace(name)).collect::<Result<_>>()?;
        cluster.namespace(name)?.cut_from(&far)?;
    }
    wait_until_seen(&cluster, &left, &right, MemberState::Dead)?;
    wait_until_seen(&cluster, &right, &left, MemberState::Dead)?;
    wait_until_seen(&cluster, &left, &left, MemberState::Alive)?;
    wait_until_seen(&cluster, &right, &right, MemberState::Alive)?;

    for name in right {
        cluster.namespace(name)?.heal()?;
    }
    println!("halves: whole again {:?} after healing", cluster.wait_until_whole()?);
    ensure!(instances(&cluster) == before, "somebody was restarted");
    cluster.finish()
}

#[test]
fn a_cluster_that_lost_power_comes_back_without_seeds() -> Result<()> {
    let Some(mut cluster) = lab("power", 5)? else { return Ok(()) };
    for name in cluster.names() {
        let members = cluster.data(&name).join("gossip/members");
        poll(PATIENCE, &format!("{name} has saved whom it knows"), || {
            let saved = fs::read(&members).unwrap_or_default();
            let saved = String::from_utf8_lossy(&saved).into_owned();
            let others = cluster.others(&[name.as_str()]);
            Ok(others.iter().all(|other| saved.contains(other.as_str())).then_some(()))
        })?;
    }
    for name in cluster.names() {
        cluster.kill(&name)?;
    }
    for name in cluster.names() {
        cluster.forget_seeds(&name)?;
        cluster.start(&name)?;
    }
    println!("power: whole again {:?} after the last one listened", cluster.wait_until_whole()?);
    cluster.finish()
}
