//! The cpu as a device: buffers in host memory, launches on the caller's thread or on the pool.
//!
//! A launch that is estimated to be short runs at once on the caller's thread, with the pool's helpers where they can be of help; on
//! a machine of several cores a longer one is handed to the pool. A long one stops when its slice is over, wherever it runs, and waits
//! here until it is resumed.
//!
//! # Invariants
//! - `launch` either refuses (nothing was touched, nothing will be reported) or reports slices up to exactly one that is over.
//! - A panic in a kernel ends as a `DeviceFault::Fatal` of its launch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tensord_plan::{
    Backend, BackendInfo, BackendStats, BufferId, DeviceFault, Launch, LaunchId, Ran, SealedMemory,
};

use crate::clock::Clock;
use crate::contract::Packs;
use crate::isa::{Isa, IsaError};
use crate::launch::{Job, Place, Shared};
use crate::memory::Memory;
use crate::pool::{Pool, Workers};
use crate::prepare::Cache;
use crate::scratch::Scratch;
use crate::slice::Slice;

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

/// What the caller's thread does itself or leads, in nanoseconds, where there are cores beside its own. On a core or two it is
/// everything: the pool would only take turns with a caller that polls.
const INLINE_NS: u64 = 200_000;
/// From here on waking helpers pays.
const HELP_NS: u64 = 100_000;
/// Jobs kept for the next launches, with their memory.
const IDLE_MAX: usize = 2;
/// Of a slice, what a launch may take by estimate that is not watched while it runs. Estimates are off by tens.
const WATCHED_OF_SLICE: u64 = 50;

/// The backend.
#[allow(
    clippy::vec_box,
    reason = "jobs change places at each launch, and are large"
)]
pub struct CpuBackend {
    isa: Isa,
    threads: usize,
    memory_bytes: u64,
    inline_ns_max: u64,
    clock: Clock,
    memory: Memory,
    cache: Cache,
    scratch: Scratch,
    /// For the next launches.
    idle: Vec<Box<Job>>,
    /// Launches that were stopped and not resumed.
    stopped: Vec<Box<Job>>,
    shared: Arc<Shared>,
    pool: Pool,
    report: Sender<(Ran, Box<Job>)>,
    reports: Receiver<(Ran, Box<Job>)>,
    ended: Vec<Ran>,
    /// Jobs with the pool.
    under_way: usize,
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
                1 | 2 => u64::MAX,
                _ => INLINE_NS,
            }),
            clock: Clock::new(),
            memory: Memory::new(config.memory_bytes),
            cache: Cache::new(isa),
            scratch: Scratch::default(),
            idle: Vec::new(),
            stopped: Vec::new(),
            shared: Arc::new(Shared {
                packs: Mutex::new(Packs::new(config.packed_bytes_max)),
                scratch_bytes_max: AtomicU64::new(0),
            }),
            pool: Pool::new(threads)?,
            report,
            reports,
            ended: Vec::new(),
            under_way: 0,
        })
    }

    /// Runs a slice of a job, or has it run.
    fn run(&mut self, mut job: Box<Job>, slice_ns: u64) {
        let workers = match job.place {
            Place::Caller => Workers::alone(&mut self.scratch),
            Place::Helped => self.pool.lend(&mut self.scratch),
            Place::Pool => {
                let (report, shared, clock) =
                    (self.report.clone(), self.shared.clone(), self.clock);
                self.under_way += 1;
                return self.pool.submit(Box::new(move |workers| {
                    let ran = execute(&mut job, &shared, workers, slice_ns, clock);
                    // The receiver is gone only when the backend is.
                    drop(report.send((ran, job)));
                }));
            }
        };
        let ran = execute(&mut job, &self.shared, workers, slice_ns, self.clock);
        self.keep(ran, job);
    }

    /// A slice has ended.
    fn keep(&mut self, ran: Ran, mut job: Box<Job>) {
        if ran.over {
            job.rest();
            if self.idle.len() < IDLE_MAX {
                self.idle.push(job);
            }
        } else {
            self.stopped.push(job);
        }
        self.ended.push(ran);
    }

    fn take_report(&mut self, (ran, job): (Ran, Box<Job>)) {
        self.under_way -= 1;
        self.keep(ran, job);
    }
}

/// Runs a slice of a job and measures it.
fn execute(
    job: &mut Job,
    shared: &Shared,
    workers: Workers<'_>,
    slice_ns: u64,
    clock: Clock,
) -> Ran {
    let id = job.id;
    let start = clock.now();
    let slice = Slice::begin(clock, slice_ns);
    // SAFETY: the engine leaves the operands' memory to the launch until it is over (the trait's rule), and launches under way
    // share none that one of them writes.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
        job.run(shared, workers, slice)
    }));
    Ran {
        id,
        busy_ns: clock.ns_between(start, clock.now()),
        over: *outcome.as_ref().unwrap_or(&true),
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

    fn adopts_in_place(&self) -> bool {
        true
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

    fn launch(&mut self, launch: Launch, slice_ns: u64) -> Result<(), DeviceFault> {
        let estimate_ns = estimate_ns(&launch);
        // Many instances have many clients, who need the other cores for their next requests.
        let helped = estimate_ns >= HELP_NS && launch.instances.len() < self.threads;
        for instance in &launch.instances {
            for operand in instance.inputs.iter().filter(|operand| operand.constant) {
                self.memory.mark_constant(operand.buffer);
            }
        }
        let idle = self.idle.pop();
        let mut job = idle.unwrap_or_else(|| Box::new(Job::idle(self.isa)));
        if let Err(fault) = job.take(launch, &mut self.cache, &self.memory) {
            job.rest();
            self.idle.push(job);
            return Err(fault);
        }
        job.sliced = estimate_ns >= slice_ns / WATCHED_OF_SLICE;
        job.place = match estimate_ns <= self.inline_ns_max {
            false => Place::Pool,
            true if helped => Place::Helped,
            true => Place::Caller,
        };
        self.run(job, slice_ns);
        Ok(())
    }

    fn resume(&mut self, id: LaunchId, slice_ns: u64) {
        if let Some(at) = self.stopped.iter().position(|job| job.id == id) {
            let job = self.stopped.swap_remove(at);
            self.run(job, slice_ns);
        }
    }

    fn abandon(&mut self, id: LaunchId) {
        self.stopped.retain(|job| job.id != id);
    }

    fn poll(&mut self, done: &mut Vec<Ran>) {
        while self.under_way > 0
            && let Ok(report) = self.reports.try_recv()
        {
            self.take_report(report);
        }
        done.append(&mut self.ended);
    }

    fn doze(&mut self, longest: Duration) {
        if self.ended.is_empty()
            && self.under_way > 0
            && let Ok(report) = self.reports.recv_timeout(longest)
        {
            self.take_report(report);
        }
    }

    fn wait(&mut self, done: &mut Vec<Ran>) {
        if self.ended.is_empty() && self.under_way > 0 {
            let report = self
                .reports
                .recv()
                .expect("the backend itself keeps a sender");
            self.take_report(report);
        }
        self.poll(done);
    }
}
