//! One record accepted: from decoded words to a value, a view, a window entry, or a failure.

use tensord_shm::control::Resource;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::op::{Meta, Operand};
use tensord_shm::record::{
    Region, Request, attributes_of, decode, opcode, output_of, released_by, site_of,
};

use super::Engine;
use crate::dispatch::constants::Ticket;
use crate::dispatch::transfer::{Bytes, bytes_of};
use crate::graph::value::Failure;
use crate::graph::{Acceptance, trace};
use crate::ingest::{CrossWait, Download, Hashing, Queue};
use crate::session::Session;
use crate::stages::Stage;

/// Longest wait of one queue for another.
const CROSS_WAIT_NS_MAX: u64 = 60_000_000_000;

/// Whether a request is over once it is accepted.
enum Accepted {
    /// It is.
    Done,
    /// Its outcome comes later: the window, a download or a wait has it.
    Later,
}

impl Engine {
    /// Accepts one record: afterwards it has its outcome, or something that will give it one.
    pub(super) fn accept(&mut self, place: (usize, usize), words: &[u64], now_ns: u64) {
        let site = site_of(words);
        let Some(session) = self.sessions[place.0].as_mut() else {
            return;
        };
        session.accepted += 1;
        self.counters.requests_accepted += 1;
        let Some(number) = session.queue(place.1).map(|queue| queue.accepted) else {
            return;
        };
        if self.is_over_requests(place, words) {
            return self.refuse_request(place, words, (number, site));
        }
        match self.trace(place, words, (number, site)) {
            trace::Accepted::Computed => return,
            trace::Accepted::Viewed => return self.settle(place, number, site, Ok(())),
            trace::Accepted::Strange => {}
        }
        let record = decode(words);
        let deadline_us = record.as_ref().ok().and_then(|record| record.urgency);
        let deadline_us = deadline_us.map_or(0, |urgency| urgency.deadline_us);
        let request = record.map(|record| record.request);
        if let Err(fault) = &request
            && fault.code().fault() == tensord_shm::error::Fault::Client
        {
            self.freeze_with(place, fault.code(), fault.to_string());
            return;
        }
        self.untrace(place, request.as_ref().ok(), words);
        let result = match &request {
            Ok(Request::Flush) => {
                self.flush(place, number, deadline_us, now_ns);
                Ok(Accepted::Done)
            }
            Ok(request) => self.request(place, request, words, (number, site), now_ns),
            Err(fault) => Err(Failure {
                code: fault.code(),
                origin: number,
                site,
            }),
        };
        self.enter(Stage::Graph);
        let Some(session) = self.sessions[place.0].as_mut() else {
            return;
        };
        if let Err(failure) = result
            && let Ok(mut acceptance) = acceptance(session, place.1, number, site)
        {
            acceptance.poison(output_of(words), failure);
        }
        if matches!(&result, Err(failure) if failure.code == Code::Limit)
            && session.handles.is_full()
        {
            // Said now: what the record lets go may make room.
            let (_, over) = session.account.room(Resource::Handles);
            session.account.refuse(over);
        }
        let mut released = Ok(());
        for handle in released_by(words) {
            released = released.and(session.handles.release(handle));
        }
        match result {
            Ok(Accepted::Later) => {}
            Ok(Accepted::Done) => {
                let outcome = match &request {
                    // A release of nothing is the one thing that can go wrong with a record that only releases.
                    Ok(Request::Release) => released.map_err(|code| Failure {
                        code,
                        origin: number,
                        site,
                    }),
                    // What another record did stays done.
                    _ => Ok(()),
                };
                self.settle(place, number, site, outcome);
            }
            Err(failure) => self.settle(place, number, site, Err(failure)),
        }
    }

    /// Would this request be one too many in flight? What is over at once, or lets something go, never is.
    fn is_over_requests(&mut self, place: (usize, usize), words: &[u64]) -> bool {
        let over = self.sessions[place.0]
            .as_ref()
            .is_some_and(|session| session.in_flight() > session.in_flight_max);
        over && stays(words)
    }

    /// Fails a request that would be one too many in flight.
    #[cold]
    fn refuse_request(&mut self, place: (usize, usize), words: &[u64], (number, site): (u64, u32)) {
        let request = decode(words).map(|record| record.request);
        if let Err(fault) = &request
            && fault.code().fault() == tensord_shm::error::Fault::Client
        {
            return self.freeze_with(place, fault.code(), fault.to_string());
        }
        self.untrace(place, request.as_ref().ok(), words);
        self.enter(Stage::Graph);
        let Some(session) = self.sessions[place.0].as_mut() else {
            return;
        };
        // Its own charge is in the account only after the turn.
        let (_, over) = session.account.room(Resource::Requests);
        let failure = Failure {
            code: session.account.refuse(over),
            origin: number,
            site,
        };
        if let Ok(mut acceptance) = acceptance(session, place.1, number, site) {
            acceptance.poison(output_of(words), failure);
        }
        for handle in released_by(words) {
            // What it lets go goes all the same; a handle that was none changes nothing.
            let _ = session.handles.release(handle);
        }
        self.settle(place, number, site, Err(failure));
    }

