//! READ FIRST. The engine: owns one device and does all tensor work, one turn at a time.
//!
//! [`Engine::tick`] is the whole story: take records out of rings (`ingest`), turn them into values and a window of
//! operations (`graph`), make plans of what is wanted now (`fuse`), choose what runs together (`schedule`), hand it to the device
//! (`dispatch`), and give each request its outcome (`complete`). The engine reaches the world only through rings, a
//! [`Backend`] and a [`Clock`]: the same input gives the same schedule.
//!
//! # When work is wanted
//! A client waits for it, a download needs it, its queue has been quiet for `quiet_us`, or enough operations have gathered
//! (`engine::plan`).

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tensord_plan::{Backend, DeviceFault, LaunchId, Ran};
use tensord_shm::CHECKED;
use tensord_shm::control::Class;
use tensord_shm::error::Code;
use tensord_shm::ring::RecordBuf;
use tensord_shm::staging::StagingMap;

use crate::account::Account;
use crate::bills::Bills;
use crate::clock::Clock;
use crate::dispatch::memory::Block;
use crate::dispatch::{Device, Launched, Placed, running_of};
use crate::engine_process::{
    Progress, QueueEnds, Refusal, SessionFault, SessionId, SessionSpec, SessionTotals, TenantId,
};
use crate::fuse::PlanCache;
use crate::graph::branch::Branches;
use crate::graph::value::Failure;
use crate::ingest::Queue;
use crate::schedule::{BEHIND_MAX, Candidate, Decision, PolicyName, Scheduler, Task};
use crate::session::Session;
use crate::slate::{Running, Slate};
use crate::stages::{Stage, Stages};
use crate::stats::Counters;

mod accept;
mod backend;
mod books;
mod core;
mod ingest;
mod plan;

pub use self::books::{Books, SessionBooks};
pub use self::core::make;

/// Launches that hold the device at once: behind them ready work gathers into batches.
const LAUNCHES_MAX: usize = 2;
/// About so many works are chosen among: where there are few queues, several of each.
const CANDIDATES: usize = 64;
/// After so much of a slice's time new requests are looked for.
const LOOKS_IN_SLICE: u64 = 4;
/// Planned works of a queue that are asked what they will read.
const WORKS_AHEAD_MAX: usize = 64;
/// A queue without news for this long is no longer polled; its client rings.
const POLL_NS: u64 = 2_000_000;

/// What an engine is told of the world.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This start of the engine.
    pub epoch: u32,
    /// A queue that was silent this long has nothing more to add.
    pub quiet_ns: u64,
    /// Ready work is never held longer than this for partners.
    pub hold_ns: u64,
    /// Are launches kept to the number of instances that was measured to be quick?
    pub measured_merging: bool,
    /// A launch holds the device no longer before it is chosen what comes next.
    pub slice_ns: u64,
    /// Whose turn it is.
    pub policy: PolicyName,
    /// Host memory for what the device has no room for; 0 is none.
    pub spill_bytes: u64,
    /// Is this engine simulated? Then everything happens on its own thread and by its own clock, constants are hashed where they
    /// come, and a device that fails ends the engine ([`Engine::is_lost`]) and not the process.
    pub simulated: bool,
}

/// A tenant with sessions.
pub(crate) struct Tenant {
    /// How many.
    pub sessions: u32,
    /// What they hold together.
    pub account: Rc<Account>,
    /// What the sessions of each uid hold together.
    pub uids: HashMap<u32, Weak<Account>>,
}

