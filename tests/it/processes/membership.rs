//! Nodes come, go, die, sleep and move.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use mesh_core::{Clock, MemberState, SystemClock};
use mesh_sim::harness::{Cluster, Plan, poll};

use super::{PATIENCE, wait_until_seen};

/// Longest time from a `kill -9` to the last of the others knowing.
const DEATH_NOTICED: Duration = Duration::from_secs(5);
/// How long a process is stopped: far longer than any suspicion lasts.
const PAUSE: Duration = Duration::from_secs(20);

#[test]
fn a_killed_node_is_dead_for_the_others_and_comes_back_as_a_new_instance() -> Result<()> {
    let mut cluster = Plan::new("killed", 3).start()?;
    let first = cluster.board().look().peer("n-1", "n-3").map(|peer| peer.instance.clone());

    cluster.kill("n-3")?;
    let noticed = cluster.board().wait(DEATH_NOTICED, "n-1 and n-2 see n-3 dead", |boards| {
        boards.all_see(&["n-1", "n-2"], &["n-3"], MemberState::Dead)
    })?;
    println!("killed: both others knew after {noticed:?}");

    cluster.start("n-3")?;
    println!("killed: whole again {:?} after it listened", cluster.wait_until_whole()?);
    let boards = cluster.board().look();
    for observer in ["n-1", "n-2", "n-3"] {
        let now = boards.peer(observer, "n-3").map(|peer| peer.instance.clone());
        ensure!(
            now.is_some() && now != first,
            "{observer} sees n-3 as the instance {now:?}, it was {first:?}"
        );
    }
    drop(boards);
    cluster.finish()
}

#[test]
fn a_node_that_says_goodbye_has_left_and_is_not_dead() -> Result<()> {
    let mut cluster = Plan::new("goodbye", 3).start()?;
    let said = SystemClock.now();
    let status = cluster.terminate("n-3")?;
    ensure!(status.success(), "it ended with {status}");
    wait_until_seen(&cluster, &["n-1", "n-2"], &["n-3"], MemberState::Left)?;
    let boards = cluster.board().look();
    for observer in ["n-1", "n-2"] {
        let observer = boards.of(observer);
        for change in ["suspected", "died"] {
            ensure!(observer.changes(change, said).count() == 0, "somebody {change}:\n{}", *boards);
        }
    }
    drop(boards);
    cluster.finish()
}

#[test]
fn a_paused_process_is_dead_meanwhile_and_holds_nobody_else_for_dead_when_it_wakes() -> Result<()> {
    let mut cluster = Plan::new("paused", 4).start()?;
    let others = ["n-1", "n-2", "n-3"];
    let paused = SystemClock.now();
    cluster.pause("n-4")?;
    wait_until_seen(&cluster, &others, &["n-4"], MemberState::Dead)?;
    let rest = PAUSE.saturating_sub(SystemClock.now().since(paused));
    cluster.board().never(rest, "another member dies, or the stopped one lives", |boards| {
        others.iter().any(|observer| boards.of(observer).names(MemberState::Dead) != ["n-4"])
    })?;

    cluster.resume("n-4")?;
    let back = cluster.wait_until_whole()?;
    println!("paused: whole again {back:?} after it went on");
    let boards = cluster.board().look();
    ensure!(back < PATIENCE / 2, "it took {back:?} until all were whole again");
    let rash: Vec<&str> =
        boards.of("n-4").changes("died", paused).map(|event| event.peer.node_id.as_str()).collect();
    ensure!(rash.is_empty(), "the node that woke held {rash:?} for dead:\n{}", *boards);
    let restarted = boards.peer("n-1", "n-4").map(|peer| &peer.instance)
        != boards.peer("n-4", "n-4").map(|peer| &peer.instance);
    ensure!(!restarted, "n-4 was not restarted, but is seen as another instance:\n{}", *boards);
    drop(boards);
    cluster.finish()
}

