//! The submission ring: one client writes records, one engine copies each of them out once.
//!
//! Positions are slots of 64 bytes, counted from the start of the ring's life and never wrapped; the place in memory is
//! the position modulo the slot count. A record is a multiple of a slot, at most sixteen, says its own length, and never
//! wraps: a padding record fills the end. What a record means is not known here.
//!
//! # Invariants
//! The consumer believes nothing: its position and the slot count are private, the tail is read once for each batch and
//! checked against them, every length is checked before it is used, and each pass does work bounded by the slot count.
//! The producer never writes a slot that the engine has not given back through `head`.

use crate::CHECKED;
use crate::segment::{SubmissionMap, SubmissionMapMut, submission_word as word};
use crate::sync::{LINE_WORDS, Line, Ordering, Words};

/// Words of 64 bits in a slot.
pub const SLOT_WORDS: usize = LINE_WORDS;
/// Slots of the longest record.
pub const RECORD_SLOTS_MAX: u32 = 16;
/// Words of the longest record.
pub const RECORD_WORDS_MAX: usize = RECORD_SLOTS_MAX as usize * SLOT_WORDS;
/// The opcode of padding, which does not count on the timeline.
pub const OPCODE_PADDING: u16 = 0;

/// Word 0 of a record: length in slots, flags, opcode, site.
#[inline]
pub const fn record_header(slots: u8, flags: u8, opcode: u16, site: u32) -> u64 {
    slots as u64 | (flags as u64) << 8 | (opcode as u64) << 16 | (site as u64) << 32
}

/// The length in slots that word 0 states.
#[inline]
const fn stated_slots(header: u64) -> u32 {
    (header & 0xff) as u32
}

/// The opcode that word 0 states.
#[inline]
const fn stated_opcode(header: u64) -> u16 {
    (header >> 16) as u16
}

/// The ring has no room. Publish, then wait for the timeline or the head to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the submission ring has no room for {slots} more slots")]
pub struct Full {
    /// Slots that were asked for.
    pub slots: u32,
}

/// How a client broke the rules of the ring. The session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// More is published than the ring holds.
    #[error("tail {tail} is {} slots beyond head {head}; the ring has {slot_count}", .tail.wrapping_sub(*.head))]
    TailJump {
        /// The tail read.
        tail: u64,
        /// The consumer's position.
        head: u64,
        /// Slots of the ring.
        slot_count: u32,
    },
    /// What was published was taken back.
    #[error("tail {tail} after tail {previous}")]
    TailBackwards {
        /// The tail read.
        tail: u64,
        /// The tail of the batch before.
        previous: u64,
    },
    /// A length of nothing, or above the longest record.
    #[error("record at {position} states {slots} slots; a record has 1 to {RECORD_SLOTS_MAX}")]
    BadLength {
        /// Position of the record.
        position: u64,
        /// Its stated length.
        slots: u32,
    },
    /// A record that is not wholly published.
    #[error("record at {position} states {slots} slots; {published} are published")]
    Unpublished {
        /// Position of the record.
        position: u64,
        /// Its stated length.
        slots: u32,
        /// Slots between it and the tail.
        published: u64,
    },
    /// A record that runs over the end of the ring.
    #[error("record at slot {slot} states {slots} slots and wraps; the ring has {slot_count}")]
    Wraps {
        /// Its slot.
        slot: u32,
        /// Its stated length.
        slots: u32,
        /// Slots of the ring.
        slot_count: u32,
    },
    /// Padding that does not fill the end of the ring.
    #[error("padding at slot {slot} of {slots} slots does not end the ring of {slot_count}")]
    BadPadding {
        /// Its slot.
        slot: u32,
        /// Its stated length.
        slots: u32,
        /// Slots of the ring.
        slot_count: u32,
    },
    /// The client says it has read failures that were never written, or takes back what it had read.
    #[error("errors_read {read} is not between {previous} and errors_written {written}")]
    ErrorsRead {
        /// The client's index.
        read: u64,
        /// The index it had stated before.
        previous: u64,
        /// The engine's index.
        written: u64,
    },
}

/// The client's end.
pub struct Producer {
    words: Words,
    slot_count: u32,
    /// Where the next record goes.
    position: u64,
    /// The tail last written.
    published: u64,
    /// The engine's head when last looked at. Only ever behind the truth.
    head: u64,
    /// Records written, padding left out: the timeline value of the last one.
    record_count: u64,
}

