//! The device's course: which launch runs when, and what it leaves behind.
//!
//! One launch runs at a time, in slices, in the order in which they were given their slices. A launch whose slice ended waits until it is
//! resumed or abandoned, and others run meanwhile. What a launch writes is written at its end, so whoever reads too early reads what was there
//! before.

use std::collections::VecDeque;

use tensord_plan::{BufferId, DeviceFault, Instance, Launch, LaunchId, Ran};

use crate::flow::Flows;
use crate::label::Label;
use crate::memory::{Breach, Memory};
use crate::model::Model;

/// Breaches that are remembered.
const BREACHES_MAX: usize = 16;

/// A launch that is over, for whoever watches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Which.
    pub id: LaunchId,
    /// Number of instances.
    pub instances: u32,
    /// Operations of its plan.
    pub operations: u32,
    /// When it was handed over, by the device's clock.
    pub handed_ns: u64,
    /// When it was over.
    pub over_ns: u64,
    /// Device time of all its slices.
    pub busy_ns: u64,
    /// Number of slices.
    pub slices: u32,
}

struct Job {
    launch: Launch,
    handed_ns: u64,
    busy_ns: u64,
    slices: u32,
    left_ns: u64,
    /// What it may still run before it waits, and since when.
    slice_ns: u64,
    given_ns: u64,
}

impl Job {
    fn reads(&self) -> impl Iterator<Item = BufferId> + '_ {
        let instances = self.launch.instances.iter();
        instances.flat_map(|instance| instance.inputs.iter().map(|operand| operand.buffer))
    }

    fn writes(&self) -> impl Iterator<Item = BufferId> + '_ {
        let instances = self.launch.instances.iter();
        instances.flat_map(|instance| instance.outputs.iter().map(|operand| operand.buffer))
    }

    fn uses(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.reads().chain(self.writes())
    }
}

/// A device and everything on it.
pub struct Device {
    /// What it is like.
    pub model: Model,
    /// Its memory.
    pub memory: Memory,
    /// Launches that are not over, in order.
    jobs: VecDeque<Job>,
    /// Index of the one that runs, when it began and when its slice ends.
    running: Option<(usize, u64, u64)>,
    /// When the last slice ended.
    free_ns: u64,
    ran: Vec<Ran>,
    busy_ns: u64,
    flows: Flows,
    breaches: Vec<Breach>,
    log: Option<Vec<Launched>>,
    fault_in: Option<u64>,
    refusing: bool,
}

impl Device {
    /// A device on which nothing ran yet.
    pub fn new(model: Model) -> Device {
        Device {
            memory: Memory::new(model.memory_bytes),
            model,
            jobs: VecDeque::new(),
            running: None,
            free_ns: 0,
            ran: Vec::new(),
            busy_ns: 0,
            flows: Flows::default(),
            breaches: Vec::new(),
            log: None,
            fault_in: None,
            refusing: false,
        }
    }

    /// Takes a launch, which may run for so long before it waits.
    pub fn launch(&mut self, launch: Launch, slice_ns: u64, now_ns: u64) {
        self.run_until(now_ns);
        let job = Job {
            handed_ns: now_ns,
            busy_ns: 0,
            slices: 0,
            left_ns: self.model.busy_ns(&launch).max(1),
            slice_ns: slice_ns.max(1),
            given_ns: now_ns,
            launch,
        };
        self.check_apart(&job);
        self.jobs.push_back(job);
        self.run_until(now_ns);
    }

    /// Launches that are not over share nothing that one of them writes.
    fn check_apart(&mut self, job: &Job) {
        let shared = self.jobs.iter().find_map(|other| {
            let theirs = job
                .uses()
                .find(|mine| other.writes().any(|written| written == *mine));
            let ours = || {
                job.writes()
                    .find(|mine| other.reads().any(|read| read == *mine))
            };
            Some((other.launch.id, theirs.or_else(ours)?))
        });
        if let Some((launch, buffer)) = shared {
            let call = "launch";
            self.note(Err(Breach::InUse {
                call,
                buffer,
                launch,
            }));
        }
    }

    /// Lets a launch whose slice ended run on, behind those that have a slice.
    pub fn resume(&mut self, id: LaunchId, slice_ns: u64, now_ns: u64) {
        self.run_until(now_ns);
        match self.take_waiting(id) {
            Some(mut job) => {
                (job.slice_ns, job.given_ns) = (slice_ns.max(1), now_ns);
                self.jobs.push_back(job);
            }
            None => self.check_unknown(id),
        }
        self.run_until(now_ns);
    }

    /// Ends a launch whose slice ended.
    pub fn abandon(&mut self, id: LaunchId, now_ns: u64) {
        self.run_until(now_ns);
        if self.take_waiting(id).is_none() {
            self.check_unknown(id);
        }
    }

    fn check_unknown(&mut self, id: LaunchId) {
        if self.jobs.iter().any(|job| job.launch.id == id) {
            self.note(Err(Breach::NotWaiting { launch: id }));
        }
    }

    fn take_waiting(&mut self, id: LaunchId) -> Option<Job> {
        let is_waiting = |job: &Job| job.launch.id == id && job.slice_ns == 0;
        let at = self.jobs.iter().position(is_waiting)?;
        if let Some((running, ..)) = &mut self.running
            && *running > at
        {
            *running -= 1;
        }
        self.jobs.remove(at)
    }

