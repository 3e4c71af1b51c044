//! Deadlines that can be met.
//!
//! Sessions ask periodically for jobs with a deadline, beside others that saturate the device. What can be met: each
//! session needs less of the device than its share, and by the density test for earliest deadline first with blocking
//! (T. Baker, *Stack-based scheduling of realtime processes*, 1991) the sum of cost over deadline is below one, where of each deadline
//! is taken off what no order can avoid: the slices that run already, and what the engine and the way to the client cost.

use tensord_shm::control::Class;

use super::{Bench, Figure, Figures, Wanted, chain_of, product_of, saturating};
use crate::client::spec::{ClientSpec, JobKind, Pace};
use crate::random::Random;

/// Virtual time of a seed.
const HORIZON_NS: u64 = 100_000_000;
/// Slices that may hold the device when a job comes.
const BLOCKING_SLICES: f64 = 2.0;
/// What the engine and the client need for a job beside the device, in nanoseconds.
const HOST_NS: f64 = 60_000.0;
/// Draws of sessions before one is taken that can be met.
const DRAWS_MAX: u64 = 100;
/// Lengths of products, in nanoseconds.
const PRODUCTS_NS: [f64; 5] = [5_000.0, 20_000.0, 100_000.0, 300_000.0, 1_500_000.0];
/// Lengths of elementwise operations: the memory of long ones would fill the device.
const CHAINS_NS: [f64; 3] = [5_000.0, 20_000.0, 100_000.0];

/// Over many seeds.
pub fn deadlines(bench: &Bench) -> Figures {
    let products = PRODUCTS_NS.map(|ns| product_of(&bench.model, ns));
    let chains = CHAINS_NS.map(|ns| chain_of(&bench.model, ns));
    let kinds: Vec<JobKind> = products.into_iter().chain(chains).collect();
    let mut costs_ns = Vec::with_capacity(kinds.len());
    for kind in &kinds {
        costs_ns.push(bench.alone_ns(&saturating(0, 100, *kind))?);
    }
    let (mut jobs, mut met, mut clean) = (0u64, 0u64, 0u64);
    for seed in bench.seed..bench.seed + bench.seeds {
        let bench = Bench {
            seed,
            horizon_ns: HORIZON_NS,
            ..bench.clone()
        };
        let specs = sessions(&bench, &kinds, &costs_ns);
        let outcome = bench.run(specs.clone())?;
        let mut all = true;
        for (spec, client) in specs.iter().zip(&outcome.clients) {
            let Some(deadline_us) = spec.deadline_us else {
                continue;
            };
            let deadline_ns = deadline_us * 1000;
            let in_time = client.latencies_ns.iter().filter(|ns| **ns <= deadline_ns);
            let in_time = in_time.count() as u64;
            jobs += client.latencies_ns.len() as u64;
            met += in_time;
            all &= in_time == client.latencies_ns.len() as u64;
        }
        clean += u64::from(all);
    }
    let share = met as f64 * 100.0 / jobs.max(1) as f64;
    Ok(vec![
        Figure::new("deadlines", jobs as f64, "jobs"),
        Figure::new("met", share, "%").wants(Wanted::AtLeast(99.9)),
        Figure::new("missed", (jobs - met) as f64, "jobs"),
        Figure::new(
            "seeds without a miss",
            clean as f64 * 100.0 / bench.seeds.max(1) as f64,
            "%",
        ),
    ])
}

fn sessions(bench: &Bench, kinds: &[JobKind], costs_ns: &[f64]) -> Vec<ClientSpec> {
    let mut random = Random::new(bench.seed).fork();
    for _ in 0..DRAWS_MAX {
        let (urgent, others) = (random.within(1, 6), random.below(5));
        let all = (urgent + others) as f64;
        let mut specs = Vec::new();
        let mut density = 0.0;
        for tenant in 0..urgent {
            let kind = random.below(kinds.len() as u64) as usize;
            let cost_ns = costs_ns[kind];
            // Of its share of the device.
            let used = random.within(20, 80) as f64 / 100.0 / all;
            let period_ns = cost_ns / used;
            let deadline_ns = period_ns * random.within(50, 100) as f64 / 100.0;
            let left_ns = deadline_ns - BLOCKING_SLICES * bench.slice_ns as f64 - HOST_NS;
            density += if left_ns > 0.0 {
                cost_ns / left_ns
            } else {
                2.0
            };
            specs.push(ClientSpec {
                tenant: tenant as u32,
                class: Class::Normal,
                pace: Pace::Periodic {
                    period_ns: period_ns as u64,
                },
                jobs: vec![kinds[kind]],
                downloads: 0,
                deadline_us: Some(deadline_ns as u64 / 1000),
                starts_ns: random.below(1_000_000),
                burst: 64,
                record_ns: 50,
                ..ClientSpec::default()
            });
        }
        if density < 1.0 {
            let other = |random: &mut Random| random.pick(kinds);
            specs.extend(
                (0..others).map(|tenant| saturating(10 + tenant as u32, 100, other(&mut random))),
            );
            return specs;
        }
    }
    Vec::new()
}
