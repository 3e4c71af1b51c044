//! A client at work: it writes requests, waits, looks at what came back, and goes on.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use tensord_daemon::config::Quotas;
use tensord_daemon::engine_process::{EngineCore, SessionId, SessionSpec, TenantId};
use tensord_shm::completion::QueueState;
use tensord_shm::control::SessionLimits;
use tensord_shm::segment::create_staging;
use tensord_shm::staging::{StagingArena, StagingMap, StagingRegion};

use super::handles::Handles;
use super::job::{Builder, Expected, Step, Tensor};
use super::player::Player;
use super::recorder::Recorder;
use super::spec::{ClientSpec, Pace};
use crate::checks::outcomes::Outcomes;
use crate::checks::{Check, Violation};
use crate::random::Random;
use crate::recording::{Action, Recording};
use crate::wire::{PushError, Wire, WireError};

/// Staging memory of a client.
const STAGING_BYTES: u64 = 512 << 10;
/// Names of a queue.
const HANDLES_EACH: u32 = 4096;
/// Jobs of a client that asks whatever became of those before.
const JOBS_MAX: usize = 64;
/// Tensors let go by one record.
const RELEASES_MAX: usize = 32;
/// Labels of tenants stand above those of sessions.
const SESSION_LABELS: u64 = 48;
const TENANT_LABELS: u64 = 15;

/// Requests on their way into a ring.
struct Outbox {
    queue: usize,
    steps: VecDeque<Step>,
    job: Job,
}

/// Requests that are written.
struct Job {
    queue: usize,
    first: u64,
    last: u64,
    kind: Option<usize>,
    begun_ns: u64,
    expected: Vec<Expected>,
    /// Kept until the job is over.
    _uploads: Vec<StagingRegion>,
    result: Option<Tensor>,
}

/// A job that is over.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// What it computed: index into the spec's jobs. `None` for preparations.
    pub kind: Option<usize>,
    /// When its first request was written.
    pub begun_ns: u64,
    /// When its client saw its end.
    pub over_ns: u64,
    /// Its first failure: timeline value and code.
    pub failure: Option<(u64, u32)>,
    /// Its requests.
    pub requests: u64,
}

/// A client.
pub struct Client {
    /// What it is like.
    pub spec: ClientSpec,
    /// Its session.
    pub session: SessionId,
    /// When it acts next by itself.
    pub next_ns: Option<u64>,
    /// What it saw, by queue.
    pub outcomes: Vec<Outcomes>,
    random: Random,
    wires: Vec<Wire>,
    handles: Vec<Handles>,
    staging: StagingArena,
    /// What its jobs work on, by queue and kind.
    bases: Vec<Option<Vec<Vec<Tensor>>>>,
    /// What its next requests let go, by queue.
    unwanted: Vec<Vec<Tensor>>,
    outbox: Option<Outbox>,
    jobs: VecDeque<Job>,
    submitted: u64,
    /// When the next job is due.
    due_ns: u64,
    burst_left: u32,
    turn: usize,
    broken: bool,
    player: Option<Player>,
    recorder: Option<Recorder>,
    /// Head of the ring when it was found full.
    full_at: Option<(usize, u64)>,
}

impl Client {
    /// Attaches a session with its queues.
    pub fn connect(
        engine: &mut dyn EngineCore,
        number: u64,
        spec: ClientSpec,
        random: Random,
    ) -> Result<Client, WireError> {
        let session = SessionId(number);
        let queues = spec.queues.max(1);
        engine.attach(SessionSpec {
            id: session,
            tenant: TenantId(spec.tenant),
            tenant_name: format!("tenant {}", spec.tenant),
            tenant_weight: spec.tenant_weight,
            pid: 0,
            uid: spec.tenant,
            name: format!("client {number}"),
            command: "simulated".into(),
            class: spec.class,
            weight: spec.weight,
            limits: SessionLimits {
                queues,
                handles: HANDLES_EACH * queues,
                requests_in_flight: 1 << 20,
                staging_arenas: 1,
                staging_bytes: STAGING_BYTES,
                device_bytes: 1 << 40,
            },
            quotas: Quotas::default(),
            fuse: spec.fuse,
            batch: spec.batch,
        })?;
        let staging_bytes = spec
            .recording
            .as_ref()
            .map_or(STAGING_BYTES, |recording| recording.staging_bytes);
        let memory = create_staging(staging_bytes)?;
        engine.add_staging(session, StagingMap::map(memory.as_fd(), staging_bytes)?)?;
        let open = |queue| Wire::open(engine, session, queue, spec.slot_count);
        let mut wires = (0..queues).map(open).collect::<Result<Vec<_>, _>>()?;
        if spec.records {
            wires.iter_mut().for_each(Wire::keep_last);
        }
        let each = |_| Vec::new();
        Ok(Client {
            session,
            next_ns: Some(spec.starts_ns),
            outcomes: (0..queues).map(|_| Outcomes::default()).collect(),
            random,
            wires,
            handles: (0..queues)
                .map(|k| Handles::new(k * HANDLES_EACH))
                .collect(),
            staging: StagingArena::map(memory.as_fd(), staging_bytes)?,
            bases: (0..queues).map(|_| None).collect(),
            unwanted: (0..queues).map(each).collect(),
            outbox: None,
            jobs: VecDeque::new(),
            submitted: 0,
            due_ns: spec.starts_ns,
            burst_left: 0,
            turn: 0,
            broken: false,
            player: spec
                .recording
                .as_ref()
                .map(|recording| Player::new(Arc::clone(recording), spec.starts_ns)),
            recorder: spec.records.then(Recorder::default),
            full_at: None,
            spec,
        })
    }

