//! The simulator is worth what it finds: a core that breaks one rule on purpose must be caught.

use mesh_gossip::{Gossip, PlantedBug};
use mesh_sim::{Looking, Options, run, run_looking};

/// The first of so many seeds on which the bug is caught, and the rule that it breaks there.
fn caught(bug: PlantedBug, seeds: u64) -> Option<(u64, &'static str)> {
    (0..seeds).find_map(|seed| {
        let plant = move |gossip: &mut Gossip| gossip.plant(bug);
        let looking = Looking { at_start: Some(Box::new(plant)), ..Looking::default() };
        run_looking(&Options::pick(seed), looking).err().map(|violation| (seed, violation.rule))
    })
}

fn check(bugs: impl IntoIterator<Item = PlantedBug>, seeds: u64) {
    for bug in bugs {
        let (seed, rule) =
            caught(bug, seeds).unwrap_or_else(|| panic!("{bug:?} went unnoticed for {seeds} seeds"));
        println!("{bug:?}: seed {seed} breaks the rule that {rule}");
        if let Err(violation) = run(&Options::pick(seed)) {
            panic!("{bug:?}: seed {seed} fails without it too: {violation}");
        }
    }
}

#[test]
fn common_planted_bugs_are_caught_within_sixty_seeds() {
    // The other one needs two runs of a node to meet in a rare way.
    check(PlantedBug::ALL.into_iter().filter(|bug| *bug != PlantedBug::BlamePresentRun), 60);
}

/// It takes two runs of a node that meet in a rare way, such as this one.
const TWO_RUNS_MEET: &str = include_str!("../regressions/goodbye-of-an-earlier-run.toml");

#[test]
fn an_end_of_an_earlier_run_blamed_on_the_present_one_is_caught() {
    let options = Options::from_toml(TWO_RUNS_MEET).expect("valid");
    let plant = |gossip: &mut Gossip| gossip.plant(PlantedBug::BlamePresentRun);
    let looking = Looking { at_start: Some(Box::new(plant)), ..Looking::default() };
    let violation = run_looking(&options, looking).expect_err("the bug goes unnoticed");
    println!("breaks the rule that {}", violation.rule);
}
