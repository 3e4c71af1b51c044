//! Worker threads for launches that are too long for the caller's thread.
//!
//! One worker, the leader, takes whole jobs in the order in which they were handed over; inside a job it asks the other
//! workers to help with one parallel section after the other. So jobs never overlap and keep their order, and a pool
//! without work sleeps on a condition variable. While no job is under way the caller's thread may lead the helpers itself.
//!
//! # Invariants
//! - A section's closure is borrowed, not owned: [`Team::each`] returns only after every helper has left it.
//! - Which worker runs which part is chance; parts write disjoint memory, so results do not depend on it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use crossbeam::channel::{Sender, unbounded};

use crate::scratch::Scratch;

/// One part of a section: the worker's own scratch memory and the part's number.
pub type Part<'a> = &'a (dyn Fn(&mut Scratch, usize) + Sync);

/// A whole launch, for the leader.
pub type Job = Box<dyn FnOnce(&mut Team<'_>) + Send>;

type Payload = Box<dyn std::any::Any + Send>;

/// A parallel section while it runs; lives on the leader's stack.
struct Section {
    work: *const (dyn Fn(&mut Scratch, usize) + Sync),
    next: AtomicUsize,
    parts: usize,
    panic: Mutex<Option<Payload>>,
}

impl Section {
    fn run(&self, scratch: &mut Scratch) {
        // SAFETY: `work` points to the closure that `Team::each` borrows for as long as any worker is in the section.
        let work = unsafe { &*self.work };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let part = self.next.fetch_add(1, Ordering::Relaxed);
                if part >= self.parts {
                    break;
                }
                work(scratch, part);
            }
        }));
        if let Err(payload) = outcome {
            self.next.store(self.parts, Ordering::Relaxed);
            *lock(&self.panic) = Some(payload);
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

/// Whoever runs a launch: one thread with its scratch memory, and perhaps helpers.
pub struct Team<'a> {
    scratch: &'a mut Scratch,
    crew: Option<&'a Crew>,
    workers: usize,
}

impl<'a> Team<'a> {
    /// The caller's thread alone.
    pub fn alone(scratch: &'a mut Scratch) -> Team<'a> {
        Team {
            scratch,
            crew: None,
            workers: 1,
        }
    }

    /// Threads that take part: how finely work is worth cutting.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Scratch memory of the thread that leads.
    pub fn scratch(&mut self) -> &mut Scratch {
        self.scratch
    }

    /// Runs parts `0..parts`, in any order, on any of the team's threads, and returns when all are done.
    pub fn each(&mut self, parts: usize, work: Part<'_>) {
        match self.crew {
            Some(crew) if parts > 1 => {
                let work: *const (dyn Fn(&mut Scratch, usize) + Sync + '_) = work;
                let section = Section {
                    // SAFETY: only the lifetime changes; `Crew::each` returns after the last use of the pointer.
                    work: unsafe {
                        std::mem::transmute::<
                            *const (dyn Fn(&mut Scratch, usize) + Sync + '_),
                            *const (dyn Fn(&mut Scratch, usize) + Sync + 'static),
                        >(work)
                    },
                    next: AtomicUsize::new(0),
                    parts,
                    panic: Mutex::new(None),
                };
                crew.each(&section, self.scratch);
                if let Some(payload) = lock(&section.panic).take() {
                    resume_unwind(payload);
                }
            }
            _ => (0..parts).for_each(|part| work(self.scratch, part)),
        }
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
                let mut team = Team {
                    scratch: &mut scratch,
                    crew: (workers > 1).then_some(&*crew),
                    workers,
                };
                job(&mut team);
                // SYNC: pairs with the Acquire in `lend`: the leader's sections are over.
                under_way.fetch_sub(1, Ordering::Release);
            }
        })?);
        Ok(pool)
    }

    /// The caller's thread with the helpers.
    pub fn lend<'a>(&'a mut self, scratch: &'a mut Scratch) -> Team<'a> {
        let workers = self.threads.len();
        Team {
            scratch,
            // One section at a time: the leader has none, and gets no job as long as the team is lent.
            crew: (workers > 1 && self.under_way.load(Ordering::Acquire) == 0)
                .then_some(&*self.crew),
            workers,
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
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_part_runs_once_and_jobs_keep_their_order() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let (send, done) = unbounded();
            for job in 0..20u64 {
                let send = send.clone();
                pool.submit(Box::new(move |team| {
                    let sum = AtomicU64::new(0);
                    team.each(100, &|_, part| {
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
        pool.lend(&mut scratch).each(2, &|_, _| {
            both.wait();
        });
        let (go, wait) = unbounded::<()>();
        let (send, done) = unbounded();
        pool.submit(Box::new(move |team| {
            wait.recv().unwrap();
            team.each(4, &|_, _| {});
            send.send(()).unwrap();
        }));
        let caller = std::thread::current().id();
        pool.lend(&mut scratch).each(8, &|_, _| {
            assert_eq!(std::thread::current().id(), caller);
        });
        go.send(()).unwrap();
        done.recv().unwrap();
    }

    #[test]
    fn a_panic_in_a_part_reaches_the_job() {
        let mut pool = Pool::new(3).unwrap();
        let (send, done) = unbounded();
        pool.submit(Box::new(move |team| {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.each(8, &|_, part| assert_ne!(part, 5, "part five"));
            }));
            send.send(outcome.is_err()).unwrap();
        }));
        assert!(done.recv().unwrap());
    }
}
