//! The engine as its process sees it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::json;
use tensord_shm::completion::parking_fence;
use tensord_shm::control::{Class, Level, Resource};
use tensord_shm::error::Code;

use super::backend::{backend_of, spill_bytes_beside};
use super::{
    Engine, QueueEnds, Refusal, Session, SessionFault, SessionId, SessionSpec, SessionTotals,
    Settings, StagingMap, Tenant,
};
use crate::account::Account;
use crate::bills::Charged;
use crate::clock::Monotonic;
use crate::config::{Config, Merge, Quotas};
use crate::engine_process::{ConstantKey, EngineCore, EngineStart, Progress};
use crate::ingest::Queue;
use crate::slate::Slate;
use crate::stages::Stage;

/// Longest sleep beside launches under way, which need the cores more than an engine that polls: new requests wait for its end.
const DOZE_LONGEST: Duration = Duration::from_micros(100);
/// Looks at rings that take about a microsecond.
const LOOKS: usize = 48;

/// Makes the engine that a process was started for.
pub fn make(start: &EngineStart) -> Result<Box<dyn EngineCore>, String> {
    let backend = backend_of(&start.device, &start.config.engine)?;
    let settings = &start.config.engine;
    let settings = Settings {
        epoch: start.epoch,
        quiet_ns: u64::from(settings.quiet_us) * 1000,
        hold_ns: u64::from(settings.hold_us) * 1000,
        measured_merging: settings.merge == Merge::Measured,
        slice_ns: u64::from(settings.slice_us) * 1000,
        policy: settings.policy,
        spill_bytes: settings
            .spill_bytes
            .unwrap_or_else(|| spill_bytes_beside(&start.device, backend.info().memory_bytes)),
        simulated: false,
    };
    Ok(Box::new(Engine::new(
        backend,
        Box::new(Monotonic::default()),
        settings,
    )))
}

impl Engine {
    fn unknown(session: SessionId) -> Refusal {
        Refusal {
            code: Code::Internal,
            text: format!("session {} is not attached", session.0),
        }
    }

    fn session(&mut self, id: SessionId) -> Result<&mut Session, Refusal> {
        let index = self.index.get(&id).copied();
        index
            .and_then(|index| self.sessions[index].as_mut())
            .ok_or_else(|| Engine::unknown(id))
    }

    /// The engine's counters, those that live elsewhere filled in.
    pub fn counters(&self) -> crate::stats::Counters {
        let backend = self.device.backend.stats();
        let mut counters = self.counters;
        counters.plan_hits = self.plans.hits;
        counters.plan_misses = self.plans.misses;
        counters.plans = self.plans.plan_count() as u64;
        counters.compiles = backend.compiles;
        counters.packed_bytes = backend.packed_bytes;
        counters.scratch_bytes_max = backend.scratch_bytes_max;
        counters.spilled_bytes = self.device.memory.spilled_bytes;
        counters.spill_host_bytes = self.device.memory.host_bytes();
        counters.spill_out_bytes = self.device.memory.moved.out_bytes;
        counters.spill_in_bytes = self.device.memory.moved.in_bytes;
        counters.throttled_us = self.device.pressure.throttled_ns / 1000;
        counters.device_bytes = self.device.memory.bytes;
        counters.device_bytes_max = self.device.memory.bytes_max;
        counters.constant_bytes = self.device.constants.bytes();
        counters.shared_bytes_saved = self.device.constants.shared_bytes_saved;
        counters
    }
}

impl EngineCore for Engine {
    fn set_slate(&mut self, slate: Slate) {
        self.slate = Some(slate);
    }

