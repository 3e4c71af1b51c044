//! The completion page: how far a queue has come, what failed, and who has to be woken.
//!
//! The engine writes it through one [`Writer`]; the client and the broker read it through a [`Reader`] whose mapping
//! can never become writable. Success is the timeline alone. Failures go to a bounded ring of which the engine reserves
//! a slot when it accepts a request, so nothing overflows and a client that never reads its failures stalls only itself.
//!
//! # Invariants
//! Both sleeps follow one pattern: write what the other waits for, fence (SeqCst), read the other's flag; against: write
//! the flag, fence (SeqCst), read what is waited for. Of the two fences one is first, so at least one side sees the other.

use crate::doorbell::NoticeSender;
use crate::ring::{Consumer, RingFault};
use crate::segment::{
    CompletionMap, CompletionMapMut, ERROR_BYTES, ERROR_COUNT, SubmissionMap, SubmissionMapMut,
    completion_word as word, submission_word,
};
use crate::sync::{FutexWait, LINE_BYTES, Ordering, Words, fence, spin_loop, yield_now};
use std::time::{Duration, Instant};

/// The longest sleep without a look at the socket.
pub const SLEEP_MS_MAX: u64 = 250;

const ERROR_WORDS: usize = ERROR_BYTES / 8;
const ERRORS_PER_LINE: usize = LINE_BYTES / ERROR_BYTES;

const AWAKE: u32 = 0;
const SLEEPS_ON_FUTEX: u32 = 1;
const WANTS_NOTICE: u32 = 2;
const SLEEPS_FOR_ROOM: u32 = 3;

/// What became of a queue, in the word `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum QueueState {
    /// Records are taken.
    Open = 0,
    /// The client broke the protocol; nothing more is taken. `Reader::fault_code` says how.
    Frozen = 1,
    /// The engine has ended the queue in order; the timeline will not move again.
    Ended = 2,
}

/// One failed or cancelled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Timeline value of the request.
    pub value: u64,
    /// Wire code of the outcome.
    pub code: u32,
    /// The caller's source position, as the record carried it.
    pub site: u32,
    /// Timeline value of the request that failed first, where this one only inherited the failure.
    pub origin: u64,
    /// One number more, by code.
    pub detail: u64,
}

/// Whom [`Writer::wake_if_asleep`] woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Nobody waits for what was reached.
    Nobody,
    /// A sleeper on the futex.
    Sleeper,
    /// A notice was sent.
    Noticed,
}

/// The engine's end. One for each queue, in one thread at a time.
pub struct Writer {
    words: Words,
    timeline: u64,
    head: u64,
    /// Odd while parked. Counts, so that a client rings once for each time that the engine parks.
    park_count: u64,
    wake_count: u32,
    /// The highest value that a sleeper was woken for. The timeline has passed it, so nobody sleeps for it again.
    woken_for: u64,
    /// The same for a sleeper that waits for room.
    woken_for_head: u64,
    errors_written: u64,
    /// The client's index when last looked at; checked, and only ever behind the truth.
    errors_read: u64,
    /// Slots promised to requests in flight.
    errors_reserved: u32,
}

impl Writer {
    /// Begins a queue's life: a fresh segment is all zeroes, which is open, at timeline 0.
    pub fn new(map: CompletionMapMut) -> Self {
        Self {
            words: map.words,
            timeline: 0,
            head: 0,
            park_count: 0,
            wake_count: 0,
            woken_for: 0,
            woken_for_head: 0,
            errors_written: 0,
            errors_read: 0,
            errors_reserved: 0,
        }
    }

    /// The timeline last set.
    pub fn timeline(&self) -> u64 {
        self.timeline
    }

    /// Says that every request up to `value` has its outcome. Never goes back. Results and error entries are written
    /// before.
    #[inline]
    pub fn set_timeline(&mut self, value: u64) {
        debug_assert!(value >= self.timeline, "a timeline never goes back");
        if value > self.timeline {
            self.timeline = value;
            // SYNC: Release pairs with the Acquire in `Reader::timeline`: staging bytes and errors come first.
            self.words
                .header64(word::TIMELINE)
                .store(value, Ordering::Release);
        }
    }

