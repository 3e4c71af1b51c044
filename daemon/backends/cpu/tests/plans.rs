//! The backend against a naive interpreter of plans, bit for bit.
//!
//! Random plans, alone and several instances at once, on each instruction set, on the caller's thread and on pools.

mod plans_support;

use plans_support::random::Builder;
use plans_support::{Case, backends};

fn check(seeds: std::ops::Range<u64>, steps: impl Fn(&mut Builder)) {
    let mut backends = backends();
    let mut run = 0;
    for seed in seeds.clone() {
        let Some(case) = Case::random(seed, &steps) else {
            continue;
        };
        run += 1;
        let values: Vec<_> = (0..1 + seed % 7)
            .map(|k| case.values(seed * 31 + k))
            .collect();
        let expected: Vec<_> = values.iter().map(|values| case.expected(values)).collect();
        let all: Vec<_> = values.iter().collect();
        for (name, backend) in &mut backends {
            let together = case.run(backend, &all);
            for (k, (have, want)) in together.iter().zip(&expected).enumerate() {
                case.assert_same(&format!("seed {seed}, {name}, instance {k}"), have, want);
            }
            let alone = case.run(backend, &all[..1]);
            case.assert_same(
                &format!("seed {seed}, {name}, alone"),
                &alone[0],
                &expected[0],
            );
        }
    }
    assert!(
        run * 2 > seeds.end - seeds.start,
        "only {run} plans fitted their parameters"
    );
}

#[test]
fn maps() {
    check(0..400, |builder| {
        let rank = builder.rng.below(6) as usize;
        let target = builder.rng.pick(&[20, 300, 4000]);
        let sizes = builder.sizes_of(rank, target);
        builder.map(&sizes, &[]);
    });
}

#[test]
fn reductions() {
    check(10_000..10_300, |builder| {
        let rank = builder.rng.below(5) as usize;
        let target = builder.rng.pick(&[20, 300, 4000, 6000]);
        let sizes = builder.sizes_of(rank, target);
        let outer = builder.rng.below(rank as u64 + 1) as usize;
        builder.reduce(&sizes, outer, &[]);
    });
}

#[test]
fn contractions() {
    check(20_000..20_200, Builder::contract);
}

#[test]
fn scans_and_scatters() {
    check(30_000..30_200, |builder| match builder.rng.one_in(2) {
        true => builder.scatter(),
        false => {
            let rank = 1 + builder.rng.below(3) as usize;
            let sizes = builder.sizes_of(rank, 2000);
            builder.scan(&sizes);
        }
    });
}

#[test]
fn several_steps() {
    check(40_000..40_200, |builder| {
        for _ in 0..1 + builder.rng.below(3) {
            builder.any();
        }
    });
}