    /// Is nothing of it under way that will have an end?
    pub fn is_quiet(&self) -> bool {
        if let Some(player) = &self.player {
            return player.is_over();
        }
        self.spec.never_reads || self.broken || self.outbox.is_none() && self.jobs.is_empty()
    }

    /// Writes what is no request: a record without a length where `frame` is broken, else words without meaning. From here on it keeps no rules.
    pub fn write_garbage(&mut self, engine: &mut dyn EngineCore, frame: bool) {
        let words = std::array::from_fn(|_| self.random.word());
        self.broken = true;
        self.next_ns = None;
        self.wires[0].push_garbage(words, frame);
        self.outcomes[0].wrote(self.wires[0].written());
        self.wires[0].publish(engine);
    }

    /// What it did, if that was written down.
    pub fn recording(&mut self) -> Option<Recording> {
        let recorder = self.recorder.take()?;
        Some(Recording {
            class: self.spec.class,
            weight: self.spec.weight,
            fuse: self.spec.fuse,
            batch: self.spec.batch,
            queues: self.wires.len() as u32,
            slot_count: self.spec.slot_count,
            staging_bytes: STAGING_BYTES,
            entries: recorder.entries,
        })
    }

    /// Did it break a rule?
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// It asks for nothing more.
    pub fn stop(&mut self, now_ns: u64) {
        self.spec.stops_ns = self.spec.stops_ns.min(now_ns);
    }

    /// Does what is due.
    pub fn act(&mut self, engine: &mut dyn EngineCore, now_ns: u64) {
        self.next_ns = None;
        if let Some(player) = &mut self.player {
            self.full_at = None;
            let full_at = &mut self.full_at;
            self.next_ns = player.act(&mut self.wires, engine, now_ns, full_at);
            for (outcomes, wire) in self.outcomes.iter_mut().zip(&self.wires) {
                outcomes.wrote(wire.written());
            }
            return;
        }
        if self.outbox.is_none() && self.wants_job(now_ns) {
            self.build(now_ns);
        }
        if self.outbox.is_some() {
            self.write(engine, now_ns);
        }
        if self.outbox.is_none() {
            self.next_ns = self.next_job_ns(now_ns);
        }
    }

    fn may_submit(&self, now_ns: u64) -> bool {
        now_ns < self.spec.stops_ns && self.submitted < self.spec.jobs_max
    }

    fn wants_job(&mut self, now_ns: u64) -> bool {
        if !self.may_submit(now_ns) {
            return false;
        }
        match self.spec.pace {
            Pace::Closed { depth, .. } => {
                self.jobs.len() < depth.max(1) as usize && now_ns >= self.due_ns
            }
            Pace::Open { gap_ns } => {
                if now_ns < self.due_ns || self.jobs.len() >= JOBS_MAX {
                    return false;
                }
                self.due_ns = now_ns + self.random.gap_ns(gap_ns);
                true
            }
            Pace::Periodic { period_ns } => {
                if now_ns < self.due_ns || self.jobs.len() >= JOBS_MAX {
                    return false;
                }
                self.due_ns = now_ns + period_ns + self.random.below(period_ns / 4 + 1);
                true
            }
            Pace::Bursts { count, gap_ns } => {
                if self.burst_left == 0 {
                    if now_ns < self.due_ns || self.jobs.len() >= JOBS_MAX {
                        return false;
                    }
                    self.burst_left = count.max(1);
                    self.due_ns = now_ns + gap_ns;
                }
                self.burst_left -= 1;
                true
            }
        }
    }

