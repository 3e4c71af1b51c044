//! The supervisor: starts broker and engines, starts them again when they die, and keeps what must outlive them.
//!
//! It holds the listening sockets, a copy of each accepted socket with what the broker wants kept of its session, and
//! the sealed memory of constants. It accepts connections and reads no client's bytes: what a client sends is read by
//! the broker alone, and what a broker wants kept is text that nobody here looks into.
//!
//! # Invariants
//! A connection is kept before the broker hears of it. No wait for a child: links send when they can. Each engine start
//! has an epoch that no engine had before.

mod broker;
mod children;
mod configuration;
mod connections;
mod engines;
mod ledger;
mod listen;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::config::{Config, Isolation};
use crate::limits::{FDS_PER_SESSION, FDS_SPARE};
use crate::link::{Link, Steered, ToBroker, ToEngine};
use crate::notify;
use crate::sandbox::{self, Grant, Role};

use children::{Restarts, Running};
pub use configuration::Options;
use connections::Connection;
use engines::Engine;
use ledger::Ledger;
use listen::Listener;

/// What the poll watches, by token.
const SIGNALS: Token = Token(0);
const BROKER: Token = Token(1);
/// Listeners have tokens from here, by their number.
const FIRST_LISTENER: usize = 2;
/// Engines have tokens from here, by their number.
const FIRST_ENGINE: usize = 1 << 20;
/// Descriptors in flight can be what keeps a link from sending, and no event tells when that is over.
const LINK_RETRY: Duration = Duration::from_millis(5);

/// Runs the daemon until it was told to end and has drained.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = options.config()?;
    crate::log::set_filter(&config.log);
    raise_file_limit(&config)?;
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let listeners = listen::open_all(&config)?;
    let poll = Poll::new()?;
    poll.registry().register(
        &mut SourceFd(&signals.as_fd().as_raw_fd()),
        SIGNALS,
        Interest::READABLE,
    )?;
    let ledger_folder = ledger::folder(&config);
    if config.sandbox {
        let mut paths = own_paths(options, &config, &listeners);
        paths.extend(ledger_folder.clone().map(Grant::Files));
        sandbox::confine_supervisor(&paths)?;
    }
    let ledger = Ledger::open(ledger_folder);
    let mut supervisor = Supervisor {
        options: options.clone(),
        engine_next: u32::from(config.isolation == Isolation::Device),
        config,
        poll,
        signals,
        listeners: BTreeMap::new(),
        listener_next: 0,
        broker: None,
        broker_restarts: Restarts::default(),
        broker_ready: false,
        engines: BTreeMap::new(),
        epoch: 0,
        connections: BTreeMap::new(),
        session_next: 1,
        tenants: BTreeMap::new(),
        steering: BTreeMap::new(),
        ledger,
        constants: HashMap::new(),
        announced: false,
        drain_until: None,
        idle_since: Some(Instant::now()),
    };
    for listener in listeners {
        supervisor.add_listener(listener)?;
    }
    supervisor.start_broker();
    if supervisor.config.isolation == Isolation::Device {
        supervisor.engines.insert(0, Engine::new(None));
        supervisor.start_engine(0);
    }
    supervisor.serve()
}

/// Paths that only this daemon's configuration knows: folders of sockets, and its file for SIGHUP.
fn own_paths(options: &Options, config: &Config, listeners: &[Listener]) -> Vec<Grant> {
    let folder = |path: &std::path::Path| path.parent().map(std::path::Path::to_owned);
    let mut grants: Vec<Grant> = listeners
        .iter()
        .filter_map(|listener| folder(&listener.path))
        .map(Grant::Sockets)
        .collect();
    grants.extend(
        config
            .admin_path
            .as_deref()
            .and_then(folder)
            .map(Grant::Sockets),
    );
    grants.extend(options.config_path.clone().map(Grant::Read));
    // An editor replaces the file, so the rule is for its folder.
    grants.extend(
        options
            .config_path
            .as_deref()
            .and_then(folder)
            .map(Grant::Read),
    );
    grants
}

/// Raises the limit on open files to what the system allows; children inherit it.
fn raise_file_limit(config: &Config) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising RLIMIT_NOFILE")?;
    }
    let need = u64::from(config.limits.sessions) * FDS_PER_SESSION + FDS_SPARE;
    if hard < need {
        tracing::info!(
            "the limit of {hard} open files is short of the {need} that limits.sessions would need at its full"
        );
    }
    Ok(())
}

/// Starts a process and watches its link.
fn start_child(poll: &Poll, options: &Options, role: Role, token: Token) -> io::Result<Running> {
    let running = Running::start(role, options.log.as_deref())?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry()
        .register(&mut SourceFd(&running.link.raw()), token, interest)?;
    Ok(running)
}

/// Stops watching what is about to be closed.
fn unwatch(poll: &Poll, fd: RawFd) {
    // A descriptor that the poll does not know needs nothing more.
    let _ = poll.registry().deregister(&mut SourceFd(&fd));
}

