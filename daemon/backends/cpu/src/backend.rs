//! The cpu as a device: buffers in host memory, launches on the caller's thread or on the pool.
//!
//! A launch that is estimated to be short runs at once on the caller's thread, with the pool's helpers where they can be of help; a longer
//! one is handed to the pool, and so is a short one that shares a buffer with a launch still there. Jobs of the pool run one after the other, so launches
//! that share buffers keep their order.
//!
//! # Invariants
//! - `launch` either refuses (nothing was touched, nothing will be reported) or reports exactly one [`Completed`].
//! - A panic in a kernel ends as a `DeviceFault::Fatal` of its launch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tensord_plan::{
    Backend, BackendInfo, BackendStats, BufferId, Completed, DeviceFault, Launch, LaunchId,
    SealedMemory,
};

use crate::clock::Clock;
use crate::contract::Packs;
use crate::isa::{Isa, IsaError};
use crate::launch::{Job, Shared};
use crate::memory::Memory;
use crate::pool::{Pool, Team};
use crate::prepare::Cache;
use crate::scratch::Scratch;

/// How a [`CpuBackend`] is set up.
#[derive(Clone, Debug)]
pub struct CpuConfig {
    /// Level of vector instructions; `None`: the highest that the processor has.
    pub isa: Option<Isa>,
    /// Threads that a long launch runs on; 0: as many as the processor has.
    pub threads: usize,
    /// Memory that buffers may take in bytes.
    pub memory_bytes: u64,
    /// Launches estimated to take longer than this go to the pool, in nanoseconds. `None`: as the number of workers suggests.
    pub inline_ns_max: Option<u64>,
    /// Memory for packed constants in bytes.
    pub packed_bytes_max: u64,
}

impl Default for CpuConfig {
    fn default() -> CpuConfig {
        CpuConfig {
            isa: None,
            threads: 0,
            memory_bytes: 4 << 30,
            inline_ns_max: None,
            packed_bytes_max: 1 << 30,
        }
    }
}

/// Bytes from or to memory in a nanosecond, for the first estimate of a launch's time.
const BYTES_PER_NS: u64 = 8;
/// Elementary operations in a nanosecond.
const OPERATIONS_PER_NS: u64 = 16;

/// What the caller's thread does itself or leads, in nanoseconds, where there are cores beside its own.
const INLINE_NS: u64 = 200_000;
/// The same on a core or two: there the pool would only take turns with a caller that polls. It keeps the caller from new requests.
const INLINE_NS_FEW_CORES: u64 = 20_000_000;
/// From here on waking helpers pays.
const HELP_NS: u64 = 100_000;

/// The backend.
pub struct CpuBackend {
    isa: Isa,
    threads: usize,
    memory_bytes: u64,
    inline_ns_max: u64,
    clock: Clock,
    memory: Memory,
    cache: Cache,
    scratch: Scratch,
    /// The next launch's.
    job: Box<Job>,
    shared: Arc<Shared>,
    pool: Pool,
    report: Sender<Completed>,
    reports: Receiver<Completed>,
    finished: Vec<Completed>,
    pending: Vec<(LaunchId, Vec<BufferId>)>,
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The level of vector instructions asked for.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// Worker threads.
    #[error("starting worker threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl CpuBackend {
    /// Starts the workers.
    pub fn new(config: CpuConfig) -> Result<CpuBackend, CpuError> {
        let isa = Isa::choose(config.isa)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match config.threads {
            0 => cores,
            threads => threads,
        };
        let (report, reports) = unbounded();
        Ok(CpuBackend {
            isa,
            threads,
            memory_bytes: config.memory_bytes,
            inline_ns_max: config.inline_ns_max.unwrap_or(match threads {
                1 | 2 => INLINE_NS_FEW_CORES,
                _ => INLINE_NS,
            }),
            clock: Clock::new(),
            memory: Memory::new(config.memory_bytes),
            cache: Cache::new(isa),
            scratch: Scratch::default(),
            job: Box::new(Job::idle(isa)),
            shared: Arc::new(Shared {
                packs: Mutex::new(Packs::new(config.packed_bytes_max)),
                scratch_bytes_max: AtomicU64::new(0),
            }),
            pool: Pool::new(threads)?,
            report,
            reports,
            finished: Vec::new(),
            pending: Vec::new(),
        })
    }

    fn take(&mut self, completed: Completed, done: &mut Vec<Completed>) {
        self.pending.retain(|(id, _)| *id != completed.id);
        done.push(completed);
    }
}