    /// When the next job is due, if that does not depend on an end.
    fn next_job_ns(&self, now_ns: u64) -> Option<u64> {
        if !self.may_submit(now_ns) {
            return None;
        }
        let has_room = match self.spec.pace {
            Pace::Closed { depth, .. } => self.jobs.len() < depth.max(1) as usize,
            _ => self.jobs.len() < JOBS_MAX,
        };
        let due_ns = if self.burst_left > 0 {
            now_ns
        } else {
            self.due_ns
        };
        has_room.then(|| due_ns.max(now_ns + 1))
    }

    /// Another queue, and what it has come to write, to be waited for now and then.
    fn awaited(&mut self, queue: usize) -> Option<(u32, u64)> {
        let other = self.random.below(self.wires.len() as u64) as usize;
        let value = self.wires[other].written();
        (other != queue && self.random.chance(20)).then_some((other as u32, value))
    }

    /// Makes the requests of a job: the first of a queue prepares what its jobs work on.
    fn build(&mut self, now_ns: u64) {
        let queue = self.turn % self.wires.len();
        let awaited = self.awaited(queue);
        let spec = &self.spec;
        let mut builder = Builder {
            random: &mut self.random,
            handles: &mut self.handles[queue],
            staging: &self.staging,
            session: self.session.0 % SESSION_LABELS,
            tenant: SESSION_LABELS + u64::from(spec.tenant) % TENANT_LABELS,
            first: self.wires[queue].written() + 1,
            steps: Vec::new(),
            expected: Vec::new(),
            uploads: Vec::new(),
        };
        let (mut kind, mut result) = (None, None);
        match &mut self.bases[queue] {
            None => {
                let bases = spec.jobs.iter().map(|job| builder.bases(job)).collect();
                self.bases[queue] = Some(bases);
            }
            Some(bases) => {
                if let Some((other, value)) = awaited {
                    builder.wait_for(other, value);
                }
                let chosen = builder.random.below(spec.jobs.len() as u64) as usize;
                let made = builder.job(&spec.jobs[chosen], &mut bases[chosen]);
                (kind, result) = (Some(chosen), Some(made));
                if let Some(deadline_us) = spec.deadline_us {
                    builder.set_deadline(spec.class, deadline_us);
                }
                if builder.random.chance(spec.downloads) {
                    builder.download(made);
                }
                self.submitted += 1;
                self.turn += 1;
            }
        }
        let Builder {
            mut steps,
            expected,
            uploads,
            ..
        } = builder;
        // A name is free for those who come behind the record that lets it go.
        if let Some(step) = steps.first_mut() {
            let few = self.unwanted[queue].len().min(RELEASES_MAX);
            for tensor in self.unwanted[queue].drain(..few) {
                step.releases.push(tensor.handle);
                self.handles[queue].give(tensor.handle);
            }
        }
        let first = self.wires[queue].written() + 1;
        self.outbox = Some(Outbox {
            queue,
            job: Job {
                queue,
                first,
                last: first + steps.len() as u64 - 1,
                kind,
                begun_ns: now_ns,
                expected,
                _uploads: uploads,
                result,
            },
            steps: steps.into(),
        });
    }

    /// Writes some of the outbox.
    fn write(&mut self, engine: &mut dyn EngineCore, now_ns: u64) {
        let Some(outbox) = &mut self.outbox else {
            return;
        };
        let queue = outbox.queue;
        let wire = &mut self.wires[queue];
        let mut written = 0;
        self.full_at = None;
        while let Some(step) = outbox.steps.front()
            && written < self.spec.burst.max(1)
        {
            let pushed = wire.push(&step.request, &step.releases, step.urgency);
            match pushed {
                Ok(_) => {
                    outbox.steps.pop_front();
                    if let (Some(recorder), Some(words)) = (&mut self.recorder, wire.last()) {
                        recorder.note(now_ns, queue, Action::Record(words.to_vec()));
                    }
                }
                Err(PushError::Full(_)) => {
                    self.full_at = Some((queue, wire.head()));
                    break;
                }
                // No job has requests of that length; it would wait for ever, which is seen.
                Err(PushError::TooLong(_)) => break,
            }
            written += 1;
        }
        self.outcomes[queue].wrote(wire.written());
        wire.publish(engine);
        if !outbox.steps.is_empty() {
            let pause = u64::from(written) * self.spec.record_ns;
            self.next_ns = self.full_at.is_none().then_some(now_ns + pause.max(1));
            return;
        }
        if self.spec.waits {
            let last = outbox.job.last;
            wire.demand(engine, last);
            if let Some(recorder) = &mut self.recorder {
                // Who has one job at a time waits for it.
                let action = match self.spec.pace {
                    Pace::Closed { depth: 0 | 1, .. } => Action::Wait(last),
                    _ => Action::Demand(last),
                };
                recorder.note(now_ns, queue, action);
            }
        }
        if let Some(outbox) = self.outbox.take() {
            self.jobs.push_back(outbox.job);
        }
    }

