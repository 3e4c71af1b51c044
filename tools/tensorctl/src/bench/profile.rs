//! Where an operation's time goes: what the client measures of itself, and the engine of itself, over the same rounds.
//!
//! A round submits its operations one by one and waits for the last. The client's time falls into submitting and waiting. The engine's
//! counters say how long its thread was at each stage. What of the waiting the engine does not account for is the crossing: until it sees
//! what was published, until the client sees the outcome, and what the client does itself while it waits, reading a result included.
//!
//! # Two at once
//! Client and engine run on two cores. Where many operations are submitted before the wait, the engine takes them in meanwhile, so that
//! both times together may be more than the clock on the wall shows.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};
use tensord_client::{DType, Elementwise, Error, Meta, Session, Shape, Site};

use super::{Bench, chain, median};
use crate::stat::{STAGES, Stat};

/// Stages in which an engine has nothing to do.
const IDLE: [&str; 2] = ["polling", "parked"];
/// Stages that go on while a client submits more; the others begin when somebody waits.
const TAKING_IN: [&str; 2] = ["ingest", "graph"];
/// What an engine does between two turns holds up nobody in particular.
const BETWEEN: &str = "control";

const CHAINS: [usize; 2] = [1_024, 16_384];
const ADD: u64 = 64;
const PRODUCT: [u64; 2] = [64, 128];

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Operations submitted.
    pub operations: u64,
    /// Operations that the engine executed meanwhile, and launches.
    pub executed: u64,
    /// See above.
    pub launches: u64,
    /// Nanoseconds from the first submission to the last outcome.
    pub wall_ns: u64,
    /// Of these, in calls that submit.
    pub submit_ns: u64,
    /// Nanoseconds that the engine's thread was at each stage.
    pub stages_ns: BTreeMap<&'static str, u64>,
    /// Nanoseconds that launches ran on other threads.
    pub pool_ns: u64,
    /// Did the client submit many operations before it waited?
    pub many: bool,
}

/// A kind of work, profiled.
pub struct Profile {
    /// What was done.
    pub name: String,
    /// Operations between two waits.
    pub operations: u64,
    /// One for each repetition.
    pub runs: Vec<Run>,
}

/// One line of a profile: nanoseconds of one operation.
pub struct Part {
    /// Who: `client`, `engine`, or `crossing`.
    pub side: &'static str,
    /// At what.
    pub name: &'static str,
    /// Nanoseconds of one operation.
    pub ns: f64,
    /// Part of the time on the wall.
    pub share: f64,
}

impl Run {
    /// All parts, client first.
    pub fn parts(&self) -> Vec<Part> {
        let part = |side, name, ns: u64| Part {
            side,
            name,
            ns: self.each(ns),
            share: ns as f64 / self.wall_ns.max(1) as f64,
        };
        let mut parts = vec![
            part("client", "submitting", self.submit_ns),
            part("client", "waiting", self.wait_ns()),
            part("crossing", "rest of waiting", self.crossing_ns()),
        ];
        let stages = STAGES.iter().filter_map(|name| {
            let ns = self.stages_ns.get(name)?;
            Some(part("engine", name, *ns))
        });
        parts.extend(stages);
        parts.push(part("engine", "pool's threads", self.pool_ns));
        parts
    }

    /// Of one operation.
    pub fn each(&self, ns: u64) -> f64 {
        ns as f64 / self.operations.max(1) as f64
    }

    fn wait_ns(&self) -> u64 {
        self.wall_ns.saturating_sub(self.submit_ns)
    }

    /// What of the waiting is none of the stages that a waiting client waits for.
    fn crossing_ns(&self) -> u64 {
        let waited_for = |name: &&str| {
            !IDLE.contains(name) && *name != BETWEEN && !(self.many && TAKING_IN.contains(name))
        };
        let stages = self.stages_ns.iter();
        let engine: u64 = stages
            .filter(|(name, _)| waited_for(name))
            .map(|(_, ns)| ns)
            .sum();
        self.wait_ns().saturating_sub(engine)
    }
}

