//! The client's side of one queue of an engine in the same process: what a client library does, without a broker between.

use std::os::fd::AsFd;

use tensord_daemon::engine_process::{EngineCore, QueueEnds, Refusal, SessionId};
use tensord_shm::completion::{ErrorEntry, QueueState, Reader, Writer};
use tensord_shm::doorbell::must_ring;
use tensord_shm::handle::Handle;
use tensord_shm::record::{Encoder, Request, TooLong, Urgency};
use tensord_shm::ring::{Consumer, Full, Producer, SLOT_WORDS};
use tensord_shm::segment::{
    CompletionMap, CompletionMapMut, SegmentFault, SubmissionMap, SubmissionMapMut,
    create_completion, create_submission, seal_completion,
};

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WireError {
    #[error(transparent)]
    Segment(#[from] SegmentFault),
    #[error("the engine refuses the queue: {0}")]
    Refused(#[from] Refusal),
}

/// Why a request could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PushError {
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// A queue, seen from its client.
pub struct Wire {
    session: SessionId,
    queue: u32,
    producer: Producer,
    reader: Reader,
    submission: SubmissionMapMut,
    encoder: Encoder,
    rung_for: u64,
    /// The record written last, where that is wanted.
    last: Option<Vec<u64>>,
}

impl Wire {
    /// Makes the shared memory of a queue and gives the engine its ends.
    pub fn open(
        engine: &mut dyn EngineCore,
        session: SessionId,
        queue: u32,
        slot_count: u32,
    ) -> Result<Wire, WireError> {
        let submission = create_submission(slot_count)?;
        let completion = create_completion()?;
        let writable = CompletionMapMut::map(completion.as_fd())?;
        seal_completion(&completion)?;
        let map = SubmissionMap::map(submission.as_fd(), slot_count)?;
        let ends = QueueEnds {
            id: queue,
            consumer: Consumer::new(map.clone()),
            submission: map,
            completion: Writer::new(writable),
            notice: None,
        };
        engine.add_queue(session, ends)?;
        let own = SubmissionMapMut::map(submission.as_fd(), slot_count)?;
        Ok(Wire {
            session,
            queue,
            producer: Producer::new(own.clone()),
            reader: Reader::new(CompletionMap::map(completion.as_fd())?),
            submission: own,
            encoder: Encoder::default(),
            rung_for: 0,
            last: None,
        })
    }

    /// Writes a request, not yet to be seen by the engine; gives its timeline value.
    pub fn push(
        &mut self,
        request: &Request,
        releases: &[Handle],
        urgency: Option<Urgency>,
    ) -> Result<u64, PushError> {
        self.encoder.request(request, 0)?;
        for &handle in releases {
            if !self.encoder.release(handle) {
                return Err(TooLong.into());
            }
        }
        let words = self.encoder.finish(urgency);
        self.producer.push(words, self.reader.head())?;
        if let Some(last) = &mut self.last {
            words.clone_into(last);
        }
        Ok(self.producer.record_count())
    }

    /// Keeps each record that is written until the next one.
    pub fn keep_last(&mut self) {
        self.last.get_or_insert_default();
    }

    /// The record written last, if it is kept.
    pub fn last(&self) -> Option<&[u64]> {
        self.last.as_deref()
    }

    /// Writes a record as it is.
    pub fn push_words(&mut self, words: &[u64]) -> Result<u64, Full> {
        self.producer.push(words, self.reader.head())?;
        Ok(self.producer.record_count())
    }

    /// Writes words that are no request, with the length of a record or with none. They are left out where the ring is full.
    pub fn push_garbage(&mut self, mut words: [u64; SLOT_WORDS], frame: bool) {
        // The lowest byte states the length in slots.
        words[0] = words[0] & !0xff | u64::from(!frame);
        self.producer.observe_head(self.reader.head());
        if let Ok(mut slot) = self.producer.reserve(1) {
            slot.write(0, &words);
            slot.commit();
        }
    }

    /// Shows the engine what was written, and rings where it sleeps.
    pub fn publish(&mut self, engine: &mut dyn EngineCore) {
        if self.producer.publish() {
            self.ring(engine);
        }
    }

    /// Says that everything up to a value is waited for. Publish first.
    pub fn demand(&mut self, engine: &mut dyn EngineCore, value: u64) {
        self.reader.demand(&self.submission, value);
        self.ring(engine);
    }

    fn ring(&mut self, engine: &mut dyn EngineCore) {
        if must_ring(&self.reader, &mut self.rung_for) {
            engine.doorbell(self.session, self.queue);
        }
    }

    /// Timeline value of the record written last.
    pub fn written(&self) -> u64 {
        self.producer.record_count()
    }

    /// How far the engine is.
    pub fn timeline(&self) -> u64 {
        self.reader.timeline()
    }

    /// Slots up to here may be written again.
    pub fn head(&self) -> u64 {
        self.reader.head()
    }

    /// The oldest failure that was not taken yet.
    pub fn pop_error(&mut self) -> Option<ErrorEntry> {
        self.reader.pop_error(&self.submission)
    }

    /// Is there one?
    pub fn has_error(&self) -> bool {
        self.reader.has_error()
    }

    /// What became of the queue.
    pub fn state(&self) -> QueueState {
        self.reader.state()
    }
}
