//! A thousand seeds, and that a seed is a schedule.

#![allow(missing_docs, reason = "tests")]

use tensord_simulator::seed::{Options, run, run_many};

const SEEDS: u64 = 1_000;

#[test]
fn a_thousand_seeds_break_no_rule() {
    let sum = run_many(0..SEEDS, &Options::default(), &|_| ());
    let sum = sum.unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(sum.seeds, SEEDS);
    let requests = sum.requests;
    assert!(
        requests > 100 * SEEDS,
        "{requests} requests: the seeds ask for nothing"
    );
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for seed in 0..40 {
        let [first, second] =
            [(); 2].map(|()| run(seed, &Options::default()).map(|outcome| outcome.digest));
        match (first, second) {
            (Ok(first), Ok(second)) => assert_eq!(first, second, "seed {seed}"),
            (Err(failure), _) | (_, Err(failure)) => panic!("seed {seed}: {failure}"),
        }
    }
}
