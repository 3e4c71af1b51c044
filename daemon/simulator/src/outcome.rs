//! What a run showed.

use std::collections::BTreeMap;
use std::fmt;

use crate::checks::Violation;
use crate::client::Finished;
use crate::recording::Recording;

/// A run that could not go on.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The rule that did not hold.
    pub violation: Violation,
    /// When, in virtual time.
    pub at_ns: u64,
    /// What happened last.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} (at {} ns of virtual time)",
            self.violation, self.at_ns
        )?;
        let mut lines = self.story.iter();
        lines.try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of the whole schedule.
    pub digest: u64,
    /// Virtual time until the last client was quiet.
    pub took_ns: u64,
    /// Device time.
    pub busy_ns: u64,
    /// Launches and their instances.
    pub launches: u64,
    /// See `launches`.
    pub instances: u64,
    /// Requests with an outcome, by client.
    pub clients: Vec<ClientOutcome>,
    /// The largest lags seen, between sessions and between tenants, in nanoseconds.
    pub lag_ns: (u64, u64),
    /// What happened: the end, or everything.
    pub story: Vec<String>,
}

/// What a client had of a run.
#[derive(Clone, Debug, Default)]
pub struct ClientOutcome {
    /// Device time charged until the horizon.
    pub charged_ns: u64,
    /// Jobs that ended until the horizon, by kind.
    pub jobs: BTreeMap<usize, u64>,
    /// How long each took, of those submitted until the horizon.
    pub latencies_ns: Vec<u64>,
    /// Requests of ended jobs.
    pub requests: u64,
    /// Jobs with a failure.
    pub failed: u64,
    /// When the last job was over.
    pub last_ns: u64,
    /// What it did, if that was written down.
    pub recording: Option<Recording>,
}

impl ClientOutcome {
    /// A job is over.
    pub fn note(&mut self, finished: &Finished, horizon_ns: u64) {
        self.requests += finished.requests;
        self.failed += u64::from(finished.failure.is_some());
        self.last_ns = finished.over_ns;
        let Some(kind) = finished.kind else { return };
        if finished.over_ns <= horizon_ns {
            *self.jobs.entry(kind).or_default() += 1;
        }
        self.latencies_ns.push(finished.over_ns - finished.begun_ns);
    }
}
