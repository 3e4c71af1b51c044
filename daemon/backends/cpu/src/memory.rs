//! The buffers of the cpu backend: numbered, 64-byte aligned pieces of host memory.
//!
//! Small sizes recur thousands of times a millisecond, so freed blocks of a size class are kept and handed out
//! again, last freed first (still in cache); large ones go back to the system's allocator, up to a bounded reserve.
//!
//! # Invariants
//! - A block is valid for `len` bytes (a multiple of 64, at least what was asked for) until it is freed.
//! - An adopted block is never written: [`Memory::writable`] refuses it.
//! - Every address that leaves this module was checked against its block by [`Memory::readable`] or
//!   [`Memory::writable`].

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use tensord_plan::{BufferId, DeviceFault, SealedMemory};
use tensord_shm::private::PrivateMemory;

/// Alignment of every buffer, and the granularity of its size.
pub const ALIGN: u64 = 64;
/// Blocks up to this size come in size classes, and freed ones are all kept.
const SMALL_MAX: u64 = 64 << 10;
/// Bytes of larger freed blocks that are kept for reuse, and how many.
const RESERVE_MAX: u64 = 64 << 20;
const RESERVE_COUNT_MAX: usize = 16;
/// Blocks from this size on are pages of their own, large ones where the kernel has them: an allocator would write zeros into all of
/// them, page fault by page fault.
const PAGED_MIN: u64 = 1 << 20;
/// Size classes: four for each power of two from 64 bytes to `SMALL_MAX`.
const CLASSES: usize = 4 * 9;

enum Origin {
    Owned,
    Adopted { _keep: Arc<dyn SealedMemory> },
}

struct Block {
    base: NonNull<u8>,
    len: u64,
    origin: Origin,
    /// Was it an operand that may be kept packed?
    constant: bool,
}

/// All buffers of one backend.
pub struct Memory {
    blocks: Vec<Option<Block>>,
    vacant: Vec<u32>,
    free: Vec<Vec<NonNull<u8>>>,
    used_bytes: u64,
    limit_bytes: u64,
    reserve: Vec<(u64, NonNull<u8>)>,
    reserve_bytes: u64,
}

// SAFETY: the pointers name heap blocks that `Memory` alone owns, or sealed memory that is `Send + Sync`; none is
// tied to a thread.
unsafe impl Send for Memory {}

/// Class of a size up to `SMALL_MAX`, and the size of the class: 64 times 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...
fn class_of(bytes: u64) -> (usize, u64) {
    let units = bytes.max(1).div_ceil(ALIGN);
    if units <= 4 {
        return (units as usize - 1, units * ALIGN);
    }
    let log = u64::from(63 - (units - 1).leading_zeros());
    let quarter = 1u64 << (log - 2);
    let steps = units.div_ceil(quarter);
    let class = (log - 2) * 4 + steps - 1;
    (class as usize, steps * quarter * ALIGN)
}

impl Memory {
    /// No buffers yet; at most `limit_bytes` at any time.
    pub fn new(limit_bytes: u64) -> Memory {
        Memory {
            blocks: Vec::new(),
            vacant: Vec::new(),
            free: (0..CLASSES).map(|_| Vec::new()).collect(),
            used_bytes: 0,
            limit_bytes,
            reserve: Vec::new(),
            reserve_bytes: 0,
        }
    }

    /// A buffer of at least `bytes` bytes; contents undefined (possibly an earlier buffer's).
    pub fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceFault> {
        let free = self.limit_bytes.saturating_sub(self.used_bytes);
        let out_of_memory = DeviceFault::OutOfMemory {
            wanted: bytes,
            free,
        };
        let small = bytes <= SMALL_MAX;
        let (class, size) = match small {
            true => class_of(bytes),
            false => (0, bytes.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)),
        };
        if size > free {
            return Err(out_of_memory);
        }
        let kept = match small {
            true => self.free[class].pop(),
            false => self.take_reserved(size),
        };
        let base = match kept {
            Some(base) => base,
            None => fresh(size).ok_or(out_of_memory)?,
        };
        self.used_bytes += size;
        Ok(self.insert(Block {
            base,
            len: size,
            origin: Origin::Owned,
            constant: false,
        }))
    }

    fn take_reserved(&mut self, size: u64) -> Option<NonNull<u8>> {
        let at = self.reserve.iter().rposition(|&(have, _)| have == size)?;
        self.reserve_bytes -= size;
        Some(self.reserve.remove(at).1)
    }

    /// Sealed memory as a buffer; `None` where it is not aligned as buffers are.
    pub fn adopt(&mut self, memory: Arc<dyn SealedMemory>) -> Option<BufferId> {
        let bytes = memory.bytes();
        let len = bytes.len() as u64;
        let base = NonNull::new(bytes.as_ptr().cast_mut())?;
        if !(base.as_ptr() as u64).is_multiple_of(ALIGN) {
            return None;
        }
        Some(self.insert(Block {
            base,
            len,
            origin: Origin::Adopted { _keep: memory },
            constant: false,
        }))
    }

    fn insert(&mut self, block: Block) -> BufferId {
        match self.vacant.pop() {
            Some(index) => {
                self.blocks[index as usize] = Some(block);
                BufferId(index)
            }
            None => {
                self.blocks.push(Some(block));
                BufferId(self.blocks.len() as u32 - 1)
            }
        }
    }

    /// Gives a buffer back; an unknown id is ignored.
    pub fn free(&mut self, buffer: BufferId) {
        let Some(block) = self
            .blocks
            .get_mut(buffer.0 as usize)
            .and_then(Option::take)
        else {
            return;
        };
        self.vacant.push(buffer.0);
        let Origin::Owned = block.origin else {
            return;
        };
        self.used_bytes -= block.len;
        if block.len <= SMALL_MAX {
            self.free[class_of(block.len).0].push(block.base);
            return;
        }
        self.reserve.push((block.len, block.base));
        self.reserve_bytes += block.len;
        while self.reserve_bytes > RESERVE_MAX || self.reserve.len() > RESERVE_COUNT_MAX {
            let (size, base) = self.reserve.remove(0);
            self.reserve_bytes -= size;
            release(base, size);
        }
    }

    /// Remembers that packs of the buffer may exist.
    #[inline]
    pub fn mark_constant(&mut self, buffer: BufferId) {
        if let Some(Some(block)) = self.blocks.get_mut(buffer.0 as usize) {
            block.constant = true;
        }
    }

    /// Was it marked since the last call?
    pub fn take_constant(&mut self, buffer: BufferId) -> bool {
        match self.blocks.get_mut(buffer.0 as usize) {
            Some(Some(block)) => std::mem::take(&mut block.constant),
            _ => false,
        }
    }

    /// Address of bytes `at..at + len` of a buffer, to be read.
    #[inline]
    pub fn readable(&self, buffer: BufferId, at: u64, len: u64) -> Result<NonNull<u8>, Misuse> {
        let block = self.block(buffer)?;
        reach(block, at, len)
    }

    /// Address of bytes `at..at + len` of a buffer, to be written.
    #[inline]
    pub fn writable(&self, buffer: BufferId, at: u64, len: u64) -> Result<NonNull<u8>, Misuse> {
        let block = self.block(buffer)?;
        match block.origin {
            Origin::Owned => reach(block, at, len),
            Origin::Adopted { .. } => Err(Misuse::ReadOnly(buffer)),
        }
    }

    #[inline]
    fn block(&self, buffer: BufferId) -> Result<&Block, Misuse> {
        match self.blocks.get(buffer.0 as usize) {
            Some(Some(block)) => Ok(block),
            _ => Err(Misuse::Unknown(buffer)),
        }
    }
}

