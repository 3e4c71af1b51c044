//! Records out of rings, a bounded number of each queue in a turn.

use tensord_shm::error::Code;
use tensord_shm::record::{says_nothing, site_of};
use tensord_shm::ring::{RecordBuf, RingFault};

use super::Engine;
use super::plan::is_full;
use crate::engine_process::SessionFault;
use crate::graph::trace::Accepted;
use crate::graph::value::Failure;
use crate::ingest::{RECORDS_PER_TURN, Taken, fault_code, is_bind};
use crate::session::Session;
use crate::stages::Stage;

impl Engine {
    /// Takes a bounded number of records from one queue.
    pub(super) fn ingest(&mut self, place: (usize, usize), now_ns: u64) -> bool {
        if let Some(queue) = self.queue(place) {
            // Before the tail: what a client let go before it began to wait is let go before its work is planned.
            queue.demanded = queue.ends.consumer.demanded();
        }
        if !self.may_take(place, now_ns) {
            return false;
        }
        let Some(mut record) = self.record.take() else {
            return false;
        };
        self.note_session(place);
        if let Some(session) = self.sessions[place.0].as_mut() {
            session.make_room();
        }
        let mut taken = 0;
        while taken < RECORDS_PER_TURN {
            let Some(queue) = self.queue(place) else {
                break;
            };
            if queue.waiting.is_some() || queue.deferred.is_some() {
                break;
            }
            match self.take(place, &mut record, &mut taken) {
                Taken::Record => {
                    taken += 1;
                    self.enter(Stage::Graph);
                    if !self.defer(place, record.words()) {
                        self.plan_if_full(place, record.words_mut(), now_ns);
                        self.accept(place, record.words(), now_ns);
                    }
                }
                Taken::Nothing => break,
                Taken::Broken(fault) => {
                    self.freeze(place, &fault);
                    break;
                }
            }
        }
        self.record = Some(record);
        if taken > 0
            && let Some(queue) = self.queue(place)
        {
            queue.news_ns = now_ns;
        }
        taken > 0
    }

    /// Takes records that follow their queue's trace as others did before or say nothing, and one that does neither or is worth
    /// planning.
    fn take(&mut self, place: (usize, usize), record: &mut RecordBuf, taken: &mut usize) -> Taken {
        let Some(Session {
            spec,
            handles,
            queues,
            accepted,
            totals,
            in_flight_max,
            ..
        }) = self.sessions.get_mut(place.0).and_then(Option::as_mut)
        else {
            return Taken::Nothing;
        };
        let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut) else {
            return Taken::Nothing;
        };
        let traced = spec.fuse && queue.window.is_empty();
        let (mut computed, mut over) = (0, 0);
        let in_flight = *accepted - totals.ok - totals.failed - totals.cancelled;
        let computed_max = in_flight_max.saturating_sub(in_flight);
        let last = loop {
            let last = queue.take(record);
            if !matches!(last, Taken::Record)
                || !traced
                || is_full(queue)
                || *taken + 1 >= RECORDS_PER_TURN
                || computed >= computed_max
            {
                break last;
            }
            let words = record.words();
            if says_nothing(words) {
                self.stages.enter(Stage::Ingest, &*self.clock);
                over += 1;
                *taken += 1;
                continue;
            }
            let about = (queue.accepted, site_of(words));
            let followed = queue
                .trace
                .follow(&mut self.branches, handles, words, about);
            if followed == Accepted::Strange {
                break last;
            }
            self.stages.enter(Stage::Ingest, &*self.clock);
            match followed {
                Accepted::Computed => computed += 1,
                _ => over += 1,
            }
            *taken += 1;
        };
        *accepted += computed + over;
        totals.ok += over;
        self.counters.requests_accepted += computed + over;
        self.counters.requests_ok += over;
        queue.ends.completion.release_errors(over as u32);
        last
    }

    fn may_take(&mut self, place: (usize, usize), now_ns: u64) -> bool {
        if !self.cross_wait_is_over(place, now_ns) || !self.resume(place, now_ns) {
            return false;
        }
        let Some(queue) = self.queue(place) else {
            return false;
        };
        if queue.frozen {
            return false;
        }
        queue.starved = false;
        match queue.refresh() {
            Ok(news) => news,
            Err(fault) => {
                self.freeze(place, &fault);
                false
            }
        }
    }

    /// Keeps a request that names a constant for later while content of its tenant is being hashed: what it names may be
    /// about to be known. The queue takes nothing meanwhile.
    fn defer(&mut self, place: (usize, usize), words: &[u64]) -> bool {
        let Some(session) = self.sessions[place.0].as_mut() else {
            return false;
        };
        if !is_bind(words) || !self.device.constants.is_hashing(session.spec.tenant) {
            return false;
        }
        if let Some(queue) = session.queue(place.1) {
            queue.hold_open(queue.accepted);
            queue.deferred = Some(words.into());
        }
        true
    }

    /// Accepts what was kept for later, if it is time. False: the queue still waits.
    fn resume(&mut self, place: (usize, usize), now_ns: u64) -> bool {
        let Some(session) = self.sessions[place.0].as_mut() else {
            return false;
        };
        let tenant = session.spec.tenant;
        let Some(queue) = session.queue(place.1) else {
            return false;
        };
        if queue.deferred.is_none() {
            return true;
        }
        if self.device.constants.is_hashing(tenant) {
            return false;
        }
        if let Some(words) = queue.deferred.take() {
            queue.close(queue.accepted);
            self.accept(place, &words, now_ns);
        }
        true
    }

    /// Has the queue stopped waiting for another one?
    fn cross_wait_is_over(&mut self, place: (usize, usize), now_ns: u64) -> bool {
        let Some(wait) = self.queue(place).and_then(|queue| queue.waiting) else {
            return true;
        };
        let other = (place.0, wait.queue as usize);
        let passed = self.queue(other).is_some_and(|other| {
            // Who waits for a value demands it.
            other.demand = other.demand.max(wait.value);
            other.finished() >= wait.value
        });
        if !passed && now_ns < wait.until_ns {
            return false;
        }
        let failure = Failure {
            code: Code::WaitTimeout,
            origin: wait.number,
            site: wait.site,
        };
        if let Some(queue) = self.queue(place) {
            queue.waiting = None;
            queue.close(wait.number);
        }
        self.settle(
            place,
            wait.number,
            wait.site,
            if passed { Ok(()) } else { Err(failure) },
        );
        true
    }

    /// A broken ring: it freezes, its session ends, nobody else notices.
    fn freeze(&mut self, place: (usize, usize), fault: &RingFault) {
        self.freeze_with(place, fault_code(fault), fault.to_string());
    }

    pub(super) fn freeze_with(&mut self, place: (usize, usize), code: Code, text: String) {
        let Some(session) = self.sessions.get_mut(place.0).and_then(Option::as_mut) else {
            return;
        };
        let id = session.spec.id;
        let Some(queue) = session.queue(place.1) else {
            return;
        };
        queue.frozen = true;
        queue
            .ends
            .completion
            .latch_fault(code as u32, queue.ends.notice.as_ref());
        self.faults.push(SessionFault {
            session: id,
            code,
            text,
        });
    }
}
