//! A thousand seeds, and that a seed is a schedule.

#![allow(missing_docs, reason = "tests")]

use std::sync::atomic::{AtomicU64, Ordering};

use tensord_simulator::seed::{Options, run};

const SEEDS: u64 = 1_000;

#[test]
fn a_thousand_seeds_break_no_rule() {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let requests = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    match run(seed, &Options::default()) {
                        Ok(outcome) => {
                            let done = outcome.clients.iter().map(|client| client.requests).sum();
                            requests.fetch_add(done, Ordering::Relaxed);
                        }
                        Err(failure) => panic!("seed {seed}: {failure}"),
                    }
                }
            });
        }
    });
    let requests = requests.into_inner();
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
