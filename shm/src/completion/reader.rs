//! The client's and the broker's end of a completion page: it reads how far the queue is, and sleeps until it is farther.

use std::time::{Duration, Instant};

use super::{
    AWAKE, ERROR_WORDS, ERRORS_PER_LINE, ErrorEntry, QueueState, SLEEP_MS_MAX, SLEEPS_FOR_ROOM,
    SLEEPS_ON_FUTEX, WANTS_NOTICE,
};
use crate::segment::{
    CompletionMap, ERROR_COUNT, SubmissionMapMut, completion_word as word, submission_word,
};
use crate::sync::{FutexWait, Ordering, Words, fence, spin_loop, yield_now};

/// How a wait may pass its first microseconds.
///
/// Spinning is right where a core is free for it and wrong everywhere else, so it is asked for, not assumed. A yield
/// that took longer than a millisecond says that others compete for the core; the next waits then sleep at once.
#[derive(Clone, Copy, Debug)]
pub struct SpinPolicy {
    /// Looks at the timeline with a pause instruction between.
    pub spin_count: u32,
    /// Looks at the timeline with a yield to the scheduler between.
    pub yield_count: u32,
    /// Waits that still sleep at once because a yield was slow.
    sleep_at_once_count: u32,
}

/// Waits that sleep at once after one slow yield.
const SLEEP_AT_ONCE_COUNT: u32 = 64;
/// A yield longer than this was slow.
const SLOW_YIELD: Duration = Duration::from_millis(1);

impl SpinPolicy {
    /// Sleep at once: right with more clients than cores.
    pub const fn sleep_at_once() -> Self {
        Self::new(0, 0)
    }

    /// `spin_count` pauses, then `yield_count` yields, then sleep.
    pub const fn new(spin_count: u32, yield_count: u32) -> Self {
        Self {
            spin_count,
            yield_count,
            sleep_at_once_count: 0,
        }
    }

    /// Looks again and again; true once `reached` is.
    fn spin(&mut self, reached: impl Fn() -> bool) -> bool {
        for _ in 0..self.spin_count {
            if reached() {
                return true;
            }
            spin_loop();
        }
        if self.sleep_at_once_count > 0 {
            self.sleep_at_once_count -= 1;
            return reached();
        }
        for _ in 0..self.yield_count {
            if reached() {
                return true;
            }
            let before = Instant::now();
            yield_now();
            if before.elapsed() > SLOW_YIELD {
                self.sleep_at_once_count = SLEEP_AT_ONCE_COUNT;
                break;
            }
        }
        reached()
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The timeline has the value.
    Reached,
    /// The queue is frozen or ended below the value.
    Closed(QueueState),
    /// The deadline has passed.
    Elapsed,
    /// 250 ms have passed, a signal came, or the broker woke: look at the socket and call again.
    LookAtSocket,
}

/// The client's and the broker's end. Only the client may call what takes its `SubmissionMapMut`.
pub struct Reader {
    words: Words,
    /// Index of the next error entry: the client's own.
    errors_read: u64,
}

impl Reader {
    /// Begins at the start of a queue's life.
    pub fn new(map: CompletionMap) -> Self {
        Self {
            words: map.words,
            errors_read: 0,
        }
    }

    /// Every request up to this value has its outcome.
    #[inline]
    pub fn timeline(&self) -> u64 {
        // SYNC: pairs with the Release in `Writer::set_timeline`.
        self.words.header64(word::TIMELINE).load(Ordering::Acquire)
    }

    /// Slots up to this position may be written again.
    #[inline]
    pub fn head(&self) -> u64 {
        // SYNC: pairs with the Release in `Writer::set_head`.
        self.words.header64(word::HEAD).load(Ordering::Acquire)
    }

    /// Whether the engine is parked on this ring. A hint for when to publish; the decision is
    /// `Doorbell::ring_if_parked`.
    #[inline]
    pub fn need_wakeup(&self) -> bool {
        self.park_count() % 2 == 1
    }

    /// What became of the queue.
    #[inline]
    pub fn state(&self) -> QueueState {
        // SYNC: pairs with the Release in `Writer::close`.
        match self.words.header32(word::STATE).load(Ordering::Acquire) {
            0 => QueueState::Open,
            1 => QueueState::Frozen,
            _ => QueueState::Ended,
        }
    }

    /// The code of the protocol error, once the state is `Frozen`.
    pub fn fault_code(&self) -> u32 {
        self.words
            .header32(word::FAULT_CODE)
            .load(Ordering::Relaxed)
    }

    /// Takes the oldest failure that was not taken yet. Failures of every request up to `timeline()` are there.
    pub fn pop_error(&mut self, submission: &SubmissionMapMut) -> Option<ErrorEntry> {
        // SYNC: pairs with the Release in `Writer::push_error`.
        let written = self
            .words
            .header64(word::ERRORS_WRITTEN)
            .load(Ordering::Acquire);
        if written == self.errors_read {
            return None;
        }
        let index = (self.errors_read % u64::from(ERROR_COUNT)) as usize;
        let line = &self.words.lines(index / ERRORS_PER_LINE, 1)[0];
        let first = index % ERRORS_PER_LINE * ERROR_WORDS;
        // SYNC: ordered by the Acquire above.
        let [value, code_site, origin, detail] =
            std::array::from_fn(|i| line[first + i].load(Ordering::Relaxed));
        self.errors_read += 1;
        // SYNC: Release pairs with the Acquire in `Writer::look_at_errors_read`: the copy is over.
        submission
            .words
            .header64(submission_word::ERRORS_READ)
            .store(self.errors_read, Ordering::Release);
        Some(ErrorEntry {
            value,
            code: code_site as u32,
            site: (code_site >> 32) as u32,
            origin,
            detail,
        })
    }

