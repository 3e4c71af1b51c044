//! The engine, its device and its clients in one virtual time: whoever is due acts, the engine takes turns until nothing is left
//! to do, and then time goes to the next thing that is due.
//!
//! The engine's own work takes time too ([`Host`](crate::Host)), so clients go on while it works, as they do on another core.

mod epoch;
mod faults;

use tensord_daemon::engine_process::{EngineCore, Progress, SessionId};
use tensord_plan::Backend;
use tensord_shm::error::Code;
use tensord_sim::{SimBackend, Time, VirtualTime};

use crate::checks::lag::Share;
use crate::checks::{Check, Violation};
use crate::client::{Client, Finished};
use crate::outcome::{ClientOutcome, Failure, Outcome};
use crate::random::Random;
use crate::setup::Setup;
use crate::story::{Event, Story};
use epoch::Epoch;

/// Turns without anything that would move time on: more is an engine that turns for ever.
const TURNS_MAX: u64 = 100_000;
/// Virtual time within which everything ends once nobody asks for more.
const DRAIN_NS: u64 = 60_000_000_000;
/// Codes with which requests fail where that is allowed: memory is short, an operand failed, the request was cancelled, nobody holds the constant.
const ALLOWED: [Code; 4] = [
    Code::OutOfMemory,
    Code::Poisoned,
    Code::Cancelled,
    Code::NotHeld,
];

/// What stands between the engine and the device: nothing, or a double that breaks a rule.
pub type Between = fn(SimBackend) -> Box<dyn Backend>;

/// See the file's head.
pub struct World {
    time: VirtualTime,
    between: Between,
    epoch: Epoch,
    setup: Setup,
    clients: Vec<Option<Client>>,
    outcomes: Vec<ClientOutcome>,
    /// The next fault.
    fault: usize,
    last_session: u64,
    story: Story,
    finished: Vec<Finished>,
    random: Random,
    /// Launches, their instances, and device time of all epochs.
    launches: (u64, u64, u64),
    lag_ns: (u64, u64),
}