    fn attach(&mut self, spec: SessionSpec) -> Result<(), Refusal> {
        let id = spec.id;
        let seat = self.scheduler.seat(spec.class, spec.tenant);
        let tenant = self.tenants.entry(spec.tenant).or_insert_with(|| Tenant {
            sessions: 0,
            account: Account::new(Level::Tenant, None),
            uids: HashMap::new(),
        });
        tenant.sessions += 1;
        let known = tenant.uids.get(&spec.uid).and_then(Weak::upgrade);
        let uid = known.unwrap_or_else(|| {
            let account = Account::new(Level::Uid, Some(&tenant.account));
            tenant.uids.insert(spec.uid, Rc::downgrade(&account));
            account
        });
        let (quotas, now_ns) = (spec.quotas, self.clock.now_ns());
        let account = Account::new(Level::Session, Some(&uid));
        let bill = self.bills.open(&spec, &account);
        let mut session = Session::new(spec, seat, account, bill);
        session.set_quotas(&quotas, now_ns);
        let index = self
            .sessions
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.sessions.push(None);
                self.sessions.len() - 1
            });
        self.sessions[index] = Some(session);
        self.index.insert(id, index);
        Ok(())
    }

    fn add_queue(&mut self, session: SessionId, queue: QueueEnds) -> Result<(), Refusal> {
        let now_ns = self.clock.now_ns();
        let index = self
            .index
            .get(&session)
            .copied()
            .ok_or_else(|| Engine::unknown(session))?;
        let session = self.session(session)?;
        let number = queue.id as usize;
        if number >= session.spec.limits.queues as usize {
            let text = format!(
                "queue {number} is beyond the limit of {} queues",
                session.spec.limits.queues
            );
            return Err(Refusal {
                code: Code::Limit,
                text,
            });
        }
        if session.queues.len() <= number {
            session.queues.resize_with(number + 1, || None);
        }
        session.queues[number] = Some(Queue::new(queue, now_ns));
        self.active.retain(|place| *place != (index, number));
        self.active.push((index, number));
        Ok(())
    }

    fn add_staging(&mut self, session: SessionId, map: StagingMap) -> Result<u32, Refusal> {
        let session = self.session(session)?;
        session.staging.push(map);
        Ok(session.staging.len() as u32 - 1)
    }

    fn detach(&mut self, id: SessionId) -> SessionTotals {
        let Some(index) = self.index.remove(&id) else {
            return SessionTotals::default();
        };
        let Some(mut session) = self.sessions[index].take() else {
            return SessionTotals::default();
        };
        self.active.retain(|place| place.0 != index);
        self.abandon_orphans();
        let mut totals = session.totals;
        for queue in session.queues.iter_mut().flatten() {
            for work in &queue.works {
                work.inputs.iter().for_each(|value| value.drop_use());
            }
            queue.ends.completion.end(queue.ends.notice.as_ref());
        }
        // What was accepted and has no outcome was cancelled by the session's end.
        let ended = totals.ok + totals.failed + totals.cancelled;
        let cancelled = session.accepted.saturating_sub(ended);
        totals.cancelled += cancelled;
        self.counters.requests_cancelled += cancelled;
        let (tenant, owner) = (session.spec.tenant, session.owner());
        drop(session);
        self.scheduler.leave(&owner);
        self.device.pressure.forget(id);
        self.device.memory.collect(&mut *self.device.backend);
        self.device.constants.sweep(self.clock.now_ns());
        let last = self.tenants.get_mut(&tenant).is_none_or(|left| {
            left.uids.retain(|_, uid| uid.strong_count() > 0);
            left.sessions = left.sessions.saturating_sub(1);
            left.sessions == 0
        });
        if last {
            self.tenants.remove(&tenant);
            self.device
                .memory
                .forget_tenant(&mut *self.device.backend, tenant);
            if !self.device.in_flight.is_empty() {
                self.absent.push(tenant);
            }
        }
        totals
    }

    fn set(&mut self, session: SessionId, name: &str, class: Class, weight: u32) {
        if let Ok(session) = self.session(session) {
            session.spec.name = name.to_owned();
            session.spec.weight = weight;
            let owner = session.owner();
            if owner.class != class {
                session.spec.class = class;
                self.scheduler.leave(&owner);
                let seat = self.scheduler.seat(class, owner.tenant);
                if let Ok(session) = self.session(owner.session) {
                    session.seat = seat;
                }
            }
        }
    }

    fn set_quotas(&mut self, session: SessionId, tenant_weight: u32, quotas: &Quotas) {
        let now_ns = self.clock.now_ns();
        if let Ok(session) = self.session(session) {
            session.spec.tenant_weight = tenant_weight;
            session.set_quotas(quotas, now_ns);
        }
    }

    fn add_constant(&mut self, key: ConstantKey, memory: OwnedFd) {
        let now_ns = self.clock.now_ns();
        let device = &mut self.device;
        let restored = device.constants.restore(
            (&mut device.memory, &mut *device.backend),
            key,
            &memory,
            now_ns,
        );
        if let Err(error) = restored {
            tracing::warn!(%error, "a constant of an earlier epoch is not taken over");
        }
    }

    fn take_sealed(&mut self) -> Vec<(ConstantKey, OwnedFd)> {
        self.device.constants.take_sealed()
    }

    fn take_unsealed(&mut self) -> Vec<ConstantKey> {
        self.device.constants.take_unsealed()
    }

    fn take_charged(&mut self) -> Vec<Charged> {
        let in_flight = &self.device.in_flight;
        let works = |session| {
            in_flight
                .iter()
                .any(|launch| launch.works.iter().any(|work| work.session == session))
        };
        self.bills.take(works)
    }

    fn charged_ns(&self) -> u64 {
        self.busy_ns
    }

    fn take_faults(&mut self) -> Vec<SessionFault> {
        std::mem::take(&mut self.faults)
    }

    fn configure(&mut self, config: &Config) {
        self.settings.quiet_ns = u64::from(config.engine.quiet_us) * 1000;
        self.settings.hold_ns = u64::from(config.engine.hold_us) * 1000;
        self.scheduler.hold.hold_ns_max = self.settings.hold_ns;
        self.settings.slice_ns = u64::from(config.engine.slice_us) * 1000;
        self.scheduler.set_policy(config.engine.policy);
        match config.engine.merge {
            Merge::Always => self.scheduler.guard = None,
            Merge::Measured => {
                self.scheduler.guard.get_or_insert_default();
            }
        }
    }

    fn doorbell(&mut self, session: SessionId, queue: u32) {
        let Some(&index) = self.index.get(&session) else {
            return;
        };
        let now_ns = self.clock.now_ns();
        let place = (index, queue as usize);
        let Some(found) = self.queue(place) else {
            return;
        };
        found.ends.completion.set_need_wakeup(false);
        if !found.active {
            found.active = true;
            found.news_ns = now_ns;
            self.active.push(place);
        }
    }

    fn tick(&mut self) -> Progress {
        self.turn()
    }

    fn watch(&self) -> bool {
        let looks = LOOKS / self.active.len().max(1);
        (0..looks).any(|_| {
            std::hint::spin_loop();
            self.active
                .iter()
                .filter_map(|&(s, q)| self.sessions[s].as_ref()?.queues.get(q)?.as_ref())
                .any(|queue| !queue.frozen && queue.ends.consumer.is_behind())
        })
    }

    fn prepare_park(&mut self) -> bool {
        if self.device.running() > 0 || self.device.constants.is_busy() {
            return false;
        }
        let places = self.active.clone();
        for &place in &places {
            if let Some(queue) = self.queue(place) {
                let head = queue.ends.consumer.head();
                queue.ends.completion.set_head(head);
                queue.ends.completion.set_need_wakeup(true);
            }
        }
        parking_fence();
        let news = places.iter().any(|&place| {
            self.queue(place)
                .is_some_and(|queue| !queue.frozen && queue.ends.consumer.is_behind())
        });
        if news {
            for &place in &places {
                if let Some(queue) = self.queue(place) {
                    queue.ends.completion.set_need_wakeup(false);
                }
            }
        } else {
            self.stages.park();
        }
        !news
    }

    fn awake(&mut self) {
        self.stages.awake(&*self.clock);
    }

    fn doze(&mut self) {
        if self.device.running() > 0 && self.held_until_ns.is_none() {
            self.device.backend.doze(DOZE_LONGEST);
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        self.deadline()
    }

    fn begin_drain(&mut self) {
        self.draining = true;
    }

    fn is_drained(&self) -> bool {
        let busy = |session: &Session| {
            session
                .queues
                .iter()
                .flatten()
                .any(|queue| !queue.is_quiet() || queue.ends.consumer.is_behind())
        };
        self.device.in_flight.is_empty() && !self.sessions.iter().flatten().any(busy)
    }

    fn stat_json(&self) -> String {
        let info = self.device.backend.info();
        let stages_ns = self.stages.told_ns(&*self.clock);
        let in_stages = Stage::ALL.iter().map(|stage| stage.name()).zip(stages_ns);
        let stages: serde_json::Map<_, _> = in_stages
            .map(|(name, ns)| (name.to_owned(), ns.into()))
            .collect();
        let sessions: Vec<_> = self
            .sessions
            .iter()
            .flatten()
            .map(|session| {
                json!({
                    "id": session.spec.id.0,
                    "device_us": session.device_ns / 1000,
                    "wait_us": session.wait_ns / 1000,
                    "requests": session.accepted,
                    "requests_in_flight": session.in_flight(),
                    "device_bytes": session.account.used(Resource::DeviceMemory),
                    "handles": session.handles.bound(),
                    "throttled_us": self.device.pressure.throttled_ns_of(session.spec.id) / 1000,
                })
            })
            .collect();
        let account = |tenant: u32, uid: Option<u32>, account: &Account| {
            json!({
                "tenant": tenant,
                "uid": uid,
                "handles": account.used(Resource::Handles),
                "requests_in_flight": account.used(Resource::Requests),
                "device_bytes": account.used(Resource::DeviceMemory),
            })
        };
        let mut accounts = Vec::new();
        for (id, tenant) in &self.tenants {
            accounts.push(account(id.0, None, &tenant.account));
            let uids = tenant.uids.iter();
            let live = uids.filter_map(|(uid, weak)| Some((*uid, weak.upgrade()?)));
            accounts.extend(live.map(|(uid, of)| account(id.0, Some(uid), &of)));
        }
        json!({
            "accounts": accounts,
            "device": info.device,
            "uuid": info.uuid,
            "description": info.description,
            "epoch": self.settings.epoch,
            "busy_us": self.busy_ns / 1000,
            "counters": self.counters(),
            "stages_ns": stages,
            "pool_ns": self.busy_ns.saturating_sub(stages_ns[Stage::Execution as usize]),
            "sessions": sessions,
        })
        .to_string()
    }
}
