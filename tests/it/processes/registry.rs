//! The registry and leadership under faults, and judges that do not look away.

use std::{env, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh::registry::PlantedBug;
use mesh_core::{Clock, SystemClock};
use mesh_sim::{
    harness::{Plan, Program, check, skip},
    trial::{Fault, NotWhole, Trial, serve},
};
use serde_json::Value;

/// Names the configuration of a voter that this program is to be.
const CONFIG: &str = "TRIAL_CONFIG";
/// The rule that this voter breaks on purpose.
const BUG: &str = "TRIAL_BUG";
/// Rounds until a planted bug has to show.
const ROUNDS_UNTIL_CAUGHT: usize = 10;

/// The bugs that are planted in voters here, by a name for the environment.
const BUGS: [(&str, PlantedBug); 2] =
    [("ack-before-sync", PlantedBug::AckBeforeSync), ("skip-fence", PlantedBug::SkipFence)];

/// A voter, when a trial starts this program as one; nothing to test otherwise.
#[test]
fn voter() -> Result<()> {
    let Some(config) = env::var_os(CONFIG) else { return Ok(()) };
    let bug = env::var(BUG).ok();
    let bug = BUGS.iter().find(|(name, _)| bug.as_deref() == Some(name)).map(|(_, bug)| *bug);
    serve(Path::new(&config), |node| bug.into_iter().for_each(|bug| node.plant(bug)))
}

/// This program as a voter.
fn own() -> Result<Program> {
    let program = env::current_exe().context("cannot find this program")?;
    Ok(Program::with_variable(&program, &["--exact", "processes::registry::voter", "--nocapture"], CONFIG))
}

/// Some rounds of a fault, none of which may break a rule.
fn survives(fault: Fault, rounds: usize) -> Result<()> {
    if let Err(missing) = check(fault.needs()) {
        skip(&format!("trial-{fault}"), &missing);
        return Ok(());
    }
    let mut trial = Trial::stage(fault, 1, &own()?)?;
    for _ in 0..rounds {
        trial.round()?;
    }
    let tried = trial.finish()?;
    println!("{fault}: {}, stopped in {:?}", tried.figures.to_json(), tried.stop);
    ensure!(tried.violations.is_empty(), "{:?}, see {:?}", tried.violations, tried.artifacts);
    Ok(())
}

/// Rounds of a fault with voters that break a rule; a judge has to notice. Voters that lost what they had acknowledged
/// may never hold the same again: that shows as well, and nothing else that goes wrong counts.
fn catches(bug: PlantedBug, fault: Fault) -> Result<()> {
    let (name, _) = BUGS.iter().find(|(_, known)| *known == bug).context("a bug without a name")?;
    let mut trial = Trial::stage_with(fault, 1, Some(&own()?.env(BUG, name)))?;
    for _ in 0..ROUNDS_UNTIL_CAUGHT {
        if let Err(error) = trial.round() {
            let apart = bug == PlantedBug::AckBeforeSync && error.downcast_ref::<NotWhole>().is_some();
            ensure!(apart, "{name}: {error:#}");
            println!("{name}: {error:#}");
            return trial.abandon();
        }
        if trial.is_violated() {
            break;
        }
    }
    let tried = trial.finish()?;
    println!("{name}: {:?} after {} rounds", tried.violations.first(), tried.figures.rounds);
    ensure!(!tried.violations.is_empty(), "{name} went unseen in {} rounds", tried.figures.rounds);
    // This is what was to be seen; nobody has to look into it.
    tried.artifacts.map_or(Ok(()), |folder| Ok(std::fs::remove_dir_all(folder)?))
}

#[test]
fn the_death_of_the_stores_leader_loses_nothing() -> Result<()> {
    survives(Fault::KillLeader, 3)
}

#[test]
fn leader_and_holder_that_die_together_have_successors() -> Result<()> {
    survives(Fault::KillLeaderAndHolder, 2)
}

#[test]
fn voters_that_all_die_come_back_with_all_that_they_acknowledged() -> Result<()> {
    survives(Fault::KillVoters, 2)
}

#[test]
fn a_leader_that_was_paused_says_nothing_old() -> Result<()> {
    survives(Fault::PauseLeader, 2)
}

#[test]
fn a_holder_that_was_paused_learns_that_it_lost_its_lease() -> Result<()> {
    survives(Fault::PauseHolder, 2)
}

#[test]
fn a_voter_cut_off_from_the_others_answers_nothing_old() -> Result<()> {
    survives(Fault::PartitionMinority, 1)
}

#[test]
fn a_leader_cut_off_from_the_others_answers_nothing_old() -> Result<()> {
    survives(Fault::PartitionMajority, 1)
}

#[test]
fn a_leader_that_hears_nobody_does_not_keep_the_others_from_going_on() -> Result<()> {
    survives(Fault::PartitionOneWay, 1)
}

#[test]
fn a_voter_on_a_full_disk_takes_writes_again_when_there_is_space() -> Result<()> {
    survives(Fault::FullDisk, 1)
}

#[test]
fn a_wall_clock_that_jumps_ends_no_lease_and_loses_no_write() -> Result<()> {
    survives(Fault::ClockJump, 1)
}

#[test]
fn voters_that_answer_before_the_disk_does_are_caught() -> Result<()> {
    catches(PlantedBug::AckBeforeSync, Fault::KillVoters)
}

#[test]
fn voters_that_compare_no_token_are_caught() -> Result<()> {
    catches(PlantedBug::SkipFence, Fault::KillHolder)
}

#[test]
fn voters_that_stop_one_after_the_other_all_stop_in_bounded_time() -> Result<()> {
    // `node.leave_timeout` twice, for leases and for the goodbye, two drain timeouts at work at once, and what
    // a machine under load adds.
    const BOUND: Duration = Duration::from_secs(30);
    let mut cluster = Plan::new("stop", 3).voting().start()?;
    cluster.wait_for_page("n-1", "/control/v1/registry", "three vote", |page| {
        let reply: Value = serde_json::from_str(&page.body).unwrap_or_default();
        reply["registry"]["voters"].as_array().is_some_and(|voters| voters.len() == 3)
    })?;
    for name in cluster.names() {
        let asked = SystemClock.now();
        let status = cluster.terminate(&name)?;
        let took = SystemClock.now().since(asked);
        println!("{name} stopped after {took:?}");
        ensure!(status.success(), "{name} ended with {status}");
        ensure!(took < BOUND, "{name} took {took:?} to stop");
    }
    cluster.finish()
}