#[test]
fn a_node_that_moves_to_another_port_is_found_there() -> Result<()> {
    let mut cluster = Plan::new("moved", 3).start()?;
    let before = cluster.addresses("n-2")?.mesh;
    cluster.terminate("n-2")?;
    cluster.start("n-2")?;
    let after = cluster.addresses("n-2")?.mesh;
    ensure!(before != after, "the system gave the same port again: {after}");
    cluster.wait_until_whole()?;
    cluster.board().wait(PATIENCE, "all know where n-2 is now", |boards| {
        let knows = |observer| boards.peer(observer, "n-2").is_some_and(|peer| peer.addresses == [after]);
        ["n-1", "n-2", "n-3"].into_iter().all(knows)
    })?;
    cluster.finish()
}

#[test]
fn a_node_that_restarts_faster_than_anybody_suspects_it_replaces_its_old_self() -> Result<()> {
    let mut cluster = Plan::new("restarted", 3).start()?;
    let instance = |cluster: &Cluster, observer: &str| {
        cluster.board().look().peer(observer, "n-3").map(|peer| peer.instance.clone())
    };
    let before = instance(&cluster, "n-1");
    cluster.kill("n-3")?;
    cluster.start("n-3")?;
    cluster.board().wait(PATIENCE, "all see the new run of n-3 alive", |boards| {
        let own = boards.peer("n-3", "n-3").map(|peer| &peer.instance);
        let new = |observer| {
            let seen = boards.peer(observer, "n-3").filter(|peer| peer.state == MemberState::Alive);
            let seen = seen.map(|peer| &peer.instance);
            seen.is_some() && seen == own && seen != before.as_ref()
        };
        ["n-1", "n-2", "n-3"].into_iter().all(new)
    })?;
    cluster.wait_until_whole()?;
    // What the others still held against the old run must not hit the new one.
    let whole = SystemClock.now();
    cluster.board().never(Duration::from_secs(8), "the new run is held for dead", |boards| {
        ["n-1", "n-2", "n-3"].iter().any(|name| boards.of(name).changes("died", whole).next().is_some())
    })?;
    cluster.finish()
}

#[test]
fn a_node_without_seeds_finds_back_through_those_it_saved() -> Result<()> {
    let mut cluster = Plan::new("unseeded", 3).start()?;
    let members = cluster.data("n-3").join("gossip/members");
    poll(PATIENCE, "n-3 has saved whom it knows", || {
        let saved = fs::read(&members).unwrap_or_default();
        Ok(String::from_utf8_lossy(&saved).contains("n-2").then_some(()))
    })?;
    cluster.kill("n-3")?;
    cluster.forget_seeds("n-3")?;
    cluster.start("n-3")?;
    cluster.wait_until_whole()?;
    cluster.finish()
}

#[test]
fn of_two_processes_with_one_id_the_older_certificate_steps_aside() -> Result<()> {
    let mut cluster = Plan::new("twins", 3).start()?;
    let first = cluster.board().look().peer("n-3", "n-3").map(|peer| peer.instance.clone());
    let newer = cluster.authority().issue_later("worker", "n-3", Duration::from_secs(30))?;
    cluster.add("twin", newer, None)?;
    cluster.start("twin")?;
    let page = cluster
        .wait_for_page("n-3", "/readyz", "n-3 stepped aside", |page| page.body.contains("gossip.conflict"))?;
    ensure!(page.status == 503, "a node that stepped aside answers {} to /readyz", page.status);
    cluster.board().wait(PATIENCE, "the others see the twin, alive", |boards| {
        let twin = boards.peer("twin", "n-3").map(|peer| peer.instance.clone());
        let sees = |observer: &str| {
            let peer = boards.peer(observer, "n-3").filter(|peer| peer.state == MemberState::Alive);
            peer.map(|peer| peer.instance.clone())
        };
        twin.is_some() && twin != first && ["n-1", "n-2"].into_iter().all(|observer| sees(observer) == twin)
    })?;
    ensure!(cluster.page("twin", "/readyz")?.status == 200, "the one that stays is ready");
    cluster.finish()
}
