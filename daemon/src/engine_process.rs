//! The process around an engine: its links, its doorbells, and when it sleeps.
//!
//! It knows when to call the engine and nothing of what the engine does: the engine is an [`EngineCore`]. It never sees
//! a client's socket; queues and arenas come from the broker, ready to be mapped.
//!
//! # When it sleeps
//! While the engine is busy the links and doorbells are looked at every [`LOOK_EVERY_NS`]. After an idle tick the thread
//! yields; after `park_us` of idle ticks the engine is asked to park its rings, and if nothing came meanwhile the process
//! blocks until a doorbell, a link or the engine's own deadline. An idle engine costs nothing.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tensord_shm::completion::Writer;
use tensord_shm::control::{Class, SessionLimits};
use tensord_shm::doorbell::NoticeSender;
use tensord_shm::error::Code;
use tensord_shm::ring::Consumer;
use tensord_shm::segment::{CompletionMapMut, SubmissionMap};
use tensord_shm::staging::StagingMap;

use crate::bills::Charged;
use crate::clock::{Clock, Monotonic};
use crate::config::{Config, Quotas};
use crate::courtesy::Courtesy;
use crate::limits::BILL_EVERY_MS;
use crate::link::{
    EngineOrder, EngineReport, FromEngine, Link, Refused, SessionRecord, ToEngine, Totals, in_parts,
};
use crate::sandbox::{self, Role};
use crate::slate::Slate;

/// A session's number, unique for the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A tenant's number, unique for the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u32);

/// What an engine is told of a session.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    /// Its number.
    pub id: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its tenant's name.
    pub tenant_name: String,
    /// Its tenant's weight among tenants, 1 to 10000; 100 unless somebody said otherwise.
    pub tenant_weight: u32,
    /// The peer's process.
    pub pid: i32,
    /// The peer's uid.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// The peer's command.
    pub command: String,
    /// Class of its work.
    pub class: Class,
    /// Weight within the class.
    pub weight: u32,
    /// Its limits as it was told at hello.
    pub limits: SessionLimits,
    /// The limits that it, its uid and its tenant have now.
    pub quotas: Quotas,
    /// Whether its operations may be fused.
    pub fuse: bool,
    /// Whether its requests may share launches.
    pub batch: bool,
}

/// The engine's ends of a queue.
pub struct QueueEnds {
    /// Its number in the session.
    pub id: u32,
    /// Where its records come from.
    pub consumer: Consumer,
    /// What else the client writes, for [`Writer::wake_if_asleep`] and [`Writer::reserve_error`].
    pub submission: SubmissionMap,
    /// Where its outcomes go.
    pub completion: Writer,
    /// How a client that sleeps in epoll is woken.
    pub notice: Option<NoticeSender>,
}

/// A session, a queue or an arena that an engine does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} [{code}]")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// Why, and what to do.
    pub text: String,
}

/// What became of a session's requests.
pub type SessionTotals = Totals;

/// A session whose rings broke a rule; it has to end.
#[derive(Clone, Debug)]
pub struct SessionFault {
    /// Which session.
    pub session: SessionId,
    /// Which rule.
    pub code: Code,
    /// With which numbers.
    pub text: String,
}

/// A constant's key: its tenant and the BLAKE3 of its content.
pub type ConstantKey = (TenantId, [u8; 32]);

/// Whether a tick found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done; call again at once.
    Busy,
    /// Nothing could be done.
    Idle,
    /// There is news for the supervisor, which has to have it before the next tick.
    Report,
}