    /// Everything before is demanded, and late after so many microseconds, if any.
    fn flush(&mut self, place: (usize, usize), number: u64, deadline_us: u64, now_ns: u64) {
        let Some(queue) = self.queue(place) else {
            return;
        };
        match deadline_us {
            0 => queue.demand = queue.demand.max(number),
            us => queue.want_by(number, now_ns.saturating_add(us.saturating_mul(1000))),
        }
    }

    /// Offers the record to the queue's trace.
    fn trace(
        &mut self,
        place: (usize, usize),
        words: &[u64],
        about: (u64, u32),
    ) -> trace::Accepted {
        if let Some(Session {
            handles,
            queues,
            spec,
            ..
        }) = self.sessions[place.0].as_mut()
            && spec.fuse
            && let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut)
            && queue.window.is_empty()
        {
            return queue
                .trace
                .accept(&mut self.branches, handles, words, about);
        }
        trace::Accepted::Strange
    }

    /// Prepares traces for a record that they do not take: what it names becomes real, operations before it become nodes, and what
    /// it releases is noted.
    fn untrace(&mut self, place: (usize, usize), request: Option<&Request>, words: &[u64]) {
        if let Some(Request::Compute(_) | Request::Cancel { .. }) = request {
            self.expand(place);
        }
        let operands: &[Operand<Handle>] = match request {
            Some(Request::Compute(compute)) => compute.operands(),
            Some(Request::Download { of, .. }) => &[Operand::Tensor(*of)],
            _ => &[],
        };
        let operands = operands.iter().filter_map(|operand| match operand {
            Operand::Tensor(handle) => Some(*handle),
            Operand::Immediate(..) => None,
        });
        for handle in operands.chain(released_by(words)) {
            self.expand_foreign(place, handle);
        }
        let Some(Session {
            handles, queues, ..
        }) = self.sessions[place.0].as_mut()
        else {
            return;
        };
        let Some(queue) = queues.get_mut(place.1).and_then(Option::as_mut) else {
            return;
        };
        let trace = &mut queue.trace;
        if let Some(Request::Download { of, .. }) = request {
            trace.export(&mut self.branches, handles, *of, place.1 as u32);
        }
        trace.pass(&mut self.branches, handles, words);
    }

    /// Makes nodes of the trace of another queue that has promised a handle.
    fn expand_foreign(&mut self, place: (usize, usize), handle: Handle) {
        let Some(session) = self.sessions[place.0].as_ref() else {
            return;
        };
        let Some(mark) = session.handles.mark(handle) else {
            return;
        };
        let made = |queue: &Option<Queue>| queue.as_ref().is_some_and(|q| q.trace.made(mark));
        let maker = session.queues.iter().position(made);
        if let Some(maker) = maker.filter(|maker| *maker != place.1) {
            self.expand((place.0, maker));
        }
    }

    fn request(
        &mut self,
        place: (usize, usize),
        request: &Request,
        words: &[u64],
        (number, site): (u64, u32),
        now_ns: u64,
    ) -> Result<Accepted, Failure> {
        let fail = |code: Code| Failure {
            code,
            origin: number,
            site,
        };
        let Some(session) = self.sessions[place.0].as_mut() else {
            return Err(fail(Code::Internal));
        };
        if brings_bytes(request) {
            self.stages.enter(Stage::Transfer, &*self.clock);
        }
        let device = &mut self.device;
        let owner = (session.spec.tenant, &session.account.clone());
        let (out, value, ticket) = match request {
            // A flush is over when it is accepted, see `Engine::flush`.
            Request::NoOp | Request::Release | Request::Flush => return Ok(Accepted::Done),
            Request::Compute(compute) => {
                acceptance(session, place.1, number, site)?
                    .compute(compute, attributes_of(words))?;
                // A view is over at once; anything else is in the window under this number.
                let last = session
                    .queue(place.1)
                    .is_some_and(|queue| queue.window.last_number() == Some(number));
                return Ok(if last {
                    Accepted::Later
                } else {
                    Accepted::Done
                });
            }
            Request::UploadInline {
                out,
                meta,
                constant,
                words,
            } => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let len = bytes_of(meta) as usize;
                let bytes = bytes
                    .get(..len)
                    .filter(|_| words.len() == len.div_ceil(8))
                    .ok_or(fail(Code::Shape))?;
                let (value, ticket) = device
                    .upload(owner, *meta, *constant, &Bytes::Inline(bytes))
                    .map_err(fail)?;
                (out, value, ticket)
            }
            Request::Upload {
                out,
                meta,
                constant,
                from,
            } => {
                let map = session
                    .staging
                    .get(from.arena as usize)
                    .ok_or(fail(Code::Staging))?;
                let (value, ticket) = device
                    .upload(owner, *meta, *constant, &Bytes::Staged(map, *from))
                    .map_err(fail)?;
                (out, value, ticket)
            }
            Request::UploadBegin {
                out,
                meta,
                constant,
            } => {
                let value = device.begin(owner, *meta, *constant).map_err(fail)?;
                (out, value, None)
            }
            Request::UploadWrite { to, at, from } => {
                let map = session
                    .staging
                    .get(from.arena as usize)
                    .ok_or(fail(Code::Staging))?;
                let value = &session.handles.get(*to).map_err(fail)?.value;
                device
                    .write(value, *at, &Bytes::Staged(map, *from))
                    .map_err(fail)?;
                return Ok(Accepted::Done);
            }
            Request::UploadSeal { to } => {
                let value = session.handles.get(*to).map_err(fail)?.value.clone();
                let ticket = device.seal(owner, &value).map_err(fail)?;
                return Ok(finish_upload(session, place.1, (number, site), ticket));
            }
            Request::Bind { out, meta, hash } => {
                let value = device.bind(owner, *meta, *hash).map_err(fail)?;
                (out, value, None)
            }
            Request::Download { of, at, to } => {
                return download(session, place.1, (number, site), (*of, *at, *to))
                    .map(|()| Accepted::Later);
            }
            Request::WaitQueue {
                queue: other,
                value,
                timeout_us,
            } => {
                let Some(queue) = session.queue(place.1) else {
                    return Err(fail(Code::Internal));
                };
                let until_ns = now_ns + timeout_us.saturating_mul(1000).min(CROSS_WAIT_NS_MAX);
                queue.hold_open(number);
                queue.waiting = Some(CrossWait {
                    number,
                    site,
                    queue: *other,
                    value: *value,
                    until_ns,
                });
                return Ok(Accepted::Later);
            }
            Request::Cancel { first, last } => {
                if let Some(queue) = session.queue(place.1) {
                    queue.window.cancel(*first, *last);
                }
                return Ok(Accepted::Done);
            }
        };
        acceptance(session, place.1, number, site)?.bind(*out, value, None)?;
        Ok(finish_upload(session, place.1, (number, site), ticket))
    }
}