/// Runs a job and measures it.
fn execute(job: &mut Job, shared: &Shared, team: &mut Team<'_>, clock: Clock) -> Completed {
    let id = job.id;
    let start = clock.now();
    // SAFETY: the engine leaves the operands' memory to the launch until it is completed (the trait's rule), and jobs that
    // share buffers never run at the same time.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { job.run(shared, team) }));
    Completed {
        id,
        busy_ns: clock.ns_between(start, clock.now()),
        fault: outcome
            .err()
            .map(|payload| DeviceFault::Fatal(panic_text(&*payload))),
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!(
        "a kernel panicked: {}",
        text.as_deref().unwrap_or("no message")
    )
}

fn estimate_ns(launch: &Launch) -> u64 {
    launch.instances.iter().fold(0u64, |sum, instance| {
        let (bytes, operations) = instance.params.cost();
        sum.saturating_add(bytes / BYTES_PER_NS)
            .saturating_add(operations / OPERATIONS_PER_NS)
    })
}

impl Backend for CpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            device: "cpu".into(),
            uuid: String::new(),
            description: format!(
                "{} with {}, {} worker threads",
                std::env::consts::ARCH,
                self.isa,
                self.threads
            ),
            memory_bytes: self.memory_bytes,
        }
    }

    fn stats(&self) -> BackendStats {
        BackendStats {
            compiles: 0,
            packed_bytes: self.shared.packs().bytes(),
            scratch_bytes_max: self.shared.scratch_bytes_max.load(Ordering::Relaxed),
        }
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault> {
        self.memory.alloc(bytes)
    }

    fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Result<BufferId, DeviceFault> {
        if let Some(buffer) = self.memory.adopt(memory.clone()) {
            return Ok(buffer);
        }
        let bytes = memory.bytes();
        let buffer = self.memory.alloc(bytes.len() as u64)?;
        self.write(buffer, 0, bytes.len() as u64, &mut |at, to| {
            to.copy_from_slice(&bytes[at as usize..at as usize + to.len()]);
        })?;
        Ok(buffer)
    }

    fn free(&mut self, buffer: BufferId) {
        if self.memory.take_constant(buffer) {
            self.shared.packs().forget(buffer);
        }
        self.memory.free(buffer);
    }

    fn zero(&mut self, buffer: BufferId, at: u64, len: u64) -> Result<(), DeviceFault> {
        let to = self.memory.writable(buffer, at, len)?;
        // SAFETY: `writable` checked the range, and no unfinished launch uses the buffer (the trait's rule).
        unsafe { to.write_bytes(0, len as usize) };
        Ok(())
    }

    fn write(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), DeviceFault> {
        let to = self.memory.writable(buffer, at, len)?;
        // SAFETY: `writable` checked the range, blocks are initialised when they are allocated, and no unfinished launch uses
        // the buffer (the trait's rule).
        let bytes = unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), len as usize) };
        fill(0, bytes);
        Ok(())
    }

    fn read(
        &mut self,
        buffer: BufferId,
        at: u64,
        len: u64,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DeviceFault> {
        let from = self.memory.readable(buffer, at, len)?;
        // SAFETY: `readable` checked the range, blocks are initialised when they are allocated, and no unfinished launch
        // writes the buffer (the trait's rule).
        let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr(), len as usize) };
        take(0, bytes);
        Ok(())
    }

    fn launch(&mut self, launch: Launch) -> Result<(), DeviceFault> {
        let estimate_ns = estimate_ns(&launch);
        let short = estimate_ns <= self.inline_ns_max;
        // Many instances have many clients, who need the other cores for their next requests.
        let helped = estimate_ns >= HELP_NS && launch.instances.len() < self.threads;
        for instance in &launch.instances {
            for operand in instance.inputs.iter().filter(|operand| operand.constant) {
                self.memory.mark_constant(operand.buffer);
            }
        }
        let job = &mut self.job;
        job.take(launch, &mut self.cache, &self.memory)?;
        let waits = || {
            let taken = self.pending.iter().flat_map(|(_, buffers)| buffers);
            job.buffers()
                .any(|buffer| taken.clone().any(|&other| other == buffer))
        };
        if short && (self.pending.is_empty() || !waits()) {
            let team = &mut match helped {
                true => self.pool.lend(&mut self.scratch),
                false => Team::alone(&mut self.scratch),
            };
            self.finished
                .push(execute(job, &self.shared, team, self.clock));
            job.rest();
            return Ok(());
        }
        let mut buffers: Vec<BufferId> = job.buffers().collect();
        buffers.sort_unstable();
        buffers.dedup();
        self.pending.push((job.id, buffers));
        let mut job = std::mem::replace(job, Box::new(Job::idle(self.isa)));
        let (report, shared, clock) = (self.report.clone(), self.shared.clone(), self.clock);
        self.pool.submit(Box::new(move |team| {
            let completed = execute(&mut job, &shared, team, clock);
            drop(job);
            // The receiver is gone only when the backend is.
            drop(report.send(completed));
        }));
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Completed>) {
        done.append(&mut self.finished);
        if self.pending.is_empty() {
            return;
        }
        while let Ok(completed) = self.reports.try_recv() {
            self.take(completed, done);
        }
    }

    fn doze(&mut self, longest: Duration) {
        if !self.finished.is_empty() || self.pending.is_empty() {
            return;
        }
        if let Ok(completed) = self.reports.recv_timeout(longest) {
            let mut finished = std::mem::take(&mut self.finished);
            self.take(completed, &mut finished);
            self.finished = finished;
        }
    }

    fn wait(&mut self, done: &mut Vec<Completed>) {
        let before = done.len();
        self.poll(done);
        if done.len() == before && !self.pending.is_empty() {
            let completed = self
                .reports
                .recv()
                .expect("the backend itself keeps a sender");
            self.take(completed, done);
        }
    }
}
