//! The memory of a simulated device: as many bytes as the model has, of which only those are kept that a client wrote.
//!
//! What a launch writes is one label over the whole buffer and takes no room, so that a card of 80 GB is simulated in a few
//! megabytes. Memory keeps its content when it is freed and shows it to the next owner, as real devices do.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensord_plan::{BufferId, DeviceFault, LaunchId, SealedMemory};
use thiserror::Error;

use crate::label::Label;

/// Bytes handed out at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Freed buffers whose content is remembered, of each size.
const RESIDUES_MAX: usize = 64;

/// A rule of the `Backend` trait that its caller broke.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Breach {
    #[error("{call} of buffer {buffer:?}, which is not allocated")]
    Unknown {
        call: &'static str,
        buffer: BufferId,
    },
    #[error("{call} of buffer {buffer:?}, which launch {launch:?} still uses")]
    InUse {
        call: &'static str,
        buffer: BufferId,
        launch: LaunchId,
    },
    #[error("{call} of bytes {at}..{end} of buffer {buffer:?}, which has {bytes}")]
    Beyond {
        call: &'static str,
        buffer: BufferId,
        at: u64,
        end: u64,
        bytes: u64,
    },
    #[error("buffer {buffer:?} was given back without being zeroed: it holds {content:x?}")]
    NotZeroed { buffer: BufferId, content: Label },
    #[error("launch {launch:?} is resumed or abandoned, and was not stopped")]
    NotWaiting { launch: LaunchId },
}

/// What a buffer holds: what was written to its first bytes, and a label behind them.
#[derive(Clone, Debug)]
enum Content {
    Own { head: Vec<u8>, tail: Label },
    Sealed(Arc<dyn SealedMemory>),
}

#[derive(Debug)]
struct Buffer {
    bytes: u64,
    content: Content,
}

/// All buffers of a device.
#[derive(Debug)]
pub struct Memory {
    buffers: BTreeMap<BufferId, Buffer>,
    residues: BTreeMap<u64, Vec<Content>>,
    next: u32,
    limit: u64,
    used: u64,
}

impl Content {
    fn label(&self, len: u64) -> Label {
        match self {
            Content::Own { head, tail } => {
                let near = head.len().min(len as usize);
                let front = match near {
                    0 => Label::ZERO,
                    _ => Label::of_bytes(&head[..near]),
                };
                match (len as usize) > near || near == 0 {
                    true => front.union(*tail),
                    false => front,
                }
            }
            Content::Sealed(memory) => {
                let bytes = memory.bytes();
                Label::of_bytes(&bytes[..bytes.len().min(len as usize)])
            }
        }
    }

    /// The bytes `at..at + to.len()`.
    fn copy(&self, at: u64, to: &mut [u8]) {
        match self {
            Content::Own { head, tail } => {
                tail.fill(at, to);
                if let Some(from) = head.get(at as usize..) {
                    let len = from.len().min(to.len());
                    to[..len].copy_from_slice(&from[..len]);
                }
            }
            Content::Sealed(memory) => {
                let from = memory.bytes().get(at as usize..).unwrap_or_default();
                let len = from.len().min(to.len());
                to[..len].copy_from_slice(&from[..len]);
            }
        }
    }
}

impl Memory {
    /// Empty memory of so many bytes.
    pub fn new(limit: u64) -> Memory {
        Memory {
            buffers: BTreeMap::new(),
            residues: BTreeMap::new(),
            next: 0,
            limit,
            used: 0,
        }
    }