impl Profile {
    /// The run whose time on the wall is in the middle: all its parts were measured together.
    pub fn middle(&self) -> Option<&Run> {
        let walls: Vec<f64> = self.runs.iter().map(|run| run.each(run.wall_ns)).collect();
        let middle = median(&walls);
        self.runs.iter().find(|run| run.each(run.wall_ns) == middle)
    }

    /// For scripts: the run in the middle, and nanoseconds on the wall of all.
    pub fn json(&self, case: &str) -> Value {
        let runs: Vec<f64> = self.runs.iter().map(|run| run.each(run.wall_ns)).collect();
        let run = self.middle().cloned().unwrap_or_default();
        let parts: Vec<Value> = run
            .parts()
            .iter()
            .map(|part| {
                json!({ "side": part.side, "name": part.name, "ns": part.ns, "share": part.share })
            })
            .collect();
        json!({
            "case": case,
            "name": self.name,
            "unit": "ns an operation",
            "operations": self.operations,
            "taken_in_while_submitting": run.many,
            "wall_ns": run.each(run.wall_ns),
            "wall_ns_runs": runs,
            "submitted": run.operations,
            "executed": run.executed,
            "launches": run.launches,
            "parts": parts,
        })
    }
}

/// What the engines have counted so far.
struct Counted {
    stat: Stat,
}

impl Counted {
    fn now(session: &Session) -> anyhow::Result<Counted> {
        let stat = Stat::parse(&session.stat()?)?;
        Ok(Counted { stat })
    }

    fn stages(&self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        let told = |name| self.stat.stage_ns(name).map(|ns| (name, ns));
        STAGES.into_iter().map(told).collect::<Option<_>>().context(
            "the daemon does not tell where its engine's time goes: it is older than this tool",
        )
    }

    fn total(&self, counter: &str) -> u64 {
        self.stat.total(counter).unwrap_or(0)
    }
}

/// Runs rounds for the time of one repetition. A round gives the moment at which all was submitted.
fn run(
    bench: &Bench,
    operations: u64,
    round: &mut dyn FnMut() -> Result<Instant, Error>,
) -> anyhow::Result<Run> {
    let before = Counted::now(&bench.session)?;
    let start = Instant::now();
    let (mut begin, mut submit_ns, mut rounds) = (start, 0, 0u64);
    while rounds == 0 || begin - start < bench.run_for {
        let submitted = round()?;
        submit_ns += (submitted - begin).as_nanos() as u64;
        begin = Instant::now();
        rounds += 1;
    }
    let after = Counted::now(&bench.session)?;
    let (earlier, later) = (before.stages()?, after.stages()?);
    let gained = |counter: &str| after.total(counter).saturating_sub(before.total(counter));
    Ok(Run {
        operations: operations * rounds,
        executed: gained("ops"),
        launches: gained("launches"),
        wall_ns: (begin - start).as_nanos() as u64,
        submit_ns,
        stages_ns: later
            .into_iter()
            .map(|(name, ns)| (name, ns.saturating_sub(earlier[name])))
            .collect(),
        pool_ns: after
            .stat
            .pool_ns()
            .unwrap_or(0)
            .saturating_sub(before.stat.pool_ns().unwrap_or(0)),
        many: operations > 8,
    })
}

fn profile(
    bench: &Bench,
    name: String,
    operations: u64,
    mut round: impl FnMut() -> Result<Instant, Error>,
) -> anyhow::Result<Profile> {
    // The first one warms up.
    run(bench, operations, &mut round)?;
    let runs = (0..bench.runs)
        .map(|_| run(bench, operations, &mut round))
        .collect::<anyhow::Result<_>>()?;
    Ok(Profile {
        name,
        operations,
        runs,
    })
}