/// A record being written in place. Dropped without `commit`, it never was.
pub struct Slot<'a> {
    lines: &'a [Line],
    position: &'a mut u64,
    record_count: &'a mut u64,
}

impl Slot<'_> {
    /// Writes slot `index` of the record.
    #[inline(always)]
    pub fn write(&mut self, index: usize, words: &[u64; SLOT_WORDS]) {
        let line = &self.lines[index];
        for (to, from) in line.iter().zip(words) {
            // SYNC: made visible by the Release of `Producer::publish`.
            to.store(*from, Ordering::Relaxed);
        }
    }

    /// Writes word `index` of the record.
    #[inline(always)]
    pub fn set(&mut self, index: usize, word: u64) {
        // SYNC: made visible by the Release of `Producer::publish`.
        self.lines[index / SLOT_WORDS][index % SLOT_WORDS].store(word, Ordering::Relaxed);
    }

    /// Makes the record part of the ring, to be published with the next tail. Word 0 must state its length. Returns
    /// the timeline value that it will have.
    #[inline(always)]
    pub fn commit(self) -> u64 {
        *self.position += self.lines.len() as u64;
        *self.record_count += 1;
        *self.record_count
    }
}

/// Slots between the one that is written and the one that is asked for: some ten records are written while a line
/// comes from another core.
const PREFETCH_AHEAD: u64 = 12;

/// Slots between the one that is read and the one that is asked for. Only what is published: a line that is still being written
/// would be taken from its writer.
const PREFETCH_BEHIND: u64 = 3;

impl Producer {
    /// Begins a ring that nobody has written to. A ring has one producer in its life.
    pub fn new(map: SubmissionMapMut) -> Self {
        Self {
            words: map.words,
            slot_count: map.slot_count,
            position: 0,
            published: 0,
            head: 0,
            record_count: 0,
        }
    }

    /// Learns how far the engine has come. A head that goes back or beyond what was written is ignored.
    #[inline]
    pub fn observe_head(&mut self, head: u64) {
        if head > self.head && head <= self.position {
            self.head = head;
        }
    }

    /// Is there room for any record, as far as the head last observed tells? Cheaper than asking for it.
    #[inline]
    pub fn has_plenty(&self) -> bool {
        // Padding, and the record behind it.
        self.has_room(2 * RECORD_SLOTS_MAX)
    }

