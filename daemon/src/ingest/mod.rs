//! Takes records out of rings: a bounded number for each queue and turn, each copied out once.
//!
//! After this stage nobody sees a raw client number: what leaves is a decoded request or the code of what is wrong with it. A
//! broken ring freezes; only its own session notices.

use std::collections::VecDeque;
use std::rc::Rc;

use tensord_shm::completion::ErrorEntry;
use tensord_shm::control::LimitReached;
use tensord_shm::error::Code;
use tensord_shm::record::{self, Region};
use tensord_shm::ring::{RecordBuf, RingFault};

use crate::dispatch::constants::Ticket;
use crate::engine_process::QueueEnds;
use crate::graph::trace::Trace;
use crate::graph::value::{Failure, Value};
use crate::graph::window::Window;
use crate::schedule::Work;

/// Most records taken from one queue in one turn.
pub const RECORDS_PER_TURN: usize = 256;

/// Deadlines of a queue that are kept: of more, the oldest are forgotten.
const DEADLINES_MAX: usize = 64;

/// A value on its way to a client.
pub struct Download {
    /// Timeline value of the request.
    pub number: u64,
    /// Its source position.
    pub site: u32,
    /// The value.
    pub value: Rc<Value>,
    /// First byte of the value's memory.
    pub at: u64,
    /// Where it goes.
    pub to: Region,
}

/// The upload of a constant whose content is not safe yet.
#[derive(Clone, Copy, Debug)]
pub struct Hashing {
    /// Timeline value of the request.
    pub number: u64,
    /// Its source position.
    pub site: u32,
    /// What it waits for.
    pub ticket: Ticket,
}

/// A queue that waits for another one.
#[derive(Clone, Copy, Debug)]
pub struct CrossWait {
    /// Timeline value of the waiting request.
    pub number: u64,
    /// Its source position.
    pub site: u32,
    /// The other queue.
    pub queue: u32,
    /// The timeline value that it has to pass.
    pub value: u64,
    /// When to give up.
    pub until_ns: u64,
}

/// Timeline values that are not finished, each as often as something holds it open. They come and go nearly in order.
#[derive(Default)]
pub struct Open(VecDeque<(u64, u32)>);

impl Open {
    fn insert(&mut self, number: u64) {
        match self.0.binary_search_by_key(&number, |&(open, _)| open) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (number, 1)),
        }
    }

    fn remove(&mut self, number: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&number, |&(open, _)| open) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    /// The lowest.
    pub fn first(&self) -> Option<u64> {
        self.0.front().map(|&(number, _)| number)
    }

    /// Is nothing open?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A queue of a session.
pub struct Queue {
    /// The shared memory.
    pub ends: QueueEnds,
    /// Operations accepted and not yet planned, as they repeat. While it has any, the window is empty.
    pub trace: Trace,
    /// Operations accepted and not yet planned.
    pub window: Window,
    /// Timeline value of the last record accepted.
    pub accepted: u64,
    /// Timeline values that are not finished and not in the window: first operations of works, downloads, waits.
    pub open: Open,
    /// Work planned and not dispatched, in order.
    pub works: VecDeque<Work>,
    /// Values on their way out, in order.
    pub downloads: VecDeque<Download>,
    /// Constants on their way in, in order.
    pub hashing: VecDeque<Hashing>,
    /// Everything up to here is wanted now.
    pub demand: u64,
    /// So is everything up to here: what the client waits for, as last seen.
    pub demanded: u64,
    /// Deadlines, each of everything up to a timeline value.
    deadlines: VecDeque<(u64, u64)>,
    /// The queue takes no records before this is over.
    pub waiting: Option<CrossWait>,
    /// A request that waits until a constant's content is known.
    pub deferred: Option<Box<[u64]>>,
    /// When the last record came.
    pub news_ns: u64,
    /// Is it polled?
    pub active: bool,
    /// Did it break a rule?
    pub frozen: bool,
    /// Records lie in the ring that could not be accepted for want of an error slot.
    pub starved: bool,
    slots_seen: u64,
}

/// What a queue gave.
pub enum Taken {
    /// A record, copied to the buffer.
    Record,
    /// Nothing more for now.
    Nothing,
    /// The ring is broken.
    Broken(RingFault),
}

impl Queue {
    /// A queue that nothing came through yet.
    pub fn new(ends: QueueEnds, now_ns: u64) -> Queue {
        Queue {
            ends,
            trace: Trace::default(),
            window: Window::default(),
            accepted: 0,
            open: Open::default(),
            works: VecDeque::new(),
            downloads: VecDeque::new(),
            hashing: VecDeque::new(),
            demand: 0,
            demanded: 0,
            deadlines: VecDeque::new(),
            waiting: None,
            deferred: None,
            news_ns: now_ns,
            active: true,
            frozen: false,
            starved: false,
            slots_seen: 0,
        }
    }

