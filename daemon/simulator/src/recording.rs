//! What a client asked for, and when, in a file: to be played again by as many clients as one likes.
//!
//! A recording holds records as they lie in rings, and no values: staging memory is zero when it is played. Times are pauses: each
//! entry says how long after the one before it its client went on, and after a wait, how long after that was over. So a recording of a fast device
//! can be played on a slow one, and clients wait for it as they would.
//!
//! # Format, version 1
//! Little endian, words of 64 bits.
//!
//! ```text
//! word 0   the bytes "tensord\x01": magic and version
//! word 1   class (8 bits: 1 idle, 2 normal, 3 realtime) | flags (8: 1 may be fused, 2 may be batched) | queues (16) | weight (32)
//! word 2   slots of each ring
//! word 3   bytes of the staging arena
//! entries  pause in nanoseconds, then kind (8) | queue (24) | words behind this one (32), then these words:
//!          kind 1  a record, padded to whole 64-byte units
//!          kind 2  the timeline value that the client waits for
//!          kind 3  the timeline value that it demands without waiting
//! ```

use std::io::{self, Read, Write};

use tensord_shm::control::Class;
use tensord_shm::ring::{RECORD_WORDS_MAX, SLOT_WORDS};
use tensord_shm::segment::{SLOT_COUNT_MAX, SLOT_COUNT_MIN, STAGING_GRANULE};
use thiserror::Error;

const MAGIC: u64 = u64::from_le_bytes(*b"tensord\x01");
/// Queues of a recording.
const QUEUES_MAX: u32 = 64;
/// Staging memory of a recording.
const STAGING_MAX: u64 = 1 << 32;

/// What a client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It wrote a record.
    Record(Vec<u64>),
    /// It waited for a timeline value.
    Wait(u64),
    /// It said that it wants a timeline value, and went on.
    Demand(u64),
}

/// When and where it did so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// After the entry before, or the end of its wait.
    pub pause_ns: u64,
    /// The queue.
    pub queue: u32,
    /// What.
    pub action: Action,
}

/// A client's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Class of the session.
    pub class: Class,
    /// Its weight.
    pub weight: u32,
    /// Were its operations fused?
    pub fuse: bool,
    /// Did its requests share launches?
    pub batch: bool,
    /// Its queues.
    pub queues: u32,
    /// Slots of their rings.
    pub slot_count: u32,
    /// Its staging memory.
    pub staging_bytes: u64,
    /// What it did, in order.
    pub entries: Vec<Entry>,
}

/// A file that is no recording.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum RecordingError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it begins with {0:#018x}, which is no recording of this version")]
    Magic(u64),
    #[error("its head states {what} of {value}")]
    Head { what: &'static str, value: u64 },
    #[error("entry {entry} states {what} of {value}")]
    Entry {
        entry: usize,
        what: &'static str,
        value: u64,
    },
}

