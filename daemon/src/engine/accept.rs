//! One record accepted: from decoded words to a value, a view, a window entry, or a failure.

use tensord_shm::error::Code;
use tensord_shm::op::Meta;
use tensord_shm::record::{Request, attributes_of, output_of, site_of};

use super::Engine;
use crate::dispatch::constants::Ticket;
use crate::dispatch::transfer::{Bytes, bytes_of};
use crate::graph::Acceptance;
use crate::graph::value::Failure;
use crate::ingest::{CrossWait, Download, Hashing, Parsed, parse, releases};
use crate::session::Session;

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
        let parsed = parse(words);
        if let Parsed::Fault(fault) = &parsed
            && fault.code().fault() == tensord_shm::error::Fault::Client
        {
            self.freeze_with(place, fault.code(), fault.to_string());
            return;
        }
        let result = match &parsed {
            Parsed::Elementwise(record) => acceptance(session, place.1, number, site)
                .and_then(|mut a| a.elementwise(record))
                .map(|()| Accepted::Later),
            Parsed::Request(request) => self.request(place, request, words, (number, site), now_ns),
            Parsed::Fault(fault) => Err(Failure {
                code: fault.code(),
                origin: number,
                site,
            }),
        };
        let Some(session) = self.sessions[place.0].as_mut() else {
            return;
        };
        if let Err(failure) = result
            && let Ok(mut acceptance) = acceptance(session, place.1, number, site)
        {
            acceptance.poison(output_of(words), failure);
        }
        let mut released = Ok(());
        for handle in releases(words) {
            released = released.and(session.handles.release(handle));
        }
        match result {
            Ok(Accepted::Later) => {}
            // A release of nothing is the one thing that can go wrong with a record that only releases.
            Ok(Accepted::Done) => {
                let released = released.map_err(|code| Failure {
                    code,
                    origin: number,
                    site,
                });
                self.settle(place, number, site, released);
            }
            Err(failure) => self.settle(place, number, site, Err(failure)),
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
        let device = &mut self.device;
        let owner = (session.spec.tenant, &session.account.clone());
        let (out, value, ticket) = match request {
            Request::NoOp | Request::Release => return Ok(Accepted::Done),
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
            Request::Flush => {
                if let Some(queue) = session.queue(place.1) {
                    queue.demand = queue.demand.max(number);
                }
                return Ok(Accepted::Done);
            }
        };
        acceptance(session, place.1, number, site)?.bind(*out, value, None)?;
        Ok(finish_upload(session, place.1, (number, site), ticket))
    }
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
    (of, at, to): (
        tensord_shm::handle::Handle,
        u64,
        tensord_shm::record::Region,
    ),
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
    let mut acceptance = acceptance(session, queue, number, site)?;
    let binding = acceptance.operand(of)?.clone();
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