#[inline]
fn reach(block: &Block, at: u64, len: u64) -> Result<NonNull<u8>, Misuse> {
    match at.checked_add(len) {
        // SAFETY: `at <= at + len <= block.len`, so the result is inside the block or one past its end.
        Some(end) if end <= block.len => Ok(unsafe { block.base.add(at as usize) }),
        _ => Err(Misuse::Beyond {
            at,
            len,
            have: block.len,
        }),
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for index in 0..self.blocks.len() {
            self.free(BufferId(index as u32));
        }
        for (size, base) in self.reserve.drain(..) {
            release(base, size);
        }
        let mut size = ALIGN;
        while size <= SMALL_MAX {
            let (class, bytes) = class_of(size);
            for base in self.free[class].drain(..) {
                release(base, bytes);
            }
            size = bytes + 1;
        }
    }
}

fn block_layout(size: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(size).ok()?, ALIGN as usize).ok()
}

/// Zeroed, so that no byte of a block is ever uninitialised.
fn fresh(size: u64) -> Option<NonNull<u8>> {
    if size >= PAGED_MIN {
        let memory = PrivateMemory::new(usize::try_from(size).ok()?).ok()?;
        return Some(memory.into_raw());
    }
    let layout = block_layout(size)?;
    // SAFETY: class sizes are at least 64, so the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

fn release(base: NonNull<u8>, size: u64) {
    if size >= PAGED_MIN {
        // SAFETY: `base` came from `fresh(size)`, and its block has just been given up.
        return drop(unsafe { PrivateMemory::from_raw(base, size as usize) });
    }
    let layout = block_layout(size).expect("the block was allocated with this layout");
    // SAFETY: `base` came from `fresh(size)` with the same layout, and its block has just been given up.
    unsafe { dealloc(base.as_ptr(), layout) };
}

/// A wrong use of a buffer: a bug of the caller, caught before memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// No such buffer.
    Unknown(BufferId),
    /// Sealed memory cannot be written.
    ReadOnly(BufferId),
    /// Outside the buffer.
    Beyond {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Size of the buffer.
        have: u64,
    },
}

impl From<Misuse> for DeviceFault {
    fn from(misuse: Misuse) -> DeviceFault {
        DeviceFault::Invalid(match misuse {
            Misuse::Unknown(id) => format!("buffer {} does not exist", id.0),
            Misuse::ReadOnly(id) => format!("buffer {} is sealed memory, only read", id.0),
            Misuse::Beyond { at, len, have } => {
                format!("bytes {at}..+{len} of a buffer of {have} bytes")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_and_hold_what_was_asked_for() {
        let mut last = (0, 0);
        for bytes in 1..=SMALL_MAX {
            let (class, size) = class_of(bytes);
            assert!(class < CLASSES && size >= bytes && size % ALIGN == 0);
            assert!(size <= bytes + bytes / 4 + ALIGN);
            assert_eq!(class_of(size), (class, size));
            assert!((class, size) == last || class == 0 || (class > last.0 && size > last.1));
            last = (class, size);
        }
    }

    #[test]
    fn a_block_is_reused_and_the_limit_holds() {
        let mut memory = Memory::new(4096);
        let a = memory.alloc(1000).unwrap();
        let address = memory.writable(a, 0, 1000).unwrap();
        assert!(memory.readable(a, 960, 64).is_ok());
        assert!(memory.readable(a, 960, 65).is_err());
        memory.free(a);
        memory.free(a);
        assert!(memory.readable(a, 0, 1).is_err());
        let b = memory.alloc(1000).unwrap();
        assert_eq!(memory.writable(b, 0, 1).unwrap(), address);
        let c = memory.alloc(1 << 20);
        assert!(matches!(c, Err(DeviceFault::OutOfMemory { .. })));
    }
}