fn word(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// `None` at the end of the file.
fn first_word(from: &mut impl Read) -> io::Result<Option<u64>> {
    match word(from) {
        Ok(word) => Ok(Some(word)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

impl Recording {
    /// Reads a file. Nothing in it is believed.
    pub fn read(from: &mut impl Read) -> Result<Recording, RecordingError> {
        let magic = word(from)?;
        if magic != MAGIC {
            return Err(RecordingError::Magic(magic));
        }
        let (head, slots, staging_bytes) = (word(from)?, word(from)?, word(from)?);
        let wrong = |what, value| Err(RecordingError::Head { what, value });
        let class = match head as u8 {
            1 => Class::Idle,
            2 => Class::Normal,
            3 => Class::Realtime,
            other => return wrong("a class", other.into()),
        };
        let queues = u32::from((head >> 16) as u16);
        if queues == 0 || queues > QUEUES_MAX {
            return wrong("a number of queues", queues.into());
        }
        let slot_count = u32::try_from(slots).unwrap_or(u32::MAX);
        let fits = (SLOT_COUNT_MIN..=SLOT_COUNT_MAX).contains(&slot_count);
        if !fits || !slot_count.is_power_of_two() {
            return wrong("a number of slots", slots);
        }
        let granules = staging_bytes.is_multiple_of(STAGING_GRANULE);
        if staging_bytes == 0 || staging_bytes > STAGING_MAX || !granules {
            return wrong("a size of staging", staging_bytes);
        }
        let mut recording = Recording {
            class,
            weight: ((head >> 32) as u32).clamp(1, 10_000),
            fuse: head >> 8 & 1 == 1,
            batch: head >> 9 & 1 == 1,
            queues,
            slot_count,
            staging_bytes,
            entries: Vec::new(),
        };
        while let Some(pause_ns) = first_word(from)? {
            let entry = recording.read_entry(from, pause_ns)?;
            recording.entries.push(entry);
        }
        Ok(recording)
    }

    fn read_entry(&self, from: &mut impl Read, pause_ns: u64) -> Result<Entry, RecordingError> {
        let entry = self.entries.len();
        let wrong = |what, value| Err(RecordingError::Entry { entry, what, value });
        let head = word(from)?;
        let (kind, queue, len) = (head as u8, (head >> 8) as u32 & 0xff_ffff, head >> 32);
        if queue >= self.queues {
            return wrong("a queue", queue.into());
        }
        let action = match (kind, len) {
            (1, len) if len > 0 && len <= RECORD_WORDS_MAX as u64 => {
                let words = (0..len)
                    .map(|_| word(from))
                    .collect::<io::Result<Vec<_>>>()?;
                let stated = words[0] & 0xff;
                let opcode = words[0] >> 16 & 0xffff;
                if stated * SLOT_WORDS as u64 != len || opcode == 0 {
                    return wrong("a record's first word", words[0]);
                }
                Action::Record(words)
            }
            (2, 1) => Action::Wait(word(from)?),
            (3, 1) => Action::Demand(word(from)?),
            _ => return wrong("a kind and length", head),
        };
        Ok(Entry {
            pause_ns,
            queue,
            action,
        })
    }

    /// Writes a file.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let flags = u64::from(self.fuse) | u64::from(self.batch) << 1;
        let head = self.class as u64
            | flags << 8
            | u64::from(self.queues) << 16
            | u64::from(self.weight) << 32;
        let mut put = |word: u64| to.write_all(&word.to_le_bytes());
        for word in [MAGIC, head, self.slot_count.into(), self.staging_bytes] {
            put(word)?;
        }
        for entry in &self.entries {
            let (kind, words): (u64, &[u64]) = match &entry.action {
                Action::Record(words) => (1, words),
                Action::Wait(value) => (2, std::slice::from_ref(value)),
                Action::Demand(value) => (3, std::slice::from_ref(value)),
            };
            put(entry.pause_ns)?;
            put(kind | u64::from(entry.queue) << 8 | (words.len() as u64) << 32)?;
            words.iter().try_for_each(|&word| put(word))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        let entry = |pause_ns, queue, action| Entry {
            pause_ns,
            queue,
            action,
        };
        Recording {
            class: Class::Realtime,
            weight: 300,
            fuse: true,
            batch: false,
            queues: 2,
            slot_count: 64,
            staging_bytes: 8192,
            entries: vec![
                entry(5, 0, Action::Record(vec![0x1_0001, 2, 3, 4, 5, 6, 7, 8])),
                entry(0, 1, Action::Wait(1)),
                entry(u64::MAX, 0, Action::Demand(7)),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut file = Vec::new();
        recording().write(&mut file).expect("memory");
        let read = Recording::read(&mut file.as_slice()).expect("a recording");
        assert_eq!(read, recording());
    }

    #[test]
    fn nothing_in_a_file_is_believed() {
        let mut file = Vec::new();
        recording().write(&mut file).expect("memory");
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                // Whatever it says, it is read or refused.
                drop(Recording::read(&mut bad.as_slice()));
            }
            drop(Recording::read(&mut &file[..at]));
        }
        assert!(Recording::read(&mut &b"not a recording"[..]).is_err());
    }
}