    /// Gives slots back to the client. The line is read by a client that submits, so call it rarely, but always when a
    /// quarter of the ring has been taken, when the ring is empty and when records are left lying: a client that found
    /// no room waits for it.
    #[inline]
    pub fn set_head(&mut self, head: u64) {
        if head != self.head {
            self.head = head;
            // SYNC: Release pairs with the Acquire in `Reader::head`: the copies out of the slots are over.
            self.words
                .header64(word::HEAD)
                .store(head, Ordering::Release);
        }
    }

    /// Says whether the client must ring. Without a fence: whoever parks many rings fences once after the last
    /// ([`parking_fence`]) and then asks each `Consumer::is_behind`.
    #[inline]
    pub fn set_need_wakeup(&mut self, parked: bool) {
        if self.is_parked() != parked {
            self.park_count += 1;
            // SYNC: ordered against the tail by the fence of the caller, see `parking_fence`.
            self.words
                .header64(word::NEED_WAKEUP)
                .store(self.park_count, Ordering::Release);
        }
    }

    /// Whether the client has been told to ring.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.park_count % 2 == 1
    }

    /// Parks one ring: true if it is empty and the client will ring, false if there is something to do.
    pub fn park(&mut self, consumer: &Consumer) -> bool {
        self.set_head(consumer.head());
        self.set_need_wakeup(true);
        parking_fence();
        if consumer.is_behind() {
            self.set_need_wakeup(false);
            return false;
        }
        true
    }

    /// Reserves the error slot of a request about to be accepted. False: none is free until the client reads its
    /// failures or requests of its own end, so leave its record where it is.
    #[inline]
    pub fn reserve_error(&mut self, submission: &SubmissionMap) -> Result<bool, RingFault> {
        if self.errors_free() == 0 {
            self.look_at_errors_read(submission)?;
        }
        let free = self.errors_free() > 0;
        self.errors_reserved += u32::from(free);
        Ok(free)
    }

    /// Gives back the slots of `count` requests that ended well.
    #[inline]
    pub fn release_errors(&mut self, count: u32) {
        debug_assert!(
            count <= self.errors_reserved,
            "only reserved slots are released"
        );
        self.errors_reserved = self.errors_reserved.saturating_sub(count);
    }

    /// Writes a failure into a slot that was reserved, before the timeline passes its request.
    pub fn push_error(&mut self, entry: &ErrorEntry) {
        debug_assert!(self.errors_reserved > 0, "a slot is reserved at acceptance");
        self.errors_reserved = self.errors_reserved.saturating_sub(1);
        let index = (self.errors_written % u64::from(ERROR_COUNT)) as usize;
        let line = &self.words.lines(index / ERRORS_PER_LINE, 1)[0];
        let words = [
            entry.value,
            u64::from(entry.code) | u64::from(entry.site) << 32,
            entry.origin,
            entry.detail,
        ];
        let first = index % ERRORS_PER_LINE * ERROR_WORDS;
        for (to, from) in line[first..first + ERROR_WORDS].iter().zip(words) {
            // SYNC: made visible by the Release below.
            to.store(from, Ordering::Relaxed);
        }
        self.errors_written += 1;
        // SYNC: Release pairs with the Acquire in `Reader::pop_error`.
        self.words
            .header64(word::ERRORS_WRITTEN)
            .store(self.errors_written, Ordering::Release);
    }

    /// Freezes the ring for good after a protocol error and wakes whoever sleeps. The first code stays.
    pub fn latch_fault(&mut self, code: u32, notice: Option<&NoticeSender>) {
        if self.state() == QueueState::Open as u32 {
            self.words
                .header32(word::FAULT_CODE)
                .store(code, Ordering::Relaxed);
            self.close(QueueState::Frozen, notice);
        }
    }

    /// Ends the queue in order and wakes whoever sleeps.
    pub fn end(&mut self, notice: Option<&NoticeSender>) {
        if self.state() == QueueState::Open as u32 {
            self.close(QueueState::Ended, notice);
        }
    }

    /// Wakes the client if it sleeps for a value that the timeline, or for room that the head has reached: call it after
    /// `set_timeline` and `set_head`, once for each queue and turn. Costs a fence when nobody sleeps, a system call only once for each value waited for.
    #[inline]
    pub fn wake_if_asleep(
        &mut self,
        submission: &SubmissionMap,
        notice: Option<&NoticeSender>,
    ) -> Woken {
        // SYNC: pairs with the fence in `Reader::arm`: either it sees the timeline, or this sees it asleep.
        fence(Ordering::SeqCst);
        // SYNC: Acquire pairs with the Release in `Reader::arm`: `wanted` is not older than `sleeping`.
        let sleeping = submission
            .words
            .header32(submission_word::SLEEPING)
            .load(Ordering::Acquire);
        if sleeping == AWAKE {
            return Woken::Nobody;
        }
        let wanted = submission
            .words
            .header64(submission_word::WANTED)
            .load(Ordering::Relaxed);
        let (reached, woken_for) = match sleeping {
            SLEEPS_FOR_ROOM => (self.head, &mut self.woken_for_head),
            _ => (self.timeline, &mut self.woken_for),
        };
        if wanted > reached || wanted <= *woken_for {
            return Woken::Nobody;
        }
        *woken_for = wanted;
        if sleeping == WANTS_NOTICE {
            if let Some(notice) = notice {
                notice.send();
            }
            return Woken::Noticed;
        }
        self.wake();
        Woken::Sleeper
    }

    fn state(&self) -> u32 {
        self.words.header32(word::STATE).load(Ordering::Relaxed)
    }

    fn close(&mut self, state: QueueState, notice: Option<&NoticeSender>) {
        // SYNC: Release pairs with the Acquire in `Reader::state`: the fault code comes first. Against a sleeper the
        // store of `wake` below is enough, which no sleeper can miss.
        self.words
            .header32(word::STATE)
            .store(state as u32, Ordering::Release);
        fence(Ordering::SeqCst);
        self.wake();
        if let Some(notice) = notice {
            notice.send();
        }
    }

    fn wake(&mut self) {
        self.wake_count = self.wake_count.wrapping_add(1);
        // SYNC: Release pairs with the Acquire in `Reader::wait`: who read the new count sees the timeline.
        self.words
            .header32(word::WAKE)
            .store(self.wake_count, Ordering::Release);
        // One queue belongs to one thread, so there is one sleeper; more are the client's own affair.
        self.words.futex_wake(word::WAKE, 1);
    }

    #[inline]
    fn errors_free(&self) -> u64 {
        u64::from(ERROR_COUNT)
            - u64::from(self.errors_reserved)
            - (self.errors_written - self.errors_read)
    }

    fn look_at_errors_read(&mut self, submission: &SubmissionMap) -> Result<(), RingFault> {
        // SYNC: pairs with the Release in `Reader::pop_error`: the entries below it have been copied.
        let read = submission
            .words
            .header64(submission_word::ERRORS_READ)
            .load(Ordering::Acquire);
        if read < self.errors_read || read > self.errors_written {
            return Err(RingFault::ErrorsRead {
                read,
                previous: self.errors_read,
                written: self.errors_written,
            });
        }
        self.errors_read = read;
        Ok(())
    }
}

/// Stands between `set_need_wakeup(true)` of any number of rings and the last look at their tails.
#[inline]
pub fn parking_fence() {
    // SYNC: pairs with the fence in `Doorbell::ring_if_parked`: either the client sees the flag, or we see its tail.
    fence(Ordering::SeqCst);
}

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
        // SYNC: against a parking engine by the fence in `Doorbell::ring_if_parked`, which follows.
        submission
            .words
            .header64(submission_word::DEMANDED)
            .store(value, Ordering::Relaxed);
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