    /// Bytes allocated.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn insert(&mut self, bytes: u64, content: Content) -> Result<BufferId, DeviceFault> {
        let free = self.limit - self.used;
        if bytes > free {
            return Err(DeviceFault::OutOfMemory {
                wanted: bytes,
                free,
            });
        }
        self.used += bytes;
        let id = BufferId(self.next);
        // A buffer's name comes again after four thousand million others.
        self.next = self.next.wrapping_add(1);
        self.buffers.insert(id, Buffer { bytes, content });
        Ok(id)
    }

    /// See [`tensord_plan::Backend::alloc`].
    pub fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault> {
        let unwritten = Content::Own {
            head: Vec::new(),
            tail: Label::UNWRITTEN,
        };
        let residue = self.residues.get_mut(&bytes).and_then(Vec::pop);
        self.insert(bytes, residue.unwrap_or(unwritten))
    }

    /// See [`tensord_plan::Backend::adopt`].
    pub fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Result<BufferId, DeviceFault> {
        self.insert(memory.bytes().len() as u64, Content::Sealed(memory))
    }

    /// See [`tensord_plan::Backend::free`].
    pub fn free(&mut self, id: BufferId) -> Result<(), Breach> {
        let Some(buffer) = self.buffers.remove(&id) else {
            return Err(Breach::Unknown {
                call: "free",
                buffer: id,
            });
        };
        self.used -= buffer.bytes;
        if matches!(buffer.content, Content::Sealed(_)) {
            return Ok(());
        }
        let content = buffer.content.label(buffer.bytes);
        let residues = self.residues.entry(buffer.bytes).or_default();
        if residues.len() < RESIDUES_MAX {
            residues.push(buffer.content);
        }
        match content {
            Label::ZERO => Ok(()),
            content => Err(Breach::NotZeroed {
                buffer: id,
                content,
            }),
        }
    }

    fn part(
        &mut self,
        call: &'static str,
        id: BufferId,
        (at, len): (u64, u64),
    ) -> Result<&mut Buffer, Breach> {
        let Some(buffer) = self.buffers.get_mut(&id) else {
            return Err(Breach::Unknown { call, buffer: id });
        };
        if at > buffer.bytes || len > buffer.bytes - at {
            return Err(Breach::Beyond {
                call,
                buffer: id,
                at,
                end: at.saturating_add(len),
                bytes: buffer.bytes,
            });
        }
        Ok(buffer)
    }

    /// See [`tensord_plan::Backend::zero`].
    pub fn zero(&mut self, id: BufferId, at: u64, len: u64) -> Result<(), Breach> {
        let buffer = self.part("zero", id, (at, len))?;
        if at == 0 && len == buffer.bytes {
            buffer.content = Content::Own {
                head: Vec::new(),
                tail: Label::ZERO,
            };
            return Ok(());
        }
        self.write(id, at, len, &mut |_, bytes| bytes.fill(0))
    }

    /// See [`tensord_plan::Backend::write`].
    pub fn write(
        &mut self,
        id: BufferId,
        at: u64,
        len: u64,
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), Breach> {
        let buffer = self.part("write", id, (at, len))?;
        if let Content::Own { head, tail } = &mut buffer.content {
            let (before, end) = (head.len(), (at + len) as usize);
            if end > before {
                head.resize(end, 0);
                tail.fill(before as u64, &mut head[before..]);
            }
            fill(0, &mut head[at as usize..end]);
        }
        Ok(())
    }

    /// See [`tensord_plan::Backend::read`].
    pub fn read(
        &mut self,
        id: BufferId,
        at: u64,
        len: u64,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), Breach> {
        let buffer = self.part("read", id, (at, len))?;
        let mut piece = vec![0; PIECE_BYTES.min(len as usize)];
        let mut done = 0;
        while done < len {
            let next = (len - done).min(PIECE_BYTES as u64);
            let piece = &mut piece[..next as usize];
            buffer.content.copy(at + done, piece);
            take(done, piece);
            done += next;
        }
        Ok(())
    }

    /// The label of the first `len` bytes from `at`, which is a multiple of 64.
    pub fn label(&mut self, id: BufferId, at: u64, len: u64) -> Result<Label, Breach> {
        let buffer = self.part("launch", id, (at, len))?;
        match (&buffer.content, at) {
            (content, 0) => Ok(content.label(len)),
            (content, _) => {
                let mut near = vec![0; len.min(PIECE_BYTES as u64) as usize];
                content.copy(at, &mut near);
                Ok(Label::of_bytes(&near))
            }
        }
    }

    /// A launch wrote `len` bytes from `at` on.
    pub fn set_label(
        &mut self,
        id: BufferId,
        (at, len): (u64, u64),
        label: Label,
    ) -> Result<(), Breach> {
        let buffer = self.part("launch", id, (at, len))?;
        if at == 0 {
            buffer.content = Content::Own {
                head: Vec::new(),
                tail: label,
            };
            return Ok(());
        }
        self.write(id, at, len, &mut |done, bytes| label.fill(at + done, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_not_zeroed_is_told_and_shown_to_the_next_owner() {
        let mut memory = Memory::new(1 << 20);
        let first = memory.alloc(256).expect("room");
        let label = Label::new(1, 2);
        memory.set_label(first, (0, 256), label).expect("a buffer");
        assert!(matches!(
            memory.free(first),
            Err(Breach::NotZeroed { content, .. }) if content == label
        ));
        let second = memory.alloc(256).expect("room");
        assert_eq!(memory.label(second, 0, 256), Ok(label));
        memory.zero(second, 0, 256).expect("a buffer");
        assert_eq!(memory.free(second), Ok(()));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_stays() {
        let mut memory = Memory::new(1 << 20);
        let id = memory.alloc(64).expect("room");
        let label = Label::new(9, 9);
        memory.set_label(id, (0, 64), label).expect("a buffer");
        memory
            .write(id, 16, 16, &mut |_, bytes| bytes.fill(7))
            .expect("a buffer");
        let mut seen = Vec::new();
        memory
            .read(id, 0, 64, &mut |_, bytes| seen.extend_from_slice(bytes))
            .expect("a buffer");
        assert!(label.fills(0, &seen[..16]) && label.fills(32, &seen[32..]));
        assert_eq!(seen[16..32], [7; 16]);
    }

    #[test]
    fn there_is_as_much_as_the_model_has_and_no_byte_more() {
        let mut memory = Memory::new(100);
        let id = memory.alloc(100).expect("room");
        assert_eq!(
            memory.alloc(1),
            Err(DeviceFault::OutOfMemory { wanted: 1, free: 0 })
        );
        assert!(memory.read(id, 50, 51, &mut |_, _| ()).is_err());
        memory.free(id).expect_err("it was never zeroed");
        assert!(memory.free(id).is_err(), "twice");
    }
}
