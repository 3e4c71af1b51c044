//! The engine's end of a completion page: it writes the timeline, the head and the failures, parks, and wakes sleepers.

use super::{
    AWAKE, ERROR_WORDS, ERRORS_PER_LINE, ErrorEntry, QueueState, SLEEPS_FOR_ROOM, WANTS_NOTICE,
    parking_fence,
};
use crate::CHECKED;
use crate::doorbell::NoticeSender;
use crate::ring::{Consumer, RingFault};
use crate::segment::{
    CompletionMapMut, ERROR_COUNT, SubmissionMap, completion_word as word, submission_word,
};
use crate::sync::{Ordering, Words, fence};

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
    /// quarter of the ring has been taken (of a ring of fewer than 64 slots: anything), when records are left lying and
    /// before parking: a client that found no room waits for it.
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
        if !CHECKED {
            return Ok(true);
        }
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
        if !CHECKED {
            return;
        }
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