    /// Room for a record of `slots` slots (1 to 16), as far as the head last observed tells.
    #[inline]
    pub fn reserve(&mut self, slots: u32) -> Result<Slot<'_>, Full> {
        debug_assert!(
            (1..=RECORD_SLOTS_MAX).contains(&slots),
            "a record has 1 to 16 slots"
        );
        let mut slot = self.slot_of(self.position);
        let rest = self.slot_count - slot;
        if slots > rest {
            self.pad(slot, rest)?;
            slot = 0;
        }
        if !self.has_room(slots) {
            return Err(Full { slots });
        }
        let ahead = self.slot_of(self.position + PREFETCH_AHEAD);
        self.words.prefetch_for_write(ahead as usize);
        Ok(Slot {
            lines: self.words.lines(slot as usize, slots as usize),
            position: &mut self.position,
            record_count: &mut self.record_count,
        })
    }

    /// Adds a whole record, whose word 0 states its length; `head` is the engine's, used when the ring looks full. Does
    /// not publish. Reading the engine's word for each record costs a cache line: pass 0, and on `Full` publish, call
    /// `observe_head` and try again.
    #[inline]
    pub fn push(&mut self, words: &[u64], head: u64) -> Result<(), Full> {
        let slots = words.len() / SLOT_WORDS;
        debug_assert!(words.len().is_multiple_of(SLOT_WORDS) && slots as u64 == (words[0] & 0xff));
        debug_assert!(
            stated_opcode(words[0]) != OPCODE_PADDING,
            "padding is the ring's own"
        );
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        if !self.has_room(slots.saturating_add(RECORD_SLOTS_MAX)) {
            self.observe_head(head);
        }
        let mut slot = self.reserve(slots)?;
        for (index, line) in words.chunks_exact(SLOT_WORDS).enumerate() {
            slot.write(
                index,
                line.try_into()
                    .expect("chunks_exact gives chunks of this size"),
            );
        }
        slot.commit();
        Ok(())
    }

    /// Shows the engine everything written so far; true if that was anything new.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.position {
            return false;
        }
        // For counting what an ended engine lost; nothing is ordered by it and no engine reads it.
        self.words
            .header64(word::RECORDS)
            .store(self.record_count, Ordering::Relaxed);
        // SYNC: Release pairs with the Acquire in `Consumer::refresh`: whoever sees the tail sees the records. The
        // fence that parking needs is in `Doorbell::ring_if_parked`.
        self.words
            .header64(word::TAIL)
            .store(self.position, Ordering::Release);
        self.published = self.position;
        true
    }

    /// Slots written and not yet published.
    #[inline]
    pub fn unpublished(&self) -> u64 {
        self.position - self.published
    }

    /// The timeline value of the record last written.
    #[inline]
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// Where the next record goes, in slots.
    pub fn position(&self) -> u64 {
        self.position
    }

    #[inline]
    fn slot_of(&self, position: u64) -> u32 {
        (position & u64::from(self.slot_count - 1)) as u32
    }

    #[inline]
    fn has_room(&self, slots: u32) -> bool {
        self.position + u64::from(slots) - self.head <= u64::from(self.slot_count)
    }

    /// Fills the end of the ring. Stays done if the record after it finds no room.
    #[cold]
    fn pad(&mut self, slot: u32, rest: u32) -> Result<(), Full> {
        if !self.has_room(rest) {
            return Err(Full { slots: rest });
        }
        let header = record_header(
            u8::try_from(rest).expect("less than a record"),
            0,
            OPCODE_PADDING,
            0,
        );
        // SYNC: made visible by the Release of `publish`.
        self.words.lines(slot as usize, 1)[0][0].store(header, Ordering::Relaxed);
        self.position += u64::from(rest);
        Ok(())
    }
}

/// A private copy of one record.
#[derive(Clone)]
pub struct RecordBuf {
    words: [u64; RECORD_WORDS_MAX],
    len: usize,
}

impl Default for RecordBuf {
    fn default() -> Self {
        Self {
            words: [0; RECORD_WORDS_MAX],
            len: 0,
        }
    }
}

impl RecordBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record last copied in: 8 to 128 words.
    #[inline]
    pub fn words(&self) -> &[u64] {
        &self.words[..self.len]
    }

    /// The same, to change: the copy is the engine's own.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words[..self.len]
    }
}

/// The engine's end.
pub struct Consumer {
    words: Words,
    slot_count: u32,
    /// Position of the next record to copy out.
    head: u64,
    /// The tail of this batch.
    tail: u64,
    /// Records copied out, padding left out: the timeline value of the last one.
    record_count: u64,
    /// What the client demanded when last looked at.
    demanded: u64,
}

impl Consumer {
    /// Begins at the start of a ring's life.
    pub fn new(map: SubmissionMap) -> Self {
        Self {
            words: map.words,
            slot_count: map.slot_count,
            head: 0,
            tail: 0,
            record_count: 0,
            demanded: 0,
        }
    }

    /// Reads the tail, once for a batch of `pop`s; gives the slots that may be copied out.
    #[inline]
    pub fn refresh(&mut self) -> Result<u64, RingFault> {
        // SYNC: pairs with the Release in `Producer::publish`.
        let tail = self.words.header64(word::TAIL).load(Ordering::Acquire);
        let behind = tail.wrapping_sub(self.head);
        if !CHECKED {
            self.tail = tail;
            return Ok(behind);
        }
        if behind > u64::from(self.slot_count) {
            return Err(RingFault::TailJump {
                tail,
                head: self.head,
                slot_count: self.slot_count,
            });
        }
        if tail < self.tail {
            return Err(RingFault::TailBackwards {
                tail,
                previous: self.tail,
            });
        }
        self.tail = tail;
        Ok(behind)
    }

