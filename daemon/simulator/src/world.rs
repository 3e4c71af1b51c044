//! The engine, its device and its clients in one virtual time: whoever is due acts, the engine takes turns until nothing is left
//! to do, and then time goes to the next thing that is due.
//!
//! The engine's own work takes time too ([`Host`]), so clients go on while it works, as they do on another core.

use std::collections::BTreeMap;
use std::fmt;

use tensord_daemon::clock::Clock;
use tensord_daemon::engine::{Engine, Settings};
use tensord_daemon::engine_process::{EngineCore, Progress, SessionId};
use tensord_daemon::schedule::PolicyName;
use tensord_plan::Backend;
use tensord_sim::{Model, SimBackend, SimDevice, Time, VirtualTime};

use crate::checks::charges::Charges;
use crate::checks::lag::{Lag, Share, Shares};
use crate::checks::{Check, Violation, outcomes};
use crate::client::spec::ClientSpec;
use crate::client::{Client, Finished};
use crate::random::Random;
use crate::story::{Event, Story};
use crate::wire::WireError;

/// Turns without anything that would move time on: more is an engine that turns for ever.
const TURNS_MAX: u64 = 100_000;
/// Virtual time within which everything ends once nobody asks for more.
const DRAIN_NS: u64 = 60_000_000_000;

/// What things cost the engine's thread and the way to a client, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// A turn that finds something to do.
    pub turn_ns: u64,
    /// Each record accepted.
    pub record_ns: u64,
    /// Each launch.
    pub launch_ns: u64,
    /// From the timeline's move to the client's next step.
    pub wake_ns: u64,
    /// Idle time after which the engine sleeps.
    pub park_ns: u64,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            turn_ns: 300,
            record_ns: 40,
            launch_ns: 1_500,
            wake_ns: 3_000,
            park_ns: 50_000,
        }
    }
}

/// Everything that a run starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device.
    pub model: Model,
    /// The machine around it.
    pub host: Host,
    /// See [`Settings::quiet_ns`].
    pub quiet_ns: u64,
    /// See [`Settings::hold_ns`].
    pub hold_ns: u64,
    /// See [`Settings::measured_merging`].
    pub measured_merging: bool,
    /// See [`Settings::slice_ns`].
    pub slice_ns: u64,
    /// See [`Settings::policy`].
    pub policy: PolicyName,
    /// When clients stop asking.
    pub horizon_ns: u64,
    /// The clients.
    pub clients: Vec<ClientSpec>,
    /// Largest lag of equal sessions; `None` observes only.
    pub lag_bound_ns: Option<u64>,
    /// May requests fail, because memory is short or refused?
    pub may_fail: bool,
    /// Keep all of what happened, and not its end alone?
    pub whole_story: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            model: Model::h100(),
            host: Host::default(),
            quiet_ns: 20_000,
            hold_ns: 500_000,
            measured_merging: true,
            slice_ns: 500_000,
            policy: PolicyName::default(),
            horizon_ns: 10_000_000,
            clients: Vec::new(),
            lag_bound_ns: None,
            may_fail: false,
            whole_story: false,
        }
    }
}

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
}

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
pub struct World {
    time: VirtualTime,
    engine: Engine,
    device: SimDevice,
    setup: Setup,
    clients: Vec<Option<Client>>,
    /// Outcomes by number of the client, which is its session's less one.
    outcomes: Vec<ClientOutcome>,
    shares: Shares,
    charges: Charges,
    lag: Lag,
    story: Story,
    finished: Vec<Finished>,
    launches: (u64, u64),
    accepted: u64,
    random: Random,
}

/// What stands between the engine and the device: nothing, or a double that breaks a rule.
pub type Between = fn(SimBackend) -> Box<dyn Backend>;