struct Supervisor {
    options: Options,
    config: Config,
    poll: Poll,
    signals: SignalFd,
    listeners: BTreeMap<usize, Listener>,
    listener_next: usize,
    broker: Option<Running>,
    broker_restarts: Restarts,
    broker_ready: bool,
    engines: BTreeMap<u32, Engine>,
    engine_next: u32,
    epoch: u32,
    connections: BTreeMap<u64, Connection>,
    session_next: u64,
    tenants: BTreeMap<u32, String>,
    /// What the broker wants kept of what administrators have set.
    steering: BTreeMap<Steered, String>,
    /// Device time used in all.
    ledger: Ledger,
    constants: HashMap<(u32, [u8; 32]), OwnedFd>,
    /// Whether the service manager has been told that the daemon serves.
    announced: bool,
    drain_until: Option<Instant>,
    idle_since: Option<Instant>,
}

impl Supervisor {
    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            let tokens: Vec<Token> = events.iter().map(|event| event.token()).collect();
            for token in tokens {
                match token {
                    SIGNALS => self.take_signals()?,
                    BROKER => self.hear_broker(),
                    Token(token) if token >= FIRST_ENGINE => {
                        self.hear_engine(
                            u32::try_from(token - FIRST_ENGINE).expect("engines' tokens are small"),
                        );
                    }
                    Token(token) => self.accept(token - FIRST_LISTENER),
                }
            }
            self.flush_links();
            self.keep_running();
            self.ledger.save_if_due();
            if self.is_over() {
                return self.shut_down();
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let idle_end = match (self.config.exit_idle_s, self.idle_since) {
            (1.., Some(since)) => Some(since + Duration::from_secs(self.config.exit_idle_s.into())),
            _ => None,
        };
        let restarts = self
            .engines
            .values()
            .map(|engine| &engine.restarts)
            .chain([&self.broker_restarts]);
        let due = restarts
            .filter_map(Restarts::due)
            .chain(self.drain_until)
            .chain(idle_end)
            .min();
        let due = due.into_iter().chain(self.ledger.due()).min();
        let until_due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let links = self
            .engines
            .values()
            .filter_map(|e| e.running.as_ref())
            .chain(&self.broker);
        let retry = links
            .map(|running| &running.link)
            .any(Link::is_waiting)
            .then_some(LINK_RETRY);
        [until_due, retry].into_iter().flatten().min()
    }

    fn take_signals(&mut self) -> anyhow::Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.begin_drain(),
                Ok(Signal::SIGHUP) => self.reload(),
                // Who ended is looked at after every turn.
                _ => {}
            }
        }
        Ok(())
    }

    fn flush_links(&mut self) {
        let engines = self
            .engines
            .values_mut()
            .filter_map(|engine| engine.running.as_mut());
        for running in engines.chain(&mut self.broker) {
            // One that is gone is noticed right after.
            let _ = running.link.flush();
        }
    }

    /// Notices who has ended, and starts who is due.
    fn keep_running(&mut self) {
        self.notice_broker_end();
        let numbers: Vec<u32> = self.engines.keys().copied().collect();
        for number in numbers {
            self.keep_engine_running(number);
        }
        if self.broker.is_none() && self.broker_restarts.take_due() {
            self.start_broker();
        }
    }

    /// Tells the service manager once that broker and engine serve.
    fn announce(&mut self) {
        let engines_run = self.engines.values().all(|engine| engine.started);
        if !self.announced && self.broker_ready && engines_run {
            self.announced = true;
            notify::ready();
            tracing::info!(device = self.config.device, "tensord serves");
        }
    }

    fn begin_drain(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        tracing::info!(limit_s = self.config.drain_s, "draining");
        notify::stopping();
        self.drain_until = Some(Instant::now() + Duration::from_secs(self.config.drain_s.into()));
        self.tell_broker(&ToBroker::Drain, &[]);
        self.tell_engines(&ToEngine::Drain);
    }

    fn is_over(&mut self) -> bool {
        if let Some(until) = self.drain_until {
            let drained = self.engines.values().all(|engine| engine.drained);
            return drained || Instant::now() >= until;
        }
        match (self.config.exit_idle_s, self.idle_since) {
            (1.., Some(since))
                if since.elapsed() >= Duration::from_secs(self.config.exit_idle_s.into()) =>
            {
                tracing::info!("no session for {} s", self.config.exit_idle_s);
                true
            }
            _ => false,
        }
    }

    fn shut_down(&mut self) -> anyhow::Result<()> {
        if self.engines.values().any(|engine| !engine.drained) && self.drain_until.is_some() {
            tracing::warn!(
                "not everything was finished within {} s",
                self.config.drain_s
            );
        }
        // Sockets go first: nobody connects to a daemon that is ending.
        self.listeners.clear();
        for running in self
            .engines
            .values_mut()
            .filter_map(|engine| engine.running.as_mut())
            .chain(&mut self.broker)
        {
            running.kill();
        }
        // What they reported before they ended is there to be read.
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.hear_engine(engine);
        }
        self.ledger.close();
        tracing::info!("ended");
        Ok(())
    }
}
