//! The broker process: sockets, identity, sessions, limits, control. It touches no device.
//!
//! One thread, one event loop. Connections come from the supervisor, which keeps a copy of each; what a later broker
//! would need is kept there before a client is told of it. Shared memory is made here, mapped by the engine, closed to
//! other writers here, and then sent to the client. The folder in the order of a session's life: `identity` (who is
//! it), `session` (what it has), `requests` (what it asks), `epochs` (engines come and go), `stat` (what it sees).
//!
//! # Invariants
//! A client gets an answer only after what it was told is kept by the supervisor. Nothing that one client sends delays
//! another by more than [`MESSAGES_PER_TURN`] messages. No wait here is longer than a turn, except on the
//! supervisor's link, whose other end never waits for this one.

mod epochs;
mod identity;
mod quotas;
mod requests;
mod session;
mod stat;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{Shutdown, shutdown};
use tensord_shm::control::{
    ControlError, Level, MESSAGE_BYTES, Message, Reply, Request, Resource, sequence_of,
};
use tensord_shm::control_socket::receive_datagram;
use tensord_shm::error::Code;

use crate::account::{Account, Charge};
use crate::client_log;
use crate::config::{Config, Isolation};
use crate::limits::MESSAGES_PER_TURN;
use crate::link::{EngineOrder, FromBroker, Link, Steered, ToBroker, Totals};
use crate::sandbox::{self, Role};

use epochs::{End, Engine};
use identity::Identity;
use quotas::Steering;
use session::Session;
use stat::StatRound;

const SUPERVISOR: Token = Token(0);
/// Engines have tokens from here, by their number.
const FIRST_ENGINE: usize = 1;
/// Sessions have tokens from here, by their number; so there can be this many engines.
const FIRST_SESSION: usize = 1 << 20;
/// Descriptors in flight can be what keeps a link from sending, and no event tells when that is over.
const LINK_RETRY: Duration = Duration::from_millis(5);

