//! What a running daemon does in a second, measured by a client of it: the figures that need no peer.
//!
//! Each case takes turns with the limit that it stands beside, in the same run, so that a machine whose speed changes changes both.

mod chain;
mod crossing;
mod memory;
mod merging;
mod product;
pub mod profile;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tensord_client::{Error, Session};

use self::profile::Profile;

/// What a case is measured with.
pub struct Bench {
    /// The client.
    pub session: Session,
    /// Repetitions that the middle is taken of.
    pub runs: usize,
    /// Time for one repetition.
    pub run_for: Duration,
    /// Threads of a limit that takes all cores.
    pub cores: usize,
}

/// One figure: what came out of each run, and of the limit in the same run.
pub struct Line {
    /// What was measured.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// Ours, one for each run.
    pub runs: Vec<f64>,
    /// What it is held against.
    pub limit: Option<Limit>,
}

/// What a figure is held against.
pub struct Limit {
    /// What it is.
    pub name: &'static str,
    /// One for each run.
    pub runs: Vec<f64>,
}

/// A part of the benchmark.
pub struct Case {
    /// As it is named on the command line.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// Measures it.
    pub run: Measure,
}

/// How a case is measured, and what it gives.
pub enum Measure {
    /// Figures.
    Lines(fn(&Bench) -> Result<Vec<Line>, Error>),
    /// Where time goes.
    Profiles(fn(&Bench) -> anyhow::Result<Vec<Profile>>),
}

/// All of them, in the order in which they run.
pub const CASES: [Case; 7] = [
    Case {
        name: "requests",
        about: "requests that do nothing, through one ring",
        run: Measure::Lines(crossing::requests),
    },
    Case {
        name: "round-trip",
        about: "from submitting to having the outcome, one at a time",
        run: Measure::Lines(crossing::round_trips),
    },
    Case {
        name: "chain",
        about: "64 elementwise operations submitted one by one, the result read back",
        run: Measure::Lines(chain::chains),
    },
    Case {
        name: "memory",
        about: "what is as fast as memory is: long chains, sums, softmax, layer norm",
        run: Measure::Lines(memory::all),
    },
    Case {
        name: "product",
        about: "products with a constant matrix",
        run: Measure::Lines(product::products),
    },
    Case {
        name: "profile",
        about: "where an operation's time goes: client, crossing, each stage of the engine",
        run: Measure::Profiles(profile::profiles),
    },
    Case {
        name: "merging",
        about: "several clients whose work may share launches, beside launches of their own",
        run: Measure::Lines(merging::all),
    },
];

impl Bench {
    /// Repeats a measurement, after one that only warms up.
    pub fn repeat(
        &self,
        mut measure: impl FnMut() -> Result<f64, Error>,
    ) -> Result<Vec<f64>, Error> {
        measure()?;
        (0..self.runs).map(|_| measure()).collect()
    }

    /// Lets a measurement and its limit take turns.
    pub fn beside(
        &self,
        mut measure: impl FnMut() -> Result<f64, Error>,
        mut limit: impl FnMut() -> f64,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        measure()?;
        limit();
        let mut both = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            both.0.push(measure()?);
            both.1.push(limit());
        }
        Ok(both)
    }

    /// Calls `step` for the time of one repetition; gives the seconds that one call took.
    pub fn seconds_each(&self, mut step: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
        let start = Instant::now();
        let mut count = 0u32;
        while count == 0 || start.elapsed() < self.run_for {
            step()?;
            count += 1;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(count))
    }
}

/// The middle of some figures; NaN of none.
pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure that this part of all is not above.
pub fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1)) as f64 * part;
    sorted.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

impl Line {
    fn new(name: impl Into<String>, unit: &'static str, runs: Vec<f64>) -> Line {
        let name = name.into();
        Line {
            name,
            unit,
            runs,
            limit: None,
        }
    }

    fn beside(self, name: &'static str, runs: Vec<f64>) -> Line {
        let limit = Some(Limit { name, runs });
        Line { limit, ..self }
    }

    /// The figure over its limit's, run by run, in the middle.
    pub fn ratio(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        let ratios = self
            .runs
            .iter()
            .zip(&limit.runs)
            .map(|(have, of)| have / of);
        Some(median(&ratios.collect::<Vec<f64>>()))
    }

    /// For scripts.
    pub fn json(&self, case: &str) -> Value {
        let limit = self.limit.as_ref();
        json!({
            "case": case,
            "name": self.name,
            "unit": self.unit,
            "median": median(&self.runs),
            "runs": self.runs,
            "limit": limit.map(|limit| json!({
                "name": limit.name,
                "median": median(&limit.runs),
                "runs": limit.runs,
                "ratio": self.ratio(),
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_run_by_run() {
        let line = Line::new("x", "GB/s", vec![1.0, 4.0, 9.0]).beside("copy", vec![2.0, 4.0, 10.0]);
        // A machine that became faster meanwhile did so for both.
        assert_eq!(line.ratio(), Some(0.9));
        assert_eq!(median(&line.runs), 4.0);
        assert!(median(&[]).is_nan());
    }
}
