//! A run for each number: who comes, what they ask for and when.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tensord_daemon::schedule::PolicyName;
use tensord_shm::control::Class;
use tensord_sim::Model;

use crate::client::spec::{ClientSpec, JobKind, Pace};
use crate::fault::Fault;
use crate::outcome::{Failure, Outcome};
use crate::random::Random;
use crate::setup::{Host, Setup};
use crate::world::World;

/// What may be chosen beside the seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The device; by seed without one.
    pub model: Option<Model>,
    /// Keep all of what happened, and not its end alone?
    pub whole_story: bool,
}

/// What many seeds did together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Seeds that were run.
    pub seeds: u64,
    /// Requests that had their outcome.
    pub requests: u64,
    /// Launches.
    pub launches: u64,
    /// Virtual time, in nanoseconds.
    pub virtual_ns: u64,
}

/// A seed that broke a rule.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which.
    pub seed: u64,
    /// How.
    pub failure: Box<Failure>,
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Result<Outcome, Box<Failure>> {
    World::new(setup(seed, options), seed, |backend| Box::new(backend)).run()
}

/// Runs seeds on all cores, up to the first that breaks a rule: the lowest of them, whichever was found first. `progress` is
/// told now and then how many are done.
pub fn run_many(
    seeds: Range<u64>,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Sum, Broken> {
    let next = AtomicU64::new(seeds.start);
    let state: Mutex<(Sum, Option<Broken>)> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let ran = run(seed, options);
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            match ran {
                Ok(outcome) => state.0.add(&outcome),
                Err(failure) => {
                    // Lower seeds that others run are run to their end.
                    next.store(seeds.end, Ordering::Relaxed);
                    if state.1.as_ref().is_none_or(|broken| seed < broken.seed) {
                        state.1 = Some(Broken { seed, failure });
                    }
                }
            }
            progress(state.0.seeds);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (sum, broken) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.map_or(Ok(sum), Err)
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.requests += outcome
            .clients
            .iter()
            .map(|client| client.requests)
            .sum::<u64>();
        self.launches += outcome.launches;
        self.virtual_ns += outcome.took_ns;
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.failure)?;
        write!(f, "again: tensorctl sim --seeds 1 --from {} -v", self.seed)
    }
}

/// What a seed stands for.
pub fn setup(seed: u64, options: &Options) -> Setup {
    // Neighbours share nothing.
    let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)).fork();
    let drawn = random.pick(&[true, false]);
    let model = match &options.model {
        Some(model) => model.clone(),
        None if drawn => Model::h100(),
        None => Model::small(),
    };
    let tenants = random.within(1, 4);
    let count = random.within(1, 10);
    // Clients of one kind merge.
    let kinds: Vec<Vec<JobKind>> = (0..random.within(1, 3))
        .map(|_| jobs(&mut random))
        .collect();
    let clients: Vec<ClientSpec> = (0..count)
        .map(|_| client(&mut random, tenants, &kinds))
        .collect();
    let horizon_ns = random.within(200_000, 4_000_000);
    let faults = match random.chance(40) {
        true => faults(&mut random, clients.len(), horizon_ns),
        false => Vec::new(),
    };
    let refuses = |(_, fault): &(u64, Fault)| *fault == Fault::RefusesMemory;
    Setup {
        model,
        host: Host {
            wake_ns: random.pick(&[500, 3_000, 60_000]),
            ..Host::default()
        },
        quiet_ns: random.pick(&[5_000, 20_000, 100_000]),
        hold_ns: random.pick(&[0, 100_000, 500_000]),
        measured_merging: random.chance(70),
        slice_ns: random.pick(&[5_000, 50_000, 500_000]),
        policy: random.pick(&[PolicyName::Fair, PolicyName::Fair, PolicyName::Fifo]),
        horizon_ns,
        clients,
        lag_bound_ns: None,
        may_fail: faults.iter().any(refuses),
        faults,
        whole_story: options.whole_story,
    }
}

