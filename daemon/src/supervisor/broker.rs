//! The broker, as the supervisor sees it: a process that is told everything when it starts, and obeyed in little.
//!
//! What it asks for concerns what outlives it: records to keep, tenants, sessions that ended, engines for tenants.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use super::children::{Running, cause_of};
use super::engines::Engine;
use super::{BROKER, Supervisor, start_child, unwatch};
use crate::limits::KEPT_BYTES_MAX;
use crate::link::{FromBroker, ToBroker, in_parts};
use crate::sandbox::Role;

impl Supervisor {
    pub(super) fn start_broker(&mut self) {
        self.broker_ready = false;
        match start_child(&self.poll, &self.options, Role::Broker, BROKER) {
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
        for (target, record) in self.steering.clone() {
            self.tell_broker(&ToBroker::Steer { target, record }, &[]);
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

    pub(super) fn tell_broker(&mut self, message: &ToBroker, fds: &[BorrowedFd<'_>]) {
        if let Some(broker) = &mut self.broker {
            // A broker that is gone is noticed after the turn, and the next one is told everything.
            let _ = broker.link.send(message, fds);
        }
    }

    pub(super) fn hear_broker(&mut self) {
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
            FromBroker::Steer { target, record } => match record {
                Some(record) => drop(self.steering.insert(target, record)),
                None => drop(self.steering.remove(&target)),
            },
            FromBroker::Bills { token } => self.tell_bills(token),
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

    /// Tells the broker of device time. What engines have reported by now counts: they do before they answer the broker.
    fn tell_bills(&mut self, token: u64) {
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        for engine in engines {
            self.hear_engine(engine);
        }
        let charged = self.connections.iter().filter(|(_, c)| c.device_ns > 0);
        let sessions = charged.map(|(id, connection)| (*id, connection.device_ns));
        for sessions in in_parts(sessions.collect(), |_| 40) {
            let part = ToBroker::Bills {
                token,
                last: false,
                accounts: Vec::new(),
                sessions,
            };
            self.tell_broker(&part, &[]);
        }
        let accounts = self.ledger.accounts();
        for accounts in in_parts(accounts, |(tenant, ..)| tenant.len() + 40) {
            let part = ToBroker::Bills {
                token,
                last: false,
                accounts,
                sessions: Vec::new(),
            };
            self.tell_broker(&part, &[]);
        }
        let end = ToBroker::Bills {
            token,
            last: true,
            accounts: Vec::new(),
            sessions: Vec::new(),
        };
        self.tell_broker(&end, &[]);
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

    /// Notices that it has ended; the next one starts after a pause.
    pub(super) fn notice_broker_end(&mut self) {
        if let Some(status) = self.broker.as_mut().and_then(Running::ended) {
            // What it wanted kept before it ended is still there to be read.
            self.hear_broker();
            if let Some(running) = self.broker.take() {
                unwatch(&self.poll, running.link.raw());
                let pause = self.broker_restarts.died(&running);
                tracing::warn!(
                    "{}; the next one starts in {pause:?}",
                    cause_of(Role::Broker, status)
                );
            }
        }
    }
}
