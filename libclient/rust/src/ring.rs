//! The client's private half of one queue: records going out, failures coming in, names of tensors.
//!
//! Everything here happens under the queue's lock and never waits. What has to wait, or to talk to the broker, stands in
//! [`crate::lane`], which takes this lock for moments only.
//!
//! # Invariants
//! A handle is free for reuse only once the record that carries its release is in the ring. A tensor that another queue
//! uses is released only when that queue's timeline has passed the last use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tensord_shm::completion::{ErrorEntry, Reader};
use tensord_shm::control::{LimitReached, Resource};
use tensord_shm::doorbell::Doorbell;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::record::{Encoder, Line, Request, TooLong, Urgency, WORDS_MAX, opcode};
use tensord_shm::ring::{Full, Producer, SLOT_WORDS};
use tensord_shm::segment::{CompletionMap, SubmissionMapMut};

use crate::error::{Error, operation_name};
use crate::lane::Lane;
use crate::site::Site;
use crate::staging::Staged;
use crate::tensor::Spare;

/// Records after which the tail is published in any case. With fewer at first the engine begins sooner, but reads so close behind the
/// client that they take lines from each other: nothing is won.
const PUBLISH_EVERY: u32 = 16;
/// Pending releases that are worth a record of their own.
const RELEASES_MAX: usize = 64;
/// Failures remembered for whoever asks later; the oldest go first.
const FAILURES_MAX: usize = 4096;
/// Operation codes of the last records are remembered for messages. A power of two.
const TRAIL_LEN: usize = 4096;

/// Regions in transit above which finished ones are looked for.
const REGIONS_KEPT: usize = 4;

/// Tensors whose memory is kept for the next ones.
const SPARES_MAX: usize = 256;

/// A point of a queue's timeline, in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The epoch of the engine.
    pub epoch: u32,
    /// The timeline value.
    pub value: u64,
}

/// The two mapped segments of one queue in one epoch.
#[derive(Clone)]
pub(crate) struct Segments {
    pub submission: SubmissionMapMut,
    pub completion: CompletionMap,
    pub slot_count: u32,
    pub epoch: u32,
}

/// A use of a tensor by a queue that is not its own.
pub(crate) struct ForeignUse {
    pub reader: Reader,
    pub mark: Mark,
}

/// A failed request, remembered.
#[derive(Clone, Copy)]
struct Failure {
    entry: ErrorEntry,
    opcode: u16,
    reported: bool,
}

/// See the file's head.
pub(crate) struct Ring {
    pub segments: Segments,
    producer: Producer,
    pub reader: Reader,
    doorbell: Doorbell,
    pub epoch: u32,
    /// Why nothing goes out any more.
    pub closed: Option<Error>,
    /// Kept so that the fast path has no kilobyte to clear.
    pub encoder: Option<Box<Encoder>>,
    releases: Vec<Handle>,
    deferred: Vec<(Handle, Vec<ForeignUse>)>,
    free: Vec<Handle>,
    unpublished: u32,
    /// The highest value that was demanded.
    demanded: u64,
    trail: Box<[u16]>,
    failures: HashMap<u64, Failure>,
    failure_order: VecDeque<u64>,
    regions: VecDeque<(u64, Staged)>,
    /// How far this queue is ordered behind others, by their number.
    pub waited_for: HashMap<u32, u64>,
    /// Memory of tensors dropped, for those to come.
    spares: Vec<Spare>,
}

impl Ring {
    pub(crate) fn new(segments: Segments, doorbell: Doorbell) -> Ring {
        Ring {
            producer: Producer::new(segments.submission.clone()),
            reader: Reader::new(segments.completion.clone()),
            epoch: segments.epoch,
            segments,
            doorbell,
            closed: None,
            encoder: Some(Box::default()),
            releases: Vec::with_capacity(2 * RELEASES_MAX),
            deferred: Vec::new(),
            free: Vec::new(),
            unpublished: 0,
            demanded: 0,
            trail: vec![0; TRAIL_LEN].into_boxed_slice(),
            failures: HashMap::new(),
            failure_order: VecDeque::new(),
            regions: VecDeque::new(),
            waited_for: HashMap::new(),
            spares: Vec::new(),
        }
    }