    /// Whether a failure waits to be taken: one load.
    #[inline]
    pub fn has_error(&self) -> bool {
        self.words
            .header64(word::ERRORS_WRITTEN)
            .load(Ordering::Acquire)
            != self.errors_read
    }

    /// Waits until the timeline has `value`, at most until `deadline` and at most 250 ms. Publish first, then
    /// `Doorbell::demand`: an engine parked on work that nobody had demanded is woken by that alone.
    pub fn wait(
        &self,
        submission: &SubmissionMapMut,
        value: u64,
        deadline: Option<Instant>,
        policy: &mut SpinPolicy,
    ) -> Waited {
        self.demand(submission, value);
        self.sleep(submission, value, SLEEPS_ON_FUTEX, deadline, policy)
    }

    /// Waits until the engine has taken every slot below position `head`, as `wait` does. For a ring that is full:
    /// publish first, then ask for `Producer::position` less what may stay in the ring. Demands no value.
    pub fn wait_for_room(
        &self,
        submission: &SubmissionMapMut,
        head: u64,
        deadline: Option<Instant>,
        policy: &mut SpinPolicy,
    ) -> Waited {
        self.sleep(submission, head, SLEEPS_FOR_ROOM, deadline, policy)
    }

    fn sleep(
        &self,
        submission: &SubmissionMapMut,
        wanted: u64,
        how: u32,
        deadline: Option<Instant>,
        policy: &mut SpinPolicy,
    ) -> Waited {
        if self.reached(how) >= wanted || policy.spin(|| self.reached(how) >= wanted) {
            return Waited::Reached;
        }
        let mut limit = Instant::now() + Duration::from_millis(SLEEP_MS_MAX);
        let mut at_limit = Waited::LookAtSocket;
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= limit) {
            limit = deadline;
            at_limit = Waited::Elapsed;
        }
        let waited = loop {
            // SYNC: pairs with the Release in `Writer::wake`. Read before the timeline, so that a wake-up between the
            // two makes the sleep end at once.
            let seen = self.words.header32(word::WAKE).load(Ordering::Acquire);
            if let Some(waited) = self.arm(submission, wanted, how) {
                break waited;
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break at_limit;
            }
            match self.words.futex_wait(word::WAKE, seen, left) {
                FutexWait::Interrupted => break Waited::LookAtSocket,
                // The engine counts before it wakes: this was the broker's `wake_all`, or nobody.
                FutexWait::Woken
                    if self.words.header32(word::WAKE).load(Ordering::Acquire) == seen =>
                {
                    break if self.reached(how) >= wanted {
                        Waited::Reached
                    } else {
                        Waited::LookAtSocket
                    };
                }
                FutexWait::Woken | FutexWait::TimedOut => {}
            }
        };
        self.disarm(submission);
        waited
    }

    #[inline]
    fn reached(&self, how: u32) -> u64 {
        if how == SLEEPS_FOR_ROOM {
            self.head()
        } else {
            self.timeline()
        }
    }

    /// Asks for a notice once the timeline has `value`, for a client that sleeps in epoll; it then looks at its socket
    /// every 250 ms itself. Gives the outcome instead where there is nothing to wait for. `disarm` when woken.
    pub fn arm_notice(&self, submission: &SubmissionMapMut, value: u64) -> Option<Waited> {
        self.demand(submission, value);
        let outcome = self.arm(submission, value, WANTS_NOTICE);
        if outcome.is_some() {
            self.disarm(submission);
        }
        outcome
    }

    /// Says that nobody sleeps any more.
    pub fn disarm(&self, submission: &SubmissionMapMut) {
        // A late reader wakes nobody; nothing is ordered by this store.
        submission
            .words
            .header32(submission_word::SLEEPING)
            .store(AWAKE, Ordering::Relaxed);
    }

    /// For the broker, when the engine is gone: wakes every sleeper, who then looks at its socket. One who is just
    /// about to sleep is missed and looks within 250 ms.
    pub fn wake_all(&self) {
        self.words.futex_wake(word::WAKE, i32::MAX);
    }

    /// The number of times the engine has parked or unparked: odd while parked.
    #[inline]
    pub(crate) fn park_count(&self) -> u64 {
        self.words
            .header64(word::NEED_WAKEUP)
            .load(Ordering::Relaxed)
    }

    /// Names the value that a wait will be for, so that the engine runs what it needs; waits name it themselves. Whoever
    /// spins in a loop of his own calls `Doorbell::demand` first.
    #[inline]
    pub fn demand(&self, submission: &SubmissionMapMut, value: u64) {
        // SYNC: Release pairs with the Acquire in `Consumer::demanded`: who sees the demand sees the tail that was published before
        // it. Against a parking engine by the fence in `Doorbell::ring_if_parked`, which follows.
        submission
            .words
            .header64(submission_word::DEMANDED)
            .store(value, Ordering::Release);
    }

    fn arm(&self, submission: &SubmissionMapMut, wanted: u64, how: u32) -> Option<Waited> {
        submission
            .words
            .header64(submission_word::WANTED)
            .store(wanted, Ordering::Relaxed);
        // SYNC: Release pairs with the Acquire in `Writer::wake_if_asleep`.
        submission
            .words
            .header32(submission_word::SLEEPING)
            .store(how, Ordering::Release);
        // SYNC: pairs with the fence in `Writer::wake_if_asleep`: either it sees us asleep, or we see its timeline.
        fence(Ordering::SeqCst);
        // The state first: one that is closed has its last timeline value before it.
        let state = self.state();
        if self.reached(how) >= wanted {
            return Some(Waited::Reached);
        }
        (state != QueueState::Open).then_some(Waited::Closed(state))
    }
}
