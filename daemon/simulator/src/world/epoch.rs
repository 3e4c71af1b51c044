//! One start of the engine, with the device that it owns and the checkers that watch both.

use tensord_daemon::clock::Clock;
use tensord_daemon::engine::{Engine, Settings};
use tensord_daemon::engine_process::EngineCore;
use tensord_sim::{SimBackend, SimDevice, Time, VirtualTime};

use super::Between;
use crate::checks::charges::Charges;
use crate::checks::lag::{Lag, Shares};
use crate::checks::{Check, Violation, outcomes};
use crate::client::Client;
use crate::setup::{Host, Setup};

/// A clock for the engine over the time of the device.
struct VirtualClock(VirtualTime);

impl Clock for VirtualClock {
    fn ticks(&self) -> u64 {
        self.0.now_ns()
    }

    fn ns_of(&self, ticks: u64) -> u64 {
        ticks
    }
}

/// See the file's head.
pub struct Epoch {
    /// Counts from 1.
    pub number: u32,
    /// The real one.
    pub engine: Engine,
    /// Its device.
    pub device: SimDevice,
    /// What its sessions are entitled to.
    pub shares: Shares,
    /// Differences from that.
    pub lag: Lag,
    charges: Charges,
    /// Requests accepted and launches ended, when last looked at.
    counted: (u64, u64),
}

impl Epoch {
    /// A new engine with an empty device.
    pub fn new(number: u32, setup: &Setup, time: &VirtualTime, between: Between) -> Epoch {
        let backend = SimBackend::new(setup.model.clone(), Box::new(time.clone()));
        let device = backend.device();
        device.keep_log();
        let settings = Settings {
            epoch: number,
            quiet_ns: setup.quiet_ns,
            hold_ns: setup.hold_ns,
            measured_merging: setup.measured_merging,
            slice_ns: setup.slice_ns,
            policy: setup.policy,
            // Its tensors have no content that could be kept elsewhere.
            spill_bytes: 0,
            simulated: true,
        };
        let clock = Box::new(VirtualClock(time.clone()));
        Epoch {
            number,
            engine: Engine::new(between(backend), clock, settings),
            device,
            shares: Shares::new(),
            lag: Lag::new(setup.lag_bound_ns),
            charges: Charges::default(),
            counted: (0, 0),
        }
    }

    /// Requests accepted since the last call, and the time that the engine's thread needed for what it did.
    pub fn note_work(&mut self, host: &Host) -> (u64, u64) {
        let counters = self.engine.counters();
        let accepted = counters.requests_accepted - self.counted.0;
        let launches = counters.launches - self.counted.1;
        self.counted = (counters.requests_accepted, counters.launches);
        let cost_ns = host.turn_ns + accepted * host.record_ns + launches * host.launch_ns;
        (accepted, cost_ns)
    }

    /// Looks at the books and the device. `settled` says that the engine has taken in everything that ended.
    pub fn check(&mut self, settled: bool) -> Result<(), Violation> {
        if let Some(breach) = self.device.take_breaches().first() {
            return Err(Violation::new(Check::BackendRules, breach.to_string()));
        }
        let books = self.engine.books();
        self.charges.check(&books, self.device.busy_ns(), settled)?;
        self.lag.look(&books, &self.shares)
    }

    /// Ends a client's session; gives what it was charged. `died` says that not all that it wrote was to be accepted.
    pub fn detach(&mut self, client: &Client, now_ns: u64, died: bool) -> Result<u64, Violation> {
        let books = self.engine.books();
        let session = books
            .sessions
            .iter()
            .find(|books| books.id == client.session);
        let charged_ns = session.map_or(0, |session| session.device_ns);
        let accepted = session.map_or(0, |session| session.accepted);
        let running =
            self.device.next_ns(now_ns).is_some() || self.device.busy_ns() > books.busy_ns;
        self.charges.left(charged_ns, running);
        self.shares.remove(&client.session);
        let totals = self.engine.detach(client.session);
        outcomes::compare(&totals, accepted, &client.outcomes, died)?;
        Ok(charged_ns)
    }

    /// What is left when everybody is gone.
    pub fn check_leftovers(&mut self) -> Result<(), Violation> {
        self.check(true)?;
        let counters = self.engine.counters();
        let ended = counters.requests_ok + counters.requests_failed + counters.requests_cancelled;
        if ended != counters.requests_accepted {
            let text = format!(
                "{} requests were accepted and {ended} ended",
                counters.requests_accepted
            );
            return Err(Violation::new(Check::OneOutcome, text));
        }
        let used = self.device.used_bytes();
        if used > 0 || counters.device_bytes > 0 {
            let text = format!(
                "{used} bytes of the device are allocated and {} charged when everybody is gone",
                counters.device_bytes
            );
            return Err(Violation::new(Check::Leftovers, text));
        }
        Ok(())
    }
}
