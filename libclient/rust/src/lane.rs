//! A queue as the threads of this process share it: the lock around its ring, and everything that waits.
//!
//! # Invariants
//! Locks are taken in the order control socket, list of queues, ring; nobody waits or takes the control socket's lock
//! while he holds a ring. In a forked child no lock made by the parent is ever touched: every entrance compares the
//! process's generation first, and owners forget what they own instead of dropping it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tensord_shm::completion::{QueueState, Reader, SpinPolicy, Waited};
use tensord_shm::control::RESEND_AFTER;
use tensord_shm::doorbell::NoticeReceiver;
use tensord_shm::error::Code;
use tensord_shm::fork;
use tensord_shm::handle::Handle;
use tensord_shm::record::Request;
use tensord_shm::segment::SubmissionMapMut;

use crate::core::Core;
use crate::error::Error;
use crate::patience::Patience;
use crate::ring::{Mark, Ring};
use crate::runtime::{hear_signals, without_lock};
use crate::site::Site;
use crate::tensor::forget_recent;

/// Handles that a queue takes from the session's numbers at a time.
const FRESH_HANDLES: u32 = 64;
/// How long a closed queue may wait for the broker to say why.
const REASON_WITHIN: Duration = Duration::from_secs(2);

/// One use of a queue: what a `Session`, a `Queue` and every tensor made there hold.
pub(crate) struct Lane {
    core: Arc<Core>,
    pub state: Arc<LaneState>,
}

/// A queue for the length of its session.
pub(crate) struct LaneState {
    pub number: u32,
    /// The ring's epoch, readable without its lock.
    epoch: AtomicU32,
    ring: Mutex<Ring>,
    waiting: Mutex<Waiting>,
    pub notice: Option<NoticeReceiver>,
}

/// What the one thread that waits needs.
struct Waiting {
    epoch: u32,
    reader: Reader,
    submission: SubmissionMapMut,
    patience: Patience,
}

impl LaneState {
    pub(crate) fn new(number: u32, ring: Ring, notice: Option<NoticeReceiver>) -> LaneState {
        LaneState {
            number,
            epoch: AtomicU32::new(ring.epoch),
            waiting: Mutex::new(Waiting {
                epoch: ring.epoch,
                reader: Reader::new(ring.segments.completion.clone()),
                submission: ring.segments.submission.clone(),
                patience: Patience::default(),
            }),
            ring: Mutex::new(ring),
            notice,
        }
    }

    /// The ring, whatever its state. Only in the process that made it.
    #[inline]
    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics half-way through a change of the ring.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of the ring.
    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn set_epoch(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }
}

impl Lane {
    pub(crate) fn new(core: Arc<Core>, state: Arc<LaneState>) -> Arc<Lane> {
        Arc::new(Lane { core, state })
    }

