//! Staging: shared memory through which values enter and leave.
//!
//! The client allocates regions from its arena and names them in records as (offset, length). The engine only ever
//! copies between a region and memory of its own, checked against the size it agreed to: the client may write at any
//! moment, so nothing is validated in place and no slice into it is formed on that side.
//!
//! # Invariants
//! Regions are multiples of 64 bytes at multiples of 64, never overlap, and return to the arena when dropped. The
//! allocator's books are the client's private memory; the engine knows nothing of them.

use crate::CHECKED;
use crate::segment::{Mapping, SegmentFault, map_staging};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Alignment of regions and of their sizes.
pub const REGION_ALIGN: u64 = 64;

/// A range that is not inside the staging segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("staging range of {len} bytes at {offset} is not inside {size} bytes")]
pub struct StagingFault {
    /// Where the range begins.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// Size of the segment.
    pub size: u64,
}

/// No free region is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("staging has no free region of {len} bytes ({free} of {size} bytes are free)")]
pub struct StagingFull {
    /// Bytes asked for.
    pub len: u64,
    /// Bytes free in all.
    pub free: u64,
    /// Size of the arena.
    pub size: u64,
}

/// A staging segment as the engine sees it.
pub struct StagingMap(Mapping);

impl StagingMap {
    /// Maps a staging segment of `bytes`, a number from private configuration.
    pub fn map(fd: BorrowedFd<'_>, bytes: u64) -> Result<Self, SegmentFault> {
        Ok(Self(map_staging(fd, bytes)?))
    }

    /// Bytes of the segment.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// Copies out what is at `offset`. Bytes that the client changes meanwhile arrive old or new.
    pub fn read_into(&self, offset: u64, to: &mut [u8]) -> Result<(), StagingFault> {
        let from = self.range(offset, to.len() as u64)?;
        // SAFETY: `from` is inside the mapping for that length, `to` is private memory and cannot overlap it. The client
        // may write meanwhile; the bytes are then any, and bytes have no invalid value.
        unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies `from` in at `offset`.
    pub fn write_from(&self, offset: u64, from: &[u8]) -> Result<(), StagingFault> {
        let to = self.range(offset, from.len() as u64)?;
        // SAFETY: `to` is inside the mapping for that length, `from` is private memory and cannot overlap it. What the
        // client reads or writes there meanwhile is its own affair.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Whether a range is inside the segment; the check that reading and writing make.
    pub fn check(&self, offset: u64, len: u64) -> Result<(), StagingFault> {
        self.range(offset, len).map(drop)
    }

    fn range(&self, offset: u64, len: u64) -> Result<*mut u8, StagingFault> {
        let size = self.size();
        if CHECKED && (offset > size || len > size - offset) {
            return Err(StagingFault { offset, len, size });
        }
        // SAFETY: `offset` is at most the length of the mapping, which fits an address. (Unchecked, a client that keeps the rules is
        // the one who answers for that.)
        Ok(unsafe { self.0.base().add(offset as usize) })
    }
}

/// A staging segment as its client sees it: an allocator of regions. Clones share it.
#[derive(Clone)]
pub struct StagingArena(Arc<Arena>);

struct Arena {
    mapping: Mapping,
    books: Mutex<Books>,
}

impl StagingArena {
    /// Maps a staging segment of `bytes`, the number that was agreed on.
    pub fn map(fd: BorrowedFd<'_>, bytes: u64) -> Result<Self, SegmentFault> {
        let mapping = map_staging(fd, bytes)?;
        let books = Mutex::new(Books::new(mapping.len() as u64));
        Ok(Self(Arc::new(Arena { mapping, books })))
    }

    /// Takes a region of at least `len` bytes, zero included. What is in it is left from before.
    pub fn allocate(&self, len: u64) -> Result<StagingRegion, StagingFull> {
        let size = self.0.mapping.len() as u64;
        let mut books = self.0.books();
        let offset = match block_size(len).filter(|block| *block <= size) {
            Some(block) => books.take(block),
            None => None,
        };
        let Some(offset) = offset else {
            return Err(StagingFull {
                len,
                free: books.free_bytes,
                size,
            });
        };
        drop(books);
        Ok(StagingRegion {
            arena: Arc::clone(&self.0),
            offset,
            len,
        })
    }

    /// Bytes of the segment.
    pub fn size(&self) -> u64 {
        self.0.mapping.len() as u64
    }

    /// Bytes that no region holds.
    pub fn free_bytes(&self) -> u64 {
        self.0.books().free_bytes
    }
}

impl Arena {
    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic while the books are held leaves them whole: each change is made by calls that do not panic.
        self.books
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A region of an arena; returns to it when dropped. Keep it until the timeline has passed every request that names it.
pub struct StagingRegion {
    arena: Arc<Arena>,
    offset: u64,
    len: u64,
}

impl StagingRegion {
    /// Where it begins: what a record states.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes asked for.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes were asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its address, for a view that outlives a borrow.
    pub fn as_ptr(&self) -> NonNull<u8> {
        // SAFETY: the offset is inside the mapping, which lives as long as `arena`.
        let address = unsafe { self.arena.mapping.base().add(self.offset as usize) };
        NonNull::new(address).expect("a mapping has no null address")
    }

    /// Its bytes. Only while no unfinished request writes here: the engine is trusted to write nothing else.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the region is inside the mapping and belongs to this value alone; the engine writes it only for a
        // request of ours that is over (the caller's duty, stated above).
        unsafe { std::slice::from_raw_parts(self.as_ptr().as_ptr(), self.len as usize) }
    }

    /// Its bytes, to be filled before a request names them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().as_ptr(), self.len as usize) }
    }
}

impl Drop for StagingRegion {
    fn drop(&mut self) {
        let block = block_size(self.len).expect("it had a size when it was taken");
        self.arena.books().give(self.offset, block);
    }
}

/// Blocks up to this size are kept by size when they return, and found again without a search.
const KEPT_BYTES_MAX: u64 = 64 << 10;
/// Sizes that are kept: 64 to 65,536, one for each power of two.
const KEPT_CLASS_COUNT: usize = (KEPT_BYTES_MAX / REGION_ALIGN).ilog2() as usize + 1;

/// Bytes that a region of `len` takes up: a power of two where it will be kept by size, else a multiple of 64.
fn block_size(len: u64) -> Option<u64> {
    let len = len.max(REGION_ALIGN);
    if len <= KEPT_BYTES_MAX {
        Some(len.next_power_of_two())
    } else {
        len.checked_next_multiple_of(REGION_ALIGN)
    }
}

fn kept_class(block: u64) -> Option<usize> {
    (block <= KEPT_BYTES_MAX).then(|| (block / REGION_ALIGN).ilog2() as usize)
}

/// What is free: small blocks last-in-first-out by size, all else as disjoint spans that merge, best fit first.
struct Books {
    kept: [Vec<u64>; KEPT_CLASS_COUNT],
    span_by_offset: BTreeMap<u64, u64>,
    offset_by_span: BTreeSet<(u64, u64)>,
    free_bytes: u64,
}

impl Books {
    fn new(size: u64) -> Self {
        let mut books = Self {
            kept: std::array::from_fn(|_| Vec::new()),
            span_by_offset: BTreeMap::new(),
            offset_by_span: BTreeSet::new(),
            free_bytes: size,
        };
        books.add_span(0, size);
        books
    }

