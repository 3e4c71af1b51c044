//! The supervisor: starts broker and engines, starts them again when they die, and keeps what must outlive them.
//!
//! It holds the listening sockets, a copy of each accepted socket with what the broker wants kept of its session, and
//! the sealed memory of constants. It accepts connections and reads no client's bytes: what a client sends is read by
//! the broker alone, and what a broker wants kept is text that nobody here looks into.
//!
//! # Invariants
//! A connection is kept before the broker hears of it. No wait for a child: links send when they can. Each engine start
//! has an epoch that no engine had before.

mod children;
mod listen;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tensord_shm::control::{ControlError, Message, Reply};
use tensord_shm::control_socket::send_datagram;
use tensord_shm::error::Code;

use crate::client_log;
use crate::config::{Config, Isolation, TenantRule};
use crate::limits::{
    ACCEPTS_PER_TURN, CONSTANTS_KEPT_MAX, FDS_PER_SESSION, FDS_SPARE, KEPT_BYTES_MAX,
};
use crate::link::{FromBroker, FromEngine, Link, ToBroker, ToEngine};
use crate::notify;
use crate::sandbox::{self, Grant, Role};

use children::{Restarts, Running, cause_of};
use listen::Listener;

/// What the command line says beyond the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration's file.
    pub config_path: Option<PathBuf>,
    /// The first tenants' socket.
    pub socket: Option<PathBuf>,
    /// The device.
    pub device: Option<String>,
    /// The log filter.
    pub log: Option<String>,
    /// Seconds without a session after which the daemon ends.
    pub exit_idle_s: Option<u32>,
}

impl Options {
    /// The configuration with what the command line says.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = self
            .config_path
            .as_deref()
            .map(Config::read)
            .transpose()?
            .unwrap_or_default();
        if let Some(socket) = &self.socket {
            config.set_socket(std::path::absolute(socket)?);
        }
        if let Some(device) = &self.device {
            config.device.clone_from(device);
        }
        config.exit_idle_s = self.exit_idle_s.unwrap_or(config.exit_idle_s);
        config.check()?;
        Ok(config)
    }
}

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
    if config.sandbox {
        sandbox::confine_supervisor(&own_paths(options, &config, &listeners))?;
    }
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

/// An engine over all its epochs.
struct Engine {
    tenant: Option<u32>,
    epoch: u32,
    running: Option<Running>,
    restarts: Restarts,
    started: bool,
    drained: bool,
}

impl Engine {
    fn new(tenant: Option<u32>) -> Engine {
        Engine {
            tenant,
            epoch: 0,
            running: None,
            restarts: Restarts::default(),
            started: false,
            drained: false,
        }
    }
}

/// An accepted connection and what is kept of its session.
struct Connection {
    socket: OwnedFd,
    admin: bool,
    rule: TenantRule,
    /// Whether a broker has heard of it.
    known: bool,
    kept: BTreeMap<u64, (String, Vec<OwnedFd>)>,
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

    // Listening.

    fn add_listener(&mut self, listener: Listener) -> anyhow::Result<()> {
        let number = self.listener_next;
        self.listener_next += 1;
        anyhow::ensure!(
            FIRST_LISTENER + number < FIRST_ENGINE,
            "too many listening sockets over the daemon's life"
        );
        let token = Token(FIRST_LISTENER + number);
        self.poll
            .registry()
            .register(&mut SourceFd(&listener.raw()), token, Interest::READABLE)?;
        self.listeners.insert(number, listener);
        Ok(())
    }