/// Some faults, in the order of their times.
fn faults(random: &mut Random, clients: usize, horizon_ns: u64) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    for _ in 0..random.within(1, 4) {
        let client = random.below(clients as u64) as usize;
        let at_ns = random.below(horizon_ns);
        let later_ns = at_ns + random.below(horizon_ns / 4);
        match random.below(6) {
            0 => faults.push((at_ns, Fault::DeviceFails)),
            1 => faults.extend([
                (at_ns, Fault::RefusesMemory),
                (later_ns, Fault::GivesMemory),
            ]),
            2 | 3 => {
                let frame = random.chance(50);
                faults.push((at_ns, Fault::Garbage { client, frame }));
                faults.push((later_ns, Fault::Returns { client }));
            }
            _ => {
                faults.push((at_ns, Fault::Dies { client }));
                if random.chance(70) {
                    faults.push((later_ns, Fault::Returns { client }));
                }
            }
        }
    }
    faults.sort_by_key(|(at_ns, _)| *at_ns);
    faults
}

fn jobs(random: &mut Random) -> Vec<JobKind> {
    (0..random.within(1, 3)).map(|_| job(random)).collect()
}

fn job(random: &mut Random) -> JobKind {
    match random.below(6) {
        0 | 1 => JobKind::Chain {
            operations: random.within(1, 40) as u32,
            elements: random.pick(&[1, 3, 64, 1000, 16_384, 1 << 22]),
            carry: random.chance(30),
        },
        2 => JobKind::Layers {
            count: random.within(1, 4) as u32,
            rows: random.pick(&[1, 4, 32]),
            width: random.pick(&[8, 64, 128]),
        },
        3 => JobKind::Product {
            width: random.pick(&[16, 256, 1024]),
        },
        4 => JobKind::Graph {
            operations: random.within(1, 20) as u32,
            width: random.pick(&[1, 2, 7, 32, 100]),
        },
        _ => JobKind::Crossing {
            elements: random.pick(&[1, 5, 100, 4000]),
        },
    }
}

fn pace(random: &mut Random) -> Pace {
    match random.below(4) {
        0 => Pace::Open {
            gap_ns: random.within(20_000, 400_000),
        },
        1 => Pace::Bursts {
            count: random.within(2, 10) as u32,
            gap_ns: random.within(100_000, 1_000_000),
        },
        _ => Pace::Closed {
            depth: random.pick(&[1, 1, 1, 2, 8]),
            think_ns: random.pick(&[0, 10_000, 200_000]),
        },
    }
}

fn client(random: &mut Random, tenants: u64, kinds: &[Vec<JobKind>]) -> ClientSpec {
    let mut jobs = kinds[random.below(kinds.len() as u64) as usize].clone();
    let odd = random.below(20);
    match odd {
        0 => jobs.push(JobKind::Cancelled {
            operations: random.within(1, 40) as u32,
        }),
        1 => jobs.push(JobKind::Failing {
            count: random.within(1, 100) as u32,
        }),
        _ => {}
    }
    ClientSpec {
        tenant: random.below(tenants) as u32,
        tenant_weight: 100,
        class: random.pick(&[Class::Realtime, Class::Normal, Class::Normal, Class::Idle]),
        weight: random.pick(&[1, 50, 100, 100, 100, 300, 10_000]),
        fuse: random.chance(90),
        batch: random.chance(90),
        queues: random.pick(&[1, 1, 1, 2, 3]),
        slot_count: random.pick(&[32, 64, 256]),
        pace: pace(random),
        jobs,
        starts_ns: random.pick(&[0, 0, 1_000, 300_000]),
        stops_ns: u64::MAX,
        jobs_max: random.within(1, 60),
        waits: random.chance(80),
        downloads: random.pick(&[0, 50, 100]),
        deadline_us: random.chance(20).then(|| random.within(50, 5_000)),
        burst: random.pick(&[1, 4, 16, 64]),
        record_ns: random.pick(&[50, 200, 2_000]),
        may_fail: odd < 2,
        never_reads: odd == 1 && random.chance(50),
        ..ClientSpec::default()
    }
}
