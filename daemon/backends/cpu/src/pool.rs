//! Worker threads for launches that are too long for the caller's thread.
//!
//! One worker, the leader, takes jobs (launches, or slices of them) in the order in which they were handed over; inside a job it
//! asks the other workers to help with one parallel section after the other. So jobs never overlap and keep their order, and a
//! pool without work sleeps on a condition variable. While no job is under way the caller's thread may lead the helpers itself.
//!
//! # Invariants
//! - A section's closure is borrowed, not owned: [`Team::each`] returns only after every helper has left it.
//! - Which worker runs which part is chance; parts write disjoint memory, so results do not depend on it.
//! - The sections of a launch are the same, with the same numbers of parts, in each of its slices: they follow from the launch and
//!   the number of workers alone.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use crossbeam::channel::{Sender, unbounded};

use crate::scratch::Scratch;
use crate::slice::{Pace, Progress, Slice};

/// Some parts of a section: the worker's own scratch memory and the parts' numbers.
pub type Part<'a> = &'a (dyn Fn(&mut Scratch, Range<usize>) + Sync);

/// A launch, or a slice of it, for the leader.
pub type Job = Box<dyn FnOnce(Workers<'_>) + Send>;

type Payload = Box<dyn std::any::Any + Send>;

/// Shares of a section for each worker, so that an unlucky one does not keep the others waiting.
const SHARES_PER_WORKER: usize = 4;
/// Beyond every part: what is taken from here on is none.
const STOPPED: usize = usize::MAX / 2;

/// A parallel section while it runs; lives on the leader's stack.
struct Section {
    work: *const (dyn Fn(&mut Scratch, Range<usize>) + Sync),
    next: AtomicUsize,
    parts: usize,
    /// Most parts that a worker takes at once.
    share: usize,
    slice: Option<Slice>,
    /// The first part that did not run when the slice was over.
    left_at: AtomicUsize,
    panic: Mutex<Option<Payload>>,
}

impl Section {
    fn run(&self, scratch: &mut Scratch) {
        // SAFETY: `work` points to the closure that `Team::each` borrows for as long as any worker is in the section.
        let work = unsafe { &*self.work };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut pace = self.slice.map(Pace::new);
            loop {
                let most = pace.as_ref().map_or(usize::MAX, Pace::parts);
                let count = self.share.min(most);
                let from = self.next.fetch_add(count, Ordering::Relaxed);
                if from >= self.parts {
                    break;
                }
                work(scratch, from..(from + count).min(self.parts));
                if pace.as_mut().is_some_and(|pace| !pace.goes_on()) {
                    self.stop();
                    break;
                }
            }
        }));
        if let Err(payload) = outcome {
            self.stop();
            *lock(&self.panic) = Some(payload);
        }
    }

    /// Nobody takes further parts.
    fn stop(&self) {
        let at = self.next.swap(STOPPED, Ordering::Relaxed);
        if at < STOPPED {
            self.left_at.store(at.min(self.parts), Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy)]
struct SectionPtr(*const Section);

// SAFETY: a `Section` is `Sync` but for its `work` pointer, which names a `Sync` closure; see `Crew::each` for its life.
unsafe impl Send for SectionPtr {}

#[derive(Default)]
struct State {
    section: Option<SectionPtr>,
    generation: u64,
    inside: usize,
    closing: bool,
}

/// What the leader and its helpers share.
#[derive(Default)]
struct Crew {
    state: Mutex<State>,
    begun: Condvar,
    left: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Panics in parts are caught before any lock is taken, so a poisoned lock guards consistent state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    fn help(&self) {
        let mut scratch = Scratch::default();
        let mut seen = 0;
        let mut state = lock(&self.state);
        loop {
            if state.closing {
                return;
            }
            match state.section {
                Some(section) if state.generation != seen => {
                    seen = state.generation;
                    state.inside += 1;
                    drop(state);
                    // SAFETY: `inside` was raised under the lock while the section was published, and the leader
                    // keeps the section alive until `inside` is 0 again.
                    unsafe { &*section.0 }.run(&mut scratch);
                    state = lock(&self.state);
                    state.inside -= 1;
                    if state.inside == 0 {
                        self.left.notify_one();
                    }
                }
                _ => {
                    state = self
                        .begun
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn each(&self, section: &Section, scratch: &mut Scratch) {
        {
            let mut state = lock(&self.state);
            state.section = Some(SectionPtr(section));
            state.generation += 1;
        }
        self.begun.notify_all();
        section.run(scratch);
        let mut state = lock(&self.state);
        state.section = None;
        while state.inside > 0 {
            state = self
                .left
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Threads that a launch may run on: one with its scratch memory, and perhaps helpers.
pub struct Workers<'a> {
    scratch: &'a mut Scratch,
    crew: Option<&'a Crew>,
    count: usize,
}

impl<'a> Workers<'a> {
    /// The caller's thread alone.
    pub fn alone(scratch: &'a mut Scratch) -> Workers<'a> {
        Workers {
            scratch,
            crew: None,
            count: 1,
        }
    }
}

/// Whoever runs a launch, from where it stopped to the end of a slice.
pub struct Team<'a> {
    workers: Workers<'a>,
    progress: &'a mut Progress,
    slice: Option<Slice>,
    /// Sections that this slice has come by.
    section: usize,
    /// Has anything run in this slice?
    began: bool,
    stopped: bool,
}

impl<'a> Team<'a> {
    /// Goes on where `progress` says, until `slice` is over.
    pub fn new(workers: Workers<'a>, progress: &'a mut Progress, slice: Option<Slice>) -> Team<'a> {
        Team {
            workers,
            progress,
            slice,
            section: 0,
            began: false,
            stopped: false,
        }
    }

    /// Threads that take part.
    pub fn workers(&self) -> usize {
        self.workers.count
    }

    /// May the launch be stopped? It is long then: all its work has to be in parts.
    pub fn is_sliced(&self) -> bool {
        self.slice.is_some()
    }

    /// Did the slice end before the launch?
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Scratch memory of the thread that leads.
    pub fn scratch(&mut self) -> &mut Scratch {
        self.workers.scratch
    }

    /// Memory that lives from one section to the next: at least `bytes`, 64-byte aligned. What a section wrote is there when
    /// the next one runs, whatever ran between. Null where no section will run any more.
    pub fn kept(&mut self, bytes: usize) -> *mut u8 {
        match self.stopped {
            true => std::ptr::null_mut(),
            // Those before needed no more than there was when the launch stopped.
            false => self.progress.kept.reserve(bytes),
        }
    }

    /// Passes by a section that has run in an earlier slice or has to wait for a later one. A step whose preparations are worth
    /// avoiding asks; [`Team::each`] does so by itself.
    pub fn passes(&mut self) -> bool {
        let passes = self.stopped || self.section < self.progress.sections;
        self.section += usize::from(passes);
        passes
    }

    /// Runs parts `0..parts`, in any order, on any of the team's threads, and returns when all are done or the slice is over.
    pub fn each(&mut self, parts: usize, work: Part<'_>) {
        let crew = self.workers.crew;
        self.run(parts, work, crew);
    }

    /// Runs parts `0..parts` one after the other.
    pub fn each_in_order(&mut self, parts: usize, work: Part<'_>) {
        self.run(parts, work, None);
    }

    fn run(&mut self, parts: usize, work: Part<'_>, crew: Option<&Crew>) {
        if self.passes() {
            return;
        }
        if self.began && self.slice.is_some_and(|slice| slice.is_over()) {
            self.stopped = true;
            return;
        }
        self.began = true;
        let from = self.progress.parts;
        let crew = crew.filter(|_| parts - from > 1);
        let to = match (crew, self.slice) {
            (None, None) => {
                work(self.workers.scratch, from..parts);
                parts
            }
            _ => self.section(from..parts, work, crew),
        };
        if to < parts {
            self.progress.parts = to;
            self.stopped = true;
        } else {
            self.section += 1;
            (self.progress.sections, self.progress.parts) = (self.section, 0);
        }
    }

    /// Runs parts from one on; gives where it stopped.
    fn section(&mut self, parts: Range<usize>, work: Part<'_>, crew: Option<&Crew>) -> usize {
        let work: *const (dyn Fn(&mut Scratch, Range<usize>) + Sync + '_) = work;
        let share = match crew {
            Some(_) => parts.len() / (self.workers.count * SHARES_PER_WORKER),
            None => parts.len(),
        };
        let section = Section {
            // SAFETY: only the lifetime changes; `Crew::each` and `Section::run` return after the last use of the pointer.
            work: unsafe {
                std::mem::transmute::<
                    *const (dyn Fn(&mut Scratch, Range<usize>) + Sync + '_),
                    *const (dyn Fn(&mut Scratch, Range<usize>) + Sync + 'static),
                >(work)
            },
            next: AtomicUsize::new(parts.start),
            parts: parts.end,
            share: share.max(1),
            slice: self.slice,
            left_at: AtomicUsize::new(parts.end),
            panic: Mutex::new(None),
        };
        match crew {
            Some(crew) => crew.each(&section, self.workers.scratch),
            None => section.run(self.workers.scratch),
        }
        if let Some(payload) = lock(&section.panic).take() {
            resume_unwind(payload);
        }
        section.left_at.into_inner()
    }
}

/// The workers. Dropping it finishes the jobs handed over and joins the threads.
pub struct Pool {
    jobs: Option<Sender<Job>>,
    /// Jobs that have not ended.
    under_way: Arc<AtomicUsize>,
    crew: Arc<Crew>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` workers, at least one.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let workers = threads.max(1);
        let crew = Arc::new(Crew::default());
        let (jobs, queue) = unbounded::<Job>();
        let mut pool = Pool {
            jobs: Some(jobs),
            under_way: Arc::default(),
            crew: crew.clone(),
            threads: Vec::with_capacity(workers),
        };
        for index in 1..workers {
            let crew = crew.clone();
            let helper = Builder::new().name(format!("tensord-cpu-{index}"));
            pool.threads.push(helper.spawn(move || crew.help())?);
        }
        let leader = Builder::new().name("tensord-cpu-0".into());
        let under_way = pool.under_way.clone();
        pool.threads.push(leader.spawn(move || {
            let mut scratch = Scratch::default();
            for job in queue {
                job(Workers {
                    scratch: &mut scratch,
                    crew: (workers > 1).then_some(&*crew),
                    count: workers,
                });
                // SYNC: pairs with the Acquire in `lend`: the leader's sections are over.
                under_way.fetch_sub(1, Ordering::Release);
            }
        })?);
        Ok(pool)
    }

    /// The caller's thread with the helpers.
    pub fn lend<'a>(&'a mut self, scratch: &'a mut Scratch) -> Workers<'a> {
        let count = self.threads.len();
        Workers {
            scratch,
            // One section at a time: the leader has none, and gets no job as long as the team is lent.
            crew: (count > 1 && self.under_way.load(Ordering::Acquire) == 0).then_some(&*self.crew),
            count,
        }
    }

    /// Hands a job to the leader.
    pub fn submit(&mut self, job: Job) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.jobs
            .as_ref()
            .expect("only drop takes the sender")
            .send(job)
            .expect("the leader ends only when the sender is gone: jobs catch their panics");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        // The leader is the last thread: once it has ended no section can begin.
        if let Some(leader) = self.threads.pop() {
            drop(leader.join());
        }
        lock(&self.crew.state).closing = true;
        self.crew.begun.notify_all();
        for helper in self.threads.drain(..) {
            drop(helper.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::sync::atomic::AtomicU64;

    /// A section on all workers, without an end to the slice.
    fn each(workers: Workers<'_>, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        Team::new(workers, &mut Progress::default(), None)
            .each(parts, &|_, parts| parts.for_each(work));
    }

    #[test]
    fn every_part_runs_once_and_jobs_keep_their_order() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let (send, done) = unbounded();
            for job in 0..20u64 {
                let send = send.clone();
                pool.submit(Box::new(move |workers| {
                    let sum = AtomicU64::new(0);
                    each(workers, 100, &|part| {
                        sum.fetch_add(part as u64 + job, Ordering::Relaxed);
                    });
                    send.send((job, sum.into_inner())).unwrap();
                }));
            }
            for job in 0..20 {
                assert_eq!(done.recv().unwrap(), (job, 4950 + 100 * job));
            }
        }
    }

    #[test]
    fn the_caller_leads_while_no_job_is_under_way() {
        let mut pool = Pool::new(3).unwrap();
        let mut scratch = Scratch::default();
        let both = std::sync::Barrier::new(2);
        // Ends only if another thread takes a part.
        each(pool.lend(&mut scratch), 2, &|_| {
            both.wait();
        });
        let (go, wait) = unbounded::<()>();
        let (send, done) = unbounded();
        pool.submit(Box::new(move |workers| {
            wait.recv().unwrap();
            each(workers, 4, &|_| {});
            send.send(()).unwrap();
        }));
        let caller = std::thread::current().id();
        each(pool.lend(&mut scratch), 8, &|_| {
            assert_eq!(std::thread::current().id(), caller);
        });
        go.send(()).unwrap();
        done.recv().unwrap();
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_job() {
        let mut pool = Pool::new(3).unwrap();
        let (send, done) = unbounded();
        pool.submit(Box::new(move |workers| {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                each(workers, 8, &|part| assert_ne!(part, 5, "part five"));
            }));
            send.send(outcome.is_err()).unwrap();
        }));
        assert!(done.recv().unwrap());
    }

    /// Runs three sections in slices that end at once; gives how often each part ran, what was kept between them, and the slices.
    fn sliced(threads: usize) -> (Vec<u64>, u64, usize) {
        let mut pool = Pool::new(threads).unwrap();
        let mut scratch = Scratch::default();
        let ran: Vec<AtomicU64> = (0..30).map(|_| AtomicU64::new(0)).collect();
        let seen = AtomicU64::new(0);
        let mut progress = Progress::default();
        for slice in 1.. {
            let at_once = Slice::begin(Clock::new(), 0);
            let mut team = Team::new(pool.lend(&mut scratch), &mut progress, Some(at_once));
            let count = |parts: Range<usize>, first: usize| {
                parts.for_each(|part| {
                    ran[first + part].fetch_add(1, Ordering::Relaxed);
                });
            };
            team.each(20, &|_, parts| count(parts, 0));
            let kept = team.kept(8).cast::<u64>() as usize;
            team.each_in_order(4, &|_, parts| {
                let kept = kept as *mut u64;
                for part in parts.clone() {
                    // SAFETY: eight bytes were reserved, and parts run one after the other.
                    unsafe {
                        *kept = if part == 0 {
                            1
                        } else {
                            *kept * 10 + part as u64
                        }
                    };
                }
                count(parts, 20);
            });
            team.each(6, &|_, parts| {
                // SAFETY: as above.
                seen.store(unsafe { *(kept as *const u64) }, Ordering::Relaxed);
                count(parts, 24);
            });
            if !team.is_stopped() {
                let ran = ran.into_iter().map(AtomicU64::into_inner).collect();
                return (ran, seen.into_inner(), slice);
            }
        }
        unreachable!("a slice runs at least one part")
    }

    #[test]
    fn a_launch_in_slices_runs_each_part_once_and_keeps_what_sections_leave() {
        let (ran, kept, slices) = sliced(1);
        assert_eq!((ran, kept), (vec![1; 30], 1123));
        assert_eq!(slices, 30, "a slice without time runs one part");
        let (ran, kept, slices) = sliced(3);
        assert_eq!((ran, kept), (vec![1; 30], 1123));
        assert!((10..=30).contains(&slices), "{slices}: three at a time");
    }
}