/// Chains that are read back, an addition and a layer that are waited for.
pub fn profiles(bench: &Bench) -> anyhow::Result<Vec<Profile>> {
    let session = &bench.session;
    let mut profiles = Vec::new();
    for count in CHAINS {
        let values: Vec<f32> = (0..count).map(|k| k as f32 / 7.0).collect();
        let x = session.tensor(&values, &[count as u64])?;
        let name = format!("chain of {} over {count} f32, read back", chain::LENGTH);
        profiles.push(profile(bench, name, chain::LENGTH as u64, || {
            let y = chain::submit(&x)?;
            let submitted = Instant::now();
            y.to_vec::<f32>()?;
            Ok(submitted)
        })?);
    }
    let x = session.tensor(&[1.5f32; ADD as usize], &[ADD])?;
    let y = session.tensor(&[2.5f32; ADD as usize], &[ADD])?;
    let name = format!("add of {ADD} f32, waited for");
    profiles.push(profile(bench, name, 1, || {
        let sum = x.binary(Elementwise::Add, &y)?;
        let submitted = Instant::now();
        sum.wait()?;
        Ok(submitted)
    })?);
    profiles.push(layer(bench)?);
    Ok(profiles)
}

/// One row times a constant matrix, a bias, and tanh.
fn layer(bench: &Bench) -> anyhow::Result<Profile> {
    let session = &bench.session;
    let [into, out] = PRODUCT;
    let constant = |shape: &[u64]| {
        let count: u64 = shape.iter().product();
        let bytes = 0.01f32.to_le_bytes().repeat(count as usize);
        let meta = Meta {
            dtype: DType::F32,
            shape: Shape::new(shape).expect("two axes"),
        };
        session.constant(&bytes, meta, Site::UNKNOWN)
    };
    let weights = constant(&[into, out])?;
    let bias = constant(&[1, out])?;
    let x = session.full(&[1, into], 0.5, DType::F32)?;
    let name = format!("1 x {into} times {into} x {out} f32, bias, tanh, waited for");
    profile(bench, name, 3, || {
        let y = x
            .contract(&weights, "ik,kj->ij")?
            .binary(Elementwise::Add, &bias)?
            .unary(Elementwise::Tanh)?;
        let submitted = Instant::now();
        y.wait()?;
        Ok(submitted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 operations in 1,000 ns, 400 of them submitting; the engine was at each stage for 50 ns.
    fn sample(many: bool) -> Run {
        Run {
            operations: 10,
            wall_ns: 1_000,
            submit_ns: 400,
            stages_ns: STAGES.into_iter().map(|name| (name, 50)).collect(),
            many,
            ..Run::default()
        }
    }

    fn ns(run: &Run, name: &str) -> f64 {
        let parts = run.parts();
        parts.iter().find(|part| part.name == name).expect(name).ns
    }

    #[test]
    fn the_crossing_is_what_the_engine_does_not_account_for() {
        // Twelve stages, of which polling, parking and what is between turns hold nobody up.
        assert_eq!(
            ns(&sample(false), "rest of waiting"),
            (600.0 - 9.0 * 50.0) / 10.0
        );
        // Nor does taking in, where it went on beside submitting.
        assert_eq!(
            ns(&sample(true), "rest of waiting"),
            (600.0 - 7.0 * 50.0) / 10.0
        );
    }

    #[test]
    fn the_clients_parts_are_the_wall() {
        let run = sample(true);
        assert_eq!((ns(&run, "submitting"), ns(&run, "waiting")), (40.0, 60.0));
        let client = run.parts().into_iter().filter(|part| part.side == "client");
        assert_eq!(client.map(|part| part.share).sum::<f64>(), 1.0);
    }

    #[test]
    fn all_parts_shown_are_of_one_run() {
        let runs = [3_000, 1_000, 2_000].map(|wall_ns| Run {
            wall_ns,
            submit_ns: wall_ns / 2,
            ..sample(false)
        });
        let profile = Profile {
            name: "x".into(),
            operations: 10,
            runs: runs.into(),
        };
        let middle = profile.middle().expect("three runs");
        assert_eq!((middle.wall_ns, middle.submit_ns), (2_000, 1_000));
        let told = profile.json("profile");
        assert_eq!(told["wall_ns"], 200.0);
        assert_eq!(
            told["parts"].as_array().map(Vec::len),
            Some(STAGES.len() + 4)
        );
    }
}