    /// One holder less. Everybody who holds a lane lets it go here: who is the last beside spare tensors ends them too.
    pub(crate) fn let_go(self: Arc<Lane>) {
        let state = Arc::clone(&self.state);
        let mut ring = state.ring();
        if ring.is_last(&self) {
            let spares = ring.take_spares();
            drop(ring);
            drop(spares);
            forget_recent(&state);
        }
        // Otherwise under the lock, so that of two who go at once the second sees that it is the last.
        drop(self);
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Was it made in a process of which this one is a forked child?
    #[inline(always)]
    pub(crate) fn is_foreign(&self) -> bool {
        self.core.generation != fork::generation()
    }

    fn check_process(&self) -> Result<(), Error> {
        match self.is_foreign() {
            false => Ok(()),
            true => Err(Error::new(
                Code::BadHandle,
                "this session belongs to the parent process, before fork(): open one here with Session::connect",
            )),
        }
    }

    /// The ring, for submitting.
    #[inline]
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Ring>, Error> {
        if self.is_foreign() {
            self.check_process()?;
        }
        let ring = self.state.ring();
        match &ring.closed {
            None => Ok(ring),
            Some(error) => Err(error.clone()),
        }
    }

    /// A name for a new tensor.
    #[inline]
    pub(crate) fn name(&self, ring: &mut Ring) -> Result<Handle, Error> {
        match ring.take_free() {
            Some(handle) => Ok(handle),
            None => self.fresh_name(ring),
        }
    }

    #[cold]
    fn fresh_name(&self, ring: &mut Ring) -> Result<Handle, Error> {
        if let Some(range) = self.core.fresh_handles(FRESH_HANDLES) {
            ring.add_fresh(range);
        } else {
            // No room in the ring is no room for names either, for now.
            let _ = ring.send_releases();
        }
        ring.take_free().ok_or_else(|| {
            Error::new(
                Code::Limit,
                format!(
                    "{} tensors are alive, as many as this session may have: drop some",
                    self.core.welcome.limits.handles
                ),
            )
        })
    }

    /// Pushes one request, waiting where the ring is full. In `epoch`, or not at all.
    pub(crate) fn push(
        &self,
        request: &Request,
        code: u16,
        site: Site,
        epoch: u32,
    ) -> Result<Mark, Error> {
        loop {
            let mut ring = self.lock()?;
            if ring.epoch != epoch {
                return Err(self.core.lost_error(epoch));
            }
            let pushed = ring.push(request, code, site).map_err(|too_long| {
                Error::new(
                    Code::BadRecord,
                    format!("{too_long}: give it fewer operands"),
                )
            })?;
            match pushed {
                Ok(value) => return Ok(Mark { epoch, value }),
                Err(_) => self.make_room(ring)?,
            }
        }
    }

    /// Waits until a full ring has room again.
    #[cold]
    pub(crate) fn make_room(&self, mut ring: MutexGuard<'_, Ring>) -> Result<(), Error> {
        ring.publish();
        let (epoch, head) = (ring.epoch, ring.head_wanted());
        drop(ring);
        // Submitting holds what other threads need, because it hardly ever comes to this.
        let waited = without_lock(|| {
            self.with_waiting(epoch, |waiting| {
                let reader = &waiting.reader;
                if waiting.patience.spin(|| reader.head() >= head) {
                    return Waited::Reached;
                }
                reader.wait_for_room(
                    &waiting.submission,
                    head,
                    None,
                    &mut SpinPolicy::sleep_at_once(),
                )
            })
        });
        self.after_wait(waited)
    }

    /// Publishes what was written.
    pub(crate) fn flush(&self) -> Result<Mark, Error> {
        loop {
            let mut ring = self.lock()?;
            let last = ring.last();
            if ring.demand(last.value).is_ok() && ring.send_releases().is_ok() {
                ring.publish();
                return Ok(last);
            }
            self.make_room(ring)?;
        }
    }

    /// As `flush`, with a time after which the results are late.
    pub(crate) fn flush_within(&self, deadline: Duration) -> Result<Mark, Error> {
        let deadline_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        // Zero is none, and 48 bits are what the record has.
        let deadline_us = deadline_us.clamp(1, (1 << 48) - 1);
        loop {
            let mut ring = self.lock()?;
            let epoch = ring.epoch;
            if let Ok(value) = ring.push_flush(deadline_us)
                && ring.demand(value).is_ok()
            {
                return Ok(Mark { epoch, value });
            }
            self.make_room(ring)?;
        }
    }

    /// Waits until the timeline has a value of the present epoch, whatever became of its request.
    pub(crate) fn wait_passed(&self, value: u64) -> Result<(), Error> {
        let epoch = self.state.epoch();
        self.wait_until(Mark { epoch, value }, None)
    }

    /// Waits for a request and gives its outcome.
    pub(crate) fn wait(&self, mark: Mark, deadline: Option<Instant>) -> Result<(), Error> {
        self.wait_until(mark, deadline)?;
        self.lock()?.outcome(mark.value)
    }

    /// Waits until the timeline has `mark`, or until it is clear that it never will.
    pub(crate) fn wait_until(&self, mark: Mark, deadline: Option<Instant>) -> Result<(), Error> {
        loop {
            let mut ring = self.lock()?;
            if ring.epoch != mark.epoch {
                return Err(self.core.lost_error(mark.epoch));
            }
            match ring.demand(mark.value) {
                Ok(()) => break,
                Err(_) => self.make_room(ring)?,
            }
        }
        loop {
            let waited = self.with_waiting(mark.epoch, |waiting| {
                let reader = &waiting.reader;
                if waiting.patience.spin(|| reader.timeline() >= mark.value) {
                    return Waited::Reached;
                }
                // News that came before the sleep wake nobody; a look costs little beside a sleep.
                if self.core.look(Duration::ZERO).is_err() || self.state.epoch() != mark.epoch {
                    return Waited::LookAtSocket;
                }
                let (submission, sleep) = (&waiting.submission, &mut SpinPolicy::sleep_at_once());
                reader.wait(submission, mark.value, deadline, sleep)
            });
            match waited {
                Waited::Reached => return Ok(()),
                Waited::Elapsed => {
                    return Err(Error::new(
                        Code::WaitTimeout,
                        "the result was not there in the time given; it may still come",
                    ));
                }
                other => self.after_wait(other)?,
            }
            if self.state.epoch() != mark.epoch {
                return Err(self.core.lost_error(mark.epoch));
            }
        }
    }

    fn with_waiting(&self, epoch: u32, wait: impl FnOnce(&mut Waiting) -> Waited) -> Waited {
        let mut waiting = self
            .state
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.epoch != epoch {
            let segments = self.state.ring().segments.clone();
            waiting.reader = Reader::new(segments.completion);
            waiting.submission = segments.submission;
            waiting.epoch = segments.epoch;
        }
        if waiting.epoch != epoch {
            return Waited::LookAtSocket;
        }
        wait(&mut waiting)
    }

    /// Does what the end of a wait asks for; an error where nothing can be waited for any more.
    fn after_wait(&self, waited: Waited) -> Result<(), Error> {
        match waited {
            Waited::Reached | Waited::Elapsed => Ok(()),
            Waited::LookAtSocket => {
                hear_signals()?;
                self.core.look(Duration::ZERO)?;
                // Nothing moves in an epoch that is over: the next news come by the socket.
                if self.core.has_ended(self.state.epoch()) {
                    self.core.look(RESEND_AFTER)?;
                }
                Ok(())
            }
            Waited::Closed(state) => self.closed(state),
        }
    }

    /// The queue is frozen or ended. The broker says why, or a new epoch comes.
    #[cold]
    fn closed(&self, state: QueueState) -> Result<(), Error> {
        let epoch = self.state.epoch();
        let until = Instant::now() + REASON_WITHIN;
        while self.state.epoch() == epoch && Instant::now() < until {
            self.core.look(Duration::from_millis(50))?;
        }
        if self.state.epoch() != epoch {
            return Ok(());
        }
        let fault = self.state.ring().reader.fault_code();
        Err(match (state, Code::from_wire(fault)) {
            (QueueState::Frozen, Some(code)) => Error::new(
                code,
                "the daemon froze this queue because its records broke the protocol: open a new session",
            ),
            _ => Error::new(
                Code::DaemonLost,
                "the daemon ended this queue: open a new session",
            ),
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_foreign() {
            // Owners forget their lanes in a child, so this is never reached there; were it, nothing may be touched.
            return;
        }
        let mut ring = self.state.ring();
        if ring.closed.is_none() {
            let _ = ring.send_releases();
            ring.publish();
        }
        drop(ring);
        self.core.retire(&self.state);
    }
}
