//! Named cases whose figures say how good the scheduler is.
//!
//! A scenario makes clients of a seed, runs them against the real engine, and gives figures beside what is wanted. Shares are
//! told twice: by what sessions were charged, and by the work that they got done times what it costs alone, which no account can embellish.

mod deadlines;
mod fairness;
mod latency;

use std::fmt;

use tensord_daemon::schedule::PolicyName;
use tensord_sim::Model;

use crate::client::spec::{ClientSpec, JobKind, Pace};
use crate::outcome::{Failure, Outcome};
use crate::setup::Setup;
use crate::world::World;

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The device.
    pub model: Model,
    /// Everything random.
    pub seed: u64,
    /// Runs of scenarios that count over many.
    pub seeds: u64,
    /// Whose turn it is.
    pub policy: PolicyName,
    /// Length of a slice.
    pub slice_ns: u64,
    /// How long a run lasts, of virtual time.
    pub horizon_ns: u64,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench {
            model: Model::h100(),
            seed: 1,
            seeds: 100,
            policy: PolicyName::Fair,
            slice_ns: 500_000,
            horizon_ns: 1_000_000_000,
        }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
    /// This, give or take the second.
    Near(f64, f64),
}

/// A figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Of what.
    pub what: String,
    /// How much.
    pub value: f64,
    /// In which unit; empty for a ratio.
    pub unit: &'static str,
    /// What it should be, if that is fixed.
    pub wanted: Option<Wanted>,
}

/// What a scenario gives: its figures, or the rule that did not hold.
pub type Figures = Result<Vec<Figure>, Box<Failure>>;

/// A named case.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Bench) -> Figures,
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "weights-75-25",
        about: "two saturated sessions at weights 75 and 25, one with operations many times as long",
        run: |bench| fairness::weights(bench, (75, 25), false),
    },
    Scenario {
        name: "weights-90-10",
        about: "the same at weights 90 and 10",
        run: |bench| fairness::weights(bench, (90, 10), false),
    },
    Scenario {
        name: "weights-75-25-merged",
        about: "two saturated sessions at weights 75 and 25 whose work merges",
        run: |bench| fairness::weights(bench, (75, 25), true),
    },
    Scenario {
        name: "weights-90-10-merged",
        about: "the same at weights 90 and 10",
        run: |bench| fairness::weights(bench, (90, 10), true),
    },
    Scenario {
        name: "tenants-1-50",
        about: "a tenant with one session beside one with fifty",
        run: fairness::tenants,
    },
    Scenario {
        name: "eight-unlike",
        about: "eight sessions of equal weight with unlike operations",
        run: fairness::eight,
    },
    Scenario {
        name: "victim",
        about: "a session beside eight that flood the engine",
        run: fairness::victim,
    },
    Scenario {
        name: "realtime-beside-idle",
        about: "a realtime session with one small request at a time beside four idle ones with operations of 10 ms",
        run: latency::realtime,
    },
    Scenario {
        name: "deadlines",
        about: "sessions with deadlines that can be met, beside others that saturate the device; many seeds",
        run: deadlines::deadlines,
    },
];

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure {
            what: what.into(),
            value,
            unit,
            wanted: None,
        }
    }

    fn wants(self, wanted: Wanted) -> Figure {
        Figure {
            wanted: Some(wanted),
            ..self
        }
    }

    /// Is it what it should be?
    pub fn holds(&self) -> bool {
        match self.wanted {
            None => true,
            Some(Wanted::AtLeast(least)) => self.value >= least,
            Some(Wanted::AtMost(most)) => self.value <= most,
            Some(Wanted::Near(value, by)) => (self.value - value).abs() <= by,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::AtLeast(least) => write!(f, "at least {least}"),
            Wanted::AtMost(most) => write!(f, "at most {most:.1}"),
            Wanted::Near(value, by) => write!(f, "{value} +- {by}"),
        }
    }
}

impl Bench {
    fn setup(&self, clients: Vec<ClientSpec>) -> Setup {
        Setup {
            model: self.model.clone(),
            slice_ns: self.slice_ns,
            policy: self.policy,
            horizon_ns: self.horizon_ns,
            clients,
            ..Setup::default()
        }
    }

    fn run(&self, clients: Vec<ClientSpec>) -> Result<Outcome, Box<Failure>> {
        World::new(self.setup(clients), self.seed, |backend| Box::new(backend)).run()
    }

    /// Device time that a job of a client takes which has the device for itself, in nanoseconds. Its jobs merge with each other as they do
    /// beside others, and so its own gain is not taken for an unfair share.
    fn alone_ns(&self, spec: &ClientSpec) -> Result<f64, Box<Failure>> {
        let spec = ClientSpec {
            deadline_us: None,
            ..spec.clone()
        };
        let setup = Setup {
            horizon_ns: ALONE_NS,
            ..self.setup(vec![spec])
        };
        let outcome = World::new(setup, self.seed, |backend| Box::new(backend)).run()?;
        let client = &outcome.clients[0];
        let jobs: u64 = client.jobs.values().sum();
        Ok(client.charged_ns as f64 / jobs.max(1) as f64)
    }
}

/// Virtual time for finding out what a job costs alone.
const ALONE_NS: u64 = 200_000_000;
/// Jobs of a session that saturates the device: more than launches that wait for the device can hold, so that some are ready
/// whenever it is chosen what comes next.
const DEPTH: u32 = 64;

/// A session that always has more to do than the device can.
fn saturating(tenant: u32, weight: u32, job: JobKind) -> ClientSpec {
    ClientSpec {
        tenant,
        weight,
        pace: Pace::Closed {
            depth: DEPTH,
            think_ns: 0,
        },
        jobs: vec![job],
        slot_count: 1024,
        downloads: 0,
        burst: 64,
        record_ns: 20,
        ..ClientSpec::default()
    }
}

/// A square product that takes about so long on a device.
fn product_of(model: &Model, busy_ns: f64) -> JobKind {
    let width = (model.operations_per_ns * busy_ns / 2.0).cbrt();
    JobKind::Product {
        width: (width as u64).max(8),
    }
}

/// An elementwise operation that reads and writes memory for about so long.
fn chain_of(model: &Model, busy_ns: f64) -> JobKind {
    JobKind::Chain {
        operations: 4,
        elements: ((model.bytes_per_ns * busy_ns / 8.0) as u64).max(1),
        carry: false,
    }
}

/// The value below which so many of a hundred lie.
fn percentile(values: &mut [u64], percent: f64) -> f64 {
    values.sort_unstable();
    let at = (values.len() as f64 * percent / 100.0) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .map_or(0.0, |value| *value as f64)
}
