//! Membership clusters under faults, from seeds.

use std::time::Duration;

use mesh_sim::{Options, heal, run};

#[test]
fn clusters_heal_from_the_faults_of_thirty_seeds() {
    for seed in 0..30 {
        let options = Options::pick(seed);
        if let Err(violation) = run(&options) {
            panic!("{options}\n{violation}\nreplay: cargo xtask sim --seed {seed}");
        }
    }
}

#[test]
fn a_seed_repeats_exactly_and_two_seeds_differ() {
    let outcome =
        |seed| run(&Options::pick(seed)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    for seed in [5, 11] {
        assert_eq!(outcome(seed), outcome(seed));
    }
    assert_ne!(outcome(5).hash, outcome(11).hash);
}

/// Over the network alone a flood there and back takes some 0.3 s, and a bridge comes up within as much.
#[test]
fn halves_that_meet_have_full_views_within_a_second() {
    for (seed, seconds) in [(1, 8), (2, 25)] {
        let healing = heal(60, seed, Duration::from_secs(seconds))
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(healing.full_s < 1.0, "seed {seed}, apart for {seconds} s: {healing:?}");
    }
}