    /// Goes on in a new epoch: an empty ring, no tensors, no failures.
    pub(crate) fn replace(&mut self, segments: Segments) {
        self.doorbell.begin_epoch();
        self.producer = Producer::new(segments.submission.clone());
        self.reader = Reader::new(segments.completion.clone());
        self.epoch = segments.epoch;
        self.segments = segments;
        self.free.append(&mut self.releases);
        self.free
            .extend(self.deferred.drain(..).map(|(handle, _)| handle));
        self.unpublished = 0;
        self.demanded = 0;
        self.failures.clear();
        self.failure_order.clear();
        self.regions.clear();
        self.waited_for.clear();
    }

    /// Value of the record written last.
    pub(crate) fn last(&self) -> Mark {
        Mark {
            epoch: self.epoch,
            value: self.producer.record_count(),
        }
    }

    // ------------------------------------------------------------------------------------------ names

    /// A name that was used before and is free again.
    #[inline]
    pub(crate) fn take_free(&mut self) -> Option<Handle> {
        let last = self.free.pop()?;
        Some(Handle {
            index: last.index,
            // Generation 0 is no handle; after four billion uses the count starts again.
            generation: last.generation.checked_add(1).unwrap_or(1),
        })
    }

    /// Gives back a name that no record has carried, or whose epoch is over.
    #[inline]
    pub(crate) fn give_free(&mut self, handle: Handle) {
        self.free.push(handle);
    }

    /// Adds names that were never used.
    pub(crate) fn add_fresh(&mut self, indices: std::ops::Range<u32>) {
        let fresh = indices.rev().map(|index| Handle {
            index,
            generation: 0,
        });
        self.free.extend(fresh);
    }

    /// Lets the name of a tensor go that other queues use, once these are done with it.
    pub(crate) fn release_after(&mut self, handle: Handle, epoch: u32, uses: Vec<ForeignUse>) {
        if epoch == self.epoch && self.closed.is_none() {
            self.deferred.push((handle, uses));
        } else {
            self.free.push(handle);
        }
    }

    /// Lets a tensor's name go with one of the next records. `at_once`: it holds so much that it should not wait for them.
    #[inline]
    pub(crate) fn release(&mut self, handle: Handle, epoch: u32, at_once: bool) {
        if epoch != self.epoch || self.closed.is_some() {
            self.free.push(handle);
            return;
        }
        self.releases.push(handle);
        if at_once || self.releases.len() >= RELEASES_MAX {
            // A full ring keeps them for later.
            if self.carry_releases().is_ok() && at_once {
                self.publish();
            }
        }
    }

    /// Writes records of their own for all pending releases.
    pub(crate) fn send_releases(&mut self) -> Result<(), Full> {
        self.settle_deferred();
        while !self.releases.is_empty() {
            self.carry_releases()?;
        }
        Ok(())
    }

    /// Keeps the memory of a tensor for the next one. True where spares have to go: there are too many, or nobody else holds their queue.
    #[inline]
    pub(crate) fn keep(&mut self, spare: Spare) -> bool {
        let last = self.is_last(spare.lane());
        self.spares.push(spare);
        last || self.spares.len() > SPARES_MAX
    }

    /// Memory for a tensor.
    #[inline]
    pub(crate) fn take_spare(&mut self) -> Option<Spare> {
        self.spares.pop()
    }

    /// Is this queue held by nothing but one holder and spares?
    #[inline]
    pub(crate) fn is_last(&self, lane: &Arc<Lane>) -> bool {
        Arc::strong_count(lane) <= self.spares.len() + 1
    }

    /// All spares, to be dropped once the ring is unlocked.
    pub(crate) fn take_spares(&mut self) -> Vec<Spare> {
        std::mem::take(&mut self.spares)
    }

    fn carry_releases(&mut self) -> Result<u64, Full> {
        let mut encoder = self.encoder.take().unwrap_or_default();
        encoder
            .request(&Request::Release, 0)
            .expect("a release has three words");
        let mut carried = 0;
        while carried < self.releases.len()
            && encoder.release(self.releases[self.releases.len() - 1 - carried])
        {
            carried += 1;
        }
        let slots = (WORDS_MAX - encoder.room()).div_ceil(SLOT_WORDS) as u32;
        let kept = self.releases.len() - carried;
        let value = self
            .make_sure(slots)
            .and_then(|()| self.write(encoder.finish(None), opcode::RELEASE));
        self.encoder = Some(encoder);
        if value.is_ok() {
            // Writing may have published, and publishing may have found more to release: behind these.
            self.free.extend(self.releases.drain(kept..kept + carried));
        }
        value
    }