/// What the process shell asks of an engine.
pub trait EngineCore {
    /// Where it says whose work it runs.
    fn set_slate(&mut self, slate: Slate) {
        let _ = slate;
    }
    /// A session begins.
    fn attach(&mut self, spec: SessionSpec) -> Result<(), Refusal>;
    /// A queue of an attached session begins.
    fn add_queue(&mut self, session: SessionId, queue: QueueEnds) -> Result<(), Refusal>;
    /// A staging arena of an attached session; gives the index by which records name it, which is their number so far.
    fn add_staging(&mut self, session: SessionId, map: StagingMap) -> Result<u32, Refusal>;
    /// A session ends: its requests get their outcome, everything that it holds is freed.
    fn detach(&mut self, session: SessionId) -> SessionTotals;
    /// A session's name, class or weight changed.
    fn set(&mut self, session: SessionId, name: &str, class: Class, weight: u32) {
        let _ = (session, name, class, weight);
    }
    /// The weight of a session's tenant among tenants changed, or the limits under which the session stands.
    fn set_quotas(&mut self, session: SessionId, tenant_weight: u32, quotas: &Quotas) {
        let _ = (session, tenant_weight, quotas);
    }
    /// A constant that was sealed in an earlier epoch, as [`EngineCore::take_sealed`] gave it out.
    fn add_constant(&mut self, key: ConstantKey, memory: OwnedFd);
    /// Constants sealed since the last call, as sealed memory, to be kept for the next epoch.
    fn take_sealed(&mut self) -> Vec<(ConstantKey, OwnedFd)>;
    /// Constants that nobody uses any more since the last call.
    fn take_unsealed(&mut self) -> Vec<ConstantKey> {
        Vec::new()
    }
    /// Device time charged since the last call, by session.
    fn take_charged(&mut self) -> Vec<Charged> {
        Vec::new()
    }
    /// Device time charged in all: when it has not changed there is nothing to take.
    fn charged_ns(&self) -> u64 {
        0
    }
    /// Sessions whose rings broke a rule since the last call. Their rings are frozen already.
    fn take_faults(&mut self) -> Vec<SessionFault> {
        Vec::new()
    }
    /// The configuration was read again.
    fn configure(&mut self, config: &Config) {
        let _ = config;
    }
    /// A parked ring has news. The queue may be gone.
    fn doorbell(&mut self, session: SessionId, queue: u32);
    /// One turn, bounded.
    fn tick(&mut self) -> Progress;
    /// Looks at the active rings for about a microsecond. True: one has news.
    fn watch(&self) -> bool {
        false
    }
    /// Parks every active ring: sets their flags, fences, reads their tails once more. False: news came, do not sleep.
    fn prepare_park(&mut self) -> bool;
    /// Nothing came for a while, and the engine may not park: it may sleep a moment where it knows that only the device works.
    fn doze(&mut self) {}
    /// The process slept after [`EngineCore::prepare_park`], and is awake again.
    fn awake(&mut self) {}
    /// How long the engine may sleep; `None` for ever.
    fn next_deadline(&self) -> Option<Duration>;
    /// Nothing new is taken from here on; what was accepted is finished.
    fn begin_drain(&mut self);
    /// Whether everything accepted has its outcome.
    fn is_drained(&self) -> bool;
    /// The engine's part of `stat --json`: an object with `device`, `uuid`, `busy_us`, `counters`, and `sessions`, a list
    /// of objects with `id` and the session's own figures. `stages_ns` says where its thread's time went, `pool_ns` how long
    /// launches ran on other threads.
    fn stat_json(&self) -> String;
}

/// What an engine is made from.
#[derive(Clone, Debug)]
pub struct EngineStart {
    /// The device: `cpu`.
    pub device: String,
    /// This start's epoch.
    pub epoch: u32,
    /// The configuration.
    pub config: Config,
}

/// Makes the engine, in its confined process.
pub type MakeEngine = fn(&EngineStart) -> Result<Box<dyn EngineCore>, String>;

/// How often a busy engine's process looks at its links and doorbells.
const LOOK_EVERY_NS: u64 = 50_000;
/// The poll's clock counts milliseconds: an engine with a nearer deadline stays awake.
const SLEEP_LEAST: Duration = Duration::from_millis(1);

const SUPERVISOR: Token = Token(0);
const BROKER: Token = Token(1);
const FIRST_BELL: usize = 2;

