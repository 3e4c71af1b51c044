//! Packing: a block of an operand, read where it lies, widened and laid out for the kernels.
//!
//! Rows are addresses, positions of k offsets from them, so that rows of different instances, windows and any strides are one
//! case. Where a guard does not hold the fill value goes in: padding costs nothing but its place in the pack.

use super::kernel::{NR_MAX, Turn};
use super::number::Storage;
use super::scratch::Coordinates;

/// A block of an operand: some rows, some positions of k.
pub(super) struct Block<'a, S: Storage> {
    /// Address of each row's k offset 0, as numbers: in range only together with an offset.
    pub rows: &'a [usize],
    /// The rows are this many elements apart, if they are evenly.
    pub row_step: Option<i64>,
    /// Offset of each position of k, in elements.
    pub k: &'a [i64],
    /// These offsets are this far apart, if they are evenly.
    pub k_step: Option<i64>,
    /// Coordinates of each guard; none for an operand without.
    pub guards: Guards<'a>,
    /// What stands where a guard does not hold.
    pub fill: S,
}

/// Guards over a block: `0 <= rows + k < extent`.
#[derive(Clone, Copy)]
pub(super) struct Guards<'a> {
    pub extents: &'a [i64],
    pub rows: &'a Coordinates,
    pub k: &'a Coordinates,
}

impl Guards<'_> {
    /// Do all guards hold for row `row` of `rows` at every position of k?
    fn hold(&self, row: usize, rows: usize) -> bool {
        let ranges = self.extents.iter().zip(&self.k.ranges);
        ranges.enumerate().all(|(g, (&extent, &(low, high)))| {
            let base = self.rows.values[g * rows + row];
            base + low >= 0 && base + high < extent
        })
    }

    fn holds_at(&self, row: usize, rows: usize, k: usize, ks: usize) -> bool {
        self.extents.iter().enumerate().all(|(g, &extent)| {
            let coordinate = self.rows.values[g * rows + row] + self.k.values[g * ks + k];
            (0..extent).contains(&coordinate)
        })
    }
}

/// Element `offset` from the address.
///
/// # Safety
/// The element is there.
#[inline(always)]
unsafe fn read<S: Storage>(row: usize, offset: i64) -> S::Compute {
    // SAFETY: as above.
    unsafe { *(row as *const S).wrapping_offset(offset as isize) }.widen()
}

