//! The simulator is worth what it finds: a replica that breaks one rule on purpose must be caught.

use mesh_sync::PlantedBug;

use crate::{
    options::Options,
    world::{run, run_planted},
};

/// Seeds that are tried for each bug.
const SEEDS: u64 = 40;

#[test]
fn every_planted_bug_is_caught() {
    for bug in PlantedBug::ALL {
        let caught = (0..SEEDS).find_map(|seed| {
            let options = Options::pick(seed);
            let violation = run_planted(&options, &|replica| replica.plant(bug)).err()?;
            Some((seed, violation.rule, options))
        });
        let (seed, rule, options) =
            caught.unwrap_or_else(|| panic!("{bug:?} went unnoticed for {SEEDS} seeds"));
        println!("{bug:?}: seed {seed} breaks the rule that {rule}");
        if let Err(violation) = run(&options) {
            panic!("{bug:?}: seed {seed} fails without it too: {violation}");
        }
    }
}