    /// Looks at the tail, once for a turn. True if there is something to take.
    pub fn refresh(&mut self) -> Result<bool, RingFault> {
        self.ends.consumer.refresh()?;
        Ok(self.ends.consumer.batch_left() > 0)
    }

    /// Takes the next record, with a slot reserved for its failure.
    #[inline]
    pub fn take(&mut self, buffer: &mut RecordBuf) -> Taken {
        match self.ends.completion.reserve_error(&self.ends.submission) {
            Ok(true) => {}
            Ok(false) => {
                self.starved = true;
                return Taken::Nothing;
            }
            Err(fault) => return Taken::Broken(fault),
        }
        match self.ends.consumer.pop(buffer) {
            Ok(Some(_)) => {
                self.accepted += 1;
                Taken::Record
            }
            Ok(None) => {
                self.ends.completion.release_errors(1);
                Taken::Nothing
            }
            Err(fault) => Taken::Broken(fault),
        }
    }

    /// Gives slots back to the client, rarely: the line is the one that it reads at each record. A client that waits for room
    /// waits for three quarters of the ring, and at most for all but 31 slots.
    pub fn publish_head(&mut self) {
        let head = self.ends.consumer.head();
        let slots = u64::from(self.ends.submission.slot_count());
        let worth = if slots < 64 { 1 } else { slots / 4 };
        if head - self.slots_seen >= worth || self.starved {
            self.slots_seen = head;
            self.ends.completion.set_head(head);
        }
    }

    /// Notes that the timeline cannot pass `number` yet.
    pub fn hold_open(&mut self, number: u64) {
        self.open.insert(number);
    }

    /// Undoes one [`Queue::hold_open`].
    pub fn close(&mut self, number: u64) {
        self.open.remove(number);
    }

    /// The failure of one request, told before the timeline passes it.
    /// `reached`: the limit that made it fail, if one did.
    pub fn fail(
        &mut self,
        number: u64,
        site: u32,
        failure: Failure,
        reached: Option<LimitReached>,
    ) {
        self.ends.completion.push_error(&ErrorEntry {
            value: number,
            code: failure.code as u32,
            site,
            origin: failure.origin,
            detail: reached.map_or(u64::from(failure.site), LimitReached::to_word),
        });
    }

    /// Everything up to `number` is wanted, and late after `deadline_ns`.
    pub fn want_by(&mut self, number: u64, deadline_ns: u64) {
        self.demand = self.demand.max(number);
        let finished = self.finished();
        while let Some(&(first, _)) = self.deadlines.front()
            && (first <= finished || self.deadlines.len() >= DEADLINES_MAX)
        {
            self.deadlines.pop_front();
        }
        self.deadlines.push_back((number, deadline_ns));
        for work in &mut self.works {
            work.deadline_ns = Some(work.deadline_ns.map_or(deadline_ns, |d| d.min(deadline_ns)));
        }
    }

    /// When work that begins with this value is late.
    pub fn deadline_of(&self, number: u64) -> Option<u64> {
        let all = self.deadlines.iter().filter(|&&(last, _)| number <= last);
        all.map(|&(_, deadline_ns)| deadline_ns).min()
    }

    /// Timeline value of the first operation that is not planned.
    pub fn first_unplanned(&self) -> Option<u64> {
        self.trace.first_number().or(self.window.first_number())
    }

    /// Bytes of the largest result that is not planned: the least that its work will write.
    pub fn largest_bytes(&self) -> u64 {
        match self.window.is_empty() {
            true => self.trace.largest_bytes(),
            false => self.window.largest_bytes(),
        }
    }

    /// The highest timeline value up to which everything is finished.
    pub fn finished(&self) -> u64 {
        let open = self.open.first();
        let first = match (open, self.first_unplanned()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        first.map_or(self.accepted, |number| number - 1)
    }

    /// Is there anything that a turn could move on?
    pub fn is_quiet(&self) -> bool {
        self.first_unplanned().is_none() && self.open.is_empty() && self.waiting.is_none()
    }
}

/// Does the record name a constant by its hash?
pub fn is_bind(words: &[u64]) -> bool {
    words
        .first()
        .is_some_and(|head| (head >> 16) as u16 == record::opcode::BIND)
}

/// The code with which a session ends whose ring broke a rule.
pub fn fault_code(fault: &RingFault) -> Code {
    match fault {
        RingFault::TailJump { .. } | RingFault::TailBackwards { .. } => Code::TailJump,
        _ => Code::BadRecord,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_counts_and_the_lowest_is_first() {
        let mut open = Open::default();
        for number in [5, 9, 7, 5] {
            open.insert(number);
        }
        let mut seen = Vec::new();
        for number in [5, 7, 5, 9] {
            seen.push(open.first());
            open.remove(number);
        }
        assert_eq!(seen, [Some(5), Some(5), Some(5), Some(9)]);
        assert!(open.is_empty());
        open.remove(9);
        assert_eq!(open.first(), None, "what is not open stays so");
    }
}