    /// Copies out the next record of this batch and gives its words; None when the batch is at its end.
    #[inline]
    pub fn pop(&mut self, record: &mut RecordBuf) -> Result<Option<usize>, RingFault> {
        // Twice at most: padding ends the ring, and no padding can follow it.
        while self.head != self.tail {
            let slot = (self.head & u64::from(self.slot_count - 1)) as u32;
            // SYNC: ordered by the Acquire in `refresh`. Read once; what the client does to it later is not seen.
            let line = &self.words.lines(slot as usize, 1)[0];
            let header = line[0].load(Ordering::Relaxed);
            if self.tail - self.head > PREFETCH_BEHIND {
                let behind = (self.head + PREFETCH_BEHIND) & u64::from(self.slot_count - 1);
                self.words.prefetch(behind as usize);
            }
            if stated_slots(header) == 1 && stated_opcode(header) != OPCODE_PADDING {
                // The usual record: one slot is published and does not wrap.
                let copy = record.words.first_chunk_mut().expect("sixteen slots");
                *copy =
                    std::array::from_fn::<_, SLOT_WORDS, _>(|k| line[k].load(Ordering::Relaxed));
                copy[0] = header;
                record.len = SLOT_WORDS;
                self.head += 1;
                self.record_count += 1;
                return Ok(Some(SLOT_WORDS));
            }
            let slots = self.check(header, slot)?;
            if stated_opcode(header) == OPCODE_PADDING {
                self.skip_padding(slot, slots)?;
                continue;
            }
            let lines = self.words.lines(slot as usize, slots as usize);
            let (copies, _) = record.words.as_chunks_mut::<SLOT_WORDS>();
            for (line, copy) in lines.iter().zip(copies) {
                *copy = std::array::from_fn(|word| line[word].load(Ordering::Relaxed));
            }
            // Word 0 was loaded again above with its line: the value that was checked is the one that counts.
            record.words[0] = header;
            record.len = slots as usize * SLOT_WORDS;
            self.head += u64::from(slots);
            self.record_count += 1;
            return Ok(Some(record.len));
        }
        Ok(None)
    }

    /// The position up to which slots were copied out and may be written again: what `Writer::set_head` publishes.
    #[inline]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Records copied out so far: the timeline value of the last one.
    #[inline]
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// Slots of this batch that are not copied out yet.
    #[inline]
    pub fn batch_left(&self) -> u64 {
        self.tail - self.head
    }

    /// The timeline value that the client waits for, asleep or not: what it names is work that is wanted now. Any number
    /// is possible. Look at it in each turn: `is_behind` is true while it is another than this last gave. Before `refresh`:
    /// everything that was published before the demand is then seen.
    #[inline]
    pub fn demanded(&mut self) -> u64 {
        // SYNC: Acquire pairs with the Release in `Reader::demand`.
        self.demanded = self.words.header64(word::DEMANDED).load(Ordering::Acquire);
        self.demanded
    }

    /// Whether the client has published more than was copied out, or demands another value than `demanded` gave. A hint
    /// without ordering, and the last look before parking when a SeqCst fence stands before it (see
    /// `completion::Writer::park`).
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.words.header64(word::TAIL).load(Ordering::Relaxed) != self.head
            || self.words.header64(word::DEMANDED).load(Ordering::Relaxed) != self.demanded
    }

    #[inline]
    fn check(&self, header: u64, slot: u32) -> Result<u32, RingFault> {
        let slots = stated_slots(header);
        let published = self.tail - self.head;
        if !CHECKED {
            return Ok(slots);
        }
        if slots == 0 || slots > RECORD_SLOTS_MAX {
            return Err(RingFault::BadLength {
                position: self.head,
                slots,
            });
        }
        if u64::from(slots) > published {
            return Err(RingFault::Unpublished {
                position: self.head,
                slots,
                published,
            });
        }
        if slots > self.slot_count - slot {
            return Err(RingFault::Wraps {
                slot,
                slots,
                slot_count: self.slot_count,
            });
        }
        Ok(slots)
    }

    #[cold]
    fn skip_padding(&mut self, slot: u32, slots: u32) -> Result<(), RingFault> {
        // A whole longest record would have fitted, so padding of that length is no padding.
        if slot + slots != self.slot_count || slots >= RECORD_SLOTS_MAX {
            return Err(RingFault::BadPadding {
                slot,
                slots,
                slot_count: self.slot_count,
            });
        }
        self.head += u64::from(slots);
        Ok(())
    }
}