impl World {
    /// An engine with its device; clients come when their time is there.
    pub fn new(setup: Setup, seed: u64, between: Between) -> World {
        let time = VirtualTime::default();
        World {
            epoch: Epoch::new(1, &setup, &time, between),
            between,
            time,
            clients: setup.clients.iter().map(|_| None).collect(),
            outcomes: setup
                .clients
                .iter()
                .map(|_| ClientOutcome::default())
                .collect(),
            fault: 0,
            last_session: 0,
            story: Story::new(setup.whole_story),
            finished: Vec::new(),
            random: Random::new(seed),
            launches: (0, 0, 0),
            lag_ns: (0, 0),
            setup,
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Outcome, Box<Failure>> {
        let ran = self.run_checked();
        self.close_epoch();
        match ran {
            Ok(()) => Ok(Outcome {
                digest: self.story.digest(),
                took_ns: self.time.now_ns(),
                launches: self.launches.0,
                instances: self.launches.1,
                busy_ns: self.launches.2,
                clients: self.outcomes,
                lag_ns: self.lag_ns,
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
        for number in 0..self.clients.len() {
            self.connect(number)?;
        }
        self.go_until(Some(self.setup.horizon_ns))?;
        self.note_charges();
        self.end_faults();
        let now_ns = self.time.now_ns();
        for client in self.clients.iter_mut().flatten() {
            client.stop(now_ns);
        }
        self.go_until(None)?;
        self.settle()?;
        for number in 0..self.clients.len() {
            let odd = |client: &Client| client.is_broken() || client.spec.never_reads;
            let odd = self.clients[number].as_ref().is_some_and(odd);
            self.leave(number, odd)?;
        }
        // An engine at rest gives back what nobody has any more.
        self.settle()?;
        self.epoch.check_leftovers()
    }

    /// A client comes, with a session of its own.
    fn connect(&mut self, number: usize) -> Result<(), Violation> {
        self.last_session += 1;
        let session = self.last_session;
        let now_ns = self.time.now_ns();
        let mut spec = self.setup.clients[number].clone();
        spec.starts_ns = spec.starts_ns.max(now_ns);
        if now_ns >= self.setup.horizon_ns {
            spec.stops_ns = now_ns;
        }
        let share = Share {
            class: spec.class,
            weight: spec.weight,
            tenant_weight: spec.tenant_weight,
        };
        self.epoch.shares.insert(SessionId(session), share);
        let random = self.random.fork();
        let client = Client::connect(&mut self.epoch.engine, session, spec, random);
        let client = client.map_err(|error| {
            let text = format!("client {number} cannot connect: {error}");
            Violation::new(Check::NoFailure, text)
        })?;
        self.clients[number] = Some(client);
        self.story.add(now_ns, Event::Came { session });
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
            self.make_faults(now_ns)?;
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
                client.act(&mut self.epoch.engine, now_ns);
            }
        }
    }

    /// One turn of the engine, and what it leads to. False if there was nothing to do.
    fn turn(&mut self) -> Result<bool, Violation> {
        let progress = self.epoch.engine.tick();
        if self.epoch.engine.is_lost() {
            self.next_epoch()?;
            return Ok(true);
        }
        // What a supervisor would keep, and forget.
        drop(self.epoch.engine.take_sealed());
        drop(self.epoch.engine.take_unsealed());
        self.end_broken()?;
        if progress == Progress::Idle {
            return Ok(false);
        }
        let now_ns = self.time.now_ns();
        let (accepted, cost_ns) = self.epoch.note_work(&self.setup.host);
        if accepted > 0 {
            let requests = accepted;
            self.story.add(now_ns, Event::Accepted { requests });
        }
        self.note_launches();
        self.epoch.check(false)?;
        self.let_clients_look(now_ns)?;
        self.time.advance_to(now_ns + cost_ns);
        Ok(true)
    }

    fn note_launches(&mut self) {
        for launched in self.epoch.device.take_log() {
            self.launches.0 += 1;
            self.launches.1 += u64::from(launched.instances);
            let event = Event::Launched {
                launch: launched.id.0,
                instances: launched.instances,
                operations: launched.operations,
                handed_ns: launched.handed_ns,
                busy_ns: launched.busy_ns,
                slices: launched.slices,
            };
            self.story.add(launched.over_ns, event);
        }
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
                let may_fail = self.setup.may_fail || client.spec.may_fail;
                let allowed =
                    |code: u32| may_fail && ALLOWED.iter().any(|&allowed| allowed as u32 == code);
                if let Some((value, code)) = finished.failure
                    && !allowed(code)
                {
                    let name = Code::from_wire(code).map_or("an unknown code", Code::name);
                    let text = format!(
                        "request {value} of session {} failed: {name}",
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
        let device = self.epoch.device.next_ns(self.time.now_ns());
        let engine = self.epoch.engine.next_timer_ns();
        let fault = self.next_fault_ns();
        [clients, device, engine, fault].into_iter().flatten().min()
    }

    /// Nothing happens until then; an engine that has nothing under way sleeps after a while.
    fn rest_until(&mut self, now_ns: u64, next_ns: u64) {
        let sleeps_ns = now_ns + self.setup.host.park_ns;
        if sleeps_ns < next_ns && self.epoch.engine.prepare_park() {
            self.time.advance_to(sleeps_ns);
            self.story.add(sleeps_ns, Event::Parked);
            self.time.advance_to(next_ns);
            self.epoch.engine.awake();
            return;
        }
        // What is due now and was not done is looked at again a moment later.
        self.time.advance_to(next_ns.max(now_ns + 1));
    }

    /// What sessions were charged until now is what counts.
    fn note_charges(&mut self) {
        let books = self.epoch.engine.books();
        for (client, outcome) in self.clients.iter().zip(&mut self.outcomes) {
            let Some(client) = client else { continue };
            let session = books
                .sessions
                .iter()
                .find(|books| books.id == client.session);
            outcome.charged_ns += session.map_or(0, |session| session.device_ns);
        }
    }

    /// Lets launches end that nobody waits for.
    fn settle(&mut self) -> Result<(), Violation> {
        while let Some(next_ns) = self.epoch.device.next_ns(self.time.now_ns()) {
            self.time.advance_to(next_ns);
            self.turn()?;
        }
        self.turn()?;
        self.epoch.check(true)
    }

    /// A client goes, or dies.
    fn leave(&mut self, number: usize, died: bool) -> Result<(), Violation> {
        let Some(mut client) = self.clients[number].take() else {
            return Ok(());
        };
        self.outcomes[number].recording = client.recording();
        let now_ns = self.time.now_ns();
        let charged_ns = self.epoch.detach(&client, now_ns, died)?;
        if now_ns < self.setup.horizon_ns {
            self.outcomes[number].charged_ns += charged_ns;
        }
        let session = client.session.0;
        self.story.add(now_ns, Event::Went { session, died });
        Ok(())
    }
}
