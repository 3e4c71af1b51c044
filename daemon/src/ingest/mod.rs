//! Takes records out of rings: a bounded number for each queue and turn, each copied out once.
//!
//! After this stage nobody sees a raw client number: what leaves is a decoded request or the code of what is wrong with it. A
//! broken ring freezes; only its own session notices.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tensord_shm::completion::ErrorEntry;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::record::{self, ElementwiseRecord, RecordFault, Region, Request};
use tensord_shm::ring::{RecordBuf, RingFault};

use crate::dispatch::constants::Ticket;
use crate::engine_process::QueueEnds;
use crate::graph::value::{Failure, Value};
use crate::graph::window::Window;
use crate::schedule::Work;

/// Most records taken from one queue in one turn.
pub const RECORDS_PER_TURN: usize = 256;

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

/// A queue of a session.
pub struct Queue {
    /// The shared memory.
    pub ends: QueueEnds,
    /// Operations accepted and not yet planned.
    pub window: Window,
    /// Timeline value of the last record accepted.
    pub accepted: u64,
    /// Timeline values that are not finished and not in the window: first operations of works, downloads, waits.
    pub open: BTreeMap<u64, u32>,
    /// Work planned and not dispatched, in order.
    pub works: VecDeque<Work>,
    /// Values on their way out, in order.
    pub downloads: VecDeque<Download>,
    /// Constants on their way in, in order.
    pub hashing: VecDeque<Hashing>,
    /// Everything up to here is wanted now.
    pub demand: u64,
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

/// One record, decoded as far as it can be.
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time on the stack; boxing would allocate for each request"
)]
pub enum Parsed<'a> {
    /// The commonest kind, in place.
    Elementwise(ElementwiseRecord<'a>),
    /// Any other.
    Request(Request),
    /// Something in it makes no sense; the request fails, unless the framing itself is broken.
    Fault(RecordFault),
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
            window: Window::default(),
            accepted: 0,
            open: BTreeMap::new(),
            works: VecDeque::new(),
            downloads: VecDeque::new(),
            hashing: VecDeque::new(),
            demand: 0,
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

    /// Gives slots back to the client, rarely: when a quarter of the ring was taken, or nothing is left in it.
    pub fn publish_head(&mut self) {
        let head = self.ends.consumer.head();
        let quarter = u64::from(self.ends.submission.slot_count()) / 4;
        if head - self.slots_seen >= quarter || self.starved || self.ends.consumer.batch_left() == 0
        {
            self.slots_seen = head;
            self.ends.completion.set_head(head);
        }
    }

    /// Notes that the timeline cannot pass `number` yet.
    pub fn hold_open(&mut self, number: u64) {
        *self.open.entry(number).or_default() += 1;
    }

    /// Undoes one [`Queue::hold_open`].
    pub fn close(&mut self, number: u64) {
        if let Some(count) = self.open.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&number);
            }
        }
    }

    /// The failure of one request, told before the timeline passes it.
    pub fn fail(&mut self, number: u64, site: u32, failure: Failure) {
        self.ends.completion.push_error(&ErrorEntry {
            value: number,
            code: failure.code as u32,
            site,
            origin: failure.origin,
            detail: u64::from(failure.site),
        });
    }

    /// The highest timeline value up to which everything is finished.
    pub fn finished(&self) -> u64 {
        let open = self.open.keys().next().copied();
        let first = match (open, self.window.first_number()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        first.map_or(self.accepted, |number| number - 1)
    }

    /// Requests accepted and not finished, an upper bound.
    pub fn in_flight(&self) -> u64 {
        self.accepted - self.finished()
    }

    /// Is there anything that a turn could move on?
    pub fn is_quiet(&self) -> bool {
        self.window.is_empty() && self.open.is_empty() && self.waiting.is_none()
    }
}

/// Decodes the private copy of a record.
pub fn parse(words: &[u64]) -> Parsed<'_> {
    if let Some(record) = record::elementwise_of(words) {
        return Parsed::Elementwise(record);
    }
    match record::decode(words) {
        Ok(record) => Parsed::Request(record.request),
        Err(fault) => Parsed::Fault(fault),
    }
}

/// Does the record name a constant by its hash?
pub fn is_bind(words: &[u64]) -> bool {
    words
        .first()
        .is_some_and(|head| (head >> 16) as u16 == record::opcode::BIND)
}

/// The handles that a record releases; what is no handle is left out.
pub fn releases(words: &[u64]) -> impl Iterator<Item = Handle> + '_ {
    record::releases_of(words)
        .iter()
        .filter_map(|&word| Handle::from_wire(word))
}

/// The code with which a session ends whose ring broke a rule.
pub fn fault_code(fault: &RingFault) -> Code {
    match fault {
        RingFault::TailJump { .. } | RingFault::TailBackwards { .. } => Code::TailJump,
        _ => Code::BadRecord,
    }
}