    fn settle_deferred(&mut self) {
        let (releases, epoch) = (&mut self.releases, self.epoch);
        self.deferred.retain(|(handle, uses)| {
            let waits = uses
                .iter()
                .any(|used| used.mark.epoch == epoch && used.reader.timeline() < used.mark.value);
            if !waits {
                releases.push(*handle);
            }
            waits
        });
    }

    // ------------------------------------------------------------------------------------------ records

    /// Puts an encoded record into the ring, with as many pending releases as its last unit has room for. Gives its
    /// timeline value.
    #[inline]
    pub(crate) fn commit(
        &mut self,
        encoder: &mut Encoder,
        code: u16,
        urgency: Option<Urgency>,
    ) -> Result<u64, Full> {
        self.make_sure(((WORDS_MAX - 1 - encoder.room()).div_ceil(SLOT_WORDS)) as u32)?;
        for _ in 0..encoder.free_in_unit().min(self.releases.len()) {
            let Some(handle) = self.releases.pop() else {
                break;
            };
            if !encoder.release(handle) {
                self.releases.push(handle);
                break;
            }
            self.free.push(handle);
        }
        self.write(encoder.finish(urgency), code)
    }

    /// Puts a record of one slot into the ring, with as many pending releases as it has room for. Gives its timeline value.
    #[inline]
    pub(crate) fn commit_line(&mut self, mut line: Line, code: u16) -> Result<u64, Full> {
        self.make_sure(1)?;
        while let Some(&handle) = self.releases.last()
            && line.release(handle)
        {
            self.releases.pop();
            self.free.push(handle);
        }
        let mut slot = self.producer.reserve(1)?;
        slot.write(0, line.words());
        let value = slot.commit();
        self.note(value, code);
        Ok(value)
    }

    /// Makes sure of room for a record of so many slots.
    #[inline]
    fn make_sure(&mut self, slots: u32) -> Result<(), Full> {
        if !self.producer.has_plenty() {
            self.producer.observe_head(self.reader.head());
            self.producer.reserve(slots)?;
        }
        Ok(())
    }

    #[inline]
    fn write(&mut self, words: &[u64], code: u16) -> Result<u64, Full> {
        let slots = (words.len() / SLOT_WORDS) as u32;
        let mut slot = self.producer.reserve(slots)?;
        for (index, line) in words.chunks_exact(SLOT_WORDS).enumerate() {
            slot.write(index, line.try_into().expect("chunks of one slot"));
        }
        let value = slot.commit();
        self.note(value, code);
        Ok(value)
    }

    /// Remembers what was written, and shows it to the engine now and then.
    #[inline]
    fn note(&mut self, value: u64, code: u16) {
        self.trail[value as usize % TRAIL_LEN] = code;
        self.unpublished += 1;
        if self.unpublished >= PUBLISH_EVERY || self.reader.need_wakeup() {
            self.publish();
        }
    }

    /// Encodes and commits a request.
    pub(crate) fn push(
        &mut self,
        request: &Request,
        code: u16,
        site: Site,
    ) -> Result<Result<u64, Full>, TooLong> {
        let mut encoder = self.encoder.take().unwrap_or_default();
        let encoded = encoder.request(request, site.0);
        let value = encoded.map(|()| self.commit(&mut encoder, code, None));
        self.encoder = Some(encoder);
        value
    }

    /// Commits a flush: what stands before it is demanded, and wanted within so many microseconds.
    pub(crate) fn push_flush(&mut self, deadline_us: u64) -> Result<u64, Full> {
        let mut encoder = self.encoder.take().unwrap_or_default();
        let urgency = Urgency {
            deadline_us,
            ..Urgency::default()
        };
        let encoded = encoder.request(&Request::Flush, Site::UNKNOWN.0);
        debug_assert!(encoded.is_ok(), "a flush has no operands");
        let value = self.commit(&mut encoder, opcode::FLUSH, Some(urgency));
        self.encoder = Some(encoder);
        value
    }