    fn take(&mut self, block: u64) -> Option<u64> {
        let kept = kept_class(block).and_then(|class| self.kept[class].pop());
        let offset = match kept.or_else(|| self.take_span(block)) {
            Some(offset) => offset,
            None => {
                self.merge_kept();
                self.take_span(block)?
            }
        };
        self.free_bytes -= block;
        Some(offset)
    }

    fn give(&mut self, offset: u64, block: u64) {
        self.free_bytes += block;
        match kept_class(block) {
            Some(class) => self.kept[class].push(offset),
            None => self.merge_span(offset, block),
        }
    }

    fn take_span(&mut self, block: u64) -> Option<u64> {
        let &(span, offset) = self.offset_by_span.range((block, 0)..).next()?;
        self.remove_span(offset, span);
        if span > block {
            self.add_span(offset + block, span - block);
        }
        Some(offset)
    }

    /// Returns all kept blocks to the spans: slow, and only when nothing else fits.
    fn merge_kept(&mut self) {
        for class in 0..KEPT_CLASS_COUNT {
            for offset in std::mem::take(&mut self.kept[class]) {
                self.merge_span(offset, REGION_ALIGN << class);
            }
        }
    }

    fn merge_span(&mut self, mut offset: u64, mut span: u64) {
        if let Some((&before, &before_span)) = self.span_by_offset.range(..offset).next_back()
            && before + before_span == offset
        {
            self.remove_span(before, before_span);
            offset = before;
            span += before_span;
        }
        if let Some(&after_span) = self.span_by_offset.get(&(offset + span)) {
            self.remove_span(offset + span, after_span);
            span += after_span;
        }
        self.add_span(offset, span);
    }

    fn add_span(&mut self, offset: u64, span: u64) {
        self.span_by_offset.insert(offset, span);
        self.offset_by_span.insert((span, offset));
    }

    fn remove_span(&mut self, offset: u64, span: u64) {
        self.span_by_offset.remove(&offset);
        self.offset_by_span.remove(&(span, offset));
    }
}
