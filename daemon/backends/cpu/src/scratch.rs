//! A thread's own working memory: tile slots, accumulators, pointer tables.
//!
//! It grows to what the largest step so far needed and is never handed to another thread; a step carves the pieces
//! that it needs out of one aligned run, and nothing in it outlives the step.

use crate::contract;
use crate::tile::Tables;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Aligned memory that grows to what was needed most.
#[derive(Default)]
pub struct Arena(Vec<Line>);

impl Arena {
    /// Start of at least `bytes` bytes, 64-byte aligned, initialised. Content stays as long as it need not grow.
    pub fn reserve(&mut self, bytes: usize) -> *mut u8 {
        let count = bytes.div_ceil(64);
        if self.0.len() < count {
            // What was there is of no use: growing need not copy it.
            self.0 = vec![Line([0; 64]); count];
        }
        self.0.as_mut_ptr().cast()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64 * 64
    }
}

/// Working memory of one thread.
#[derive(Default)]
pub struct Scratch {
    tiles: Arena,
    contraction: Option<Box<contract::Scratch>>,
    spare: Vec<Tables>,
}

// SAFETY: the addresses in `spare` are remains that are written before they are read: none is used on another thread.
unsafe impl Send for Scratch {}

impl Scratch {
    /// Start of at least `bytes` bytes, 64-byte aligned, contents undefined but initialised.
    pub fn reserve(&mut self, bytes: usize) -> *mut u8 {
        self.tiles.reserve(bytes)
    }

    /// The contraction kernel's own working memory, taken out for the time of a step.
    pub fn take_contraction(&mut self) -> Box<contract::Scratch> {
        self.contraction.take().unwrap_or_default()
    }

    /// Puts it back.
    pub fn keep_contraction(&mut self, scratch: Box<contract::Scratch>) {
        self.contraction = Some(scratch);
    }

    /// Tables with whatever capacity an earlier step left.
    pub fn take_tables(&mut self) -> Tables {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps the tables' capacity for the next step.
    pub fn keep_tables(&mut self, tables: Tables) {
        self.spare.push(tables);
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let contraction = self.contraction.as_ref().map_or(0, |own| own.bytes());
        self.tiles.bytes() + contraction
    }
}

/// Sizes rounded up so that pieces of one run stay 64-byte aligned.
pub const fn padded(bytes: usize) -> usize {
    bytes.div_ceil(64) * 64
}