    /// Shows the engine everything written so far.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.unpublished = 0;
        if self.producer.publish() {
            self.doorbell.ring_if_parked(&self.reader);
        }
        if self.reader.has_error() {
            self.collect();
        }
        if !self.deferred.is_empty() {
            self.settle_deferred();
        }
    }

    /// Publishes everything, releases included, and demands what stands before `value`.
    pub(crate) fn demand(&mut self, value: u64) -> Result<(), Full> {
        if self.reader.timeline() < value {
            self.send_releases()?;
            self.publish();
            self.demanded = self.demanded.max(value);
            self.doorbell
                .demand(&self.reader, &self.segments.submission, self.demanded);
        } else {
            self.publish();
        }
        Ok(())
    }

    /// The head to wait for when the ring is full: a quarter of the ring free, and room for any record.
    pub(crate) fn head_wanted(&self) -> u64 {
        let slots = u64::from(self.segments.slot_count);
        self.producer
            .position()
            .saturating_sub((slots / 4 * 3).min(slots - 31))
    }

    // ------------------------------------------------------------------------------------------ staging

    /// Keeps a region until the timeline has passed the request that names it.
    pub(crate) fn keep_region(&mut self, value: u64, region: Staged) {
        // Memory that was just used is still in a cache: look for finished ones before there are many.
        if self.regions.len() >= REGIONS_KEPT {
            self.reclaim_regions();
        }
        self.regions.push_back((value, region));
    }

    /// Lets regions go whose requests are over; gives the value of the oldest that is still in use.
    pub(crate) fn reclaim_regions(&mut self) -> Option<u64> {
        let timeline = self.reader.timeline();
        while self
            .regions
            .front()
            .is_some_and(|(value, _)| *value <= timeline)
        {
            self.regions.pop_front();
        }
        self.regions.front().map(|(value, _)| *value)
    }

    // ------------------------------------------------------------------------------------------ failures

    /// Takes the failures that the engine has written, so that its ring of them never stays full.
    #[cold]
    pub(crate) fn collect(&mut self) {
        while let Some(entry) = self.reader.pop_error(&self.segments.submission) {
            if self.failure_order.len() >= FAILURES_MAX
                && let Some(oldest) = self.failure_order.pop_front()
            {
                self.failures.remove(&oldest);
            }
            let opcode = self.trail[entry.value as usize % TRAIL_LEN];
            self.failure_order.push_back(entry.value);
            self.failures.insert(
                entry.value,
                Failure {
                    entry,
                    opcode,
                    reported: false,
                },
            );
        }
    }

    /// What became of a request that the timeline has passed.
    #[inline]
    pub(crate) fn outcome(&mut self, value: u64) -> Result<(), Error> {
        if self.reader.has_error() {
            self.collect();
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        self.failure_of(value).map_or(Ok(()), Err)
    }

    fn failure_of(&mut self, value: u64) -> Option<Error> {
        let failure = self.failures.get_mut(&value)?;
        failure.reported = true;
        let failure = *failure;
        let origin = failure.entry.origin;
        let mut first = failure;
        if origin != 0
            && origin != value
            && let Some(earlier) = self.failures.get_mut(&origin)
            // The origin may be a request of another queue, whose timeline has the same numbers.
            && u64::from(earlier.entry.site) == failure.entry.detail
        {
            earlier.reported = true;
            first = *earlier;
        }
        Some(explain(&failure, &first))
    }

    /// The first failure up to `value` that nobody was told of; from then on all of them count as told.
    pub(crate) fn first_unreported(&mut self, value: u64) -> Option<Error> {
        // Who was told of an origin was told of all that came of it.
        let told = |at: &u64| self.failures.get(at).is_none_or(|f| f.reported);
        let first = self
            .failure_order
            .iter()
            .copied()
            .filter(|at| *at <= value && !told(at))
            .find(|at| {
                let origin = self.failures[at].entry.origin;
                origin == *at || !self.failures.contains_key(&origin) || !told(&origin)
            })?;
        let error = self.failure_of(first);
        for (at, failure) in &mut self.failures {
            failure.reported |= *at <= value;
        }
        error
    }

    /// Forgets a failure that was expected.
    pub(crate) fn forgive(&mut self, value: u64) {
        if self.failures.remove(&value).is_some() {
            self.failure_order.retain(|at| *at != value);
        }
    }
}