/// Runs the engine process until the supervisor hangs up.
pub fn run(make: MakeEngine) -> anyhow::Result<()> {
    let supervisor = Link::new(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let poll = Poll::new()?;
    poll.registry().register(
        &mut SourceFd(&supervisor.raw()),
        SUPERVISOR,
        Interest::READABLE | Interest::WRITABLE,
    )?;
    let mut shell = Shell {
        make,
        poll,
        supervisor,
        broker: None,
        engine: None,
        config: Config::default(),
        confined: false,
        bells: Bells::default(),
        sessions: HashMap::new(),
        resync: None,
        clock: Monotonic::default(),
        idle_since_ns: None,
        courtesy: Courtesy::default(),
        hoped: false,
        drain: Drain::No,
        charged_ns: 0,
        charges_due_ns: 0,
    };
    let mut events = Events::with_capacity(256);
    while shell.hear(&events)? {
        let mut timeout = shell.turn();
        shell.report()?;
        // Where the supervisor is gone its hang-up is heard next.
        if let Ok(Some(due)) = shell.report_charges(false) {
            timeout = Some(timeout.map_or(due, |timeout| timeout.min(due)));
        }
        if let Err(error) = shell.poll.poll(&mut events, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        if let (Some(engine), true) = (&mut shell.engine, timeout != Some(Duration::ZERO)) {
            engine.awake();
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    Asked,
    Reported,
}

#[derive(Default)]
struct Attached {
    tenant: u32,
    bells: Vec<usize>,
}

struct Shell {
    make: MakeEngine,
    poll: Poll,
    supervisor: Link,
    broker: Option<Link>,
    engine: Option<Box<dyn EngineCore>>,
    config: Config,
    confined: bool,
    bells: Bells,
    sessions: HashMap<u64, Attached>,
    /// Sessions that a new broker has named so far.
    resync: Option<HashSet<u64>>,
    clock: Monotonic,
    idle_since_ns: Option<u64>,
    courtesy: Courtesy,
    /// Did the last idle tick end because news were seen?
    hoped: bool,
    drain: Drain,
    /// What the engine had charged when that was last reported, and when the next report may come.
    charged_ns: u64,
    charges_due_ns: u64,
}

impl Shell {
    /// Takes what came in; false when the supervisor is gone.
    fn hear(&mut self, events: &Events) -> anyhow::Result<bool> {
        let mut broker_spoke = false;
        for event in events {
            match event.token() {
                SUPERVISOR => {
                    self.supervisor.flush()?;
                    let (messages, alive) = self.supervisor.receive_all::<ToEngine>();
                    for (message, fds) in messages {
                        self.obey_supervisor(message, fds)?;
                    }
                    if !alive {
                        return Ok(false);
                    }
                }
                BROKER => broker_spoke = true,
                Token(token) => {
                    if let (Some(bell), Some(engine)) =
                        (self.bells.get(token - FIRST_BELL), &mut self.engine)
                    {
                        engine.doorbell(bell.session, bell.queue);
                    }
                }
            }
        }
        if broker_spoke {
            self.hear_broker();
        }
        Ok(true)
    }

    fn obey_supervisor(&mut self, message: ToEngine, mut fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        match message {
            ToEngine::Configure(config) => {
                crate::log::set_filter(&config.log);
                if let Some(engine) = &mut self.engine {
                    engine.configure(&config);
                }
                self.config = *config;
                if self.config.sandbox && !self.confined {
                    sandbox::confine(Role::Engine)?;
                    self.confined = true;
                }
            }
            ToEngine::Start {
                engine: number,
                epoch,
                device,
            } => {
                let start = EngineStart {
                    device,
                    epoch,
                    config: self.config.clone(),
                };
                let engine = (self.make)(&start)
                    .map_err(|text| anyhow::anyhow!("the engine cannot start: {text}"))?;
                self.engine = Some(engine);
                if let (Some(fd), Some(engine)) = (fds.pop(), &mut self.engine) {
                    engine.set_slate(Slate::map(fd.as_fd())?);
                }
                self.supervisor.send(&FromEngine::Started, &[])?;
                tracing::info!(
                    engine = number,
                    epoch,
                    device = start.device,
                    "engine started"
                );
            }
            ToEngine::Constant { tenant, hash } => {
                if let (Some(engine), Some(memory)) = (&mut self.engine, fds.pop()) {
                    engine.add_constant((TenantId(tenant), hash), memory);
                }
            }
            ToEngine::Broker => {
                let socket = fds
                    .pop()
                    .ok_or_else(|| anyhow::anyhow!("a broker came without its link"))?;
                self.lose_broker();
                let link = Link::new(socket)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll
                    .registry()
                    .register(&mut SourceFd(&link.raw()), BROKER, interest)?;
                self.broker = Some(link);
            }
            ToEngine::Drain => {
                if let Some(engine) = &mut self.engine {
                    engine.begin_drain();
                }
                self.drain = Drain::Asked;
            }
        }
        Ok(())
    }

    fn lose_broker(&mut self) {
        if let Some(link) = self.broker.take() {
            // A link that is being closed can only fail to be registered, which is what is wanted.
            let _ = self.poll.registry().deregister(&mut SourceFd(&link.raw()));
        }
    }

    fn hear_broker(&mut self) {
        let Some(link) = &mut self.broker else { return };
        let flushed = link.flush();
        let (orders, alive) = link.receive_all::<EngineOrder>();
        for (order, fds) in orders {
            self.obey_broker(order, fds);
        }
        if !alive || flushed.is_err() {
            // Its sessions go on without it; the supervisor sends another.
            self.lose_broker();
        }
    }

    fn obey_broker(&mut self, order: EngineOrder, fds: Vec<OwnedFd>) {
        match order {
            EngineOrder::Resync => self.resync = Some(HashSet::new()),
            EngineOrder::Known { session } => {
                self.resync.get_or_insert_default().insert(session);
            }
            EngineOrder::Resynced => {
                let known = self.resync.take().unwrap_or_default();
                let gone: Vec<u64> = self
                    .sessions
                    .keys()
                    .copied()
                    .filter(|id| !known.contains(id))
                    .collect();
                for session in gone {
                    self.detach(session);
                }
            }
            EngineOrder::Attach(record) => self.attach(&record),
            EngineOrder::AddQueue {
                session,
                queue,
                slot_count,
            } => match self.add_queue(session, queue, slot_count, fds) {
                Ok(()) => self.tell_broker(&EngineReport::QueueReady { session, queue }),
                Err(refusal) => self.refuse(session, Refused::Queue(queue), refusal),
            },
            EngineOrder::AddStaging {
                session,
                index,
                bytes,
            } => match self.add_staging(session, index, bytes, &fds) {
                Ok(()) => self.tell_broker(&EngineReport::StagingReady { session, index }),
                Err(refusal) => self.refuse(session, Refused::Staging(index), refusal),
            },
            EngineOrder::Set(record) => {
                let class = Class::from_wire(record.class).unwrap_or_default();
                if let (Some(engine), true) =
                    (&mut self.engine, self.sessions.contains_key(&record.id))
                {
                    let id = SessionId(record.id);
                    engine.set(id, &record.name, class, record.weight);
                    engine.set_quotas(id, record.tenant_weight, &record.quotas);
                }
            }
            EngineOrder::Detach { session } => {
                let totals = self.detach(session);
                self.tell_broker(&EngineReport::Detached { session, totals });
            }
            EngineOrder::Stat { token } => {
                // Whoever is told of device time is told no less later, even if this process ends now.
                if let Err(error) = self.report_charges(true) {
                    tracing::debug!("the supervisor is gone: {error}");
                }
                self.stat(token);
            }
        }
    }

    fn attach(&mut self, record: &SessionRecord) {
        let spec = SessionSpec {
            id: SessionId(record.id),
            tenant: TenantId(record.tenant),
            tenant_name: record.tenant_name.clone(),
            tenant_weight: record.tenant_weight,
            pid: record.pid,
            uid: record.uid,
            name: record.name.clone(),
            command: record.command.clone(),
            class: Class::from_wire(record.class).unwrap_or_default(),
            weight: record.weight,
            limits: SessionLimits {
                handles: record.handles_told,
                ..self.config.limits.told(&record.quotas.session)
            },
            quotas: record.quotas,
            fuse: record.fuse,
            batch: record.batch,
        };
        // A broker that did not live to see its first attempt through begins anew.
        if self.sessions.contains_key(&record.id) {
            self.detach(record.id);
        }
        let Some(engine) = &mut self.engine else {
            return;
        };
        match engine.attach(spec) {
            Ok(()) => {
                self.sessions.insert(
                    record.id,
                    Attached {
                        tenant: record.tenant,
                        bells: Vec::new(),
                    },
                );
            }
            Err(refusal) => self.refuse(record.id, Refused::Session, refusal),
        }
    }

    fn add_queue(
        &mut self,
        session: u64,
        queue: u32,
        slot_count: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let internal = |text: String| Refusal {
            code: Code::Internal,
            text,
        };
        let attached = self
            .sessions
            .get_mut(&session)
            .ok_or_else(|| internal("the session is not attached".into()))?;
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| internal("the engine has not started".into()))?;
        let mut fds = fds.into_iter();
        let (Some(submission), Some(completion), Some(doorbell)) =
            (fds.next(), fds.next(), fds.next())
        else {
            return Err(internal("a queue came without its file descriptors".into()));
        };
        let map_fault = |fault| Refusal {
            code: Code::OutOfMemory,
            text: format!("mapping a queue: {fault}"),
        };
        let submission = SubmissionMap::map(submission.as_fd(), slot_count).map_err(map_fault)?;
        let completion = CompletionMapMut::map(completion.as_fd()).map_err(map_fault)?;
        let ends = QueueEnds {
            id: queue,
            consumer: Consumer::new(submission.clone()),
            submission,
            completion: Writer::new(completion),
            notice: fds.next().map(NoticeSender::new),
        };
        engine.add_queue(SessionId(session), ends)?;
        let bell = self.bells.add(Bell {
            session: SessionId(session),
            queue,
            doorbell,
        });
        attached.bells.push(bell);
        let raw = self.bells.raw(bell);
        let token = Token(bell + FIRST_BELL);
        self.poll
            .registry()
            .register(&mut SourceFd(&raw), token, Interest::READABLE)
            .map_err(|error| internal(format!("watching a doorbell: {error}")))
    }

    fn add_staging(
        &mut self,
        session: u64,
        index: u32,
        bytes: u64,
        fds: &[OwnedFd],
    ) -> Result<(), Refusal> {
        let internal = |text: String| Refusal {
            code: Code::Internal,
            text,
        };
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| internal("the engine has not started".into()))?;
        let memory = fds
            .first()
            .ok_or_else(|| internal("an arena came without its memory".into()))?;
        if !self.sessions.contains_key(&session) {
            return Err(internal("the session is not attached".into()));
        }
        let map = StagingMap::map(memory.as_fd(), bytes).map_err(|fault| Refusal {
            code: Code::OutOfMemory,
            text: format!("mapping staging: {fault}"),
        })?;
        let given = engine.add_staging(SessionId(session), map)?;
        if given != index {
            return Err(internal(format!(
                "the engine numbered an arena {given} where the broker has {index}"
            )));
        }
        Ok(())
    }

    fn detach(&mut self, session: u64) -> Totals {
        let Some(attached) = self.sessions.remove(&session) else {
            return Totals::default();
        };
        for bell in attached.bells {
            if let Some(bell) = self.bells.remove(bell) {
                // The client shares the eventfd: closing it here would leave it registered.
                let _ = self
                    .poll
                    .registry()
                    .deregister(&mut SourceFd(&bell.doorbell.as_raw_fd()));
            }
        }
        tracing::debug!(session, tenant = attached.tenant, "session detached");
        self.engine
            .as_mut()
            .map_or_else(Totals::default, |engine| engine.detach(SessionId(session)))
    }

    fn stat(&mut self, token: u64) {
        let Some(engine) = &self.engine else { return };
        let memory = memfd_create(c"tensord-stat", MFdFlags::MFD_CLOEXEC).map(File::from);
        let written = memory.map_err(std::io::Error::from).and_then(|mut file| {
            file.write_all(engine.stat_json().as_bytes())?;
            Ok(file)
        });
        match (written, &mut self.broker) {
            (Ok(file), Some(link)) => {
                if link
                    .send(&EngineReport::Stat { token }, &[file.as_fd()])
                    .is_err()
                {
                    self.lose_broker();
                }
            }
            (Err(error), _) => tracing::warn!("counters cannot be reported: {error}"),
            (Ok(_), None) => {}
        }
    }

    fn refuse(&mut self, session: u64, what: Refused, refusal: Refusal) {
        self.tell_broker(&EngineReport::Refused {
            session,
            what,
            code: refusal.code as u32,
            text: refusal.text,
        });
    }

    fn tell_broker(&mut self, report: &EngineReport) {
        if let Some(link) = &mut self.broker
            && link.send(report, &[]).is_err()
        {
            self.lose_broker();
        }
    }

    /// Lets the engine work until it is time to look at the links again, or until it may sleep: gives for how long.
    fn turn(&mut self) -> Option<Duration> {
        let Some(engine) = &mut self.engine else {
            return None;
        };
        let start_ns = self.clock.now_ns();
        loop {
            let progress = engine.tick();
            let now_ns = self.clock.now_ns();
            match progress {
                Progress::Busy => {
                    self.idle_since_ns = None;
                    self.hoped = false;
                }
                Progress::Report => {
                    self.idle_since_ns = None;
                    return Some(Duration::ZERO);
                }
                Progress::Idle => {
                    let idle_ns = now_ns - *self.idle_since_ns.get_or_insert(now_ns);
                    let park_ns = u64::from(self.config.engine.park_us) * 1000;
                    if idle_ns >= self.courtesy.patience_ns(park_ns, now_ns) {
                        let deadline = engine.next_deadline();
                        if deadline.is_none_or(|deadline| deadline >= SLEEP_LEAST)
                            && engine.prepare_park()
                        {
                            self.idle_since_ns = None;
                            return deadline;
                        }
                        engine.doze();
                    }
                    // News often come within the time that a yield takes; but news that led to nothing are no reason to
                    // keep the core.
                    if !self.hoped && engine.watch() {
                        self.hoped = true;
                        continue;
                    }
                    self.hoped = false;
                }
            }
            self.courtesy
                .pause(progress == Progress::Idle, now_ns, &self.clock);
            if now_ns - start_ns >= LOOK_EVERY_NS {
                return Some(Duration::ZERO);
            }
        }
    }

    /// Reports what was charged, at a bounded rate unless `now`. Gives when the next report is due, if something is left for it.
    fn report_charges(&mut self, now: bool) -> std::io::Result<Option<Duration>> {
        let Some(engine) = &mut self.engine else {
            return Ok(None);
        };
        let charged_ns = engine.charged_ns();
        if charged_ns == self.charged_ns {
            return Ok(None);
        }
        let now_ns = self.clock.now_ns();
        if !now && now_ns < self.charges_due_ns {
            return Ok(Some(Duration::from_nanos(self.charges_due_ns - now_ns)));
        }
        self.charged_ns = charged_ns;
        self.charges_due_ns = now_ns + BILL_EVERY_MS * 1_000_000;
        for part in in_parts(engine.take_charged(), Charged::list_bytes) {
            self.supervisor.send(&FromEngine::Charged(part), &[])?;
        }
        Ok(None)
    }

    /// Passes on what the engine has found out.
    fn report(&mut self) -> anyhow::Result<()> {
        let Some(engine) = &mut self.engine else {
            return Ok(());
        };
        for ((tenant, hash), memory) in engine.take_sealed() {
            self.supervisor.send(
                &FromEngine::Sealed {
                    tenant: tenant.0,
                    hash,
                },
                &[memory.as_fd()],
            )?;
        }
        for (tenant, hash) in engine.take_unsealed() {
            self.supervisor.send(
                &FromEngine::Unsealed {
                    tenant: tenant.0,
                    hash,
                },
                &[],
            )?;
        }
        if self.drain == Drain::Asked && engine.is_drained() {
            self.drain = Drain::Reported;
            self.supervisor.send(&FromEngine::Drained, &[])?;
        }
        for fault in engine.take_faults() {
            let SessionFault {
                session: SessionId(session),
                code,
                text,
            } = fault;
            self.tell_broker(&EngineReport::Fault {
                session,
                code: code as u32,
                text,
            });
        }
        Ok(())
    }
}

struct Bell {
    session: SessionId,
    queue: u32,
    doorbell: OwnedFd,
}

/// Doorbells by their number in the poll; numbers are used again.
#[derive(Default)]
struct Bells {
    bells: Vec<Option<Bell>>,
    free: Vec<usize>,
}

impl Bells {
    fn add(&mut self, bell: Bell) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.bells[number] = Some(bell);
                number
            }
            None => {
                self.bells.push(Some(bell));
                self.bells.len() - 1
            }
        }
    }

    fn get(&self, number: usize) -> Option<&Bell> {
        self.bells.get(number).and_then(Option::as_ref)
    }

    fn raw(&self, number: usize) -> i32 {
        self.get(number)
            .map_or(-1, |bell| bell.doorbell.as_raw_fd())
    }

    fn remove(&mut self, number: usize) -> Option<Bell> {
        let bell = self.bells.get_mut(number)?.take()?;
        self.free.push(number);
        Some(bell)
    }
}