    /// Looks at what came back. A client that slept acts `wake_ns` later.
    pub fn look(
        &mut self,
        now_ns: u64,
        wake_ns: u64,
        finished: &mut Vec<Finished>,
    ) -> Result<(), Violation> {
        if self.broken {
            return Ok(());
        }
        for queue in 0..self.wires.len() {
            self.look_at(queue)?;
        }
        let before = finished.len();
        if let Some(player) = &mut self.player {
            let stopped = self
                .full_at
                .is_some_and(|(queue, head)| self.wires[queue].head() != head);
            let over = player.look(&self.outcomes, now_ns);
            if stopped || over.is_some() {
                let latest_ns = player.due_ns().max(now_ns + wake_ns);
                self.next_ns = Some(latest_ns.max(now_ns + 1));
            }
            finished.extend(over);
            return Ok(());
        }
        let mut k = 0;
        while k < self.jobs.len() {
            let job = &self.jobs[k];
            if self.outcomes[job.queue].timeline() < job.last {
                k += 1;
                continue;
            }
            if let Some(job) = self.jobs.remove(k) {
                finished.push(self.finish(job, now_ns)?);
            }
        }
        let room = self
            .full_at
            .is_some_and(|(queue, head)| self.wires[queue].head() != head);
        if finished.len() > before {
            if let Some(recorder) = &mut self.recorder {
                recorder.went_on(now_ns);
            }
            if let Pace::Closed { think_ns, .. } = self.spec.pace {
                let think_ns = match think_ns {
                    0 => 0,
                    mean_ns => self.random.gap_ns(mean_ns),
                };
                self.due_ns = self.due_ns.max(now_ns + wake_ns + think_ns);
            }
        }
        let goes_on = self.next_ns.is_none() && self.outbox.is_none();
        if room || finished.len() > before && goes_on {
            let due_ns = if room { now_ns } else { self.due_ns };
            self.full_at = None;
            self.next_ns = Some(due_ns.max(now_ns + wake_ns).max(now_ns + 1));
        }
        Ok(())
    }

    fn look_at(&mut self, queue: usize) -> Result<(), Violation> {
        let (wire, outcomes) = (&mut self.wires[queue], &mut self.outcomes[queue]);
        if wire.state() != QueueState::Open {
            return Err(Violation::new(
                Check::NoFailure,
                format!(
                    "queue {queue} of session {} is {:?}, and its client kept the rules",
                    self.session.0,
                    wire.state()
                ),
            ));
        }
        let about = |violation: Violation| {
            let text = format!(
                "session {}, queue {queue}: {}",
                self.session.0, violation.text
            );
            Violation::new(violation.check, text)
        };
        let timeline = wire.timeline();
        let told = wire.has_error() && !self.spec.never_reads;
        if timeline == outcomes.timeline() && !told {
            return Ok(());
        }
        outcomes.saw(timeline).map_err(about)?;
        while !self.spec.never_reads
            && let Some(error) = wire.pop_error()
        {
            outcomes.failed(error.value, error.code).map_err(about)?;
        }
        outcomes.settle();
        Ok(())
    }

    fn finish(&mut self, job: Job, now_ns: u64) -> Result<Finished, Violation> {
        let outcomes = &self.outcomes[job.queue];
        for expected in &job.expected {
            let value = job.first + expected.at;
            // Who takes no failures cannot know which of its values are there.
            if outcomes.failure(value, value).is_some() || self.spec.never_reads {
                continue;
            }
            let bytes = expected.region.as_slice();
            if !expected.label.fills(0, bytes) {
                let text = format!(
                    "session {}, queue {}: what request {value} of {:?}, requests {} to {}, downloaded is labelled {:x?} and not {:x?}",
                    self.session.0,
                    job.queue,
                    job.kind.map(|kind| self.spec.jobs[kind]),
                    job.first,
                    job.last,
                    tensord_sim::Label::of_bytes(bytes),
                    expected.label
                );
                return Err(Violation::new(Check::OwnContent, text));
            }
        }
        let failure = outcomes.failure(job.first, job.last);
        let unwanted = &mut self.unwanted[job.queue];
        unwanted.extend(job.result);
        if failure.is_some() {
            // What jobs work on may have failed: it is made anew.
            unwanted.extend(self.bases[job.queue].take().into_iter().flatten().flatten());
        }
        Ok(Finished {
            kind: job.kind,
            begun_ns: job.begun_ns,
            over_ns: now_ns,
            failure,
            requests: job.last - job.first + 1,
        })
    }
}