impl<S: Storage> Block<'_, S> {
    /// Writes row `i` to `to`, `step` elements from one k to the next.
    ///
    /// # Safety
    /// Every element of the block whose guards hold is readable; `to` is writable at `k.len()` places `step` apart.
    unsafe fn row(&self, i: usize, to: *mut S::Compute, step: usize) {
        let (row, ks) = (self.rows[i], self.k.len());
        if !self.guards.extents.is_empty() && !self.guards.hold(i, self.rows.len()) {
            // SAFETY: handed on.
            unsafe { self.guarded_row(i, to, step) };
            return;
        }
        if self.k_step == Some(1) {
            let first = (row as *const S).wrapping_offset(self.k[0] as isize);
            if S::SAME && step == 1 {
                // SAFETY: `ks` adjacent elements are there, all their guards hold; S and S::Compute are one type.
                unsafe { std::ptr::copy_nonoverlapping(first.cast(), to, ks) };
                return;
            }
            for k in 0..ks {
                // SAFETY: as above, element by element.
                unsafe { *to.add(k * step) = (*first.add(k)).widen() };
            }
            return;
        }
        for (k, &offset) in self.k.iter().enumerate() {
            // SAFETY: every guard of this row holds, so each element is there.
            unsafe { *to.add(k * step) = read::<S>(row, offset) };
        }
    }

    /// Writes row `i`, which meets padding.
    ///
    /// # Safety
    /// As `row`.
    unsafe fn guarded_row(&self, i: usize, to: *mut S::Compute, step: usize) {
        let (row, ks) = (self.rows[i], self.k.len());
        let fill = self.fill.widen();
        if let [extent] = *self.guards.extents {
            let base = self.guards.rows.values[i];
            let places = self.k.iter().zip(&self.guards.k.values);
            for (k, (&offset, &coordinate)) in places.enumerate() {
                let there = ((base + coordinate) as u64) < extent as u64;
                // SAFETY: read only where the guard holds; place `k` of `to` is writable.
                unsafe { *to.add(k * step) = if there { read::<S>(row, offset) } else { fill } };
            }
            return;
        }
        for (k, &offset) in self.k.iter().enumerate() {
            let there = self.guards.holds_at(i, self.rows.len(), k, ks);
            // SAFETY: as above.
            unsafe { *to.add(k * step) = if there { read::<S>(row, offset) } else { fill } };
        }
    }

    /// Writes the rows one behind the other, `stride` elements apart.
    ///
    /// # Safety
    /// Every element of the block whose guards hold is readable; `to` is writable for `rows.len()` rows.
    pub(super) unsafe fn rows(&self, to: *mut S::Compute, stride: usize) {
        for i in 0..self.rows.len() {
            // SAFETY: handed on.
            unsafe { self.row(i, to.add(i * stride), 1) };
        }
    }

    /// Writes the rows as lanes of panels: `to[(panel * ks + k) * nr + lane]`. Lanes beyond the rows become zero.
    ///
    /// # Safety
    /// Every element of the block whose guards hold is readable; `to` is writable for whole panels of the rows.
    pub(super) unsafe fn panels(
        &self,
        to: *mut S::Compute,
        nr: usize,
        turn: Option<Turn<S::Compute>>,
    ) {
        let ks = self.k.len();
        let zero = <S::Compute as super::number::Compute>::ZERO;
        for (panel, first) in (0..self.rows.len()).step_by(nr).enumerate() {
            let lanes = nr.min(self.rows.len() - first);
            let to = to.wrapping_add(panel * ks * nr);
            if lanes < nr {
                for k in 0..ks {
                    for lane in lanes..nr {
                        // SAFETY: inside the panel.
                        unsafe { *to.add(k * nr + lane) = zero };
                    }
                }
            }
            if self.guards.extents.is_empty() && self.row_step == Some(1) {
                // SAFETY: handed on; without guards every element is there.
                unsafe { self.panel_of_adjacent(first, lanes, to, nr) };
                continue;
            }
            if let (true, Some(turn)) = (self.turns(), turn) {
                let offset = self.k[0] as isize;
                let rows: [*const S::Compute; NR_MAX] = std::array::from_fn(|lane| {
                    let row = self.rows[first + lane.min(lanes - 1)];
                    (row as *const S::Compute).wrapping_offset(offset)
                });
                // SAFETY: without guards `ks` adjacent elements are there from each of these, S and S::Compute are one
                // type, and the panel has room.
                unsafe { turn(&rows[..lanes], ks, to, nr) };
                continue;
            }
            for lane in 0..lanes {
                // SAFETY: handed on.
                unsafe { self.row(first + lane, to.add(lane), nr) };
            }
        }
    }

    /// Rows are adjacent elements, as they stand in a panel's columns.
    fn turns(&self) -> bool {
        S::SAME && self.guards.extents.is_empty() && self.k_step == Some(1)
    }

    /// A panel whose lanes are adjacent in memory: copied k by k.
    ///
    /// # Safety
    /// As `panels`; every element is there.
    unsafe fn panel_of_adjacent(&self, first: usize, lanes: usize, to: *mut S::Compute, nr: usize) {
        let row = self.rows[first] as *const S;
        for (k, &offset) in self.k.iter().enumerate() {
            let from = row.wrapping_offset(offset as isize);
            let to = to.wrapping_add(k * nr);
            for lane in 0..lanes {
                // SAFETY: `lanes` adjacent elements are there, and the panel has room for nr.
                unsafe { *to.add(lane) = (*from.add(lane)).widen() };
            }
        }
    }
}