/// Runs the broker process until the supervisor hangs up.
pub fn run() -> anyhow::Result<()> {
    let supervisor = Link::new(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let poll = Poll::new()?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry()
        .register(&mut SourceFd(&supervisor.raw()), SUPERVISOR, interest)?;
    let config = Config::default();
    let mut broker = Broker {
        poll,
        supervisor,
        root: Account::new(Level::Daemon, None),
        steering: BTreeMap::new(),
        config,
        identity: Identity::new(),
        confined: false,
        ready: false,
        draining: false,
        tenants: HashMap::new(),
        tenant_next: 1,
        engines: HashMap::new(),
        sessions: HashMap::new(),
        ending: HashMap::new(),
        again: BTreeSet::new(),
        stat: StatRound::default(),
        totals: Totals::default(),
        faults: 0,
    };
    let mut events = Events::with_capacity(1024);
    while broker.turn(&events)? {
        let timeout = broker.timeout();
        if let Err(error) = broker.poll.poll(&mut events, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// The unit of trust and of limits.
struct Tenant {
    name: String,
    account: Rc<Account>,
    /// Accounts of uids with sessions.
    uids: HashMap<u32, Weak<Account>>,
}

/// A session that is over for its client, until the engine has freed what it had.
struct Ending {
    engine: u32,
    tenant: u32,
    _charges: Vec<Charge>,
}

struct Broker {
    poll: Poll,
    supervisor: Link,
    config: Config,
    identity: Identity,
    confined: bool,
    /// Whether all that earlier brokers kept has been told.
    ready: bool,
    draining: bool,
    tenants: HashMap<u32, Tenant>,
    tenant_next: u32,
    engines: HashMap<u32, Engine>,
    sessions: HashMap<u64, Session>,
    ending: HashMap<u64, Ending>,
    /// Sessions that have more messages than one turn takes.
    again: BTreeSet<u64>,
    stat: StatRound,
    /// Sessions in all.
    root: Rc<Account>,
    /// What administrators have set while the daemon runs.
    steering: BTreeMap<Steered, Steering>,
    /// What became of the requests of sessions that ended.
    totals: Totals,
    /// Protocol errors of clients so far.
    faults: u64,
}

impl Broker {
    /// One pass over what came in; false when the supervisor is gone.
    fn turn(&mut self, events: &Events) -> anyhow::Result<bool> {
        for id in std::mem::take(&mut self.again) {
            self.hear_client(id);
        }
        let mut engines = Vec::new();
        let mut clients = Vec::new();
        let mut supervisor = false;
        for event in events {
            match event.token() {
                SUPERVISOR => supervisor = true,
                Token(token) if token < FIRST_SESSION => {
                    engines.push(
                        u32::try_from(token - FIRST_ENGINE).expect("engines' tokens are small"),
                    );
                }
                Token(token) => clients.push(((token - FIRST_SESSION) as u64, event.is_writable())),
            }
        }
        // Before clients: what they ask may depend on who is there.
        if supervisor || self.supervisor.is_waiting() {
            self.supervisor.flush()?;
            let (messages, alive) = self.supervisor.receive_all::<ToBroker>();
            for (message, fds) in messages {
                self.obey(message, fds)?;
            }
            if !alive {
                return Ok(false);
            }
        }
        let waiting: Vec<u32> = self
            .engines
            .iter()
            .filter(|(_, engine)| engine.is_waiting())
            .map(|(n, _)| *n)
            .collect();
        for engine in engines.into_iter().chain(waiting) {
            self.hear_engine(engine);
        }
        for (id, writable) in clients {
            if writable {
                self.flush_client(id);
            }
            self.hear_client(id);
        }
        self.finish_stat(false);
        Ok(true)
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.supervisor.is_waiting() || self.engines.values().any(Engine::is_waiting) {
            return Some(LINK_RETRY);
        }
        self.stat
            .deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn obey(&mut self, message: ToBroker, mut fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        match message {
            ToBroker::Configure(config) => self.configure(*config)?,
            ToBroker::Tenant { id, name } => {
                self.tenant_next = self.tenant_next.max(id + 1);
                self.add_tenant(id, name);
            }
            ToBroker::Engine {
                engine,
                device,
                tenant,
                epoch,
                pid,
            } => {
                let socket = fds
                    .pop()
                    .ok_or_else(|| anyhow::anyhow!("an engine came without its link"))?;
                self.engine_came(
                    engine,
                    Engine::new(device, tenant, epoch, pid, Link::new(socket)?),
                )?;
            }
            ToBroker::EngineGone {
                engine,
                epoch,
                cause,
                blamed,
                restarts,
            } => {
                let end = End {
                    epoch,
                    cause,
                    blamed,
                };
                self.engine_went(engine, end, restarts);
            }
            ToBroker::Client {
                session,
                admin,
                rule,
                known,
            } => {
                let socket = fds
                    .pop()
                    .ok_or_else(|| anyhow::anyhow!("a client came without its socket"))?;
                self.welcome(session, socket, admin, &rule, known);
            }
            ToBroker::Kept {
                session,
                key,
                record,
            } => {
                let restored = self
                    .sessions
                    .get_mut(&session)
                    .map(|session| session.restore(key, &record, fds));
                if key == session::KEY_SESSION {
                    self.reseat(session);
                }
                if let Some(Err(error)) = restored {
                    anyhow::bail!("what was kept of session {session} cannot be read: {error}");
                }
            }
            ToBroker::Steer { target, record } => self.restore_steering(target, &record)?,
            ToBroker::Bills {
                token,
                last,
                accounts,
                sessions,
            } => {
                self.stat.bills(token, last, accounts, sessions);
                self.finish_stat(false);
            }
            ToBroker::Ready => self.resume()?,
            ToBroker::Drain => self.drain(),
        }
        Ok(())
    }

    fn configure(&mut self, config: Config) -> anyhow::Result<()> {
        crate::log::set_filter(&config.log);
        self.root.set_limits(&config.limits.of(Level::Daemon), 0);
        self.config = config;
        if self.config.sandbox && !self.confined {
            sandbox::confine(Role::Broker)?;
            self.confined = true;
        }
        self.restand(false, |_| true);
        Ok(())
    }

    fn add_tenant(&mut self, id: u32, name: String) {
        let tenant = Tenant {
            name,
            account: Account::new(Level::Tenant, Some(&self.root)),
            uids: HashMap::new(),
        };
        self.tenants.insert(id, tenant);
    }

    /// The number of the tenant of that name, a new one where it has none yet.
    fn tenant_of(&mut self, name: &str) -> u32 {
        if let Some((id, _)) = self.tenants.iter().find(|(_, tenant)| tenant.name == name) {
            return *id;
        }
        let id = self.tenant_next;
        self.tenant_next += 1;
        self.add_tenant(id, name.to_owned());
        self.tell_supervisor(
            &FromBroker::Tenant {
                id,
                name: name.to_owned(),
            },
            &[],
        );
        id
    }

    /// Takes over a connection. `known`: an earlier broker had it, so it was admitted already.
    fn welcome(
        &mut self,
        id: u64,
        socket: OwnedFd,
        admin: bool,
        rule: &crate::config::TenantRule,
        known: bool,
    ) {
        let peer = match self.identity.of(&socket, rule, admin) {
            Ok(peer) => peer,
            Err(error) => {
                client_log!(debug, session = id, "a peer was refused: {error}");
                return self.turn_away(id, &socket, &error);
            }
        };
        let tenant = self.tenant_of(&peer.tenant);
        let uid = match admin {
            // Administrators must get in when everything is full.
            true => Account::new(Level::Uid, None),
            false => self.uid_account(tenant, peer.uid),
        };
        let charge = match known || admin {
            true => Ok(uid.charge_anyway(Resource::Sessions, 1)),
            false => uid.charge(Resource::Sessions, 1),
        };
        let charge = match charge {
            Ok(charge) => charge,
            Err(over) => {
                let advice = "end a session or ask the administrator";
                let error = ControlError::new(over.code(), format!("{over}; {advice}"));
                let name = self.tenants.get(&tenant).map_or("", |tenant| &tenant.name);
                client_log!(
                    debug,
                    session = id,
                    tenant = name,
                    "a session was refused: {over}"
                );
                drop(uid);
                self.turn_away(id, &socket, &error);
                return self.settle_tenant(tenant);
            }
        };
        let account = Account::new(Level::Session, Some(&uid));
        let session = Session::new(id, socket, admin, tenant, peer, (account, charge));
        let token = Token(FIRST_SESSION + id as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(
            &mut SourceFd(&session.socket.as_raw_fd()),
            token,
            interest,
        );
        self.sessions.insert(id, session);
        if let Err(error) = registered {
            let error = ControlError::new(
                Code::Limit,
                format!("the daemon cannot watch this connection: {error}"),
            );
            self.end(id, Some(error));
        }
    }

    /// A session that an earlier broker had belongs to the tenant that it named then: its cgroup may be another one by now.
    fn reseat(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id).filter(|session| !session.admin) else {
            return;
        };
        let uid = self.uid_account(session.tenant, session.record.uid);
        let charge = uid.charge_anyway(Resource::Sessions, 1);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.seat(Account::new(Level::Session, Some(&uid)), charge);
        }
    }

    /// Says why, and closes a connection that never became a session.
    fn turn_away(&mut self, id: u64, socket: &OwnedFd, error: &ControlError) {
        let message = Message {
            sequence: 0,
            body: Reply::Error(error.clone()),
        };
        // Whoever does not take it now hears the hang-up alone.
        let _ = tensord_shm::control_socket::send_datagram(socket.as_fd(), &message.encode(), &[]);
        let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        self.tell_supervisor(&FromBroker::Forget { session: id }, &[]);
    }

    /// Everything kept has been told: engines end what nobody knows, and sessions go on.
    fn resume(&mut self) -> anyhow::Result<()> {
        self.ready = true;
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.resync(engine);
        }
        // The configuration may have been read again while no broker was there.
        self.restand(false, |_| true);
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        for id in ids {
            self.renotify(id);
            // What came while no broker was there raised no event here.
            self.hear_client(id);
        }
        self.supervisor.send(&FromBroker::Ready, &[])?;
        tracing::info!(sessions = self.sessions.len(), "broker ready");
        Ok(())
    }

    fn drain(&mut self) {
        self.draining = true;
        let ids: Vec<u64> = self
            .sessions
            .values()
            .filter(|session| session.record.open)
            .map(|s| s.id)
            .collect();
        for id in ids {
            self.reply(id, 0, Reply::Draining, &[]);
        }
    }

    /// Reads what a client has sent, a bounded number of messages.
    fn hear_client(&mut self, id: u64) {
        if !self.ready {
            return;
        }
        let mut buffer = [0; MESSAGE_BYTES + 1];
        for _ in 0..MESSAGES_PER_TURN {
            let Some(session) = self.sessions.get(&id) else {
                return;
            };
            let datagram = match receive_datagram(session.socket.as_fd(), &mut buffer, false) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.end(id, None),
            };
            if datagram.length == 0 && !datagram.fds_refused {
                return self.end(id, None);
            }
            let bytes = &buffer[..datagram.length];
            if datagram.fds_refused {
                let text = "this protocol takes no file descriptors from clients; they were closed, and so is the session";
                return self.fault(
                    id,
                    sequence_of(bytes),
                    ControlError::new(Code::UninvitedFd, text),
                );
            }
            match Message::<Request>::decode(bytes) {
                Ok(message) => self.serve(id, message),
                Err(malformed) => return self.fault(id, sequence_of(bytes), malformed.into()),
            }
        }
        self.again.insert(id);
    }

    /// A client broke the protocol: it is told, and its session ends.
    fn fault(&mut self, id: u64, sequence: u64, error: ControlError) {
        self.faults += 1;
        client_log!(debug, session = id, "protocol error: {error}");
        self.reply(id, sequence, Reply::Error(error), &[]);
        self.end(id, None);
    }

    /// Sends a reply, or lets it wait in order; a client that lets too many wait loses its session.
    fn reply(&mut self, id: u64, sequence: u64, body: Reply, fds: &[Rc<OwnedFd>]) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.send(&Message { sequence, body }, fds).is_err() {
            self.end(id, None);
        }
    }

    fn flush_client(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.flush().is_err() {
            self.end(id, None);
        }
    }

    /// Ends a session: the client is told why, if there is a reason, and hears the hang-up; the engine frees all.
    fn end(&mut self, id: u64, reason: Option<ControlError>) {
        if let Some(error) = reason {
            // Through the session, so that it stays behind what waits; a failure ends it all the same.
            if let Some(session) = self.sessions.get_mut(&id) {
                let _ = session.send(
                    &Message {
                        sequence: 0,
                        body: Reply::Error(error),
                    },
                    &[],
                );
            }
        }
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.again.remove(&id);
        self.stat.forget(id);
        // The supervisor has a copy of the socket: without shutdown the client would hear nothing yet.
        let _ = shutdown(session.socket.as_raw_fd(), Shutdown::Both);
        let _ = self
            .poll
            .registry()
            .deregister(&mut SourceFd(&session.socket.as_raw_fd()));
        self.tell_supervisor(&FromBroker::Forget { session: id }, &[]);
        tracing::debug!(session = id, tenant = session.tenant, "session ended");
        let tenant = session.tenant;
        let charges = session.into_charges();
        if let Some((engine, charges)) = charges {
            let ending = Ending {
                engine,
                tenant,
                _charges: charges,
            };
            if self.order(engine, &EngineOrder::Detach { session: id }, &[]) {
                self.ending.insert(id, ending);
            }
        }
        self.settle_tenant(tenant);
    }

    /// Forgets a tenant that has neither sessions nor anything left in an engine.
    fn settle_tenant(&mut self, id: u32) {
        let busy = self.sessions.values().any(|session| session.tenant == id)
            || self.ending.values().any(|ending| ending.tenant == id);
        if !busy && self.tenants.remove(&id).is_some() {
            self.tell_supervisor(&FromBroker::TenantGone { id }, &[]);
        }
    }

    /// Tells the supervisor, before anything else goes on.
    fn tell_supervisor(&mut self, message: &FromBroker, fds: &[std::os::fd::BorrowedFd<'_>]) {
        // When the supervisor is gone, so is everything: the next turn sees its hang-up and ends this process.
        let _ = self
            .supervisor
            .send(message, fds)
            .and_then(|()| self.supervisor.flush_waiting());
    }

    fn is_isolated(&self) -> bool {
        self.config.isolation == Isolation::Tenant
    }
}

/// Messages that wait to be sent to a client.
type Waiting = VecDeque<([u8; MESSAGE_BYTES], Vec<Rc<OwnedFd>>)>;
