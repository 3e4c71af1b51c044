//! A thread's memory for contractions: packed blocks, sums, and tables of addresses. It grows to what the largest unit
//! needed, which blocking bounds, and is used again by the next.

use super::tables::LoadTable;

/// 64 bytes at a 64-byte boundary.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line(#[allow(dead_code)] [u8; 64]);

/// Aligned memory of any element type. Contents are whatever was there.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Room for `count` elements, initialised to some earlier contents or zeros.
    pub(super) fn room<T>(&mut self, count: usize) -> *mut T {
        let lines = (count * size_of::<T>()).div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        self.0.as_mut_ptr().cast()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.len() as u64 * 64
    }

    pub(super) fn address<T>(&self) -> *const T {
        self.0.as_ptr().cast()
    }
}

/// Where guards stand along one index: coordinate `values[g * len + i]` of guard `g` at position `i`.
#[derive(Default)]
pub(super) struct Coordinates {
    pub values: Vec<i64>,
    /// Lowest and highest of each guard, along k.
    pub ranges: Vec<(i64, i64)>,
}

/// One thread's working memory. Make one for each thread and keep it.
#[derive(Default)]
pub struct Scratch {
    /// Packed rows.
    pub(super) rows: Lines,
    /// Packed panels.
    pub(super) panels: Lines,
    /// Sums that do not go straight to the result.
    pub(super) sums: Lines,
    /// Lanes computed by a body, or a block turned round for an epilogue.
    pub(super) lanes: Lines,
    /// Addresses of rows, of rows of sums and of result rows.
    pub(super) row_addresses: Vec<usize>,
    pub(super) packed_addresses: Vec<usize>,
    pub(super) sum_addresses: Vec<usize>,
    pub(super) out_addresses: Vec<usize>,
    pub(super) lane_addresses: Vec<usize>,
    /// Offsets on their way to addresses.
    pub(super) offsets: Vec<i64>,
    /// What loads of operands read through.
    pub(super) table: LoadTable,
    pub(super) segments: Vec<super::run::Segment>,
}

impl Scratch {
    /// Nothing yet.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Bytes held in blocks.
    pub fn bytes(&self) -> u64 {
        self.rows.bytes() + self.panels.bytes() + self.sums.bytes() + self.lanes.bytes()
    }
}