/// The engine.
pub struct Engine {
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) device: Device,
    pub(crate) plans: PlanCache,
    pub(crate) scheduler: Scheduler,
    pub(crate) sessions: Vec<Option<Session>>,
    pub(crate) index: HashMap<SessionId, usize>,
    pub(crate) tenants: HashMap<TenantId, Tenant>,
    /// Queues that are polled.
    pub(crate) active: Vec<(usize, usize)>,
    pub(crate) bills: Bills,
    pub(crate) counters: Counters,
    pub(crate) stages: Stages,
    pub(crate) busy_ns: u64,
    pub(crate) draining: bool,
    pub(crate) faults: Vec<SessionFault>,
    pub(crate) done: Vec<Ran>,
    pub(crate) record: Option<Box<RecordBuf>>,
    /// Of the last decision: its memory serves the next one.
    candidates: Vec<Candidate>,
    branches: Branches,
    slate: Option<Slate>,
    held_until_ns: Option<u64>,
    /// When the first of those who have used their device time may run again.
    spent_until_ns: Option<u64>,
    /// Tenants that left while launches were under way, which may give them memory back.
    absent: Vec<TenantId>,
    lost: bool,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(backend: Box<dyn Backend>, clock: Box<dyn Clock>, settings: Settings) -> Engine {
        let mut scheduler = Scheduler::default();
        scheduler.hold.hold_ns_max = settings.hold_ns;
        scheduler.guard = settings.measured_merging.then(Default::default);
        scheduler.set_policy(settings.policy);
        let stages = Stages::new(&*clock);
        Engine {
            clock,
            settings,
            device: Device::new(backend, settings.spill_bytes, settings.simulated),
            plans: PlanCache::default(),
            scheduler,
            sessions: Vec::new(),
            index: HashMap::new(),
            tenants: HashMap::new(),
            active: Vec::new(),
            bills: Bills::default(),
            counters: Counters::default(),
            stages,
            busy_ns: 0,
            draining: false,
            faults: Vec::new(),
            done: Vec::new(),
            record: Some(Box::new(RecordBuf::new())),
            candidates: Vec::new(),
            branches: Branches::default(),
            slate: None,
            held_until_ns: None,
            spent_until_ns: None,
            absent: Vec::new(),
            lost: false,
        }
    }

    /// One turn. Each stage does a bounded amount of work.
    pub fn turn(&mut self) -> Progress {
        if self.lost {
            return Progress::Idle;
        }
        let now_ns = self.clock.ns_of(self.stages.begin(&*self.clock));
        self.device.memory.now_ns = now_ns;
        let mut busy = self.complete();
        if self.device.constants.collect() {
            self.enter(Stage::Control);
            return Progress::Report;
        }
        for k in 0..self.active.len() {
            busy |= self.ingest(self.active[k], now_ns);
        }
        for k in 0..self.active.len() {
            busy |= self.plan(self.active[k], now_ns);
        }
        busy |= self.dispatch(now_ns);
        busy |= self.complete();
        self.note_running(Running::Nothing);
        if self.lost {
            return Progress::Busy;
        }
        for k in 0..self.active.len() {
            let place = self.active[k];
            busy |= self.secure(place);
            busy |= self.deliver(place);
            self.publish(place);
        }
        if !busy {
            self.rest(now_ns);
            return Progress::Idle;
        }
        self.enter(Stage::Control);
        Progress::Busy
    }

    /// Time from here on is this stage's.
    #[inline]
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.stages.enter(stage, &*self.clock);
    }

    pub(crate) fn queue(&mut self, (session, queue): (usize, usize)) -> Option<&mut Queue> {
        self.sessions.get_mut(session)?.as_mut()?.queue(queue)
    }

    /// Says whose work runs from here on, beside that of the launches under way.
    pub(crate) fn note_running(&mut self, running: Running) {
        if !CHECKED {
            return;
        }
        let launches = self.device.in_flight.iter();
        if let Some(slate) = &mut self.slate {
            slate.write(launches.fold(running, |all, launch| all.and(launch.running)));
        }
    }

    /// May a session's work be launched now? If not: from when on, by the limits of device time of it, its uid and its tenant.
    pub fn may_run(&self, session: SessionId, now_ns: u64) -> Result<(), u64> {
        let place = self.index.get(&session).copied();
        let session = place.and_then(|index| self.sessions[index].as_ref());
        session.map_or(Ok(()), |session| session.account.may_run(now_ns))
    }

    fn note_session(&mut self, place: (usize, usize)) {
        if let Some(Some(session)) = self.sessions.get(place.0) {
            self.note_running(Running::Of(session.spec.id));
        }
    }

    // ------------------------------------------------------------------ schedule and dispatch

    /// Runs ready work while the device has room, and no longer than until it is time to look for new requests.
    fn dispatch(&mut self, turn_ns: u64) -> bool {
        self.held_until_ns = None;
        self.spent_until_ns = None;
        let mut any = false;
        if self.stages.at() == Stage::Lookup {
            self.enter(Stage::Schedule);
        }
        let slice_ns = self.settings.slice_ns;
        let mut candidates = std::mem::take(&mut self.candidates);
        while self.device.running() < LAUNCHES_MAX && !self.device.is_busy_for(slice_ns) {
            let now_ns = self.clock.now_ns();
            if any && now_ns.saturating_sub(turn_ns) > slice_ns / LOOKS_IN_SLICE {
                break;
            }
            candidates.clear();
            self.gather(&mut candidates, &mut any);
            if candidates.is_empty() {
                self.held_until_ns = self.device.pressure.next_ns();
                break;
            }
            if let Some(first) = self.postponed_among(&candidates) {
                self.enter(Stage::Dispatch);
                let Candidate { place, owner, .. } = candidates[first];
                let charged_ns = candidates[first].request_ns(slice_ns);
                self.scheduler.charge(&owner, charged_ns as i64);
                self.launch(&candidates, &[first], now_ns);
                self.complete();
                if self.device.postponed.is_none() {
                    any = true;
                    continue;
                }
                // Launches that wait for device time keep the room. What others need may be there.
                candidates.retain(|other| other.place != place);
                if candidates.is_empty() {
                    break;
                }
            }
            match self.scheduler.decide(&candidates, slice_ns, now_ns) {
                Decision::Hold { until_ns } => {
                    self.held_until_ns = earlier(self.device.pressure.next_ns(), until_ns);
                    break;
                }
                Decision::Launch(group) => {
                    self.enter(Stage::Dispatch);
                    self.launch(&candidates, &group, now_ns);
                }
                Decision::Resume(id) => {
                    self.enter(Stage::Dispatch);
                    self.go_on(id);
                }
            }
            self.complete();
            any = true;
            if self.device.waits_for_room() && self.device.running() == 0 {
                // Nothing more finds room before a launch goes on that waits for device time.
                break;
            }
        }
        candidates.clear();
        self.candidates = candidates;
        any | self.look_ahead()
    }

    /// What can run: launches that were stopped, and the heads of all queues' work with what may run beside them. Heads whose
    /// operands failed are failed here.
    fn gather(&mut self, candidates: &mut Vec<Candidate>, any: &mut bool) {
        let now_ns = self.clock.now_ns();
        self.stopped(candidates, now_ns);
        let stopped = candidates.len();
        if self.device.waits_for_room() && (stopped > 0 || self.device.running() > 0) {
            // What begins now would keep the room that a work waits for.
            return;
        }
        let each = CANDIDATES / self.active.len().max(1);
        let behind_max = (each.saturating_sub(1) as u32).min(BEHIND_MAX);
        for k in 0..self.active.len() {
            let place = self.active[k];
            if candidates[..stopped].iter().any(|own| own.place == place) {
                continue;
            }
            while let Some(failure) = self.head_failure(place) {
                let Some(placed) = self.take_head(place, 0) else {
                    break;
                };
                placed.work.inputs.iter().for_each(|value| value.drop_use());
                self.fail_work(&placed, failure);
                *any = true;
            }
            let Some(session) = self.sessions[place.0].as_mut() else {
                continue;
            };
            if session
                .queue(place.1)
                .is_none_or(|queue| queue.works.is_empty())
            {
                continue;
            }
            if let Err(until_ns) = session.account.may_run(now_ns) {
                self.spent_until_ns = earlier(self.spent_until_ns, until_ns);
                continue;
            }
            let owner = session.owner();
            let batch = session.spec.batch;
            let Some(Some(queue)) = session.queues.get(place.1) else {
                continue;
            };
            let mut waits: Vec<u32> = Vec::new();
            for (behind, work) in (0..=behind_max).zip(&queue.works) {
                let plan = &work.template.plan;
                let head = &queue.works[0].template.plan;
                if behind > 0 && !(batch && Arc::ptr_eq(plan, head)) {
                    break;
                }
                if !self.device.has_operands(work) {
                    let makers = work.inputs.iter().filter(|value| value.is_waiting());
                    waits.extend(makers.map(|value| value.queue.get()));
                    break;
                }
                // Others may be working with the device's memory.
                let pressure = &mut self.device.pressure;
                let urgent = owner.class == Class::Realtime;
                if behind == 0
                    && pressure.takes_turns()
                    && !pressure.may_run(owner.session, urgent, now_ns)
                {
                    break;
                }
                let cost = work.cost();
                candidates.push(Candidate {
                    owner,
                    place,
                    task: Task::Start { behind },
                    plan: plan.clone(),
                    cost,
                    cost_ns: self.scheduler.costs.ns(plan, cost),
                    ready_ns: work.ready_ns,
                    deadline_ns: work.deadline_ns,
                    batch,
                });
            }
            for other in waits {
                // Made by another queue of the session, which nobody else may be waiting for.
                if let Some(other) = session.queue(other as usize) {
                    other.demand = other.demand.max(other.accepted);
                }
            }
        }
    }

    /// Launches that were stopped: each of their sessions may let them go on.
    fn stopped(&mut self, candidates: &mut Vec<Candidate>, now_ns: u64) {
        for launch in self.device.in_flight.iter().filter(|launch| launch.stopped) {
            for placed in &launch.works {
                let owner = match &self.sessions[placed.place.0] {
                    Some(session) if session.spec.id == placed.session => {
                        if let Err(until_ns) = session.account.may_run(now_ns) {
                            // Others in the launch may have it go on.
                            self.spent_until_ns = earlier(self.spent_until_ns, until_ns);
                            continue;
                        }
                        session.owner()
                    }
                    _ => continue,
                };
                let (work, plan) = (&placed.work, &placed.work.template.plan);
                let cost = work.cost();
                candidates.push(Candidate {
                    owner,
                    place: placed.place,
                    task: Task::Resume(launch.id),
                    plan: plan.clone(),
                    cost,
                    cost_ns: self.scheduler.costs.ns(plan, cost),
                    ready_ns: work.ready_ns,
                    deadline_ns: work.deadline_ns,
                    batch: false,
                });
            }
        }
    }

    fn go_on(&mut self, id: LaunchId) {
        self.note_running(Running::Nothing);
        self.device.resume(id, self.settings.slice_ns);
    }

    fn head_failure(&mut self, place: (usize, usize)) -> Option<Failure> {
        let work = self.queue(place)?.works.front()?;
        let failure = work.inputs.iter().find_map(|value| value.failure())?;
        Some(Failure {
            code: Code::Poisoned,
            ..failure
        })
    }

    fn take_head(&mut self, place: (usize, usize), charged_ns: u64) -> Option<Placed> {
        let session = self.sessions.get_mut(place.0)?.as_mut()?;
        let id = session.spec.id;
        let work = session.queue(place.1)?.works.pop_front()?;
        Some(Placed {
            session: id,
            place,
            work,
            charged_ns,
        })
    }

    fn launch(&mut self, candidates: &[Candidate], group: &[usize], now_ns: u64) {
        let slice_ns = self.settings.slice_ns;
        self.scheduler.hold.launched(candidates, group, now_ns);
        let works: Vec<Placed> = group
            .iter()
            .filter_map(|&k| {
                let charged_ns = candidates[k].request_ns(slice_ns);
                self.take_head(candidates[k].place, charged_ns)
            })
            .collect();
        for placed in &works {
            if let Some(session) = self.sessions[placed.place.0].as_mut() {
                session.wait_ns += now_ns.saturating_sub(placed.work.ready_ns);
            }
        }
        self.note_running(running_of(&works));
        self.device.memory.now_ns = now_ns;
        let sessions = &self.sessions;
        let owner = |placed: &Placed| {
            let session = sessions[placed.place.0]
                .as_ref()
                .expect("the head of a live session's queue");
            (session.spec.tenant, &session.account)
        };
        let launched = self
            .device
            .launch(works, slice_ns, owner, &|visit| upcoming(sessions, visit));
        match launched {
            Ok(Launched { refused, later }) => {
                // The last one first, so that each queue has its order again.
                for placed in later.into_iter().rev() {
                    self.put_back(placed, now_ns);
                }
                for (placed, code) in refused {
                    self.refund(&placed);
                    let (origin, site) = placed.work.requests.first().copied().unwrap_or_default();
                    self.fail_work(&placed, Failure { code, origin, site });
                }
            }
            Err(fault) => self.device_failed(&fault),
        }
    }

    /// A work that found no room is the head of its queue again.
    fn put_back(&mut self, placed: Placed, now_ns: u64) {
        if let Some(Some(session)) = self.sessions.get_mut(placed.place.0) {
            let waited_ns = now_ns.saturating_sub(placed.work.ready_ns);
            session.wait_ns = session.wait_ns.saturating_sub(waited_ns);
        }
        self.refund(&placed);
        if let Some(queue) = self.queue(placed.place) {
            queue.works.push_front(placed.work);
        }
    }

    /// What a work was charged for that did not run.
    fn refund(&mut self, placed: &Placed) {
        if let Some(Some(session)) = self.sessions.get(placed.place.0) {
            let owner = session.owner();
            self.scheduler.charge(&owner, -(placed.charged_ns as i64));
        }
    }

    /// The candidate that found no room before: it is the next one.
    fn postponed_among(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let place = self.device.postponed.take()?;
        let starts = |task: &Task| matches!(task, Task::Start { behind: 0 });
        let is_it = |other: &Candidate| other.place == place && starts(&other.task);
        candidates.iter().position(is_it)
    }

    /// While the device is busy, what the heads of queues read comes back to it.
    fn look_ahead(&mut self) -> bool {
        if self.device.memory.spilled_bytes == 0 || self.device.running() == 0 {
            return false;
        }
        let sessions = &self.sessions;
        let places = self.active.iter();
        let heads = places.filter_map(|&(s, q)| sessions[s].as_ref()?.queues.get(q)?.as_ref());
        heads.filter_map(|queue| queue.works.front()).any(|work| {
            self.device
                .look_ahead(work, &|visit| upcoming(sessions, visit))
        })
    }

    /// The device is lost, and with it everything on it: the process ends and the next epoch begins.
    pub(crate) fn device_failed(&mut self, fault: &DeviceFault) {
        if self.settings.simulated {
            self.lost = true;
            return;
        }
        tracing::error!(%fault, "the device failed; the engine ends");
        std::process::exit(70);
    }

    // ------------------------------------------------------------------ rest

    /// Nothing to do: what was let go is counted as free, and queues without news are no longer polled.
    fn rest(&mut self, now_ns: u64) {
        self.device.memory.collect(&mut *self.device.backend);
        if self.device.in_flight.is_empty() {
            for tenant in self.absent.drain(..) {
                if !self.tenants.contains_key(&tenant) {
                    self.device
                        .memory
                        .forget_tenant(&mut *self.device.backend, tenant);
                }
            }
        }
        let mut k = 0;
        while k < self.active.len() {
            let place = self.active[k];
            let parked = match self.queue(place) {
                None => true,
                Some(queue) => {
                    let idle = queue.is_quiet() && now_ns.saturating_sub(queue.news_ns) > POLL_NS;
                    let parked =
                        idle && (queue.frozen || queue.ends.completion.park(&queue.ends.consumer));
                    queue.active = !parked;
                    parked
                }
            };
            if parked {
                self.active.swap_remove(k);
            } else {
                k += 1;
            }
        }
    }

    /// Until when the engine has nothing to do but wait.
    fn deadline(&self) -> Option<Duration> {
        // A launch that was stopped and does not go on waits for its sessions' device time.
        if self.device.running() > 0 || self.device.constants.is_busy() {
            return Some(Duration::ZERO);
        }
        let next_ns = self.next_timer_ns()?;
        let now_ns = self.clock.now_ns();
        Some(Duration::from_nanos(next_ns.saturating_sub(now_ns)))
    }

    /// When something is due without any news, launches apart.
    pub fn next_timer_ns(&self) -> Option<u64> {
        let queues = self
            .active
            .iter()
            .filter_map(|&(s, q)| self.sessions[s].as_ref()?.queues.get(q)?.as_ref());
        let quiet = queues.filter_map(|queue| {
            let quiet = queue
                .first_unplanned()
                .map(|_| queue.news_ns + plan::silence_ns(queue, self.settings.quiet_ns));
            let waiting = queue.waiting.map(|wait| wait.until_ns);
            quiet.into_iter().chain(waiting).min()
        });
        quiet
            .chain(self.held_until_ns)
            .chain(self.spent_until_ns)
            .min()
    }
}

/// The earlier of a time that may not be set and one that is.
fn earlier(known: Option<u64>, until_ns: u64) -> Option<u64> {
    Some(known.map_or(until_ns, |known| known.min(until_ns)))
}

/// What planned works read, each value's memory with the cost of what comes before in its queue; of each queue a bounded number of works.
fn upcoming(sessions: &[Option<Session>], visit: &mut dyn FnMut(&Block, u64)) {
    let sessions = sessions.iter().flatten();
    for queue in sessions.flat_map(|session| session.queues.iter().flatten()) {
        let mut before = 0;
        for work in queue.works.iter().take(WORKS_AHEAD_MAX) {
            for block in work.inputs.iter().filter_map(|value| value.block()) {
                visit(&block, before);
            }
            before += work.cost();
        }
    }
}
