//! Engines, as the supervisor sees them: each start of one is an epoch that no engine had before.
//!
//! An engine is given its epoch, the constants of its tenants, and a link to the broker. Its death is an ordinary event:
//! the broker is told why, and the next one starts.

use std::os::fd::{AsFd, BorrowedFd};

use mio::Token;

use super::children::{self, Restarts, Running, cause_of, is_own_fault};
use super::{FIRST_ENGINE, Supervisor, start_child, unwatch};
use crate::bills::Charged;
use crate::engine_process::SessionId;
use crate::limits::CONSTANTS_KEPT_MAX;
use crate::link::{FromEngine, ToBroker, ToEngine};
use crate::sandbox::Role;
use crate::slate::{self, Slate};

/// An engine over all its epochs.
pub(super) struct Engine {
    pub(super) tenant: Option<u32>,
    pub(super) epoch: u32,
    pub(super) running: Option<Running>,
    /// Whose work it runs. Without one nobody is blamed.
    slate: Option<Slate>,
    pub(super) restarts: Restarts,
    pub(super) started: bool,
    pub(super) drained: bool,
}

impl Engine {
    pub(super) fn new(tenant: Option<u32>) -> Engine {
        Engine {
            tenant,
            epoch: 0,
            running: None,
            slate: None,
            restarts: Restarts::default(),
            started: false,
            drained: false,
        }
    }
}

impl Supervisor {
    pub(super) fn start_engine(&mut self, number: u32) {
        let Some(engine) = self.engines.get_mut(&number) else {
            return;
        };
        let token = Token(FIRST_ENGINE + number as usize);
        match start_child(&self.poll, &self.options, Role::Engine, token) {
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
        let slate = Slate::create()
            .inspect_err(
                |error| tracing::warn!(%error, "no slate for an engine: its end blames nobody"),
            )
            .ok();
        let fds: Vec<_> = slate.iter().map(|(_, fd)| fd.as_fd()).collect();
        self.tell_engine(number, &start, &fds);
        if let Some(engine) = self.engines.get_mut(&number) {
            engine.slate = slate.map(|(slate, _)| slate);
        }
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
    pub(super) fn connect(&mut self, number: u32) {
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

    fn running_engine(&mut self, number: u32) -> Option<&mut Running> {
        self.engines.get_mut(&number)?.running.as_mut()
    }

    pub(super) fn tell_engines(&mut self, message: &ToEngine) {
        let numbers: Vec<u32> = self.engines.keys().copied().collect();
        for number in numbers {
            self.tell_engine(number, message, &[]);
        }
    }

    fn tell_engine(&mut self, number: u32, message: &ToEngine, fds: &[BorrowedFd<'_>]) {
        if let Some(running) = self.running_engine(number) {
            // An engine that is gone is noticed after the turn.
            let _ = running.link.send(message, fds);
        }
    }

    pub(super) fn hear_engine(&mut self, number: u32) {
        let Some(running) = self.running_engine(number) else {
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
                FromEngine::Charged(charged) => self.bill(&charged),
                FromEngine::Drained => {
                    if let Some(engine) = self.engines.get_mut(&number) {
                        engine.drained = true;
                    }
                }
            }
        }
    }

    /// Adds up what an engine has charged.
    fn bill(&mut self, charged: &[Charged]) {
        for Charged {
            tenant,
            uid,
            sessions,
        } in charged
        {
            for (session, ns) in sessions {
                self.ledger.add(tenant, *uid, *ns);
                if let Some(connection) = self.connections.get_mut(session) {
                    connection.device_ns += ns;
                }
            }
        }
    }

    /// Ends the engine of a tenant that is gone.
    pub(super) fn stop_engine(&mut self, number: u32, engine: Engine) {
        let Some(mut running) = engine.running else {
            return;
        };
        unwatch(&self.poll, running.link.raw());
        running.kill();
        tracing::info!(
            engine = number,
            "the engine of a tenant without sessions ended"
        );
        let gone = ToBroker::EngineGone {
            engine: number,
            epoch: engine.epoch,
            cause: "its tenant has no session".to_owned(),
            blamed: None,
            restarts: false,
        };
        self.tell_broker(&gone, &[]);
    }

    /// Notices that one has ended, and starts it again when that is due.
    pub(super) fn keep_engine_running(&mut self, number: u32) {
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
            unwatch(&self.poll, running.link.raw());
            let cause = cause_of(Role::Engine, status);
            let blamed = match engine.slate.take().map(|slate| slate.read()) {
                Some(slate::Running::Of(SessionId(session))) if is_own_fault(status) => {
                    Some(session)
                }
                _ => None,
            };
            let pause = engine.restarts.died(&running);
            let epoch = engine.epoch;
            tracing::warn!(
                engine = number,
                epoch,
                blamed,
                "{cause}; the next one starts in {pause:?}"
            );
            self.tell_broker(
                &ToBroker::EngineGone {
                    engine: number,
                    epoch,
                    cause,
                    blamed,
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
}