/// May the request stay in flight for a while?
fn stays(words: &[u64]) -> bool {
    let opcode = words.first().map_or(0, |head| (head >> 16) as u16);
    !matches!(
        opcode,
        opcode::NOOP | opcode::RELEASE | opcode::CANCEL | opcode::FLUSH
    )
}

/// Does it copy a value into device memory?
fn brings_bytes(request: &Request) -> bool {
    matches!(
        request,
        Request::UploadInline { .. }
            | Request::Upload { .. }
            | Request::UploadWrite { .. }
            | Request::UploadSeal { .. }
    )
}

/// An upload is over at once, that of a constant when its content is safe.
fn finish_upload(
    session: &mut Session,
    queue: usize,
    (number, site): (u64, u32),
    ticket: Option<Ticket>,
) -> Accepted {
    match (ticket, session.queue(queue)) {
        (Some(ticket), Some(queue)) => {
            queue.hold_open(number);
            queue.hashing.push_back(Hashing {
                number,
                site,
                ticket,
            });
            Accepted::Later
        }
        _ => Accepted::Done,
    }
}

/// What the graph may touch of a session while it accepts one request.
fn acceptance(
    session: &mut Session,
    queue: usize,
    number: u64,
    site: u32,
) -> Result<Acceptance<'_>, Failure> {
    let Session {
        handles, queues, ..
    } = session;
    match queues.get_mut(queue).and_then(Option::as_mut) {
        Some(own) => Ok(Acceptance {
            handles,
            window: &mut own.window,
            queue: queue as u32,
            number,
            site,
        }),
        None => Err(Failure {
            code: Code::Internal,
            origin: number,
            site,
        }),
    }
}

fn download(
    session: &mut Session,
    queue: usize,
    (number, site): (u64, u32),
    (of, at, to): (Handle, u64, Region),
) -> Result<(), Failure> {
    let fail = |code: Code| Failure {
        code,
        origin: number,
        site,
    };
    let map = session
        .staging
        .get(to.arena as usize)
        .ok_or(fail(Code::Staging))?;
    map.check(to.offset, to.len)
        .map_err(|_| fail(Code::Staging))?;
    let binding = acceptance(session, queue, number, site)?
        .operand(of)?
        .clone();
    let meta: Meta = binding.meta();
    let size = bytes_of(&meta);
    if at > size || to.len > size - at {
        return Err(fail(Code::Attribute));
    }
    let layout = binding.layout();
    let (value, first) = match layout.is_dense() {
        true => (
            binding.value,
            layout.offset as u64 * meta.dtype.size() as u64,
        ),
        false => {
            if let Some(own) = session.queues.get_mut(queue).and_then(Option::as_mut) {
                // The copy comes after them.
                own.trace
                    .expand(&mut session.handles, &mut own.window, queue as u32);
            }
            let mut acceptance = acceptance(session, queue, number, site)?;
            let copy = acceptance.copy(binding.value, binding.view);
            acceptance.window.uncount_last();
            (copy, 0)
        }
    };
    value.add_use();
    let Some(queue) = session.queue(queue) else {
        return Err(fail(Code::Internal));
    };
    queue.hold_open(number);
    queue.demand = queue.demand.max(number);
    queue.downloads.push_back(Download {
        number,
        site,
        value,
        at: first + at,
        to,
    });
    Ok(())
}
