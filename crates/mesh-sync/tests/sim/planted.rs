//! The simulator is worth what it finds: a replica that breaks one rule on purpose must be caught.

use mesh_sync::{PlantedBug, hash_without_payload};

use crate::{
    options::Options,
    world::{Report, Violation, run, run_planted},
};

fn check(bug: &str, run_with: impl Fn(&Options) -> Result<Report, Violation>) {
    let caught = (0..SEEDS).find_map(|seed| {
        let options = Options::pick(seed);
        let violation = run_with(&options).err()?;
        Some((seed, violation.rule, options))
    });
    let (seed, rule, options) = caught.unwrap_or_else(|| panic!("{bug} went unnoticed for {SEEDS} seeds"));
    println!("{bug}: seed {seed} breaks the rule that {rule}");
    if let Err(violation) = run(&options) {
        panic!("{bug}: seed {seed} fails without it too: {violation}");
    }
}

/// Seeds that are tried for each bug.
const SEEDS: u64 = 40;

#[test]
fn every_planted_bug_is_caught() {
    // These two take a rare moment; stories of a few replicas show them.
    let rare = [PlantedBug::NeverResend, PlantedBug::ForgetPruneAtRestart];
    for bug in PlantedBug::ALL.into_iter().filter(|bug| !rare.contains(bug)) {
        check(&format!("{bug:?}"), |options| run_planted(options, &|replica| replica.plant(bug)));
    }
}

#[test]
fn a_clock_that_forgets_what_was_stamped_is_caught() {
    check("ForgetStamps", |options| run(&Options { forget_stamps: true, ..options.clone() }));
}

#[test]
fn an_id_that_leaves_out_the_payload_is_caught() {
    check("HashWithoutPayload", |options| {
        hash_without_payload(true);
        let result = run(options);
        hash_without_payload(false);
        result
    });
}