impl World {
    /// An engine with its device; clients come when their time is there.
    pub fn new(setup: Setup, seed: u64, between: Between) -> World {
        let time = VirtualTime::default();
        let backend = SimBackend::new(setup.model.clone(), Box::new(time.clone()));
        let device = backend.device();
        device.keep_log();
        let settings = Settings {
            epoch: 1,
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
        World {
            engine: Engine::new(between(backend), clock, settings),
            device,
            time,
            clients: setup.clients.iter().map(|_| None).collect(),
            outcomes: setup
                .clients
                .iter()
                .map(|_| ClientOutcome::default())
                .collect(),
            shares: Shares::new(),
            charges: Charges::default(),
            lag: Lag::new(setup.lag_bound_ns),
            story: Story::new(setup.whole_story),
            finished: Vec::new(),
            launches: (0, 0),
            accepted: 0,
            random: Random::new(seed),
            setup,
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Outcome, Box<Failure>> {
        let ran = self.run_checked();
        match ran {
            Ok(()) => Ok(Outcome {
                digest: self.story.digest(),
                took_ns: self.time.now_ns(),
                busy_ns: self.device.busy_ns(),
                launches: self.launches.0,
                instances: self.launches.1,
                clients: self.outcomes,
                lag_ns: self.lag.largest_ns,
                story: match self.setup.whole_story {
                    true => self.story.tail(),
                    false => Vec::new(),
                },
            }),
            Err(violation) => Err(Box::new(Failure {
                violation,
                at_ns: self.time.now_ns(),
                story: self.story.tail(),
            })),
        }
    }

    fn run_checked(&mut self) -> Result<(), Violation> {
        self.connect_all().map_err(|error| {
            Violation::new(
                Check::NoFailure,
                format!("a client cannot connect: {error}"),
            )
        })?;
        self.go_until(Some(self.setup.horizon_ns))?;
        self.note_charges();
        let now_ns = self.time.now_ns();
        for client in self.clients.iter_mut().flatten() {
            client.stop(now_ns);
        }
        self.go_until(None)?;
        self.settle()?;
        for number in 0..self.clients.len() {
            self.leave(number, false)?;
        }
        self.check_leftovers()
    }

    fn connect_all(&mut self) -> Result<(), WireError> {
        for number in 0..self.clients.len() {
            let spec = self.setup.clients[number].clone();
            let random = self.random.fork();
            let session = number as u64 + 1;
            let share = Share {
                class: spec.class,
                weight: spec.weight,
                tenant_weight: spec.tenant_weight,
            };
            self.shares.insert(SessionId(session), share);
            let client = Client::connect(&mut self.engine, session, spec, random)?;
            self.clients[number] = Some(client);
            self.story.add(self.time.now_ns(), Event::Came { session });
        }
        Ok(())
    }

    /// Goes on until a time, or until all clients are quiet.
    fn go_until(&mut self, horizon_ns: Option<u64>) -> Result<(), Violation> {
        let latest_ns = match horizon_ns {
            Some(horizon_ns) => horizon_ns,
            None => self.time.now_ns().saturating_add(DRAIN_NS),
        };
        let mut turns = 0;
        let mut last_ns = u64::MAX;
        loop {
            let now_ns = self.time.now_ns();
            turns = if now_ns == last_ns { turns + 1 } else { 0 };
            last_ns = now_ns;
            if turns > TURNS_MAX {
                return Err(self.stuck("the engine turns and turns, and time stands still"));
            }
            self.let_clients_act(now_ns);
            if self.turn()? {
                continue;
            }
            let quiet = self.clients.iter().flatten().all(Client::is_quiet);
            if horizon_ns.is_none() && quiet {
                return Ok(());
            }
            let now_ns = self.time.now_ns();
            match self.next_ns() {
                Some(next_ns) if next_ns > latest_ns => {
                    if horizon_ns.is_some() {
                        self.time.advance_to(latest_ns);
                        return Ok(());
                    }
                    return Err(self.stuck("what was asked for is not done within a minute"));
                }
                Some(next_ns) => self.rest_until(now_ns, next_ns),
                None if horizon_ns.is_some() => return Ok(()),
                None => return Err(self.stuck("nothing is due, and requests have no outcome")),
            }
        }
    }

    fn stuck(&self, text: &str) -> Violation {
        let waiting = self
            .clients
            .iter()
            .flatten()
            .filter(|client| !client.is_quiet());
        let sessions: Vec<String> = waiting.map(|client| client.session.0.to_string()).collect();
        let text = format!("{text}: sessions {} wait", sessions.join(", "));
        Violation::new(Check::Liveness, text)
    }

    fn let_clients_act(&mut self, now_ns: u64) {
        for client in self.clients.iter_mut().flatten() {
            // A client that can go on at once does, a bounded number of times.
            if client.next_ns.is_some_and(|next_ns| next_ns <= now_ns) {
                client.act(&mut self.engine, now_ns);
            }
        }
    }

    /// One turn of the engine, and what it leads to. False if there was nothing to do.
    fn turn(&mut self) -> Result<bool, Violation> {
        let progress = self.engine.tick();
        if progress == Progress::Report {
            // What a supervisor would keep.
            drop(self.engine.take_sealed());
        }
        drop(self.engine.take_unsealed());
        if progress == Progress::Idle {
            return Ok(false);
        }
        let counters = self.engine.counters();
        let accepted = counters.requests_accepted - self.accepted;
        let launches = counters.launches - self.launches.0.min(counters.launches);
        self.accepted = counters.requests_accepted;
        let now_ns = self.time.now_ns();
        if accepted > 0 {
            self.story
                .add(now_ns, Event::Accepted { requests: accepted });
        }
        let host = &self.setup.host;
        let cost_ns = host.turn_ns + accepted * host.record_ns + launches * host.launch_ns;
        self.note_launches();
        self.check_books(false)?;
        self.let_clients_look(now_ns)?;
        self.time.advance_to(now_ns + cost_ns);
        Ok(true)
    }

    fn note_launches(&mut self) {
        for launched in self.device.take_log() {
            self.launches.0 += 1;
            self.launches.1 += u64::from(launched.instances);
            self.story.add(
                launched.over_ns,
                Event::Launched {
                    launch: launched.id.0,
                    instances: launched.instances,
                    operations: launched.operations,
                    handed_ns: launched.handed_ns,
                    busy_ns: launched.busy_ns,
                    slices: launched.slices,
                },
            );
        }
    }

    fn check_books(&mut self, settled: bool) -> Result<(), Violation> {
        if let Some(breach) = self.device.take_breaches().first() {
            return Err(Violation::new(Check::BackendRules, breach.to_string()));
        }
        let books = self.engine.books();
        self.charges.check(&books, self.device.busy_ns(), settled)?;
        self.lag.look(&books, &self.shares)
    }

    fn let_clients_look(&mut self, now_ns: u64) -> Result<(), Violation> {
        for (number, client) in self.clients.iter_mut().enumerate() {
            let Some(client) = client else { continue };
            client.look(now_ns, self.setup.host.wake_ns, &mut self.finished)?;
            for finished in self.finished.drain(..) {
                let code = finished.failure.map_or(0, |(_, code)| code);
                self.story.add(
                    now_ns,
                    Event::Finished {
                        session: client.session.0,
                        requests: finished.requests,
                        took_ns: finished.over_ns - finished.begun_ns,
                        code,
                    },
                );
                if let (Some((value, code)), false) = (finished.failure, self.setup.may_fail) {
                    let text = format!(
                        "request {value} of session {} failed with code {code}",
                        client.session.0
                    );
                    return Err(Violation::new(Check::NoFailure, text));
                }
                self.outcomes[number].note(&finished, self.setup.horizon_ns);
            }
        }
        Ok(())
    }

    /// When anything happens next.
    fn next_ns(&self) -> Option<u64> {
        let clients = self.clients.iter().flatten();
        let clients = clients.filter_map(|client| client.next_ns).min();
        let device = self.device.next_ns(self.time.now_ns());
        let engine = self.engine.next_timer_ns();
        clients.into_iter().chain(device).chain(engine).min()
    }

    /// Nothing happens until then; an engine that has nothing under way sleeps after a while.
    fn rest_until(&mut self, now_ns: u64, next_ns: u64) {
        let sleeps_ns = now_ns + self.setup.host.park_ns;
        if sleeps_ns < next_ns && self.engine.prepare_park() {
            self.time.advance_to(sleeps_ns);
            self.story.add(sleeps_ns, Event::Parked);
            self.time.advance_to(next_ns);
            self.engine.awake();
            return;
        }
        // What is due now and was not done is looked at again a moment later.
        self.time.advance_to(next_ns.max(now_ns + 1));
    }

    fn note_charges(&mut self) {
        for session in self.engine.books().sessions {
            if let Some(outcome) = self.outcomes.get_mut(session.id.0 as usize - 1) {
                outcome.charged_ns = session.device_ns;
            }
        }
    }

    /// Lets launches end that nobody waits for.
    fn settle(&mut self) -> Result<(), Violation> {
        while let Some(next_ns) = self.device.next_ns(self.time.now_ns()) {
            self.time.advance_to(next_ns);
            self.turn()?;
        }
        self.check_books(true)
    }

    /// A client goes, or dies.
    fn leave(&mut self, number: usize, died: bool) -> Result<(), Violation> {
        let Some(client) = self.clients[number].take() else {
            return Ok(());
        };
        let books = self.engine.books();
        let session = books
            .sessions
            .iter()
            .find(|books| books.id == client.session);
        let charged_ns = session.map_or(0, |session| session.device_ns);
        let accepted = session.map_or(0, |session| session.accepted);
        let running = self.device.next_ns(self.time.now_ns()).is_some();
        self.charges.left(charged_ns, running);
        let totals = self.engine.detach(client.session);
        let event = Event::Went {
            session: client.session.0,
            died,
        };
        self.story.add(self.time.now_ns(), event);
        outcomes::compare(&totals, accepted, &client.outcomes, died)
    }

    fn check_leftovers(&mut self) -> Result<(), Violation> {
        self.check_books(true)?;
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

impl ClientOutcome {
    fn note(&mut self, finished: &Finished, horizon_ns: u64) {
        self.requests += finished.requests;
        self.failed += u64::from(finished.failure.is_some());
        let Some(kind) = finished.kind else { return };
        if finished.over_ns <= horizon_ns {
            *self.jobs.entry(kind).or_default() += 1;
        }
        self.latencies_ns.push(finished.over_ns - finished.begun_ns);
    }
}
