//! What if so many of these ran on one device: a recording, played by many clients at once.

use std::sync::Arc;

use tensord_sim::Model;

use crate::client::spec::{ClientSpec, JobKind};
use crate::outcome::{Failure, Outcome};
use crate::random::Random;
use crate::recording::{Action, Recording};
use crate::seed;
use crate::setup::Setup;
use crate::world::World;

/// Virtual time within which a recording is played.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Played {
    /// Clients.
    pub clients: usize,
    /// Virtual time until the last was done, in nanoseconds.
    pub took_ns: u64,
    /// Part of it in which the device was busy.
    pub busy: f64,
    /// Launches.
    pub launches: u64,
    /// Instances of a launch, on average.
    pub instances_each: f64,
    /// Requests that had their outcome.
    pub requests: u64,
    /// Requests a second of the slowest and of the fastest client.
    pub requests_per_s: (f64, f64),
    /// From the first request of a step to the end of its wait, in nanoseconds, sorted.
    pub latencies_ns: Vec<u64>,
    /// Steps with a failure.
    pub failed: u64,
}

/// Plays a recording by so many clients of one tenant, which begin a little apart.
pub fn play(
    recording: &Arc<Recording>,
    clients: usize,
    model: Model,
    seed: u64,
) -> Result<Played, Box<Failure>> {
    let mut random = Random::new(seed).fork();
    let spread_ns = apart_ns(recording);
    let specs = (0..clients).map(|_| ClientSpec {
        class: recording.class,
        weight: recording.weight,
        fuse: recording.fuse,
        batch: recording.batch,
        queues: recording.queues,
        slot_count: recording.slot_count,
        jobs: vec![JobKind::Crossing { elements: 1 }],
        starts_ns: random.below(spread_ns),
        may_fail: true,
        recording: Some(Arc::clone(recording)),
        ..ClientSpec::default()
    });
    let setup = Setup {
        model,
        clients: specs.collect(),
        horizon_ns: LONGEST_NS,
        may_fail: true,
        ..Setup::default()
    };
    let outcome = World::new(setup, seed, |backend| Box::new(backend)).run()?;
    Ok(played(recording, &outcome))
}

/// About a step of the recording.
fn apart_ns(recording: &Recording) -> u64 {
    let waits = |action: &Action| matches!(action, Action::Wait(_));
    let entries = recording.entries.iter();
    let waits = entries.clone().filter(|entry| waits(&entry.action)).count();
    let pauses = entries.fold(0u64, |sum, entry| sum.saturating_add(entry.pause_ns));
    pauses / (waits as u64).max(1) + 1
}

fn played(recording: &Recording, outcome: &Outcome) -> Played {
    let took_ns = outcome.took_ns.max(1);
    let mut latencies_ns: Vec<u64> = Vec::new();
    let mut failed = 0;
    let mut rates = (f64::INFINITY, 0.0f64);
    let is_record = |action: &Action| matches!(action, Action::Record(_));
    let entries = recording.entries.iter();
    let each = entries.filter(|entry| is_record(&entry.action)).count() as u64;
    for client in &outcome.clients {
        latencies_ns.extend(&client.latencies_ns);
        failed += client.failed;
        // Who never waited is done when all are.
        let last_ns = match client.last_ns {
            0 => took_ns,
            last_ns => last_ns,
        };
        let rate = each as f64 * 1e9 / last_ns as f64;
        rates = (rates.0.min(rate), rates.1.max(rate));
    }
    let requests = each * outcome.clients.len() as u64;
    latencies_ns.sort_unstable();
    Played {
        clients: outcome.clients.len(),
        took_ns,
        busy: outcome.busy_ns as f64 / took_ns as f64,
        launches: outcome.launches,
        instances_each: outcome.instances as f64 / outcome.launches.max(1) as f64,
        requests,
        requests_per_s: rates,
        latencies_ns,
        failed,
    }
}

/// A recording of the first client of a seed that begins at once, undisturbed by the seed's faults.
pub fn record(seed: u64, model: Option<Model>) -> Result<Recording, Box<Failure>> {
    let options = seed::Options {
        model,
        ..seed::Options::default()
    };
    let mut setup = seed::setup(seed, &options);
    setup.faults.clear();
    setup.may_fail = false;
    for client in &mut setup.clients {
        client.records = true;
        client.starts_ns = 0;
    }
    let mut outcome = World::new(setup, seed, |backend| Box::new(backend)).run()?;
    let recorded = outcome
        .clients
        .first_mut()
        .and_then(|client| client.recording.take());
    Ok(recorded.expect("a seed has a client, and it records"))
}
