//! Membership clusters under faults, from seeds.

use mesh_sim::{Options, run};

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