fn explain(failure: &Failure, first: &Failure) -> Error {
    let code = Code::from_wire(first.entry.code).unwrap_or(Code::Internal);
    let name = operation_name(first.opcode);
    let reached = match code {
        Code::OutOfMemory | Code::Limit => LimitReached::from_word(first.entry.detail),
        _ => None,
    };
    let why = match code {
        Code::OutOfMemory => {
            "device memory was not to be had: release tensors, or raise the limit of this session"
        }
        Code::Limit => {
            "a limit of this session was reached: wait for earlier requests, or release tensors"
        }
        Code::Cancelled => "it was cancelled before it ran",
        Code::NotHeld => "the daemon holds no constant of this content: upload it again",
        Code::WaitTimeout => {
            "the other queue did not get there in time: do queues wait for each other in a circle?"
        }
        Code::DeviceFault => "the device failed while it ran",
        Code::Draining => "the daemon is ending and takes nothing new",
        Code::Poisoned => "one of its operands carries an earlier failure",
        Code::BadHandle => "a tensor that it names is not known to the daemon",
        _ => code.name(),
    };
    let mut message = match reached {
        Some(reached) => format!("{name} failed: {reached}; {}", advice(&reached)),
        None => format!("{name} failed: {why}"),
    };
    if first.entry.value != failure.entry.value {
        message.push_str("; ");
        message.push_str(operation_name(failure.opcode));
        message.push_str(" needed its result");
    }
    // What only inherited a failure has the position of its origin beside it.
    let site = match code {
        Code::Poisoned => u32::try_from(first.entry.detail).unwrap_or(first.entry.site),
        _ => first.entry.site,
    };
    Error::new(code, message).of_operation(name).at(Site(site))
}

/// What to do where a limit stands in the way.
fn advice(reached: &LimitReached) -> &'static str {
    match reached.resource {
        Resource::Requests => {
            "wait for earlier requests, or ask an administrator for more (tensorctl limit)"
        }
        _ => "release tensors, or ask an administrator for more (tensorctl limit)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use tensord_shm::completion::Writer;
    use tensord_shm::record::releases_of;
    use tensord_shm::ring::{Consumer, RecordBuf};
    use tensord_shm::segment::{
        CompletionMapMut, SubmissionMap, create_completion, create_submission, seal_completion,
    };

    const SLOTS: u32 = 64;

    /// A ring with the engine's ends.
    fn ring() -> (Ring, Consumer, Writer) {
        let submission = create_submission(SLOTS).expect("a segment");
        let completion = create_completion().expect("a segment");
        let writable = CompletionMapMut::map(completion.as_fd()).expect("a mapping");
        seal_completion(&completion).expect("seals");
        let map = SubmissionMap::map(submission.as_fd(), SLOTS).expect("a mapping");
        let segments = Segments {
            submission: SubmissionMapMut::map(submission.as_fd(), SLOTS).expect("a mapping"),
            completion: CompletionMap::map(completion.as_fd()).expect("a mapping"),
            slot_count: SLOTS,
            epoch: 1,
        };
        let bell = nix::sys::eventfd::EventFd::new().expect("an eventfd");
        let ring = Ring::new(segments, Doorbell::new(bell.into()));
        (ring, Consumer::new(map), Writer::new(writable))
    }

    /// The handles that all published records release.
    fn released(consumer: &mut Consumer) -> Vec<Handle> {
        let (mut all, mut record) = (Vec::new(), RecordBuf::new());
        consumer.refresh().expect("a sound ring");
        while consumer.pop(&mut record).expect("a sound ring").is_some() {
            let words = releases_of(record.words()).iter();
            all.extend(words.filter_map(|&word| Handle::from_wire(word)));
        }
        all
    }

    /// A parked engine is woken by the first record, whose publication finds what other queues are done with.
    #[test]
    fn a_release_that_becomes_due_while_others_are_written_is_carried_later_and_once() {
        let (mut ring, mut consumer, mut engine) = ring();
        let handle = |index| Handle {
            index,
            generation: 1,
        };
        let used = ForeignUse {
            reader: Reader::new(ring.segments.completion.clone()),
            mark: Mark { epoch: 1, value: 0 },
        };
        ring.release(handle(1), 1, false);
        ring.release(handle(2), 1, false);
        engine.set_need_wakeup(true);
        // Not yet settled when the others are gathered.
        ring.deferred.push((handle(3), vec![used]));
        ring.carry_releases().expect("room");
        ring.send_releases().expect("room");
        ring.publish();
        let mut have = released(&mut consumer);
        have.sort_by_key(|handle| handle.index);
        assert_eq!(have, [handle(1), handle(2), handle(3)]);
        assert_eq!(ring.free.len(), 3, "each name is free once");
    }
}
