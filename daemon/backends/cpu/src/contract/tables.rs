//! From layouts to addresses: the tables that packing reads through.

use std::ops::Range;

use super::groups::pack_offset;
use super::layout::{Dims, OperandLayout};
use super::load::{Block, Guards};
use super::number::{Compute, Storage};
use super::packs::Key;
use super::scratch::{Coordinates, Lines};
use super::{Isa, K_BLOCK};

/// The tables that a [`Block`] refers to, beside the addresses of its rows.
#[derive(Default)]
pub(super) struct LoadTable {
    offsets: Vec<i64>,
    extents: Vec<i64>,
    k_offsets: Vec<i64>,
    row_coordinates: Coordinates,
    k_coordinates: Coordinates,
}

/// What a [`LoadTable`] is filled with.
pub(super) struct Part<'p, S> {
    pub layout: &'p OperandLayout,
    pub base: *const u8,
    pub batch: usize,
    pub rows: Range<usize>,
    pub ks: &'p Range<usize>,
    pub fill: S,
}

impl LoadTable {
    /// Fills in what depends on k.
    pub(super) fn along_k(&mut self, layout: &OperandLayout, ks: &Range<usize>) {
        self.k_offsets.clear();
        layout.k.walk(0, ks.start, ks.len(), &mut self.k_offsets);
        let Coordinates { values, ranges } = &mut self.k_coordinates;
        values.clear();
        ranges.clear();
        self.extents.clear();
        for (g, bound) in layout.bounds.iter().enumerate() {
            layout.k.walk_guard(g, 0, ks.start, ks.len(), values);
            let along = values[g * ks.len()..].iter();
            ranges.push(along.fold((i64::MAX, i64::MIN), |(low, high), &c| {
                (low.min(c), high.max(c))
            }));
            self.extents.push(bound.extent);
        }
    }

    /// Fills in what depends on the rows; [`LoadTable::along_k`] was called for this layout and block of k.
    pub(super) fn block<'t, S: Storage>(
        &'t mut self,
        addresses: &'t mut Vec<usize>,
        part: &Part<'_, S>,
    ) -> Block<'t, S> {
        let Part {
            layout, batch, ks, ..
        } = *part;
        let rows = &part.rows;
        let base = address::<S>(part.base, layout.offset + layout.batch.at(batch));
        addresses.clear();
        self.offsets.clear();
        layout
            .rows
            .walk(0, rows.start, rows.len(), &mut self.offsets);
        addresses.extend(self.offsets.iter().map(|&at| step_address::<S>(base, at)));
        let coordinates = &mut self.row_coordinates.values;
        coordinates.clear();
        for (g, bound) in layout.bounds.iter().enumerate() {
            let start = bound.offset + layout.batch.guard_at(g, batch);
            layout
                .rows
                .walk_guard(g, start, rows.start, rows.len(), coordinates);
        }
        Block {
            rows: addresses,
            row_step: layout.rows.step(rows.start, rows.len()),
            k: &self.k_offsets,
            k_step: layout.k.step(ks.start, ks.len()),
            guards: Guards {
                extents: &self.extents,
                rows: &self.row_coordinates,
                k: &self.k_coordinates,
            },
            fill: part.fill,
        }
    }
}

pub(super) fn address<T>(base: *const u8, offset: i64) -> usize {
    step_address::<T>(base as usize, offset)
}

pub(super) fn step_address<T>(base: usize, offset: i64) -> usize {
    base.wrapping_add((offset as usize).wrapping_mul(size_of::<T>()))
}

/// Appends the addresses of positions of a batch.
pub(super) fn append<T>(
    base: usize,
    batch: &Dims,
    positions: &Range<usize>,
    offsets: &mut Vec<i64>,
    to: &mut Vec<usize>,
) {
    offsets.clear();
    batch.walk(0, positions.start, positions.len(), offsets);
    to.extend(offsets.iter().map(|&at| step_address::<T>(base, at)));
}

/// Addresses as pointers.
///
/// # Safety
/// `P` is a thin raw pointer.
pub(super) unsafe fn pointers<P>(addresses: &[usize]) -> &[P] {
    // SAFETY: a thin pointer has the size and the alignment of an address, and every address is a pointer.
    unsafe { std::slice::from_raw_parts(addresses.as_ptr().cast(), addresses.len()) }
}

/// Packs a whole operand: what [`super::packs`] keeps.
///
/// # Safety
/// The operand that `key` describes, from element 0 at `base`, is readable where its guards hold.
pub(super) unsafe fn pack_whole<S: Storage>(base: *const u8, key: &Key<'_>, isa: Isa) -> Lines {
    let [batch, lanes, k_count] = key.counts;
    let kernels = <S::Compute as Compute>::kernels(isa);
    let (nr, turn) = (kernels.nr, kernels.turn);
    let mut lines = Lines::default();
    let to = lines.room::<S::Compute>(batch * lanes.next_multiple_of(nr) * k_count);
    let (mut table, mut addresses) = (LoadTable::default(), Vec::new());
    let fill = S::from_scalar(key.fill);
    for position in 0..batch {
        for k in (0..k_count).step_by(K_BLOCK) {
            let ks = k..(k + K_BLOCK).min(k_count);
            let at = pack_offset(key.counts, nr, position, k);
            table.along_k(key.layout, &ks);
            let part = Part {
                layout: key.layout,
                base,
                batch: position,
                rows: 0..lanes,
                ks: &ks,
                fill,
            };
            let block = table.block(&mut addresses, &part);
            // SAFETY: the operand is readable as the caller says; the pack has room for every panel of the block.
            unsafe { block.panels(to.add(at), nr, turn) };
        }
    }
    lines
}