    /// Everything up to now happens.
    pub fn run_until(&mut self, now_ns: u64) {
        loop {
            match self.running {
                Some((_, _, end_ns)) if end_ns > now_ns => return,
                Some((index, begin_ns, end_ns)) => self.end_slice(index, begin_ns, end_ns),
                None => match self.next() {
                    Some(index) => {
                        let job = &self.jobs[index];
                        let begin_ns = self.free_ns.max(job.given_ns);
                        let end_ns = begin_ns.saturating_add(job.left_ns.min(job.slice_ns));
                        self.running = Some((index, begin_ns, end_ns));
                    }
                    None => return,
                },
            }
        }
    }

    /// The launch that has had its slice for longest.
    fn next(&self) -> Option<usize> {
        self.jobs.iter().position(|job| job.slice_ns > 0)
    }

    fn end_slice(&mut self, index: usize, begin_ns: u64, end_ns: u64) {
        self.running = None;
        self.free_ns = end_ns;
        let job = &mut self.jobs[index];
        let busy_ns = end_ns - begin_ns;
        job.left_ns -= busy_ns;
        job.busy_ns += busy_ns;
        job.slices += 1;
        job.slice_ns = 0;
        self.busy_ns += busy_ns;
        let (id, over) = (job.launch.id, job.left_ns == 0);
        let mut fault = None;
        if over && let Some(job) = self.jobs.remove(index) {
            self.write_results(&job.launch);
            fault = self.count_down();
            if let Some(log) = &mut self.log {
                log.push(Launched {
                    id,
                    instances: job.launch.instances.len() as u32,
                    operations: job.launch.plan.operations,
                    handed_ns: job.handed_ns,
                    over_ns: end_ns,
                    busy_ns: job.busy_ns,
                    slices: job.slices,
                });
            }
        }
        self.ran.push(Ran {
            id,
            busy_ns,
            over,
            fault,
        });
    }

    fn count_down(&mut self) -> Option<DeviceFault> {
        let left = self.fault_in.as_mut()?;
        *left = left.saturating_sub(1);
        (*left == 0).then(|| {
            self.fault_in = None;
            DeviceFault::Fatal("a fault that was asked for".into())
        })
    }

    /// Each output gets the union of the labels of what it was made from.
    fn write_results(&mut self, launch: &Launch) {
        let flow = self.flows.of(&launch.plan);
        let mut results = Vec::new();
        for instance in &launch.instances {
            let inputs = self.labels_read(instance);
            for sources in flow.iter() {
                let inputs = sources
                    .inputs
                    .iter()
                    .filter_map(|&k| inputs.get(k as usize));
                let immediates = sources.immediates.iter();
                let immediates = immediates
                    .filter_map(|&k| instance.immediates.get(k as usize))
                    .map(|&immediate| Label::of_scalar(immediate));
                results.push(
                    inputs
                        .copied()
                        .chain(immediates)
                        .fold(Label::ZERO, Label::union),
                );
            }
        }
        // All is read before anything is written: an output may take an operand's place.
        let mut results = results.into_iter();
        for instance in &launch.instances {
            let written = instance.outputs.iter().zip(instance.params.output_bytes());
            for ((operand, &len), label) in written.zip(results.by_ref()) {
                let part = (operand.offset, len);
                let written = self.memory.set_label(operand.buffer, part, label);
                self.note(written);
            }
        }
    }

    fn labels_read(&mut self, instance: &Instance) -> Vec<Label> {
        let needed = instance.inputs.iter().zip(instance.params.input_bytes());
        needed
            .map(|(operand, &len)| {
                if len == 0 {
                    return Label::ZERO;
                }
                let read = self.memory.label(operand.buffer, operand.offset, len);
                self.noted(read).unwrap_or(Label::UNWRITTEN)
            })
            .collect()
    }

    fn noted<T>(&mut self, result: Result<T, Breach>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(breach) => {
                if self.breaches.len() < BREACHES_MAX {
                    self.breaches.push(breach);
                }
                None
            }
        }
    }

    /// Notes a breach, if it is one.
    pub fn note(&mut self, result: Result<(), Breach>) {
        self.noted(result);
    }

    /// Notes whether a call touches a buffer that an unfinished launch writes, or for `all` one that it reads.
    pub fn check_unused(&mut self, call: &'static str, buffer: BufferId, all: bool) {
        let user = self.jobs.iter().find(|job| {
            job.writes().any(|used| used == buffer) || all && job.reads().any(|used| used == buffer)
        });
        if let Some(launch) = user.map(|job| job.launch.id) {
            self.note(Err(Breach::InUse {
                call,
                buffer,
                launch,
            }));
        }
    }

    /// When something happens next by itself.
    pub fn next_ns(&self) -> Option<u64> {
        self.running.map(|(_, _, end_ns)| end_ns)
    }

    /// Slices that ended and were not taken yet.
    pub fn take_ran(&mut self) -> std::vec::Drain<'_, Ran> {
        self.ran.drain(..)
    }

    /// Are there such?
    pub fn has_ran(&self) -> bool {
        !self.ran.is_empty()
    }

    /// Device time of all slices that ended.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    /// Breaches since the last call.
    pub fn take_breaches(&mut self) -> Vec<Breach> {
        std::mem::take(&mut self.breaches)
    }

    /// Keeps a log of launches from now on.
    pub fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    /// Launches that ended since the last call.
    pub fn take_log(&mut self) -> Vec<Launched> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The launch that ends as the `count`-th from now on fails, and with it the device; the last that a count can name never comes.
    pub fn fail_in(&mut self, count: u64) {
        self.fault_in = Some(count.max(1));
    }

    /// Refuses all memory that is asked for, or no longer.
    pub fn refuse_memory(&mut self, refusing: bool) {
        self.refusing = refusing;
    }

    /// Is memory refused?
    pub fn is_refusing(&self) -> bool {
        self.refusing
    }
}