    /// Takes connections from one socket, a bounded number of them at a time.
    fn accept(&mut self, number: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    client_log!(warn, "a connection was not accepted: {error}");
                    break;
                }
            };
            let (admin, rule) = (listener.admin, listener.rule.clone());
            self.admit(socket, admin, rule);
        }
        // The poll tells of news alone: what is left has to be asked for again.
        let Some(listener) = self.listeners.get(&number) else {
            return;
        };
        let token = Token(FIRST_LISTENER + number);
        if let Err(error) = self.poll.registry().reregister(
            &mut SourceFd(&listener.raw()),
            token,
            Interest::READABLE,
        ) {
            tracing::error!("a listening socket cannot be watched any more: {error}");
        }
    }

    fn admit(&mut self, socket: OwnedFd, admin: bool, rule: TenantRule) {
        // Some room beyond the sessions, so that whoever is one too many is told so by the broker.
        let room = self.config.limits.sessions as usize + FDS_SPARE as usize;
        if self.connections.len() >= room && !admin {
            let text = format!(
                "{} connections are open, and the daemon takes no more",
                self.connections.len()
            );
            client_log!(warn, "a connection was refused: {text}");
            let error = Message {
                sequence: 0,
                body: Reply::Error(ControlError::new(Code::Limit, text)),
            };
            // Whoever does not take it now hears the hang-up alone.
            let _ = send_datagram(socket.as_fd(), &error.encode(), &[]);
            return;
        }
        let session = self.session_next;
        self.session_next += 1;
        self.idle_since = None;
        self.connections.insert(
            session,
            Connection {
                socket,
                admin,
                rule,
                known: false,
                kept: BTreeMap::new(),
            },
        );
        if self.broker.is_some() {
            self.tell_of(session);
        }
    }

    /// Tells the broker of a connection, with all that is kept of it.
    fn tell_of(&mut self, session: u64) {
        let (Some(broker), Some(connection)) =
            (&mut self.broker, self.connections.get_mut(&session))
        else {
            return;
        };
        let (admin, rule, known) = (connection.admin, connection.rule.clone(), connection.known);
        connection.known = true;
        let mut told = broker.link.send(
            &ToBroker::Client {
                session,
                admin,
                rule,
                known,
            },
            &[connection.socket.as_fd()],
        );
        for (key, (record, fds)) in &connection.kept {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            let kept = ToBroker::Kept {
                session,
                key: *key,
                record: record.clone(),
            };
            told = told.and_then(|()| broker.link.send(&kept, &fds));
        }
        // A broker that is gone is noticed after the turn, and the next one is told everything.
        drop(told);
    }

    // The broker.

    fn start_broker(&mut self) {
        self.broker_ready = false;
        let running =
            Running::start(Role::Broker, self.options.log.as_deref()).and_then(|running| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(
                    &mut SourceFd(&running.link.raw()),
                    BROKER,
                    interest,
                )?;
                Ok(running)
            });
        match running {
            Ok(running) => self.broker = Some(running),
            Err(error) => {
                let pause = self.broker_restarts.failed();
                tracing::error!("the broker cannot be started, next try in {pause:?}: {error}");
                return;
            }
        }
        self.tell_broker(&ToBroker::Configure(Box::new(self.config.clone())), &[]);
        for (id, name) in self.tenants.clone() {
            self.tell_broker(&ToBroker::Tenant { id, name }, &[]);
        }
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.connect(engine);
        }
        let sessions: Vec<u64> = self.connections.keys().copied().collect();
        for session in sessions {
            self.tell_of(session);
        }
        self.tell_broker(&ToBroker::Ready, &[]);
        if self.drain_until.is_some() {
            self.tell_broker(&ToBroker::Drain, &[]);
        }
    }

    fn tell_broker(&mut self, message: &ToBroker, fds: &[BorrowedFd<'_>]) {
        if let Some(broker) = &mut self.broker {
            // A broker that is gone is noticed after the turn, and the next one is told everything.
            let _ = broker.link.send(message, fds);
        }
    }

    fn hear_broker(&mut self) {
        let Some(broker) = &mut self.broker else {
            return;
        };
        let _ = broker.link.flush();
        let (messages, _) = broker.link.receive_all::<FromBroker>();
        for (message, fds) in messages {
            self.obey_broker(message, fds);
        }
    }

    fn obey_broker(&mut self, message: FromBroker, fds: Vec<OwnedFd>) {
        match message {
            FromBroker::Ready => {
                self.broker_ready = true;
                self.announce();
            }
            FromBroker::Keep {
                session,
                key,
                record,
            } => {
                if record.len() > KEPT_BYTES_MAX {
                    tracing::error!(session, "a record of {} bytes is not kept", record.len());
                } else if let Some(connection) = self.connections.get_mut(&session) {
                    connection.kept.insert(key, (record, fds));
                }
            }
            FromBroker::Tenant { id, name } => drop(self.tenants.insert(id, name)),
            FromBroker::TenantGone { id } => self.forget_tenant(id),
            FromBroker::Forget { session } => {
                self.connections.remove(&session);
                if self.connections.is_empty() {
                    self.idle_since = Some(Instant::now());
                }
            }
            FromBroker::WantEngine { tenant } => {
                if !self
                    .engines
                    .values()
                    .any(|engine| engine.tenant == Some(tenant))
                    && self.drain_until.is_none()
                {
                    let number = self.engine_next;
                    self.engine_next += 1;
                    self.engines.insert(number, Engine::new(Some(tenant)));
                    self.start_engine(number);
                }
            }
            FromBroker::Drain => self.begin_drain(),
        }
    }

    fn forget_tenant(&mut self, id: u32) {
        self.tenants.remove(&id);
        self.constants.retain(|(tenant, _), _| *tenant != id);
        let own: Vec<u32> = self
            .engines
            .iter()
            .filter(|(_, engine)| engine.tenant == Some(id))
            .map(|(number, _)| *number)
            .collect();
        for number in own {
            if let Some(engine) = self.engines.remove(&number) {
                self.stop_engine(number, engine);
            }
        }
    }

    fn stop_engine(&mut self, number: u32, engine: Engine) {
        let Some(mut running) = engine.running else {
            return;
        };
        let _ = self
            .poll
            .registry()
            .deregister(&mut SourceFd(&running.link.raw()));
        running.kill();
        tracing::info!(
            engine = number,
            "the engine of a tenant without sessions ended"
        );
        let gone = ToBroker::EngineGone {
            engine: number,
            epoch: engine.epoch,
            cause: "its tenant has no session".to_owned(),
            restarts: false,
        };
        self.tell_broker(&gone, &[]);
    }

    // Engines.

    fn start_engine(&mut self, number: u32) {
        let Some(engine) = self.engines.get_mut(&number) else {
            return;
        };
        let running =
            Running::start(Role::Engine, self.options.log.as_deref()).and_then(|running| {
                let token = Token(FIRST_ENGINE + number as usize);
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(
                    &mut SourceFd(&running.link.raw()),
                    token,
                    interest,
                )?;
                Ok(running)
            });
        match running {
            Ok(running) => engine.running = Some(running),
            Err(error) => {
                let pause = engine.restarts.failed();
                tracing::error!(
                    engine = number,
                    "an engine cannot be started, next try in {pause:?}: {error}"
                );
                return;
            }
        }
        self.epoch += 1;
        engine.epoch = self.epoch;
        engine.started = false;
        engine.drained = false;
        let (epoch, tenant) = (engine.epoch, engine.tenant);
        self.tell_engine(
            number,
            &ToEngine::Configure(Box::new(self.config.clone())),
            &[],
        );
        let start = ToEngine::Start {
            engine: number,
            epoch,
            device: self.config.device.clone(),
        };
        self.tell_engine(number, &start, &[]);
        let constants = std::mem::take(&mut self.constants);
        for ((owner, hash), memory) in constants
            .iter()
            .filter(|((owner, _), _)| tenant.is_none_or(|t| t == *owner))
        {
            self.tell_engine(
                number,
                &ToEngine::Constant {
                    tenant: *owner,
                    hash: *hash,
                },
                &[memory.as_fd()],
            );
        }
        self.constants = constants;
        if self.drain_until.is_some() {
            self.tell_engine(number, &ToEngine::Drain, &[]);
        }
        self.connect(number);
    }

    /// Gives broker and engine a link to each other.
    fn connect(&mut self, number: u32) {
        let Some(engine) = self.engines.get(&number) else {
            return;
        };
        let (Some(running), true) = (&engine.running, self.broker.is_some()) else {
            return;
        };
        let came = ToBroker::Engine {
            engine: number,
            device: self.config.device.clone(),
            tenant: engine.tenant,
            epoch: engine.epoch,
            pid: running.pid(),
        };
        match children::link_pair() {
            Ok((broker_end, engine_end)) => {
                self.tell_engine(number, &ToEngine::Broker, &[engine_end.as_fd()]);
                self.tell_broker(&came, &[broker_end.as_fd()]);
            }
            Err(error) => tracing::error!("broker and engine cannot be linked: {error}"),
        }
    }

    fn tell_engine(&mut self, number: u32, message: &ToEngine, fds: &[BorrowedFd<'_>]) {
        if let Some(running) = self
            .engines
            .get_mut(&number)
            .and_then(|engine| engine.running.as_mut())
        {
            // An engine that is gone is noticed after the turn.
            let _ = running.link.send(message, fds);
        }
    }

    fn hear_engine(&mut self, number: u32) {
        let Some(running) = self
            .engines
            .get_mut(&number)
            .and_then(|engine| engine.running.as_mut())
        else {
            return;
        };
        let _ = running.link.flush();
        let (messages, _) = running.link.receive_all::<FromEngine>();
        for (message, mut fds) in messages {
            match message {
                FromEngine::Started => {
                    if let Some(engine) = self.engines.get_mut(&number) {
                        engine.started = true;
                    }
                    self.announce();
                }
                FromEngine::Sealed { tenant, hash } => {
                    let has_room = self.constants.len() < CONSTANTS_KEPT_MAX;
                    if let (Some(memory), true) =
                        (fds.pop(), has_room && self.tenants.contains_key(&tenant))
                    {
                        self.constants.insert((tenant, hash), memory);
                    } else {
                        tracing::debug!(
                            tenant,
                            "a constant is not kept: clients send it again in the next epoch"
                        );
                    }
                }
                FromEngine::Unsealed { tenant, hash } => {
                    drop(self.constants.remove(&(tenant, hash)))
                }
                FromEngine::Drained => {
                    if let Some(engine) = self.engines.get_mut(&number) {
                        engine.drained = true;
                    }
                }
            }
        }
    }

    // All of them.

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
        if let Some(status) = self.broker.as_mut().and_then(Running::ended) {
            // What it wanted kept before it ended is still there to be read.
            self.hear_broker();
            if let Some(running) = self.broker.take() {
                let _ = self
                    .poll
                    .registry()
                    .deregister(&mut SourceFd(&running.link.raw()));
                let pause = self.broker_restarts.died(&running);
                tracing::warn!(
                    "{}; the next one starts in {pause:?}",
                    cause_of(Role::Broker, status)
                );
            }
        }
        let numbers: Vec<u32> = self.engines.keys().copied().collect();
        for number in numbers {
            self.keep_engine_running(number);
        }
        if self.broker.is_none() && self.broker_restarts.take_due() {
            self.start_broker();
        }
    }

    fn keep_engine_running(&mut self, number: u32) {
        let Some(engine) = self.engines.get_mut(&number) else {
            return;
        };
        if let Some(status) = engine.running.as_mut().and_then(Running::ended) {
            self.hear_engine(number);
            let Some(engine) = self.engines.get_mut(&number) else {
                return;
            };
            let Some(running) = engine.running.take() else {
                return;
            };
            let _ = self
                .poll
                .registry()
                .deregister(&mut SourceFd(&running.link.raw()));
            let cause = cause_of(Role::Engine, status);
            let pause = engine.restarts.died(&running);
            let epoch = engine.epoch;
            tracing::warn!(
                engine = number,
                epoch,
                "{cause}; the next one starts in {pause:?}"
            );
            self.tell_broker(
                &ToBroker::EngineGone {
                    engine: number,
                    epoch,
                    cause,
                    restarts: true,
                },
                &[],
            );
        }
        let Some(engine) = self.engines.get_mut(&number) else {
            return;
        };
        if engine.running.is_none() && engine.restarts.take_due() {
            self.start_engine(number);
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

    fn reload(&mut self) {
        notify::reloading();
        match self.options.config() {
            Ok(config) => self.apply(config),
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
        notify::ready();
    }

    fn apply(&mut self, mut config: Config) {
        let fixed = [
            ("device", config.device != self.config.device),
            ("isolation", config.isolation != self.config.isolation),
            ("admin_path", config.admin_path != self.config.admin_path),
            ("engine", config.engine != self.config.engine),
            ("sandbox", config.sandbox != self.config.sandbox),
        ];
        for (field, _) in fixed.iter().filter(|(_, changed)| *changed) {
            tracing::warn!(field, "a changed field needs a restart and stays as it was");
        }
        let before = &self.config;
        config.device.clone_from(&before.device);
        config.isolation = before.isolation;
        config.admin_path.clone_from(&before.admin_path);
        config.engine.clone_from(&before.engine);
        config.sandbox = before.sandbox;
        crate::log::set_filter(&config.log);
        if config.listen != self.config.listen {
            self.listen_anew(&config);
        }
        self.config = config;
        let configure = Box::new(self.config.clone());
        self.tell_broker(&ToBroker::Configure(configure.clone()), &[]);
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.tell_engine(engine, &ToEngine::Configure(configure.clone()), &[]);
        }
        tracing::info!("configuration reloaded");
    }

    /// Opens sockets that are new and closes those that are gone; the administration socket stays.
    fn listen_anew(&mut self, config: &Config) {
        let wanted = config.sockets();
        self.listeners.retain(|_, listener| {
            let stays = listener.admin || wanted.iter().any(|entry| entry.path == listener.path);
            if !stays {
                tracing::info!(path = %listener.path.display(), "no longer listening");
                let _ = self
                    .poll
                    .registry()
                    .deregister(&mut SourceFd(&listener.raw()));
            }
            stays
        });
        for entry in wanted {
            if let Some(listener) = self
                .listeners
                .values_mut()
                .find(|listener| listener.path == entry.path)
            {
                listener.rule = entry.tenant;
                continue;
            }
            if let Err(error) =
                listen::open(&entry, false).and_then(|listener| self.add_listener(listener))
            {
                tracing::error!("{error:#}; a folder that had no socket at start needs a restart");
            }
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
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.tell_engine(engine, &ToEngine::Drain, &[]);
        }
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
        tracing::info!("ended");
        Ok(())
    }
}
